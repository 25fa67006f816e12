"""Users that a trusted proxy has authenticated and names in header fields, as oauth2-proxy does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tusgate.core.access import Permission, Principal, scope_of
from tusgate.core.errors import InvalidCredentials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tusgate.core.access import Presented
    from tusgate.identity.config import ProxyConfig

DEFAULT_TENANT: Final = "default"


class VouchedUsers:
    """A verifier that takes the word of trusted proxies. The web room says which requests those have sent."""

    def __init__(self, config: ProxyConfig) -> None:
        self._config = config

    async def verify(self, presented: Presented) -> Principal | None:
        """Return the user whom the proxy names; None when it names nobody, or no proxy is there."""
        config, fields = self._config, presented.vouched
        user = _single(fields, config.user_field)
        if not user:
            return None
        tenant = DEFAULT_TENANT if config.tenant_field is None else _single(fields, config.tenant_field)
        groups = {group.strip() for group in _single(fields, config.groups_field).split(",")}
        extra = {Permission.ADMIN} if groups & config.admin_groups else frozenset[Permission]()
        return Principal(scope=scope_of(tenant, user), permissions=config.permissions | extra, proof="proxy")

    async def reaffirm(self, _principal: Principal) -> None:
        """Nothing: the proxy lets a request through or does not."""

    async def close(self) -> None:
        """There is nothing to release."""


def _single(fields: Mapping[str, tuple[str, ...]], name: str) -> str:
    """Return the value of a field, empty without one.

    Raises:
        InvalidCredentials: the field came twice: the client's own may be among them, and nobody knows which it is.
    """
    values = fields.get(name, ())
    if len(values) > 1:
        raise InvalidCredentials(f"{name}: expected the field once; the proxy must replace what clients send")
    return values[0].strip() if values else ""
