"""`tusgate migrate`: bring the database to the schema of this version."""

from __future__ import annotations

from tusgate.settings import Loaded  # noqa: TC001 - flags.py evaluates the annotations
from tusgate.telemetry import configure_logging


def migrate(loaded: Loaded) -> None:
    """Apply the migrations that are missing and print their names. Safe while gateways of the last release run."""
    configure_logging(loaded.settings)
    # Not at the top: the other commands start faster without the server.
    from tusgate.app import migrate as apply_missing

    for name in apply_missing(loaded.settings):
        print(name)
