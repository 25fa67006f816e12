"""The gate that every request about uploads passes: who sends it, and may they do that?

Every protocol asks it after its version check and before anything else, so before a byte of the body is read or
`100 Continue` sent. Nothing behind it takes a request: the service wants the `Principal` that only the gate gives.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from aiohttp import web

from tusgate.core.access import Presented, Principal, Route, check_current, check_permission
from tusgate.core.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tusgate.ports import Authority
    from tusgate.web.location import TrustedProxies

_PRINCIPAL: Final = web.RequestKey("principal", Principal)
_SCHEME: Final = "bearer "


class OpenToAll:
    """The authority of a gateway without one: everybody is the same owner, whatever they present."""

    def __init__(self) -> None:
        self._everybody = Principal()

    async def identify(self, _presented: Presented) -> Principal:
        """Return everybody."""
        return self._everybody

    async def reaffirm(self, _principal: Principal) -> None:
        """Nothing was proved, so nothing can be revoked."""

    async def close(self) -> None:
        """There is nothing to release."""


class Gate:
    """Admits requests.

    Args:
        authority: knows who sends a request.
        proxies: whose word about users counts.
        now: seconds since 1970.
    """

    def __init__(self, authority: Authority, proxies: TrustedProxies, now: Callable[[], float] = time.time) -> None:
        self._authority = authority
        self._proxies = proxies
        self._now = now

    async def identify(self, request: web.Request, token: str | None = None) -> Principal:
        """Return who sends `request`; asked once per request. Raises like `ports.Authority.identify`.

        Args:
            request: whose fields present something.
            token: what stands in the path instead, for clients that cannot send fields.
        """
        if _PRINCIPAL in request:
            return request[_PRINCIPAL]
        presented = self._presented(request) if token is None else Presented(bearer=token)
        principal = await self._authority.identify(presented)
        check_current(principal, self._now())
        request[_PRINCIPAL] = principal
        return principal

    async def admit(self, request: web.Request, method: str, tail: str) -> Principal:
        """Return who sends `request`, if they may use the effective `method` on the path `tail`.

        Raises:
            Unauthenticated, Unavailable: see `ports.Authority.identify`.
            PermissionMissing: it is known who, and they may not; whatever the path names, and whether or not it exists.
        """
        return await self.admit_to(request, Route.UPLOADS if tail == "" else Route.UPLOAD, method)

    async def admit_to(self, request: web.Request, route: Route, method: str, token: str | None = None) -> Principal:
        """Return who sends `request`, if they may use the effective `method` on `route`. Raises like `admit`."""
        principal = await self.identify(request, token)
        check_permission(principal, route, method)
        return principal

    def _presented(self, request: web.Request) -> Presented:
        vouched = _by_name(request) if self._proxies.sent(request) else {}
        return Presented(bearer=_bearer(request), vouched=vouched)


def _bearer(request: web.Request) -> str | None:
    """Return the token of `Authorization: Bearer`; None without the field, or with another scheme.

    RFC 9110, 11.6.2: one field. Of two, the next server may believe the other one.
    """
    values = request.headers.getall("Authorization", [])
    if len(values) > 1:
        raise InvalidRequest("Authorization", "the field once")
    if not values or values[0][: len(_SCHEME)].lower() != _SCHEME:
        return None
    return values[0][len(_SCHEME) :].strip()


def _by_name(request: web.Request) -> Mapping[str, tuple[str, ...]]:
    return {name.lower(): tuple(request.headers.getall(name)) for name in request.headers}
