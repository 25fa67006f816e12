"""Structured fields (RFC 9651), read and written by http-sf; here only what a field of ours may hold.

A field that is malformed, doubled or of another type counts as absent (RFC 9651, 4.2; R-SF-01).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import http_sf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from http_sf.types import StructuredType
    from multidict import CIMultiDictProxy

    Fields = CIMultiDictProxy[str]


def number(fields: Fields, name: str) -> int | None:
    """Return the non-negative integer, of at most 15 digits, in the field `name`."""
    value = _item(fields, name)
    # bool is a kind of int in Python only
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def flag(fields: Fields, name: str) -> bool | None:
    """Return the boolean (`?0` or `?1`) in the field `name`."""
    value = _item(fields, name)
    return value if isinstance(value, bool) else None


def byte_sequences(fields: Fields, name: str) -> dict[str, bytes] | None:
    """Return the members of a dictionary of byte sequences, such as digests; None when any is something else."""
    members = _parsed(fields, name, "dictionary")
    if not isinstance(members, dict):
        return None
    found: dict[str, bytes] = {}
    for key, member in members.items():
        value = member[0] if isinstance(member, tuple) else member
        if not isinstance(value, bytes):
            return None
        found[key] = value
    return found


def write_flag(value: bool) -> str:
    """Return `?1` or `?0`."""
    return http_sf.ser(value)


def write_numbers(members: Mapping[str, int]) -> str:
    """Return a dictionary of integers."""
    return http_sf.ser(dict(members))


def _item(fields: Fields, name: str) -> object:
    parsed = _parsed(fields, name, "item")
    return parsed[0] if isinstance(parsed, tuple) else None


def _parsed(fields: Fields, name: str, kind: str) -> StructuredType | None:
    lines = fields.getall(name, None)
    if lines is None:
        return None
    try:
        return http_sf.parse(", ".join(lines).encode("utf-8", "surrogateescape"), tltype=kind)
    except ValueError:
        return None
