"""Passwords of share links: hashed by scrypt, a few at a time, so that guessing costs whoever guesses and not us."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import unicodedata
from typing import Final

_KIND: Final = b"\x01"
"""scrypt with the numbers below; others would get another."""
_SALT: Final = 16
_COST, _BLOCK, _LANES = 2**14, 8, 5
"""16 MiB and some 0.2 s of one core: what OWASP's Password Storage Cheat Sheet sets equal to its first choice."""
_AT_ONCE: Final = 2
"""Hashes that are made at once: 32 MiB, and the other requests go on."""


class Passwords:
    """Makes and checks hashes in threads."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def hashed(self, password: str) -> bytes:
        """Return what is kept of a password."""
        salt = secrets.token_bytes(_SALT)
        return _KIND + salt + await self._hash(password, salt)

    async def is_right(self, password: str, kept: bytes) -> bool:
        """Return whether `kept` is of this password. Takes the same time either way."""
        found = await self._hash(password, kept[len(_KIND) : len(_KIND) + _SALT])
        return hmac.compare_digest(found, kept[len(_KIND) + _SALT :])

    async def _hash(self, password: str, salt: bytes) -> bytes:
        # Keyboards differ in how they compose one and the same character.
        text = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
        async with self._turns:
            return await asyncio.to_thread(hashlib.scrypt, text, salt=salt, n=_COST, r=_BLOCK, p=_LANES, dklen=32)
