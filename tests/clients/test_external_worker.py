"""The worker in docs/processing.md, as it is printed there."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients.readme import ROOT, blocks
from tests.gateway import TUSGATE
from tests.wire.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.gateway import Gateway

pytestmark = pytest.mark.clients

DOCUMENT = (ROOT / "docs" / "processing.md").read_text(encoding="utf-8")
TEXT = "filetype " + base64.b64encode(b"text/plain").decode()


@contextmanager
def the_worker(gateway: Gateway, token: str) -> Iterator[None]:
    """Run the example until the block ends."""
    (program,) = [block for block in blocks("python", DOCUMENT) if "requests" in block]
    environment = {**gateway.environment, "GATEWAY_URL": gateway.url, "GATEWAY_TOKEN": token}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=gateway.home) as worker:
        try:
            yield
        finally:
            worker.kill()


def a_token(gateway: Gateway, owner: str, *more: str) -> str:
    made = subprocess.run(
        [*TUSGATE, "token", "create", "--owner", owner, *more],
        env=gateway.environment,
        cwd=gateway.home,
        check=True,
        capture_output=True,
        text=True,
    )
    return made.stdout.strip()


async def test_the_worker_of_the_documentation_takes_no_error_for_a_file(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway({"TUSGATE_AUTH": "token", "TUSGATE_EXTERNAL_PROCESSORS": "words=text/*"})
    user = {"Authorization": f"Bearer {a_token(gateway, 'alice')}"}
    client = Client(gateway.port)
    path = await client.create(11, Upload_Metadata=TEXT, **user)
    assert (await client.patch(path, 0, b"one two six", user)).status == 204
    name = path.rpartition("/")[2]
    (gateway.home / "data" / "objects" / name).unlink()

    async def job() -> Any:
        return json.loads((await client.request("GET", f"/api/v1/files/{name}", user)).body)["processing"]["jobs"][0]

    with the_worker(gateway, a_token(gateway, "worker", "--permissions", "process")):
        async with asyncio.timeout(60):
            while (found := await job())["error"] is None and found["state"] in {"waiting", "running"}:  # noqa: ASYNC110 # another process does it
                await asyncio.sleep(0.05)
    assert found["state"] == "waiting"
    assert "502" in found["error"]


async def test_the_worker_of_the_documentation_counts_the_words_of_a_file(
    start_gateway: Callable[..., Gateway],
) -> None:
    gateway = start_gateway({"TUSGATE_AUTH": "token", "TUSGATE_EXTERNAL_PROCESSORS": "words=text/*"})
    user = {"Authorization": f"Bearer {a_token(gateway, 'alice')}"}
    client = Client(gateway.port)
    path = await client.create(11, Upload_Metadata=TEXT, **user)
    assert (await client.patch(path, 0, b"one two six", user)).status == 204
    file = "/api/v1/files/" + path.rpartition("/")[2]

    async def processing() -> Any:
        return json.loads((await client.request("GET", file, user)).body)["processing"]

    with the_worker(gateway, a_token(gateway, "worker", "--permissions", "process")):
        async with asyncio.timeout(60):
            while (found := await processing())["state"] == "processing":  # noqa: ASYNC110 # another process does it
                await asyncio.sleep(0.05)
    assert found["state"] == "ready"
    assert found["jobs"][0]["facts"] == {"words": 3}
    (derived,) = found["derived"]
    made = await client.request("GET", f"/api/v1/files/{derived['id']}/content", user)
    assert made.body == b"one\ntwo\nsix"
