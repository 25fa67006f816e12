"""Clean-up by real gateways and by the commands of an operator, beside each other, on stores that do not cooperate."""

from __future__ import annotations

import asyncio
import io
import random
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.fault.books import SqliteBooks
from tests.fault.commands import command
from tests.fault.honest import begin
from tests.fault.proxy import DropAnswer, Hold, s3_error
from tests.fault.rig import MIB, PART, Rig, id_of, pieces_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fault.honest import Upload
    from tests.fault.proxy import Fault

    StartRig = Callable[..., Awaitable[Rig]]

pytestmark = pytest.mark.slow

DATA = random.Random(7).randbytes(2 * PART + MIB)
WEEKS = 30 * 86_400.0
MARKER = "x-amz-meta-tusgate-upload"
TIMES = {
    "uploads": ("created_at", "updated_at", "held_since", "expires_at"),
    "garbage": ("created_at", "due_at", "removed_at"),
}


@pytest.fixture(params=["sqlite", "postgres"])
async def rig(request: pytest.FixtureRequest, start_rig: StartRig) -> Rig:
    return await start_rig(database=request.param)


async def age(rig: Rig, seconds: float = WEEKS) -> None:
    """Let time pass for everything that the database knows, as if all gateways had been at work all the while."""
    for table, columns in TIMES.items():
        if isinstance(rig.books, SqliteBooks):
            changes = ", ".join(f"{column} = {column} - {int(seconds * 1000)}" for column in columns)
        else:
            changes = ", ".join(f"{column} = {column} - interval '{seconds} seconds'" for column in columns)
        await asyncio.to_thread(rig.books.change, f"UPDATE {table} SET {changes}")


async def until_nothing_is_known(rig: Rig) -> None:
    """Let time pass, and operators and gateways clean up, until no row of garbage is left."""
    async with asyncio.timeout(120):
        while await asyncio.to_thread(rig.rows, "SELECT 1 FROM garbage"):
            await age(rig)
            assert (await command(rig, "gc"))[0] in (0, 1)


async def deleted(rig: Rig, upload: Upload) -> None:
    assert (await rig.client.delete(upload.path)).status == 204
    upload.journal.deleted = True


def put_marked(rig: Rig, key: str, owner: str) -> None:
    """Store an object as if a gateway had done it, behind the back of all of them."""
    rig.minio.client().put_object(
        bucket_name=rig.bucket, object_name=key, data=io.BytesIO(b"x"), length=1, metadata={MARKER: owner}
    )


async def test_a_multipart_upload_whose_id_was_never_heard_is_found_by_its_intent(rig: Rig) -> None:
    """GC-01, CR-05, I11: and its client never comes back."""
    upload = await begin(rig, DATA)
    lost = rig.proxy.on("CreateMultipartUpload", DropAnswer(), times=3)
    await rig.client.patch(upload.path, 0, DATA[:PART])
    assert lost.fired == 3
    assert len(await rig.multiparts(upload.path)) == 3
    await age(rig)
    code, lines = await command(rig, "gc")
    assert code == 0
    assert {line["upload"] for line in lines[:-1]} <= {id_of(upload.path)}
    await until_nothing_is_known(rig)
    assert await rig.multiparts(upload.path) == []
    assert rig.row(upload.path)["state"] == "expired"


@pytest.mark.parametrize(
    "answer",
    [s3_error(500, "InternalError"), s3_error(404, "NoSuchUpload"), s3_error(404, "NotFound"), DropAnswer()],
    ids=["500", "404", "vague 404", "lost"],
)
async def test_an_abort_that_does_not_work_is_repeated_until_the_store_says_that_it_is_gone(
    start_rig: StartRig, answer: Fault
) -> None:
    """GC-06, DF-11, I11: the row is kept until then; a 404 to an abort proves nothing while the parts are listed."""
    rig = await start_rig()
    upload = await begin(rig, DATA)
    await upload.send(PART + MIB)
    rule = rig.proxy.on("AbortMultipartUpload", answer, times=20)
    await deleted(rig, upload)
    await rig.until(lambda: rule.fired >= 3)
    if not isinstance(answer, DropAnswer):
        assert await rig.multiparts(upload.path) != []
        assert rig.rows("SELECT 1 FROM garbage WHERE multipart_id IS NOT NULL AND removed_at IS NULL")
    rig.proxy.clear_rules()
    await until_nothing_is_known(rig)
    assert await rig.multiparts(upload.path) == []
    assert await rig.keys() == []


async def test_a_piece_that_the_store_takes_long_after_it_was_removed_is_removed_again(start_rig: StartRig) -> None:
    """I11: its first try was held up somewhere, the second one did it; then came the end, and then the first."""
    rig = await start_rig()
    upload = await begin(rig, DATA)
    hold = Hold()
    held = rig.proxy.on("PutObject", hold, under=pieces_of(upload.path), times=1)
    await upload.send(MIB)
    assert held.fired == 1
    await deleted(rig, upload)
    await rig.until_no_garbage()
    assert await rig.keys() == []
    assert await hold.deliver() == 200
    assert await rig.keys() != []
    await until_nothing_is_known(rig)
    assert await rig.keys() == []


async def test_gateways_and_operators_clean_up_side_by_side_while_one_is_killed(start_rig: StartRig) -> None:
    """GC-04, I10, I11: nothing is left of 12 dead uploads, and nothing is missing of 3 that live."""
    rig = await start_rig(database="postgres", replicas=2)
    uploads = [await begin(rig, DATA) for _ in range(15)]
    await asyncio.gather(*(upload.send(PART + MIB) for upload in uploads))
    for upload in uploads[:6]:
        await deleted(rig, upload)
    living = [id_of(upload.path) for upload in uploads[12:]]
    for upload_id in living:
        rig.books.change("UPDATE uploads SET expires_at = expires_at + interval '1 year' WHERE id = ?", upload_id)
    await age(rig)
    sweeps = [asyncio.create_task(command(rig, "gc")) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.to_thread(rig.replicas[1].gateway.kill)
    await asyncio.gather(*sweeps, *(upload.run() for upload in uploads[12:]))
    await asyncio.to_thread(rig.replicas[1].gateway.start)
    await until_nothing_is_known(rig)
    states = [rig.row(upload.path)["state"] for upload in uploads]
    assert states == ["terminated"] * 6 + ["expired"] * 6 + ["complete"] * 3
    for upload in uploads[:12]:
        assert await rig.multiparts(upload.path) == []
    for upload in uploads[12:]:
        await upload.check_object()


async def test_while_the_brake_is_on_nothing_expires_and_all_else_goes_on(rig: Rig) -> None:
    """I10: the clock has jumped. The service is there; an operator is called for, and decides."""
    upload = await begin(rig, DATA)
    await upload.send(MIB)
    rig.books.change("UPDATE expiry_brake SET held_reason = 'the clock of the database went 3 d forward'")
    await age(rig)
    code, lines = await command(rig, "gc")
    assert (code, lines[-1]["expiry"]) == (1, "held")
    assert rig.row(upload.path)["state"] == "uploading"
    assert await asyncio.to_thread(rig.gateway.answers_ready)
    await rig.until(lambda: '"expiry.held"' in rig.gateway.log_path.read_text())
    await upload.send(PART + MIB)
    await age(rig)
    assert (await command(rig, "gc", "--dry-run", "--release"))[1][-1]["expiry"] == "held"
    code, lines = await command(rig, "gc", "--release")
    assert (code, lines[-1]["expiry"], lines[-1]["expired upload"]) == (0, "on", 1)
    await until_nothing_is_known(rig)
    assert await rig.keys() == []


async def test_a_restored_backup_deletes_nothing_of_the_time_that_it_has_forgotten(start_rig: StartRig) -> None:
    """GC-11, I10: gc leaves such objects alone for ever; reconcile lists them, and records what it can."""
    rig = await start_rig()
    rig.spoiled = True  # the database has forgotten what clients were told
    unfinished, small = await begin(rig, DATA), await begin(rig, DATA[:MIB])
    await unfinished.send(PART + MIB)
    await asyncio.to_thread(rig.gateway.stop)
    file = rig.gateway.home / "data" / "tusgate.sqlite3"
    backup = file.with_suffix(".backup")
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    await asyncio.to_thread(rig.gateway.start)
    unknown = await begin(rig, DATA)
    for upload in (unfinished, small, unknown):
        await upload.run()
    await rig.until_no_garbage()
    await asyncio.to_thread(rig.gateway.kill)
    for leftover in file.parent.glob(f"{file.name}-*"):
        leftover.unlink()
    shutil.copyfile(backup, file)
    await asyncio.to_thread(rig.gateway.start)

    finished = {id_of(upload.path) for upload in (unfinished, small, unknown)}
    code, lines = await command(rig, "reconcile", "--min-age", "0s")
    assert code == 1
    assert {(line["trouble"], line["upload"]) for line in lines[:-1]} == {
        ("finish not recorded", id_of(unfinished.path)),
        ("finish not recorded", id_of(small.path)),
        ("object unknown", id_of(unknown.path)),
    }
    code, lines = await command(rig, "reconcile", "--min-age", "0s", "--repair")
    assert (code, lines[-1]["left"], lines[-1]["mended"]) == (1, 1, 2)
    for upload in (unfinished, small):
        assert (await rig.client.head(upload.path)).offset == len(upload.data)
        await upload.check_object()
    await until_nothing_is_known(rig)
    assert {*await rig.finished_keys()} == finished
    code, lines = await command(rig, "reconcile", "--min-age", "0s", "--repair", "--delete-objects")
    assert (code, lines[-1]["mended"]) == (0, 1)
    assert {*await rig.finished_keys()} == finished - {id_of(unknown.path)}


async def test_an_expired_upload_of_a_restored_backup_keeps_its_object(start_rig: StartRig) -> None:
    """GC-11, I10: the row says unfinished and abandoned, while the store has the finished file."""
    rig = await start_rig()
    rig.spoiled = True
    upload = await begin(rig, DATA)
    await upload.send(PART + MIB)
    (before,) = rig.rows("SELECT * FROM uploads")
    await upload.run()
    rig.books.change(
        "UPDATE uploads SET state = 'uploading', upload_offset = ?, epoch = ?, etag = NULL, crc64 = NULL,"
        " completed_at = NULL, expires_at = ? WHERE id = ?",
        *(before[name] for name in ("upload_offset", "epoch", "expires_at", "id")),
    )
    await age(rig)
    assert (await command(rig, "gc"))[0] == 0
    await until_nothing_is_known(rig)
    assert rig.row(upload.path)["state"] == "expired"
    await upload.check_object()
    _, lines = await command(rig, "reconcile", "--min-age", "0s")
    assert [(line["trouble"], line["key"]) for line in lines[:-1]] == [("object unknown", id_of(upload.path))]


async def test_what_disagrees_is_found_and_mended_and_what_is_not_ours_is_left_alone(rig: Rig) -> None:
    """GC-07, I10, I11: the foreign objects of the rig look like ours, and are there at the end."""
    done, lost, torn, fine = [await begin(rig, DATA) for _ in range(4)]
    await done.run()
    await lost.send(PART)
    await torn.send(PART + MIB)
    await fine.send(PART + MIB)
    await rig.abort_behind_its_back(lost.path)
    rig.expect_loss(torn.path)
    (piece,) = rig.rows("SELECT object_key FROM pieces WHERE upload_id = ?", id_of(torn.path))
    client = rig.minio.client()
    stray = f"{pieces_of(fine.path)}77-0"
    rig.minio.client().remove_object(bucket_name=rig.bucket, object_name=piece["object_key"])
    put_marked(rig, stray, id_of(fine.path))
    client._create_multipart_upload(bucket_name=rig.bucket, object_name=id_of(done.path), headers={})
    expected = {
        ("parts lost", id_of(lost.path)),
        ("piece missing", id_of(torn.path)),
        ("piece unknown", id_of(fine.path)),
        ("multipart unknown", id_of(done.path)),
    }
    code, lines = await command(rig, "reconcile", "--min-age", "0s")
    assert code == 1
    assert {(line["trouble"], line["upload"]) for line in lines[:-1]} == expected
    assert (await command(rig, "reconcile"))[1][-1]["left"] == 3  # the stray piece is young
    code, lines = await command(rig, "reconcile", "--min-age", "0s", "--repair", "--delete-objects")
    assert (code, lines[-1]["mended"], lines[-1]["foreign"]) == (0, 4, 4)
    left = int(str(lines[-1]["objects"])) - 1
    assert await command(rig, "reconcile", "--min-age", "0s") == (0, [lines[-1] | {"mended": 0, "objects": left}])
    assert stray not in await rig.keys()
    assert [(await rig.client.head(upload.path)).status for upload in (lost, torn)] == [410, 410]
    await fine.run()


async def test_a_finished_object_that_is_gone_or_changed_is_reported_for_ever(start_rig: StartRig) -> None:
    """I4: nothing is made up, and the record of what should be there is kept."""
    rig = await start_rig()
    rig.spoiled = True
    gone, changed = [await begin(rig, DATA) for _ in range(2)]
    for upload in (gone, changed):
        await upload.run()
    rig.minio.client().remove_object(bucket_name=rig.bucket, object_name=id_of(gone.path))
    put_marked(rig, id_of(changed.path), id_of(changed.path))
    for _ in range(2):
        code, lines = await command(rig, "reconcile", "--min-age", "0s", "--repair", "--delete-objects")
        assert code == 1
        assert {(line["trouble"], line["upload"]) for line in lines[:-1]} == {
            ("object missing", id_of(gone.path)),
            ("object differs", id_of(changed.path)),
        }
