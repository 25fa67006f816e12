"""What tus-js-client makes of the answers of hooks."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.clients.payload import MIB
from tests.hook_server import hook_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.clients.payload import Payload
    from tests.clients.tus_js import TusJs
    from tests.gateway import Gateway

pytestmark = pytest.mark.clients


@pytest.mark.parametrize("kind", ["pre-create", "pre-finish"])
async def test_tus_js_client_gives_up_and_shows_the_words_of_the_hook(
    start_gateway: Callable[..., Gateway], tus_js: TusJs, payload: Callable[[int], Payload], kind: str
) -> None:
    async with hook_server() as server:
        server.answers[kind] = {"RejectUpload": True, "HTTPResponse": {"StatusCode": 422, "Body": "no such project"}}
        hook = {"name": "app", "type": "http", "url": server.receiver.url, "moments": ["create", "finish"]}
        settings = {
            "TUSGATE_HOOKS": json.dumps([hook]),
            "TUSGATE_SINK_ALLOW": f"127.0.0.1:{server.receiver.port}",
        }
        gateway = start_gateway(settings)
        run = await asyncio.to_thread(tus_js, gateway.endpoint, payload(MIB))
        assert not run.done
        assert "response code: 422, response text: no such project" in (run.error or "")
        assert server.asked.count(kind) == 1
