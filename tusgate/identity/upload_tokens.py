"""Upload tokens: a backend of the user mints one for one upload, and gives it to the browser that will send the file.

HS256 JWTs with an audience of their own, so that no other token of the same key can be taken for one. Claims:
`sub` (owner), `jti` (one upload), `exp`, `iat`, `aud`, and optionally `tenant`, `max_size` (bytes), `types` (media
types), `metadata` (what the upload is given), `required_metadata` (keys), `permissions` (else create and append).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tusgate.core.access import (
    LONGEST_TOKEN_ID,
    UPLOAD_AUDIENCE,
    UPLOADER,
    Limits,
    Permission,
    Principal,
    parse_permissions,
    scope_of,
)
from tusgate.core.errors import InvalidCredentials
from tusgate.identity.compact import looks_like_jwt, read_unverified
from tusgate.identity.keys import PinnedKey
from tusgate.identity.remembered import Remembered
from tusgate.identity.signed import verified_claims

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tusgate.core.access import Presented
    from tusgate.identity.compact import Unverified

ALGORITHM: Final = "HS256"
REQUIRED: Final = ("exp", "iat", "aud", "sub", "jti")
LEEWAY: Final = 30.0
"""Seconds that the clock of a backend may differ from ours."""
BELIEVED_FOR: Final = 300.0
LONGEST_REMEMBERED: Final = 1024
"""Characters of tokens whose limits are worth their memory; others are checked each time, which costs microseconds."""
GRANTABLE: Final = frozenset({Permission.CREATE, Permission.APPEND, Permission.READ, Permission.DELETE})
"""A token for one upload never lists, shares or administers."""
DEFAULT_TENANT: Final = "default"


class UploadTokens:
    """A verifier of upload tokens.

    Args:
        secrets: keys, any of which may have signed a token: to change the key, add the new one, and remove the old
            one once its tokens have run out.
        now: seconds since 1970.

    Raises:
        SettingsError: a secret is too short.
    """

    def __init__(self, secrets: Sequence[str], now: Callable[[], float]) -> None:
        self._keys = [PinnedKey(secret, ALGORITHM) for secret in secrets]
        self._remembered = Remembered(BELIEVED_FOR, now)

    async def verify(self, presented: Presented) -> Principal | None:
        """Return whom an upload token was minted for; None when nothing like that is presented."""
        credential = presented.bearer
        if credential is None or not looks_like_jwt(credential):
            return None
        known = self._remembered.find(credential)
        if known is not None:
            return known
        said = read_unverified(credential)
        if said.claims.get("aud") not in (UPLOAD_AUDIENCE, [UPLOAD_AUDIENCE]):
            return None
        principal = _principal(await self._claims(credential, said))
        return principal if len(credential) > LONGEST_REMEMBERED else self._remembered.keep(credential, principal)

    async def reaffirm(self, _principal: Principal) -> None:
        """Nothing: an upload token counts until its time is over, and that is judged when a request begins."""

    async def close(self) -> None:
        """There is nothing to release."""

    async def _claims(self, credential: str, said: Unverified) -> dict[str, Any]:
        """Return the claims by the first key that fits; without one, what is wrong by the last."""
        refusal = InvalidCredentials()
        for pinned in self._keys:
            key = await pinned.find(None)
            try:
                return verified_claims(
                    credential, said, key, audience=UPLOAD_AUDIENCE, issuer=None, required=REQUIRED, leeway=LEEWAY
                )
            except InvalidCredentials as error:
                refusal = error
        raise refusal


def _principal(claims: dict[str, Any]) -> Principal:
    tenant = claims.get("tenant", DEFAULT_TENANT)
    if not isinstance(tenant, str):
        raise InvalidCredentials("the claim tenant is not a text")
    return Principal(
        scope=scope_of(tenant, claims["sub"]),
        permissions=_permissions(claims.get("permissions")),
        limits=_limits(claims),
        until=float(claims["exp"]) + LEEWAY,
        proof="upload-token",
    )


def _permissions(value: object) -> frozenset[Permission]:
    if value is None:
        return UPLOADER
    try:
        permissions = parse_permissions(_texts("permissions", value))
    except ValueError:
        raise InvalidCredentials("the claim permissions has a name that is none") from None
    if not permissions <= GRANTABLE:
        raise InvalidCredentials("the claim permissions has one that an upload token cannot give")
    return permissions


def _limits(claims: dict[str, Any]) -> Limits:
    """Return the limits. A claim of the wrong form is refused: left out, it would allow what its maker forbids."""
    max_size, metadata, token_id = claims.get("max_size"), claims.get("metadata", {}), claims["jti"]
    if max_size is not None and (isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 0):
        raise InvalidCredentials("the claim max_size is not a number of bytes")
    if not isinstance(metadata, dict) or not all(_is_pair(key, value) for key, value in metadata.items()):
        raise InvalidCredentials("the claim metadata is not an object of texts")
    if not token_id or len(token_id) > LONGEST_TOKEN_ID or not token_id.isprintable():
        raise InvalidCredentials("the claim jti is not a printable text")
    return Limits(
        max_size=max_size,
        types=_texts("types", claims.get("types", [])),
        metadata=tuple(metadata.items()),
        required_metadata=_texts("required_metadata", claims.get("required_metadata", [])),
        token_id=token_id,
    )


def _is_pair(key: str, value: object) -> bool:
    is_key = key.isascii() and key.isprintable() and key and not {" ", ","} & set(key)
    return bool(is_key) and isinstance(value, str)


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidCredentials(f"the claim {name} is not a list of texts")
    return tuple(value)
