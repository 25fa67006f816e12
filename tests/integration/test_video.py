"""The processors that run ffmpeg and ffprobe, on videos made by ffmpeg, and on files that would lead them elsewhere."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tusgate.processors import ProcessorFailed, Result, Source, sandbox

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SECRET = "only for the eyes of the gateway"


@pytest.fixture(scope="session")
def videos(ffmpeg: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seconds of bars and a tone, with a title; the same as of a phone held upright; sound; a still picture."""
    folder = tmp_path_factory.mktemp("videos")
    bars = ("-f", "lavfi", "-i", "testsrc=size=640x360:rate=25:duration=2")
    tone = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=2")
    title = ("-metadata", "title=our secret holiday", "-metadata", "location=+52.5200+013.4050/")
    recipes: dict[str, Sequence[str]] = {
        "clip.mp4": (*bars, *tone, *title, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
        "clip.mkv": (*bars, *tone, "-c:v", "mpeg4", "-c:a", "flac"),
        "clip.webm": (*bars, "-c:v", "libvpx", "-deadline", "realtime", "-b:v", "1M"),
        "sound.mp3": (*tone, *title),
        "vast.mp4": ("-f", "lavfi", "-i", "color=size=8400x8400:rate=1:duration=1", "-c:v", "ffv1", "-f", "matroska"),
        "still.mp4": ("-f", "lavfi", "-i", "color=blue:size=320x180:rate=1/10", "-frames:v", "1", "-c:v", "mpeg4"),
        "brief.mkv": ("-f", "lavfi", "-i", "color=blue:size=320x180:rate=25:duration=0.2", *tone, "-c:v", "mpeg4"),
        "tall.mp4": ("-f", "lavfi", "-i", "testsrc=size=300x2600:rate=5:duration=1", "-c:v", "mpeg4"),
    }
    for name, recipe in recipes.items():
        subprocess.run([str(ffmpeg), "-v", "error", *recipe, str(folder / name)], check=True)
    turn = ("-display_rotation", "90") if _can_turn(ffmpeg) else ()
    turned = ("-i", str(folder / "clip.mp4"), "-c", "copy", "-metadata:s:v:0", "rotate=90", str(folder / "turned.mp4"))
    subprocess.run([str(ffmpeg), "-v", "error", *turn, *turned], check=True)
    return {path.name: path for path in folder.iterdir()}


def _can_turn(ffmpeg: Path) -> bool:
    """Tell whether it takes the rotation as an option (since 6.0) and no longer as metadata."""
    told = subprocess.run([str(ffmpeg), "-hide_banner", "-h", "full"], capture_output=True, text=True, check=True)
    return "-display_rotation" in told.stdout


def source_of(path: Path) -> Source:
    return Source(path, path.stat().st_size, "video/mp4", "holiday.mov")


async def run(name: str, path: Path, tmp_path: Path, told: list[float] | None = None) -> Result:
    (tmp_path / "workspace").mkdir(exist_ok=True)
    return await sandbox.run(name, source_of(path), tmp_path / "workspace", ([] if told is None else told).append)


def probed(ffmpeg: Path, path: Path) -> dict[str, Any]:
    command = [
        str(ffmpeg.with_name("ffprobe")),
        "-v",
        "error",
        "-show_format",
        "-show_streams",
        "-of",
        "json",
        str(path),
    ]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return answer


async def test_the_facts_of_a_video_are_its_duration_and_streams(videos: dict[str, Path], tmp_path: Path) -> None:
    facts: Any = (await run("media-info", videos["clip.mp4"], tmp_path)).facts
    assert facts["format"].startswith("mov,mp4")
    assert facts["duration"] == pytest.approx(2.0, abs=0.1)
    assert facts["bit_rate"] > 10_000
    assert facts["streams"] == [
        {"type": "video", "codec": "h264", "width": 640, "height": 360, "frame_rate": 25.0},
        {"type": "audio", "codec": "aac", "channels": 1, "sample_rate": 48000},
    ]
    assert "secret" not in json.dumps(facts)


async def test_the_size_of_a_video_is_the_one_that_is_shown(videos: dict[str, Path], tmp_path: Path) -> None:
    facts: Any = (await run("media-info", videos["turned.mp4"], tmp_path)).facts
    assert (facts["streams"][0]["width"], facts["streams"][0]["height"]) == (360, 640)


async def test_sound_has_facts_too(videos: dict[str, Path], tmp_path: Path) -> None:
    facts: Any = (await run("media-info", videos["sound.mp3"], tmp_path)).facts
    assert facts["format"] == "mp3"
    assert [stream["type"] for stream in facts["streams"]] == ["audio"]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm"])
async def test_a_poster_is_a_picture_of_the_video(name: str, videos: dict[str, Path], tmp_path: Path) -> None:
    [poster] = (await run("video-poster", videos[name], tmp_path)).derived
    assert (poster.name, poster.content_type, poster.filename) == ("poster", "image/jpeg", "holiday.jpg")
    with Image.open(poster.path) as image:
        assert (image.format, image.size) == ("JPEG", (640, 360))
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 100, "the bars have many colours"


@pytest.mark.parametrize("name", ["still.mp4", "brief.mkv"])
async def test_a_video_whose_pictures_end_early_has_a_poster(
    name: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    """One picture, or sound that goes on: there is none after a tenth of it."""
    [poster] = (await run("video-poster", videos[name], tmp_path)).derived
    with Image.open(poster.path) as image:
        assert image.size == (320, 180)


async def test_a_poster_stands_upright_and_is_not_too_large(videos: dict[str, Path], tmp_path: Path) -> None:
    for name, size in (("turned.mp4", (360, 640)), ("tall.mp4", (148, 1280))):
        [poster] = (await run("video-poster", videos[name], tmp_path)).derived
        with Image.open(poster.path) as image:
            assert image.size == size


async def test_a_video_comes_out_as_one_that_plays_everywhere(
    ffmpeg: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    told: list[float] = []
    [video] = (await run("transcode", videos["clip.mkv"], tmp_path, told)).derived
    assert (video.name, video.content_type, video.filename) == ("video", "video/mp4", "holiday.mp4")
    streams = probed(ffmpeg, video.path)["streams"]
    assert [stream["codec_name"] for stream in streams] == ["h264", "aac"]
    assert streams[0]["pix_fmt"] == "yuv420p"
    content = video.path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "it plays before its end is there"
    assert told == sorted(told)
    assert told
    assert told[-1] > 0.9


async def test_a_large_video_comes_out_smaller_and_one_without_sound_stays_silent(
    ffmpeg: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    [video] = (await run("transcode", videos["tall.mp4"], tmp_path)).derived
    [stream] = probed(ffmpeg, video.path)["streams"]
    assert (stream["width"], stream["height"]) == (222, 1920)


async def test_nothing_that_was_written_into_a_video_is_copied(
    ffmpeg: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    assert b"our secret holiday" in videos["clip.mp4"].read_bytes()
    [video] = (await run("transcode", videos["clip.mp4"], tmp_path)).derived
    [poster] = (await run("video-poster", videos["clip.mp4"], tmp_path)).derived
    for made in (video, poster):
        assert b"our secret holiday" not in made.path.read_bytes()
        assert b"13.4050" not in made.path.read_bytes()


def misleading(folder: Path, videos: dict[str, Path]) -> dict[str, str]:
    """Return files that name others, as ffmpeg by itself would follow."""
    other = videos["clip.mp4"]
    secret = folder / "secret.txt"
    secret.write_text(SECRET)
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{other}\n#EXT-X-ENDLIST\n",
        "hls of a text": f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:10,\nconcat:{secret}|{other}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{other}'\n",
        "dash": f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
        f"<BaseURL>{other}</BaseURL></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "subtitles": "WEBVTT\n\n00:00.000 --> 00:10.000\nhello\n",
        "text": SECRET,
        "nothing": "",
    }


@pytest.mark.parametrize("name", ["media-info", "video-poster", "transcode"])
@pytest.mark.parametrize("kind", ["hls", "hls of a text", "concat", "dash", "sdp", "subtitles", "text", "nothing"])
async def test_a_file_that_names_others_or_is_no_video_leads_nowhere(
    name: str, kind: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "source.mp4"
    path.write_text(misleading(tmp_path, videos)[kind])
    with pytest.raises(ProcessorFailed) as failed:
        await run(name, path, tmp_path)
    assert failed.value.permanent
    if kind in {"hls", "hls of a text", "concat", "dash", "sdp", "subtitles"}:
        assert failed.value.reason == "this is no format of video or sound that is read"
    else:
        assert failed.value.reason == "ffprobe gave up: the file: Invalid data found when processing input"
    assert str(tmp_path) not in failed.value.reason
    assert not [*(tmp_path / "workspace").iterdir()]


@pytest.mark.parametrize(("kind", "options"), [("hls", []), ("concat", ["-safe", "0"])])
def test_ffprobe_itself_would_have_followed(
    kind: str, options: list[str], ffmpeg: Path, videos: dict[str, Path], tmp_path: Path
) -> None:
    """Else the test above would say nothing: that it may open local files only is not enough."""
    path = tmp_path / "source.mp4"
    path.write_text(misleading(tmp_path, videos)[kind])
    ffprobe = [str(ffmpeg.with_name("ffprobe")), "-v", "error", "-protocol_whitelist", "file"]
    command = [*ffprobe, *options, "-show_format", str(path)]
    assert "nb_streams=2" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["video-poster", "transcode"])
async def test_a_video_whose_end_is_missing_does_not_crash_anything(
    name: str, videos: dict[str, Path], tmp_path: Path
) -> None:
    content = videos["clip.mp4"].read_bytes()
    path = tmp_path / "source"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ProcessorFailed) as failed:
        await run(name, path, tmp_path)
    assert failed.value.permanent


async def test_sound_alone_has_no_poster(videos: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ProcessorFailed) as failed:
        await run("video-poster", videos["sound.mp3"], tmp_path)
    assert failed.value.permanent


async def test_pictures_without_end_are_not_decoded(videos: dict[str, Path], tmp_path: Path) -> None:
    """70 megapixels in each picture of a file of some KiB."""
    assert videos["vast.mp4"].stat().st_size < 1 << 20
    for name in ("video-poster", "transcode"):
        with pytest.raises(ProcessorFailed) as failed:
            await run(name, videos["vast.mp4"], tmp_path)
        assert failed.value.permanent
        assert failed.value.reason.startswith("ffprobe gave up: Picture size 8400x8400 exceeds ")
