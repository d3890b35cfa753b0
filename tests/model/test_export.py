"""ONNX equals torch, or there is no file."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from typer.testing import CliRunner

import binet
from model import BINet, BINetConfig, Detections, InferenceOptions, Scene, optimise, save
from model.errors import ExportError
from model.export import export_onnx
from model.export_check import compare_crop, compare_search, match
from tests.conftest import random_picture, small_network, without_repeats

MISSING = "ONNX export needs the extra: pip install 'binet[onnx]'"
onnx = pytest.importorskip("onnx", reason=MISSING)
onnxruntime = pytest.importorskip("onnxruntime", reason=MISSING)
pytest.importorskip("onnxscript", reason=MISSING)

pytestmark = pytest.mark.slow


def run(path: Path, picture: npt.NDArray[np.uint8], **threshold: float) -> list[Any]:
    """Run a file on pictures [N, h, w, 3], as a user without torch does."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    scalars = {name: np.array(value, np.float32) for name, value in threshold.items()}
    outputs: list[Any] = session.run(None, {"pixels": picture.transpose(0, 3, 1, 2), **scalars})
    return outputs


def scene_of(picture: npt.NDArray[np.uint8]) -> Scene:
    """The picture as it is, without the network's own resizing."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1)
    return Scene(pixels, width=picture.shape[1], height=picture.shape[0])


def export_by_command(network: BINet, folder: Path, part: str) -> Path:
    out = folder / f"{part}.onnx"
    save(network, folder / "weights")
    result = CliRunner().invoke(
        binet.app,
        ["export", "--weights", str(folder / "weights"), "--out", str(out), "--part", part],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    (line,) = result.output.splitlines()
    assert line.startswith(f"{out}: {part}, ")
    assert "largest differences from torch: " in line
    assert ("boxes" in line) == (part == "search")
    assert sorted(p.name for p in folder.iterdir()) == [out.name, "weights"]
    return out


@pytest.fixture(scope="module")
def search_file(network: BINet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_by_command(network, tmp_path_factory.mktemp("search"), "search")


@pytest.fixture(scope="module")
def crop_file(network: BINet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_by_command(network, tmp_path_factory.mktemp("crop"), "crop")


@pytest.mark.parametrize("size", [(128, 160), (211, 97)])
def test_search_equals_torch(size: tuple[int, int], network: BINet, search_file: Path) -> None:
    picture = random_picture(*size, seed=3)
    expected = network.detect([scene_of(picture)])[0]
    found = Detections(*run(search_file, picture[None]))
    assert len(expected) > 5
    alone, differences = match(expected, found)
    assert alone == 0, differences
    assert (np.diff(found.scores) <= 0).all()


def test_threshold_is_an_input_with_a_default(network: BINet, search_file: Path) -> None:
    picture = random_picture(128, 160)
    everybody, by_default, nobody = (
        Detections(*run(search_file, picture[None], **threshold))
        for threshold in ({"score_threshold": 0.0}, {}, {"score_threshold": 1.0})
    )
    assert len(everybody) > len(by_default) > len(nobody) == 0
    assert (by_default.scores > network.config.score_threshold).all()


@pytest.mark.parametrize("batch", [1, 3])
def test_crops_equal_torch(batch: int, network: BINet, crop_file: Path) -> None:
    patches = np.stack([random_picture(224, 96, seed=seed) for seed in range(batch)])
    (found,) = run(crop_file, patches)
    np.testing.assert_allclose(found, network.embed_crops(list(patches)), atol=1e-4)


@pytest.mark.parametrize(("source", "large"), [("map", False), ("rpn", True)])
def test_our_own_settings_equal_torch(source: str, large: bool, tmp_path: Path) -> None:
    """Boxes from the unpooled map or the RPN; the embeddings are the search branch's."""
    network = small_network(
        detection_from=source,
        detect_large=large,
        vote_iou=0.7 if large else None,
        gallery_branch="instance",
    )
    # It refuses to write what differs.
    assert export_onnx(network, tmp_path / "search.onnx").embedding < 1e-3


@pytest.mark.parametrize("mirror", [False, True])
def test_crops_of_original_size_equal_torch(mirror: bool, tmp_path: Path) -> None:
    original = without_repeats(small_network("binet-o", mirror=mirror))
    export_onnx(original, tmp_path / "crop.onnx", "crop")
    for size in ((80, 30), (55, 120)):
        crop = random_picture(*size)
        (found,) = run(tmp_path / "crop.onnx", crop[None])
        np.testing.assert_allclose(found, original.embed_crops([crop]), atol=1e-4)


def test_file_says_what_it_is(network: BINet, search_file: Path, crop_file: Path) -> None:
    for path, part in ((search_file, "search"), (crop_file, "crop")):
        model = onnx.load(path)
        onnx.checker.check_model(model)
        said = {entry.key: entry.value for entry in model.metadata_props}
        assert said["part"] == part
        assert BINetConfig.model_validate_json(said["config"]) == network.config
        assert model.producer_name == "binet"
        assert str(Path.home()).encode() not in path.read_bytes()
        assert b"stack_trace" not in path.read_bytes()
        size = {"search": ("min_side", 128), "crop": ("patch_height_width", [224, 96])}[part]
        assert json.loads(said[size[0]]) == size[1]


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["score", "box", "embedding"])
def test_any_output_that_differs_is_refused(layer: str, search_file: Path) -> None:
    other = small_network()
    with torch.no_grad():
        getattr(other.predictor, layer).bias[0] += 0.3
    with pytest.raises(ExportError, match=r"differs from torch on a scene of 256x128 pixels"):
        compare_search(other, search_file)


def test_another_threshold_or_nms_is_refused(search_file: Path) -> None:
    with pytest.raises(ExportError, match="default score threshold"):
        compare_search(small_network(score_threshold=0.4), search_file)
    with pytest.raises(ExportError, match="have no equal"):
        compare_search(small_network(detection_nms_iou=0.45), search_file)


def test_crop_encoder_that_differs_is_refused(crop_file: Path) -> None:
    other = small_network()
    with torch.no_grad():
        other.predictor.embedding.bias[0] += 0.3
    with pytest.raises(ExportError, match="differs from torch on 1 crops of 96x224 pixels"):
        compare_crop(other, crop_file)


def test_refused_export_leaves_no_file_and_keeps_an_older_one(
    network: BINet, crop_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = onnx.load(crop_file)
    (std,) = (value for value in broken.graph.initializer if value.name == "network.std")
    std.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(std) * 1.1, std.name))
    monkeypatch.setattr("model.export._crop_model", lambda _: broken)
    with pytest.raises(ExportError, match="differs from torch"):
        export_onnx(network, tmp_path / "crop.onnx", "crop")
    assert not list(tmp_path.iterdir())
    (tmp_path / "crop.onnx").write_text("older")
    with pytest.raises(ExportError, match="differs from torch"):
        export_onnx(network, tmp_path / "crop.onnx", "crop")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["older"]


def test_near_tie_is_replaced_once_but_not_always(
    network: BINet, search_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, calls = network.search_people, []

    def without_the_last(*args: Any, **options: Any) -> list[Detections]:
        calls.append(args)
        found = search(*args, **options)
        return [d[:-1] for d in found] if len(calls) in unlucky else found

    monkeypatch.setattr(network, "search_people", without_the_last)
    unlucky = range(1, 2)
    compare_search(network, search_file)
    assert len(calls) == 4
    unlucky = range(99)
    with pytest.raises(ExportError, match="likewise on 4 others"):
        compare_search(network, search_file)


def test_what_is_no_onnx_is_refused(network: BINet, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(ExportError, match="cannot run"):
        compare_crop(network, tmp_path / "x.onnx")


def test_networks_that_cannot_be_exported(network: BINet, tmp_path: Path) -> None:
    out = tmp_path / "x.onnx"
    for options in (InferenceOptions(bfloat16=True), InferenceOptions(fold_batchnorm=True)):
        with pytest.raises(ExportError, match="float32"):
            export_onnx(optimise(network, options), out)
    with pytest.raises(ExportError, match="evaluation mode"):
        export_onnx(small_network().train(), out)
    with pytest.raises(ExportError, match="no folder"):
        export_onnx(network, tmp_path / "nowhere" / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_missing_package_says_what_to_install(
    network: BINet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"pip install 'binet\[onnx\]'"):
        export_onnx(network, tmp_path / "x.onnx")


def test_people_are_matched_whatever_their_order(network: BINet) -> None:
    people = network.detect([random_picture(128, 256)], score_threshold=0.0)[0]
    none = Detections.empty()
    assert match(people, people[::-1])[0] == 0
    assert match(people, people[1:])[0] == match(people[1:], people)[0] == 1
    assert match(people, people[[0, *range(len(people))]])[0] == 1
    assert match(people, none)[0] == match(none, people)[0] == len(people)
    assert match(none, none)[0] == 0
