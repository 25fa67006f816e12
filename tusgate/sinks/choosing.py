"""From what is declared to the sink. A broker's library is imported when a sink of its kind is made, and not before."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

from tusgate.settings.brokers import (
    AnyBroker,
    BrokerDeclared,
    KafkaDeclared,
    NatsDeclared,
    RabbitDeclared,
    RedisDeclared,
    SnsDeclared,
    SqsDeclared,
)
from tusgate.settings.sinks import FileDeclared, StdoutDeclared, TusdDeclared, WebhookDeclared
from tusgate.sinks.broker import Access, BrokerSink
from tusgate.sinks.lines import LinesSink
from tusgate.sinks.webhook import WebhookConfig, WebhookSink

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tusgate.ports import Sink
    from tusgate.settings.sinks import AnySink
    from tusgate.sinks.broker import Link

    Connect = Callable[[], Awaitable[Link]]

_LIBRARIES: Final = {"nats": "nats", "rabbitmq": "aio_pika", "redis": "redis", "kafka": "aiokafka"}
"""What the extras of the package bring; an extra is called as its kind of sink."""


def sink_of(declared: AnySink, source: str, allowed: frozenset[tuple[str, int]]) -> Sink:
    """Return a sink, which connects with its first event.

    Args:
        declared: valid, and not of tusd: that kind needs to know more than its declaration.
        source: see `document_of`.
        allowed: see `AddressGuard`. It is about webhooks: brokers are inside as a rule.

    Raises:
        SettingsError: a file cannot be used, or an extra of the package is missing.
    """
    match declared:
        case WebhookDeclared():
            config = WebhookConfig(
                name=declared.name,
                url=declared.url,
                secrets=declared.secrets(),
                timeout=declared.timeout,
                source=source,
                allowed=allowed,
            )
            return WebhookSink(config)
        case FileDeclared():
            return LinesSink(declared.name, declared.path, source)
        case StdoutDeclared():
            return LinesSink(declared.name, None, source)
        case _:
            assert not isinstance(declared, TusdDeclared)
            _check_extra(declared)
            connect, secrets = _way_to(declared)
            return BrokerSink(declared.name, connect, timeout=declared.timeout, source=source, secrets=secrets)


def _check_extra(declared: AnyBroker) -> None:
    library = _LIBRARIES.get(declared.type)
    if library is None:
        return
    try:
        import_module(library)
    except ImportError:
        raise declared.wrong(
            "type", f"expected an installed extra of the package: pip install 'tusgate[{declared.type}]'"
        ) from None


def _way_to(declared: AnyBroker) -> tuple[Connect, tuple[str, ...]]:
    """Return how to connect, and what no error may show."""
    match declared:
        case NatsDeclared():
            return _to_nats(declared), (declared.password(), declared.token())
        case RabbitDeclared():
            return _to_rabbitmq(declared), (declared.password(),)
        case RedisDeclared():
            return _to_redis(declared), (declared.password(),)
        case KafkaDeclared():
            return _to_kafka(declared), (declared.password(),)
        case SqsDeclared() | SnsDeclared():
            return _to_aws(declared), (declared.secret_key() or "",)


def _access(declared: BrokerDeclared) -> Access:
    access = Access(
        user=declared.user,
        password=declared.password(),
        encrypted=declared.encrypted,
        ca_file=declared.ca_file,
        cert_file=declared.cert_file,
        key_file=declared.key_file,
    )
    try:
        access.tls()
    except (OSError, ValueError):
        raise declared.wrong("ca_file, cert_file, key_file", "expected certificates and a key in PEM") from None
    return access


def _to_nats(declared: NatsDeclared) -> Connect:
    from tusgate.sinks.nats_jetstream import NatsConfig, NatsLink

    config = NatsConfig(
        servers=declared.servers,
        access=_access(declared),
        subject=declared.subject,
        stream=declared.stream,
        token=declared.token(),
        credentials_file=declared.credentials_file,
    )
    return partial(NatsLink.open, config)


def _to_rabbitmq(declared: RabbitDeclared) -> Connect:
    from tusgate.sinks.rabbitmq import RabbitConfig, RabbitLink

    config = RabbitConfig(
        url=declared.url,
        virtual_host=declared.virtual_host,
        access=_access(declared),
        exchange=declared.exchange,
        routing_key=declared.routing_key,
    )
    return partial(RabbitLink.open, config)


def _to_redis(declared: RedisDeclared) -> Connect:
    from tusgate.sinks.redis_streams import RedisConfig, RedisLink

    config = RedisConfig(
        url=declared.url,
        database=int(declared.database),
        access=_access(declared),
        stream=declared.stream,
        maxlen=declared.maxlen,
        timeout=declared.timeout,
    )
    return partial(RedisLink.open, config)


def _to_kafka(declared: KafkaDeclared) -> Connect:
    from tusgate.sinks.kafka import KafkaConfig, KafkaLink

    config = KafkaConfig(
        servers=declared.servers,
        access=_access(declared),
        topic=declared.topic,
        sasl=declared.sasl,
        timeout=declared.timeout,
    )
    return partial(KafkaLink.open, config)


def _to_aws(declared: SqsDeclared | SnsDeclared) -> Connect:
    from tusgate.sinks.aws import AwsConfig, SnsLink, SqsLink

    config = AwsConfig(
        target=declared.queue_url if isinstance(declared, SqsDeclared) else declared.topic_arn,
        region=declared.region,
        endpoint=declared.endpoint,
        access_key=declared.access_key,
        secret_key=declared.secret_key(),
        ca_file=declared.ca_file,
        timeout=declared.timeout,
    )
    return partial(SqsLink.open if isinstance(declared, SqsDeclared) else SnsLink.open, config)
