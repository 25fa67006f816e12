"""`tusgate worker`: does the jobs of finished files, on any number of machines."""

from __future__ import annotations

from tusgate.settings import Loaded  # noqa: TC001 - flags.py evaluates the annotations
from tusgate.telemetry import configure_logging


def worker(loaded: Loaded) -> None:
    """Process finished files until SIGTERM or SIGINT; what is not done by then is given back for others to do.

    Takes the settings of the gateways, as it uses the same database and the same stores. Any number may run.
    """
    configure_logging(loaded.settings)
    # Not at the top: the other commands start faster without the service.
    from tusgate.app import work

    work(loaded.settings)
