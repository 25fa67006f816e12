"""`tusgate doctor`: is all there that a gateway with these settings needs?"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from tusgate.cli.exits import Exit
from tusgate.cli.report import stdout_console
from tusgate.settings import Loaded, Settings
from tusgate.telemetry import configure_logging

if TYPE_CHECKING:
    from tusgate.core.checkup import Finding

_STYLES: Final = {"fine": "green", "mended": "green", "doubtful": "yellow", "wrong": "bold red"}
_WIDTH: Final = max(map(len, _STYLES))


def doctor(
    loaded: Loaded,
    *,
    fix_cors: Annotated[
        bool,
        typer.Option(
            "--fix-cors", help="Put a CORS rule on buckets that do not let pages send parts of direct uploads."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead of text.")] = False,
) -> None:
    """Look at settings, database, stores, clocks, and what pages may do with buckets. Exits with 1 if a thing is wrong.

    Changes nothing without --fix-cors; a byte that is sent to each store is thrown away. May run beside gateways.
    """
    configure_logging(loaded.settings.model_copy(update={"log_level": "critical"}))
    # Not at the top: the other commands start faster without the server.
    from tusgate.app import check_up
    from tusgate.core.checkup import Finding, Health

    tell = _print_json if as_json else _print
    tell(Finding("settings", Health.FINE, _settings_told(loaded)))
    if not check_up(loaded.settings, tell, fix_cors=fix_cors):
        sys.exit(Exit.FAILED)


def _settings_told(loaded: Loaded) -> str:
    origins = [loaded.origin(name) for name in Settings.model_fields]
    given = sum(origin != "default" for origin in origins)
    return f"{given} given, {len(origins) - given} by default"


def _print(finding: Finding) -> None:
    console = stdout_console()
    line = Text.assemble((f"{finding.health:<{_WIDTH}}", _STYLES[finding.health]), f"  {finding.what}: {finding.told}")
    console.print(line, highlight=False, soft_wrap=True)
    if finding.advice:
        console.print(Text(f"{'':<{_WIDTH}}  -> {finding.advice}"), highlight=False, soft_wrap=True)


def _print_json(finding: Finding) -> None:
    fields = {"what": finding.what, "health": finding.health, "told": finding.told, "advice": finding.advice}
    print(json.dumps(fields), flush=True)
