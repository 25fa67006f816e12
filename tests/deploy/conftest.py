"""The topology of compose.yaml on plain processes: only addresses, ports and paths differ from what is shipped."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.clients.deployment import BucketObjects, Deployment
from tests.conftest import _needed
from tests.deploy import compose
from tests.gateway import Gateway
from tests.servers import acquire
from tests.servers.process import ServerProcess, Unreachable, accepts_connections, free_port
from tests.servers.s3 import S3Server, scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.servers.nginx import Nginx
    from tests.servers.postgres import Postgres


@dataclass(frozen=True)
class Topology:
    """Gateway, MinIO, PostgreSQL and nginx, as compose.yaml puts them together.

    Attributes:
        deployment: the gateway and its objects, reached without nginx.
        endpoint: where clients create uploads: through nginx.
    """

    deployment: Deployment
    endpoint: str


@pytest.fixture(scope="session")
def shipped_minio(pytestconfig: pytest.Config, mc: Path) -> Iterator[S3Server]:
    """MinIO with the environment of its service, after the service that makes bucket and key; root's keys."""
    environment = compose.environment_of("minio", compose.example_environment())
    with _needed(pytestconfig, "minio"):
        program = acquire.find_program("minio")
    with scratch_directory("deploy-minio", in_memory=True) as directory:
        port = free_port()
        endpoint = f"http://127.0.0.1:{port}"
        keys = environment["MINIO_ROOT_USER"], environment["MINIO_ROOT_PASSWORD"]
        process = ServerProcess(
            "minio",
            [str(program), "server", "--address", f"127.0.0.1:{port}", str(directory / "data")],
            S3Server(endpoint, *keys, Unreachable()).answers,
            directory / "minio.log",
            environment={**environment, "HOME": str(directory), "PATH": os.environ["PATH"]},
        )
        process.start()
        try:
            run_setup(mc, endpoint, directory)
            yield S3Server(endpoint, *keys, process)
        finally:
            process.kill()


def run_setup(mc: Path, endpoint: str, home: Path) -> None:
    """Run the shipped minio-setup.sh with the environment of its service."""
    environment = compose.environment_of("minio-setup", compose.example_environment())
    store = environment["MC_HOST_store"].replace("minio:9000", endpoint.removeprefix("http://"))
    path = f"{mc.parent}:{os.environ['PATH']}"
    subprocess.run(
        ["sh", str(compose.DEPLOY / "minio-setup.sh")],
        env={**environment, "MC_HOST_store": store, "PATH": path, "HOME": str(home)},
        check=True,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture(scope="session")
def topology(
    shipped_minio: S3Server,
    postgres_server: Postgres,
    nginx: Nginx,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Topology]:
    """Everything, ready."""
    home = tmp_path_factory.mktemp("topology")
    dsn = postgres_server.new_database()
    public_port = free_port()
    settings = compose.environment_of("gateway", compose.example_environment())
    settings |= {
        "TUSGATE_PUBLIC_URL": f"http://127.0.0.1:{public_port}",
        "TUSGATE_DATABASE_URL": dsn,
        "TUSGATE_S3_ENDPOINT": shipped_minio.endpoint,
    }
    run_command("migrate", settings, home)
    with Gateway(home / "gateway", settings) as gateway:
        configuration = write_nginx_configuration(home, [gateway.port], public_port)
        with nginx.serving(configuration, public_port):
            objects = BucketObjects(shipped_minio, settings["TUSGATE_S3_BUCKET"])
            yield Topology(Deployment(gateway, objects), f"http://127.0.0.1:{public_port}/files")
    postgres_server.drop_database(dsn)


def run_command(command: str, settings: Mapping[str, str], home: Path) -> None:
    """Run a command of the gateway's image with the settings of its service."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TUSGATE_")}
    subprocess.run(
        [sys.executable, "-m", "tusgate", command],
        cwd=home,
        env={**clean, "HOME": str(home), **settings},
        check=True,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture
def behind_caddy(topology: Topology, caddy: Path, tmp_path: Path) -> Iterator[str]:
    """Run Caddy with the shipped Caddyfile in front of the gateway; return where clients create uploads."""
    port = free_port()
    text = (compose.DEPLOY / "Caddyfile").read_text(encoding="utf-8")
    for shipped, here in (
        ("uploads.example.com {", f"http://127.0.0.1:{port} {{"),
        ("gateway:8080", f"127.0.0.1:{topology.deployment.gateway.port}"),
    ):
        assert shipped in text
        text = text.replace(shipped, here)
    (tmp_path / "Caddyfile").write_text("{\n\tadmin off\n}\n" + text, encoding="utf-8")
    server = ServerProcess(
        "caddy",
        [str(caddy), "run", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")],
        lambda: accepts_connections(port),
        tmp_path / "caddy.log",
        environment={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
    )
    server.start()
    yield f"http://127.0.0.1:{port}/files"
    server.kill()


def write_nginx_configuration(directory: Path, gateway_ports: Iterable[int], public_port: int) -> Path:
    """Write the shipped nginx.conf with our ports and a directory for its files; return its path."""
    servers = "\n        ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in gateway_ports)
    text = (compose.DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    scratch = directory / "nginx"
    scratch.mkdir(exist_ok=True)
    for shipped, here in (
        ("server gateway:8080 max_fails=0;", servers),
        ("listen 8000;", f"listen 127.0.0.1:{public_port};"),
        ("/tmp/", f"{scratch}/"),
    ):
        assert shipped in text
        text = text.replace(shipped, here)
    path = scratch / "nginx.conf"
    path.write_text(text, encoding="utf-8")
    return path
