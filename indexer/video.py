"""Video files: frames with the timestamps of their container. The one module that knows PyAV."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from indexer.errors import SourceError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

#: Containers that cameras, recorders and phones write. Nothing else is tried: FFmpeg would render a
#: text file as a film of its letters, and follow a playlist to other files.
FORMATS = (
    "asf,avi,dhav,dv,flv,h264,hevc,ivf,m4v,matroska,webm,mov,mp4,mpeg,mpegts,mpegvideo,mxf,ogg"
)

#: Degrees to the left that a phone's video asks to be turned.
_TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video.

    Attributes
    ----------
    timestamp_s
        Seconds, exactly as in the container (its clock need not begin at 0). None when the file
        has no timestamps, as raw H.264 has none.
    picture
        RGB, upright.
    """

    timestamp_s: Fraction | None
    picture: Image.Image


@dataclass(frozen=True)
class ClipInfo:
    """What a container says of its video, without decoding; None where it says nothing.

    Attributes
    ----------
    rate
        Frames per second, on average.
    created_at
        When the recording began; without a time zone where the container has none.
    """

    duration_s: float | None
    rate: Fraction | None
    created_at: datetime | None


class NumberedFrame:
    """One frame of a video in the order of display; its pixels are converted when asked for.

    Attributes
    ----------
    position
        Its number among those that can be decoded, from 0.
    timestamp_s
        As of `Frame`.
    """

    def __init__(self, position: int, frame: "VideoFrame") -> None:
        self.position = position
        self.timestamp_s = _timestamp(frame)
        self._frame = frame

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, before turning."""
        return self._frame.width, self._frame.height

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Return uint8 [H, W, 3] RGB, upright."""
        turned = np.rot90(self._frame.to_ndarray(format="rgb24"), self._frame.rotation % 360 // 90)
        return np.ascontiguousarray(turned)


def clip_info(path: str | Path) -> ClipInfo:
    """Read what the container says.

    Raises
    ------
    SourceError
        As `read_frames`.
    """
    with _opened(Path(path)) as (container, stream):
        duration_s = None
        if stream.duration is not None and stream.time_base is not None:
            duration_s = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            duration_s = container.duration / 1_000_000
        created = container.metadata.get("creation_time") or stream.metadata.get("creation_time")
        try:
            created_at = None if created is None else datetime.fromisoformat(created)
        except ValueError:
            created_at = None
        return ClipInfo(duration_s, stream.average_rate or None, created_at)


def number_frames(path: str | Path) -> Iterator[NumberedFrame]:
    """Decode a video from its first frame to its last, on one thread: always the same frames.

    Damaged packets are left out. So is a last frame that is damaged: of a clip that is still being
    written it is whole only later.

    Raises
    ------
    SourceError
        As `read_frames`.
    """
    path = Path(path)
    waiting: VideoFrame | None = None
    position = 0
    with _opened(path) as (container, stream):
        stream.codec_context.thread_count = 1
        for frame in _decoded(container, stream):
            if waiting is not None:
                yield NumberedFrame(position, waiting)
                position += 1
            waiting = frame
        if waiting is not None and not waiting.is_corrupt:
            yield NumberedFrame(position, waiting)
            position += 1
    if not position:
        raise _no_frames(path)


def packet_times(path: str | Path) -> list[Fraction] | None:
    """Read the timestamps of all frames without decoding them, in the order of display.

    Returns
    -------
    list or None
        None when packets have no timestamps, or not each its own.

    Raises
    ------
    SourceError
        As `read_frames`.
    """
    with _opened(Path(path)) as (container, stream):
        packets, timestamps, _ = _index(container, stream)
        if packets != len(timestamps) or stream.time_base is None:
            return None
        return [pts * stream.time_base for pts in timestamps]


def frame_at(path: str | Path, timestamp_s: Fraction) -> NumberedFrame | None:
    """Decode the frame with this timestamp, from the keyframe before it.

    Returns
    -------
    NumberedFrame or None
        Its position is 0, whatever its place; None when there is no such frame after that keyframe.

    Raises
    ------
    SourceError
        As `read_frames`.
    """
    with _opened(Path(path)) as (container, stream):
        stream.codec_context.thread_count = 1
        if stream.time_base is None:
            return None
        container.seek(int(timestamp_s / stream.time_base), stream=stream)
        for frame in _decoded(container, stream):
            numbered = NumberedFrame(0, frame)
            if numbered.timestamp_s is None or numbered.timestamp_s > timestamp_s:
                break
            if numbered.timestamp_s == timestamp_s:
                return numbered
    return None


def read_frames(path: str | Path) -> Iterator[Frame]:
    """Decode a video from its first frame to its last.

    Damaged packets are left out, as a player does.

    Raises
    ------
    SourceError
        When the file is missing, cannot be read as a video, or has no frames; or without PyAV.
    """
    path = Path(path)
    nothing_yet = True
    with _opened(path) as (container, stream):
        for frame in _decoded(container, stream):
            nothing_yet = False
            yield _frame(frame)
    if nothing_yet:
        raise _no_frames(path)


def sample_frames(path: str | Path, count: int) -> list[Frame]:
    """Decode frames spread evenly over a video: the middle ones of `count` equal parts.

    Only the neighbourhood of each frame is decoded, where the file has timestamps.

    Returns
    -------
    list
        In order of time; fewer than `count` when the video has fewer or some are damaged.

    Raises
    ------
    SourceError
        As `read_frames`.
    ValueError
        When `count` is not positive.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    path = Path(path)
    with _opened(path) as (container, stream):
        packets, timestamps, keyframes = _index(container, stream)
        found = [
            _frame_at(container, stream, keyframes, pts) for pts in _middles(timestamps, count)
        ]
    if timestamps:
        frames = list({frame.timestamp_s: frame for frame in found if frame is not None}.values())
    else:
        places = set(_middles(range(packets), count))
        frames = [frame for place, frame in enumerate(read_frames(path)) if place in places]
    if not frames:
        raise _no_frames(path)
    return frames


@contextmanager
def _opened(path: Path) -> Iterator[tuple["InputContainer", "VideoStream"]]:
    """Open a file's first video stream; FFmpeg's errors inside the block become `SourceError`."""
    try:
        import av
    except ImportError as error:
        raise SourceError(
            f"Reading {path} needs PyAV, which is not installed: pip install 'binet[video]'"
        ) from error
    if not path.is_file():
        raise SourceError(f"{path}: there is no such file")
    try:
        with av.open(
            str(path.resolve()),
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        ) as container:
            if not container.streams.video:
                raise SourceError(f"{path} has no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or str(error)
        raise SourceError(f"{path} is not a video that can be read ({reason})") from error


def _decoded(container: "InputContainer", stream: "VideoStream") -> Iterator["VideoFrame"]:
    from av.error import InvalidDataError

    for packet in container.demux(stream):
        try:
            frames = stream.decode(packet)
        except InvalidDataError:
            continue
        yield from frames


def _index(
    container: "InputContainer", stream: "VideoStream"
) -> tuple[int, list[int], list[tuple[int, int]]]:
    """Read through a stream without decoding it.

    Returns
    -------
    tuple
        Number of packets; their timestamps, sorted; and of each keyframe its timestamp and what to
        seek to for it.
    """
    packets = 0
    timestamps: set[int] = set()
    keyframes: list[tuple[int, int]] = []
    for packet in container.demux(stream):
        packets += packet.size > 0
        if packet.pts is None:
            continue
        timestamps.add(packet.pts)
        if packet.is_keyframe:
            keyframes.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
    return packets, sorted(timestamps), keyframes


def _frame_at(
    container: "InputContainer",
    stream: "VideoStream",
    keyframes: list[tuple[int, int]],
    pts: int,
) -> Frame | None:
    """Decode the frame at `pts`, or the next one that can be decoded."""
    # By its own keyframe: in an MPEG transport stream FFmpeg would stop at any packet, from which
    # nothing can be decoded.
    before = [keyframe for keyframe in keyframes if keyframe[0] <= pts]
    container.seek(max(before)[1] if before else pts, stream=stream)
    for frame in _decoded(container, stream):
        if frame.pts is not None and frame.pts >= pts:
            return _frame(frame)
    return None


def _middles(values: Sequence[int], count: int) -> list[int]:
    count = min(count, len(values))
    return [values[(2 * part + 1) * len(values) // (2 * count)] for part in range(count)]


def _frame(frame: "VideoFrame") -> Frame:
    picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turn = _TURNS.get(frame.rotation % 360)
    if turn is not None:
        picture = picture.transpose(turn)
    return Frame(_timestamp(frame), picture)


def _timestamp(frame: "VideoFrame") -> Fraction | None:
    if frame.pts is None or frame.time_base is None:
        return None
    return frame.pts * frame.time_base


def _no_frames(path: Path) -> SourceError:
    return SourceError(f"{path} has no frames that can be decoded")
