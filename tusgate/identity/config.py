"""What the identity room can be told; `app.py` builds it from the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tusgate.core.access import USER, Permission

if TYPE_CHECKING:
    from collections.abc import Mapping

ASYMMETRIC: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
SYMMETRIC: Final = frozenset({"HS256", "HS384", "HS512"})


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerConfig:
    """One issuer of JWTs, pinned: nothing about it is ever taken from a token.

    Attributes:
        issuer: what `iss` has to be, character by character.
        audience: what `aud` has to be or contain.
        jwks_url: where its public keys are; None with `key`.
        key: its public key in PEM, or the shared secret of HS256, HS384 and HS512; None with `jwks_url`.
        algorithm: of `key`; with `jwks_url` that of the keys that name none.
        leeway: seconds that clocks may differ.
        tenant: of everybody, unless `tenant_claim` is given.
        tenant_claim, owner_claim, permissions_claim: where these are in the claims; dots lead into objects.
        owner_prefix: put before each owner, so that two issuers do not mean the same by `sub`.
        permissions: of everybody, unless `permissions_claim` is given.
        permission_map: value in `permissions_claim` to the permissions that it gives; other values give none.
    """

    issuer: str
    audience: str
    jwks_url: str | None = None
    key: str | None = field(default=None, repr=False)
    algorithm: str | None = None
    leeway: float = 30.0
    tenant: str = "default"
    tenant_claim: str | None = None
    owner_claim: str = "sub"
    owner_prefix: str = ""
    permissions: frozenset[Permission] = USER
    permissions_claim: str | None = None
    permission_map: Mapping[str, frozenset[Permission]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyConfig:
    """What a proxy that has authenticated the user says about them; names of fields in lower case.

    Attributes:
        user_field: the owner.
        groups_field: groups, separated by commas.
        tenant_field: the tenant; None = everybody is of tenant `default`.
        permissions: of everybody.
        admin_groups: whose members have the permission admin too.
    """

    user_field: str = "x-forwarded-user"
    groups_field: str = "x-forwarded-groups"
    tenant_field: str | None = None
    permissions: frozenset[Permission] = USER
    admin_groups: frozenset[str] = frozenset()
