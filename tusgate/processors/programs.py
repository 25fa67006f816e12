"""Runs ffmpeg and ffprobe on a file, as far as they may go with it.

A file can tell both what else to open: playlists, lists of pictures, addresses. So they may open local files only
(`protocol_whitelist`), and read only formats that name no others (`format_whitelist`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final

from tusgate.processors.contract import ProcessorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tusgate.processors.contract import Source

_FORMATS: Final = "aac,ac3,aiff,amr,asf,avi,caf,dv,eac3,flac,flv,ivf,matroska,mov,mp3,mpeg,mpegts,mxf,ogg,rm,wav,w64"
"""Formats that are whole in one file. Not hls, dash, concat, image2, sdp and all that describe other files."""
_MOST_PIXELS: Final = 1 << 26
"""Of one frame: 8K has half of that."""
THREADS: Final = 4
"""Of a decoder, or an encoder. By themselves they take as many as there are cores, and memory for each."""
_MOST_PROBED: Final = 1 << 20
_LONGEST_COMPLAINT: Final = 300
_NOT_ALLOWED: Final = "not on whitelist"
_SPEAKER: Final = re.compile(r"\[[^\]\[]* @ 0x[0-9a-f]+\] ")
"""Which part of ffmpeg speaks, and where it lies in memory."""


class NoPictureError(ProcessorError):
    """Nothing has come out of a file, and nothing was wrong with it."""

    def __init__(self) -> None:
        super().__init__("there is no picture in the file", permanent=True)


def probe(source: Source) -> dict[str, Any]:
    """Return what ffprobe knows of a file: `format` and `streams`. Raises ProcessorError."""
    command = ["ffprobe", *_guarded(source), "-show_format", "-show_streams", "-of", "json"]
    with _running(command, source) as output:
        told = output.read(_MOST_PROBED + 1)
    if len(told) > _MOST_PROBED:
        raise ProcessorError("the file has more streams than anybody wants to know of", permanent=True)
    probed: dict[str, Any] = json.loads(told)
    return probed


def convert(
    source: Source,
    target: Path,
    options: Sequence[str],
    *,
    start: float = 0.0,
    duration: float = 0.0,
    progress: Callable[[float], None] = lambda done: None,
) -> None:
    """Have ffmpeg write `target` as `options` say, without any metadata.

    Args:
        start: seconds of the source to pass by.
        duration: seconds that come out, for the progress; 0 where nobody knows.

    Raises:
        NoPictureError: nothing came out.
        ProcessorError: it could not.
    """
    command = [
        *("ffmpeg", "-nostdin", "-y", "-progress", "pipe:1"),
        *(["-ss", f"{start:.3f}"] if start else []),
        *_guarded(source),
        *("-map_metadata", "-1", "-map_chapters", "-1"),
        *options,
        str(target),
    ]
    with _running(command, source) as output:
        for line in output:
            if duration and line.startswith(b"out_time_us="):
                progress(_part(line, duration))
    if not target.exists() or not target.stat().st_size:
        raise NoPictureError


def _part(line: bytes, duration: float) -> float:
    """Return which part of `duration` is done by a line of ffmpeg's `-progress`; it is N/A before the first frame."""
    value = line.partition(b"=")[2].strip()
    return min(int(value) / 1_000_000 / duration, 1.0) if value.isdigit() else 0.0


def _guarded(source: Source) -> list[str]:
    """Return the options that an input is opened with."""
    return [
        *("-v", "error", "-protocol_whitelist", "file", "-format_whitelist", _FORMATS),
        *("-max_pixels", str(_MOST_PIXELS), "-threads", str(THREADS), "-i", f"file:{source.path}"),
    ]


@contextmanager
def _running(command: list[str], source: Source) -> Iterator[IO[bytes]]:
    """Give what the program writes, and see that it has ended well. Leaving early kills it."""
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "MALLOC_ARENA_MAX") if name in os.environ}
    with tempfile.TemporaryFile() as complaints:
        program = subprocess.Popen(  # noqa: S603 - no shell, and the only thing that is not ours is `file:` and a path
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, env=environment
        )
        assert program.stdout is not None
        try:
            with program.stdout as output:
                yield output
            status = program.wait()
        finally:
            program.kill()
            program.wait()
        if status:
            raise ProcessorError(_complaint(complaints, source, command[0]), permanent=status > 0)


def _complaint(complaints: IO[bytes], source: Source, program: str) -> str:
    """Return the last thing that the program had to say, without places on this machine and in its memory."""
    complaints.seek(0)
    said = complaints.read(_MOST_PROBED).decode(errors="replace").strip()
    if _NOT_ALLOWED in said:
        return "this is no format of video or sound that is read"
    last = _SPEAKER.sub("", said.rpartition("\n")[2]).replace(f"file:{source.path}", "the file")
    return f"{program} gave up: {last[:_LONGEST_COMPLAINT] or 'no reason given'}"
