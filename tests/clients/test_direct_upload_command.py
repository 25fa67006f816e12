"""`tusgate upload --direct`: parts go to MinIO itself, over a network that fails, and from a process that is killed."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.clients.deployment import BucketObjects
from tests.clients.payload import BOUNDARY_SIZES, MIB, PART
from tests.clients.upload_command import TIMEOUT, Command
from tests.fault.proxy import Drop, DropAnswer, Gate, Reply, S3FaultProxy, s3_error
from tests.gateway import TUSGATE, minio_settings
from tests.servers.process import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.clients.payload import Payload
    from tests.fault.proxy import Fault
    from tests.gateway import Gateway
    from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.clients, pytest.mark.servers, pytest.mark.slow]

SIZE = 5 * PART + 7
PARTS = 6


@dataclass(frozen=True)
class Direct:
    """A gateway, and the way from its clients to the store."""

    gateway: Gateway
    store: S3FaultProxy
    objects: BucketObjects

    @property
    def endpoint(self) -> str:
        return f"{self.gateway.url}/api/v1/uploads"

    @property
    def parts_sent(self) -> int:
        return self.store.history.count("UploadPart")

    @property
    def parts_there(self) -> int:
        return sum(call.status == 200 for call in self.store.history.of("UploadPart"))

    def check(self, url: str, file: Payload) -> None:
        """Hold the object of a finished upload against its file."""
        assert self.objects.sha256(url.rpartition("/")[2]) == file.sha256


@pytest.fixture
async def direct(start_gateway: Callable[..., Gateway], minio: S3Server, bucket: str) -> AsyncIterator[Direct]:
    async with S3FaultProxy(minio.endpoint) as store:
        own = {"TUSGATE_DIRECT": "on", "TUSGATE_S3_PUBLIC_ENDPOINT": store.url}
        gateway = await asyncio.to_thread(start_gateway, minio_settings(minio, bucket) | own)
        yield Direct(gateway, store, BucketObjects(minio, bucket))


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


async def run(direct: Direct, command: Command, *arguments: str) -> list[str]:
    return await asyncio.to_thread(command.run, direct.endpoint, "--direct", *arguments)


async def test_files_become_objects_and_the_gateway_sees_none_of_their_bytes(
    direct: Direct, payload: Callable[[int], Payload], command: Command
) -> None:
    files = [payload(size) for size in BOUNDARY_SIZES]
    urls = await run(direct, command, *(str(file.path) for file in files))
    digests = [direct.objects.sha256(url.rpartition("/")[2]) for url in urls]
    assert sorted(digests) == sorted(file.sha256 for file in files)
    assert direct.store.history.bytes_put == sum(file.size for file in files)
    async with aiohttp.ClientSession() as http, http.get(urls[0]) as answer:
        shown = await answer.json()
    assert (shown["created_via"], shown["filename"].endswith("-bytes.bin")) == ("direct", True)


async def test_a_part_has_the_size_that_is_wished_for(
    direct: Direct, payload: Callable[[int], Payload], command: Command
) -> None:
    file = payload(SIZE)
    (url,) = await run(direct, command, "--chunk-size", "16MiB", str(file.path))
    direct.check(url, file)
    assert sorted(call.received for call in direct.store.history.of("UploadPart")) == [8 * MIB + 7, 16 * MIB, 16 * MIB]


async def test_of_a_changed_file_only_the_changed_part_is_sent(
    direct: Direct, payload: Callable[[int], Payload], command: Command, tmp_path: Path
) -> None:
    """Also when it has grown: parts begin where they began before."""
    file = own_copy(payload(SIZE), tmp_path)
    await run(direct, command, "--sync", str(file))
    assert direct.parts_sent == PARTS
    direct.store.history.clear()
    with file.open("r+b") as opened:
        opened.seek(2 * PART + 5)
        opened.write(b"changed")
        opened.seek(0, os.SEEK_END)
        opened.write(b"and longer")
    (url,) = await run(direct, command, "--sync", str(file))
    assert sorted(call.received for call in direct.store.history.of("UploadPart")) == [7 + len("and longer"), PART]
    assert direct.objects.sha256(url.rpartition("/")[2]) == hashlib.sha256(file.read_bytes()).hexdigest()
    direct.store.history.clear()
    await run(direct, command, "--sync", str(file))
    assert direct.parts_sent == 0


async def test_a_file_that_changes_while_its_upload_is_interrupted_keeps_the_parts_that_stay(
    direct: Direct, payload: Callable[[int], Payload], command: Command, tmp_path: Path
) -> None:
    file = own_copy(payload(SIZE), tmp_path)
    gate = Gate()
    direct.store.on("UploadPart", gate, part=3, times=1)
    process = command.start(direct.endpoint, "--direct", "--sync", str(file))
    await asyncio.to_thread(wait_until, lambda: direct.parts_there == PARTS - 1, "all parts but one")
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.communicate, timeout=TIMEOUT)
    gate.open()
    with file.open("r+b") as opened:
        opened.write(b"changed")
    direct.store.history.clear()
    (url,) = await run(direct, command, "--sync", str(file))
    sent = {call.part for call in direct.store.history.of("UploadPart")}
    assert {1} <= sent <= {1, 3}  # the store may have got the third one after all
    assert direct.objects.sha256(url.rpartition("/")[2]) == hashlib.sha256(file.read_bytes()).hexdigest()


def own_copy(payload: Payload, directory: Path) -> Path:
    """Return a copy that a test may change: payloads are for all tests."""
    return Path(shutil.copy(payload.path, directory / "changing.bin"))


@pytest.mark.parametrize(
    "fault",
    [
        s3_error(403, "AccessDenied", "Request has expired"),
        s3_error(503, "SlowDown"),
        Reply(500),
        Drop(),
        Drop(after=PART // 2),
        DropAnswer(),
    ],
    ids=["an expired URL", "a busy store", "a broken one", "no connection", "cut in the middle", "a lost answer"],
)
async def test_parts_that_fail_are_sent_again_by_fresh_urls(
    direct: Direct, payload: Callable[[int], Payload], command: Command, fault: Fault
) -> None:
    file = payload(SIZE)
    rules = [direct.store.on("UploadPart", fault, part=part, times=1) for part in (2, 6)]
    (url,) = await run(direct, command, str(file.path))
    assert [rule.fired for rule in rules] == [1, 1]
    direct.check(url, file)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
async def test_the_same_command_sends_only_what_is_missing(
    direct: Direct, payload: Callable[[int], Payload], command: Command, how: signal.Signals
) -> None:
    file = payload(SIZE)
    gate = Gate()
    direct.store.on("UploadPart", gate, part=3, times=1)
    process = command.start(direct.endpoint, "--direct", str(file.path))
    await asyncio.to_thread(wait_until, lambda: direct.parts_there == PARTS - 1, "all parts but one")
    process.send_signal(how)
    _, errors = await asyncio.to_thread(process.communicate, timeout=TIMEOUT)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on where it stopped" in errors
    assert "Traceback" not in errors
    gate.open()
    (url,) = await run(direct, command, str(file.path))
    direct.check(url, file)
    assert direct.parts_sent == PARTS + 1


async def test_a_killed_gateway_that_comes_back_makes_the_file(
    direct: Direct, payload: Callable[[int], Payload], command: Command
) -> None:
    file = payload(SIZE)
    gate = Gate()
    direct.store.on("UploadPart", gate, part=3, times=1)
    process = command.start(direct.endpoint, "--direct", str(file.path))
    await asyncio.wait_for(gate.reached.wait(), TIMEOUT)
    await asyncio.to_thread(direct.gateway.kill)
    gate.open()
    await asyncio.to_thread(wait_until, lambda: direct.parts_there == PARTS, "all parts")
    await asyncio.to_thread(direct.gateway.start)
    output, errors = await asyncio.to_thread(process.communicate, timeout=TIMEOUT)
    assert process.returncode == 0, errors
    direct.check(output.strip(), file)


async def test_a_store_that_refuses_for_good_is_told_and_the_upload_can_go_on_later(
    direct: Direct, payload: Callable[[int], Payload], command: Command
) -> None:
    file = payload(SIZE)
    refused = direct.store.on("UploadPart", s3_error(403, "SignatureDoesNotMatch"), part=1)
    process = command.start(direct.endpoint, "--direct", "--retries", "1", str(file.path))
    _, errors = await asyncio.to_thread(process.communicate, timeout=TIMEOUT)
    assert process.returncode == 1
    assert "the store refused part 1: 403" in errors
    assert refused.fired >= 2
    direct.store.clear_rules()
    sent, there = direct.parts_sent, direct.parts_there
    (url,) = await run(direct, command, str(file.path))
    direct.check(url, file)
    assert direct.parts_sent - sent == PARTS - there


async def test_a_file_that_is_another_one_by_now_is_begun_anew(
    direct: Direct, command: Command, tmp_path: Path, payload: Callable[[int], Payload]
) -> None:
    """I3: parts of two files never become one object."""
    path = tmp_path / "changing.bin"
    path.write_bytes(payload(SIZE).bytes())
    gate = Gate()
    direct.store.on("UploadPart", gate, part=3, times=1)
    process = command.start(direct.endpoint, "--direct", str(path))
    await asyncio.wait_for(gate.reached.wait(), TIMEOUT)
    other = payload(3 * PART + 7)
    path.write_bytes(other.bytes())
    gate.open()
    _, errors = await asyncio.to_thread(process.communicate, timeout=TIMEOUT)
    assert process.returncode == 1
    assert "the file changed while it was being uploaded" in errors
    (url,) = await run(direct, command, str(path))
    direct.check(url, other)


async def test_credentials_go_to_the_gateway_and_never_to_the_store(
    direct: Direct, start_gateway: Callable[..., Gateway], payload: Callable[[int], Payload], command: Command
) -> None:
    """I19."""
    settings = {name: value for name, value in direct.gateway.environment.items() if name.startswith("TUSGATE_")}
    for own in ("TUSGATE_HOST", "TUSGATE_PORT", "TUSGATE_DATA_DIR"):
        del settings[own]
    guarded = await asyncio.to_thread(start_gateway, settings | {"TUSGATE_AUTH": "token"})
    made = await asyncio.to_thread(
        subprocess.run,
        [*TUSGATE, "token", "create", "--owner", "alice"],
        env=guarded.environment,
        cwd=guarded.home,
        capture_output=True,
        text=True,
        check=True,
    )
    endpoint, file = f"{guarded.url}/api/v1/uploads", payload(SIZE)
    refused = command.start(endpoint, "--direct", str(file.path))
    assert "401" in (await asyncio.to_thread(refused.communicate, timeout=TIMEOUT))[1]
    token = made.stdout.split()[-1]
    arguments = ("--direct", "--header", f"Authorization=Bearer {token}", str(file.path))
    (url,) = await asyncio.to_thread(command.run, endpoint, *arguments)
    direct.check(url, file)
    sent = direct.store.history.of("UploadPart")
    assert len(sent) == PARTS
    assert all("authorization" not in call.fields for call in sent)


def test_a_pipe_has_to_go_through_the_gateway(command: Command) -> None:
    process = command.start("http://127.0.0.1:1/api/v1/uploads", "--direct", "-")
    _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, "a pipe has no parts" in errors) == (2, True)


async def test_what_cannot_be_is_told_in_one_line(
    direct: Direct, start_gateway: Callable[..., Gateway], payload: Callable[[int], Payload], command: Command
) -> None:
    without = await asyncio.to_thread(start_gateway)
    for endpoint, told in (
        (f"{without.url}/api/v1/uploads", "501"),
        (without.endpoint, "does not answer like direct uploads"),
        ("http://127.0.0.1:1/api/v1/uploads", "given up"),
    ):
        process = command.start(endpoint, "--direct", "--retries", "0", str(payload(1).path))
        _, errors = await asyncio.to_thread(process.communicate, timeout=TIMEOUT)
        assert (process.returncode, told in errors, "Traceback" in errors) == (1, True, False), errors


async def test_a_terminal_shows_name_and_progress(
    direct: Direct, payload: Callable[[int], Payload], command: Command
) -> None:
    file = payload(3 * PART + 7)
    shown = await asyncio.to_thread(command.show, direct.endpoint, "--direct", str(file.path))
    assert file.path.name in shown
    assert "100%" in shown
    assert "24.0/24.0 MiB" in shown
