"""Processors that do what none should, and one that behaves. A test finds them by entry points of its own."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tusgate.processors import Derived, ProcessorError, Result, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[float], None]

HANG = "import signal; signal.pause()"


class Rogue:
    """What all of them have in common."""

    version = 1
    types = ("*/*",)
    largest = 1 << 20
    seconds = 60.0
    memory = 512 << 20

    @property
    def name(self) -> str:
        return type(self).__name__.lower()


class Copy(Rogue):
    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        content = source.path.read_bytes()
        for done in range(1001):
            progress(done / 1000)
        (workspace / "copy").write_bytes(content)
        facts = {"bytes": len(content), "type": source.content_type, "name": source.filename}
        return Result(derived=(Derived(workspace / "copy", "copy", "text/plain", "copy.txt"),), facts={**facts})


class Refuse(Rogue):
    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        return Result(refused="not wanted")


class Surroundings(Rogue):
    """Tells what it has been given."""

    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        return Result(facts={"environment": {**os.environ}, "here": str(Path.cwd()), "path": [*sys.path]})


class Unable(Rogue):
    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        raise ProcessorError("this cannot\nbe read", permanent=True)


class Mistaken(Rogue):
    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        raise KeyError("colour")


class Missing(Rogue):
    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        return Result(facts={"text": (workspace / "missing").read_text()})


class Hang(Rogue):
    """Hangs in C code that holds the lock of the interpreter, and has a child that would outlive it."""

    seconds = 3.0

    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        child = subprocess.Popen([sys.executable, "-c", HANG], stdin=subprocess.DEVNULL)
        (workspace / "pids").write_text(f"{os.getpid()} {child.pid}")
        progress(0.5)
        ctypes.PyDLL(None).pause()
        raise AssertionError("a signal should have ended it")


class Patient(Hang):
    seconds = 600.0


class Swallow(Rogue):
    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        return Result(facts={"bytes": len(bytearray(1 << 30))})


class Crash(Rogue):
    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        os.kill(os.getpid(), signal.SIGSEGV)
        raise AssertionError("the signal should have ended it")


class Leave(Rogue):
    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        os._exit(7)


class Leftover(Rogue):
    """Is done, and has left a process behind."""

    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        child = subprocess.Popen([sys.executable, "-c", HANG], stdin=subprocess.DEVNULL)
        return Result(facts={"pids": [os.getpid(), child.pid]})


class Babble(Rogue):
    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        return Result(facts={"all": "x" * (1 << 20)})


class Repeat(Rogue):
    """Says many small things, past the interface."""

    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        while True:
            os.write(voice(), b'{"progress": 0.1}\n')


class Shout(Rogue):
    """Says more at once than anybody listens to."""

    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        with contextlib.suppress(OSError):  # it is a socket
            fcntl.fcntl(voice(), fcntl.F_SETPIPE_SZ, 1 << 20)
        while True:
            os.write(voice(), b'{"progress": 0.1}\n' * (1 << 16))


class Say(Rogue):
    """Says what stands in the source, past the interface."""

    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        os.write(voice(), source.path.read_bytes())
        return Result()


def voice() -> int:
    """Return the descriptor that leads to the gateway."""
    return next(fd for fd in range(3, 64) if _is_channel(fd))


def _is_channel(fd: int) -> bool:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class Print(Rogue):
    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        print("this is not JSON", flush=True)
        os.write(1, b"nor is this\n")
        return Result()


class Claim(Rogue):
    """Claims to have made the files that the source names, after a preparation of each kind."""

    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        (workspace / "regular").write_text("mine")
        (workspace / "link").symlink_to("/etc/passwd")
        (workspace / "inner").symlink_to("regular")
        (workspace / "folder").mkdir()
        (workspace / "elsewhere").symlink_to("/etc")
        (workspace / "second").write_text("two names")
        os.link(workspace / "second", workspace / "hard")
        os.mkfifo(workspace / "fifo")
        claims = json.loads(source.path.read_text())
        return Result(derived=tuple(Derived(Path(path), name, kind, filename) for path, name, kind, filename in claims))


class Nan(Rogue):
    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        return Result(facts={"ratio": float("nan")})


class Large(Rogue):
    """Writes more than a file may have, in holes."""

    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        with (workspace / "large").open("wb") as file:
            file.truncate(1 << 40)
        return Result()


class Open(Rogue):
    """Opens as many files as it may, and tells how many that are and what limits it has."""

    def process(self, source: Source, workspace: Path, progress: Progress) -> Result:
        import resource

        opened: list[int] = []
        with contextlib.suppress(OSError):
            while len(opened) < 10_000:
                opened.append(os.open(source.path, os.O_RDONLY))
        for descriptor in opened:
            os.close(descriptor)
        core = resource.getrlimit(resource.RLIMIT_CORE)[1]
        cpu = resource.getrlimit(resource.RLIMIT_CPU)[1]
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return Result(facts={"opened": len(opened), "core": core, "cpu": cpu, "privileges": status["NoNewPrivs"]})
