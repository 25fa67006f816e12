"""Parts that a store makes of what it holds: one suite over all stores, and on answers that no store gave."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

import pytest
from awscrt.checksums import combine_crc64nvme, crc64nvme

from tests.contract.test_object_store import (
    KEY,
    MIB,
    OURS,
    SMALL,
    THEIRS,
    body_of,
    content,
    part_size,
    s3_store,
    some_bytes,
    store,
)
from tests.contract.test_object_store_faults import MULTIPART, Place, Rig, alone, behind_proxy, place, rig
from tests.doubles.s3.behaviour import AWS
from tests.doubles.s3.server import S3Double
from tests.doubles.store import MemoryStore
from tests.fault.proxy import Drop, DropAnswer, Gate, ReplaceAnswer, Reply, s3_error
from tusgate.core.errors import MultipartLost, PieceLost, StoreRefused, StoreUnavailable
from tusgate.core.model import MultipartId, ObjectKey, Part, Piece, StoredObject
from tusgate.ports import Body
from tusgate.s3.profiles import PROFILES
from tusgate.s3.retry import TRIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.servers.s3 import S3Server
    from tusgate.ports import SurveyedStore

__all__ = ["alone", "place", "rig", "store"]

SOURCE = ObjectKey("partial/1")


async def stored_source(store: SurveyedStore, data: bytes, key: ObjectKey = SOURCE) -> ObjectKey:
    await store.put_object(key, body_of(data), THEIRS)
    return key


def span(data: bytes, start: int, end: int, key: ObjectKey = SOURCE) -> Piece:
    """Return bytes `[start, end)` of the object at `key`, which holds `data`."""
    return Piece(0, end - start, crc64nvme(data[start:end]), key, skip=start)


async def put_together(
    store: SurveyedStore, key: ObjectKey, sources: Sequence[Piece | bytes], crc64: int | None = None
) -> None:
    """Make an object of copied pieces and uploaded bytes, one part each, all at once."""
    multipart_id = await store.create_multipart(key, OURS, with_copies=True)

    async def make(number: int, source: Piece | bytes) -> Part:
        if isinstance(source, Piece):
            etag = await store.copy_part(key, multipart_id, number, source)
            return Part(number, 0, source.size, etag, source.crc64)
        etag = await store.put_part(key, multipart_id, number, body_of(source))
        return Part(number, 0, len(source), etag, crc64nvme(source))

    parts = await asyncio.gather(*(make(number, source) for number, source in enumerate(sources, 1)))
    whole = 0
    for part in parts:
        whole = combine_crc64nvme(whole, part.crc64, part.size)
    await store.complete_multipart(key, multipart_id, parts, whole if crc64 is None else crc64, with_copies=True)


async def assert_stored(store: SurveyedStore, key: ObjectKey, data: bytes) -> None:
    """An object is there, ours, and whole; a checksum of it that the store shows is the right one."""
    found = await store.find(key, OURS.upload_id)
    assert found is not None
    assert found.crc64 in (crc64nvme(data), -1)
    assert found == StoredObject(key, len(data), found.etag, found.crc64)
    assert await content(store, key) == data


@pytest.mark.parametrize("size", [1, SMALL, 5 * MIB, 5 * MIB + 1])
async def test_a_whole_object_becomes_a_part(store: SurveyedStore, size: int) -> None:
    data = some_bytes(size)
    await stored_source(store, data)

    await put_together(store, KEY, [span(data, 0, size)])

    await assert_stored(store, KEY, data)
    assert await content(store, SOURCE) == data
    assert await store.owner_of(SOURCE) == THEIRS.upload_id


@pytest.mark.parametrize(
    ("start", "end"), [(0, 5 * MIB), (0, 1), (3, 5 * MIB + 4), (6 * MIB, 6 * MIB + 11), (6 * MIB + 10, 6 * MIB + 11)]
)
async def test_a_range_of_an_object_becomes_a_part(store: SurveyedStore, start: int, end: int) -> None:
    data = some_bytes(6 * MIB + 11)
    await stored_source(store, data)

    await put_together(store, KEY, [span(data, start, end)])

    await assert_stored(store, KEY, data[start:end])


async def test_copied_and_uploaded_parts_together_become_an_object(store: SurveyedStore) -> None:
    one, two = some_bytes(11 * MIB, 1), some_bytes(part_size(store) + 7, 2)
    other = ObjectKey("partial/2")
    await stored_source(store, one)
    await stored_source(store, two, other)
    uploaded, last = some_bytes(part_size(store), 3), two[5:99]

    await put_together(
        store,
        KEY,
        [
            span(one, MIB + 1, 7 * MIB),
            uploaded,
            span(two, 0, len(two), other),
            span(one, 0, 6 * MIB),
            span(two, 5, 99, other),
        ],
    )

    await assert_stored(store, KEY, one[MIB + 1 : 7 * MIB] + uploaded + two + one[: 6 * MIB] + last)


async def test_an_object_may_be_made_of_one_that_was_made_of_others(store: SurveyedStore) -> None:
    data = some_bytes(7 * MIB)
    await stored_source(store, data)
    await put_together(store, KEY, [span(data, 1, 6 * MIB), span(data, 0, 6 * MIB)])
    between = data[1 : 6 * MIB] + data[: 6 * MIB]
    again = ObjectKey("again")

    await put_together(store, again, [span(between, 2 * MIB, 9 * MIB, KEY), b"end"])

    await assert_stored(store, again, between[2 * MIB : 9 * MIB] + b"end")


@pytest.mark.parametrize("key", ["a b/c+d/ü€😀.bin", "100%/a%20b%2F", "x/!$&'()*,;=:@~^|.bin", "q?a=b&c#d"])
async def test_any_key_may_be_copied_from_and_to(store: SurveyedStore, key: str) -> None:
    data = some_bytes(5 * MIB + SMALL)
    source = await stored_source(store, data, ObjectKey(f"from/{key}"))
    target = ObjectKey(f"to/{key}")

    await put_together(store, target, [span(data, 0, len(data), source), span(data, SMALL, 2 * SMALL, source)])

    await assert_stored(store, target, data + data[SMALL : 2 * SMALL])


async def test_a_part_that_is_copied_again_replaces_the_first(store: SurveyedStore) -> None:
    data = some_bytes(6 * MIB)
    await stored_source(store, data)
    multipart_id = await store.create_multipart(KEY, OURS, with_copies=True)
    uploaded = await store.put_part(KEY, multipart_id, 1, body_of(b"other"))
    await store.copy_part(KEY, multipart_id, 1, span(data, 0, 6 * MIB))

    etags = {await store.copy_part(KEY, multipart_id, 1, span(data, 9, 4 * MIB)) for _ in range(3)}

    assert len(etags) == 1
    etag = etags.pop()
    assert etag != uploaded
    assert '"' not in etag
    part = Part(1, 0, 4 * MIB - 9, etag, crc64nvme(data[9 : 4 * MIB]))
    await store.complete_multipart(KEY, multipart_id, [part], part.crc64, with_copies=True)
    await assert_stored(store, KEY, data[9 : 4 * MIB])


async def test_a_copied_part_may_be_left_out(store: SurveyedStore) -> None:
    data = some_bytes(6 * MIB)
    await stored_source(store, data)
    multipart_id = await store.create_multipart(KEY, OURS, with_copies=True)
    await store.copy_part(KEY, multipart_id, 2, span(data, 0, 6 * MIB))
    etag = await store.put_part(KEY, multipart_id, 1, body_of(b"uploaded"))

    part = Part(1, 0, 8, etag, crc64nvme(b"uploaded"))
    await store.complete_multipart(KEY, multipart_id, [part], part.crc64, with_copies=True)

    await assert_stored(store, KEY, b"uploaded")


async def test_an_uploaded_part_is_checked_among_copied_ones_too(store: SurveyedStore) -> None:
    multipart_id = await store.create_multipart(KEY, OURS, with_copies=True)

    with pytest.raises(StoreUnavailable):
        await store.put_part(KEY, multipart_id, 1, Body(SMALL, 1, buffers=[some_bytes(SMALL)]))


@pytest.mark.parametrize("size", [100, 6 * MIB])
async def test_a_source_that_is_gone_is_a_lost_piece(store: SurveyedStore, size: int) -> None:
    data = some_bytes(size)
    await stored_source(store, data)
    multipart_id = await store.create_multipart(KEY, OURS, with_copies=True)
    await store.delete_objects([SOURCE])

    for piece in (span(data, 0, size), span(data, 1, size), span(data, 0, size, ObjectKey("never/was"))):
        with pytest.raises(PieceLost):
            await store.copy_part(KEY, multipart_id, 1, piece)

    assert await store.multipart_exists(KEY, multipart_id)


@pytest.mark.parametrize("size", [SMALL, 6 * MIB])
async def test_a_source_that_another_object_has_replaced_is_not_copied(store: SurveyedStore, size: int) -> None:
    """I3"""
    data = some_bytes(size)
    etag = (await store.put_object(SOURCE, body_of(data), THEIRS)).etag
    multipart_id = await store.create_multipart(KEY, OURS, with_copies=True)
    await store.copy_part(KEY, multipart_id, 1, span(data, 0, size), etag=etag)
    other = some_bytes(size, 1)
    await stored_source(store, other)

    with pytest.raises(PieceLost):
        await store.copy_part(KEY, multipart_id, 1, span(other, 0, size), etag=etag)


@pytest.mark.parametrize(("start", "end"), [(0, 6 * MIB + 1), (5 * MIB, 6 * MIB + 1), (6 * MIB, 6 * MIB + 1)])
async def test_bytes_beyond_the_end_of_the_source_are_not_copied(store: SurveyedStore, start: int, end: int) -> None:
    data = some_bytes(6 * MIB + 1)
    await stored_source(store, data[:-1])
    multipart_id = await store.create_multipart(KEY, OURS, with_copies=True)

    with pytest.raises((StoreRefused, PieceLost)) as refused:
        await store.copy_part(KEY, multipart_id, 1, span(data, start, end))

    assert not isinstance(refused.value, MultipartLost)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("source_is_there", [True, False])
async def test_a_multipart_upload_that_is_gone_takes_no_copies(
    store: SurveyedStore, known: bool, source_is_there: bool
) -> None:
    data = some_bytes(SMALL)
    if source_is_there:
        await stored_source(store, data)
    multipart_id = MultipartId("never-was-one")
    if known:
        multipart_id = await store.create_multipart(KEY, OURS, with_copies=True)
        await store.abort_multipart(KEY, multipart_id)

    with pytest.raises(MultipartLost):
        await store.copy_part(KEY, multipart_id, 1, span(data, 0, SMALL))


async def test_a_copied_part_below_the_minimum_is_taken_at_the_end_only(store: SurveyedStore) -> None:
    if isinstance(store, MemoryStore):
        store.limits = dataclasses.replace(store.limits, min_part_size=5 * MIB)
    data = some_bytes(6 * MIB)
    await stored_source(store, data)
    small, large = span(data, 0, 5 * MIB - 1), span(data, 0, 6 * MIB)
    await put_together(store, KEY, [large, small])
    await assert_stored(store, KEY, data + data[: 5 * MIB - 1])
    other = ObjectKey("other")

    if store.limits.min_part_size > small.size:
        with pytest.raises(StoreRefused) as refused:
            await put_together(store, other, [small, large])
        assert not isinstance(refused.value, MultipartLost)
        assert await store.find(other, OURS.upload_id) is None
    else:
        await put_together(store, other, [small, large])
        await assert_stored(store, other, data[: 5 * MIB - 1] + data)


@pytest.mark.parametrize("store", ["memory", "directory"], indirect=True)
async def test_a_copy_of_other_bytes_is_found_out_at_once(store: SurveyedStore) -> None:
    """I3"""
    data = some_bytes(SMALL)
    await stored_source(store, data)
    multipart_id = await store.create_multipart(KEY, OURS, with_copies=True)

    with pytest.raises(PieceLost):
        await store.copy_part(KEY, multipart_id, 1, dataclasses.replace(span(data, 3, 99), skip=4))


@pytest.mark.parametrize("store", [pytest.param("double of aws", marks=pytest.mark.slow)], indirect=True)
async def test_a_copy_of_which_s3_tells_another_checksum_is_refused(store: SurveyedStore) -> None:
    """I3"""
    data = some_bytes(6 * MIB)
    await stored_source(store, data)
    multipart_id = await store.create_multipart(KEY, OURS, with_copies=True)

    with pytest.raises(StoreRefused):
        await store.copy_part(KEY, multipart_id, 1, dataclasses.replace(span(data, 3, 99), skip=4))


CHECKING = ["memory", "directory", pytest.param("double of aws", marks=pytest.mark.slow)]


@pytest.mark.parametrize("store", CHECKING, indirect=True)
async def test_a_wrong_checksum_of_a_whole_with_copied_parts_is_refused(store: SurveyedStore) -> None:
    """I3"""
    data = some_bytes(6 * MIB)
    await stored_source(store, data)
    sources: list[Piece | bytes] = [span(data, 0, 6 * MIB), b"uploaded"]

    with pytest.raises(StoreRefused) as refused:
        await put_together(store, KEY, sources, crc64nvme(data + b"uploaded") ^ 1)

    assert not isinstance(refused.value, MultipartLost)
    assert await store.find(KEY, OURS.upload_id) is None
    await put_together(store, KEY, sources)
    found = await store.find(KEY, OURS.upload_id)
    assert found is not None
    assert found.crc64 == crc64nvme(data + b"uploaded")


@pytest.mark.parametrize(
    ("store", "shows"),
    [
        ("double of minio", False),
        pytest.param("minio", False, marks=pytest.mark.servers),
        pytest.param("versity", True, marks=pytest.mark.servers),
    ],
    indirect=["store"],
)
async def test_where_copied_parts_cannot_be_checked_the_object_shows_the_checksum_or_none(
    store: SurveyedStore, shows: bool
) -> None:
    """I3: Versity computes it of the bytes by itself; of an object of MinIO there is its size alone."""
    data = some_bytes(6 * MIB)
    await stored_source(store, data)
    right = crc64nvme(data[5:] + b"uploaded")

    await put_together(store, KEY, [span(data, 5, 6 * MIB), b"uploaded"], right ^ 1)

    found = await store.find(KEY, OURS.upload_id)
    assert found is not None
    assert (found.size, found.crc64) == (6 * MIB + 3, right if shows else -1)


@pytest.mark.servers
@pytest.mark.parametrize("name", ["minio", "versity"])
async def test_a_profile_that_promises_too_much_of_copied_parts_makes_no_wrong_object(
    request: pytest.FixtureRequest, name: str
) -> None:
    """I3: MinIO takes no copies where there are checksums, Versity tells the one of the whole source."""
    server: S3Server = request.getfixturevalue(name)
    bucket: str = request.getfixturevalue("bucket" if name == "minio" else "versity_bucket")
    store = s3_store(server, bucket, name, copied_part_checksums=True)
    data = some_bytes(6 * MIB)
    await stored_source(store, data)

    with pytest.raises(StoreRefused):
        await put_together(store, KEY, [span(data, 5, 6 * MIB)])

    assert await store.find(KEY, OURS.upload_id) is None
    await store.close()


async def test_a_body_may_be_made_of_ranges_of_objects(store: SurveyedStore) -> None:
    data = some_bytes(3 * MIB)
    await stored_source(store, data)
    pieces = (span(data, 7, 2 * MIB), span(data, 2 * MIB, 3 * MIB), span(data, 0, 1))
    whole = data[7:] + data[:1] + b"end"
    body = Body(len(whole), crc64nvme(whole), pieces, [b"end"])
    multipart_id = await store.create_multipart(KEY, OURS)

    etag = await store.put_part(KEY, multipart_id, 1, body)
    stored = await store.put_object(ObjectKey("other"), body, OURS)

    await store.complete_multipart(KEY, multipart_id, [Part(1, 0, len(whole), etag, body.crc64)], body.crc64)
    await assert_stored(store, KEY, whole)
    assert stored.crc64 == body.crc64
    assert await content(store, ObjectKey("other")) == whole


async def test_a_body_of_ranges_that_hold_other_bytes_is_not_stored(store: SurveyedStore) -> None:
    """I3"""
    data = some_bytes(SMALL)
    await stored_source(store, data)
    shifted = dataclasses.replace(span(data, 7, 99), skip=8)

    with pytest.raises(PieceLost):
        await store.put_object(KEY, Body(shifted.size, shifted.crc64, (shifted,)), OURS)

    assert await store.find(KEY, OURS.upload_id) is None


@pytest.mark.parametrize("store", ["memory", "directory", "double of minio"], indirect=True)
async def test_a_piece_without_an_object_cannot_be_copied(store: SurveyedStore) -> None:
    multipart_id = await store.create_multipart(KEY, OURS, with_copies=True)

    with pytest.raises(ValueError, match="object of the store"):
        await store.copy_part(KEY, multipart_id, 1, Piece(0, 4, crc64nvme(b"data"), data=b"data"))


LARGE = some_bytes(6 * MIB)
COPIED = b"<CopyPartResult>%s</CopyPartResult>"
TOLD_OTHERWISE = COPIED % b"<ETag>&quot;e&quot;</ETag><ChecksumCRC64NVME>AAAAAAAAAAA=</ChecksumCRC64NVME>"


@pytest.mark.parametrize(
    "fault",
    [
        Reply(503, s3_error(503, "SlowDown").body, {"Retry-After": "0"}),
        s3_error(500, "InternalError"),
        s3_error(200, "InternalError"),
        ReplaceAnswer(200),
        ReplaceAnswer(200, COPIED % b""),
        ReplaceAnswer(200, COPIED % b"<ETag/>"),
        ReplaceAnswer(200, b"<CopyPartResult><ETag>trunc"),
        Drop(),
        DropAnswer(),
    ],
)
async def test_a_copy_that_fails_is_made_again(rig: Rig, fault: Reply | Drop) -> None:
    await stored_source(rig.store, LARGE)
    failing = rig.proxy.on("UploadPartCopy", fault, times=2)

    await put_together(rig.store, KEY, [span(LARGE, 1, 6 * MIB)])

    assert failing.fired == 2
    assert rig.proxy.history.count("UploadPartCopy") == 3
    await assert_stored(rig.store, KEY, LARGE[1:])


@pytest.mark.parametrize(
    ("fault", "tries"), [(s3_error(500, "InternalError"), TRIES), (DropAnswer(), 2 * TRIES)], ids=["error", "nothing"]
)
async def test_a_copy_that_always_fails_has_an_unknown_outcome(rig: Rig, fault: Reply | Drop, tries: int) -> None:
    """The HTTP client repeats a PUT by itself, once, when its connection breaks."""
    await stored_source(rig.store, LARGE)
    multipart_id = await rig.store.create_multipart(KEY, OURS, with_copies=True)
    rig.proxy.on("UploadPartCopy", fault)

    with pytest.raises(StoreUnavailable) as failed:
        await rig.store.copy_part(KEY, multipart_id, 1, span(LARGE, 0, 6 * MIB))

    assert not isinstance(failed.value, PieceLost)
    assert rig.proxy.history.count("UploadPartCopy") == tries


async def test_no_byte_of_a_copy_passes_through_the_gateway(rig: Rig) -> None:
    await stored_source(rig.store, LARGE)
    rig.proxy.history.clear()

    await put_together(rig.store, KEY, [span(LARGE, 0, 6 * MIB), span(LARGE, 5, 99)])

    assert rig.proxy.history.count("GetObject") == 0
    assert rig.proxy.history.bytes_put == 0


@pytest.mark.parametrize(
    ("start", "end", "in_range"), [(0, 100, False), (0, 99, True), (1, 100, True)], ids=["all", "beginning", "end"]
)
async def test_s3_copies_a_small_object_as_a_whole_only(start: int, end: int, in_range: bool) -> None:
    data = some_bytes(100)
    async with S3Double(AWS) as double:
        double.make_bucket("bucket")
        store = s3_store(double.as_server(), "bucket", "aws")
        await stored_source(store, data)
        multipart_id = await store.create_multipart(KEY, OURS, with_copies=True)

        if in_range:
            with pytest.raises(StoreRefused):
                await store.copy_part(KEY, multipart_id, 1, span(data, start, end))
        else:
            await store.copy_part(KEY, multipart_id, 1, span(data, start, end))
        await store.close()


async def test_a_small_object_that_is_replaced_meanwhile_is_not_copied(rig: Rig) -> None:
    data = some_bytes(100)
    await stored_source(rig.store, data)
    multipart_id = await rig.store.create_multipart(KEY, OURS, with_copies=True)
    gate = Gate()
    rig.proxy.on("UploadPartCopy", gate, times=1)
    copying = asyncio.create_task(rig.store.copy_part(KEY, multipart_id, 1, span(data, 0, 100)))
    await gate.reached.wait()

    await stored_source(rig.store, some_bytes(100, 2))
    gate.open()

    with pytest.raises(StoreUnavailable):
        await copying


async def test_a_checksum_of_other_bytes_is_not_believed(alone: Rig) -> None:
    """I3"""
    answer = alone.proxy.on("UploadPartCopy", Reply(200, TOLD_OTHERWISE))

    with pytest.raises(StoreRefused):
        await alone.store.copy_part(KEY, MULTIPART, 1, span(LARGE, 0, 6 * MIB))

    assert answer.fired == TRIES


async def test_no_such_key_means_the_multipart_upload_where_that_is_gone(alone: Rig) -> None:
    """Ceph answers so to both."""
    alone.proxy.on("UploadPartCopy", s3_error(404, "NoSuchKey"))
    alone.proxy.on("ListParts", s3_error(404, "NoSuchKey"), times=1)
    alone.proxy.on("ListParts", Reply(200, b"<ListPartsResult/>"))

    with pytest.raises(MultipartLost):
        await alone.store.copy_part(KEY, MULTIPART, 1, span(LARGE, 0, 6 * MIB))
    with pytest.raises(PieceLost):
        await alone.store.copy_part(KEY, MULTIPART, 1, span(LARGE, 0, 6 * MIB))


@pytest.mark.slow
@pytest.mark.parametrize("answer", [Reply(404), Reply(403), Reply(412), Reply(502, b"<html>")])
async def test_a_vague_answer_to_a_copy_is_no_loss(alone: Rig, answer: Reply) -> None:
    alone.proxy.on("*", answer)

    with pytest.raises(StoreUnavailable) as failed:
        await alone.store.copy_part(KEY, MULTIPART, 1, span(LARGE, 0, 6 * MIB))

    assert not isinstance(failed.value, PieceLost)


async def test_a_store_whose_profile_has_no_copies_is_not_asked_for_any(place: Place) -> None:
    profile = dataclasses.replace(PROFILES["minio"], copy_part=False)
    async with behind_proxy(place.config(profile)) as rig:
        assert not rig.store.copies_parts

        with pytest.raises(StoreRefused):
            await rig.store.copy_part(KEY, MULTIPART, 1, span(LARGE, 0, 6 * MIB))

        assert rig.proxy.history.count() == 0
