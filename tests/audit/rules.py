"""One function for each invariant: facts in, violations out. Nothing is asked or changed here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from awscrt.checksums import crc64nvme

from tests.audit.foreign import FOREIGN_MULTIPART, FOREIGN_OBJECTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.audit.facts import Facts
    from tests.fault.books import Row

INTERNAL: Final = ".tusgate/"
LIVE: Final = ("uploading", "sealed")
GONE: Final = ("failed", "expired", "terminated")


@dataclass(frozen=True)
class Violation:
    """An invariant that does not hold.

    Attributes:
        invariant: its id, such as I1.
        what: whose, and how it shows.
    """

    invariant: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}"


def violations(facts: Facts) -> list[Violation]:
    """Return every broken invariant."""
    return [Violation(name, what) for name, rule in RULES.items() for what in rule(facts)]


def offsets_never_go_back(facts: Facts) -> Iterator[str]:
    """I1: no answer shows less than one that came before its request, nor more than what is there in the end."""
    for journal in facts.journals:
        row = facts.uploads.get(journal.upload_id)
        for told in journal.told:
            if told.offset < told.known:
                yield f"{journal.upload_id} was told {told.offset} after {told.known}"
        told_most = max((told.offset for told in journal.told), default=0)
        if row is None:
            yield f"{journal.upload_id} has no row any more"
        elif row["state"] not in GONE and row["upload_offset"] < told_most:
            yield f"{journal.upload_id} was told {told_most} and is at {row['upload_offset']}"


def told_bytes_are_stored(facts: Facts) -> Iterator[str]:
    """I2: parts and pieces cover every committed byte of a live upload once, and the store has each of them."""
    for upload_id, row in facts.uploads.items():
        if row["state"] not in LIVE or upload_id in facts.losses:
            continue
        spans = sorted(
            (each["start_offset"], each["start_offset"] + each["size"])
            for each in (*facts.parts.get(upload_id, ()), *facts.pieces.get(upload_id, ()))
        )
        ends = [0, *(end for _, end in spans)]
        if [start for start, _ in spans] != ends[:-1] or ends[-1] != row["upload_offset"]:
            yield f"{upload_id} is at {row['upload_offset']} with {spans}"
        yield from _missing_pieces(facts, upload_id)
        yield from _missing_parts(facts, row)


def _missing_pieces(facts: Facts, upload_id: str) -> Iterator[str]:
    for piece in facts.pieces.get(upload_id, ()):
        stored = facts.objects.get(piece["object_key"] or "")
        content: bytes | None = piece["data"] if stored is None else stored.content
        if content is None or len(content) != piece["size"] or crc64nvme(content) != _crc(piece):
            yield f"the piece at {piece['start_offset']} of {upload_id} is not in the store as committed"


def _missing_parts(facts: Facts, row: Row) -> Iterator[str]:
    """Parts of a partial in place are in the multipart upload of its group, and later in the object of that."""
    home = row if row["group_id"] is None else facts.uploads[row["group_id"]]
    if home["state"] in GONE:
        yield f"{row['id']} goes on without its group, which is {home['state']}"
    elif home["state"] == "complete":
        yield from _parts_missing_in(_home_content(facts, row), facts, row)
    else:
        held = facts.stored_parts.get(home["multipart_id"] or "", {})
        for part in facts.parts.get(row["id"], ()):
            stored = held.get(part["number"])
            if stored is None or (stored.size, stored.etag) != (part["size"], part["etag"]):
                yield f"part {part['number']} of {row['id']} is not in the store as committed"


def _parts_missing_in(content: bytes | None, facts: Facts, row: Row) -> Iterator[str]:
    for part in facts.parts.get(row["id"], ()):
        found = (content or b"")[part["start_offset"] :][: part["size"]]
        if len(found) != part["size"] or crc64nvme(found) != _crc(part):
            yield f"part {part['number']} of {row['id']} is not in the object of its group as committed"


def _home_content(facts: Facts, partial: Row) -> bytes | None:
    """Return the bytes of a partial that lies in the object of its group; None when they are not there."""
    home = facts.uploads[partial["group_id"]]
    stored, own = facts.objects.get(home["object_key"]), facts.parts.get(partial["id"], ())
    first = [part for part in facts.parts.get(home["id"], ()) if own and part["number"] == own[0]["number"]]
    if stored is None or stored.content is None or not first:
        return None
    start = first[0]["start_offset"]
    return stored.content[start : start + partial["upload_length"]]


def objects_are_what_was_sent(facts: Facts) -> Iterator[str]:
    """I3: size and checksum as committed, every acknowledged range as its client sent it, finals as their partials."""
    for upload_id, row in facts.uploads.items():
        stored = facts.objects.get(row["object_key"])
        if row["state"] != "complete" or stored is None or stored.content is None:
            continue
        is_hashed = row["crc64"] is not None  # bytes that went past the gateway need not be
        if stored.size != row["upload_length"] or (is_hashed and crc64nvme(stored.content) != _crc(row)):
            yield f"the object of {upload_id} has {stored.size} bytes, or others than committed"
        if row["sha256"] is not None and sha256(stored.content).digest() != row["sha256"]:
            yield f"the object of {upload_id} has another digest than committed"
    yield from _finals_of_other_bytes(facts)
    for journal in facts.journals:
        content = _content(facts, journal.upload_id)
        if content is None:
            continue
        for accepted in journal.accepted:
            if content[accepted.start : accepted.end] != accepted.body[accepted.start : accepted.end]:
                yield f"bytes {accepted.start} to {accepted.end} of {journal.upload_id} are not those of their sender"


def _finals_of_other_bytes(facts: Facts) -> Iterator[str]:
    for final_id, partials in facts.sources.items():
        whole = _content(facts, final_id)
        start = 0
        for partial_id in partials if whole is not None else ():
            length = facts.uploads[partial_id]["upload_length"]
            own = _content(facts, partial_id)
            if own is not None and own != (whole or b"")[start : start + length]:
                yield f"the bytes from {start} of {final_id} are not those of its partial {partial_id}"
            start += length
        if whole is not None and len(whole) != start:
            yield f"{final_id} has {len(whole)} bytes, its partials have {start}"


def _content(facts: Facts, upload_id: str) -> bytes | None:
    """Return the finished bytes of an upload: its object, or where its group's object has them; None without."""
    row = facts.uploads.get(upload_id)
    if row is None:
        return None
    if row["group_id"] is not None:
        is_there = row["state"] not in GONE and facts.uploads[row["group_id"]]["state"] == "complete"
        return _home_content(facts, row) if is_there else None
    stored = facts.objects.get(row["object_key"]) if row["state"] == "complete" else None
    return None if stored is None else stored.content


def complete_means_one_object(facts: Facts) -> Iterator[str]:
    """I4: an object at its key if and only if the upload is complete; what is not needed any more is named garbage."""
    keys = {row["object_key"] for row in facts.uploads.values() if row["state"] == "complete"}
    for upload_id, row in facts.uploads.items():
        if row["state"] == "complete" and row["object_key"] not in facts.objects:
            yield f"{upload_id} is complete without an object"
        if row["state"] == "complete" and row["upload_offset"] != row["upload_length"]:
            yield f"{upload_id} is complete at {row['upload_offset']} of {row['upload_length']}"
    for key in facts.objects:
        if not key.startswith(INTERNAL) and key not in keys | _doomed(facts):
            yield f"the object {key} belongs to no complete upload"


def finishing_ends(facts: Facts) -> Iterator[str]:
    """I5: nothing stays sealed; offset equal to length was told of complete uploads only, or of partials in place."""
    for upload_id, row in facts.uploads.items():
        if row["state"] == "sealed":
            yield f"{upload_id} is still sealed"
    for journal in facts.journals:
        known = facts.uploads.get(journal.upload_id)
        in_place = known is not None and known["group_id"] is not None
        looked = max((told.offset for told in journal.told if told.status == 200), default=None)
        if not known or in_place or looked != known["upload_length"]:
            continue
        hidden = journal.deleted and known["role"] == "group"  # a deleted final ends with the last of its partials
        if known["state"] not in ("complete", "terminated") and not hidden:
            yield f"{journal.upload_id} was shown as finished and is {known['state']}"


def one_writer(facts: Facts) -> Iterator[str]:
    """I6: no byte was acknowledged to two writers with different bytes."""
    for journal in facts.journals:
        ranges = sorted(journal.accepted, key=lambda each: each.start)
        for first, second in pairwise(ranges):
            common = slice(second.start, min(first.end, second.end))
            if second.start < first.end and first.body[common] != second.body[common]:
                yield f"bytes from {second.start} of {journal.upload_id} were taken from two writers"


def complete_lists_committed_parts(facts: Facts) -> Iterator[str]:
    """I7: every Complete lists exactly the parts that the database has, in order; a final has those of its sources."""
    owners = {row["multipart_id"]: row["id"] for row in facts.uploads.values() if row["multipart_id"]}
    for call in facts.calls:
        upload_id = owners.get(call.query.get("uploadId", ""))
        if call.kind != "CompleteMultipartUpload" or upload_id is None or not call.document:
            continue
        committed = [(part["number"], part["etag"]) for part in facts.parts.get(upload_id, ())]
        if committed and call.listed_parts != committed:
            yield f"Complete of {upload_id} listed {call.listed_parts}, committed are {committed}"
    for final_id, partials in facts.sources.items():
        lying = [each for each in partials if facts.uploads[each]["group_id"] == final_id]
        theirs = [(part["number"], part["etag"]) for each in lying for part in facts.parts.get(each, ())]
        if lying and theirs != [(part["number"], part["etag"]) for part in facts.parts.get(final_id, ())]:
            yield f"{final_id} is not made of the parts of its partials"


def success_is_committed(facts: Facts) -> Iterator[str]:
    """I8: when an answer showed an offset, the database held it."""
    for journal in facts.journals:
        for told in journal.told:
            if told.committed is not None and told.offset > told.committed:
                yield f"{journal.upload_id} was told {told.offset} when {told.committed} was committed"


def what_has_ended_stays_so(facts: Facts) -> Iterator[str]:
    """I9: a deleted upload is terminated, and one that was said to be gone is not there again."""
    for journal in facts.journals:
        row = facts.uploads.get(journal.upload_id)
        state = "gone" if row is None else row["state"]
        hidden = row is not None and row["role"] == "group"  # a deleted final whose object its partials still need
        if journal.deleted and state != "terminated" and not hidden:
            yield f"{journal.upload_id} was deleted and is {state}"
        if journal.gone and state not in (*GONE, "gone") and not hidden:
            yield f"{journal.upload_id} was said to be gone and is {state}"


def others_are_left_alone(facts: Facts) -> Iterator[str]:
    """I10: what others keep in the bucket is there, unchanged."""
    for key in {*FOREIGN_OBJECTS, FOREIGN_MULTIPART} - facts.foreign:
        yield f"{key} of somebody else is gone or changed"


def nothing_is_leaked(facts: Facts) -> Iterator[str]:
    """I11: every piece and multipart upload in the bucket is in use, or named as garbage."""
    pieces = {piece["object_key"] for found in facts.pieces.values() for piece in found}
    for key in facts.objects:
        if key.startswith(INTERNAL) and key not in pieces | _doomed(facts):
            yield f"nothing names {key}"
    live = {row["multipart_id"] for row in facts.uploads.values() if row["state"] in LIVE}
    doomed = {row["multipart_id"] for row in facts.garbage if row["multipart"]}
    intended = {row["object_key"] for row in facts.garbage if row["multipart"] and row["multipart_id"] is None}
    for key, multipart_ids in facts.multiparts.items():
        for multipart_id in multipart_ids:
            if key not in intended and multipart_id not in live | doomed:
                yield f"nothing names the multipart upload {multipart_id[-12:]} of {key}"


def events_are_what_has_happened(facts: Facts) -> Iterator[str]:
    """I12: each row of an upload has the events that it implies, and sinks were told them in order."""
    for upload_id, row in facts.uploads.items():
        found = Counter(event["type"] for event in facts.events.get(upload_id, ()))
        if row["role"] == "group":
            expected = _implied_by_group(found, was_final=upload_id in facts.sources)
        else:
            expected = _implied(row, found)
        if found != expected:
            yield f"{upload_id} is {row['state']} and has the events {dict(found)}"
    told = {event_id for lines in facts.lines for event_id in lines}
    for event_id in facts.delivered - told:
        yield f"{event_id} is said to be delivered and nobody was told"
    for lines in facts.lines:
        last: dict[str, int] = {}
        for event_id in dict.fromkeys(lines):
            upload_id, _, number = event_id.rpartition("-")
            if int(number) < last.get(upload_id, 0):
                yield f"{event_id} was told after a later one"
            last[upload_id] = int(number)


def _implied(row: Row, found: Counter[str]) -> Counter[str]:
    """Return the events of an upload that has become what `row` is; whether it had failed before can only be found."""
    is_file = row["completed_at"] is not None and row["role"] != "partial"
    types = ["upload.created", *(["upload.completed"] if is_file else [])]
    match row["state"]:
        case "failed" | "expired" as state:
            types.append(f"upload.{state}")
        case "terminated":
            types.append("file.deleted" if is_file else "upload.terminated")
            types += ["upload.failed"] * min(found["upload.failed"], 1)
        case _:
            pass
    return Counter(types)


def _implied_by_group(found: Counter[str], *, was_final: bool) -> Counter[str]:
    """Return the events of what clients cannot see: those of a final that was deleted, if it ever was one.

    Whether that was complete by then can only be found: what is left of it is finished all the same.
    """
    if not was_final:
        return Counter()
    if found["upload.completed"]:
        return Counter(("upload.created", "upload.completed", "file.deleted"))
    return Counter(("upload.created", "upload.terminated"))


def metadata_is_kept(facts: Facts) -> Iterator[str]:
    """I16: Upload-Metadata is stored as it was sent."""
    for journal in facts.journals:
        row = facts.uploads.get(journal.upload_id)
        kept = row["metadata"] if row is not None else None
        if row is not None and (None if kept is None else bytes(kept)) != journal.metadata:
            yield f"{journal.upload_id} was created with {journal.metadata!r} and has {kept!r}"


def no_secret_is_written(facts: Facts) -> Iterator[str]:
    """I19: neither keys nor passwords stand in a log."""
    for secret in facts.secrets:
        if secret in facts.logs:
            yield f"a secret of {len(secret)} characters stands in a log"


def service_goes_on(facts: Facts) -> Iterator[str]:
    """I20: with all faults ended, every gateway serves."""
    for number, ready in enumerate(facts.ready):
        if not ready:
            yield f"gateway {number} is not ready"


def what_is_retained_is_kept(facts: Facts) -> Iterator[str]:
    """I21: a file that must be kept has its row and its object, and none has ended before its time."""
    for journal in facts.journals:
        row = facts.uploads.get(journal.upload_id)
        state = "nowhere" if row is None else row["state"]
        if journal.retained and state != "complete":
            yield f"{journal.upload_id} has to be kept and is {state}"
        if journal.retained and row is not None and row["object_key"] not in facts.objects:
            yield f"{journal.upload_id} has to be kept and has no object"
    for upload_id, row in facts.uploads.items():
        until = row["retain_until"]
        if row["state"] in GONE and until is not None and row["updated_at"] < until:  # what has ended changes no more
            yield f"{upload_id} is {row['state']} and had to be kept for longer"


RULES: Final[dict[str, Callable[[Facts], Iterator[str]]]] = {
    "I1": offsets_never_go_back,
    "I2": told_bytes_are_stored,
    "I3": objects_are_what_was_sent,
    "I4": complete_means_one_object,
    "I5": finishing_ends,
    "I6": one_writer,
    "I7": complete_lists_committed_parts,
    "I8": success_is_committed,
    "I9": what_has_ended_stays_so,
    "I10": others_are_left_alone,
    "I11": nothing_is_leaked,
    "I12": events_are_what_has_happened,
    "I16": metadata_is_kept,
    "I19": no_secret_is_written,
    "I20": service_goes_on,
    "I21": what_is_retained_is_kept,
}


def _doomed(facts: Facts) -> set[str]:
    return {row["object_key"] for row in facts.garbage if not row["multipart"]}


def _crc(row: Row) -> int:
    return int.from_bytes(row["crc64"], "big")
