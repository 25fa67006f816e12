"""The ordered, forward-only migrations: files `migrations/<technology>/NNNN_name.sql`.

Rule 1: a file that was released is never edited; a mistake is repaired by the next file.
Rule 2: each is safe while the previous release is still running.
The adapters apply them, under a lock and in one transaction; `schema_migrations` holds the names that are in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tusgate
from tusgate.core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its name without the suffix, and its statements."""

    name: str
    sql: str


def missing(technology: str, applied: Collection[str]) -> list[Migration]:
    """Return the migrations of `technology` that are not in `applied`, in the order to apply them."""
    files = sorted(_directory(technology).glob("*.sql"))
    return [Migration(file.stem, file.read_text("utf-8")) for file in files if file.stem not in applied]


def check_complete(technology: str, applied: Collection[str]) -> None:
    """Raise SettingsError when a migration is missing. Newer ones than ours are fine: see rule 2."""
    names = [migration.name for migration in missing(technology, applied)]
    if names:
        raise SettingsError(f"the database lacks the migrations {', '.join(names)}: run `tusgate migrate`")


def _directory(technology: str) -> Path:
    """Return where the files are: inside the installed package, or beside it in a checkout."""
    package = Path(tusgate.__file__).parent
    installed = package / "migrations"
    return (installed if installed.is_dir() else package.parent / "migrations") / technology
