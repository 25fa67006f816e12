"""Runs a processor on one file, in a process of its own, and comes back when nothing of it is left.

The process gets an empty environment, limits (`limits`), a workspace as its current directory and nothing else. It is
the leader of a process group, which is killed in the end, whatever came of the job. When this process is killed the
kernel does that (`limits.die_with`).
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tusgate.processors.contract import ProcessorFailed
from tusgate.processors.limits import Limits
from tusgate.processors.messages import MOST_SAID, Done, Failed, Progress, request, result_of, said_in
from tusgate.processors.registry import find

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Iterable, Mapping

    from tusgate.processors.contract import Processor, Result, Source

_SMALLEST_LIMIT: Final = 64 << 20
_GROWTH: Final = 4
"""A file may become so many times as large as its source, or `_SMALLEST_LIMIT`: videos of old codecs come out small."""
_COMMAND: Final = (sys.executable, "-P", "-s", "-m", "tusgate.processors.child")
"""`-P`: the current directory, which is full of what others have sent, is no place to import from."""
_NO_OPTIONS: Final[Mapping[str, str]] = MappingProxyType({})


async def run(
    processor_name: str,
    source: Source,
    workspace: Path,
    progress: Callable[[float], None],
    *,
    options: Mapping[str, str] = _NO_OPTIONS,
) -> Result:
    """Return what the processor made of the source; the derived files are in `workspace`, and nobody writes to them.

    Cancelled it kills the job, and ends when that is gone. Files stay in the workspace in any case: it is the caller's.

    Args:
        processor_name: see `registry.find`.
        source: not larger than the processor takes.
        workspace: an empty directory for this job alone.
        progress: told what part is done, at most a hundred times. What it raises ends the job, and is raised.
        options: variables of the environment of the job, beside what is always there; see `options_of`.

    Raises:
        ProcessorFailed: the file cannot be processed, or the processor has failed, and how.
        SettingsError: there is no such processor.
    """
    processor = find([processor_name])[0]
    if source.size > processor.largest:
        raise ProcessorFailed(
            f"the file is larger than the {processor.largest} bytes that {processor.name} takes", True
        )
    child = await asyncio.create_subprocess_exec(
        *_COMMAND,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=MOST_SAID,
        cwd=workspace,
        env=_environment(workspace, options),
        start_new_session=True,
    )
    try:
        done = await _outcome(child, processor, source, progress)
    finally:
        await _end(child)
    return result_of(done, workspace)


async def _outcome(child: Process, processor: Processor, source: Source, progress: Callable[[float], None]) -> Done:
    watch = asyncio.timeout(processor.seconds)
    try:
        async with watch:
            assert child.stdin is not None
            child.stdin.write(request(processor.name, source, _limits(processor, source)))
            return await _last_word(child, progress)
    except TimeoutError:
        if not watch.expired():  # of `progress`
            raise
        raise ProcessorFailed(f"not done within {processor.seconds:g} s", False) from None


async def _last_word(child: Process, progress: Callable[[float], None]) -> Done:
    """Return the result that the child tells, after passing on how it goes."""
    assert child.stdout is not None
    heard = 0
    while line := await _line(child.stdout):
        heard += len(line)
        if heard > MOST_SAID:
            raise _too_much()
        match said_in(line):
            case Progress(progress=done):
                progress(done)
            case Failed() as failure:
                raise ProcessorFailed(failure.failed, failure.permanent)
            case Done() as done:
                return done
    raise ProcessorFailed(_end_of(await child.wait()), False)


async def _line(voice: asyncio.StreamReader) -> bytes:
    try:
        return await voice.readline()
    except ValueError:  # no end of line within the limit of the reader
        raise _too_much() from None


def _too_much() -> ProcessorFailed:
    return ProcessorFailed(f"the processor said more than {MOST_SAID} bytes", True)


def _end_of(status: int) -> str:
    if status >= 0:
        return f"the processor ended without a result (status {status})"
    return f"the processor was ended by {signal.Signals(-status).name}"


def _limits(processor: Processor, source: Source) -> Limits:
    return Limits(
        memory=processor.memory,
        cpu=math.ceil(processor.seconds) * (os.cpu_count() or 1),
        file=max(_SMALLEST_LIMIT, _GROWTH * source.size),
    )


def _environment(workspace: Path, options: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a job: it finds our code and the programs on PATH, and no secret of ours."""
    return {
        "PATH": _absolute(os.environ.get("PATH", os.defpath).split(os.pathsep)),
        "PYTHONPATH": _absolute(sys.path),
        "HOME": str(workspace.absolute()),
        "TMPDIR": str(workspace.absolute()),
        "LANG": "C.UTF-8",
        "MALLOC_ARENA_MAX": "2",  # each further one of glibc's reserves 64 MiB of address space
        **options,
    }


def _absolute(places: Iterable[str]) -> str:
    """Return a search path that leads nowhere else from the workspace."""
    return os.pathsep.join(place for place in places if Path(place).is_absolute())


async def _end(child: Process) -> None:
    """Kill all that is left of a job, and wait until its first process is gone, cancelled or not.

    What it said and nobody has heard is thrown away: a loop that does not want it would keep the pipe open.
    """
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    gone = asyncio.ensure_future(child.wait())
    cancelled = False
    while not gone.done():
        try:
            await asyncio.shield(gone)
        except asyncio.CancelledError:
            cancelled = True
    child._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way to all of its pipes
    if cancelled:
        raise asyncio.CancelledError
