"""Files that want to do harm: each fails alone, with a reason, and the indexer goes on.

BINET_DAMAGED says how many damaged clips and pictures are made (500 without it).
"""

import io
import os
import random
import signal
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

from indexer import decode_protocol as protocol
from indexer.archives import Member, list_members, read_members
from indexer.checking import check
from indexer.decoder import Decoder, DecoderLostError
from indexer.errors import SourceError
from indexer.gallery import Gallery
from indexer.limits import Limits
from indexer.pictures import decode_picture
from tests.indexer.archives_made import make_noise_clip, make_picture, run_index

DAMAGED = int(os.environ.get("BINET_DAMAGED", "500"))
NO_POSITIONS = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as made:
        yield made


def damaged(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 10, 100))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    if rng.random() < 0.3:
        at = rng.randrange(len(changed))
        del changed[at : at + rng.randrange(1, 200)]
    return bytes(changed[: rng.choice((len(changed), len(changed) * 2 // 3))])


def test_damaged_files_never_stop_the_indexer(tmp_path: Path) -> None:
    rng = random.Random(DAMAGED)
    clips = [
        make_noise_clip(tmp_path / name, 12, "mpeg2video" if name.endswith("ts") else "mpeg4")
        for name in ("a.mp4", "a.mkv", "a.avi", "a.ts")
    ]
    pictures = [make_picture(tmp_path / name) for name in ("a.jpg", "a.png", "a.gif", "a.tif")]
    folder = tmp_path / "damaged"
    folder.mkdir()
    for number in range(DAMAGED):
        original = rng.choice(clips + pictures)
        path = folder / f"{number}{original.suffix}"
        path.write_bytes(damaged(original.read_bytes(), rng))
    make_noise_clip(folder / "whole.mkv", 12)
    result = run_index(tmp_path / "g", [folder])
    assert result.discovered == DAMAGED + 1
    assert result.indexed + result.failed == result.discovered
    assert result.indexed > 0
    assert result.failed > 0
    assert all(failure.reason and "\n" not in failure.reason for failure in result.failures)
    with Gallery.open(tmp_path / "g") as gallery:
        assert not any(finding.is_problem for finding in check(gallery.database))


def test_a_crashed_decoder_is_replaced(tmp_path: Path, decoder: Decoder) -> None:
    clip = make_noise_clip(tmp_path / "a.mkv", 12)
    request = protocol.ReadClip(str(clip), None, NO_POSITIONS)
    frames = decoder.request(request)
    next(frames)
    process = decoder._process
    assert process is not None
    os.kill(process.pid or 0, signal.SIGKILL)
    with pytest.raises(DecoderLostError, match="signal 9"):
        list(frames)
    assert sum(isinstance(reply, protocol.Frame) for reply in decoder.request(request)) == 12


def test_one_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    # A pipe without a writer: opening it takes forever.
    os.mkfifo(tmp_path / "a.png")
    request = protocol.ReadPictures((str(tmp_path / "a.png"),), ("",))
    with (
        Decoder(Limits(frame_s=0.2)) as decoder,
        pytest.raises(DecoderLostError, match=r"more than 0\.2 s"),
    ):
        list(decoder.request(request))


def test_one_that_takes_too_much_memory_fails_alone(tmp_path: Path) -> None:
    big = tmp_path / "cam" / "big.png"
    make_picture(big, size=(9000, 9000))
    make_picture(tmp_path / "cam" / "small.png")
    result = run_index(tmp_path / "g", [tmp_path / "cam"], limits=Limits(memory_bytes=128 << 20))
    assert (result.indexed, result.failed) == (1, 1)
    assert "memory" in result.failures[0].reason


def bomb_png(side: int) -> bytes:
    """A PNG whose header says side x side pixels, and that is a few bytes long."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [11_000, 60_000])
def test_a_bomb_is_refused_from_its_header(side: int) -> None:
    with pytest.raises(SourceError, match=r"pixels"):
        decode_picture(bomb_png(side), Limits())


def test_frames_of_a_clip_have_a_limit(tmp_path: Path) -> None:
    clip = make_noise_clip(tmp_path / "a.mkv", 3)
    result = run_index(tmp_path / "g", [clip], limits=Limits(pixels=96 * 63))
    assert "96x64 pixels" in result.failures[0].reason


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_774_699_200
            archive.addfile(info, io.BytesIO(data))
    return path


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def problems(members: list[Member]) -> dict[str, str | None]:
    return {member.name: member.problem for member in members}


@pytest.mark.parametrize("name", ["../up.png", "/root.png", "a/../../up.png", "a\\b.png"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    for path in (
        make_zip(tmp_path / "a.zip", {name: png(), "good.png": png()}),
        make_tar(tmp_path / "a.tar", {name: png(), "good.png": png()}),
    ):
        found = problems(list_members(str(path), Limits()))
        assert found.pop("good.png") is None
        assert all("leads out" in str(problem) for problem in found.values())
        assert len(found) == 1


def test_archive_bombs_are_refused(tmp_path: Path) -> None:
    zeros = b"\0" * (8 << 20)
    path = str(make_zip(tmp_path / "a.zip", {"a.png": zeros}))
    assert "times its size" in str(problems(list_members(path, Limits()))["a.png"])
    small = Limits(picture_bytes=1000, archive_ratio=10**9)
    assert "bytes" in str(problems(list_members(path, small))["a.png"])
    with pytest.raises(SourceError, match="bytes unpacked"):
        list_members(path, Limits(archive_bytes=1 << 20))
    tar = str(make_tar(tmp_path / "a.tar.gz", {"a.png": zeros}))
    with pytest.raises(SourceError, match="times its size"):
        list_members(tar, Limits())
    many = str(make_zip(tmp_path / "many.zip", {f"{n}.png": b"" for n in range(20)}))
    with pytest.raises(SourceError, match="more than 10 files"):
        list_members(many, Limits(archive_members=10))


def test_a_directory_that_lies_is_found_out(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": b"\0" * 5000}, zipfile.ZIP_STORED)
    data = path.read_bytes().replace(struct.pack("<I", 5000), struct.pack("<I", 50))
    path.write_bytes(data)
    ((_, result),) = read_members(str(path), ["a.png"], Limits())
    assert isinstance(result, str) or len(result) <= 50


def test_links_and_devices_in_a_tar_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("l.png", tarfile.SYMTYPE), ("d.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert list_members(str(tmp_path / "a.tar"), Limits()) == []


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_pictures_of_an_archive_are_indexed_once(tmp_path: Path, name: str) -> None:
    members = {f"2026-03-28/21000{n}.png": png(n) for n in range(5)}
    members |= {"bad.png": b"no picture", "notes.txt": b"text", "../up.png": png(9)}
    path = tmp_path / name
    (make_zip if name.endswith("zip") else make_tar)(path, members)
    result = run_index(tmp_path / "g", [path], batch=2)
    assert (result.discovered, result.indexed, result.failed) == (7, 5, 2)
    assert {Path(failure.uri).name for failure in result.failures} == {"bad.png", "up.png"}
    again = run_index(tmp_path / "g", [path], batch=2)
    assert (again.unchanged, again.failed, again.new_frames) == (5, 2, 0)
    # The same picture outside of the archive is known.
    (tmp_path / "alone.png").write_bytes(png(1))
    assert run_index(tmp_path / "g", [tmp_path / "alone.png"]).unchanged == 1


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_damaged_archives(tmp_path: Path, name: str, decoder: Decoder) -> None:
    make = make_zip if name.endswith("zip") else make_tar
    data = make(tmp_path / name, {f"{n}.png": png(n) for n in range(4)}).read_bytes()
    rng = random.Random(1)
    for _ in range(20):
        (tmp_path / name).write_bytes(damaged(data, rng))
        try:
            listed = decoder.value(protocol.ListArchive(str(tmp_path / name)))
            assert isinstance(listed, list)
            names = tuple(dict.fromkeys(member.name for member in listed))
            list(decoder.request(protocol.HashMembers(str(tmp_path / name), names)))
        except DecoderLostError:
            raise
        except SourceError:
            continue
