"""NATS with JetStream, which syncs each message to disk, for one user with a password."""

from __future__ import annotations

import json
import os
import secrets
import ssl
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nats
from nats.js.api import StorageType, StreamConfig

from tests.servers import acquire
from tests.servers.certificate import make_certificate
from tests.servers.inbox import Arrived
from tests.servers.process import ServerProcess, accepts_connections, free_port
from tests.servers.s3 import scratch_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nats.js import JetStreamContext

USER = "tusgate"
LIMITED_USER = "limited"
"""May not publish."""


@dataclass(frozen=True)
class Stream:
    """One stream; implements `Inbox`."""

    server: Nats
    name: str

    @property
    def password(self) -> str:
        return self.server.password

    def declared(self, folder: Path, **changes: Any) -> dict[str, Any]:
        (folder / "nats.password").write_text(self.password)
        scheme = "tls" if self.server.ca_file else "nats"
        own: dict[str, Any] = {"servers": [f"{scheme}://127.0.0.1:{self.server.port}"]}
        own |= {"user": USER, "password_file": str(folder / "nats.password"), "subject": f"{self.name}.{{type}}"}
        return {"name": "nats", "type": "nats", **own, **changes}

    @property
    def elsewhere(self) -> dict[str, Any]:
        return {"subject": "nobody.listens"}

    async def arrived(self) -> list[Arrived]:
        async with self.server.jetstream() as jetstream:
            state = (await jetstream.stream_info(self.name)).state
            messages = [await jetstream.get_msg(self.name, number) for number in range(1, state.last_seq + 1)]
        return [Arrived(each.data or b"", None, dict(each.headers or {})) for each in messages]


@dataclass(frozen=True)
class Nats:
    """A running server; implements `Broker`.

    Attributes:
        ca_file: certificate that it shows; None: it speaks no TLS.
    """

    port: int
    password: str
    control: ServerProcess
    ca_file: str | None = None

    @asynccontextmanager
    async def jetstream(self) -> AsyncIterator[JetStreamContext]:
        """Give a client of the test's own."""
        tls = {} if self.ca_file is None else {"tls": ssl.create_default_context(cafile=self.ca_file)}
        url = f"{'tls' if tls else 'nats'}://127.0.0.1:{self.port}"
        client = await nats.connect(url, user=USER, password=self.password, allow_reconnect=False, **tls)
        try:
            yield client.jetstream(timeout=30)
        finally:
            await client.close()

    @asynccontextmanager
    async def inbox(self) -> AsyncIterator[Stream]:
        """Give a stream of its own."""
        name = f"s{uuid.uuid4().hex}"
        async with self.jetstream() as jetstream:
            await jetstream.add_stream(StreamConfig(name, subjects=[f"{name}.>"], storage=StorageType.FILE))
        yield Stream(self, name)
        async with self.jetstream() as jetstream:
            await jetstream.delete_stream(name)


@contextmanager
def running(*, encrypted: bool = False) -> Iterator[Nats]:
    """Run NATS. Raises acquire.MissingError before anything starts."""
    program = acquire.find("nats")
    with scratch_directory("nats", in_memory=False) as directory:
        port, password = free_port(), secrets.token_hex(20)
        configuration: dict[str, Any] = {
            "listen": f"127.0.0.1:{port}",
            "authorization": {
                "users": [
                    {"user": USER, "password": password},
                    {"user": LIMITED_USER, "password": password, "permissions": {"publish": "nothing"}},
                ]
            },
            "jetstream": {"store_dir": str(directory / "data"), "sync_interval": "always"},
        }
        ca_file = None
        if encrypted:
            ca_file = make_certificate(directory / "certs")
            configuration["tls"] = {"cert_file": ca_file, "key_file": str(directory / "certs" / "private.key")}
        (directory / "nats.conf").write_text(json.dumps(configuration))
        process = ServerProcess(
            "nats",
            [str(program), "-c", str(directory / "nats.conf")],
            lambda: accepts_connections(port),
            directory / "nats.log",
            environment={"PATH": os.environ["PATH"]},
        )
        try:
            process.start()
            yield Nats(port, password, process, ca_file)
        finally:
            process.kill()
