"""The convolutions of a network in ONNX Runtime, which on a CPU are faster for MobileNetV2.

torch keeps a map's channels together or apart; ONNX Runtime keeps blocks of them, which suits
depthwise convolutions, and has no threads of its own that wait for work while others need the core.
`perf/indexing.py` compares both, and each graph is compared with torch before it is used. What
depends on what a network sees, such as NMS, stays in torch.
"""

import hashlib
import importlib.util
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.binet import BINet
from model.config import TRUNK_STRIDE
from model.errors import ExportError
from model.export import OPSET, PACKAGES, draw_graph
from model.files import replace_file

#: Where it pays: ResNet-50 and ConvNeXt take as long as in torch.
FASTER_IN_ONNX = {"mobilenet_v2"}
#: Largest difference from torch, as a share of the largest value.
TOLERANCE = 1e-3


def can_use_onnx() -> bool:
    """Whether the packages of the extra `onnx` are installed."""
    return all(importlib.util.find_spec(name) for name in PACKAGES)


def use_onnx(network: BINet, cache: Path) -> None:
    """Replace trunk, RPN and head of a network for inference by ONNX Runtime's, in place.

    Parameters
    ----------
    network
        In float32 on the CPU, BatchNorm folded.
    cache
        A folder that keeps the graphs: to draw them takes seconds.

    Raises
    ------
    ExportError
        When torch cannot draw a graph, or ONNX Runtime gives something else than torch.
    """
    rng = torch.Generator().manual_seed(0)
    scene = torch.randn(2, 3, 5 * TRUNK_STRIDE, 7 * TRUNK_STRIDE, generator=rng)
    maps = torch.randn(2, network.trunk_channels, 5, 7, generator=rng)
    roi_maps = torch.randn(2, network.trunk_channels, *network.config.roi_size, generator=rng)
    any_size = {0: "n", 2: "height", 3: "width"}
    network.trunk = OnnxPart(network.trunk, scene, any_size, cache)
    network.rpn.head.conv = OnnxPart(network.rpn.head.conv, maps, any_size, cache)
    layers = dict(network.head.named_children())
    before = list(layers).index("pool")
    convolutions = nn.Sequential(OrderedDict(list(layers.items())[:before]))
    head = OnnxPart(convolutions, roi_maps, {0: "n"}, cache)
    network.head = nn.Sequential(
        OrderedDict([("convolutions", head), *list(layers.items())[before:]])
    )


class OnnxPart(nn.Module):
    """Layers that ONNX Runtime computes: a float32 map in, one out.

    Parameters
    ----------
    layers
        What it does, in evaluation mode.
    example
        An input, to draw the graph with and to compare the results of.
    dynamic
        Axes of the input that may have any size, with their names.
    cache
        See `use_onnx`.
    """

    def __init__(
        self, layers: nn.Module, example: Tensor, dynamic: dict[int, str], cache: Path
    ) -> None:
        super().__init__()
        path = cache / f"{_digest(layers)}.onnx"
        with torch.inference_mode():
            expected = layers(example)
            # Missing, damaged or another: ONNX Runtime's own errors have no common base.
            with suppress(Exception):
                self._session = _open(path)
                if self._difference(example, expected) <= TOLERANCE:
                    return
            drawn = draw_graph(layers, {"input": example}, ["found"], {"input": dynamic})
            graph = drawn.model_proto.SerializeToString()
            self._session = _open(graph)
            difference = self._difference(example, expected)
        # `not <=` instead of `>`: NaN is a difference too.
        if not difference <= TOLERANCE:
            raise ExportError(f"ONNX Runtime differs from torch by {difference:.1g} of the largest")
        # Where it cannot be kept it is drawn again the next time.
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, graph)

    def _difference(self, example: Tensor, expected: Tensor) -> float:
        largest = expected.abs().max().clamp(min=TOLERANCE)
        return float((self(example) - expected).abs().max() / largest)

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the layers: [N, C, H, W] in, [N, C', H', W'] out."""
        (found,) = self._session.run(None, {"input": maps.contiguous().numpy()})
        return torch.from_numpy(found)


def _digest(layers: nn.Module) -> str:
    """Name layers by what they are and by their weights."""
    digest = hashlib.sha256(f"{torch.__version__} {OPSET} {layers}".encode())
    for name, tensor in layers.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _open(graph: Path | bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a file that cannot be read is written again
    # One thread: several scenes at once share the cores better than one scene does.
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
