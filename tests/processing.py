"""Processors for tests: a sandbox whose processors are functions of the test, and a plug-in for whole gateways."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tusgate.core.processing import Chosen, Declared, Processing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from tusgate.ports import Made, Sandbox, SourceFile

    Act = Callable[[SourceFile, Path, Callable[[float], None]], Awaitable["Outcome"]]


@dataclass(frozen=True)
class Copy:
    """A file that a processor of a test has made."""

    path: Path
    name: str
    content_type: str = "text/plain"
    filename: str = "copy.txt"


@dataclass(frozen=True)
class Outcome:
    """What a processor of a test has made and found."""

    derived: tuple[Copy, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    refused: str | None = None


class InlineSandbox:
    """Runs functions of the test.

    Args:
        acts: what each processor does.
    """

    def __init__(self, **acts: Act) -> None:
        self.acts = acts
        self.runs: list[str] = []

    async def run(self, processor: str, source: SourceFile, workspace: Path, progress: Callable[[float], None]) -> Made:
        self.runs.append(processor)
        return await self.acts[processor](source, workspace, progress)


async def shout(source: SourceFile, workspace: Path, progress: Callable[[float], None]) -> Outcome:
    """Make a copy in capital letters."""
    progress(0.5)
    made = workspace / "loud.txt"
    made.write_bytes(source.path.read_bytes().upper())
    return Outcome((Copy(made, "loud", filename="loud.txt"),), {"bytes": source.size})


async def scan(source: SourceFile, _workspace: Path, _progress: Callable[[float], None]) -> Outcome:
    """Refuse what has a virus in it."""
    return Outcome(refused="Test-Virus") if b"virus" in source.path.read_bytes() else Outcome()


SHOUT, SCAN = Declared("shout", 1, ("text/*",)), Declared("scan", 1, ("*/*",))
SHOUTING = Processing((SHOUT,), Chosen(("shout",)))
GATED = Processing((SHOUT, SCAN), Chosen(("shout", "scan"), frozenset({"scan"})))

PLUGIN = r"""
import struct
import time
import zlib
from pathlib import Path

from tusgate.processors import Derived, ProcessorError, Result


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PICTURE = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(8 * (b"\0" + 8 * b"\xff\x80\x00")))
    + chunk(b"IEND", b"")
)


class Preview:
    name = "preview"
    version = 1
    types = ("image/*",)
    largest = 64 << 20
    seconds = 120.0
    memory = 1 << 30

    def process(self, source, workspace, progress):
        while not Path(source.path.read_text().split()[2]).exists():
            time.sleep(0.02)
        made = workspace / "preview.png"
        made.write_bytes(PICTURE)
        return Result((Derived(made, "preview", "image/png", "preview.png"),))


class Shout:
    name = "shout"
    version = 1
    types = ("text/*",)
    largest = 64 << 20
    seconds = 120.0
    memory = 1 << 30

    def process(self, source, workspace, progress):
        text = source.path.read_bytes()
        if text.startswith(b"broken"):
            raise ProcessorError("it is broken", permanent=True)
        if text.startswith(b"virus"):
            return Result(refused="Test-Virus")
        if text.startswith(b"wait for "):
            progress(0.5)
            while not Path(text.decode().split()[2]).exists():
                time.sleep(0.02)
        made = workspace / "loud.txt"
        made.write_bytes(text.upper())
        return Result((Derived(made, "loud", "text/plain", "loud.txt"),), {"bytes": source.size})
"""


def install_plugin(home: Path) -> Path:
    """Write a distribution with processors, and return the directory to have in PYTHONPATH.

    A file that begins with `wait for PATH` is processed once there is something at that path. `shout` takes texts,
    `preview` pictures.
    """
    site = home / "site"
    information = site / "shouting-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "shouting.py").write_text(PLUGIN)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[tusgate.processors]\nshout = shouting:Shout\npreview = shouting:Preview\n"
    )
    return site


if TYPE_CHECKING:
    _: type[Sandbox] = InlineSandbox
