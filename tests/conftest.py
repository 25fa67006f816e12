"""Fixtures over real servers, `--require`, and the event loop. No test data lives here.

A test that asks for a server that cannot be had here is skipped with the reason; `--require minio,postgres`
turns that into a failure. Servers run once per session (per xdist worker); what tests write into is fresh for
each test: `bucket`, `versity_bucket`, `database_url`. A test may stop, kill or pause `minio`, `versity` and
`postgres`: they are brought back when it ends.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import hypothesis
import pytest
import uvloop

import tests.servers.aws
import tests.servers.chromium
import tests.servers.clamd
import tests.servers.kafka
import tests.servers.minio
import tests.servers.nats
import tests.servers.nginx
import tests.servers.node
import tests.servers.pgbouncer
import tests.servers.postgres
import tests.servers.rabbitmq
import tests.servers.redis
import tests.servers.versity
from tests.servers import acquire

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator, Iterator, Mapping
    from pathlib import Path

    from tests.servers.aws import Aws
    from tests.servers.clamd import Clamd
    from tests.servers.kafka import Kafka
    from tests.servers.nats import Nats
    from tests.servers.nginx import Nginx
    from tests.servers.node import Node
    from tests.servers.pgbouncer import PgBouncer
    from tests.servers.postgres import Postgres
    from tests.servers.rabbitmq import RabbitMq
    from tests.servers.redis import RedisServer
    from tests.servers.s3 import S3Server

hypothesis.settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
hypothesis.settings.load_profile("untimed")

BROKERS = ("nats", "rabbitmq", "redis", "kafka")
PROCESSORS = ("clamd", "ffmpeg")
SERVERS = (
    "minio",
    "mc",
    "postgres",
    "pgbouncer",
    "versity",
    "nginx",
    "caddy",
    "node",
    "chromium",
    *BROKERS,
    *PROCESSORS,
    "faketime",
)
SERVER_FIXTURES = {"minio_server", "mc", "postgres_server", "pgbouncer", "versity_server", "nginx", "caddy"}
SERVER_FIXTURES |= {"nats_server", "encrypted_nats", "rabbitmq_server", "redis_server", "kafka_server", "aws_server"}
SERVER_FIXTURES |= {"clamd", "ffmpeg", "faketime"}
CLIENT_FIXTURES = {"node", "chromium"}

pytest_plugins = ["tests.gateway", "tests.left_open"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require",
        default="",
        metavar="NAMES",
        help=f"servers that must be there: their tests fail instead of being skipped ({','.join(SERVERS)})",
    )


def pytest_configure(config: pytest.Config) -> None:
    unknown = _required(config) - {*SERVERS}
    if unknown:
        raise pytest.UsageError(f"--require: unknown {', '.join(sorted(unknown))}; known: {', '.join(SERVERS)}")


def _required(config: pytest.Config) -> set[str]:
    return {name.strip() for name in config.getoption("--require").split(",") if name.strip()}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ask for a server or a client, so that `-m "not servers"` cannot miss one."""
    for item in items:
        fixtures = {*getattr(item, "fixturenames", ())}
        if fixtures & SERVER_FIXTURES:
            item.add_marker("servers")
        if fixtures & CLIENT_FIXTURES:
            item.add_marker("clients")


def pytest_report_header() -> list[str]:
    return [f"server {name}: {_origin(name)}" for name in SERVERS]


def _origin(name: str) -> str:
    try:
        return str(acquire.find(name))
    except acquire.MissingError as missing:
        return str(missing)


def pytest_asyncio_loop_factories(
    config: pytest.Config,
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests on the loop that production runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers of a failed test logged."""
    report = yield
    if call.when == "call" and report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            control = getattr(value, "control", None)
            if control is not None:
                report.sections.append((f"end of the log of {name}", control.log()))
    return report


@contextmanager
def _needed(config: pytest.Config, name: str) -> Iterator[None]:
    try:
        yield
    except acquire.MissingError as missing:
        if name in _required(config):
            pytest.fail(f"{name} is required: {missing}", pytrace=False)
        pytest.skip(f"{name} is missing: {missing}")


@pytest.fixture(scope="session")
def minio_server(pytestconfig: pytest.Config) -> Iterator[S3Server]:
    """MinIO for the whole session. Tests use `minio`, which repairs it after each of them."""
    with _needed(pytestconfig, "minio"), tests.servers.minio.running() as server:
        yield server


@pytest.fixture(scope="session")
def versity_server(pytestconfig: pytest.Config) -> Iterator[S3Server]:
    """Versity Gateway for the whole session. Tests use `versity`."""
    with _needed(pytestconfig, "versity"), tests.servers.versity.running() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """PostgreSQL for the whole session. Tests use `postgres`."""
    with _needed(pytestconfig, "postgres"), tests.servers.postgres.running() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(pytestconfig: pytest.Config, postgres_server: Postgres) -> Iterator[PgBouncer]:
    """PgBouncer before `postgres`, for the whole session, in transaction mode."""
    with _needed(pytestconfig, "pgbouncer"), tests.servers.pgbouncer.running(postgres_server.dsn) as pooler:
        yield pooler


@pytest.fixture(scope="session")
def nats_server(pytestconfig: pytest.Config) -> Iterator[Nats]:
    """NATS for the whole session."""
    with _needed(pytestconfig, "nats"), tests.servers.nats.running() as server:
        yield server


@pytest.fixture(scope="session")
def encrypted_nats(pytestconfig: pytest.Config) -> Iterator[Nats]:
    """NATS that speaks TLS, for the whole session."""
    with _needed(pytestconfig, "nats"), tests.servers.nats.running(encrypted=True) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server(pytestconfig: pytest.Config) -> Iterator[RabbitMq]:
    """RabbitMQ for the whole session."""
    with _needed(pytestconfig, "rabbitmq"), tests.servers.rabbitmq.running() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Iterator[RedisServer]:
    """Redis for the whole session."""
    with _needed(pytestconfig, "redis"), tests.servers.redis.running() as server:
        yield server


@pytest.fixture(scope="session")
def kafka_server(pytestconfig: pytest.Config) -> Iterator[Kafka]:
    """Kafka for the whole session."""
    with _needed(pytestconfig, "kafka"), tests.servers.kafka.running() as server:
        yield server


@pytest.fixture(scope="session")
def aws_server() -> Iterator[Aws]:
    """Something like SQS and SNS for the whole session; it comes with the packages for development."""
    with tests.servers.aws.running() as server:
        yield server


@pytest.fixture(scope="session")
def clamd(pytestconfig: pytest.Config) -> Iterator[Clamd]:
    """clamd for the whole session. It knows no virus but the one for tests."""
    with _needed(pytestconfig, "clamd"), tests.servers.clamd.running() as server:
        yield server


@pytest.fixture(scope="session")
def ffmpeg(pytestconfig: pytest.Config) -> Path:
    """The ffmpeg program; ffprobe comes with it."""
    with _needed(pytestconfig, "ffmpeg"):
        return acquire.find("ffmpeg")


@pytest.fixture(scope="session")
def faketime(pytestconfig: pytest.Config) -> Path:
    """The library by which a process has another time."""
    with _needed(pytestconfig, "faketime"):
        return acquire.find("faketime")


@pytest.fixture
def minio(minio_server: S3Server) -> Iterator[S3Server]:
    """MinIO, which the test may stop, kill or pause."""
    yield minio_server
    minio_server.heal()


@pytest.fixture
def versity(versity_server: S3Server) -> Iterator[S3Server]:
    """Versity Gateway, which the test may stop, kill or pause."""
    yield versity_server
    versity_server.heal()


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[Postgres]:
    """PostgreSQL, which the test may stop, kill or pause."""
    yield postgres_server
    postgres_server.heal()


@pytest.fixture
def bucket(minio: S3Server) -> Iterator[str]:
    """The name of an empty bucket of `minio`."""
    yield from _fresh_bucket(minio)


@pytest.fixture
def versity_bucket(versity: S3Server) -> Iterator[str]:
    """The name of an empty bucket of `versity`."""
    yield from _fresh_bucket(versity)


def _fresh_bucket(server: S3Server) -> Iterator[str]:
    name = server.make_bucket()
    yield name
    server.heal()
    server.remove_bucket(name)


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """The DSN of an empty database of `postgres`."""
    dsn = postgres.new_database()
    yield dsn
    postgres.heal()
    postgres.drop_database(dsn)


@pytest.fixture(scope="session")
def nginx(pytestconfig: pytest.Config) -> Nginx:
    """nginx, to run with a configuration of the test's own."""
    with _needed(pytestconfig, "nginx"):
        return tests.servers.nginx.find()


@pytest.fixture(scope="session")
def mc(pytestconfig: pytest.Config) -> Path:
    """The MinIO client program."""
    with _needed(pytestconfig, "mc"):
        return acquire.find("mc")


@pytest.fixture(scope="session")
def caddy(pytestconfig: pytest.Config) -> Path:
    """The Caddy program."""
    with _needed(pytestconfig, "caddy"):
        return acquire.find("caddy")


@pytest.fixture(scope="session")
def node(pytestconfig: pytest.Config) -> Node:
    """Node with the client packages of tests/clients."""
    with _needed(pytestconfig, "node"):
        return tests.servers.node.find()


@pytest.fixture(scope="session")
def chromium(pytestconfig: pytest.Config) -> Path:
    """The Chromium program."""
    with _needed(pytestconfig, "chromium"):
        return tests.servers.chromium.find()
