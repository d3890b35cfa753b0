"""The same promises on CUDA; skipped with a reason where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model import InferenceOptions, load, optimise, save, total_loss
from model.config import VARIANTS, Backbone
from tests.conftest import random_picture, random_targets, small_network
from tests.model.test_inference import assert_same
from tests.model.test_options import OPTIONS, overlaps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
BACKBONES: list[Backbone] = ["mobilenet_v2", "resnet50", "convnext_tiny"]
BOXES = np.array([[10, 5, 60, 110], [80, 20, 120, 115]], np.float32)


@pytest.fixture(autouse=True)
def _full_precision() -> None:
    # TensorFloat-32 keeps 10 bits: enough for use, too few to compare with the CPU.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("backbone", BACKBONES)
def test_equals_the_cpu(backbone: Backbone) -> None:
    network = small_network(backbone=backbone)
    picture = random_picture(120, 160)
    expected = network.embed_boxes(picture, BOXES), network.embed_crops([picture])
    on_cpu = network.detect([picture])[0]
    network.to("cuda")
    np.testing.assert_allclose(network.embed_boxes(picture, BOXES), expected[0], atol=1e-3)
    np.testing.assert_allclose(network.embed_crops([picture]), expected[1], atol=1e-3)
    iou = overlaps(on_cpu.boxes_xyxy, network.detect([picture])[0].boxes_xyxy)
    assert (iou.max(axis=1) > 0.99).mean() > 0.95


def test_batched_equals_single() -> None:
    network = small_network().to("cuda")
    scenes = [random_picture(h, w, seed=h) for h, w in ((120, 160), (90, 200), (120, 160))]
    for scene, detections in zip(scenes, network.detect(scenes), strict=True):
        assert_same(detections, network.detect([scene])[0])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("option", OPTIONS)
def test_options_keep_embeddings(backbone: Backbone, option: str) -> None:
    network = small_network(backbone=backbone).to("cuda")
    faster = optimise(network, OPTIONS[option])
    picture = random_picture(120, 160)
    cosine = (network.embed_boxes(picture, BOXES) * faster.embed_boxes(picture, BOXES)).sum(axis=1)
    assert (cosine >= 0.999).all()
    assert len(faster.detect([picture])[0]) > 0


def test_compile() -> None:
    network = small_network().to("cuda")
    faster = optimise(network, InferenceOptions(compile=True))
    picture = random_picture(120, 160)
    cosine = (network.embed_boxes(picture, BOXES) * faster.embed_boxes(picture, BOXES)).sum(axis=1)
    assert (cosine >= 0.999).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains(variant: str) -> None:
    fields = {"backbone": "resnet50"} if variant == "oim" else {}
    network = small_network(variant, **fields).to("cuda").train()
    scenes = [network.preprocessing.scene(random_picture(120, 130, seed=i)) for i in range(2)]
    for _ in range(2):
        losses = network(scenes, [random_targets([0, 1, -1]), random_targets([-1])])
        assert all(loss.isfinite() for loss in losses.values())
        total_loss(losses).backward()
    assert network.search_memory.lut.any()


def test_training_in_bfloat16() -> None:
    network = small_network().to("cuda").train()
    network.bfloat16_parts = frozenset({"trunk", "rpn", "head"})
    scene = network.preprocessing.scene(random_picture(120, 130))
    for _ in range(2):
        losses = network([scene], [random_targets([0, 1, -1])])
        assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())


def test_a_checkpoint_moves_between_devices(tmp_path: Path) -> None:
    network = small_network().to("cuda")
    save(network, tmp_path)
    picture = random_picture(120, 160)
    on_cpu, on_gpu = load(tmp_path)[0], load(tmp_path, "cuda")[0]
    np.testing.assert_allclose(
        on_cpu.embed_crops([picture]), on_gpu.embed_crops([picture]), atol=1e-3
    )
