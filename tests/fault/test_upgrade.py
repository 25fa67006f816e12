"""A rolling upgrade: the release before the newest migration, and this one, on one database (CR-12).

The earlier release is taken out of the repository's history. Where that is missing (a shallow clone, an archive of the
sources) the tests are skipped: there is nothing else that could stand for it.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.honest import begin
from tests.fault.rig import KIB, MIB, PART, lettered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fault.rig import Replica, Rig


ROOT = Path(__file__).parents[2]
NEWEST = max(file.name for file in (ROOT / "migrations" / "postgres").iterdir())
DATA = lettered("u", 3 * PART + 100 * KIB)
LONG = 180.0
"""Seconds for an upload that goes on while gateways are replaced."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the last state of the project that does not know the newest migration."""
    try:
        added = _git("log", "-1", "--diff-filter=A", "--format=%H", "--", f"migrations/postgres/{NEWEST}")
        before = f"{added.decode().strip()}^" if added else "HEAD"
        archive = _git("archive", before, "tusgate", "migrations")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the history of the repository is not here")
    directory = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=io.BytesIO(archive)) as sources:
        sources.extractall(directory, filter="data")
    return directory


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def is_migrated(rig: Rig) -> bool:
    return NEWEST.removesuffix(".sql") in {str(row["name"]) for row in rig.rows("SELECT name FROM schema_migrations")}


def use(replica: Replica, sources: Path) -> None:
    """Let the replica run these sources from its next start on."""
    replica.gateway.environment["PYTHONPATH"] = str(sources)


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
async def test_uploads_go_on_through_a_rolling_upgrade(
    earlier: Path, start_rig: Callable[..., Awaitable[Rig]], database: Literal["postgres", "sqlite"]
) -> None:
    """CR-12, I1: the database is migrated under the earlier release, then its gateways are replaced one by one.

    Uploads that it has begun are finished by this release, and the other way round; a SQLite file has one gateway,
    which migrates it when it starts. The clients see restarts, and no error.
    """
    replicas = 2 if database == "postgres" else 1
    settings = SMALLEST_PARTS_AND_COLD | {"PYTHONPATH": str(earlier)}
    rig = await start_rig(settings, database=database, replicas=replicas)
    every_client = [replica.client for replica in rig.replicas]
    begun = [await begin(rig, DATA, every_client) for _ in range(4)]
    for upload, end in zip(begun, (0, 100 * KIB, PART, 2 * PART + MIB), strict=True):
        await upload.send(end)

    assert not is_migrated(rig)
    for replica in rig.replicas:
        use(replica, ROOT)
    await asyncio.to_thread(rig.gateway.migrate)
    assert is_migrated(rig) == (database == "postgres")
    under_way = [begun.pop(), await begin(rig, DATA, every_client), await begin(rig, DATA, every_client)]
    running = [asyncio.create_task(upload.run(300 * KIB, LONG)) for upload in under_way]
    for replica in rig.replicas:
        mixed = await begin(rig, DATA, every_client)
        await mixed.send(PART + MIB, 700 * KIB)
        begun.append(mixed)
        await asyncio.to_thread(replica.gateway.restart)
    assert is_migrated(rig)
    await asyncio.gather(*running)
    await asyncio.gather(*(upload.run(MIB, LONG) for upload in begun))

    assert {status for upload in under_way + begun for status in upload.turned_away} <= {0, 409, 423, 503}
    for upload in under_way + begun:
        assert await rig.stored(upload.path) == DATA
