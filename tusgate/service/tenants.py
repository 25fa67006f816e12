"""Tenants as they go about: who is known, how fast they may be, and that the database knows their quotas.

Rates are per process: what two replicas let through together may be twice as much. Quotas are exact (`core/quota.py`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tusgate.core.errors import TenantUnknown, Throttled, TooManyRequests
from tusgate.core.tenant import Tenant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tusgate.core.model import Keeping, NewUpload, Upload
    from tusgate.ports import ByteSource, Database, SurveyedDatabase

BURST: Final = 2.0
"""Seconds' worth of requests that may come at once."""
ROUNDING: Final = 1e-6
"""Seconds by which sums of fractions may be off."""
OTHERS_KEPT: Final = 1024
"""Tenants without an entry of their own whose pace is remembered at once."""


def check_coding(tenant: Tenant, keeping: Keeping, upload: Upload | NewUpload) -> None:
    """Raise UnsupportedMediaType where `tenant` does not take files as coded as `upload` is."""
    has_gates = keeping.has_gates(upload.scope)
    tenant.check_coding(upload.content_coding, upload.content_type, has_gates=has_gates)


class Pace:
    """Meters something that may pass at `rate` units per second. Time is the event loop's."""

    def __init__(self, rate: float, burst: float) -> None:
        """Take `burst` as the seconds for which nothing needs to wait after a pause."""
        self._rate = rate
        self._burst = burst
        self._booked_until = float("-inf")

    def book(self, units: float) -> float:
        """Count `units`; return the seconds after which they may have passed, 0 when they may at once."""
        now = asyncio.get_running_loop().time()
        begin = max(self._booked_until, now - self._burst)
        self._booked_until = begin + units / self._rate
        return max(0.0, self._booked_until - now)

    def try_one(self) -> bool:
        """Count one unit if it may pass at once."""
        now = asyncio.get_running_loop().time()
        begin = max(self._booked_until, now - self._burst)
        end = begin + 1 / self._rate
        if end > now + ROUNDING:
            return False
        self._booked_until = end
        return True


class _Running:
    """The paces of one tenant, and whether the database knows its quota."""

    def __init__(self, tenant: Tenant) -> None:
        rate, bandwidth = tenant.request_rate, tenant.bandwidth
        self.tenant = tenant
        self.requests = None if rate is None else Pace(rate, max(BURST, 1 / rate))
        self.bytes = None if bandwidth is None else Pace(bandwidth, 0.0)
        self.counting = asyncio.Lock()
        self.is_counted = False


class Tenants:
    """All tenants of a gateway."""

    def __init__(self, declared: Iterable[Tenant] | None = None, *, others: Tenant | None = None) -> None:
        """Take those that are declared, and what holds for each of the others (None: they are refused).

        Without any, everybody is welcome: a gateway without a tenants file has no limits of theirs.
        """
        self._declared = {tenant.name: _Running(tenant) for tenant in declared or ()}
        self._pattern = Tenant() if declared is None else others
        self._others: dict[str, _Running] = {}

    def of(self, name: str) -> Tenant:
        """Return the tenant. Raises TenantUnknown."""
        return self._running(name).tenant

    def known(self, name: str) -> Tenant | None:
        """Return the tenant, None when it is not (or no longer) declared."""
        try:
            return self.of(name)
        except TenantUnknown:
            return None

    def admit(self, name: str, *, creates: bool = False) -> Tenant:
        """Count a request of the tenant and return it.

        Raises:
            TenantUnknown: it is not declared.
            TooManyRequests: it makes uploads faster than it may.
            Throttled: it asks about known ones faster than it may. Another kind of error, because after a 429 many
                clients give their upload up.
        """
        running = self._running(name)
        if running.requests is not None and not running.requests.try_one():
            raise TooManyRequests if creates else Throttled
        return running.tenant

    def paced(self, name: str, source: ByteSource) -> ByteSource:
        """Return `source`, read no faster than the tenant's bandwidth."""
        pace = self._running(name).bytes
        return source if pace is None else _PacedSource(source, pace)

    async def prepare(self, database: Database, name: str) -> None:
        """See to it that the database holds the tenant to its quota, before it creates anything.

        Once for each tenant and process. Raises DatabaseUnavailable.
        """
        running = self._running(name)
        if running.is_counted or running.tenant.quota is None:
            return
        async with running.counting:
            if not running.is_counted:
                await database.limit_usage(name, running.tenant.quota)
                running.is_counted = True

    async def prepare_all(self, database: SurveyedDatabase) -> None:
        """Tell the database the quotas of all declared tenants, and who has none any more. DatabaseUnavailable."""
        for name in await database.limited_tenants():
            tenant = self.known(name)
            if tenant is None or tenant.quota is None:
                await database.limit_usage(name, None)
        for name in self._declared:
            await self.prepare(database, name)

    def _running(self, name: str) -> _Running:
        running = self._declared.get(name) or self._others.get(name)
        if running is not None:
            return running
        if self._pattern is None:
            raise TenantUnknown
        running = _Running(replace(self._pattern, name=name))
        self._others[name] = running
        if len(self._others) > OTHERS_KEPT:
            del self._others[next(iter(self._others))]
        return running


class _PacedSource:
    """A body that is read at the pace of its tenant: waits before it reads on, for what it has read."""

    def __init__(self, source: ByteSource, pace: Pace) -> None:
        self.size = source.size
        self._source = source
        self._pace = pace
        self._ready_at = 0.0
        self._interrupted = asyncio.Event()

    @property
    def is_abandoned(self) -> bool:
        """See `ports.ByteSource.is_abandoned`."""
        return self._source.is_abandoned

    async def read(self, paid: int = 0) -> bytes:
        """See `ports.ByteSource.read`. Nothing that a client does counts against it while it waits here."""
        seconds = self._ready_at - asyncio.get_running_loop().time()
        if seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._interrupted.wait()
        chunk = await self._source.read(paid)
        if chunk:
            self._ready_at = asyncio.get_running_loop().time() + self._pace.book(len(chunk))
        return chunk

    def interrupt(self, error: Exception) -> None:
        """See `ports.ByteSource.interrupt`."""
        self._source.interrupt(error)
        self._interrupted.set()
