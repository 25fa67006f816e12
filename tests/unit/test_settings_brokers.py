"""How brokers are declared, and how it is said what is wrong with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.test_settings import environment
from tests.unit.test_settings_sinks import refusal
from tusgate.core.errors import SettingsError
from tusgate.settings.sinks import _declared
from tusgate.sinks.choosing import sink_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.test_settings import SetEnvironment

__all__ = ["environment"]

GOOD: dict[str, dict[str, Any]] = {
    "nats": {"servers": ["tls://a.example.com", "tls://b.example.com:4333"]},
    "rabbitmq": {"url": "amqps://mq.example.com/my%2Fhost", "exchange": "uploads"},
    "redis": {"url": "redis://cache.example.com:6380/3", "maxlen": 1000},
    "kafka": {"servers": ["a.example.com:9092", "[::1]:9092"], "topic": "uploads"},
    "sqs": {"region": "eu-central-1", "queue_url": "https://sqs.eu-central-1.amazonaws.com/1/uploads.fifo"},
    "sns": {"region": "eu-central-1", "topic_arn": "arn:aws:sns:eu-central-1:1:uploads"},
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_few_keys_are_enough(kind: str) -> None:
    (sink,) = _declared([{"name": "app", "type": kind, **GOOD[kind]}])
    sink.check()
    assert sink.longest == 20.0
    assert sink_of(sink, "/files", frozenset()).name == "app"


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        ("nats", {"servers": []}, "app: servers"),
        ("nats", {"servers": ["nats://me:hunter2@host"]}, "without a user and a password"),
        ("nats", {"servers": ["http://host"]}, "nats:// or tls://"),
        ("nats", {"servers": ["nats://a", "tls://b"]}, "one scheme"),
        ("nats", {"user": "me", "password_file": "p", "token_file": "t"}, "one of user"),
        ("nats", {"subject": "a.{owner}"}, "{type} and {tenant}"),
        ("nats", {"subject": "a b"}, "without blanks"),
        ("nats", {"token_file": "missing"}, "app: token_file"),
        ("rabbitmq", {"user": "me"}, "user and password_file"),
        ("rabbitmq", {"password_file": "p"}, "user and password_file"),
        ("rabbitmq", {"user": "me", "password_file": "missing"}, "No such file"),
        ("rabbitmq", {"cert_file": "c"}, "cert_file and key_file"),
        ("rabbitmq", {"url": "amqp://h", "ca_file": "c"}, "encrypted"),
        ("redis", {"url": "redis://h/zero"}, "number of a database"),
        ("redis", {"maxlen": 0}, "app: maxlen"),
        ("redis", {"timeout": "31s"}, "app: timeout"),
        ("kafka", {"servers": ["host"]}, "host:port"),
        ("kafka", {"topic": "a/b"}, "app: topic"),
        ("kafka", {"sasl": "GSSAPI"}, "app: sasl"),
        ("sqs", {"access_key": "AK"}, "access_key and secret_key_file"),
        ("sns", {"topic_arn": "uploads"}, "app: topic_arn"),
        ("sns", {"password": "hunter2"}, "app: password"),
    ],
)
def test_what_is_wrong_is_told_and_secrets_are_not(
    environment: SetEnvironment, kind: str, change: dict[str, Any], expected: str
) -> None:
    message = refusal(environment, {"name": "app", "type": kind, **GOOD[kind], **change})
    assert message.startswith("TUSGATE_SINKS: app")
    assert expected in message
    assert "hunter2" not in message


def test_a_certificate_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    (sink,) = _declared([{"name": "app", "type": "nats", **GOOD["nats"], "ca_file": str(tmp_path / "ca.pem")}])
    with pytest.raises(SettingsError, match="app: ca_file, cert_file, key_file"):
        sink_of(sink, "/files", frozenset())
