"""Kafka: one node that is its own controller (KRaft), with a user and a password, and TLS on a second port."""

from __future__ import annotations

import os
import secrets
import subprocess
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.servers import acquire
from tests.servers.certificate import make_certificate
from tests.servers.inbox import Arrived, BrokerWithTls
from tests.servers.process import ServerProcess, accepts_connections, free_port
from tests.servers.s3 import scratch_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

USER = "tusgate"
PARTITIONS = 3
FLAGS = ("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
"""Little memory, and a quick start rather than speed."""


@dataclass(frozen=True)
class Topic:
    """One topic; implements `Inbox`."""

    server: Kafka
    name: str

    @property
    def password(self) -> str:
        return self.server.password

    def declared(self, folder: Path, **changes: Any) -> dict[str, Any]:
        (folder / "kafka.password").write_text(self.password)
        own: dict[str, Any] = {"servers": [f"127.0.0.1:{self.server.port}"], "topic": self.name, "sasl": "PLAIN"}
        own |= {"user": USER, "password_file": str(folder / "kafka.password")}
        return {"name": "kafka", "type": "kafka", **own, **changes}

    @property
    def elsewhere(self) -> dict[str, Any]:
        return {"topic": "not-there"}

    async def arrived(self) -> list[Arrived]:
        partitions = [TopicPartition(self.name, number) for number in range(PARTITIONS)]
        consumer = AIOKafkaConsumer(
            **self.server.client_options(), auto_offset_reset="earliest", enable_auto_commit=False
        )
        await consumer.start()
        found: list[Arrived] = []
        try:
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            await consumer.seek_to_beginning(*partitions)
            for partition in partitions:
                while await consumer.position(partition) < ends[partition]:
                    record = await consumer.getone(partition)
                    headers = {name: value.decode() for name, value in record.headers}
                    found.append(Arrived(record.value, record.key.decode(), headers))
        finally:
            await consumer.stop()
        return found


@dataclass(frozen=True)
class Kafka(BrokerWithTls):
    """A running node; implements `Broker`."""

    def client_options(self) -> dict[str, Any]:
        return {
            "bootstrap_servers": f"127.0.0.1:{self.port}",
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": USER,
            "sasl_plain_password": self.password,
        }

    @asynccontextmanager
    async def inbox(self) -> AsyncIterator[Topic]:
        """Give a topic of its own."""
        name = uuid.uuid4().hex
        admin = AIOKafkaAdminClient(**self.client_options())
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
        finally:
            await admin.close()
        yield Topic(self, name)


@contextmanager
def running() -> Iterator[Kafka]:
    """Run Kafka. Raises acquire.MissingError before anything starts."""
    jars, java = acquire.find_kafka(), acquire.find_program("java")
    with scratch_directory("kafka", in_memory=False) as directory:
        port, tls_port, own_port = free_port(), free_port(), free_port()
        password = secrets.token_hex(20)
        ca_file = make_certificate(directory / "certs")
        keys = directory / "keys.pem"
        keys.write_text(
            (directory / "certs" / "private.key").read_text() + (directory / "certs" / "public.crt").read_text()
        )
        configuration = directory / "kafka.properties"
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        users = f'{login} username="{USER}" password="{password}" user_{USER}="{password}";'
        configuration.write_text(
            f"""process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{own_port}
controller.listener.names=CONTROLLER
listeners=CONTROLLER://127.0.0.1:{own_port},PLAIN://127.0.0.1:{port},SECURE://127.0.0.1:{tls_port}
advertised.listeners=PLAIN://127.0.0.1:{port},SECURE://127.0.0.1:{tls_port}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:SASL_PLAINTEXT,SECURE:SASL_SSL
inter.broker.listener.name=PLAIN
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.enabled.mechanisms=PLAIN
listener.name.plain.plain.sasl.jaas.config={users}
listener.name.secure.plain.sasl.jaas.config={users}
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location={keys}
log.dirs={directory / "data"}
log.flush.interval.messages=1
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
"""
        )
        (directory / "log4j2.properties").write_text(
            "rootLogger.level=WARN\nrootLogger.appenderRef.out.ref=out\n"
            "appender.out.type=Console\nappender.out.name=out\n"
            "appender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%d %p %m (%c)%n\n"
        )
        command = [
            str(java),
            *FLAGS,
            f"-Dlog4j2.configurationFile={directory / 'log4j2.properties'}",
            "-cp",
            f"{jars}/*",
        ]
        subprocess.run(
            [*command, "kafka.tools.StorageTool", "format", "-t", "tusgate-tests-only-one", "-c", str(configuration)],
            check=True,
            capture_output=True,
        )
        process = ServerProcess(
            "kafka",
            [*command, "kafka.Kafka", str(configuration)],
            lambda: accepts_connections(port),
            directory / "kafka.log",
            environment={"PATH": os.environ["PATH"], "HOME": str(directory)},
        )
        try:
            process.start()
            yield Kafka(port, tls_port, ca_file, password, process)
        finally:
            process.kill()
