"""Events as receivers see them: CloudEvents 1.0 in JSON. What stands in it is public."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from tusgate.core.events import EventType
from tusgate.core.model import ObjectKey, State

if TYPE_CHECKING:
    from datetime import datetime

    from tusgate.core.events import Event
    from tusgate.core.model import Upload

CONTENT_TYPE: Final = "application/cloudevents+json"
SEQUENCE_DIGITS: Final = 10
"""The extension `sequence` of CloudEvents is compared as text."""

_STATUS: Final = {
    EventType.CREATED: State.UPLOADING,
    EventType.PROGRESS: State.UPLOADING,
    EventType.COMPLETED: State.COMPLETE,
    EventType.FAILED: State.FAILED,
    EventType.EXPIRED: State.EXPIRED,
    EventType.TERMINATED: State.TERMINATED,
    EventType.DELETED: State.TERMINATED,
    EventType.PROCESSING: State.COMPLETE,
    EventType.READY: State.COMPLETE,
    EventType.PROCESSING_FAILED: State.COMPLETE,
}


def document_of(event: Event, source: str) -> bytes:
    """Return the event as receivers see it: the same bytes each time.

    Args:
        event: what has happened.
        source: who tells it, as a URI reference.
    """
    told = CloudEvent(attributes_of(event, source), {"upload": _described(event.upload, _STATUS[event.type])})
    written: bytes = JSONFormat().write(told)
    return written


def document_for_clients(event: Event, source: str) -> bytes:
    """Return the event as clients see it: where the object lies is not for them, as nowhere else in the API.

    Equal files share one, whose key is as a rule the id of the upload that made it, which may be somebody else's.
    """
    upload = replace(event.upload, object_key=ObjectKey(""))
    return document_of(replace(event, upload=upload), source)


def attributes_of(event: Event, source: str) -> dict[str, object]:
    """Return what stands beside the data; see `document_of`."""
    upload = event.upload
    return {
        "id": str(event.id),
        "source": source,
        "type": str(event.type),
        "subject": str(upload.id),
        "time": event.occurred_at,
        "datacontenttype": "application/json",
        "sequence": f"{event.number:0{SEQUENCE_DIGITS}}",
        "tenant": upload.scope.tenant,
    }


def _described(upload: Upload, status: State) -> dict[str, object]:
    return {
        "id": upload.id,
        "tenant": upload.scope.tenant,
        "owner": upload.scope.owner,
        "status": status,
        "reason": upload.reason,
        "protocol": upload.created_via,
        "role": upload.role,
        "offset": upload.offset,
        "size": upload.length,
        "filename": upload.filename,
        "content_type": upload.content_type,
        "content_coding": upload.content_coding,
        "metadata": _decoded(upload.metadata),
        "route": upload.route,
        "object_key": upload.object_key or None,
        "etag": upload.etag,
        "crc64nvme": None if upload.crc64 is None else base64.b64encode(upload.crc64.to_bytes(8, "big")).decode(),
        "sha256": None if upload.sha256 is None else upload.sha256.hex(),
        "created_at": _text(upload.created_at),
        "completed_at": _text(upload.completed_at),
        "expires_at": _text(upload.expires_at),
        "processing": upload.processing,
        "derived_from": upload.derived_from,
        "derivation": upload.derivation,
    }


def _decoded(metadata: bytes | None) -> dict[str, str]:
    """Return the pairs of an Upload-Metadata header; bytes that are no text are shown as U+FFFD."""
    pairs = (pair.strip().partition(" ") for pair in (metadata or b"").decode("latin-1").split(","))
    return {key: _text_in(value) for key, _, value in pairs if key}


def _text_in(value: str) -> str:
    try:
        return base64.b64decode(value.encode("latin-1")).decode("utf-8", "replace")
    except binascii.Error:
        return ""


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
