"""Several processes on one port: started, watched, restarted when they crash, and ended together.

Rule 1: the parent serves nothing; it may be small and never fails for what a request does.
Rule 2: signals are waited for (`sigtimedwait`), never handled asynchronously: there are no races to think about.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from tusgate.cli.exits import Exit, exit_code_of
from tusgate.telemetry import LogEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STOPPING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
AWAITED: Final = STOPPING | {signal.SIGCHLD}
STABLE_AFTER: Final = 10.0
"""Seconds after which a worker counts as having started well: its next crash is restarted at once."""
FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
KILL_MARGIN: Final = 10.0
"""Seconds on top of the drain time-out after which a worker that does not end is killed."""

_PR_SET_PDEATHSIG: Final = 1


@dataclass(slots=True)
class _Slot:
    """One of the processes to be kept running.

    Attributes:
        pid: None while it waits to be started again.
        started: when it was started last (monotonic seconds).
        delay: seconds to wait before the next start; 0 after a stable run.
        due: when to start it again.
    """

    number: int
    pid: int | None = None
    started: float = 0.0
    delay: float = 0.0
    due: float = 0.0


class Workers:
    """Keeps `count` child processes running `work` until SIGTERM or SIGINT, then ends them.

    A child that crashes is started again, after a delay that doubles while it keeps crashing early. A child that
    ends with "wrong settings" ends them all: a restart cannot help. Children whose parent is killed drain.

    `work` gets the number of its worker, from 0 on; who takes the place of one that has crashed gets the same.
    """

    def __init__(self, count: int, work: Callable[[int], object], drain_timeout: float) -> None:
        self._slots = [_Slot(number) for number in range(count)]
        self._work = work
        self._drain_timeout = drain_timeout
        self._kill_at: float | None = None
        self._code = int(Exit.FINE)
        self._log = structlog.get_logger()

    def run(self) -> int:
        """Return when all workers are down: 0 when each ended well after being told to."""
        with _blocked(AWAITED):
            for slot in self._slots:
                self._start(slot)
            while any(slot.pid is not None for slot in self._slots) or self._kill_at is None:
                received = signal.sigtimedwait(AWAITED, self._until_next())
                self._on_signal(received.si_signo if received is not None else None)
                self._start_due()
        return self._code

    def _on_signal(self, number: int | None) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number in STOPPING:
            # The second Ctrl-C means that the user does not want to wait.
            self._end(signal.SIGTERM if self._kill_at is None else signal.SIGKILL)
        elif self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._code = self._code or Exit.FAILED
            self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        self._kill_at = time.monotonic() + self._drain_timeout + KILL_MARGIN
        for slot in self._slots:
            if slot.pid is not None:
                os.kill(slot.pid, number)

    def _until_next(self) -> float:
        now = time.monotonic()
        if self._kill_at is not None:
            return max(0.0, self._kill_at - now)
        return max(0.0, min((slot.due for slot in self._slots if slot.pid is None), default=now + 3600.0) - now)

    def _start_due(self) -> None:
        now = time.monotonic()
        for slot in self._slots:
            if self._kill_at is None and slot.pid is None and slot.due <= now:
                self._start(slot)

    def _start(self, slot: _Slot) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become_worker(parent, partial(self._work, slot.number))
        slot.pid, slot.started = pid, time.monotonic()
        self._log.info(LogEvent.WORKER_STARTED, worker=slot.number, pid=pid)

    def _reap(self) -> None:
        # One SIGCHLD may stand for several children.
        for slot in self._slots:
            if slot.pid is None:
                continue
            pid, status = os.waitpid(slot.pid, os.WNOHANG)
            if pid:
                slot.pid = None
                self._ended(slot, pid, os.waitstatus_to_exitcode(status))

    def _ended(self, slot: _Slot, pid: int, code: int) -> None:
        self._log.info(LogEvent.WORKER_ENDED, worker=slot.number, pid=pid, code=code)
        if self._kill_at is not None:
            self._code = self._code or (Exit.FAILED if code else Exit.FINE)
        elif code == Exit.WRONG_USAGE:
            self._code = code
            self._end(signal.SIGTERM)
        else:
            self._schedule(slot)

    def _schedule(self, slot: _Slot) -> None:
        now = time.monotonic()
        stable = now - slot.started >= STABLE_AFTER
        slot.delay = 0.0 if stable else min(max(FIRST_DELAY, slot.delay * 2), LONGEST_DELAY)
        slot.due = now + slot.delay
        self._log.warning(LogEvent.WORKER_RESTARTING, worker=slot.number, delay=slot.delay)


def _become_worker(parent: int, work: Callable[[], object]) -> None:
    """Run `work` in this forked child and end the process; never returns into the parent's code."""
    code = int(Exit.FAILED)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
        _drain_with(parent)
        code = exit_code_of(work)
    except BaseException:  # noqa: BLE001 - the child must not unwind into the parent's stack, whatever happens
        structlog.get_logger().exception(LogEvent.WORKER_ENDED, pid=os.getpid())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _drain_with(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent dies. Linux only; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _blocked(signals: frozenset[signal.Signals]) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Hold `port` of `host` (0: a free one) for sockets with SO_REUSEPORT while the block runs.

    The socket is bound but does not listen, so the kernel gives it no connections.

    Raises:
        OSError: the address is taken or not ours.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind(address)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
        yield holder.getsockname()[1]
