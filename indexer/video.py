"""Video files: frames with the timestamps of their container. The one module that knows PyAV."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

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
    if frame.pts is None or frame.time_base is None:
        return Frame(None, picture)
    return Frame(frame.pts * frame.time_base, picture)


def _no_frames(path: Path) -> SourceError:
    return SourceError(f"{path} has no frames that can be decoded")
