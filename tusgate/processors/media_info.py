"""What there is to see and hear in a file."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tusgate.processors.contract import Result
from tusgate.processors.programs import probe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tusgate.processors.contract import Json, Source

_MOST_STREAMS: Final = 32


class MediaInfo:
    """The facts are format, duration in seconds, bits per second, and codec and size of each stream, by ffprobe.

    Titles, places and all that people and cameras have written into the file are left where they are.
    """

    name = "media-info"
    version = 1
    types = ("video/*", "audio/*")
    largest = 1 << 40
    seconds = 120.0
    memory = 1 << 30

    def process(self, source: Source, workspace: Path, progress: Callable[[float], None]) -> Result:
        """Ask ffprobe."""
        probed = probe(source)
        form = probed.get("format", {})
        facts: dict[str, Json] = {
            "format": form.get("format_name"),
            "duration": duration_of(probed),
            "bit_rate": _number(form.get("bit_rate"), int),
        }
        streams: list[Json] = [_described(stream) for stream in probed.get("streams", ())[:_MOST_STREAMS]]
        return Result(facts={**_known(facts), "streams": streams})


def duration_of(probed: dict[str, Any]) -> float | None:
    """Return the seconds of what `programs.probe` has looked at, or None where the file does not say."""
    seconds: float | None = _number(probed.get("format", {}).get("duration"), float)
    return seconds


def _described(stream: dict[str, Any]) -> Json:
    turned = any(_number(data.get("rotation"), int) in _SIDEWAYS for data in stream.get("side_data_list", ()))
    width, height = stream.get("width"), stream.get("height")
    described: dict[str, Json] = {
        "type": stream.get("codec_type"),
        "codec": stream.get("codec_name"),
        "width": height if turned else width,
        "height": width if turned else height,
        "frame_rate": _ratio(stream.get("avg_frame_rate")),
        "channels": stream.get("channels"),
        "sample_rate": _number(stream.get("sample_rate"), int),
    }
    return _known(described)


_SIDEWAYS: Final = {90, -90, 270, -270}


def _known(facts: dict[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in facts.items() if value is not None}


def _number(text: Any, kind: Callable[[str], Any]) -> Any:
    with suppress(TypeError, ValueError):
        return kind(text)
    return None


def _ratio(text: Any) -> float | None:
    """Return `30000/1001` as a number; of pictures that stand still it is `0/0`."""
    above, _, below = str(text).partition("/")
    if not (above.isdigit() and below.isdigit() and int(above) and int(below)):
        return None
    return round(int(above) / int(below), 3)
