"""Networks made faster for inference: the same boxes and embeddings."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.ops import box_iou

from model import BINet, InferenceOptions, optimise
from tests.conftest import random_picture, small_network, without_repeats

OPTIONS = {
    "folded": InferenceOptions(fold_batchnorm=True),
    "channels-last": InferenceOptions(channels_last=True),
    "bfloat16": InferenceOptions(bfloat16=True),
    "folded channels-last bfloat16": InferenceOptions(
        fold_batchnorm=True, channels_last=True, bfloat16=True
    ),
    "onnx": InferenceOptions(fold_batchnorm=True, channels_last=True, onnx=True),
}


def overlaps(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    iou: npt.NDArray[np.float32] = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    return iou


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet50", "convnext_tiny"])
@pytest.mark.parametrize("option", OPTIONS)
def test_options_keep_boxes_and_embeddings(backbone: str, option: str) -> None:
    # Fewer proposals: where a processor lacks bfloat16, each costs ResNet-50 a tenth of a second.
    proposals = 40 if backbone == "resnet50" else 100
    check_option(small_network(backbone=backbone, rpn_post_nms_test=proposals), OPTIONS[option])


@pytest.mark.slow
def test_compile_keeps_boxes_and_embeddings() -> None:
    options = InferenceOptions(fold_batchnorm=True, compile=True)
    check_option(without_repeats(small_network()), options)


@pytest.mark.parametrize("option", OPTIONS)
def test_options_on_imagenet_weights(option: str, shared: Path) -> None:
    weights = shared / "data/weights/mobilenet_v2_imagenet_features.torchvision.pth"
    check_option(small_network(backbone_weights=weights), OPTIONS[option])


def check_option(network: BINet, option: InferenceOptions) -> None:
    faster = optimise(network, option)
    picture, other = random_picture(120, 160), random_picture(90, 200, seed=1)
    boxes = np.array([[10, 5, 60, 110], [80, 20, 120, 115], [0, 0, 160, 120]])
    cosine = (network.embed_boxes(picture, boxes) * faster.embed_boxes(picture, boxes)).sum(axis=1)
    assert (cosine >= 0.999).all()
    crops = [picture[:100, :40], other[:80, 50:90]]
    assert ((network.embed_crops(crops) * faster.embed_crops(crops)).sum(axis=1) >= 0.999).all()

    # The outputs at given proposals: NMS can turn a rounding into another box of the same person.
    (expected_boxes, expected_scores), (got_boxes, got_scores) = (
        outputs_at_proposals(each, picture) for each in (network, faster)
    )
    least_iou, most_score = (0.95, 0.05) if option.bfloat16 else (0.999, 1e-3)
    assert np.diag(overlaps(expected_boxes, got_boxes)).min() > least_iou
    assert np.abs(expected_scores - got_scores).max() < most_score
    for scene in (picture, other):
        expected, got = network.detect([scene])[0], faster.detect([scene])[0]
        assert len(expected) > 10
        found = overlaps(expected.boxes_xyxy, got.boxes_xyxy).max(axis=1) > 0.9
        assert found.mean() > (0.7 if option.bfloat16 else 0.99)


@torch.inference_mode()
def outputs_at_proposals(
    network: BINet, picture: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Boxes and scores of a grid of proposals, before thresholds and NMS."""
    images, _ = network.normalise([network.preprocessing.scene(picture).pixels])
    corners = torch.cartesian_prod(torch.arange(0.0, 100, 20), torch.arange(0.0, 60, 20))
    proposals = torch.cat([corners, corners + torch.tensor([30.0, 60.0])], dim=1)
    features = network.head_features(network.align(network.trunk_maps(images), [proposals]))
    coder = network.roi_stage.box_coder
    boxes: npt.NDArray[np.float32] = coder.decode(network.predictor.box(features), [proposals])
    return np.asarray(boxes)[:, 0], network.predictor.score(features).softmax(dim=1)[:, 1].numpy()


def test_a_faster_copy_leaves_the_network_alone_and_cannot_be_trained_or_saved() -> None:
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    faster = optimise(network, OPTIONS["folded channels-last bfloat16"])
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(RuntimeError, match="cannot be saved"):
        faster.checkpoint_state()
    with pytest.raises(RuntimeError, match="cannot be trained"):
        faster.train()([faster.preprocessing.scene(random_picture(64, 64))], [])
