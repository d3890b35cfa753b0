"""`binet data check` and `binet data show`: what looks wrong is found, what is there is drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import binet
from model.annotations import UNLABELLED, AnnotatedScene
from tests.conftest import random_picture
from training.datasets.check import check_dataset
from training.datasets.show import CELL_WIDTH, draw_scene, pick, pid_colour


def write(root: Path, people: dict[str, list[tuple[list[float], int | None]]]) -> None:
    """A training part of 64x64 pictures with these boxes (x, y, w, h) and identities."""
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, (name, boxes) in enumerate(people.items()):
        Image.fromarray(random_picture(64, 64)).save(root / "images" / name)
        images.append({"id": number, "file_name": name, "camera": 1})
        annotations += [
            {"image_id": number, "bbox": box, "person_id": person} for box, person in boxes
        ]
    content = {"images": images, "annotations": annotations}
    (root / "train.json").write_text(json.dumps(content))


BOX = [10.0, 10.0, 20.0, 40.0]
SOUND: dict[str, list[tuple[list[float], int | None]]] = {
    "a.png": [(BOX, 1), ([40.0, 10.0, 20.0, 40.0], None)],
    "b.png": [(BOX, 1)],
}


def findings(root: Path) -> list[tuple[str, str]]:
    return [(problem.kind, problem.scene) for problem in check_dataset(root).problems]


def test_sound_data_has_no_findings(tmp_path: Path) -> None:
    write(tmp_path, SOUND)
    assert findings(tmp_path) == []


@pytest.mark.parametrize(
    ("boxes", "kind"),
    [
        ([([70.0, 10.0, 20.0, 40.0], None)], "box outside"),
        ([([50.0, 10.0, 20.0, 40.0], None)], "box reaches out"),
        ([([10.0, 10.0, 0.0, 40.0], None)], "empty box"),
        ([(BOX, 1), ([30.0, 10.0, 20.0, 40.0], 1)], "identity twice"),
        ([(BOX, 9)], "identity once"),
    ],
)
def test_each_problem_is_found(
    boxes: list[tuple[list[float], int | None]], kind: str, tmp_path: Path
) -> None:
    write(tmp_path, {**SOUND, "c.png": boxes})
    assert findings(tmp_path) == [(kind, "c.png")]


@pytest.mark.parametrize("content", [b"not a picture", b"", None])
def test_files_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    write(tmp_path, {**SOUND, "c.png": []})
    broken = tmp_path / "images" / "c.png"
    if content is None:
        broken.unlink()
    else:
        broken.write_bytes(content)
    assert findings(tmp_path) == [("unreadable file", "c.png")]


def test_a_picture_that_is_cut_off(tmp_path: Path) -> None:
    write(tmp_path, {**SOUND, "c.png": []})
    broken = tmp_path / "images" / "c.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(broken)
    broken.write_bytes(broken.read_bytes()[:2000])
    assert findings(tmp_path) == [("unreadable file", "c.png")]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(binet.app, ["data", *arguments])
    return result.exit_code, result.output


def test_the_exit_code_tells_errors_from_warnings(tmp_path: Path) -> None:
    write(tmp_path, {**SOUND, "c.png": [(BOX, 9)]})
    code, output = run("check", str(tmp_path))
    assert code == 0
    assert "warning: identity once: 1" in output
    assert "0 errors, 1 warnings" in output
    (tmp_path / "images" / "a.png").unlink()
    code, output = run("check", str(tmp_path), "--json")
    assert code == 1
    report: dict[str, Any] = json.loads(output)
    assert report["errors"] == 1
    assert {(p["level"], p["kind"], p["scene"]) for p in report["problems"]} == {
        ("warning", "identity once", "c.png"),
        ("error", "unreadable file", "a.png"),
    }


def test_show_draws_boxes_where_the_people_are(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (96, 64)).save(path)
    boxes = np.array([[8, 16, 40, 56], [56, 16, 88, 56]], np.float32)
    scene = AnnotatedScene("a.png", path, boxes, np.array([3, UNLABELLED]), camera=2)
    drawn = np.asarray(draw_scene(scene))
    scale = CELL_WIDTH / 96
    header = drawn.shape[0] - round(64 * scale)
    for box, pid in zip(boxes, (3, UNLABELLED), strict=True):
        x, y = int(box[0] * scale), header + int((box[1] + box[3]) / 2 * scale)
        assert tuple(drawn[y, x + 1]) == pid_colour(pid)
        assert tuple(drawn[y, int((box[0] + box[2]) / 2 * scale)]) == (0, 0, 0)
    assert pid_colour(3) != pid_colour(4) != pid_colour(UNLABELLED)


def test_show_writes_a_sheet(tmp_path: Path) -> None:
    write(tmp_path / "data", {**SOUND, "empty.png": []})
    code, output = run("show", str(tmp_path / "data"), "--out", str(tmp_path / "sheet.png"))
    assert (code, output.split()[1]) == (0, "2")  # a picture without people shows nothing
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * CELL_WIDTH


def test_pictures_are_picked_from_all_of_the_data() -> None:
    scenes = [
        AnnotatedScene(str(i), Path(str(i)), np.array([[0, 0, 1, 1]], np.float32), np.array([i]))
        for i in range(100)
    ]
    assert [scene.name for scene in pick(scenes, 4)] == ["0", "25", "50", "75"]
    assert len(pick(scenes, 1000)) == 100
    assert pick([], 4) == []
