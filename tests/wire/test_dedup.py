"""Equal files of a tenant over HTTP: what clients see of files that share an object, and what happens to objects."""

from __future__ import annotations

import json
import random

import pytest
import structlog.testing

from tests.wire.rig import MIB, running
from tests.wire.test_downloads import replace_object, row_of
from tests.wire.test_files_api import FILES, ask, uploaded
from tusgate.core.dedup import Dedup
from tusgate.core.errors import StoreUnavailable
from tusgate.core.model import Keeping
from tusgate.ports import ObjectStore
from tusgate.service.digests import KEPT_FOR, RETRY_AFTER, Digester
from tusgate.service.jobs import JobRules
from tusgate.service.stores import Stores

ON = Dedup(usual=True)
DATA = random.Random(3).randbytes(12 * MIB + 345)


@pytest.fixture
async def rig(tmp_path):
    async with running(tmp_path, keeping=Keeping(dedup=ON)) as rig:
        yield rig


def digester(rig, dedup=ON):
    return Digester(rig.database, Stores[ObjectStore](rig.store), dedup)


async def all_digested(rig, dedup=ON):
    while await digester(rig, dedup).run():
        pass


async def content(rig, file, **fields):
    return await rig.client.request("GET", f"{file}/content", fields)


async def objects(rig):
    """Return the keys of all finished objects, after everything that is due was removed."""
    collector = JobRules().collector(rig.database, Stores[ObjectStore](rig.store))
    while (await collector.run()).removed:
        pass
    return {found.key async for found in rig.store.list_objects() if not found.key.startswith(".")}


@pytest.mark.parametrize("data", [b"", b"hello", DATA], ids=["empty", "small", "in parts"])
async def test_equal_files_share_the_object_of_the_first_and_stay_what_they_were(rig, data):
    first, second = await uploaded(rig.client, data), await uploaded(rig.client, data)
    before = [(await ask(rig.client, "GET", file))[1] for file in (first, second)]
    await all_digested(rig)
    rows = [await row_of(rig, file) for file in (first, second)]
    assert rows[0].object_key == rows[1].object_key
    assert {rows[0].object_of, rows[1].object_of} in ({None, rows[0].id}, {None, rows[1].id})
    for file, was in zip((first, second), before, strict=True):
        now = (await ask(rig.client, "GET", file))[1]
        assert {**now, "sha256": None, "etag": None} == {**was, "etag": None}
        assert now["sha256"] is not None
        answer = await content(rig, file)
        assert (answer.status, answer.body == data) == (200, True)
        assert answer.headers["ETag"] == f'"{now["etag"]}"'
    rig.clock.now += KEPT_FOR + 1
    assert await objects(rig) == {rows[0].object_key}
    assert [(await content(rig, file)).body == data for file in (first, second)] == [True, True]


async def test_the_object_goes_with_the_last_of_its_files(rig):
    files = [await uploaded(rig.client) for _ in range(3)]
    await all_digested(rig)
    key = (await row_of(rig, files[0])).object_key
    rig.clock.now += KEPT_FOR + 1
    for count, file in enumerate(files, 1):
        assert (await content(rig, file)).body == b"hello"
        assert (await ask(rig.client, "DELETE", file))[0] == 204
        assert (await content(rig, file)).status == 410
        assert await objects(rig) == ({key} if count < len(files) else set())


async def test_whoever_reads_a_file_while_it_changes_over_reads_it_to_the_end(rig):
    """Also by a resumed request within the time that the old object is kept."""
    first = await uploaded(rig.client, DATA)
    await all_digested(rig)
    second = await uploaded(rig.client, DATA)
    reader = rig.store.read((await row_of(rig, second)).object_key, 0, len(DATA))
    got = [await anext(reader)]
    await all_digested(rig)
    assert (await row_of(rig, second)).object_key == (await row_of(rig, first)).object_key
    assert len(await objects(rig)) == 2
    got += [chunk async for chunk in reader]
    assert b"".join(got) == DATA
    assert (await content(rig, second, Range="bytes=100-199")).body == DATA[100:200]


async def test_a_range_of_the_object_before_is_answered_with_the_whole_file(rig):
    """What a client has begun to read under the ETag of before is never continued from another object."""
    await uploaded(rig.client, DATA)
    await all_digested(rig)
    file = await uploaded(rig.client, DATA)
    stale = '"somebody-elses"'
    before = (await ask(rig.client, "GET", file))[1]["etag"]
    await all_digested(rig)
    now = (await ask(rig.client, "GET", file))[1]["etag"]
    answer = await content(rig, file, **{"Range": "bytes=5-9", "If-Range": f'"{now}"'})
    assert (answer.status, answer.body) == (206, DATA[5:10])
    for etag in {stale, f'"{before}"'} - {f'"{now}"'}:
        answer = await content(rig, file, **{"Range": "bytes=5-9", "If-Range": etag})
        assert (answer.status, answer.body == DATA) == (200, True)


@pytest.mark.parametrize("harm", ["gone", "replaced"])
async def test_a_good_object_is_not_given_up_for_one_that_was_lost(rig, harm):
    """And the next equal file shares that of the good one."""
    broken = await uploaded(rig.client)
    await all_digested(rig)
    if harm == "gone":
        await rig.store.delete_objects([(await row_of(rig, broken)).object_key])
    else:
        await replace_object(rig, broken, b"HELLO")
    rig.clock.now += 1
    good = await uploaded(rig.client)
    with structlog.testing.capture_logs() as logs:
        await all_digested(rig)
    (line,) = [log for log in logs if log["event"] == "dedup.object_lost"]
    assert (line["log_level"], line["upload_id"]) == ("error", (await row_of(rig, broken)).id)
    assert (await content(rig, good)).body == b"hello"
    next_one = await uploaded(rig.client)
    await all_digested(rig)
    assert (await row_of(rig, next_one)).object_key == (await row_of(rig, good)).object_key
    assert (await content(rig, next_one)).body == b"hello"


async def test_a_store_that_cannot_be_asked_is_asked_again_and_nothing_is_read_twice(rig, monkeypatch):
    first = await uploaded(rig.client)
    await all_digested(rig)
    second = await uploaded(rig.client)

    async def away(*_arguments):
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "find", away)
        assert await digester(rig).run() == 1
    assert await digester(rig).run() == 0
    rig.clock.now += RETRY_AFTER + 1
    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "read", away)
        assert await digester(rig).run() == 1
    assert (await row_of(rig, second)).object_key == (await row_of(rig, first)).object_key


async def test_a_twin_that_is_deleted_before_it_is_shared_is_no_loss(rig, monkeypatch):
    """The file keeps its own object; a third one shares that."""
    first = await uploaded(rig.client)
    await all_digested(rig)
    second = await uploaded(rig.client)
    find = rig.store.find

    async def deleting(*arguments):
        found = await find(*arguments)
        await ask(rig.client, "DELETE", first)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(rig.store, "find", deleting)
        await all_digested(rig)
    third = await uploaded(rig.client)
    await all_digested(rig)
    row = await row_of(rig, second)
    assert row.object_of is None
    assert (await row_of(rig, third)).object_key == row.object_key
    rig.clock.now += KEPT_FOR + 1
    assert await objects(rig) == {row.object_key}


async def test_files_share_nothing_where_it_is_off(tmp_path):
    async with running(tmp_path, keeping=Keeping(digests=True)) as rig:
        files = [await uploaded(rig.client) for _ in range(2)]
        await all_digested(rig, Dedup())
        rows = [await row_of(rig, file) for file in files]
        assert rows[0].sha256 == rows[1].sha256
        assert rows[0].object_key != rows[1].object_key


async def test_equal_files_count_with_all_their_bytes(rig):
    """I14: sharing is the operator's gain, not the tenant's."""
    for _ in range(2):
        await uploaded(rig.client)
    before = (await ask(rig.client, "GET", FILES.replace("files", "usage")))[1]
    await all_digested(rig)
    assert (await ask(rig.client, "GET", FILES.replace("files", "usage")))[1] == before
    assert "10" in json.dumps(before)
