"""What every store does for clients that send parts by signed URLs, and what those that have no URLs say.

DM-01 (the store itself refuses other sizes and bytes), DM-02 (lists are whole), DM-04 (URLs end with the upload).
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import aiohttp
import pytest
from awscrt.checksums import crc64nvme
from yarl import URL

from tests.contract.test_object_store import KEY, MIB, OURS, body_of, content, part_size, s3_store, some_bytes
from tests.doubles.s3.behaviour import BEHAVIOURS
from tests.doubles.s3.server import S3Double
from tests.doubles.store import MemoryStore
from tusgate.core.direct import ListedPart, Plan, Slot
from tusgate.core.errors import DirectOff, MultipartLost
from tusgate.core.model import MultipartId, ObjectKey, Part, Piece
from tusgate.filesystem import DirectoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from tusgate.ports import SignedPart, SurveyedStore

SOURCE = ObjectKey("earlier/version")
PAGE = 1000
"""Parts in one answer to ListParts, at most (Amazon S3)."""


@dataclass
class Bench:
    """A store that signs URLs, and a client that uses them."""

    store: SurveyedStore
    http: aiohttp.ClientSession

    async def put(self, signed: SignedPart, data: bytes) -> tuple[int, str]:
        """Return the status, and the ETag without quotes."""
        return await self.send("PUT", signed.url, data, signed.headers)

    async def send(self, method: str, url: str, data: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        """Send exactly these headers, and what HTTP needs besides."""
        body, bare = BytesIO(data), ["Content-Type"]
        async with self.http.request(
            method, URL(url, encoded=True), data=body, headers=headers, skip_auto_headers=bare
        ) as answer:
            return answer.status, answer.headers.get("ETag", "").strip('"')


@pytest.fixture(
    params=[
        "double of minio",
        "double of aws",
        pytest.param("minio", marks=pytest.mark.servers),
        pytest.param("versity", marks=pytest.mark.servers),
    ]
)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        match request.param:
            case "minio":
                store = s3_store(request.getfixturevalue("minio"), request.getfixturevalue("bucket"), "minio")
            case "versity":
                server, bucket = request.getfixturevalue("versity"), request.getfixturevalue("versity_bucket")
                store = s3_store(server, bucket, "versity")
            case _:
                profile = request.param.rpartition(" ")[2]
                double = await stack.enter_async_context(S3Double(BEHAVIOURS[profile]))
                double.make_bucket("bucket")
                store = s3_store(double.as_server(), "bucket", profile)
        stack.push_async_callback(store.close)
        yield Bench(store, await stack.enter_async_context(aiohttp.ClientSession()))


async def begun(store: SurveyedStore, plan: Plan) -> MultipartId:
    return await store.create_multipart(KEY, OURS, plan=plan)


def digest_of(algorithm: str, data: bytes) -> bytes:
    return hashlib.sha256(data).digest() if algorithm == "sha256" else crc64nvme(data).to_bytes(8, "big")


async def test_parts_sent_by_url_are_listed_and_become_the_object(bench: Bench) -> None:
    store, plan = bench.store, Plan()
    multipart_id = await begun(store, plan)
    chunks = [some_bytes(part_size(store), seed) for seed in range(2)] + [b"end"]
    parts, start = [], 0
    for number, chunk in enumerate(chunks, 1):
        signed = store.presign_part(KEY, multipart_id, Slot(number, start, len(chunk)), plan, 60)
        status, etag = await bench.put(signed, chunk)
        assert status == 200
        parts.append(Part(number, start, len(chunk), etag, -1))
        start += len(chunk)
    listed = await store.list_parts(KEY, multipart_id)
    assert [(part.number, part.size, part.etag) for part in listed] == [(p.number, p.size, p.etag) for p in parts]
    await store.complete_multipart(KEY, multipart_id, parts, -1, plan=plan)
    found = await store.find(KEY, OURS.upload_id)
    assert found is not None
    assert found.size == start
    assert await content(store, KEY) == b"".join(chunks)
    with pytest.raises(MultipartLost):
        await store.list_parts(KEY, multipart_id)


@pytest.mark.parametrize("algorithm", ["sha256", "crc64nvme"])
async def test_declared_checksums_of_parts_are_verified_listed_and_completed_with(bench: Bench, algorithm: str) -> None:
    store = bench.store
    chunks = [some_bytes(part_size(store), 1), b"the rest"]
    plan = Plan(algorithm=algorithm, digests=tuple(digest_of(algorithm, chunk) for chunk in chunks))
    multipart_id = await begun(store, plan)
    parts, start = [], 0
    for number, chunk in enumerate(chunks, 1):
        slot = Slot(number, start, len(chunk), plan.digests[number - 1])
        signed = store.presign_part(KEY, multipart_id, slot, plan, 60)
        assert (await bench.put(signed, bytes(len(chunk))))[0] == 400
        status, etag = await bench.put(signed, chunk)
        assert status == 200
        parts.append(Part(number, start, len(chunk), etag, crc64nvme(chunk) if algorithm == "crc64nvme" else -1))
        start += len(chunk)
    listed = await store.list_parts(KEY, multipart_id)
    assert [part.digest(algorithm) for part in listed] == list(plan.digests)
    whole = crc64nvme(b"".join(chunks)) if algorithm == "crc64nvme" else -1
    await store.complete_multipart(KEY, multipart_id, parts, whole, plan=plan)
    assert await content(store, KEY) == b"".join(chunks)


async def test_copied_parts_are_told_from_others_by_what_the_store_shows(bench: Bench) -> None:
    """I3: beside parts that are sent and verified; by their SHA-256, or by the ETag that the same bytes had before."""
    store = bench.store
    if not store.copies_declared_parts:
        assert await _shows_another_checksum(bench)
        return
    chunks = [some_bytes(part_size(store), seed) for seed in range(3)] + [b"the rest"]
    source = await _declared_object(bench, SOURCE, chunks)
    changed = [chunks[2], some_bytes(part_size(store), 4), chunks[3]]
    plan = Plan(algorithm="sha256", digests=tuple(digest_of("sha256", chunk) for chunk in changed))
    multipart_id = await store.create_multipart(KEY, OURS, with_copies=True, plan=plan)
    slot = Slot(2, len(changed[0]), len(changed[1]), plan.digests[1])
    signed = store.presign_part(KEY, multipart_id, slot, plan, 60)
    assert (await bench.put(signed, bytes(len(changed[1]))))[0] == 400
    assert (await bench.put(signed, changed[1]))[0] == 200
    for number, known in ((1, source.parts[2]), (3, source.parts[3])):
        piece = Piece(0, known.size, -1, SOURCE, skip=known.start)
        etag = await store.copy_part(KEY, multipart_id, number, piece, etag=source.etag)
        assert etag == known.etag
    listed = await store.list_parts(KEY, multipart_id)
    assert [part.size for part in listed] == [len(chunk) for chunk in changed]
    assert listed[1].sha256 == plan.digests[1]
    for part, known, digest in (
        (listed[0], source.parts[2], plan.digests[0]),
        (listed[2], source.parts[3], plan.digests[2]),
    ):
        assert part.sha256 in (digest, None)
        assert part.etag == known.etag
    parts = [Part(part.number, 0, part.size, part.etag, -1) for part in listed]
    await store.complete_multipart(KEY, multipart_id, parts, -1, plan=plan)
    assert await content(store, KEY) == b"".join(changed)


@dataclass
class Source:
    """An object whose parts were declared: its ETag, and its parts."""

    etag: str
    parts: list[Part]


async def _declared_object(bench: Bench, key: ObjectKey, chunks: Sequence[bytes]) -> Source:
    store = bench.store
    plan = Plan(algorithm="sha256", digests=tuple(digest_of("sha256", chunk) for chunk in chunks))
    multipart_id = await store.create_multipart(key, OURS, plan=plan)
    parts, start = [], 0
    for number, chunk in enumerate(chunks, 1):
        slot = Slot(number, start, len(chunk), plan.digests[number - 1])
        status, etag = await bench.put(store.presign_part(key, multipart_id, slot, plan, 60), chunk)
        assert status == 200
        parts.append(Part(number, start, len(chunk), etag, -1))
        start += len(chunk)
    await store.complete_multipart(key, multipart_id, parts, -1, plan=plan)
    found = await store.find(key, OURS.upload_id)
    assert found is not None
    return Source(found.etag, parts)


async def _shows_another_checksum(bench: Bench) -> bool:
    """Return whether a copied part shows the checksum of all of its source (Versity 1.7)."""
    store, chunks = bench.store, [some_bytes(part_size(bench.store)), b"the rest"]
    source = await _declared_object(bench, SOURCE, chunks)
    plan = Plan(algorithm="sha256", digests=(digest_of("sha256", chunks[0]),))
    multipart_id = await store.create_multipart(KEY, OURS, plan=plan)
    piece = Piece(0, len(chunks[0]), -1, SOURCE)
    await store.copy_part(KEY, multipart_id, 1, piece, etag=source.etag)
    (listed,) = await store.list_parts(KEY, multipart_id)
    return listed.sha256 != plan.digests[0]


async def test_a_url_takes_one_size_and_one_checksum_only(bench: Bench) -> None:
    """DM-01."""
    store, chunk = bench.store, some_bytes(MIB, 2)
    plan = Plan(algorithm="sha256", digests=(digest_of("sha256", chunk),))
    multipart_id = await begun(store, plan)
    signed = store.presign_part(KEY, multipart_id, Slot(1, 0, MIB, plan.digests[0]), plan, 60)
    for wrong in (chunk + b"!", chunk[:-1], b""):
        assert (await bench.put(signed, wrong))[0] == 403
    lying = dict.fromkeys(signed.headers, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    for headers in (lying, {}):
        assert (await bench.send("PUT", signed.url, chunk, headers))[0] in (400, 403)
    assert await store.list_parts(KEY, multipart_id) == []
    assert (await bench.put(signed, chunk))[0] == 200


async def test_a_url_cannot_be_bent_to_another_part_key_or_method(bench: Bench) -> None:
    """DM-06."""
    store, plan = bench.store, Plan()
    multipart_id = await begun(store, plan)
    url = store.presign_part(KEY, multipart_id, Slot(1, 0, 4), plan, 60).url
    for bent in (url.replace("partNumber=1", "partNumber=2"), url.replace("file.bin", "other.bin")):
        assert bent != url
        assert (await bench.send("PUT", bent, b"four", {}))[0] == 403
    for method in ("GET", "DELETE", "POST"):
        assert (await bench.send(method, url, b"four", {}))[0] == 403
    assert await store.list_parts(KEY, multipart_id) == []


async def test_a_url_makes_no_part_of_what_the_store_has(bench: Bench) -> None:
    """I13: its key may read all files, and who has a URL may not. Nobody has signed what turns the PUT into a copy."""
    store, plan = bench.store, Plan()
    other = ObjectKey("of/somebody/else")
    await store.put_object(other, body_of(b"secret"), OURS)
    multipart_id = await begun(store, plan)
    for slot in (Slot(1, 0, 6), Slot(2)):
        url = store.presign_part(KEY, multipart_id, slot, plan, 60).url
        path = URL(url).path.replace(KEY, other)
        for source in (path, path[1:].replace("/", "%2F")):
            status, _ = await bench.send("PUT", url, b"sixsix", {"x-amz-copy-source": source})
            assert status in (400, 403)
    assert await store.list_parts(KEY, multipart_id) == []
    assert (await bench.send("PUT", store.presign_part(KEY, multipart_id, Slot(2), plan, 60).url, b"six", {}))[0] == 200


@pytest.mark.slow
async def test_a_url_ends_with_its_time(bench: Bench) -> None:
    """DM-04. The shortest time there is, signed a while ago."""
    store, plan = bench.store, Plan()
    multipart_id = await begun(store, plan)
    signed = store.presign_part(KEY, multipart_id, Slot(1, 0, 4), plan, 1)
    async with asyncio.timeout(20):
        while (await bench.put(signed, b"four"))[0] == 200:  # noqa: ASYNC110 # the store's clock tells nobody
            await asyncio.sleep(0.2)
    status, _ = await bench.put(signed, b"four")
    assert status == 403


async def test_a_url_is_worth_nothing_once_the_upload_is_aborted(bench: Bench) -> None:
    """DM-07."""
    store, plan = bench.store, Plan()
    multipart_id = await begun(store, plan)
    signed = store.presign_part(KEY, multipart_id, Slot(1, 0, 4), plan, 60)
    await store.abort_multipart(KEY, multipart_id)
    assert (await bench.put(signed, b"four"))[0] == 404
    assert await store.find(KEY, OURS.upload_id) is None


@pytest.mark.slow
async def test_a_list_of_parts_has_all_pages(bench: Bench) -> None:
    """DM-02."""
    store = bench.store
    multipart_id = await store.create_multipart(KEY, OURS)
    slots = asyncio.Semaphore(16)

    async def put(number: int) -> None:
        async with slots:
            await store.put_part(KEY, multipart_id, number, body_of(b"%d" % number))

    await asyncio.gather(*(put(number) for number in range(1, PAGE + 4)))
    listed = await store.list_parts(KEY, multipart_id)
    assert [(part.number, part.size) for part in listed] == [(n, len(str(n))) for n in range(1, PAGE + 4)]
    await store.abort_multipart(KEY, multipart_id)


@pytest.mark.parametrize("kind", ["directory", "memory"])
async def test_stores_without_urls_list_parts_and_sign_none(kind: str, tmp_path: Path) -> None:
    store: SurveyedStore = DirectoryStore(tmp_path) if kind == "directory" else MemoryStore()
    multipart_id = await store.create_multipart(KEY, OURS, plan=Plan())
    etags = [await store.put_part(KEY, multipart_id, number, body_of(b"x" * number)) for number in (2, 1)]
    assert await store.list_parts(KEY, multipart_id) == [
        ListedPart(1, 1, etags[1], crc64nvme(b"x")),
        ListedPart(2, 2, etags[0], crc64nvme(b"xx")),
    ]
    assert not store.signs_parts
    with pytest.raises(DirectOff):
        store.presign_part(KEY, multipart_id, Slot(1), Plan(), 60)
    await store.abort_multipart(KEY, multipart_id)
    with pytest.raises(MultipartLost):
        await store.list_parts(KEY, multipart_id)
