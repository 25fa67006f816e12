"""A disk so small that it can be filled."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = "4m"


@contextmanager
def small_disk(place: Path, owner: int | None = None) -> Iterator[Path]:
    """Mount a disk of 4 MiB at `place`, for user `owner`; the test is skipped where that is not allowed."""
    options = f"size={SIZE},mode=0700,uid={os.getuid() if owner is None else owner}"
    mounting = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tusgate-test", str(place)], capture_output=True, text=True, check=False
    )
    if mounting.returncode != 0:
        pytest.skip(f"no disk of our own: {mounting.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def ballast_of(disk: Path) -> Path:
    """Return the file that `fill` makes; removing it makes room again."""
    return disk / "ballast"


def fill(disk: Path) -> None:
    """Write until there is no room for another byte."""
    block = bytes(4096)
    try:
        with ballast_of(disk).open("ab", buffering=0) as file:
            while True:
                file.write(block)
    except OSError:
        return
