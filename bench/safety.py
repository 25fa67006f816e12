"""What the promise costs: commits for each GiB, HEAD under load, and the time until a dead writer is replaced."""

from __future__ import annotations

import asyncio
import re
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
from rich.table import Table

from bench.contenders import TusServer, Workload, node_peer, tusgate
from bench.load import BLOCK, Connection, patch_fields
from tests.servers import acquire, postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console

    from tests.servers.s3 import S3Server

MIB = 1 << 20
GIB = 1 << 30
COUNTED = [
    Workload("4 x 128 MiB", 4, 128 * MIB, 4),
    Workload("64 x 8.5 MiB", 32, 17 * MIB // 2, 64),
    Workload("500 x 64 KiB", 32, 64 * 1024, 500),
]
LOAD = Workload("64 connections, 256 x 8.5 MiB", 64, 17 * MIB // 2, 256)
IDLE_HEADS = 300
TAKEOVERS = 60
UPLOAD = 16 * MIB
FIRST = 3 * MIB
"""Bytes that the writer sends before its link dies; they fill no part, so nothing of them is committed."""


def show_safety(console: Console, home: Path, store: S3Server) -> None:
    """Measure and print; PostgreSQL on disk with its default of fsync and synchronous_commit, two replicas."""
    with ExitStack() as stack:
        database = stack.enter_context(postgres.running()).new_database()
        bucket = store.make_bucket("safety")
        settings = {"TUSGATE_DATABASE_URL": database}
        replicas = [
            stack.enter_context(tusgate(f"replica-{n}", home / f"replica-{n}", store, bucket, settings)) for n in (1, 2)
        ]
        show_commits(console, replicas[0], database)
        contenders = {"tusgate, PostgreSQL": replicas[0]}
        try:
            peer = stack.enter_context(node_peer(home / "peer", store, store.make_bucket("peer")))
            contenders[peer.name] = peer
        except acquire.MissingError as missing:
            console.print(f"without the Node peer: {missing}")
        show_heads(console, contenders, database)
        show_takeovers(console, replicas)


def show_commits(console: Console, server: TusServer, database: str) -> None:
    """Print how many transactions that write each workload takes."""
    table = _table("transactions that write (PostgreSQL)", "workload", "commits", "per upload", "per GiB")
    for workload in COUNTED:
        before = transactions(database)
        server.run(workload)
        commits = transactions(database) - before
        size = workload.size * workload.uploads
        table.add_row(workload.name, str(commits), f"{commits / workload.uploads:.1f}", f"{commits / (size / GIB):.0f}")
    console.print(table)


def transactions(database: str) -> int:
    """Return the number of transactions that have written so far: each of them takes one id."""

    async def ask() -> int:
        connection = await asyncpg.connect(database)
        try:
            return int(await connection.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))
        finally:
            await connection.close()

    return asyncio.run(ask())


def show_heads(console: Console, servers: dict[str, TusServer], database: str) -> None:
    """Print how long a HEAD takes, alone and beside uploads at full speed, next to a bare SELECT.

    That is what the machine allows: under this load all processes wait for its processors.
    """
    table = _table(f"HEAD, ms ({LOAD.name})", "", "p50 alone", "p99 alone", "p50 loaded", "p99 loaded", "HEADs")
    with _select_of(database) as select:
        for name, server in servers.items():
            for row, ask in ((name, _head_of(server)), ("  a bare SELECT beside the same load", select)):
                alone = timed(ask, lambda turns: turns >= IDLE_HEADS)
                load = _load_on(server)
                loaded = timed(ask, partial(_has_ended, load))
                times = (f"{1000 * value:.1f}" for value in (*_spread(alone), *_spread(loaded)))
                table.add_row(row, *times, str(len(loaded)))
    console.print(table)


def timed(ask: Callable[[], object], enough: Callable[[int], bool]) -> list[float]:
    """Call it again and again until `enough(times so far)`; return the seconds that each call took."""
    seconds = list[float]()
    while not enough(len(seconds)):
        begin = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - begin)
    return seconds


def _load_on(server: TusServer) -> subprocess.Popen[bytes]:
    port, path = server.address
    numbers = [str(LOAD.connections), str(LOAD.size), str(LOAD.uploads)]
    return subprocess.Popen([sys.executable, "-m", "bench.load", port, path, *numbers], stdout=subprocess.PIPE)


def _head_of(server: TusServer) -> Callable[[], None]:
    """Return what asks for the offset of one upload, on one connection."""
    connection, path = _created(server, UPLOAD)

    def head() -> None:
        answer = connection.ask("HEAD", path, "Content-Length: 0", 0)
        assert answer.startswith("HTTP/1.1 200"), answer

    return head


@contextmanager
def _select_of(database: str) -> Iterator[Callable[[], object]]:
    """Give what asks the server for nothing, on one connection."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(database))
        yield lambda: runner.run(connection.fetchval("SELECT 1"))
        runner.run(connection.close())


def _has_ended(load: subprocess.Popen[bytes], _turns: int) -> bool:
    return load.poll() is not None


def show_takeovers(console: Console, replicas: list[TusServer]) -> None:
    """Print how long HEAD and a PATCH of 1 MiB take on the other replica: alone, and while a writer hangs."""
    table = _table(
        "HEAD, then PATCH of 1 MiB on another replica, ms", "", "p50", "p99", "longest", "old writer ended, p99"
    )
    for name, hangs in (("nobody writes", False), ("a writer's link is dead", True)):
        rows = [takeover(*replicas, hangs=hangs) for _ in range(TAKEOVERS)]
        taken, ended = ([row[column] for row in rows] for column in (0, 1))
        spread = (*_spread(taken), max(taken))
        old = f"{1000 * _spread(ended)[1]:.1f}" if hangs else ""
        table.add_row(name, *(f"{1000 * value:.1f}" for value in spread), old)
    console.print(table)


def takeover(first: TusServer, second: TusServer, *, hangs: bool) -> tuple[float, float]:
    """Return the seconds until the second replica has acknowledged bytes, and until the first has ended its request."""
    connection, path = _created(first, UPLOAD)
    if hangs:
        connection.send_head("PATCH", path, patch_fields(0, UPLOAD) + "\r\nExpect: 100-continue")
        assert connection.socket.recv(65536).startswith(b"HTTP/1.1 100")  # from here on it is the writer
        connection.socket.sendall(BLOCK[:FIRST])
    other = Connection(int(second.address[0]))
    begin = time.perf_counter()
    answer = other.ask("HEAD", path, "Content-Length: 0", 0)
    offset = re.search(r"\r\nupload-offset: *(\d+)", answer, re.IGNORECASE)
    assert offset is not None, answer
    assert other.ask("PATCH", path, patch_fields(int(offset[1]), MIB), MIB).startswith("HTTP/1.1 204")
    taken = time.perf_counter() - begin
    if hangs:
        connection.socket.recv(65536)  # its answer, or the end of the connection
    ended = time.perf_counter() - begin
    for each in (connection, other):
        each.socket.close()
    return taken, ended


def _created(server: TusServer, size: int) -> tuple[Connection, str]:
    port, path = server.address
    connection = Connection(int(port))
    return connection, connection.create(path, size)


def _spread(seconds: list[float]) -> tuple[float, float]:
    return statistics.median(seconds), statistics.quantiles(seconds, n=100, method="inclusive")[98]


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column, heading in enumerate(headings):
        table.add_column(heading, justify="right" if column else "left")
    return table
