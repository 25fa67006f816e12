"""What all brokers have in common: one connection, made for the first event, and anew after it was lost.

Rule 1: an event is taken when the broker has confirmed it; until then nobody knows, and it is told again.
Rule 2: what a broker answers to one event leaves the connection alone. Anything else ends it: the next event makes a
new one. Libraries that connect again by themselves are told not to, so that there is one who decides.
Rule 3: no secret is in an error, whatever a library writes into its own.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

from tusgate.core.errors import DeliveryFailed
from tusgate.sinks.document import CONTENT_TYPE, attributes_of, document_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from tusgate.core.events import Event
    from tusgate.ports import Sink

CLIENT_NAME: Final = "tusgate"
MOST_SAID: Final = 200
"""Characters of an error of a library that are passed on."""
FAREWELL: Final = 2.0
"""Seconds that a connection gets to end in good order."""
_PLAIN: Final = ("id", "type", "tenant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who we are to a broker.

    Attributes:
        user, password: empty: we are not asked.
        encrypted: TLS is spoken, and the broker's certificate checked.
        ca_file: whose certificates are believed; None: those of the system.
        cert_file, key_file: the certificate that we show.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    encrypted: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        """Return how to encrypt, None without TLS. Raises OSError or ValueError for files that are no PEM."""
        if not self.encrypted:
            return None
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file, lambda: "")  # never asks on the terminal
        return context


@dataclass(frozen=True, slots=True)
class Message:
    """An event on its way to a broker.

    Attributes:
        event_id: the same for each try.
        upload_id: events with the same one keep their order.
        attributes: those of CloudEvents, as text.
        body: a CloudEvent in JSON: "structured mode", whatever the transport.
    """

    event_id: str
    upload_id: str
    attributes: Mapping[str, str]
    body: bytes

    def filled_in(self, template: str) -> str:
        """Return a name of which parts are the type or the tenant."""
        return template.replace("{type}", self.attributes["type"]).replace("{tenant}", self.attributes["tenant"])

    def headers(self, prefix: str) -> dict[str, str]:
        """Return the attributes as headers, which bindings allow beside structured mode: brokers route by them."""
        return {f"{prefix}{name}": value for name, value in self.attributes.items() if name != "datacontenttype"}

    @property
    def labels(self) -> dict[str, str]:
        """Return what stands beside the body where CloudEvents has no binding."""
        return {"content-type": CONTENT_TYPE} | {name: self.attributes[name] for name in _PLAIN}


def message_of(event: Event, source: str) -> Message:
    """Return what is sent; the same each time."""
    attributes = {"specversion": "1.0"} | {name: str(value) for name, value in attributes_of(event, source).items()}
    attributes["time"] = event.occurred_at.isoformat().replace("+00:00", "Z")
    return Message(str(event.id), event.upload.id, attributes, document_of(event, source))


class Link(Protocol):
    """A connection to a broker."""

    @property
    def usable(self) -> bool:
        """Tell whether it can still be used, as far as is known without asking."""

    async def publish(self, message: Message) -> None:
        """Send `message` and wait until the broker has confirmed it.

        Raises:
            DeliveryFailed: the broker has refused it, and the connection can be used for others.
            Exception: anything else means that nobody knows, and the connection is given up.
        """

    async def close(self) -> None:
        """End it. May raise anything."""


class BrokerSink:
    """The port `Sink` on a broker.

    Args:
        name: of the sink.
        connect: makes a connection that can publish; leaves nothing behind when it fails.
        timeout: seconds for one try, connecting included.
        source: see `document_of`.
        secrets: what no error may show.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Link]],
        *,
        timeout: float = 15.0,
        source: str = "/files",
        secrets: tuple[str, ...] = (),
    ) -> None:
        self._name = name
        self._connect = connect
        self._timeout = timeout
        self._source = source
        self._secrets = tuple(form for secret in secrets if secret for form in {secret, quote(secret, safe="")})
        self._linking: asyncio.Task[Link] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """See `ports.Sink.name`."""
        return self._name

    async def deliver(self, event: Event) -> None:
        """See `ports.Sink.deliver`."""
        message = message_of(event, self._source)
        link: Link | None = None
        try:
            async with asyncio.timeout(self._timeout):
                link = await self._linked()
                await link.publish(message)
        except DeliveryFailed as refused:
            raise DeliveryFailed(self._without_secrets(str(refused))) from None
        except TimeoutError:
            self._drop(link)
            raise DeliveryFailed(f"not confirmed within {self._timeout:g} s") from None
        except Exception as error:  # noqa: BLE001 - each library has errors of its own, and may have forgotten some
            self._drop(link)
            raise DeliveryFailed(self._said(error)) from None

    async def _linked(self) -> Link:
        """Return the connection; all who wait for a new one wait for the same."""
        linking = self._linking
        if linking is not None and linking.done():
            if _failed(linking):
                self._linking = None
            elif not linking.result().usable:
                self._drop(linking.result())
        if self._linking is None:
            self._linking = asyncio.create_task(self._made())
            self._linking.add_done_callback(_failed)  # nobody may be left to look at what went wrong
        return await asyncio.shield(self._linking)

    async def _made(self) -> Link:
        async with asyncio.timeout(self._timeout):
            return await self._connect()

    def _drop(self, link: Link | None) -> None:
        """Have the next event make a new connection, if `link` is the one in use."""
        linking = self._linking
        if link is None or linking is None or not linking.done() or _failed(linking) or linking.result() is not link:
            return
        self._linking = None
        task = asyncio.create_task(end(link))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """See `ports.Sink.close`."""
        linking, self._linking = self._linking, None
        if linking is not None:
            linking.cancel()
            await asyncio.wait([linking])
            if not _failed(linking):
                await end(linking.result())
        await asyncio.gather(*self._ending)

    def _said(self, error: Exception) -> str:
        text = " ".join(str(error).split())[:MOST_SAID]
        return self._without_secrets(f"{type(error).__name__}: {text}" if text else type(error).__name__)

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _failed(task: asyncio.Task[Link]) -> bool:
    return task.cancelled() or task.exception() is not None


async def end(link: Link) -> None:
    """End a connection, and never wait for long: some libraries do for ever when TLS has failed."""
    with suppress(Exception):  # it is given up in any case
        async with asyncio.timeout(FAREWELL):
            await link.close()


if TYPE_CHECKING:
    _: type[Sink] = BrokerSink
