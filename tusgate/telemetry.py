"""Logs: how they are written, which events there are, and what may never stand in one.

Rule 1: one event per line, named by `LogEvent`; JSON unless a person reads it on a terminal.
Rule 2: logs go to stderr; stdout belongs to the data of a command.
Rule 3: no payload, no metadata values, no credentials, no signed URLs: `redact` is the last processor of all.
"""

from __future__ import annotations

import logging
import random
import re
import sys
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Final, cast

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import TextIO

    from structlog.typing import EventDict, Processor, WrappedLogger

    from tusgate.settings import Settings

MASK: Final = "***"

_SECRET_KEY: Final = re.compile(
    r"authorization|cookie|password|passwd|secret|token|credential|signature|access_key|api[-_]?key|database_url|dsn",
    re.IGNORECASE,
)
_SIGNING_HEADER: Final = re.compile(r"x-amz-(?!request-id|id-2|bucket-region|checksum-)", re.IGNORECASE)
_URL_PASSWORD: Final = re.compile(r"(://[^/@:\s]*):[^\s\"']*@")
_SIGNED_QUERY: Final = re.compile(r"((?:[?&]|\b)(?:X-Amz-[A-Za-z-]+|password|token)=)[^&\s\"']+", re.IGNORECASE)
_SHARE_LINK: Final = re.compile(r"(/s/)[A-Za-z0-9_%-]{40,}")
_PATH_TOKEN: Final = re.compile(r"(/companion/u/)[^/\s\"'?]+")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{8,64}", re.ASCII)


class LogEvent(StrEnum):
    """Every event that tusgate logs. Names are public: alerts and dashboards are built on them."""

    SERVER_STARTED = "server.started"
    SERVER_DRAINING = "server.draining"
    SERVER_DRAIN_INCOMPLETE = "server.drain_incomplete"
    SERVER_STOPPED = "server.stopped"
    SERVER_OPEN = "server.open"
    SERVER_FULL = "server.full"
    WORKER_STARTED = "worker.started"
    WORKER_ENDED = "worker.ended"
    WORKER_RESTARTING = "worker.restarting"
    MIGRATION_APPLIED = "migration.applied"
    REQUEST_FAILED = "request.failed"
    UPLOAD_CREATED = "upload.created"
    UPLOAD_CONCATENATED = "upload.concatenated"
    UPLOAD_COMPLETED = "upload.completed"
    UPLOAD_FAILED = "upload.failed"
    UPLOAD_TERMINATED = "upload.terminated"
    UPLOAD_EXPIRED = "upload.expired"
    DIRECT_REFUSED = "direct.refused"
    DIRECT_REPLANNED = "direct.replanned"
    DIRECT_COPIED = "direct.copied"
    DIRECT_NOT_COPIED = "direct.not_copied"
    EVIDENCE_TAKEN = "evidence.taken"
    EVIDENCE_POSTPONED = "evidence.postponed"
    EVIDENCE_UNREADABLE = "evidence.unreadable"
    COMPLETION_NOT_COPIED = "completion.not_copied"
    COMPLETION_RETRIED = "completion.retried"
    COMPLETION_POSTPONED = "completion.postponed"
    COMPLETION_OVERTAKEN = "completion.overtaken"
    DOWNLOAD_BROKEN = "download.broken"
    DOWNLOAD_STALLED = "download.stalled"
    DOWNLOAD_OBJECT_LOST = "download.object_lost"
    DIGEST_COMPUTED = "digest.computed"
    DIGEST_POSTPONED = "digest.postponed"
    DIGEST_OBJECT_LOST = "digest.object_lost"
    DEDUP_SHARED = "dedup.shared"
    DEDUP_OBJECT_LOST = "dedup.object_lost"
    INSTANT_CREATED = "instant.created"
    INSTANT_REFUSED = "instant.refused"
    METRICS_STARTED = "metrics.started"
    METRICS_UNREAD = "metrics.unread"
    ACCESS_UNFINISHED = "access.unfinished"
    DATABASE_UNAVAILABLE = "database.unavailable"
    DATABASE_UNSAFE = "database.unsafe"
    DATABASE_LISTENER_LOST = "database.listener_lost"
    STORE_REJECTS_US = "store.rejects_us"
    EXPIRY_DELAYED = "expiry.delayed"
    EXPIRY_HELD = "expiry.held"
    GARBAGE_POSTPONED = "garbage.postponed"
    EVENTS_UNSEEN = "events.unseen"
    DELIVERY_DONE = "delivery.done"
    DELIVERY_FAILED = "delivery.failed"
    DELIVERY_DEAD = "delivery.dead"
    DELIVERY_POSTPONED = "delivery.postponed"
    DELIVERY_CRASHED = "delivery.crashed"
    SINK_DISABLED = "sink.disabled"
    HOOK_REFUSED = "hook.refused"
    HOOK_FAILED = "hook.failed"
    HOOK_CRASHED = "hook.crashed"
    HOOK_IGNORED = "hook.ignored"
    JOB_POSTPONED = "job.postponed"
    JOB_FAILED = "job.failed"
    PROCESSING_STARTED = "processing.started"
    PROCESSING_DONE = "processing.done"
    PROCESSING_REFUSED = "processing.refused"
    PROCESSING_FAILED = "processing.failed"
    PROCESSING_DEAD = "processing.dead"
    PROCESSING_CRASHED = "processing.crashed"
    PROCESSING_POSTPONED = "processing.postponed"
    PROCESSING_OVERTAKEN = "processing.overtaken"
    PROCESSING_WAITING = "processing.waiting"
    IDENTITY_REFUSED = "identity.refused"
    IDENTITY_UNAVAILABLE = "identity.unavailable"
    ROUTE_MOVED = "route.moved"
    CRASH_AWAITED = "crash.awaited"
    CRASHING = "crash.now"


def configure_logging(settings: Settings, stream: TextIO | None = None) -> None:
    """Send all logs of this process, those of libraries too, to `stream` (stderr). Idempotent."""
    out = stream or sys.stderr
    unfailing = cast("TextIO", _Unfailing(out))
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering = _rendering(_is_console(settings, out), colors=out.isatty())
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(unfailing),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(unfailing)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    # Libraries speak up from warning on: botocore and aiohttp write headers and bodies at debug level.
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


class _Unfailing:
    """The part of a text stream that loggers use. What cannot be written is lost: a full disk must not end uploads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _is_console(settings: Settings, out: TextIO) -> bool:
    if settings.log_format is not None:
        return settings.log_format == "console"
    return settings.environment == "development" or out.isatty()


def _rendering(console: bool, *, colors: bool) -> list[Processor]:
    if console:
        return [
            structlog.processors.format_exc_info,
            redact,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
        ]
    return [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer(default=str)]


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Hide secrets in the values of a log event: by the name of the key, and by the look of the text."""
    return {key: _without_secrets(key, value) for key, value in event.items()}


def _without_secrets(key: object, value: object) -> object:
    name = key.decode("latin-1") if isinstance(key, bytes) else str(key)
    if value is not None and (_SECRET_KEY.search(name) or _SIGNING_HEADER.match(name)):
        return MASK
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {inner: _without_secrets(inner, item) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets("", item) for item in value]
    return value


def redact_text(text: str) -> str:
    """Return `text` without passwords and tokens in URLs, signatures of presigned ones, and share links."""
    text = _SIGNED_QUERY.sub(rf"\1{MASK}", _URL_PASSWORD.sub(rf"\1:{MASK}@", text))
    return _PATH_TOKEN.sub(rf"\1{MASK}", _SHARE_LINK.sub(rf"\1{MASK}", text))


def request_id_from(header: str | None) -> str:
    """Return the client's `X-Request-ID` when it is harmless to repeat, else a new random one."""
    if header is not None and _REQUEST_ID.fullmatch(header):
        return header
    return f"{random.getrandbits(64):016x}"


def bind_request(request_id: str) -> MutableMapping[str, object]:
    """Put `request_id` into every log event of the current task and the tasks it starts; return the context."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    return structlog.contextvars.get_contextvars()
