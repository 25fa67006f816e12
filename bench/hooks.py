"""What before-hooks cost small uploads: none, a plug-in, and a hook server of tusd's kind on this machine.

The hook server runs beside the client, so on few cores its own work is part of what is measured.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from rich.table import Table

from bench.aside import in_a_thread
from bench.contenders import Workload, check_and_empty, tusgate
from tests.hook_server import HookServer, hook_server

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from bench.contenders import TusServer
    from tests.servers.s3 import S3Server

KIB = 1024
CONNECTIONS = 32
MOMENTS: dict[str, tuple[str, list[str]] | None] = {
    "no hook": None,
    "plug-in: create": ("plugin", ["create"]),
    "HTTP: create": ("http", ["create"]),
    "HTTP: finish": ("http", ["finish"]),
    "HTTP: create, finish": ("http", ["create", "finish"]),
}
PLUGIN = """
from tusgate.core.hooks import Answer


class Agreeable:
    def __init__(self, name, options):
        self.name = name

    async def ask(self, question):
        return Answer()

    async def close(self):
        pass
"""


def show_hooks(console: Console, home: Path, store: S3Server, *, uploads: int, rounds: int) -> None:
    """Measure and print, on SQLite: what a hook costs is the same on either database."""
    workload = Workload(f"{uploads:,} x 64 KiB", CONNECTIONS, 64 * KIB, uploads)
    site = _installed_plugin(home)
    with ExitStack() as stack:
        asked = stack.enter_context(in_a_thread(hook_server()))
        servers: dict[str, TusServer] = {}
        for number, (name, hook) in enumerate(MOMENTS.items()):
            settings = _settings(asked, site, hook)
            bucket = store.make_bucket(f"hooks-{number}")
            servers[name] = stack.enter_context(tusgate(name, home / str(number), store, bucket, settings))
        _measure(console, store, servers, workload, rounds)
        assert len(asked.asked) == 4 * uploads * (rounds + 1), "each hook was asked about each upload once"


def _measure(console: Console, store: S3Server, servers: dict[str, TusServer], workload: Workload, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in servers}
    cpu: dict[str, list[float]] = {name: [] for name in servers}
    for turn in range(rounds + 1):
        for name, server in servers.items():
            result = server.run(workload)
            assert server.bucket is not None
            check_and_empty(store, server.bucket, workload, content=False)
            if turn:  # the first one warms up
                seconds[name].append(result.seconds)
                cpu[name].append(result.cpu or 0.0)
    table = Table(title=f"before-hooks: {workload.name}, {CONNECTIONS} connections", title_justify="left")
    for heading in ("", "uploads/s", "of no hook", "CPU ms/upload"):
        table.add_column(heading, justify="left" if not heading else "right")
    floor = statistics.median(seconds["no hook"])
    for name, runs in seconds.items():
        middle = statistics.median(runs)
        table.add_row(
            name,
            f"{workload.uploads / middle:.0f}",
            f"{floor / middle:.2f}",
            f"{statistics.median(cpu[name]) / workload.uploads * 1000:.2f}",
        )
    console.print(table)


def _installed_plugin(home: Path) -> Path:
    site = home / "site"
    info = site / "agreeable-1.dist-info"
    info.mkdir(parents=True)
    (site / "agreeable.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: agreeable\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[tusgate.hooks]\nagreeable = agreeable:Agreeable\n")
    return site


def _settings(asked: HookServer, site: Path, hook: tuple[str, list[str]] | None) -> dict[str, str]:
    if hook is None:
        return {}
    kind, moments = hook
    url = asked.receiver.url
    own = {"plugin": "agreeable"} if kind == "plugin" else {"url": url}
    declared = {"name": "measured", "type": kind, "moments": moments, **own}
    places = [place for place in sys.path if place]
    return {
        "TUSGATE_HOOKS": json.dumps([declared]),
        "TUSGATE_SINK_ALLOW": f"127.0.0.1:{asked.receiver.port}",
        "PYTHONPATH": os.pathsep.join([str(site), *places]),
    }
