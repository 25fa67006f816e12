"""How hooks are declared, and how it is said what is wrong with one."""

from __future__ import annotations

import json
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.test_settings import environment
from tests.unit.test_settings_sinks import SECRET
from tusgate.core.errors import SettingsError
from tusgate.core.events import EventType
from tusgate.core.hooks import Moment
from tusgate.settings import load_settings
from tusgate.settings.hooks import HttpHookDeclared, PluginDeclared
from tusgate.settings.model import shown
from tusgate.settings.sinks import TusdDeclared
from tusgate.sinks.plugin_hook import load_plugin

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.test_settings import SetEnvironment

__all__ = ["environment"]

HOOK: dict[str, Any] = {"name": "app", "type": "http", "url": "https://example.com/hook"}


def refusal(environment: SetEnvironment, *hooks: dict[str, Any], **others: str) -> str:
    environment(hooks=json.dumps(hooks), **others)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_list_in_toml_is_a_list_of_hooks(tmp_path: Path, environment: SetEnvironment) -> None:
    environment()
    (tmp_path / "hook.secret").write_text(SECRET)
    (tmp_path / "tusgate.toml").write_text(
        '[[hooks]]\nname = "app"\ntype = "http"\nurl = "https://example.com/"\nsecret_files = ["hook.secret"]\n'
        'moments = ["create", "finish"]\ntenants = ["acme"]\ntimeout = "5s"\nfailure = "open"\n'
        'forward_headers = ["Cookie"]\nretries = 1\nbackoff = "100ms"\n'
        '[[hooks]]\nname = "own"\ntype = "plugin"\nplugin = "mine"\noptions = {strict = true}\n'
    )
    app, own = load_settings().settings.hooks
    assert isinstance(app, HttpHookDeclared)
    assert (app.moments, app.tenants, app.timeout) == ((Moment.CREATE, Moment.FINISH), ("acme",), 5.0)
    assert (app.failure, app.forward_headers, app.retries, app.backoff) == ("open", ("Cookie",), 1, 0.1)
    assert app.secrets() == (SECRET,)
    assert isinstance(own, PluginDeclared)
    assert (own.plugin, own.options, own.failure, own.moments) == ("mine", {"strict": True}, "closed", (Moment.CREATE,))


def test_the_settings_show_hooks_by_their_names(environment: SetEnvironment) -> None:
    environment(hooks=json.dumps([HOOK]))
    assert shown("hooks", load_settings().settings.hooks) == "app (http)"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"type": "grpc"}, "TUSGATE_HOOKS: app: type: expected one of http, plugin"),
        ({"moments": []}, "TUSGATE_HOOKS: app: moments"),
        ({"moments": ["pre-create"]}, "TUSGATE_HOOKS: app: moments"),
        ({"failure": "maybe"}, "TUSGATE_HOOKS: app: failure"),
        ({"timeout": "2m"}, "TUSGATE_HOOKS: app: timeout"),
        ({"forward_headers": ["Content-Length"]}, "TUSGATE_HOOKS: app: forward_headers"),
        ({"forward_headers": ["a b"]}, "TUSGATE_HOOKS: app: forward_headers"),
        ({"url": "ftp://example.com"}, "TUSGATE_HOOKS: app: url"),
        ({"url": "http://10.0.0.1/"}, "TUSGATE_HOOKS"),
        ({"url": "http://example.com:8080/"}, "example.com:8080 in TUSGATE_SINK_ALLOW"),
        ({"colour": "red"}, "TUSGATE_HOOKS: app: colour"),
    ],
)
def test_what_is_wrong_is_told_by_name_and_key(environment: SetEnvironment, change: dict[str, Any], told: str) -> None:
    assert told in refusal(environment, HOOK | change)


def test_each_name_stands_there_once(environment: SetEnvironment) -> None:
    assert "TUSGATE_HOOKS: expected each name once" in refusal(environment, HOOK, HOOK)


def test_a_secret_that_is_none_is_refused_without_being_told(environment: SetEnvironment, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("hunter2")
    told = refusal(environment, HOOK | {"secret_files": [str(tmp_path / "bad")]})
    assert told.startswith("TUSGATE_HOOKS: app: secret_files")
    assert "hunter2" not in told


def test_a_tusd_sink_gets_what_tusd_has_a_hook_for(environment: SetEnvironment) -> None:
    tusd = {"name": "tusd", "type": "tusd", "url": "https://example.com/hook"}
    environment(sinks=json.dumps([tusd]))
    (sink,) = load_settings().settings.sinks
    assert isinstance(sink, TusdDeclared)
    assert set(sink.events) == {EventType.CREATED, EventType.COMPLETED, EventType.TERMINATED, EventType.DELETED}
    environment(sinks=json.dumps([tusd | {"events": ["upload.failed"]}]))
    with pytest.raises(SettingsError, match="TUSGATE_SINKS: tusd: events"):
        load_settings()


def test_a_plugin_that_is_not_installed_is_named() -> None:
    with pytest.raises(SettingsError, match=r"TUSGATE_HOOKS: own: plugin: expected an entry point of tusgate.hooks"):
        load_plugin("own", "mine", {})


def install(monkeypatch: pytest.MonkeyPatch, attribute: str) -> None:
    """Let something of this module be the plug-in `mine`."""
    point = metadata.EntryPoint("mine", f"tests.unit.test_settings_hooks:{attribute}", "tusgate.hooks")
    found = metadata.EntryPoints([point])
    monkeypatch.setattr("tusgate.sinks.plugin_hook.entry_points", lambda **wanted: found.select(**wanted))


def test_a_plugin_that_is_no_hook_is_refused_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "Mute")
    with pytest.raises(SettingsError, match=r"TUSGATE_HOOKS: own: mine is no hook: close: expected a method"):
        load_plugin("own", "mine", {})


class Mute:
    def __init__(self, name: str, options: dict[str, Any]) -> None: ...

    async def ask(self, question: Any) -> None: ...


def test_a_plugin_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "broken")
    with pytest.raises(SettingsError, match=r"TUSGATE_HOOKS: own: mine did not start \(ValueError: own strict\)"):
        load_plugin("own", "mine", {"strict": True})


def broken(name: str, options: dict[str, Any]) -> None:
    raise ValueError(f"{name} {' '.join(options)}")
