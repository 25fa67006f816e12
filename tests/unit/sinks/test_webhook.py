"""Webhooks on real sockets: EV-01, EV-05, EV-07, EV-09, EV-11."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.receiver import OK, Receiver, named_as_proxy, receiving, status
from tests.unit.sinks.facts import NOON, a_fact
from tusgate.core.errors import DeliveryFailed, SinkGone
from tusgate.sinks.posting import MOST_ANSWER
from tusgate.sinks.webhook import WebhookConfig, WebhookSink, seconds_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.receiver import Received

OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def sink(receiver: Receiver) -> AsyncIterator[WebhookSink]:
    sink = sink_to(receiver)
    yield sink
    await sink.close()


def sink_to(receiver: Receiver, **changes: Any) -> WebhookSink:
    own = {"name": "hook", "url": receiver.url, "secrets": (OLD, NEW), "allowed": receiver.allowed, **changes}
    return WebhookSink(WebhookConfig(**own))


class TestSigning:
    async def test_every_secret_signs_so_that_receivers_can_change_theirs(
        self, receiver: Receiver, sink: WebhookSink
    ) -> None:
        """EV-07."""
        await sink.deliver(await a_fact())
        request = receiver.received[0]
        for secret in (OLD, NEW):
            told = Webhook(secret).verify(request.body, request.headers)
            assert told["type"] == "upload.completed"
        assert request.headers["content-type"] == "application/cloudevents+json"
        assert request.event_id == json.loads(request.body)["id"]

    async def test_other_bytes_another_id_or_another_secret_do_not_pass(
        self, receiver: Receiver, sink: WebhookSink
    ) -> None:
        """EV-07, V37."""
        await sink.deliver(await a_fact())
        request = receiver.received[0]
        forged = [
            (OLD, request.body[:-1] + b" ", request.headers),
            (OLD, request.body, request.headers | {"webhook-id": "other-1"}),
            ("whsec_" + base64.b64encode(b"x" * 24).decode(), request.body, request.headers),
        ]
        for secret, body, headers in forged:
            with pytest.raises(WebhookVerificationError):
                Webhook(secret).verify(body, headers)

    async def test_a_recorded_delivery_is_too_old_ten_minutes_later(self, receiver: Receiver) -> None:
        """EV-07, V37."""
        from datetime import UTC, datetime

        sink = WebhookSink(
            WebhookConfig(name="hook", url=receiver.url, secrets=(OLD,), allowed=receiver.allowed),
            lambda: datetime.now(UTC) - timedelta(minutes=10),
        )
        await sink.deliver(await a_fact())
        await sink.close()
        with pytest.raises(WebhookVerificationError, match="too old"):
            Webhook(OLD).verify(receiver.received[0].body, receiver.received[0].headers)

    async def test_each_try_has_the_same_id_and_bytes_and_a_signature_of_its_own(self, receiver: Receiver) -> None:
        """EV-01."""
        moments = iter([NOON, NOON + timedelta(seconds=7)])
        sink = WebhookSink(
            WebhookConfig(name="hook", url=receiver.url, secrets=(OLD,), allowed=receiver.allowed),
            lambda: next(moments),
        )
        for _ in range(2):
            await sink.deliver(await a_fact())
        await sink.close()
        first, second = receiver.received
        assert (first.event_id, first.body) == (second.event_id, second.body)
        assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 7
        assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


class TestAnswers:
    @pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
    async def test_any_2xx_is_taken(self, receiver: Receiver, sink: WebhookSink, code: int) -> None:
        receiver.answers = [status(code)]
        await sink.deliver(await a_fact())

    @pytest.mark.parametrize("code", [300, 301, 302, 307, 308, 400, 401, 404, 409, 429, 500, 503])
    async def test_everything_else_is_a_failure(self, receiver: Receiver, sink: WebhookSink, code: int) -> None:
        receiver.answers = [status(code)]
        with pytest.raises(DeliveryFailed, match=str(code)):
            await sink.deliver(await a_fact())

    async def test_410_means_never_again(self, receiver: Receiver, sink: WebhookSink) -> None:
        """EV-05."""
        receiver.answers = [status(410)]
        with pytest.raises(SinkGone):
            await sink.deliver(await a_fact())

    async def test_a_redirect_is_not_followed(self, receiver: Receiver, sink: WebhookSink) -> None:
        """V36."""
        async with receiving() as inner:
            receiver.answers = [status(307, f"Location: {inner.url}")]
            with pytest.raises(DeliveryFailed, match="307"):
                await sink.deliver(await a_fact())
            assert inner.received == []

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            (None, None),
            ("120", 120.0),
            (" 7 ", 7.0),
            ("Fri, 15 Jan 2027 12:01:00 GMT", 60.0),
            ("Fri, 15 Jan 2027 11:00:00 GMT", 0.0),
            ("-1", None),
            ("soon", None),
            ("9" * 400, None),
            ("Fri, 15 Jan 2027 12:01:00 +" + "9" * 30, None),
            ("1.5", None),
            ("", None),
        ],
    )
    def test_a_wish_for_rest_is_understood_or_ignored(self, header: str | None, seconds: float | None) -> None:
        assert seconds_in(header, NOON) == seconds

    async def test_a_wish_for_rest_is_passed_on(self, receiver: Receiver, sink: WebhookSink) -> None:
        """EV-01."""
        receiver.answers = [status(429, "Retry-After: 90")]
        with pytest.raises(DeliveryFailed) as failed:
            await sink.deliver(await a_fact())
        assert failed.value.retry_after == 90.0

    async def test_a_connection_is_used_again(self, receiver: Receiver, sink: WebhookSink) -> None:
        peers = set()

        async def note(_request: Received, writer: asyncio.StreamWriter) -> None:
            peers.add(writer.get_extra_info("peername"))
            writer.write(OK)

        receiver.answers = [note]
        for _ in range(3):
            await sink.deliver(await a_fact())
        assert len(peers) == 1


class TestHostileReceivers:
    """EV-09."""

    async def test_one_that_says_nothing_is_given_up(self, receiver: Receiver) -> None:
        gone = asyncio.Event()

        async def be_silent(_request: Received, _writer: asyncio.StreamWriter) -> None:
            await gone.wait()

        receiver.answers = [be_silent]
        sink = sink_to(receiver, timeout=0.2)
        with pytest.raises(DeliveryFailed, match="no answer within"):
            await sink.deliver(await a_fact())
        gone.set()
        await sink.close()

    async def test_endless_headers_end_by_themselves(self, receiver: Receiver, sink: WebhookSink) -> None:
        sent = 0

        async def never_end(_request: Received, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                writer.write(b"X-Header: " + b"x" * 4000 + b"\r\n")
                sent += 4000
                await writer.drain()

        receiver.answers = [never_end]
        with pytest.raises(DeliveryFailed):
            await sink.deliver(await a_fact())
        assert sent < 64 * 1024 * 1024

    @pytest.mark.parametrize("announced", ["Content-Length: 10737418240", "Transfer-Encoding: chunked"])
    async def test_of_an_endless_answer_only_the_status_counts(
        self, receiver: Receiver, sink: WebhookSink, announced: str
    ) -> None:
        sent = 0

        async def never_end(_request: Received, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(f"HTTP/1.1 200 OK\r\n{announced}\r\n\r\n".encode())
            while True:
                writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
                sent += 65536
                await writer.drain()

        receiver.answers = [never_end]
        await sink.deliver(await a_fact())
        assert sent < 256 * MOST_ANSWER

    async def test_a_bomb_is_not_unpacked(self, receiver: Receiver, sink: WebhookSink) -> None:
        bomb = gzip.compress(bytes(50_000_000))[:MOST_ANSWER]
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
        receiver.answers = [head.encode() + bomb]
        await sink.deliver(await a_fact())

    async def test_one_that_is_no_http_server_is_a_failure(self, receiver: Receiver, sink: WebhookSink) -> None:
        receiver.answers = [b"SSH-2.0-OpenSSH_9.6\r\n\r\n"]
        with pytest.raises(DeliveryFailed):
            await sink.deliver(await a_fact())

    async def test_one_that_is_not_there_is_a_failure_without_a_secret(self, receiver: Receiver) -> None:
        url = "http://127.0.0.1:1/hook?token=s3cret-in-the-url"
        sink = sink_to(receiver, url=url, allowed=frozenset({("127.0.0.1", 1)}))
        with pytest.raises(DeliveryFailed) as failed:
            await sink.deliver(await a_fact())
        await sink.close()
        assert "s3cret" not in str(failed.value)


class TestForbiddenAddresses:
    """V36, EV-11."""

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"])
    async def test_the_own_network_is_not_reached_by_any_spelling(self, receiver: Receiver, host: str) -> None:
        sink = sink_to(receiver, url=f"http://{host}:{receiver.port}/", allowed=frozenset())
        with pytest.raises(DeliveryFailed):
            await sink.deliver(await a_fact())
        await sink.close()
        assert receiver.received == []

    async def test_the_allowlist_opens_exactly_one_port(self, receiver: Receiver) -> None:
        async with receiving() as other:
            sink = sink_to(receiver, url=other.url)
            with pytest.raises(DeliveryFailed, match="not allowed"):
                await sink.deliver(await a_fact())
            await sink.close()
            assert other.received == []

    async def test_a_proxy_in_the_environment_is_not_used(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with named_as_proxy(monkeypatch) as proxy:
            sink = sink_to(receiver)
            await sink.deliver(await a_fact())
            await sink.close()
            assert (len(receiver.received), proxy.received) == (1, [])
