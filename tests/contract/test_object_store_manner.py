"""How objects of a route are stored: encryption, class, tags, and what is told to those who read them."""

from __future__ import annotations

import base64
import dataclasses
from typing import TYPE_CHECKING

import pytest

from tests.contract.test_object_store import MIB, OURS, body_of
from tests.doubles.s3.behaviour import BEHAVIOURS
from tests.doubles.s3.server import S3Double
from tusgate.core.errors import StoreUnavailable
from tusgate.core.model import ObjectKey, Part, Piece, UploadId
from tusgate.ports import Attributes, Presentation
from tusgate.s3.config import S3Config
from tusgate.s3.manner import Encryption, Manner
from tusgate.s3.profiles import PROFILES
from tusgate.s3.store import S3Store
from tusgate.service.digest import combined_crc64

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.servers.s3 import S3Server

KEY = ObjectKey("a/b.bin")
CUSTOMER_KEY = base64.b64encode(bytes(range(32))).decode()
EVERYTHING = Manner(
    storage_class="STANDARD_IA",
    encryption=Encryption.KMS,
    kms_key="key-1",
    cache_control="private, max-age=60",
    content_disposition="attachment",
    tags=(("team", "a b"), ("x", "1+1=2")),
)
SECRET = Manner(encryption=Encryption.CUSTOMER, customer_key=CUSTOMER_KEY)
NAMED = dataclasses.replace(OURS, filename='naïve "x";.txt')


def store_at(server: S3Server, bucket: str, profile: str, manner: Manner) -> S3Store:
    return S3Store(
        S3Config(
            endpoint=server.endpoint,
            region=server.region,
            bucket=bucket,
            prefix="uploads/",
            access_key=server.access_key,
            secret_key=server.secret_key,
            profile=dataclasses.replace(PROFILES[profile], path_style=True),
            manner=manner,
        )
    )


@pytest.fixture
async def double() -> AsyncIterator[S3Double]:
    async with S3Double(BEHAVIOURS["aws"]) as double:
        double.make_bucket("bucket")
        yield double


@pytest.fixture
async def store_with(double):
    made = []

    def make(manner):
        made.append(store_at(double.as_server(), "bucket", "aws", manner))
        return made[-1]

    yield make
    for store in made:
        await store.close()


async def made_in_parts(store, attributes=NAMED):
    """Make an object of one uploaded and one copied part."""
    source = ObjectKey("pieces/source")
    first, second = body_of(b"1" * 5 * MIB), body_of(b"2" * 6 * MIB)
    await store.put_object(source, second, Attributes(attributes.upload_id, is_passing=True))
    multipart_id = await store.create_multipart(KEY, attributes, with_copies=True)
    etags = [await store.put_part(KEY, multipart_id, 1, first)]
    etags.append(await store.copy_part(KEY, multipart_id, 2, Piece(0, second.size, second.crc64, source)))
    starts, bodies = (0, first.size), (first, second)
    parts = [
        Part(n + 1, starts[n], body.size, etag, body.crc64)
        for n, (body, etag) in enumerate(zip(bodies, etags, strict=True))
    ]
    assert await store.multipart_exists(KEY, multipart_id)
    await store.complete_multipart(KEY, multipart_id, parts, combined_crc64(parts), with_copies=True)
    return first.size + second.size


def shown(double, key=KEY):
    return dict(double.buckets["bucket"].get(f"uploads/{key}").attributes.headers)


EXPECTED = {
    "x-amz-storage-class": "STANDARD_IA",
    "x-amz-server-side-encryption": "aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
    "x-amz-tagging": "team=a%20b&x=1%2B1%3D2",
    "Cache-Control": "private, max-age=60",
    "Content-Disposition": "attachment; filename*=UTF-8''na%C3%AFve%20%22x%22%3B.txt",
    "Content-Type": "text/plain; charset=utf-8",
}


async def test_a_whole_object_is_stored_as_the_route_says(double, store_with):
    await store_with(EVERYTHING).put_object(KEY, body_of(b"x" * 100), NAMED)
    assert shown(double) == EXPECTED


async def test_an_object_of_parts_is_stored_as_the_route_says(double, store_with):
    await made_in_parts(store_with(EVERYTHING))
    assert shown(double) == EXPECTED


async def test_what_passes_is_encrypted_like_the_rest_and_otherwise_plain(double, store_with):
    await store_with(EVERYTHING).put_object(KEY, body_of(b"x" * 100), Attributes(OURS.upload_id, is_passing=True))
    assert set(shown(double)) == {"x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id"}


async def test_without_a_manner_nothing_is_added(double, store_with):
    await store_with(Manner()).put_object(KEY, body_of(b"x" * 100), NAMED)
    assert set(shown(double)) == {"Content-Type"}


async def test_the_store_encrypts_where_that_is_asked_for(double, store_with):
    await store_with(Manner(encryption=Encryption.S3)).put_object(KEY, body_of(b"x" * 100), OURS)
    assert shown(double)["x-amz-server-side-encryption"] == "AES256"


async def test_a_customers_key_goes_with_every_request_that_needs_it(double, store_with):
    """The double refuses those that lack it, as S3 does."""
    store = store_with(SECRET)
    await store.check()
    size = await made_in_parts(store)
    found = await store.find(KEY, OURS.upload_id)
    assert found is not None
    assert found.size == size
    assert await store.owner_of(KEY) == OURS.upload_id
    assert sum([len(chunk) async for chunk in store.read(KEY, 3)]) == size - 3
    with pytest.raises(StoreUnavailable):
        await store_with(Manner()).find(KEY, OURS.upload_id)


async def test_a_body_may_be_made_of_pieces_that_are_encrypted_with_a_customers_key(store_with):
    store = store_with(SECRET)
    piece_key, piece = ObjectKey("pieces/1"), body_of(b"y" * 1000)
    await store.put_object(piece_key, piece, Attributes(OURS.upload_id, is_passing=True))
    body = dataclasses.replace(piece, pieces=(Piece(0, 1000, piece.crc64, piece_key),), buffers=[])
    await store.put_object(KEY, body, OURS)
    assert await store.find(KEY, UploadId(OURS.upload_id)) is not None


def test_a_customers_key_does_not_show():
    assert CUSTOMER_KEY not in repr(SECRET)


async def test_nobody_is_sent_to_an_object_that_our_key_is_needed_for(store_with):
    asked = "GET", KEY, Presentation("text/plain", "attachment", "no-store"), 60
    assert store_with(SECRET).presign(*asked) is None
    assert store_with(EVERYTHING).presign(*asked) is not None
