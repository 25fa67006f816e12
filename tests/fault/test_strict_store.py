"""What real servers cannot be made to show: the passing of a day, other vendors' habits, bytes that rot.

A real gateway process, the fault proxy, and the strict S3 double (tests/doubles/s3) behind it. The audit at the end of
each test holds the invariants on the double as on MinIO.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import random
from typing import TYPE_CHECKING

import pytest
from awscrt.checksums import crc64nvme

from tests.audit.foreign import FOREIGN_MULTIPART
from tests.doubles.s3.behaviour import AWS, CEPH, HOUR, MINIO, R2, RCLONE, Behaviour
from tests.doubles.s3.bucket import Attributes, Blob
from tests.doubles.s3.server import S3Double
from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.honest import Upload, begin, heard
from tests.fault.proxy import Drop, DropAnswer, Gate, s3_error
from tests.fault.rig import KIB, MIB, PART, id_of, lettered, pieces_of
from tusgate.s3.retry import TRIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.doubles.s3.bucket import Bucket
    from tests.fault.rig import Rig
    from tests.servers.s3 import S3Server

    StartRig = Callable[..., Awaitable[Rig]]

pytestmark = pytest.mark.slow

BUCKET = "strict"
DATA = lettered("a", 3 * PART + 100 * KIB + 7)
BROKEN = s3_error(500, "InternalError")
PATH_STYLE = {"aws": "versity"}
"""Profiles by another name: a port of this machine has no host names below it, the abilities are the same."""

on = pytest.mark.parametrize


def vendors(*behaviours: Behaviour) -> pytest.MarkDecorator:
    """Run a test against doubles of these vendors."""
    return on("double", behaviours, indirect=True, ids=lambda behaviour: behaviour.profile)


@pytest.fixture
async def double(request: pytest.FixtureRequest) -> AsyncIterator[S3Double]:
    async with S3Double(getattr(request, "param", MINIO)) as made:
        made.make_bucket(BUCKET)
        yield made


@pytest.fixture
def minio(double: S3Double) -> S3Server:
    """The store of the rig is the double."""
    return double.as_server()


@pytest.fixture
def bucket(double: S3Double) -> str:
    return BUCKET


@pytest.fixture
async def rig(start_rig: StartRig, double: S3Double) -> Rig:
    return await start_rig(settings_for(double))


def settings_for(double: S3Double, **more: str) -> dict[str, str]:
    profile = double.behaviour.profile
    return {**SMALLEST_PARTS_AND_COLD, "TUSGATE_S3_PROFILE": PATH_STYLE.get(profile, profile), **more}


def inside(double: S3Double) -> Bucket:
    return double.buckets[BUCKET]


def ours(double: S3Double) -> list[str]:
    """Return the ids of all multipart uploads but the foreign one."""
    return [name for name, found in inside(double).multiparts.items() if found.key != FOREIGN_MULTIPART]


def let_a_day_pass(double: S3Double) -> None:
    """The store sweeps what is 24 hours old. What somebody else has begun is begun anew, for the audit."""
    double.advance(24 * HOUR)
    inside(double).begin(FOREIGN_MULTIPART, Attributes(), None, None)


async def assert_it_is_gone(rig: Rig, path: str) -> None:
    assert (await rig.client.head(path)).status == 410
    assert rig.row(path)["state"] == "failed"
    assert rig.row(path)["reason"]
    assert await rig.finished_keys() == []


class TestTheSweep:
    """MinIO and others delete a multipart upload at an age, however lately it got a part."""

    async def test_an_upload_that_is_swept_while_it_is_written_has_failed(self, rig: Rig, double: S3Double) -> None:
        """I4, I9: 410 from the next append on, and never a success."""
        upload = await begin(rig, DATA)
        await upload.send(2 * PART)
        double.advance(23 * HOUR)
        await upload.send(2 * PART + MIB)
        assert len(ours(double)) == 1
        rig.expect_loss(upload.path)

        let_a_day_pass(double)

        assert (await rig.client.head(upload.path)).offset == 2 * PART + MIB
        answer = await rig.client.patch(upload.path, 2 * PART + MIB, DATA[2 * PART + MIB :])
        assert answer.status == 410
        await assert_it_is_gone(rig, upload.path)
        assert double.count("CompleteMultipartUpload") == 0

    async def test_an_upload_that_is_swept_before_complete_has_failed(self, rig: Rig, double: S3Double) -> None:
        """I4, I5: NoSuchUpload is no success, and no reason to go on for ever."""
        upload = await begin(rig, DATA)
        gate = Gate()
        rig.proxy.on("CompleteMultipartUpload", gate, times=1)
        rig.expect_loss(upload.path)
        sending = asyncio.create_task(rig.client.patch(upload.path, 0, DATA))
        await gate.reached.wait()

        let_a_day_pass(double)
        gate.open()

        assert (await sending).status == 410
        await assert_it_is_gone(rig, upload.path)

    async def test_an_upload_that_was_completed_before_the_sweep_stays_complete(
        self, rig: Rig, double: S3Double
    ) -> None:
        """I4: the answer to Complete is lost, the gateway dies, and a day later NoSuchUpload still proves nothing."""
        upload = await begin(rig, DATA)
        lost = rig.proxy.on("CompleteMultipartUpload", DropAnswer(), times=1)
        gate = Gate()
        rig.proxy.on("HeadObject", gate, times=1)
        sending = asyncio.create_task(upload.send(len(DATA)))
        await gate.reached.wait()
        await asyncio.to_thread(rig.gateway.kill)
        let_a_day_pass(double)
        await asyncio.to_thread(rig.gateway.start)

        await sending
        await upload.run()

        assert lost.fired == 1
        assert rig.row(upload.path)["state"] == "complete"

    @vendors(R2, RCLONE)
    async def test_uploads_end_before_the_store_would_end_them(self, start_rig: StartRig, double: S3Double) -> None:
        """What a vendor is known to sweep bounds the lifetime, and a setting that promises more is refused."""
        rig = await start_rig(settings_for(double))
        upload = await begin(rig, DATA)
        row = rig.row(upload.path)
        assert double.behaviour.sweeps_after is not None

        lifetime = (row["expires_at"] - row["created_at"]) / 1000

        assert lifetime <= double.behaviour.sweeps_after - HOUR


class TestAnAmnesiacListing:
    async def test_expired_uploads_are_removed_by_their_recorded_ids(
        self, start_rig: StartRig, double: S3Double
    ) -> None:
        """GC-03, I11: ListMultipartUploads shows nothing after a restart of MinIO."""
        rig = await start_rig(settings_for(double, TUSGATE_UPLOAD_EXPIRY="10s"))
        begun: set[str] = set()

        async def abandon() -> None:
            path = await rig.client.create(2 * PART)
            assert (await rig.client.patch(path, 0, DATA[: PART + 100 * KIB])).status == 204
            begun.add(rig.row(path)["multipart_id"])

        for _ in range(10):
            await asyncio.gather(*(abandon() for _ in range(10)))
            await double.restart()
        assert inside(double).list_multiparts("") == []
        assert len(begun) == 100

        await rig.until(lambda: not ours(double) and not rig._keys())

        aborted = {each.upload_id for each in double.of("AbortMultipartUpload") if each.succeeded}
        assert begun <= aborted
        assert double.count("ListMultipartUploads") == 0
        assert {row["state"] for row in rig.rows("SELECT state FROM uploads")} == {"expired"}


class TestComplete:
    @vendors(AWS, MINIO)
    async def test_a_complete_whose_answer_is_lost_is_proven_or_repeated(self, rig: Rig, double: S3Double) -> None:
        """DF-07, I4, I5: the second Complete is answered 200 with the same ETag by one vendor, 404 by the other."""
        proven, repeated = await begin(rig, DATA), await begin(rig, DATA)
        for upload in (proven, repeated):
            rig.proxy.on("CompleteMultipartUpload", DropAnswer(), key=id_of(upload.path), times=1)
        rig.proxy.on("HeadObject", BROKEN, key=id_of(repeated.path), times=TRIES)

        await asyncio.gather(proven.run(), repeated.run())

        assert self._completes(double, proven) == [""]
        second = "" if double.behaviour.repeats_complete else "NoSuchUpload"
        assert self._completes(double, repeated) == ["", second]
        etags = {each.etag for each in double.of("CompleteMultipartUpload") if each.succeeded}
        assert len(etags) == 1

    @vendors(AWS, MINIO)
    @on("done", [False, True])
    async def test_an_error_inside_of_a_200_is_no_success(self, rig: Rig, double: S3Double, done: bool) -> None:
        """DF-05, I5: InternalError twice, with white space before it (or a plain 500), then as it should be."""
        upload = await begin(rig, DATA)
        double.fail_completes(2, done=done)

        await upload.run()

        answers = double.of("CompleteMultipartUpload")
        assert (answers[0].status, answers[0].code) == (200 if double.behaviour.keeps_alive else 500, "InternalError")
        if done:
            assert len(answers) == 1  # the object proves it
        else:
            assert [each.code for each in answers] == ["InternalError", "InternalError", ""]
        assert await rig.finished_keys() == [id_of(upload.path)]

    @vendors(AWS, MINIO)
    async def test_a_part_that_has_become_another_one_fails_the_upload(self, rig: Rig, double: S3Double) -> None:
        """DF-08, I3, I4, I9: InvalidPart. Somebody with the bucket's keys has replaced a part; no mix is published."""
        upload = await begin(rig, DATA)
        await upload.send(2 * PART)
        rig.expect_loss(upload.path)
        part = inside(double).multiparts[ours(double)[0]].parts
        strange = lettered("z", PART)
        part[2] = Blob.of(strange, {"crc64nvme": crc64nvme(strange).to_bytes(8, "big")})

        answer = await rig.client.patch(upload.path, 2 * PART, DATA[2 * PART :])

        assert answer.status == 410, answer
        await assert_it_is_gone(rig, upload.path)
        assert {each.code for each in double.of("CompleteMultipartUpload")} == {"InvalidPart"}
        assert (await rig.client.patch(upload.path, len(DATA))).status == 410

    @vendors(*(dataclasses.replace(behaviour, min_part_size=PART + MIB) for behaviour in (AWS, MINIO)))
    async def test_parts_that_are_too_small_for_the_store_fail_the_upload(self, rig: Rig, double: S3Double) -> None:
        """DF-08, I4, I9: EntityTooSmall, from a store that wants larger parts than S3 does."""
        upload = await begin(rig, DATA)
        rig.expect_loss(upload.path)

        answer = await rig.client.patch(upload.path, 0, DATA)

        assert answer.status == 410, answer
        await assert_it_is_gone(rig, upload.path)
        assert [each.code for each in double.of("CompleteMultipartUpload")] == ["EntityTooSmall"]

    @staticmethod
    def _completes(double: S3Double, upload: Upload) -> list[str]:
        return [each.code for each in double.of("CompleteMultipartUpload") if each.call.key == id_of(upload.path)]


class TestRot:
    """DF-15: a byte flips inside of the store, after it was confirmed."""

    @vendors(MINIO, CEPH)
    @on("part", [1, 3])
    async def test_a_part_that_rots_is_the_stores_to_notice_and_ours_to_prove(
        self, rig: Rig, double: S3Double, part: int
    ) -> None:
        """Not promised: no store reads parts again at Complete, and the object is not read back either.

        Promised: the committed checksum is that of the accepted bytes, so that the damage can be shown.
        """
        rig.spoiled = True
        upload = await begin(rig, DATA)
        await upload.send(3 * PART)
        (multipart_id,) = ours(double)
        inside(double).rot_part(multipart_id, part, 17)

        assert (await rig.client.patch(upload.path, 3 * PART, DATA[3 * PART :])).status == 204

        stored, row = await rig.stored(upload.path), rig.row(upload.path)
        assert len(stored) == len(DATA)
        assert stored != DATA
        assert int.from_bytes(row["crc64"], "big") == crc64nvme(DATA) != crc64nvme(stored)

    @vendors(MINIO, CEPH, RCLONE)
    async def test_a_piece_that_rots_is_never_made_part_of_an_object(self, rig: Rig, double: S3Double) -> None:
        """I3, I4, I9: pieces are read back against their committed checksum, whatever the store checks."""
        upload = await begin(rig, DATA)
        await upload.send(PART + 2 * MIB)
        rig.expect_loss(upload.path)
        (piece,) = (key for key in inside(double).objects if key.startswith(pieces_of(upload.path)))
        inside(double).rot(piece, 17)

        answer = await rig.client.patch(upload.path, PART + 2 * MIB, DATA[PART + 2 * MIB :])

        assert answer.status == 410, answer
        await assert_it_is_gone(rig, upload.path)

    @vendors(CEPH)
    @on("fate", ["rots", "vanishes"])
    async def test_a_sealed_upload_whose_piece_is_lost_ends(self, rig: Rig, double: S3Double, fate: str) -> None:
        """I4, I5: it cannot be finished any more, and does not try for ever.

        Where every part must be listed, bytes with a digest wait as pieces until Complete.
        """
        upload = await begin(rig, DATA)
        rig.expect_loss(upload.path)
        gate = Gate()
        rig.proxy.on("GetObject", gate, under=pieces_of(upload.path), times=1)
        digest = base64.b64encode(hashlib.sha1(DATA).digest()).decode()
        sending = asyncio.create_task(rig.client.patch(upload.path, 0, DATA, {"Upload-Checksum": f"sha1 {digest}"}))
        await gate.reached.wait()
        assert rig.row(upload.path)["state"] == "sealed"
        piece = max(key for key in inside(double).objects if key.startswith(pieces_of(upload.path)))
        if fate == "rots":
            inside(double).rot(piece, 17)
        else:
            inside(double).delete(piece)

        gate.open()
        answer = await sending

        assert answer.status in (410, 423), answer
        await rig.until_state(upload.path, "failed")
        await assert_it_is_gone(rig, upload.path)


class TestEveryVendor:
    @vendors(AWS, MINIO, R2, CEPH, RCLONE)
    @on("seed", [1, 2])
    async def test_uploads_land_whole_through_faults_takeovers_and_wrong_digests(
        self, rig: Rig, double: S3Double, seed: int
    ) -> None:
        """I1, I3, I7: equal parts, every part listed, no part sent twice with other bytes, as each vendor demands."""
        dice = random.Random(seed)
        uploads = [await begin(rig, lettered(letter, dice.randint(PART, 4 * PART))) for letter in "abcd"]
        for kind in ("UploadPart", "PutObject", "GetObject", "CreateMultipartUpload", "CompleteMultipartUpload"):
            for nth in dice.sample(range(1, 12), 3):
                fault = dice.choice((BROKEN, Drop(), Drop(after=100 * KIB), DropAnswer()))
                rig.proxy.on(kind, fault, nth=nth)

        await asyncio.gather(*(roughly(rig, upload, random.Random(f"{seed} {upload.path}")) for upload in uploads))

        for upload in uploads:
            assert rig.row(upload.path)["state"] == "complete"
            await upload.check_object()
        assert_completes_list_what_is_committed(rig, double)
        refused = {each.code for each in double.history if each.status is not None and not each.succeeded}
        assert refused <= {"", "404", "NoSuchKey", "NoSuchUpload"}, refused


async def roughly(rig: Rig, upload: Upload, dice: random.Random) -> None:
    """Send a file as a bad network does: cut, taken over, with digests that are wrong at first."""
    length = len(upload.data)
    async with asyncio.timeout(120):
        while upload.acknowledged < length:
            offset = await upload.ask()
            if offset is None or offset == length:
                await asyncio.sleep(0.05)
                continue
            end = min(length, offset + dice.choice((100 * KIB, MIB, 3 * MIB, 2 * PART + 1, length)))
            match dice.randrange(4):
                case 0:
                    await send_and_cut(rig, upload, offset, end, dice)
                case 1:
                    await send_with_digest(rig, upload, offset, end, right=False)
                case 2:
                    await send_with_digest(rig, upload, offset, end, right=True)
                case _:
                    await upload.send(end)
        await upload.run()


async def send_and_cut(rig: Rig, upload: Upload, offset: int, end: int, dice: random.Random) -> None:
    """Announce `[offset, end)` and break off somewhere in it; what the gateway makes of it shows in the next HEAD."""
    async with rig.client.connect() as connection:
        fields = {
            "Tus-Resumable": "1.0.0",
            "Content-Type": "application/offset+octet-stream",
            "Upload-Offset": str(offset),
            "Content-Length": str(end - offset),
        }
        connection.send_head("PATCH", upload.path, fields)
        connection.up.write(upload.data[offset : dice.randint(offset, end)])
        await connection.up.drain()


async def send_with_digest(rig: Rig, upload: Upload, offset: int, end: int, *, right: bool) -> None:
    """PATCH with an `Upload-Checksum`; a wrong one must change nothing."""
    digest = hashlib.sha1(upload.data[offset:end] if right else b"other").digest()
    fields = {"Upload-Checksum": f"sha1 {base64.b64encode(digest).decode()}"}
    answer = await heard(lambda: rig.client.patch(upload.path, offset, upload.data[offset:end], fields))
    assert answer.status in (204, 409, 423, 503) or (answer.status == 460 and not right), answer
    assert right or answer.status != 204


def assert_completes_list_what_is_committed(rig: Rig, double: S3Double) -> None:
    """I7: as the store saw it, and every listed ETag is one that the store had confirmed before."""
    ids = {row["multipart_id"]: row["id"] for row in rig.rows("SELECT id, multipart_id FROM uploads")}
    confirmed: dict[tuple[str, int | None], set[str]] = {}
    completes = 0
    for served in double.history:
        if served.call.kind == "UploadPart" and served.succeeded:
            confirmed.setdefault((served.upload_id, served.call.part), set()).add(served.etag)
        if served.call.kind == "CompleteMultipartUpload":
            completes += 1
            rows = rig.rows("SELECT number, etag FROM parts WHERE upload_id = ? ORDER BY number", ids[served.upload_id])
            assert served.call.listed_parts == [(row["number"], row["etag"]) for row in rows]
            for number, etag in served.call.listed_parts:
                assert etag in confirmed[served.upload_id, number]
    assert completes
