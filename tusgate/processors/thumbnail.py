"""Small pictures of large ones."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import TYPE_CHECKING, Final

from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from tusgate.processors.contract import Derived, ProcessorError, Result
from tusgate.processors.naming import named_after

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tusgate.processors.contract import Json, Source

_EDGE: Final = 512
_MEGA: Final = 1_000_000
_ON_ITS_SIDE: Final = range(5, 9)
"""Values of EXIF's orientation that exchange width and height."""
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes upright what EXIF says lies so. Pillow's own `exif_transpose` reads and writes all of EXIF."""
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF")
"""No others are tried, whatever the file is: Pillow reads dozens, some by starting programs."""
_MOST_PIXELS: Final = 100_000_000
"""What is decoded as a whole, to 400 MB."""
_MOST_PIXELS_OF_JPEG: Final = 250_000_000
"""JPEGs are decoded at down to an eighth of their size: cameras have 200 megapixels."""
_DAMAGED: Final = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error, zlib.error)
"""What Pillow's readers raise about files that are not what they seem to be."""
_QUALITY: Final = 80
_SRGB: Final = ImageCms.createProfile("sRGB")


class Thumbnail:
    """A WebP of JPEG, PNG, WebP and GIF, with 512 pixels on its longer edge; smaller pictures keep their size.

    It stands upright, has the colours of sRGB, is of the first picture of an animation, and has nothing of what cameras
    and people have written beside the picture.
    """

    name = "thumbnail"
    version = 1
    types = ("image/jpeg", "image/png", "image/webp", "image/gif")
    largest = 1 << 30
    seconds = 60.0
    memory = 3 << 29  # the largest, and once more for scaling it

    def process(self, source: Source, workspace: Path, progress: Callable[[float], None]) -> Result:
        """Make the picture; the facts are the format and the size in pixels of the original as it is shown."""
        Image.MAX_IMAGE_PIXELS = None  # it would warn, and knows one limit for all formats; see _check_size
        try:
            with Image.open(source.path, formats=_FORMATS) as image:
                _check_size(image)
                facts: dict[str, Json] = {"format": image.format, **_size_as_shown(image)}
                small = _reduced(image)
        except UnidentifiedImageError:
            raise ProcessorError("this is no JPEG, PNG, WebP or GIF", permanent=True) from None
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno is not None:  # of the system, not of Pillow
                raise
            raise ProcessorError(f"the picture is damaged ({error})", permanent=True) from None
        path = workspace / "thumbnail.webp"
        small.save(path, "WEBP", quality=_QUALITY)  # which writes no profile, EXIF or XMP that it was not given here
        return Result(derived=(Derived(path, self.name, "image/webp", named_after(source, "webp")),), facts=facts)


def _check_size(image: Image.Image) -> None:
    """Refuse what would take too much memory or time, by what stands in the header. Raises ProcessorError."""
    pixels = image.width * image.height
    most = _MOST_PIXELS_OF_JPEG if image.format in {"JPEG", "MPO"} else _MOST_PIXELS
    if pixels > most:
        raise ProcessorError(
            f"the picture has {pixels // _MEGA:,} megapixels, more than {most // _MEGA}", permanent=True
        )


def _size_as_shown(image: Image.Image) -> dict[str, Json]:
    width, height = (image.height, image.width) if _orientation_of(image) in _ON_ITS_SIDE else image.size
    return {"width": width, "height": height}


def _orientation_of(image: Image.Image) -> int | None:
    """Return how `image` has to be turned; None where EXIF does not say, or is damaged: browsers show those, too."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except _DAMAGED:
        return None
    return value if isinstance(value, int) else None


def _reduced(image: Image.Image) -> Image.Image:
    """Return the first picture of `image`: small, upright and in sRGB."""
    profile = image.info.get("icc_profile")
    image.draft(None, (2 * _EDGE, 2 * _EDGE))
    picture = _of_eight_bits(image)
    picture.thumbnail((_EDGE, _EDGE))
    shown = _in_srgb(picture, profile)
    turn = _TURNS.get(_orientation_of(shown) or 1)
    return shown if turn is None else shown.transpose(turn)


def _of_eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture that can be scaled well: not of a palette, with transparency where there was some."""
    if image.mode.startswith("I"):  # conversion would cut off what is brighter than 255
        return image.point(lambda value: value / 256).convert("L")
    if image.mode in {"RGBA", "CMYK"}:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Return `picture` with the colours that its profile gave it; one that does not fit is ignored, as browsers do."""
    plain = "RGBA" if picture.mode == "RGBA" else "RGB"
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(BytesIO(profile))
            shown = ImageCms.profileToProfile(picture, own, _SRGB, outputMode=plain)
        except (ImageCms.PyCMSError, *_DAMAGED):
            shown = None
        if shown is not None:
            return shown
    return picture.convert(plain)
