"""Outputs of fixed weights, recorded once: a change of behaviour does not go unnoticed.

Regenerate on purpose only, and say why in the commit: `python -m tests.model.test_golden`.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from model.config import Backbone
from tests.conftest import random_picture, small_network

GOLDEN = Path(__file__).parent / "golden"
BACKBONES: list[Backbone] = ["mobilenet_v2", "resnet50", "convnext_tiny"]
BOXES = np.array([[10, 5, 60, 110], [80, 20, 120, 115], [0, 0, 160, 120]], np.float32)


def outputs(backbone: Backbone) -> dict[str, npt.NDArray[np.float32]]:
    network = small_network(backbone=backbone)
    picture = random_picture(120, 160)
    best = network.detect([picture])[0][:10]
    return {
        "boxes_xyxy": best.boxes_xyxy,
        "scores": best.scores,
        # The first 32 of 256 numbers say enough and keep the files small.
        "embeddings": best.embeddings[:, :32],
        "at_boxes": network.embed_boxes(picture, BOXES)[:, :32],
        "crops": network.embed_crops([picture[:100, :40], picture[20:, 90:130]])[:, :32],
    }


@pytest.mark.parametrize("backbone", BACKBONES)
def test_outputs_are_as_recorded(backbone: Backbone) -> None:
    got = outputs(backbone)
    with np.load(GOLDEN / f"{backbone}.npz") as golden:
        assert set(golden) == set(got)
        np.testing.assert_allclose(got["boxes_xyxy"], golden["boxes_xyxy"], atol=0.05)
        for name in ("scores", "embeddings", "at_boxes", "crops"):
            np.testing.assert_allclose(got[name], golden[name], atol=1e-3, err_msg=name)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in BACKBONES:
        np.savez_compressed(GOLDEN / f"{name}.npz", **outputs(name))  # type: ignore[arg-type]
