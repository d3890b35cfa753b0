"""Pictures from untrusted bytes: what they ask for is read from the header before decoding."""

import io
import warnings
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from indexer.capture_time import exif_time
from indexer.errors import SourceError
from indexer.limits import Limits

#: Pillow's names of what cameras, phones and programs write. Nothing else is tried: some of its
#: other readers start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "MPO", "JPEG2000", "PPM")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".mpo", ".jp2")
)


@dataclass(frozen=True, eq=False)
class DecodedPicture:
    """A picture and when it says it was taken.

    Attributes
    ----------
    pixels
        uint8 [H, W, 3] RGB, upright; what is transparent is white.
    taken_at
        From EXIF; without a time zone where EXIF has none. None without.
    """

    pixels: npt.NDArray[np.uint8]
    taken_at: datetime | None


def decode_picture(
    data: bytes, limits: Limits, formats: tuple[str, ...] = FORMATS
) -> DecodedPicture:
    """Decode a picture file.

    Parameters
    ----------
    formats
        Pillow's names of what is let in; the file's own bytes decide, not its name.

    Raises
    ------
    SourceError
        When it is no picture, is broken, or has too many pixels; the reason names no path.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=formats) as image:
                width, height = image.size
                if width * height > limits.pixels:
                    raise SourceError(
                        f"it has {width}x{height} pixels, more than {limits.pixels:,} are refused"
                    )
                taken_at = _taken_at(image)
                image.load()
                pixels = _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, LookupError) as error:
        raise SourceError(f"it cannot be read as a picture ({_short(error)})") from error
    except Image.DecompressionBombError as error:
        raise SourceError("it has too many pixels") from error
    return DecodedPicture(pixels, taken_at)


def _short(error: Exception) -> str:
    # Pillow shows the object that it read from.
    return "no format that is known" if "BytesIO" in str(error) else str(error) or "broken"


def _taken_at(image: Image.Image) -> datetime | None:
    try:
        exif = image.getexif()
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        original = inner.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
        return exif_time(
            str(original or ""),
            str(inner.get(ExifTags.Base.SubsecTimeOriginal, "")),
            str(inner.get(ExifTags.Base.OffsetTimeOriginal, "")),
        )
    except Exception:
        # EXIF is an ornament: whatever is wrong with it, the picture is still one.
        return None


def _to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """As `model.preprocessing.to_rgb`, without its torch; a test holds the two together."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        grey = (np.clip(values / top, 0, 1) * 255).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))
