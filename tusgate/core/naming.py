"""Names in the object store. Upload ids are ours and safe; file names are the client's and are cleaned here."""

from __future__ import annotations

import re
import string
from typing import Final

from tusgate.core.errors import SettingsError
from tusgate.core.model import ObjectKey, Scope, UploadId

PIECES: Final = ".tusgate/pieces/"
"""Where pieces live: away from everything that a key template can produce."""
_FIELDS: Final = frozenset({"id", "tenant", "date", "filename"})
_ID: Final = re.compile(r"(?<![\w-])[\w-]{22,64}(?![\w-])", re.ASCII)
_UNSAFE: Final = re.compile(r"[^\w.\-+@=,() ]")
_MAX_NAME_BYTES: Final = 200
"""S3 keys have 1,024 bytes, MinIO allows 255 per path segment."""


def check_template(template: str) -> None:
    """Raise SettingsError unless `template` makes a unique, safe object key for every upload."""
    fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    if "id" not in fields or not fields <= _FIELDS:
        raise SettingsError(f"OBJECT_KEY: expected a template with {{id}} and only {sorted(_FIELDS)}, got {template!r}")
    if template.startswith(("/", ".")) or "//" in template or ".." in template:
        raise SettingsError(f"OBJECT_KEY: expected a relative key without empty or dotted segments, got {template!r}")


def object_key(template: str, upload_id: UploadId, scope: Scope, date: str, filename: str | None) -> ObjectKey:
    """Return the key that the finished object of a new upload gets; decided once, at creation.

    Args:
        template: checked by `check_template`.
        date: the day as `YYYY-MM-DD`, which becomes `YYYY/MM/DD`.
        filename: as the client gave it; cleaned of path and control characters, `file` when nothing is left.
    """
    return ObjectKey(
        template.format(
            id=upload_id,
            tenant=clean_segment(scope.tenant),
            date=date.replace("-", "/"),
            filename=clean_segment(filename or ""),
        )
    )


def ids_in(key: str) -> tuple[UploadId, ...]:
    """Return what may be the id of an upload in an object key; whose it is stands in the database alone."""
    return tuple(UploadId(found) for found in dict.fromkeys(_ID.findall(key)))


def clean_segment(name: str) -> str:
    """Return `name` as one harmless path segment of at most 200 bytes, keeping its extension when cut."""
    cleaned = _UNSAFE.sub("_", name.replace("\\", "/").rsplit("/", 1)[-1]).strip(". ")
    encoded = cleaned.encode("utf-8", "replace")
    if len(encoded) > _MAX_NAME_BYTES:
        stem, dot, extension = cleaned.rpartition(".")
        suffix = f"{dot}{extension}"[:20] if stem else ""
        room = _MAX_NAME_BYTES - len(suffix.encode())
        cleaned = (stem or cleaned).encode()[:room].decode("utf-8", "ignore") + suffix
    return cleaned or "file"


def attempt_key(key: ObjectKey, attempt: int) -> ObjectKey:
    """Return the key of the `attempt`-th PutObject (from 1) of a whole upload.

    A PutObject of a writer that was taken over may land late; a key of its own keeps it from replacing anything.
    """
    return key if attempt == 1 else ObjectKey(f"{key}~{attempt}")


def derived_key(source: ObjectKey, upload_id: UploadId, filename: str) -> ObjectKey:
    """Return the key of a file that was made of the one at `source`: beside it, in a folder of its own."""
    folder, slash, _ = source.rpartition("/")
    return ObjectKey(f"{folder}{slash}{upload_id}/{clean_segment(filename)}")


def piece_key(upload_id: UploadId, epoch: int, number: int) -> ObjectKey:
    """Return the key of the `number`-th piece (from 0) that the writer with `epoch` stores."""
    return ObjectKey(f"{PIECES}{upload_id}/{epoch}-{number}")
