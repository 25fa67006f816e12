"""The keys of an issuer: pinned in the settings, or fetched from the URL that is pinned there.

Rule 1: a key has one algorithm. A token that names another one is refused, whatever its signature.
Rule 2: a key id is a name in a dictionary, compared as a whole; it never becomes a path, a query or a URL.
Rule 3: what was fetched stays good while the issuer is away: its outage must not lock out those whom it has let in.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp
import jwt
import structlog

from tusgate.core.errors import IdentityUnavailable, InvalidCredentials, SettingsError
from tusgate.identity.config import ASYMMETRIC, SYMMETRIC
from tusgate.telemetry import LogEvent

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

FRESH_FOR: Final = 300.0
"""Seconds after which keys are fetched again in the background: so long does a withdrawn key count."""
RETRY_AFTER: Final = 10.0
"""Seconds between two fetches, whatever key ids clients make up."""
PATIENCE: Final = 5.0
"""Seconds that one fetch may take."""
LARGEST: Final = 256 * 1024
MOST_KEYS: Final = 64
_BY_CURVE: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA", "Ed448": "EdDSA"}
_LEAST_SECRET: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Bytes. RFC 7518, 3.2: at least as long as the digest; anything shorter can be guessed offline."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key with the one algorithm that it is for."""

    material: Any
    algorithm: str


class Keys(Protocol):
    """The keys of one issuer."""

    async def find(self, key_id: str | None) -> Key:
        """Return the key of that id; None is for an issuer that has only one.

        Raises:
            InvalidCredentials: there is no such key.
            IdentityUnavailable: that is not known, because the issuer is away.
        """

    async def close(self) -> None:
        """Release connections. Idempotent."""


class PinnedKey:
    """One key from the settings; what a token says about key ids does not count.

    Raises:
        SettingsError: the key is not one for the algorithm, or too short.
    """

    def __init__(self, text: str, algorithm: str) -> None:
        if algorithm in _LEAST_SECRET and len(text.encode()) < _LEAST_SECRET[algorithm]:
            raise SettingsError(f"a key for {algorithm}: expected at least {_LEAST_SECRET[algorithm]} bytes")
        if algorithm not in ASYMMETRIC | SYMMETRIC:
            raise SettingsError(f"algorithm: expected one of {', '.join(sorted(ASYMMETRIC | SYMMETRIC))}")
        try:
            material = jwt.get_algorithm_by_name(algorithm).prepare_key(text)
        except (jwt.PyJWTError, ValueError, TypeError):
            raise SettingsError(f"a key for {algorithm}: expected a public key in PEM, or a secret") from None
        self._key = Key(material, algorithm)

    async def find(self, _key_id: str | None) -> Key:
        """Return the key."""
        return self._key

    async def close(self) -> None:
        """There is nothing to release."""


class FetchedKeys:
    """The JSON Web Key Set at a pinned URL.

    Args:
        url: fetched as it is; redirects are not followed.
        default_algorithm: of keys that name none; without it that of their type (RSA: RS256).
        clock: seconds that only move forward.
    """

    def __init__(self, url: str, default_algorithm: str | None, clock: Callable[[], float]) -> None:
        self._url = url
        self._default_algorithm = default_algorithm
        self._clock = clock
        self._keys: dict[str | None, Key] | None = None
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def find(self, key_id: str | None) -> Key:
        """See `Keys.find`. Waits for the issuer only when the key is not known yet."""
        key = self._known(key_id)
        if key is None:
            await self._fetch_once()
            key = self._known(key_id)
        elif self._clock() - self._fetched_at >= FRESH_FOR:
            self._begin_fetching()
        if key is not None:
            return key
        if self._fetched_at < self._tried_at:
            raise IdentityUnavailable
        raise InvalidCredentials("the token names a key that its issuer does not have")

    async def close(self) -> None:
        """See `Keys.close`."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _known(self, key_id: str | None) -> Key | None:
        keys = self._keys or {}
        if key_id is None and len(keys) == 1:
            return next(iter(keys.values()))
        return keys.get(key_id)

    async def _fetch_once(self) -> None:
        """Wait for a fetch: the running one, or a new one unless there was one a moment ago."""
        self._begin_fetching()
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    def _begin_fetching(self) -> None:
        if self._fetching is None and self._clock() - self._tried_at >= RETRY_AFTER:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._fetched)

    def _fetched(self, _task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        """Replace the keys by those that the issuer has now; an error keeps the old ones."""
        began = self._tried_at
        try:
            found = self._parse(await self._download())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            log.warning(LogEvent.IDENTITY_UNAVAILABLE, url=self._url, error=str(error) or type(error).__name__)
            return
        self._keys, self._fetched_at = found, began

    async def _download(self) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        headers = {"Accept": "application/jwk-set+json, application/json"}
        async with self._session.get(self._url, headers=headers, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ValueError(f"expected 200, got {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > LARGEST:
                    raise ValueError(f"more than {LARGEST} bytes")
            return bytes(body)

    def _parse(self, text: bytes) -> dict[str | None, Key]:
        """Return the usable keys by id. Raises ValueError when that is no key set, or has none."""
        document = json.loads(text)
        entries = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise ValueError("not a JSON Web Key Set")  # noqa: TRY004 - an answer that cannot be used, of whatever kind
        keys: dict[str | None, Key] = {}
        for entry in entries[:MOST_KEYS]:
            key = self._key_from(entry)
            if key is not None:
                key_id = entry.get("kid")
                keys.setdefault(key_id if isinstance(key_id, str) else None, key)
        if not keys:
            raise ValueError("no key for signatures in it")
        return keys

    def _key_from(self, entry: Any) -> Key | None:
        """Return the key that `entry` describes; None for one that is not for us, or that we do not know.

        Never a symmetric one: what everybody can fetch is no secret.
        """
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            return None
        algorithm = entry.get("alg") or self._algorithm_of(entry)
        if algorithm not in ASYMMETRIC:
            return None
        public = {name: value for name, value in entry.items() if name != "d"}
        try:
            return Key(jwt.PyJWK(public, algorithm).key, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            return None

    def _algorithm_of(self, entry: dict[str, Any]) -> str | None:
        if entry.get("kty") == "RSA":
            return self._default_algorithm or "RS256"
        return _BY_CURVE.get(str(entry.get("crv")))
