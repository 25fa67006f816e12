"""What tells a file from others before its bytes are here, so that an upload of it is found again.

Rule 1: what a client says of a file finds its own unfinished uploads, and nothing else.
Rule 2: a finished file is found only by a digest that was verified, by the gateway or by the store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tusgate.core.checksum import DIGEST_SIZES, Checksum
from tusgate.core.errors import InvalidRequest
from tusgate.core.model import CreatedVia, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.core.direct import Plan
    from tusgate.core.model import Upload

DIGESTS: Final = ("sha256", "crc64nvme")
"""Algorithms whose fingerprint is the digest of the whole file, in hexadecimal."""
CLIENT: Final = "client"
"""Whatever the client takes to tell its files apart, such as a hash of name, size and time."""
METADATA_KEY: Final = "fingerprint"
"""Key in Upload-Metadata."""
_OWN: Final = re.compile(r"[A-Za-z0-9._~-]{1,200}", re.ASCII)
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One file, as `algorithm` tells it from others."""

    algorithm: str
    value: str

    def __str__(self) -> str:
        """Return the text that it is stored and sent as."""
        return f"{self.algorithm}:{self.value}"

    @property
    def crc64(self) -> int | None:
        """The CRC64NVME of the file; None when it is told by something else."""
        return int(self.value, 16) if self.algorithm == "crc64nvme" else None

    @property
    def sha256(self) -> bytes | None:
        """The SHA-256 of the file; None when it is told by something else."""
        return bytes.fromhex(self.value) if self.algorithm == "sha256" else None


def fingerprint(algorithm: str, value: str) -> Fingerprint:
    """Return the fingerprint. Raises InvalidRequest when there is no such one."""
    if algorithm == CLIENT:
        if _OWN.fullmatch(value) is None:
            raise InvalidRequest("fingerprint", "after client: up to 200 letters, digits, dots, dashes, _ or ~")
        return Fingerprint(algorithm, value)
    if algorithm not in DIGESTS:
        raise InvalidRequest("fingerprint", f"one of {', '.join((*DIGESTS, CLIENT))}, a colon and its value")
    digits = value.lower()
    if _HEX.fullmatch(digits) is None or len(digits) != 2 * DIGEST_SIZES[algorithm]:
        raise InvalidRequest("fingerprint", f"{2 * DIGEST_SIZES[algorithm]} hexadecimal digits for {algorithm}")
    return Fingerprint(algorithm, digits)


def parse_fingerprint(text: str) -> Fingerprint:
    """Return the fingerprint that `str` wrote, or a client. Raises InvalidRequest."""
    algorithm, _, value = text.partition(":")
    return fingerprint(algorithm, value)


def fingerprint_of(checksum: Checksum) -> Fingerprint:
    """Return the fingerprint of the file with this digest."""
    return Fingerprint(checksum.algorithm, checksum.digest.hex())


def finished(found: Sequence[Upload], wanted: Fingerprint) -> Upload | None:
    """Return the first of `found` that is complete, and surely the file."""
    return next((upload for upload in found if _is_proved(upload, wanted)), None)


def unfinished(found: Sequence[Upload], wanted: Fingerprint) -> Upload | None:
    """Return the first of `found` that takes bytes of this file, or is being finished."""
    live = (State.UPLOADING, State.SEALED)
    return next((upload for upload in found if upload.state in live and upload.fingerprint == str(wanted)), None)


def to_go_on_with(
    found: Sequence[Upload],
    wanted: Fingerprint,
    via: CreatedVia,
    length: int | None,
    plan: Plan | None,
    content_coding: str | None,
) -> Upload | None:
    """Return the first of `found` that a creation can be answered with: of this protocol, as long and as declared."""
    return next(
        (
            upload
            for upload in found
            if upload.state is State.UPLOADING
            and upload.fingerprint == str(wanted)
            and upload.created_via is via
            and (upload.length, upload.plan, upload.content_coding) == (length, plan, content_coding)
            and upload.role is None
        ),
        None,
    )


def _is_proved(upload: Upload, wanted: Fingerprint) -> bool:
    if upload.state is not State.COMPLETE:
        return False
    if wanted.crc64 is not None and upload.crc64 == wanted.crc64:
        return True
    if wanted.sha256 is not None and upload.sha256 == wanted.sha256:
        return True
    whole = None if upload.plan is None else upload.plan.whole
    return whole is not None and fingerprint_of(whole) == wanted
