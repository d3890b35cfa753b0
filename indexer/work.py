"""What travels through the pipeline: batches of frames, and how each file came out."""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from fractions import Fraction
from typing import Any, Literal, Protocol

from indexer.capture_time import CaptureTime
from indexer.decode_protocol import Pixels
from indexer.region import Region
from indexer.sources import SourceFile
from model.detections import Detections

#: What the network computes in.
Precision = Literal["float32", "bfloat16"]


class SearchBranch(Protocol):
    """The network as the indexer needs it.

    Attributes
    ----------
    weights_sha256, preprocess_sha256, dimension
        Whose embeddings they are.
    """

    weights_sha256: str
    preprocess_sha256: str
    dimension: int

    def prepare(self, pixels: Pixels) -> Any:
        """Make a scene of uint8 [H, W, 3] RGB; runs in a thread of its own."""
        ...

    def detect(self, scenes: list[Any]) -> list[Detections]:
        """Find the people of prepared scenes."""
        ...


class Keep(StrEnum):
    """Which pictures are kept beside the database; the others are cut from their sources."""

    OFF = "off"
    THUMBNAILS = "thumbnails"
    FRAMES = "frames"


@dataclass(frozen=True)
class IndexOptions:
    """How sources are indexed.

    Attributes
    ----------
    camera
        Its name; None takes the name of each file's folder.
    start
        When the first frame was captured; for one video.
    utc_offset
        Of the clocks whose times have no time zone.
    fps
        Frames per second of a video that are looked at; None is all.
    batch
        Frames that go through the network, and into the gallery, together.
    workers
        Decoder processes.
    """

    camera: str | None = None
    start: CaptureTime | None = None
    utc_offset: timedelta = timedelta(0)
    fps: float | None = None
    region: Region = field(default_factory=Region)
    batch: int = 8
    workers: int = 2
    keep: Keep = Keep.OFF


class Status(StrEnum):
    """How a file came out."""

    INDEXED = "indexed"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """How a file came out.

    Attributes
    ----------
    source_id
        Of a source that was in the gallery before.
    """

    file: SourceFile
    status: Status
    reason: str = ""
    source_id: int | None = None


@dataclass(eq=False)
class Taken:
    """One frame on its way.

    Attributes
    ----------
    content_sha256
        Of the file.
    source_id
        The source that it belongs to, where that was in the gallery before.
    grown
        The file is that source with more at its end.
    pixels
        None once nobody needs them any more.
    share
        How far through its file it is, 0 to 1, where known.
    """

    file: SourceFile
    content_sha256: str
    captured: CaptureTime
    position: int
    timestamp_s: Fraction | None
    shape: tuple[int, int]
    digest: str
    pixels: Pixels | None
    source_id: int | None = None
    grown: bool = False
    share: float | None = None
    scene: Any = None
    people: Detections | None = None


@dataclass(eq=False)
class Batch:
    """Frames that are indexed together, and the files that are through after them."""

    frames: list[Taken] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
