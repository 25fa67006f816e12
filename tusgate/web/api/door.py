"""The door to the API: which operation a request means, who asks, and problem details for whatever goes wrong.

The order is fixed: our name, cross-origin rules, path, OPTIONS, room, method, credentials, parameters; then the
operation. What an operation is stands in its `Operation`, from which the OpenAPI document is made too: neither can have
what the other lacks.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from tusgate.core import errors
from tusgate.core.access import Principal
from tusgate.core.content import OCTETS
from tusgate.core.model import UPLOAD_ID, Scope, UploadId
from tusgate.web.api.models import WrongPart
from tusgate.web.body import BodyWatch, leave_expect_to_the_body, small_body
from tusgate.web.connections import refuse_surplus
from tusgate.web.cors import Cors, is_preflight
from tusgate.web.errors import REPLY_HEADERS, problem_of
from tusgate.web.headers import refuse_oversize
from tusgate.web.hooks import add_replies
from tusgate.web.location import OwnNames, PublicAddress
from tusgate.web.problem_json import problem_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from tusgate.core.access import Route
    from tusgate.core.model import Scope
    from tusgate.web.config import WebConfig
    from tusgate.web.gate import Gate

ROOT: Final = "/api/v1"
LARGEST_BODY: Final = 64 * 1024
"""Bytes of a JSON body that are read."""
_JSON_TYPES: Final = frozenset({"application/json", "application/merge-patch+json"})
PARAMETER: Final = re.compile(r"\{(\w+)\}")

Model = TypeVar("Model", bound=BaseModel)


class Refuse(Protocol):
    """Renders an error."""

    def __call__(self, error: errors.TusgateError, *, with_body: bool) -> web.Response:
        """Return the answer to a request that met `error`."""


def problem_answer(error: errors.TusgateError, *, with_body: bool) -> web.Response:
    """Return the answer to a request that met `error`, naming what is wrong: the field, all parts, or the time."""
    more: dict[str, object] = {}
    if isinstance(error, errors.InvalidRequest):
        more = {"field": error.field}
    elif isinstance(error, errors.PartsRefused):
        more = {"parts": [WrongPart.of(fault).model_dump() for fault in error.faults]}
    elif isinstance(error, errors.Retained):
        more = {"retain_until": error.until.isoformat()}
    return problem_json(problem_of(error), with_body=with_body, more=more)


@dataclass(frozen=True, slots=True)
class ApiCall:
    """A request that was let in.

    Attributes:
        principal: who sends it.
        file_id: from the path; empty where the path has none.
        path: what else stands in the path, by the names in that of the operation.
        watch: ends a body that stalls, for operations that read theirs as it arrives.
        query, body: of the models that the operation names.
    """

    request: web.Request
    watch: BodyWatch
    principal: Principal
    file_id: UploadId
    path: Mapping[str, str]
    query: Any = None
    body: Any = None

    @property
    def scope(self) -> Scope:
        """Whose files and uploads these are."""
        return self.principal.scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method on one path.

    Attributes:
        name: unique; clients that are generated call it so.
        path: below `ROOT`, with `{id}` for that of a file, and other names for whatever stands there.
        summary: one line.
        description: more of it, in Markdown.
        query, body, result: models of what comes and goes; None: nothing.
        produces: media type of a success without a `result`.
        status: of a success.
        problems: statuses of failures beside those that every operation may have.
        route: what `core.access` calls the path; None: anybody may ask.
        largest_body: bytes of a body that are read.
        body_types: media types that a body may have, and that a POST without one may claim; none: any.
        takes_any_body: whether `answer` reads the body as it arrives, of whatever type; then there is no `body`.
        read_body: makes a `body` of its bytes where these are no JSON; raises InvalidRequest.
        admit: raises TusgateError for who may not ask, where no `route` says it.
        refuse: renders what went wrong, for clients that expect something else than problem details.
        is_described: whether the OpenAPI document has it.
        asked_as: the method by which the table of permissions knows it, where that is another one.
    """

    method: str
    path: str
    name: str
    summary: str
    answer: Callable[[ApiCall], Awaitable[web.StreamResponse]]
    description: str = ""
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    result: type[BaseModel] | None = None
    produces: str = OCTETS
    status: int = 200
    problems: tuple[int, ...] = ()
    route: Route | None = None
    largest_body: int = LARGEST_BODY
    body_types: frozenset[str] = _JSON_TYPES
    takes_any_body: bool = False
    read_body: Callable[[bytes], BaseModel] | None = None
    admit: Callable[[web.Request], None] | None = None
    refuse: Refuse = problem_answer
    is_described: bool = True
    asked_as: str | None = None


class Door:
    """Answers all requests below `ROOT`.

    Args:
        config: of the web room.
        gate: tells who sends a request, and whether they may.
        operations: all there are.
    """

    def __init__(self, config: WebConfig, gate: Gate, operations: Sequence[Operation]) -> None:
        self._gate = gate
        self._names = OwnNames(config)
        self._cors = Cors(_rules(config), PublicAddress(config))
        self._watch = BodyWatch(config.idle_timeout, config.min_rate, config.rate_window)
        self._paths: dict[str, dict[str, Operation]] = {}
        for operation in operations:
            self._paths.setdefault(operation.path, {})[operation.method] = operation
        self._by_names = sorted(self._paths.items(), key=lambda item: item[0].count("{"))  # what is exact comes first

    def add_routes(self, app: web.Application) -> None:
        """Register every method on `ROOT` and all below it."""
        for path in (ROOT, ROOT + "/{tail:.*}"):
            app.router.add_route("*", path, self.handle, expect_handler=leave_expect_to_the_body)

        async def stop_watch(_app: web.Application) -> None:
            self._watch.close()

        app.on_cleanup.append(stop_watch)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; every TusgateError becomes its problem here."""
        try:
            self._names.check(request)
            request[REPLY_HEADERS].update(self._cors.headers(request))
            operations, values = self._find(request.match_info.get("tail", ""))
            allowed = _allowed(operations)
            if request.method == "OPTIONS":
                return self._options(request, allowed)
            refuse_surplus(request)
            operation = operations.get("GET" if request.method == "HEAD" else request.method)
            if operation is None:
                raise errors.UnsupportedMethod(request.method, allowed)
            response = await self._answer(request, operation, values)
        except errors.TusgateError as error:
            response = problem_answer(error, with_body=request.method != "HEAD")
        add_replies(request, response)
        return response

    async def _answer(
        self, request: web.Request, operation: Operation, values: Mapping[str, str]
    ) -> web.StreamResponse:
        try:
            principal = await self._principal(request, operation, values.get("token"))
            return await operation.answer(await self._call(request, operation, principal, values))
        except errors.TusgateError as error:
            return operation.refuse(error, with_body=request.method != "HEAD")

    async def _principal(self, request: web.Request, operation: Operation, token: str | None) -> Principal:
        if operation.admit is not None:
            operation.admit(request)
        if operation.route is None:
            return Principal()
        return await self._gate.admit_to(request, operation.route, operation.asked_as or operation.method, token)

    def _find(self, tail: str) -> tuple[dict[str, Operation], dict[str, str]]:
        """Return the operations on a path, and what stands in it by name. Raises UploadNotFound."""
        exact = self._paths.get(f"/{tail}")
        if exact is not None and "{" not in tail:
            return exact, {}
        for path, operations in self._by_names:
            values = _values_in(path, f"/{tail}")
            if values:
                return operations, values
        raise errors.UploadNotFound("there is nothing at this address")

    def _options(self, request: web.Request, allowed: tuple[str, ...]) -> web.Response:
        headers = self._cors.preflight_headers() if is_preflight(request) else {"Allow": ", ".join(allowed)}
        return web.Response(status=204, headers=headers)

    async def _call(
        self, request: web.Request, operation: Operation, principal: Principal, values: Mapping[str, str]
    ) -> ApiCall:
        refuse_oversize(request.headers)
        if operation.body is None and request.headers.get("Content-Type") and request.method == "POST":
            _check_media_type(request, operation)  # a form of a page that sends no Origin tells itself apart by that
        query = None if operation.query is None else _query_of(request, operation.query)
        body = None if operation.body is None else await self._body_of(request, operation.body, operation)
        return ApiCall(request, self._watch, principal, UploadId(values.get("id", "")), values, query, body)

    async def _body_of(self, request: web.Request, model: type[BaseModel], operation: Operation) -> BaseModel:
        _check_media_type(request, operation)
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise errors.UnsupportedMediaType("Content-Encoding: expected none")
        received = await small_body(request, self._watch, operation.largest_body)
        read = operation.read_body or model.model_validate_json
        return _checked(lambda: read(received), "body")


def _check_media_type(request: web.Request, operation: Operation) -> None:
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if operation.body_types and media_type not in operation.body_types:
        usual = "application/json" if operation.body_types is _JSON_TYPES else min(filter(None, operation.body_types))
        raise errors.UnsupportedMediaType(f"Content-Type: expected {usual}")


def _values_in(path: str, found: str) -> dict[str, str]:
    """Return what stands in `found` in the places of the names in `path`; nothing where it is another path."""
    names, steps = path.split("/"), found.split("/")
    if len(names) != len(steps):
        return {}
    values: dict[str, str] = {}
    for name, step in zip(names, steps, strict=True):
        parameter = PARAMETER.fullmatch(name)
        if parameter is None and name != step:
            return {}
        if parameter is not None:
            values[parameter[1]] = step
    is_id = UPLOAD_ID.fullmatch(values.get("id", "A" * 22)) is not None
    return values if is_id and all(values.values()) else {}


def _rules(config: WebConfig) -> WebConfig:
    """Return `config` with the origins whose pages may use the API.

    Where nobody is asked for credentials, `*` lets any page upload; but not any page may read and delete what others
    have uploaded, through a browser that reaches the gateway.
    """
    if not config.is_open:
        return config
    return replace(config, cors_origins=tuple(origin for origin in config.cors_origins if origin != "*"))


def json_answer(model: BaseModel, status: int = 200) -> web.Response:
    """Return `model` as an answer; to a HEAD aiohttp sends all of it but the body."""
    return web.Response(
        status=status,
        body=model.model_dump_json().encode(),
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _allowed(operations: dict[str, Operation]) -> tuple[str, ...]:
    methods = [*operations, "OPTIONS"]
    return tuple(["HEAD", *methods] if "GET" in operations else methods)


def _query_of(request: web.Request, model: type[Model]) -> Model:
    """Return the parameters of the query. A name that does not exist is an error: its filter would filter nothing."""
    values: dict[str, object] = {}
    for name in request.query:
        given = request.query.getall(name)
        field = model.model_fields.get(name)
        is_list = field is not None and field.annotation is not None and _is_list(field.annotation)
        if len(given) > 1 and not is_list:
            raise errors.InvalidRequest(name, "the parameter once")
        values[name] = given if is_list else given[0]
    return _checked(lambda: model.model_validate(values), "query")


def _is_list(annotation: object) -> bool:
    return getattr(annotation, "__origin__", None) is list


def _checked(validate: Callable[[], Model], whole: str) -> Model:
    """Return what `validate` does. Raises InvalidRequest for the first thing that is wrong, without repeating it.

    Args:
        validate: makes a model.
        whole: what is wrong where it is no field.
    """
    try:
        return validate()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=True, include_input=False)[0]
        field = ".".join(str(step) for step in first["loc"]) or whole
        raise errors.InvalidRequest(field, _expected(first)) from None


def _expected(found: Any) -> str:
    """Return what pydantic, or a validator of ours, expected, to follow "expected"."""
    match found["type"]:
        case "value_error":
            return str(found["ctx"]["error"])
        case "extra_forbidden":
            return "no such name"
        case "missing":
            return "a value"
        case "json_invalid":
            return "JSON"
        case _:
            message = str(found["msg"]).removeprefix("Input should be ").removeprefix("String should have ")
            return message[:1].lower() + message[1:]


def dump(document: object) -> bytes:
    """Return `document` as JSON."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
