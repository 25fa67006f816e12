"""Rows to values and values to statement parameters, the same for both databases.

Rule 1: what a column means is decided here and in the migrations, nowhere else.
Rule 2: a CRC64 is unsigned; it is kept as 8 bytes, because both databases have signed integers only.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from tusgate.core.access import ApiToken, parse_permissions
from tusgate.core.audit import Access, Ending, How
from tusgate.core.clockwatch import ClockReading
from tusgate.core.direct import KnownPart, Plan
from tusgate.core.errors import (
    Fenced,
    InvalidRequest,
    Retained,
    TokenSpent,
    UploadGone,
    UploadNotFound,
)
from tusgate.core.events import Delivery, DeliveryState, Event, EventId, EventType, SinkBacklog
from tusgate.core.grid import Grid
from tusgate.core.lifecycle import check_alive, check_complete, sources_of
from tusgate.core.listing import folded
from tusgate.core.model import (
    CreatedVia,
    Garbage,
    Misplaced,
    Part,
    Piece,
    Role,
    Scope,
    State,
    StoreName,
    Upload,
    UploadId,
)
from tusgate.core.processing import (
    Processed,
)
from tusgate.core.quota import Usage
from tusgate.core.sharing import Share

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from tusgate.core.access import NewApiToken
    from tusgate.core.audit import EndedAccess, NewAccess
    from tusgate.core.events import EventPlace, Outcome, Search
    from tusgate.core.fingerprint import Fingerprint
    from tusgate.core.listing import Changes, FileFilter
    from tusgate.core.model import Intent, Keeping, MultipartId, NewUpload, Step, StoredObject
    from tusgate.core.quota import Quota
    from tusgate.core.sharing import NewShare

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PARTS_FORGOTTEN = 20
"""Parts per upload that one step of forgetting deletes at most: there may be 10,000, and a step has a deadline."""


class Row(Protocol):
    """A result row of either driver: columns by name."""

    def __getitem__(self, column: str, /) -> Any:
        """Return the value of `column`."""


def upload_from(row: Row) -> Upload:
    """Return the upload that `row` of the table uploads holds."""
    return Upload(
        id=row["id"],
        scope=Scope(row["tenant"], row["owner"]),
        created_via=CreatedVia(row["created_via"]),
        state=State(row["state"]),
        length=row["upload_length"],
        offset=row["upload_offset"],
        grid=Grid.decode(row["grid"]),
        epoch=row["epoch"],
        metadata=row["metadata"],
        filename=row["filename"],
        content_type=row["content_type"],
        content_coding=row["content_coding"],
        object_key=row["object_key"],
        put_attempts=row["put_attempts"],
        multipart_id=row["multipart_id"],
        etag=row["etag"],
        crc64=_crc_from(row["crc64"]),
        reason=row["reason"],
        created_at=moment_from(row["created_at"]),
        updated_at=moment_from(row["updated_at"]),
        completed_at=optional_moment(row["completed_at"]),
        expires_at=optional_moment(row["expires_at"]),
        role=None if row["role"] is None else Role(row["role"]),
        concat=row["concat"],
        group=row["group_id"],
        route=row["route"],
        counted=bool(row["counted"]),
        plan=None if row["plan"] is None else Plan.decode(row["plan"]),
        fingerprint=row["fingerprint"],
        retain_until=optional_moment(row["retain_until"]),
        ended_by=row["ended_by"],
        sha256=row["sha256"],
        processing=None if row["processing"] is None else Processed(row["processing"]),
        withheld=bool(row["withheld"]),
        derived_from=row["derived_from"],
        derivation=row["derivation"],
        object_of=row["object_of"],
    )


def part_from(row: Row) -> Part:
    """Return the part that `row` of the table parts holds."""
    crc64 = int.from_bytes(row["crc64"], "big") if row["crc64"] else -1
    return Part(row["number"], row["start_offset"], row["size"], row["etag"], crc64, row["sha256"])


def known_part_from(row: Row) -> KnownPart:
    """Return the part of a finished file that `row` holds, with the object it lies in."""
    return KnownPart(row["sha256"], row["start_offset"], row["size"], row["object_key"], row["etag"])


def piece_from(row: Row, prefix: str = "") -> Piece:
    """Return the piece in the columns of `row` that begin with `prefix`."""
    return Piece(
        row[prefix + "start_offset"],
        row[prefix + "size"],
        int.from_bytes(row[prefix + "crc64"], "big"),
        row[prefix + "object_key"],
        row[prefix + "data"],
    )


def garbage_from(row: Row) -> Garbage:
    """Return the garbage that `row` of the table garbage holds, with the column `spare` from its upload."""
    return Garbage(
        row["id"],
        row["upload_id"],
        row["object_key"],
        bool(row["multipart"]),
        row["multipart_id"],
        row["tries"],
        row["spare"],
        row["route"],
    )


def store_name_from(row: Row) -> StoreName:
    """Return what a row names in the store."""
    return StoreName(row["object_key"], bool(row["multipart"]), row["multipart_id"])


def reading_from(row: Row) -> ClockReading:
    """Return what a row of the statement system_clock says."""
    return ClockReading(
        now=moment_from(row["now"]),
        last_run=optional_moment(row["last_run"]),
        waits_until=optional_moment(row["waits_until"]),
        held=row["held_reason"],
        at_stake=bool(row["at_stake"]),
    )


def snapshot_of(row: sqlite3.Row) -> str:
    """Return a row of the table uploads as PostgreSQL's to_json writes it, but for the times."""
    return json.dumps(dict(row), default=lambda value: "\\x" + value.hex())


class _Snapshot(dict[str, Any]):
    """A row as it once was: columns that a later release has added are NULL."""

    def __missing__(self, column: str) -> None:
        return None


def event_from(row: Row) -> Event:
    """Return the event that a row of the table events holds."""
    snapshot = _Snapshot(json.loads(row["upload"]))
    for column in ("metadata", "crc64", "sha256"):
        snapshot[column] = _bytes_from_json(snapshot[column])
    for column in ("created_at", "updated_at", "completed_at", "expires_at", "retain_until"):
        snapshot[column] = _moment_from_json(snapshot[column])
    return Event(
        number=row["number"],
        type=EventType(row["type"]),
        upload=upload_from(snapshot),
        occurred_at=moment_from(row["occurred_at"]),
    )


def event_id_from(row: Row) -> EventId:
    """Return what names the event of a row."""
    return EventId(UploadId(row["upload_id"]), row["number"])


def event_key_rows(event_ids: Sequence[EventId]) -> list[dict[str, object]]:
    """Return what names each event."""
    return [{"upload_id": each.upload_id, "number": each.number} for each in event_ids]


def place_of(place: EventPlace | None) -> dict[str, object]:
    """Return the parameters of a page that begins behind `place`."""
    return {
        "time": place and place.occurred_at,
        "upload_id": "" if place is None else place.upload_id,
        "number": 0 if place is None else place.number,
    }


def delivery_from(row: Row) -> Delivery:
    """Return the delivery that a row of the table deliveries holds, with columns of its event."""
    return Delivery(
        event=event_from(row),
        sink=row["sink"],
        state=DeliveryState(row["state"]),
        tries=row["tries"],
        due_at=moment_from(row["due_at"]),
        error=row["error"],
        settled_at=optional_moment(row["settled_at"]),
    )


PUTTING_OFF: Final = {"looked_at": 256, "put_off": 60.0}
"""Of how many due deliveries a claim looks whether they have to wait for one that is due later. For how many seconds
they are put off at most."""


def sink_backlog_from(row: Row) -> SinkBacklog:
    """Return what a row of `backlog` says."""
    return SinkBacklog(row["sink"], DeliveryState(row["state"]), row["deliveries"], row["seconds"])


def outcome_rows(outcomes: Sequence[Outcome]) -> list[dict[str, object]]:
    """Return one set of parameters per outcome."""
    return [
        {
            "upload_id": outcome.event_id.upload_id,
            "number": outcome.event_id.number,
            "state": outcome.state,
            "delay": outcome.delay,
            "error": outcome.error,
        }
        for outcome in outcomes
    ]


def key_rows(deliveries: Sequence[Delivery]) -> list[dict[str, object]]:
    """Return what names each delivery."""
    return [{"upload_id": each.event.upload.id, "number": each.event.number, "sink": each.sink} for each in deliveries]


def search_of(search: Search, after: Delivery | None) -> dict[str, Any]:
    """Return the parameters of a search that goes on after `after`."""
    named = search.event_id
    return {
        "upload_id": named.upload_id if named else search.upload_id,
        "number": named and named.number,
        "tenant": search.tenant,
        "type": search.type,
        "sink": search.sink,
        "state": search.state,
        "since": search.since,
        "until": search.until,
        "after_time": after and after.event.occurred_at,
        "after_upload": after and after.event.upload.id,
        "after_number": after and after.event.number,
        "after_sink": after and after.sink,
    }


def columns_from(rows: Sequence[Mapping[str, object]], **names: str) -> dict[str, object]:
    """Return `rows` as one array per column, for unnest(); `names` are those of the parameters, by column."""
    return {name: [row[column] for row in rows] for column, name in names.items()}


def identity_of(upload: Upload) -> dict[str, object]:
    """Return what every statement about one upload has in its WHERE."""
    return {"id": upload.id, "tenant": upload.scope.tenant, "owner": upload.scope.owner}


def expectation_of(upload: Upload) -> dict[str, object]:
    """Return the identity of `upload`, and the epoch and offset that a compare-and-set must find."""
    return {**identity_of(upload), "epoch": upload.epoch, "offset": upload.offset}


def multipart_of(upload: Upload, multipart_id: MultipartId) -> dict[str, object]:
    """Return the columns of a multipart upload, and what a compare-and-set must find."""
    return {**expectation_of(upload), "multipart_id": multipart_id, "object_key": upload.object_key}


def token_of(new: NewApiToken) -> dict[str, object]:
    """Return the columns of a new static token."""
    return {
        "id": new.id,
        "digest": new.digest,
        "tenant": new.scope.tenant,
        "owner": new.scope.owner,
        "permissions": " ".join(sorted(new.permissions)),
        "label": new.label,
        "lifetime": new.lifetime,
    }


def token_from(row: Row) -> ApiToken:
    """Return the static token that `row` of the table api_tokens holds."""
    return ApiToken(
        id=row["id"],
        digest=row["digest"],
        scope=Scope(row["tenant"], row["owner"]),
        permissions=parse_permissions(row["permissions"].split()),
        label=row["label"],
        created_at=moment_from(row["created_at"]),
        expires_at=optional_moment(row["expires_at"]),
        last_used_at=optional_moment(row["last_used_at"]),
        revoked_at=optional_moment(row["revoked_at"]),
    )


def share_of(new: NewShare) -> dict[str, object]:
    """Return the columns of a new share link, but for its times."""
    return {
        "id": new.id,
        "tenant": new.scope.tenant,
        "owner": new.scope.owner,
        "upload_id": new.file_id,
        "created_by": new.created_by,
        "password": new.password,
        "max_downloads": new.max_downloads,
    }


def share_from(row: Row) -> Share:
    """Return the share link that `row` of the table shares holds."""
    return Share(
        id=row["id"],
        scope=Scope(row["tenant"], row["owner"]),
        file_id=row["upload_id"],
        created_by=row["created_by"],
        password=row["password"],
        max_downloads=row["max_downloads"],
        downloads=row["downloads"],
        created_at=moment_from(row["created_at"]),
        expires_at=optional_moment(row["expires_at"]),
        revoked_at=optional_moment(row["revoked_at"]),
    )


def identity_of_share(share: Share) -> dict[str, object]:
    """Return what every statement about one share link has in its WHERE."""
    return {"id": share.id, "tenant": share.scope.tenant, "owner": share.scope.owner}


def not_shared(file: Upload) -> InvalidRequest:
    """Return why no link to `file` was made.

    Raises:
        UploadGone, NotComplete: it is no file that can be read.
    """
    check_complete(file)
    return InvalidRequest("expires_at", "a time that is not over")


def access_of(new: NewAccess) -> dict[str, object]:
    """Return the columns of an access that begins, but for its times."""
    return {
        "id": new.id,
        "tenant": new.scope.tenant,
        "owner": new.scope.owner,
        "upload_id": new.file_id,
        "reader": new.reader,
        "proof": new.proof,
        "how": new.how,
        "client": new.client,
        "first_byte": new.first_byte,
        "wanted": new.wanted,
        "outcome": new.ending,
        "is_over": new.ending is not Ending.STARTED,
    }


def new_accesses(new: Sequence[NewAccess]) -> dict[str, object]:
    """Return the columns of `access_of` for many of them, as lists."""
    return columns_from(
        [access_of(each) for each in new],
        id="ids",
        tenant="tenants",
        owner="owners",
        upload_id="upload_ids",
        reader="readers",
        proof="proofs",
        how="hows",
        client="clients",
        first_byte="first_bytes",
        wanted="wanteds",
        outcome="outcomes",
        is_over="are_over",
    )


def ended_accesses(ended: Sequence[EndedAccess]) -> dict[str, object]:
    """Return the columns of `end_of` for many of them, as lists."""
    rows = [end_of(each) for each in ended]
    return columns_from(rows, id="ids", tenant="tenants", owner="owners", sent="sents", outcome="outcomes")


def access_from(row: Row) -> Access:
    """Return the access that `row` of the table accesses holds."""
    return Access(
        id=row["id"],
        scope=Scope(row["tenant"], row["owner"]),
        file_id=row["upload_id"],
        reader=row["reader"],
        proof=row["proof"],
        how=How(row["how"]),
        client=row["client"],
        first_byte=row["first_byte"],
        wanted=row["wanted"],
        sent=row["sent"],
        ending=Ending(row["outcome"]),
        began_at=moment_from(row["began_at"]),
        ended_at=optional_moment(row["ended_at"]),
    )


def end_of(ended: EndedAccess) -> dict[str, object]:
    """Return the columns of an access that has ended, and what its row is found by."""
    begun, scope = ended.begun, ended.begun.scope
    return {"id": begun.id, "tenant": scope.tenant, "owner": scope.owner, "sent": ended.sent, "outcome": ended.ending}


def spent_on(upload: Upload) -> TokenSpent:
    """Return the error for a second creation with the token that was spent on `upload`."""
    error = TokenSpent()
    error.upload = upload
    return error


def creation_of(new: NewUpload) -> dict[str, object]:
    """Return the columns of a new upload. A final has all its bytes from the start."""
    is_final = new.role is Role.FINAL
    return {
        "id": new.id,
        "tenant": new.scope.tenant,
        "owner": new.scope.owner,
        "created_via": new.created_via,
        "state": State.SEALED if is_final else State.UPLOADING,
        "length": new.length,
        "offset": new.length if is_final else 0,
        "grid": new.grid.encode(),
        "epoch": new.epoch,
        "metadata": new.metadata,
        "filename": new.filename,
        "filename_folded": folded_name(new.filename),
        "content_type": new.content_type,
        "content_coding": new.content_coding,
        "object_key": new.object_key,
        "lifetime": None if is_final else new.lifetime,
        "max_age": None if is_final else new.max_age,
        "role": new.role,
        "concat": new.concat,
        "group": new.group,
        "token_id": new.token_id,
        "route": new.route,
        "plan": None if new.plan is None else new.plan.encode(),
        "fingerprint": new.fingerprint,
    }


def sealing_of(group: Upload, parts: Sequence[Part], final: NewUpload | None) -> dict[str, object]:
    """Return the columns that sealing `group` with `parts` sets; it becomes `final` if one is given."""
    return {
        **identity_of(group),
        "length": sum(part.size for part in parts),
        "role": final and final.role,
        "concat": final and final.concat,
        "metadata": final and final.metadata,
        "filename": final and final.filename,
        "filename_folded": final and folded_name(final.filename),
        "content_type": final and final.content_type,
    }


def check_unchanged(expected: Sequence[Upload], found: Mapping[UploadId, Upload]) -> None:
    """Raise Fenced unless each of `expected` is still what it was, as far as a final made of it is concerned.

    Raises UploadNotFound for one that is not in `found`.
    """
    for upload in expected:
        now = found.get(upload.id)
        if now is None:
            raise UploadNotFound
        if (now.state, now.offset, now.group) != (upload.state, upload.offset, upload.group):
            raise fenced_by(now)


def filter_of(wanted: FileFilter) -> dict[str, object]:
    """Return the conditions of a listing, but for its place and its times."""
    return {
        "created_via": wanted.created_via,
        "type_prefix": wanted.type_prefix,
        "name_prefix": folded_name(wanted.name_prefix),
        "name_part": folded_name(wanted.name_contains),
        "derived_from": wanted.derived_from,
    }


def fingerprint_columns(scope: Scope, wanted: Fingerprint) -> dict[str, object]:
    """Return what an upload is found again by."""
    crc64 = wanted.crc64
    return {
        "tenant": scope.tenant,
        "owner": scope.owner,
        "fingerprint": str(wanted),
        "crc64": None if crc64 is None else crc_to(crc64),
        "sha256": wanted.sha256,
    }


def description_of(changes: Changes) -> dict[str, object]:
    """Return the columns that a change of what is known of a file sets, but for its times; others keep their values."""
    filename = changes.get("filename")
    return {
        "sets_filename": "filename" in changes,
        "filename": filename,
        "filename_folded": folded_name(filename),
        "sets_content_type": "content_type" in changes,
        "content_type": changes.get("content_type"),
        "sets_expires_at": "expires_at" in changes,
        "sets_retain_until": "retain_until" in changes,
    }


def not_described(found: Upload, changes: Changes, *, may_shorten: bool) -> InvalidRequest:
    """Return the error for a description that found its upload, and changed nothing: a time is over.

    Raises:
        UploadGone: it has ended.
        NotComplete: it has no times yet.
        Retained: it must be kept for longer.
    """
    check_complete(found)
    wanted, held = changes.get("retain_until"), found.retain_until
    if "retain_until" in changes and held is not None and not may_shorten and (wanted is None or wanted < held):
        raise Retained(held)
    times = {name: changes.get(name) for name in ("expires_at", "retain_until")}
    given = {name: moment for name, moment in times.items() if isinstance(moment, datetime)}
    return InvalidRequest(min(given, key=given.__getitem__), "a time that is not over")


def movement_of(upload: Upload, step: Step) -> dict[str, object]:
    """Return the columns that a step of `upload` which does not finish it sets."""
    absorb_from, absorb_to = step.absorb or (0, 0)
    return {
        "end": step.end,
        "length": step.length,
        "state": step.state,
        **lifetime_of(upload, step),
        "absorb_from": absorb_from,
        "absorb_to": absorb_to,
    }


def keeping_of(keeping: Keeping, upload: Upload) -> dict[str, object]:
    """Return what becomes of a file once it is finished, and the jobs that it gets as one array per column."""
    jobs = () if keeping.processing is None else keeping.processing.jobs_of(upload)
    return {
        "kept_for": keeping.lifetime,
        "digests": keeping.wants_digest(upload.scope),
        "processing": Processed.PROCESSING if jobs else None,
        "withheld": any(job.is_gate for job in jobs),
        "job_processors": [job.processor for job in jobs],
        "job_versions": [job.version for job in jobs],
        "job_gates": [job.is_gate for job in jobs],
    }


def lifetime_of(upload: Upload, step: Step) -> dict[str, object]:
    """Return how long `step` lets `upload` live: once nothing is missing, only partials expire."""
    expires = step.state is State.UPLOADING or upload.role is Role.PARTIAL
    return {"lifetime": step.lifetime if expires else None, "max_age": step.max_age if expires else None}


def finishing_of(upload: Upload, step: Step) -> dict[str, object]:
    """Return what completes an upload that is one PutObject, or refers to an object that is there already."""
    assert step.stored is not None
    return {
        **expectation_of(upload),
        **object_of(step.stored),
        "from_state": State.UPLOADING,
        "end": step.end,
        "length": step.length,
        "abandon_multipart": True,
        **lifetime_of(upload, step),
        **keeping_of(step.keeping, upload),
    }


def object_of(stored: StoredObject) -> dict[str, object]:
    """Return the columns that a finished object sets."""
    return {"object_key": stored.key, "etag": stored.etag, "crc64": crc_to(stored.crc64)}


def content_of(upload: Upload | NewUpload, sha256: bytes) -> dict[str, object]:
    """Return what a file must have in common with `upload` to be a twin of it."""
    return {
        "id": upload.id,
        "tenant": upload.scope.tenant,
        "sha256": sha256,
        "length": upload.length,
        "route": upload.route,
        "content_coding": upload.content_coding,
    }


def sharing_of(upload: Upload, twin: Upload) -> dict[str, object]:
    """Return the columns that `upload` gets when it refers to the object of `twin`, and the key that it gives up."""
    return {
        **identity_of(upload),
        "object_key": twin.object_key,
        "etag": twin.etag,
        "crc64": None if twin.crc64 is None else crc_to(twin.crc64),
        "object_of": twin.maker,
        "former_key": upload.object_key,
    }


def part_rows(parts: Sequence[Part]) -> list[dict[str, object]]:
    """Return one set of parameters per part."""
    return [
        {
            "number": part.number,
            "start_offset": part.start,
            "size": part.size,
            "etag": part.etag,
            "crc64": _part_crc_to(part.crc64),
            "sha256": part.sha256,
        }
        for part in parts
    ]


def piece_rows(pieces: Sequence[Piece]) -> list[dict[str, object]]:
    """Return one set of parameters per piece."""
    return [
        {
            "start_offset": piece.start,
            "size": piece.size,
            "crc64": crc_to(piece.crc64),
            "object_key": piece.key,
            "data": piece.data,
        }
        for piece in pieces
    ]


def part_columns(parts: Sequence[Part]) -> dict[str, object]:
    """Return the parts as one array per column, for unnest()."""
    return {
        "part_numbers": [part.number for part in parts],
        "part_starts": [part.start for part in parts],
        "part_sizes": [part.size for part in parts],
        "part_etags": [part.etag for part in parts],
        "part_crcs": [_part_crc_to(part.crc64) for part in parts],
        "part_digests": [part.sha256 for part in parts],
    }


def piece_columns(pieces: Sequence[Piece]) -> dict[str, object]:
    """Return the pieces as one array per column, for unnest()."""
    return {
        "piece_starts": [piece.start for piece in pieces],
        "piece_sizes": [piece.size for piece in pieces],
        "piece_crcs": [crc_to(piece.crc64) for piece in pieces],
        "piece_keys": [piece.key for piece in pieces],
        "piece_data": [piece.data for piece in pieces],
    }


def intent_columns(intents: Sequence[Intent]) -> dict[str, object]:
    """Return the intents as one array per column, for unnest(), and the attempt that they announce."""
    return {
        "intent_keys": [intent.key for intent in intents],
        "intent_multiparts": [intent.multipart for intent in intents],
        "attempt": attempt_of(intents),
    }


def attempt_of(intents: Sequence[Intent]) -> int | None:
    """Return the new value of `put_attempts` that `intents` announce; None leaves it."""
    return max((intent.attempt for intent in intents if intent.attempt is not None), default=None)


def cell_start_of(upload: Upload) -> int:
    """Return where the open cell of `upload` begins; its offset when the grid is used up."""
    if upload.offset >= upload.grid.capacity:
        return upload.offset
    return upload.grid.cell_at(upload.offset, upload.length).start


def ending_of(upload: Upload, state: State) -> dict[str, object]:
    """Return the columns that ending `upload` in `state` sets, and what of it becomes garbage besides its pieces.

    A failed upload never touches its key again: nothing was verified there. A partial in place has no object.
    """
    unfinished = upload.state in sources_of(State.FAILED)
    has_object = state is not State.FAILED and upload.state is not State.FAILED and upload.group is None
    return {
        "state": state,
        "discard_object": has_object,
        "discard_multipart": unfinished,
    }


def retained(found: Upload) -> Retained:
    """Return the error for the deletion of a file that must be kept."""
    assert found.retain_until is not None
    return Retained(found.retain_until)


def check_endable(found: Upload) -> None:
    """Raise UploadGone when `found` cannot be terminated (any more)."""
    if found.state not in sources_of(State.TERMINATED):
        raise UploadGone(found.state, found.reason)
    if found.role is Role.GROUP:
        raise UploadGone(State.TERMINATED)


def check_may_fail(found: Upload, known: Upload) -> None:
    """Raise Fenced unless `found` is unfinished and of the epoch for which `known` says that it is to fail."""
    if found.state not in sources_of(State.FAILED) or found.epoch != known.epoch:
        raise fenced_by(found)


def completed_before(found: Upload) -> Upload:
    """Return `found` when it is complete already.

    Raises:
        UploadGone: it has ended in another way.
        Fenced: it is still uploading, or sealed in another form than the caller believed.
    """
    if found.state is State.COMPLETE:
        return found
    check_alive(found)
    raise fenced_by(found)


def fenced_by(found: Upload) -> Fenced:
    """Return the error for a compare-and-set that met `found` instead of what it expected."""
    error = Fenced()
    error.upload = found
    return error


def usage_from(row: Row) -> Usage:
    """Return what a row counts."""
    return Usage(row["bytes"], row["files"], row["unfinished"])


def limits_of(tenant: str, quota: Quota) -> dict[str, object]:
    """Return the columns of a tenant's limits."""
    return {"tenant": tenant, "bytes": quota.bytes, "files": quota.files, "unfinished": quota.unfinished}


def misplaced(places: Mapping[str, str], rows: Sequence[Row]) -> list[Misplaced]:
    """Return which routes of `rows`, the recorded ones, do not lead where `places` says, or nowhere at all."""
    return [
        Misplaced(row["name"], row["place"], places.get(row["name"]), is_used=bool(row["is_used"]))
        for row in rows
        if places.get(row["name"]) != row["place"]
    ]


def counts_from(rows: Sequence[Row]) -> dict[State, int]:
    """Return the uploads per state, with a zero for each state that has none."""
    found: Mapping[str, int] = {row["state"]: row["uploads"] for row in rows}
    return {state: found.get(state, 0) for state in State}


def folded_name(name: str | None) -> str | None:
    """Return the column that names are found by, whatever their case."""
    return None if name is None else folded(name)


def crc_to(crc64: int) -> bytes | None:
    """Return the stored form; None for -1, by which a store says that it reports no checksum."""
    return crc64.to_bytes(8, "big") if crc64 >= 0 else None


def _part_crc_to(crc64: int) -> bytes:
    """Return the stored form of a part's CRC; no bytes for -1, as the column takes no NULL."""
    return crc_to(crc64) or b""


def _crc_from(stored: bytes | None) -> int | None:
    return None if stored is None else int.from_bytes(stored, "big")


def milliseconds_of(moment: datetime | None) -> int | None:
    """Return a moment as SQLite keeps it."""
    return None if moment is None else round(moment.timestamp() * 1000)


def _bytes_from_json(value: str | None) -> bytes | None:
    """Return what is written as a backslash, an x and hexadecimal digits: PostgreSQL's way."""
    return None if value is None else bytes.fromhex(value.removeprefix("\\x"))


def _moment_from_json(value: str | int | None) -> datetime | int | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def moment_from(value: datetime | int) -> datetime:
    """Return a timestamptz as it is, integer milliseconds since 1970 (SQLite) as a datetime."""
    return value if isinstance(value, datetime) else _EPOCH + timedelta(milliseconds=value)


def milliseconds_from(moment: datetime) -> int:
    """Return the first whole millisecond since 1970 that is not before `moment` (SQLite)."""
    return -((_EPOCH - moment) // timedelta(milliseconds=1))


def optional_moment(value: datetime | int | None) -> datetime | None:
    """Return what `moment_from` does, and None for no time."""
    return None if value is None else moment_from(value)
