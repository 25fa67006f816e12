"""What every object store does: one suite over the directory, MinIO, Versity and the doubles that stand in for them."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from awscrt.checksums import crc64nvme
from yarl import URL

from tests.doubles.s3.behaviour import BEHAVIOURS
from tests.doubles.s3.server import S3Double
from tests.doubles.store import MemoryStore
from tusgate.core.errors import MultipartLost, ObjectLost, PieceLost, StoreRefused, StoreUnavailable
from tusgate.core.model import MultipartId, ObjectKey, Part, Piece, StoredObject, UploadId
from tusgate.filesystem import DirectoryStore
from tusgate.ports import Attributes, Body, Presentation, SurveyedStore
from tusgate.s3.config import S3Config
from tusgate.s3.profiles import PROFILES
from tusgate.s3.store import S3Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.servers.s3 import S3Server
    from tusgate.ports import Buffer

KEY = ObjectKey("tenant/2026/file.bin")
OURS = Attributes(UploadId("upload-that-is-ours-00"), "text/plain; charset=utf-8")
THEIRS = Attributes(UploadId("upload-of-somebody-else"))
MIB = 1 << 20
SMALL = 100_003


@pytest.fixture(
    params=[
        "memory",
        "directory",
        pytest.param("double of aws", marks=pytest.mark.slow),
        "double of minio",
        pytest.param("minio", marks=pytest.mark.servers),
        pytest.param("versity", marks=pytest.mark.servers),
    ]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SurveyedStore]:
    async with AsyncExitStack() as stack:
        made: SurveyedStore
        match request.param:
            case "memory":
                made = MemoryStore()
            case "directory":
                made = DirectoryStore(tmp_path)
            case "minio":
                server, bucket = request.getfixturevalue("minio"), request.getfixturevalue("bucket")
                made = s3_store(server, bucket, "minio")
            case "versity":
                server, bucket = request.getfixturevalue("versity"), request.getfixturevalue("versity_bucket")
                made = s3_store(server, bucket, "versity")
            case _:
                profile = request.param.rpartition(" ")[2]
                double = await stack.enter_async_context(S3Double(BEHAVIOURS[profile]))
                double.make_bucket("bucket")
                made = s3_store(double.as_server(), "bucket", profile)
        stack.push_async_callback(made.close)
        yield made


def s3_store(server: S3Server, bucket: str, profile: str, *, readers: int = 256, **changes: Any) -> S3Store:
    return S3Store(
        S3Config(
            endpoint=server.endpoint,
            region=server.region,
            bucket=bucket,
            prefix="uploads/",
            readers=readers,
            access_key=server.access_key,
            secret_key=server.secret_key,
            profile=dataclasses.replace(PROFILES[profile], path_style=True, **changes),  # a port has no names below it
        )
    )


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def body_of(data: bytes, block: int = 65_536) -> Body:
    """Return a body as it arrives: in blocks, some of them views."""
    buffers: list[Buffer] = [data[start : start + block] for start in range(0, len(data), block)]
    buffers[::3] = [memoryview(buffer) for buffer in buffers[::3]]
    return Body(len(data), crc64nvme(data), buffers=buffers)


def part_size(store: SurveyedStore) -> int:
    return max(store.limits.min_part_size, SMALL)


async def content(
    store: SurveyedStore, key: ObjectKey, start: int = 0, size: int | None = None, *, etag: str | None = None
) -> bytes:
    return b"".join([chunk async for chunk in store.read(key, start, size, etag=etag)])


async def upload_parts(
    store: SurveyedStore, key: ObjectKey, multipart_id: MultipartId, chunks: Sequence[bytes]
) -> list[Part]:
    """Upload all at once, so that they finish in any order."""
    etags = await asyncio.gather(
        *(store.put_part(key, multipart_id, number, body_of(c)) for number, c in enumerate(chunks, 1))
    )
    parts, start = [], 0
    for number, (chunk, etag) in enumerate(zip(chunks, etags, strict=True), 1):
        parts.append(Part(number, start, len(chunk), etag, crc64nvme(chunk)))
        start += len(chunk)
    return parts


async def store_piece(store: SurveyedStore, data: bytes, start: int, key: str = "pieces/1") -> Piece:
    piece = Piece(start, len(data), crc64nvme(data), ObjectKey(key))
    await store.put_object(ObjectKey(key), body_of(data), OURS)
    return piece


async def test_a_store_that_works_passes_its_check_and_shows_nothing_of_it(store: SurveyedStore) -> None:
    await store.check()

    assert await store.find(ObjectKey(".tusgate-check"), OURS.upload_id) is None
    assert await store.list_multiparts(ObjectKey(".tusgate-check")) == []


async def test_it_may_be_closed_twice(store: SurveyedStore) -> None:
    await store.put_object(KEY, body_of(b"x"), OURS)

    await store.close()
    await store.close()


@pytest.mark.parametrize("size", [0, 1, SMALL, 3 * MIB + 1])
async def test_an_object_is_found_by_its_upload_and_reads_back(store: SurveyedStore, size: int) -> None:
    data = some_bytes(size)

    stored = await store.put_object(KEY, body_of(data), OURS)

    assert stored == StoredObject(KEY, size, stored.etag, crc64nvme(data))
    assert stored.etag
    assert await store.find(KEY, OURS.upload_id) == stored
    assert await content(store, KEY) == data


@pytest.mark.parametrize(
    "key", ["a b/c+d/ü€😀.bin", "100%/a%20b", "x/!$&'()*,;=:@~^|.bin", "q?a=b&c#d", "trailing.dot./..."]
)
async def test_any_key_that_is_a_path_works(store: SurveyedStore, key: str) -> None:
    data = some_bytes(10)

    await store.put_object(ObjectKey(key), body_of(data), OURS)
    multipart_id = await store.create_multipart(ObjectKey(key), OURS)

    assert await content(store, ObjectKey(key)) == data
    assert await store.find(ObjectKey(key), OURS.upload_id) is not None
    assert await store.list_multiparts(ObjectKey(key)) == [multipart_id]
    await store.abort_multipart(ObjectKey(key), multipart_id)
    await store.delete_objects([ObjectKey(key)])
    assert await store.find(ObjectKey(key), OURS.upload_id) is None


async def test_an_object_with_the_wrong_checksum_is_refused_and_does_not_appear(store: SurveyedStore) -> None:
    data = some_bytes(SMALL)
    wrong = Body(SMALL, crc64nvme(data) ^ 1, buffers=[data])

    with pytest.raises(StoreUnavailable):
        await store.put_object(KEY, wrong, OURS)

    assert await store.find(KEY, OURS.upload_id) is None


async def test_a_refused_object_leaves_the_one_that_was_there(store: SurveyedStore) -> None:
    before = await store.put_object(KEY, body_of(b"before"), OURS)

    with pytest.raises(StoreUnavailable):
        await store.put_object(KEY, Body(5, 0, buffers=[b"after"]), OURS)

    assert await store.find(KEY, OURS.upload_id) == before
    assert await content(store, KEY) == b"before"


async def test_an_object_may_be_stored_again(store: SurveyedStore) -> None:
    data = some_bytes(SMALL)
    first = await store.put_object(KEY, body_of(data), OURS)

    again = await asyncio.gather(*(store.put_object(KEY, body_of(data), OURS) for _ in range(4)))

    assert again == [first] * 4
    assert await store.find(KEY, OURS.upload_id) == first


async def test_an_object_replaces_the_one_of_another_upload(store: SurveyedStore) -> None:
    await store.put_object(KEY, body_of(b"theirs"), THEIRS)

    await store.put_object(KEY, body_of(b"ours"), OURS)

    assert await store.find(KEY, THEIRS.upload_id) is None
    assert await store.find(KEY, OURS.upload_id) is not None
    assert await content(store, KEY) == b"ours"


async def test_an_object_of_another_upload_is_not_ours(store: SurveyedStore) -> None:
    await store.put_object(KEY, body_of(b"theirs"), THEIRS)

    assert await store.find(KEY, OURS.upload_id) is None


async def test_an_object_that_is_not_there_is_not_found(store: SurveyedStore) -> None:
    await store.put_object(ObjectKey(f"{KEY}/below"), body_of(b"x"), OURS)

    assert await store.find(KEY, OURS.upload_id) is None


@pytest.mark.parametrize(
    ("start", "size"),
    [(0, None), (0, 1), (1, SMALL - 1), (SMALL - 1, 1), (SMALL - 1, None), (70_000, 20_000), (5, 0)],
)
async def test_a_range_is_read(store: SurveyedStore, start: int, size: int | None) -> None:
    data = some_bytes(SMALL)
    await store.put_object(KEY, body_of(data), OURS)

    end = None if size is None else start + size
    assert await content(store, KEY, start, size) == data[start:end]


@pytest.mark.parametrize(("start", "size"), [(0, SMALL + 1), (SMALL - 1, 2), (SMALL, 1), (SMALL + 1, None)])
async def test_a_read_beyond_the_end_is_an_error(store: SurveyedStore, start: int, size: int | None) -> None:
    await store.put_object(KEY, body_of(some_bytes(SMALL)), OURS)

    with pytest.raises(StoreUnavailable):
        await content(store, KEY, start, size)


@pytest.mark.parametrize("etag", [None, "whichever"])
async def test_a_read_of_a_missing_object_finds_it_lost(store: SurveyedStore, etag: str | None) -> None:
    with pytest.raises(ObjectLost):
        await content(store, KEY, etag=etag)


async def test_the_very_object_that_is_meant_is_read(store: SurveyedStore) -> None:
    data = some_bytes(SMALL)
    stored = await store.put_object(KEY, body_of(data), OURS)

    assert await content(store, KEY, etag=stored.etag) == data
    assert await content(store, KEY, 70_000, 20_000, etag=stored.etag) == data[70_000:90_000]
    assert await content(store, KEY, 70_000, etag=stored.etag) == data[70_000:]


async def test_an_object_of_parts_is_read_by_the_etag_that_it_was_found_with(store: SurveyedStore) -> None:
    data = some_bytes(part_size(store))
    multipart_id = await store.create_multipart(KEY, OURS)
    parts = await upload_parts(store, KEY, multipart_id, [data, data[:7]])
    await store.complete_multipart(KEY, multipart_id, parts, crc64nvme(data + data[:7]))
    found = await store.find(KEY, OURS.upload_id)

    assert found is not None
    assert await content(store, KEY, len(data) - 1, etag=found.etag) == data[-1:] + data[:7]


@pytest.mark.parametrize("size", [SMALL, SMALL - 1])
@pytest.mark.parametrize(("start", "wanted"), [(0, None), (0, 10), (70_000, 100)])
async def test_an_object_that_another_one_has_replaced_is_not_read(
    store: SurveyedStore, size: int, start: int, wanted: int | None
) -> None:
    """DL-07."""
    stored = await store.put_object(KEY, body_of(some_bytes(SMALL)), OURS)
    await store.put_object(KEY, body_of(some_bytes(size, 1)), OURS)

    with pytest.raises(ObjectLost):
        await content(store, KEY, start, wanted, etag=stored.etag)


async def test_a_url_for_an_object_gives_it_to_anybody_as_it_is_to_be_presented(store: SurveyedStore) -> None:
    """DL-03."""
    data = some_bytes(SMALL)
    name = "attachment; filename=\"a b.bin\"; filename*=UTF-8''%C3%A4%20b.bin"
    presentation = Presentation("application/octet-stream", name, "private, no-cache")
    await store.put_object(KEY, body_of(data), OURS)
    url = store.presign("GET", KEY, presentation, 60)
    if url is None:
        assert isinstance(store, MemoryStore | DirectoryStore)
        return

    async with aiohttp.ClientSession() as session:
        async with session.get(URL(url, encoded=True)) as answer:
            assert await answer.read() == data
            shown = [answer.headers[name] for name in ("Content-Type", "Content-Disposition", "Cache-Control")]
            assert shown == [presentation.content_type, presentation.disposition, presentation.cache_control]
        async with session.get(URL(url, encoded=True), headers={"Range": "bytes=5-9"}) as answer:
            assert (answer.status, await answer.read()) == (206, data[5:10])
        async with session.put(URL(url, encoded=True), data=b"other bytes") as answer:
            assert answer.status == 403
        async with session.get(URL(url.replace("octet-stream", "xhtml%2Bxml"), encoded=True)) as answer:
            assert answer.status == 403
        async with session.get(URL(url.replace("file.bin", "file.txt"), encoded=True)) as answer:
            assert answer.status == 403
        head = store.presign("HEAD", KEY, presentation, 60)
        assert head is not None
        async with session.head(URL(head, encoded=True)) as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, str(SMALL))
            assert answer.headers["Content-Disposition"] == presentation.disposition
    assert await content(store, KEY) == data


async def test_a_read_may_be_given_up_in_the_middle(store: SurveyedStore) -> None:
    data = some_bytes(8 * MIB)
    await store.put_object(KEY, body_of(data), OURS)
    reading = store.read(KEY)

    first = await anext(reading)
    await reading.aclose()

    assert first == data[: len(first)]
    assert await content(store, KEY, 0, 10) == data[:10]


async def test_parts_become_one_object_in_their_order(store: SurveyedStore) -> None:
    size = part_size(store)
    chunks = [some_bytes(size, 1), some_bytes(size, 2), some_bytes(7, 3)]
    data = b"".join(chunks)
    multipart_id = await store.create_multipart(KEY, OURS)
    parts = await upload_parts(store, KEY, multipart_id, chunks)
    assert await store.find(KEY, OURS.upload_id) is None

    await store.complete_multipart(KEY, multipart_id, parts, crc64nvme(data))

    found = await store.find(KEY, OURS.upload_id)
    assert found is not None
    assert found == StoredObject(KEY, len(data), found.etag, crc64nvme(data))
    assert await content(store, KEY) == data
    assert not await store.multipart_exists(KEY, multipart_id)
    assert await store.find(KEY, THEIRS.upload_id) is None


async def test_a_second_complete_changes_nothing_and_the_object_proves_the_first(store: SurveyedStore) -> None:
    data = some_bytes(SMALL)
    multipart_id = await store.create_multipart(KEY, OURS)
    parts = await upload_parts(store, KEY, multipart_id, [data])
    await store.complete_multipart(KEY, multipart_id, parts, crc64nvme(data))
    before = await store.find(KEY, OURS.upload_id)

    with suppress(MultipartLost):
        await store.complete_multipart(KEY, multipart_id, parts, crc64nvme(data))

    assert before is not None
    assert await store.find(KEY, OURS.upload_id) == before


async def test_of_many_completes_at_once_none_is_refused_and_the_object_is_right(store: SurveyedStore) -> None:
    data = some_bytes(SMALL)
    multipart_id = await store.create_multipart(KEY, OURS)
    parts = await upload_parts(store, KEY, multipart_id, [data])

    outcomes = await asyncio.gather(
        *(store.complete_multipart(KEY, multipart_id, parts, crc64nvme(data)) for _ in range(4)),
        return_exceptions=True,
    )

    assert all(isinstance(outcome, MultipartLost | StoreUnavailable | None) for outcome in outcomes), outcomes
    assert await content(store, KEY) == data
    assert await store.find(KEY, OURS.upload_id) is not None


async def test_a_part_that_is_sent_again_replaces_the_first(store: SurveyedStore) -> None:
    first, second = some_bytes(SMALL, 1), some_bytes(SMALL, 2)
    multipart_id = await store.create_multipart(KEY, OURS)
    outdated = await upload_parts(store, KEY, multipart_id, [first])

    current = await upload_parts(store, KEY, multipart_id, [second])

    with pytest.raises(StoreRefused):
        await store.complete_multipart(KEY, multipart_id, outdated, crc64nvme(first))
    await store.complete_multipart(KEY, multipart_id, current, crc64nvme(second))
    assert await content(store, KEY) == second


async def test_a_part_that_is_sent_again_with_the_same_bytes_keeps_its_etag(store: SurveyedStore) -> None:
    data = some_bytes(SMALL)
    multipart_id = await store.create_multipart(KEY, OURS)

    etags = {await store.put_part(KEY, multipart_id, 1, body_of(data)) for _ in range(3)}

    assert len(etags) == 1
    assert '"' not in etags.pop()


async def test_a_part_with_the_wrong_checksum_is_refused_and_not_stored(store: SurveyedStore) -> None:
    data = some_bytes(SMALL)
    multipart_id = await store.create_multipart(KEY, OURS)

    with pytest.raises(StoreUnavailable):
        await store.put_part(KEY, multipart_id, 1, Body(SMALL, crc64nvme(data) ^ 1, buffers=[data]))

    guessed = Part(1, 0, SMALL, "0" * 32, crc64nvme(data))
    with pytest.raises(StoreRefused):
        await store.complete_multipart(KEY, multipart_id, [guessed], crc64nvme(data))


async def test_a_complete_with_the_wrong_checksum_of_the_whole_is_refused(store: SurveyedStore) -> None:
    data = some_bytes(SMALL)
    multipart_id = await store.create_multipart(KEY, OURS)
    parts = await upload_parts(store, KEY, multipart_id, [data])

    with pytest.raises(StoreRefused) as refused:
        await store.complete_multipart(KEY, multipart_id, parts, crc64nvme(data) ^ 1)

    assert not isinstance(refused.value, MultipartLost)
    assert await store.find(KEY, OURS.upload_id) is None
    assert await store.multipart_exists(KEY, multipart_id)


@pytest.mark.parametrize("fault", ["etag", "checksum", "missing", "order", "none"])
async def test_a_complete_with_the_wrong_parts_is_refused_for_good(store: SurveyedStore, fault: str) -> None:
    size = part_size(store)
    chunks = [some_bytes(size, 1), some_bytes(size, 2)]
    whole = crc64nvme(b"".join(chunks))
    multipart_id = await store.create_multipart(KEY, OURS)
    one, two = await upload_parts(store, KEY, multipart_id, chunks)
    listed = {
        "etag": [one, Part(2, two.start, two.size, one.etag, two.crc64)],
        "checksum": [one, Part(2, two.start, two.size, two.etag, one.crc64)],
        "missing": [one, two, Part(3, 2 * size, 0, two.etag, 0)],
        "order": [two, one],
        "none": [],
    }[fault]

    with pytest.raises((StoreRefused, StoreUnavailable) if fault == "none" else StoreRefused) as refused:
        await store.complete_multipart(KEY, multipart_id, listed, whole)

    assert not isinstance(refused.value, MultipartLost)
    assert await store.find(KEY, OURS.upload_id) is None


async def test_a_complete_takes_exactly_the_listed_parts(store: SurveyedStore) -> None:
    chunks = [some_bytes(part_size(store), 1), some_bytes(11, 2), some_bytes(13, 3)]
    multipart_id = await store.create_multipart(KEY, OURS)
    one, two, _ = await upload_parts(store, KEY, multipart_id, chunks)
    wanted = chunks[0] + chunks[1]

    await store.complete_multipart(KEY, multipart_id, [one, two], crc64nvme(wanted))

    assert await content(store, KEY) == wanted


@pytest.mark.parametrize("known", [True, False])
async def test_a_multipart_upload_that_is_gone_is_lost(store: SurveyedStore, known: bool) -> None:
    data = some_bytes(8 * MIB)
    multipart_id = await store.create_multipart(KEY, OURS)
    parts = await upload_parts(store, KEY, multipart_id, [data[:SMALL]])
    if known:
        await store.abort_multipart(KEY, multipart_id)
    else:
        multipart_id = MultipartId("never-was-one")

    with pytest.raises(MultipartLost):
        await store.put_part(KEY, multipart_id, 1, body_of(data))
    with pytest.raises(MultipartLost):
        await store.complete_multipart(KEY, multipart_id, parts, crc64nvme(data[:SMALL]))
    assert not await store.multipart_exists(KEY, multipart_id)


async def test_an_abort_may_be_repeated(store: SurveyedStore) -> None:
    multipart_id = await store.create_multipart(KEY, OURS)
    await upload_parts(store, KEY, multipart_id, [b"part"])
    assert await store.multipart_exists(KEY, multipart_id)

    for _ in range(3):
        await store.abort_multipart(KEY, multipart_id)

    assert not await store.multipart_exists(KEY, multipart_id)
    assert await store.list_multiparts(KEY) == []


async def test_an_abort_after_complete_leaves_the_object(store: SurveyedStore) -> None:
    data = some_bytes(SMALL)
    multipart_id = await store.create_multipart(KEY, OURS)
    parts = await upload_parts(store, KEY, multipart_id, [data])
    await store.complete_multipart(KEY, multipart_id, parts, crc64nvme(data))

    await store.abort_multipart(KEY, multipart_id)

    assert await content(store, KEY) == data


async def test_multipart_uploads_are_listed_for_exactly_their_key(store: SurveyedStore) -> None:
    mine = {await store.create_multipart(KEY, OURS), await store.create_multipart(KEY, OURS)}
    other = {
        key: await store.create_multipart(key, OURS)
        for key in (ObjectKey(f"{KEY}2"), ObjectKey(f"{KEY}/x"), ObjectKey(KEY[:-1]), ObjectKey(f"x/{KEY}"))
    }

    assert set(await store.list_multiparts(KEY)) == mine
    assert await store.list_multiparts(ObjectKey("tenant")) == []
    for key, multipart_id in other.items():
        assert await store.list_multiparts(key) == [multipart_id]
        await store.abort_multipart(key, multipart_id)
    for multipart_id in mine:
        await store.abort_multipart(KEY, multipart_id)


async def test_deleting_removes_the_named_objects_only(store: SurveyedStore) -> None:
    keys = [ObjectKey(f"pieces/{number}") for number in range(5)]
    for key in keys:
        await store.put_object(key, body_of(b"x"), OURS)

    await store.delete_objects([*keys[1:], ObjectKey("never/was")])
    await store.delete_objects([*keys[1:], ObjectKey("never/was")])
    await store.delete_objects([keys[1]])
    await store.delete_objects([])

    assert [await store.find(key, OURS.upload_id) is not None for key in keys] == [True, *[False] * 4]


@pytest.mark.parametrize("block", [1 << 16, 3 * MIB])
async def test_pieces_and_buffers_together_become_a_part(store: SurveyedStore, block: int) -> None:
    data = some_bytes(3 * MIB + SMALL)
    one = await store_piece(store, data[: 2 * MIB + 1], 0, "pieces/1")
    two = await store_piece(store, data[one.end : one.end + 3], one.end, "pieces/2")
    buffers = body_of(data[two.end :], block).buffers
    multipart_id = await store.create_multipart(KEY, OURS)
    body = Body(len(data), crc64nvme(data), (one, two), buffers)

    etag = await store.put_part(KEY, multipart_id, 1, body)

    part = Part(1, 0, len(data), etag, crc64nvme(data))
    await store.complete_multipart(KEY, multipart_id, [part], crc64nvme(data))
    assert await content(store, KEY) == data


async def test_pieces_alone_become_an_object(store: SurveyedStore) -> None:
    data = some_bytes(SMALL)
    piece = await store_piece(store, data, 0)

    stored = await store.put_object(KEY, Body(SMALL, crc64nvme(data), (piece,)), OURS)

    assert await store.find(KEY, OURS.upload_id) == stored
    assert await content(store, KEY) == data


@pytest.mark.parametrize("damage", ["other bytes", "shorter", "missing"])
async def test_a_piece_that_does_not_come_back_as_it_was_stops_the_part(store: SurveyedStore, damage: str) -> None:
    data = some_bytes(SMALL)
    piece = await store_piece(store, data, 0)
    assert piece.key is not None
    match damage:
        case "other bytes":
            await store.put_object(piece.key, body_of(some_bytes(SMALL, 9)), OURS)
        case "shorter":
            await store.put_object(piece.key, body_of(data[:-1]), OURS)
        case _:
            await store.delete_objects([piece.key])
    multipart_id = await store.create_multipart(KEY, OURS)

    with pytest.raises(StoreUnavailable if damage == "shorter" else PieceLost):
        await store.put_part(KEY, multipart_id, 1, Body(SMALL + 1, crc64nvme(data + b"x"), (piece,), buffers=[b"x"]))

    assert await store.multipart_exists(KEY, multipart_id)


@pytest.mark.parametrize("announced", [2, 4])
async def test_a_body_that_lies_about_its_size_is_a_programming_error(store: SurveyedStore, announced: int) -> None:
    with pytest.raises(ValueError, match="3"):
        await store.put_object(KEY, Body(announced, crc64nvme(b"abc"), buffers=[b"abc"]), OURS)

    assert await store.find(KEY, OURS.upload_id) is None


async def test_a_cancelled_part_can_be_sent_again(store: SurveyedStore) -> None:
    data = some_bytes(8 * MIB)
    multipart_id = await store.create_multipart(KEY, OURS)
    sending = asyncio.create_task(store.put_part(KEY, multipart_id, 1, body_of(data)))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending

    parts = await upload_parts(store, KEY, multipart_id, [data])
    await store.complete_multipart(KEY, multipart_id, parts, crc64nvme(data))

    assert await content(store, KEY) == data


async def test_objects_are_listed_with_size_and_time(store: SurveyedStore) -> None:
    keys = ["a", "tenant/b c/ü.bin", ".tusgate/pieces/x/1-0", ".tusgate/pieces/x/1-1", ".tusgate-notes"]
    for size, key in enumerate(keys):
        await store.put_object(ObjectKey(key), body_of(some_bytes(size)), OURS)
    await store.create_multipart(KEY, OURS)

    listed = [found async for found in store.list_objects()]

    assert {found.key: found.size for found in listed} == {key: size for size, key in enumerate(keys)}
    assert max(found.modified for found in listed) - min(found.modified for found in listed) < timedelta(minutes=5)
    assert all(found.modified.tzinfo for found in listed)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (".tusgate/pieces/", [".tusgate/pieces/x/1-0", ".tusgate/pieces/y"]),
        (".tusgate/pieces/x", [".tusgate/pieces/x/1-0"]),
        (".tus", [".tusgate-notes", ".tusgate/pieces/x/1-0", ".tusgate/pieces/y"]),
        ("nothing/", []),
    ],
)
async def test_objects_are_listed_by_the_beginning_of_their_keys(
    store: SurveyedStore, prefix: str, expected: list[str]
) -> None:
    for key in (".tusgate/pieces/x/1-0", ".tusgate/pieces/y", ".tusgate-notes", "tusgate/pieces/x/1-0"):
        await store.put_object(ObjectKey(key), body_of(b"x"), OURS)

    assert sorted([found.key async for found in store.list_objects(prefix)]) == expected


async def test_more_objects_than_fit_one_page_are_all_listed(store: SurveyedStore) -> None:
    keys = [ObjectKey(f"many/{number:04}") for number in range(1_001)]
    for first in range(0, len(keys), 50):
        await asyncio.gather(*(store.put_object(key, body_of(b""), OURS) for key in keys[first : first + 50]))

    assert sorted([found.key async for found in store.list_objects("many/")]) == keys


async def test_an_object_tells_whose_it_is(store: SurveyedStore) -> None:
    await store.put_object(KEY, body_of(b"x"), THEIRS)

    assert await store.owner_of(KEY) == THEIRS.upload_id
    assert await store.owner_of(ObjectKey("nothing")) is None
