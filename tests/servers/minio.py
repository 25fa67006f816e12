"""MinIO: from the environment, a container, PATH or the cache."""

from __future__ import annotations

import base64
import os
import secrets
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.servers import acquire
from tests.servers.certificate import make_certificate
from tests.servers.process import Control, ServerProcess, Unreachable, free_port
from tests.servers.s3 import S3Server, scratch_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

IMAGE = "minio/minio:RELEASE.2025-09-07T16-13-09Z"  # the last one that was published; the cached build is newer
PORT_IN_CONTAINER = 9000


@contextmanager
def running() -> Iterator[S3Server]:
    """Run MinIO, or use the one the environment names. Raises acquire.MissingError before anything starts."""
    endpoint = os.environ.get("TUSGATE_TEST_S3_ENDPOINT")
    if endpoint:
        access_key, secret_key = (
            os.environ["TUSGATE_TEST_S3_ACCESS_KEY"],
            os.environ["TUSGATE_TEST_S3_SECRET_KEY"],
        )
        yield S3Server(endpoint.rstrip("/"), access_key, secret_key, Unreachable())
    elif acquire.docker_answers():
        yield from _in_container()
    else:
        program = acquire.find_program("minio")
        with scratch_directory("minio", in_memory=True) as directory:
            yield from _as_process(program, directory)


@contextmanager
def running_with_encryption() -> Iterator[S3Server]:
    """Run a MinIO that speaks TLS, which it demands for keys of customers, and has a key of its own."""
    program = acquire.find_program("minio")
    with scratch_directory("minio-tls", in_memory=False) as directory:
        certs = directory / "certs"
        certificate = make_certificate(certs)
        key = f"test-key:{base64.b64encode(secrets.token_bytes(32)).decode()}"
        flags = ["--certs-dir", str(certs)]
        yield from _as_process(program, directory, {"MINIO_KMS_SECRET_KEY": key}, flags, certificate)


@contextmanager
def running_with_webhook(url: str, token: str) -> Iterator[S3Server]:
    """Run a MinIO that can post events to `url`, as the target `arn:minio:sqs::GATEWAY:webhook`."""
    with scratch_directory("minio-events", in_memory=False) as events:
        own = {
            "MINIO_NOTIFY_WEBHOOK_ENABLE_GATEWAY": "on",
            "MINIO_NOTIFY_WEBHOOK_ENDPOINT_GATEWAY": url,
            "MINIO_NOTIFY_WEBHOOK_AUTH_TOKEN_GATEWAY": f"Bearer {token}",
            "MINIO_NOTIFY_WEBHOOK_QUEUE_DIR_GATEWAY": str(events),
        }
        with _running_with(own) as server:
            yield server


@contextmanager
def running_with_cors(*origins: str) -> Iterator[S3Server]:
    """Run a MinIO that lets pages of these origins use it, and no others."""
    with _running_with({"MINIO_API_CORS_ALLOW_ORIGIN": ",".join(origins)}) as server:
        yield server


@contextmanager
def _running_with(own: Mapping[str, str]) -> Iterator[S3Server]:
    """Run a MinIO with settings of its own."""
    program = acquire.find_program("minio")
    with scratch_directory("minio-own", in_memory=False) as directory:
        yield from _as_process(program, directory, own)


def _environment(access_key: str, secret_key: str) -> dict[str, str]:
    return {
        "MINIO_ROOT_USER": access_key,
        "MINIO_ROOT_PASSWORD": secret_key,
        "MINIO_BROWSER": "off",  # the console would listen on a port of its own, on every interface
        "MINIO_UPDATE": "off",
    }


def _as_process(
    program: Path,
    directory: Path,
    settings: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    ca_file: str | None = None,
) -> Iterator[S3Server]:
    port = free_port()

    def make(server_answers: Callable[[], bool], environment: dict[str, str]) -> ServerProcess:
        environment |= {"HOME": str(directory), "PATH": os.environ["PATH"], **(settings or {})}
        command = [str(program), "server", "--quiet", "--address", f"127.0.0.1:{port}", *flags, str(directory / "data")]
        return ServerProcess("minio", command, server_answers, directory / "minio.log", environment=environment)

    server = _with_new_keys(port, make, ca_file)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _in_container() -> Iterator[S3Server]:
    from tests.servers.container import ServerContainer  # testcontainers is slow to import and seldom needed

    port = free_port()
    containers: list[ServerContainer] = []

    def make(server_answers: Callable[[], bool], environment: dict[str, str]) -> ServerContainer:
        ports = (PORT_IN_CONTAINER, port)
        container = ServerContainer(
            "minio", IMAGE, ports, server_answers, command=["server", "/data"], environment=environment
        )
        containers.append(container)
        return container

    server = _with_new_keys(port, make)
    try:
        server.start()
        yield server
    finally:
        containers[0].remove()


def _with_new_keys(
    port: int, make: Callable[[Callable[[], bool], dict[str, str]], Control], ca_file: str | None = None
) -> S3Server:
    access_key, secret_key = f"test{secrets.token_hex(8)}", secrets.token_hex(20)
    endpoint = f"http{'s' if ca_file else ''}://127.0.0.1:{port}"
    probe = S3Server(endpoint, access_key, secret_key, Unreachable(), ca_file=ca_file)
    control = make(probe.answers, _environment(access_key, secret_key))
    return replace(probe, control=control)
