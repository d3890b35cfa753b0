"""Fixtures: small networks with fixed weights, and pictures made from a seed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model import BINet, BINetConfig, PreprocessingConfig, Target, create, variant_config
from tests.indexer import postgres

SHARED = Path(__file__).resolve().parents[2] / "shared"

#: Small pictures keep the tests quick; the network is the real one.
SMALL = PreprocessingConfig(min_side=128, max_side=256)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data for development; users do not have it."""
    if not SHARED.is_dir():
        pytest.skip("the research data for development is not beside the repository")
    return SHARED


@pytest.fixture(autouse=True, scope="session")
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BINET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _galleries_in_postgres() -> Iterator[None]:
    """With BINET_TEST_DATABASE=postgres: the folder of a gallery stands for a database there."""
    if not postgres.WANTED:
        yield
        return
    with postgres.server() as url, pytest.MonkeyPatch.context() as patch:
        postgres.use(url, patch)
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small_config(variant: str = "binet", **fields: Any) -> BINetConfig:
    return variant_config(
        variant,
        **{
            "backbone": "mobilenet_v2",
            "num_pids": 6,
            "queue_size": 8,
            "rois_per_scene": 8,
            "preprocessing": SMALL,
            **fields,
        },
    )


def small_network(
    variant: str = "binet", backbone_weights: str | Path = "random", **fields: Any
) -> BINet:
    """A network with fixed weights, in evaluation mode."""
    network, _ = create(small_config(variant, **fields), backbone_weights)
    set_weights(network, keep_backbone=backbone_weights != "random")
    return network


def without_repeats(network: BINet) -> BINet:
    """Keep one MobileNetV2 block of each kind: drawing or compiling each takes seconds."""
    for stage in (network.trunk, network.head.blocks):
        for name, block in list(stage.named_children()):
            if getattr(block, "use_res_connect", False):
                delattr(stage, name)
    set_weights(network)
    return network


def set_weights(network: BINet, seed: int = 0, keep_backbone: bool = False) -> None:
    """Weights by NumPy, so that they are the same with every version of torch.

    Outputs are shifted and scaled to mean 0 and a clear spread on a picture: about half of all
    boxes are people, and rounding does not reorder scores.
    """
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if keep_backbone and name.startswith(("trunk.", "head.")):
                continue
            if value.ndim > 1 and "layer_scale" not in name:
                values = rng.standard_normal(value.shape) / np.sqrt(value[0].numel() / 2)
                value.copy_(torch.from_numpy(values))
        picture = torch.from_numpy(random_picture(128, 128)).permute(2, 0, 1)
        images, _ = network.normalise([picture])
        maps = network.trunk_maps(images)
        rpn = network.rpn.head
        hidden = rpn.conv(maps)
        _spread(rpn.cls_logits, rpn.cls_logits(hidden).movedim(1, -1), 2.0)
        _spread(rpn.bbox_pred, rpn.bbox_pred(hidden).movedim(1, -1), 0.2)
        corners = torch.from_numpy(rng.uniform(0, 64, (40, 2)))
        boxes = torch.cat([corners, corners + torch.tensor([24, 56])], dim=1).float()
        head_maps, features = network.head_outputs(network.align(maps, [boxes]))
        if network.config.detection_from == "map":
            features = head_maps.flatten(1)
        for layer, spread in ((network.predictor.score, 2.0), (network.predictor.box, 0.3)):
            _spread(layer, layer(features), spread)


def _spread(layer: torch.nn.Conv2d | torch.nn.Linear, outputs: torch.Tensor, std: float) -> None:
    """Shift and scale a layer that gave `outputs` [..., channels] to mean 0 and this deviation."""
    outputs = outputs.flatten(0, -2)
    scale = std / outputs.std(dim=0)
    layer.weight *= scale.view(-1, *[1] * (layer.weight.ndim - 1))
    assert layer.bias is not None
    layer.bias.copy_((layer.bias - outputs.mean(dim=0)) * scale)


def random_picture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Coarse coloured blocks: structure at the scale of a person, not noise."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return np.kron(cells, np.ones((16, 16, 1), np.uint8))[:height, :width]


def random_targets(pids: list[int], seed: int = 0, size: int = 120) -> Target:
    """Upright boxes somewhere in a square of `size` pixels."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, size * 0.5, (len(pids), 2))
    extent = rng.uniform(0.2, 0.5, (len(pids), 1)) * size * np.array([[0.5, 1.0]])
    boxes = np.concatenate([corner, corner + extent], axis=1).astype(np.float32)
    return {
        "boxes_xyxy": torch.from_numpy(boxes),
        "pids": torch.tensor(pids, dtype=torch.int64),
    }


@pytest.fixture(scope="session")
def network() -> BINet:
    """One network for all tests that only look."""
    return small_network()


#: Files that take minutes: they go first, so that no process is left alone with one at the end.
LONG_FILES = ("test_loop.py", "test_inference.py", "test_job.py", "test_crashes.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
