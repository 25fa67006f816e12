"""The strict S3 double is strict: each thing that it claims to check is got wrong here once.

Requests come from botocore and minio-py, which are no code of ours, and from our own signer where a test has to change
what was signed. What the double has in common with real servers is held by the contract tests of the object store.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import io
import zlib
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import aiohttp
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from awscrt.checksums import crc32c, crc64nvme
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.exceptions import ConnectionError as BotoConnectionError
from yarl import URL

from tests.doubles.s3.behaviour import AWS, CEPH, HOUR, MINIO, R2, RCLONE, Behaviour
from tests.doubles.s3.bucket import LARGEST_PART, Attributes, Bucket, ListedPart, Whole
from tests.doubles.s3.checksums import COMPOSITE, DIGESTS, FULL_OBJECT, encoded
from tests.doubles.s3.errors import Refused
from tests.doubles.s3.server import KEEP_ALIVE, S3Double
from tests.doubles.s3.signature import Key
from tests.fault.proxy import Drop, S3FaultProxy
from tusgate.s3.sign import UNSIGNED_PAYLOAD, Credentials, Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef, PaginatorConfigTypeDef

PLAIN = Attributes()
LITTLE = 4
"""The smallest part of the buckets without a server, so that parts can be words."""


@pytest.fixture
async def double() -> AsyncIterator[S3Double]:
    async with S3Double() as made:
        made.make_bucket("bucket")
        yield made


@asynccontextmanager
async def boto(double: S3Double, **more: Any) -> AsyncIterator[S3Client]:
    config = AioConfig(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, **more)
    async with get_session().create_client(
        "s3",
        endpoint_url=double.url,
        region_name=double.region,
        aws_access_key_id=double.access_key,
        aws_secret_access_key=double.secret_key,
        config=config,
    ) as client:
        yield client


@dataclasses.dataclass
class Sent:
    """One request by our own signer, with room to spoil it before and after it is signed."""

    double: S3Double
    method: str = "PUT"
    path: str = "/bucket/key"
    query: str = ""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b"body"
    payload: str = UNSIGNED_PAYLOAD
    at: datetime | None = None
    access_key: str | None = None
    secret_key: str | None = None
    token: str | None = None
    region: str | None = None
    service: str = "s3"

    def signed(self) -> dict[str, str]:
        key = Credentials(
            self.access_key or self.double.access_key, self.secret_key or self.double.secret_key, self.token
        )
        signer = Signer(key, self.region or self.double.region, self.service)
        headers = {"host": f"127.0.0.1:{self.double.port}", **self.headers}
        return signer.sign(self.method, self.path, self.query, headers, self.at or datetime.now(UTC), self.payload)

    async def send(self, **changed: Any) -> tuple[int, str]:
        """Send it; `headers`, `path`, `query` and `body` replace what was signed. Return status and error code."""
        status, answer = await self.exchange(**changed)
        return status, code_in(answer)

    async def exchange(self, **changed: Any) -> tuple[int, bytes]:
        """The same, with the whole answer."""
        path, query = changed.get("path", self.path), changed.get("query", self.query)
        url = URL(f"{self.double.url}{path}{'?' if query else ''}{query}", encoded=True)
        headers = changed.get("headers") or self.signed()
        async with (
            aiohttp.ClientSession(skip_auto_headers=("Content-Type", "User-Agent")) as session,
            session.request(self.method, url, headers=headers, data=changed.get("body", self.body)) as answer,
        ):
            return answer.status, await answer.read()


def code_in(document: bytes) -> str:
    return ElementTree.fromstring(document).findtext("Code", "") if document else ""


def refusal(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


def bucket_of(behaviour: Behaviour = AWS, **changes: Any) -> Bucket:
    return Bucket(dataclasses.replace(behaviour, min_part_size=LITTLE, **changes), lambda: 0.0)


def begun(bucket: Bucket, parts: Mapping[int, bytes], algorithm: str | None = None, kind: str | None = None) -> str:
    multipart = bucket.begin("key", PLAIN, algorithm, kind)
    for number, data in parts.items():
        sums = {algorithm: DIGESTS[algorithm](data)} if algorithm else {}
        bucket.put_part("key", multipart.id, number, data, sums)
    return multipart.id


def listing(parts: Mapping[int, bytes], algorithm: str | None = None) -> list[ListedPart]:
    return [
        ListedPart(number, hashlib.md5(data).hexdigest(), {algorithm: DIGESTS[algorithm](data)} if algorithm else {})
        for number, data in parts.items()
    ]


def naming(parts: Sequence[tuple[int, str]]) -> bytes:
    """Return the body of a Complete."""
    listed = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in parts)
    return f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()


TWO = {1: b"abcd", 2: b"efg"}


class TestSignatures:
    async def test_an_honest_request_is_let_in(self, double: S3Double) -> None:
        assert await Sent(double).send() == (200, "")
        assert double.buckets["bucket"].get("key").data == b"body"

    @pytest.mark.parametrize(
        ("lie", "code"),
        [
            ({"secret_key": "another"}, "SignatureDoesNotMatch"),
            ({"access_key": "nobody"}, "InvalidAccessKeyId"),
            ({"region": "mars-1"}, "AuthorizationHeaderMalformed"),
            ({"service": "ec2"}, "AuthorizationHeaderMalformed"),
            ({"token": "of another key"}, "InvalidToken"),
            ({"payload": hashlib.sha256(b"other").hexdigest()}, "XAmzContentSHA256Mismatch"),
            ({"payload": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}, "NotImplemented"),
        ],
    )
    async def test_a_lie_is_refused(self, double: S3Double, lie: dict[str, str], code: str) -> None:
        status, told = await Sent(double, **lie).send()  # type: ignore[arg-type]  # the table has texts only

        assert (told, status >= 400) == (code, True)
        assert not double.buckets["bucket"].objects

    @pytest.mark.parametrize("minutes", [-16, -14, 14, 16])
    async def test_the_clocks_may_be_a_quarter_of_an_hour_apart(self, double: S3Double, minutes: int) -> None:
        code = "RequestTimeTooSkewed" if abs(minutes) > 15 else ""

        assert (await Sent(double, at=datetime.now(UTC) + timedelta(minutes=minutes)).send())[1] == code
        double.gate.skew = 60.0 * minutes
        assert (await Sent(double).send())[1] == code

    async def test_what_was_signed_cannot_be_changed(self, double: S3Double) -> None:
        sent = Sent(double, query="x=1", headers={"x-amz-meta-a": "1", "content-type": "text/plain"})
        signed = sent.signed()

        for change in (
            {"path": "/bucket/other"},
            {"query": "x=2"},
            {"query": "x=1&y=2"},
            {"headers": signed | {"x-amz-meta-a": "2"}},
            {"headers": signed | {"content-type": "text/html"}},
            {"headers": signed | {"x-amz-content-sha256": hashlib.sha256(b"body").hexdigest()}},
        ):
            assert await sent.send(**{"headers": signed, **change}) == (403, "SignatureDoesNotMatch")

    @pytest.mark.parametrize("name", ["x-amz-meta-b", "x-amz-acl", "content-type", "content-md5"])
    async def test_what_matters_must_be_signed(self, double: S3Double, name: str) -> None:
        sent = Sent(double)

        assert await sent.send(headers=sent.signed() | {name: "added"}) == (403, "AccessDenied")
        assert await sent.send(headers=sent.signed() | {"user-agent": "added"}) == (200, "")

    @pytest.mark.parametrize(
        ("authorization", "code"),
        [
            (None, "AccessDenied"),
            ("Basic dXNlcjpwYXNz", "AuthorizationHeaderMalformed"),
            ("AWS4-HMAC-SHA256 Credential=a, SignedHeaders=host, Signature=b", "AuthorizationHeaderMalformed"),
        ],
    )
    async def test_a_signature_has_a_form(self, double: S3Double, authorization: str | None, code: str) -> None:
        signed = Sent(double).signed()
        del signed["authorization"]

        told = await Sent(double).send(headers=signed | ({"authorization": authorization} if authorization else {}))

        assert told[1] == code

    async def test_temporary_credentials_need_their_token_and_end(self, double: S3Double) -> None:
        double.gate.keys["temporary"] = Key("secret", token="token", expires=datetime.now(UTC).timestamp() + 60)
        sent = Sent(double, access_key="temporary", secret_key="secret", token="token")

        assert await sent.send() == (200, "")
        assert (await dataclasses.replace(sent, token=None).send())[1] == "InvalidToken"
        double.gate.keys["temporary"].expires = datetime.now(UTC).timestamp() - 1
        assert (await sent.send())[1] == "ExpiredToken"

    async def test_a_presigned_url_opens_what_it_was_made_for_until_it_ends(self, double: S3Double) -> None:
        key: dict[str, Any] = {"Bucket": "bucket", "Key": "a key"}
        async with boto(double, signature_version="s3v4") as client, aiohttp.ClientSession() as session:
            put = await client.generate_presigned_url("put_object", Params=key, ExpiresIn=60)
            get = await client.generate_presigned_url("get_object", Params=key, ExpiresIn=60)
            too_long = await client.generate_presigned_url("get_object", Params=key, ExpiresIn=8 * 24 * 3600)

            async def fetch(method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
                bare = ("Content-Type",)  # a browser that sends one has to have it signed
                async with session.request(method, URL(url, encoded=True), data=body, skip_auto_headers=bare) as answer:
                    return answer.status, await answer.read()

            assert (await fetch("PUT", put, b"data"))[0] == 200
            assert await fetch("GET", get) == (200, b"data")
            assert code_in((await fetch("PUT", get, b"data"))[1]) == "SignatureDoesNotMatch"
            assert code_in((await fetch("GET", get.replace("Expires=60", "Expires=61")))[1]) == "SignatureDoesNotMatch"
            assert code_in((await fetch("GET", too_long))[1]) == "AuthorizationQueryParametersError"
            double.gate.skew = 61
            assert code_in((await fetch("GET", get))[1]) == "AccessDenied"

    async def test_minio_py_works_with_it(self, double: S3Double) -> None:
        server = double.as_server()

        def use() -> tuple[list[str], bytes, bool]:
            name = server.make_bucket()
            client = server.client()
            for key in ("a", "b/ü €.bin", "b/c"):
                client.put_object(bucket_name=name, object_name=key, data=io.BytesIO(b"data"), length=4)
            keys, content = server.keys(name), server.read(name, "b/ü €.bin")
            assert server.keys(name, "b/") == ["b/c", "b/ü €.bin"]
            there = server.exists(name, "a") and not server.exists(name, "z")
            server.remove_bucket(name)
            return keys, content, there and server.answers()

        assert await asyncio.to_thread(use) == (["a", "b/c", "b/ü €.bin"], b"data", True)
        assert list(double.buckets) == ["bucket"]


class TestBodies:
    async def test_a_body_without_a_size_is_refused(self, double: S3Double) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"body"

        assert await Sent(double).send(body=chunks()) == (411, "MissingContentLength")

    async def test_a_body_that_breaks_off_changes_nothing(self, double: S3Double) -> None:
        async with S3FaultProxy(double.url) as proxy:
            proxy.on("PutObject", Drop(after=100_000))
            sent = Sent(double, body=bytes(1_000_000))
            with pytest.raises(aiohttp.ClientError):
                await dataclasses.replace(sent, double=_Elsewhere(double, proxy.url)).send()  # type: ignore[arg-type]

        while not double.history:  # noqa: ASYNC110 # the reset is on its way
            await asyncio.sleep(0.01)
        assert {(served.call.kind, served.status, served.size <= 100_000) for served in double.history} == {
            ("PutObject", None, True)
        }
        assert not double.buckets["bucket"].objects

    async def test_a_size_beyond_five_gibibytes_is_refused(self, double: S3Double) -> None:
        sent = Sent(double)

        assert await sent.send(headers=sent.signed() | {"content-length": str((5 << 30) + 1)}) == (
            400,
            "EntityTooLarge",
        )

    @pytest.mark.parametrize(
        ("value", "code"),
        [
            (encoded(hashlib.md5(b"body").digest()), ""),
            (encoded(hashlib.md5(b"other").digest()), "BadDigest"),
            ("not base64", "InvalidDigest"),
            (encoded(b"short"), "InvalidDigest"),
        ],
    )
    async def test_content_md5_is_compared(self, double: S3Double, value: str, code: str) -> None:
        assert (await Sent(double, headers={"content-md5": value}).send())[1] == code
        assert bool(double.buckets["bucket"].objects) == (not code)

    @pytest.mark.parametrize("name", DIGESTS)
    async def test_additional_checksums_are_compared_kept_and_shown(self, double: S3Double, name: str) -> None:
        right, wrong = (encoded(DIGESTS[name](data)) for data in (b"body", b"other"))

        assert (await Sent(double, headers={f"x-amz-checksum-{name}": wrong}).send())[1] == "BadDigest"
        assert (await Sent(double, headers={f"x-amz-checksum-{name}": "AAA="}).send())[1] == "InvalidRequest"
        assert (await Sent(double, headers={f"x-amz-checksum-{name}": right}).send())[1] == ""

        async with boto(double) as client:
            shown = await client.head_object(Bucket="bucket", Key="key", ChecksumMode="ENABLED")
            hidden = await client.head_object(Bucket="bucket", Key="key")
        assert shown[f"Checksum{name.upper()}"] == right  # type: ignore[literal-required]  # one name per algorithm
        assert f"Checksum{name.upper()}" not in hidden

    async def test_only_one_additional_checksum_is_taken(self, double: S3Double) -> None:
        both = {f"x-amz-checksum-{name}": encoded(DIGESTS[name](b"body")) for name in ("crc32", "sha1")}

        assert (await Sent(double, headers=both).send())[1] == "InvalidRequest"

    def test_the_digests_are_the_well_known_ones(self) -> None:
        digits = b"123456789"

        assert {name: digest(digits).hex() for name, digest in DIGESTS.items()} == {
            "crc32": f"{zlib.crc32(digits):08x}",
            "crc32c": "e3069283",
            "crc64nvme": "ae8b14860a799888",
            "sha1": hashlib.sha1(digits).hexdigest(),
            "sha256": hashlib.sha256(digits).hexdigest(),
        }

    async def test_a_vendor_that_knows_no_additional_checksums_ignores_them(self) -> None:
        async with S3Double(CEPH) as double:
            double.make_bucket("bucket")
            wrong = {"x-amz-checksum-crc64nvme": encoded(bytes(8))}

            assert await Sent(double, headers=wrong).send() == (200, "")
            assert double.buckets["bucket"].get("key").checksums == {}

    async def test_what_is_stored_with_an_object_comes_back(self, double: S3Double) -> None:
        async with boto(double) as client:
            await client.put_object(
                Bucket="bucket",
                Key="key",
                Body=b"data",
                ContentType="text/plain",
                ContentEncoding="gzip",
                ContentDisposition="attachment",
                CacheControl="no-store",
                Metadata={"Name": "value"},
            )
            found = await client.head_object(Bucket="bucket", Key="key")
            with pytest.raises(ClientError) as refused:
                await client.put_object(Bucket="bucket", Key="key", Metadata={"a": "x" * 2048})

        assert found["Metadata"] == {"name": "value"}
        assert (found["ContentType"], found["ContentEncoding"]) == ("text/plain", "gzip")
        assert (found["ContentDisposition"], found["CacheControl"]) == ("attachment", "no-store")
        assert refusal(refused) == "MetadataTooLarge"

    def test_a_key_has_at_most_1024_bytes(self) -> None:
        bucket_of().put("ü" * 512, b"", {}, PLAIN)

        with pytest.raises(Refused, match="KeyTooLongError"):
            bucket_of().put("ü" * 512 + "x", b"", {}, PLAIN)

    async def test_a_put_for_a_new_object_does_not_replace_one(self, double: S3Double) -> None:
        sent = Sent(double, headers={"if-none-match": "*"})

        assert await sent.send() == (200, "")
        assert await sent.send() == (412, "PreconditionFailed")


class _Elsewhere:
    """A double as it looks through a proxy."""

    def __init__(self, double: S3Double, url: str) -> None:
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.region, self.access_key, self.secret_key = double.region, double.access_key, double.secret_key


class TestMultiparts:
    def test_the_listed_parts_become_the_object(self) -> None:
        bucket = bucket_of()

        made = bucket.complete("key", begun(bucket, TWO), listing(TWO), Whole())

        digests = b"".join(hashlib.md5(data).digest() for data in TWO.values())
        assert (made.data, made.etag) == (b"abcdefg", f"{hashlib.md5(digests).hexdigest()}-2")
        assert bucket.get("key") is made
        assert not bucket.multiparts

    @pytest.mark.parametrize("number", [0, 10_001])
    def test_a_part_number_is_between_1_and_10000(self, number: int) -> None:
        bucket = bucket_of()
        begun(bucket, {1: b"", 10_000: b""})

        with pytest.raises(Refused, match="InvalidArgument"):
            begun(bucket, {number: b""})

    @pytest.mark.parametrize("number", ["0", "10001", "x", ""])
    async def test_a_wrong_part_number_in_a_request_is_refused(self, double: S3Double, number: str) -> None:
        multipart = double.buckets["bucket"].begin("key", PLAIN, None, None)

        told = await Sent(double, query=f"partNumber={number}&uploadId={multipart.id}").send()

        assert told == (400, "InvalidArgument")
        assert not multipart.parts

    @pytest.mark.parametrize(
        ("listed", "code"),
        [
            ([], "MalformedXML"),
            ([2, 1], "InvalidPartOrder"),
            ([1, 1], "InvalidPartOrder"),
            ([1, 3], "InvalidPart"),
        ],
    )
    async def test_a_list_that_is_wrong_is_refused(self, double: S3Double, listed: list[int], code: str) -> None:
        bucket = double.buckets["bucket"]
        multipart_id = begun(bucket, TWO | {3: b""})
        del bucket.multiparts[multipart_id].parts[3]
        parts = {part.number: part for part in listing(TWO | {3: b""})}
        body = naming([(number, parts[number].etag) for number in listed])
        sent = Sent(double, "POST", query=f"uploadId={multipart_id}", body=body)

        assert (await sent.send())[1] == code
        assert multipart_id in bucket.multiparts
        assert not bucket.objects

    def test_a_part_with_another_etag_is_refused(self) -> None:
        bucket = bucket_of()

        with pytest.raises(Refused, match="InvalidPart"):
            bucket.complete("key", begun(bucket, TWO), listing(TWO | {2: b"efh"}), Whole())

    def test_all_parts_but_the_last_have_the_least_size(self) -> None:
        bucket = bucket_of()
        small = {1: b"abc", 2: b"defg"}
        multipart_id = begun(bucket, small)

        with pytest.raises(Refused, match="EntityTooSmall"):
            bucket.complete("key", multipart_id, listing(small), Whole())

        assert bucket.complete("key", multipart_id, listing({1: b"abc"}), Whole()).data == b"abc"
        assert AWS.min_part_size == 5 << 20

    def test_a_part_that_is_not_listed_is_dropped_or_demanded(self) -> None:
        for behaviour in (AWS, CEPH):
            bucket = bucket_of(behaviour)
            multipart_id = begun(bucket, TWO)
            if behaviour.wants_all_parts:
                with pytest.raises(Refused, match="InvalidPart"):
                    bucket.complete("key", multipart_id, listing({1: TWO[1]}), Whole())
            else:
                assert bucket.complete("key", multipart_id, listing({1: TWO[1]}), Whole()).data == b"abcd"

    @pytest.mark.parametrize("sizes", [(4, 5, 4), (4, 4, 5), (5,), (4, 4, 4), (4, 4, 1)])
    def test_equal_parts_are_demanded_where_a_vendor_does(self, sizes: Sequence[int]) -> None:
        bucket = bucket_of(R2)
        parts = {number: bytes(size) for number, size in enumerate(sizes, 1)}
        multipart_id = begun(bucket, parts)

        if sizes in {(4, 5, 4), (4, 4, 5)}:
            with pytest.raises(Refused, match="InvalidPart"):
                bucket.complete("key", multipart_id, listing(parts), Whole())
        else:
            bucket.complete("key", multipart_id, listing(parts), Whole())

    def test_a_part_that_is_sent_again_replaces_the_first_where_that_is_possible(self) -> None:
        for behaviour in (AWS, RCLONE):
            bucket = bucket_of(behaviour)
            multipart_id = begun(bucket, TWO)
            bucket.put_part("key", multipart_id, 2, TWO[2], {})
            if behaviour.takes_parts_again:
                bucket.put_part("key", multipart_id, 2, b"xyz", {})
                assert bucket.complete("key", multipart_id, listing(TWO | {2: b"xyz"}), Whole()).data == b"abcdxyz"
            else:
                with pytest.raises(Refused, match="NotImplemented"):
                    bucket.put_part("key", multipart_id, 2, b"xyz", {})

    @pytest.mark.parametrize("behaviour", [AWS, MINIO, CEPH])
    def test_a_second_complete_is_answered_as_the_vendor_does(self, behaviour: Behaviour) -> None:
        bucket = bucket_of(behaviour)
        multipart_id = begun(bucket, TWO)
        first = bucket.complete("key", multipart_id, listing(TWO), Whole())

        if behaviour.repeats_complete:
            assert bucket.complete("key", multipart_id, listing(TWO), Whole()) is first
            with pytest.raises(Refused, match="InvalidPart"):
                bucket.complete("key", multipart_id, listing({1: TWO[1]}), Whole())
        else:
            with pytest.raises(Refused, match="NoSuchUpload"):
                bucket.complete("key", multipart_id, listing(TWO), Whole())
        with pytest.raises(Refused, match=behaviour.gone):
            bucket.abort("key", multipart_id)

    def test_a_multipart_upload_belongs_to_its_key(self) -> None:
        bucket = bucket_of()
        multipart_id = begun(bucket, TWO)

        with pytest.raises(Refused, match="NoSuchUpload"):
            bucket.complete("other", multipart_id, listing(TWO), Whole())
        with pytest.raises(Refused, match="NoSuchUpload"):
            bucket.abort("other", multipart_id)

    def test_a_complete_for_a_new_object_does_not_replace_one(self) -> None:
        bucket = bucket_of()
        bucket.put("key", b"there", {}, PLAIN)
        multipart_id = begun(bucket, TWO)

        with pytest.raises(Refused, match="PreconditionFailed"):
            bucket.complete("key", multipart_id, listing(TWO), Whole(), unless_there=True)

        assert bucket.get("key").data == b"there"
        assert multipart_id in bucket.multiparts

    def test_the_size_of_the_object_is_compared_where_a_vendor_does(self) -> None:
        bucket = bucket_of()
        with pytest.raises(Refused, match="InvalidRequest"):
            bucket.complete("key", begun(bucket, TWO), listing(TWO), Whole(size=8))
        bucket.complete("key", begun(bucket, TWO), listing(TWO), Whole(size=7))

        tolerant = bucket_of(MINIO)
        tolerant.complete("key", begun(tolerant, TWO), listing(TWO), Whole(size=8))

    async def test_a_part_may_be_copied_from_an_object(self, double: S3Double) -> None:
        source = bytes(range(256)) * 4 * 5 * 1024 + b"more than the smallest that S3 copies ranges of"
        double.buckets["bucket"].put("a source", source, {}, PLAIN)
        where: dict[str, Any] = {"Bucket": "bucket", "Key": "key"}
        async with boto(double) as client:
            begun = await client.create_multipart_upload(
                **where, ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT"
            )
            copy: dict[str, Any] = {
                **where,
                "UploadId": begun["UploadId"],
                "PartNumber": 1,
                "CopySource": "bucket/a source",
            }
            with pytest.raises(ClientError) as refused:
                await client.upload_part_copy(**copy, CopySourceRange=f"bytes=0-{len(source)}")
            part = (await client.upload_part_copy(**copy, CopySourceRange="bytes=10-299"))["CopyPartResult"]
            listed: CompletedPartTypeDef = {
                "PartNumber": 1,
                "ETag": part["ETag"],
                "ChecksumCRC64NVME": part["ChecksumCRC64NVME"],
            }
            await client.complete_multipart_upload(
                **where, UploadId=begun["UploadId"], MultipartUpload={"Parts": [listed]}
            )

        assert refusal(refused) == "InvalidArgument"
        assert double.buckets["bucket"].get("key").data == source[10:300]
        assert double.count("UploadPartCopy") == 2

    def test_not_every_copy_is_made(self) -> None:
        bucket = bucket_of(smallest_ranged=10)
        small, large = (bucket.put(f"{size} bytes", bytes(size), {}, PLAIN) for size in (10, 11))
        multipart_id = begun(bucket, {})
        bucket.copy_part("key", multipart_id, 1, small, None)
        bucket.copy_part("key", multipart_id, 2, large, (0, 1))

        with pytest.raises(Refused, match=r"InvalidRequest.*too few"):
            bucket.copy_part("key", multipart_id, 1, small, (0, 10))
        with pytest.raises(Refused, match=r"InvalidRequest.*more than can be copied"):
            bucket.copy_part("key", multipart_id, 1, large, (0, LARGEST_PART + 1))
        for wanted in ((0, 12), (0, LARGEST_PART), (11, 12), (5, 5), (7, 5)):
            with pytest.raises(Refused, match="InvalidArgument"):
                bucket.copy_part("key", multipart_id, 1, large, wanted)
        with pytest.raises(Refused, match="InvalidArgument"):
            bucket.copy_part("key", multipart_id, 10_001, large, None)
        with pytest.raises(Refused, match="NoSuchUpload"):
            bucket.copy_part("other", multipart_id, 1, large, None)

        sizes = {number: len(part.data) for number, part in bucket.multipart("key", multipart_id).parts.items()}
        assert sizes == {1: 10, 2: 1}

    def test_a_copied_part_that_is_too_small_is_noticed_when_the_object_is_made(self) -> None:
        bucket = bucket_of()
        multipart_id = begun(bucket, {2: b"abcd"})
        part = bucket.copy_part("key", multipart_id, 1, bucket.put("source", b"ab", {}, PLAIN), None)

        with pytest.raises(Refused, match="EntityTooSmall"):
            bucket.complete("key", multipart_id, [ListedPart(1, part.etag), *listing({2: b"abcd"})], Whole())

    @pytest.mark.parametrize(("behaviour", "algorithm"), [(AWS, "crc64nvme"), (AWS, None), (MINIO, None)])
    def test_a_copied_part_has_the_checksum_of_the_copied_bytes(
        self, behaviour: Behaviour, algorithm: str | None
    ) -> None:
        bucket = bucket_of(behaviour, smallest_ranged=0)
        source = bucket.put("source", b"abcdef", {}, PLAIN)

        part = bucket.copy_part("key", begun(bucket, {}, algorithm), 1, source, (1, 3))

        assert part.data == b"bc"
        assert part.sums == ({} if algorithm is None else {algorithm: DIGESTS[algorithm](b"bc")})

    @pytest.mark.parametrize(
        ("behaviour", "algorithm", "code"),
        [(MINIO, "crc64nvme", "InvalidArgument"), (RCLONE, None, "NotImplemented")],
    )
    def test_not_every_vendor_copies(self, behaviour: Behaviour, algorithm: str | None, code: str) -> None:
        bucket = bucket_of(behaviour)
        source = bucket.put("source", b"abcdef", {}, PLAIN)

        with pytest.raises(Refused, match=code):
            bucket.copy_part("key", begun(bucket, {}, algorithm), 1, source, (1, 3))

    @pytest.mark.parametrize(
        ("address", "code"),
        [
            ("bucket/a%20b", ""),
            ("/bucket/a+b", ""),
            ("bucket/a%2Bb", "NoSuchKey"),
            ("bucket/a+b?versionId=1", "InvalidArgument"),
            ("nowhere/a+b", "NoSuchBucket"),
        ],
    )
    async def test_the_source_of_a_copy_is_decoded(self, double: S3Double, address: str, code: str) -> None:
        double.buckets["bucket"].put("a b", b"abcdef", {}, PLAIN)
        multipart_id = begun(double.buckets["bucket"], {})
        sent = Sent(
            double,
            query=f"partNumber=1&uploadId={multipart_id}",
            headers={"x-amz-copy-source": address},
            body=b"",
        )

        assert (await sent.send())[1] == code
        parts = double.buckets["bucket"].multiparts[multipart_id].parts
        assert [part.data for part in parts.values()] == ([] if code else [b"abcdef"])


class TestChecksumsOfObjects:
    @pytest.mark.parametrize(
        ("algorithm", "kind"),
        [
            ("crc64nvme", FULL_OBJECT),
            ("crc32c", FULL_OBJECT),
            ("crc32", FULL_OBJECT),
            ("crc32c", COMPOSITE),
            ("crc32", COMPOSITE),
            ("sha1", COMPOSITE),
            ("sha256", COMPOSITE),
        ],
    )
    def test_the_checksum_of_the_whole_is_shown_and_compared(self, algorithm: str, kind: str) -> None:
        bucket = bucket_of()
        digest = DIGESTS[algorithm]
        right = encoded(digest(b"abcdefg"))
        if kind == COMPOSITE:
            right = encoded(digest(b"".join(map(digest, TWO.values())))) + "-2"
        multipart_id = begun(bucket, TWO, algorithm, kind)

        for wrong in (Whole({algorithm: encoded(digest(b"other"))}), Whole({algorithm: right[:-1]})):
            with pytest.raises(Refused, match="BadDigest"):
                bucket.complete("key", multipart_id, listing(TWO, algorithm), wrong)
        other_kind = COMPOSITE if kind == FULL_OBJECT else FULL_OBJECT
        with pytest.raises(Refused, match="InvalidRequest"):
            bucket.complete("key", multipart_id, listing(TWO, algorithm), Whole({algorithm: right}, other_kind))
        made = bucket.complete("key", multipart_id, listing(TWO, algorithm), Whole({algorithm: right}, kind))

        assert (made.checksums, made.checksum_type) == ({algorithm: right}, kind)

    @pytest.mark.parametrize(("algorithm", "kind"), [("crc64nvme", COMPOSITE), ("sha256", FULL_OBJECT)])
    def test_not_every_checksum_can_be_made_either_way(self, algorithm: str, kind: str) -> None:
        with pytest.raises(Refused, match="InvalidRequest"):
            bucket_of().begin("key", PLAIN, algorithm, kind)

    def test_a_declared_checksum_must_come_with_every_part_and_be_listed(self) -> None:
        bucket = bucket_of()
        multipart_id = begun(bucket, TWO, "crc64nvme")

        with pytest.raises(Refused, match="InvalidRequest"):
            bucket.put_part("key", multipart_id, 3, b"h", {})
        with pytest.raises(Refused, match="InvalidPart"):
            bucket.complete("key", multipart_id, listing(TWO), Whole())
        right = listing(TWO, "crc64nvme")
        with pytest.raises(Refused, match="InvalidPart"):
            bucket.complete("key", multipart_id, [right[0], dataclasses.replace(right[1], sums=right[0].sums)], Whole())

    def test_the_combined_checksums_are_those_of_the_joined_bytes(self) -> None:
        assert DIGESTS["crc64nvme"](b"abcdefg") == crc64nvme(b"abcdefg").to_bytes(8, "big")
        assert DIGESTS["crc32c"](b"abcdefg") == crc32c(b"abcdefg").to_bytes(4, "big")
        assert base64.b64encode(DIGESTS["crc32"](b"abcdefg")).decode() == encoded(
            zlib.crc32(b"abcdefg").to_bytes(4, "big")
        )


class TestReading:
    @pytest.mark.parametrize(
        ("wanted", "found"),
        [("bytes=0-3", b"0123"), ("bytes=7-", b"789"), ("bytes=-2", b"89"), ("bytes=8-20", b"89"), ("bytes=-20", None)],
    )
    async def test_a_range_is_answered(self, double: S3Double, wanted: str, found: bytes | None) -> None:
        double.buckets["bucket"].put("key", b"0123456789", {}, PLAIN)
        async with boto(double) as client:
            answer = await client.get_object(Bucket="bucket", Key="key", Range=wanted)

            content = await answer["Body"].read()
            assert content == (found or b"0123456789")
            assert answer["ContentRange"].endswith("/10")

    @pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=5-4", "bytes=-0"])
    async def test_a_range_outside_is_refused(self, double: S3Double, wanted: str) -> None:
        double.buckets["bucket"].put("key", b"0123456789", {}, PLAIN)
        async with boto(double) as client:
            with pytest.raises(ClientError) as refused:
                await client.get_object(Bucket="bucket", Key="key", Range=wanted)

        assert refusal(refused) == "InvalidRange"

    async def test_another_object_than_the_expected_one_is_not_read(self, double: S3Double) -> None:
        etag = double.buckets["bucket"].put("key", b"data", {}, PLAIN).etag
        async with boto(double) as client:
            await client.get_object(Bucket="bucket", Key="key", IfMatch=f'"{etag}"')
            with pytest.raises(ClientError) as refused:
                await client.get_object(Bucket="bucket", Key="key", IfMatch='"other"')

        assert refusal(refused) == "PreconditionFailed"

    async def test_what_is_not_there_is_named(self, double: S3Double) -> None:
        async with boto(double) as client:
            for code, call in {
                "NoSuchKey": client.get_object(Bucket="bucket", Key="key"),
                "404": client.head_object(Bucket="bucket", Key="key"),
                "NoSuchBucket": client.list_objects_v2(Bucket="other"),
                "NoSuchUpload": client.list_parts(Bucket="bucket", Key="key", UploadId="none"),
                "NotImplemented": client.get_object_tagging(Bucket="bucket", Key="key"),
            }.items():
                with pytest.raises(ClientError) as refused:
                    await call
                assert refusal(refused) == code

    async def test_listings_come_in_pages(self, double: S3Double) -> None:
        bucket = double.buckets["bucket"]
        for number in range(5):
            bucket.put(f"a/{number}", b"", {}, PLAIN)
            bucket.begin(f"a/{number % 2}", PLAIN, None, None)
        bucket.put("b", b"", {}, PLAIN)
        multipart_id = begun(bucket, {number: bytes([number]) for number in range(1, 6)})
        size: PaginatorConfigTypeDef = {"PageSize": 2}
        async with boto(double) as client:
            objects = client.get_paginator("list_objects_v2").paginate(
                Bucket="bucket", Prefix="a/", PaginationConfig=size
            )
            uploads = client.get_paginator("list_multipart_uploads").paginate(Bucket="bucket", PaginationConfig=size)
            parts = client.get_paginator("list_parts").paginate(
                Bucket="bucket", Key="key", UploadId=multipart_id, PaginationConfig=size
            )

            assert [each["Key"] async for page in objects for each in page["Contents"]] == [f"a/{n}" for n in range(5)]
            assert {each["UploadId"] async for page in uploads for each in page["Uploads"]} == set(bucket.multiparts)
            assert [each["PartNumber"] async for page in parts for each in page["Parts"]] == [1, 2, 3, 4, 5]
            folders = await client.list_objects_v2(Bucket="bucket", Delimiter="/")

        assert [each["Prefix"] for each in folders["CommonPrefixes"]] == ["a/"]
        assert [each["Key"] for each in folders["Contents"]] == ["b"]

    async def test_many_objects_are_deleted_at_once_only_with_a_checksum(self, double: S3Double) -> None:
        for key in ("a", "b", "c"):
            double.buckets["bucket"].put(key, b"", {}, PLAIN)
        body = b"<Delete><Object><Key>c</Key></Object></Delete>"

        assert (await Sent(double, "POST", "/bucket", "delete=", body=body).send())[1] == "InvalidRequest"
        async with boto(double) as client:
            answer = await client.delete_objects(
                Bucket="bucket", Delete={"Objects": [{"Key": "a"}, {"Key": "b"}, {"Key": "never"}]}
            )

        assert [each["Key"] for each in answer["Deleted"]] == ["a", "b", "never"]
        assert list(double.buckets["bucket"].objects) == ["c"]


class TestTime:
    async def test_a_multipart_upload_is_swept_24_hours_after_it_began_however_lately_it_got_a_part(self) -> None:
        double = S3Double(MINIO)
        bucket = double.make_bucket("bucket")
        old = bucket.begin("old", PLAIN, None, None)
        double.advance(23 * HOUR)
        young = bucket.begin("young", PLAIN, None, None)
        bucket.put_part("old", old.id, 1, b"data", {})
        assert {*bucket.multiparts} == {old.id, young.id}

        double.advance(HOUR)

        assert {*bucket.multiparts} == {young.id}
        with pytest.raises(Refused, match="NoSuchUpload"):
            bucket.put_part("old", old.id, 2, b"data", {})

    async def test_amazon_sweeps_nothing(self) -> None:
        double = S3Double(AWS)
        bucket = double.make_bucket("bucket")
        bucket.begin("old", PLAIN, None, None)

        double.advance(1_000 * HOUR)

        assert len(bucket.multiparts) == 1

    async def test_time_in_the_store_does_not_spoil_signatures(self, double: S3Double) -> None:
        double.advance(1_000 * HOUR)

        assert await Sent(double).send() == (200, "")

    async def test_a_restart_empties_the_listing_and_an_exact_key_still_finds(self) -> None:
        async with S3Double(MINIO) as double:
            bucket = double.make_bucket("bucket")
            known = begun(bucket, TWO)
            assert [found.id for found in bucket.list_multiparts("")] == [known]

            await double.restart()

            assert bucket.list_multiparts("") == []
            assert bucket.list_multiparts("ke") == []
            assert [found.id for found in bucket.list_multiparts("key")] == [known]
            assert bucket.multiparts[known].parts

    async def test_a_double_that_is_stopped_or_paused_does_not_answer(self, double: S3Double) -> None:
        server = double.as_server()
        async with boto(double, connect_timeout=1, read_timeout=0.2) as client:
            await asyncio.to_thread(server.pause)
            with pytest.raises(ReadTimeoutError):
                await client.list_buckets()
            await asyncio.to_thread(server.resume)
            await client.list_buckets()
            await asyncio.to_thread(server.stop)
            with pytest.raises(BotoConnectionError):
                await client.list_buckets()
            await asyncio.to_thread(server.heal)
            await client.list_buckets()


class TestFaultsInside:
    def test_a_byte_rots_and_the_checksums_do_not_notice(self) -> None:
        bucket = bucket_of()
        multipart_id = begun(bucket, TWO, "crc64nvme")
        bucket.rot_part(multipart_id, 1, 0)
        right = {"crc64nvme": encoded(DIGESTS["crc64nvme"](b"abcdefg"))}

        made = bucket.complete("key", multipart_id, listing(TWO, "crc64nvme"), Whole(right))
        bucket.rot("key", 6)

        assert made.data == b"\x9ebcdefg"
        assert bucket.get("key").data == b"\x9ebcdef\x98"
        assert bucket.get("key").checksums == right

    @pytest.mark.parametrize("behaviour", [AWS, MINIO])
    @pytest.mark.parametrize("done", [True, False])
    async def test_a_complete_fails_inside_of_a_200_or_by_its_status(self, behaviour: Behaviour, done: bool) -> None:
        async with S3Double(behaviour) as double:
            bucket = double.make_bucket("bucket")
            multipart_id = begun(bucket, {1: b"abc"})
            etag = hashlib.md5(b"abc").hexdigest()
            sent = Sent(double, "POST", query=f"uploadId={multipart_id}", body=naming([(1, etag)]))
            double.fail_completes(1, done=done)

            assert await sent.send() == (200 if behaviour.keeps_alive else 500, "InternalError")
            assert ("key" in bucket.objects) == done
            again = await sent.send()

            assert again == ((404, "NoSuchUpload") if done and behaviour is MINIO else (200, ""))
            first, second = double.of("CompleteMultipartUpload")
            assert (first.succeeded, first.code) == (False, "InternalError")
            assert first.call.listed_parts == [(1, etag)]
            assert second.succeeded == (again[0] == 200)

    async def test_white_space_comes_before_the_result_of_a_complete(self, double: S3Double) -> None:
        multipart_id = begun(double.buckets["bucket"], {1: b"abc"})
        sent = Sent(
            double, "POST", query=f"uploadId={multipart_id}", body=naming([(1, hashlib.md5(b"abc").hexdigest())])
        )

        _, answer = await sent.exchange()

        declaration, white, result = answer.partition(KEEP_ALIVE)
        assert declaration.startswith(b"<?xml")
        assert white
        assert double.buckets["bucket"].get("key").etag.encode() in result

    async def test_the_history_is_in_the_order_of_effects(self, double: S3Double) -> None:
        async with boto(double) as client:
            begun = await client.create_multipart_upload(Bucket="bucket", Key="key")
            part: dict[str, Any] = {"Bucket": "bucket", "Key": "key", "UploadId": begun["UploadId"], "PartNumber": 7}
            etag = (await client.upload_part(**part, Body=b"data"))["ETag"].strip('"')
            await client.abort_multipart_upload(Bucket="bucket", Key="key", UploadId=begun["UploadId"])
            with pytest.raises(ClientError):
                await client.upload_part(**part, Body=b"more")

        seen = [(each.call.kind, each.call.part, each.size, each.status, each.code) for each in double.history]
        assert seen == [
            ("CreateMultipartUpload", None, 0, 200, ""),
            ("UploadPart", 7, 4, 200, ""),
            ("AbortMultipartUpload", None, 0, 204, ""),
            ("UploadPart", 7, 4, 404, "NoSuchUpload"),
        ]
        assert [each.call.order for each in double.history] == [1, 2, 3, 4]
        assert (double.history[1].etag, double.history[1].upload_id) == (etag, begun["UploadId"])
        assert double.count("UploadPart") == 2
