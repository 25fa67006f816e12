"""nginx as a plain process, with a configuration that the test gives."""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.servers import acquire
from tests.servers.process import ServerProcess, accepts_connections

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Nginx:
    """The nginx program.

    Attributes:
        program: where it is.
    """

    program: Path

    def complaints(self, configuration: Path) -> str:
        """Return what `nginx -t` says against a configuration file; empty when it accepts it."""
        command = [*self._command(configuration), "-t", "-q"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    @contextmanager
    def serving(self, configuration: Path, port: int) -> Iterator[ServerProcess]:
        """Run nginx with a whole configuration file (http block included) until it listens on `port`.

        Relative paths in the file are relative to the file's directory, and so are its temporary files.
        """
        log = configuration.parent / "nginx.log"
        command = [*self._command(configuration), "-g", "daemon off;"]
        server = ServerProcess("nginx", command, lambda: accepts_connections(port), log, last_signal=signal.SIGTERM)
        try:
            server.start()
            yield server
        finally:
            server.stop()

    def _command(self, configuration: Path) -> list[str]:
        return [str(self.program), "-p", str(configuration.parent), "-c", str(configuration), "-e", "stderr"]


def find() -> Nginx:
    """Return nginx. Raises acquire.MissingError."""
    return Nginx(acquire.find_program("nginx"))
