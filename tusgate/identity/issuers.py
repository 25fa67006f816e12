"""JWTs of the issuers that the settings pin, turned into tenants, owners and permissions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tusgate.core.access import Principal, scope_of
from tusgate.core.errors import InvalidCredentials
from tusgate.identity.compact import claim, looks_like_jwt, read_unverified
from tusgate.identity.keys import FetchedKeys, Keys, PinnedKey
from tusgate.identity.remembered import Remembered
from tusgate.identity.signed import verified_claims

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tusgate.core.access import Permission, Presented
    from tusgate.identity.config import IssuerConfig

REQUIRED: Final = ("exp", "iat", "aud", "sub", "iss")
BELIEVED_FOR: Final = 300.0
"""Seconds for which a token that was verified is not verified again, if it lasts so long."""


class Issuers:
    """A verifier of JWTs.

    Args:
        issuers: pinned ones; their names differ.
        now: seconds since 1970.
        clock: seconds that only move forward.
    """

    def __init__(self, issuers: Sequence[IssuerConfig], now: Callable[[], float], clock: Callable[[], float]) -> None:
        self._issuers = {config.issuer: (config, _keys_of(config, clock)) for config in issuers}
        self._remembered = Remembered(BELIEVED_FOR, now)

    async def verify(self, presented: Presented) -> Principal | None:
        """Return whom a JWT of a pinned issuer names; None when nothing like that is presented."""
        credential = presented.bearer
        if credential is None or not looks_like_jwt(credential):
            return None
        known = self._remembered.find(credential)
        if known is not None:
            return known
        said = read_unverified(credential)
        issuer = said.claims.get("iss")
        if not isinstance(issuer, str) or issuer not in self._issuers:
            return None
        config, keys = self._issuers[issuer]
        claims = verified_claims(
            credential,
            said,
            await keys.find(said.key_id),
            audience=config.audience,
            issuer=config.issuer,
            required=REQUIRED,
            leeway=config.leeway,
        )
        return self._remembered.keep(credential, _principal(config, claims))

    async def reaffirm(self, _principal: Principal) -> None:
        """Nothing: a JWT counts until its time is over, and that it is over counts when a request begins."""

    async def close(self) -> None:
        """Release connections to issuers. Idempotent."""
        for _, keys in self._issuers.values():
            await keys.close()


def _keys_of(config: IssuerConfig, clock: Callable[[], float]) -> Keys:
    if config.jwks_url is not None:
        return FetchedKeys(config.jwks_url, config.algorithm, clock)
    assert config.key is not None
    assert config.algorithm is not None
    return PinnedKey(config.key, config.algorithm)


def _principal(config: IssuerConfig, claims: dict[str, Any]) -> Principal:
    tenant = config.tenant if config.tenant_claim is None else _name(claims, config.tenant_claim)
    owner = config.owner_prefix + _name(claims, config.owner_claim)
    return Principal(
        scope=scope_of(tenant, owner),
        permissions=_permissions(config, claims),
        until=float(claims["exp"]) + config.leeway,
        proof=f"jwt:{config.issuer}",
    )


def _name(claims: dict[str, Any], path: str) -> str:
    value = claim(claims, path)
    if not isinstance(value, str) or not value:
        raise InvalidCredentials(f"the claim {path} is not a text")
    return value


def _permissions(config: IssuerConfig, claims: dict[str, Any]) -> frozenset[Permission]:
    """Return what the claims give: a list of values, or one text of values with blanks between (OAuth's `scope`)."""
    if config.permissions_claim is None:
        return config.permissions
    value = claim(claims, config.permissions_claim)
    values = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    given = (config.permission_map.get(name, frozenset()) for name in values if isinstance(name, str))
    return frozenset().union(*given)
