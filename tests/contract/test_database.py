"""What `ports.Database` promises, held by PostgreSQL and SQLite alike, and by the double of the service's tests."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import tusgate.database
import tusgate.ports
from tests.contract.database_rig import (
    ALICE,
    CELL,
    LIFETIME,
    SQL_DATABASES,
    STRANGERS,
    PostgresRig,
    SqliteRig,
    a_complete_upload,
    a_final,
    a_new_upload,
    a_part,
    a_piece,
    a_sealed_upload,
    a_step,
    a_writer,
    an_inline_piece,
    an_object,
    an_upload_in,
    foreign,
    garbage_of,
)
from tusgate.core.clockwatch import GO_ON, ClockReading, Verdict, go_on
from tusgate.core.direct import Plan
from tusgate.core.errors import (
    DatabaseUnavailable,
    Fenced,
    InvalidRequest,
    SettingsError,
    UploadGone,
    UploadNotFound,
)
from tusgate.core.grid import MIB, Grid
from tusgate.core.listing import LISTED, FileFilter, Position, folded
from tusgate.core.model import CreatedVia, Intent, MultipartId, ObjectKey, Part, Piece, State, Step, StoreName, UploadId
from tusgate.database.postgres import _queries

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any

    from tests.contract.database_rig import Rig, SqlRig
    from tusgate.core.model import Upload
    from tusgate.ports import Database

BIGGEST_CRC = (1 << 64) - 1
GRACE = 600.0
MIGRATIONS = sorted(file.stem for file in Path("migrations/sqlite").glob("*.sql"))


class TestMigrations:
    async def test_a_fresh_database_is_refused_until_it_is_migrated(self, tmp_path: Path) -> None:
        (tmp_path / "tusgate.db").touch()
        rig = SqliteRig(tmp_path)
        with pytest.raises(SettingsError, match="tusgate migrate"):
            await rig.database.check()
        assert await rig.database.migrate() == MIGRATIONS
        await rig.database.check()
        await rig.close()

    @pytest.mark.servers
    async def test_a_fresh_postgres_is_refused_until_it_is_migrated(self, database_url: str) -> None:
        rig = PostgresRig(database_url)
        with pytest.raises(SettingsError, match="tusgate migrate"):
            await rig.database.check()
        assert await rig.database.migrate() == MIGRATIONS
        await rig.database.check()
        await rig.close()

    async def test_migrating_again_does_nothing(self, database: Database) -> None:
        assert await database.migrate() == []

    async def test_of_many_that_migrate_at_once_exactly_one_applies_each_migration(self, tmp_path: Path) -> None:
        rig = SqliteRig(tmp_path)
        applied = await asyncio.gather(*[rig.another().migrate() for _ in range(6)])
        assert sorted(applied) == [[]] * 5 + [MIGRATIONS]
        await rig.close()

    @pytest.mark.servers
    async def test_of_many_that_migrate_postgres_at_once_exactly_one_applies_each(self, database_url: str) -> None:
        rig = PostgresRig(database_url)
        applied = await asyncio.gather(*[rig.another().migrate() for _ in range(6)])
        assert sorted(applied) == [[]] * 5 + [MIGRATIONS]
        await rig.close()

    @pytest.mark.parametrize("rig", SQL_DATABASES, indirect=True)
    async def test_a_database_with_newer_migrations_is_accepted(self, rig: SqlRig) -> None:
        columns = "'9999_future'" if isinstance(rig, PostgresRig) else "'9999_future', 0"
        names = "(name)" if isinstance(rig, PostgresRig) else "(name, applied_at)"
        await rig.query(f"INSERT INTO schema_migrations {names} VALUES ({columns})")
        await rig.database.check()
        assert await rig.database.migrate() == []

    def test_both_databases_have_the_same_migrations(self) -> None:
        migrations = Path(tusgate.database.__file__).parents[2] / "migrations"
        names = {folder.name: sorted(file.name for file in folder.iterdir()) for folder in migrations.iterdir()}
        assert names["postgres"] == names["sqlite"] != []

    @pytest.mark.servers
    async def test_both_databases_have_the_same_columns(self, sqlite_rig: SqliteRig, postgres_rig: PostgresRig) -> None:
        tables = ("uploads", "parts", "pieces", "garbage", "expiry_brake", "events", "deliveries", "disabled_sinks")
        for table in tables:
            in_sqlite = await sqlite_rig.query(f"SELECT name FROM pragma_table_info('{table}')")
            in_postgres = await postgres_rig.query(
                f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'"
            )
            assert set(in_sqlite) == set(in_postgres)


class TestCreatingAndReading:
    async def test_a_new_upload_stands_at_offset_zero_with_all_that_was_asked_for(self, database: Database) -> None:
        new = a_new_upload(epoch=1)
        upload = await database.create(new)
        assert (upload.id, upload.scope, upload.created_via) == (new.id, new.scope, new.created_via)
        assert (upload.state, upload.offset, upload.length) == (State.UPLOADING, 0, 20 * MIB)
        assert (upload.epoch, upload.put_attempts, upload.grid) == (1, 0, new.grid)
        assert (upload.filename, upload.content_type) == ("a.txt", "text/plain")
        assert (upload.object_key, upload.multipart_id, upload.etag, upload.crc64) == (new.object_key, None, None, None)
        assert (upload.reason, upload.completed_at) == (None, None)
        assert upload.created_at == upload.updated_at
        assert upload.created_at.tzinfo is not None

    async def test_what_is_returned_is_what_is_read_back(self, database: Database) -> None:
        created = await database.create(a_new_upload())
        assert await database.get(created.scope, created.id) == created

    async def test_the_coding_of_the_content_comes_back(self, database: Database) -> None:
        created = await database.create(a_new_upload(content_coding="gzip"))
        assert (await database.get(created.scope, created.id)).content_coding == "gzip"

    @pytest.mark.parametrize(
        "metadata", [None, b"", b"filename", b"a \x00\xff\xfe,b", bytes(range(256)) * 16], ids=repr
    )
    async def test_metadata_comes_back_byte_for_byte(self, database: Database, metadata: bytes | None) -> None:
        created = await database.create(a_new_upload(metadata=metadata))
        assert (await database.get(created.scope, created.id)).metadata == metadata

    @pytest.mark.parametrize("text", ["", "naïve 日本語 🎈.txt", "'; DROP TABLE uploads; --", "a\tb\nc", ":id $1 %s"])
    async def test_any_text_is_kept_as_it_is(self, database: Database, text: str) -> None:
        created = await database.create(a_new_upload(filename=text, content_type=text))
        found = await database.get(created.scope, created.id)
        assert (found.filename, found.content_type) == (text, text)

    async def test_text_that_cannot_be_stored_is_an_invalid_request(self, database: Database) -> None:
        with pytest.raises(InvalidRequest):
            await database.create(a_new_upload(filename="lone \udc80 surrogate"))

    async def test_lengths_up_to_five_tebibytes_and_unknown_ones_are_kept(self, database: Database) -> None:
        ladder = Grid(tuple((2_000, size * MIB) for size in (8, 32, 128, 512, 2_048)))
        for length in (None, 0, 1, 5 << 40):
            created = await database.create(a_new_upload(length=length, grid=ladder))
            found = await database.get(created.scope, created.id)
            assert (found.length, found.grid) == (length, ladder)

    async def test_an_id_cannot_be_created_twice(self, database: Database) -> None:
        new = a_new_upload()
        created = await database.create(new)
        with pytest.raises(Fenced):
            await database.create(replace(new, filename="other"))
        assert await database.get(created.scope, created.id) == created

    async def test_an_announced_attempt_is_counted_at_creation(self, database: Database) -> None:
        created = await database.create(a_new_upload(epoch=1), [Intent(ObjectKey("k"), attempt=1)])
        assert created.put_attempts == 1

    async def test_an_unknown_upload_is_not_found(self, database: Database) -> None:
        with pytest.raises(UploadNotFound):
            await database.get(a_new_upload().scope, UploadId("unknown"))

    @pytest.mark.parametrize("rig", SQL_DATABASES, indirect=True)
    async def test_a_read_does_not_wait_for_a_writer_that_is_not_done(self, rig: SqlRig) -> None:
        upload = await a_writer(rig.database)
        async with rig.unfinished_write(upload):
            assert await asyncio.wait_for(rig.database.get(upload.scope, upload.id), 3.0) == upload


class TestOwnership:
    CALLS: ClassVar[dict[str, Callable[[Database, Upload], Coroutine[Any, Any, object]]]] = {
        "get": lambda database, upload: database.get(upload.scope, upload.id),
        "describe": lambda database, upload: database.describe(upload.scope, upload.id, {"filename": "stolen"}),
        "claim": lambda database, upload: database.claim(upload, "thief"),
        "intend": lambda database, upload: database.intend(upload, [Intent(ObjectKey("stolen"))]),
        "record_multipart": lambda database, upload: database.record_multipart(upload, MultipartId("stolen")),
        "replan": lambda database, upload: database.replan(upload, 1, Plan(), "client:stolen"),
        "commit": lambda database, upload: database.commit(upload, a_step(upload.offset)),
        "commit of an object": lambda database, upload: database.commit(
            upload, a_step(20 * MIB, state=State.COMPLETE, stored=an_object(upload))
        ),
        "parts": lambda database, upload: database.parts(upload),
        "pieces": lambda database, upload: database.pieces(upload),
        "absorb": lambda database, upload: database.absorb(upload, [a_part(3, 4 * MIB)]),
        "concatenate": lambda database, upload: database.concatenate(a_final(scope=upload.scope), [upload]),
        "gather": lambda database, upload: database.gather(upload, [upload], [a_part(1)]),
        "sources": lambda database, upload: database.sources(upload),
        "members": lambda database, upload: database.members(upload),
        "complete": lambda database, upload: database.complete(upload, an_object(upload)),
        "fail": lambda database, upload: database.fail(upload, "stolen"),
        "terminate": lambda database, upload: database.terminate(upload.scope, upload.id),
        "record_digest": lambda database, upload: database.record_digest(upload, b"stolen"),
        "find_twin": lambda database, upload: database.find_twin(upload, b"stolen", 60.0),
        "adopt": lambda database, upload: database.adopt(upload, upload, 0.0),
        "lease_sealed": lambda database, upload: database.lease_sealed(upload, "thief", 60.0),
        "release_sealed": lambda database, upload: database.release_sealed(upload, "finisher", 0.0),
    }

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("state", [State.UPLOADING, State.SEALED, State.COMPLETE])
    async def test_another_owners_upload_is_not_found_and_stays_as_it_is(
        self, rig: Rig, call: str, state: State
    ) -> None:
        database = rig.database
        upload = await an_upload_in(database, state)
        parts, pieces = await database.parts(upload), await database.pieces(upload)
        for stranger in STRANGERS:
            with pytest.raises(UploadNotFound):
                await self.CALLS[call](database, foreign(upload, stranger))
        assert await database.get(upload.scope, upload.id) == upload
        assert (await database.parts(upload), await database.pieces(upload)) == (parts, pieces)

    def test_every_public_call_about_an_upload_is_in_this_table(self) -> None:
        system = {"migrate", "check", "close", "create", "claim_sealed", "expire", "due_garbage", "drop_garbage"}
        system |= {"postpone_garbage", "listen", "create_partial", "find_final"}
        system |= {"list_files", "limit_usage", "usage"}  # answers with nothing: see TestListing
        system |= {"find_by_fingerprint", "get_any"}  # the same; and for what the store tells
        system |= {"claim_undigested", "postpone_digest"}  # the second does nothing: see test_keeping.py
        system |= {"forget_ended"}
        system |= {"find_equal", "create_equal"}  # about files of all owners of a tenant: see test_instant.py
        system |= {"find_known_parts", "find_proved_etags"}  # answer with nothing: see test_known_parts.py
        calls = {name for name in vars(tusgate.ports.Database) if not name.startswith("_")}
        assert calls - system == {name.split()[0] for name in self.CALLS}

    @pytest.mark.parametrize("name", ["postgres.sql", "sqlite.sql", "postgres_jobs.sql", "sqlite_jobs.sql"])
    def test_every_statement_that_serves_a_request_names_tenant_and_owner(self, name: str) -> None:
        text = Path(tusgate.database.__file__).with_name(name).read_text()
        statements = re.split(r"^-- name: ", text, flags=re.MULTILINE)[1:]
        checked = 0
        for statement in statements:
            title, _, sql = statement.partition("\n")
            sql = re.sub(r"--.*", "", sql)
            if title.startswith("system_"):
                continue
            if title.startswith("tenant_"):
                assert "tenant = :tenant" in sql, f"{title} reaches a table without the tenant"
                continue
            assert unscoped_accesses(sql) <= 0, f"{title} reaches a table without tenant and owner"
            checked += bool(re.search(TABLES, sql))
        assert checked > 10

    def test_the_rule_about_statements_sees_a_statement_that_breaks_it(self) -> None:
        assert unscoped_accesses("SELECT * FROM uploads WHERE id = :id") > 0
        assert unscoped_accesses("UPDATE uploads SET state = :s WHERE id = :id AND tenant = :tenant") > 0
        assert unscoped_accesses("INSERT INTO parts (upload_id, number) VALUES (:id, :number)") > 0
        assert unscoped_accesses("UPDATE accesses FROM given WHERE tenant = given.tenant AND owner = given.owner") > 0
        assert (
            unscoped_accesses(
                "DELETE FROM pieces USING uploads WHERE pieces.tenant = :tenant AND pieces.owner = :owner"
            )
            > 0
        )


TABLES = r"\b(uploads|parts|pieces|garbage|shares|accesses|jobs)\b"


def unscoped_accesses(sql: str) -> int:
    """Return how many reads, changes and inserts of our tables there are beyond those with tenant and owner."""
    reached = len(
        re.findall(
            r"(?:(?<!DO )UPDATE|FROM|JOIN|USING|,)\s+(?:uploads|parts|pieces|garbage|shares|accesses|jobs)\b(?!\.)", sql
        )
    )
    one = r"tenant = :tenant AND (?:\w+\.)?owner = :owner"
    many = r"tenant = given\.tenant AND (?:\w+\.)?owner = given\.owner"
    scoped = len(re.findall(one, sql)) + (
        len(re.findall(many, sql)) if ":tenants::text[], :owners::text[]" in sql else 0
    )
    inserts = re.findall(r"INSERT INTO (?:uploads|parts|pieces|garbage|shares|accesses|jobs) \(([^)]*)\)", sql)
    bare = sum("tenant, owner" not in " ".join(columns.split()) for columns in inserts)
    return max(reached - scoped, 0) + bare


class TestListing:
    WANTED: ClassVar[dict[str, FileFilter]] = {
        "everything": FileFilter(),
        "expired ones too": FileFilter(states=LISTED),
        "finished ones": FileFilter(states=frozenset({State.COMPLETE})),
        "failed and unfinished ones": FileFilter(states=frozenset({State.FAILED, State.UPLOADING})),
        "none of any state": FileFilter(states=frozenset()),
        "a type with parameters": FileFilter(content_type="text/plain"),
        "a kind of types": FileFilter(content_type="image/*"),
        "a type that others begin with": FileFilter(content_type="image/svg"),
        "a part of a name in another case": FileFilter(name_contains="SSE"),
        "a part with the letters of patterns": FileFilter(name_contains="%_"),
        "a part in another composition": FileFilter(name_contains="e\u0301t"),
        "the beginning of a name": FileFilter(name_prefix="\u00c9t\u00e9"),
        "a protocol": FileFilter(created_via=CreatedVia.RUFH),
        "several things at once": FileFilter(name_contains="a", content_type="text/plain", created_via=CreatedVia.TUS),
    }
    FILES: ClassVar[list[dict[str, Any]]] = [
        {"filename": "a.txt", "content_type": "text/plain"},
        {"filename": "A.TXT", "content_type": "Text/Plain; charset=utf-8", "created_via": CreatedVia.RUFH},
        {"filename": "Stra\u00dfe.png", "content_type": "image/png"},
        {"filename": "STRASSE.PNG", "content_type": "image/svg+xml"},
        {"filename": "100%_sure", "content_type": None},
        {"filename": "1000 sure", "content_type": "image/svg"},
        {"filename": "\u00c9t\u00e9 2026.jpg", "content_type": "image/jpeg;q=1"},
        {"filename": "e\u0301te\u0301.jpg", "content_type": "imagery/jpeg"},
        {"filename": None, "content_type": "text/plain"},
    ]

    @staticmethod
    async def fill(rig: Rig, *, hours: float) -> list[Upload]:
        """Create files, `hours` apart, and one in each state; return them, the newest first."""
        made = []
        for description in TestListing.FILES:
            made.append(await rig.database.create(a_new_upload(**description)))
            await rig.pass_time(hours * 3600)
        made += [await an_upload_in(rig.database, state) for state in State]
        found = [await rig.database.get(upload.scope, upload.id) for upload in made]
        return sorted(found, key=lambda upload: upload.created_at, reverse=True)

    @staticmethod
    async def walk(database: Database, wanted: FileFilter, size: int) -> list[Upload]:
        """Return all pages of `size`, one after the other."""
        walked: list[Upload] = []
        after = None
        while page := await database.list_files(ALICE, wanted, after, size):
            assert len(page) <= size
            walked += page
            after = Position.of(page[-1])
        return walked

    @pytest.mark.parametrize("name", WANTED)
    async def test_a_listing_has_what_is_wanted_and_nothing_else(self, rig: Rig, name: str) -> None:
        files, wanted = await self.fill(rig, hours=0.0), self.WANTED[name]
        found = await rig.database.list_files(ALICE, wanted, None, 1000)
        assert {upload.id for upload in found} == {upload.id for upload in files if is_wanted(upload, wanted)}
        assert len(found) == len({upload.id for upload in found})
        assert all(upload in files for upload in found)

    @pytest.mark.parametrize("hours", [0.0, 0.01], ids=["at one moment", "one after the other"])
    async def test_pages_of_any_size_make_the_whole_the_newest_first(self, rig: Rig, hours: float) -> None:
        files = await self.fill(rig, hours=hours)
        whole = await rig.database.list_files(ALICE, FileFilter(states=LISTED), None, 1000)
        moments = [upload.created_at for upload in whole]
        assert moments == sorted(moments, reverse=True)
        assert len(whole) == len(files)
        for size in (1, 2, 5, 14, 1000):
            assert await self.walk(rig.database, FileFilter(states=LISTED), size) == whole

    async def test_files_that_come_and_go_between_two_pages_move_no_other_file(self, rig: Rig) -> None:
        await self.fill(rig, hours=0.01)
        await rig.pass_time(1.0)
        database = rig.database
        whole = await database.list_files(ALICE, FileFilter(), None, 1000)
        first = await database.list_files(ALICE, FileFilter(), None, 4)
        await database.create(a_new_upload())
        await database.terminate(first[-1].scope, first[-1].id)  # the very one that the next page begins after
        await database.describe(whole[-1].scope, whole[-1].id, {"filename": "renamed"})
        rest = await database.list_files(ALICE, FileFilter(), Position.of(first[-1]), 1000)
        assert [upload.id for upload in first + rest] == [upload.id for upload in whole]

    async def test_the_bounds_of_time_take_the_first_moment_in_and_leave_the_last_out(self, rig: Rig) -> None:
        files = await self.fill(rig, hours=0.01)
        early, late = files[-2].created_at, files[2].created_at
        for low, high in ((early, late), (early, None), (None, late), (late, early)):
            wanted = FileFilter(states=LISTED, created_from=low, created_before=high)
            found = await rig.database.list_files(ALICE, wanted, None, 1000)
            assert {upload.id for upload in found} == {upload.id for upload in files if is_wanted(upload, wanted)}

    async def test_nobody_else_sees_a_file_in_a_listing(self, rig: Rig) -> None:
        """I13."""
        await self.fill(rig, hours=0.0)
        for stranger in STRANGERS:
            assert await rig.database.list_files(stranger, FileFilter(states=LISTED), None, 1000) == []

    @pytest.mark.parametrize("rig", SQL_DATABASES, indirect=True)
    async def test_a_file_of_an_earlier_release_is_found_by_its_name_too(self, rig: SqlRig) -> None:
        upload = await rig.database.create(a_new_upload(filename="Report.PDF"))
        await rig.query("UPDATE uploads SET filename_folded = NULL")
        for wanted in (FileFilter(name_prefix="rEP"), FileFilter(name_contains="pdf")):
            assert [found.id for found in await rig.database.list_files(ALICE, wanted, None, 10)] == [upload.id]

    @pytest.mark.parametrize("rig", SQL_DATABASES[:2], indirect=True)
    async def test_a_page_is_read_from_the_index(self, rig: SqlRig) -> None:
        """Else a page costs as much as all files of all tenants."""
        is_sqlite = isinstance(rig, SqliteRig)
        last = "9223372036854775807" if is_sqlite else "now()"
        statement = (
            "SELECT * FROM uploads WHERE tenant = 'acme' AND owner = 'alice'"
            f" AND (created_at, id) < ({last}, '') ORDER BY created_at DESC, id DESC LIMIT 50"
        )
        if not is_sqlite:
            many = "SELECT 'acme', 'alice', 'tus', 'complete', 0, '', 0, 'k', n::text FROM generate_series(1, 5000) n"
            columns = "tenant, owner, created_via, state, upload_offset, grid, epoch, object_key, id"
            await rig.query(f"INSERT INTO uploads ({columns}) {many}")
            await rig.query("ANALYZE uploads")
        plan = await rig.query(f"EXPLAIN {'QUERY PLAN ' if is_sqlite else ''}{statement}")
        assert "uploads_listing" in str(plan)
        assert "sort" not in str(plan).lower()
        assert "temp b-tree" not in str(plan).lower()


def is_wanted(upload: Upload, wanted: FileFilter) -> bool:
    """Return what a listing has to say about `upload`, written once more in another way."""
    name = None if upload.filename is None else folded(upload.filename)
    kind = re.split("; ?", (upload.content_type or "").lower())[0]
    refusals = [
        upload.state not in wanted.states,
        wanted.created_via is not None and upload.created_via is not wanted.created_via,
        wanted.created_from is not None and upload.created_at < wanted.created_from,
        wanted.created_before is not None and upload.created_at >= wanted.created_before,
        wanted.name_contains is not None and (name is None or folded(wanted.name_contains) not in name),
        wanted.name_prefix is not None and (name is None or not name.startswith(folded(wanted.name_prefix))),
        wanted.content_type is not None and not fnmatchcase(kind, wanted.content_type),
    ]
    return not any(refusals)


class TestDescribing:
    @pytest.mark.parametrize("state", [State.UPLOADING, State.SEALED, State.COMPLETE])
    async def test_a_file_gets_another_name_and_type_and_keeps_the_rest(self, rig: Rig, state: State) -> None:
        """I16: what HEAD echoes is not touched."""
        upload = await an_upload_in(rig.database, state)
        await rig.pass_time(1.0)
        before = await rig.database.get(upload.scope, upload.id)
        after = await rig.database.describe(before.scope, before.id, {"filename": "b.bin", "content_type": None})
        assert after.updated_at > before.updated_at
        assert after == replace(before, filename="b.bin", content_type=None, updated_at=after.updated_at)
        assert after == await rig.database.get(before.scope, before.id)
        assert await rig.database.list_files(ALICE, FileFilter(name_prefix="B."), None, 10) == [after]
        assert await rig.database.list_files(ALICE, FileFilter(name_prefix="a."), None, 10) == []

    async def test_what_is_not_named_stays(self, database: Database) -> None:
        upload = await database.create(a_new_upload())
        renamed = await database.describe(upload.scope, upload.id, {"filename": "b.txt"})
        assert (renamed.filename, renamed.content_type) == ("b.txt", "text/plain")
        retyped = await database.describe(upload.scope, upload.id, {"content_type": "image/png"})
        assert (retyped.filename, retyped.content_type) == ("b.txt", "image/png")

    async def test_a_new_name_disturbs_no_writer(self, database: Database) -> None:
        writer = await a_writer(database)
        await database.describe(writer.scope, writer.id, {"filename": "b.txt"})
        moved = await database.commit(writer, a_step(CELL, parts=(a_part(1),)))
        assert (moved.offset, moved.filename) == (CELL, "b.txt")

    @pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED, State.TERMINATED])
    async def test_what_has_ended_stays_as_it_is(self, database: Database, state: State) -> None:
        """I9."""
        upload = await an_upload_in(database, state)
        with pytest.raises(UploadGone):
            await database.describe(upload.scope, upload.id, {"filename": "b.txt"})
        assert await database.get(upload.scope, upload.id) == upload


class TestBecomingTheWriter:
    async def test_a_claim_raises_the_epoch_by_one_and_moves_nothing_else(self, database: Database) -> None:
        created = await database.create(a_new_upload())
        claimed, pieces = await database.claim(created, "replica-1")
        assert claimed == replace(created, epoch=1)
        assert pieces == []
        assert await database.get(created.scope, created.id) == claimed

    async def test_of_twenty_claims_at_once_exactly_one_wins(self, rig: Rig) -> None:
        created = await rig.database.create(a_new_upload())
        clients = [rig.another() for _ in range(4)]
        results = await asyncio.gather(
            *[clients[n % 4].claim(created, f"replica-{n}") for n in range(20)], return_exceptions=True
        )
        assert Counter(type(result) for result in results) == {tuple: 1, Fenced: 19}
        assert (await rig.database.get(created.scope, created.id)).epoch == 1

    async def test_a_claim_on_an_older_offset_is_fenced_and_told_where_the_upload_stands(
        self, database: Database
    ) -> None:
        stale = await a_writer(database)
        moved = await database.commit(stale, a_step(CELL, parts=(a_part(1),)))
        with pytest.raises(Fenced) as fenced:
            await database.claim(stale, "replica-2")
        assert fenced.value.upload == moved

    @pytest.mark.parametrize("state", [state for state in State if state is not State.UPLOADING])
    async def test_only_an_upload_that_takes_bytes_can_be_claimed(self, database: Database, state: State) -> None:
        upload = await an_upload_in(database, state)
        with pytest.raises(Fenced):
            await database.claim(upload, "replica-2")
        assert await database.get(upload.scope, upload.id) == upload

    async def test_a_claim_returns_the_pieces_of_the_open_cell_in_order_with_inline_data(
        self, database: Database
    ) -> None:
        writer = await a_writer(database)
        data = bytes(range(256))
        pieces = (a_piece(CELL + 5, 10, "second"), an_inline_piece(CELL + 15, data), a_piece(CELL, 5, "first"))
        moved = await database.commit(writer, a_step(CELL + 271, parts=(a_part(1),), pieces=pieces))
        _, found = await database.claim(moved, "replica-2")
        assert found == [pieces[2], pieces[0], pieces[1]]
        assert await database.pieces(moved) == found

    async def test_pieces_before_the_open_cell_are_not_returned_by_a_claim(self, database: Database) -> None:
        writer = await a_writer(database)
        whole_cell = a_piece(0, CELL, "whole-cell")
        rest = a_piece(CELL, 7, "rest")
        moved = await database.commit(writer, a_step(CELL + 7, pieces=(whole_cell, rest)))
        _, found = await database.claim(moved, "replica-2")
        assert found == [rest]
        assert await database.pieces(moved) == [whole_cell, rest]

    async def test_an_announced_attempt_is_counted(self, database: Database) -> None:
        upload = await a_writer(database)
        upload, _ = await database.claim(upload, "replica-1", [Intent(ObjectKey("k~2"), attempt=2)])
        assert upload.put_attempts == 2
        await database.intend(upload, [Intent(ObjectKey("k~3"), attempt=3)])
        await database.intend(upload, [Intent(ObjectKey("some-piece"))])
        assert (await database.get(upload.scope, upload.id)).put_attempts == 3

    async def test_a_claim_that_has_not_seen_an_announced_attempt_is_fenced(self, database: Database) -> None:
        """I4: it would give its own attempt the same key."""
        stale = await a_writer(database)
        await database.intend(stale, [Intent(ObjectKey("k"), attempt=1)])
        with pytest.raises(Fenced) as fenced:
            await database.claim(stale, "replica-2", [Intent(ObjectKey("k"), attempt=1)])
        assert fenced.value.upload is not None
        assert fenced.value.upload.put_attempts == 1


class TestFencing:
    async def writes(self, database: Database, stale: Upload) -> list[Coroutine[Any, Any, object]]:
        return [
            database.commit(stale, a_step(CELL, parts=(a_part(1),))),
            database.commit(stale, a_step(100, pieces=(a_piece(0, 100, "late"),))),
            database.commit(stale, a_step(20 * MIB, state=State.COMPLETE, stored=an_object(stale))),
            database.intend(stale, [Intent(ObjectKey("late"), attempt=9)]),
            database.record_multipart(stale, MultipartId("late")),
            database.fail(stale, "late"),
        ]

    async def test_a_writer_that_was_taken_over_can_change_nothing(self, rig: Rig) -> None:
        stale = await a_writer(rig.database)
        current, _ = await rig.database.claim(stale, "replica-2")
        for write in await self.writes(rig.database, stale):
            with pytest.raises(Fenced) as fenced:
                await write
            assert fenced.value.upload == current
        assert await rig.database.get(stale.scope, stale.id) == current
        assert await rig.database.parts(current) == []
        assert await rig.database.pieces(current) == []
        assert await garbage_of(rig, current) == set()

    async def test_a_commit_from_another_offset_changes_nothing(self, database: Database) -> None:
        writer = await a_writer(database)
        moved = await database.commit(writer, a_step(CELL, parts=(a_part(1),)))
        with pytest.raises(Fenced):
            await database.commit(writer, a_step(2 * CELL, parts=(a_part(2),)))
        assert await database.get(moved.scope, moved.id) == moved
        assert await database.parts(moved) == [a_part(1)]

    @pytest.mark.parametrize("state", [state for state in State if state is not State.UPLOADING])
    async def test_a_commit_in_any_state_but_uploading_changes_nothing(self, database: Database, state: State) -> None:
        upload = await an_upload_in(database, state)
        with pytest.raises(Fenced):
            await database.commit(upload, a_step(upload.offset))
        assert await database.get(upload.scope, upload.id) == upload

    async def test_of_two_commits_from_the_same_offset_exactly_one_wins(self, rig: Rig) -> None:
        writer = await a_writer(rig.database)
        other = rig.another()
        results = await asyncio.gather(
            *[
                client.commit(writer, a_step(size, pieces=(a_piece(0, size, f"piece-{size}"),)))
                for client, size in ((rig.database, 100), (other, 200), (rig.database, 300), (other, 400))
            ],
            return_exceptions=True,
        )
        winners = [result for result in results if not isinstance(result, BaseException)]
        assert len(winners) == 1
        assert [piece.end for piece in await rig.database.pieces(writer)] == [winners[0].offset]

    async def test_a_commit_that_breaks_in_the_middle_leaves_nothing(self, rig: Rig) -> None:
        writer = await a_writer(rig.database)
        moved = await rig.database.commit(writer, a_step(CELL, parts=(a_part(1),)))
        same_part_again = a_step(CELL + 5, parts=(a_part(1),), pieces=(a_piece(CELL, 5, "fresh"),))
        with pytest.raises(Fenced):
            await rig.database.commit(moved, same_part_again)
        assert await rig.database.get(moved.scope, moved.id) == moved
        assert await rig.database.pieces(moved) == []


class TestCommitting:
    async def test_a_step_moves_offset_and_rows_together(self, database: Database) -> None:
        writer = await a_writer(database, length=None)
        piece = a_piece(CELL, 100, "piece")
        step = Step(end=CELL + 100, length=20 * MIB, state=State.UPLOADING, parts=(a_part(1),), pieces=(piece,))
        moved = await database.commit(writer, step)
        assert (moved.offset, moved.length, moved.state) == (CELL + 100, 20 * MIB, State.UPLOADING)
        assert await database.get(writer.scope, writer.id) == moved
        assert (await database.parts(moved), await database.pieces(moved)) == ([a_part(1)], [piece])

    async def test_parts_are_listed_in_order_whatever_the_order_of_their_commit(self, database: Database) -> None:
        writer = await a_writer(database)
        await database.commit(writer, a_step(2 * CELL, parts=(a_part(2), a_part(1))))
        assert [part.number for part in await database.parts(writer)] == [1, 2]

    @pytest.mark.parametrize("crc64", [0, 1, (1 << 63) - 1, 1 << 63, BIGGEST_CRC])
    async def test_checksums_keep_all_64_bits(self, database: Database, crc64: int) -> None:
        upload = await a_writer(database)
        part = Part(1, 0, CELL, "e", crc64)
        piece = Piece(CELL, 12 * MIB, crc64, ObjectKey("piece"))
        upload = await database.commit(upload, a_step(20 * MIB, parts=(part,), pieces=(piece,)))
        assert (await database.parts(upload), await database.pieces(upload)) == ([part], [piece])
        done = await database.complete(upload, replace(an_object(upload), crc64=crc64))
        assert done.crc64 == crc64

    async def test_absorbed_pieces_give_way_and_become_garbage(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        early = (a_piece(0, 5, "p0"), a_piece(5, 5, "p1"), an_inline_piece(10, b"inline"))
        upload = await rig.database.commit(upload, a_step(16, pieces=early))
        later = a_piece(CELL, 9, "p2")
        step = a_step(CELL + 9, parts=(a_part(1),), pieces=(later,), absorb=(0, CELL))
        upload = await rig.database.commit(upload, step)
        assert await rig.database.pieces(upload) == [later]
        assert await garbage_of(rig, upload) == {("p0", None), ("p1", None)}

    async def test_only_pieces_inside_the_absorbed_range_go(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        pieces = tuple(a_piece(start, 10, f"p{start}") for start in (0, 10, 20, 30))
        upload = await rig.database.commit(upload, a_step(40, pieces=pieces))
        merged = a_piece(10, 20, "merged")
        upload = await rig.database.commit(upload, a_step(40, pieces=(merged,), absorb=(10, 30)))
        assert await rig.database.pieces(upload) == [pieces[0], merged, pieces[3]]
        assert await garbage_of(rig, upload) == {("p10", None), ("p20", None)}

    async def test_the_last_byte_seals_and_ends_the_expiry(self, database: Database) -> None:
        upload = await a_sealed_upload(database)
        assert (upload.state, upload.offset, upload.expires_at) == (State.SEALED, 20 * MIB, None)

    async def test_one_put_object_completes_the_upload_in_the_same_commit(self, rig: Rig) -> None:
        database = rig.database
        new = a_new_upload(epoch=1)
        upload = await database.create(new, [Intent(new.object_key, attempt=1)])
        upload = await database.commit(upload, a_step(100, pieces=(a_piece(0, 100, "early"),)))
        second = ObjectKey(f"{new.object_key}~2")
        upload, _ = await database.claim(upload, "replica-2", [Intent(second, attempt=2)])
        upload = await database.record_multipart(upload, MultipartId("begun"))
        stored = replace(an_object(upload, second), crc64=BIGGEST_CRC)
        done = await database.commit(upload, a_step(20 * MIB, state=State.COMPLETE, stored=stored))
        assert (done.state, done.offset, done.expires_at) == (State.COMPLETE, 20 * MIB, None)
        assert (done.object_key, done.etag, done.crc64) == (second, "etag-of-all", BIGGEST_CRC)
        assert (done.put_attempts, done.multipart_id) == (2, None)
        assert done.completed_at == done.updated_at
        assert await database.pieces(done) == []
        # The first attempt waits for the multipart upload of its key, of which a late Complete could make it again.
        assert await garbage_of(rig, done) == {("early", None), (new.object_key, "begun")}

    async def test_a_multipart_upload_is_recorded_once(self, database: Database) -> None:
        upload = await a_writer(database)
        recorded = await database.record_multipart(upload, MultipartId("first"))
        assert recorded.multipart_id == "first"
        with pytest.raises(Fenced):
            await database.record_multipart(recorded, MultipartId("second"))
        assert (await database.get(upload.scope, upload.id)).multipart_id == "first"

    async def test_the_object_of_a_multipart_upload_may_have_another_key_than_the_upload_had(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        moved = replace(upload, object_key=ObjectKey(f"{upload.object_key}~2"))
        recorded = await rig.database.record_multipart(moved, MultipartId("first"))
        assert (recorded.object_key, recorded.multipart_id) == (moved.object_key, "first")
        assert await rig.database.get(upload.scope, upload.id) == recorded
        ended = await rig.database.terminate(upload.scope, upload.id)
        assert await garbage_of(rig, ended) == {(moved.object_key, "first")}

    async def test_a_multipart_upload_may_begin_after_the_seal(self, database: Database) -> None:
        upload = await a_writer(database)
        upload = await database.commit(upload, a_step(20 * MIB, pieces=(a_piece(0, 20 * MIB, "all"),)))
        await database.intend(upload, [Intent(upload.object_key, multipart=True)])
        assert (await database.record_multipart(upload, MultipartId("late"))).multipart_id == "late"


class TestFinishing:
    async def test_absorbing_replaces_the_pieces_that_lie_in_the_parts(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        pieces = (a_piece(0, CELL, "p0"), a_piece(CELL, CELL, "p1"), a_piece(2 * CELL, 4 * MIB, "p2"))
        upload = await rig.database.commit(upload, a_step(20 * MIB, pieces=pieces))
        upload = await rig.database.absorb(upload, [a_part(1), a_part(3, 4 * MIB)])
        assert upload.state is State.SEALED
        assert await rig.database.pieces(upload) == [pieces[1]]
        assert await rig.database.parts(upload) == [a_part(1), a_part(3, 4 * MIB)]
        assert await garbage_of(rig, upload) == {("p0", None), ("p2", None)}

    async def test_absorbing_a_part_twice_is_fenced_and_changes_nothing(self, database: Database) -> None:
        upload = await a_sealed_upload(database)
        await database.absorb(upload, [a_part(3, 4 * MIB)])
        with pytest.raises(Fenced):
            await database.absorb(upload, [replace(a_part(3, 4 * MIB), etag="other")])
        assert (await database.parts(upload))[-1].etag == "etag-3"

    @pytest.mark.parametrize("state", [state for state in State if state is not State.SEALED])
    async def test_only_a_sealed_upload_absorbs(self, database: Database, state: State) -> None:
        upload = await an_upload_in(database, state)
        with pytest.raises(Fenced):
            await database.absorb(upload, [a_part(9)])
        assert 9 not in [part.number for part in await database.parts(upload)]

    async def test_completing_records_the_object_and_keeps_the_parts(self, rig: Rig) -> None:
        upload = await a_complete_upload(rig.database)
        assert (upload.state, upload.etag, upload.crc64) == (State.COMPLETE, "etag-of-all", 5)
        assert upload.completed_at is not None
        assert [part.number for part in await rig.database.parts(upload)] == [1, 2, 3]
        assert await garbage_of(rig, upload) == {(f"pieces/{upload.id}/0", None)}

    async def test_pieces_that_nobody_absorbed_become_garbage_on_completing(self, rig: Rig) -> None:
        upload = await a_sealed_upload(rig.database)
        upload = await rig.database.complete(upload, an_object(upload))
        assert await rig.database.pieces(upload) == []
        assert await garbage_of(rig, upload) == {(f"pieces/{upload.id}/0", None)}

    async def test_completing_again_returns_the_first_result(self, database: Database) -> None:
        sealed = await a_sealed_upload(database)
        done = await database.complete(sealed, an_object(sealed))
        assert await database.complete(sealed, replace(an_object(sealed), etag="other")) == done
        assert await database.get(done.scope, done.id) == done

    async def test_an_object_without_a_known_checksum_has_none(self, database: Database) -> None:
        sealed = await a_sealed_upload(database)
        assert (await database.complete(sealed, replace(an_object(sealed), crc64=-1))).crc64 is None

    @pytest.mark.parametrize("state", [State.TERMINATED, State.FAILED, State.EXPIRED])
    async def test_an_upload_that_ended_otherwise_is_gone_for_its_finisher(
        self, database: Database, state: State
    ) -> None:
        upload = await an_upload_in(database, state)
        with pytest.raises(UploadGone) as gone:
            await database.complete(upload, an_object(upload))
        assert gone.value.state == state

    async def test_an_upload_that_still_takes_bytes_cannot_be_completed(self, database: Database) -> None:
        upload = await a_writer(database)
        with pytest.raises(Fenced):
            await database.complete(upload, an_object(upload))


class TestLeases:
    async def test_a_sealed_upload_is_leased_to_one_holder_only(self, rig: Rig) -> None:
        sealed = [await a_sealed_upload(rig.database) for _ in range(2)]
        await a_writer(rig.database)
        await a_complete_upload(rig.database)
        leased = await rig.database.claim_sealed("one", 60.0, 10)
        assert {upload.id for upload in leased} == {upload.id for upload in sealed}
        assert await rig.another().claim_sealed("two", 60.0, 10) == []
        assert await rig.database.claim_sealed("one", 60.0, 10) == []

    async def test_claims_at_once_are_disjoint_and_miss_nothing(self, rig: Rig) -> None:
        sealed = {(await a_sealed_upload(rig.database)).id for _ in range(12)}
        clients = [rig.another() for _ in range(4)]
        leased = await asyncio.gather(*[client.claim_sealed(f"r{n}", 60.0, 3) for n, client in enumerate(clients)])
        first_round = [upload.id for batch in leased for upload in batch]
        assert len(first_round) == len(set(first_round))
        assert all(len(batch) <= 3 for batch in leased)
        rest = await rig.database.claim_sealed("last", 60.0, 100)
        assert sorted([*first_round, *(upload.id for upload in rest)]) == sorted(sealed)

    async def test_a_lease_that_ran_out_may_be_taken_by_another(self, rig: Rig) -> None:
        upload = await a_sealed_upload(rig.database)
        assert await rig.database.lease_sealed(upload, "one", 60.0)
        await rig.pass_time(59.0)
        assert not await rig.database.lease_sealed(upload, "two", 60.0)
        await rig.pass_time(2.0)
        assert await rig.database.lease_sealed(upload, "two", 60.0)
        assert not await rig.database.lease_sealed(upload, "one", 60.0)

    async def test_its_holder_renews_a_lease(self, rig: Rig) -> None:
        upload = await a_sealed_upload(rig.database)
        assert await rig.database.lease_sealed(upload, "one", 60.0)
        await rig.pass_time(50.0)
        assert await rig.database.lease_sealed(upload, "one", 60.0)
        await rig.pass_time(50.0)
        assert await rig.database.claim_sealed("two", 60.0, 10) == []

    async def test_a_lease_given_back_is_free_after_the_pause(self, rig: Rig) -> None:
        upload = await a_sealed_upload(rig.database)
        await rig.database.lease_sealed(upload, "one", 60.0)
        await rig.database.release_sealed(upload, "one", 10.0)
        assert not await rig.database.lease_sealed(upload, "two", 60.0)
        await rig.pass_time(11.0)
        assert [leased.id for leased in await rig.database.claim_sealed("two", 60.0, 10)] == [upload.id]

    async def test_nobody_gives_back_the_lease_of_another(self, rig: Rig) -> None:
        upload = await a_sealed_upload(rig.database)
        await rig.database.lease_sealed(upload, "one", 60.0)
        await rig.database.release_sealed(upload, "two", 0.0)
        assert not await rig.database.lease_sealed(upload, "two", 60.0)

    @pytest.mark.parametrize("state", [state for state in State if state is not State.SEALED])
    async def test_there_is_no_lease_of_an_upload_that_is_not_sealed(self, database: Database, state: State) -> None:
        upload = await an_upload_in(database, state)
        assert not await database.lease_sealed(upload, "one", 60.0)


class TestEnding:
    async def test_failing_keeps_the_reason_and_discards_pieces_and_multipart(self, rig: Rig) -> None:
        sealed = await a_sealed_upload(rig.database)
        failed = await rig.database.fail(sealed, "the store lost it")
        assert (failed.state, failed.reason, failed.expires_at) == (State.FAILED, "the store lost it", None)
        assert await rig.database.get(sealed.scope, sealed.id) == failed
        assert await rig.database.pieces(failed) == []
        garbage = {(f"pieces/{failed.id}/0", None), (failed.object_key, failed.multipart_id)}
        assert await garbage_of(rig, failed) == garbage

    @pytest.mark.parametrize("state", [State.COMPLETE, State.FAILED, State.TERMINATED, State.EXPIRED])
    async def test_only_an_unfinished_upload_fails(self, rig: Rig, state: State) -> None:
        upload = await an_upload_in(rig.database, state)
        with pytest.raises(Fenced):
            await rig.database.fail(upload, "too late")
        assert await rig.database.get(upload.scope, upload.id) == upload

    async def test_terminating_an_unfinished_upload_discards_all_that_it_stored(self, rig: Rig) -> None:
        sealed = await a_sealed_upload(rig.database)
        ended = await rig.database.terminate(sealed.scope, sealed.id)
        assert (ended.state, ended.expires_at) == (State.TERMINATED, None)
        assert await rig.database.pieces(ended) == []
        assert sorted(await rig.garbage_keys()) == sorted([f"pieces/{ended.id}/0", ended.object_key, ended.object_key])
        assert await garbage_of(rig, ended) == {(f"pieces/{ended.id}/0", None), (ended.object_key, sealed.multipart_id)}

    async def test_terminating_a_complete_upload_discards_its_object(self, rig: Rig) -> None:
        done = await a_complete_upload(rig.database)
        await garbage_of(rig, done)
        await rig.pass_time(61.0)
        ended = await rig.database.terminate(done.scope, done.id)
        assert await garbage_of(rig, ended) == {(f"pieces/{done.id}/0", None), (done.object_key, None)}

    async def test_a_failed_upload_can_be_terminated_without_touching_its_key(self, rig: Rig) -> None:
        failed = await rig.database.fail(await a_writer(rig.database), "broken")
        ended = await rig.database.terminate(failed.scope, failed.id)
        assert (ended.state, ended.reason) == (State.TERMINATED, "broken")
        assert await garbage_of(rig, ended) == set()

    @pytest.mark.parametrize("state", [State.TERMINATED, State.EXPIRED])
    async def test_what_has_ended_cannot_be_terminated(self, database: Database, state: State) -> None:
        upload = await an_upload_in(database, state)
        with pytest.raises(UploadGone) as gone:
            await database.terminate(upload.scope, upload.id)
        assert gone.value.state == state

    async def test_a_commit_and_a_termination_at_once_leave_no_piece_behind(self, rig: Rig) -> None:
        other = rig.another()
        for _ in range(15):
            writer = await a_writer(rig.database)
            key = f"pieces/{writer.id}"
            committed, ended = await asyncio.gather(
                rig.database.commit(writer, a_step(9, pieces=(a_piece(0, 9, key),))),
                other.terminate(writer.scope, writer.id),
                return_exceptions=True,
            )
            assert not isinstance(ended, BaseException)
            assert await rig.database.pieces(writer) == []
            expected = {(writer.object_key, None)} | (set() if isinstance(committed, Fenced) else {(key, None)})
            assert await garbage_of(rig, writer) == expected


class TestExpiry:
    async def test_every_commit_moves_the_expiry(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        await rig.pass_time(LIFETIME - 10)
        upload = await rig.database.get(upload.scope, upload.id)
        upload = await rig.database.commit(upload, a_step(1, pieces=(an_inline_piece(0, b"x"),)))
        await rig.pass_time(LIFETIME - 10)
        assert await rig.database.expire(10) == []
        await rig.pass_time(20)
        assert [expired.id for expired in await rig.database.expire(10)] == [upload.id]

    async def test_activity_does_not_move_the_expiry_past_the_greatest_age(self, rig: Rig) -> None:
        upload = await a_writer(rig.database, max_age=LIFETIME + 100)
        await rig.pass_time(LIFETIME - 10)
        upload = await rig.database.get(upload.scope, upload.id)
        await rig.database.commit(upload, a_step(CELL, parts=(a_part(1),), max_age=LIFETIME + 100))
        await rig.pass_time(100)
        assert await rig.database.expire(10) == []
        await rig.pass_time(20)
        assert [expired.id for expired in await rig.database.expire(10)] == [upload.id]

    async def test_an_age_limit_alone_expires_too(self, rig: Rig) -> None:
        upload = await rig.database.create(a_new_upload(lifetime=None, max_age=50.0))
        await rig.pass_time(51)
        assert [expired.id for expired in await rig.database.expire(10)] == [upload.id]

    async def test_an_upload_without_a_lifetime_does_not_expire(self, rig: Rig) -> None:
        upload = await a_writer(rig.database, lifetime=None)
        assert upload.expires_at is None
        upload = await rig.database.commit(upload, a_step(CELL, parts=(a_part(1),), lifetime=None))
        assert upload.expires_at is None
        await rig.pass_time(10 * LIFETIME)
        assert await rig.database.expire(10) == []

    async def test_expiring_discards_all_that_was_stored(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        upload = await rig.database.record_multipart(upload, MultipartId("begun"))
        upload = await rig.database.commit(upload, a_step(9, pieces=(a_piece(0, 9, "piece"),)))
        await rig.pass_time(LIFETIME + 1)
        (expired,) = await rig.database.expire(10)
        assert expired.state is State.EXPIRED
        assert await rig.database.get(upload.scope, upload.id) == expired
        assert await rig.database.pieces(expired) == []
        assert await garbage_of(rig, expired) == {("piece", None), (upload.object_key, "begun")}

    async def test_finished_uploads_do_not_expire(self, rig: Rig) -> None:
        for state in (State.SEALED, State.COMPLETE, State.FAILED, State.TERMINATED):
            await an_upload_in(rig.database, state)
        await rig.pass_time(10 * LIFETIME)
        assert await rig.database.expire(10) == []

    async def test_runs_at_once_expire_each_upload_once_and_keep_to_the_limit(self, rig: Rig) -> None:
        created = {(await rig.database.create(a_new_upload(lifetime=-1.0))).id for _ in range(12)}
        clients = [rig.another() for _ in range(4)]
        batches = await asyncio.gather(*[client.expire(3) for client in clients])
        assert all(len(batch) <= 3 for batch in batches)
        expired = [upload.id for batch in batches for upload in batch]
        expired += [upload.id for upload in await rig.database.expire(100)]
        assert sorted(expired) == sorted(created)


class TestIntents:
    async def test_an_intent_of_the_current_writer_is_never_garbage(self, rig: Rig) -> None:
        new = a_new_upload(epoch=1)
        upload = await rig.database.create(new, [Intent(ObjectKey("early"))])
        await rig.database.intend(upload, [Intent(ObjectKey("later"))])
        await rig.pass_time(GRACE * 10)
        assert await garbage_of(rig, upload) == set()

    async def test_what_a_commit_records_is_no_longer_an_intent(self, rig: Rig) -> None:
        database = rig.database
        upload = await a_writer(database)
        await database.intend(upload, [Intent(ObjectKey("p0")), Intent(ObjectKey("p1"))])
        await database.intend(upload, [Intent(upload.object_key, multipart=True)])
        upload = await database.record_multipart(upload, MultipartId("recorded"))
        upload = await database.commit(upload, a_step(9, pieces=(a_piece(0, 9, "p0"),)))
        upload, _ = await database.claim(upload, "replica-2")
        assert await garbage_of(rig, upload) == {("p1", None)}

    async def taken_over(self, rig: Rig, upload: Upload) -> None:
        upload, _ = await rig.database.claim(upload, "replica-2")
        await rig.database.record_multipart(upload, MultipartId("own"))

    async def completed(self, rig: Rig, upload: Upload) -> None:
        await rig.database.commit(upload, a_step(20 * MIB, state=State.COMPLETE, stored=an_object(upload)))

    async def failed(self, rig: Rig, upload: Upload) -> None:
        await rig.database.fail(upload, "broken")

    async def terminated(self, rig: Rig, upload: Upload) -> None:
        await rig.database.terminate(upload.scope, upload.id)

    async def expired(self, rig: Rig, _upload: Upload) -> None:
        await rig.pass_time(LIFETIME + 1)
        await rig.database.expire(10)

    @pytest.mark.parametrize("end", [taken_over, completed, failed, terminated, expired])
    async def test_an_intent_becomes_garbage_when_its_writer_cannot_record_it_any_more(
        self, rig: Rig, end: Callable[[TestIntents, Rig, Upload], Coroutine[Any, Any, None]]
    ) -> None:
        upload = await a_writer(rig.database)
        intents = [Intent(ObjectKey("orphan")), Intent(ObjectKey("orphan-multipart"), multipart=True)]
        await rig.database.intend(upload, intents)
        orphans = {("orphan", None), ("orphan-multipart", "?")}
        assert not orphans & await garbage_of(rig, upload)
        await end(self, rig, upload)
        assert orphans <= await garbage_of(rig, upload)

    async def test_an_intent_survives_the_seal(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        await rig.database.intend(upload, [Intent(ObjectKey("orphan"))])
        upload = await rig.database.commit(upload, a_step(20 * MIB, pieces=(a_piece(0, 20 * MIB, "all"),)))
        assert await garbage_of(rig, upload) == set()
        upload = await rig.database.complete(upload, an_object(upload))
        assert await garbage_of(rig, upload) == {("all", None), ("orphan", None)}

    async def test_an_orphan_waits_until_no_request_of_its_writer_can_be_on_its_way(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        await rig.database.intend(upload, [Intent(ObjectKey("orphan"))])
        await rig.pass_time(GRACE * 2)
        upload = await rig.database.get(upload.scope, upload.id)
        await rig.database.claim(upload, "replica-2")
        await rig.pass_time(GRACE - 10)
        assert await rig.database.due_garbage(10, GRACE) == []
        await rig.pass_time(20)
        assert [row.key for row in await rig.database.due_garbage(10, GRACE)] == ["orphan"]

    async def test_two_announced_multiparts_of_which_one_is_recorded_leave_one_to_collect(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        for _ in range(2):
            await rig.database.intend(upload, [Intent(upload.object_key, multipart=True)])
        upload = await rig.database.record_multipart(upload, MultipartId("own"))
        await rig.database.claim(upload, "replica-2")
        (row,) = await rig.database.due_garbage(10, 0.0)
        assert (row.key, row.multipart, row.multipart_id, row.spare) == (upload.object_key, True, None, "own")

    async def test_unknown_multiparts_wait_while_the_writer_may_be_creating_its_own(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        await rig.database.intend(upload, [Intent(upload.object_key, multipart=True)])
        upload, _ = await rig.database.claim(upload, "replica-2", [Intent(upload.object_key, multipart=True)])
        await rig.pass_time(GRACE * 2)
        assert await rig.database.due_garbage(10, GRACE) == []
        await rig.database.record_multipart(upload, MultipartId("own"))
        await rig.pass_time(61)
        (row,) = await rig.database.due_garbage(10, GRACE)
        assert (row.multipart_id, row.spare) == (None, "own")


class TestGarbage:
    async def test_what_a_complete_upload_refers_to_is_dropped_instead_of_returned(self, rig: Rig) -> None:
        done = await a_complete_upload(rig.database)
        await garbage_of(rig, done)
        for multipart_id in (None, done.multipart_id):
            await rig.plant_garbage(done, done.object_key, multipart_id)
            assert await garbage_of(rig, done) == set()
        assert done.object_key not in await rig.garbage_keys()

    async def test_what_a_live_upload_refers_to_is_dropped_instead_of_returned(self, rig: Rig) -> None:
        sealed = await a_sealed_upload(rig.database)
        piece = f"pieces/{sealed.id}/0"
        await rig.plant_garbage(sealed, piece, None)
        await rig.plant_garbage(sealed, sealed.object_key, sealed.multipart_id)
        assert await garbage_of(rig, sealed) == set()
        assert await rig.garbage_keys() == []

    async def test_the_key_that_a_live_upload_may_still_use_waits_for_its_end(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        await rig.database.intend(upload, [Intent(upload.object_key, attempt=1)])
        upload = await rig.database.get(upload.scope, upload.id)
        upload, _ = await rig.database.claim(upload, "replica-2", [Intent(ObjectKey("k~2"), attempt=2)])
        assert await garbage_of(rig, upload) == set()
        done = await rig.database.commit(
            upload, a_step(20 * MIB, state=State.COMPLETE, stored=an_object(upload, "k~2"))
        )
        await rig.pass_time(61)
        assert await garbage_of(rig, done) == {(upload.object_key, None)}

    async def test_returned_rows_come_again_after_a_minute_until_they_are_dropped(self, rig: Rig) -> None:
        await a_complete_upload(rig.database)
        first = await rig.database.due_garbage(10, 0.0)
        assert len(first) == 1
        assert await rig.database.due_garbage(10, 0.0) == []
        await rig.pass_time(61)
        assert await rig.database.due_garbage(10, 0.0) == first
        for _ in range(2):
            await rig.database.drop_garbage(first, 0.0)
        await rig.pass_time(61)
        assert await rig.database.due_garbage(10, 0.0) == []

    async def test_postponed_rows_wait_and_count_their_tries(self, rig: Rig) -> None:
        await a_complete_upload(rig.database)
        rows = await rig.database.due_garbage(10, 0.0)
        await rig.database.postpone_garbage(rows, 1000.0)
        await rig.pass_time(999)
        assert await rig.database.due_garbage(10, 0.0) == []
        await rig.pass_time(2)
        assert await rig.database.due_garbage(10, 0.0) == [replace(row, tries=1) for row in rows]

    async def test_runs_at_once_share_the_rows_and_keep_to_the_limit(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        pieces = tuple(a_piece(start, 1, f"p{start:02}") for start in range(20))
        upload = await rig.database.commit(upload, a_step(20, pieces=pieces))
        await rig.database.commit(upload, a_step(20, absorb=(0, 20)))
        clients = [rig.another() for _ in range(4)]
        batches = await asyncio.gather(*[client.due_garbage(4, 0.0) for client in clients])
        assert all(len(batch) <= 4 for batch in batches)
        found = [row.key for batch in batches for row in batch]
        found += [row.key for row in await rig.database.due_garbage(100, 0.0)]
        assert sorted(found) == [piece.key for piece in pieces]

    async def test_nothing_to_drop_or_postpone_is_fine(self, database: Database) -> None:
        await database.drop_garbage([], 0.0)
        await database.postpone_garbage([], 1.0)


class TestAroundTheUploads:
    async def test_uploads_are_counted_by_state_over_all_tenants(self, rig: Rig) -> None:
        for state in State:
            await an_upload_in(rig.database, state)
        await rig.database.create(a_new_upload(scope=STRANGERS[2]))
        expected = dict.fromkeys(State, 1) | {State.UPLOADING: 2}
        assert await rig.database.count_by_state() == expected

    async def test_closing_twice_is_fine_and_a_closed_database_is_unavailable(self, database: Database) -> None:
        upload = await database.create(a_new_upload())
        await database.close()
        await database.close()
        with pytest.raises(DatabaseUnavailable):
            await database.get(upload.scope, upload.id)
        with pytest.raises(DatabaseUnavailable):
            await database.create(a_new_upload())

    async def test_a_database_that_was_never_used_can_be_closed(self, rig: Rig) -> None:
        await rig.another().close()

    async def test_a_cancelled_commit_has_happened_whole_or_not_at_all(self, rig: Rig) -> None:
        for turns in range(12):
            writer = await a_writer(rig.database)
            step = a_step(CELL + 5, parts=(a_part(1),), pieces=(a_piece(CELL, 5, f"p-{writer.id}"),))
            task = asyncio.create_task(rig.database.commit(writer, step))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            # Whoever looks again takes the upload over first: then a late commit cannot happen any more.
            found = await claimed_after(rig.database, writer)
            rows = (len(await rig.database.parts(found)), len(await rig.database.pieces(found)))
            assert (found.offset, rows) in [(0, (0, 0)), (CELL + 5, (1, 1))]

    async def test_many_uploads_at_once_do_not_mix(self, rig: Rig) -> None:
        async def run(number: int) -> None:
            upload = await a_writer(rig.database)
            for step in range(5):
                piece = an_inline_piece(upload.offset, bytes([number]) * (step + 1))
                upload = await rig.database.commit(upload, a_step(piece.end, pieces=(piece,)))
            pieces = await rig.database.pieces(upload)
            assert b"".join(piece.data or b"" for piece in pieces) == bytes([number]) * 15

        await asyncio.gather(*[run(number) for number in range(30)])


async def claimed_after(database: Database, writer: Upload) -> Upload:
    while True:
        found = await database.get(writer.scope, writer.id)
        try:
            return (await database.claim(found, "replica-2"))[0]
        except Fenced:
            continue


class Judged:
    """A judge that always says the same, and what it saw."""

    def __init__(self, verdict: Verdict = GO_ON) -> None:
        self.readings: list[ClockReading] = []
        self._verdict = verdict

    def __call__(self, reading: ClockReading) -> Verdict:
        self.readings.append(reading)
        return self._verdict


class TestTheBrakeOfExpiry:
    async def test_the_judge_sees_the_clock_and_whether_anything_can_expire(self, rig: Rig) -> None:
        judge = Judged()
        await rig.database.expire(10, judge)
        upload = await rig.database.create(a_new_upload())
        await rig.pass_time(100)
        await rig.database.expire(10, judge)
        first, second = judge.readings
        assert (first.last_run, first.waits_until, first.held, first.at_stake) == (None, None, None, False)
        assert second.at_stake
        assert second.last_run is not None
        assert timedelta(seconds=99) <= second.now - second.last_run <= timedelta(seconds=160)
        shown = await rig.database.get(upload.scope, upload.id)
        assert timedelta(seconds=99) <= second.now - shown.created_at <= timedelta(seconds=160)

    async def test_uploads_that_never_expire_are_not_at_stake(self, rig: Rig) -> None:
        judge = Judged()
        await rig.database.create(a_new_upload(lifetime=None))
        await a_sealed_upload(rig.database)
        await rig.database.expire(10, judge)
        assert not judge.readings[0].at_stake

    async def test_what_is_held_expires_nothing_and_every_process_sees_it_until_it_is_released(self, rig: Rig) -> None:
        upload = await rig.database.create(a_new_upload(lifetime=-1.0))
        assert await rig.database.expire(10, Judged(Verdict(held="a jump"))) == []
        another, holding, going = rig.another(), Judged(Verdict(held="still")), Judged()
        assert await another.expire(10, holding) == []
        await rig.database.release_expiry()
        assert [expired.id for expired in await another.expire(10, going)] == [upload.id]
        assert (holding.readings[0].held, going.readings[0].held) == ("a jump", None)
        assert going.readings[0].last_run is not None

    async def test_a_pause_is_kept_for_every_process(self, rig: Rig) -> None:
        await rig.database.create(a_new_upload(lifetime=-1.0))
        until = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
        assert await rig.database.expire(10, Judged(Verdict(waits_until=until))) == []
        judge = Judged()
        await rig.another().expire(10, judge)
        assert (judge.readings[0].waits_until, judge.readings[0].held) == (until, None)

    async def test_a_doubt_is_not_written_down(self, rig: Rig) -> None:
        await rig.database.create(a_new_upload(lifetime=-1.0))
        assert await rig.database.expire(10, Judged(Verdict(doubt="whose clock is it?"))) == []
        judge = Judged()
        assert len(await rig.database.expire(10, judge)) == 1
        assert (judge.readings[0].last_run, judge.readings[0].held) == (None, None)

    async def test_a_judge_that_breaks_expires_nothing(self, rig: Rig) -> None:
        await rig.database.create(a_new_upload(lifetime=-1.0))

        def broken(_: ClockReading) -> Verdict:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await rig.database.expire(10, broken)
        assert len(await rig.database.expire(10)) == 1


class TestRemovingTwice:
    async def test_a_row_is_due_again_after_the_grace_and_then_forgotten(self, rig: Rig) -> None:
        await a_complete_upload(rig.database)
        rows = await rig.database.due_garbage(10, GRACE)
        await rig.database.postpone_garbage(rows, 0.0)
        await rig.database.drop_garbage(rows, GRACE)
        await rig.database.drop_garbage(rows, GRACE)
        await rig.pass_time(GRACE - 10)
        assert await rig.database.due_garbage(10, GRACE) == []
        await rig.pass_time(20)
        assert await rig.database.due_garbage(10, GRACE) == rows
        await rig.database.drop_garbage(rows, GRACE)
        assert await rig.garbage_keys() == []

    async def test_an_object_waits_until_the_multipart_upload_of_its_key_is_gone(self, rig: Rig) -> None:
        upload = await a_writer(rig.database)
        upload = await rig.database.record_multipart(upload, MultipartId("begun"))
        await rig.database.terminate(upload.scope, upload.id)
        (multipart,) = await rig.database.due_garbage(10, GRACE)
        assert multipart.multipart_id == "begun"
        await rig.database.postpone_garbage([multipart], 1000.0)
        assert await rig.database.due_garbage(1, GRACE) == []
        await rig.pass_time(1001)
        await rig.database.drop_garbage([multipart], GRACE)
        (thing,) = await rig.database.due_garbage(10, GRACE)
        assert (thing.key, thing.multipart) == (upload.object_key, False)


class TestSurvey:
    async def test_uploads_are_walked_through_page_by_page(self, rig: Rig) -> None:
        ids = sorted([(await an_upload_in(rig.database, state)).id for state in State])
        ids = sorted([*ids, (await rig.database.create(a_new_upload(scope=STRANGERS[1]))).id])
        pages = [await rig.database.survey("", 3)]
        while pages[-1]:
            pages.append(await rig.database.survey(pages[-1][-1].id, 3))
        assert [len(page) for page in pages] == [3, 3, 1, 0]
        assert [upload.id for page in pages for upload in page] == ids

    async def test_live_uploads_name_all_that_is_theirs(self, rig: Rig) -> None:
        sealed = await a_sealed_upload(rig.database)
        await rig.database.intend(sealed, [Intent(ObjectKey("intended")), Intent(ObjectKey("m"), multipart=True)])
        await rig.plant_garbage(sealed, "old", "id-of-old")
        assert await rig.database.names([sealed.id, UploadId("x" * 22)]) == {
            StoreName(sealed.object_key),
            StoreName(sealed.object_key, multipart=True, multipart_id=sealed.multipart_id),
            StoreName(ObjectKey(f"pieces/{sealed.id}/0")),
            StoreName(ObjectKey("intended")),
            StoreName(ObjectKey("m"), multipart=True),
            StoreName(ObjectKey("old"), multipart=True, multipart_id=MultipartId("id-of-old")),
        }

    async def test_a_complete_upload_names_its_object_and_its_garbage(self, rig: Rig) -> None:
        done = await a_complete_upload(rig.database)
        other = await a_writer(rig.database)
        piece = StoreName(ObjectKey(f"pieces/{done.id}/0"))
        assert await rig.database.names([done.id]) == {StoreName(done.object_key), piece}
        assert await rig.database.names([done.id, other.id]) == {
            StoreName(done.object_key),
            piece,
            StoreName(other.object_key),
        }

    @pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED])
    async def test_what_has_ended_names_nothing(self, rig: Rig, state: State) -> None:
        assert await rig.database.names([(await an_upload_in(rig.database, state)).id]) == set()

    async def test_a_preview_shows_what_would_happen_and_changes_nothing(self, rig: Rig) -> None:
        abandoned = await a_writer(rig.database)
        abandoned = await rig.database.commit(abandoned, a_step(9, pieces=(a_piece(0, 9, "piece"),)))
        done = await a_complete_upload(rig.database)
        await rig.pass_time(LIFETIME + 1)
        before = sorted(await rig.garbage_keys())
        expired, garbage = await rig.database.preview(10, GRACE, go_on)
        assert [(upload.id, upload.state) for upload in expired] == [(abandoned.id, State.EXPIRED)]
        assert {row.key for row in garbage} == {"piece", f"pieces/{done.id}/0"}
        assert (await rig.database.get(abandoned.scope, abandoned.id)).state is State.UPLOADING
        assert sorted(await rig.garbage_keys()) == before
        assert [row.key for row in await rig.database.due_garbage(10, GRACE)] == [f"pieces/{done.id}/0"]
        assert (await rig.database.preview(10, GRACE, Judged(Verdict(held="a jump"))))[0] == []
        assert len(await rig.database.expire(10)) == 1


@pytest.mark.servers
@pytest.mark.slow
class TestAHugeDatabase:
    """GC-10, I15: what the jobs do every few seconds costs what there is to do, not what there is."""

    async def huge(self, rig: PostgresRig, count: int = 200_000) -> None:
        """Fill the tables: a tenth of the uploads is abandoned, the others are finished or go on."""
        await rig.query(
            "INSERT INTO uploads (id, tenant, owner, created_via, state, upload_length, upload_offset, grid, epoch,"
            " object_key, held_since, expires_at) SELECT 'upload-' || lpad(n::text, 20, '0'), 'acme', 'alice', 'tus',"
            " CASE WHEN n % 10 < 2 THEN 'uploading' ELSE 'complete' END, 100, 5, '10000*8388608', 1, 'key-' || n,"
            " now(), now() + CASE WHEN n % 10 = 0 THEN '-1 day' ELSE '7 days' END::interval"
            f" FROM generate_series(1, {count}) n"
        )
        await rig.query(
            "INSERT INTO pieces (upload_id, tenant, owner, start_offset, size, crc64, object_key)"
            " SELECT id, tenant, owner, 0, 5, '\\x00', 'piece-' || id FROM uploads WHERE state = 'uploading'"
        )
        await rig.query(
            "INSERT INTO garbage (upload_id, tenant, owner, object_key, multipart, intent_epoch, due_at)"
            " SELECT id, tenant, owner, 'piece-of-old-' || id, false, NULL, now() + '1 minute' FROM uploads"
            " WHERE state = 'complete'"
        )
        await rig.query("ANALYZE uploads, pieces, garbage")

    async def plan(self, rig: PostgresRig, name: str, values: Sequence[str]) -> str:
        """Return how the server runs a statement of the adapter, with `values` for $1, $2 and so on."""
        sql = re.sub(r"\$(\d+)", lambda found: values[int(found[1]) - 1], getattr(_queries, name).sql)
        return "\n".join(str(line) for (line,) in await rig.query(f"EXPLAIN {sql}"))

    async def test_jobs_look_at_what_is_due_and_at_nothing_else(self, postgres_rig: PostgresRig) -> None:
        await self.huge(postgres_rig)
        some = "ARRAY['upload-00000000000000000010']"
        statements = {
            "system_lock_expired": ["500"],
            "system_due_garbage": ["1800", "500"],
            "system_expire": [some],
            "system_clock": [],
            "system_claim_sealed": ["16", "'me'", "30"],
            "system_survey": ["'upload-00000000000000000010'", "500"],
            "system_names": [some],
        }
        for name, values in statements.items():
            plan = await self.plan(postgres_rig, name, values)
            scanned = re.findall(r"Seq Scan on (uploads|pieces|garbage)", plan)
            assert not scanned, f"{name} reads all of {scanned}:\n{plan}"

    async def test_batches_are_bounded_and_end_it_all(self, postgres_rig: PostgresRig) -> None:
        await self.huge(postgres_rig, 20_000)
        database = postgres_rig.database
        batches = [await database.expire(500)]
        while batches[-1]:
            batches.append(await database.expire(500))
        assert [len(batch) for batch in batches] == [500, 500, 500, 500, 0]
        collected = 0
        while rows := await database.due_garbage(500, GRACE):
            assert len(rows) <= 500
            collected += len(rows)
            await database.drop_garbage(rows, GRACE)
        assert collected == 2_000
