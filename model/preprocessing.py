"""Pictures of any kind -> the network's input.

The geometry is done here, in uint8 and on the CPU, so that an indexer can do it in its own threads;
the network normalises on its own device.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from model.config import PreprocessingConfig
from model.errors import PictureError

#: A picture as users have it. Arrays are uint8: [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA.
#: Tensors are uint8: [1 or 3, H, W]. A PIL image is turned upright by its EXIF orientation.
Picture = Image.Image | npt.NDArray[np.uint8] | Tensor


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture resized for the search branch.

    Attributes
    ----------
    pixels
        uint8 [3, h, w] RGB.
    width, height
        Size in pixels of the picture that it was made from, upright.
    picture
        That picture, uint8 [3, height, width], where the network cuts people from it.
    """

    pixels: Tensor
    width: int
    height: int
    picture: Tensor | None = None

    @property
    def scale(self) -> Tensor:
        """What turns xyxy boxes of the picture into boxes on `pixels`: float32 [4]."""
        height, width = self.pixels.shape[-2:]
        return torch.tensor([width / self.width, height / self.height] * 2, dtype=torch.float32)


class Preprocessing:
    """Resizing that belongs to a set of weights.

    Parameters
    ----------
    config
        Of the network.
    keep_picture
        Scenes hold their picture, too: for `gallery_branch = "instance"`.
    """

    def __init__(self, config: PreprocessingConfig, keep_picture: bool = False) -> None:
        self.config = config
        self.keep_picture = keep_picture

    def scene(self, picture: Picture) -> Scene:
        """Resize to `min_side` on the shorter side, at most `max_side` on the longer (sec. 4.3)."""
        pixels = to_rgb(picture)
        height, width = pixels.shape[-2:]
        scale = min(
            self.config.min_side / min(height, width), self.config.max_side / max(height, width)
        )
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        kept = pixels if self.keep_picture else None
        return Scene(resize(pixels, size), width=width, height=height, picture=kept)

    def patch(self, picture: Picture) -> Tensor:
        """Resize a crop to `patch_size`, whatever its shape: uint8 [3, 224, 96] (sec. 3.3)."""
        return resize(to_rgb(picture), list(self.config.patch_size))


def resize(pixels: Tensor, size: list[int]) -> Tensor:
    """Bilinear with antialiasing, as Pillow does it: [3, H, W] -> [3, *size], dtype kept."""
    resized: Tensor = tv.resize(pixels, size, antialias=True)
    return resized


def read_picture(path: str | Path) -> Image.Image:
    """Open and decode a picture file completely.

    Raises
    ------
    PictureError
        When the file is missing, is no picture, or is broken.
    """
    try:
        with warnings.catch_warnings():
            # A decompression bomb is refused, not warned of; `open` looks at the header.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return image
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise PictureError(f"{path} cannot be read as a picture: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{path} is too large: {error}") from error


def to_rgb(picture: Picture) -> Tensor:
    """Turn any accepted picture into uint8 [3, H, W] RGB on the CPU.

    Raises
    ------
    PictureError
        When the object's kind, type or shape is not one of `Picture`, or it has no pixels.
    """
    if isinstance(picture, Image.Image):
        pixels = torch.from_numpy(np.array(_pil_to_rgb(picture))).permute(2, 0, 1)
    elif isinstance(picture, np.ndarray):
        pixels = _array_to_rgb(picture)
    elif isinstance(picture, Tensor):
        if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] not in (1, 3):
            raise PictureError(
                "expected a uint8 tensor [3, H, W] or [1, H, W], got "
                f"{picture.dtype} {list(picture.shape)}"
            )
        pixels = picture.cpu().expand(3, -1, -1)
    else:
        raise PictureError(
            f"expected a PIL image, a uint8 array or a uint8 tensor, got {type(picture).__name__}; "
            "read_picture(path) opens a file"
        )
    if pixels.numel() == 0:
        raise PictureError("the picture has no pixels")
    return pixels


def _array_to_rgb(array: npt.NDArray[np.uint8]) -> Tensor:
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise PictureError(
            f"expected a uint8 array [H, W, 3], got {array.dtype} {list(array.shape)}"
        )
    channels = array.shape[2] if array.ndim == 3 else 1
    if channels == 4:
        return to_rgb(Image.fromarray(array))
    if channels not in (1, 3):
        raise PictureError(f"expected 1, 3 or 4 channels last, got shape {list(array.shape)}")
    grey_or_rgb = array.reshape(*array.shape[:2], channels)
    # A copy: the caller's array may be read-only or have negative strides.
    return torch.from_numpy(grey_or_rgb.copy()).permute(2, 0, 1).expand(3, -1, -1)


def _pil_to_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        # 16 bits and more: Pillow's own conversion would clip everything above 255 to white.
        values = np.asarray(upright, dtype=np.float32)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        grey = (np.clip(values / top, 0, 1) * 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if upright.has_transparency_data:
        # As a viewer shows it: what is transparent is white, not whatever colour lies beneath.
        rgba = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return upright.convert("RGB")
