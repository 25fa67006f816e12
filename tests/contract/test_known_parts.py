"""What databases know of the parts of finished files: by these, parts of new uploads need not be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.contract.database_rig import ALICE, STRANGERS, a_new_upload
from tests.contract.test_jobs import GATED
from tusgate.core.direct import KnownPart, Plan
from tusgate.core.lifecycle import advance
from tusgate.core.model import CreatedVia, Keeping, Part, State, StoredObject

if TYPE_CHECKING:
    from tusgate.core.model import Upload
    from tusgate.ports import Database

ONE, TWO, THREE = b"1" * 32, b"2" * 32, b"3" * 32
PARTS = (Part(1, 0, 6, "etag-1", -1, ONE), Part(2, 6, 4, "etag-2", 7, TWO), Part(3, 10, 1, "etag-3", -1))
SIZE = 11


async def sealed(database: Database, parts: tuple[Part, ...] = PARTS, **more: Any) -> Upload:
    plan = Plan(None, "sha256", (ONE, TWO, THREE))
    upload = await database.create(a_new_upload(created_via=CreatedVia.DIRECT, plan=plan, length=SIZE, **more))
    return await database.commit(upload, advance(upload, SIZE, SIZE, parts=parts))


async def finished(database: Database, **more: Any) -> Upload:
    upload = await sealed(database, **more)
    return await database.complete(upload, StoredObject(upload.object_key, SIZE, "object", -1))


async def test_parts_keep_the_digests_that_they_were_committed_with(database: Database) -> None:
    upload = await sealed(database)
    assert tuple(await database.parts(upload)) == PARTS


async def test_a_part_of_a_finished_file_is_found_by_its_digest(database: Database) -> None:
    """Once, however many files have it; and by its own digest only."""
    first, second = await finished(database), await finished(database)
    (known,) = await database.find_known_parts(ALICE, None, [TWO, THREE, b"4" * 32])
    assert known.key in (first.object_key, second.object_key)
    assert known == KnownPart(TWO, 6, 4, known.key, "object")
    assert {each.sha256 for each in await database.find_known_parts(ALICE, None, [TWO, ONE])} == {ONE, TWO}
    assert await database.find_known_parts(ALICE, None, []) == []


async def test_nobody_else_finds_it(database: Database) -> None:
    """I13: no other owner, no other tenant; and nothing that lies in another store."""
    await finished(database)
    for stranger in STRANGERS:
        assert await database.find_known_parts(stranger, None, [ONE, TWO]) == []
        assert await database.find_proved_etags(stranger, None, [(ONE, "etag-1")]) == set()
    assert await database.find_known_parts(ALICE, "elsewhere", [ONE, TWO]) == []
    assert await database.find_proved_etags(ALICE, "elsewhere", [(ONE, "etag-1")]) == set()
    there = await finished(database, route="elsewhere")
    (known,) = await database.find_known_parts(ALICE, "elsewhere", [ONE])
    assert known.key == there.object_key


async def test_what_is_not_finished_or_has_ended_is_not_copied_from(database: Database) -> None:
    upload = await sealed(database)
    assert await database.find_known_parts(ALICE, None, [ONE]) == []
    file = await database.complete(upload, StoredObject(upload.object_key, SIZE, "object", -1))
    assert len(await database.find_known_parts(ALICE, None, [ONE])) == 1
    await database.terminate(file.scope, file.id)
    assert await database.find_known_parts(ALICE, None, [ONE]) == []


async def test_a_file_that_is_kept_from_readers_is_not_copied_from(database: Database) -> None:
    upload = await sealed(database)
    kept = await database.complete(
        upload, StoredObject(upload.object_key, SIZE, "object", -1), Keeping(processing=GATED)
    )
    assert (kept.state, kept.withheld) == (State.COMPLETE, True)
    assert await database.find_known_parts(ALICE, None, [ONE]) == []


async def test_an_etag_stays_proved_when_the_file_is_gone(database: Database) -> None:
    """The pair counts, not its halves."""
    pairs = [(ONE, "etag-1"), (TWO, "etag-2"), (ONE, "etag-2"), (THREE, "etag-3")]
    assert await database.find_proved_etags(ALICE, None, pairs) == set()
    file = await finished(database)
    assert await database.find_proved_etags(ALICE, None, pairs) == {(ONE, "etag-1"), (TWO, "etag-2")}
    await database.terminate(file.scope, file.id)
    assert await database.find_proved_etags(ALICE, None, pairs) == {(ONE, "etag-1"), (TWO, "etag-2")}
    assert await database.find_proved_etags(ALICE, None, []) == set()
