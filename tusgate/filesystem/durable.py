"""Files that survive a power cut: written aside, synced, then renamed to where they are looked for. Blocking calls.

A crash leaves at most a file in the staging directory, never half a file in its final place.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from errno import EINVAL, ENOSYS, EOPNOTSUPP, EXDEV
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tusgate.ports import Buffer

COPY_SIZE: Final = 1 << 20
"""Bytes copied through memory at a time, where the kernel cannot copy by itself."""
STAGING_AGE: Final = 24 * 3600
"""Seconds after which a staged file belongs to nobody any more."""

PUBLISH_ATTEMPTS: Final = 10
"""How often directories are made again that others keep removing as empty."""

_making_directories: Final = threading.Lock()
_IOV_MAX: Final = os.sysconf("SC_IOV_MAX") if "SC_IOV_MAX" in os.sysconf_names else 16
_NOT_BY_KERNEL: Final = frozenset({EINVAL, ENOSYS, EOPNOTSUPP, EXDEV})


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; one that has been removed as empty meanwhile has none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(path: Path) -> None:
    """Make `path` and its missing parents, durably."""
    with _making_directories:  # nobody may rely on a directory that another thread has made but not yet synced
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True)
            sync_directory(directory.parent)


def prune_directories(path: Path, root: Path) -> None:
    """Remove `path` and its parents below `root` as long as they are empty."""
    with suppress(OSError):
        while path != root:
            path.rmdir()
            path = path.parent


@contextmanager
def staged(staging: Path) -> Iterator[tuple[int, Path]]:
    """Give the descriptor and path of a new file, to be synced and published; else it is removed at the end."""
    path = staging / secrets.token_hex(16)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        yield descriptor, path
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def publish(staged_path: Path, target: Path, *, make_parents: bool = False) -> None:
    """Rename a synced file or directory to `target`, replacing a file that is there, and make the name durable.

    Args:
        staged_path: on the same filesystem.
        target: the final name.
        make_parents: make missing directories; another process may be removing them as empty meanwhile.

    Raises:
        FileNotFoundError: the directory of `target` is not there (without `make_parents`).
    """
    for attempts_left in reversed(range(PUBLISH_ATTEMPTS if make_parents else 1)):
        try:
            if make_parents:
                make_directories(target.parent)
            staged_path.rename(target)
            break
        except FileNotFoundError:
            if not attempts_left:
                raise
    sync_directory(target.parent)


def write_all(descriptor: int, buffers: Sequence[Buffer]) -> None:
    """Write all buffers in order at the current position, without joining them."""
    for first in range(0, len(buffers), _IOV_MAX):
        pending: list[Buffer] = [*buffers[first : first + _IOV_MAX]]
        while pending:
            written = os.writev(descriptor, pending)
            while pending and written >= len(pending[0]):
                written -= len(pending.pop(0))
            if written:
                pending[0] = memoryview(pending[0])[written:]


def append_file(source: int, target: int, size: int, skip: int = 0) -> None:
    """Append `size` bytes of one file, from byte `skip`, to another; by the kernel (or as shared blocks) where it can.

    Raises:
        EOFError: `source` is shorter.
    """
    done = _append_by_kernel(source, target, size, skip)
    while done < size:
        chunk = os.pread(source, min(COPY_SIZE, size - done), skip + done)
        if not chunk:
            raise EOFError
        write_all(target, [chunk])
        done += len(chunk)


def read_range(descriptor: int, start: int, size: int) -> Iterator[bytes]:
    """Yield `size` bytes of a file from byte `start`, fewer where it ends before; its position stays."""
    end = start + size
    while start < end and (chunk := os.pread(descriptor, min(COPY_SIZE, end - start), start)):
        start += len(chunk)
        yield chunk


def _append_by_kernel(source: int, target: int, size: int, skip: int) -> int:
    done = 0
    with suppress(AttributeError):  # not on every system
        while done < size:
            try:
                copied = os.copy_file_range(source, target, size - done, offset_src=skip + done)
            except OSError as error:
                if error.errno in _NOT_BY_KERNEL:
                    break
                raise
            if not copied:
                break
            done += copied
    return done


def remove_stale(staging: Path) -> None:
    """Remove what processes that died long ago have left in the staging directory."""
    oldest = time.time() - STAGING_AGE
    for entry in staging.iterdir():
        with suppress(FileNotFoundError):
            if entry.stat().st_mtime < oldest:
                remove(entry)


def remove(path: Path) -> None:
    """Remove a file or a whole directory."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
