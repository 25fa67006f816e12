"""Events to be told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from tests.doubles.database import MemoryDatabase
from tusgate.core.events import Event, EventType
from tusgate.core.grid import MIB, Grid
from tusgate.core.model import CreatedVia, NewUpload, ObjectKey, Scope, State, UploadId

NOON = datetime(2027, 1, 15, 12, 0, tzinfo=UTC)


async def a_fact(event_type: EventType = EventType.COMPLETED, **changes: Any) -> Event:
    """Return an event about a finished picture of Alice."""
    new = NewUpload(
        id=UploadId("0123456789abcdefghijkl"),
        scope=Scope("acme", "alice"),
        created_via=CreatedVia.TUS,
        length=5,
        grid=Grid(((10_000, 8 * MIB),)),
        metadata=b"filename bmHDr3ZlLnR4dA==,empty,bad ***",
        filename="naïve.txt",
        content_type="text/plain",
        object_key=ObjectKey("acme/0123"),
        epoch=0,
        lifetime=None,
    )
    upload = await MemoryDatabase(NOON.timestamp).create(new)
    done = replace(upload, state=State.COMPLETE, offset=5, etag="e", crc64=1 << 63, completed_at=NOON, **changes)
    return Event(number=2, type=event_type, upload=done, occurred_at=NOON)
