"""Redis that syncs every write to disk before it answers, with a password."""

from __future__ import annotations

import os
import secrets
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

from tests.servers import acquire
from tests.servers.certificate import make_certificate
from tests.servers.inbox import Arrived, BrokerWithTls
from tests.servers.process import ServerProcess, accepts_connections, free_port
from tests.servers.s3 import scratch_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Stream:
    """One key; implements `Inbox`."""

    server: RedisServer
    name: str

    @property
    def password(self) -> str:
        return self.server.password

    def declared(self, folder: Path, **changes: Any) -> dict[str, Any]:
        (folder / "redis.password").write_text(self.password)
        own = {"url": f"redis://127.0.0.1:{self.server.port}", "stream": self.name}
        return {"name": "redis", "type": "redis", "password_file": str(folder / "redis.password"), **own, **changes}

    @property
    def elsewhere(self) -> dict[str, Any]:
        return {"url": f"redis://127.0.0.1:{self.server.port}/9999"}

    async def arrived(self) -> list[Arrived]:
        async with self.server.client() as client:
            entries: Any = await client.xrange(self.name)
        return [
            Arrived(fields.pop(b"event"), None, {name.decode(): value.decode() for name, value in fields.items()})
            for _, fields in entries
        ]


@dataclass(frozen=True)
class RedisServer(BrokerWithTls):
    """A running server; implements `Broker`."""

    def client(self) -> Redis:
        return Redis(port=self.port, password=self.password)

    @asynccontextmanager
    async def inbox(self) -> AsyncIterator[Stream]:
        """Give a key that is not there yet."""
        name = uuid.uuid4().hex
        yield Stream(self, name)
        async with self.client() as client:
            await client.delete(name)


@contextmanager
def running() -> Iterator[RedisServer]:
    """Run Redis. Raises acquire.MissingError before anything starts."""
    program = acquire.find("redis")
    with scratch_directory("redis", in_memory=False) as directory:
        port, tls_port, password = free_port(), free_port(), secrets.token_hex(20)
        ca_file = make_certificate(directory / "certs")
        (directory / "redis.conf").write_text(
            f"""bind 127.0.0.1
port {port}
tls-port {tls_port}
tls-cert-file {ca_file}
tls-key-file {directory / "certs" / "private.key"}
tls-ca-cert-file {ca_file}
tls-auth-clients no
requirepass {password}
dir {directory}
save ""
appendonly yes
appendfsync always
"""
        )
        process = ServerProcess(
            "redis",
            [str(program), str(directory / "redis.conf")],
            lambda: accepts_connections(port),
            directory / "redis.log",
            environment={"PATH": os.environ["PATH"]},
        )
        try:
            process.start()
            yield RedisServer(port, tls_port, ca_file, password, process)
        finally:
            process.kill()
