"""What vendors do differently, as switches."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HOUR = 3600.0
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How one kind of S3 server acts where they differ. The defaults are those of Amazon S3.

    Attributes:
        profile: name of the shipped profile that describes such a server.
        min_part_size: bytes that every listed part but the last has at least.
        verifies_checksums: `x-amz-checksum-*` is compared with the bytes, kept and shown; False: ignored.
        repeats_complete: a second Complete with the same parts answers 200 with the same ETag; False: NoSuchUpload.
        sweeps_after: seconds after its creation when an unfinished multipart upload is thrown away.
        forgets_multiparts: ListMultipartUploads knows uploads by their exact key; for any other prefix it shows what
            was begun since the last restart (MinIO).
        equal_parts: all listed parts but the last have one size, which the last does not pass (R2).
        wants_all_parts: Complete lists every part that was uploaded (Ceph, rclone).
        takes_parts_again: a part number may be uploaded again (rclone: 501).
        conditional: `If-None-Match: *` is honoured by PutObject and Complete.
        checks_object_size: `x-amz-mp-object-size` is compared at Complete.
        keeps_alive: Complete and UploadPartCopy send 200 and white space first: their errors stand inside of a 200.
        gone: error code for a multipart upload that is not there.
        copies: UploadPartCopy works; False: NotImplemented.
        checks_copies: computes the checksum of a copied part; False: a multipart upload with checksums takes none.
        ignores_unasked_checksums: Complete does not compare the checksums of listed parts where the multipart upload
            was begun with none (MinIO).
        takes_unsigned_fields: fields that nobody has signed pass, but `x-amz-meta-*`; a signed one that did not come is
            looked for in the query (MinIO).
        smallest_ranged: bytes that an object must have more than before a range of it is copied.
    """

    profile: str
    min_part_size: int = 5 * MIB
    verifies_checksums: bool = True
    repeats_complete: bool = True
    sweeps_after: float | None = None
    forgets_multiparts: bool = False
    equal_parts: bool = False
    wants_all_parts: bool = False
    takes_parts_again: bool = True
    conditional: bool = True
    checks_object_size: bool = True
    keeps_alive: bool = False
    gone: str = "NoSuchUpload"
    copies: bool = True
    checks_copies: bool = True
    ignores_unasked_checksums: bool = False
    takes_unsigned_fields: bool = False
    smallest_ranged: int = 0


AWS = Behaviour(profile="aws", keeps_alive=True, smallest_ranged=5 * MIB)
MINIO = Behaviour(
    profile="minio",
    repeats_complete=False,
    sweeps_after=24 * HOUR,
    forgets_multiparts=True,
    checks_object_size=False,
    checks_copies=False,
    ignores_unasked_checksums=True,
    takes_unsigned_fields=True,
)
R2 = Behaviour(
    profile="r2",
    verifies_checksums=False,
    repeats_complete=False,
    sweeps_after=7 * 24 * HOUR,
    equal_parts=True,
    checks_object_size=False,
)
CEPH = Behaviour(
    profile="ceph", verifies_checksums=False, wants_all_parts=True, checks_object_size=False, gone="NoSuchKey"
)
RCLONE = Behaviour(
    profile="rclone",
    min_part_size=0,
    verifies_checksums=False,
    repeats_complete=False,
    sweeps_after=24 * HOUR,
    wants_all_parts=True,
    takes_parts_again=False,
    conditional=False,
    checks_object_size=False,
    copies=False,
)
BEHAVIOURS: Mapping[str, Behaviour] = MappingProxyType(
    {behaviour.profile: behaviour for behaviour in (AWS, MINIO, R2, CEPH, RCLONE)}
)
"""The imitated servers by the name of their profile."""
