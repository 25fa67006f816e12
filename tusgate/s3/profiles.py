"""What a given S3 server can and cannot do. Data only: no code asks for a server by name.

Sources: vendors' documentation, source code of the servers and measurements against MinIO, Versity, Ceph 16
and rclone. Where nothing is known, the careful value is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tusgate.core.grid import PartLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

_HOUR: Final = 3600.0
_S3_LIMITS: Final = PartLimits()


class ChecksumMode(StrEnum):
    """How the server is made to check the bytes that arrive.

    CRC64NVME: `x-amz-checksum-crc64nvme` on every part and object, and of the whole object at Complete.
    CONTENT_MD5: `Content-MD5` on every part and object; costs about a CPU-second per GiB.
    NONE: nothing but TCP and TLS.
    """

    CRC64NVME = "crc64nvme"
    CONTENT_MD5 = "content-md5"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Abilities and limits of one kind of S3 server.

    Attributes:
        name: how settings refer to it.
        checksum: see `ChecksumMode`.
        limits: sizes and numbers of parts.
        object_size_check: Complete honours (or at least tolerates) `x-amz-mp-object-size`.
        completes_all_parts: Complete must list every part ever uploaded.
        reupload_allowed: a part number may be uploaded again with other bytes.
        copy_part: UploadPartCopy works.
        copied_part_checksums: a multipart upload that was begun with CRC64NVME takes copied parts, with the checksum
            of the bytes that were copied. MinIO refuses them there, Versity 1.7 notes the checksum of the whole source.
        shows_unasked_checksums: a multipart upload that was begun with no checksum verifies what parts bring all the
            same and shows it, and Complete takes such parts beside copied ones that have none.
        takes_unsigned_fields: header fields that nobody has signed pass with a signed URL, so that whoever has one for
            a part could turn it into UploadPartCopy. A signed field that did not come is looked for in the query, where
            one that stands with nothing in it keeps it out (MinIO: `extractSignedHeaders` in signature-v4-utils.go).
            Amazon S3 refuses unsigned `x-amz-*`.
        conditional_put: PutObject honours `If-None-Match: *`.
        repeat_complete: a second Complete of a finished upload answers 200 again.
        bulk_delete: DeleteObjects works with the checksum that botocore sends.
        stale_upload_expiry: seconds after its creation when the server throws an unfinished multipart upload
            away; None: never by itself.
        path_style: the bucket is in the path, not in the host name.
        cors_setting: how the server is told which pages may use it, with `{origins}` in it, where buckets have no CORS
            rules; None: buckets have (PutBucketCors).
    """

    name: str
    checksum: ChecksumMode = ChecksumMode.NONE
    limits: PartLimits = _S3_LIMITS
    object_size_check: bool = False
    completes_all_parts: bool = False
    reupload_allowed: bool = True
    copy_part: bool = False
    copied_part_checksums: bool = False
    shows_unasked_checksums: bool = False
    takes_unsigned_fields: bool = False
    conditional_put: bool = False
    repeat_complete: bool = False
    bulk_delete: bool = False
    stale_upload_expiry: float | None = None
    path_style: bool = True
    cors_setting: str | None = None


_SHIPPED = (
    Profile(
        name="aws",
        checksum=ChecksumMode.CRC64NVME,
        object_size_check=True,
        copy_part=True,
        copied_part_checksums=True,
        conditional_put=True,
        repeat_complete=True,
        bulk_delete=True,
        path_style=False,
    ),
    Profile(
        name="minio",
        checksum=ChecksumMode.CRC64NVME,
        copy_part=True,
        shows_unasked_checksums=True,
        takes_unsigned_fields=True,
        conditional_put=True,
        bulk_delete=True,
        stale_upload_expiry=24 * _HOUR,
        cors_setting="MINIO_API_CORS_ALLOW_ORIGIN={origins} for MinIO",
    ),
    Profile(
        name="versity",
        checksum=ChecksumMode.CRC64NVME,
        object_size_check=True,
        copy_part=True,
        conditional_put=True,
        repeat_complete=True,
        bulk_delete=True,
    ),
    Profile(
        name="ceph",  # before 20.2, which is the first to check x-amz-checksum headers
        checksum=ChecksumMode.CONTENT_MD5,
        completes_all_parts=True,
        copy_part=True,
        conditional_put=True,
        repeat_complete=True,
    ),
    Profile(
        name="r2",
        checksum=ChecksumMode.CONTENT_MD5,
        limits=PartLimits(equal_parts=True),
        copy_part=True,
        conditional_put=True,
        stale_upload_expiry=7 * 24 * _HOUR,
    ),
    Profile(name="b2", checksum=ChecksumMode.CONTENT_MD5, copy_part=True),
    Profile(
        name="gcs",
        checksum=ChecksumMode.CONTENT_MD5,
        cors_setting="these origins by gcloud storage buckets update --cors-file: {origins}",
    ),
    Profile(name="wasabi", checksum=ChecksumMode.CONTENT_MD5, copy_part=True),
    Profile(name="garage", checksum=ChecksumMode.CRC64NVME, copy_part=True, bulk_delete=True),
    Profile(
        name="seaweedfs",
        checksum=ChecksumMode.CRC64NVME,
        copy_part=True,
        conditional_put=True,
        repeat_complete=True,
        bulk_delete=True,
    ),
    Profile(
        name="rustfs",
        checksum=ChecksumMode.CRC64NVME,
        copy_part=True,
        conditional_put=True,
        bulk_delete=True,
    ),
    Profile(
        name="rclone",  # a wrong Content-MD5 destroys the whole multipart upload there, so none is sent
        completes_all_parts=True,
        reupload_allowed=False,
        stale_upload_expiry=24 * _HOUR,
    ),
    Profile(name="generic"),
)

PROFILES: Final[Mapping[str, Profile]] = MappingProxyType({profile.name: profile for profile in _SHIPPED})
"""The shipped profiles by name."""
