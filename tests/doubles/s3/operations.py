"""The operations of S3: what each makes of a request that was let in, and what it answers. No I/O."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, unquote_plus

from tests.doubles.s3 import checksums, xml
from tests.doubles.s3.bucket import Attributes, Bucket, ListedPart, Whole, check_number
from tests.doubles.s3.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.doubles.s3.behaviour import Behaviour
    from tests.doubles.s3.bucket import Blob, Object
    from tests.doubles.s3.xml import Node

PAGE = 1000
META = "x-amz-meta-"
KEPT = ("Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Type", "Expires")
"""Headers of a request that come back with the object."""
CUSTOMER = "x-amz-server-side-encryption-customer-"
SOURCE = "x-amz-copy-source-server-side-encryption-customer-"
ALSO_KEPT = (
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-storage-class",
    "x-amz-tagging",
    CUSTOMER + "key-MD5",
)
"""What S3 keeps and shows, all but the tags."""
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        kind: the operation, see `tests.fault.calls`.
        query: decoded.
        headers: to be looked up without regard to case.
    """

    kind: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""

    def number(self, name: str, default: int) -> int:
        """Return a query parameter that is a number."""
        value = self.query.get(name) or str(default)
        if not value.isascii() or not value.isdecimal():
            raise Refused("InvalidArgument", f"{name}: {value}")
        return int(value)


@dataclass(frozen=True)
class Told:
    """One answer; `length` is what Content-Length says when that is not the size of the body (HEAD)."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None


class Account:
    """All buckets of one server.

    Args:
        behaviour: of all of them.
        now: the clock that ages are counted with.
    """

    def __init__(self, behaviour: Behaviour, region: str, now: Callable[[], float]) -> None:
        self.buckets: dict[str, Bucket] = {}
        self._behaviour = behaviour
        self._region = region
        self._now = now
        self._operations: dict[str, Callable[[Asked], Told]] = {
            "ListBuckets": self._list_buckets,
            "CreateBucket": self._create_bucket,
            "DeleteBucket": self._delete_bucket,
            "HeadBucket": self._head_bucket,
            "GetBucketLocation": self._location,
            "ListObjectsV2": self._list_objects,
            "ListMultipartUploads": self._list_multiparts,
            "PutObject": self._put,
            "GetObject": self._get,
            "HeadObject": self._head,
            "DeleteObject": self._delete,
            "DeleteObjects": self._delete_many,
            "CreateMultipartUpload": self._begin,
            "UploadPart": self._put_part,
            "UploadPartCopy": self._copy_part,
            "ListParts": self._list_parts,
            "CompleteMultipartUpload": self._complete,
            "AbortMultipartUpload": self._abort,
        }

    def do(self, asked: Asked) -> Told:
        """Do what is asked. Raises Refused; then nothing has changed."""
        operation = self._operations.get(asked.kind)
        if operation is None:
            raise Refused("NotImplemented", asked.kind)
        return operation(asked)

    def make_bucket(self, name: str) -> Bucket:
        """Make an empty bucket. Raises Refused."""
        if name in self.buckets:
            raise Refused("BucketAlreadyOwnedByYou", name)
        made = self.buckets[name] = Bucket(self._behaviour, self._now)
        return made

    def _bucket(self, asked: Asked) -> Bucket:
        try:
            return self.buckets[asked.bucket]
        except KeyError:
            raise Refused("NoSuchBucket", asked.bucket) from None

    def _list_buckets(self, asked: Asked) -> Told:
        buckets: list[Node] = [("Bucket", [("Name", name), ("CreationDate", _iso(0.0))]) for name in self.buckets]
        return _document("ListAllMyBucketsResult", [("Buckets", buckets)])

    def _create_bucket(self, asked: Asked) -> Told:
        self.make_bucket(asked.bucket)
        return Told(headers={"Location": f"/{asked.bucket}"})

    def _delete_bucket(self, asked: Asked) -> Told:
        bucket = self._bucket(asked)
        if bucket.objects or bucket.multiparts:
            raise Refused("BucketNotEmpty", asked.bucket)
        del self.buckets[asked.bucket]
        return Told(204)

    def _head_bucket(self, asked: Asked) -> Told:
        self._bucket(asked)
        return Told(headers={"x-amz-bucket-region": self._region}, length=0)

    def _location(self, asked: Asked) -> Told:
        self._bucket(asked)
        # The oldest region has no name here.
        return _document("LocationConstraint", "" if self._region == "us-east-1" else self._region)

    def _list_objects(self, asked: Asked) -> Told:
        prefix, delimiter = asked.query.get("prefix", ""), asked.query.get("delimiter", "")
        found = self._bucket(asked).list_objects(prefix)
        after = asked.query.get("continuation-token") or asked.query.get("start-after", "")
        names: dict[str, Object | None] = {}  # what is listed: objects, and common prefixes without one
        for stored in found:
            head, cut, _ = stored.key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            names.setdefault(prefix + head + cut if cut else stored.key, None if cut else stored)
        left = [name for name in names if name.encode() > after.encode()]
        page, more = _page(left, asked.number("max-keys", PAGE))
        text = _speller(asked)
        nodes: list[Node] = [
            ("Name", asked.bucket),
            ("Prefix", text(prefix)),
            ("KeyCount", str(len(page))),
            ("MaxKeys", str(asked.number("max-keys", PAGE))),
            ("IsTruncated", _truth(more)),
        ]
        if asked.query.get("encoding-type"):
            nodes.append(("EncodingType", "url"))
        if more:
            nodes.append(("NextContinuationToken", page[-1]))
        for name in page:
            stored_there = names[name]
            if stored_there is None:
                nodes.append(("CommonPrefixes", [("Prefix", text(name))]))
            else:
                nodes.append(("Contents", _content(stored_there, text)))
        return _document("ListBucketResult", nodes)

    def _list_multiparts(self, asked: Asked) -> Told:
        prefix = asked.query.get("prefix", "")
        found = self._bucket(asked).list_multiparts(prefix)
        names = [(upload.key, upload.id) for upload in found]
        marker = (asked.query.get("key-marker", ""), asked.query.get("upload-id-marker", ""))
        if marker in names:
            found = found[names.index(marker) + 1 :]
        elif marker[0]:
            found = [upload for upload in found if upload.key.encode() > marker[0].encode()]
        page, more = _page(found, asked.number("max-uploads", PAGE))
        text = _speller(asked)
        nodes: list[Node] = [("Bucket", asked.bucket), ("Prefix", text(prefix)), ("IsTruncated", _truth(more))]
        if asked.query.get("encoding-type"):
            nodes.append(("EncodingType", "url"))
        if more:
            nodes += [("NextKeyMarker", text(page[-1].key)), ("NextUploadIdMarker", page[-1].id)]
        nodes += [
            ("Upload", [("Key", text(upload.key)), ("UploadId", upload.id), ("Initiated", _iso(upload.begun))])
            for upload in page
        ]
        return _document("ListMultipartUploadsResult", nodes)

    def _put(self, asked: Asked) -> Told:
        bucket = self._bucket(asked)
        sums = self._sums(asked)
        made = bucket.put(
            asked.key, asked.body, sums, _attributes(asked), unless_there=asked.headers.get("If-None-Match") == "*"
        )
        return Told(headers={"ETag": _quoted(made.etag), **_shown(made.checksums, made.checksum_type)})

    def _get(self, asked: Asked) -> Told:
        stored = self._bucket(asked).get(asked.key)
        headers = self._about(asked, stored)
        wanted = asked.headers.get("Range")
        if wanted is None:
            return Told(headers=headers, body=stored.data)
        start, end = _range(wanted, len(stored.data))
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(stored.data)}"
        return Told(206, headers, stored.data[start:end])

    def _head(self, asked: Asked) -> Told:
        stored = self._bucket(asked).get(asked.key)
        return Told(headers=self._about(asked, stored), length=len(stored.data))

    def _about(self, asked: Asked, stored: Object) -> dict[str, str]:
        wanted = asked.headers.get("If-Match")
        if wanted is not None and wanted.strip('"') not in ("*", stored.etag):
            raise Refused("PreconditionFailed", "it is another object")
        _check_customer_key(asked, stored.attributes)
        headers = {
            "ETag": _quoted(stored.etag),
            "Content-Type": "binary/octet-stream",
            "Last-Modified": format_datetime(datetime.fromtimestamp(stored.modified, UTC), usegmt=True),
            "Accept-Ranges": "bytes",
            **stored.attributes.headers,
            **{META + name: value for name, value in stored.attributes.metadata.items()},
            **_overrides(asked),
        }
        if asked.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED" and "Range" not in asked.headers:
            headers |= _shown(stored.checksums, stored.checksum_type)
        return headers

    def _delete(self, asked: Asked) -> Told:
        self._bucket(asked).delete(asked.key)
        return Told(204)

    def _delete_many(self, asked: Asked) -> Told:
        bucket = self._bucket(asked)
        if "Content-MD5" not in asked.headers and not checksums.claimed(asked.headers):
            raise Refused("InvalidRequest", "Content-MD5 or x-amz-checksum is missing")
        checksums.check_body(asked.body, asked.headers, additional=True)
        root = xml.parsed(asked.body, "Delete")
        keys = [key.text or "" for key in root.iterfind("Object/Key")]
        if not 1 <= len(keys) <= PAGE:
            raise Refused("MalformedXML", f"{len(keys)} keys")
        for key in keys:
            bucket.delete(key)
        quiet = root.findtext("Quiet", "").lower() == "true"
        return _document("DeleteResult", [] if quiet else [("Deleted", [("Key", key)]) for key in keys])

    def _begin(self, asked: Asked) -> Told:
        algorithm = kind = None
        if self._behaviour.verifies_checksums:
            algorithm = asked.headers.get("x-amz-checksum-algorithm", "").lower() or None
            kind = asked.headers.get("x-amz-checksum-type")
        if algorithm is not None and algorithm not in checksums.DIGESTS:
            raise Refused("InvalidRequest", f"x-amz-checksum-algorithm: {algorithm}")
        made = self._bucket(asked).begin(asked.key, _attributes(asked), algorithm, kind)
        told = _document(
            "InitiateMultipartUploadResult", [("Bucket", asked.bucket), ("Key", asked.key), ("UploadId", made.id)]
        )
        if algorithm is None:
            return told
        headers = {"x-amz-checksum-algorithm": algorithm.upper(), "x-amz-checksum-type": made.checksum_type}
        return Told(200, {**told.headers, **headers}, told.body)

    def _put_part(self, asked: Asked) -> Told:
        number = asked.number("partNumber", 0)
        check_number(number)
        bucket = self._bucket(asked)
        begun = bucket.multipart(asked.key, asked.query["uploadId"])  # gone comes before damaged
        _check_customer_key(asked, begun.attributes)
        part = bucket.put_part(asked.key, asked.query["uploadId"], number, asked.body, self._sums(asked))
        shown = {name: checksums.encoded(digest) for name, digest in part.sums.items()}
        return Told(headers={"ETag": _quoted(part.etag), **_shown(shown, None)})

    def _copy_part(self, asked: Asked) -> Told:
        address = asked.headers["x-amz-copy-source"]
        if "?" in address:
            raise Refused("InvalidArgument", "there are no versions here")
        name, _, key = unquote_plus(address).lstrip("/").partition("/")
        source = self._bucket(Asked("", name, "", {}, {})).get(key)
        if asked.headers.get("x-amz-copy-source-if-match", _quoted(source.etag)).strip('"') != source.etag:
            raise Refused("PreconditionFailed", "the source is another object")
        _check_customer_key(asked, source.attributes, SOURCE)
        begun = self._bucket(asked).multipart(asked.key, asked.query["uploadId"])
        _check_customer_key(asked, begun.attributes)
        wanted = None
        if "x-amz-copy-source-range" in asked.headers:
            first, last = _ends(asked.headers["x-amz-copy-source-range"])
            if first is None or last is None:
                raise Refused("InvalidArgument", "x-amz-copy-source-range needs both ends")
            wanted = first, last + 1
        bucket, number = self._bucket(asked), asked.number("partNumber", 0)
        part = bucket.copy_part(asked.key, asked.query["uploadId"], number, source, wanted)
        return _document(
            "CopyPartResult", [("ETag", _quoted(part.etag)), ("LastModified", _iso(self._now())), *_sums_of(part)]
        )

    def _list_parts(self, asked: Asked) -> Told:
        upload = self._bucket(asked).multipart(asked.key, asked.query["uploadId"])
        after = asked.number("part-number-marker", 0)
        left = [(number, part) for number, part in sorted(upload.parts.items()) if number > after]
        page, more = _page(left, asked.number("max-parts", PAGE))
        nodes: list[Node] = [
            ("Bucket", asked.bucket),
            ("Key", upload.key),
            ("UploadId", upload.id),
            ("IsTruncated", _truth(more)),
        ]
        if page:
            nodes.append(("NextPartNumberMarker", str(page[-1][0])))
        nodes += [
            (
                "Part",
                [
                    ("PartNumber", str(number)),
                    ("ETag", _quoted(part.etag)),
                    ("Size", str(len(part.data))),
                    ("LastModified", _iso(upload.begun)),
                    *_sums_of(part),
                ],
            )
            for number, part in page
        ]
        return _document("ListPartsResult", nodes)

    def _complete(self, asked: Asked) -> Told:
        bucket = self._bucket(asked)
        made = bucket.complete(
            asked.key,
            asked.query["uploadId"],
            _listed_parts(asked.body, self._behaviour),
            _whole(asked.headers),
            unless_there=asked.headers.get("If-None-Match") == "*",
        )
        nodes: list[Node] = [
            ("Location", f"/{asked.bucket}/{quote(asked.key)}"),
            ("Bucket", asked.bucket),
            ("Key", asked.key),
            ("ETag", _quoted(made.etag)),
        ]
        if made.checksums:
            nodes += [(_element(name), value) for name, value in made.checksums.items()]
            nodes.append(("ChecksumType", made.checksum_type))
        return _document("CompleteMultipartUploadResult", nodes)

    def _abort(self, asked: Asked) -> Told:
        self._bucket(asked).abort(asked.key, asked.query["uploadId"])
        return Told(204)

    def _sums(self, asked: Asked) -> dict[str, bytes]:
        return checksums.check_body(asked.body, asked.headers, additional=self._behaviour.verifies_checksums)


def _listed_parts(body: bytes, behaviour: Behaviour) -> tuple[ListedPart, ...]:
    """Return the parts that the body of a Complete lists. Raises Refused: MalformedXML."""
    parts = [part for part in xml.parsed(body, "CompleteMultipartUpload") if part.tag == "Part"]
    if not parts:
        raise Refused("MalformedXML", "no part is listed")
    listed = []
    for part in parts:
        number, etag = part.findtext("PartNumber", ""), part.findtext("ETag", "")
        if not number.isdecimal() or not etag:
            raise Refused("MalformedXML", "a part without PartNumber or ETag")
        sums = {}
        if behaviour.verifies_checksums:
            values = {name: part.findtext(_element(name)) for name in checksums.DIGESTS}
            sums = checksums.claimed({checksums.HEADER + name: value for name, value in values.items() if value})
        listed.append(ListedPart(int(number), etag.strip('"'), sums))
    return tuple(listed)


def _whole(headers: Mapping[str, str]) -> Whole:
    values = {name: headers.get(checksums.HEADER + name) for name in checksums.DIGESTS}
    size = headers.get("x-amz-mp-object-size")
    return Whole(
        {name: value for name, value in values.items() if value},
        headers.get("x-amz-checksum-type"),
        None if size is None else int(size),
    )


def _attributes(asked: Asked) -> Attributes:
    metadata = {
        name.lower().removeprefix(META): value for name, value in asked.headers.items() if name.lower().startswith(META)
    }
    _check_customer_key(asked, None)
    return Attributes({name: asked.headers[name] for name in (*KEPT, *ALSO_KEPT) if name in asked.headers}, metadata)


def _check_customer_key(asked: Asked, attributes: Attributes | None, prefix: str = CUSTOMER) -> None:
    """Refuse a request whose customer's key is not that of what it is about, or not whole."""
    algorithm, key, digest = (asked.headers.get(prefix + name) for name in ("algorithm", "key", "key-MD5"))
    if key is not None:
        raw = base64.b64decode(key)
        right = base64.b64encode(hashlib.md5(raw, usedforsecurity=False).digest()).decode()
        if algorithm != "AES256" or len(raw) != 32 or digest != right:
            raise Refused("InvalidArgument", "the customer's key is not whole")
    if attributes is not None and digest != attributes.headers.get(CUSTOMER + "key-MD5"):
        raise Refused("InvalidRequest", "it is encrypted with another key, or needs one")


def _overrides(asked: Asked) -> dict[str, str]:
    """Return the headers that the query wants instead of what is stored. Every request here is signed."""
    return {name: asked.query[f"response-{name.lower()}"] for name in KEPT if f"response-{name.lower()}" in asked.query}


def _range(value: str, size: int) -> tuple[int, int]:
    """Return the bytes `[start, end)` that a Range header asks for. Raises Refused: InvalidRange."""
    first, last = _ends(value)
    if first is None:
        start, end = max(0, size - (last or 0)), size
    else:
        start, end = first, size if last is None else min(size, last + 1)
    if start >= end:
        raise Refused("InvalidRange", f"{value} of {size}")
    return start, end


def _ends(value: str) -> tuple[int | None, int | None]:
    ends = _RANGE.fullmatch(value)
    if ends is None or value == "bytes=-":
        raise Refused("InvalidArgument", f"range {value}")
    first, last = (int(end) if end else None for end in ends.groups())
    return first, last


def _page(items: Sequence[T], most: int) -> tuple[Sequence[T], bool]:
    size = min(most, PAGE)
    return items[:size], len(items) > size


def _speller(asked: Asked) -> Callable[[str], str]:
    return quote if asked.query.get("encoding-type") == "url" else str


def _content(stored: Object, text: Callable[[str], str]) -> list[Node]:
    return [
        ("Key", text(stored.key)),
        ("LastModified", _iso(stored.modified)),
        ("ETag", _quoted(stored.etag)),
        ("Size", str(len(stored.data))),
        ("StorageClass", "STANDARD"),
    ]


def _document(name: str, nodes: str | Sequence[Node]) -> Told:
    return Told(200, {"Content-Type": "application/xml"}, xml.document(name, nodes))


def _shown(found: Mapping[str, str], checksum_type: str | None) -> dict[str, str]:
    headers = {checksums.HEADER + name: value for name, value in found.items()}
    return headers | ({"x-amz-checksum-type": checksum_type} if headers and checksum_type else {})


def _sums_of(part: Blob) -> list[Node]:
    return [(_element(name), checksums.encoded(digest)) for name, digest in part.sums.items()]


def _element(algorithm: str) -> str:
    return f"Checksum{algorithm.upper()}"


def _quoted(etag: str) -> str:
    return f'"{etag}"'


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
