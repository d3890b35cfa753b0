"""ONNX export of the search branch and of the crop encoder, compared with torch before it counts.

Both graphs take uint8 RGB and hold normalisation and padding: who uses a file has only to resize,
as `model.preprocessing` does it. torch.export draws the graph; its own restrictions (no shape may
decide a branch) are why the RPN's few lines at inference are written again here.
"""

import importlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, nms, remove_small_boxes

from model.binet import BINet
from model.config import TRUNK_STRIDE
from model.errors import ExportError
from model.export_check import Differences, compare_crop, compare_search
from model.files import replacing
from model.roi import half_scene, join_scales, vote

if TYPE_CHECKING:
    import onnx

Part = Literal["search", "crop"]

OPSET = 20
PACKAGES = ("onnx", "onnxruntime", "onnxscript")


class SearchGraph(nn.Module):
    """One scene -> its people; what `BINet.search_people` does, without its choices by shape."""

    def __init__(self, network: BINet) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor, score_threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels uint8 [1, 3, h, w] -> boxes [M, 4] in those pixels, scores [M], embeddings."""
        network = self.network
        height, width = pixels.shape[-2:]
        images = _padded(network, pixels)
        maps = network.trunk_maps(images)
        proposals, objectness = self._proposals(maps, (height, width))
        if network.config.detect_large:
            half_maps = network.trunk_maps(half_scene(images))
            half = self._proposals(half_maps, (-(-height // 2), -(-width // 2)))
            proposals, objectness = join_scales(proposals, objectness, *half)
        if network.config.detection_from == "rpn":
            boxes, scores, _ = network.roi_stage.select(proposals, objectness, score_threshold)
            features = network.through_head(network.align(maps, [boxes]))[1]
            return boxes, scores, network.predictor.embed(features)
        head_maps, features = network.through_head(network.align(maps, [proposals]))
        scores, deltas = network.detect_rois(head_maps, features)
        boxes, scores, keep = network.roi_stage.decode(
            proposals,
            deltas,
            scores,
            (height, width),
            score_threshold,
        )
        return boxes, scores, network.predictor.embed(features[keep])

    def _proposals(self, maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Repeat torchvision's RPN for one scene and one map: [n, 4] and [n], best first."""
        rpn = self.network.rpn
        (objectness,), (deltas,) = rpn.head([maps])
        objectness = objectness.permute(0, 2, 3, 1).reshape(-1)
        deltas = deltas.permute(0, 2, 3, 1).reshape(-1, 4)
        strides = [[TRUNK_STRIDE, TRUNK_STRIDE]]
        (anchors,) = rpn.anchor_generator.grid_anchors([maps.shape[-2:]], strides)
        count = torch.sym_min(objectness.shape[0], rpn.pre_nms_top_n())
        objectness, best = objectness.topk(count)
        boxes = rpn.box_coder.decode_single(deltas[best], anchors[best])
        boxes = clip_boxes_to_image(boxes, size)
        keep = remove_small_boxes(boxes, rpn.min_size)
        boxes, scores = boxes[keep], objectness[keep].sigmoid()
        kept = nms(boxes, scores, rpn.nms_thresh)[: rpn.post_nms_top_n()]
        if rpn.vote_iou is None:
            return boxes[kept], scores[kept]
        return vote(boxes[kept], boxes, scores, rpn.vote_iou), scores[kept]


class CropGraph(nn.Module):
    """Patches -> unit embeddings; what `BINet.embed_crops` does after resizing."""

    def __init__(self, network: BINet) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels uint8 [N, 3, 224, 96] -> [N, D]; N is 1 and the size free for `original`."""
        if not self.network.config.mirror:
            return self._embed(pixels)
        return F.normalize(self._embed(pixels) + self._embed(pixels.flip(-1)))

    def _embed(self, pixels: Tensor) -> Tensor:
        network = self.network
        maps = network.trunk_maps(_padded(network, pixels))
        if network.config.patches == "original":
            height, width = pixels.shape[-2:]
            maps = network.align(maps, [torch.tensor([[0.0, 0.0, width, height]])])
        embeddings: Tensor = network.predictor.embed(network.head(maps))
        return embeddings


def _padded(network: BINet, pixels: Tensor) -> Tensor:
    """Normalise uint8 pixels and pad them right and below to a multiple of the stride."""
    height, width = pixels.shape[-2:]
    images = (pixels.float() / 255 - network.mean) / network.std
    return F.pad(images, (0, -width % TRUNK_STRIDE, 0, -height % TRUNK_STRIDE))


def export_onnx(network: BINet, out: str | Path, part: Part = "search") -> Differences:
    """Write one part of the network as ONNX, if ONNX Runtime then gives what torch gives.

    Parameters
    ----------
    network
        In float32, on the CPU, in evaluation mode.
    out
        The file; an older one is replaced when the new one has passed.
    part
        `search`: input `pixels`, uint8 [1, 3, h, w] of any size, and `score_threshold` (may be left
        out: the configuration's); outputs `boxes_xyxy` [M, 4] in pixels of the input, `scores` [M]
        and `embeddings` [M, D], best score first. They are the search branch's also where
        `gallery_branch` is the other: give the boxes to `crop` then. `crop`: input `pixels`,
        uint8 [N, 3, 224, 96] (for networks with patches of their `original` size [1, 3, h, w]);
        output `embeddings`.

    Returns
    -------
    Differences
        The largest ones seen on pictures made from seeds, of several sizes or batches.

    Raises
    ------
    ExportError
        When the results differ (no file is left), the network is not of the required kind, the
        ONNX packages are missing, or the file cannot be written.
    """
    out = Path(out)
    _require_packages()
    _require_plain(network)
    if not out.parent.is_dir():
        raise ExportError(f"{out} cannot be written: there is no folder {out.parent}")
    model = _search_model(network) if part == "search" else _crop_model(network)
    _describe(model, network, part)
    compare = compare_search if part == "search" else compare_crop
    try:
        with replacing(out) as file:
            file.write(model.SerializeToString())
            file.flush()
            return compare(network, Path(file.name))
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error}") from error


def _require_packages() -> None:
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ExportError(
                f"ONNX export needs {', '.join(PACKAGES)} ({error}): pip install 'binet[onnx]'"
            ) from error


def _require_plain(network: BINet) -> None:
    types = {parameter.dtype for parameter in network.parameters()}
    if types != {torch.float32} or network.inference_only:
        raise ExportError(
            "only a float32 network as it was loaded can be exported, not one made faster"
        )
    if network.device.type != "cpu" or network.training:
        raise ExportError("export a network on the CPU in evaluation mode: network.cpu().eval()")


def _search_model(network: BINet) -> "onnx.ModelProto":
    import onnx

    threshold = np.asarray(network.config.score_threshold, np.float32)
    # Any odd size will do: none of its properties may become part of the graph.
    example = torch.zeros(1, 3, 133, 201, dtype=torch.uint8)
    program = draw_graph(
        SearchGraph(network),
        {"pixels": example, "score_threshold": torch.from_numpy(threshold)},
        ["boxes_xyxy", "scores", "embeddings"],
        {"pixels": {2: "height", 3: "width"}, "score_threshold": None},
    )
    program.rename_axes({program.model.graph.outputs[0].shape[0]: "people"})
    model: onnx.ModelProto = program.model_proto
    # An input with an initializer of the same name has a default.
    model.graph.initializer.append(onnx.numpy_helper.from_array(threshold, "score_threshold"))
    return model


def _crop_model(network: BINet) -> "onnx.ModelProto":
    if network.config.patches == "original":
        example = torch.zeros(1, 3, 133, 75, dtype=torch.uint8)
        dynamic = {2: "height", 3: "width"}
    else:
        example = torch.zeros(2, 3, *network.config.preprocessing.patch_size, dtype=torch.uint8)
        dynamic = {0: "patches"}
    program = draw_graph(
        CropGraph(network), {"pixels": example}, ["embeddings"], {"pixels": dynamic}
    )
    model: onnx.ModelProto = program.model_proto
    return model


def draw_graph(
    graph: nn.Module, inputs: dict[str, Tensor], outputs: list[str], dynamic: dict[str, Any]
) -> Any:
    """Let torch draw the graph: a `torch.onnx.ONNXProgram`."""
    with warnings.catch_warnings(), _out_of_place(graph):
        # torchvision's own registration of nms calls what this torch calls by another name.
        warnings.filterwarnings("ignore", "`create_unbacked_symint` is deprecated", FutureWarning)
        try:
            return torch.onnx.export(
                graph.eval(),
                kwargs=inputs,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=dynamic,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().split("\n")[0]
            raise ExportError(f"torch cannot express this network in ONNX: {reason}") from error


@contextmanager
def _out_of_place(graph: nn.Module) -> Iterator[None]:
    """Let no layer write over its input: torch takes twice as long to draw one that does."""
    layers: list[Any] = [layer for layer in graph.modules() if getattr(layer, "inplace", False)]
    for layer in layers:
        layer.inplace = False
    try:
        yield
    finally:
        for layer in layers:
            layer.inplace = True


def _describe(model: "onnx.ModelProto", network: BINet, part: Part) -> None:
    """Say in the file what it is and what its input is; take out where it was made."""
    import onnx

    graph = model.graph
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        # The exporter writes stack traces here, with the paths of this machine.
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    model.producer_name, model.producer_version = "binet", version("binet")
    preprocessing = network.config.preprocessing
    size = {
        "search": {"min_side": preprocessing.min_side, "max_side": preprocessing.max_side},
        "crop": {"max_side": preprocessing.max_side}
        if network.config.patches == "original"
        else {"patch_height_width": list(preprocessing.patch_size)},
    }[part]
    onnx.helper.set_model_props(
        model,
        {
            "part": part,
            "config": network.config.model_dump_json(),
            "input": "uint8 RGB, resized as below with bilinear interpolation and antialiasing",
            **{name: json.dumps(value) for name, value in size.items()},
            "torch": torch.__version__,
        },
    )
