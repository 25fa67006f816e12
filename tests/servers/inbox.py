"""A broker as tests of sinks see it: how a sink to it is declared, and what has arrived there."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from tests.servers.process import ServerProcess


@dataclass(frozen=True)
class Arrived:
    """One message, as a reader of the broker has it.

    Attributes:
        key: what keeps the order, where the broker has that.
        headers: what stands beside the body.
    """

    body: bytes
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event


class Inbox(Protocol):
    """A place in a broker of the test's own."""

    def declared(self, folder: Path, **changes: Any) -> dict[str, Any]:
        """Return the declaration of a sink that leads here; secrets go to files in `folder`."""

    @property
    def password(self) -> str:
        """Return what no log may show."""

    @property
    def elsewhere(self) -> dict[str, Any]:
        """Return what makes a declaration lead to something that is not there, in the same broker."""

    async def arrived(self) -> list[Arrived]:
        """Return all that has arrived, the oldest first; may be called again and again."""


class Broker(Protocol):
    """A running broker.

    Attributes:
        port: where it listens.
        control: kill and start it; what it has confirmed it still has.
    """

    @property
    def port(self) -> int: ...

    @property
    def control(self) -> ServerProcess: ...

    def inbox(self) -> AbstractAsyncContextManager[Inbox]:
        """Give a place that is empty, and removed afterwards."""


@dataclass(frozen=True)
class BrokerWithTls:
    """A running broker that also speaks TLS, on another port.

    Attributes:
        port: where it listens.
        tls_port: where it speaks TLS.
        ca_file: certificate that it shows there.
        password: of its user.
        control: kill and start it.
    """

    port: int
    tls_port: int
    ca_file: str
    password: str
    control: ServerProcess
