"""What settings and tenants file say together of files that share objects, and of those that need not be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusgate.core.dedup import Dedup
from tusgate.core.errors import SettingsError
from tusgate.settings.model import wrong

if TYPE_CHECKING:
    from tusgate.settings.model import Settings
    from tusgate.settings.tenants import Tenancy


def dedup_of(settings: Settings, tenancy: Tenancy) -> Dedup:
    """Return whose equal files share an object."""
    usual = settings.dedup == "on"
    tenants = {tenant.name: usual if tenant.dedup is None else tenant.dedup for tenant in tenancy.tenants or ()}
    others = tenancy.others
    return Dedup(usual if others is None or others.dedup is None else others.dedup, tenants)


def instant_of(settings: Settings, tenancy: Tenancy) -> Dedup:
    """Return who may have files without sending them: tenants whose equal files share an object, as they choose.

    Raises:
        SettingsError: somebody was to have it who cannot: without sharing, without keys, or without the API.
    """
    dedup, usual = dedup_of(settings, tenancy), settings.instant_upload == "on"
    if usual and not dedup.is_on_anywhere:
        raise wrong("instant_upload", "off, because TUSGATE_DEDUP is, for everybody", "on")
    for tenant in tenancy.tenants or ():
        if tenant.instant and not dedup.is_on(tenant.name):
            raise SettingsError(
                f'{settings.tenants_file}: tenants.{tenant.name}.instant_upload: expected dedup = "on" beside it'
            )
    wanted = {
        tenant.name: dedup.is_on(tenant.name) and (usual if tenant.instant is None else tenant.instant)
        for tenant in tenancy.tenants or ()
    }
    others = tenancy.others
    of_others = usual if others is None or others.instant is None else others.instant
    instant = Dedup(dedup.usual and of_others, wanted)
    if instant.is_on_anywhere and not settings.instant_keys:
        raise wrong("instant_keys", "a value, because known files need not be sent")
    if instant.is_on_anywhere and not settings.offers_api:
        raise wrong("api", "on, because known files need not be sent", "off")
    return instant
