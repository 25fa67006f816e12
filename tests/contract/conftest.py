"""The databases that the contract is held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import SQL_DATABASES, MemoryRig, PostgresRig, SqliteRig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.contract.database_rig import Rig
    from tusgate.ports import SurveyedDatabase


@pytest.fixture(params=["memory", *SQL_DATABASES])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    rig: Rig
    match request.param:
        case "memory":
            rig = MemoryRig()
        case "sqlite":
            rig = SqliteRig(tmp_path)
        case "pgbouncer":
            pooler = request.getfixturevalue("pgbouncer")
            rig = PostgresRig(request.getfixturevalue("database_url"), pooler)
        case _:
            rig = PostgresRig(request.getfixturevalue("database_url"))
    await rig.database.migrate()
    yield rig
    await rig.close()


@pytest.fixture
def database(rig: Rig) -> SurveyedDatabase:
    return rig.database


@pytest.fixture
async def postgres_rig(database_url: str) -> AsyncIterator[PostgresRig]:
    rig = PostgresRig(database_url)
    await rig.database.migrate()
    yield rig
    await rig.close()


@pytest.fixture
async def sqlite_rig(tmp_path: Path) -> AsyncIterator[SqliteRig]:
    rig = SqliteRig(tmp_path)
    await rig.database.migrate()
    yield rig
    await rig.close()
