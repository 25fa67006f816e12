"""What the process of a job may use, and that it never outlives whoever has started it. Called by that process itself.

Nothing here confines what code of an attacker could do that a decoder was tricked into running: it is still the same
user with the same network. What is confined are the resources that a file may cost.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import select
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DESCRIPTORS: Final = 128
"""Files that each process of a job may have open."""
_NO_NEW_PRIVILEGES: Final = 38
"""`PR_SET_NO_NEW_PRIVS` of linux/prctl.h."""
_POLITENESS: Final = 10
_FIRST_TO_GO: Final = b"1000"
"""Largest value of `oom_score_adj`: when memory runs out the kernel ends this process, and not the gateway."""


@dataclass(frozen=True)
class Limits:
    """What each process of a job may use.

    Attributes:
        memory: bytes of address space.
        cpu: seconds of CPU; for the case that nobody watches the clock any more.
        file: bytes of the largest file.
    """

    memory: int
    cpu: int
    file: int


def confine(limits: Limits) -> None:
    """Limit this process and all that it starts. Cannot be undone."""
    for what, most in (
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_CPU, limits.cpu),
        (resource.RLIMIT_FSIZE, limits.file),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, DESCRIPTORS),
    ):
        allowed = resource.getrlimit(what)[1]
        least = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(what, (least, least))
    os.nice(_POLITENESS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_bytes(_FIRST_TO_GO)


def die_with(lifeline: int) -> None:
    """Have the kernel kill the process group as soon as the other end of the socket or pipe `lifeline` is closed.

    By a kill -9 of its owner, too, and without a thread of ours that hanging C code could keep from running. The
    lifeline must be read no more. Linux only: elsewhere only an owner that ends in order takes its jobs along.
    """
    if sys.platform != "linux":
        return
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    watch = select.poll()
    watch.register(lifeline, select.POLLIN)
    if watch.poll(0):  # it was closed before the kernel was told to look
        os.killpg(0, signal.SIGKILL)
