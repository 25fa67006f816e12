"""`tusgate serve --workers`: several processes on one port, database and bucket."""

from __future__ import annotations

import hashlib
import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.clients.deployment import BucketObjects, Deployment
from tests.deploy import tus
from tests.deploy.conftest import run_command
from tests.gateway import Gateway, minio_settings
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.s3 import S3Server

pytestmark = pytest.mark.servers


@pytest.fixture
def workers(minio: S3Server, bucket: str, database_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """Two workers, both listening."""
    settings = {**minio_settings(minio, bucket), "TUSGATE_DATABASE_URL": database_url, "TUSGATE_WORKERS": "2"}
    run_command("migrate", settings, tmp_path)
    with Gateway(tmp_path / "gateway", settings) as gateway:
        wait_until(lambda: len(listening(gateway)) == 2, "two listening workers")
        yield Deployment(gateway, BucketObjects(minio, bucket))


def listening(gateway: Gateway) -> set[int]:
    """Return the workers that listen on the port; the supervisor itself must not."""
    supervisor = psutil.Process(gateway.pid)
    assert not supervisor.net_connections()
    return {child.pid for child in supervisor.children() if gateway.port in _listening_ports(child)}


def _listening_ports(process: psutil.Process) -> set[int]:
    try:
        return {c.laddr.port for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    except psutil.NoSuchProcess:
        return set()


def test_an_upload_whose_requests_meet_different_workers_lands_whole(workers: Deployment) -> None:
    data = os.urandom(3 << 20)
    url = tus.create(workers.gateway.endpoint, len(data))
    # One connection for each request: the kernel spreads connections over the workers.
    for offset in range(0, len(data), 256 << 10):
        answer = tus.append(url, offset, data[offset : offset + (256 << 10)])
        assert answer.status == 204
    assert workers.stored_sha256(url) == hashlib.sha256(data).hexdigest()


def test_a_crashed_worker_comes_back_while_the_other_serves(workers: Deployment) -> None:
    before = listening(workers.gateway)
    os.kill(min(before), signal.SIGKILL)
    # A connection that the kernel gives to the dying process's queue is reset; clients come again.
    wait_until(lambda: min(before) not in listening(workers.gateway), "the end of the killed worker")
    url = tus.create(workers.gateway.endpoint, 5)
    assert tus.append(url, 0, b"bytes").status == 204
    wait_until(lambda: len(listening(workers.gateway)) == 2, "a worker in its place")
    assert max(before) in listening(workers.gateway)


def test_sigterm_ends_all_of_them(workers: Deployment) -> None:
    pids = listening(workers.gateway)
    workers.gateway.terminate()
    assert workers.gateway.exit_code() == 0
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
