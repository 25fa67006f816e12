"""`/metrics` for Prometheus, on a listener of its own: nobody who uploads reaches it.

What comes from the database is the same in every process and replica; all else is about this process. A name is
public, as alerts are built on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from tusgate.core.events import DeliveryState
from tusgate.core.processing import JobState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from prometheus_client import Metric

    from tusgate.core.model import State
    from tusgate.service.budget import Budget
    from tusgate.service.observation import Backlog, Observation, Observer
    from tusgate.web.server import WebServer

PATH: Final = "/metrics"


class Metrics:
    """Writes what is known of the database, and of this process.

    Args:
        observer: of the database.
        budget: of this process.
        server: of this process, for clients.
        sinks: by name; those that have nothing waiting are told as well, so that alerts can tell zero from nothing.
        processors: likewise.
    """

    def __init__(
        self,
        observer: Observer,
        budget: Budget,
        server: WebServer,
        sinks: Collection[str] = (),
        processors: Collection[str] = (),
    ) -> None:
        self._observer = observer
        self._budget = budget
        self._server = server
        self._sinks = sinks
        self._processors = processors
        self._process = ProcessCollector(registry=None)

    async def text(self) -> bytes:
        """Return all metrics in the text format, also while the database is away."""
        observation = await self._observer.observe()
        registry = CollectorRegistry()
        registry.register(self._process)
        registry.register(_Written([*self._of_database(observation), *self._of_process()]))
        return generate_latest(registry)

    async def stop(self) -> None:
        """Read nothing more from the database."""
        await self._observer.stop()

    def _of_database(self, observation: Observation) -> Iterable[Metric]:
        yield _gauge("tusgate_database_up", "Whether the database answers.", float(observation.database_answers))
        if observation.backlog is not None:
            yield from self._of_deliveries(observation.backlog)
            yield self._of_waits(observation.backlog)
        yield self._of_jobs(observation)
        if observation.survey is not None:
            yield _of_uploads(observation.survey.uploads)

    def _of_deliveries(self, backlog: Backlog) -> Iterable[Metric]:
        unsettled = (DeliveryState.WAITING, DeliveryState.DEAD)
        counts = {(sink, state): 0 for sink in self._sinks for state in unsettled}
        ages = dict.fromkeys(self._sinks, 0.0)
        for each in backlog.deliveries:
            counts[each.sink, each.state] = each.deliveries
            if each.seconds is not None:
                ages[each.sink] = each.seconds
        deliveries = GaugeMetricFamily(
            "tusgate_deliveries", "Deliveries of events that wait or were given up.", labels=("sink", "state")
        )
        for labels, count in counts.items():
            deliveries.add_metric(labels, count)
        yield deliveries
        oldest = GaugeMetricFamily(
            "tusgate_deliveries_oldest_waiting_seconds", "Age of the oldest event that waits.", labels=("sink",)
        )
        for sink, seconds in ages.items():
            oldest.add_metric((sink,), seconds)
        yield oldest

    def _of_jobs(self, observation: Observation) -> Metric:
        counts: dict[tuple[str, JobState], int] = {}
        if observation.backlog is not None:
            unsettled = (JobState.WAITING, JobState.RUNNING)
            counts |= {(processor, state): 0 for processor in self._processors for state in unsettled}
            for each in observation.backlog.jobs:
                counts[each.processor, JobState.WAITING] = each.waiting
                counts[each.processor, JobState.RUNNING] = each.running
        if observation.survey is not None:
            dead = dict.fromkeys(self._processors, 0) | dict(observation.survey.dead_jobs)
            counts |= {(processor, JobState.DEAD): count for processor, count in dead.items()}
        jobs = GaugeMetricFamily("tusgate_jobs", "Jobs that are not settled or dead.", labels=("processor", "state"))
        for labels, count in counts.items():
            jobs.add_metric(labels, count)
        return jobs

    def _of_waits(self, backlog: Backlog) -> Metric:
        waits = dict.fromkeys(self._processors, 0.0) | {each.processor: each.seconds for each in backlog.jobs}
        longest = GaugeMetricFamily(
            "tusgate_jobs_longest_wait_seconds", "For how long a job is due that nobody takes.", labels=("processor",)
        )
        for processor, seconds in waits.items():
            longest.add_metric((processor,), seconds)
        return longest

    def _of_process(self) -> Iterable[Metric]:
        budget, server = self._budget, self._server
        yield _gauge("tusgate_budget_used_bytes", "Bytes of uploads that are in memory.", budget.used)
        yield _gauge("tusgate_budget_limit_bytes", "How many there may be.", budget.limit)
        yield _gauge("tusgate_connections", "Connections of clients that are open.", server.connections)
        yield _gauge("tusgate_connections_limit", "How many are served.", server.max_connections)


def make_metrics_app(metrics: Metrics) -> web.Application:
    """Return an application that answers GET and HEAD of `/metrics`, and nothing else."""

    async def answer(_request: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4, "Cache-Control": "no-store"}
        return web.Response(body=await metrics.text(), headers=headers)

    async def stop(_app: web.Application) -> None:
        await metrics.stop()

    app = web.Application()
    app.router.add_get(PATH, answer)
    app.on_cleanup.append(stop)
    return app


class _Written(Collector):
    """Metrics whose values are known already, as a registry wants them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=value)


def _of_uploads(counts: Mapping[State, int]) -> Metric:
    uploads = GaugeMetricFamily("tusgate_uploads", "Uploads that are remembered.", labels=("state",))
    for state, count in counts.items():
        uploads.add_metric((state,), count)
    return uploads
