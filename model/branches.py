"""The two branches on one set of parameters (Figure 3), stage by stage.

Search branch: normalise -> trunk -> propose -> align -> head. Instance-aware branch: cut_patches ->
trunk -> head. Training and inference are built from these stages in `model.binet`.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from model.backbones import batchnorms, build_backbone, freeze_stem
from model.config import TRUNK_STRIDE, BINetConfig
from model.gather_align import gather_roi_align
from model.preprocessing import resize
from model.roi import (
    Predictor,
    RoIStage,
    Target,
    build_rpn,
    half_scene,
    hints_at_large,
    join_scales,
)


class Branches(nn.Module):
    """Trunk, RPN, head and outputs; the instance-aware branch adds no parameters.

    Parameters
    ----------
    config
        What to build.
    backbone_weights
        `download`, a path, or `random`; see `model.backbones.imagenet_weights`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: BINetConfig, backbone_weights: str | Path) -> None:
        super().__init__()
        self.config = config
        backbone = build_backbone(config.backbone, config.split, backbone_weights)
        self.trunk: nn.Module = backbone.trunk
        self.head: nn.Module = backbone.head
        self.rpn = build_rpn(config, backbone.trunk_channels)
        self.roi_stage = RoIStage(config)
        self.predictor = Predictor(
            backbone.feature_dim,
            backbone.feature_dim * (_head_cells(config) if config.detection_from == "map" else 1),
            config.embedding_dim,
            config.embedding_std,
        )
        if config.detection_from == "rpn":
            # The RPN is the detector: these two have nothing to say, and learn nothing.
            self.predictor.score.requires_grad_(False)
            self.predictor.box.requires_grad_(False)
        self.feature_dim = backbone.feature_dim
        self.trunk_channels = backbone.trunk_channels
        #: Which of "trunk", "rpn" and "head" compute in bfloat16; the outputs are always float32.
        self.bfloat16_parts: frozenset[str] = frozenset()
        #: What `model.acceleration` changes: RoIAlign as a gather, no training and no saving.
        self.gather_align = False
        self.inference_only = False
        for name in ("mean", "std"):
            value = torch.tensor(getattr(config.preprocessing, name)).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        if config.freeze_stem:
            freeze_stem(backbone.trunk)
        for layer in self._frozen_batchnorms():
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; frozen BatchNorm layers stay as they are."""
        super().train(mode)
        for layer in self._frozen_batchnorms():
            layer.eval()
        return self

    def _frozen_batchnorms(self) -> list[nn.BatchNorm2d]:
        frozen = {"all": [self.trunk, self.head], "trunk": [self.trunk], "none": []}
        return [
            layer for part in frozen[self.config.freeze_batchnorm] for layer in batchnorms(part)
        ]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.predictor.score.weight.device

    def normalise(self, pixels: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Scale to the ImageNet statistics and pad to one size, a multiple of the trunk's stride.

        Parameters
        ----------
        pixels
            uint8 [3, h, w] each.

        Returns
        -------
        tuple
            float32 [B, 3, H, W], zeros right and below; and the true (h, w) of each.
        """
        sizes = [(int(p.shape[-2]), int(p.shape[-1])) for p in pixels]
        height, width = (
            -(-max(size[axis] for size in sizes) // TRUNK_STRIDE) * TRUNK_STRIDE for axis in (0, 1)
        )
        batch = self.mean.new_zeros(len(pixels), 3, height, width)
        for place, p, (h, w) in zip(batch, pixels, sizes, strict=True):
            # In place: a scene in float32 is 12 MB, and fresh memory costs more than arithmetic.
            values = place[:, :h, :w].copy_(p.to(self.device, non_blocking=True))
            values.div_(255).sub_(self.mean).div_(self.std)
        return batch, sizes

    def propose(
        self,
        images: Tensor,
        maps: Tensor,
        sizes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """RPN: maps [B, C, H/16, W/16] -> proposals [n, 4] of each scene; losses in training."""
        boxes = None
        if targets:
            none = self.mean.new_zeros(0, 4)
            boxes = [
                {"boxes": t["boxes_xyxy"], "ignored": t.get("ignored_xyxy", none)} for t in targets
            ]
        with self._autocast("rpn"):
            proposals, losses = self.rpn(ImageList(images, sizes), {"0": maps}, boxes)
        return proposals, {
            {"loss_objectness": "rpn_objectness", "loss_rpn_box_reg": "rpn_box"}[name]: value
            for name, value in losses.items()
        }

    def propose_scored(
        self, images: Tensor, maps: Tensor, sizes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """RPN at inference: proposals [n, 4] of each scene, and their scores [n]."""
        with self._autocast("rpn"):
            proposals, scores = self.rpn.scored(ImageList(images, sizes), maps)
        if not self.config.detect_large:
            return proposals, scores
        pairs = list(zip(proposals, scores, strict=True))
        places = [place for place, pair in enumerate(pairs) if bool(hints_at_large(*pair))]
        if places:
            halves = half_scene(images[places])
            half_sizes = [(-(-h // 2), -(-w // 2)) for h, w in (sizes[place] for place in places)]
            half_maps = self.trunk_maps(halves)
            with self._autocast("rpn"):
                large = self.rpn.scored(ImageList(halves, half_sizes), half_maps)
            for place, *half in zip(places, *large, strict=True):
                pairs[place] = join_scales(*pairs[place], *half)
        return [boxes for boxes, _ in pairs], [of for _, of in pairs]

    def trunk_maps(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] -> maps [B, C, H/16, W/16]."""
        with self._autocast("trunk"):
            maps: Tensor = self.trunk(images)
        return maps

    def align(self, maps: Tensor, boxes: list[Tensor]) -> Tensor:
        """RoIAlign: maps and the boxes [n, 4] of each scene -> [N, C, 14, 6]."""
        if self.gather_align:
            return gather_roi_align(
                maps, boxes, self.config.roi_size, TRUNK_STRIDE, self.config.roi_sampling_ratio
            )
        aligned: Tensor = roi_align(
            maps.float(),
            boxes,
            self.config.roi_size,
            spatial_scale=1 / TRUNK_STRIDE,
            sampling_ratio=self.config.roi_sampling_ratio,
            aligned=True,
        )
        return aligned

    def head_features(self, roi_maps: Tensor) -> Tensor:
        """RoI maps [N, C, 14, 6] -> features f [N, F], float32."""
        return self.head_outputs(roi_maps)[1]

    def head_outputs(self, roi_maps: Tensor) -> tuple[Tensor, Tensor]:
        """RoI maps [N, C, 14, 6] -> the head's maps [N, F, 7, 3] and, pooled, features f [N, F]."""
        if len(roi_maps) == 0:
            height, width = (-(-side // 2) for side in roi_maps.shape[-2:])
            none = roi_maps.new_zeros(0, self.feature_dim, height, width, dtype=torch.float32)
            return none, none[:, :, 0, 0]
        return self.through_head(roi_maps)

    def through_head(self, roi_maps: Tensor) -> tuple[Tensor, Tensor]:
        """As `head_outputs`, where there is a RoI."""
        layers = dict(self.head.named_children())
        before = list(layers).index("pool")
        maps = features = roi_maps
        with self._autocast("head"):
            for number, layer in enumerate(layers.values()):
                features = layer(features)
                if number == before - 1:
                    maps = features
        return maps, features.float()

    def detect_rois(self, head_maps: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Head's maps and features f of RoIs -> logits [N, 2] and box output [N, 4]."""
        of = head_maps.flatten(1).float() if self.config.detection_from == "map" else features
        return self.predictor.score(of), self.predictor.box(of)

    def _autocast(self, part: str) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=part in self.bfloat16_parts)

    def instance_maps(self, patches: Sequence[Tensor]) -> Tensor:
        """Instance-aware branch: normalised patches [3, h, w] -> maps [N, C, 14, 6] for the head.

        `resized` patches need no RoIAlign (sec. 3.3). Patches of their `original` size pass the
        trunk one by one, so that no padding of a larger neighbour reaches into them.
        """
        if not patches:
            return self.mean.new_zeros(0, self.trunk_channels, *self.config.roi_size)
        with _running_statistics(self.trunk):
            if self.config.patches == "resized":
                size = list(self.config.preprocessing.patch_size)
                return self.trunk_maps(torch.stack([resize(patch, size) for patch in patches]))
            roi_maps = []
            for patch in patches:
                height, width = patch.shape[-2:]
                padded = F.pad(patch, (0, -width % TRUNK_STRIDE, 0, -height % TRUNK_STRIDE))
                whole = patch.new_tensor([[0, 0, width, height]])
                roi_maps.append(self.align(self.trunk_maps(padded[None]), [whole]))
            return torch.cat(roi_maps)


def _head_cells(config: BINetConfig) -> int:
    """Cells of the head's map: its stride is 2."""
    height, width = config.roi_size
    return -(-height // 2) * -(-width // 2)


@contextmanager
def _running_statistics(trunk: nn.Module) -> Iterator[None]:
    """Let BatchNorm take the statistics of the scenes also in training, as it does at inference.

    Statistics of patches would mix with them otherwise, and fit neither.
    """
    training = [layer for layer in batchnorms(trunk) if layer.training]
    for layer in training:
        layer.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.train()


def cut_patches(images: Tensor, boxes: Sequence[Tensor]) -> list[Tensor]:
    """Cut boxes from the network's input, to whole pixels: nothing outside the box is in a patch.

    Parameters
    ----------
    images
        [B, 3, H, W].
    boxes
        [n, 4] for each image, inside it.

    Returns
    -------
    list
        Patches [3, h, w], at least one pixel each, in the order of the boxes.
    """
    patches = []
    for image, image_boxes in zip(images, boxes, strict=True):
        height, width = image.shape[-2:]
        for x1, y1, x2, y2 in image_boxes.round().int().tolist():
            left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
            patches.append(image[:, top : max(y2, top + 1), left : max(x2, left + 1)])
    return patches
