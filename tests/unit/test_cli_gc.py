"""`tusgate gc` and `tusgate reconcile` as an operator meets them: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import a_new_upload
from tusgate.core.grid import MIB
from tusgate.core.model import ObjectKey, Piece, State, Step, UploadId
from tusgate.database.sqlite import SqliteDatabase
from tusgate.filesystem import DirectoryStore
from tusgate.ports import Attributes, Body
from tusgate.service.digest import crc64_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tusgate.core.model import Upload

    Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

DATA = b"hello"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `tusgate` on the data of the test, in a directory of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TUSGATE_")}
    clean |= {"HOME": str(tmp_path), "COLUMNS": "120"}

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tusgate", *arguments],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return start


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def lines_of(result: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


async def abandoned(data: Path, count: int = 1) -> list[Upload]:
    """Store uploads with a piece each whose time is over; return them."""
    database, store = SqliteDatabase(data / "tusgate.sqlite3"), DirectoryStore(data)
    await database.migrate()
    uploads = []
    for _ in range(count):
        upload, _ = await database.claim(await database.create(a_new_upload()), "gone")
        key = ObjectKey(f".tusgate/pieces/{upload.id}/1-0")
        await put(store, key, upload.id)
        piece = Piece(0, len(DATA), crc64_of([DATA]), key)
        step = Step(end=len(DATA), length=20 * MIB, state=State.UPLOADING, pieces=(piece,), lifetime=-1.0)
        uploads.append(await database.commit(upload, step))
    await database.close()
    return uploads


async def put(store: DirectoryStore, key: str, owner: str) -> None:
    body = Body(len(DATA), crc64_of([DATA]), buffers=[DATA])
    await store.put_object(ObjectKey(key), body, Attributes(UploadId(owner)))


def files(data: Path) -> list[str]:
    return sorted(str(path.relative_to(data / "objects")) for path in (data / "objects").rglob("*") if path.is_file())


async def test_a_dry_run_tells_all_and_changes_nothing(run: Run, data: Path) -> None:
    (upload,) = await abandoned(data)
    before = files(data)
    for _ in range(2):
        result = run("gc", "--dry-run", "--json")
        assert (result.returncode, result.stderr) == (0, "")
        piece = f".tusgate/pieces/{upload.id}/1-0"
        assert lines_of(result) == [
            {"would_be": "expired", "what": "upload", "upload": upload.id, "key": upload.object_key},
            {"would_be": "removed", "what": "object", "upload": upload.id, "key": piece},
            {"dry_run": True, "expiry": "on", "reason": None, "expired upload": 1, "removed object": 1},
        ]
    assert files(data) == before


async def test_it_cleans_up_and_says_so_and_then_there_is_nothing_more(run: Run, data: Path) -> None:
    (upload,) = await abandoned(data)
    result = run("gc")
    assert result.returncode == 0
    assert "1 upload expired, 1 object removed\n" in result.stdout
    assert [row.split()[:3] for row in result.stdout.splitlines()[:3]] == [
        ["Done", "What", "Upload"],
        ["expired", "upload", upload.id],
        ["removed", "object", upload.id],
    ]
    assert files(data) == []
    assert run("gc").stdout == "nothing to clean up\n"


async def test_a_long_table_is_cut_and_json_is_not(run: Run, data: Path) -> None:
    await abandoned(data, 60)
    shown = run("gc", "--dry-run").stdout
    assert shown.count(".tusgate/pieces/") < 60
    assert "and 20 more; --json lists them all" in shown
    assert "60 uploads would be expired, 60 objects would be removed" in shown
    assert len(lines_of(run("gc", "--json"))) == 121


async def test_what_cannot_be_removed_is_named_and_is_code_1(run: Run, data: Path) -> None:
    (upload,) = await abandoned(data)
    piece = data / "objects" / ".tusgate" / "pieces" / upload.id / "1-0"
    attributes = next(path for path in (data / "attributes").rglob("*") if path.is_file())
    attributes.unlink()
    attributes.mkdir()  # what belongs to the file cannot be unlinked
    result = run("gc", "--json")
    assert result.returncode == 1
    assert [line["done"] for line in lines_of(result)[:-1]] == ["expired", "kept"]
    attributes.rmdir()
    assert not piece.exists()
    assert run("gc").stdout == "nothing to clean up\n"


async def test_a_clock_that_jumped_needs_an_operator(run: Run, data: Path) -> None:
    await abandoned(data)
    with closing(sqlite3.connect(data / "tusgate.sqlite3")) as connection, connection:
        connection.execute("UPDATE expiry_brake SET held_reason = 'the clock went 3 d forward'")
    result = run("gc")
    assert (result.returncode, result.stdout) == (1, "nothing to clean up\n")
    assert "Uploads do not expire: the clock went 3 d forward.\n" in result.stderr
    assert "tusgate gc --release\n" in result.stderr
    assert run("gc", "--release").stdout.endswith("1 upload expired, 1 object removed\n")
    assert run("gc").returncode == 0


async def test_after_an_outage_it_says_when_uploads_expire_again(run: Run, data: Path) -> None:
    await abandoned(data)
    with closing(sqlite3.connect(data / "tusgate.sqlite3")) as connection, connection:
        connection.execute(
            "UPDATE expiry_brake SET last_run = CAST(strftime('%s', 'now') AS INTEGER) * 1000 - 86400000"
        )
    result = run("gc", "--json")
    assert result.returncode == 0
    assert lines_of(result)[-1]["expiry"] == "delayed"
    assert "No upload expires before 20" in result.stderr


async def test_reconcile_says_that_they_agree(run: Run, data: Path) -> None:
    (upload,) = await abandoned(data)
    result = run("reconcile")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "1 upload and 1 object compared (1 too young, 0 not ours): they agree\n"
    assert files(data) == [f".tusgate/pieces/{upload.id}/1-0"]


async def test_reconcile_reports_first_and_repairs_on_request(run: Run, data: Path) -> None:
    await abandoned(data)
    owner = "q" * 24
    await put(DirectoryStore(data), f".tusgate/pieces/{owner}/1-0", owner)
    await put(DirectoryStore(data), owner, owner)
    (data / "objects" / "notes.txt").write_text("not ours")
    first = run("reconcile", "--min-age", "0s")
    assert first.returncode == 1
    assert "2 objects" not in first.stdout
    assert (
        "1 x object unknown, 1 x piece unknown" in first.stdout
        or "1 x piece unknown, 1 x object unknown" in first.stdout
    )
    repaired = lines_of(run("reconcile", "--min-age", "0s", "--repair", "--json"))
    assert sorted((line["trouble"], line["mended"]) for line in repaired[:-1]) == [
        ("object unknown", "no"),
        ("piece unknown", "yes"),
    ]
    assert repaired[-1] == {"uploads": 1, "objects": 4, "young": 0, "foreign": 1, "left": 1, "mended": 1}
    assert run("reconcile", "--min-age", "0s", "--delete-objects").returncode == 0
    assert "notes.txt" in files(data)
    assert owner not in files(data)


async def test_a_file_that_reconcile_finishes_is_kept_as_the_settings_say(run: Run, data: Path) -> None:
    database = SqliteDatabase(data / "tusgate.sqlite3")
    await database.migrate()
    upload = await database.create(a_new_upload(length=len(DATA)))
    await put(DirectoryStore(data), upload.object_key, upload.id)
    (data.parent / ".env").write_text("TUSGATE_FILE_EXPIRY=90d\nTUSGATE_FILE_DIGEST=sha256\n")
    [told, _] = lines_of(run("reconcile", "--min-age", "0s", "--repair", "--json"))
    assert (told["trouble"], told["mended"]) == ("finish not recorded", "yes")
    file = await database.get(upload.scope, upload.id)
    assert file.completed_at is not None
    assert file.expires_at == file.completed_at + timedelta(days=90)
    assert [each.id for each in await database.claim_undigested(60.0, 5)] == [upload.id]
    await database.close()


@pytest.mark.parametrize("command", ["gc", "reconcile"])
def test_a_database_that_is_not_there_is_code_3_and_is_not_made(run: Run, data: Path, command: str) -> None:
    result = run(command)
    assert result.returncode == 3
    assert "the database file cannot be used" in result.stderr
    assert "data/tusgate.sqlite3" in result.stderr
    assert list(data.iterdir()) == []


def test_a_command_in_the_wrong_directory_leaves_nothing_there(run: Run, tmp_path: Path) -> None:
    assert run("gc").returncode == 3
    assert list(tmp_path.iterdir()) == []


def test_an_age_that_is_none_is_code_2(run: Run) -> None:
    assert run("reconcile", "--min-age", "old").returncode == 2
