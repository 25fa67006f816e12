"""The servers that the other tests stand on do what their handles say."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import asyncpg
import psutil
import pytest

from tests.fault.proxy import S3FaultProxy
from tests.servers.process import accepts_connections, dying_with_parent, free_port, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.nginx import Nginx
    from tests.servers.node import Node
    from tests.servers.postgres import Postgres, StopMode
    from tests.servers.s3 import S3Server


BODY = b"tusgate" * 1000


def test_an_object_in_minio_is_read_back_by_its_sha256(minio: S3Server, bucket: str) -> None:
    minio.client().put_object(bucket_name=bucket, object_name="a/b", data=io.BytesIO(BODY), length=len(BODY))

    assert minio.keys(bucket) == ["a/b"]
    assert minio.sha256(bucket, "a/b") == hashlib.sha256(BODY).hexdigest()
    assert not minio.exists(bucket, "a")


def test_minio_keeps_its_objects_and_address_when_it_is_killed_and_started(minio: S3Server, bucket: str) -> None:
    minio.client().put_object(bucket_name=bucket, object_name="key", data=io.BytesIO(BODY), length=len(BODY))
    before = minio.pid

    minio.kill()
    assert not minio.answers()
    minio.start()

    assert minio.pid != before
    assert minio.read(bucket, "key") == BODY


def test_a_server_that_a_test_left_paused_is_healed(minio: S3Server) -> None:
    minio.pause()
    # The signal is delivered when the kernel gets to it.
    wait_until(lambda: psutil.Process(minio.pid).status() == psutil.STATUS_STOPPED, "the pause")

    minio.heal()

    assert minio.answers()


def test_versity_keeps_its_objects_over_a_restart(versity: S3Server, versity_bucket: str) -> None:
    versity.client().put_object(bucket_name=versity_bucket, object_name="key", data=io.BytesIO(BODY), length=len(BODY))

    versity.restart()

    assert versity.sha256(versity_bucket, "key") == hashlib.sha256(BODY).hexdigest()


async def test_a_signed_multipart_upload_passes_the_fault_proxy(minio: S3Server, bucket: str) -> None:
    body = os.urandom(11 << 20)
    async with S3FaultProxy(minio.endpoint) as proxy:
        client = dataclasses.replace(minio, endpoint=proxy.url).client()
        await asyncio.to_thread(client.put_object, bucket, "key", io.BytesIO(body), len(body), part_size=5 << 20)

        kinds = [call.kind for call in proxy.history.of()]
        assert kinds == ["CreateMultipartUpload", *["UploadPart"] * 3, "CompleteMultipartUpload"]
        assert {call.status for call in proxy.history.of()} == {200}
        assert proxy.history.bytes_put == len(body)

    assert await asyncio.to_thread(minio.sha256, bucket, "key") == hashlib.sha256(body).hexdigest()


async def test_every_test_gets_an_empty_database(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        assert await connection.fetchval("SHOW fsync") == "on"
    finally:
        await connection.close()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_postgres_keeps_commits_over_a_restart(postgres: Postgres, database_url: str, mode: StopMode) -> None:
    await asyncio.to_thread(postgres.execute, "CREATE TABLE kept AS SELECT 42 AS answer", database_url)

    await asyncio.to_thread(postgres.restart, mode)

    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT answer FROM kept") == 42
    finally:
        await connection.close()


async def test_postgres_starts_again_after_a_power_cut(postgres: Postgres, database_url: str) -> None:
    await asyncio.to_thread(postgres.execute, "CREATE TABLE kept AS SELECT 42 AS answer", database_url)

    await asyncio.to_thread(postgres.kill)
    assert not await asyncio.to_thread(postgres.answers)
    await asyncio.to_thread(postgres.start)

    await asyncio.to_thread(postgres.execute, "SELECT answer FROM kept", database_url)


async def test_a_paused_postgres_lets_clients_wait(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    try:
        await asyncio.to_thread(postgres.pause)
        with pytest.raises(TimeoutError):
            await connection.execute("SELECT 1", timeout=0.2)
    finally:
        await asyncio.to_thread(postgres.resume)
        connection.terminate()


@pytest.mark.skipif(not dying_with_parent(signal.SIGKILL), reason="needs setpriv of util-linux")
def test_no_server_outlives_a_killed_test_run(tmp_path: Path) -> None:
    port = free_port()
    program = (
        "import sys, time, pathlib\n"
        "from tests.servers.process import ServerProcess, accepts_connections\n"
        f"command = [sys.executable, '-m', 'http.server', '--bind', '127.0.0.1', '{port}']\n"
        f"log = pathlib.Path({str(tmp_path)!r}) / 'log'\n"
        f"server = ServerProcess('http', command, lambda: accepts_connections({port}), log)\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=os.getcwd())
    assert run.stdout is not None
    assert run.stdout.readline().strip().isdigit()
    assert accepts_connections(port)

    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()

    wait_until(lambda: not accepts_connections(port), "the server of the killed run is gone")


def test_nginx_serves_the_configuration_of_a_test(nginx: Nginx, tmp_path: Path) -> None:
    port = free_port()
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        f"pid nginx.pid; events {{}} http {{ access_log off; "
        f"server {{ listen 127.0.0.1:{port}; location / {{ return 204; }} }} }}"
    )

    assert nginx.complaints(configuration) == ""
    with nginx.serving(configuration, port):
        assert accepts_connections(port)
    assert not accepts_connections(port)


def test_nginx_names_what_it_dislikes(nginx: Nginx, tmp_path: Path) -> None:
    configuration = tmp_path / "nginx.conf"
    configuration.write_text("events {} http { no_such_directive; }")

    assert "no_such_directive" in nginx.complaints(configuration)


@pytest.mark.clients
def test_node_finds_tus_js_client(node: Node) -> None:
    script = "process.stdout.write(typeof require('tus-js-client').Upload)"
    result = subprocess.run([node.program, "-e", script], cwd=node.clients, capture_output=True, text=True, check=True)
    assert result.stdout == "function"


@pytest.mark.clients
def test_chromium_runs_without_a_screen(chromium: Path) -> None:
    answer = subprocess.run([chromium, "--version"], capture_output=True, text=True, check=True)
    assert "Chrom" in answer.stdout
