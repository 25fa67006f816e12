"""The system's Chromium, for playwright's `executable_path`."""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers import acquire

# Headless, without a sandbox (tests may run as root) and silent on the network.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find() -> Path:
    """Return the program, from TUSGATE_TEST_CHROMIUM or the usual places. Raises acquire.MissingError."""
    configured = os.environ.get("TUSGATE_TEST_CHROMIUM")
    return Path(configured) if configured else acquire.find_program(*acquire.CHROMIUM_NAMES)
