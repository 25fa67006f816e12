"""What the settings say to processors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.test_settings import complaint, environment
from tusgate.core.addresses import place_of
from tusgate.processors.options import options_of
from tusgate.settings import Settings, load_settings

if TYPE_CHECKING:
    from tests.unit.test_settings import SetEnvironment

__all__ = ["environment"]


def test_processors_see_where_clamd_is_and_nothing_else() -> None:
    assert options_of(Settings()) == {"TUSGATE_CLAMD": "/run/clamav/clamd.ctl"}
    assert options_of(Settings(clamd="clamd:3310")) == {"TUSGATE_CLAMD": "clamd:3310"}


def test_processors_see_the_variables_that_are_named(
    environment: SetEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_DIR", "/models")
    monkeypatch.setenv("MODEL_KEY", "not named")
    environment(processor_environment="MODEL_DIR, NOT_SET", clamd="[::1]:3310")
    assert options_of(load_settings().settings) == {"MODEL_DIR": "/models", "TUSGATE_CLAMD": "[::1]:3310"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/run/clamav/clamd.ctl", "/run/clamav/clamd.ctl"),
        ("clamd:3310", ("clamd", 3310)),
        ("10.0.0.7:3310", ("10.0.0.7", 3310)),
        ("[::1]:3310", ("::1", 3310)),
    ],
)
def test_a_place_is_a_socket_or_a_host_and_port(text: str, place: object) -> None:
    assert place_of(text) == place


@pytest.mark.parametrize(
    "text", ["clamd", "clamd:", ":3310", "clamd:0", "clamd:65536", "::1:3310", "tcp://clamd:3310", "run/clamd", "a b:1"]
)
def test_what_is_no_place_is_refused(text: str, environment: SetEnvironment) -> None:
    assert "TUSGATE_CLAMD: expected the path of a socket such as " in complaint(environment, clamd=text)
