"""What the indexer asks of a decoder process, and what comes back."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ListArchive:
    """List the pictures of an archive; the answer is a `Value` with `Member`s."""

    path: str


@dataclass(frozen=True)
class HashMembers:
    """Hash files in an archive: a `Hashed` or `Broken` for each, by its place in `names`."""

    path: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class ReadPictures:
    """Decode pictures: a `Frame` or `Broken` for each, by its place in `names`.

    Attributes
    ----------
    archive
        The archive that they are in, or None: then `names` are paths.
    digests
        SHA-256 that each file must have.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    archive: str | None = None


@dataclass(frozen=True, eq=False)
class ReadClip:
    """Decode the sampled frames of a video: first a `ClipStart`, then `Frame`s.

    Attributes
    ----------
    done
        int64 [N]: positions that are not wanted any more.
    wanted
        int64 [N]: the only positions that are; None is all.
    """

    path: str
    fps: float | None
    done: npt.NDArray[np.int64]
    wanted: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class SampledPositions:
    """Find the positions that would be sampled, without decoding; a `Value` with a list or None."""

    path: str
    fps: float | None


@dataclass(frozen=True, eq=False)
class VerifyClip:
    """Tell whether these frames are in a video as they were; a `Value` with a bool.

    Attributes
    ----------
    positions
        int64 [N], ascending.
    digests
        Of their content.
    """

    path: str
    positions: npt.NDArray[np.int64]
    digests: tuple[str, ...]


@dataclass(frozen=True)
class ReadFrame:
    """Decode one frame of a video: one `Frame`, the one with this digest."""

    path: str
    position: int
    timestamp_s: Fraction | None
    digest: str


Request = (
    ListArchive | HashMembers | ReadPictures | ReadClip | SampledPositions | VerifyClip | ReadFrame
)


@dataclass(frozen=True)
class Alive:
    """A sign of life.

    Attributes
    ----------
    share
        How far through the source it is, 0 to 1; None when nobody knows.
    """

    share: float | None = None


@dataclass(frozen=True)
class ClipStart:
    """What a video says of itself."""

    rate: Fraction | None
    duration_s: float | None
    created_at: datetime | None


@dataclass(frozen=True)
class Hashed:
    """SHA-256 of a file in an archive."""

    place: int
    digest: str


@dataclass(frozen=True)
class Broken:
    """One of several files cannot be read."""

    place: int
    reason: str


@dataclass(frozen=True, eq=False)
class FrameHead:
    """What comes before the pixels of a frame.

    Attributes
    ----------
    place
        Of its file in the request.
    offset_s
        Seconds since the clip's first frame.
    share
        As of `Alive`.
    """

    place: int
    position: int
    shape: tuple[int, int]
    digest: str
    timestamp_s: Fraction | None = None
    offset_s: Fraction = Fraction(0)
    taken_at: datetime | None = None
    share: float | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """A decoded frame or picture.

    Attributes
    ----------
    pixels
        uint8 [H, W, 3] RGB, upright; not to be written to.
    """

    head: FrameHead
    pixels: Pixels


@dataclass(frozen=True)
class Value:
    """The answer to a request that has one."""

    value: object


@dataclass(frozen=True)
class Failed:
    """The request as a whole failed.

    Attributes
    ----------
    lost
        The process is not fit for anything more.
    """

    reason: str
    lost: bool = False


@dataclass(frozen=True)
class End:
    """That was all."""


Reply = Alive | ClipStart | Hashed | Broken | Frame | Value


def content_digest(pixels: Pixels) -> str:
    """SHA-256 of a frame's size and pixels."""
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(b"%dx%d" % (width, height))
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
