"""What settings and tenants file say together of the processing of finished files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusgate.core.errors import SettingsError
from tusgate.core.processing import Chosen, Declared, Processing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tusgate.core.tenant import Tenant
    from tusgate.settings.model import Settings
    from tusgate.settings.tenants import Tenancy


def names_of_processors(settings: Settings, tenancy: Tenancy) -> list[str]:
    """Return the processors that anybody's files get, without external ones."""
    named = [*settings.processors, *(name for tenant in tenancy.tenants or () for name in tenant.processors or ())]
    external = {name for name, _ in settings.external_processors}
    return [name for name in dict.fromkeys(named) if name not in external]


def known_processors(settings: Settings, tenancy: Tenancy) -> frozenset[str]:
    """Return the processors that anybody's files get, external ones included."""
    return frozenset((*names_of_processors(settings, tenancy), *(name for name, _ in settings.external_processors)))


def processing_of(settings: Settings, tenancy: Tenancy, installed: Sequence[Declared]) -> Processing | None:
    """Return which jobs files get; None: none at all.

    Args:
        settings: of this process.
        tenancy: of the tenants file.
        installed: the processors of `names_of_processors`.

    Raises:
        SettingsError: somebody's files would wait for ever for a processor that they do not get.
    """
    declared = (*installed, *(Declared(name, 1, types) for name, types in settings.external_processors))
    if not declared:
        return None
    external = tuple(name for name, _ in settings.external_processors)
    usual = Chosen((*settings.processors, *external), frozenset(settings.publish_when_clean))
    tenants = {tenant.name: _chosen(tenant, usual) for tenant in tenancy.tenants or ()}
    others = usual if tenancy.others is None else _chosen(tenancy.others, usual)
    return Processing(declared, others, tenants)


def _chosen(tenant: Tenant, usual: Chosen) -> Chosen:
    names = usual.processors if tenant.processors is None else tenant.processors
    gates = usual.gates if tenant.publish_when_clean is None else frozenset(tenant.publish_when_clean)
    for name in sorted(gates - set(names)):
        raise SettingsError(f"tenants.{tenant.name}.publish_when_clean: expected names of its processors, got {name}")
    return Chosen(names, gates)
