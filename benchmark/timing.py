"""Seconds for one picture, stage by stage (Table 8)."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from model import BINet, read_picture
from model.annotations import AnnotatedScene
from model.preprocessing import to_rgb

#: Pictures that are timed, after one that warms up.
PICTURES = 10

Result = TypeVar("Result")


@torch.inference_mode()
def time_stages(network: BINet, scenes: Sequence[AnnotatedScene]) -> dict[str, Any]:
    """Time the stages on the first scenes, one at a time; medians in seconds.

    `detect` is the whole of it without reading: with resizing, NMS and transfers.
    """
    times: dict[str, list[float]] = {}

    def timed(stage: str, run: Callable[..., Result], *values: Any) -> Result:
        start = time.perf_counter()
        result = run(*values)
        if network.device.type == "cuda":
            torch.cuda.synchronize()
        times.setdefault(stage, []).append(time.perf_counter() - start)
        return result

    chosen = [scenes[0], *scenes[:PICTURES]] if scenes else []
    for scene in chosen:
        pixels = timed("read", lambda path: to_rgb(read_picture(path)), scene.path)
        timed("detect", network.detect, [pixels])
        images, sizes = network.normalise([network.preprocessing.scene(pixels).pixels])
        maps = timed("trunk", network.trunk_maps, images)
        proposals, _ = timed("rpn", network.propose, images, maps, sizes)
        rois = timed("align", network.align, maps, proposals)
        timed("head", network.head_features, rois)
    return {
        "pictures": max(len(chosen) - 1, 0),
        "seconds": {stage: statistics.median(values[1:]) for stage, values in times.items()},
    }
