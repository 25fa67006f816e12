"""What an error of asyncpg or of the server means to us. Decisions only; `postgres.py` acts on them."""

from __future__ import annotations

from typing import Final

import asyncpg

from tusgate.core.errors import DatabaseUnavailable, Fenced, InvalidRequest, SettingsError, TusgateError
from tusgate.core.quota import Measure, refusal_of

TECHNOLOGY_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""Everything that asyncpg raises, the operating system's errors on connecting among it."""

_UNAVAILABLE: Final = frozenset({"08", "0A", "25", "28", "3D", "40", "53", "55", "57", "58", "XX"})
"""SQLSTATE classes that mean "not now": connection lost, a plan made before a migration, read-only, credentials,
no such database, rolled back by the server, out of resources, object in use, shutdown or cancelled, I/O error,
internal error."""
_POOL_IS_STALE: Final = frozenset({"25006", "57P01", "57P02", "57P03"})
"""SQLSTATEs after which every connection is suspect: read-only (a demoted primary), shutdown, crash, start-up."""
_UNPREPARED: Final = {
    "42P01": "the database lacks our tables: run `tusgate migrate`",
    "42703": "the database lacks columns of ours: run `tusgate migrate`",
    "42501": "the database does not let us use our tables",
}
"""SQLSTATEs of a database that an operator has not prepared for us, or is restoring right now: that too may pass."""
_BAD_TEXT: Final = "22"
"""Class of "data exception": a NUL byte or text that the server cannot encode. Lengths and offsets are checked long
before, so only client texts can have that."""
_UNIQUE_VIOLATION: Final = "23505"
_PROTOCOL_VIOLATION: Final = "08P01"
_QUOTA: Final = "TGQ01"
"""What the trigger of the usage raises, with the measure as its message."""


def translated(error: Exception) -> TusgateError | None:
    """Return what `error` (one of TECHNOLOGY_ERRORS) is to our callers; None when it can only be a bug of ours."""
    if isinstance(error, asyncpg.PostgresError):
        return _from_sqlstate(error.sqlstate or "", str(error))
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return SettingsError(f"the database URL cannot be used: {error}")
    if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
        return _unstorable()  # asyncpg could not encode a parameter, a lone surrogate for example
    return DatabaseUnavailable(f"the database cannot be reached: {str(error) or type(error).__name__}")


def means_reconnect(error: Exception) -> bool:
    """Return whether `error` puts all open connections in doubt, not only the one that it came from."""
    if isinstance(error, asyncpg.PostgresError):
        sqlstate = error.sqlstate or ""
        return sqlstate in _POOL_IS_STALE or sqlstate.startswith("08")
    return not isinstance(error, ValueError)


def _from_sqlstate(sqlstate: str, message: str) -> TusgateError | None:
    if sqlstate in {_UNIQUE_VIOLATION, _QUOTA}:
        return _refusal(sqlstate, message)
    if sqlstate == _PROTOCOL_VIOLATION and "startup parameter" in message:  # PgBouncer's words
        return SettingsError(f"{message}: a pooler needs TUSGATE_DATABASE_POOLING=transaction")
    if sqlstate in _UNPREPARED:
        return DatabaseUnavailable(_UNPREPARED[sqlstate])
    if sqlstate[:2] == _BAD_TEXT:
        return _unstorable()
    if sqlstate[:2] in _UNAVAILABLE:
        return DatabaseUnavailable(f"the database refuses: {message} ({sqlstate})")
    return None


def _refusal(sqlstate: str, message: str) -> TusgateError:
    """Return what a rule of our tables says: a row that is there already, or a limit that would be passed."""
    if sqlstate == _QUOTA:
        return refusal_of(Measure(message))
    return Fenced("the row exists already: another request has done this")


def _unstorable() -> InvalidRequest:
    return InvalidRequest("Upload-Metadata", "text without NUL bytes and lone surrogates")
