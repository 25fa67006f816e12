"""What receivers see."""

from __future__ import annotations

import base64
import json

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from tests.unit.sinks.facts import a_fact
from tusgate.core.events import EventType
from tusgate.sinks.document import document_of


async def test_it_is_a_cloud_event_with_all_that_is_known_of_the_upload() -> None:
    document = json.loads(document_of(await a_fact(), "https://up.example.com/files"))
    upload = document.pop("data")["upload"]
    assert document == {
        "specversion": "1.0",
        "id": "0123456789abcdefghijkl-2",
        "source": "https://up.example.com/files",
        "type": "upload.completed",
        "subject": "0123456789abcdefghijkl",
        "time": "2027-01-15T12:00:00Z",
        "datacontenttype": "application/json",
        "sequence": "0000000002",
        "tenant": "acme",
    }
    assert upload == {
        "id": "0123456789abcdefghijkl",
        "tenant": "acme",
        "owner": "alice",
        "status": "complete",
        "reason": None,
        "protocol": "tus",
        "role": None,
        "offset": 5,
        "size": 5,
        "filename": "naïve.txt",
        "content_type": "text/plain",
        "content_coding": None,
        "metadata": {"filename": "naïve.txt", "empty": "", "bad": ""},
        "route": None,
        "object_key": "acme/0123",
        "etag": "e",
        "crc64nvme": base64.b64encode(b"\x80" + bytes(7)).decode(),
        "sha256": None,
        "created_at": "2027-01-15T12:00:00Z",
        "completed_at": "2027-01-15T12:00:00Z",
        "expires_at": None,
        "processing": None,
        "derived_from": None,
        "derivation": None,
    }


async def test_a_digest_that_was_computed_is_told() -> None:
    document = json.loads(document_of(await a_fact(EventType.READY, sha256=bytes(32)), "/files"))
    assert document["data"]["upload"]["sha256"] == 64 * "0"


async def test_the_library_of_the_specification_reads_it() -> None:
    event = JSONFormat().read(CloudEvent, document_of(await a_fact(), "/files"))
    assert event.get_id() == "0123456789abcdefghijkl-2"


@pytest.mark.parametrize("event_type", list(EventType))
async def test_each_type_has_a_status_and_the_same_bytes_each_time(event_type: EventType) -> None:
    event = await a_fact(event_type)
    assert document_of(event, "/files") == document_of(event, "/files")
    assert json.loads(document_of(event, "/files"))["type"] == event_type
