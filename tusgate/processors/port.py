"""The port `Sandbox`: processors as the service knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusgate.core.errors import ProcessingFailed
from tusgate.processors import ProcessorFailed, Source
from tusgate.processors.sandbox import run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tusgate.ports import Made, Sandbox, SourceFile


class ProcessorSandbox:
    """Runs the processors that the registry knows.

    Args:
        options: variables of the environment of each job; see `options_of`.
    """

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = options

    async def run(self, processor: str, source: SourceFile, workspace: Path, progress: Callable[[float], None]) -> Made:
        """See `ports.Sandbox.run`."""
        copied = Source(source.path, source.size, source.content_type, source.filename)
        try:
            return await run(processor, copied, workspace, progress, options=self._options)
        except ProcessorFailed as error:
            raise ProcessingFailed(error.reason, permanent=error.permanent) from error


if TYPE_CHECKING:
    _: type[Sandbox] = ProcessorSandbox
