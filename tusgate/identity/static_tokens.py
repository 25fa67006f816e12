"""Static API tokens: random secrets that operators hand out, and can take back.

`tusgate_<id>_<secret>`: the prefix lets secret scanners find one that leaked, the id finds its row without a search by
secret. The database has the SHA-256 of the secret; that has 256 random bits, so nothing slower is needed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.core.access import ApiToken, NewApiToken, Permission, Principal
from tusgate.core.errors import CredentialsExpired, InvalidCredentials, Unavailable
from tusgate.identity.remembered import Remembered

if TYPE_CHECKING:
    from collections.abc import Callable

    from tusgate.core.access import Presented
    from tusgate.core.model import Scope
    from tusgate.ports import TokenStore

log = structlog.get_logger(__name__)

PREFIX: Final = "tusgate_"
BELIEVED_FOR: Final = 5.0
"""Seconds for which a token is not looked up again: a revocation works in all processes after so long."""
NOTE_EVERY: Final = 60.0
"""Seconds between two notes of a token's use."""
_TOKEN: Final = re.compile(r"tusgate_([0-9a-f]{16})_([0-9a-f]{64})", re.ASCII)
_PROOF: Final = "token:"


def make_token(
    scope: Scope, permissions: frozenset[Permission], label: str, lifetime: float | None
) -> tuple[str, NewApiToken]:
    """Return a new token as its holder will present it, and what is kept of it. The first is shown once."""
    token_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    kept = NewApiToken(
        id=token_id,
        digest=_digest(secret),
        scope=scope,
        permissions=permissions,
        label=label,
        lifetime=lifetime,
    )
    return f"{PREFIX}{token_id}_{secret}", kept


class StaticTokens:
    """A verifier of static tokens.

    Args:
        store: has the tokens.
        now: seconds since 1970; a token's end is judged by it, as that of a JWT is.
    """

    def __init__(self, store: TokenStore, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._remembered = Remembered(BELIEVED_FOR, now)

    async def verify(self, presented: Presented) -> Principal | None:
        """Return who presents a static token, None when something else is presented."""
        credential = presented.bearer
        if credential is None or not credential.startswith(PREFIX):
            return None
        return self._remembered.find(credential) or self._remembered.keep(credential, await self._verified(credential))

    async def reaffirm(self, principal: Principal) -> None:
        """Raise CredentialsExpired when the token of `principal` was revoked; others are of no interest."""
        if principal.proof.startswith(_PROOF):
            token = await self._store.get_token(principal.proof.removeprefix(_PROOF))
            if token is None or token.revoked_at is not None:
                raise CredentialsExpired("the token was revoked")

    async def close(self) -> None:
        """There is nothing to release."""

    async def _verified(self, credential: str) -> Principal:
        parts = _TOKEN.fullmatch(credential)
        if parts is None:
            raise InvalidCredentials
        token_id, secret = parts.groups()
        token = await self._store.get_token(token_id)
        # Compared even where there is no such token, so that the time tells nothing about ids.
        is_right = hmac.compare_digest(_digest(secret), token.digest if token is not None else bytes(32))
        if token is None or not is_right:
            raise InvalidCredentials
        if token.revoked_at is not None:
            raise CredentialsExpired("the token was revoked")
        until = token.expires_at.timestamp() if token.expires_at is not None else None
        if until is not None and until <= self._now():
            raise CredentialsExpired
        await self._note_use(token)
        return Principal(scope=token.scope, permissions=token.permissions, until=until, proof=_PROOF + token.id)

    async def _note_use(self, token: ApiToken) -> None:
        """Record that the token is in use. A note that cannot be made is no reason to refuse anybody."""
        if token.last_used_at is None or self._now() - token.last_used_at.timestamp() >= NOTE_EVERY:
            with suppress(Unavailable):
                await self._store.note_token_use(token.id)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
