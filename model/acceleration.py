"""A network made faster for inference: BatchNorm folded, channels last, bfloat16, ONNX."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.binet import BINet
from model.files import cache_folder

#: Parts that do not stand bfloat16. MobileNetV2's first blocks do not: rounding their weights alone
#: costs 0.005 of the embeddings' cosine, and its depthwise convolutions gain no speed.
FLOAT32_PARTS = {"mobilenet_v2": {"trunk"}}


@dataclass(frozen=True)
class InferenceOptions:
    """What to do to a network; each is independent of the others and keeps the results.

    On a CPU with bfloat16 instructions all of them pay; on one without, leave `bfloat16` off.
    """

    #: BatchNorm becomes part of the convolution before it.
    fold_batchnorm: bool = False
    #: Channels are the innermost axis; on a CPU RoIAlign then is a gather.
    channels_last: bool = False
    #: Trunk, RPN and head compute in bfloat16 (but see `FLOAT32_PARTS`); boxes, scores and
    #: embeddings stay float32.
    bfloat16: bool = False
    #: torch.compile for the trunk; needs a C++ compiler, and minutes at the first pictures.
    compile: bool = False
    #: Convolutions in ONNX Runtime on one core, in float32 with BatchNorm folded: for several
    #: scenes at once. Needs the extra `onnx`; drawing takes seconds, and the cache keeps graphs.
    onnx: bool = False


def optimise(network: BINet, options: InferenceOptions) -> BINet:
    """Return a faster copy for inference only: it can neither be trained nor saved.

    Raises
    ------
    ValueError
        When `onnx` is asked for with an option or a device that it does not go with.
    ExportError
        When `onnx` is asked for and ONNX Runtime cannot compute the network.
    """
    if options.onnx and (options.bfloat16 or options.compile or not options.fold_batchnorm):
        raise ValueError("onnx is for float32, with fold_batchnorm and without compile")
    if options.onnx and network.device.type != "cpu":
        raise ValueError(f"onnx is for a CPU, not {network.device}")
    faster = copy.deepcopy(network).eval().requires_grad_(False)
    faster.inference_only = True
    parts = {"trunk": faster.trunk, "rpn": faster.rpn.head, "head": faster.head}
    for part in parts.values():
        if options.fold_batchnorm:
            fold_batchnorm(part)
        if options.channels_last:
            part.to(memory_format=torch.channels_last)
    if options.bfloat16:
        faster.bfloat16_parts = frozenset(parts) - FLOAT32_PARTS.get(network.config.backbone, set())
        for name in faster.bfloat16_parts:
            for layer in parts[name].modules():
                # Normalisations keep float32: autocast gives them what they need.
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.bfloat16()
    faster.gather_align = options.channels_last and faster.device.type == "cpu"
    if options.compile:
        # The trunk alone: fusing its additions and ReLUs pays, the head's and RPN's do not.
        compiled: nn.Module = torch.compile(faster.trunk, options={"freezing": True})  # type: ignore[assignment]
        faster.trunk = compiled
    if options.onnx:
        from model.onnx_parts import use_onnx

        use_onnx(faster, cache_folder() / "onnx")
    return faster


def fold_batchnorm(module: nn.Module) -> None:
    """Fold every BatchNorm that directly follows a convolution into it, in place."""
    before: tuple[str, nn.Module] | None = None
    for name, layer in list(module.named_children()):
        if isinstance(layer, nn.BatchNorm2d) and before and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], layer))
            setattr(module, name, nn.Identity())
        else:
            fold_batchnorm(layer)
        before = (name, layer)
