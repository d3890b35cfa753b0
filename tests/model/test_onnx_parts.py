"""ONNX Runtime in a network's place: the same results, and nothing that is not compared."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from indexer.branch import NetworkBranch
from model import BINet, InferenceOptions, onnx_parts, optimise
from model.errors import ExportError
from model.export import draw_graph
from model.onnx_parts import OnnxPart
from tests.conftest import random_picture

SIZE = {0: "n", 2: "height", 3: "width"}


@pytest.fixture
def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6()).eval()


@pytest.fixture
def example() -> torch.Tensor:
    return torch.randn(2, 3, 12, 18, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_maps_of_any_size_are_those_of_torch(
    layers: nn.Module, example: torch.Tensor, tmp_path: Path
) -> None:
    part = OnnxPart(layers, example, SIZE, tmp_path)
    for shape in ((1, 3, 7, 9), (5, 3, 64, 33)):
        maps = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(part(maps), layers(maps), atol=1e-5, rtol=1e-5)


def test_a_graph_is_drawn_once_for_the_same_weights(
    layers: nn.Module, example: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    OnnxPart(layers, example, SIZE, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_parts, "draw_graph", lambda *_: pytest.fail("drawn again"))
        OnnxPart(layers, example, SIZE, tmp_path)
    with torch.no_grad():
        layers[0].bias[0] += 1
    part = OnnxPart(layers, example, SIZE, tmp_path)
    torch.testing.assert_close(part(example), layers(example).detach(), atol=1e-5, rtol=1e-5)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kept", [b"", b"no graph", "half", "another"])
def test_a_graph_that_is_not_right_is_drawn_again(
    layers: nn.Module, example: torch.Tensor, tmp_path: Path, kept: bytes | str
) -> None:
    OnnxPart(layers, example, SIZE, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if kept == "another":
        others = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6()).eval()
        OnnxPart(others, example, SIZE, tmp_path / "others")
        (other,) = (tmp_path / "others").iterdir()
        path.write_bytes(other.read_bytes())
    else:
        path.write_bytes(whole[: len(whole) // 2] if isinstance(kept, str) else kept)
    part = OnnxPart(layers, example, SIZE, tmp_path)
    assert path.read_bytes() == whole
    torch.testing.assert_close(part(example), layers(example).detach(), atol=1e-5, rtol=1e-5)


def test_a_graph_that_differs_from_torch_is_refused(
    layers: nn.Module, example: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_parts, "draw_graph", lambda graph, *rest: draw_graph(graph[:1], *rest))
    with pytest.raises(ExportError, match="differs from torch"):
        OnnxPart(layers, example, SIZE, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_costs_time_only(
    layers: nn.Module, example: torch.Tensor, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")
    part = OnnxPart(layers, example, SIZE, tmp_path / "cache")
    torch.testing.assert_close(part(example), layers(example).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        InferenceOptions(onnx=True),
        InferenceOptions(fold_batchnorm=True, bfloat16=True, onnx=True),
        InferenceOptions(fold_batchnorm=True, compile=True, onnx=True),
    ],
)
def test_what_does_not_go_with_onnx_is_refused(network: BINet, options: InferenceOptions) -> None:
    with pytest.raises(ValueError, match="onnx is for float32"):
        optimise(network, options)


def test_the_indexer_finds_the_same_people_with_and_without(
    network: BINet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_onnx = NetworkBranch(network, "0" * 64)
    monkeypatch.setattr("indexer.branch.can_use_onnx", lambda: False)
    without = NetworkBranch(network, "0" * 64)
    pictures = [random_picture(120, 160), random_picture(90, 200, seed=1)] * 3
    found = with_onnx.detect([with_onnx.prepare(picture) for picture in pictures])
    expected = without.detect([without.prepare(picture) for picture in pictures])
    assert [len(people) for people in found] == [len(people) for people in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-2)
        np.testing.assert_allclose(one.embeddings, other.embeddings, atol=1e-4)
    crops = [picture[:80, :40] for picture in pictures]
    np.testing.assert_allclose(with_onnx.embed_crops(crops), without.embed_crops(crops), atol=1e-4)


def test_many_threads_share_a_network(network: BINet) -> None:
    branch = NetworkBranch(network, "0" * 64)
    picture = random_picture(120, 160)
    (expected,) = branch.detect([branch.prepare(picture)])
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(branch.find_people, [picture] * 40))
    for people in found:
        np.testing.assert_allclose(people.boxes_xyxy, expected.boxes_xyxy, atol=1e-2)
        np.testing.assert_allclose(people.embeddings, expected.embeddings, atol=1e-4)
