"""Places to die at: which there are, when one is passed, and where none may be set."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from tests.contract.database_rig import a_new_upload
from tests.doubles.database import MemoryDatabase
from tests.doubles.store import MemoryStore
from tests.wire.client import Client
from tusgate.core.errors import SettingsError, StoreUnavailable
from tusgate.core.model import ObjectKey, UploadId
from tusgate.core.processing import ClaimId
from tusgate.crash import EXIT_CODE, JOB_STEPS, PLACES, PORTS, STEPS, Crash, parse
from tusgate.ports import Attributes, Body, JobQueue
from tusgate.service.digest import crc64_of
from tusgate.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gateway import Gateway

KEY = ObjectKey("key")
MARKED = Attributes(UploadId("upload"))


class Died(Exception):
    """Stands for the end of the process."""


def die() -> None:
    raise Died


def body(data: bytes) -> Body:
    return Body(len(data), crc64_of([data]), buffers=[data])


def test_there_is_a_place_before_and_after_every_method_of_the_ports() -> None:
    names = [name for port in PORTS for name, _ in inspect.getmembers(port, inspect.isfunction)]
    steps = {name.replace("_", "-") for name in names if not name.startswith("_")}
    assert {*STEPS} == steps - {"check", "close", "presign", "presign-part"} | {"answer"}
    all_steps = (*STEPS, *JOB_STEPS)
    assert {*PLACES} == {f"{moment}-{step}" for moment in ("before", "after") for step in all_steps}
    assert len(PLACES) == len({*PLACES}) == 2 * len(all_steps)


def test_jobs_have_places_of_their_own() -> None:
    names = [name for name, _ in inspect.getmembers(JobQueue, inspect.isfunction) if not name.startswith("_")]
    assert {*JOB_STEPS} == {f"job-{name.replace('_', '-')}" for name in names}


async def test_a_place_about_jobs_is_not_that_of_the_same_name_about_uploads() -> None:
    database = Crash("before-job-claim", die).in_database(MemoryDatabase(lambda: 0.0))
    upload = await database.create(a_new_upload())
    assert (await database.claim(upload, "holder"))[0].epoch == 1
    with pytest.raises(Died):
        await database.jobs.claim(["any"], ClaimId("claim"), "holder", 60.0, 3)


def test_a_place_is_written_with_or_without_the_number_of_its_passage() -> None:
    assert [parse(place) for place in PLACES] == [(place, 1) for place in PLACES]
    assert parse("before-put-part:12") == ("before-put-part", 12)


@pytest.mark.parametrize(
    "text",
    ["commit", "after-close", "after_commit", "after-commit:", "after-commit:0", "after-commit:-1", "after-commit:²"],
)
def test_anything_else_is_refused_with_all_that_there_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUSGATE_ENVIRONMENT", "development")
    with pytest.raises(SettingsError) as refused:
        load_settings({"crash": text})
    assert "TUSGATE_CRASH: expected before-STEP or after-STEP" in str(refused.value)
    assert ", ".join((*STEPS, *JOB_STEPS)) in str(refused.value)


def test_production_refuses_to_die() -> None:
    for environment in ({}, {"environment": "production"}):
        with pytest.raises(SettingsError, match="TUSGATE_CRASH: expected no value, because TUSGATE_ENVIRONMENT is pro"):
            Settings.model_validate({"crash": "after-commit", **environment})
    assert Settings.model_validate({"crash": "after-commit", "environment": "development"}).crash == "after-commit"


async def test_before_a_step_means_that_nothing_of_it_has_happened() -> None:
    store = MemoryStore()
    with pytest.raises(Died):
        await Crash("before-put-object", die).in_store(store).put_object(KEY, body(b"x"), MARKED)
    assert store.objects == {}


async def test_after_a_step_means_that_all_of_it_has_happened() -> None:
    store = MemoryStore()
    with pytest.raises(Died):
        await Crash("after-put-object", die).in_store(store).put_object(KEY, body(b"x"), MARKED)
    assert store.objects[KEY].data == b"x"


async def test_only_the_passage_that_is_meant_counts_and_only_successful_steps_pass_the_place_behind_them() -> None:
    store = Crash("after-read:2", die).in_store(MemoryStore())
    await store.put_object(KEY, body(b"abc"), MARKED)
    assert b"".join([chunk async for chunk in store.read(KEY)]) == b"abc"
    with pytest.raises(StoreUnavailable):
        assert [chunk async for chunk in store.read(ObjectKey("nothing"))]
    with pytest.raises(Died):
        assert [chunk async for chunk in store.read(KEY)]


def test_a_step_that_is_not_concerned_is_the_real_one_without_anything_around_it() -> None:
    real = MemoryStore()
    store = Crash("after-read", die).in_store(real)
    assert store.put_part == real.put_part
    assert store.limits is real.limits


@pytest.mark.slow
@pytest.mark.parametrize(("place", "heard"), [("before-answer:2", False), ("after-answer:2", True)])
async def test_a_gateway_dies_at_an_answer_that_was_not_heard_or_heard_whole(
    start_gateway: Callable[..., Gateway], place: str, heard: bool
) -> None:
    """Answers to probes of `/readyz` are no answers to uploads, else it would not have come up."""
    gateway = start_gateway({"TUSGATE_CRASH": place, "TUSGATE_ENVIRONMENT": "development"})
    client = Client(gateway.port)
    path = await client.create(3)
    if heard:
        assert (await client.patch(path, 0, b"abc")).offset == 3
    else:
        with pytest.raises(OSError, match="closed without an answer"):
            await client.patch(path, 0, b"abc")
    assert gateway.exit_code() == EXIT_CODE
    assert (gateway.home / "data" / "objects" / path.rsplit("/", 1)[-1]).read_bytes() == b"abc"
