"""Who read what, as the owner of a file and the administrators of a tenant are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from tusgate.core.access import Route
from tusgate.core.audit import AccessFilter, Ending, How
from tusgate.core.model import UploadId
from tusgate.web.api import cursor
from tusgate.web.api.door import Operation, json_answer
from tusgate.web.api.models import MOST_IN_A_PAGE, FileId, Moment, searched

if TYPE_CHECKING:
    from aiohttp import web

    from tusgate.core.audit import Access as AccessRow
    from tusgate.core.listing import Position
    from tusgate.service.audit import Audit
    from tusgate.web.api.door import ApiCall


class Access(BaseModel):
    """Somebody read a file, or what is known of it."""

    id: str
    file_id: str
    owner: str = Field(description="Of the file.")
    reader: str = Field(description="Owner in whose name it was; empty by a share link, and where nobody is asked.")
    proof: str = Field(description="How that was known: `token:<id>`, `jwt:<issuer>`, `share:<id>`, `open` and so on.")
    how: How = Field(
        description=(
            "`content`: bytes, by a login; `share`: bytes, by a share link; `redirect`: a signed URL of the store, with"
            " either; `api`: what is known of it."
        )
    )
    client: str | None = Field(description="Address of the reader.")
    began_at: AwareDatetime
    ended_at: AwareDatetime | None
    first_byte: int | None = Field(description="Where the part that was asked for begins.")
    wanted: int | None = Field(description="Bytes that were asked for.")
    sent: int | None = Field(description="Bytes that were handed to the network.")
    outcome: Ending = Field(
        description=(
            "`done`: all that was asked for; `broken`: the reader left or was too slow, or the store failed; `started`:"
            " it runs, or its end could not be written down."
        )
    )

    @classmethod
    def of(cls, row: AccessRow) -> Access:
        """Return what the API shows of `row`."""
        return cls(
            id=row.id,
            file_id=row.file_id,
            owner=row.scope.owner,
            reader=row.reader,
            proof=row.proof,
            how=row.how,
            client=row.client,
            began_at=row.began_at,
            ended_at=row.ended_at,
            first_byte=row.first_byte,
            wanted=row.wanted,
            sent=row.sent,
            outcome=row.ending,
        )


class AccessPage(BaseModel):
    """Accesses, the latest first."""

    accesses: list[Access]
    next_cursor: str | None = Field(description="Where the next page begins; null on the last one.")


class Page(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=MOST_IN_A_PAGE, description="Rows in a page, at most.")
    cursor: str | None = Field(default=None, max_length=128, description="`next_cursor` of the page before.")

    def after(self) -> Position | None:
        """Return the place where the page begins."""
        return None if self.cursor is None else cursor.decode(self.cursor)


class AccessQuery(Page):
    """Which accesses a listing of all has."""

    file_id: FileId | None = Field(default=None, description="Of one file, deleted ones too.")
    reader: Annotated[str | None, AfterValidator(searched)] = Field(
        default=None, max_length=255, description="In the name of this owner."
    )
    began_from: Moment = Field(default=None, description="Began then or later; RFC 3339, with a time zone.")
    began_before: Moment = Field(default=None, description="Began earlier.")


class AccessesApi:
    """The operations on the access log."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def operations(self) -> tuple[Operation, ...]:
        """Return all of them."""
        return (
            Operation(
                method="GET",
                path="/files/{id}/accesses",
                route=Route.FILE_ACCESSES,
                name="listFileAccesses",
                summary="List who read a file, the latest first",
                description="Also of a file that was deleted, as long as accesses are kept.",
                answer=self.of_file,
                query=Page,
                result=AccessPage,
                problems=(400, 404),
            ),
            Operation(
                method="GET",
                path="/accesses",
                route=Route.ACCESSES,
                name="listAccesses",
                summary="List who read any file of the tenant, the latest first",
                description="Whoever owns the files; for administrators.",
                answer=self.of_tenant,
                query=AccessQuery,
                result=AccessPage,
                problems=(400,),
            ),
        )

    async def of_file(self, call: ApiCall) -> web.Response:
        """Answer with the accesses to one file."""
        query = call.query
        assert isinstance(query, Page)
        return _page(*await self._audit.of_file(call.scope, call.file_id, query.after(), query.limit))

    async def of_tenant(self, call: ApiCall) -> web.Response:
        """Answer with the accesses to all files of the tenant."""
        query = call.query
        assert isinstance(query, AccessQuery)
        wanted = AccessFilter(
            file_id=None if query.file_id is None else UploadId(query.file_id),
            reader=query.reader,
            began_from=query.began_from,
            began_before=query.began_before,
        )
        return _page(*await self._audit.of_tenant(call.scope.tenant, wanted, query.after(), query.limit))


def _page(rows: list[AccessRow], following: Position | None) -> web.Response:
    next_cursor = None if following is None else cursor.encode(following)
    return json_answer(AccessPage(accesses=[Access.of(row) for row in rows], next_cursor=next_cursor))
