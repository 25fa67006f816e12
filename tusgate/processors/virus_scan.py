"""Asks clamd whether there is a virus in a file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tusgate.processors.clamd import Clamd
from tusgate.processors.contract import Result
from tusgate.processors.options import CLAMD

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tusgate.processors.contract import Source


class VirusScan:
    """Refuses files in which clamd finds something; the fact is which engine and signatures have looked.

    What clamd has not looked at as a whole is an error, never clean.
    """

    name = "virus-scan"
    version = 1
    types = ("*/*",)
    largest = 4 << 30
    seconds = 1800.0
    memory = 256 << 20

    def process(self, source: Source, workspace: Path, progress: Callable[[float], None]) -> Result:
        """Send the file to clamd, and return what it says."""
        clamd = Clamd(os.environ[CLAMD])
        engine = clamd.version()
        with source.path.open("rb") as content:
            found = clamd.scan(content, source.size, progress)
        return Result(facts={"engine": engine}, refused=found)
