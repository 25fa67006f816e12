"""The clean-up jobs once, from beginning to end, for an operator who wants to see what they do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tusgate.core.model import Garbage, ObjectKey, Upload, UploadId
    from tusgate.ports import SurveyedDatabase
    from tusgate.service.collector import Collector
    from tusgate.service.expirer import Expirer


class Deed(StrEnum):
    """What was done, or would be."""

    EXPIRED = "expired"
    REMOVED = "removed"
    KEPT = "kept"
    """It could not be removed now; it will be tried again."""


class Thing(StrEnum):
    """What it was done to."""

    UPLOAD = "upload"
    OBJECT = "object"
    MULTIPART = "multipart upload"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the report. `key` is where an upload would have been, or what lies in the store."""

    deed: Deed
    thing: Thing
    upload_id: UploadId
    key: ObjectKey


async def clean_up(expirer: Expirer, collector: Collector) -> AsyncIterator[Outcome]:
    """Expire all that is due, then collect all that is due, batch by batch. May run beside any number of gateways.

    What is expired now may leave intents that are due half an hour later only, and what is removed now is removed
    once more then; a gateway, or the next call, does that.
    """
    while expired := await expirer.run():
        for upload in expired:
            yield _expired(upload)
    while True:
        collected = await collector.run()
        for row in collected.removed:
            yield _about(Deed.REMOVED, row)
        for row in collected.kept:
            yield _about(Deed.KEPT, row)
        if not collected.removed and not collected.kept:
            return


async def foresee_clean_up(
    database: SurveyedDatabase, expirer: Expirer, limit: int, grace: float
) -> AsyncIterator[Outcome]:
    """Tell what the first batch of `clean_up` would do: at most `limit` of each kind. Nothing is changed."""
    expired, garbage = await database.preview(limit, grace, expirer.judging())
    for upload in expired:
        yield _expired(upload)
    for row in garbage:
        yield _about(Deed.REMOVED, row)


def _expired(upload: Upload) -> Outcome:
    return Outcome(Deed.EXPIRED, Thing.UPLOAD, upload.id, upload.object_key)


def _about(deed: Deed, row: Garbage) -> Outcome:
    return Outcome(deed, Thing.MULTIPART if row.multipart else Thing.OBJECT, row.upload_id, row.key)
