"""`tusgate jobs` as an operator meets it: what is printed where, the exit codes, and what becomes of the files."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import a_new_upload, a_step, an_object
from tusgate.core.grid import MIB
from tusgate.core.model import Keeping, State
from tusgate.core.processing import LEASE, MOST_TRIES, Chosen, ClaimId, Declared, Processed, Processing
from tusgate.database.sqlite import SqliteDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tusgate.core.model import Upload

    Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

WORDS, SCAN = Declared("words", 1, ("*/*",)), Declared("scan", 1, ("*/*",))
PROCESSING = Processing((WORDS, SCAN), Chosen(("words", "scan"), frozenset({"scan"})))
SETTINGS = {"TUSGATE_EXTERNAL_PROCESSORS": "words=*/*", "TUSGATE_AUTH": "token"}
"""The processor `scan` is known to nobody any more."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `tusgate jobs` on the data of the test."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TUSGATE_")}
    clean |= {"HOME": str(tmp_path), "COLUMNS": "160", **SETTINGS}

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tusgate", "jobs", *arguments],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return start


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    (tmp_path / "data").mkdir()
    database = SqliteDatabase(tmp_path / "data" / "tusgate.sqlite3")
    await database.migrate()
    yield database
    await database.close()


async def finished(database: SqliteDatabase) -> Upload:
    """Return a file with a job of each processor."""
    upload = await database.create(a_new_upload(epoch=1))
    step = a_step(20 * MIB, state=State.COMPLETE, stored=an_object(upload), keeping=Keeping(processing=PROCESSING))
    return await database.commit(upload, step)


async def given_up(database: SqliteDatabase, processor: str) -> None:
    claim = ClaimId(secrets.token_urlsafe(16))
    job = await database.jobs.claim([processor], claim, "worker", LEASE, MOST_TRIES)
    assert job is not None
    await database.jobs.fail(job, "it is broken", None)


def lines_of(result: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


async def test_a_job_for_a_processor_that_nobody_knows_is_seen_and_the_file_goes_on_without(
    run: Run, database: SqliteDatabase
) -> None:
    file = await finished(database)
    listed = run("list", "--json")
    assert listed.returncode == 1
    assert "1 job for scan, which is not in these settings" in listed.stderr
    *rows, summary = lines_of(listed)
    assert {(row["file"], row["processor"], row["error"]) for row in rows} == {
        (file.id, "scan", "not in the settings"),
        (file.id, "words", ""),
    }
    assert (summary["waiting"], summary["unknown"]) == (2, {"scan": 1})

    kept = run("drop", "--processor", "scan", "--state", "waiting")
    assert (kept.returncode, kept.stdout) == (1, "0 jobs dropped\n")
    assert "--with-gates" in kept.stderr
    assert (await database.get(file.scope, file.id)).withheld

    dropped = run("drop", "--processor", "scan", "--state", "waiting", "--with-gates")
    assert (dropped.returncode, dropped.stdout, dropped.stderr) == (0, "1 job dropped\n", "")
    left = await database.get(file.scope, file.id)
    assert (left.processing, left.withheld) == (Processed.PROCESSING, False)
    assert run("list").returncode == 0


async def test_dead_jobs_are_found_and_done_again(run: Run, database: SqliteDatabase) -> None:
    file, other = await finished(database), await finished(database)
    for _ in range(2):
        await given_up(database, "words")
    listed = run("list", "--state", "dead", "--file", file.id, "--json")
    assert listed.returncode == 1
    row, summary = lines_of(listed)
    assert (row["processor"], row["error"], summary["dead"]) == ("words", "it is broken", 1)

    shown = json.loads(run("show", file.id).stdout)
    assert (shown["file"], shown["state"], shown["withheld"]) == (file.id, "processing", True)
    assert {job["processor"]: job["state"] for job in shown["jobs"]} == {"scan": "waiting", "words": "dead"}
    assert run("show", "nothing").returncode == 1

    assert run("retry").returncode == 2
    assert run("retry", "--all", "--state", "done").returncode == 2
    assert run("retry", "--file", file.id).stdout == "1 job to be done again\n"
    assert run("retry", "--processor", "words").stdout == "1 job to be done again\n"
    jobs = await database.jobs.of([file, other])
    assert {job.state for found in jobs.values() for job in found} == {"waiting"}
