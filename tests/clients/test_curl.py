"""curl, as in the README: the protocol by hand, with a known length, chunked, and cut in the middle."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.clients.payload import BOUNDARY_SIZES, PART

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.clients.deployment import Deployment
    from tests.clients.payload import Payload

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]

CURL = ("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "120")
TUS = ("-H", "Tus-Resumable: 1.0.0")
APPEND = (*TUS, "-X", "PATCH", "-H", "Content-Type: application/offset+octet-stream")


def curl(*arguments: str, data: bytes | None = None) -> str:
    """Run curl and return what it wrote. Raises CalledProcessError for a status of 400 or more."""
    ended = subprocess.run([*CURL, *arguments], input=data, capture_output=True, check=True)
    return ended.stdout.decode()


def create(endpoint: str, *headers: str) -> str:
    """Create an upload and return its URL."""
    options = [option for header in headers for option in ("-H", header)]
    return curl(*TUS, *options, "-X", "POST", "-o", "/dev/null", "-w", "%header{location}", endpoint)


def append(url: str, offset: int, source: str, *headers: str, data: bytes | None = None) -> None:
    """Send a file (or `-`: standard input, which curl sends chunked) at `offset`."""
    options = [option for header in headers for option in ("-H", header)]
    curl(*APPEND, "-H", f"Upload-Offset: {offset}", *options, "-T", source, url, data=data)


@pytest.mark.parametrize("size", [size for size in BOUNDARY_SIZES if size > 0])
def test_a_file_of_known_length_becomes_the_object(
    deployment: Deployment, payload: Callable[[int], Payload], size: int
) -> None:
    url = create(deployment.gateway.endpoint, f"Upload-Length: {size}")
    append(url, 0, str(payload(size).path))
    assert deployment.stored_sha256(url) == payload(size).sha256


def test_an_empty_file_is_complete_when_it_is_created(
    deployment: Deployment, payload: Callable[[int], Payload]
) -> None:
    url = create(deployment.gateway.endpoint, "Upload-Length: 0")
    assert deployment.stored_sha256(url) == payload(0).sha256


@pytest.mark.parametrize("size", [1, PART, 3 * PART + 7])
def test_a_pipe_of_unknown_length_becomes_the_object(
    deployment: Deployment, payload: Callable[[int], Payload], size: int
) -> None:
    url = create(deployment.gateway.endpoint, "Upload-Defer-Length: 1")
    append(url, 0, "-", data=payload(size).bytes())
    assert deployment.offset(url) == size
    append(url, size, "-", f"Upload-Length: {size}", data=b"")
    assert deployment.stored_sha256(url) == payload(size).sha256


def test_a_killed_curl_is_continued_from_the_acknowledged_offset(
    deployment: Deployment, payload: Callable[[int], Payload], tmp_path: Path
) -> None:
    file = payload(3 * PART + 7)
    url = create(deployment.gateway.endpoint, f"Upload-Length: {file.size}")
    cut = 2 * PART + 1000
    command = [*CURL, *APPEND, "-H", "Upload-Offset: 0", "-T", "-", url]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as pipe:
        assert pipe.stdin is not None
        pipe.stdin.write(file.bytes(0, cut))
        pipe.stdin.flush()
        deployment.wait_for_offset(url, at_least=PART)
        pipe.kill()

    rest = tmp_path / "rest"
    while (acknowledged := deployment.offset(url)) < file.size:
        assert PART <= acknowledged <= cut
        rest.write_bytes(file.bytes(acknowledged))
        # What the killed request had sent may still be committed now: then this place is refused with 409.
        with contextlib.suppress(subprocess.CalledProcessError):
            append(url, acknowledged, str(rest))
    assert deployment.stored_sha256(url) == file.sha256
