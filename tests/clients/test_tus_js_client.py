"""tus-js-client under Node: what Uppy and most web applications speak."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.clients.payload import BOUNDARY_SIZES, LARGE, MIB, PART

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.clients.deployment import Deployment
    from tests.clients.payload import Payload
    from tests.clients.tus_js import TusJs
    from tests.fault.tcp import How, TcpFaultProxy

pytestmark = pytest.mark.clients


@pytest.mark.parametrize("size", [*BOUNDARY_SIZES, LARGE])
def test_a_whole_file_in_one_request_becomes_the_object(
    production: Deployment, payload: Callable[[int], Payload], tus_js: TusJs, size: int
) -> None:
    run = tus_js(production.gateway.endpoint, payload(size))
    assert run.done
    assert run.count("PATCH") == (0 if size == 0 else 1)
    assert production.stored_sha256(run.url) == payload(size).sha256


@pytest.mark.parametrize(
    ("size", "chunk"),
    [
        (50 * 1024 + 3, 1024),
        (PART + 1, 500 * 1024),
        (3 * PART + 7, 5 * MIB),
        (3 * PART + 7, PART),
        (3 * PART + 7, PART + 1),
    ],
)
def test_a_file_in_chunks_becomes_the_object(
    deployment: Deployment, payload: Callable[[int], Payload], tus_js: TusJs, size: int, chunk: int
) -> None:
    run = tus_js(deployment.gateway.endpoint, payload(size), options={"chunkSize": chunk})
    assert run.done
    assert run.count("PATCH") == -(-size // chunk)
    assert deployment.stored_sha256(run.url) == payload(size).sha256


# Not a multiple of the chunk: this client never notices the end of such a stream.
@pytest.mark.parametrize("size", [1, PART - 1, PART + 1, 3 * PART + 7])
def test_a_stream_of_unknown_length_becomes_the_object(
    deployment: Deployment, payload: Callable[[int], Payload], tus_js: TusJs, size: int
) -> None:
    options = {"uploadLengthDeferred": True, "chunkSize": 2 * MIB}
    run = tus_js(deployment.gateway.endpoint, payload(size), stream=True, options=options)
    assert run.done
    assert deployment.stored_sha256(run.url) == payload(size).sha256


@pytest.mark.parametrize("size", [1, PART, PART + 1])
def test_the_creating_request_may_carry_the_file(
    deployment: Deployment, payload: Callable[[int], Payload], tus_js: TusJs, size: int
) -> None:
    run = tus_js(deployment.gateway.endpoint, payload(size), options={"uploadDataDuringCreation": True})
    assert run.done
    assert run.count("PATCH") == 0
    assert deployment.stored_sha256(run.url) == payload(size).sha256


def test_post_may_stand_for_patch(deployment: Deployment, payload: Callable[[int], Payload], tus_js: TusJs) -> None:
    file = payload(PART + 1)
    run = tus_js(deployment.gateway.endpoint, file, options={"overridePatchMethod": True})
    assert run.done
    assert (run.count("POST"), run.count("PATCH")) == (2, 0)
    assert deployment.stored_sha256(run.url) == file.sha256


async def test_a_killed_client_goes_on_where_the_gateway_is(
    deployment: Deployment,
    line: TcpFaultProxy,
    payload: Callable[[int], Payload],
    tus_js: TusJs,
    tmp_path: Path,
) -> None:
    file = payload(6 * PART)
    endpoint, store = f"http://{line.host}:{line.port}/files", str(tmp_path / "urls.json")
    line.bandwidth = 4 * PART  # else all is sent before the client hears of any progress
    first = await asyncio.to_thread(tus_js, endpoint, file, store=store, dieAt=3 * PART)
    assert first.exit_code == -signal.SIGKILL
    acknowledged = await asyncio.to_thread(deployment.wait_for_offset, first.url, PART)

    line.bandwidth = None
    second = await asyncio.to_thread(tus_js, endpoint, file, store=store)
    assert second.done
    assert second.url == first.url
    (_, _, resumed_at) = next(request for request in second.requests if request[0] == "PATCH")
    assert resumed_at is not None
    assert resumed_at >= acknowledged
    assert second.count("POST") == 0
    assert deployment.stored_sha256(first.url) == file.sha256


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_cut_connection_is_healed_by_the_client_itself(
    deployment: Deployment,
    line: TcpFaultProxy,
    payload: Callable[[int], Payload],
    tus_js: TusJs,
    how: How,
) -> None:
    file = payload(3 * PART + 7)
    first = line.cut("up", after=PART // 2, how=how)
    second = line.cut("up", after=2 * PART, how=how)
    run = await asyncio.to_thread(tus_js, f"http://{line.host}:{line.port}/files", file)
    assert run.done
    assert (first.times, second.times) == (0, 0)
    assert run.count("POST") == 1
    assert deployment.stored_sha256(run.url) == file.sha256


DECLARES_THE_END = {"buffer": True}
"""Of a file on disk under Node, version 4.3.1 declares the end only when one request carries all of it."""


@pytest.mark.parametrize("protocol", ["ietf-draft-03", "ietf-draft-05"])
@pytest.mark.parametrize("chunk", [None, 5 * MIB])
@pytest.mark.parametrize("size", [1, PART, 3 * PART + 7])
def test_in_the_protocol_of_the_ietf_a_file_becomes_the_object(
    deployment: Deployment,
    payload: Callable[[int], Payload],
    tus_js: TusJs,
    protocol: str,
    chunk: int | None,
    size: int,
) -> None:
    options = {"protocol": protocol} | ({} if chunk is None else {"chunkSize": chunk})
    run = tus_js(deployment.gateway.endpoint, payload(size), options=options, **DECLARES_THE_END)
    assert run.done
    assert run.count("PATCH") == (1 if chunk is None else -(-size // chunk))
    assert deployment.stored_sha256(run.url) == payload(size).sha256


@pytest.mark.parametrize("protocol", ["ietf-draft-03", "ietf-draft-05"])
async def test_in_the_protocol_of_the_ietf_a_cut_connection_is_healed_by_the_client_itself(
    deployment: Deployment,
    line: TcpFaultProxy,
    payload: Callable[[int], Payload],
    tus_js: TusJs,
    protocol: str,
) -> None:
    file = payload(3 * PART + 7)
    first = line.cut("up", after=PART // 2, how="reset")
    second = line.cut("up", after=2 * PART, how="reset")
    endpoint, options = f"http://{line.host}:{line.port}/files", {"protocol": protocol}
    run = await asyncio.to_thread(tus_js, endpoint, file, options=options, **DECLARES_THE_END)
    assert run.done
    assert (first.times, second.times) == (0, 0)
    assert run.count("POST") == 1
    assert deployment.stored_sha256(run.url) == file.sha256
