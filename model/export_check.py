"""Comparison of an ONNX file with the network that it was made from.

The pictures are made from seeds. All people of a scene are compared, whatever their score, so that
it does not matter that nobody is on them.
"""

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.binet import BINet
from model.detections import Detections, FloatArray
from model.errors import ExportError
from model.preprocessing import Scene

#: How far ONNX Runtime may be from torch. Two kernels of torch itself (oneDNN and its own) differ
#: by up to a tenth of each of these.
BOX_TOLERANCE_PX = 0.25
SCORE_TOLERANCE = 2e-3
#: 1 - cosine.
EMBEDDING_TOLERANCE = 1e-5
#: Rounding decides between two proposals of nearly the same score, about once in 25 pictures. Such
#: a picture proves nothing and is replaced, unless more people than this share are concerned ...
NEAR_TIES = 0.1
#: ... or no picture of so many is free of it.
TRIES = 5


@dataclass(frozen=True)
class Differences:
    """Largest differences between ONNX and torch."""

    box_px: float = 0.0
    score: float = 0.0
    #: 1 - cosine.
    embedding: float = 0.0

    def __or__(self, other: "Differences") -> "Differences":
        return Differences(*map(max, astuple(self), astuple(other)))

    def __str__(self) -> str:
        people = f"boxes {self.box_px:.1g} px, scores {self.score:.1g}, "
        crops_only = not self.box_px and not self.score
        return f"{'' if crops_only else people}embeddings {self.embedding:.1g} (1 - cosine)"


def compare_search(network: BINet, path: Path) -> Differences:
    """Compare a search branch in ONNX with `BINet.search_people`, on scenes of three sizes.

    All people are compared, whatever their score; then the default of the threshold is tried.

    Raises
    ------
    ExportError
        When a person's box, score or embedding differs by more than the tolerances.
    """
    run = _session(path)
    side, limit = network.config.preprocessing.min_side, network.config.preprocessing.max_side
    worst = Differences()
    for height, width in ((side, limit), (limit - 1, side - 1), (side // 2 + 1, side // 2 + 7)):
        for seed in range(TRIES):
            pixels = random_pixels(height, width, seed)
            scene = Scene(pixels, width=width, height=height)
            expected = network.search_people([scene], 0.0)[0]
            found = _detections(run(pixels[None].numpy(), score_threshold=0.0))
            alone, differences = match(expected, found)
            problem = (
                f"ONNX differs from torch on a scene of {width}x{height} pixels: {alone} of "
                f"{len(expected)} + {len(found)} people have no equal ({differences})"
            )
            if alone > NEAR_TIES * (len(expected) + len(found)):
                raise ExportError(problem)
            if not alone:
                break
        else:
            raise ExportError(f"{problem}, and likewise on {TRIES - 1} others")
        worst |= differences
        above = found.scores[found.scores > np.float32(network.config.score_threshold)]
        if not np.array_equal(_detections(run(pixels[None].numpy())).scores, above):
            raise ExportError("ONNX differs from torch: the default score threshold is another")
    return worst


def compare_crop(network: BINet, path: Path) -> Differences:
    """Compare a crop encoder in ONNX with `BINet.embed_crops`, on several batches or sizes.

    Raises
    ------
    ExportError
        When an embedding differs by more than the tolerance.
    """
    run = _session(path)
    height, width = network.config.preprocessing.patch_size
    if network.config.patches == "original":
        limit = network.config.preprocessing.max_side
        shapes = [(1, limit, limit // 2), (1, limit // 3, limit - 1), (1, 37, 21)]
    else:
        shapes = [(n, height, width) for n in (1, 3, 8)]
    worst = Differences()
    for n, height, width in shapes:
        patches = [random_pixels(height, width, seed) for seed in range(n)]
        expected = network.embed_crops(patches)
        (found,) = run(torch.stack(patches).numpy())
        if found.shape != expected.shape:
            raise ExportError(
                f"ONNX differs from torch: {list(found.shape)} for {list(expected.shape)}"
            )
        difference = float((1 - (expected * found).sum(axis=1)).max())
        # `not <=` instead of `>`: NaN is a difference too.
        if not difference <= EMBEDDING_TOLERANCE:
            raise ExportError(
                f"ONNX differs from torch on {n} crops of {width}x{height} pixels: "
                f"embeddings by {difference:.1g} (1 - cosine)"
            )
        worst |= Differences(embedding=difference)
    return worst


def match(expected: Detections, found: Detections) -> tuple[int, Differences]:
    """Pair the people of two results by their boxes, whatever their order.

    Returns
    -------
    tuple
        How many people of both sides have no equal on the other, and the largest differences
        between each expected person and the nearest found one.
    """
    if not len(expected) or not len(found):
        return len(expected) + len(found), Differences()
    distance = np.abs(expected.boxes_xyxy[:, None] - found.boxes_xyxy).max(axis=2)
    nearest = distance.argmin(axis=1)
    box = distance.min(axis=1)
    score = np.abs(expected.scores - found.scores[nearest])
    embedding = 1 - (expected.embeddings * found.embeddings[nearest]).sum(axis=1)
    equal = (
        (box <= BOX_TOLERANCE_PX) & (score <= SCORE_TOLERANCE) & (embedding <= EMBEDDING_TOLERANCE)
    )
    alone = int((~equal).sum()) + len(found) - len(np.unique(nearest[equal]))
    return alone, Differences(*(float(max(d.max(), 0)) for d in (box, score, embedding)))


def random_pixels(height: int, width: int, seed: int) -> Tensor:
    """Coloured clouds and some noise, uint8 [3, h, w]: on noise alone all boxes would be alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 2 + height // 24, 2 + width // 24, generator=generator)
    clouds = F.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    noise = torch.rand(3, height, width, generator=generator)
    return (200 * clouds + 55 * noise).to(torch.uint8)


def _session(path: Path) -> Any:
    """Return run(pixels, **other inputs) -> list of outputs, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: an input with a default is worth a warning to it
    session: Any = None

    def run(pixels: npt.NDArray[np.uint8], **others: float) -> list[FloatArray]:
        nonlocal session
        scalars = {name: np.asarray(value, np.float32) for name, value in others.items()}
        try:
            session = session or onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
            outputs: list[FloatArray] = session.run(None, {"pixels": pixels, **scalars})
        except Exception as error:  # ONNX Runtime's own have no common base
            raise ExportError(f"ONNX Runtime cannot run the network: {error}") from error
        return outputs

    return run


def _detections(outputs: list[FloatArray]) -> Detections:
    try:
        return Detections(*outputs)
    except ValueError as error:
        raise ExportError(f"ONNX differs from torch: {error}") from error
