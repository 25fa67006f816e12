"""A changed file over the wire: its changed parts are sent, and the store copies the others from what it has."""

from __future__ import annotations

import asyncio
import hashlib
import random
from contextlib import asynccontextmanager

import pytest

from tests.contract.test_object_store import body_of, s3_store
from tests.contract.test_object_store_faults import Place, behind_proxy
from tests.doubles.s3.behaviour import MINIO
from tests.doubles.s3.server import S3Double
from tests.fault.proxy import Gate
from tests.hook_server import hook_server
from tests.wire.direct import UPLOADS, DirectClient, store_on_double, wrong
from tests.wire.direct.test_direct import opened_store, sha256
from tests.wire.identity import ALICE, BOB, EVE, guarded, upload_token
from tests.wire.rig import PART_SIZE, running
from tests.wire.test_dedup import ON, all_digested
from tusgate.cli.direct_client import DirectClient as CommandClient
from tusgate.cli.direct_transfer import upload_directly
from tusgate.cli.resume import ResumeStore
from tusgate.cli.transfer import Plan as CommandPlan
from tusgate.core.access import Permission
from tusgate.core.direct import Plan, Slot
from tusgate.core.hooks import Moment
from tusgate.core.model import Keeping
from tusgate.ports import Attributes
from tusgate.service import known_parts
from tusgate.service.hooks import Asked, Hooks
from tusgate.sinks.http_hook import HttpHook, HttpHookConfig
from tusgate.sinks.posting import Receiver as HookReceiver

PARTS = [random.Random(number).randbytes(PART_SIZE) for number in range(5)] + [random.Random(6).randbytes(1000)]
CHANGED = [*PARTS[:2], random.Random(7).randbytes(PART_SIZE), *PARTS[3:]]
ALL = [1, 2, 3, 4, 5, 6]


@pytest.fixture(
    params=[
        "double of aws",
        "double of minio",
        pytest.param("minio", marks=pytest.mark.servers),
        pytest.param("versity", marks=pytest.mark.servers),
    ]
)
async def store(request):
    async with opened_store(request, request.param) as opened:
        yield opened


@pytest.fixture(params=["aws", "minio"])
async def double(request):
    """Give a store on a double: one that shows the SHA-256 of copied parts, and one that shows none."""
    async with store_on_double(request.param) as opened:
        yield opened


@pytest.fixture
async def rig(tmp_path, double):
    async with running(tmp_path, store=double) as started:
        yield started


def wanted(parts, **more):
    """Return what a client says of a file that consists of `parts`."""
    digests = {"algorithm": "sha256", "values": [sha256(part) for part in parts]}
    return {"size": sum(map(len, parts)), "part_checksums": digests, **more}


async def begin(client, parts, expected=201, **more):
    """Return the id of an upload, and the URLs of the parts that are to be sent."""
    status, begun = await client.ask("POST", "", wanted(parts, **more))
    assert status == expected, begun
    return begun["upload"]["id"], begun["parts"]["urls"]


async def sync(client, parts, **more):
    """Upload a file that consists of `parts`; return its id, and the numbers of the parts that were sent."""
    upload_id, urls = await begin(client, parts, **more)
    await client.send(urls, b"".join(parts))
    status, shown = await client.complete(upload_id)
    assert (status, shown["state"]) == (200, "complete"), shown
    return upload_id, [url["number"] for url in urls]


async def test_of_a_changed_file_only_the_changed_part_is_sent(tmp_path, store, http):
    """I3: where the store lets us know what it has copied; else all of them."""
    async with running(tmp_path, store=store) as rig:
        client = DirectClient(rig.client, http)
        first, sent = await sync(client, PARTS)
        assert sent == ALL
        second, sent = await sync(client, CHANGED)
        assert sent == ([3] if store.copies_declared_parts else ALL)
        third, sent = await sync(client, PARTS)  # what was copied is known as well as what was sent
        assert sent == ([] if store.copies_declared_parts else ALL)
        for upload_id, parts in ((first, PARTS), (second, CHANGED), (third, PARTS)):
            assert await rig.stored(f"/{upload_id}") == b"".join(parts)


async def test_parts_are_found_wherever_they_have_moved_and_however_often_they_are_wanted(rig, client):
    await sync(client, PARTS)
    moved = [PARTS[4], PARTS[0], PARTS[0], CHANGED[2], PARTS[3], PARTS[1], PARTS[5]]
    upload_id, sent = await sync(client, moved)
    assert sent == [4]
    assert await rig.stored(f"/{upload_id}") == b"".join(moved)


async def test_parts_may_come_from_several_files(rig, client):
    await sync(client, PARTS[:2])
    await sync(client, [CHANGED[2], PARTS[5]])
    upload_id, sent = await sync(client, [PARTS[0], CHANGED[2], PARTS[1], PARTS[5]])
    assert sent == []
    assert await rig.stored(f"/{upload_id}") == PARTS[0] + CHANGED[2] + PARTS[1] + PARTS[5]


async def test_copied_parts_are_shown_as_parts_that_are_there(client):
    await sync(client, PARTS)
    upload_id, _ = await begin(client, CHANGED)
    shown = await client.parts(upload_id)
    assert [part["number"] for part in shown if part["wrong"]] == [3]
    assert [part["checksum"] for part in shown if not part["wrong"]] == [
        sha256(part) for part in PARTS if part != PARTS[2]
    ]


async def test_a_digest_gives_nobody_the_bytes_of_others(tmp_path, double, http):
    """I13: neither another owner of the tenant, nor the same name in another one."""
    async with guarded(tmp_path, store=double) as here:
        await sync(DirectClient(here.client, http, await here.who(ALICE)), PARTS)
        for scope in (BOB, EVE):
            _, urls = await begin(DirectClient(here.client, http, await here.who(scope)), PARTS)
            assert [url["number"] for url in urls] == ALL
        _, urls = await begin(DirectClient(here.client, http, await here.who(ALICE)), PARTS)
        assert urls == []


async def test_who_may_not_download_a_file_gets_nothing_copied_from_it(tmp_path, double, http):
    """I13: an upload token is for putting files there, and tells nothing of those that are."""
    async with guarded(tmp_path, store=double) as here:
        await sync(DirectClient(here.client, http, await here.who(ALICE)), PARTS)
        writes = await here.who(ALICE, frozenset({Permission.CREATE, Permission.APPEND}))
        for who in (writes, upload_token(jti="one of many")):
            _, urls = await begin(DirectClient(here.client, http, who), PARTS)
            assert [url["number"] for url in urls] == ALL


async def test_a_part_whose_source_is_gone_is_sent(rig, client):
    """The row says that the file is there; the store knows better."""
    first, _ = await sync(client, PARTS)
    row = await rig.row(f"/{first}")
    await rig.store.delete_objects([row.object_key])
    second, sent = await sync(client, CHANGED)
    assert sent == ALL
    assert await rig.stored(f"/{second}") == b"".join(CHANGED)


async def test_nothing_is_copied_from_an_object_that_has_taken_the_place_of_the_file(rig, client):
    """I3"""
    first, _ = await sync(client, PARTS)
    row = await rig.row(f"/{first}")
    await rig.store.put_object(row.object_key, body_of(bytes(len(b"".join(PARTS)))), Attributes(row.id))
    second, sent = await sync(client, CHANGED)
    assert sent == ALL
    assert await rig.stored(f"/{second}") == b"".join(CHANGED)


async def test_a_file_that_is_deleted_while_its_parts_are_wanted_again_takes_none_along(rig, client):
    """I3, I10: what was copied before stays, and is known for what it is."""
    first, _ = await sync(client, PARTS)
    second, urls = await begin(client, CHANGED)
    assert (await client.ask("DELETE", f"/{first}"))[0] == 204
    await rig.store.delete_objects([(await rig.row(f"/{first}")).object_key])
    await client.send(urls, b"".join(CHANGED))
    assert (await client.complete(second))[0] == 200
    assert await rig.stored(f"/{second}") == b"".join(CHANGED)
    _, urls = await begin(client, PARTS)
    assert [url["number"] for url in urls] == [3]


async def test_a_forged_digest_makes_no_file_of_other_bytes(rig, client):
    """I3: who declares the digest of one part and sends another one is refused by the store, copied or not."""
    await sync(client, PARTS)
    upload_id, urls = await begin(client, CHANGED)
    for url in (*urls, *await client.urls(upload_id, parts=[1])):
        assert (await client.put(url, bytes(PART_SIZE)))[0] == 400
    await client.send(urls, b"".join(CHANGED))
    assert (await client.complete(upload_id))[0] == 200
    assert await rig.stored(f"/{upload_id}") == b"".join(CHANGED)


async def test_a_digest_that_was_declared_and_never_proved_finds_nothing(client):
    """A part of an upload that was not finished, and a file whose parts were declared by another checksum."""
    upload_id, urls = await begin(client, PARTS)
    await client.send(urls, b"".join(PARTS))
    _, urls = await begin(client, PARTS)
    assert [url["number"] for url in urls] == ALL
    assert (await client.ask("DELETE", f"/{upload_id}"))[0] == 204


@asynccontextmanager
async def stubborn_store():
    """Give a store that refuses copies where its profile says that it takes them."""
    async with S3Double(MINIO) as double:
        double.make_bucket("bucket")
        yield s3_store(double.as_server(), "bucket", "minio", copied_part_checksums=True)


async def test_what_the_store_refuses_to_copy_is_sent(tmp_path, http):
    async with stubborn_store() as store, running(tmp_path, store=store) as rig:
        client = DirectClient(rig.client, http)
        await sync(client, PARTS)
        upload_id, sent = await sync(client, CHANGED)
        assert sent == ALL
        assert await rig.stored(f"/{upload_id}") == b"".join(CHANGED)


@asynccontextmanager
async def gateway_with_slow_copies(home):
    """Give a gateway, the proxy before its store, and a gate at which the first copies of the next file wait."""
    async with S3Double(MINIO) as double:
        double.make_bucket("bucket")
        config = Place(double.as_server(), "bucket").config()
        async with behind_proxy(config) as slow, running(home, store=slow.store) as rig:
            gate = Gate()
            slow.proxy.on("UploadPartCopy", gate, times=len(ALL) - 1)
            yield rig, slow.proxy, gate


async def test_what_there_was_no_time_to_copy_is_sent_or_copied_when_the_upload_is_begun_again(
    tmp_path, http, monkeypatch
):
    """A crash in the middle leaves the same: an unfinished upload like any other."""
    async with gateway_with_slow_copies(tmp_path) as (rig, proxy, _):
        client, named = DirectClient(rig.client, http), {"fingerprint": "client:the-file"}
        await sync(client, PARTS)
        with monkeypatch.context() as patched:
            patched.setattr(known_parts, "COPYING_SECONDS", 0.2)
            status, begun = await client.ask("POST", "", wanted(CHANGED, **named))
        assert (status, begun["copies_left"]) == (201, 5)
        assert [url["number"] for url in begun["parts"]["urls"]] == ALL
        status, again = await client.ask("POST", "", wanted(CHANGED, **named))
        assert (status, again["copies_left"], again["upload"]["id"]) == (200, 0, begun["upload"]["id"])
        urls = again["parts"]["urls"]
        assert [url["number"] for url in urls] == [3]
        proxy.history.clear()
        await client.send(urls, b"".join(CHANGED))
        assert (await client.complete(again["upload"]["id"]))[0] == 200
        assert proxy.history.count("UploadPart") == 1
        assert await rig.stored(f"/{again['upload']['id']}") == b"".join(CHANGED)


class Silent:
    """Watches without a word."""

    def moved(self, offset):
        """Take no notice."""

    def waiting(self, seconds, reason):
        """Take no notice."""


async def test_the_command_asks_until_all_is_copied_that_can_be(tmp_path, http, monkeypatch):
    path, remembered = tmp_path / "file.bin", ResumeStore("here", tmp_path / "state")
    sending = CommandPlan(chunk_size=PART_SIZE, retries=0, metadata={})
    async with gateway_with_slow_copies(tmp_path) as (rig, proxy, gate):
        client = CommandClient(http, http, f"http://127.0.0.1:{rig.client.port}{UPLOADS}")

        async def sent(parts):
            """Upload a file that consists of `parts`; return how many of them were sent."""
            path.write_bytes(b"".join(parts))
            proxy.history.clear()
            url = await upload_directly(client, path, sending, remembered, Silent(), sync=True)
            assert await rig.stored("/" + url.rpartition("/")[2]) == b"".join(parts)
            return proxy.history.count("UploadPart")

        async def take_time_from_then_on():
            await gate.reached.wait()
            monkeypatch.undo()

        assert await sent(PARTS) == 6
        monkeypatch.setattr(known_parts, "COPYING_SECONDS", 0.2)
        asked, _ = await asyncio.gather(sent(CHANGED), take_time_from_then_on())
        assert asked == 1


@pytest.mark.parametrize(("double", "expected"), [("aws", [3]), ("minio", ALL)], indirect=["double"])
async def test_an_upload_that_was_begun_before_its_parts_were_known_finds_them_when_it_is_begun_again(
    rig, client, expected
):
    """Where copies are allowed by then: MinIO wants to know it at the beginning."""
    named = {"fingerprint": "client:the-file"}
    upload_id, urls = await begin(client, CHANGED, **named)
    assert [url["number"] for url in urls] == ALL
    await sync(client, PARTS)
    again, urls = await begin(client, CHANGED, expected=200, **named)
    assert again == upload_id
    await client.send(urls, b"".join(CHANGED))
    assert [url["number"] for url in urls] == expected
    assert (await client.complete(upload_id))[0] == 200
    assert await rig.stored(f"/{upload_id}") == b"".join(CHANGED)


async def replan(client, upload_id, parts, expected=200, **more):
    """Say that an unfinished upload is of `parts` from now on; return the numbers of those that are to be sent."""
    status, answer = await client.ask("PUT", f"/{upload_id}/plan", wanted(parts, **more))
    assert status == expected, answer
    return answer["parts"]["urls"] if status == 200 else answer


LONGER = [*PARTS[:5], random.Random(8).randbytes(PART_SIZE), PARTS[5]]
SHORTER = [*PARTS[:2], PARTS[5]]


@pytest.mark.parametrize(
    ("parts", "to_send"),
    [(CHANGED, [3]), (LONGER, [6, 7]), (SHORTER, [3]), (PARTS, [])],
    ids=["changed", "longer", "shorter", "same"],
)
async def test_an_unfinished_upload_of_a_file_that_has_changed_keeps_the_parts_that_stay(
    tmp_path, store, http, parts, to_send
):
    """I3: what is left over of a longer file is no part of it."""
    async with running(tmp_path, store=store) as rig:
        client = DirectClient(rig.client, http)
        upload_id, urls = await begin(client, PARTS)
        await client.send(urls, b"".join(PARTS))
        urls = await replan(client, upload_id, parts)
        assert [url["number"] for url in urls] == to_send
        shown = await client.parts(upload_id)
        assert [part["number"] for part in shown] == [*range(1, len(parts) + 1)]
        assert [part["number"] for part in shown if part["wrong"]] == to_send
        await client.send(urls, b"".join(parts))
        assert (await client.complete(upload_id))[0] == 200
        assert await rig.stored(f"/{upload_id}") == b"".join(parts)


async def test_an_unfinished_upload_that_becomes_another_twice_is_the_last_one(rig, client):
    upload_id, urls = await begin(client, LONGER)
    await client.send(urls, b"".join(LONGER))
    await client.send(await replan(client, upload_id, SHORTER), b"".join(SHORTER))
    urls = await replan(client, upload_id, PARTS)
    assert [url["number"] for url in urls] == [3, 6]
    await client.send(urls, b"".join(PARTS))
    await client.send(await replan(client, upload_id, SHORTER), b"".join(SHORTER))
    assert (await client.complete(upload_id))[0] == 200
    assert await rig.stored(f"/{upload_id}") == b"".join(SHORTER)


async def test_bytes_that_are_late_from_before_the_change_are_found_out(rig, client):
    """I3, DM-02: a URL that was made for the file as it was takes these bytes only, which are wrong now."""
    upload_id, former = await begin(client, PARTS)
    await client.send(former, b"".join(PARTS))
    await client.send(await replan(client, upload_id, CHANGED), b"".join(CHANGED))
    assert (await client.put(former[2], PARTS[2]))[0] == 200
    status, refused = await client.complete(upload_id)
    assert (status, wrong(refused)) == (409, [(3, "checksum")])
    await client.send(await client.urls(upload_id), b"".join(CHANGED))
    assert (await client.complete(upload_id))[0] == 200
    assert await rig.stored(f"/{upload_id}") == b"".join(CHANGED)


async def test_a_foreign_part_beyond_what_was_ever_planned_is_still_refused(rig, client):
    """DM-02"""
    upload_id, urls = await begin(client, PARTS)
    await client.send(urls, b"".join(PARTS))
    await replan(client, upload_id, SHORTER)
    row = await rig.row(f"/{upload_id}")
    data = bytes(PART_SIZE)
    digest = hashlib.sha256(data).digest()
    plan = Plan(algorithm="sha256", digests=(digest,))
    signed = rig.store.presign_part(row.object_key, row.multipart_id, Slot(7, digest=digest), plan, 60)
    assert (await client.put({"url": signed.url, "headers": signed.headers}, data))[0] == 200
    status, refused = await client.complete(upload_id)
    assert (status, wrong(refused)) == (409, [(3, "size"), (3, "checksum"), (7, "foreign")])


async def test_a_change_that_cannot_be_is_refused_and_changes_nothing(tmp_path, double, http):
    async with running(tmp_path, store=double, max_size=7 * PART_SIZE) as rig:
        client = DirectClient(rig.client, http)
        plain, _ = await client.begin(2 * PART_SIZE)
        assert (await replan(client, plain, PARTS, 400))["field"] == "part_checksums"
        upload_id, urls = await begin(client, PARTS)
        before = await rig.row(f"/{upload_id}")
        assert (await replan(client, upload_id, PARTS[:4] * 2, 413))["code"] == "too_large"
        few = {"algorithm": "sha256", "values": [sha256(b"")]}
        assert (await replan(client, upload_id, PARTS, 400, part_checksums=few))["field"] == "part_checksums.values"
        assert await rig.row(f"/{upload_id}") == before
        await client.send(urls, b"".join(PARTS))
        assert (await client.complete(upload_id))[0] == 200
        assert (await replan(client, upload_id, CHANGED, 409))["code"] == "parts_fixed"
        assert (await replan(client, "unknown-upload-0123456789", CHANGED, 404))["code"] == "not_found"


async def test_nobody_changes_what_an_upload_of_others_is_of(tmp_path, double, http):
    """I13"""
    async with guarded(tmp_path, store=double) as here:
        upload_id, _ = await begin(DirectClient(here.client, http, await here.who(ALICE)), PARTS)
        before = await here.rig.row(f"/{upload_id}", ALICE)
        for scope in (BOB, EVE):
            await replan(DirectClient(here.client, http, await here.who(scope)), upload_id, CHANGED, 404)
        assert await here.rig.row(f"/{upload_id}", ALICE) == before


async def test_an_upload_that_has_changed_gets_what_finished_files_have_too(tmp_path, http):
    """Where the multipart upload takes copies whenever it was begun."""
    async with store_on_double("aws") as store, running(tmp_path, store=store) as rig:
        client = DirectClient(rig.client, http)
        upload_id, _ = await begin(client, PARTS)
        await sync(client, CHANGED)
        urls = await replan(client, upload_id, CHANGED)
        assert urls == []
        assert (await client.complete(upload_id))[0] == 200
        assert await rig.stored(f"/{upload_id}") == b"".join(CHANGED)


async def test_parts_are_copied_from_an_object_that_equal_files_share(tmp_path, double, http):
    """I10: also when the file that the object was made for is gone."""
    async with running(tmp_path, store=double, keeping=Keeping(dedup=ON)) as rig:
        client = DirectClient(rig.client, http)
        first, _ = await sync(client, PARTS)
        second, _ = await sync(client, PARTS)
        await all_digested(rig)
        rows = [await rig.row(f"/{each}") for each in (first, second)]
        assert rows[0].object_key == rows[1].object_key
        maker = next(row.id for row in rows if row.object_of is None)
        assert (await client.ask("DELETE", f"/{maker}"))[0] == 204
        third, sent = await sync(client, CHANGED)
        assert sent == [3]
        assert await rig.stored(f"/{third}") == b"".join(CHANGED)


async def test_hooks_that_have_agreed_to_a_size_are_not_passed_by(tmp_path, double, http):
    """A file of another size is a new upload, about which they are asked; one as large may change."""
    async with hook_server() as server:
        receiver = HookReceiver(url=server.receiver.url, secrets=("whsec_c2VjcmV0",), allowed=server.receiver.allowed)
        config = HttpHookConfig(name="app", receiver=receiver, retries=0, backoff=0.01)
        hooks = Hooks([Asked(hook=HttpHook(config), moments=frozenset({Moment.CREATE}), timeout=10.0)])
        async with running(tmp_path, store=double, hooks=hooks) as rig:
            client = DirectClient(rig.client, http)
            upload_id, urls = await begin(client, PARTS)
            await client.send(urls, b"".join(PARTS))
            assert (await replan(client, upload_id, SHORTER, 400))["field"] == "size"
            assert [url["number"] for url in await replan(client, upload_id, CHANGED)] == [3]
            assert server.asked == ["pre-create"]
        await hooks.close()
