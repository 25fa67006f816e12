"""`tusgate upload` as tests run it: as a process, to its end, in the background, or on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT = 120.0


class Command:
    """`tusgate upload` with a home directory, and so a memory of unfinished uploads, of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TUSGATE_")}
        self.environment = {**clean, "HOME": str(home)}

    def line(self, endpoint: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tusgate", "upload", "--endpoint", endpoint, *arguments]

    def start(self, endpoint: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.line(endpoint, *arguments),
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, endpoint: str, *arguments: str, data: bytes | None = None) -> list[str]:
        """Run it to its end and return the URLs that it printed; it must succeed."""
        ended = subprocess.run(
            self.line(endpoint, *arguments),
            cwd=self.home,
            env=self.environment,
            input=data,
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr.decode()
        return ended.stdout.decode().split()

    def show(self, endpoint: str, *arguments: str) -> str:
        """Run it on a terminal of 160 columns and return what that has shown; it must succeed."""
        terminal, ours = pty.openpty()
        environment = {**self.environment, "TERM": "xterm", "COLUMNS": "160"}
        with subprocess.Popen(
            self.line(endpoint, *arguments), env=environment, cwd=self.home, stdout=subprocess.PIPE, stderr=ours
        ) as process:
            os.close(ours)
            shown = b"".join(iter(lambda: _read(terminal), b"")).decode()
            assert process.wait(TIMEOUT) == 0
        os.close(terminal)
        return shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux says EIO when the other side has closed
        return b""
