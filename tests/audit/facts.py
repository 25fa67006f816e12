"""The state of a whole rig at one moment, read beside its gateways."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from minio.error import S3Error

from tests.audit.foreign import FOREIGN_MULTIPART, FOREIGN_OBJECTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from minio import Minio

    from tests.audit.journal import Journal
    from tests.fault.books import Row
    from tests.fault.calls import Call
    from tests.fault.rig import Rig


EVENTS: Final = "events.jsonl"
"""Where the sink of each gateway writes, in its home."""


@dataclass(frozen=True)
class Stored:
    """An object in the bucket, or a part of a multipart upload.

    Attributes:
        size: bytes.
        etag: without quotes.
        content: the bytes of an object; None for a part, which cannot be read.
    """

    size: int
    etag: str
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Facts:
    """Everything that rules look at.

    Attributes:
        uploads: rows by id.
        parts, pieces: rows by upload id, in the order of their bytes.
        sources: ids of what a final is made of, by its id, in order.
        garbage: all rows.
        events: rows by upload id, in their order.
        delivered: ids of the events that the database says were delivered.
        lines: ids of events as the sinks have written them, for each replica.
        objects: all objects of the bucket by key, except the foreign ones.
        multiparts: ids of the multipart uploads of each key that the database names.
        stored_parts: parts that the store holds, by multipart id and number.
        calls: history of all S3 calls of all gateways.
        foreign: objects and multipart uploads of others that are still as they were planted.
        journals: what clients saw.
        losses: ids of uploads whose bytes the test destroyed.
        logs: what the gateways wrote.
        secrets: what must not stand there.
        ready: whether each gateway says that it serves.
    """

    uploads: Mapping[str, Row]
    parts: Mapping[str, Sequence[Row]]
    pieces: Mapping[str, Sequence[Row]]
    sources: Mapping[str, Sequence[str]]
    garbage: Sequence[Row]
    events: Mapping[str, Sequence[Row]]
    delivered: frozenset[str]
    lines: Sequence[Sequence[str]]
    objects: Mapping[str, Stored]
    multiparts: Mapping[str, Sequence[str]]
    stored_parts: Mapping[str, Mapping[int, Stored]]
    calls: Sequence[Call]
    foreign: frozenset[str]
    journals: Sequence[Journal]
    losses: frozenset[str]
    logs: str
    secrets: Sequence[str]
    ready: Sequence[bool]


async def gather(rig: Rig) -> Facts:
    """Read everything. Gateways stand still meanwhile: what a clean-up moves between two reads would look broken."""
    ready = [await asyncio.to_thread(replica.gateway.answers_ready) for replica in rig.replicas]
    running = [replica for replica in rig.replicas if replica.gateway.running]
    try:
        for replica in running:
            await asyncio.to_thread(replica.gateway.pause)
        # But for reads: who stands still takes no more of a large object, and they change nothing.
        calls = [call for replica in running for call in replica.store_link.history.calls if call.kind != "GetObject"]
        await rig.until(lambda: all(call.finished for call in calls))
        return await asyncio.to_thread(_gather, rig, ready)
    finally:
        for replica in running:
            await asyncio.to_thread(replica.gateway.resume)


def _gather(rig: Rig, ready: Sequence[bool]) -> Facts:
    uploads = {row["id"]: row for row in rig.rows("SELECT * FROM uploads")}
    garbage = rig.rows("SELECT * FROM garbage")
    client = rig.minio.client()
    objects = _objects(client, rig.bucket)
    keys = {row["object_key"] for row in uploads.values()} | {row["object_key"] for row in garbage if row["multipart"]}
    multiparts = {key: _multiparts(client, rig.bucket, key) for key in sorted(keys)}
    intact = {key for key, content in FOREIGN_OBJECTS.items() if key in objects and objects[key].content == content}
    if _multiparts(client, rig.bucket, FOREIGN_MULTIPART):
        intact.add(FOREIGN_MULTIPART)
    return Facts(
        uploads=uploads,
        parts=_by_upload(rig.rows("SELECT * FROM parts ORDER BY number")),
        pieces=_by_upload(rig.rows("SELECT * FROM pieces ORDER BY start_offset")),
        sources=_sources(rig.rows("SELECT * FROM sources ORDER BY position")),
        garbage=garbage,
        events=_by_upload(rig.rows("SELECT upload_id, number, type FROM events ORDER BY number")),
        delivered=frozenset(
            f"{row['upload_id']}-{row['number']}"
            for row in rig.rows("SELECT upload_id, number FROM deliveries WHERE state = 'delivered'")
        ),
        lines=[_lines(replica.gateway.home / EVENTS) for replica in rig.replicas],
        objects={key: stored for key, stored in objects.items() if key not in FOREIGN_OBJECTS},
        multiparts=multiparts,
        stored_parts={
            multipart_id: _parts(client, rig.bucket, key, multipart_id)
            for key, multipart_ids in multiparts.items()
            for multipart_id in multipart_ids
        },
        calls=[call for replica in rig.replicas for call in replica.store_link.history.calls],
        foreign=frozenset(intact),
        journals=rig.journals,
        losses=frozenset(rig.losses),
        logs="\n".join(replica.gateway.log_path.read_text(errors="replace") for replica in rig.replicas),
        secrets=rig.secrets,
        ready=ready,
    )


def _by_upload(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["upload_id"], []).append(row)
    return found


def _sources(rows: Sequence[Row]) -> dict[str, list[str]]:
    return {final: [row["source_id"] for row in found] for final, found in _by_upload(rows).items()}


def _lines(file: Path) -> list[str]:
    """Return the ids in the whole lines of `file`: a process that was killed may have left half of one."""
    if not file.exists():
        return []
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            found.append(json.loads(line)["id"])
    return found


def _objects(client: Minio, bucket: str) -> dict[str, Stored]:
    found = {}
    for item in client.list_objects(bucket_name=bucket, recursive=True):
        answer = client.get_object(bucket_name=bucket, object_name=item.object_name)
        try:
            content = answer.read()
        finally:
            answer.close()
            answer.release_conn()
        found[item.object_name] = Stored(item.size, item.etag, content)
    return found


def _multiparts(client: Minio, bucket: str, key: str) -> list[str]:
    found = client._list_multipart_uploads(bucket_name=bucket, prefix=key)
    return [each.upload_id for each in found.uploads if each.object_name == key and each.upload_id]


def _parts(client: Minio, bucket: str, key: str, multipart_id: str) -> dict[int, Stored]:
    try:
        found = client._list_parts(bucket_name=bucket, object_name=key, upload_id=multipart_id, max_parts=1000)
    except S3Error as error:
        if error.code == "NoSuchUpload":
            return {}
        raise
    return {part.part_number: Stored(part.size or 0, part.etag) for part in found.parts}
