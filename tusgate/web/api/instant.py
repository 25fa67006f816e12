"""Instant uploads over HTTP: a challenge, and a file for the answer to it. No byte of the file is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from tusgate.core.access import Route
from tusgate.core.metadata import encoded_metadata, metadata_key
from tusgate.core.model import CreatedVia
from tusgate.service.instant import Proof
from tusgate.service.uploads import Creation
from tusgate.web.api.door import ROOT, Operation, json_answer
from tusgate.web.api.models import File, Name, Type
from tusgate.web.headers import MAX_NUMBER, parse_metadata
from tusgate.web.hooks import exchange_of
from tusgate.web.location import PublicAddress

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from tusgate.core.access import Principal
    from tusgate.core.model import Upload
    from tusgate.core.possession import Challenge
    from tusgate.service.instant import InstantUploads
    from tusgate.web.api.door import ApiCall
    from tusgate.web.config import WebConfig

_STRICT: Final = ConfigDict(extra="forbid", strict=True)
_SHA256: Final = r"^[0-9a-f]{64}$"
_LONGEST_CHALLENGE: Final = 256
_OK: Final = 200
_CREATED: Final = 201

Sha256 = Annotated[str, Field(pattern=_SHA256, description="Of the whole file, 64 hexadecimal digits in lower case.")]
Size = Annotated[int, Field(ge=1, le=MAX_NUMBER, description="Bytes of the file. An empty one is made as any other.")]


class ChallengeWish(BaseModel):
    """A file that you have."""

    model_config = _STRICT

    sha256: Sha256
    size: Size


class ChallengeRange(BaseModel):
    """Bytes of the file."""

    start: int = Field(description="The first one.")
    size: int = Field(description="How many.")


class PossessionChallenge(BaseModel):
    """What proves that you have the file. It is given for any file, known or not."""

    challenge: str = Field(description="Comes back with the answer.")
    nonce: str = Field(description="Key of the HMAC, in hexadecimal digits.")
    ranges: list[ChallengeRange] = Field(
        description="The answer is the HMAC-SHA256 of the bytes of these, in this order, one after the other."
    )
    expires_at: AwareDatetime = Field(description="Until then an answer counts.")

    @classmethod
    def of(cls, challenge: Challenge) -> PossessionChallenge:
        """Return what the API tells of `challenge`."""
        return cls(
            challenge=challenge.text,
            nonce=challenge.nonce.hex(),
            ranges=[ChallengeRange(start=each.start, size=each.size) for each in challenge.ranges],
            expires_at=datetime.fromtimestamp(challenge.until, UTC),
        )


class NewInstantUpload(BaseModel):
    """A file that is to be made without its bytes."""

    model_config = _STRICT

    sha256: Sha256
    size: Size
    challenge: str = Field(max_length=_LONGEST_CHALLENGE, description="That you were given for this file.")
    answer: str = Field(pattern=_SHA256, description="The HMAC, 64 hexadecimal digits in lower case.")
    filename: Name = Field(default=None, description="One path segment, up to 255 characters.")
    content_type: Type = Field(default=None, description="A media type, with or without parameters.")
    metadata: dict[Annotated[str, AfterValidator(metadata_key)], str] = Field(
        default={}, description="Shown with the file, as that of tus clients is."
    )


class InstantApi:
    """The operations on instant uploads.

    Args:
        config: of the web room.
        instant: makes the files.
        show_file: renders them.
    """

    def __init__(
        self, config: WebConfig, instant: InstantUploads, show_file: Callable[[ApiCall, Upload], File]
    ) -> None:
        self._instant = instant
        self._show_file = show_file
        self._address = PublicAddress(config)
        self._max_metadata = config.max_metadata

    def operations(self) -> tuple[Operation, ...]:
        """Return all of them."""
        return (
            Operation(
                method="POST",
                path="/uploads/instant/challenge",
                route=Route.INSTANT_UPLOADS,
                name="challengeInstantUpload",
                summary="Ask what would prove that you have a file",
                description=(
                    "Answered alike whether an equal file is there or not, and for some minutes with the same ranges."
                    " 501 where the server makes no files without their bytes."
                ),
                answer=self.challenge,
                body=ChallengeWish,
                result=PossessionChallenge,
                problems=(400, 403, 415, 501),
            ),
            Operation(
                method="POST",
                path="/uploads/instant",
                route=Route.INSTANT_UPLOADS,
                name="createInstantUpload",
                summary="Make a file without sending its bytes",
                description=(
                    "It is complete at once, and in everything as if it had been sent. 403 with the code"
                    " `not_possessed` where there is no equal file in your tenant or the answer is wrong, which are"
                    " not told apart: send the file then. A challenge makes one file; 200 when it has done so before."
                ),
                answer=self.create,
                body=NewInstantUpload,
                result=File,
                status=_CREATED,
                problems=(200, 400, 403, 410, 413, 415, 429, 431, 501),
            ),
        )

    async def challenge(self, call: ApiCall) -> web.Response:
        """Answer with a challenge."""
        wish = call.body
        assert isinstance(wish, ChallengeWish)
        challenge = self._instant.challenge(call.scope, bytes.fromhex(wish.sha256), wish.size)
        return json_answer(PossessionChallenge.of(challenge))

    async def create(self, call: ApiCall) -> web.Response:
        """Make a file."""
        wanted = call.body
        assert isinstance(wanted, NewInstantUpload)
        proof = Proof(bytes.fromhex(wanted.sha256), wanted.challenge, bytes.fromhex(wanted.answer))
        creation = self._creation(call.principal, wanted)
        upload, is_new = await self._instant.create(call.principal, creation, proof, exchange_of(call.request))
        answer = json_answer(self._show_file(call, upload), _CREATED if is_new else _OK)
        answer.headers["Location"] = self._address.url(call.request, f"{ROOT}/files/{upload.id}")
        return answer

    def _creation(self, principal: Principal, wanted: NewInstantUpload) -> Creation:
        metadata = parse_metadata(encoded_metadata(wanted.metadata), self._max_metadata, principal.limits)
        return Creation(
            created_via=CreatedVia.DIRECT,
            length=wanted.size,
            metadata=metadata.raw,
            filename=wanted.filename or metadata.filename,
            content_type=wanted.content_type or metadata.content_type,
        )
