"""Having a file that the server may know already, without sending it: proof that it is here, or nothing done.

What is refused, for whatever reason, is sent: the server says then what it has against the file.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from typing import TYPE_CHECKING

from tusgate.cli.patience import Patience
from tusgate.cli.resume import Fingerprint
from tusgate.cli.sending import TransferError, TransferInterruptedError

if TYPE_CHECKING:
    from pathlib import Path

    from tusgate.cli.direct_client import Challenge, DirectClient
    from tusgate.cli.resume import ResumeStore
    from tusgate.cli.transfer import Plan, Watcher


async def have_instantly(
    client: DirectClient, path: Path, plan: Plan, store: ResumeStore, watcher: Watcher
) -> str | None:
    """Return the URL of a new file that is the one at `path`; None: it has to be sent.

    A file that is empty, that changes meanwhile, or whose upload was begun, is sent. Raises OSError.
    """
    file = Fingerprint.of(path)
    if file.size == 0 or store.url_of(file) is not None:
        return None
    patience = Patience(plan.retries, plan.first_pause, watcher.waiting)
    try:
        url = await _asked(client, path, file, plan, patience)
    except TransferError:
        return None
    if url is not None:
        watcher.moved(file.size)
    return url


async def _asked(client: DirectClient, path: Path, file: Fingerprint, plan: Plan, patience: Patience) -> str | None:
    sha256 = await asyncio.to_thread(_digest, path)
    challenge, answer = None, ""
    while True:
        try:
            if challenge is None:
                challenge = await client.challenge(sha256, file.size)
                answer = await asyncio.to_thread(_answer, path, challenge)
                if Fingerprint.of(path) != file:
                    return None
            # With the same challenge, also after an answer that was lost: it makes one file.
            return await client.prove(
                {
                    "sha256": sha256,
                    "size": file.size,
                    "challenge": challenge.challenge,
                    "answer": answer,
                    "filename": plan.metadata.get("filename") or path.name,
                    "metadata": dict(plan.metadata),
                }
            )
        except TransferInterruptedError as error:
            await patience.pause(error)


def _digest(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _answer(path: Path, challenge: Challenge) -> str:
    """Return the HMAC of what is asked for; a file that became shorter gives a wrong one."""
    answer = hmac.new(bytes.fromhex(challenge.nonce), digestmod=hashlib.sha256)
    with path.open("rb") as opened:
        for each in challenge.ranges:
            answer.update(os.pread(opened.fileno(), each.size, each.start))
    return answer.hexdigest()
