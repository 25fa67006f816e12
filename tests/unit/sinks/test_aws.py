"""Queues and topics of Amazon: which requests are made for them, and to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.receiver import Receiver, named_as_proxy, receiving, status
from tests.unit.sinks.facts import a_fact
from tusgate.core.errors import DeliveryFailed
from tusgate.sinks.aws import AwsConfig, SnsLink, SqsLink
from tusgate.sinks.broker import message_of

if TYPE_CHECKING:
    from tusgate.sinks.aws import AwsLink

QUEUE = "http://127.0.0.1/1/queue"
TOPIC = "arn:aws:sns:us-east-1:1:topic"


def config_of(server: Receiver, target: str) -> AwsConfig:
    endpoint = f"http://127.0.0.1:{server.port}"
    return AwsConfig(target=target, region="us-east-1", endpoint=endpoint, access_key="one", secret_key="1")


@pytest.mark.parametrize("made", [SqsLink, SnsLink])
async def test_a_proxy_in_the_environment_is_not_used(made: type[AwsLink], monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as server, named_as_proxy(monkeypatch) as proxy:
        server.answers = [status(503)]
        link = await made.open(config_of(server, QUEUE if made is SqsLink else TOPIC))
        with pytest.raises(DeliveryFailed):
            await link.publish(message_of(await a_fact(), "/tusgate"))
        await link.close()
        assert (len(server.received), proxy.received) == (1, [])


async def test_a_page_instead_of_an_answer_is_a_failure_like_others() -> None:
    """The client stays: it has no state, and to make one costs CPU."""
    page = b"<html><br>"
    async with receiving() as server:
        server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)]
        link = await SnsLink.open(config_of(server, TOPIC))
        with pytest.raises(DeliveryFailed):
            await link.publish(message_of(await a_fact(), "/tusgate"))
        await link.close()
