"""What was verified a moment ago, so that the next request of the same client costs a look-up and no signature.

Keys are digests: no credential is kept. Only successes are remembered; a failure costs whoever sends it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tusgate.core.access import Principal

MOST: Final = 4096
"""Principals that one cache remembers; about 4 MiB."""


class Remembered:
    """The principals behind the latest credentials.

    Args:
        seconds: for which a principal is believed; the bound within which a revocation takes effect.
        now: seconds since 1970.
    """

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self._seconds = seconds
        self._now = now
        self._entries: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    def find(self, credential: str) -> Principal | None:
        """Return whom `credential` was found to prove, unless that was too long ago or its time is over."""
        key = _digest(credential)
        entry = self._entries.get(key)
        if entry is None:
            return None
        believed_until, principal = entry
        now = self._now()
        if believed_until - self._seconds <= now < believed_until and principal.is_current(now):
            return principal
        del self._entries[key]
        return None

    def keep(self, credential: str, principal: Principal) -> Principal:
        """Remember and return `principal`."""
        self._entries[_digest(credential)] = (self._now() + self._seconds, principal)
        while len(self._entries) > MOST:
            self._entries.popitem(last=False)
        return principal


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()
