"""The S3 store when calls fail: on MinIO and its double behind a fault proxy, and on answers that no store gave."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from awscrt.checksums import crc64nvme
from structlog.testing import capture_logs

from tests.contract.test_object_store import (
    KEY,
    MIB,
    OURS,
    body_of,
    content,
    some_bytes,
    store_piece,
    upload_parts,
)
from tests.doubles.s3.behaviour import MINIO
from tests.doubles.s3.server import S3Double
from tests.fault.proxy import Drop, DropAnswer, FlipByte, Gate, ReplaceAnswer, Reply, S3FaultProxy, s3_error
from tests.servers.process import free_port
from tusgate.core.errors import MultipartLost, ObjectLost, StoreUnavailable
from tusgate.core.model import MultipartId, ObjectKey, Part
from tusgate.ports import Body
from tusgate.s3.config import S3Config
from tusgate.s3.profiles import PROFILES, ChecksumMode, Profile
from tusgate.s3.retry import TRIES
from tusgate.s3.store import S3Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.servers.s3 import S3Server

DATA = some_bytes(5 * MIB + 7)
BODY = body_of(DATA)
UNAVAILABLE = s3_error(503, "ServiceUnavailable")
AT_ONCE = Reply(503, UNAVAILABLE.body, {"Retry-After": "0"})
BROKEN = s3_error(500, "InternalError")
PAGE = Reply(404, b"<html><h1>Not Found</h1></html>", {"Content-Type": "text/html"})
MULTIPART = MultipartId("some-multipart-upload")


@dataclasses.dataclass
class Rig:
    """A store whose calls pass a proxy."""

    store: S3Store
    proxy: S3FaultProxy


@asynccontextmanager
async def behind_proxy(config: S3Config) -> AsyncIterator[Rig]:
    async with S3FaultProxy(config.endpoint) as proxy:
        store = S3Store(dataclasses.replace(config, endpoint=proxy.url))
        try:
            yield Rig(store, proxy)
        finally:
            await store.close()


@dataclasses.dataclass
class Place:
    """An empty bucket of a server. The server's methods block: they belong in a thread."""

    server: S3Server
    bucket: str

    def config(self, profile: Profile = PROFILES["minio"]) -> S3Config:
        server = self.server
        return S3Config(
            server.endpoint, server.region, self.bucket, "p/", server.access_key, server.secret_key, profile=profile
        )

    async def keys(self) -> list[str]:
        return await asyncio.to_thread(self.server.keys, self.bucket)


@pytest.fixture(
    params=[pytest.param("double", marks=pytest.mark.slow), pytest.param("minio", marks=pytest.mark.servers)]
)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    if request.param == "minio":
        yield Place(request.getfixturevalue("minio"), request.getfixturevalue("bucket"))
        return
    async with S3Double(MINIO) as double:
        double.make_bucket("bucket")
        yield Place(double.as_server(), "bucket")


@pytest.fixture
async def rig(place: Place) -> AsyncIterator[Rig]:
    async with behind_proxy(place.config()) as made:
        yield made


@pytest.fixture
async def alone() -> AsyncIterator[Rig]:
    """A proxy without any store behind it: every answer is the test's."""
    nobody = f"http://127.0.0.1:{free_port()}"
    async with behind_proxy(
        S3Config(nobody, "us-east-1", "bucket", "", "key", "secret", profile=PROFILES["minio"])
    ) as made:
        yield made


@pytest.mark.parametrize("fault", [AT_ONCE, BROKEN, Drop(), Drop(after=MIB), DropAnswer(), FlipByte(at=MIB)])
@pytest.mark.parametrize("times", [1, 2])
async def test_a_part_that_fails_on_its_way_is_sent_again(rig: Rig, fault: Reply | Drop, times: int) -> None:
    multipart_id = await rig.store.create_multipart(KEY, OURS)
    rule = rig.proxy.on("UploadPart", fault, times=times)

    etag = await rig.store.put_part(KEY, multipart_id, 1, BODY)

    assert rule.fired == times
    assert rig.proxy.history.count("UploadPart") == times + 1
    await rig.store.complete_multipart(KEY, multipart_id, [Part(1, 0, len(DATA), etag, BODY.crc64)], BODY.crc64)
    assert await content(rig.store, KEY) == DATA


@pytest.mark.parametrize("fault", [AT_ONCE, Drop(), DropAnswer(), FlipByte(at=MIB)])
async def test_an_object_that_fails_on_its_way_is_sent_again(rig: Rig, fault: Reply | Drop) -> None:
    rule = rig.proxy.on("PutObject", fault, times=1)

    stored = await rig.store.put_object(KEY, BODY, OURS)

    assert rule.fired == 1
    assert await rig.store.find(KEY, OURS.upload_id) == stored
    assert await content(rig.store, KEY) == DATA


async def test_pieces_are_read_again_when_a_part_is_sent_again(rig: Rig) -> None:
    piece = await store_piece(rig.store, DATA[: 2 * MIB], 0)
    body = Body(len(DATA), BODY.crc64, (piece,), buffers=[DATA[2 * MIB :]])
    multipart_id = await rig.store.create_multipart(KEY, OURS)
    sent = rig.proxy.on("UploadPart", Drop(after=3 * MIB), times=1)
    read = rig.proxy.on("GetObject", DropAnswer(after=MIB), times=1)

    etag = await rig.store.put_part(KEY, multipart_id, 1, body)

    assert (sent.fired, read.fired) == (1, 1)
    await rig.store.complete_multipart(KEY, multipart_id, [Part(1, 0, len(DATA), etag, BODY.crc64)], BODY.crc64)
    assert await content(rig.store, KEY) == DATA


async def test_a_piece_that_is_damaged_on_the_way_back_is_read_again(rig: Rig) -> None:
    piece = await store_piece(rig.store, DATA, 0)
    rule = rig.proxy.on("GetObject", FlipByte(at=MIB, of="answer"), times=1)

    stored = await rig.store.put_object(KEY, Body(len(DATA), BODY.crc64, (piece,)), OURS)

    assert rule.fired == 1
    assert await rig.store.find(KEY, OURS.upload_id) == stored


@pytest.mark.parametrize("at", [0, len(DATA) - 1])
async def test_a_piece_that_always_comes_back_damaged_is_never_stored_even_where_nothing_is_checked(
    place: Place, at: int
) -> None:
    profile = dataclasses.replace(PROFILES["minio"], checksum=ChecksumMode.NONE)
    async with behind_proxy(place.config(profile)) as rig:
        piece = await store_piece(rig.store, DATA, 0)
        rule = rig.proxy.on("GetObject", FlipByte(at=at, of="answer"))

        with pytest.raises(StoreUnavailable):
            await rig.store.put_object(KEY, Body(len(DATA), BODY.crc64, (piece,)), OURS)

        assert rule.fired == TRIES
    assert await place.keys() == ["p/pieces/1"]


async def test_bytes_that_are_damaged_every_time_are_refused(rig: Rig) -> None:
    rule = rig.proxy.on("PutObject", FlipByte(at=0))

    with pytest.raises(StoreUnavailable):
        await rig.store.put_object(KEY, BODY, OURS)

    assert rule.fired == TRIES
    assert await rig.store.find(KEY, OURS.upload_id) is None


async def test_content_md5_finds_damage_where_the_store_knows_no_better(place: Place) -> None:
    profile = dataclasses.replace(PROFILES["minio"], checksum=ChecksumMode.CONTENT_MD5)
    async with behind_proxy(place.config(profile)) as rig:
        piece = await store_piece(rig.store, DATA, 0)
        rule = rig.proxy.on("UploadPart", FlipByte(at=MIB), times=1)
        body = Body(2 * len(DATA), crc64nvme(DATA + DATA), (piece,), BODY.buffers)
        multipart_id = await rig.store.create_multipart(KEY, OURS)

        etag = await rig.store.put_part(KEY, multipart_id, 1, body)

        assert rule.fired == 1
        part = Part(1, 0, body.size, etag, body.crc64)
        await rig.store.complete_multipart(KEY, multipart_id, [part], body.crc64)
        assert await content(rig.store, KEY) == DATA + DATA


async def test_a_part_of_an_upload_that_vanished_under_broken_connections_is_lost(rig: Rig) -> None:
    multipart_id = await rig.store.create_multipart(KEY, OURS)
    await rig.store.abort_multipart(KEY, multipart_id)
    rule = rig.proxy.on("UploadPart", Drop())

    with pytest.raises(MultipartLost):
        await rig.store.put_part(KEY, multipart_id, 1, BODY)

    assert rule.fired == TRIES


async def test_a_complete_whose_answer_is_lost_is_not_sent_again_and_proven_by_the_object(rig: Rig) -> None:
    multipart_id = await rig.store.create_multipart(KEY, OURS)
    parts = await upload_parts(rig.store, KEY, multipart_id, [DATA])
    rig.proxy.on("CompleteMultipartUpload", DropAnswer(), times=1)

    with pytest.raises(StoreUnavailable):
        await rig.store.complete_multipart(KEY, multipart_id, parts, BODY.crc64)

    assert rig.proxy.history.count("CompleteMultipartUpload") == 1
    found = await rig.store.find(KEY, OURS.upload_id)
    assert found is not None
    assert (found.size, found.crc64) == (len(DATA), BODY.crc64)
    with pytest.raises(MultipartLost):
        await rig.store.complete_multipart(KEY, multipart_id, parts, BODY.crc64)
    assert await rig.store.find(KEY, OURS.upload_id) == found


@pytest.mark.parametrize(
    "answer",
    [
        ReplaceAnswer(200),
        ReplaceAnswer(200, b"   \n"),
        ReplaceAnswer(200, s3_error(200, "InternalError").body),
        ReplaceAnswer(200, b"<CompleteMultipartUploadResult><Bucket>trunc"),
        ReplaceAnswer(500),
    ],
)
async def test_a_complete_without_a_clear_answer_has_an_unknown_outcome(rig: Rig, answer: ReplaceAnswer) -> None:
    multipart_id = await rig.store.create_multipart(KEY, OURS)
    parts = await upload_parts(rig.store, KEY, multipart_id, [DATA])
    rule = rig.proxy.on("CompleteMultipartUpload", answer)

    with pytest.raises(StoreUnavailable):
        await rig.store.complete_multipart(KEY, multipart_id, parts, BODY.crc64)

    assert rule.fired == 1
    assert await rig.store.find(KEY, OURS.upload_id) is not None


async def test_an_abort_is_repeated_until_the_store_says_that_the_upload_is_gone(rig: Rig) -> None:
    multipart_id = await rig.store.create_multipart(KEY, OURS)
    await rig.store.put_part(KEY, multipart_id, 1, BODY)
    pretended = rig.proxy.on("AbortMultipartUpload", Reply(204), times=2)

    await rig.store.abort_multipart(KEY, multipart_id)

    assert pretended.fired == 2
    assert not await rig.store.multipart_exists(KEY, multipart_id)


async def test_an_upload_that_survives_every_abort_is_reported(rig: Rig) -> None:
    multipart_id = await rig.store.create_multipart(KEY, OURS)
    rig.proxy.on("AbortMultipartUpload", Reply(204))

    with pytest.raises(StoreUnavailable):
        await rig.store.abort_multipart(KEY, multipart_id)

    assert await rig.store.multipart_exists(KEY, multipart_id)


async def test_a_head_404_for_an_object_that_is_there_is_not_believed(rig: Rig) -> None:
    stored = await rig.store.put_object(KEY, BODY, OURS)
    rule = rig.proxy.on("HeadObject", PAGE, times=1)

    assert await rig.store.find(KEY, OURS.upload_id) == stored

    assert rule.fired == 1
    rig.proxy.on("HeadObject", PAGE)
    with pytest.raises(StoreUnavailable):
        await rig.store.find(KEY, OURS.upload_id)


async def test_a_read_that_is_cut_goes_on_where_it_broke(rig: Rig) -> None:
    await rig.store.put_object(KEY, BODY, OURS)
    rule = rig.proxy.on("GetObject", DropAnswer(after=2 * MIB), times=2)

    assert await content(rig.store, KEY) == DATA

    assert rule.fired == 2
    rig.proxy.history.clear()
    assert await content(rig.store, KEY, MIB, 100) == DATA[MIB : MIB + 100]


async def test_a_read_that_is_always_cut_never_ends_quietly(rig: Rig) -> None:
    await rig.store.put_object(KEY, BODY, OURS)
    rule = rig.proxy.on("GetObject", DropAnswer(after=0))

    with pytest.raises(StoreUnavailable):
        await content(rig.store, KEY)

    assert rule.fired == TRIES


async def test_a_read_does_not_mix_two_objects(rig: Rig) -> None:
    await rig.store.put_object(KEY, BODY, OURS)
    rig.proxy.on("GetObject", DropAnswer(after=2 * MIB), nth=1)
    gate = Gate()
    rig.proxy.on("GetObject", gate, nth=2)
    reading = asyncio.create_task(content(rig.store, KEY))
    await gate.reached.wait()

    await rig.store.put_object(KEY, body_of(some_bytes(len(DATA), 5)), OURS)
    gate.open()

    with pytest.raises(ObjectLost):
        await reading


async def test_objects_are_deleted_one_by_one_where_the_store_cannot_do_better(place: Place) -> None:
    profile = dataclasses.replace(PROFILES["minio"], bulk_delete=False)
    keys = [ObjectKey(f"pieces/{number}") for number in range(20)]
    async with behind_proxy(place.config(profile)) as rig:
        for key in keys:
            await rig.store.put_object(key, body_of(b"x"), OURS)
        rule = rig.proxy.on("DeleteObject", BROKEN, nth=3)

        await rig.store.delete_objects(keys)

        assert rule.fired == 1
        assert rig.proxy.history.count("DeleteObjects") == 0
    assert await place.keys() == []


async def test_objects_keep_their_content_type_and_stay_under_the_prefix(place: Place) -> None:
    store = S3Store(place.config())
    other = ObjectKey("other")
    await store.put_object(other, body_of(b"x"), OURS)
    multipart_id = await store.create_multipart(KEY, OURS)
    parts = await upload_parts(store, KEY, multipart_id, [DATA])
    await store.complete_multipart(KEY, multipart_id, parts, BODY.crc64)
    await store.close()

    assert await place.keys() == ["p/other", f"p/{KEY}"]
    for key in (KEY, other):
        look = place.server.client().stat_object
        found = await asyncio.to_thread(look, bucket_name=place.bucket, object_name=f"p/{key}")
        assert found.content_type == OURS.content_type


async def test_objects_keep_their_content_coding(place: Place) -> None:
    store = S3Store(place.config())
    other, coded = ObjectKey("other"), dataclasses.replace(OURS, content_coding="gzip")
    await store.put_object(other, body_of(b"x"), coded)
    multipart_id = await store.create_multipart(KEY, coded)
    parts = await upload_parts(store, KEY, multipart_id, [DATA])
    await store.complete_multipart(KEY, multipart_id, parts, BODY.crc64)
    await store.close()

    for key in (KEY, other):
        look = place.server.client().stat_object
        found = await asyncio.to_thread(look, bucket_name=place.bucket, object_name=f"p/{key}")
        assert found.metadata is not None
        assert found.metadata["Content-Encoding"] == "gzip"


async def test_the_store_is_found_again_after_a_restart(place: Place) -> None:
    store = S3Store(place.config())
    multipart_id = await store.create_multipart(KEY, OURS)
    before = await upload_parts(store, KEY, multipart_id, [DATA])

    await asyncio.to_thread(place.server.stop)
    with pytest.raises(StoreUnavailable):
        await store.put_part(KEY, multipart_id, 1, BODY)
    with pytest.raises(StoreUnavailable):
        await store.find(KEY, OURS.upload_id)
    await asyncio.to_thread(place.server.start)

    assert await upload_parts(store, KEY, multipart_id, [DATA]) == before
    await store.close()


@pytest.mark.parametrize("wrong", ["secret key", "access key", "bucket"])
async def test_a_store_that_rejects_us_is_unavailable_and_logged_without_secrets(place: Place, wrong: str) -> None:
    config = place.config()
    match wrong:
        case "secret key":
            config = dataclasses.replace(config, secret_key="not-the-secret")
        case "access key":
            config = dataclasses.replace(config, access_key="nobody", secret_key="not-the-secret")
        case _:
            config = dataclasses.replace(config, bucket="no-such-bucket")
    store = S3Store(config)

    with capture_logs() as logs:
        with pytest.raises(StoreUnavailable):
            await store.check()
        with pytest.raises(StoreUnavailable) as refused:
            await store.put_object(KEY, BODY, OURS)
        with pytest.raises(StoreUnavailable):
            await store.find(KEY, OURS.upload_id)
    await store.close()

    assert [entry["log_level"] for entry in logs] == ["error"] * 3
    shown = f"{logs} {refused.value!r} {refused.value.__cause__!r}"
    assert config.secret_key not in shown


@pytest.mark.slow
@pytest.mark.parametrize("answer", [Reply(404), PAGE, Reply(403), Reply(500), Reply(502, b"<html>"), Reply(301)])
async def test_a_vague_answer_is_never_taken_for_absence(alone: Rig, answer: Reply) -> None:
    alone.proxy.on("*", answer)

    with pytest.raises(StoreUnavailable):
        await alone.store.find(KEY, OURS.upload_id)
    with pytest.raises(StoreUnavailable):
        await alone.store.multipart_exists(KEY, MULTIPART)
    with pytest.raises(StoreUnavailable):
        await alone.store.abort_multipart(KEY, MULTIPART)
    with pytest.raises(StoreUnavailable):
        await alone.store.put_part(KEY, MULTIPART, 1, BODY)
    with pytest.raises(StoreUnavailable):
        await alone.store.complete_multipart(KEY, MULTIPART, [Part(1, 0, 1, "e", 1)], 1)
    with pytest.raises(StoreUnavailable):
        await alone.store.list_multiparts(KEY)


async def test_no_such_key_is_absence_of_an_object_and_loss_of_a_multipart_upload(alone: Rig) -> None:
    alone.proxy.on("*", s3_error(404, "NoSuchKey"))

    assert await alone.store.find(KEY, OURS.upload_id) is None
    assert not await alone.store.multipart_exists(KEY, MULTIPART)
    with pytest.raises(MultipartLost):
        await alone.store.put_part(KEY, MULTIPART, 1, BODY)


async def test_three_tries_are_made_and_no_more_and_one_to_begin_a_multipart_upload(alone: Rig) -> None:
    """Each CreateMultipartUpload may leave one behind, so the caller repeats it, with an intent for each."""
    alone.proxy.on("*", BROKEN)

    with pytest.raises(StoreUnavailable):
        await alone.store.put_object(KEY, BODY, OURS)
    with pytest.raises(StoreUnavailable):
        await alone.store.create_multipart(KEY, OURS)

    assert alone.proxy.history.count("PutObject") == TRIES
    assert alone.proxy.history.count("CreateMultipartUpload") == 1


async def test_a_store_that_wants_to_be_left_alone_for_long_is_left_alone(alone: Rig) -> None:
    alone.proxy.on("*", Reply(503, UNAVAILABLE.body, {"Retry-After": "60"}))

    with pytest.raises(StoreUnavailable):
        await alone.store.put_object(KEY, BODY, OURS)
    with pytest.raises(StoreUnavailable):
        await alone.store.find(KEY, OURS.upload_id)

    assert alone.proxy.history.count() == 2


async def test_a_store_that_ignores_the_range_is_not_believed(alone: Rig) -> None:
    alone.proxy.on("GetObject", Reply(200, DATA[:100]))

    with pytest.raises(StoreUnavailable):
        await content(alone.store, KEY, 10, 20)


@pytest.mark.slow
async def test_a_part_that_the_store_took_without_an_etag_is_not_stored(alone: Rig) -> None:
    alone.proxy.on("UploadPart", Reply(200))

    with pytest.raises(StoreUnavailable):
        await alone.store.put_part(KEY, MULTIPART, 1, BODY)


async def test_a_store_that_confirms_other_bytes_is_not_believed(alone: Rig) -> None:
    alone.proxy.on("PutObject", Reply(200, b"", {"ETag": '"e"', "x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}))

    with pytest.raises(StoreUnavailable):
        await alone.store.put_object(KEY, BODY, OURS)


async def test_objects_that_could_not_be_deleted_are_reported(alone: Rig) -> None:
    errors = b"<DeleteResult><Error><Key>a</Key><Code>InternalError</Code></Error></DeleteResult>"
    alone.proxy.on("DeleteObjects", Reply(200, errors))

    with pytest.raises(StoreUnavailable):
        await alone.store.delete_objects([ObjectKey("a"), ObjectKey("b")])
