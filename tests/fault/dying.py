"""A gateway that dies at a named place, the time that passes meanwhile, and what must be gone in the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.rig import id_of, pieces_of
from tusgate.crash import EXIT_CODE

if TYPE_CHECKING:
    from tests.fault.rig import Rig

MORTAL = SMALLEST_PARTS_AND_COLD | {"TUSGATE_ENVIRONMENT": "development", "TUSGATE_DIRECT": "on"}
"""Settings of a gateway that may be told to die."""
LIFETIME = 7 * 86_400
"""Seconds after which both an unfinished upload and an unused intent have had their time."""


async def until_nothing_is_left(rig: Rig, path: str) -> None:
    """Age the upload until the store has nothing of it, and nothing is noted that was not removed yet. I11."""
    to_be_removed = "SELECT 1 FROM garbage WHERE upload_id = ? AND removed_at IS NULL"

    def nothing() -> bool:
        grow_old(rig, path)
        keys = [key for key in rig.minio.keys(rig.bucket) if key == id_of(path) or key.startswith(pieces_of(path))]
        return not (keys or rig._multiparts(path) or rig.rows(to_be_removed, id_of(path)))

    await rig.until(nothing, seconds=2 * 60)


def grow_old(rig: Rig, path: str) -> None:
    """Let the lifetime of one upload pass, and of all that is to be done about it, in SQLite."""
    past, upload_id = LIFETIME * 1000, id_of(path)
    rig.books.change(
        "UPDATE uploads SET created_at = created_at - ?, updated_at = updated_at - ?, held_since = held_since - ?,"
        " expires_at = expires_at - ? WHERE id = ?",
        *(past, past, past, past, upload_id),
    )
    rig.books.change(
        "UPDATE garbage SET created_at = created_at - ?, due_at = due_at - ?, removed_at = removed_at - ?"
        " WHERE upload_id = ?",
        *(past, past, past, upload_id),
    )


def let_leases_run_out(rig: Rig) -> None:
    """Let the half minute pass for which the dead one is still taken to be finishing uploads."""
    rig.books.change("UPDATE uploads SET finisher_until = NULL")


async def doom(rig: Rig, place: str) -> None:
    """Start the gateway as one that dies when it comes to `place`; that may be before anybody could find it ready."""
    rig.gateway.environment["TUSGATE_CRASH"] = place
    await asyncio.to_thread(rig.gateway._spawn)


async def death(rig: Rig) -> None:
    """Wait until the gateway has died at its place; the caller sees to it that it comes there."""
    try:
        await rig.until(lambda: not rig.gateway.running)
    except TimeoutError:
        place = rig.gateway.environment["TUSGATE_CRASH"]
        raise AssertionError(f"nothing reached {place}: a story is needed that does") from None
    assert rig.gateway.exit_code() == EXIT_CODE
    let_leases_run_out(rig)


async def live(rig: Rig) -> None:
    """Have the gateway run, and not die any more."""
    del rig.gateway.environment["TUSGATE_CRASH"]
    await asyncio.to_thread(rig.gateway.start)
