"""The process of one job: `python -m tusgate.processors.child`, started by `sandbox` and by nobody else.

It reads one line from stdin, which is also its lifeline, and says on what was stdout how it goes on. After its last
word it waits to be killed, so that its process group exists until all that is left of the job is killed with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from errno import EFBIG
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tusgate.processors.contract import ProcessorError, Source
from tusgate.processors.limits import Limits, confine, die_with
from tusgate.processors.registry import find

if TYPE_CHECKING:
    from collections.abc import Callable

    from tusgate.processors.contract import Result

_STEP: Final = 0.01
"""Progress is told when it has grown by so much."""
_LONGEST_REASON: Final = 500
_OUT_OF_MEMORY: Final = b'{"failed": "more memory was needed than the processor may have", "permanent": true}\n'


class _Voice:
    """What was stdout: fd 1 itself leads to nowhere now, so that no library that prints can speak for the job."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "wb", buffering=0)
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        self._told = 0.0

    def say(self, line: bytes) -> None:
        self._file.write(line)

    def progress(self, done: float) -> None:
        part = min(done, 1.0)
        if part >= self._told + _STEP or part == 1.0 > self._told:
            self._told = part
            self.say(_line({"progress": self._told}))


def main() -> None:
    """Do the one job."""
    line = sys.stdin.buffer.readline()
    if not line:  # whoever started us is gone
        sys.exit(1)
    die_with(sys.stdin.fileno())
    told = json.loads(line)
    confine(Limits(**told["limits"]))
    voice = _Voice()
    source = Source(**{**told["source"], "path": Path(told["source"]["path"])})
    voice.say(_outcome(told["processor"], source, voice.progress))
    while True:
        signal.pause()


def _outcome(name: str, source: Source, progress: Callable[[float], None]) -> bytes:
    try:
        return _words(find([name])[0].process(source, Path.cwd(), progress))
    except MemoryError:
        return _OUT_OF_MEMORY
    except ProcessorError as error:
        return _failure(str(error), permanent=error.permanent)
    except OSError as error:
        if error.errno == EFBIG:
            return _failure("the processor wrote a larger file than it may", permanent=True)
        return _failure(_mistake(error), permanent=False)
    except Exception as error:  # noqa: BLE001 - code of others: whatever it raises is told, and ends this job only
        return _failure(_mistake(error), permanent=False)


def _words(result: Result) -> bytes:
    derived = [
        {"path": str(made.path), "name": made.name, "content_type": made.content_type, "filename": made.filename}
        for made in result.derived
    ]
    return _line({"derived": derived, "facts": dict(result.facts), "refused": result.refused})


def _failure(reason: str, *, permanent: bool) -> bytes:
    return _line({"failed": " ".join(reason.split())[:_LONGEST_REASON] or "no reason given", "permanent": permanent})


def _line(words: dict[str, Any]) -> bytes:
    return json.dumps(words, allow_nan=False).encode() + b"\n"


def _mistake(error: Exception) -> str:
    """Return what its author needs to find a mistake, and no path of this machine."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = error.strerror if isinstance(error, OSError) and error.strerror else error
    return f"{type(error).__name__}: {what} ({Path(last.filename).name}, line {last.lineno})"


if __name__ == "__main__":
    main()
