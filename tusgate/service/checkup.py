"""Looks at an installation as a whole, before clients do: database, stores, clocks, and what pages may do with buckets.

Nothing that is stored is changed. A look at a store goes through the motions of an upload and throws it away.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tusgate.core.checkup import ANY_ORIGIN, SOME_PAGE, Finding, Health, Seen, of_clock, of_page
from tusgate.core.clockwatch import GO_ON
from tusgate.core.direct import Plan, Slot
from tusgate.core.errors import SettingsError, StoreRefused, Unavailable
from tusgate.core.model import ObjectKey, UploadId
from tusgate.ports import Attributes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tusgate.core.clockwatch import ClockReading, Verdict
    from tusgate.ports import StoreDoor, SurveyedDatabase, SurveyedStore

CHECK_KEY: Final = ObjectKey(".tusgate-check")
URL_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Bucket:
    """One store, and its door for pages; None where no part is sent past the gateway."""

    name: str
    store: SurveyedStore
    door: StoreDoor | None


def _now() -> datetime:
    return datetime.now(UTC)


class Checkup:
    """All looks, one after the other. Each tells what it has found, and none stops the others.

    Args:
        database: None: there is none yet, and the first start makes it.
        buckets: all stores.
        origins: whose pages send parts; see `origins_to_ask`.
        fixes_cors: let these pages, where they cannot.
        now: our clock.
    """

    def __init__(
        self,
        database: SurveyedDatabase | None,
        buckets: Sequence[Bucket],
        origins: Sequence[str],
        *,
        fixes_cors: bool,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._database = database
        self._buckets = buckets
        self._origins = origins
        self._fixes_cors = fixes_cors
        self._now = now

    async def findings(self) -> AsyncIterator[Finding]:
        """Yield them as they come."""
        async for finding in self._of_database():
            yield finding
        for bucket in self._buckets:
            async for finding in self._of_bucket(bucket):
                yield finding

    async def _of_database(self) -> AsyncIterator[Finding]:
        if self._database is None:
            yield Finding("database", Health.FINE, "is made by the first start")
            return
        readings: list[ClockReading] = []

        def note(reading: ClockReading) -> Verdict:
            readings.append(reading)
            return GO_ON

        try:
            await self._database.check()
            await self._database.preview(1, 0.0, note)
        except SettingsError as error:
            yield Finding("database", Health.WRONG, str(error))
        except Unavailable as error:
            yield Finding("database", Health.WRONG, str(error))
        else:
            yield Finding("database", Health.FINE, "answers, and has the schema of this version")
        for reading in readings[:1]:
            yield of_clock("database", reading.now, self._now())
            if reading.held is not None:
                yield Finding("expiry", Health.WRONG, f"held: {reading.held}", "tusgate gc --release")

    async def _of_bucket(self, bucket: Bucket) -> AsyncIterator[Finding]:
        try:
            await bucket.store.check()
        except (Unavailable, StoreRefused) as error:
            yield Finding(bucket.name, Health.WRONG, str(error))
            return
        yield Finding(bucket.name, Health.FINE, "takes uploads")
        if bucket.door is None:
            return
        clocks: list[datetime] = []
        for origin in self._origins:
            async for finding in self._of_origin(bucket, bucket.door, origin, clocks):
                yield finding
        for clock in clocks[:1]:
            yield of_clock("store", clock, self._now())

    async def _of_origin(
        self, bucket: Bucket, door: StoreDoor, origin: str, clocks: list[datetime]
    ) -> AsyncIterator[Finding]:
        try:
            finding = await self._tried(bucket, door, origin, clocks)
            yield finding
            if finding.health is not Health.WRONG or not self._fixes_cors or door.cors_setting is not None:
                return
            await door.open_to(self._origins)
            again = await self._tried(bucket, door, origin, clocks)
        except (Unavailable, StoreRefused) as error:
            yield Finding(f"direct uploads from {origin}", Health.WRONG, str(error))
        else:
            mended = again.health is Health.FINE
            yield Finding(finding.what, Health.MENDED, "a CORS rule was put") if mended else again

    async def _tried(self, bucket: Bucket, door: StoreDoor, origin: str, clocks: list[datetime]) -> Finding:
        seen = await self._sent(bucket.store, door, SOME_PAGE if origin == ANY_ORIGIN else origin)
        if seen.clock is not None:
            clocks.append(seen.clock)
        shown = ",".join(self._origins)
        setting = door.cors_setting
        advice = "tusgate doctor --fix-cors" if setting is None else f"set {setting.format(origins=shown)}"
        return of_page(origin, seen, advice)

    async def _sent(self, store: SurveyedStore, door: StoreDoor, origin: str) -> Seen:
        """Send one byte as a page of `origin` would, and throw it away."""
        multipart_id = await store.create_multipart(CHECK_KEY, Attributes(UploadId(CHECK_KEY)), plan=Plan())
        try:
            signed = store.presign_part(CHECK_KEY, multipart_id, Slot(1, 0, 1), Plan(), URL_SECONDS)
            return await door.send(origin, signed, b"\0")
        finally:
            await store.abort_multipart(CHECK_KEY, multipart_id)


def is_bad(findings: Sequence[Finding]) -> bool:
    """Return whether something is wrong that was not mended."""
    mended = {finding.what for finding in findings if finding.health is Health.MENDED}
    return any(finding.health is Health.WRONG and finding.what not in mended for finding in findings)
