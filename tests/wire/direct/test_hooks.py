"""Hooks and direct uploads: the request that says that all parts are there is the one that hooks answer."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.hook_server import HookServer, hook_server
from tests.wire.direct import DirectClient
from tests.wire.direct.test_companion import ask
from tests.wire.rig import Rig, running, until
from tests.wire.test_hooks import COMMENT, REFUSAL
from tusgate.core.hooks import Moment
from tusgate.service.hooks import Asked, Hooks
from tusgate.sinks.http_hook import HttpHook, HttpHookConfig
from tusgate.sinks.posting import Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DATA = b"a file of one part"


class Scene:
    """A gateway with a closed hook, and a client that has sent all parts of one upload."""

    def __init__(self, rig: Rig, client: DirectClient, server: HookServer) -> None:
        self.rig, self.client, self.server = rig, client, server

    async def sent(self) -> str:
        """Return the id of an upload whose part is in the store."""
        upload_id, urls = await self.client.begin(len(DATA))
        await self.client.send(urls, DATA)
        return upload_id

    async def sent_by_uppy(self) -> tuple[str, dict[str, Any]]:
        """Return where Uppy speaks of an upload whose part is in the store, and what it says to complete it."""
        _, _, begun = await ask(self.client, "POST", "/companion/s3/multipart", {"filename": "a"})
        one = f"/companion/s3/multipart/{begun['uploadId']}"
        _, _, signed = await ask(self.client, "GET", f"{one}/1")
        _, etag = await self.client.put({**signed, "headers": {}}, DATA)
        return one, {"parts": [{"PartNumber": 1, "ETag": etag}]}

    async def is_complete(self, path: str) -> bool:
        return (await self.rig.row(path)).state == "complete"


@pytest.fixture
async def scene(tmp_path, store, http):
    @asynccontextmanager
    async def opened() -> AsyncIterator[Scene]:
        async with hook_server() as server:
            receiver = Receiver(url=server.receiver.url, secrets=(), allowed=server.receiver.allowed)
            hook = HttpHook(HttpHookConfig(name="app", receiver=receiver, retries=0, backoff=0.01))
            hooks = Hooks([Asked(hook=hook, moments=frozenset(Moment), timeout=10.0)])
            async with running(tmp_path, store=store, hooks=hooks, finish_wait=0.2) as rig:
                yield Scene(rig, DirectClient(rig.client, http), server)
            await hooks.close()

    async with opened() as made:
        yield made


async def test_a_refusal_is_told_in_the_words_of_the_hook(scene) -> None:
    upload_id = await scene.sent()
    scene.server.answers["pre-finish"] = REFUSAL
    status, _, told = await ask(scene.client, "POST", f"/uploads/{upload_id}/complete", {})
    assert (status, told) == (403, {"message": "no project 1234"})
    assert (await scene.rig.row(f"/{upload_id}")).state == "failed"


async def test_the_hook_is_told_of_the_request_and_adds_to_its_answer(scene) -> None:
    upload_id = await scene.sent()
    scene.server.answers["pre-finish"] = COMMENT
    answer = await scene.client.gateway.request(
        "POST", f"/api/v1/uploads/{upload_id}/complete", {"Content-Type": "application/json"}, b"{}"
    )
    assert (answer.status, answer.headers.get("X-From-Hook")) == (200, "hello")
    request = scene.server.event("pre-finish")["HTTPRequest"]
    assert (request["Method"], request["URI"]) == ("POST", f"/api/v1/uploads/{upload_id}/complete")


async def test_what_a_hook_adds_takes_the_place_of_no_answer_that_clients_need(scene) -> None:
    scene.server.answers["pre-create"] = COMMENT
    status, _, begun = await ask(scene.client, "POST", "/uploads", {"size": len(DATA)})
    assert (status, len(begun["parts"]["urls"])) == (201, 1)
    assert (await scene.sent_by_uppy())[1]


async def test_uppy_is_promised_no_file_that_a_hook_has_not_agreed_to(scene) -> None:
    """I4: Uppy asks again after a 5xx, and knows no answer between yes and no."""
    one, parts = await scene.sent_by_uppy()
    scene.server.answers["pre-finish"] = 500
    assert (await ask(scene.client, "POST", f"{one}/complete", parts))[0] == 503
    scene.server.answers.clear()
    await until(lambda: scene.is_complete(one))
    assert (await ask(scene.client, "POST", f"{one}/complete", parts))[0] == 200


@pytest.mark.parametrize("moment", ["pre-create", "pre-finish"])
async def test_uppy_shows_what_a_hook_refuses(scene, moment: str) -> None:
    """Also where the hook has a body and a type of its own, which are not Uppy's."""
    if moment == "pre-create":
        scene.server.answers[moment] = REFUSAL
        status, _, told = await ask(scene.client, "POST", "/companion/s3/multipart", {"filename": "a"})
    else:
        one, parts = await scene.sent_by_uppy()
        scene.server.answers[moment] = REFUSAL
        status, _, told = await ask(scene.client, "POST", f"{one}/complete", parts)
    assert (status, told["code"]) == (403, "refused_by_hook"), json.dumps(told)


async def test_no_hook_is_told_the_token_in_the_path(scene) -> None:
    """I19: as it is with those in header fields."""
    path = "/companion/u/eyJh.eyJz.c2ln/s3/multipart"
    assert (await ask(scene.client, "POST", path, {"filename": "a"}))[0] == 200
    uri = scene.server.event("pre-create")["HTTPRequest"]["URI"]
    assert ("eyJ" in uri, uri.startswith("/api/v1/companion/u/"), uri.endswith("/s3/multipart")) == (False, True, True)
