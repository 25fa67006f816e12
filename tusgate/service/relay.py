"""Brings events from the database to sinks. Every process runs one; leases keep them off each other's deliveries.

Rule 1: a delivery is claimed only when its try begins, and its lease outlives the try: at most one is on its way.
Rule 2: each sink has a lane of its own: one that is slow or broken delays no other.
Rule 3: a step that writes events wakes the lanes of its own process. Nobody is notified across processes: a NOTIFY
in each commit would put the commits of the whole database in a row. Looking every second finds what a process left.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.errors import DeliveryFailed, SinkGone, Unavailable
from tusgate.core.events import DeliveryState, Outcome, RetryPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.core.events import Delivery
    from tusgate.ports import Deliveries, Sink

log = structlog.get_logger(__name__)

PATIENCE: Final = 3600.0
"""Seconds for which a delivery may be due to a sink that this process does not know: another release may."""
PURGE_BATCH: Final = 1000
MOST_SAID: Final = 500
"""Characters that are kept of why a try has failed."""


@dataclass(frozen=True, slots=True)
class Line:
    """A sink, and how it is treated.

    Attributes:
        plan: when it is tried again.
        longest: seconds after which a try is broken off, whatever the sink does.
    """

    sink: Sink
    plan: RetryPlan = field(default_factory=RetryPlan)
    longest: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayRules:
    """How often and how much.

    Attributes:
        at_once: deliveries to one sink at the same time.
        margin: seconds by which the lease of a delivery is longer than its try may take.
        pause: seconds between two rounds of a lane, so that what comes thick and fast is claimed and settled together.
        look_every: seconds between looks for what other processes left.
        tidy_every: seconds between two rounds of forgetting.
        retention, dead_retention: seconds for which events are kept, and dead deliveries.
        farewell: seconds that tries get to end when the relay stops.
        tidies_always: whether events are written without sinks, too.
    """

    at_once: int = 64
    margin: float = 15.0
    pause: float = 0.05
    look_every: float = 1.0
    tidy_every: float = 60.0
    retention: float = 7 * 86_400.0
    dead_retention: float = 30 * 86_400.0
    farewell: float = 5.0
    tidies_always: bool = False


class Relay:
    """All lanes of one process.

    Args:
        deliveries: what there is to do.
        lines: where to.
        holder: names this process.
        rules: how much at once.
    """

    def __init__(self, deliveries: Deliveries, lines: Sequence[Line], holder: str, rules: RelayRules) -> None:
        self._deliveries = deliveries
        self._rules = rules
        self._lanes = [_Lane(deliveries, line, holder, rules) for line in lines]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to deliver until `stop`, and to forget; nothing runs when nobody is told anything."""
        if self._lanes or self._rules.tidies_always:
            runs = [*(lane.run() for lane in self._lanes), self._tidy_for_ever()]
            self._tasks = [asyncio.create_task(run) for run in runs]

    def wake(self) -> None:
        """Look at once: this process has written events."""
        for lane in self._lanes:
            lane.wake()

    async def stop(self) -> None:
        """End the tries that run, give back what is leased, close the sinks. Whatever is left others find."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*[lane.end() for lane in self._lanes])

    async def tidy(self) -> None:
        """Forget what is old, and give up what nobody will deliver. Raises DatabaseUnavailable."""
        rules = self._rules
        await self._deliveries.bury_unclaimed([lane.name for lane in self._lanes], PATIENCE)
        while await self._deliveries.purge(rules.retention, rules.dead_retention, PURGE_BATCH) >= PURGE_BATCH:
            pass

    async def _tidy_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._rules.tidy_every * random.uniform(0.8, 1.2))  # noqa: S311 - spreads replicas
            try:
                await self.tidy()
            except Unavailable as error:
                log.warning("job.postponed", job="tidy", error=str(error))
            except Exception:  # the guard of a loop: the next round may succeed
                log.exception("job.failed", job="tidy")


class _Lane:
    """Delivers to one sink: claims as much as it may do at once, and settles what has ended together."""

    def __init__(self, deliveries: Deliveries, line: Line, holder: str, rules: RelayRules) -> None:
        self.name = line.sink.name
        self._deliveries = deliveries
        self._sink = line.sink
        self._plan = line.plan
        self._longest = line.longest
        self._holder = holder
        self._rules = rules
        self._running: set[asyncio.Task[None]] = set()
        self._outcomes: list[Outcome] = []
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Deliver for ever. What cannot be settled now is settled later."""
        while True:
            self._woken.clear()
            try:
                await self._settle()
                await self._begin()
            except Unavailable as error:
                log.warning("delivery.postponed", sink=self.name, error=str(error))
                await asyncio.sleep(self._rules.look_every)
            except Exception:  # the guard of a loop: the next round may succeed
                log.exception("job.failed", job=f"relay to {self.name}")
                await asyncio.sleep(self._rules.look_every)
            await self._wait()
            await asyncio.sleep(self._rules.pause)

    async def end(self) -> None:
        """Let the running tries end, settle them, and give the others back."""
        if self._running:
            await asyncio.wait(self._running, timeout=self._rules.farewell)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        try:
            await self._settle()
            await self._deliveries.give_back(self.name, self._holder)
        except Unavailable as error:  # the leases run out by themselves
            log.warning("delivery.postponed", sink=self.name, error=str(error))
        await self._sink.close()

    async def _settle(self) -> None:
        done, self._outcomes = self._outcomes, []
        if not done:
            return
        try:
            await self._deliveries.settle(self.name, self._holder, done)
        except BaseException:
            self._outcomes = done + self._outcomes
            raise

    async def _begin(self) -> None:
        free = self._rules.at_once - len(self._running)
        if free <= 0:
            return
        for delivery in await self._deliveries.claim(self.name, self._holder, self._longest + self._rules.margin, free):
            task = asyncio.create_task(self._try(delivery))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._woken.set()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._rules.look_every):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _try(self, delivery: Delivery) -> None:
        event_id = delivery.event.id
        try:
            async with asyncio.timeout(self._longest):
                await self._sink.deliver(delivery.event)
        except SinkGone as gone:
            await self._disable(str(gone))
            outcome = Outcome(event_id, DeliveryState.DEAD, 0.0, str(gone))
        except DeliveryFailed as error:
            outcome = self._after(delivery, str(error), error.retry_after)
        except TimeoutError:
            outcome = self._after(delivery, f"not taken within {self._longest:g} s", None)
        except Exception as error:  # a bug of a sink must not stop the others
            log.exception("delivery.crashed", sink=self.name, event_id=str(event_id))
            outcome = self._after(delivery, type(error).__name__, None)
        else:
            outcome = Outcome(event_id, DeliveryState.DELIVERED)
            log.debug("delivery.done", sink=self.name, event_id=str(event_id), tries=delivery.tries)
        self._outcomes.append(outcome)

    async def _disable(self, reason: str) -> None:
        log.error("sink.disabled", sink=self.name, reason=reason, hint=f"tusgate events enable {self.name}")
        try:
            await self._deliveries.disable(self.name, reason)
        except Unavailable as error:  # the next delivery is answered the same
            log.warning("delivery.postponed", sink=self.name, error=str(error))

    def _after(self, delivery: Delivery, reason: str, asked: float | None) -> Outcome:
        """Return what becomes of a delivery whose try has failed."""
        event, reason = delivery.event, _printable(reason)
        told = {"sink": self.name, "event_id": str(event.id), "type": event.type, "tries": delivery.tries}
        delay = self._plan.after(delivery.tries, asked, random.random())  # noqa: S311 - spreads tries, guards nothing
        if delay is None:
            log.error("delivery.dead", **told, error=reason)
            return Outcome(event.id, DeliveryState.DEAD, 0.0, reason)
        log.warning("delivery.failed", **told, error=reason, retry_in=round(delay, 1))
        return Outcome(event.id, DeliveryState.WAITING, delay, reason)


def _printable(reason: str) -> str:
    """Return what a receiver says, which may be anything, as databases can keep it and terminals show it."""
    return "".join(each if each.isprintable() else "\ufffd" for each in reason[:MOST_SAID])
