"""What settings and tenants file say together of files that share objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusgate.core.dedup import Dedup

if TYPE_CHECKING:
    from tusgate.settings.model import Settings
    from tusgate.settings.tenants import Tenancy


def dedup_of(settings: Settings, tenancy: Tenancy) -> Dedup:
    """Return whose equal files share an object."""
    usual = settings.dedup == "on"
    tenants = {tenant.name: usual if tenant.dedup is None else tenant.dedup for tenant in tenancy.tenants or ()}
    others = tenancy.others
    return Dedup(usual if others is None or others.dedup is None else others.dedup, tenants)
