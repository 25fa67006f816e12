"""PgBouncer before a PostgreSQL, in transaction mode: each transaction of a client may meet another session."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from tests.servers import acquire
from tests.servers.postgres import unprivileged_user
from tests.servers.process import ServerProcess, accepts_connections, free_port
from tests.servers.s3 import scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

SESSIONS = 3
"""With the server, for each database: fewer than clients have connections, so that they have to share."""


@dataclass(frozen=True)
class PgBouncer:
    """A running pooler.

    Attributes:
        port: where it listens.
        control: pause, kill, restart it.
    """

    port: int
    control: ServerProcess

    def way_to(self, dsn: str) -> str:
        """Return the URL by which a database of the server is reached through the pooler."""
        parts = urlsplit(dsn)
        return urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{self.port}"))


@contextmanager
def running(server_dsn: str) -> Iterator[PgBouncer]:
    """Run PgBouncer before the server at `server_dsn`. Raises acquire.MissingError before anything starts."""
    program = acquire.find_program("pgbouncer")
    server = urlsplit(server_dsn)
    with scratch_directory("pgbouncer", in_memory=False) as directory:
        port = free_port()
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(
            f"""[databases]
* = host={server.hostname} port={server.port} user={server.username} password={server.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {SESSIONS}
max_client_conn = 500
"""
        )
        user = unprivileged_user()
        if user is not None:
            os.chown(directory, user, user)
        process = ServerProcess(
            "pgbouncer",
            [str(program), str(configuration)],
            lambda: accepts_connections(port),
            directory / "pgbouncer.log",
            environment={"PATH": os.environ["PATH"]},
            user=user,
            last_signal=signal.SIGQUIT,
        )
        try:
            process.start()
            yield PgBouncer(port, process)
        finally:
            process.kill()
