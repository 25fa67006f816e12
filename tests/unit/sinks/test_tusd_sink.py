"""Events as tusd's post-hooks, on real sockets."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from standardwebhooks import Webhook

from tests.hook_server import HookServer, hook_server
from tests.unit.sinks.facts import a_fact
from tusgate.core.errors import DeliveryFailed
from tusgate.core.events import EventType
from tusgate.core.model import State, Upload
from tusgate.sinks.posting import Receiver
from tusgate.sinks.tusd_sink import TusdConfig, TusdSink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SECRET = "whsec_" + base64.b64encode(b"s" * 24).decode()
PLACE = {"Type": "s3store", "Bucket": "b", "Key": "acme/0123"}


@pytest.fixture
async def server() -> AsyncIterator[HookServer]:
    async with hook_server() as server:
        yield server


class Stopped(list[tuple[Upload, str]]):
    """What a sink wants to be stopped."""

    async def stop(self, upload: Upload, reason: str) -> None:
        self.append((upload, reason))


@pytest.fixture
def stopped() -> Stopped:
    return Stopped()


@pytest.fixture
async def sink(server: HookServer, stopped: Stopped) -> AsyncIterator[TusdSink]:
    receiver = Receiver(url=server.receiver.url, secrets=(SECRET,), allowed=server.receiver.allowed)
    config = TusdConfig(name="tusd", receiver=receiver, timeout=5.0)
    sink = TusdSink(config, lambda _: PLACE, stopped.stop)
    yield sink
    await sink.close()


@pytest.mark.parametrize(
    ("event_type", "kind", "storage"),
    [
        (EventType.CREATED, "post-create", None),
        (EventType.PROGRESS, "post-receive", None),
        (EventType.COMPLETED, "post-finish", PLACE),
        (EventType.TERMINATED, "post-terminate", None),
        (EventType.DELETED, "post-terminate", PLACE),
    ],
)
async def test_each_event_is_the_hook_that_tusd_has_for_it(
    server: HookServer, sink: TusdSink, event_type: EventType, kind: str, storage: dict[str, Any] | None
) -> None:
    event = await a_fact(event_type)
    await sink.deliver(event)
    (told,) = server.questions
    assert told["Type"] == kind
    assert told["Event"]["Upload"] == {
        "ID": event.upload.id,
        "Size": 5,
        "SizeIsDeferred": False,
        "Offset": 5,
        "MetaData": {"filename": "naïve.txt", "empty": "", "filetype": "text/plain"},
        "IsPartial": False,
        "IsFinal": False,
        "PartialUploads": None,
        "Storage": storage,
    }
    assert told["Event"]["HTTPRequest"] == {"Method": "", "URI": "", "RemoteAddr": "", "Header": {}}
    assert told["Event"]["Principal"] == {"Tenant": "acme", "Owner": "alice"}
    request = server.receiver.received[0]
    assert request.headers["webhook-id"] == str(event.id)
    Webhook(SECRET).verify(request.body, request.headers)


@pytest.mark.parametrize("event_type", [EventType.FAILED, EventType.EXPIRED])
async def test_what_tusd_has_no_hook_for_is_not_told(server: HookServer, sink: TusdSink, event_type: EventType) -> None:
    await sink.deliver(await a_fact(event_type))
    assert server.questions == []


async def test_a_file_that_was_made_of_another_one_is_not_told(server: HookServer, sink: TusdSink) -> None:
    await sink.deliver(await a_fact(derived_from="another", derivation="thumbnail/thumbnail"))
    assert server.questions == []


@pytest.mark.parametrize("answer", [b"", b"garbage", {"StopUpload": "yes"}, 200])
async def test_whatever_a_2xx_says_the_event_is_taken(
    server: HookServer, sink: TusdSink, stopped: Stopped, answer: object
) -> None:
    server.answers["post-receive"] = answer
    await sink.deliver(await a_fact(EventType.PROGRESS))
    assert stopped == []


@pytest.mark.parametrize("answer", [500, 404, 302, 410])
async def test_anything_else_is_a_failure_and_disables_nothing(server: HookServer, sink: TusdSink, answer: int) -> None:
    server.answers["post-finish"] = answer
    with pytest.raises(DeliveryFailed, match=f"answered {answer}"):
        await sink.deliver(await a_fact())


async def test_an_upload_is_stopped_by_the_answer_to_its_progress_and_to_nothing_else(
    server: HookServer, sink: TusdSink, stopped: Stopped
) -> None:
    server.answers = {kind: {"StopUpload": True} for kind in ("post-receive", "post-finish")}
    finished = await a_fact()
    await sink.deliver(finished)
    assert stopped == []
    moving = await a_fact(EventType.PROGRESS)
    await sink.deliver(replace(moving, upload=replace(moving.upload, state=State.UPLOADING)))
    assert [(upload.id, reason) for upload, reason in stopped] == [(moving.upload.id, "the hook tusd has stopped it")]
