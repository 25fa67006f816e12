"""How sinks are declared, and how it is said what is wrong with one."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.test_settings import environment
from tusgate.core.errors import SettingsError
from tusgate.core.events import USUAL_TYPES, EventType
from tusgate.settings import load_settings
from tusgate.settings.model import shown
from tusgate.settings.sinks import WebhookDeclared

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.test_settings import SetEnvironment

__all__ = ["environment"]

SECRET = "whsec_" + base64.b64encode(b"s" * 24).decode()


@pytest.fixture
def hook(tmp_path: Path, environment: SetEnvironment) -> dict[str, Any]:
    """A webhook as it should be."""
    environment()
    (tmp_path / "hook.secret").write_text(SECRET + "\n")
    return {"name": "app", "type": "webhook", "url": "https://example.com/h?t=1", "secret_files": ["hook.secret"]}


def refusal(environment: SetEnvironment, *sinks: dict[str, Any], **others: str) -> str:
    environment(sinks=json.dumps(sinks), **others)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    message = str(refused.value)
    assert "\n" not in message
    assert SECRET not in message
    return message


def test_a_list_in_toml_is_a_list_of_sinks(tmp_path: Path, hook: dict[str, Any]) -> None:
    (tmp_path / "tusgate.toml").write_text(
        '[[sinks]]\nname = "app"\ntype = "webhook"\nurl = "https://example.com/"\nsecret_files = ["hook.secret"]\n'
        'events = ["upload.completed"]\ntenants = ["acme"]\nretries = 12\nretry_delay = "1m"\ntimeout = "5s"\n'
        '[[sinks]]\nname = "log"\ntype = "file"\npath = "events.jsonl"\n'
    )
    app, log = load_settings().settings.sinks
    assert isinstance(app, WebhookDeclared)
    assert (app.events, app.tenants, app.retries) == ((EventType.COMPLETED,), ("acme",), 12)
    assert (app.retry_delay, app.timeout, app.secrets()) == (60.0, 5.0, (SECRET,))
    assert (log.name, log.events, log.retries, log.retry_delay) == ("log", USUAL_TYPES, 3, 10.0)


def test_the_same_may_be_json_in_a_variable(environment: SetEnvironment, hook: dict[str, Any]) -> None:
    environment(sinks=json.dumps([hook, {"name": "out", "type": "stdout"}]))
    settings = load_settings().settings
    assert [sink.name for sink in settings.sinks] == ["app", "out"]
    assert shown("sinks", settings.sinks) == "app (webhook), out (stdout)"
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"url": "file:///etc/passwd"}, "app: url"),
        ({"url": "gopher://example.com/"}, "app: url"),
        ({"url": "https://user:password@example.com/"}, "without a password"),
        ({"url": "http://127.0.0.1/"}, "127.0.0.1:80"),
        ({"url": "http://10.0.0.1/"}, "10.0.0.1:80"),
        ({"url": "http://169.254.169.254/latest"}, "169.254.169.254:80"),
        ({"url": "http://[::1]/"}, "::1:80"),
        ({"url": "https://example.com:8443/"}, "example.com:8443"),
        ({"secret_files": []}, "app: secret_files"),
        ({"secret_files": ["missing"]}, "No such file"),
        ({"events": ["upload.finished"]}, "app: events"),
        ({"name": "no blanks"}, "name"),
        ({"timeout": "31s"}, "app: timeout"),
        ({"retries": -1}, "app: retries"),
        ({"secret": SECRET}, "app: secret"),
        ({"type": "carrier pigeon"}, "app: type: expected one of webhook, "),
        ({"type": None}, "app: type: expected one of webhook, "),
    ],
)
def test_what_is_wrong_is_told_by_the_names_of_the_sink_and_the_key(
    environment: SetEnvironment, hook: dict[str, Any], change: dict[str, Any], expected: str
) -> None:
    """EV-11: what no webhook may reach is refused at the start."""
    message = refusal(environment, hook | change)
    assert message.startswith("TUSGATE_SINKS: ")
    assert expected in message


def test_a_sink_without_a_type_is_told_which_there_are(environment: SetEnvironment, hook: dict[str, Any]) -> None:
    del hook["type"]
    assert "app: type: expected one of webhook, tusd, file, stdout, nats" in refusal(environment, hook)


@pytest.mark.parametrize("text", ["", "hunter2-hunter2", "whsec_", "whsec_c2hvcnQ=", "whsec_***", SECRET[6:]])
def test_a_secret_that_is_none_is_refused_and_not_shown(
    environment: SetEnvironment, hook: dict[str, Any], tmp_path: Path, text: str
) -> None:
    (tmp_path / "hook.secret").write_text(text)
    message = refusal(environment, hook)
    assert "24 to 64 bytes" in message
    assert "hunter2" not in message


def test_a_name_is_taken_once(environment: SetEnvironment, hook: dict[str, Any]) -> None:
    assert "each name once" in refusal(environment, hook, hook)


@pytest.mark.parametrize("text", ["{}", "nonsense", "1"])
def test_something_else_than_a_list_is_refused(environment: SetEnvironment, text: str) -> None:
    environment(sinks=text)
    with pytest.raises(SettingsError, match="expected a list of sinks"):
        load_settings()


def test_the_allowlist_opens_what_it_names(environment: SetEnvironment, hook: dict[str, Any]) -> None:
    environment(sinks=json.dumps([hook | {"url": "http://[::1]:9000/"}]), sink_allow="hooks.internal:8443,[::1]:9000")
    settings = load_settings().settings
    assert settings.sink_allow == (("hooks.internal", 8443), ("::1", 9000))
    assert shown("sink_allow", settings.sink_allow) == "hooks.internal:8443,[::1]:9000"


@pytest.mark.parametrize("text", ["example.com", "http://example.com:1", "a@b:1", "a:99999", "a:b", ":80"])
def test_an_allowlist_has_hosts_with_ports(environment: SetEnvironment, text: str) -> None:
    environment(sink_allow=text)
    with pytest.raises(SettingsError, match="hosts with ports"):
        load_settings()
