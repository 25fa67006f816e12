"""`tusgate reconcile`: does the database agree with the store?"""

from __future__ import annotations

import sys
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from tusgate.cli.exits import Exit
from tusgate.cli.report import Report, counted
from tusgate.settings import Loaded  # noqa: TC001 - flags.py evaluates the annotations
from tusgate.settings.kinds import Duration
from tusgate.telemetry import configure_logging

if TYPE_CHECKING:
    from tusgate.service.reconcile import Finding, Looked, Trouble


def reconcile(
    loaded: Loaded,
    *,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Mend what can be: record finished objects, let uploads fail whose bytes are lost, remove pieces and"
            " multipart uploads that no upload has.",
        ),
    ] = False,
    delete_objects: Annotated[
        bool,
        typer.Option(
            "--delete-objects",
            help="Also delete finished objects that the database does not know. After a backup was restored these are"
            " the files of the time that it has lost.",
        ),
    ] = False,
    min_age: Annotated[str, typer.Option(metavar="DURATION", help="Leave what is younger alone.")] = "24h",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")] = False,
) -> None:
    """Compare the database with the store in both directions. Only reports, unless told to repair.

    Looks at every upload and lists every object below TUSGATE_S3_PREFIX; what does not carry our marker is never
    touched. Exits with 1 when something does not agree and was not mended.
    """
    configure_logging(loaded.settings.model_copy(update={"log_level": "error"}))
    grace = _min_age(min_age)
    # Not at the top: the other commands start faster without the server.
    from tusgate.app import reconcile as compare
    from tusgate.service.reconcile import Mending

    report = Report("Mended", "Trouble", "Upload", "Key", "Detail", as_json=as_json)
    counts: Counter[tuple[Trouble, bool]] = Counter()

    def tell(finding: Finding) -> None:
        counts[finding.trouble, finding.mended] += 1
        mended = "yes" if finding.mended else "no"
        report.add(mended, finding.trouble, finding.upload_id, finding.key, finding.detail)

    mending = Mending(repair=repair, delete_objects=delete_objects)
    looked = compare(loaded.settings, tell, mending, grace)
    left = sum(count for (_, mended), count in counts.items() if not mended)
    report.end(_summary(looked, counts), _facts(looked, left, sum(counts.values()) - left))
    if left:
        sys.exit(Exit.FAILED)


def _min_age(text: str) -> timedelta:
    try:
        return timedelta(seconds=TypeAdapter(Duration).validate_python(text))
    except ValidationError:
        raise typer.BadParameter("expected a duration such as 24h", param_hint="--min-age") from None


def _summary(looked: Looked, counts: Counter[tuple[Trouble, bool]]) -> str:
    told = [f"{count:,} x {trouble}{' (mended)' if mended else ''}" for (trouble, mended), count in counts.items()]
    compared = f"{counted(looked.uploads, 'upload')} and {counted(looked.objects, 'object')} compared"
    left_alone = f"{looked.young:,} too young, {looked.foreign:,} not ours"
    return f"{compared} ({left_alone}): {', '.join(told) or 'they agree'}"


def _facts(looked: Looked, left: int, mended: int) -> dict[str, object]:
    return {
        "uploads": looked.uploads,
        "objects": looked.objects,
        "young": looked.young,
        "foreign": looked.foreign,
        "left": left,
        "mended": mended,
    }
