"""All ways to prove who one is, asked in turn: the gateway's `ports.Authority`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

from tusgate.core.access import Principal
from tusgate.core.errors import InvalidCredentials, Unauthenticated
from tusgate.telemetry import LogEvent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.core.access import Presented
    from tusgate.ports import Authority

log = structlog.get_logger(__name__)


class Verifier(Protocol):
    """One way to prove who one is."""

    async def verify(self, presented: Presented) -> Principal | None:
        """Return who presents this; None when it is not of this verifier's kind.

        Raises:
            InvalidCredentials, CredentialsExpired: it is of this kind, and does not count.
            Unavailable: that cannot be found out now.
        """

    async def reaffirm(self, principal: Principal) -> None:
        """See `ports.Authority.reaffirm`; does nothing about a principal that another verifier has found."""

    async def close(self) -> None:
        """Release connections. Idempotent."""


class CombinedAuthority:
    """Asks verifiers in their order; the first that knows the kind of credential decides.

    Args:
        verifiers: in the order in which they are asked.
        takes_bearers: whether any of them takes bearer tokens. If none does, the field is somebody else's, such as that
            of a proxy in front.
        open_to_all: whether those who present nothing are let in, as one owner. Wrong credentials never are: whoever
            sends some does not want to end up among strangers.
    """

    def __init__(self, verifiers: Sequence[Verifier], *, takes_bearers: bool, open_to_all: bool) -> None:
        self._verifiers = tuple(verifiers)
        self._takes_bearers = takes_bearers
        self._everybody = Principal() if open_to_all else None

    async def identify(self, presented: Presented) -> Principal:
        """See `ports.Authority.identify`."""
        try:
            return await self._identify(presented)
        except Unauthenticated as error:
            if presented.bearer is not None or error.code != Unauthenticated.code:
                log.info(LogEvent.IDENTITY_REFUSED, reason=str(error))
            # The reason is for the log: whoever tries out tokens is told nothing but the class.
            raise type(error) from None

    async def reaffirm(self, principal: Principal) -> None:
        """See `ports.Authority.reaffirm`."""
        for verifier in self._verifiers:
            await verifier.reaffirm(principal)

    async def close(self) -> None:
        """See `ports.Authority.close`."""
        for verifier in self._verifiers:
            await verifier.close()

    async def _identify(self, presented: Presented) -> Principal:
        for verifier in self._verifiers:
            principal = await verifier.verify(presented)
            if principal is not None:
                return principal
        if self._takes_bearers and presented.bearer is not None:
            raise InvalidCredentials("no issuer or kind of token that is accepted here")
        if self._everybody is None:
            raise Unauthenticated
        return self._everybody


if TYPE_CHECKING:
    _: type[Authority] = CombinedAuthority
