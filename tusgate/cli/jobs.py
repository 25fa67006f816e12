"""`tusgate jobs`: what is done with finished files, what could not be, and what waits for nobody."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from tusgate.cli.choosing import MOMENT, AsJson, Everything, check_named, choosing, moment
from tusgate.cli.exits import Exit
from tusgate.cli.flags import with_settings
from tusgate.cli.report import Report, counted
from tusgate.core.model import UploadId
from tusgate.core.processing import UNSETTLED, JobSearch, JobState
from tusgate.settings import Loaded  # noqa: TC001 - flags.py evaluates the annotations
from tusgate.telemetry import configure_logging

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeVar

    from tusgate.core.processing import Job
    from tusgate.ports import JobQueue

    T = TypeVar("T")

app = typer.Typer(help="Look at jobs of finished files, and have them done after all.", no_args_is_help=True)


class Which(StrEnum):
    """States of jobs to choose from."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    DEAD = "dead"
    ANY = "any"


_FILE = Annotated[str | None, typer.Option("--file", metavar="ID", help="Jobs of this file.")]
_TENANT = Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="Jobs on files of this tenant.")]
_PROCESSOR = Annotated[str | None, typer.Option("--processor", metavar="NAME", help="Jobs of this processor.")]
_SINCE = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help=f"Of files finished from then on: {MOMENT}.")
]
_UNTIL = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Of files finished before then.")]
_STATE = Annotated[Which, typer.Option("--state", help="What has become of the job.")]
_WITH_GATES = Annotated[
    bool, typer.Option("--with-gates", help="Also jobs that keep files from readers: then these can be read.")
]


def _search(
    *,
    file: _FILE = None,
    tenant: _TENANT = None,
    processor: _PROCESSOR = None,
    since: _SINCE = None,
    until: _UNTIL = None,
    state: _STATE = Which.ANY,
) -> JobSearch:
    """Return what these flags choose."""
    return JobSearch(
        upload_id=None if file is None else UploadId(file),
        tenant=tenant,
        processor=processor,
        state=None if state is Which.ANY else JobState(state),
        since=moment(since, "--since"),
        until=moment(until, "--until"),
    )


@choosing(_search)
def list_jobs(loaded: Loaded, search: JobSearch, *, as_json: AsJson = False) -> None:
    """List jobs by file. Exits with 1 when one is dead, or waits for a processor that is not in the settings."""
    from tusgate.service.paging import pages
    from tusgate.settings.processing import known_processors
    from tusgate.settings.tenants import load_tenancy

    known = known_processors(loaded.settings, load_tenancy(loaded.settings))
    report = Report("Finished", "File", "Processor", "State", "Tries", "Waits", "Error", as_json=as_json)
    counts: Counter[JobState] = Counter()
    longest = 0.0
    strays: Counter[str] = Counter()

    async def work(jobs: JobQueue) -> None:
        nonlocal longest
        async for page in pages(jobs.find, search):
            for job in page:
                counts[job.state] += 1
                longest = max(longest, _waits(job))
                if job.state in UNSETTLED and job.processor not in known:
                    strays[job.processor] += 1
                _add(report, job, known)

    _run(loaded, work)
    told = ", ".join(f"{counts[each]:,} {each}" for each in JobState if counts[each])
    facts: dict[str, object] = {str(each): counts[each] for each in JobState}
    report.end(told or "no jobs", facts | {"longest_wait": round(longest, 1), "unknown": dict(strays)})
    for name, number in sorted(strays.items()):
        print(
            f"{counted(number, 'job')} for {name}, which is not in these settings. To go on without:"
            f" tusgate jobs drop --processor {name} --state waiting",
            file=sys.stderr,
        )
    if counts[JobState.DEAD] or strays:
        sys.exit(Exit.FAILED)


def _waits(job: Job) -> float:
    """Return for how many seconds the job could have been taken, and was not."""
    return max(0.0, (datetime.now(UTC) - job.due_at).total_seconds()) if job.state in UNSETTLED else 0.0


def _add(report: Report, job: Job, known: frozenset[str]) -> None:
    finished = job.source.completed_at
    is_stray = job.state in UNSETTLED and job.processor not in known
    report.add(
        "" if finished is None else f"{finished:%Y-%m-%d %H:%M:%S}",
        job.source.id,
        job.processor,
        job.state,
        str(job.tries),
        f"{_waits(job):.0f} s" if job.state in UNSETTLED else "",
        job.error or ("not in the settings" if is_stray else ""),
        style="red" if job.state is JobState.DEAD or is_stray else None,
    )


def show(loaded: Loaded, file: Annotated[str, typer.Argument(metavar="FILE", help="Id of a file.")]) -> None:
    """Print all jobs of a file, as one JSON object."""

    async def work(jobs: JobQueue) -> list[Job]:
        return await jobs.find(JobSearch(upload_id=UploadId(file)), 1000)

    found = _run(loaded, work)
    if not found:
        sys.exit(f"there are no jobs of {file}")
    source = found[0].source
    of_file = {"file": source.id, "tenant": source.scope.tenant, "owner": source.scope.owner}
    processing = {"state": source.processing, "withheld": source.withheld}
    print(json.dumps({**of_file, **processing, "jobs": [_described(job) for job in found]}, indent=2))


def _described(job: Job) -> dict[str, object]:
    return {
        "processor": job.processor,
        "version": job.version,
        "is_gate": job.is_gate,
        "state": job.state,
        "tries": job.tries,
        "progress": job.progress,
        "error": job.error,
        "facts": job.facts,
        "due_at": job.due_at.isoformat() if job.state in UNSETTLED else None,
        "settled_at": None if job.settled_at is None else job.settled_at.isoformat(),
    }


@choosing(_search, state=Which.DEAD)
def retry(loaded: Loaded, search: JobSearch, *, everything: Everything = False) -> None:
    """Have dead jobs tried again, as if they never had been."""
    if search.state is not JobState.DEAD:
        raise typer.BadParameter("only dead jobs are tried again", param_hint="--state")
    _check_named(search, everything)
    from tusgate.service.rework import retry_all

    print(f"{counted(_run(loaded, lambda jobs: retry_all(jobs, search)), 'job')} to be done again")


@choosing(_search, state=Which.DEAD)
def drop(loaded: Loaded, search: JobSearch, *, everything: Everything = False, with_gates: _WITH_GATES = False) -> None:
    """Go on without jobs that are dead, or that wait and nobody has; dead ones unless told otherwise."""
    _check_named(search, everything)
    from tusgate.service.rework import drop_all

    dropped = _run(loaded, lambda jobs: drop_all(jobs, search, with_gates=with_gates))
    print(f"{counted(dropped.jobs, 'job')} dropped")
    if dropped.gates:
        print(
            f"{counted(dropped.gates, 'job')} left: without them files can be read that nobody has looked at;"
            " --with-gates drops them",
            file=sys.stderr,
        )
        sys.exit(Exit.FAILED)


def _check_named(search: JobSearch, everything: bool) -> None:
    check_named(everything, search.upload_id, search.tenant, search.processor, search.since, search.until)


def _run(loaded: Loaded, work: Callable[[JobQueue], Awaitable[T]]) -> T:
    configure_logging(loaded.settings.model_copy(update={"log_level": "error"}))
    # Not at the top: the other commands start faster without the server.
    from tusgate.app import with_jobs

    return with_jobs(loaded.settings, work)


app.command("list")(with_settings(list_jobs))
for _command in (show, retry, drop):
    app.command()(with_settings(_command))
