"""The share links of a file, as its owner makes, sees and revokes them."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Annotated

from aiohttp import web
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from tusgate.core.access import Route
from tusgate.core.errors import SharingOff
from tusgate.core.sharing import Share as SharedFile
from tusgate.core.sharing import ShareId
from tusgate.web.api.door import Operation, json_answer
from tusgate.web.api.models import Moment

if TYPE_CHECKING:
    from tusgate.service.sharing import Sharing
    from tusgate.web.api.door import ApiCall
    from tusgate.web.api.shared import SharedFiles


def _password(text: str | None) -> str | None:
    if text is not None and any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError("a password without control characters")
    return text


class NewShareLink(BaseModel):
    """What a share link allows; all of it may be left out."""

    model_config = ConfigDict(extra="forbid")

    expires_at: Moment = Field(default=None, description="When the link ends; RFC 3339, with a time zone.")
    password: Annotated[str | None, AfterValidator(_password)] = Field(
        default=None, min_length=1, max_length=128, description="Asked for before the download. Not shown again."
    )
    max_downloads: int | None = Field(
        default=None, strict=True, ge=1, le=10**9, description="Downloads that may begin; then the link ends."
    )


class ShareLink(BaseModel):
    """A share link: whoever knows `url` may download the file."""

    id: str
    url: str = Field(description="Needs no login. A secret.")
    created_at: AwareDatetime
    created_by: str = Field(description="How whoever made it was known, such as `token:<id>`.")
    expires_at: AwareDatetime | None
    revoked_at: AwareDatetime | None
    has_password: bool
    max_downloads: int | None
    downloads: int = Field(description="That have begun.")


class ShareLinks(BaseModel):
    """The share links of a file, the newest first, ended ones too for a while."""

    shares: list[ShareLink]


class SharesApi:
    """The operations on share links.

    Args:
        sharing: None: there are none on this server.
        public: where they lead.
    """

    def __init__(self, sharing: Sharing | None, public: SharedFiles | None) -> None:
        self._sharing = sharing
        self._public = public

    def operations(self) -> tuple[Operation, ...]:
        """Return all of them."""
        return (
            Operation(
                method="GET",
                path="/files/{id}/shares",
                route=Route.SHARES,
                name="listShares",
                summary="List the share links of a file",
                answer=self.list,
                result=ShareLinks,
                problems=(403, 404, 410),
            ),
            Operation(
                method="POST",
                path="/files/{id}/shares",
                route=Route.SHARES,
                name="createShare",
                summary="Make a share link to a file",
                description=(
                    "Whoever knows its `url` may download the file without a login, until it expires, is revoked or"
                    " used up, or the file is deleted."
                ),
                answer=self.create,
                body=NewShareLink,
                result=ShareLink,
                status=201,
                problems=(400, 403, 404, 409, 410, 413, 415),
            ),
            Operation(
                method="DELETE",
                path="/files/{id}/shares/{share}",
                route=Route.SHARE,
                name="revokeShare",
                summary="Revoke a share link",
                description="At once, for good. Downloads that run go on.",
                answer=self.revoke,
                status=204,
                problems=(403, 404),
            ),
        )

    async def list(self, call: ApiCall) -> web.Response:
        """Answer with the links of a file."""
        shares = await self._offered().list(call.scope, call.file_id)
        return json_answer(ShareLinks(shares=[self._link(call, share) for share in shares]))

    async def create(self, call: ApiCall) -> web.Response:
        """Make a link and answer with it."""
        asked = call.body
        assert isinstance(asked, NewShareLink)
        share = await self._offered().create(
            call.principal,
            call.file_id,
            expires_at=asked.expires_at,
            password=asked.password,
            max_downloads=asked.max_downloads,
        )
        return json_answer(self._link(call, share), 201)

    async def revoke(self, call: ApiCall) -> web.Response:
        """End a link."""
        await self._offered().revoke(call.scope, call.file_id, ShareId(call.path["share"]))
        return web.Response(status=204)

    def _offered(self) -> Sharing:
        if self._sharing is None:
            raise SharingOff
        return self._sharing

    def _link(self, call: ApiCall, share: SharedFile) -> ShareLink:
        assert self._public is not None
        return ShareLink(
            id=share.id,
            url=self._public.url(call.request, share.id),
            created_at=share.created_at,
            created_by=share.created_by,
            expires_at=share.expires_at,
            revoked_at=share.revoked_at,
            has_password=share.password is not None,
            max_downloads=share.max_downloads,
            downloads=share.downloads,
        )
