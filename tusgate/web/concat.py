"""The header fields of tus concatenation: what an upload is to others, and which partials belong together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tusgate.core.concat import GroupWish
from tusgate.core.errors import InvalidRequest
from tusgate.core.metadata import metadata_values
from tusgate.web.headers import parse_number

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELD: Final = "Upload-Concat"
PARTIAL: Final = "partial"
GROUP_KEY: Final = "concat-group"
"""Metadata of partials: the same for all of one file, and for no other file (a random UUID, for instance)."""
LENGTHS_KEY: Final = "concat-lengths"
"""Metadata of partials: the lengths of all of one file in their order, in bytes and separated by commas."""
_FINAL: Final = "final;"
_LONGEST_GROUP: Final = 200


def is_partial(fields: Mapping[str, str]) -> bool:
    """Whether a creation request is for a partial. Raises InvalidRequest for a value that is neither (CAT-15)."""
    text = fields.get(FIELD)
    if text is None or text == PARTIAL:
        return text is not None
    raise InvalidRequest(FIELD, "partial, or final; and the URLs of partials")


def final_urls(fields: Mapping[str, str]) -> list[str] | None:
    """Return the URLs that a final lists, None when the request is not for a final.

    tus 1.0: `final;` and a list of URLs separated by blanks, absolute or relative; no Upload-Length (CAT-05).
    """
    text = fields.get(FIELD, "")
    if not text.startswith(_FINAL):
        return None
    urls = text.removeprefix(_FINAL).split(" ")
    urls = [url for url in urls if url]
    if not urls:
        raise InvalidRequest(FIELD, "URLs of partials after final;")
    for forbidden in ("Upload-Length", "Upload-Defer-Length"):
        if forbidden in fields:
            raise InvalidRequest(forbidden, "no such field: a final is as long as its partials")
    return urls


def group_wish(metadata: str | None) -> GroupWish | None:
    """Return with which others the client wants a partial to be stored; None when it does not say.

    Raises InvalidRequest for lengths that are none.
    """
    values = metadata_values(metadata or "")
    name = values.get(GROUP_KEY, b"").decode("utf-8", "replace")
    if not name:
        return None
    if len(name) > _LONGEST_GROUP or not name.isprintable():
        raise InvalidRequest("Upload-Metadata", f"{GROUP_KEY} of at most {_LONGEST_GROUP} printable characters")
    lengths = values.get(LENGTHS_KEY)
    if lengths is None:
        return GroupWish(name)
    numbers = lengths.decode("utf-8", "replace").split(",")
    return GroupWish(name, tuple(parse_number(f"Upload-Metadata, {LENGTHS_KEY}", number.strip()) for number in numbers))
