"""People cut out of their pictures."""

import numpy as np
import torch

from model.detections import FloatArray


def inside(boxes_xyxy: FloatArray, pixels: torch.Tensor) -> FloatArray:
    """Cut boxes at the edges of their picture [3, H, W]."""
    height, width = pixels.shape[-2:]
    return boxes_xyxy.clip(0, np.array([width, height] * 2, np.float32))


def cut(pixels: torch.Tensor, boxes_xyxy: FloatArray) -> list[torch.Tensor]:
    """Cut boxes out of their picture [3, H, W], to whole pixels and at least one."""
    height, width = pixels.shape[-2:]
    crops = []
    for x1, y1, x2, y2 in boxes_xyxy.round().astype(int).tolist():
        left, top = min(x1, width - 1), min(y1, height - 1)
        crops.append(pixels[:, top : max(y2, top + 1), left : max(x2, left + 1)])
    return crops
