"""Direct uploads over the wire: parts go to the store by signed URLs, and the gateway believes the store only."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import random
from contextlib import asynccontextmanager

import pytest
from awscrt.checksums import crc64nvme

from tests.contract.test_object_store import s3_store
from tests.hook_server import hook_server
from tests.wire.direct import UPLOADS, DirectClient, store_on_double, wrong
from tests.wire.identity import ALICE, BOB, EVE, guarded, upload_token
from tests.wire.rig import PART_SIZE, URL_TTL, running
from tests.wire.rufh import RufhClient
from tusgate.core.access import REQUIRED, Permission, Route
from tusgate.core.direct import Plan, Slot, same_etag
from tusgate.core.hooks import Moment
from tusgate.core.model import Part
from tusgate.core.quota import Quota
from tusgate.core.tenant import Tenant
from tusgate.service.hooks import Asked, Hooks
from tusgate.service.tenants import Tenants
from tusgate.sinks.http_hook import HttpHook, HttpHookConfig
from tusgate.sinks.posting import Receiver as HookReceiver
from tusgate.web.api.direct import DirectApi
from tusgate.web.api.direct_models import MOST_URLS
from tusgate.web.config import WebConfig

DATA = random.Random(7).randbytes(2 * PART_SIZE + 1000)
PARTS = [DATA[start : start + PART_SIZE] for start in range(0, len(DATA), PART_SIZE)]
UNKNOWN = "unknown-upload-0123456789"


@asynccontextmanager
async def opened_store(request, kind):
    """Give an S3 store of this kind, on a bucket of its own."""
    if kind in ("minio", "versity"):
        bucket = "bucket" if kind == "minio" else "versity_bucket"
        yield s3_store(request.getfixturevalue(kind), request.getfixturevalue(bucket), kind)
    else:
        async with store_on_double(kind.rpartition(" ")[2]) as opened:
            yield opened


@pytest.fixture(
    params=[
        "double of aws",
        "double of r2",
        pytest.param("minio", marks=pytest.mark.servers),
        pytest.param("versity", marks=pytest.mark.servers),
    ]
)
async def store(request):
    async with opened_store(request, request.param) as opened:
        yield opened


@pytest.fixture
async def double():
    """Give the strict double alone."""
    async with store_on_double() as opened:
        yield opened


@pytest.fixture
async def here(tmp_path, double, http):
    """Give a client of a gateway on the double."""
    async with running(tmp_path, store=double, max_size=100 * PART_SIZE) as started:
        yield DirectClient(started.client, http)


def sha256(data):
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def crc64(data):
    return base64.b64encode(crc64nvme(data).to_bytes(8, "big")).decode()


async def test_a_file_goes_to_the_store_part_by_part_and_is_there_when_it_is_complete(rig, client):
    """I3, I4: and not a moment earlier; the gateway has seen none of its bytes."""
    upload_id, urls = await client.begin(len(DATA), filename="größe.bin", content_type="image/png", metadata={"a": "ü"})
    assert [(url["number"], url["size"]) for url in urls] == [(1, PART_SIZE), (2, PART_SIZE), (3, 1000)]
    etags = await client.send(urls, DATA)
    row = await rig.row(f"/{upload_id}")
    assert (row.state, row.offset) == ("uploading", 0)
    assert await rig.store.find(row.object_key, row.id) is None
    status, shown = await client.complete(upload_id, etags)
    assert (status, shown["state"], shown["size"]) == (200, "complete", len(DATA))
    assert await rig.stored(f"/{upload_id}") == DATA
    answer = await rig.client.request("GET", f"/api/v1/files/{upload_id}/content")
    assert (answer.body, answer.headers["Content-Type"]) == (DATA, "image/png")
    row = await rig.row(f"/{upload_id}")
    assert (row.state, row.offset, row.created_via, row.filename) == ("complete", len(DATA), "direct", "größe.bin")


async def test_an_upload_is_found_again_with_what_is_there_and_what_is_missing(client):
    """Resuming after a reload, or on another device: only the id is needed."""
    upload_id, urls = await client.begin(len(DATA), urls=1)
    assert len(urls) == 1
    await client.send(urls, DATA)
    standing = await client.parts(upload_id)
    assert [(part["number"], [each["wrong"] for each in part["wrong"]]) for part in standing] == [
        (1, []),
        (2, ["missing"]),
        (3, ["missing"]),
    ]
    rest = await client.urls(upload_id)
    assert [url["number"] for url in rest] == [2, 3]
    await client.send(rest, DATA)
    assert await client.urls(upload_id) == []
    assert (await client.complete(upload_id))[0] == 200


@pytest.mark.parametrize("size", [0, 1, PART_SIZE])
async def test_small_files_need_no_other_way(rig, client, size):
    upload_id, urls = await client.begin(size)
    assert len(urls) == (1 if size else 0)
    await client.send(urls, DATA)
    status, shown = await client.complete(upload_id)
    assert (status, shown["state"]) == (200, "complete")
    assert await rig.stored(f"/{upload_id}") == DATA[:size]


async def test_a_complete_is_refused_with_all_that_is_wrong_and_changes_nothing(rig, client):
    """DM-02, I4, I9: a part missing, swapped, wrong, too many, none; then the right one."""
    upload_id, urls = await client.begin(len(DATA))
    first, second, third = urls
    status, refused = await client.complete(upload_id)
    assert (status, wrong(refused)) == (409, [(1, "missing"), (2, "missing"), (3, "missing")])
    etags = await client.send([first, second], DATA)
    for named, expected in (
        (etags, [(3, "missing")]),
        ({1: etags[2], 2: etags[1]}, [(1, "etag"), (2, "etag"), (3, "missing")]),
        ({1: etags[1]}, [(2, "not_named"), (3, "missing")]),
        ({**etags, 4: etags[1]}, [(3, "missing"), (4, "foreign")]),
        ({}, [(1, "not_named"), (2, "not_named"), (3, "missing")]),
    ):
        status, refused = await client.complete(upload_id, named)
        assert (status, wrong(refused)) == (409, expected), named
    row = await rig.row(f"/{upload_id}")
    assert (row.state, row.offset) == ("uploading", 0)
    assert await rig.store.find(row.object_key, row.id) is None
    etags |= await client.send([third], DATA)
    assert (await client.complete(upload_id, etags))[0] == 200
    assert await rig.stored(f"/{upload_id}") == DATA


async def test_a_forged_complete_makes_no_file(rig, client):
    """DM-02, DM-03: parts that somebody has made beside the URLs, as nobody can who has only these."""
    upload_id, urls = await client.begin(len(DATA))
    row = await rig.row(f"/{upload_id}")
    await client.send(urls[:2], DATA)
    key, multipart_id, store = row.object_key, row.multipart_id, rig.store
    for number, size in ((3, 999), (5, 4)):
        signed = store.presign_part(key, multipart_id, Slot(number), Plan(), 60)
        assert (await client.put({"url": signed.url, "headers": signed.headers}, bytes(size)))[0] == 200
    status, refused = await client.complete(upload_id)
    assert (status, wrong(refused)) == (409, [(3, "size"), (5, "foreign")])
    assert [part["number"] for part in await client.parts(upload_id) if part["wrong"]] == [3, 5]
    assert await store.find(key, row.id) is None


async def test_the_store_refuses_other_sizes_and_other_bytes_than_were_declared(rig, client, store):
    """DM-01: and the upload can still be completed."""
    if not store.part_checksums:
        pytest.skip("a store that verifies no checksums of parts")
    digests = [sha256(part) for part in PARTS]
    upload_id, urls = await client.begin(len(DATA), part_checksums={"algorithm": "sha256", "values": digests})
    for other in (PARTS[0] + b"!", PARTS[0][:-1], bytes(PART_SIZE)):
        assert (await client.put(urls[0], other))[0] in (400, 403)
    assert all(part["etag"] is None for part in await client.parts(upload_id))
    etags = await client.send(urls, DATA)
    assert [part["checksum"] for part in await client.parts(upload_id)] == digests
    assert (await client.complete(upload_id, etags))[0] == 200
    assert await rig.stored(f"/{upload_id}") == DATA


@pytest.mark.parametrize(("algorithm", "digest"), [("sha256", sha256), ("crc64nvme", crc64)])
async def test_a_declared_checksum_of_the_whole_is_verified(rig, client, algorithm, digest):
    """I3: what is another file fails, and its object goes."""
    right, urls = await client.begin(len(DATA), checksum={"algorithm": algorithm, "value": digest(DATA)})
    await client.send(urls, DATA)
    assert (await client.complete(right))[0] == 200
    lying, urls = await client.begin(len(DATA), checksum={"algorithm": algorithm, "value": digest(b"another file")})
    await client.send(urls, DATA)
    status, refused = await client.complete(lying)
    assert (status, refused["code"]) == (410, "gone"), refused
    row = await rig.row(f"/{lying}")
    assert (row.state, algorithm in (row.reason or "")) == ("failed", True)
    rig.clock.now += 3600
    assert row.object_key in [each.key for each in await rig.database.due_garbage(100, 60.0)]
    assert (await rig.client.request("GET", f"/api/v1/files/{lying}/content")).status == 410


async def test_a_file_that_the_client_cuts_itself_is_what_it_names(rig, client):
    """Without a declared size nothing but the names of its parts says what belongs to it."""
    upload_id, urls = await client.begin(None)
    assert urls == []
    urls = await client.urls(upload_id, parts=[1, 2, 3])
    assert [url["size"] for url in urls] == [None, None, None]
    etags = {url["number"]: (await client.put(url, PARTS[url["number"] - 1]))[1] for url in urls}
    status, refused = await client.complete(upload_id)
    assert (status, refused["field"]) == (400, "parts")
    status, refused = await client.complete(upload_id, {1: etags[1], 2: etags[2]})
    assert (status, wrong(refused)) == (409, [(3, "foreign")])
    assert (await client.complete(upload_id, etags))[0] == 200
    assert await rig.stored(f"/{upload_id}") == DATA
    _, shown = await client.ask("GET", f"/{upload_id}")
    assert (shown["size"], shown["part_size"], shown["part_count"]) == (len(DATA), None, None)


async def test_parts_that_are_too_small_are_told_before_the_store_refuses_them(client):
    upload_id, _ = await client.begin(None)
    urls = await client.urls(upload_id, parts=[1, 2])
    etags = {url["number"]: (await client.put(url, b"tiny"))[1] for url in urls}
    status, refused = await client.complete(upload_id, etags)
    assert (status, wrong(refused)) == (409, [(1, "size")])


async def test_a_part_that_is_too_small_is_told_by_its_number_whatever_is_missing(here):
    """DM-02: also the last one that is there, where more of them were named."""
    upload_id, _ = await here.begin(None)
    etags = {url["number"]: (await here.put(url, b"tiny"))[1] for url in await here.urls(upload_id, parts=[2, 3])}
    _, refused = await here.complete(upload_id, {1: etags[2], **etags, 4: etags[2]})
    assert wrong(refused) == [(1, "missing"), (2, "size"), (3, "size"), (4, "missing")]


async def test_a_part_that_was_sent_again_counts_as_it_is_now(rig, client):
    """DM-02: the ETag that the client was told first is another one."""
    upload_id, urls = await client.begin(PART_SIZE)
    _, early = await client.put(urls[0], bytes(PART_SIZE))
    _, late = await client.put(urls[0], DATA[:PART_SIZE])
    status, refused = await client.complete(upload_id, {1: early})
    assert (status, wrong(refused)) == (409, [(1, "etag")])
    assert (await client.complete(upload_id, {1: late}))[0] == 200
    assert await rig.stored(f"/{upload_id}") == DATA[:PART_SIZE]


async def test_urls_change_nothing_once_the_file_is_there(rig, client):
    """DM-04, I9."""
    upload_id, urls = await client.begin(len(DATA))
    await client.send(urls, DATA)
    assert (await client.complete(upload_id))[0] == 200
    assert (await client.put(urls[0], bytes(PART_SIZE), expect100=True))[0] in (403, 404)
    assert await rig.stored(f"/{upload_id}") == DATA
    status, refused = await client.ask("POST", f"/{upload_id}/urls", {"parts": [1]})
    assert (status, refused["code"]) == (409, "parts_fixed")


@pytest.mark.parametrize("size", [len(DATA), None])
async def test_a_client_that_has_missed_the_end_finds_all_parts_there_and_completes_again(client, size):
    """DM-02, I9: the connection broke, or the page was paused, while Complete was answered."""
    upload_id, urls = await client.begin(size)
    etags = {}
    for number, part in enumerate(PARTS, 1):
        (url,) = [url for url in urls if url["number"] == number] or await client.urls(upload_id, parts=[number])
        etags[number] = (await client.put(url, part))[1]
    status, first = await client.complete(upload_id, etags)
    assert status == 200
    standing = await client.parts(upload_id)
    assert [(part["number"], part["size"], part["wrong"]) for part in standing] == [
        (number, len(part), []) for number, part in enumerate(PARTS, 1)
    ]
    assert [same_etag(part["etag"], etags[part["number"]]) for part in standing] == [True] * len(PARTS)
    assert await client.urls(upload_id) == []
    unread = dict.fromkeys(etags, "")  # by a page from which CORS hides them
    for named in (etags, {number: etag.strip('"').upper() for number, etag in etags.items()}, unread):
        assert await client.complete(upload_id, named) == (200, first)


async def test_a_complete_that_names_other_parts_than_the_file_was_made_of_is_refused(rig, client):
    """DM-02, I9: whoever asks must not take the file for another one; the file stays as it is."""
    upload_id, urls = await client.begin(len(DATA))
    etags = await client.send(urls, DATA)
    assert (await client.complete(upload_id))[0] == 200
    for named, expected in (
        ({**etags, 1: etags[2]}, [(1, "etag")]),
        ({1: etags[1], 2: etags[2]}, [(3, "not_named")]),
        ({**etags, 4: etags[1]}, [(4, "foreign")]),
    ):
        status, refused = await client.complete(upload_id, named)
        assert (status, wrong(refused)) == (409, expected), named
    assert (await client.complete(upload_id))[0] == 200
    assert await rig.stored(f"/{upload_id}") == DATA


async def test_an_object_that_somebody_else_has_completed_has_all_its_parts(rig, client):
    """Its parts are not known one by one any more, and nothing is to be sent."""
    upload_id, urls = await client.begin(len(DATA))
    etags = await client.send(urls, DATA)
    row = await rig.row(f"/{upload_id}")
    listed = await rig.store.list_parts(row.object_key, row.multipart_id)
    parts = [Part(part.number, 0, part.size, part.etag, part.crc64) for part in listed]
    await rig.store.complete_multipart(row.object_key, row.multipart_id, parts, -1, plan=row.plan)
    assert (await client.complete(upload_id, etags))[0] == 200
    assert [(part["number"], part["wrong"]) for part in await client.parts(upload_id)] == [(1, []), (2, []), (3, [])]
    assert (await client.complete(upload_id, etags))[0] == 200


async def test_an_aborted_upload_takes_nothing_more_and_leaves_nothing(rig, client):
    """DM-07, I11."""
    upload_id, urls = await client.begin(len(DATA))
    await client.send(urls[:1], DATA)
    row = await rig.row(f"/{upload_id}")
    assert (await client.ask("DELETE", f"/{upload_id}"))[0] == 204
    for ask in (client.complete(upload_id), client.ask("POST", f"/{upload_id}/urls", {})):
        status, refused = await ask
        assert (status, refused["code"]) == (410, "gone")
    due = [garbage for garbage in await rig.database.due_garbage(100, 0.0) if garbage.multipart_id]
    assert [garbage.multipart_id for garbage in due] == [row.multipart_id]
    await rig.store.abort_multipart(row.object_key, row.multipart_id)
    assert (await client.put(urls[1], PARTS[1], expect100=True))[0] == 404


async def test_twenty_completes_at_once_make_one_file(rig, client):
    """I4, I6."""
    upload_id, urls = await client.begin(len(DATA))
    etags = await client.send(urls, DATA)
    answers = await asyncio.gather(*(client.complete(upload_id, etags) for _ in range(20)))
    assert {status for status, _ in answers} <= {200, 202}
    assert await rig.stored(f"/{upload_id}") == DATA


async def test_what_the_store_has_thrown_away_is_told_as_a_loss(rig, client):
    """I4: MinIO does that to what is a day old."""
    upload_id, urls = await client.begin(len(DATA))
    await client.send(urls, DATA)
    row = await rig.row(f"/{upload_id}")
    await rig.store.abort_multipart(row.object_key, row.multipart_id)
    status, refused = await client.complete(upload_id)
    assert (status, refused["code"]) == (410, "gone")
    assert (await rig.row(f"/{upload_id}")).state == "failed"


async def test_a_creation_that_finds_an_upload_without_its_parts_makes_a_new_one(rig, client):
    """The store has thrown away what the fingerprint finds: nobody who creates something is told that it is gone."""
    wanted = {"size": len(DATA), "fingerprint": "client:mine"}
    lost, _ = await client.begin(**wanted)
    row = await rig.row(f"/{lost}")
    await rig.store.abort_multipart(row.object_key, row.multipart_id)
    status, begun = await client.ask("POST", "", wanted)
    assert (status, [url["number"] for url in begun["parts"]["urls"]]) == (201, [1, 2, 3])
    assert (await rig.row(f"/{lost}")).state == "failed"


async def test_urls_can_be_asked_for_again_page_by_page_and_for_no_longer_than_allowed(here):
    """DM-08."""
    upload_id, urls = await here.begin(25 * PART_SIZE, urls=10)
    assert len(urls) == 10
    status, page = await here.ask("POST", f"/{upload_id}/urls", {"after": 10, "limit": 10, "seconds": 604_800})
    assert (status, [url["number"] for url in page["urls"]], page["next_after"]) == (200, [*range(11, 21)], 20)
    assert all(f"X-Amz-Expires={URL_TTL}" in url["url"] for url in page["urls"])
    status, page = await here.ask("POST", f"/{upload_id}/urls", {"after": 20, "limit": 10, "seconds": 5})
    assert ([url["number"] for url in page["urls"]], page["next_after"]) == ([*range(21, 26)], None)
    assert all("X-Amz-Expires=5&" in url["url"] for url in page["urls"])
    assert (await here.ask("POST", f"/{upload_id}/urls", {"limit": MOST_URLS + 1}))[0] == 400


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"size": -1}, "size"),
        ({"size": 2**63}, "size"),
        ({"size": "5"}, "size"),
        ({"size": 5, "filename": "../etc/passwd"}, "filename"),
        ({"size": 5, "key": "../../other"}, "key"),
        ({"size": 5, "metadata": {"a b": "x"}}, "metadata.a b.[key]"),
        ({"size": 5, "checksum": {"algorithm": "md5", "value": "AAAA"}}, "checksum.algorithm"),
        ({"size": 5, "checksum": {"algorithm": "sha256", "value": "AAAA"}}, "checksum"),
        ({"size": 0, "checksum": {"algorithm": "sha256", "value": sha256(b"x")}}, "checksum"),
        ({"part_checksums": {"algorithm": "sha256", "values": [sha256(b"x")]}}, "part_checksums"),
        ({"size": 5, "part_checksums": {"algorithm": "sha256", "values": [sha256(b"x")] * 2}}, "part_checksums.values"),
        ({"size": 5, "urls": 1001}, "urls"),
        ({"size": 5, "part_size": 0}, "part_size"),
    ],
)
async def test_what_cannot_be_planned_is_refused_before_anything_is_made(here, body, field):
    """DM-06."""
    status, refused = await here.ask("POST", "", body)
    assert (status, refused["field"]) == (400, field), refused


async def test_a_file_that_is_too_large_is_refused_before_a_url_is_made(here):
    status, refused = await here.ask("POST", "", {"size": 100 * PART_SIZE + 1})
    assert (status, refused["code"]) == (413, "too_large")


async def test_a_wish_for_parts_is_kept_within_what_the_store_takes(here):
    for wish, expected in ((1, PART_SIZE), (6 * 1024 * 1024, 6 * 1024 * 1024), (2**60, 5120 * 1024 * 1024)):
        _, begun = await here.ask("POST", "", {"size": 20 * PART_SIZE, "part_size": wish})
        assert begun["upload"]["part_size"] == expected


async def test_no_part_can_be_signed_that_the_upload_does_not_have(here):
    """DM-06, I13."""
    upload_id, _ = await here.begin(3 * PART_SIZE)
    for parts in ([0], [-1], [4], [10_001], [1, 4], ["../1"]):
        status, refused = await here.ask("POST", f"/{upload_id}/urls", {"parts": parts})
        assert (status, refused["field"].partition(".")[0]) == (400, "parts")
    open_ended, _ = await here.begin(None)
    for parts in ([0], [10_001]):
        assert (await here.ask("POST", f"/{open_ended}/urls", {"parts": parts}))[0] == 400
    assert (await here.ask("POST", f"/{open_ended}/urls", {}))[0] == 400
    assert (await here.ask("POST", f"/{UNKNOWN}/urls", {}))[0] == 404


async def test_an_upload_goes_through_one_door_only(here):
    """DM-12, I3, I6: neither door writes to, or completes, what was begun at the other one."""
    direct, _ = await here.begin(len(DATA))
    path, gateway = f"/files/{direct}", here.gateway
    for answer in (
        await gateway.patch(path, 0, DATA[:10]),
        await gateway.head(path),
        await RufhClient(gateway, None).append(path, 0, DATA[:10], ends=False),
        await RufhClient(gateway, None).head(path),
    ):
        assert answer.status == 409, answer
    through = (await gateway.create(len(DATA))).rpartition("/")[2]
    for method, rest, body in (
        ("GET", "", None),
        ("GET", "/parts", None),
        ("POST", "/urls", {}),
        ("POST", "/complete", {}),
        ("DELETE", "", None),
    ):
        status, refused = await here.ask(method, f"/{through}{rest}", body)
        assert (status, refused["code"]) == (409, "not_direct")
    assert (await gateway.head(f"/files/{through}")).offset == 0
    answer = await gateway.post({"Upload-Concat": f"final;/files/{direct}"})
    assert answer.status == 400


async def test_only_its_owner_gets_urls(tmp_path, double, http):
    """DM-06, I13: what belongs to others is answered as what does not exist."""
    async with guarded(tmp_path, store=double) as here:
        alice = DirectClient(here.client, http, await here.who(ALICE))
        upload_id, urls = await alice.begin(len(DATA))
        for scope in (BOB, EVE):
            other = DirectClient(here.client, http, await here.who(scope))
            for method, rest, body in (
                ("GET", "", None),
                ("GET", "/parts", None),
                ("POST", "/urls", {}),
                ("POST", "/complete", {}),
                ("DELETE", "", None),
            ):
                assert await other.ask(method, f"/{upload_id}{rest}", body) == await other.ask(
                    method, f"/{UNKNOWN}{rest}", body
                )
        second_device = DirectClient(here.client, http, await here.who(ALICE))
        await second_device.send(await second_device.urls(upload_id), DATA)
        assert (await alice.complete(upload_id))[0] == 200
        assert urls


async def test_an_upload_token_binds_direct_uploads_too(tmp_path, double, http):
    async with guarded(tmp_path, store=double) as here:
        limited = {"max_size": 2 * PART_SIZE, "types": ["image/png"], "metadata": {"album": "7"}}
        client = DirectClient(here.client, http, upload_token(jti="direct", **limited))
        assert (await client.ask("POST", "", {"size": 3 * PART_SIZE, "content_type": "image/png"}))[0] == 413
        assert (await client.ask("POST", "", {"size": 5, "content_type": "text/html"}))[0] == 403
        upload_id, _ = await client.begin(None, content_type="image/png")
        row = await here.rig.row(f"/{upload_id}", ALICE)
        assert b"album " in (row.metadata or b"")
        urls = await client.urls(upload_id, parts=[1, 2, 3])
        etags = {url["number"]: (await client.put(url, PARTS[url["number"] - 1]))[1] for url in urls}
        status, refused = await client.complete(upload_id, etags)
        assert (status, refused["code"]) == (413, "too_large")
        status, refused = await client.ask("POST", "", {"size": 5, "content_type": "image/png"})
        assert (status, refused["code"]) == (403, "token_spent")


async def test_a_spent_token_gives_its_upload_again_to_the_same_file_only(tmp_path, double, http):
    """A client that has missed the answer begins again; two files of one size must not become one."""
    async with guarded(tmp_path, store=double) as here:
        client = DirectClient(here.client, http, upload_token(jti="direct"))
        upload_id, urls = await client.begin(len(DATA))
        status, again = await client.ask("POST", "", {"size": len(DATA)})
        assert (status, again["upload"]["id"]) == (200, upload_id)
        digests = {"algorithm": "sha256", "values": [sha256(part) for part in PARTS]}
        for other in ({"part_checksums": digests}, {"fingerprint": "client:other"}):
            assert (await client.ask("POST", "", {"size": len(DATA), **other}))[0] == 403
        await client.put(urls[0], PARTS[0])
        status, refused = await client.ask("POST", "", {"size": len(DATA)})
        assert (status, refused["code"]) == (403, "token_spent"), "its bytes would meet those of another file"


async def test_a_spent_token_gives_its_upload_again_to_who_tells_the_file(tmp_path, double, http):
    async with guarded(tmp_path, store=double) as here:
        client = DirectClient(here.client, http, upload_token(jti="direct"))
        upload_id, urls = await client.begin(len(DATA), fingerprint="client:mine")
        await client.put(urls[0], PARTS[0])
        status, again = await client.ask("POST", "", {"size": len(DATA), "fingerprint": "client:mine"})
        assert (status, again["upload"]["id"]) == (200, upload_id)
        assert [url["number"] for url in again["parts"]["urls"]] == [2, 3]


OPERATIONS = {
    (Route.DIRECT_UPLOADS, "POST"): ("", {"size": 5}),
    (Route.FINGERPRINT, "GET"): ("/../fingerprints/client/mine", None),
    (Route.DIRECT_UPLOAD, "GET"): ("/%s", None),
    (Route.PLAN, "PUT"): ("/%s/plan", {}),
    (Route.PARTS, "GET"): ("/%s/parts", None),
    (Route.PART_URLS, "POST"): ("/%s/urls", {}),
    (Route.COMPLETION, "POST"): ("/%s/complete", {}),
    (Route.DIRECT_UPLOAD, "DELETE"): ("/%s", None),
}


@pytest.mark.parametrize("permission", [*Permission, None])
async def test_a_permission_allows_exactly_what_it_is_for(tmp_path, double, http, permission):
    """AT-03."""
    async with guarded(tmp_path, store=double) as here:
        alice = DirectClient(here.client, http, await here.who(ALICE))
        held = frozenset({permission} if permission is not None else ())
        client = DirectClient(here.client, http, await here.who(ALICE, held))
        for key, (path, body) in OPERATIONS.items():
            upload_id, _ = await alice.begin(5)
            status, answer = await client.ask(key[1], path.replace("%s", upload_id), body)
            assert (status == 403) == (not REQUIRED[key] & held), (key, answer)
            assert status != 403 or answer["code"] == "permission_missing"


async def test_every_operation_is_in_the_table_of_permissions(here):
    operations = DirectApi(WebConfig(), here, here).operations()
    assert {(operation.route, operation.method) for operation in operations} == set(OPERATIONS)


async def test_where_there_are_no_urls_there_are_no_direct_uploads(tmp_path, http):
    async with running(tmp_path) as rig:
        status, refused = await DirectClient(rig.client, http).ask("POST", "", {"size": 5})
        assert (status, refused["code"]) == (501, "direct_off")
        assert await rig.count() == 0


async def test_a_direct_upload_is_listed_with_the_way_to_go_on(here):
    upload_id, _ = await here.begin(len(DATA))
    answer = await here.gateway.request("GET", f"/api/v1/files/{upload_id}")
    assert f'"upload":"http://gateway.test{UPLOADS}/{upload_id}"'.encode() in answer.body


async def test_asking_for_urls_keeps_an_upload_alive(tmp_path, double, http):
    """DM-10: and nothing else does, as nobody sees the bytes."""
    async with running(tmp_path, store=double) as rig:
        client = DirectClient(rig.client, http)
        kept, _ = await client.begin(len(DATA))
        left, _ = await client.begin(len(DATA))
        rig.clock.now += 3000
        await client.urls(kept)
        rig.clock.now += 3000
        await rig.database.expire(100)
        assert (await client.ask("POST", f"/{kept}/urls", {}))[0] == 200
        assert (await client.ask("POST", f"/{left}/urls", {}))[0] == 410


async def test_a_file_that_is_not_of_its_type_fails_where_the_tenant_looks(tmp_path, double, http):
    tenants = Tenants([Tenant(checks_content=True, types=("image/*",))])
    async with running(tmp_path, store=double, tenants=tenants) as rig:
        client = DirectClient(rig.client, http)
        upload_id = ""
        for head, status in ((b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100), 200), (b"MZ" + bytes(200), 410)):
            upload_id, urls = await client.begin(len(head), content_type="image/png")
            await client.put(urls[0], head)
            assert (await client.complete(upload_id))[0] == status
        assert (await rig.row(f"/{upload_id}")).state == "failed"
        rig.clock.now += 3600
        assert upload_id in [each.key for each in await rig.database.due_garbage(100, 60.0)]


async def test_hooks_see_the_requests_and_answer_them_without_taking_the_place_of_what_clients_need(
    tmp_path, double, http
):
    async with hook_server() as server:
        receiver = HookReceiver(url=server.receiver.url, secrets=(), allowed=server.receiver.allowed)
        hook = HttpHook(HttpHookConfig(name="app", receiver=receiver, retries=0))
        hooks = Hooks([Asked(hook=hook, moments=frozenset({Moment.CREATE, Moment.FINISH}))])
        words = {"StatusCode": 204, "Body": "fine", "Header": {"X-Note": "fine", "Content-Type": "text/plain"}}
        server.answers = {"pre-create": {"HTTPResponse": words}, "pre-finish": {"HTTPResponse": words}}
        async with running(tmp_path, store=double, hooks=hooks) as rig:
            client = DirectClient(rig.client, http)
            body = json.dumps({"size": len(DATA)}).encode()
            begun = await rig.client.request("POST", UPLOADS, {"Content-Type": "application/json"}, body)
            assert (begun.status, begun.headers["X-Note"]) == (201, "fine")
            assert begun.headers["Content-Type"].startswith("application/json")
            upload_id = json.loads(begun.body)["upload"]["id"]
            await client.send(await client.urls(upload_id), DATA)
            assert (await client.complete(upload_id))[0] == 200
            assert server.event("pre-finish")["HTTPRequest"]["Method"] == "POST"
            server.answers["pre-finish"] = {"RejectUpload": True, "HTTPResponse": {"StatusCode": 451}}
            refused, urls = await client.begin(len(DATA))
            await client.send(urls, DATA)
            assert (await client.complete(refused))[0] == 451
            assert (await rig.row(f"/{refused}")).state == "failed"
        await hooks.close()


async def test_a_tenant_has_its_own_store_and_its_quota_counts(tmp_path, double, http):
    """I14: what was not declared counts when it is there."""
    tenants = Tenants([Tenant(route="its own", quota=Quota(bytes=100))])
    async with running(tmp_path, others={"its own": double}, tenants=tenants) as rig:
        client = DirectClient(rig.client, http)
        status, refused = await client.ask("POST", "", {"size": 101})
        assert (status, refused["code"]) == (413, "quota_exceeded")
        upload_id, _ = await client.begin(None)
        for size, expected in ((101, 413), (100, 200)):
            (url,) = await client.urls(upload_id, parts=[1])
            _, etag = await client.put(url, bytes(size))
            assert (await client.complete(upload_id, {1: etag}))[0] == expected
        row = await rig.row(f"/{upload_id}")
        assert (row.route, await double.find(row.object_key, row.id) is not None) == ("its own", True)


async def test_a_file_that_its_client_has_compressed_comes_back_as_it_was_sent(tmp_path, http):
    """Never inflated: sizes, digests and ranges are of the bytes that were sent."""
    packed = gzip.compress(random.Random(4).randbytes(PART_SIZE) + bytes(PART_SIZE))
    coded = {"content_type": "text/plain", "content_encoding": "gzip", "fingerprint": "client:packed"}
    whole = {"algorithm": "sha256", "value": sha256(packed)}
    async with store_on_double() as store, running(tmp_path, store=store) as rig:
        client = DirectClient(rig.client, http)
        upload_id, urls = await client.begin(len(packed), checksum=whole, **coded)
        status, again = await client.ask("POST", "", {"size": len(packed), "checksum": whole, **coded})
        assert (status, again["upload"]["id"]) == (200, upload_id)
        plain = {**coded, "content_encoding": None}
        assert (await client.ask("POST", "", {"size": len(packed), "checksum": whole, **plain}))[0] == 201
        await client.send(urls, packed)
        assert (await client.complete(upload_id))[0] == 200
        head = await store._head(store._full((await rig.row(f"/{upload_id}")).object_key))
        assert head is not None
        assert head["ContentEncoding"] == "gzip"
        _, file = await client.ask("GET", f"/../files/{upload_id}")
        assert (file["content_encoding"], file["size"]) == ("gzip", len(packed))
        path = f"/api/v1/files/{upload_id}/content"
        for method in ("GET", "HEAD"):
            answer = await rig.client.request(method, path, {"Accept-Encoding": "identity"})
            assert (answer.status, answer.headers["Content-Encoding"]) == (200, "gzip")
            assert answer.headers["Content-Length"] == str(len(packed))
            assert answer.body == (packed if method == "GET" else b"")
        answer = await rig.client.request("GET", path, {"Range": "bytes=5-99", "Accept-Encoding": "gzip;q=0"})
        assert (answer.status, answer.headers["Content-Encoding"], answer.body) == (206, "gzip", packed[5:100])


@pytest.mark.parametrize("coding", ["", "GZIP", "identity", "gzip, br", "compress", 7])
async def test_a_coding_that_clients_cannot_undo_is_refused(client, coding):
    status, refused = await client.ask("POST", "", {"size": 5, "content_encoding": coding})
    assert (status, refused["field"]) == (400, "content_encoding")
