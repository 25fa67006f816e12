"""A newcomer takes an upload over while the writer before it is in the middle of something."""

from __future__ import annotations

import asyncio

import pytest

from tests.doubles.faults import Faults
from tests.unit.service.rig import Sender, World, some_bytes
from tests.virtual_time import run
from tusgate.core.errors import Fenced, TooLarge
from tusgate.core.model import CreatedVia

pytestmark = pytest.mark.usefixtures("small_scale")

DATA = some_bytes(57)


def test_a_newcomer_that_saw_the_row_before_the_last_intent_stores_under_a_key_of_its_own() -> None:
    """I3, I4: else the late object of the one that was fenced replaces that of the complete upload."""

    async def work() -> None:
        world = World()
        older = world.process(Faults(pauses={"intend": 1.0, "put_object": 10.0}), holder="older")
        newer = world.process(Faults(pauses={"claim": 2.0}), holder="newer")
        upload = await older.create(None)
        sending = asyncio.create_task(older.append(upload, Sender(DATA[:10], chunked=True), length=10))
        await asyncio.sleep(0.5)
        done = await newer.append(upload, Sender(DATA[:5]), length=5)
        with pytest.raises(Fenced):
            await sending
        assert world.body_of(done) == DATA[:5]
        await world.settle()
        assert await world.leaks() == []

    run(work())


def test_a_stale_writer_that_brings_too_many_bytes_does_not_end_the_upload_of_the_next_one() -> None:
    """I6: in RUFH a body that passes the length makes the upload fail, but only for the writer that it has."""

    async def work() -> None:
        world = World()
        stale, newer = world.process(holder="stale"), world.process(holder="newer")
        upload = await stale.create(25, via=CreatedVia.RUFH)
        sender = Sender(DATA, (57,), stop=5, chunked=True)
        sending = asyncio.create_task(stale.append(upload, sender))
        await asyncio.sleep(1)
        upload = await newer.append(upload, Sender(DATA[:9]))
        sender.go_on()
        with pytest.raises((Fenced, TooLarge)):
            await sending
        upload = await newer.append(upload, Sender(DATA[9:25]), ends=True)
        assert world.body_of(upload) == DATA[:25]

    run(work())


def test_a_late_object_of_a_replaced_writer_does_not_take_the_place_of_the_one_with_parts() -> None:
    """I3: a file that grew between two tries of its client is one object first, and made of parts then."""

    async def work() -> None:
        world = World()
        replaced = world.process(Faults(pauses={"put_object": 100.0}), holder="replaced")
        newer = world.process(holder="newer")
        upload = await replaced.create(None)
        sending = asyncio.create_task(replaced.append(upload, Sender(DATA[:10]), length=10))
        await asyncio.sleep(1)
        done = await newer.append(await newer.committed(upload.id), Sender(DATA), length=57)
        assert world.body_of(done) == DATA
        with pytest.raises(Fenced):
            await sending
        assert world.body_of(done) == DATA
        await world.settle()
        assert world.body_of(done) == DATA
        assert await world.leaks() == []

    run(work())
