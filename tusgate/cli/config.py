"""`tusgate config`: what is in force, and where it was said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from tusgate.cli.report import stdout_console
from tusgate.settings import Loaded, Settings
from tusgate.settings.dedup import instant_of
from tusgate.settings.model import ENV_PREFIX, shown
from tusgate.settings.tenants import load_tenancy, shown_tables

if TYPE_CHECKING:
    from collections.abc import Iterator


def config(
    loaded: Loaded,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print every setting: its effective value (secrets hidden) and where it comes from. Tenants, too."""
    instant_of(loaded.settings, load_tenancy(loaded.settings))  # a wrong file is told, like a wrong setting
    rows = [*_rows(loaded), *_tenant_rows(loaded)]
    if as_json:
        print(json.dumps([{"name": name, "value": value, "origin": origin} for name, value, origin in rows], indent=2))
        return
    table = Table("Setting", "Value", "From", box=None, pad_edge=False)
    for name, value, origin in rows:
        table.add_row(name, value, origin, style="dim" if origin == "default" else None)
    console = stdout_console()
    console.print(table)
    console.print(f"\nUploads are created at {loaded.settings.endpoint_url}", highlight=False)
    console.print(f"Offsets are kept in {database_of(loaded.settings)}", highlight=False)
    console.print(f"Objects are kept in {store_of(loaded.settings)}", highlight=False)


def _rows(loaded: Loaded) -> Iterator[tuple[str, str, str]]:
    for name in Settings.model_fields:
        value = shown(name, getattr(loaded.settings, name))
        yield f"{ENV_PREFIX}{name.upper()}", value, loaded.origin(name)


def _tenant_rows(loaded: Loaded) -> Iterator[tuple[str, str, str]]:
    for name, value in shown_tables(loaded.settings):
        yield name, value, str(loaded.settings.tenants_file)


def database_of(settings: Settings) -> str:
    """Return where offsets are kept, in words and without secrets."""
    path = settings.sqlite_path
    return f"SQLite {path}" if path is not None else shown("database_url", settings.database_url)


def store_of(settings: Settings) -> str:
    """Return where objects are kept, in words."""
    if settings.store_dir is not None:
        return f"directory {settings.store_dir / 'objects'}"
    return f"bucket {settings.s3_bucket} at {settings.s3_endpoint} (profile {settings.profile})"
