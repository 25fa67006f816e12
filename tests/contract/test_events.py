"""Events that the steps of a database write, and their deliveries: held by PostgreSQL, SQLite and the double alike."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import (
    CELL,
    SQL_DATABASES,
    STRANGERS,
    a_complete_upload,
    a_final,
    a_new_upload,
    a_part,
    a_sealed_upload,
    a_step,
    a_writer,
    an_object,
    an_upload_in,
    foreign,
)
from tusgate.core.clockwatch import go_on
from tusgate.core.errors import Fenced, QuotaExceeded, Retained, TokenSpent, TusgateError
from tusgate.core.events import (
    USUAL_TYPES,
    Delivery,
    DeliveryState,
    EventId,
    EventPlace,
    EventType,
    Outbox,
    Outcome,
    Search,
    Subscription,
)
from tusgate.core.grid import MIB, Grid
from tusgate.core.lifecycle import LEFT_OUT
from tusgate.core.model import Keeping, Role, Scope, State, Step, UploadId
from tusgate.core.quota import Quota

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.contract.database_rig import Rig, SqlRig
    from tusgate.core.events import Event
    from tusgate.core.model import Part, Upload
    from tusgate.ports import Deliveries, SurveyedDatabase

HOOK = "hook"
TOLD_ALL = Outbox((Subscription(HOOK),))
ALL = Search()
CREATED, COMPLETED, FAILED = EventType.CREATED, EventType.COMPLETED, EventType.FAILED
EXPIRED, TERMINATED, DELETED = EventType.EXPIRED, EventType.TERMINATED, EventType.DELETED
PROGRESS = EventType.PROGRESS


@pytest.fixture
def telling(rig: Rig) -> SurveyedDatabase:
    """A database whose steps write all usual events for the sink `hook`."""
    return rig.telling(TOLD_ALL)


def place_at(grid: Grid) -> Callable[[Sequence[Grid]], Grid | None]:
    return lambda _found: grid


async def told(database: SurveyedDatabase, upload: Upload | None = None, sink: str | None = HOOK) -> list[Delivery]:
    search = Search(upload_id=upload.id if upload else None, sink=sink)
    return sorted(await database.deliveries.find(search, 10_000), key=lambda each: each.event.number)


async def one_that_holds_the_next_back(database: SurveyedDatabase, deliveries: Deliveries) -> list[Delivery]:
    """Return the first delivery about a complete upload, which is tried again in a day."""
    await a_complete_upload(database)
    first = await deliveries.claim(HOOK, "relay-1", 60.0, 100)
    await deliveries.settle(HOOK, "relay-1", [Outcome(first[0].event.id, DeliveryState.WAITING, 86_400.0, "no")])
    assert await deliveries.claim(HOOK, "relay-1", 60.0, 100) == []
    return first


async def types_of(database: SurveyedDatabase, upload: Upload) -> list[EventType]:
    return [delivery.event.type for delivery in await told(database, upload)]


def ids(deliveries: Sequence[Delivery]) -> list[EventId]:
    return [delivery.event.id for delivery in deliveries]


def delivered(deliveries: Sequence[Delivery]) -> list[Outcome]:
    return [Outcome(delivery.event.id, DeliveryState.DELIVERED) for delivery in deliveries]


class TestWriting:
    async def test_an_upload_that_becomes_a_file_is_created_and_completed(self, telling: SurveyedDatabase) -> None:
        upload = await a_complete_upload(telling)
        assert await types_of(telling, upload) == [CREATED, COMPLETED]

    async def test_an_upload_of_one_object_is_created_and_completed(self, telling: SurveyedDatabase) -> None:
        writer = await a_writer(telling)
        step = replace(a_step(20 * MIB), state=State.COMPLETE, stored=an_object(writer))
        upload = await telling.commit(writer, step)
        assert await types_of(telling, upload) == [CREATED, COMPLETED]

    @pytest.mark.parametrize(
        ("state", "expected"),
        [
            (State.UPLOADING, [CREATED]),
            (State.SEALED, [CREATED]),
            (State.COMPLETE, [CREATED, COMPLETED]),
            (State.FAILED, [CREATED, FAILED]),
            (State.EXPIRED, [CREATED, EXPIRED]),
            (State.TERMINATED, [CREATED, TERMINATED]),
        ],
    )
    async def test_each_state_is_told_once_and_in_order(
        self, telling: SurveyedDatabase, state: State, expected: list[EventType]
    ) -> None:
        """EV-08."""
        upload = await an_upload_in(telling, state)
        assert await types_of(telling, upload) == expected
        assert [delivery.event.number for delivery in await told(telling, upload)] == sorted(
            {delivery.event.number for delivery in await told(telling, upload)}
        )

    async def test_deleting_a_finished_file_is_another_event_than_deleting_an_upload(
        self, telling: SurveyedDatabase
    ) -> None:
        upload = await a_complete_upload(telling)
        await telling.terminate(upload.scope, upload.id)
        assert await types_of(telling, upload) == [CREATED, COMPLETED, DELETED]

    async def test_an_event_describes_the_upload_as_it_was_by_then(self, telling: SurveyedDatabase) -> None:
        created = await telling.create(a_new_upload(filename="naïve 🎈.txt", metadata=bytes(range(256))))
        assert (await told(telling, created))[0].event.upload == created
        upload = await a_complete_upload(telling)
        assert (await told(telling, upload))[1].event.upload == upload
        await telling.terminate(upload.scope, upload.id)
        assert [delivery.event.upload for delivery in await told(telling, upload)][1:] == [upload, upload]

    async def test_a_failure_tells_why(self, telling: SurveyedDatabase) -> None:
        failed = await an_upload_in(telling, State.FAILED)
        assert (await told(telling, failed))[1].event.upload == failed
        assert failed.reason == "broken"

    async def test_completing_again_tells_nothing_again(self, telling: SurveyedDatabase) -> None:
        """I12."""
        sealed = await a_sealed_upload(telling)
        for _ in range(3):
            await telling.complete(sealed, an_object(sealed))
        assert await types_of(telling, sealed) == [CREATED, COMPLETED]

    async def test_of_many_that_complete_at_once_one_tells(self, rig: Rig) -> None:
        """CC-07."""
        sealed = await a_sealed_upload(rig.telling(TOLD_ALL))
        clients = [rig.telling(TOLD_ALL) for _ in range(4)]
        await asyncio.gather(*[clients[n % 4].complete(sealed, an_object(sealed)) for n in range(12)])
        assert await types_of(rig.database, sealed) == [CREATED, COMPLETED]

    async def test_what_is_refused_tells_nothing(self, telling: SurveyedDatabase) -> None:
        """EV-08."""
        upload = await a_writer(telling)
        stranger = foreign(upload, Scope("other", "mallory"))
        stale = replace(upload, epoch=0)
        step = replace(a_step(20 * MIB), state=State.COMPLETE, stored=an_object(upload))
        for call in (
            telling.create(a_new_upload(id=upload.id)),
            telling.commit(stale, step),
            telling.complete(upload, an_object(upload)),
            telling.fail(stranger, "no"),
            telling.terminate(stranger.scope, upload.id),
        ):
            with pytest.raises(TusgateError):
                await call
        assert await types_of(telling, upload) == [CREATED]

    async def test_a_look_ahead_at_what_would_expire_tells_nothing(self, telling: SurveyedDatabase) -> None:
        upload = await telling.create(a_new_upload(lifetime=-1.0))
        await telling.preview(10, 0.0, go_on)
        assert await types_of(telling, upload) == [CREATED]

    async def test_without_a_sink_nothing_is_written(self, rig: Rig) -> None:
        upload = await a_complete_upload(rig.database)
        await rig.database.terminate(upload.scope, upload.id)
        assert await told(rig.database) == []

    @pytest.mark.parametrize("rig", SQL_DATABASES, indirect=True)
    async def test_without_a_sink_no_event_is_stored_either(self, rig: SqlRig) -> None:
        upload = await a_complete_upload(rig.database)
        await rig.database.terminate(upload.scope, upload.id)
        assert await rig.query("SELECT * FROM events") == []

    async def test_a_sink_gets_the_types_and_tenants_that_it_wants_and_no_others(self, rig: Rig) -> None:
        outbox = Outbox(
            (
                Subscription("ends", frozenset({COMPLETED, DELETED})),
                Subscription("acme", tenants=frozenset({"acme"})),
                Subscription("nobody", tenants=frozenset({"nobody"})),
            )
        )
        database = rig.telling(outbox)
        mine = await a_complete_upload(database)
        other = await a_complete_upload(database, scope=Scope("other", "bob"))
        found = [(each.sink, each.event.upload.id, each.event.type) for each in await told(database, sink=None)]
        assert Counter(found) == Counter(
            [
                ("ends", mine.id, COMPLETED),
                ("ends", other.id, COMPLETED),
                ("acme", mine.id, CREATED),
                ("acme", mine.id, COMPLETED),
            ]
        )

    async def test_whoever_delivers_is_told_after_the_commit(self, rig: Rig) -> None:
        seen: list[str] = []
        database = rig.telling(Outbox((Subscription(HOOK),), lambda: seen.append("written")))
        await database.create(a_new_upload())
        assert seen == ["written"]

    async def test_nobody_is_woken_for_what_no_sink_wants(self, rig: Rig) -> None:
        seen: list[str] = []
        wanted = Subscription(HOOK, frozenset({COMPLETED}), frozenset({"acme"}))
        database = rig.telling(Outbox((wanted,), lambda: seen.append("written")))
        sealed = await a_sealed_upload(database)
        assert seen == []
        await a_complete_upload(database, scope=Scope("other", "bob"))
        assert seen == []
        await database.complete(sealed, an_object(sealed))
        assert seen == ["written"]

    @pytest.mark.parametrize("rig", ["sqlite"], indirect=True)
    async def test_an_event_of_an_earlier_release_is_told_without_what_that_did_not_know(self, rig: SqlRig) -> None:
        """CR-12."""
        database = rig.telling(TOLD_ALL)
        upload = await database.create(a_new_upload(role=Role.PARTIAL))
        await rig.query("UPDATE events SET upload = json_remove(upload, '$.route', '$.counted', '$.role')")
        claimed = await database.deliveries.claim(HOOK, "relay-1", 60.0, 100)
        assert [replace(each.event.upload, role=Role.PARTIAL, counted=True) for each in claimed] == [upload]


class TestProgress:
    WANTED = Outbox((Subscription(HOOK, frozenset({PROGRESS})),), progress_every=10.0)

    async def test_it_is_told_at_most_once_in_each_interval(self, rig: Rig) -> None:
        database = rig.telling(self.WANTED)
        upload = await a_writer(database)
        for number in (1, 2):
            upload = await database.commit(upload, a_step(number * CELL, parts=(a_part(number),)))
        await rig.pass_time(11.0)
        await database.commit(upload, a_step(20 * MIB, parts=(a_part(3, 4 * MIB),)))
        assert [each.event.upload.offset for each in await told(database, upload)] == [CELL, 20 * MIB]
        assert await types_of(database, upload) == [PROGRESS, PROGRESS]

    async def test_a_step_that_brings_no_bytes_is_no_progress(self, rig: Rig) -> None:
        """A URL that is signed lets an upload live on, and a length may be told after the creation."""
        database = rig.telling(self.WANTED)
        upload = await a_writer(database)
        await database.commit(upload, a_step(0))
        assert await types_of(database, upload) == []

    async def test_nobody_gets_it_without_asking(self, telling: SurveyedDatabase) -> None:
        upload = await a_writer(telling)
        await telling.commit(upload, a_step(CELL, parts=(a_part(1),)))
        assert await types_of(telling, upload) == [CREATED]
        assert PROGRESS not in USUAL_TYPES


class TestConcatenation:
    """CAT-02: groups are nobody's business, and partials are no files."""

    async def in_place(self, database: SurveyedDatabase, count: int = 2) -> tuple[UploadId, list[Upload]]:
        group = a_new_upload(role=Role.GROUP, length=None)
        members = []
        for number in range(1, count + 1):
            new = a_new_upload(role=Role.PARTIAL, length=CELL)
            grid = Grid(((1, CELL),), number)
            partial = await database.create_partial(new, group, "pictures", place_at(grid))
            writer, _ = await database.claim(partial, "replica-1")
            part = replace(a_part(number), start=0)
            members.append(await database.commit(writer, replace(a_step(CELL, parts=(part,)), length=CELL)))
        return group.id, members

    async def a_final_in_place(self, database: SurveyedDatabase, group_id: UploadId, members: list[Upload]) -> Upload:
        parts = [replace(a_part(number + 1), start=number * CELL) for number in range(len(members))]
        final = a_final(id=group_id, length=len(members) * CELL)
        sealed = await database.concatenate(final, members, parts)
        return await database.complete(sealed, an_object(sealed))

    async def test_a_group_emits_nothing_and_its_final_all(self, telling: SurveyedDatabase) -> None:
        group_id, members = await self.in_place(telling)
        assert [await types_of(telling, member) for member in members] == [[CREATED], [CREATED]]
        final = await self.a_final_in_place(telling, group_id, members)
        assert await types_of(telling, final) == [CREATED, COMPLETED]
        assert [each.event.upload.role for each in await told(telling, final)] == [Role.FINAL, Role.FINAL]
        assert [await types_of(telling, member) for member in members] == [[CREATED], [CREATED]]

    async def test_a_partial_of_its_own_does_not_tell_that_it_is_complete(self, telling: SurveyedDatabase) -> None:
        partial = await a_complete_upload(telling, role=Role.PARTIAL)
        assert await types_of(telling, partial) == [CREATED]
        await telling.terminate(partial.scope, partial.id)
        assert await types_of(telling, partial) == [CREATED, TERMINATED]

    async def test_a_final_that_is_deleted_while_partials_lie_in_it_tells_so_once(
        self, telling: SurveyedDatabase, rig: Rig
    ) -> None:
        group_id, members = await self.in_place(telling)
        final = await self.a_final_in_place(telling, group_id, members)
        await telling.terminate(final.scope, final.id)
        assert await types_of(telling, final) == [CREATED, COMPLETED, DELETED]
        assert (await told(telling, final))[-1].event.upload.role is Role.FINAL
        for member in members:
            await telling.terminate(member.scope, member.id)
        await rig.pass_time(10 * 86_400.0)
        await telling.expire(100)
        assert await types_of(telling, final) == [CREATED, COMPLETED, DELETED]

    async def test_partials_fail_with_their_group(self, telling: SurveyedDatabase) -> None:
        group_id, members = await self.in_place(telling)
        group = await telling.get(members[0].scope, group_id)
        await telling.terminate(members[0].scope, members[0].id)
        await telling.fail(group, "lost")
        assert await types_of(telling, group) == []
        assert await types_of(telling, members[0]) == [CREATED, TERMINATED]
        assert await types_of(telling, members[1]) == [CREATED, FAILED]
        assert (await told(telling, members[1]))[-1].event.upload.reason == "lost"

    async def test_partials_that_a_final_leaves_out_are_terminated(self, telling: SurveyedDatabase) -> None:
        group_id, members = await self.in_place(telling)
        left_out = await self.an_empty_member(telling)
        await self.a_final_in_place(telling, group_id, members)
        assert await types_of(telling, left_out) == [CREATED, TERMINATED]
        assert (await told(telling, left_out))[-1].event.upload.reason == LEFT_OUT

    async def test_a_final_that_is_refused_tells_nothing(self, telling: SurveyedDatabase) -> None:
        group_id, members = await self.in_place(telling)
        left_out = await self.an_empty_member(telling)
        with pytest.raises(Fenced):
            await self.a_final_in_place(telling, group_id, members[:1])
        for upload in (*members, left_out):
            assert await types_of(telling, upload) == [CREATED]
        assert {each.event.upload.id for each in await told(telling)} == {each.id for each in (*members, left_out)}

    async def an_empty_member(self, database: SurveyedDatabase) -> Upload:
        group = a_new_upload(role=Role.GROUP, length=None)
        grid = Grid(((1, CELL),), 9)
        new = a_new_upload(role=Role.PARTIAL, length=CELL)
        return await database.create_partial(new, group, "pictures", place_at(grid))

    async def test_a_gathered_group_stays_silent_to_its_end(self, telling: SurveyedDatabase, rig: Rig) -> None:
        group_id, members = await self.in_place(telling)
        left_out = await self.an_empty_member(telling)
        group = await telling.get(members[0].scope, group_id)
        parts = [replace(a_part(number + 1), start=number * CELL) for number in range(2)]
        sealed = await telling.gather(group, members, parts)
        assert await types_of(telling, left_out) == [CREATED, TERMINATED]
        await telling.complete(sealed, an_object(sealed))
        for _ in range(2):
            await rig.pass_time(10 * 86_400.0)
            await telling.expire(100)
        assert (await telling.get(group.scope, group_id)).state is State.EXPIRED
        assert await types_of(telling, group) == []
        assert [await types_of(telling, member) for member in members] == [[CREATED, EXPIRED]] * 2

    async def test_a_final_that_is_deleted_before_it_is_complete_never_completes_for_others(
        self, telling: SurveyedDatabase
    ) -> None:
        """What is left of it is finished all the same: its partials lie in it."""
        group_id, members = await self.in_place(telling)
        parts = [replace(a_part(number + 1), start=number * CELL) for number in range(2)]
        sealed = await telling.concatenate(a_final(id=group_id, length=2 * CELL), members, parts)
        await telling.terminate(sealed.scope, sealed.id)
        finished = await telling.complete(sealed, an_object(sealed))
        assert (finished.role, finished.state) == (Role.GROUP, State.COMPLETE)
        assert await types_of(telling, sealed) == [CREATED, TERMINATED]

    async def test_a_final_that_fails_takes_the_partials_that_lie_in_it_along(self, telling: SurveyedDatabase) -> None:
        group_id, members = await self.in_place(telling)
        parts = [replace(a_part(number + 1), start=number * CELL) for number in range(2)]
        sealed = await telling.concatenate(a_final(id=group_id, length=2 * CELL), members, parts)
        await telling.fail(sealed, "lost")
        for upload in (sealed, *members):
            assert await types_of(telling, upload) == [CREATED, FAILED]

    async def test_a_final_of_objects_is_a_file_of_its_own(self, telling: SurveyedDatabase) -> None:
        partials = [await a_complete_upload(telling, role=Role.PARTIAL) for _ in range(2)]
        sealed = await telling.concatenate(a_final(length=40 * MIB), partials)
        final = await telling.complete(sealed, an_object(sealed))
        await telling.terminate(final.scope, final.id)
        assert await types_of(telling, final) == [CREATED, COMPLETED, DELETED]
        assert [await types_of(telling, partial) for partial in partials] == [[CREATED]] * 2


class TestFiles:
    @pytest.mark.parametrize("digests", [False, True])
    async def test_a_finished_file_whose_time_is_over_has_expired_which_is_no_deletion(
        self, telling: SurveyedDatabase, rig: Rig, digests: bool
    ) -> None:
        """Who deletes a file is somebody; the event of an end by the clock has another name, in the same commit."""
        sealed = await a_sealed_upload(telling)
        file = await telling.complete(sealed, an_object(sealed), Keeping(lifetime=60.0, digests=digests))
        await rig.pass_time(61.0)
        await telling.expire(100)
        assert await types_of(telling, file) == [CREATED, COMPLETED, EXPIRED]
        last = (await told(telling, file))[-1].event.upload
        assert (last.state, last.completed_at is None) == (State.EXPIRED, False)

    async def test_what_is_kept_of_a_file_is_told_with_its_deletion(self, telling: SurveyedDatabase, rig: Rig) -> None:
        file = await a_complete_upload(telling)
        assert file.completed_at is not None
        until = file.completed_at + timedelta(seconds=60)
        await telling.record_digest(await telling.describe(file.scope, file.id, {"retain_until": until}), b"d" * 32)
        with pytest.raises(Retained):
            await telling.terminate(file.scope, file.id)
        assert await types_of(telling, file) == [CREATED, COMPLETED]
        await rig.pass_time(61.0)
        await telling.terminate(file.scope, file.id, "token:t")
        assert await types_of(telling, file) == [CREATED, COMPLETED, DELETED]
        before = (await told(telling, file))[-1].event.upload
        assert (before.retain_until is None, before.sha256, before.ended_by) == (False, b"d" * 32, None)
        assert (await telling.get(file.scope, file.id)).ended_by == "token:t"

    async def test_a_file_that_gets_another_name_is_no_news_and_later_events_show_the_name(
        self, telling: SurveyedDatabase
    ) -> None:
        upload = await a_complete_upload(telling)
        await telling.describe(upload.scope, upload.id, {"filename": "b.txt"})
        assert await types_of(telling, upload) == [CREATED, COMPLETED]
        await telling.terminate(upload.scope, upload.id)
        assert [each.event.upload.filename for each in await told(telling, upload)] == ["a.txt", "a.txt", "b.txt"]

    async def test_what_a_limit_of_the_tenant_refuses_is_no_event(self, telling: SurveyedDatabase) -> None:
        """EV-08."""
        upload = await a_writer(telling, length=None)
        await telling.limit_usage(upload.scope.tenant, Quota(bytes=MIB))
        with pytest.raises(QuotaExceeded):
            await telling.create(a_new_upload())
        with pytest.raises(QuotaExceeded):
            await telling.commit(upload, replace(a_step(20 * MIB), state=State.COMPLETE, stored=an_object(upload)))
        assert [(each.event.upload.id, each.event.type) for each in await told(telling)] == [(upload.id, CREATED)]

    async def test_a_token_that_is_spent_makes_no_event(self, telling: SurveyedDatabase) -> None:
        """EV-08."""
        upload = await telling.create(a_new_upload(token_id="once"))
        with pytest.raises(TokenSpent):
            await telling.create(a_new_upload(token_id="once"))
        assert [each.event.upload.id for each in await told(telling)] == [upload.id]


class TestHistories:
    """I12: the events are those that the history implies, whatever it is."""

    @pytest.mark.parametrize("seed", range(6))
    async def test_every_step_that_was_made_is_told_and_no_other(self, rig: Rig, seed: int) -> None:
        database = rig.telling(TOLD_ALL)
        history = History(rig, database, random.Random(seed))
        for _ in range(80):
            await history.step()
        found = {upload_id: await types_of(database, upload) for upload_id, upload in history.uploads.items()}
        assert found == history.expected
        assert len(await told(database)) == sum(map(len, found.values()))


class History:
    """Makes random steps on random uploads, wrong ones too, and notes what the rows say has become of them."""

    def __init__(self, rig: Rig, database: SurveyedDatabase, chance: random.Random) -> None:
        self.uploads: dict[UploadId, Upload] = {}
        self.expected: dict[UploadId, list[EventType]] = {}
        self._rig = rig
        self._database = database
        self._chance = chance

    async def step(self) -> None:
        steps: list[Callable[[Upload], Awaitable[object]]] = [
            self.create,
            self.join,
            self.join,
            self.fill,
            self.fill,
            self.finish_whole,
            self.seal,
            self.complete,
            self.complete,
            self.concatenate,
            self.concatenate,
            self.gather,
            self.fail,
            self.terminate,
            self.expire,
        ]
        known = list(self.uploads.values())
        with suppress(TusgateError):
            await (self._chance.choice(steps)(self._chance.choice(known)) if known else self.create())
        for upload in await self._database.survey("", 1000):
            implied = implied_by(self.uploads.get(upload.id), upload)
            self.expected.setdefault(upload.id, []).extend(implied)
            self.uploads[upload.id] = upload

    async def create(self, _known: Upload | None = None) -> Upload:
        role = self._chance.choice([None, None, Role.PARTIAL])
        lifetime = self._chance.choice([None, 50.0])
        return await self._database.create(a_new_upload(role=role, lifetime=lifetime, epoch=1))

    async def join(self, _known: Upload) -> None:
        new = a_new_upload(role=Role.PARTIAL, length=CELL, lifetime=self._chance.choice([50.0, 500.0]))
        group = a_new_upload(role=Role.GROUP, length=None, lifetime=new.lifetime)
        await self._database.create_partial(new, group, self._chance.choice("ab"), behind)

    async def fill(self, known: Upload) -> None:
        members = [each for each in self.uploads.values() if each.group is not None and not each.offset] or [known]
        chosen = self._chance.choice(members)
        writer, _ = await self._database.claim(chosen, "replica-1")
        part = replace(a_part(chosen.grid.first), start=0)
        await self._database.commit(writer, Step(end=CELL, length=CELL, state=State.UPLOADING, parts=(part,)))

    async def concatenate(self, known: Upload) -> None:
        """Of a group, in place, if there is an open one; else of objects."""
        partials = [each for each in self.uploads.values() if each.role is Role.PARTIAL]
        if self._chance.random() < 0.5:
            whole = [each for each in partials if each.state is State.COMPLETE]
            await self._database.concatenate(a_final(length=20 * MIB), whole[:2] or [known])
            return
        for group, members, parts in await self.groups():
            final = a_final(id=group.id, object_key=group.object_key, length=len(parts) * CELL)
            await self._database.concatenate(final, members, parts)

    async def gather(self, _known: Upload) -> None:
        for group, members, parts in await self.groups():
            await self._database.gather(group, members, parts)

    async def groups(self) -> list[tuple[Upload, list[Upload], list[Part]]]:
        """Return an open group, if there is any, with its full members and what the object of these would have."""
        found = [each for each in self.uploads.values() if each.role is Role.GROUP and each.state is State.UPLOADING]
        for group in found[-1:]:
            members = [each for each in await self._database.members(group) if each.offset]
            parts = [replace(a_part(each.grid.first), start=n * CELL) for n, each in enumerate(members)]
            return [(group, members, parts)] if members else []
        return []

    async def finish_whole(self, known: Upload) -> None:
        step = replace(a_step(20 * MIB), state=State.COMPLETE, stored=an_object(known))
        await self._database.commit(known, step)

    async def seal(self, known: Upload) -> None:
        await self._database.commit(known, a_step(20 * MIB, parts=(a_part(1),)))

    async def complete(self, known: Upload) -> None:
        sealed = [each for each in self.uploads.values() if each.state is State.SEALED] or [known]
        chosen = self._chance.choice(sealed)
        await self._database.complete(chosen, an_object(chosen))

    async def fail(self, known: Upload) -> None:
        await self._database.fail(known, "broken")

    async def terminate(self, known: Upload) -> None:
        await self._database.terminate(known.scope, known.id)

    async def expire(self, _known: Upload) -> None:
        await self._rig.pass_time(20.0)
        await self._database.expire(100)


def behind(taken: Sequence[Grid]) -> Grid:
    """Return a place for one cell after all others."""
    return Grid(((1, CELL),), max((grid.last for grid in taken), default=0) + 1)


def implied_by(before: Upload | None, now: Upload) -> list[EventType]:
    """Return the events of a step that has made `now` out of `before`."""
    was_seen = before is not None and before.role is not Role.GROUP
    is_seen = now.role is not Role.GROUP
    if not was_seen:
        return [CREATED] if is_seen else []
    assert before is not None
    if is_seen and before.state is now.state:
        return []
    if not is_seen or now.state is State.TERMINATED:
        is_file = before.state is State.COMPLETE and before.role is not Role.PARTIAL
        return [DELETED if is_file else TERMINATED]
    if now.state is State.COMPLETE:
        return [] if now.role is Role.PARTIAL else [COMPLETED]
    return {State.FAILED: [FAILED], State.EXPIRED: [EXPIRED]}.get(now.state, [])


class TestClaiming:
    @pytest.fixture
    def deliveries(self, telling: SurveyedDatabase) -> Deliveries:
        return telling.deliveries

    async def test_events_of_one_upload_come_one_after_the_other(
        self, telling: SurveyedDatabase, deliveries: Deliveries
    ) -> None:
        """EV-10."""
        upload = await a_complete_upload(telling)
        await telling.terminate(upload.scope, upload.id)
        seen = []
        for _ in range(3):
            claimed = await deliveries.claim(HOOK, "relay-1", 60.0, 100)
            assert len(claimed) == 1
            assert await deliveries.claim(HOOK, "relay-2", 60.0, 100) == []
            seen.append(claimed[0].event.type)
            await deliveries.settle(HOOK, "relay-1", delivered(claimed))
        assert seen == [CREATED, COMPLETED, DELETED]
        assert await deliveries.claim(HOOK, "relay-1", 60.0, 100) == []

    async def test_one_that_waits_for_its_next_try_holds_back_those_behind_it_and_no_other_upload(
        self, telling: SurveyedDatabase, deliveries: Deliveries
    ) -> None:
        held, other = await a_complete_upload(telling), await a_complete_upload(telling)
        claimed = await deliveries.claim(HOOK, "relay-1", 60.0, 100)
        again = [Outcome(each.event.id, DeliveryState.WAITING, 100.0, "no") for each in claimed]
        await deliveries.settle(HOOK, "relay-1", [each for each in again if each.event_id.upload_id == held.id])
        rest = [each for each in claimed if each.event.upload.id == other.id]
        await deliveries.settle(HOOK, "relay-1", delivered(rest))
        found = await deliveries.claim(HOOK, "relay-1", 60.0, 100)
        assert [(each.event.upload.id, each.event.type) for each in found] == [(other.id, COMPLETED)]

    async def test_what_is_behind_one_that_was_tried_in_vain_follows_it_at_once(
        self, rig: Rig, telling: SurveyedDatabase, deliveries: Deliveries
    ) -> None:
        """EV-10: claims that look at it again and again meanwhile do not keep it any longer."""
        await a_complete_upload(telling)
        first = await deliveries.claim(HOOK, "relay-1", 60.0, 100)
        await deliveries.settle(HOOK, "relay-1", [Outcome(first[0].event.id, DeliveryState.WAITING, 100.0, "no")])
        for _ in range(9):
            assert await deliveries.claim(HOOK, "relay-1", 60.0, 100) == []
            await rig.pass_time(11.0)
        await rig.pass_time(2.0)
        seen = []
        for _ in range(2):
            claimed = await deliveries.claim(HOOK, "relay-1", 60.0, 100)
            seen += [each.event.type for each in claimed]
            await deliveries.settle(HOOK, "relay-1", delivered(claimed))
        assert seen == [CREATED, COMPLETED]

    @pytest.mark.parametrize("act", ["drop", "replay"])
    async def test_what_an_operator_does_about_one_that_waits_holds_the_next_back_no_longer(
        self, telling: SurveyedDatabase, deliveries: Deliveries, act: str
    ) -> None:
        first = await one_that_holds_the_next_back(telling, deliveries)
        assert await getattr(deliveries, act)(first) == 1
        seen = []
        for _ in range(1 if act == "drop" else 2):
            claimed = await deliveries.claim(HOOK, "relay-1", 60.0, 100)
            seen += [each.event.type for each in claimed]
            await deliveries.settle(HOOK, "relay-1", delivered(claimed))
        assert seen == ([COMPLETED] if act == "drop" else [CREATED, COMPLETED])

    @pytest.mark.parametrize("act", ["drop", "replay"])
    async def test_an_operator_may_name_all_events_of_an_upload_at_once(
        self, telling: SurveyedDatabase, deliveries: Deliveries, act: str
    ) -> None:
        await one_that_holds_the_next_back(telling, deliveries)
        assert await getattr(deliveries, act)(await told(telling)) == 2
        assert len(await told(telling)) == (0 if act == "drop" else 2)

    async def test_one_that_is_given_up_no_longer_holds_the_next_back(
        self, telling: SurveyedDatabase, deliveries: Deliveries
    ) -> None:
        await a_complete_upload(telling)
        first = await deliveries.claim(HOOK, "relay-1", 60.0, 100)
        await deliveries.settle(HOOK, "relay-1", [Outcome(first[0].event.id, DeliveryState.DEAD, 0.0, "no")])
        assert [each.event.type for each in await deliveries.claim(HOOK, "relay-1", 60.0, 100)] == [COMPLETED]

    async def test_claims_at_once_are_disjoint_and_miss_nothing(self, rig: Rig, telling: SurveyedDatabase) -> None:
        """EV-03."""
        for _ in range(30):
            await telling.create(a_new_upload())
        clients = [rig.another() for _ in range(3)]
        results = await asyncio.gather(
            *[clients[n % 3].deliveries.claim(HOOK, f"relay-{n}", 60.0, 10) for n in range(6)]
        )
        found = [event_id for claimed in results for event_id in ids(claimed)]
        rest = await telling.deliveries.claim(HOOK, "relay-9", 60.0, 100)
        assert len(found) == len(set(found))
        assert len({*found, *ids(rest)}) == len(found) + len(rest) == 30

    async def test_a_lease_that_ran_out_may_be_taken_and_the_late_outcome_counts_for_nothing(
        self, rig: Rig, telling: SurveyedDatabase, deliveries: Deliveries
    ) -> None:
        """EV-02."""
        await telling.create(a_new_upload())
        first = await deliveries.claim(HOOK, "relay-1", 60.0, 100)
        await rig.pass_time(61.0)
        second = await deliveries.claim(HOOK, "relay-2", 60.0, 100)
        assert ids(second) == ids(first)
        assert [each.tries for each in second] == [2]
        await deliveries.settle(HOOK, "relay-1", delivered(first))
        assert [each.state for each in await told(telling)] == [DeliveryState.WAITING]
        await deliveries.settle(HOOK, "relay-2", delivered(second))
        assert [each.state for each in await told(telling)] == [DeliveryState.DELIVERED]

    async def test_a_failed_try_is_due_again_after_its_delay_and_tells_its_error(
        self, rig: Rig, telling: SurveyedDatabase, deliveries: Deliveries
    ) -> None:
        await telling.create(a_new_upload())
        claimed = await deliveries.claim(HOOK, "relay-1", 60.0, 100)
        again = Outcome(claimed[0].event.id, DeliveryState.WAITING, 30.0, "status 500")
        await deliveries.settle(HOOK, "relay-1", [again])
        assert await deliveries.claim(HOOK, "relay-1", 60.0, 100) == []
        assert [each.error for each in await told(telling)] == ["status 500"]
        await rig.pass_time(31.0)
        assert ids(await deliveries.claim(HOOK, "relay-1", 60.0, 100)) == ids(claimed)

    async def test_what_is_given_back_is_due_at_once_and_was_never_tried(
        self, telling: SurveyedDatabase, deliveries: Deliveries
    ) -> None:
        await telling.create(a_new_upload())
        await deliveries.claim(HOOK, "relay-1", 60.0, 100)
        await deliveries.give_back(HOOK, "relay-1")
        assert [each.tries for each in await deliveries.claim(HOOK, "relay-2", 60.0, 100)] == [1]

    async def test_sinks_do_not_wait_for_each_other(self, rig: Rig) -> None:
        database = rig.telling(Outbox((Subscription("slow"), Subscription("fast"))))
        await a_complete_upload(database)
        await database.deliveries.claim("slow", "relay-1", 60.0, 100)
        for expected in (CREATED, COMPLETED):
            claimed = await database.deliveries.claim("fast", "relay-1", 60.0, 100)
            assert [each.event.type for each in claimed] == [expected]
            await database.deliveries.settle("fast", "relay-1", delivered(claimed))

    async def test_a_disabled_sink_gets_nothing_until_it_is_enabled(
        self, telling: SurveyedDatabase, deliveries: Deliveries
    ) -> None:
        """EV-05."""
        await telling.create(a_new_upload())
        await deliveries.disable(HOOK, "it answered 410")
        await deliveries.disable(HOOK, "again")
        assert await deliveries.claim(HOOK, "relay-1", 60.0, 100) == []
        assert await deliveries.disabled() == {HOOK: "it answered 410"}
        await deliveries.enable(HOOK)
        assert len(await deliveries.claim(HOOK, "relay-1", 60.0, 100)) == 1

    async def test_what_waits_and_what_is_dead_is_counted_by_sink(self, rig: Rig) -> None:
        database = rig.telling(Outbox((Subscription("late"), Subscription("lost"))))
        deliveries = database.deliveries
        assert await deliveries.backlog() == []
        await database.create(a_new_upload())
        await rig.pass_time(100.0)
        await a_complete_upload(database)
        (refused, *others) = await deliveries.claim("lost", "relay-1", 60.0, 100)
        outcomes = [Outcome(refused.event.id, DeliveryState.DEAD, 0.0, "refused"), *delivered(others)]
        await deliveries.settle("lost", "relay-1", outcomes)
        late, lost, dead = await deliveries.backlog()
        assert (late.sink, late.state, late.deliveries) == ("late", DeliveryState.WAITING, 3)
        assert late.seconds == pytest.approx(100.0, abs=60.0)
        assert (lost.sink, lost.state, lost.deliveries) == ("lost", DeliveryState.WAITING, 1)
        assert lost.seconds == pytest.approx(0.0, abs=60.0)
        assert (dead.sink, dead.state, dead.deliveries, dead.seconds) == ("lost", DeliveryState.DEAD, 1, None)


class TestKeeping:
    async def settled(self, rig: Rig, state: DeliveryState) -> SurveyedDatabase:
        database = rig.telling(TOLD_ALL)
        await database.create(a_new_upload())
        claimed = await database.deliveries.claim(HOOK, "relay-1", 60.0, 100)
        if state is not DeliveryState.WAITING:
            await database.deliveries.settle(HOOK, "relay-1", [Outcome(claimed[0].event.id, state, 0.0, "error")])
        return database

    @pytest.mark.parametrize(
        ("state", "after"), [(DeliveryState.DELIVERED, 101.0), (DeliveryState.DEAD, 1001.0)], ids=str
    )
    async def test_what_is_settled_is_forgotten_after_its_time(
        self, rig: Rig, state: DeliveryState, after: float
    ) -> None:
        database = await self.settled(rig, state)
        await rig.pass_time(after - 2.0)
        assert await database.deliveries.purge(100.0, 1000.0, 10) == 0
        assert len(await told(database)) == 1
        await rig.pass_time(2.0)
        assert await database.deliveries.purge(100.0, 1000.0, 10) == 1
        assert await told(database) == []

    async def test_what_waits_is_never_forgotten(self, rig: Rig) -> None:
        database = await self.settled(rig, DeliveryState.WAITING)
        await rig.pass_time(1e6)
        assert await database.deliveries.purge(100.0, 1000.0, 10) == 0

    async def test_what_a_disabled_or_unknown_sink_will_never_get_is_given_up(self, rig: Rig) -> None:
        database = rig.telling(Outbox((Subscription("known"), Subscription("disabled"), Subscription("unknown"))))
        await database.create(a_new_upload())
        await database.deliveries.disable("disabled", "it answered 410")
        await database.deliveries.bury_unclaimed(["known", "disabled"], 3600.0)
        assert {each.state for each in await told(database, sink=None)} == {DeliveryState.WAITING}
        await rig.pass_time(3601.0)
        await database.deliveries.bury_unclaimed(["known", "disabled"], 3600.0)
        assert {each.sink: (each.state, each.error) for each in await told(database, sink=None)} == {
            "known": (DeliveryState.WAITING, None),
            "disabled": (DeliveryState.DEAD, "it answered 410"),
            "unknown": (DeliveryState.DEAD, "no gateway has this sink in its settings"),
        }


class TestOperating:
    async def test_a_search_finds_what_it_names_and_nothing_else(self, rig: Rig) -> None:
        database = rig.telling(Outbox((Subscription("a"), Subscription("b"))))
        first = await a_complete_upload(database)
        await rig.pass_time(100.0)
        other = await a_complete_upload(database, scope=Scope("other", "bob"))
        by_time = {each.event.upload.id: each.event.occurred_at for each in await told(database, sink=None)}
        boundary = by_time[other.id] - timedelta(seconds=50.0)
        find = database.deliveries.find
        assert len(await find(ALL, 100)) == 8
        assert {each.event.id for each in await find(Search(event_id=EventId(first.id, 2)), 100)} == {
            EventId(first.id, 2)
        }
        assert {each.event.upload.id for each in await find(Search(tenant="other"), 100)} == {other.id}
        assert {each.event.upload.id for each in await find(Search(since=boundary), 100)} == {other.id}
        assert {each.event.upload.id for each in await find(Search(until=boundary), 100)} == {first.id}
        assert {each.sink for each in await find(Search(sink="a"), 100)} == {"a"}
        assert {each.event.type for each in await find(Search(type=COMPLETED), 100)} == {COMPLETED}
        assert await find(Search(state=DeliveryState.DEAD), 100) == []

    async def test_pages_of_a_search_make_the_whole(self, rig: Rig) -> None:
        database = rig.telling(Outbox((Subscription("a"), Subscription("b"))))
        for _ in range(3):
            await a_complete_upload(database)
        whole = await database.deliveries.find(ALL, 100)
        pages: list[Delivery] = []
        while page := await database.deliveries.find(ALL, 5, pages[-1] if pages else None):
            pages += page
        assert pages == whole
        assert len(whole) == 12

    async def test_a_dead_one_that_is_replayed_is_delivered_under_the_same_id(self, rig: Rig) -> None:
        """EV-05."""
        database = rig.telling(TOLD_ALL)
        await database.create(a_new_upload())
        claimed = await database.deliveries.claim(HOOK, "relay-1", 60.0, 100)
        dead = Outcome(claimed[0].event.id, DeliveryState.DEAD, 0.0, "status 400")
        await database.deliveries.settle(HOOK, "relay-1", [dead])
        assert await database.deliveries.replay(await told(database)) == 1
        again = await database.deliveries.claim(HOOK, "relay-1", 60.0, 100)
        assert ids(again) == ids(claimed)
        assert [each.tries for each in again] == [1]

    async def test_one_that_is_being_delivered_is_neither_replayed_nor_dropped(self, rig: Rig) -> None:
        database = rig.telling(TOLD_ALL)
        await database.create(a_new_upload())
        await database.deliveries.claim(HOOK, "relay-1", 60.0, 100)
        assert await database.deliveries.replay(await told(database)) == 0
        assert await database.deliveries.drop(await told(database)) == 0

    async def test_what_is_dropped_is_gone_and_lets_the_next_one_pass(self, rig: Rig) -> None:
        database = rig.telling(TOLD_ALL)
        upload = await a_complete_upload(database)
        first = [each for each in await told(database, upload) if each.event.type is CREATED]
        assert await database.deliveries.drop(first) == 1
        assert [each.event.type for each in await database.deliveries.claim(HOOK, "relay-1", 60.0, 9)] == [COMPLETED]


class TestListening:
    """What the port `Events` gives to those who listen."""

    STREAMED = Outbox(streamed=frozenset(USUAL_TYPES))

    @pytest.fixture
    def streaming(self, rig: Rig) -> SurveyedDatabase:
        return rig.telling(self.STREAMED)

    async def test_events_are_written_without_a_sink_and_forgotten_in_time(
        self, rig: Rig, streaming: SurveyedDatabase
    ) -> None:
        upload = await a_complete_upload(streaming)
        assert await told(streaming) == []
        found = await streaming.events.of_upload(upload.scope, upload.id, 0, 10)
        assert [event.type for event in found] == [CREATED, COMPLETED]
        assert found[1].upload == upload
        assert await streaming.deliveries.purge(100.0, 1000.0, 10) == 0
        await rig.pass_time(101.0)
        assert await streaming.deliveries.purge(100.0, 1000.0, 10) == 2
        assert await streaming.events.of_upload(upload.scope, upload.id, 0, 10) == []

    async def test_types_that_nobody_follows_are_not_written(self, rig: Rig) -> None:
        database = rig.telling(Outbox(streamed=frozenset({COMPLETED})))
        upload = await a_complete_upload(database)
        found = await database.events.of_upload(upload.scope, upload.id, 0, 10)
        assert [event.type for event in found] == [COMPLETED]

    async def test_events_of_an_upload_are_told_from_a_number_on_to_its_owner_only(
        self, streaming: SurveyedDatabase
    ) -> None:
        upload = await a_complete_upload(streaming)
        await a_complete_upload(streaming)
        first, second = await streaming.events.of_upload(upload.scope, upload.id, 0, 10)
        assert await streaming.events.of_upload(upload.scope, upload.id, first.number, 10) == [second]
        assert await streaming.events.of_upload(upload.scope, upload.id, 0, 1) == [first]
        for stranger in STRANGERS:
            assert await streaming.events.of_upload(stranger, upload.id, 0, 10) == []
            assert await streaming.events.when_was(stranger.tenant, stranger.owner, first.id) is None
        assert await streaming.events.when_was("acme", "alice", first.id) == first.occurred_at
        assert await streaming.events.when_was("acme", None, first.id) == first.occurred_at
        assert await streaming.events.when_was("other", None, first.id) is None

    async def test_the_tail_is_what_has_occurred_lately_in_these_tenants(
        self, rig: Rig, streaming: SurveyedDatabase
    ) -> None:
        old = await streaming.create(a_new_upload())
        await rig.pass_time(60.0)
        mine = await streaming.create(a_new_upload())
        other = await streaming.create(a_new_upload(scope=Scope("other", "alice")))
        assert {each.upload_id for each in await streaming.events.tail(["acme"], 30.0)} == {mine.id}
        assert {each.upload_id for each in await streaming.events.tail(["acme", "other"], 30.0)} == {mine.id, other.id}
        found = await streaming.events.tail(["acme"], 90.0)
        assert {each.upload_id for each in found} == {mine.id, old.id}
        fetched = await streaming.events.fetch([*reversed(found), EventId(mine.id, 9)])
        assert [event.upload.id for event in fetched] == [old.id, mine.id]
        assert await streaming.events.tail([], 90.0) == []
        assert await streaming.events.fetch([]) == []

    async def test_pages_of_a_scope_and_of_a_tenant_make_the_whole(self, streaming: SurveyedDatabase) -> None:
        for scope in (Scope("acme", "alice"), Scope("acme", "bob"), Scope("other", "alice")):
            await a_complete_upload(streaming, scope=scope)
            await a_complete_upload(streaming, scope=scope)
        for owner, expected in (("alice", 4), (None, 8)):
            whole = await streaming.events.page("acme", owner, None, 100)
            assert len(whole) == expected
            assert whole == sorted(whole, key=EventPlace.of)
            pages: list[Event] = []
            while page := await streaming.events.page("acme", owner, EventPlace.of(pages[-1]) if pages else None, 3):
                pages += page
            assert pages == whole
        late = EventPlace((await streaming.events.page("acme", None, None, 100))[-1].occurred_at + timedelta(seconds=1))
        assert await streaming.events.page("acme", None, late, 100) == []

    async def test_times_rise_with_the_numbers_of_an_upload(self, rig: Rig) -> None:
        """Also where steps wait for each other: a step did not occur before the one that it has waited for."""
        clients = [rig.telling(self.STREAMED) for _ in range(3)]
        uploads = [await a_sealed_upload(clients[0]) for _ in range(5)]
        await asyncio.gather(
            *[client.complete(upload, an_object(upload)) for upload in uploads for client in clients],
            *[clients[0].terminate(upload.scope, upload.id) for upload in uploads],
            return_exceptions=True,
        )
        for upload in uploads:
            found = await clients[0].events.of_upload(upload.scope, upload.id, 0, 10)
            times = [each.occurred_at for each in found]
            assert times == sorted(times)
            assert len(times) >= 2


def test_an_id_is_read_as_it_is_written() -> None:
    event_id = EventId(UploadId("a-b_c" * 5), 12)
    assert EventId.parse(str(event_id)) == event_id
    for text in ("", "-", "a-", "-1", "a-b", "a-1x", "a", "a-1", f"{event_id}0123456789", f"é{event_id}"):
        with pytest.raises(ValueError, match="no id"):
            EventId.parse(text)
