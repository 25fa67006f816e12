"""Memory of one gateway: flat over one endless request, and over clients that stop in the middle."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from bench.contenders import peak_rss, tusgate
from bench.load import BLOCK, Connection, patch_fields

if TYPE_CHECKING:
    import socket

    from rich.console import Console

    from bench.contenders import TusServer
    from tests.servers.s3 import S3Server

MIB = 1 << 20
GIB = 1 << 30
BUDGET = 128 * MIB
STALLED = 500
STALLED_SENT = 100 * 1024


def show_memory(console: Console, home: Path, store: S3Server) -> None:
    """Measure and print; the budget is 128 MiB."""
    table = Table(title=f"resident memory of one gateway, budget {BUDGET // MIB} MiB", title_justify="left")
    for heading in ("what", "at first MiB", "at the end MiB", "peak MiB"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for name, measure in (
        ("one PATCH of 4 GiB: after 1 GiB, after 4", one_endless_request),
        (f"{STALLED} stalled connections: 10 s, 25 s", stalled_connections),
        ("64 connections at full speed, 64 x 64 MiB", many_at_full_speed),
    ):
        settings = {"TUSGATE_BUDGET": str(BUDGET)}
        bucket = store.make_bucket("memory")
        with tusgate(name, home / name.split(",", maxsplit=1)[0].replace(" ", "-"), store, bucket, settings) as server:
            first, last = measure(server)
            table.add_row(name, f"{first / MIB:.0f}", f"{last / MIB:.0f}", f"{peak_rss(server.pid) / MIB:.0f}")
        store.remove_bucket(bucket)
    console.print(table)


def one_endless_request(server: TusServer) -> tuple[int, int]:
    """Return the resident memory after the first and after the last GiB of one request."""
    connection, first = _patching(server, 4 * GIB), 0
    with connection:
        for sent in range(0, 4 * GIB, len(BLOCK)):
            connection.sendall(BLOCK)
            if sent == GIB:
                first = resident(server.pid)
        assert connection.recv(65536).startswith(b"HTTP/1.1 204")
    return first, resident(server.pid)


def stalled_connections(server: TusServer) -> tuple[int, int]:
    """Return the resident memory with 500 requests that sent 100 KiB and stopped, twice."""
    connections = []
    for _ in range(STALLED):
        connections.append(_patching(server, 64 * MIB))
        connections[-1].sendall(bytes(STALLED_SENT))
    time.sleep(10)
    first = resident(server.pid)
    time.sleep(15)
    last = resident(server.pid)
    for connection in connections:
        connection.close()
    return first, last


def many_at_full_speed(server: TusServer) -> tuple[int, int]:
    """Return the resident memory before and after 64 connections have sent 64 MiB each, all at once."""
    before = resident(server.pid)
    port, path = server.address
    command = [sys.executable, "-m", "bench.load", port, path, "64", str(64 * MIB), "64"]
    subprocess.run(command, check=True, capture_output=True)
    return before, resident(server.pid)


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


def _patching(server: TusServer, size: int) -> socket.socket:
    """Create an upload and begin a PATCH of all its bytes; return the connection that they go into."""
    port, path = server.address
    connection = Connection(int(port))
    connection.send_head("PATCH", connection.create(path, size), patch_fields(0, size))
    return connection.socket
