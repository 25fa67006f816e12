"""What is on the disk of a worker goes with the try that it was for, or after its worker has died."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tusgate.service.scratch import Scratch, clear_up

if TYPE_CHECKING:
    from pathlib import Path

_DYING = """
import os, signal, sys
from pathlib import Path
from tusgate.service.scratch import Scratch
place = Scratch.make(Path(sys.argv[1]))
place.source.write_bytes(b"secret")
place.workspace.mkdir()
os.kill(os.getpid(), signal.SIGKILL)
"""


def aged(place: Path) -> Path:
    """Let a directory be an hour old."""
    before = place.stat().st_mtime - 3600
    os.utime(place, (before, before))
    return place


def test_what_a_killed_worker_has_left_is_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _DYING, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    assert clear_up(tmp_path) == 0  # somebody may have made it a moment ago
    aged(left)
    assert clear_up(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_somebody_works_in_is_left_alone_however_old_it_is(tmp_path: Path) -> None:
    place = Scratch.make(tmp_path)
    place.source.write_bytes(b"hello")
    aged(place.path)
    assert clear_up(tmp_path) == 0
    assert place.source.read_bytes() == b"hello"
    place.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    (elsewhere / "source").mkdir(parents=True)
    home.mkdir()
    (home / "tusgate-job-link").symlink_to(elsewhere)
    (home / "tusgate-job-file").write_bytes(b"x")
    for name, content in (("tusgate-data", "source"), ("tusgate-job-data", "objects"), ("tusgate-job-two", "source")):
        (home / name / content).mkdir(parents=True)
    (home / "tusgate-job-two" / "other").mkdir()
    aged(elsewhere)
    for name in ("tusgate-data", "tusgate-job-data", "tusgate-job-two"):
        aged(home / name)
    before = sorted(home.rglob("*"))
    assert clear_up(home) == 0
    assert sorted(home.rglob("*")) == before
    assert (elsewhere / "source").is_dir()


def test_a_place_that_is_not_there_is_no_mistake(tmp_path: Path) -> None:
    assert clear_up(tmp_path / "nowhere") == 0
