"""The rest of a file's life over the wire: how long it is kept, who has deleted it, and its digest."""

from __future__ import annotations

import hashlib
import json
import random
from datetime import UTC, datetime

import pytest

from tests.wire.client import V
from tests.wire.identity import ALICE, guarded
from tests.wire.rig import MIB, START, running
from tests.wire.test_downloads import replace_object
from tests.wire.test_files_api import FILES, ask, listed, uploaded
from tusgate.core.access import USER, Permission
from tusgate.core.errors import StoreUnavailable
from tusgate.core.model import Keeping
from tusgate.ports import ObjectStore
from tusgate.service.digests import LOST_RETRY_AFTER, RETRY_AFTER, Digester
from tusgate.service.stores import Stores

DAY = 86_400.0


def after(seconds):
    return datetime.fromtimestamp(START + seconds, UTC).isoformat().replace("+00:00", "Z")


def moment(text):
    return datetime.fromisoformat(text)


async def change(client, file, **changes):
    return await ask(client, "PATCH", file, changes)


async def raw(client, method, path, fields):
    """Send a request of any protocol: the rules for answers of tus do not hold for all."""
    async with client.connect() as connection:
        connection.send_head(method, path, fields)
        return await connection.answer()


async def expire(rig, seconds):
    rig.clock.now += seconds
    await rig.database.expire(100)


async def test_a_file_that_is_given_an_end_is_gone_after_it(rig, client):
    file = await uploaded(client)
    status, shown = await change(client, file, expires_at=after(DAY))
    assert (status, moment(shown["expires_at"])) == (200, moment(after(DAY)))
    await expire(rig, DAY - 10)
    assert (await client.request("GET", f"{file}/content")).status == 200
    await expire(rig, 20)
    assert (await client.request("GET", f"{file}/content")).status == 410
    status, shown = await ask(client, "GET", file)
    assert (status, shown["state"]) == (200, "expired")
    assert shown["ended_at"] is not None
    assert shown["ended_by"] is None


async def test_a_lifetime_of_all_files_is_a_default_that_each_may_change(tmp_path):
    async with running(tmp_path, keeping=Keeping(lifetime=60.0)) as rig:
        short, kept = [await uploaded(rig.client) for _ in range(2)]
        assert (await change(rig.client, kept, expires_at=None))[0] == 200
        await expire(rig, 61)
        assert (await rig.client.request("GET", f"{short}/content")).status == 410
        assert (await rig.client.request("GET", f"{kept}/content")).status == 200


async def test_clients_of_tus_are_told_no_end_of_a_finished_upload(tmp_path):
    """tus 1.0, expiration: the field is about unfinished uploads."""
    async with running(tmp_path, keeping=Keeping(lifetime=60.0)) as rig:
        path = await rig.client.create(3)
        assert "Upload-Expires" in (await rig.client.head(path)).headers
        answer = await rig.client.patch(path, 0, b"abc")
        assert (answer.status, "Upload-Expires" in answer.headers) == (204, False)
        assert "Upload-Expires" not in (await rig.client.head(path)).headers


@pytest.mark.parametrize("name", ["expires_at", "retain_until"])
async def test_times_are_of_finished_files_and_lie_ahead(client, name):
    unfinished = f"{FILES}/" + (await client.create(10)).rpartition("/")[2]
    status, problem = await change(client, unfinished, **{name: after(DAY)})
    assert (status, problem["code"]) == (409, "not_complete")
    file = await uploaded(client)
    for wrong in (after(-1), "tomorrow", 5, "2027-06-01T00:00:00"):
        status, problem = await change(client, file, **{name: wrong})
        assert (status, problem["field"]) == (400, name)


async def test_a_file_that_must_be_kept_is_deleted_by_no_way(rig, client):
    """By the API, one or many, by tus and by RUFH; every answer says until when."""
    file = await uploaded(client)
    file_id = file.rpartition("/")[2]
    assert (await change(client, file, retain_until=after(DAY), expires_at=after(60)))[0] == 200
    status, problem = await ask(client, "DELETE", file)
    assert (status, problem["code"]) == (409, "retained")
    assert moment(problem["retain_until"]) == moment(after(DAY))
    _, report = await ask(client, "POST", f"{FILES}/delete", {"ids": [file_id]})
    assert report["results"] == [{"id": file_id, "outcome": "retained"}]
    async with client.connect() as connection:
        connection.send_head("PUT", "/files/a", {"Content-Length": "3"})
        connection.up.write(b"abc")
        put = await connection.answer()
    plain = f"{FILES}/" + put.upload_path.rpartition("/")[2]
    assert (await change(client, plain, retain_until=after(DAY)))[0] == 200
    for path, fields in ((f"/files/{file_id}", V), (put.upload_path, {"Upload-Draft-Interop-Version": "8"})):
        answer = await raw(client, "DELETE", path, fields)
        assert answer.status == 409
        assert b"2027-01-16" in answer.body
    await expire(rig, 120)
    assert (await client.request("GET", f"{file}/content")).body == b"hello"
    await expire(rig, DAY)
    assert (await client.request("GET", f"{file}/content")).status == 410


async def test_a_hold_is_prolonged_by_its_owner_and_shortened_by_an_administrator(tmp_path):
    async with guarded(tmp_path) as here:
        alice, admin = await here.who(), await here.who(ALICE, USER | {Permission.ADMIN})
        upload = await here.create(alice, 3)
        await here.client.patch(upload, 0, b"abc", alice)
        file = f"{FILES}/" + upload.rpartition("/")[2]
        for seconds in (DAY, 2 * DAY):
            assert (await ask(here.client, "PATCH", file, {"retain_until": after(seconds)}, **alice))[0] == 200
        for shorter in (after(DAY), None):
            status, problem = await ask(here.client, "PATCH", file, {"retain_until": shorter}, **alice)
            assert (status, problem["code"]) == (409, "retained")
            assert moment(problem["retain_until"]) == moment(after(2 * DAY))
        assert (await ask(here.client, "PATCH", file, {"retain_until": None}, **admin))[0] == 200
        assert (await ask(here.client, "DELETE", file, **alice))[0] == 204


async def test_what_was_deleted_is_still_known_with_who_and_when(tmp_path):
    async with guarded(tmp_path) as here:
        who, token = await here.static_token()
        files = []
        for _ in range(2):
            upload = await here.create(who, 3)
            await here.client.patch(upload, 0, b"abc", who)
            files.append(upload)
        here.rig.clock.now += 60
        api = f"{FILES}/" + files[0].rpartition("/")[2]
        assert (await ask(here.client, "DELETE", api, **who))[0] == 204
        assert (await here.client.request("DELETE", files[1], V | who)).status == 204
        assert (await ask(here.client, "GET", FILES, **who))[1]["files"] == []
        _, page = await ask(here.client, "GET", f"{FILES}?state=terminated", **who)
        assert {each["id"] for each in page["files"]} == {path.rpartition("/")[2] for path in files}
        for each in page["files"]:
            assert (each["state"], each["ended_by"]) == ("terminated", f"token:{token.id}")
            assert moment(each["ended_at"]) == moment(after(60))
            assert each["links"]["content"] is None
        assert (await ask(here.client, "GET", api, **who))[0] == 410


async def test_a_deleted_file_is_listed_when_that_is_asked_for(client):
    file = await uploaded(client)
    await ask(client, "DELETE", file)
    file_id = file.rpartition("/")[2]
    assert file_id not in await listed(client)
    assert await listed(client, "?state=terminated") == [file_id]
    assert await listed(client, "?state=complete") == []


LARGE = random.Random(7).randbytes(12 * MIB + 345)


@pytest.mark.parametrize("data", [b"", b"hello", LARGE], ids=["empty", "small", "in parts"])
async def test_a_digest_is_computed_when_the_file_is_there(tmp_path, data):
    async with running(tmp_path, keeping=Keeping(digests=True)) as rig:
        file = await uploaded(rig.client, data)
        assert (await ask(rig.client, "GET", file))[1]["sha256"] is None
        digester = Digester(rig.database, Stores[ObjectStore](rig.store))
        assert [await digester.run(), await digester.run()] == [1, 0]
        assert (await ask(rig.client, "GET", file))[1]["sha256"] == hashlib.sha256(data).hexdigest()


async def test_no_digest_is_computed_where_none_is_wanted(rig, client):
    file = await uploaded(client)
    assert await Digester(rig.database, Stores[ObjectStore](rig.store)).run() == 0
    assert (await ask(client, "GET", file))[1]["sha256"] is None


async def test_a_file_that_the_store_does_not_give_is_tried_again(tmp_path, monkeypatch):
    async with running(tmp_path, keeping=Keeping(digests=True)) as rig:
        file = await uploaded(rig.client)
        digester = Digester(rig.database, Stores[ObjectStore](rig.store))

        async def broken(*_arguments, **_named):
            yield b"he"
            raise StoreUnavailable("away")

        with monkeypatch.context() as patched:
            patched.setattr(rig.store, "read", broken)
            assert await digester.run() == 1
        assert await digester.run() == 0
        rig.clock.now += RETRY_AFTER + 1
        assert await digester.run() == 1
        assert (await ask(rig.client, "GET", file))[1]["sha256"] == hashlib.sha256(b"hello").hexdigest()


async def test_no_digest_is_told_of_bytes_that_are_not_the_files(tmp_path):
    """DL-07: neither of another object, nor ever again until somebody has looked."""
    async with running(tmp_path, keeping=Keeping(digests=True)) as rig:
        file = await uploaded(rig.client)
        await replace_object(rig, file, b"world")
        digester = Digester(rig.database, Stores[ObjectStore](rig.store))
        assert await digester.run() == 1
        rig.clock.now += LOST_RETRY_AFTER - 10
        assert await digester.run() == 0
        assert (await ask(rig.client, "GET", file))[1]["sha256"] is None


async def test_a_file_deleted_while_it_is_read_is_no_error(tmp_path, monkeypatch):
    async with running(tmp_path, keeping=Keeping(digests=True)) as rig:
        file = await uploaded(rig.client)
        read = rig.store.read

        async def deleting(*arguments, **named):
            await ask(rig.client, "DELETE", file)
            async for chunk in read(*arguments, **named):
                yield chunk

        monkeypatch.setattr(rig.store, "read", deleting)
        assert await Digester(rig.database, Stores[ObjectStore](rig.store)).run() == 1
        assert json.loads((await rig.client.request("GET", file)).body)["code"] == "gone"
