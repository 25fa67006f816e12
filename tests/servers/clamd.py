"""clamd with a signature database of our own, which knows EICAR's test file and nothing else: nothing is downloaded.

It listens at a socket and at a port, and takes streams of up to 1 MiB.
"""

from __future__ import annotations

import getpass
import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.servers import acquire
from tests.servers.process import ServerProcess, accepts_connections, free_port
from tests.servers.s3 import scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EICAR: Final = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD" + b"-ANTIVIRUS-TEST-FILE!$H+H*"
"""What every scanner calls a virus by agreement. In two halves, so that none takes this file for one."""
LONGEST_STREAM: Final = 1 << 20
MOST_SCANNED: Final = 512 << 10
"""Larger files are not looked at; clamd says that, because it is told to."""


@dataclass(frozen=True)
class Clamd:
    """A running clamd.

    Attributes:
        socket: path of its socket.
        port: where it listens on 127.0.0.1.
    """

    socket: Path
    port: int
    control: ServerProcess


@contextmanager
def running() -> Iterator[Clamd]:
    """Run clamd. Raises acquire.MissingError before anything starts."""
    program = acquire.find("clamd")
    with scratch_directory("clamd", in_memory=False) as directory:
        port, socket = free_port(), directory / "clamd.sock"
        (directory / "signatures").mkdir()
        (directory / "signatures" / "test.ndb").write_text(f"Test.Eicar:0:*:{EICAR.hex()}\n")
        digest = hashlib.sha256(b"known by its digest").hexdigest()
        (directory / "signatures" / "test.hsb").write_text(f"{digest}:{len(b'known by its digest')}:Test.Digest:73\n")
        (directory / "clamd.conf").write_text(
            f"""Foreground yes
User {getpass.getuser()}
LocalSocket {socket}
TCPAddr 127.0.0.1
TCPSocket {port}
DatabaseDirectory {directory / "signatures"}
TemporaryDirectory {directory}
StreamMaxLength {LONGEST_STREAM}
MaxFileSize {MOST_SCANNED}
MaxScanSize {MOST_SCANNED}
AlertExceedsMax yes
SelfCheck 0
"""
        )
        process = ServerProcess(
            "clamd",
            [str(program), "--config-file", str(directory / "clamd.conf")],
            lambda: accepts_connections(port),
            directory / "clamd.log",
            environment={},
        )
        try:
            process.start()
            yield Clamd(socket, port, process)
        finally:
            process.kill()
