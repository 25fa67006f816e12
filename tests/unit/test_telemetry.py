"""Logs: one JSON object per event, on one stream, without secrets; every event name is in the list."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

import tusgate
from tusgate.settings import Settings
from tusgate.telemetry import LogEvent, bind_request, configure_logging, redact_text, request_id_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIGNED = "http://s3/b/k?X-Amz-Credential=AKIA%2F2026&X-Amz-Signature=deadbeef&partNumber=1"


@pytest.fixture
def logged() -> Iterator[Callable[..., list[dict[str, object]]]]:
    """Configure logging as in production; the value returns what was logged since, as objects."""
    stream = io.StringIO()
    before = logging.getLogger().handlers[:], logging.getLogger().level
    configure_logging(Settings(log_format="json"), stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.getLogger().handlers[:], logging.getLogger().level = before


def test_an_event_is_one_json_line_with_level_and_time(logged: Callable[..., list[dict[str, object]]]) -> None:
    structlog.get_logger().info(LogEvent.UPLOAD_COMPLETED, upload_id="u1", size=3)
    (line,) = logged()
    assert line.pop("timestamp")
    assert line == {"event": "upload.completed", "level": "info", "upload_id": "u1", "size": 3}


def test_logs_of_libraries_take_the_same_form(logged: Callable[..., list[dict[str, object]]]) -> None:
    logging.getLogger("aiohttp.server").warning("odd %s", "thing")
    (line,) = logged()
    assert (line["event"], line["logger"], line["level"]) == ("odd thing", "aiohttp.server", "warning")


def test_libraries_stay_silent_below_warning(logged: Callable[..., list[dict[str, object]]]) -> None:
    logging.getLogger("botocore").info("Authorization: AWS4-HMAC-SHA256 ...")
    assert logged() == []


def test_an_exception_keeps_its_traceback_and_loses_its_secrets(
    logged: Callable[..., list[dict[str, object]]],
) -> None:
    try:
        int(SIGNED)
    except ValueError:
        structlog.get_logger().exception(LogEvent.JOB_FAILED)
    (line,) = logged()
    assert "ValueError" in str(line["exception"])
    assert "deadbeef" not in str(line)


def test_values_under_secret_names_are_hidden_at_any_depth(
    logged: Callable[..., list[dict[str, object]]],
) -> None:
    headers = {"Authorization": "Bearer s3cret", "X-Amz-Security-Token": "s3cret", "Content-Length": "5"}
    structlog.get_logger().info(
        LogEvent.STORE_REJECTS_US,
        headers=headers,
        pairs=[{"Set-Cookie": "s3cret"}],
        secret_key="s3cret",
        database_url="s3cret",
        dsn="postgresql://u:s3cret@h/d",
        url=SIGNED,
    )
    text = json.dumps(logged())
    assert "s3cret" not in text
    assert "deadbeef" not in text
    assert '"Content-Length": "5"' in text


def test_the_stores_own_request_id_is_kept_for_its_support(
    logged: Callable[..., list[dict[str, object]]],
) -> None:
    structlog.get_logger().info(LogEvent.STORE_REJECTS_US, headers={"x-amz-request-id": "R1"})
    assert logged()[0]["headers"] == {"x-amz-request-id": "R1"}


@pytest.mark.parametrize("password", ["simple", "with/slash", "with@at", "with:colon"])
def test_passwords_in_urls_are_hidden_inside_any_text(password: str) -> None:
    assert redact_text(f"cannot reach postgresql://u:{password}@h:5432/d now") == (
        "cannot reach postgresql://u:***@h:5432/d now"
    )


@pytest.mark.parametrize("end", ["/s3/params?filename=a", "/s3/sign", ""])
def test_tokens_in_paths_are_hidden(end: str) -> None:
    """I19: clients that send no fields of their own bring them there."""
    assert redact_text(f"GET https://h/api/v1/companion/u/eyJ.eyJ.c2ln{end}") == (
        f"GET https://h/api/v1/companion/u/***{end}"
    )


def test_the_request_id_stands_in_every_event_of_the_request(
    logged: Callable[..., list[dict[str, object]]],
) -> None:
    bind_request("abcdef0123456789")
    structlog.get_logger().info(LogEvent.REQUEST_FAILED)
    assert logged()[0]["request_id"] == "abcdef0123456789"


@pytest.mark.parametrize("header", [None, "", "short", "x" * 65, "with blank", "line\nbreak-line", "ünïcödé1"])
def test_an_unusable_request_id_is_replaced(header: str | None) -> None:
    first, second = request_id_from(header), request_id_from(header)
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert first != second


def test_a_harmless_request_id_of_the_client_is_kept() -> None:
    assert request_id_from("4d2a5b3c-1111-2222") == "4d2a5b3c-1111-2222"


def test_the_list_has_the_events_that_the_code_logs_and_no_others() -> None:
    written = re.compile(
        r"""\b_?log(?:ger)?\.(?:debug|info|warning|error|exception|critical)\(\s*"([^"%]+)"\s*[,)]""", re.IGNORECASE
    )
    sources = {path: path.read_text(encoding="utf-8") for path in Path(tusgate.__file__).parent.rglob("*.py")}
    assert {event for text in sources.values() for event in written.findall(text)} - {*LogEvent} == set()
    others = "".join(text for path, text in sources.items() if path.name != "telemetry.py")
    assert [event for event in LogEvent if f'"{event}"' not in others and f"LogEvent.{event.name}" not in others] == []
