"""A video that plays everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tusgate.processors.contract import Derived, Result
from tusgate.processors.media_info import duration_of
from tusgate.processors.naming import named_after
from tusgate.processors.programs import THREADS, convert, probe
from tusgate.processors.video_poster import within

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tusgate.processors.contract import Source

_EDGE: Final = 1920
_OPTIONS: Final = (
    *("-map", "0:V:0", "-map", "0:a:0?", "-sn", "-dn", "-vf", within(_EDGE)),
    *("-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p"),
    *("-c:a", "aac", "-b:a", "128k", "-ac", "2"),
    *("-movflags", "+faststart", "-threads", str(THREADS), "-f", "mp4"),
)


class Transcode:
    """An MP4 with H.264 and AAC, at most 1920 pixels wide or high, that begins to play before its end is there."""

    name = "transcode"
    version = 1
    types = ("video/*",)
    largest = 100 << 30
    seconds = 4 * 3600.0
    memory = 4 << 30

    def process(self, source: Source, workspace: Path, progress: Callable[[float], None]) -> Result:
        """Have ffmpeg write the video."""
        path = workspace / "video.mp4"
        convert(source, path, _OPTIONS, duration=duration_of(probe(source)) or 0.0, progress=progress)
        return Result(derived=(Derived(path, "video", "video/mp4", named_after(source, "mp4")),))
