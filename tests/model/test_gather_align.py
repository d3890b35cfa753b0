"""RoIAlign as a gather: equal to torchvision's kernel and to NumPy."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from model.gather_align import gather_roi_align
from tests.model import oracles

HEIGHT, WIDTH, STRIDE = 6, 9, 16
coordinate = st.floats(-60, 16 * WIDTH + 60, width=32)
box = st.tuples(coordinate, coordinate, st.floats(0.5, 200), st.floats(0.5, 200))


@settings(deadline=None)
@given(st.lists(st.lists(box, max_size=3), min_size=1, max_size=3), st.integers(1, 3))
def test_equals_torchvision_and_numpy(
    boxes_xywh: list[list[tuple[float, float, float, float]]], ratio: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(len(boxes_xywh), 5, HEIGHT, WIDTH, generator=generator)
    boxes = [
        torch.tensor([[x, y, x + w, y + h] for x, y, w, h in scene]).reshape(-1, 4)
        for scene in boxes_xywh
    ]
    ours = gather_roi_align(maps, boxes, (7, 3), STRIDE, ratio)
    theirs = roi_align(maps, boxes, (7, 3), 1 / STRIDE, ratio, aligned=True)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    expected = [
        oracles.roi_align(one_map.double().numpy(), b.double().numpy(), (7, 3), STRIDE, ratio)
        for one_map, scene in zip(maps, boxes, strict=True)
        for b in scene
    ]
    if expected:
        np.testing.assert_allclose(ours.numpy(), np.stack(expected), atol=1e-3)
