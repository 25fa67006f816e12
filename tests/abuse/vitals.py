"""What tells from outside whether a gateway suffers: memory, connections, and what it complains about."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from tests.gateway import Gateway


def memory_of(gateway: Gateway) -> int:
    """Return the resident bytes of the process."""
    return int(psutil.Process(gateway.pid).memory_info().rss)


def most_memory_of(gateway: Gateway) -> int:
    """Return the resident bytes that the process ever had at once."""
    with open(f"/proc/{gateway.pid}/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def processor_seconds_of(gateway: Gateway) -> float:
    """Return the processor time that the process has used since its start."""
    times = psutil.Process(gateway.pid).cpu_times()
    return float(times.user + times.system)


def open_files_of(gateway: Gateway) -> int:
    """Return how many files and sockets the process has open."""
    return int(psutil.Process(gateway.pid).num_fds())


def client_connections(gateway: Gateway) -> int:
    """Return how many connections of clients the process holds, half-closed ones too."""
    sockets = psutil.Process(gateway.pid).net_connections("tcp")
    return sum(each.laddr.port == gateway.port and each.status != psutil.CONN_LISTEN for each in sockets)


def complaints(log: str) -> list[str]:
    """Return the lines of a log that no client should be able to cause: errors, and all that is not an event."""
    return [line for line in log.splitlines() if _level(line) not in ("debug", "info", "warning")]


def _level(line: str) -> str | None:
    try:
        level = json.loads(line)["level"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(level)
