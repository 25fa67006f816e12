"""What databases keep of direct uploads: the plan, and parts whose bytes nobody but the store has seen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import ALICE, a_new_upload
from tusgate.core.checksum import Checksum
from tusgate.core.direct import Plan
from tusgate.core.errors import Fenced, QuotaExceeded
from tusgate.core.fingerprint import Fingerprint
from tusgate.core.lifecycle import advance
from tusgate.core.model import CreatedVia, MultipartId, Part, Role, Scope, State, StoredObject
from tusgate.core.quota import Quota
from tusgate.database import sqlite

if TYPE_CHECKING:
    from tests.contract.database_rig import SqliteRig
    from tusgate.ports import Database

PLAN = Plan(Checksum("sha256", b"w" * 32), "crc64nvme", (b"1" * 8, b"2" * 8))
PARTS = (Part(1, 0, 6, "etag-1", -1), Part(2, 6, 4, "etag-2", 0))


@pytest.mark.parametrize("plan", [PLAN, Plan(), None])
async def test_a_plan_is_kept(database: Database, plan: Plan | None) -> None:
    created = await database.create(a_new_upload(created_via=CreatedVia.DIRECT, plan=plan))
    assert created.plan == plan
    assert (await database.get(created.scope, created.id)).plan == plan


async def test_uploads_are_found_by_their_fingerprint_the_newest_first(database: Database) -> None:
    """I13: those of one owner, live or complete, and complete ones by their CRC64NVME too; never a partial."""
    wanted = Fingerprint("crc64nvme", f"{77:016x}")
    named = {"fingerprint": str(wanted), "length": 10}
    first = await database.create(a_new_upload(**named))
    second = await database.create(a_new_upload(**named))
    gone = await database.create(a_new_upload(**named))
    await database.terminate(gone.scope, gone.id)
    await database.create(a_new_upload(**named, role=Role.PARTIAL))
    await database.create(a_new_upload(**named, scope=Scope("default", "somebody else")))
    await database.create(a_new_upload(length=10, fingerprint="client:other"))
    unnamed = await database.create(a_new_upload(created_via=CreatedVia.DIRECT, plan=Plan(), length=None))
    sealed = await database.commit(unnamed, advance(unnamed, 10, 10, parts=PARTS))
    await database.complete(sealed, StoredObject(sealed.object_key, 10, "etag", 77))
    found = await database.find_by_fingerprint(first.scope, wanted, 10)
    assert {upload.id for upload in found} == {first.id, second.id, unnamed.id}
    assert [upload.created_at for upload in found] == sorted((upload.created_at for upload in found), reverse=True)
    assert len(await database.find_by_fingerprint(first.scope, wanted, 2)) == 2
    assert await database.find_by_fingerprint(first.scope, Fingerprint("client", "unknown"), 10) == []


async def test_finished_files_are_found_by_the_sha256_that_was_computed_of_them(database: Database) -> None:
    """I13: those of one owner, whatever they were created with."""
    sha256 = b"s" * 32
    mine, others = [
        await database.create(a_new_upload(created_via=CreatedVia.DIRECT, plan=Plan(), length=None, scope=scope))
        for scope in (ALICE, Scope("acme", "somebody else"))
    ]
    for upload in (mine, others):
        sealed = await database.commit(upload, advance(upload, 10, 10, parts=PARTS))
        complete = await database.complete(sealed, StoredObject(sealed.object_key, 10, "etag", -1))
        await database.record_digest(complete, sha256)
    wanted = Fingerprint("sha256", sha256.hex())
    assert [upload.id for upload in await database.find_by_fingerprint(ALICE, wanted, 10)] == [mine.id]
    assert await database.find_by_fingerprint(ALICE, Fingerprint("sha256", (b"t" * 32).hex()), 10) == []
    await database.terminate(ALICE, mine.id)
    assert await database.find_by_fingerprint(ALICE, wanted, 10) == []


async def test_sqlite_finds_fingerprints_by_their_indexes(sqlite_rig: SqliteRig) -> None:
    """Each creation with a fingerprint looks: that must not be at all files of its owner."""
    statement = sqlite._queries.find_by_fingerprint.sql
    for name in ("tenant", "owner", "fingerprint", "crc64", "sha256"):
        statement = re.sub(rf":{name}\b", "'x'", statement)
    plan = str(await sqlite_rig.query(f"EXPLAIN QUERY PLAN {statement.replace(':limit', '100')}"))
    for index in ("uploads_fingerprint", "uploads_digest", "uploads_twins"):
        assert index in plan, plan
    assert "uploads_listing" not in plan


async def test_parts_and_the_seal_come_with_one_commit_and_without_checksums(database: Database) -> None:
    upload = await database.create(a_new_upload(created_via=CreatedVia.DIRECT, plan=Plan(), length=None))
    sealed = await database.commit(upload, advance(upload, 10, 10, parts=PARTS))
    assert (sealed.state, sealed.offset, sealed.length) == (State.SEALED, 10, 10)
    assert tuple(await database.parts(sealed)) == PARTS
    complete = await database.complete(sealed, StoredObject(upload.object_key, 10, "etag", -1))
    assert (complete.state, complete.crc64) == (State.COMPLETE, None)


async def test_of_two_seals_one_counts(database: Database) -> None:
    upload = await database.create(a_new_upload(created_via=CreatedVia.DIRECT, plan=Plan(), length=10))
    await database.commit(upload, advance(upload, 10, 10, parts=PARTS))
    with pytest.raises(Fenced):
        await database.commit(upload, advance(upload, 10, 10, parts=PARTS))
    with pytest.raises(Fenced):
        await database.commit(upload, advance(upload, 0, 10, lifetime=60))


async def test_an_upload_may_become_one_of_another_file(database: Database) -> None:
    """I6: and whoever has seen what it was before can change nothing any more."""
    upload = await database.create(a_new_upload(created_via=CreatedVia.DIRECT, plan=PLAN, length=10))
    begun = await database.record_multipart(upload, MultipartId("begun"))
    other = Plan(None, "sha256", (b"3" * 32,), left_over=2)
    changed = await database.replan(begun, 20, other, "client:mine")
    assert (changed.plan, changed.length, changed.fingerprint) == (other, 20, "client:mine")
    assert (changed.plan.left_over if changed.plan else 0, changed.multipart_id) == (2, begun.multipart_id)
    assert await database.get(upload.scope, upload.id) == changed
    for late in (advance(begun, 10, 10, parts=PARTS), advance(begun, 0, 10, lifetime=60)):
        with pytest.raises(Fenced):
            await database.commit(begun, late)
    with pytest.raises(Fenced):
        await database.replan(begun, 10, PLAN, None)
    sealed = await database.commit(changed, advance(changed, 20, 20, parts=(Part(1, 0, 20, "etag", -1),)))
    with pytest.raises(Fenced):
        await database.replan(sealed, 10, PLAN, None)
    gone = await database.create(a_new_upload(created_via=CreatedVia.DIRECT, plan=PLAN, length=10))
    await database.terminate(gone.scope, gone.id)
    with pytest.raises(Fenced):
        await database.replan(gone, 10, PLAN, None)


async def test_an_upload_that_becomes_one_of_a_larger_file_passes_no_limit(database: Database) -> None:
    """I14"""
    tenant = ALICE.tenant
    await database.limit_usage(tenant, Quota(bytes=20))
    upload = await database.create(a_new_upload(created_via=CreatedVia.DIRECT, plan=PLAN, length=10))
    with pytest.raises(QuotaExceeded):
        await database.replan(upload, 21, PLAN, None)
    assert await database.get(upload.scope, upload.id) == upload
    upload = await database.replan(upload, 20, PLAN, None)
    assert (await database.usage(tenant)).bytes == 20
    await database.replan(upload, 5, PLAN, None)
    assert (await database.usage(tenant)).bytes == 5


async def test_an_upload_is_prolonged_without_bytes(database: Database) -> None:
    upload = await database.create(a_new_upload(created_via=CreatedVia.DIRECT, plan=Plan(), length=10, lifetime=60))
    later = await database.commit(upload, advance(upload, 0, 10, lifetime=3600))
    assert upload.expires_at is not None
    assert later.expires_at is not None
    assert later.expires_at > upload.expires_at
    assert (later.state, later.offset, later.epoch) == (State.UPLOADING, 0, upload.epoch)
