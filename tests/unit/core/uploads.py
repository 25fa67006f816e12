"""Uploads to decide about, and what Hypothesis draws them from."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from tusgate.core.grid import Grid
from tusgate.core.model import CreatedVia, NewUpload, ObjectKey, Scope, State, Upload, UploadId

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def an_upload(**changes: Any) -> Upload:
    """Return an unfinished upload of 100 bytes in cells of 10, nothing of it stored."""
    upload = Upload(
        id=UploadId("abcdefghijklmnopqrstuvwx"),
        scope=Scope(),
        created_via=CreatedVia.TUS,
        state=State.UPLOADING,
        length=100,
        offset=0,
        grid=Grid(((100, 10),)),
        epoch=1,
        metadata=None,
        filename=None,
        content_type=None,
        object_key=ObjectKey("key"),
        put_attempts=0,
        multipart_id=None,
        etag=None,
        crc64=None,
        reason=None,
        created_at=MOMENT,
        updated_at=MOMENT,
        completed_at=None,
        expires_at=None,
    )
    return replace(upload, **changes)


def a_new_upload(**changes: Any) -> NewUpload:
    """Return a creation request of 100 bytes in cells of 10."""
    new = NewUpload(
        id=UploadId("abcdefghijklmnopqrstuvwx"),
        scope=Scope(),
        created_via=CreatedVia.TUS,
        length=100,
        grid=Grid(((100, 10),)),
        metadata=None,
        filename=None,
        content_type=None,
        object_key=ObjectKey("key"),
        epoch=1,
        lifetime=None,
    )
    return replace(new, **changes)


small_grids = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=4).map(
    lambda runs: Grid(tuple(runs))
)
"""Grids small enough to be walked cell by cell, some of them ladders."""
