"""The JSON that tusd (version 2) exchanges with hook servers: questions and events in it, and answers out of it.

What tusd has and we cannot tell is empty, never made up. Names of members are compared as Go does, in any case.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, TypeVar

from tusgate.core.errors import HookFailed
from tusgate.core.events import EventType
from tusgate.core.hooks import Answer, Moment, Reply
from tusgate.core.metadata import decoded_metadata
from tusgate.core.model import NewUpload, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tusgate.core.events import Event
    from tusgate.core.hooks import Question, RequestSeen
    from tusgate.core.model import Upload, UploadId

    Place = Callable[[Upload], Mapping[str, str]]
    """Says where the object of a finished upload is, in the words of tusd's stores."""

CONTENT_TYPE: Final = "application/json"
CREDENTIALS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
"""Headers that hooks see only if their operator has listed them."""
_BEFORE: Final = {Moment.CREATE: "pre-create", Moment.FINISH: "pre-finish", Moment.TERMINATE: "pre-terminate"}
AFTER: Final = {
    EventType.CREATED: "post-create",
    EventType.PROGRESS: "post-receive",
    EventType.COMPLETED: "post-finish",
    EventType.TERMINATED: "post-terminate",
    EventType.DELETED: "post-terminate",
}
"""Events that tusd has a hook for; there is none for uploads that fail or expire."""

T = TypeVar("T")


def question_of(question: Question, forwarded: Iterable[str]) -> bytes:
    """Return what a hook server is asked.

    Args:
        question: what it is about.
        forwarded: names, in lower case, of headers that it may see though they are credentials.
    """
    upload = question.upload
    told = _upload(upload, question.partials, None)
    if isinstance(upload, NewUpload):
        told["ID"] = ""
    request = question.request
    return _written(_BEFORE[question.moment], told, upload, {} if request is None else _request(request, forwarded))


def notice_of(event: Event, place: Place | None) -> bytes:
    """Return what a hook server is told of an event, the same bytes each time."""
    upload = event.upload
    storage = None if place is None or event.type not in {EventType.COMPLETED, EventType.DELETED} else place(upload)
    return _written(AFTER[event.type], _upload(upload, (), storage), upload, {})


def _written(kind: str, told: dict[str, object], upload: Upload | NewUpload, request: Mapping[str, object]) -> bytes:
    seen = {"Method": "", "URI": "", "RemoteAddr": "", "Header": {}, **request}
    owner = {"Tenant": upload.scope.tenant, "Owner": upload.scope.owner}
    return json.dumps({"Type": kind, "Event": {"Upload": told, "HTTPRequest": seen, "Principal": owner}}).encode()


def _upload(
    upload: Upload | NewUpload, partials: Sequence[UploadId], storage: Mapping[str, str] | None
) -> dict[str, object]:
    return {
        "ID": upload.id,
        "Size": upload.length or 0,
        "SizeIsDeferred": upload.length is None,
        "Offset": upload.offset,
        "MetaData": _metadata(upload),
        "IsPartial": upload.role is Role.PARTIAL,
        "IsFinal": upload.role is Role.FINAL,
        "PartialUploads": list(partials) or None,
        "Storage": None if storage is None else dict(storage),
    }


def _metadata(upload: Upload | NewUpload) -> dict[str, str]:
    """Return what the client says, and what other protocols than tus say elsewhere, under the names of tus."""
    values = decoded_metadata(upload.metadata)
    if upload.filename is not None and "name" not in values:
        values.setdefault("filename", upload.filename)
    if upload.content_type is not None and "type" not in values:
        values.setdefault("filetype", upload.content_type)
    return values


def _request(request: RequestSeen, forwarded: Iterable[str]) -> dict[str, object]:
    withheld = CREDENTIALS.difference(forwarded)
    headers: dict[str, list[str]] = {}
    for name, value in request.headers:
        if name.lower() not in withheld:
            headers.setdefault("-".join(word.capitalize() for word in name.split("-")), []).append(value)
    return {"Method": request.method, "URI": request.uri, "RemoteAddr": request.peer, "Header": headers}


def answer_of(body: bytes, moment: Moment) -> tuple[Answer, list[str]]:
    """Return what a hook server has answered, and what of it cannot be done.

    Raises HookFailed for anything but JSON of the right form. What does not belong to the moment is passed by, as in
    tusd; but a refusal to finish, which tusd does not know, is one.
    """
    document = _document(body)
    refusal = "rejecttermination" if moment is Moment.TERMINATE else "rejectupload"
    changes = _folded(_member(document, "changefileinfo", dict))
    refused = _member(document, refusal, bool) or False
    metadata, ignored = None, []
    if moment is Moment.CREATE:
        metadata = _texts(changes, "metadata")
        if _member(changes, "id", str):
            ignored.append("ChangeFileInfo.ID")
        if any((_member(changes, "storage", dict) or {}).values()):
            ignored.append("ChangeFileInfo.Storage")
    return Answer(refused=refused, metadata=metadata, reply=_reply(document)), ignored


def wants_to_stop(body: bytes) -> bool:
    """Return whether the answer to a `post-receive` is to stop the upload. Raises HookFailed like `answer_of`."""
    return _member(_document(body), "stopupload", bool) or False


def _document(body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise HookFailed("it answered what is no JSON") from None
    if not isinstance(document, dict):
        raise HookFailed("it answered JSON that is no object")
    return _folded(document)


def _reply(document: Mapping[str, object]) -> Reply | None:
    found = _folded(_member(document, "httpresponse", dict))
    status, text, headers = _member(found, "statuscode", int), _member(found, "body", str), _texts(found, "header")
    return Reply(status or None, text or None, headers or {}) if status or text or headers else None


def _folded(value: Mapping[str, object] | None) -> dict[str, object]:
    return {name.lower(): member for name, member in (value or {}).items()}


def _member(of: Mapping[str, object], name: str, kind: type[T]) -> T | None:
    value = of.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise HookFailed(f"it answered with a member {name} of another type")
    return value


def _texts(of: Mapping[str, object], name: str) -> dict[str, str] | None:
    found = _member(of, name, dict)
    if found is not None and not all(isinstance(value, str) for value in found.values()):
        raise HookFailed(f"it answered with a member {name} of which not all are texts")
    return found
