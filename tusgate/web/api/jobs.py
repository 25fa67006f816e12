"""Jobs for external workers: claim, read, give back what was made, settle."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tusgate.core.access import Route
from tusgate.core.errors import InvalidRequest
from tusgate.core.metadata import clean_content_type, clean_filename
from tusgate.core.processing import LEASE, LONGEST_ERROR, MOST_DERIVED
from tusgate.web.api.content import Delivery, Login
from tusgate.web.api.door import ROOT, Operation, json_answer
from tusgate.web.body import RequestBody, is_abandoned
from tusgate.web.location import PublicAddress, TrustedProxies
from tusgate.web.presentation import presentation_of

if TYPE_CHECKING:
    from tusgate.core.processing import Job
    from tusgate.service.audit import Audit
    from tusgate.service.external import ExternalJobs
    from tusgate.service.files import Files
    from tusgate.web.api.door import ApiCall
    from tusgate.web.config import WebConfig

LONGEST_WAIT: Final = 20.0
MOST_DERIVED_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("text without NUL")
    return text


def _is_json(facts: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(facts, allow_nan=False)
    except ValueError:
        raise ValueError("JSON, which has neither NaN nor Infinity") from None
    return facts


Facts = Annotated[dict[str, Any], AfterValidator(_is_json)]
Remark = Annotated[str, Field(min_length=1, max_length=LONGEST_ERROR), AfterValidator(_no_nul)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JobWanted(_Body):
    """What a worker can do."""

    processors: list[str] = Field(min_length=1, max_length=100, description="Names of external processors.")
    wait: float = Field(default=LONGEST_WAIT, ge=0, le=LONGEST_WAIT, description="Seconds to wait for a job.")


class SourceShown(BaseModel):
    """The file that a job is about."""

    id: str
    tenant: str
    owner: str
    filename: str | None
    content_type: str | None
    size: int


class ClaimedJob(BaseModel):
    """A job that the worker has now, until it is settled or has not been heard of for `lease` seconds."""

    id: str = Field(description="A secret: whoever knows it may settle the job.")
    processor: str
    tries: int = Field(description="Begun so far, this one included.")
    lease: float = Field(description="Seconds until the job is given to others, from the last heartbeat on.")
    file: SourceShown
    source: str = Field(description="The URL of the bytes.")


class Heartbeat(_Body):
    """How far a job is."""

    progress: float = Field(default=0.0, ge=0, le=1)


class Done(_Body):
    """What a worker has found."""

    facts: Facts = Field(default={}, description="Anything in JSON; shown with the file.")


class Refused(_Body):
    """Why nobody should have the file."""

    reason: Remark
    facts: Facts = {}


class Failed(_Body):
    """Why it could not be done."""

    error: Remark
    permanent: bool = Field(default=False, description="Trying again would end the same way.")


class DerivedQuery(_Body):
    """What a file that was made is called."""

    filename: str = Field(min_length=1, max_length=255)


class JobsApi:
    """The operations of external workers."""

    def __init__(self, config: WebConfig, jobs: ExternalJobs, files: Files, audit: Audit) -> None:
        self._jobs = jobs
        self._audit = audit
        self._delivery = Delivery(config, files)
        self._address = PublicAddress(config)
        self._proxies = TrustedProxies(config.trusted_proxies)

    def operations(self) -> tuple[Operation, ...]:
        """Return all of them."""
        return (
            Operation(
                method="POST",
                path="/jobs/claim",
                route=Route.JOBS,
                name="claimJob",
                summary="Get a job",
                description="Of any file of the tenant. Waits for one; 204 when there is none.",
                answer=self.claim,
                body=JobWanted,
                result=ClaimedJob,
                problems=(400, 413, 415),
            ),
            Operation(
                method="GET",
                path="/jobs/{job}/source",
                route=Route.JOB_SOURCE,
                name="readJobSource",
                summary="Read the file of a job",
                description="As a download; also while other readers are kept from it.",
                answer=self.source,
                problems=(302, 304, 403, 409, 412, 416, 502),
            ),
            Operation(
                method="PUT",
                path="/jobs/{job}/derived/{name}",
                route=Route.JOB_DERIVED,
                name="putDerived",
                summary="Send a file that was made",
                description=(
                    "The body is the file, of the type in Content-Type; Content-Length is needed. It becomes a file"
                    f" when the job is done; one of the same name is replaced. At most {MOST_DERIVED} of one job."
                ),
                answer=self.derive,
                query=DerivedQuery,
                takes_any_body=True,
                status=204,
                problems=(400, 409, 413, 502),
            ),
            *(
                Operation(
                    method="POST",
                    path=f"/jobs/{{job}}/{verb}",
                    route=Route.JOB,
                    name=f"{verb}Job",
                    summary=summary,
                    description=description,
                    answer=answer,
                    body=body,
                    status=204,
                    problems=(400, 409, 413, 415),
                )
                for verb, summary, description, answer, body in (
                    ("heartbeat", "Keep a job", "Every 15 s; 409 says that it is lost.", self.heartbeat, Heartbeat),
                    ("done", "End a job well", "What was sent becomes files in the same commit.", self.done, Done),
                    ("refused", "Refuse a file", "Nobody should have it.", self.refused, Refused),
                    ("failed", "Give a job up for now", "It is tried three times in all.", self.failed, Failed),
                )
            ),
        )

    async def claim(self, call: ApiCall) -> web.Response:
        """Answer with a job, if one is due in time."""
        wanted = call.body
        assert isinstance(wanted, JobWanted)
        job = await self._jobs.claim(call.principal, wanted.processors, wanted.wait, lambda: is_abandoned(call.request))
        return web.Response(status=204) if job is None else json_answer(self._shown(call, job))

    def _shown(self, call: ApiCall, job: Job) -> ClaimedJob:
        source = job.source
        return ClaimedJob(
            id=job.claim or "",
            processor=job.processor,
            tries=job.tries,
            lease=LEASE,
            file=SourceShown(
                id=source.id,
                tenant=source.scope.tenant,
                owner=source.scope.owner,
                filename=source.filename,
                content_type=source.content_type,
                size=source.length or 0,
            ),
            source=self._address.url(call.request, f"{ROOT}/jobs/{job.claim}/source"),
        )

    async def source(self, call: ApiCall) -> web.StreamResponse:
        """Answer with the bytes of the file; that is written down like any download."""
        upload = (await self._jobs.held(call.principal, call.path["job"])).source
        presentation = presentation_of(upload, inline=False, cache_control="no-store")
        visit = Login(self._audit, call, upload, self._proxies.client_of(call.request))
        return await self._delivery.answer(call.request, upload, presentation, visit)

    async def derive(self, call: ApiCall) -> web.Response:
        """Take a file."""
        query, name = call.query, call.path["name"]
        assert isinstance(query, DerivedQuery)
        if MOST_DERIVED_NAME.fullmatch(name) is None:
            raise InvalidRequest("name", "letters, digits, dots and dashes")
        content_type = clean_content_type(call.request.headers.get("Content-Type", "").encode("utf-8", "replace"))
        filename = clean_filename(query.filename.encode("utf-8", "replace"))
        if content_type is None or filename is None:
            raise InvalidRequest("Content-Type" if content_type is None else "filename", "a value")
        with RequestBody(call.request, call.watch) as body:
            await self._jobs.derive(
                call.principal, call.path["job"], body, name=name, content_type=content_type, filename=filename
            )
        return web.Response(status=204)

    async def heartbeat(self, call: ApiCall) -> web.Response:
        """Keep a job."""
        assert isinstance(call.body, Heartbeat)
        await self._jobs.heartbeat(call.principal, call.path["job"], call.body.progress)
        return web.Response(status=204)

    async def done(self, call: ApiCall) -> web.Response:
        """Settle a job as done."""
        assert isinstance(call.body, Done)
        await self._jobs.finish(call.principal, call.path["job"], call.body.facts)
        return web.Response(status=204)

    async def refused(self, call: ApiCall) -> web.Response:
        """Settle a job as refused."""
        assert isinstance(call.body, Refused)
        await self._jobs.refuse(call.principal, call.path["job"], call.body.reason, call.body.facts)
        return web.Response(status=204)

    async def failed(self, call: ApiCall) -> web.Response:
        """Have a job tried again, or give it up."""
        assert isinstance(call.body, Failed)
        await self._jobs.fail(call.principal, call.path["job"], call.body.error, permanent=call.body.permanent)
        return web.Response(status=204)
