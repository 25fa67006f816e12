"""A compact JWS before its signature is checked: is it worth checking, and against which issuer and key?

What stands here is a claim of whoever sent it. It selects among what the settings pin, by exact comparison, and is
otherwise used for nothing. Everything that could lead elsewhere (`jku`, `x5u`, `jwk`, `x5c`) is not even looked at.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from tusgate.core.errors import InvalidCredentials

LONGEST: Final = 16 * 1024
"""Characters of a token that are parsed at all."""
_SEGMENT = r"[A-Za-z0-9_-]+"
_COMPACT: Final = re.compile(rf"({_SEGMENT})\.({_SEGMENT})\.{_SEGMENT}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token says about itself.

    Attributes:
        key_id: `kid`; None when it names none.
        claims: not yet signed by anybody.
    """

    key_id: str | None
    claims: dict[str, Any]


def looks_like_jwt(credential: str) -> bool:
    """Return whether `credential` has the form of a signed JWT."""
    return credential.count(".") == 2


def read_unverified(credential: str) -> Unverified:
    """Return what `credential` says.

    Raises:
        InvalidCredentials: too long, not the compact form, not JSON objects, a member twice (two readers may each take
            another one), a header that changes how the rest is to be read, or a member of the wrong type.
    """
    if len(credential) > LONGEST:
        raise InvalidCredentials(f"the token is longer than {LONGEST} characters")
    parts = _COMPACT.fullmatch(credential)
    if parts is None:
        raise InvalidCredentials("the token is not a signed JWT")
    header, claims = _json_object(parts[1]), _json_object(parts[2])
    if {"crit", "b64", "zip", "enc"} & header.keys():
        raise InvalidCredentials("the token has a header that is not understood")
    key_id = header.get("kid")
    if not isinstance(key_id, str | None):
        raise InvalidCredentials("the token has a malformed header")
    return Unverified(key_id, claims)


def claim(claims: dict[str, Any], path: str) -> Any:
    """Return the claim at `path`, None when there is none. A name with dots is tried as a whole first (URLs)."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _json_object(segment: str) -> dict[str, Any]:
    try:
        text = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)).decode()
        found = json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_refuse_constant)
    except (binascii.Error, ValueError, RecursionError):
        raise InvalidCredentials("the token is not made of JSON objects") from None
    if not isinstance(found, dict):
        raise InvalidCredentials("the token is not made of JSON objects")
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _refuse_constant(_name: str) -> None:
    """NaN and Infinity are no JSON, and no times."""
    raise ValueError
