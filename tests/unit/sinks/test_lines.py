"""Events as lines."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.unit.sinks.facts import a_fact
from tusgate.core.errors import DeliveryFailed
from tusgate.sinks.lines import LinesSink

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE = 5.0
THREADS_OF_ALL = min(32, (os.cpu_count() or 1) + 4)
"""Of asyncio's own executor."""


async def test_each_event_is_a_line_at_the_end_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("before\n")
    sinks = [LinesSink("log", path) for _ in range(3)]
    event = await a_fact()
    await asyncio.gather(*[sink.deliver(event) for sink in sinks for _ in range(5)])
    first, *lines = path.read_text().splitlines()
    assert first == "before"
    assert [json.loads(line)["id"] for line in lines] == [str(event.id)] * 15


async def test_writers_of_one_file_put_nothing_between_their_lines(tmp_path: Path) -> None:
    """While one writes a long line the file ends within it, which is no half line of a power cut."""
    path = tmp_path / "events.jsonl"
    event = await a_fact()
    long = replace(event, upload=replace(event.upload, filename="x" * 200_000))
    sinks = [LinesSink("log", path) for _ in range(4)]
    await asyncio.gather(*[sink.deliver(long) for sink in sinks for _ in range(25)])
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [str(event.id)] * 100


async def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = LinesSink("log", path)
    await sink.deliver(await a_fact())
    path.rename(tmp_path / "events.jsonl.1")
    await sink.deliver(await a_fact())
    assert len(path.read_text().splitlines()) == 1


async def test_half_a_line_of_a_power_cut_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"id": "ha')
    await LinesSink("log", path).deliver(await a_fact())
    half, whole = path.read_text().splitlines()
    assert half == '{"id": "ha'
    assert json.loads(whole)["type"] == "upload.completed"


async def test_what_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(DeliveryFailed, match="No such file"):
        await LinesSink("log", tmp_path / "missing" / "events.jsonl").deliver(await a_fact())


async def test_a_disk_that_hangs_keeps_no_thread_from_others(tmp_path: Path) -> None:
    """EV-03: names of webhooks are resolved in the threads that all share."""
    path = tmp_path / "events.jsonl"
    sink, event = LinesSink("log", path), await a_fact()
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # a writer in another process, which hangs
        for _ in range(2 * THREADS_OF_ALL):
            with suppress(TimeoutError):
                await asyncio.wait_for(sink.deliver(event), 0.01)
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*[asyncio.to_thread(int) for _ in range(THREADS_OF_ALL)])
    async with asyncio.timeout(DEADLINE):
        await sink.deliver(event)
    assert len(path.read_text().splitlines()) == 2  # the one that was under way, and the last
    await sink.close()


async def test_stdout_gets_lines_too(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    await LinesSink("out", None).deliver(await a_fact())
    assert json.loads(capfdbinary.readouterr().out)["type"] == "upload.completed"
