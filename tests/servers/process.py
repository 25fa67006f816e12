"""One server process: started, awaited, paused, killed, and never left behind."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NoReturn, Protocol

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

READY_SECONDS = 60.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02
LOG_TAIL_BYTES = 6000

# The kernel sends the last signal when the *thread* that started the child ends, and tests restart servers
# from threads that come and go. This one lives as long as the process.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-spawner")


class Control(Protocol):
    """What a test may do to a server, wherever it runs. All calls block: async tests use `to_thread`."""

    @property
    def pid(self) -> int:
        """Process id of the server on this machine."""

    def start(self) -> None:
        """Start again on the same port and data, and wait until it answers. No-op when it runs."""

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end by signal `how` and wait until it is gone. No-op when it does not run."""

    def kill(self) -> None:
        """End it at once, with all its children, as a power cut would."""

    def pause(self) -> None:
        """Freeze it: connections stay open, nothing answers."""

    def resume(self) -> None:
        """Undo `pause`. No-op when it was not paused, or does not run."""

    def log(self) -> str:
        """Return the end of its log."""


class StartFailedError(Exception):
    """The server ended or did not answer in time; the text carries the end of its log."""


def free_port() -> int:
    """Return a free loopback port below the range that outgoing connections use.

    A port from that range could be taken by any client while a test has the server down.
    """
    chooser = random.SystemRandom()  # Hypothesis seeds the global generator: every worker would draw the same ports
    while True:
        port = chooser.randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(ready: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Poll `ready` until it is true. Raises TimeoutError with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


def accepts_connections(port: int) -> bool:
    """Tell whether something listens on the loopback port `port`."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ServerProcess:
    """A server as a child process; implements Control.

    The child gets its own process group (Ctrl-C in pytest does not reach it) and, where setpriv exists, dies
    with the test process however that one ends.

    Args:
        name: for messages and the report of a failed test.
        command: program and arguments.
        ready: tells whether the server answers; called until it returns True.
        log_path: the server's output goes there, appended over restarts.
        environment: the whole environment of the child.
        user: user id to run as; only root may ask for another one.
        last_signal: sent by the kernel when the test process dies.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        ready: Callable[[], bool],
        log_path: Path,
        *,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
        last_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self._command = [*dying_with_parent(last_signal), *command]
        self._ready = ready
        self._log_path = log_path
        self._environment = environment
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise StartFailedError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; an early exit is tried again for a while: leftovers of a killed one may have to vanish."""
        if self.running:
            return
        deadline = time.monotonic() + READY_SECONDS
        self._spawn()
        while not self._ready():
            if time.monotonic() > deadline:
                self.kill()
                raise StartFailedError(f"{self.name} did not answer in {READY_SECONDS:.0f} s\n{self.log()}")
            if not self.running:
                if time.monotonic() > deadline - READY_SECONDS + 5:
                    raise StartFailedError(f"{self.name} ended at once\n{self.log()}")
                time.sleep(0.2)
                self._spawn()
            time.sleep(POLL_SECONDS)

    def _spawn(self) -> None:
        self._process = _SPAWNER.submit(self._open).result()

    def _open(self) -> subprocess.Popen[bytes]:
        with self._log_path.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._log_path.parent,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
                start_new_session=True,
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is None:
            return
        self.resume()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(how)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        if self._process is None:
            return
        victims = self._tree()
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        psutil.wait_procs(victims, STOP_SECONDS)
        self._process.wait(STOP_SECONDS)
        self._process = None

    def pause(self) -> None:
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        if self._process is None:
            return
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _tree(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def log(self) -> str:
        if not self._log_path.exists():
            return ""
        with self._log_path.open("rb") as log:
            log.seek(max(0, self._log_path.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")


def dying_with_parent(last_signal: signal.Signals) -> list[str]:
    """Return what makes the kernel end a command with us; nothing where that is impossible."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    prefix = [setpriv, f"--pdeathsig={last_signal.name[3:]}"]
    works = subprocess.run([*prefix, setpriv, "--version"], capture_output=True, check=False).returncode == 0
    return prefix if works else []


class Unreachable:
    """Control of a server that somebody else runs: a test that wants to stop it is skipped."""

    name = "external server"

    @property
    def pid(self) -> int:
        self._refuse()

    def start(self) -> None:
        """Do nothing: it runs."""

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self._refuse()

    def kill(self) -> None:
        self._refuse()

    def pause(self) -> None:
        self._refuse()

    def resume(self) -> None:
        """Do nothing: it was not paused."""

    def log(self) -> str:
        return ""

    def _refuse(self) -> NoReturn:
        pytest.skip("the server's address came from the environment: this test must be able to stop it")
