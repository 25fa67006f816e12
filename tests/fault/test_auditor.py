"""The auditor finds what it is there for: one violation of each kind, planted into a real rig, and nothing else."""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest

from tests.audit.facts import gather
from tests.audit.foreign import FOREIGN_OBJECTS
from tests.audit.journal import Accepted, Told
from tests.audit.rules import RULES, violations
from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.honest import begin
from tests.fault.joined import begin_apart, begin_in_place
from tests.fault.rig import KIB, PART, Rig, id_of, pieces_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fault.honest import Upload
    from tests.fault.joined import Final

    Plant = Callable[["Scene"], None]

DATA = random.Random(5).randbytes(2 * PART + 200 * KIB)


class Scene:
    """A rig after an ordinary day.

    Attributes:
        done, half: an upload that is complete, and one that is half done. A third one was deleted.
        in_place, apart: finals, with the bytes of their partials in one multipart upload, or in objects of their own.
        waiting: partials in place whose final nobody has asked for yet.
        kept: a file that must be kept.
    """

    def __init__(
        self, rig: Rig, done: Upload, half: Upload, in_place: Final, apart: Final, waiting: Final, kept: Upload
    ) -> None:
        self.rig = rig
        self.done = done
        self.half = half
        self.kept = kept
        self.in_place = in_place
        self.apart = apart
        self.waiting = waiting

    def change(self, statement: str, upload: Upload) -> None:
        self.rig.books.change(statement, id_of(upload.path))

    def put(self, key: str, content: bytes) -> None:
        client = self.rig.minio.client()
        client.put_object(bucket_name=self.rig.bucket, object_name=key, data=io.BytesIO(content), length=len(content))

    def delete(self, key: str) -> None:
        self.rig.minio.client().remove_object(bucket_name=self.rig.bucket, object_name=key)


async def scene_in(rig: Rig) -> Scene:
    done, half, deleted, kept = [await begin(rig, DATA) for _ in range(4)]
    await done.run()
    await kept.run()
    await kept.retain()
    assert (await rig.client.delete(kept.path)).status == 409
    await half.send(PART + 100 * KIB)
    await half.send(PART + 150 * KIB)
    await deleted.send(PART)
    assert (await rig.client.delete(deleted.path)).status == 204
    deleted.journal.deleted = True
    halves = [DATA[:PART], DATA[PART:]]
    in_place, waiting = [await begin_in_place(rig, name, halves) for name in ("one", "another")]
    apart = await begin_apart(rig, halves)
    await in_place.run()
    await apart.run()
    for partial in waiting.partials:
        await partial.run()
    return Scene(rig, done, half, in_place, apart, waiting, kept)


def a_committed_piece_is_forgotten(scene: Scene) -> None:
    scene.change("DELETE FROM pieces WHERE data IS NOT NULL AND upload_id = ?", scene.half)
    offset = PART + 100 * KIB
    scene.change(f"UPDATE uploads SET upload_offset = {offset} WHERE id = ?", scene.half)


def an_answer_shows_less_than_an_earlier_one(scene: Scene) -> None:
    scene.half.journal.told.append(Told(offset=1, status=409, known=2))


def a_stored_piece_vanishes(scene: Scene) -> None:
    scene.delete(f"{pieces_of(scene.half.path)}1-0")


def a_stored_part_vanishes(scene: Scene) -> None:
    row = scene.rig.row(scene.half.path)
    scene.rig.minio.client()._abort_multipart_upload(scene.rig.bucket, row["object_key"], row["multipart_id"])


def a_stored_part_of_a_partial_vanishes(scene: Scene) -> None:
    group = scene.rig.row(scene.waiting.partials[0].path)["group_id"]
    row = scene.rig.row(group)
    scene.rig.minio.client()._abort_multipart_upload(scene.rig.bucket, row["object_key"], row["multipart_id"])


def a_digest_is_that_of_another_file(scene: Scene) -> None:
    scene.change("UPDATE uploads SET sha256 = zeroblob(32) WHERE id = ?", scene.done)


def a_final_has_its_partials_in_another_order(scene: Scene) -> None:
    statement = "UPDATE sources SET position = 10 - position WHERE upload_id = ?"
    scene.rig.books.change(statement, id_of(scene.apart.paths[-1]))


def a_final_forgets_a_partial(scene: Scene) -> None:
    scene.rig.books.change("DELETE FROM sources WHERE position = 1 AND upload_id = ?", id_of(scene.apart.paths[-1]))


def a_final_has_other_parts_than_its_partials(scene: Scene) -> None:
    scene.change("UPDATE parts SET etag = 'another' WHERE upload_id = ?", scene.in_place.partials[1])


def a_partial_in_place_has_other_bytes(scene: Scene) -> None:
    statement = "UPDATE parts SET crc64 = zeroblob(8) WHERE upload_id = ?"
    scene.change(statement, scene.in_place.partials[1])


def an_object_has_other_bytes(scene: Scene) -> None:
    scene.put(id_of(scene.done.path), DATA[:-1] + b"?")


def an_acknowledged_range_is_from_somebody_else(scene: Scene) -> None:
    scene.done.journal.accepted[:] = [Accepted(DATA[::-1], 0, 100)]


def an_object_vanishes(scene: Scene) -> None:
    scene.delete(id_of(scene.done.path))


def an_object_belongs_to_nobody(scene: Scene) -> None:
    scene.put("no-upload-has-this-key", b"x")


def a_seal_is_never_lifted(scene: Scene) -> None:
    never = 10**14
    scene.change(f"UPDATE uploads SET state = 'sealed', finisher_until = {never} WHERE id = ?", scene.half)


def two_writers_are_believed(scene: Scene) -> None:
    scene.half.journal.accepted.append(Accepted(DATA[::-1], 10, 20))


def a_part_was_not_listed_as_committed(scene: Scene) -> None:
    scene.change("UPDATE parts SET etag = 'another' WHERE number = 1 AND upload_id = ?", scene.done)


def an_answer_comes_before_its_commit(scene: Scene) -> None:
    scene.half.journal.told.append(Told(offset=PART, status=204, known=PART, committed=0))


def a_deleted_upload_is_there_again(scene: Scene) -> None:
    scene.half.journal.deleted = True


def a_foreign_object_is_collected(scene: Scene) -> None:
    scene.delete(next(iter(FOREIGN_OBJECTS)))


def a_piece_is_leaked(scene: Scene) -> None:
    scene.put(f"{pieces_of(scene.half.path)}99-0", b"x")


def a_multipart_upload_is_leaked(scene: Scene) -> None:
    scene.rig.minio.client()._create_multipart_upload(scene.rig.bucket, id_of(scene.half.path), {})


def an_event_is_forgotten(scene: Scene) -> None:
    scene.change("DELETE FROM events WHERE type = 'upload.completed' AND upload_id = ?", scene.done)


def an_event_is_made_up(scene: Scene) -> None:
    scene.change(
        "INSERT INTO events (upload_id, number, tenant, owner, type, upload, occurred_at)"
        " SELECT upload_id, 9, tenant, owner, 'upload.completed', upload, occurred_at FROM events WHERE upload_id = ?",
        scene.half,
    )


def an_event_of_a_final_is_forgotten(scene: Scene) -> None:
    statement = "DELETE FROM events WHERE type = 'upload.created' AND upload_id = ?"
    scene.rig.books.change(statement, id_of(scene.in_place.paths[-1]))


def an_event_of_a_hidden_group_is_made_up(scene: Scene) -> None:
    group = str(scene.rig.row(scene.waiting.partials[0].path)["group_id"])
    scene.rig.books.change(
        "INSERT INTO events (upload_id, number, tenant, owner, type, upload, occurred_at)"
        " SELECT id, 1, tenant, owner, 'upload.created', '{}', created_at FROM uploads WHERE id = ?",
        group,
    )


def a_delivery_is_made_up(scene: Scene) -> None:
    scene.change(
        "INSERT INTO deliveries (upload_id, number, sink, tenant, owner, state, due_at)"
        " SELECT id, 9, 'audit', tenant, owner, 'delivered', created_at FROM uploads WHERE id = ?",
        scene.half,
    )


def metadata_is_changed(scene: Scene) -> None:
    scene.change("UPDATE uploads SET metadata = CAST('filename eA==' AS BLOB) WHERE id = ?", scene.half)


def a_secret_is_logged(scene: Scene) -> None:
    with scene.rig.gateway.log_path.open("a") as log:
        log.write(f"signing with {scene.rig.secrets[0]}\n")


def a_gateway_stays_down(scene: Scene) -> None:
    scene.rig.gateway.kill()


def a_file_is_deleted_that_had_to_be_kept(scene: Scene) -> None:
    scene.change("UPDATE uploads SET retain_until = NULL WHERE id = ?", scene.kept)
    url = f"{scene.rig.gateway.url}{scene.kept.path}"
    with urlopen(Request(url, headers={"Tus-Resumable": "1.0.0"}, method="DELETE")) as answer:
        assert answer.status == 204


def a_deletion_comes_before_its_time(scene: Scene) -> None:
    a_file_is_deleted_that_had_to_be_kept(scene)
    scene.kept.journal.retained = False
    scene.change("UPDATE uploads SET retain_until = updated_at + 1 WHERE id = ?", scene.kept)


def an_object_vanishes_that_had_to_be_kept(scene: Scene) -> None:
    scene.delete(id_of(scene.kept.path))


PLANTS: list[tuple[str, Plant]] = [
    ("I1", a_committed_piece_is_forgotten),
    ("I1", an_answer_shows_less_than_an_earlier_one),
    ("I2", a_stored_piece_vanishes),
    ("I2", a_stored_part_vanishes),
    ("I2", a_stored_part_of_a_partial_vanishes),
    ("I2", a_partial_in_place_has_other_bytes),
    ("I3", an_object_has_other_bytes),
    ("I3", a_digest_is_that_of_another_file),
    ("I3", a_final_has_its_partials_in_another_order),
    ("I3", a_final_forgets_a_partial),
    ("I3", an_acknowledged_range_is_from_somebody_else),
    ("I4", an_object_vanishes),
    ("I4", an_object_belongs_to_nobody),
    ("I5", a_seal_is_never_lifted),
    ("I6", two_writers_are_believed),
    ("I7", a_part_was_not_listed_as_committed),
    ("I7", a_final_has_other_parts_than_its_partials),
    ("I8", an_answer_comes_before_its_commit),
    ("I9", a_deleted_upload_is_there_again),
    ("I10", a_foreign_object_is_collected),
    ("I11", a_piece_is_leaked),
    ("I11", a_multipart_upload_is_leaked),
    ("I12", an_event_is_forgotten),
    ("I12", an_event_is_made_up),
    ("I12", an_event_of_a_final_is_forgotten),
    ("I12", an_event_of_a_hidden_group_is_made_up),
    ("I12", a_delivery_is_made_up),
    ("I16", metadata_is_changed),
    ("I19", a_secret_is_logged),
    ("I20", a_gateway_stays_down),
    ("I21", a_file_is_deleted_that_had_to_be_kept),
    ("I21", a_deletion_comes_before_its_time),
    ("I4 I21", an_object_vanishes_that_had_to_be_kept),
]


def test_a_violation_of_every_kind_is_planted() -> None:
    assert {invariant for broken, _ in PLANTS for invariant in broken.split()} == {*RULES}


@pytest.mark.parametrize(("broken", "plant"), PLANTS, ids=[plant.__name__ for _, plant in PLANTS])
async def test_a_planted_violation_is_reported(
    start_rig: Callable[..., Awaitable[Rig]], broken: str, plant: Plant
) -> None:
    rig = await start_rig(SMALLEST_PARTS_AND_COLD | {"TUSGATE_PIECE_INLINE_MAX": "64KiB"})
    rig.spoiled = True
    scene = await scene_in(rig)
    assert violations(await gather(rig)) == []
    plant(scene)
    assert {violation.invariant for violation in violations(await gather(rig))} == {*broken.split()}
