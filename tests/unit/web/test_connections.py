from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from aiohttp import web

from tusgate.web.connections import ALL_READS, BODY_READ, HEAD_READ, MOST_CONNECTIONS, RESERVED_FILES, Reader, Room

with_prlimit = pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")

COUNTING = "import resource; from tusgate.web.connections import connections_allowed as allowed; "


def with_files(soft: int, hard: int, *command: str) -> subprocess.CompletedProcess[str]:
    limited = ["prlimit", f"--nofile={soft}:{hard}", sys.executable, *command]
    return subprocess.run(limited, capture_output=True, text=True, check=False, timeout=60)


@with_prlimit
@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "allowed", "files"),
    [
        (256, 256, None, 128, 256),
        (1024, 1024, None, 1024 - RESERVED_FILES, 1024),
        (256, 1024, None, 1024 - RESERVED_FILES, 1024),
        (256, 20_000, None, MOST_CONNECTIONS, MOST_CONNECTIONS + RESERVED_FILES),
        (15_000, 20_000, None, MOST_CONNECTIONS, 15_000),
        (256, 20_000, 100, 100, 100 + RESERVED_FILES),
        (1024, 1024, 600, 600, 1024),
        (256, 20_000, 15_000, 15_000, 15_000 + RESERVED_FILES),
    ],
)
def test_clients_get_their_share_of_the_files_and_the_limit_is_raised_as_far_as_needed(
    soft, hard, wanted, allowed, files
):
    ran = with_files(
        soft, hard, "-c", f"{COUNTING}print(allowed({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    assert ran.stdout.split() == [str(allowed), str(files)], ran.stderr


@with_prlimit
def test_more_connections_than_files_stop_the_start(tmp_path):
    command = ["-m", "tusgate", "serve", "--max-connections", "1000", "--data-dir", str(tmp_path), "--port", "0"]
    ran = with_files(1024, 1024, *command)
    assert ran.returncode == 2
    assert "TUSGATE_MAX_CONNECTIONS: expected at most 512, because 1024 files may be open (ulimit -n)" in ran.stderr


async def test_little_is_read_of_who_is_not_asked_and_of_all_together_no_more_than_fits():
    """I15: what is read is in memory before it is paid for."""

    async def nothing(_request):
        return web.Response()

    make = Room(1_000, 30.0, {}).protocols_for(web.Server(nothing))
    protocols = [protocol for protocol in (make() for _ in range(1_000)) if isinstance(protocol, Reader)]
    connections = [protocol.connection for protocol in protocols]

    def read_at_once():
        return [len(protocol.get_buffer(-1)) for protocol in protocols]

    assert {*read_at_once()} == {HEAD_READ}
    connections[0].want_body(BODY_READ)
    assert read_at_once()[:2] == [BODY_READ, HEAD_READ]
    connections[0].want_body(2 * HEAD_READ)
    assert read_at_once()[0] == 2 * HEAD_READ
    for connection in connections[:256]:
        connection.want_body(BODY_READ)
    assert sum(read_at_once()[:256]) == ALL_READS
    for connection in connections:
        connection.want_body(0)
    connections[0].want_body(BODY_READ)
    assert read_at_once()[0] == BODY_READ
