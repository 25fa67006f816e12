"""RabbitMQ on loopback, with one user and TLS on a second port."""

from __future__ import annotations

import os
import secrets
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aio_pika

from tests.servers import acquire
from tests.servers.certificate import make_certificate
from tests.servers.inbox import Arrived, BrokerWithTls
from tests.servers.process import ServerProcess, accepts_connections, free_port
from tests.servers.s3 import scratch_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from aio_pika.abc import AbstractConnection

USER = "tusgate"


@dataclass(frozen=True)
class Queue:
    """A topic exchange, and a durable queue that takes all of it; implements `Inbox`."""

    server: RabbitMq
    name: str
    seen: list[Arrived] = field(default_factory=list)

    @property
    def password(self) -> str:
        return self.server.password

    def declared(self, folder: Path, **changes: Any) -> dict[str, Any]:
        (folder / "rabbit.password").write_text(self.password)
        own: dict[str, Any] = {"url": f"amqp://127.0.0.1:{self.server.port}", "exchange": self.name}
        own |= {"user": USER, "password_file": str(folder / "rabbit.password")}
        return {"name": "rabbitmq", "type": "rabbitmq", **own, **changes}

    @property
    def elsewhere(self) -> dict[str, Any]:
        return {"exchange": "not-there"}

    async def arrived(self) -> list[Arrived]:
        async with await self.server.connect() as connection:
            queue = await (await connection.channel()).get_queue(self.name)
            while (message := await queue.get(fail=False)) is not None:
                headers = {name: str(value) for name, value in message.headers.items()}
                headers |= {"message-id": message.message_id or "", "content-type": message.content_type or ""}
                self.seen.append(Arrived(message.body, message.routing_key, headers))
                await message.ack()
        return self.seen


@dataclass(frozen=True)
class RabbitMq(BrokerWithTls):
    """A running broker; implements `Broker`."""

    async def connect(self) -> AbstractConnection:
        return await aio_pika.connect(host="127.0.0.1", port=self.port, login=USER, password=self.password)

    @asynccontextmanager
    async def inbox(self) -> AsyncIterator[Queue]:
        """Give an exchange with a queue."""
        name = uuid.uuid4().hex
        async with await self.connect() as connection:
            channel = await connection.channel()
            await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
            await (await channel.declare_queue(name, durable=True)).bind(name, "#")
        yield Queue(self, name)
        async with await self.connect() as connection:
            channel = await connection.channel()
            await channel.queue_delete(name)
            await channel.exchange_delete(name)


@contextmanager
def running() -> Iterator[RabbitMq]:
    """Run RabbitMQ, and the name server of its own that Erlang wants. Raises acquire.MissingError."""
    program = acquire.find("rabbitmq")
    epmd = acquire.find_program("epmd")
    with scratch_directory("rabbitmq", in_memory=False) as directory:
        port, tls_port, own_port, names_port = (free_port() for _ in range(4))
        password = secrets.token_hex(20)
        ca_file = make_certificate(directory / "certs")
        (directory / "rabbitmq.conf").write_text(
            f"""listeners.tcp.1 = 127.0.0.1:{port}
listeners.ssl.1 = 127.0.0.1:{tls_port}
ssl_options.cacertfile = {ca_file}
ssl_options.certfile = {ca_file}
ssl_options.keyfile = {directory / "certs" / "private.key"}
default_user = {USER}
default_pass = {password}
log.console = true
log.file = false
"""
        )
        environment = {
            "HOME": str(directory),
            "PATH": os.environ["PATH"],
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(names_port),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "no-plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_NODENAME": f"test{port}@localhost",
            "RABBITMQ_DIST_PORT": str(own_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
        }
        names = ServerProcess(
            "epmd",
            [str(epmd), "-port", str(names_port), "-address", "127.0.0.1"],
            lambda: accepts_connections(names_port),
            directory / "epmd.log",
            environment=environment,
        )
        process = ServerProcess(
            "rabbitmq",
            [str(program)],
            lambda: accepts_connections(port),
            directory / "rabbitmq.log",
            environment=environment,
        )
        try:
            names.start()
            process.start()
            yield RabbitMq(port, tls_port, ca_file, password, process)
        finally:
            process.kill()
            names.kill()
