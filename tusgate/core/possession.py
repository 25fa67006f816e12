"""Proof that somebody has a file which is here already: which bytes are asked for, and what they have to answer.

A file is cut into blocks, and the row of its blocks into `STRETCHES` equal stretches. One block of each stretch, drawn
at random, has to be known, so whoever has the share f of the blocks passes with a probability of at most
f ** STRETCHES, wherever the others are: a product of shares with a given mean is largest where they are equal. With
90 % of a file that is 1.4e-6; a gap of two stretches, 1.6 % of the file, is always found. A file of up to `WHOLE` bytes
has to be known whole.

Rule 1: the blocks follow from a key of ours, the file, who asks, and the time, cut into windows of `WINDOW` seconds. So
        asking again draws nothing new, and nobody can ask until the draw suits what he has.
Rule 2: a challenge is made without looking whether the file is here, so it tells nothing of that.
Rule 3: a challenge has the id of the file that it is good for in it, as a secret: two tries with one challenge are one
        file. So nothing has to be remembered of it, by any replica.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tusgate.core.errors import InvalidRequest
from tusgate.core.model import UploadId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.core.model import Scope

BLOCK: Final = 64 * 1024
"""Bytes of a block; the last one of a file may be shorter. One altered byte spoils a block."""
STRETCHES: Final = 128
WHOLE: Final = 32 * 1024 * 1024
"""Bytes up to which a file has to be known whole, as a store gives so many at once for less than that many blocks.
Nobody is ever asked for more."""
WINDOW: Final = 300
"""Seconds of a window. A challenge is good until the end of the window after its own."""
SALT_BYTES: Final = 12
_DRAWN: Final = 16
"""Random bytes by which the place in a stretch is drawn."""
_ID: Final = 18
_WRITTEN: Final = re.compile(r"([0-9]{1,12})\.([0-9a-f]{24})\.([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody says to have a file.

    Attributes:
        scope: who.
        sha256: of the file.
        size: its bytes.
    """

    scope: Scope
    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Range:
    """`size` bytes of a file from byte `start`."""

    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What has to be answered to prove a claim.

    Attributes:
        text: hands it back to us; clients need not understand it.
        nonce: key of the HMAC that the answer is.
        ranges: whose bytes the HMAC is of, in this order, one after the other.
        until: seconds since 1970 at which it ends.
        file_id: of the file that it is good for; a secret until that is there.
    """

    text: str
    nonce: bytes
    ranges: tuple[Range, ...]
    until: int
    file_id: UploadId = field(repr=False)


class ChallengeKeys:
    """Makes challenges, and knows them again.

    Args:
        keys: secrets of at least 32 characters. New challenges are made with the first one; those of the others are
            still good, which are for a few minutes after a change.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def make(self, claim: Claim, salt: bytes, now: float) -> Challenge:
        """Return a new challenge.

        Args:
            claim: to be proved.
            salt: `SALT_BYTES` random ones, so that no two challenges are alike.
            now: seconds since 1970.
        """
        until = (int(now) // WINDOW + 2) * WINDOW
        return _challenge(self._keys[0], claim, until, salt.hex())

    def read(self, text: str, claim: Claim, now: float) -> Challenge:
        """Return the challenge that was made for `claim` and is not over. Raises InvalidRequest for any other text."""
        written = _WRITTEN.fullmatch(text)
        if written is not None and now < int(written[1]):
            made = [_challenge(key, claim, int(written[1]), written[2]) for key in self._keys]
            # All keys are tried, in a time that tells nothing.
            known = [each for each in made if hmac.compare_digest(each.text, text)]
            if known:
                return known[0]
        raise InvalidRequest("challenge", "one that was made for you and this file, a few minutes ago at most")


def blank_answer(challenge: Challenge) -> hmac.HMAC:
    """Return the answer to `challenge` as it is before the bytes of its ranges were added."""
    return hmac.new(challenge.nonce, digestmod=hashlib.sha256)


def ranges_of(size: int, seed: bytes) -> tuple[Range, ...]:
    """Return what has to be known of a file of `size` bytes: all of it, or one block of each stretch.

    Args:
        size: at least 1.
        seed: what is drawn follows from it.
    """
    if size <= WHOLE:
        return (Range(0, size),)
    blocks = -(-size // BLOCK)
    stream = hashlib.shake_256(seed).digest(STRETCHES * _DRAWN)
    ranges = []
    for number in range(STRETCHES):
        drawn = int.from_bytes(stream[number * _DRAWN : (number + 1) * _DRAWN], "big")
        # A stretch may end in the middle of a block: so the place is drawn, and not one of so many blocks.
        block = ((number << 8 * _DRAWN) + drawn) * blocks // (STRETCHES << 8 * _DRAWN)
        ranges.append(Range(block * BLOCK, min(BLOCK, size - block * BLOCK)))
    return tuple(ranges)


def _challenge(key: bytes, claim: Claim, until: int, salt: str) -> Challenge:
    scope = claim.scope
    whose = (scope.tenant, scope.owner, claim.sha256.hex(), str(claim.size), str(until))

    def derived(purpose: str, *said: str) -> bytes:
        return hmac.digest(key, "\0".join(("tusgate", "possession", purpose, *whose, *said)).encode(), "sha256")

    return Challenge(
        text=f"{until}.{salt}.{derived('challenge', salt).hex()}",
        nonce=derived("nonce", salt),
        ranges=ranges_of(claim.size, derived("ranges")),
        until=until,
        file_id=UploadId(base64.urlsafe_b64encode(derived("file", salt)[:_ID]).decode()),
    )
