"""Versity Gateway on a directory: a second S3 server, so that tests do not prove MinIO's habits."""

from __future__ import annotations

import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.servers import acquire
from tests.servers.process import ServerProcess, Unreachable, free_port
from tests.servers.s3 import REGION, S3Server, scratch_directory

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def running() -> Iterator[S3Server]:
    """Run Versity Gateway. Raises acquire.MissingError before anything starts."""
    program = acquire.find_program("versitygw")
    # Not in memory: it keeps its metadata in extended attributes, which older kernels lack on tmpfs.
    with scratch_directory("versity", in_memory=False) as directory:
        (directory / "data").mkdir()
        port = free_port()
        access_key, secret_key = f"test{secrets.token_hex(8)}", secrets.token_hex(20)
        endpoint = f"http://127.0.0.1:{port}"
        process = ServerProcess(
            "versity",
            [
                str(program),
                "--port",
                f"127.0.0.1:{port}",
                "--region",
                REGION,
                "posix",
                str(directory / "data"),
            ],
            S3Server(endpoint, access_key, secret_key, Unreachable()).answers,
            directory / "versity.log",
            environment={
                "ROOT_ACCESS_KEY": access_key,
                "ROOT_SECRET_KEY": secret_key,
                "HOME": str(directory),
                "PATH": os.environ["PATH"],
            },
        )
        server = S3Server(endpoint, access_key, secret_key, process)
        try:
            server.start()
            yield server
        finally:
            server.kill()
