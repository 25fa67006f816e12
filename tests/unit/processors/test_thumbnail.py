"""Pictures of all kinds, made here, and files that are none. In the process of the test where nothing can go wrong."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

from tusgate.processors import ProcessorError, ProcessorFailed, Result, Source, sandbox
from tusgate.processors.registry import find

if TYPE_CHECKING:
    from pathlib import Path

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def nothing(done: float) -> None:
    """Let the progress pass by."""


def source_of(tmp_path: Path, content: bytes, filename: str | None = "holiday.jpeg") -> Source:
    path = tmp_path / "source"
    path.write_bytes(content)
    return Source(path, len(content), "image/jpeg", filename)


def made_of(tmp_path: Path, content: bytes, filename: str | None = "holiday.jpeg") -> Result:
    (tmp_path / "workspace").mkdir(exist_ok=True)
    [processor] = find(["thumbnail"])
    return processor.process(source_of(tmp_path, content, filename), tmp_path / "workspace", nothing)


def thumbnail(tmp_path: Path, content: bytes) -> Image.Image:
    """Return the thumbnail as a browser would show it, and have looked that it carries nothing else."""
    [derived] = made_of(tmp_path, content).derived
    assert (derived.name, derived.content_type) == ("thumbnail", "image/webp")
    image = Image.open(BytesIO(derived.path.read_bytes()))
    assert image.format == "WEBP"
    assert {*image.info} <= {"loop", "background", "timestamp", "duration"}
    assert not image.getexif()
    return image


def failure(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(ProcessorError) as failed:
        made_of(tmp_path, content)
    assert failed.value.permanent
    assert str(tmp_path) not in str(failed.value)
    return str(failed.value)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    written = BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()


def quarters(size: tuple[int, int] = (1200, 800)) -> Image.Image:
    """Return red and green above blue and white."""
    image = Image.new("RGB", (2, 2))
    image.putdata([RED, GREEN, BLUE, WHITE])
    return image.resize(size, Image.Resampling.NEAREST)


def corners(image: Image.Image) -> list[Any]:
    """Return the colours of the middles of the four quarters, as pure as they are meant."""
    width, height = image.size
    places = [(x * width // 4, y * height // 4) for y in (1, 3) for x in (1, 3)]
    plain = image.convert("RGB")
    return [tuple(255 if part > 128 else 0 for part in colour(plain, place)) for place in places]


def colour(image: Image.Image, place: tuple[int, int]) -> tuple[int, ...]:
    found = image.getpixel(place)
    assert isinstance(found, tuple)
    return tuple(int(part) for part in found)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_longer_edge_becomes_512_pixels(kind: str, tmp_path: Path) -> None:
    image = thumbnail(tmp_path, encoded(quarters(), kind))
    assert image.size == (512, 341)
    assert corners(image) == [RED, GREEN, BLUE, WHITE]


def test_what_is_small_keeps_its_size(tmp_path: Path) -> None:
    assert thumbnail(tmp_path, encoded(quarters((30, 40)), "PNG")).size == (30, 40)


def test_the_facts_are_the_format_and_the_size_as_it_is_shown(tmp_path: Path) -> None:
    assert made_of(tmp_path, encoded(quarters((1200, 800)), "PNG")).facts == {
        "format": "PNG",
        "width": 1200,
        "height": 800,
    }
    turned = encoded(quarters((1200, 800)), "JPEG", exif=orientation(6))
    assert made_of(tmp_path, turned).facts == {"format": "JPEG", "width": 800, "height": 1200}


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("holiday.jpeg", "holiday.webp"),
        (None, "file.webp"),
        ("", "file.webp"),
        ("../../etc/passwd", "passwd.webp"),
        ("C:\\pictures\\cat.png", "cat.webp"),
        ("a\r\nb.png", "ab.webp"),
        (".png", "png.webp"),
        ("ü" * 300 + ".png", "ü" * 150 + ".webp"),
    ],
)
def test_it_is_called_like_the_picture(filename: str | None, expected: str, tmp_path: Path) -> None:
    [derived] = made_of(tmp_path, encoded(quarters((8, 8)), "PNG"), filename).derived
    assert derived.filename == expected


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    exif[ExifTags.Base.Make] = "a camera"
    return exif


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_it_stands_upright_however_the_camera_was_held(kind: str, value: int, tmp_path: Path) -> None:
    lying = encoded(quarters((900, 600)), kind, exif=orientation(value))
    upright = ImageOps.exif_transpose(Image.open(BytesIO(lying)))
    image = thumbnail(tmp_path, lying)
    assert image.size == ((512, 341) if value < 5 else (341, 512))
    assert corners(image) == corners(upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning", "ignore:Truncated File Read:UserWarning")
@pytest.mark.parametrize(
    "exif",
    [
        b"garbage",
        b"II",
        b"II*\0\xff\xff\xff\x7f",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0x\0\0\0\0\0\0\0",  # an orientation in letters
        orientation(6).tobytes()[6:12],
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_a_camera_has_scribbled_beside_a_picture_does_no_harm(kind: str, exif: bytes, tmp_path: Path) -> None:
    picture = encoded(quarters((900, 600)), kind, exif=b"Exif\0\0" + exif)
    result = made_of(tmp_path, picture)
    assert (result.facts["width"], result.facts["height"]) == (900, 600)
    assert corners(thumbnail(tmp_path, picture)) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_it_is_the_first_picture(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (700, 700), colour) for colour in (RED, GREEN, BLUE)]
    image = thumbnail(tmp_path, encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100))
    assert corners(image) == [RED] * 4
    assert not getattr(image, "is_animated", False)


def test_a_picture_for_print_becomes_one_for_screens(tmp_path: Path) -> None:
    image = thumbnail(tmp_path, encoded(quarters().convert("CMYK"), "JPEG"))
    assert image.mode == "RGB"
    assert corners(image) == [RED, GREEN, BLUE, WHITE]


def test_grey_of_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    grey = Image.new("I;16", (600, 600), 0x8000)
    shade = colour(thumbnail(tmp_path, encoded(grey, "PNG")), (300, 300))
    assert all(abs(part - 0x80) < 4 for part in shade)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_few_colours_are_no_obstacle(mode: str, tmp_path: Path) -> None:
    image = thumbnail(tmp_path, encoded(Image.new("RGB", (600, 600), WHITE).convert(mode), "PNG"))
    assert corners(image) == [WHITE] * 4


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_stays_so(mode: str, tmp_path: Path) -> None:
    image = thumbnail(tmp_path, encoded(Image.new("RGBA", (600, 600), (255, 255, 255, 0)).convert(mode), "PNG"))
    assert image.mode == "RGBA"
    assert colour(image, (300, 300))[3] == 0


def test_colours_of_another_profile_are_shown_as_they_were_meant(tmp_path: Path) -> None:
    swapped = swapped_profile()
    image = thumbnail(tmp_path, encoded(Image.new("RGB", (600, 600), RED), "PNG", icc_profile=swapped))
    assert corners(image) == [GREEN] * 4


def swapped_profile() -> bytes:
    """Return the profile of a screen whose red is green, and the other way round."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    for entry in range(132, 132 + 12 * count, 12):
        signature = bytes(profile[entry : entry + 4])
        profile[entry : entry + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(signature, signature)
    return bytes(profile)


@pytest.mark.parametrize("profile", [b"", b"x", b"\0" * 200], ids=["empty", "short", "zeros"])
def test_a_profile_that_is_none_is_passed_by(profile: bytes, tmp_path: Path) -> None:
    assert corners(thumbnail(tmp_path, encoded(quarters(), "JPEG", icc_profile=profile))) == [RED, GREEN, BLUE, WHITE]


def test_nothing_that_was_written_beside_the_picture_is_copied(tmp_path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "taken at home")
    exif = orientation(1)
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 0.0)
    content = encoded(quarters(), "PNG", pnginfo=notes, exif=exif, icc_profile=swapped_profile(), xmp=b"<x/>")
    assert b"taken at home" in content
    [derived] = made_of(tmp_path, content).derived
    written = derived.path.read_bytes()
    for chunk in (b"EXIF", b"XMP ", b"ICCP", b"taken at home", b"a camera"):
        assert chunk not in written


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        b"<!doctype html><script>alert(1)</script>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        encoded(quarters((40, 40)), "TIFF"),
        encoded(quarters((40, 40)), "BMP"),
    ],
    ids=["empty", "signature", "svg", "html", "eps", "tiff", "bmp"],
)
def test_what_is_no_picture_of_the_four_formats_is_refused(content: bytes, tmp_path: Path) -> None:
    assert failure(tmp_path, content) == "this is no JPEG, PNG, WebP or GIF"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_picture_whose_end_is_missing_is_damaged(kind: str, part: float, tmp_path: Path) -> None:
    noise = Image.effect_noise((400, 400), 90).convert("RGB")
    content = encoded(noise, kind)
    message = failure(tmp_path, content[: int(part * len(content))])
    assert message.startswith(("the picture is damaged (", "this is no JPEG"))


def test_what_the_disk_has_to_say_is_not_held_against_the_picture(tmp_path: Path) -> None:
    [processor] = find(["thumbnail"])
    with pytest.raises(FileNotFoundError):
        processor.process(Source(tmp_path / "missing", 1, "image/png", None), tmp_path, nothing)


SOUND = [
    encoded(quarters((90, 60)), kind, exif=orientation(6), icc_profile=swapped_profile())
    for kind in ("JPEG", "PNG", "WEBP")
] + [encoded(quarters((90, 60)), "GIF"), encoded(quarters((90, 60)).convert("CMYK"), "JPEG", progressive=True)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about EXIF that is damaged
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.sampled_from(SOUND),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=8),
)
def test_whatever_was_changed_in_a_picture_it_is_one_or_it_is_damaged(
    content: bytes, changes: list[tuple[float, bytes]], tmp_path: Path
) -> None:
    """Not a mistake of ours, which would be tried again."""
    changed = bytearray(content)
    for place, other in changes:
        start = int(place**3 * len(changed))  # most of what is read is at the beginning
        changed[start : start + len(other)] = other
    mistake = mistake_about(tmp_path, bytes(changed))
    assert mistake is None or mistake.permanent


def mistake_about(tmp_path: Path, content: bytes) -> ProcessorError | None:
    try:
        made_of(tmp_path, content)
    except ProcessorError as mistake:
        return mistake
    return None


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of some KiB whose header is true: black pixels without end."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + width // 8)
    body = b"".join(packer.compress(row) for _ in range(min(height, 200)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body + packer.flush()) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_by_what_stands_in_its_header(tmp_path: Path) -> None:
    content = bomb(50_000, 50_000)
    assert len(content) < 1 << 14
    assert failure(tmp_path, content) == "the picture has 2,500 megapixels, more than 100"


def test_a_jpeg_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    content = bytearray(encoded(quarters((64, 64)), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    assert failure(tmp_path, bytes(content)) == "the picture has 4,290 megapixels, more than 250"


@pytest.mark.slow
def test_text_that_unpacks_without_end_is_not_unpacked(tmp_path: Path) -> None:
    picture = encoded(quarters((64, 64)), "PNG")
    packed = b"Comment\0\0" + zlib.compress(bytes(200 << 20), 9)
    chunk = struct.pack(">I", len(packed)) + b"zTXt" + packed + struct.pack(">I", zlib.crc32(b"zTXt" + packed))
    assert failure(tmp_path, picture[:33] + chunk + picture[33:]).startswith("the picture is damaged (")


@pytest.mark.slow
async def test_a_picture_of_many_megapixels_fits_into_the_memory_of_a_job(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    content = encoded(Image.new("RGBA", (9_990, 9_990), (255, 0, 0, 255)), "PNG", compress_level=1)
    result = await sandbox.run("thumbnail", source_of(tmp_path, content), tmp_path / "workspace", nothing)
    with Image.open(result.derived[0].path) as image:
        assert image.size == (512, 512)


@pytest.mark.slow
async def test_a_jpeg_that_needs_too_much_memory_ends_its_job_only(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    content = bytearray(encoded(quarters((64, 64)).convert("CMYK"), "JPEG", progressive=True, subsampling=0))
    frame = content.index(b"\xff\xc2")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 15_800, 15_800)
    with pytest.raises(ProcessorFailed) as failed:
        await sandbox.run("thumbnail", source_of(tmp_path, bytes(content)), tmp_path / "workspace", nothing)
    assert failed.value.permanent
