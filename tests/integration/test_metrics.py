"""What Prometheus reads of whole gateways: what waits, what is dead, and that the database is away."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.gateway import Gateway
    from tests.servers.postgres import Postgres

    Start = Callable[..., Gateway]
    Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

DEADLINE = 60.0
SECRET = "whsec_" + base64.b64encode(b"not to be seen anywhere.").decode()


async def scrape(port: int) -> Samples:
    async with aiohttp.request("GET", f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        text = await answer.text()
    families = text_string_to_metric_families(text)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"tusgate_{name}", frozenset(labels.items())))


async def until(port: int, condition: Callable[[Samples], bool]) -> Samples:
    """Scrape until `condition` holds: what was read is kept for some seconds."""
    async with asyncio.timeout(DEADLINE):
        while not condition(samples := await scrape(port)):  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.2)
    return samples


def sinks(secret: Path) -> str:
    """Return two that nobody answers at: one gives up at once."""
    declared = {"type": "webhook", "url": "http://127.0.0.1:1/", "secret_files": [str(secret)]}
    return json.dumps([{**declared, "name": "lost", "retries": 0}, {**declared, "name": "late"}])


@pytest.mark.slow
async def test_a_dead_delivery_and_a_job_that_nobody_takes_are_seen(start_gateway: Start, tmp_path: Path) -> None:
    (tmp_path / "hook.secret").write_text(SECRET)
    port = free_port()
    gateway = start_gateway(
        {
            "TUSGATE_METRICS": f"127.0.0.1:{port}",
            "TUSGATE_SINKS": sinks(tmp_path / "hook.secret"),
            "TUSGATE_SINK_ALLOW": "127.0.0.1:1",
            "TUSGATE_PROCESSORS": "virus-scan",
            "TUSGATE_WORKER": "off",
        }
    )
    at_rest = await scrape(port)
    assert value(at_rest, "deliveries", sink="lost", state="dead") == 0
    assert value(at_rest, "jobs", processor="virus-scan", state="dead") == 0
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{gateway.endpoint}/hello.txt", data=b"hello") as answer,
    ):
        assert answer.status == 201
        seen = await until(port, lambda samples: value(samples, "deliveries", sink="lost", state="dead") == 3)
        assert value(seen, "connections") == 1
    assert value(seen, "database_up") == 1
    assert value(seen, "deliveries", sink="late", state="waiting") == 3
    assert value(seen, "deliveries", sink="late", state="dead") == 0
    assert (value(seen, "deliveries_oldest_waiting_seconds", sink="late") or 0) > 0
    assert value(seen, "deliveries_oldest_waiting_seconds", sink="lost") == 0
    assert value(seen, "jobs", processor="virus-scan", state="waiting") == 1
    assert value(seen, "jobs", processor="virus-scan", state="running") == 0
    assert (value(seen, "jobs_longest_wait_seconds", processor="virus-scan") or 0) > 0
    assert value(seen, "budget_limit_bytes") == 256 << 20
    assert value(seen, "budget_used_bytes") == 0
    assert seen["process_resident_memory_bytes", frozenset()] > 0
    assert seen["process_open_fds", frozenset()] > 0
    async with aiohttp.request("GET", f"{gateway.url}/metrics") as public:
        assert public.status == 404


async def test_each_worker_has_its_own_and_says_when_the_database_is_away(
    start_gateway: Start, postgres: Postgres, database_url: str
) -> None:
    port = free_port()
    settings = {"TUSGATE_METRICS": f"127.0.0.1:{port}", "TUSGATE_DATABASE_URL": database_url, "TUSGATE_WORKERS": "2"}
    start_gateway(settings)
    ports = (port, port + 1)
    async with asyncio.timeout(DEADLINE):
        for each in ports:
            while not await answers(each):  # noqa: ASYNC110 - another process brings it about
                await asyncio.sleep(0.05)
    first, _ = [await until(each, lambda samples: value(samples, "database_up") == 1) for each in ports]
    assert value(first, "uploads", state="complete") == 0
    started = ("process_start_time_seconds", frozenset[tuple[str, str]]())
    assert first[started] == (await scrape(port))[started]
    assert len({listener(each) for each in ports}) == 2, "one process answers for both"
    await asyncio.to_thread(postgres.stop)
    try:
        for each in ports:
            away = await until(each, lambda samples: value(samples, "database_up") == 0)
            assert value(away, "budget_limit_bytes") == 256 << 20
    finally:
        await asyncio.to_thread(postgres.start)
    for each in ports:
        await until(each, lambda samples: value(samples, "database_up") == 1)


def listener(port: int) -> int | None:
    """Return the process that listens there."""
    found = [each for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr[1:] == (port,)]
    assert len(found) == 1
    return found[0].pid


async def answers(port: int) -> bool:
    """Return whether the process listens by now: the gateway is ready as soon as one of its workers is."""
    try:
        await scrape(port)
    except aiohttp.ClientConnectionError:
        return False
    return True
