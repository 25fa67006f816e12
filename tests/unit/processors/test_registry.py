"""Processors are found by their names, and what is wrong is said before anything starts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.unit.processors import rogues
from tusgate.core.errors import SettingsError
from tusgate.processors import Result
from tusgate.processors.registry import SHIPPED, _mistake_in, find

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.processors.conftest import Plug
    from tusgate.processors import Source


class Proper:
    """A processor in which a test spoils one attribute."""

    name = "proper"
    version = 1
    types: tuple[str, ...] = ("image/*", "application/vnd.ms-excel", "*/*")
    largest = 1
    seconds = 0.5
    memory = 1

    def process(self, source: Source, workspace: Path, progress: Callable[[float], None]) -> Result:
        return Result()


def fails_to_start() -> Proper:
    raise RuntimeError("no licence")


def refusal(*names: str) -> str:
    with pytest.raises(SettingsError) as refused:
        find(names)
    return str(refused.value)


def test_processors_are_found_in_the_order_of_their_names(plugged: None) -> None:
    assert [processor.name for processor in find(["refuse", "copy", "thumbnail"])] == ["refuse", "copy", "thumbnail"]
    assert find([]) == []


def test_all_that_come_with_it_are_proper_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    for name in SHIPPED:
        [processor] = find([name])
        assert _mistake_in(processor, name) is None


def test_an_unknown_name_is_answered_with_the_known_ones(plugged: None) -> None:
    message = refusal("copy", "thumbnails")
    assert message.startswith("TUSGATE_PROCESSORS: expected any of thumbnail, virus-scan, media-info, ")
    assert ", copy, " in message
    assert message.endswith(", got thumbnails")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert refusal("thumbnail") == (
        "TUSGATE_PROCESSORS: thumbnail needs an extra of the package: pip install 'tusgate[images]'"
    )


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "media-info needs ffprobe on PATH" in refusal("media-info")
    assert "transcode needs ffmpeg and ffprobe on PATH" in refusal("transcode")


def test_two_processors_of_one_name_are_one_too_many(plug: Plug) -> None:
    plug({"thumbnail": f"{rogues.__name__}:Copy"})
    assert refusal("thumbnail") == "TUSGATE_PROCESSORS: more than one processor is called thumbnail"


def test_a_plugin_that_does_not_start_is_told_with_its_reason(plug: Plug) -> None:
    plug({"proper": f"{__name__}:fails_to_start", "absent": f"{__name__}:Absent"})
    assert refusal("proper") == "TUSGATE_PROCESSORS: proper did not start (RuntimeError: no licence)"
    assert refusal("absent").startswith("TUSGATE_PROCESSORS: absent did not start (AttributeError: ")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("name", "other"),
        ("version", 0),
        ("version", "1"),
        ("types", ()),
        ("types", "image/*"),
        ("types", ("image",)),
        ("types", ("*/png",)),
        ("largest", 0),
        ("largest", None),
        ("seconds", 0),
        ("memory", "1GiB"),
        ("process", None),
    ],
)
def test_a_plugin_that_is_no_processor_is_told_by_what_is_wrong(
    attribute: str, value: object, plug: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug({"proper": f"{__name__}:Proper"})
    assert find(["proper"])
    monkeypatch.setattr(Proper, attribute, value)
    assert refusal("proper").startswith(f"TUSGATE_PROCESSORS: proper is no processor: {attribute}: expected ")
