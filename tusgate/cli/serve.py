"""`tusgate serve`: the gateway, in one process or in several."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import structlog

from tusgate.cli.workers import Workers, reserved_port
from tusgate.settings import Loaded  # noqa: TC001 - flags.py evaluates the annotations
from tusgate.telemetry import LogEvent, configure_logging

if TYPE_CHECKING:
    from tusgate.settings import Settings


def serve(loaded: Loaded) -> None:
    """Run the gateway until SIGTERM or SIGINT; requests in progress save their bytes first."""
    settings = loaded.settings
    configure_logging(settings)
    _warn_when_open(settings)
    if settings.workers > 1:
        sys.exit(_serve_with_workers(settings))
    # Not at the top: the other commands start faster without the server.
    from tusgate.app import run

    run(settings)


def _serve_with_workers(settings: Settings) -> int:
    from tusgate.app import run

    with reserved_port(settings.host, settings.port) as port:
        shared = settings.model_copy(update={"port": port})
        return Workers(
            settings.workers, lambda number: run(_as_worker(shared, number), reuse_port=True), settings.drain_timeout
        ).run()


def _as_worker(settings: Settings, number: int) -> Settings:
    """Return the settings of one worker: metrics are about one process, so each has an address for its own."""
    if settings.metrics is None or settings.metrics[1] == 0:
        return settings
    host, port = settings.metrics
    return settings.model_copy(update={"metrics": (host, port + number)})


def _warn_when_open(settings: Settings) -> None:
    """Say that anybody who reaches the port may upload."""
    if "open" in settings.auth and not settings.is_loopback:
        structlog.get_logger().warning(
            LogEvent.SERVER_OPEN,
            host=settings.host,
            hint="anyone who can reach this address can upload; set TUSGATE_AUTH to ask who they are",
        )
