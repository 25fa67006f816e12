"""Events as server-sent events: what a browser's EventSource gets, and who gets it."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.wire.identity import ALICE, BOB, EVE, guarded, upload_token
from tests.wire.rig import running, until
from tusgate.core.access import USER, Permission
from tusgate.identity.upload_tokens import LEEWAY
from tusgate.service.feed import FeedRules
from tusgate.web.api import events as events_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.wire.rig import Rig

EVENTS = "/api/v1/events"
OF_TENANT = "/api/v1/tenant/events"


@dataclass
class Heard:
    """One server-sent event."""

    id: str
    type: str
    data: Any


class Stream:
    """An open stream; blocks without data are heartbeats."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.heartbeats = 0

    async def block(self) -> dict[str, str]:
        """Return the fields of the next block; none at the end of the stream."""
        fields: dict[str, str] = {}
        while (line := (await self.answer.content.readline()).decode()) not in ("\n", ""):
            name, _, value = line.rstrip("\n").partition(":")
            fields[name] = value.removeprefix(" ")
        return fields

    async def next(self) -> Heard:
        async with asyncio.timeout(20):
            while "data" not in (block := await self.block()):
                assert not self.answer.content.at_eof()
                self.heartbeats += "" in block
        return Heard(block["id"], block["event"], json.loads(block["data"]))

    async def some(self, count: int) -> list[Heard]:
        return [await self.next() for _ in range(count)]

    async def to_the_end(self) -> list[str]:
        """Return the types of all that is left."""
        async with asyncio.timeout(20):
            found = [await self.block()]
            while not self.answer.content.at_eof():
                found.append(await self.block())
        return [block["event"] for block in found if "event" in block]


@asynccontextmanager
async def following(rig: Rig, path: str = EVENTS, headers: Mapping[str, str] | None = None) -> AsyncIterator[Stream]:
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{rig.client.port}") as session,
        session.get(path, headers=headers, timeout=aiohttp.ClientTimeout(total=60)) as answer,
    ):
        yield Stream(answer)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path, listening=FeedRules()) as started:
        yield started


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Any]:
    async with guarded(tmp_path, listening=FeedRules()) as started:
        yield started


async def test_an_upload_is_told_as_it_happens(rig: Rig) -> None:
    async with following(rig) as stream:
        assert stream.answer.status == 200
        assert stream.answer.headers["Content-Type"] == "text/event-stream"
        assert stream.answer.headers["Cache-Control"] == "no-store"
        assert stream.answer.headers["X-Accel-Buffering"] == "no"
        path = await rig.client.create(10)
        upload_id = path.rpartition("/")[2]
        assert (await stream.next()).type == "upload.created"
        await rig.client.patch(path, 0, b"01234")
        heard = await stream.next()
        assert (heard.id, heard.type) == (f"{upload_id}-2", "upload.progress")
        assert heard.data["data"]["upload"]["offset"] == 5
        await rig.client.patch(path, 5, b"56789")
        types = [(await stream.next()).type]
        while types[-1] != "upload.completed":
            types.append((await stream.next()).type)
        await rig.client.delete(path)
        heard = await stream.next()
        assert heard.type == "file.deleted"
        assert (heard.data["id"], heard.data["subject"]) == (heard.id, upload_id)
        assert heard.data["specversion"] == "1.0"


async def test_a_client_that_comes_back_goes_on_where_it_was(rig: Rig) -> None:
    async with following(rig) as stream:
        first = await rig.client.create(10)
        known = await stream.next()
    missed = await rig.client.create(10)
    async with following(rig, headers={"Last-Event-ID": known.id}) as stream:
        assert (await stream.next()).data["subject"] == missed.rpartition("/")[2]
        await rig.client.delete(first)
        assert (await stream.next()).type == "upload.terminated"


async def test_one_upload_is_followed_from_its_creation_to_its_end(rig: Rig) -> None:
    path = await rig.client.create(10)
    await rig.client.create(10)
    own = f"/api/v1/uploads/{path.rpartition('/')[2]}/events"
    async with following(rig, own) as stream, following(rig, own) as another:
        assert (await stream.next()).type == "upload.created"
        await rig.client.patch(path, 0, b"0123456789")
        await rig.client.delete(path)
        rest = await stream.to_the_end()
        assert rest[-2:] == ["upload.completed", "file.deleted"]
        assert await another.to_the_end() == ["upload.created", *rest]
    number = len(rest) + 1
    last = f"{path.rpartition('/')[2]}-{number}"
    async with following(rig, own, {"Last-Event-ID": f"{path.rpartition('/')[2]}-{number - 1}"}) as stream:
        assert await stream.to_the_end() == ["file.deleted"]
    async with following(rig, own, {"Last-Event-ID": last}) as stream:
        assert stream.answer.status == 204  # an EventSource does not come back after that


async def test_an_upload_that_is_not_there_cannot_be_followed(rig: Rig) -> None:
    answer = await rig.client.request("GET", f"/api/v1/uploads/{'A' * 22}/events")
    assert answer.status == 404


@pytest.mark.parametrize("last", ["x", "a-b", "é-1", "\udcff-1", "A" * 22 + "-9999999999"])
async def test_what_is_no_id_is_refused(rig: Rig, last: str) -> None:
    answer = await rig.client.request("GET", EVENTS, {"Last-Event-ID": last})
    assert (answer.status, json.loads(answer.body)["field"]) == (400, "Last-Event-ID")


async def test_a_head_tells_what_a_get_would_and_takes_no_place(rig: Rig) -> None:
    answer = await rig.client.request("HEAD", EVENTS)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    assert rig.feed.listeners == 0


async def test_without_the_setting_there_is_nothing_to_follow(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        for path in (EVENTS, OF_TENANT, f"/api/v1/uploads/{'A' * 22}/events"):
            assert (await rig.client.request("GET", path)).status == 404


async def test_it_is_in_the_document(rig: Rig) -> None:
    document = json.loads((await rig.client.request("GET", "/api/v1/openapi.json")).body)
    for path in ("/api/v1/events", "/api/v1/tenant/events", "/api/v1/uploads/{id}/events"):
        assert "text/event-stream" in document["paths"][path]["get"]["responses"]["200"]["content"]


async def test_a_client_that_leaves_gives_its_place_to_the_next(tmp_path: Path) -> None:
    async with running(tmp_path, listening=FeedRules(most=1, quiet=0.02)) as rig:
        async with following(rig):
            answer = await rig.client.request("GET", EVENTS)
            assert (answer.status, json.loads(answer.body)["code"]) == (503, "too_many_listeners")
            assert int(answer.headers["Retry-After"]) > 0

        async def is_free() -> bool:
            return rig.feed.listeners == 0

        await until(is_free)
        async with following(rig) as stream:
            assert stream.answer.status == 200


async def test_it_shows_that_it_is_alive_when_nothing_happens(tmp_path: Path) -> None:
    async with running(tmp_path, listening=FeedRules(quiet=0.02)) as rig, following(rig) as stream:
        assert await stream.block() == {"retry": "2000"}
        assert await stream.block() == {"": ""}


async def test_a_server_that_stops_ends_the_stream_in_order(rig: Rig) -> None:
    async with following(rig) as stream:
        await rig.client.create(10)
        await stream.next()
        await rig.feed.close()
        assert await stream.to_the_end() == []


async def test_a_stream_ends_after_a_while_so_that_credentials_are_shown_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_api, "LONGEST_STREAM", 0.05)
    async with following(rig) as stream:
        assert await stream.to_the_end() == []


async def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I15: what waits for it is bounded."""
    monkeypatch.setattr(events_api, "WRITE_PATIENCE", 0.1)
    big = {"Upload-Metadata": "a " + "QUFB" * 3000}
    async with running(tmp_path, listening=FeedRules()) as rig, rig.client.connect() as connection:
        connection.send_head("GET", EVENTS, {})

        async def is_in() -> bool:
            return rig.feed.listeners == 1

        async def is_out() -> bool:
            await rig.client.create(10, **big)
            return rig.feed.listeners == 0

        await until(is_in)
        async with asyncio.timeout(60):
            while not await is_out():
                pass


async def test_each_sees_only_what_is_theirs_and_admins_their_whole_tenant(here: Any) -> None:
    """I13."""
    who = {scope: await here.who(scope) for scope in (ALICE, BOB, EVE)}
    admin = await here.who(ALICE, USER | {Permission.ADMIN})
    async with (
        following(here.rig, headers=who[ALICE]) as alice,
        following(here.rig, headers=who[EVE]) as eve,
        following(here.rig, OF_TENANT, admin) as tenant,
    ):
        paths = {scope: await here.create(who[scope]) for scope in (BOB, EVE, ALICE)}
        ids = {scope: path.rpartition("/")[2] for scope, path in paths.items()}
        known = await alice.next()
        assert known.data["subject"] == ids[ALICE]
        assert (await eve.next()).data["subject"] == ids[EVE]
        assert [heard.data["subject"] for heard in await tenant.some(2)] == [ids[BOB], ids[ALICE]]
    for scope in (BOB, EVE):
        answer = await here.ask("GET", f"/api/v1/uploads/{ids[ALICE]}/events", who[scope])
        assert answer.status == 404
    # An id of somebody else is one that is not kept: it opens nothing.
    async with following(here.rig, headers={**who[EVE], "Last-Event-ID": known.id}) as eve:
        assert (await eve.next()).data["subject"] == ids[EVE]


STREAMS = {
    EVENTS: {Permission.LIST},
    OF_TENANT: {Permission.ADMIN},
    "/api/v1/uploads/%s/events": {Permission.APPEND, Permission.READ},
}


@pytest.mark.parametrize("permission", [*Permission, None])
async def test_a_permission_opens_exactly_the_streams_that_it_is_for(here: Any, permission: Permission | None) -> None:
    """AT-03."""
    own = (await here.create(await here.who())).rpartition("/")[2]
    held = frozenset({permission} if permission is not None else ())
    who = await here.who(permissions=held)
    for path, needed in STREAMS.items():
        for method in ("GET", "HEAD"):
            async with (
                aiohttp.ClientSession(f"http://127.0.0.1:{here.client.port}") as session,
                session.request(method, path.replace("%s", own), headers=who) as answer,
            ):
                assert answer.status == (200 if needed & held else 403), (path, method)
    for path in STREAMS:
        assert (await here.ask("GET", path.replace("%s", own), {})).status == 401


async def test_a_stream_ends_with_the_credentials_that_opened_it(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = int(time.time())
    monkeypatch.setattr(events_api, "time", SimpleNamespace(time=lambda: now + 299.9 + LEEWAY))
    path = await here.create(upload_token())
    own = f"/api/v1/uploads/{path.rpartition('/')[2]}/events"
    async with following(here.rig, own, upload_token(exp=now + 300)) as stream:
        assert stream.answer.status == 200
        assert await stream.to_the_end() == ["upload.created"]
