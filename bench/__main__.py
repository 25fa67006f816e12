"""`make bench`: throughput, CPU and memory of tusgate beside direct uploads and another tus server, from one run.

Absolute numbers are those of this machine, which client, server, store and database share: read the ratios.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.concatenation import show_concatenation
from bench.contenders import Contender, Direct, Result, TusServer, Workload, check_and_empty, node_peer, tusgate
from bench.direct_door import show_direct
from bench.download import GIB, SMALL_DOWNLOADS, show_downloads, show_small
from bench.events import show_events
from bench.hooks import show_hooks
from bench.identity import show_identity
from bench.memory import show_memory
from bench.safety import show_safety
from bench.sinks import show_sinks
from tests.servers import acquire, minio, postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.s3 import S3Server

MIB = 1 << 20
WORKLOADS = [
    Workload("1 x 512 MiB", 1, 512 * MIB, 1),
    Workload("4 x 128 MiB", 4, 128 * MIB, 4),
    Workload("64 x 8.5 MiB", 32, 17 * MIB // 2, 64),
    Workload("2,000 x 64 KiB", 32, 64 * 1024, 2000),
]
SMOKE = [Workload("1 x 9 MiB", 1, 9 * MIB, 1), Workload("8 x 64 KiB", 4, 64 * 1024, 8)]

console = Console(width=130)


class Topic(StrEnum):
    """What can be measured."""

    UPLOADS = "uploads"
    MEMORY = "memory"
    SAFETY = "safety"
    DOWNLOADS = "downloads"
    IDENTITY = "identity"
    EVENTS = "events"
    HOOKS = "hooks"
    CONCATENATION = "concatenation"
    DIRECT = "direct"
    SINKS = "sinks"


TOPIC = """uploads: throughput and CPU beside direct uploads and another tus server. memory: of 4 GiB, and of stalled
connections. safety: commits, HEAD under load, takeover. downloads: 1 GiB, slow readers, small ones. identity: PATCH and
HEAD with each kind of credential. events, hooks: what they cost small uploads. concatenation: 1 GiB as parallel pieces.
direct: 1 GiB in parts by signed URLs. sinks: how fast and how soon each kind of sink is told."""


def bench(
    topic: Annotated[Topic, typer.Argument(help=TOPIC)] = Topic.UPLOADS,
    peer: Annotated[
        str | None, typer.Option(help="URL of another tus server's creation endpoint to compare with")
    ] = None,
    no_peer: Annotated[bool, typer.Option("--no-peer", help="leave the Node tus server out")] = False,
    rounds: Annotated[int, typer.Option(help="times that every pair is run, interleaved; medians are shown")] = 3,
    smoke: Annotated[bool, typer.Option("--smoke", help="tiny sizes, one round: does it run at all")] = False,
) -> None:
    """Measure."""
    rounds = 1 if smoke else rounds
    if topic is Topic.UPLOADS:
        _compare(SMOKE if smoke else WORKLOADS, peer, rounds, no_peer=no_peer, content=smoke)
        return
    if topic is Topic.IDENTITY:
        with tempfile.TemporaryDirectory(prefix="tusgate-bench-") as directory:
            show_identity(console, Path(directory), blocks=1 if smoke else 20)
        return
    if topic is Topic.SINKS:
        with tempfile.TemporaryDirectory(prefix="tusgate-bench-") as directory:
            show_sinks(console, Path(directory), waiting=200 if smoke else 5000, seconds=1.0 if smoke else 10.0)
        return
    with _store() as (home, store):
        _show_on(store, home, topic, rounds, smoke=smoke)


def _show_on(store: S3Server, home: Path, topic: Topic, rounds: int, *, smoke: bool) -> None:
    match topic:
        case Topic.MEMORY:
            show_memory(console, home, store)
        case Topic.SAFETY:
            show_safety(console, home, store)
        case Topic.DOWNLOADS:
            size, seconds = (9 * MIB, 2.0) if smoke else (GIB, 30.0)
            show_downloads(console, home, store, size=size, rounds=rounds, seconds=seconds)
            show_small(console, home, rounds=rounds, downloads=320 if smoke else SMALL_DOWNLOADS)
        case Topic.EVENTS:
            show_events(console, home, store, rounds)
        case Topic.HOOKS:
            show_hooks(console, home, store, uploads=20 if smoke else 1000, rounds=rounds)
        case Topic.CONCATENATION:
            show_concatenation(console, home, store, size=33 * MIB if smoke else GIB, rounds=rounds)
        case _:
            assert topic is Topic.DIRECT
            size, answers = (17 * MIB, 2) if smoke else (GIB, 100)
            show_direct(console, home, store, size=size, rounds=rounds, answers=answers)


def _compare(workloads: list[Workload], peer: str | None, rounds: int, *, no_peer: bool, content: bool) -> None:
    for workload in workloads:
        # Fresh servers each time: peaks of memory belong to one workload, and what was stored goes away before the
        # next one (MinIO keeps deleted objects for minutes, here in memory).
        with _store() as (home, store), ExitStack() as stack:
            contenders = _contenders(stack, home, store, peer, no_peer=no_peer)
            show(workload, measure(store, contenders, workload, rounds, content=content))


@contextmanager
def _store() -> Iterator[tuple[Path, S3Server]]:
    with tempfile.TemporaryDirectory(prefix="tusgate-bench-") as home, minio.running() as store:
        yield Path(home), store


def _contenders(stack: ExitStack, home: Path, store: S3Server, peer: str | None, *, no_peer: bool) -> list[Contender]:
    database = stack.enter_context(postgres.running()).new_database()
    found: list[Contender] = [
        Direct(store, store.make_bucket("direct")),
        stack.enter_context(tusgate("tusgate, SQLite", home / "sqlite", store, store.make_bucket("sqlite"), {})),
        stack.enter_context(
            tusgate(
                "tusgate, PostgreSQL",
                home / "postgres",
                store,
                store.make_bucket("postgres"),
                {"TUSGATE_DATABASE_URL": database},
            )
        ),
    ]
    if peer is not None:
        found.append(TusServer(peer, peer))
    elif not no_peer:
        try:
            found.append(stack.enter_context(node_peer(home / "peer", store, store.make_bucket("peer"))))
        except acquire.MissingError as missing:
            console.print(f"without the Node peer: {missing}")
    return found


def measure(
    store: S3Server, contenders: list[Contender], workload: Workload, rounds: int, *, content: bool
) -> dict[str, list[Result]]:
    """Run all contenders in turn, `rounds` times, so that what else the machine does hits them alike."""
    results: dict[str, list[Result]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            results[contender.name].append(contender.run(workload))
            if contender.bucket is not None:
                check_and_empty(store, contender.bucket, workload, content=content)
    return results


def show(workload: Workload, results: dict[str, list[Result]]) -> None:
    """Print one table: medians, and how they compare with the floor and with the other server."""
    table = Table(title=f"{workload.name}, {workload.connections} connections", title_justify="left")
    for heading in ("", "MB/s", "uploads/s", "of direct", "of peer", "server CPU-s/GiB", "peak RSS MiB"):
        table.add_column(heading, justify="left" if not heading else "right")
    total = workload.size * workload.uploads
    medians = {name: statistics.median(row.seconds for row in rows) for name, rows in results.items()}
    peer = next((median for name, median in medians.items() if name != "direct" and "tusgate" not in name), None)
    for name, rows in results.items():
        seconds = medians[name]
        cpus = [row.cpu for row in rows if row.cpu is not None]
        rss = [row.rss for row in rows if row.rss is not None]
        table.add_row(
            name,
            f"{total / seconds / 1e6:.0f}",
            f"{workload.uploads / seconds:.1f}",
            f"{medians['direct'] / seconds:.2f}",
            f"{peer / seconds:.2f}" if peer is not None else "",
            f"{statistics.median(cpus) / (total / 2**30):.2f}" if cpus else "",
            f"{max(rss) / MIB:.0f}" if rss else "",
        )
    console.print(table)


if __name__ == "__main__":
    typer.run(bench)
