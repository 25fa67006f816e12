"""Checking one signed token against one key: the only place that calls PyJWT's decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jwt

from tusgate.core.errors import CredentialsExpired, InvalidCredentials

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.identity.compact import Unverified
    from tusgate.identity.keys import Key


def verified_claims(
    credential: str,
    said: Unverified,
    key: Key,
    *,
    audience: str,
    issuer: str | None,
    required: Sequence[str],
    leeway: float,
) -> dict[str, Any]:
    """Return the claims of `credential` once its signature, audience, issuer and times are found to be right.

    Args:
        credential: the compact form.
        said: what it says about itself; only used to refuse more.
        key: that it must be signed with, by the one algorithm of the key, whatever `alg` says.
        audience: that has to be the one, or among those, in `aud`.
        issuer: that has to be `iss`; None = not looked at.
        required: claims that must be there.
        leeway: seconds that clocks may differ.

    Raises:
        CredentialsExpired: all is right, but its time is over.
        InvalidCredentials: anything else; the reason is for the log.
    """
    for name in ("exp", "iat", "nbf"):
        value = said.claims.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidCredentials(f"the claim {name} is not a number")
    try:
        claims: dict[str, Any] = jwt.decode(
            credential,
            key.material,
            algorithms=[key.algorithm],
            audience=audience,
            issuer=issuer,
            leeway=leeway,
            options={"require": list(required)},
        )
    except jwt.ExpiredSignatureError:
        raise CredentialsExpired from None
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
        raise InvalidCredentials(f"the token is not accepted ({type(error).__name__})") from None
    return claims
