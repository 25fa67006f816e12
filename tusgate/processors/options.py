"""Which settings reach the process of a job, and as what. Everything else stays with the gateway."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tusgate.settings import Settings

CLAMD: Final = "TUSGATE_CLAMD"


def options_of(settings: Settings) -> dict[str, str]:
    """Return the variables for the environment of jobs: what our own processors need, and what the operator passes on.

    Variables that are passed on come from the environment of this process; those that are not set there are left out.
    """
    passed = {name: os.environ[name] for name in settings.processor_environment if name in os.environ}
    return {**passed, CLAMD: settings.clamd}
