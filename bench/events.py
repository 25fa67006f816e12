"""What events cost small uploads: the same gateway without a sink, and with a webhook that gets one type, or all."""

from __future__ import annotations

import base64
import json
import statistics
import time
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from rich.table import Table

from bench.aside import in_a_thread
from bench.contenders import TusServer, Workload, check_and_empty, tusgate
from tests.receiver import OK, Received, Receiver, receiving, status
from tests.servers import postgres

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator
    from pathlib import Path

    from rich.console import Console

    from tests.servers.s3 import S3Server

SMALL = Workload("1,000 x 64 KiB", 32, 64 * 1024, 1000)
WARM_UP = Workload("warm-up", 8, 64 * 1024, 50)
WRITTEN_ONLY = "upload.completed, disabled"
"""A sink that has answered 410 to the warm-up: events are written, and nobody is told."""
SINKS: dict[str, list[str] | None] = {
    "no sink": None,
    WRITTEN_ONLY: ["upload.completed"],
    "upload.completed": ["upload.completed"],
    "two types": ["upload.created", "upload.completed"],
}
LONGEST_LAG = 60.0


def show_events(console: Console, home: Path, store: S3Server, rounds: int) -> None:
    """Measure and print, on PostgreSQL and on SQLite."""
    database = {"PostgreSQL": True, "SQLite": False}
    for name, on_postgres in database.items():
        with ExitStack() as stack:
            receiver = stack.enter_context(in_a_thread(_receiver()))
            servers = {}
            for number, (sink, types) in enumerate(SINKS.items()):
                folder = home / f"{name}-{number}"
                folder.mkdir()
                settings = _settings(folder, receiver, types, "/gone" if sink == WRITTEN_ONLY else "/hook")
                if on_postgres:
                    settings["TUSGATE_DATABASE_URL"] = stack.enter_context(postgres.running()).new_database()
                bucket = store.make_bucket(f"events-{name}-{number}".lower())
                servers[sink] = stack.enter_context(tusgate(sink, folder, store, bucket, settings))
            _measure(console, name, store, servers, receiver, rounds)


def _measure(
    console: Console, name: str, store: S3Server, servers: dict[str, TusServer], receiver: Receiver, rounds: int
) -> None:
    seconds: dict[str, list[float]] = {sink: [] for sink in servers}
    cpu: dict[str, list[float]] = {sink: [] for sink in servers}
    lags: dict[str, list[float]] = {sink: [] for sink in servers}
    for server in servers.values():
        server.run(WARM_UP)
        assert server.bucket is not None
        check_and_empty(store, server.bucket, WARM_UP, content=False)
    for _ in range(rounds):
        for sink, server in servers.items():
            expected = 0 if sink == WRITTEN_ONLY else SMALL.uploads * len(SINKS[sink] or ())
            time.sleep(2.0)  # what the one before has left to do is done
            before = len(set(receiver.ids))
            result = server.run(SMALL)
            lags[sink].append(_wait(receiver, before + expected))
            seconds[sink].append(result.seconds)
            cpu[sink].append(result.cpu or 0.0)
            assert server.bucket is not None
            check_and_empty(store, server.bucket, SMALL, content=False)
    table = Table(title=f"events, {name}: {SMALL.name}, {SMALL.connections} connections", title_justify="left")
    for heading in ("", "uploads/s", "of no sink", "CPU ms/upload", "s until the last one was told"):
        table.add_column(heading, justify="left" if not heading else "right")
    floor = statistics.median(seconds["no sink"])
    for sink, runs in seconds.items():
        middle = statistics.median(runs)
        table.add_row(
            sink,
            f"{SMALL.uploads / middle:.0f}",
            f"{floor / middle:.2f}",
            f"{statistics.median(cpu[sink]) / SMALL.uploads * 1000:.2f}",
            f"{statistics.median(lags[sink]):.2f}",
        )
    console.print(table)


def _wait(receiver: Receiver, expected: int) -> float:
    """Return the seconds until that many events have been told."""
    begun = time.monotonic()
    while len(set(receiver.ids)) < expected:
        assert time.monotonic() - begun < LONGEST_LAG, f"{len(set(receiver.ids))} of {expected} events were told"
        time.sleep(0.02)
    return time.monotonic() - begun


def _settings(folder: Path, receiver: Receiver, types: list[str] | None, path: str) -> dict[str, str]:
    if types is None:
        return {}
    secret = folder / "secret"
    secret.write_text("whsec_" + base64.b64encode(bytes(24)).decode())
    url = f"http://127.0.0.1:{receiver.port}{path}"
    sink = {"name": "app", "type": "webhook", "url": url, "secret_files": [str(secret)], "events": types}
    return {"TUSGATE_SINKS": json.dumps([sink]), "TUSGATE_SINK_ALLOW": f"127.0.0.1:{receiver.port}"}


async def _answer(request: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(status(410) if request.path == "/gone" else OK)


@asynccontextmanager
async def _receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        receiver.answers = [_answer]
        yield receiver
