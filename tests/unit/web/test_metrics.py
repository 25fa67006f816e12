"""The listener of metrics: what it serves, and that it serves nothing else."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.database_rig import a_new_upload
from tests.doubles.database import MemoryDatabase
from tusgate.core.errors import SettingsError
from tusgate.core.events import Outbox, Subscription
from tusgate.database.sqlite import SqliteDatabase
from tusgate.service.budget import Budget
from tusgate.service.observation import Observer
from tusgate.web.metrics import Metrics, make_metrics_app
from tusgate.web.server import WebServer, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tusgate.ports import SurveyedDatabase

LABELLED = {
    "tusgate_deliveries": {"sink", "state"},
    "tusgate_deliveries_oldest_waiting_seconds": {"sink"},
    "tusgate_jobs": {"processor", "state"},
    "tusgate_jobs_longest_wait_seconds": {"processor"},
    "tusgate_uploads": {"state"},
}
PLAIN = {"tusgate_database_up", "tusgate_connections", "tusgate_connections_limit"}
PLAIN |= {"tusgate_budget_used_bytes", "tusgate_budget_limit_bytes"}


@asynccontextmanager
async def serving(database: SurveyedDatabase) -> AsyncIterator[str]:
    """Serve metrics of a gateway with the sink `hook` and the processor `scan`."""
    budget = Budget(1000)
    assert budget.try_take(10)
    clients = WebServer(web.Application(), listen("127.0.0.1", 0), max_connections=7)
    metrics = Metrics(Observer(database), budget, clients, ["hook"], ["scan"])
    server = WebServer(make_metrics_app(metrics), listen("127.0.0.1", 0))
    await clients.start()
    await server.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()
        await clients.close()


async def exposed(url: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the values by name and by the values of their labels, in the order of the names of these."""
    async with aiohttp.request("GET", f"{url}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = list(text_string_to_metric_families(await answer.text()))
    assert len(families) == len({family.name for family in families})
    assert all(family.documentation and family.type != "unknown" for family in families)
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for sample in (sample for family in families for sample in family.samples):
        assert {*sample.labels} == LABELLED.get(sample.name, set())
        values = tuple(value for _, value in sorted(sample.labels.items()))
        found.setdefault(sample.name, {})[values] = sample.value
    return found


async def test_everything_is_told_under_its_public_name() -> None:
    database = MemoryDatabase(clock=time.time, outbox=Outbox((Subscription("hook"), Subscription("former"))))
    await database.create(a_new_upload())
    async with serving(database) as url:
        found = await exposed(url)
    assert {name for name in found if not name.startswith("process_")} == {*LABELLED} | PLAIN
    assert found["tusgate_database_up"] == {(): 1}
    assert found["tusgate_deliveries"] == {
        ("hook", "waiting"): 1,
        ("hook", "dead"): 0,
        ("former", "waiting"): 1,
    }
    assert found["tusgate_jobs"] == {("scan", "waiting"): 0, ("scan", "running"): 0, ("scan", "dead"): 0}
    assert found["tusgate_jobs_longest_wait_seconds"] == {("scan",): 0}
    assert found["tusgate_uploads"][("uploading",)] == 1
    assert len(found["tusgate_uploads"]) == 6
    assert (found["tusgate_budget_used_bytes"], found["tusgate_budget_limit_bytes"]) == ({(): 10}, {(): 1000})
    assert (found["tusgate_connections"], found["tusgate_connections_limit"]) == ({(): 0}, {(): 7})


async def test_while_the_database_is_away_the_process_still_tells_of_itself(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "closed.db")
    await database.close()
    async with serving(database) as url:
        found = await exposed(url)
    assert {name for name in found if not name.startswith("process_")} == PLAIN
    assert found["tusgate_database_up"] == {(): 0}
    assert found["process_resident_memory_bytes"][()] > 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/metrics", 200),
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/files", 404),
        ("GET", "/livez", 404),
        ("GET", "/api/v1/files", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/metrics", 405),
        ("OPTIONS", "/metrics", 405),
    ],
)
async def test_it_serves_metrics_and_nothing_else(method: str, path: str, status: int) -> None:
    async with serving(MemoryDatabase(clock=time.time)) as url, aiohttp.request(method, url + path) as answer:
        assert answer.status == status


async def test_many_scrapers_at_once_are_all_answered() -> None:
    async with serving(MemoryDatabase(clock=time.time)) as url:
        every = await asyncio.gather(*(exposed(url) for _ in range(20)))
    assert {found["tusgate_database_up"][()] for found in every} == {1}


async def test_an_address_that_is_taken_is_refused_by_the_name_of_its_setting() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(SettingsError, match=r"^TUSGATE_METRICS: cannot listen on"):
        listen("127.0.0.1", taken.getsockname()[1], setting="TUSGATE_METRICS")
