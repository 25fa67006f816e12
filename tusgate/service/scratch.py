"""Directories on the disk of a worker, one for each try of a job; and the removal of those whose worker has died.

Blocks. A directory is held by a lock of the kernel (flock) that ends with the process, however it ends: so nobody has
to know who is alive, and any worker that shares the place may clear up after any other.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX: Final = "tusgate-job-"
_OWN: Final = frozenset({"source", "workspace"})
"""All that is ever in one: whatever has something else in it is not ours, whatever it is called."""
_YOUNG: Final = 60.0
"""Seconds within which a directory that nobody holds may have an owner who is about to."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """An empty directory, held until it is removed.

    Attributes:
        path: of it.
    """

    path: Path
    _lock: int

    @classmethod
    def make(cls, home: Path | None) -> Self:
        """Make one in `home`, or where the system has its temporary files. Raises OSError."""
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=home))
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # a file system without locks: nobody can take it for left, since nobody can lock it
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(path, lock)

    @property
    def source(self) -> Path:
        """Where the file is copied to."""
        return self.path / "source"

    @property
    def workspace(self) -> Path:
        """Where its processor works."""
        return self.path / "workspace"

    def remove(self) -> None:
        """Remove it and all that is in it, as far as that is possible."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def clear_up(home: Path | None) -> int:
    """Remove the directories in `home` that nobody holds any more; return how many there were."""
    found = [place for place in _candidates(Path(home or tempfile.gettempdir())) if _is_left(place)]
    for place in found:
        shutil.rmtree(place, ignore_errors=True)
    return len(found)


def _candidates(home: Path) -> Iterator[Path]:
    """Yield what looks like one of ours and is not of this minute: no link, and with nothing in it but what we make."""
    with suppress(OSError), os.scandir(home) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False) and _is_ours(entry):
                    yield Path(entry.path)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    status = entry.stat(follow_symlinks=False)
    is_old = time.time() - status.st_mtime > _YOUNG
    return is_old and status.st_uid == os.geteuid() and set(os.listdir(entry.path)) <= _OWN


def _is_left(place: Path) -> bool:
    """Return whether the lock is to be had."""
    try:
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
