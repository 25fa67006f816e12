"""S3 calls as a fault proxy sees them: what kind each request is, and the history of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Mapping

# (method, has a key, sub-resource in the query) → kind. The first sub-resource that is present decides.
KINDS: dict[tuple[str, bool, str], str] = {
    ("PUT", True, "partNumber"): "UploadPart",
    ("PUT", True, "tagging"): "PutObjectTagging",
    ("PUT", True, ""): "PutObject",
    ("POST", True, "uploads"): "CreateMultipartUpload",
    ("POST", True, "uploadId"): "CompleteMultipartUpload",
    ("DELETE", True, "uploadId"): "AbortMultipartUpload",
    ("DELETE", True, ""): "DeleteObject",
    ("GET", True, "uploadId"): "ListParts",
    ("GET", True, "tagging"): "GetObjectTagging",
    ("GET", True, ""): "GetObject",
    ("HEAD", True, ""): "HeadObject",
    ("GET", False, "uploads"): "ListMultipartUploads",
    ("GET", False, "list-type"): "ListObjectsV2",
    ("GET", False, "location"): "GetBucketLocation",
    ("GET", False, "versioning"): "GetBucketVersioning",
    ("GET", False, "lifecycle"): "GetBucketLifecycle",
    ("GET", False, "cors"): "GetBucketCors",
    ("POST", False, "delete"): "DeleteObjects",
    ("HEAD", False, ""): "HeadBucket",
    ("PUT", False, ""): "CreateBucket",
    ("DELETE", False, ""): "DeleteBucket",
}
SUB_RESOURCES = tuple(dict.fromkeys(sub for _, _, sub in KINDS if sub))
COPIES = {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}


@dataclass
class Call:
    """One request to S3 and what became of it.

    Attributes:
        kind: the S3 operation, such as `UploadPart`; `Other` when it is none that we name.
        bucket, key: path-style address, decoded.
        part: part number, of UploadPart and UploadPartCopy.
        query: decoded query parameters.
        order: place in the history by arrival, from 1.
        finished_order: place by the end of the call, from 1; 0 while it runs.
        received: bytes of the request body that came from the gateway.
        forwarded: bytes of the request body that went on to S3.
        store_status: what S3 answered; None when it was not asked or did not answer.
        status: what the gateway was answered; None when it got a broken connection.
        fault: name of the fault that was applied, empty for none.
        fields: names of its header fields, in lower case.
        document: body of a CompleteMultipartUpload, which says what it lists; other bodies are not kept.
    """

    kind: str
    method: str
    bucket: str
    key: str
    part: int | None
    query: Mapping[str, str]
    order: int
    finished_order: int = 0
    received: int = 0
    forwarded: int = 0
    store_status: int | None = None
    status: int | None = None
    fault: str = ""
    fields: frozenset[str] = frozenset()
    document: bytes = b""

    @property
    def listed_parts(self) -> list[tuple[int, str]]:
        """Number and ETag (without quotes) of each part that a CompleteMultipartUpload lists, in its order."""
        if not self.document:
            return []
        parts = ElementTree.fromstring(self.document).findall("{*}Part")
        return [(int(part.findtext("{*}PartNumber", "0")), part.findtext("{*}ETag", "").strip('"')) for part in parts]

    @property
    def finished(self) -> bool:
        """Whether the call is over."""
        return self.finished_order > 0


def read_call(method: str, raw_path: str, headers: Mapping[str, str], order: int) -> Call:
    """Recognise the S3 operation of a path-style request."""
    address = urlsplit(raw_path)
    bucket, _, key = unquote(address.path.lstrip("/")).partition("/")
    query = {name: values[0] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
    sub_resource = next((name for name in SUB_RESOURCES if name in query), "")
    kind = KINDS.get((method, bool(key), sub_resource), "ListBuckets" if not bucket else "Other")
    if "x-amz-copy-source" in headers:
        kind = COPIES.get(kind, kind)
    part = query.get("partNumber")
    fields = frozenset(name.lower() for name in headers)
    return Call(kind, method, bucket, key, int(part) if part else None, query, order, fields=fields)


@dataclass
class History:
    """All calls in the order of their arrival. Tests read it; only the proxy writes it."""

    calls: list[Call] = field(default_factory=list)
    _arrived: int = 0
    _finished: int = 0

    def of(self, *kinds: str) -> list[Call]:
        """Return the calls of these kinds, or all of them without kinds."""
        return [call for call in self.calls if not kinds or call.kind in kinds]

    def count(self, *kinds: str) -> int:
        """Return how many calls of these kinds arrived, or of all kinds."""
        return len(self.of(*kinds))

    @property
    def bytes_put(self) -> int:
        """Body bytes of UploadPart and PutObject that came from the gateway, failed attempts included."""
        return sum(call.received for call in self.of("UploadPart", "PutObject"))

    def clear(self) -> None:
        """Forget the calls so far; counting for rules goes on."""
        self.calls.clear()

    def forget_finished(self) -> None:
        """Forget the calls that are over, except what the audit needs: a long run makes too many to keep."""
        self.calls[:] = [call for call in self.calls if call.document or not call.finished]

    def arrived(self, method: str, raw_path: str, headers: Mapping[str, str]) -> Call:
        """Note a new call."""
        self._arrived += 1
        call = read_call(method, raw_path, headers, self._arrived)
        self.calls.append(call)
        return call

    def ended(self, call: Call) -> None:
        """Note the end of a call, however it ended."""
        self._finished += 1
        call.finished_order = self._finished
