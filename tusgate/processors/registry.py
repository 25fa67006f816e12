"""From names to processors: those that come with tusgate, and those of the entry points `tusgate.processors`."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, cast

from tusgate.core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from importlib.metadata import EntryPoint

    from tusgate.processors.contract import Processor

GROUP: Final = "tusgate.processors"
NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)
_PATTERN: Final = re.compile(r"\*/\*|[a-z0-9][a-z0-9.+-]*/(\*|[a-z0-9][a-z0-9.+-]*)", re.ASCII)


@dataclass(frozen=True)
class _Shipped:
    """A processor of ours, imported when it is wanted.

    Attributes:
        made_by: `module:class`.
        library: a package that it needs; the one that the extra `extra` brings.
        programs: what has to be on PATH.
    """

    made_by: str
    library: str | None = None
    extra: str | None = None
    programs: tuple[str, ...] = ()


_SHIPPED: Final = {
    "thumbnail": _Shipped("tusgate.processors.thumbnail:Thumbnail", library="PIL", extra="images"),
    "virus-scan": _Shipped("tusgate.processors.virus_scan:VirusScan"),
    "media-info": _Shipped("tusgate.processors.media_info:MediaInfo", programs=("ffprobe",)),
    "video-poster": _Shipped("tusgate.processors.video_poster:VideoPoster", programs=("ffmpeg", "ffprobe")),
    "transcode": _Shipped("tusgate.processors.transcode:Transcode", programs=("ffmpeg", "ffprobe")),
    "sha256": _Shipped("tusgate.processors.sha256:Sha256"),
}
SHIPPED: Final = tuple(_SHIPPED)
"""The names of the processors that come with tusgate."""


def find(names: Iterable[str]) -> list[Processor]:
    """Return the processors called `names`, in that order.

    Raises:
        SettingsError: one is unknown, misses what it needs here, or is not what a processor has to be.
    """
    return [_found(name) for name in names]


def _found(name: str) -> Processor:
    points = entry_points(group=GROUP, name=name)
    shipped = _SHIPPED.get(name)
    if shipped is None and not points:
        known = ", ".join([*SHIPPED, *sorted(entry_points(group=GROUP).names)])
        raise _wrong(f"expected any of {known}, got {name}")
    if len(points) + (shipped is not None) > 1:
        raise _wrong(f"more than one processor is called {name}")
    if shipped is None:
        return _plugin(name, next(iter(points)))
    _check_needs(name, shipped)
    return _shipped(shipped)


def _check_needs(name: str, shipped: _Shipped) -> None:
    if shipped.library is not None and find_spec(shipped.library) is None:
        raise _wrong(f"{name} needs an extra of the package: pip install 'tusgate[{shipped.extra}]'")
    missing = [program for program in shipped.programs if shutil.which(program) is None]
    if missing:
        raise _wrong(f"{name} needs {' and '.join(missing)} on PATH (in most systems a part of the package ffmpeg)")


def _shipped(shipped: _Shipped) -> Processor:
    module, _, attribute = shipped.made_by.partition(":")
    make: Callable[[], Processor] = getattr(import_module(module), attribute)
    return make()


def _plugin(name: str, point: EntryPoint) -> Processor:
    try:
        made = point.load()()
    except Exception as error:
        raise _wrong(f"{name} did not start ({type(error).__name__}: {error})") from error
    mistake = _mistake_in(made, name)
    if mistake:
        raise _wrong(f"{name} is no processor: {mistake}")
    return cast("Processor", made)


def _mistake_in(made: Any, name: str) -> str | None:
    """Return what keeps `made` from being the processor `name`. Its author reads that, so it names the attribute."""
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "name": (lambda value: value == name and NAME.fullmatch(name) is not None, "the name of its entry point"),
        "version": (lambda value: isinstance(value, int) and value > 0, "a positive whole number"),
        "types": (_are_patterns, "a tuple of content types such as image/*"),
        "largest": (lambda value: isinstance(value, int) and value > 0, "a positive number of bytes"),
        "seconds": (lambda value: isinstance(value, int | float) and value > 0, "a positive number of seconds"),
        "memory": (lambda value: isinstance(value, int) and value > 0, "a positive number of bytes"),
        "process": (callable, "a method"),
    }
    for attribute, (holds, expected) in rules.items():
        if not holds(getattr(made, attribute, None)):
            return f"{attribute}: expected {expected}"
    return None


def _are_patterns(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) > 0
        and all(isinstance(item, str) and _PATTERN.fullmatch(item) for item in value)
    )


def _wrong(what: str) -> SettingsError:
    return SettingsError(f"TUSGATE_PROCESSORS: {what}")
