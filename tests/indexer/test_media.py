"""Pictures of frames and boxes, kept or cut from their source; and the check of a gallery."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import delete, insert, select
from typer.testing import CliRunner

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")

import binet
from indexer import schema
from indexer.checking import check
from indexer.errors import GalleryError, MediaError, UnknownBoxError
from indexer.gallery import Gallery
from indexer.limits import Limits
from indexer.media import MediaReader, crop_picture, frame_picture, prune_media
from indexer.media_store import MediaStore, cut_crop, media_url, set_media_url
from indexer.pictures import decode_picture
from indexer.repairing import repair
from indexer.video import number_frames
from model.preprocessing import to_rgb
from tests.indexer.archives_made import frames_of, make_noise_clip, make_picture, run_index
from tests.indexer.test_hostile_files import make_zip, png


def box_rows(gallery: Gallery) -> list[Any]:
    with gallery.database.read() as connection:
        return list(connection.execute(select(schema.box).order_by(schema.box.c.id)))


def test_frames_are_cut_from_their_clip(tmp_path: Path) -> None:
    clip = make_noise_clip(tmp_path / "a.mkv", 8)
    run_index(tmp_path / "g", [clip])
    pixels = [frame.pixels() for frame in number_frames(clip)]
    with Gallery.open(tmp_path / "g") as gallery, MediaReader(gallery) as reader:
        for row in frames_of(tmp_path / "g"):
            np.testing.assert_array_equal(np.asarray(reader.frame(row.id)), pixels[row.position])
        box = box_rows(gallery)[-1]
        position = {row.id: row.position for row in frames_of(tmp_path / "g")}[box.frame_id]
        expected = cut_crop(pixels[position], (box.x1, box.y1, box.x2, box.y2))
        np.testing.assert_array_equal(np.asarray(reader.crop(box.id)), np.asarray(expected))


def test_a_source_that_is_gone_or_has_changed(tmp_path: Path) -> None:
    clip = make_noise_clip(tmp_path / "a.mkv", 4)
    run_index(tmp_path / "g", [clip])
    with Gallery.open(tmp_path / "g") as gallery:
        with pytest.raises(GalleryError, match="no frame 99"):
            frame_picture(gallery, 99)
        with pytest.raises(UnknownBoxError, match="no box 99"):
            crop_picture(gallery, 99)
        make_noise_clip(clip, 3, "mpeg2video")
        with pytest.raises(MediaError, match="has changed") as error:
            frame_picture(gallery, 2)
        assert str(tmp_path) not in str(error.value)
        clip.unlink()
        with pytest.raises(MediaError, match=r"a\.mkv, which is not there any more"):
            frame_picture(gallery, 2)


def test_pictures_and_archives(tmp_path: Path) -> None:
    picture = make_picture(tmp_path / "cam" / "a.png")
    make_zip(tmp_path / "cam" / "b.zip", {"c.png": png(5)})
    run_index(tmp_path / "g", [tmp_path / "cam"])
    with Gallery.open(tmp_path / "g") as gallery, MediaReader(gallery) as reader:
        for frame_id, data in ((1, picture.read_bytes()), (2, png(5))):
            expected = decode_picture(data, Limits()).pixels
            np.testing.assert_array_equal(np.asarray(reader.frame(frame_id)), expected)


@pytest.mark.parametrize("keep", ["thumbnails", "frames"])
def test_kept_pictures_outlive_their_source(tmp_path: Path, keep: str) -> None:
    clip = make_noise_clip(tmp_path / "a.mkv", 3)
    run_index(tmp_path / "g", [clip], keep=keep)
    clip.unlink()
    with Gallery.open(tmp_path / "g") as gallery, MediaReader(gallery) as reader:
        boxes = box_rows(gallery)
        for box in boxes:
            width = max(round(box.x2) - round(box.x1), 1)
            assert reader.crop(box.id).size[0] == width
        if keep == "frames":
            assert reader.frame(1).size == (96, 64)
        else:
            with pytest.raises(MediaError):
                reader.frame(1)
        store = MediaStore.of(gallery.database)
        assert store is not None
        before = len(list(store.names()))
        assert before == len(boxes) + (3 if keep == "frames" else 0)
        assert prune_media(gallery.database) == 0
        gallery.delete(frames=[1])
        gone = sum(box.frame_id == 1 for box in boxes) + (1 if keep == "frames" else 0)
        assert [finding.count for finding in check(gallery.database)] == [gone]
        assert prune_media(gallery.database) == gone
        assert check(gallery.database) == []


@pytest.fixture
def bucket() -> Iterator[str]:
    """A URL of fsspec's store in memory: whole objects, no folders, no renaming."""
    files = fsspec.filesystem("memory")
    yield "memory://bucket/of/pictures"
    files.rm("/bucket", recursive=True)


def test_pictures_are_kept_where_a_url_says(tmp_path: Path, bucket: str) -> None:
    clip = make_noise_clip(tmp_path / "a.mkv", 3)
    Gallery.open(tmp_path / "g", create=True).close()
    line = ["gallery", "media", bucket, "--gallery", str(tmp_path / "g")]
    assert bucket in CliRunner().invoke(binet.app, line).stdout
    run_index(tmp_path / "g", [clip], keep="frames")
    clip.unlink()
    assert not list((tmp_path / "g" / "media").rglob("*.jpg"))
    with Gallery.open(tmp_path / "g") as gallery, MediaReader(gallery) as reader:
        for box in box_rows(gallery):
            assert reader.crop(box.id).size[0] == max(round(box.x2) - round(box.x1), 1)
        assert reader.frame(1).size == (96, 64)
        store = MediaStore.of(gallery.database)
        assert store is not None
        assert store.url == bucket
        assert check(gallery.database) == []
        gallery.delete(frames=[1])
        assert prune_media(gallery.database) > 0
        fsspec.filesystem("memory").pipe(f"{bucket}/{next(store.names())}", b"damaged")
        (finding,) = check(gallery.database)
        assert finding.what == "kept pictures that cannot be read"
        assert repair(gallery.database).files == 1
        assert check(gallery.database) == []


def test_a_place_where_nothing_can_be_kept_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with Gallery.open(tmp_path / "g", create=True) as gallery:
        before = media_url(gallery.database)
        for url, message in (
            ("nowhere://bucket", "Protocol not known: nowhere"),
            (str(tmp_path / "file" / "below"), "Not a directory|not a directory"),
        ):
            with pytest.raises(MediaError, match=message):
                set_media_url(gallery.database, url)
        assert media_url(gallery.database) == before
        set_media_url(gallery.database, str(tmp_path / "elsewhere"))
        assert media_url(gallery.database) == str(tmp_path / "elsewhere")
        assert list((tmp_path / "elsewhere").rglob("*.*")) == []


class Gone(fsspec.AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store whose other end is not there."""

    protocol = "gone"

    def _open(self, *_: object, **__: object) -> None:
        raise ConnectionError("no route")

    def find(self, *_: object, **__: object) -> None:
        raise ConnectionError("no route")

    cat_file = pipe_file = info = rm_file = _open


def test_a_store_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    fsspec.register_implementation("gone", Gone, clobber=True)
    make_picture(tmp_path / "cam" / "a.png")
    run_index(tmp_path / "g", [tmp_path / "cam"])
    with Gallery.open(tmp_path / "g") as gallery:
        with pytest.raises(MediaError, match="no route"):
            set_media_url(gallery.database, "gone://pictures")
        with gallery.database.write() as connection:
            connection.execute(delete(schema.setting))
            connection.execute(insert(schema.setting).values(name="media", value="gone://pictures"))
        with pytest.raises(MediaError, match="gone://pictures cannot be reached: no route"):
            frame_picture(gallery, 1)
        with pytest.raises(MediaError, match="cannot be reached"):
            check(gallery.database)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F"])
def test_pictures_become_rgb_as_the_network_makes_them(mode: str) -> None:
    rng = np.random.default_rng(0)
    if mode in ("I;16", "I"):
        image = Image.fromarray(rng.integers(0, 60_000, (9, 7)).astype(np.uint16)).convert(mode)
    else:
        source = "RGBA" if mode in ("RGBA", "LA", "P") else "RGB"
        shape = (9, 7, len(source))
        image = Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF")
    decoded = decode_picture(file.getvalue(), Limits()).pixels
    with Image.open(file) as opened:
        expected = to_rgb(opened).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(decoded, expected)


BREAK = {
    "frames without their source": "DELETE FROM source WHERE id = 1",
    "boxes without their frame": "UPDATE box SET frame_id = 999 WHERE id = 1",
    "boxes that contradict their frame": "UPDATE box SET captured_at_us = 5 WHERE id = 1",
    "boxes with impossible numbers": "UPDATE box SET x2 = x1 - 1 WHERE id = 1",
    "frames with another number of boxes": "DELETE FROM box WHERE id = 1",
    "no active encoder": "UPDATE encoder SET state = 'retired'",
    "files do not add up": "UPDATE job SET failed = 7",
    "wrong size, not finite": "UPDATE box SET embedding = substr(embedding, 1, 7) WHERE id = 1",
}


@pytest.mark.parametrize("what", BREAK)
def test_check_finds_what_is_wrong(tmp_path: Path, what: str) -> None:
    make_picture(tmp_path / "cam" / "a.png")
    run_index(tmp_path / "g", [tmp_path / "cam"])
    with Gallery.open(tmp_path / "g") as gallery:
        assert check(gallery.database) == []
        with gallery.database._unmanaged() as cursor:
            sqlite = gallery.database.is_sqlite
            off = "PRAGMA foreign_keys=OFF" if sqlite else "SET session_replication_role = replica"
            cursor.execute(off)
            cursor.execute(BREAK[what])
        found = [finding.what for finding in check(gallery.database) if finding.is_problem]
        assert any(what in one for one in found), found
