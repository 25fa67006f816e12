"""A picture that stands for a video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tusgate.processors.contract import Derived, Result
from tusgate.processors.media_info import duration_of
from tusgate.processors.naming import named_after
from tusgate.processors.programs import NoPictureError, convert, probe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tusgate.processors.contract import Source

_EDGE: Final = 1280
_LATEST: Final = 10.0


class VideoPoster:
    """A JPEG of what is seen after a tenth of a video, 10 s at the latest: few begin with what they are about."""

    name = "video-poster"
    version = 1
    types = ("video/*",)
    largest = 1 << 40
    seconds = 300.0
    memory = 2 << 30

    def process(self, source: Source, workspace: Path, progress: Callable[[float], None]) -> Result:
        """Have ffmpeg write the picture."""
        path = workspace / "poster.jpg"
        start = min((duration_of(probe(source)) or 0.0) / 10, _LATEST)
        options = ["-map", "0:V:0", "-frames:v", "1", "-update", "1", "-vf", within(_EDGE), "-pix_fmt", "yuvj420p"]
        options += ["-q:v", "3", "-f", "image2"]
        try:
            convert(source, path, options, start=start)
        except NoPictureError:  # the sound goes on after the last picture, or there is one picture only
            if not start:
                raise
            convert(source, path, options)
        return Result(derived=(Derived(path, "poster", "image/jpeg", named_after(source, "jpg")),))


def within(edge: int) -> str:
    """Return the filter that makes a picture so small that no edge is longer than `edge`; both become even."""
    return (
        f"scale=w='min({edge},iw)':h='min({edge},ih)':force_original_aspect_ratio=decrease:force_divisible_by=2,"
        "setsar=1"
    )
