"""Video decoding on clips that are made here."""

import random
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

from indexer.errors import SourceError  # noqa: E402
from indexer.video import Frame, read_frames, sample_frames  # noqa: E402

MILLISECOND = Fraction(1, 1000)
EVEN_MS = tuple(range(0, 4000, 100))
#: A camera that slows down, stops for two seconds and goes on.
UNEVEN_MS = (0, 33, 67, 100, 500, 501, 1000, 3003, 3017, 3500)


def make_video(
    path: Path,
    times_ms: Sequence[int] = EVEN_MS,
    *,
    codec: str = "mpeg4",
    size: tuple[int, int] = (64, 48),
    rotation: int = 0,
    keyframe_every: int = 250,
) -> Path:
    """Write a clip whose n-th frame is grey of level 6 n, with a red upper left corner."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no encoder {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options={"g": str(keyframe_every)})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 8_000_000  # so that the levels stay apart
        # MPEG-1 and MPEG-2 have fixed frame rates.
        time_base = Fraction(1, 10) if codec.startswith("mpeg2") else MILLISECOND
        stream.codec_context.time_base = time_base
        if rotation:
            stream.set_display_rotation(rotation)
        for number, time_ms in enumerate(times_ms):
            pixels = np.full((size[1], size[0], 3), 6 * number, np.uint8)
            pixels[:16, :16] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = int(time_ms * MILLISECOND / time_base), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def number_of(frame: Frame) -> int:
    """Which frame of `make_video` this is."""
    grey = np.asarray(frame.picture)[-16:, -16:].mean()
    return round(float(grey) / 6)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.mp4"])
def test_timestamps_are_exact_at_a_variable_frame_rate(tmp_path: Path, name: str) -> None:
    path = make_video(tmp_path / name, UNEVEN_MS)
    frames = list(read_frames(path))
    assert [frame.timestamp_s for frame in frames] == [ms * MILLISECOND for ms in UNEVEN_MS]
    assert [number_of(frame) for frame in frames] == list(range(len(UNEVEN_MS)))
    assert frames[0].picture.mode == "RGB"
    assert frames[0].picture.size == (64, 48)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_sample_is_spread_evenly_and_equals_decoding_everything(tmp_path: Path, count: int) -> None:
    path = make_video(tmp_path / "clip.mp4", keyframe_every=12)
    everything = {frame.timestamp_s: frame for frame in read_frames(path)}
    sampled = sample_frames(path, count)
    expected = [int((part + 0.5) * len(EVEN_MS) / count) for part in range(count)]
    assert [number_of(frame) for frame in sampled] == expected
    for frame in sampled:
        same = everything[frame.timestamp_s]
        np.testing.assert_array_equal(np.asarray(frame.picture), np.asarray(same.picture))


def test_sample_of_a_short_video_is_all_of_it(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.mkv", EVEN_MS[:4])
    assert [number_of(frame) for frame in sample_frames(path, 9)] == [0, 1, 2, 3]


def test_sample_of_a_transport_stream_with_one_keyframe(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.ts", codec="libx264")
    assert [number_of(frame) for frame in sample_frames(path, 3)] == [6, 20, 33]


def test_raw_stream_has_no_timestamps(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.h264", codec="libx264")
    sampled = sample_frames(path, 3)
    assert [frame.timestamp_s for frame in sampled] == [None] * 3
    assert [number_of(frame) for frame in sampled] == [6, 20, 33]


@pytest.mark.parametrize(
    ("rotation", "size", "corner"),
    [(90, (48, 64), (4, 60)), (180, (64, 48), (60, 44)), (-90, (48, 64), (44, 4))],
)
def test_a_turned_video_comes_upright(
    tmp_path: Path, rotation: int, size: tuple[int, int], corner: tuple[int, int]
) -> None:
    path = make_video(tmp_path / "clip.mp4", EVEN_MS[:3], rotation=rotation)
    picture = sample_frames(path, 1)[0].picture
    assert picture.size == size
    red, green, _ = np.asarray(picture)[corner[1], corner[0]]
    assert red > 200
    assert green < 60


def test_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        sample_frames(tmp_path / "clip.mp4", 1)


@pytest.mark.parametrize("name", ["notes.txt", "notes.mp4"])
def test_text_is_not_a_film_of_its_letters(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("not a video\n" * 200)
    with pytest.raises(SourceError, match=f"{name} is not a video"):
        sample_frames(path, 1)


def test_a_playlist_leads_nowhere(tmp_path: Path) -> None:
    make_video(tmp_path / "secret.ts", codec="mpeg2video")
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nsecret.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(SourceError, match="is not a video"):
        sample_frames(playlist, 1)


def test_sound_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(SourceError, match="no video stream"):
        sample_frames(path, 1)


def test_video_without_frames(tmp_path: Path) -> None:
    path = make_video(tmp_path / "clip.avi")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"movi") + 4])  # its header alone
    with pytest.raises(SourceError, match="no frames"):
        sample_frames(path, 1)
    with pytest.raises(SourceError, match="no frames"):
        list(read_frames(path))


def test_damaged_clips_give_frames_or_a_clear_error(tmp_path: Path) -> None:
    rng = random.Random(0)
    whole = [
        make_video(tmp_path / name, EVEN_MS[:20]).read_bytes()
        for name in ("a.mp4", "a.mkv", "a.avi")
    ]
    path = tmp_path / "damaged.video"
    readable = 0
    for _ in range(30):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.choice((1, 10, 100))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data[: rng.choice((len(data), len(data) * 2 // 3))])
        try:
            readable += bool(sample_frames(path, 2)) and bool(list(read_frames(path)))
        except SourceError:
            continue
    assert readable


def test_without_pyav_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SourceError, match=r"pip install 'binet\[video\]'"):
        sample_frames(tmp_path / "clip.mp4", 1)


def test_count_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        sample_frames(tmp_path / "clip.mp4", 0)
