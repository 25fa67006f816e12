"""`tusgate usage`: what tenants have."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tusgate.cli.report import stdout_console
from tusgate.core.quota import Quota
from tusgate.settings import Loaded  # noqa: TC001 - flags.py evaluates the annotations
from tusgate.settings.kinds import show_size
from tusgate.settings.tenants import load_tenancy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tusgate.core.quota import Usage
    from tusgate.core.tenant import Tenant


def usage(
    loaded: Loaded,
    *,
    recount: Annotated[
        bool,
        typer.Option("--recount", help="Count the uploads of tenants with limits anew; tell and mend what differs."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print how many bytes, files and unfinished uploads each tenant has, and may have.

    Bytes count from the moment at which an upload is declared. May run beside gateways.
    """
    # Not at the top: the other commands start faster without the server.
    from tusgate.app import usages

    tenants = {tenant.name: tenant for tenant in load_tenancy(loaded.settings).tenants or ()}
    found, recounted = usages(loaded.settings, recount=recount)
    wrong = {name: before for name, (before, after) in recounted.items() if before != after}
    if as_json:
        print(json.dumps([_entry(name, each, tenants, wrong) for name, each in sorted(found.items())], indent=2))
        return
    table = Table("Tenant", "Bytes", "of", "Files", "of", "Unfinished", "of", box=None, pad_edge=False)
    for name, each in sorted(found.items()):
        tenant = tenants.get(name)
        limits = (tenant and tenant.quota) or Quota()
        table.add_row(
            name,
            *(show_size(each.bytes), "" if limits.bytes is None else show_size(limits.bytes)),
            *(str(each.files), _number(limits.files)),
            *(str(each.unfinished), _number(limits.unfinished)),
        )
    console = stdout_console()
    console.print(table)
    for name, before in wrong.items():
        console.print(f"{name}: mended, {before} had been noted", highlight=False)


def _number(limit: int | None) -> str:
    return "" if limit is None else str(limit)


def _entry(name: str, found: Usage, tenants: Mapping[str, Tenant], wrong: Mapping[str, Usage]) -> dict[str, object]:
    quota = tenants[name].quota if name in tenants else None
    entry = {"tenant": name, **asdict(found), "quota": None if quota is None else asdict(quota)}
    return entry | ({"noted_before": asdict(wrong[name])} if name in wrong else {})
