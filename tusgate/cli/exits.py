"""What the exit codes mean, and how an error becomes one."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import TYPE_CHECKING

from tusgate.core.errors import SettingsError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable


class Exit(IntEnum):
    """Exit codes of every command."""

    FINE = 0
    FAILED = 1
    WRONG_USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


def exit_code_of(work: Callable[[], object]) -> int:
    """Run `work`; print the one line of an expected error to stderr; return the exit code.

    An unexpected error is a bug and passes: its traceback is what the reporter needs.
    """
    try:
        work()
    except SystemExit as stop:
        return _code_in(stop)
    except SettingsError as error:
        return _told(error, Exit.WRONG_USAGE)
    except Unavailable as error:
        return _told(error, Exit.UNREACHABLE)
    except OSError as error:
        return _told(error, Exit.FAILED)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return Exit.FINE


def _code_in(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or Exit.FINE
    print(stop.code, file=sys.stderr)
    return Exit.FAILED


def _told(error: Exception, code: Exit) -> Exit:
    print(error, file=sys.stderr)
    return code
