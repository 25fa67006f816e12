"""`tusgate gc`: what gateways clean up in the background, once and in the foreground."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from tusgate.cli.exits import Exit
from tusgate.cli.report import Report, counted
from tusgate.settings import Loaded  # noqa: TC001 - flags.py evaluates the annotations
from tusgate.telemetry import configure_logging

if TYPE_CHECKING:
    from tusgate.core.clockwatch import Verdict
    from tusgate.service.cleanup import Deed, Outcome, Thing


def gc(
    loaded: Loaded,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
    release: Annotated[
        bool,
        typer.Option("--release", help="Let uploads expire again after a jump of the clock has stopped that."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")] = False,
) -> None:
    """Expire abandoned uploads and remove what nothing needs any more; gateways do the same by themselves.

    Works from the database alone and may run at any time. Exits with 1 when something could not be removed, or when
    uploads do not expire because a clock seems to have jumped.
    """
    configure_logging(loaded.settings.model_copy(update={"log_level": "error"}))
    # Not at the top: the other commands start faster without the server.
    from tusgate.app import DRY_RUN_LIMIT, clean_up
    from tusgate.service.cleanup import Deed

    report = Report("Would be" if dry_run else "Done", "What", "Upload", "Key", as_json=as_json)
    counts: Counter[tuple[Deed, Thing]] = Counter()

    def tell(outcome: Outcome) -> None:
        counts[outcome.deed, outcome.thing] += 1
        style = "yellow" if outcome.deed is Deed.KEPT else None
        report.add(outcome.deed, outcome.thing, outcome.upload_id, outcome.key, style=style)

    verdict = clean_up(loaded.settings, tell, dry_run=dry_run, release=release)
    told = ", ".join(f"{counted(number, thing)} {_done(deed, dry_run)}" for (deed, thing), number in counts.items())
    more = " and maybe more" if dry_run and max(counts.values(), default=0) >= DRY_RUN_LIMIT else ""
    summary = f"{told or 'nothing to clean up'}{more}"
    facts = {"dry_run": dry_run, "expiry": _state(verdict), "reason": verdict.held or verdict.doubt}
    report.end(summary, facts | {f"{deed} {thing}": count for (deed, thing), count in counts.items()})
    _explain(verdict)
    if verdict.held or verdict.doubt or any(deed is Deed.KEPT for deed, _ in counts):
        sys.exit(Exit.FAILED)


def _done(deed: Deed, dry_run: bool) -> str:
    done = {"expired": "expired", "removed": "removed", "kept": "could not be removed now"}[deed]
    return f"would be {done}" if dry_run else done


def _state(verdict: Verdict) -> str:
    if verdict.goes_on:
        return "on"
    return "delayed" if verdict.waits_until else "held"


def _explain(verdict: Verdict) -> None:
    """Say on stderr why no upload was expired."""
    if verdict.held:
        print(
            f"Uploads do not expire: {verdict.held}.\n"
            "Once the clock of the database is right, run: tusgate gc --release",
            file=sys.stderr,
        )
    elif verdict.doubt:
        print(f"No upload was expired: {verdict.doubt}.", file=sys.stderr)
    elif verdict.waits_until:
        print(
            f"No upload expires before {verdict.waits_until:%Y-%m-%d %H:%M:%S %Z}: the gateways were away, and clients"
            " get time to come back.",
            file=sys.stderr,
        )
