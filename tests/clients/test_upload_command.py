"""`tusgate upload`: whole files, many at once, cut, interrupted, continued; and what it shows on a terminal."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.clients.deployment import Deployment, DirectoryObjects
from tests.clients.payload import BOUNDARY_SIZES, MIB, PART
from tests.clients.upload_command import TIMEOUT, Command
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.payload import Payload
    from tests.fault.tcp import TcpFaultProxy
    from tests.gateway import Gateway

pytestmark = pytest.mark.clients


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.mark.parametrize("size", BOUNDARY_SIZES)
def test_a_file_becomes_the_object_and_its_url_is_printed(
    deployment: Deployment, payload: Callable[[int], Payload], command: Command, size: int
) -> None:
    (url,) = command.run(deployment.gateway.endpoint, str(payload(size).path))
    assert deployment.stored_sha256(url) == payload(size).sha256


@pytest.mark.parametrize("chunk", ["500KiB", "8MiB", "20MB"])
def test_chunks_of_any_size_make_the_same_object(
    deployment: Deployment, payload: Callable[[int], Payload], command: Command, chunk: str
) -> None:
    file = payload(3 * PART + 7)
    (url,) = command.run(deployment.gateway.endpoint, "--chunk-size", chunk, str(file.path))
    assert deployment.stored_sha256(url) == file.sha256


def test_several_files_go_in_parallel_and_each_once(
    deployment: Deployment, payload: Callable[[int], Payload], command: Command
) -> None:
    files = [payload(size) for size in (*BOUNDARY_SIZES, 5 * MIB, 6 * MIB)]
    paths = [str(file.path) for file in files]
    urls = command.run(deployment.gateway.endpoint, "--parallel", "4", *paths, paths[0])
    assert sorted(map(deployment.stored_sha256, urls)) == sorted(file.sha256 for file in files)


def test_a_pipe_becomes_the_object(deployment: Deployment, payload: Callable[[int], Payload], command: Command) -> None:
    file = payload(3 * PART + 7)
    (url,) = command.run(deployment.gateway.endpoint, "-", data=file.bytes())
    assert deployment.stored_sha256(url) == file.sha256


def test_one_bad_file_does_not_stop_the_others(
    deployment: Deployment, payload: Callable[[int], Payload], command: Command
) -> None:
    process = command.start(deployment.gateway.endpoint, "missing", str(payload(PART).path))
    output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert "missing: No such file or directory" in errors
    assert deployment.stored_sha256(output.strip()) == payload(PART).sha256


async def test_cut_connections_are_continued_without_a_word_from_the_user(
    deployment: Deployment, line: TcpFaultProxy, payload: Callable[[int], Payload], command: Command
) -> None:
    file = payload(3 * PART + 7)
    for after in (PART + 1000, 3 * MIB, 1):
        line.cut("up", after)
    endpoint = deployment.gateway.endpoint.replace(str(deployment.gateway.port), str(line.port))
    (url,) = await asyncio.to_thread(command.run, endpoint, str(file.path))
    assert deployment.stored_sha256(url) == file.sha256


async def test_the_same_command_goes_on_after_ctrl_c(
    deployment: Deployment, line: TcpFaultProxy, payload: Callable[[int], Payload], command: Command
) -> None:
    file = payload(3 * PART + 7)
    endpoint = deployment.gateway.endpoint.replace(str(deployment.gateway.port), str(line.port))
    line.bandwidth = 8 * MIB
    process = command.start(endpoint, str(file.path))
    await asyncio.to_thread(wait_until, lambda: line.passed["up"] > PART + MIB, "more than a part")
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.to_thread(process.communicate, timeout=TIMEOUT)
    assert process.returncode == 130
    assert "the same command goes on where it stopped" in errors
    assert "Traceback" not in errors

    line.bandwidth = None
    (url,) = await asyncio.to_thread(command.run, endpoint, str(file.path))
    assert deployment.stored_sha256(url) == file.sha256
    assert line.passed["up"] < file.size + PART + 2 * MIB


def test_a_file_changed_since_the_interruption_is_uploaded_from_its_start(
    deployment: Deployment, command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "notes.bin"
    path.write_bytes(os.urandom(MIB))
    (first,) = command.run(deployment.gateway.endpoint, str(path))
    path.write_bytes(os.urandom(MIB))
    (second,) = command.run(deployment.gateway.endpoint, str(path))
    assert first != second
    assert deployment.stored_sha256(second) == hashlib.sha256(path.read_bytes()).hexdigest()


async def test_a_killed_gateway_that_comes_back_gets_the_rest(
    start_gateway: Callable[..., Gateway], payload: Callable[[int], Payload], command: Command
) -> None:
    file = payload(3 * PART + 7)
    gateway = await asyncio.to_thread(start_gateway)
    process = command.start(gateway.endpoint, "--chunk-size", "1MiB", str(file.path))
    objects = gateway.home / "data" / "objects"
    await asyncio.to_thread(wait_until, lambda: any(map(Path.is_file, objects.rglob("*"))), "the first bytes")
    await asyncio.to_thread(gateway.crash_and_start)
    output, errors = await asyncio.to_thread(process.communicate, timeout=TIMEOUT)
    assert process.returncode == 0, errors
    assert Deployment(gateway, DirectoryObjects(objects)).stored_sha256(output.strip()) == file.sha256


def test_a_terminal_shows_name_and_progress(
    deployment: Deployment, payload: Callable[[int], Payload], command: Command
) -> None:
    file = payload(3 * PART + 7)
    shown = command.show(deployment.gateway.endpoint, str(file.path))
    assert file.path.name in shown
    assert "100%" in shown
    assert "24.0/24.0 MiB" in shown
