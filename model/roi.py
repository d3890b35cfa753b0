"""From proposals to people: sampling and losses in training, box decoding and NMS at inference.

torchvision's Faster R-CNN parts do the work; ours are the identity numbers that travel with the
boxes, and the third output, the embedding.
"""

from dataclasses import dataclass
from typing import NotRequired, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import (
    RegionProposalNetwork,
    RPNHead,
    concat_box_prediction_layers,
)
from torchvision.ops import (
    box_area,
    box_iou,
    clip_boxes_to_image,
    nms,
    remove_small_boxes,
    sigmoid_focal_loss,
)

from model.config import TRUNK_STRIDE, BINetConfig

#: Boxes thinner than this, in pixels of the network's input, are no detections.
MIN_BOX_SIDE = 1.0
PERSON = 1  # class number; 0 is background
#: A box that lies on ignored ones by more than this share of its own area is left out.
MOST_IGNORED = 0.5
#: Higher than this in the network's input, people are large: the half scene shows them as the
#: anchors and the training know them. So near to it both scales may find them.
LARGE_PX = 256
BOTH_PX = 32
#: The half scene is looked at where a proposal of the scene is this high, as parts of somebody
#: large are, and has at least this score: elsewhere it would be a quarter more work for nothing.
HINT_PX = 160
HINT_SCORE = 0.1
#: A box is part of somebody large from this share of it inside, between these shares of the height.
LEAST_INSIDE = 0.75
LEAST_PART, MOST_PART = 0.25, 0.9


class Target(TypedDict):
    """The annotated people of a scene.

    boxes_xyxy: float32 [n, 4] in pixels of the scene itself. pids: int64 [n], 0..num_pids-1, or
    `model.annotations.UNLABELLED`. ignored_xyxy: [k, 4], what may be people and is not annotated:
    anchors and proposals there are no background.
    """

    boxes_xyxy: Tensor
    pids: Tensor
    ignored_xyxy: NotRequired[Tensor]


class Crops(TypedDict):
    """Pictures of one person each, without a scene: more positives of the instance-aware branch.

    pixels: uint8 [3, h, w] each, as `Preprocessing.patch` gives them. pids: int64 [n], as in
    `Target`.
    """

    pixels: list[Tensor]
    pids: Tensor


class Float32RPNHead(RPNHead):  # type: ignore[misc]  # torchvision has no types
    """torchvision's RPN head, whose outputs are float32 also when it computes in bfloat16.

    A coordinate of 1,000 pixels is off by up to 4 in bfloat16.
    """

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Give, for maps [B, C, h, w], objectness [B, A, h, w] and box deltas [B, 4A, h, w]."""
        objectness, deltas = super().forward(maps)
        return [value.float() for value in objectness], [value.float() for value in deltas]


class IgnoringRPN(RegionProposalNetwork):  # type: ignore[misc]  # torchvision has no types
    """torchvision's RPN, to which anchors on ignored boxes are neither person nor background.

    It can learn by the focal loss, tell the scores of its proposals, and let its boxes vote.
    """

    focal = False
    vote_iou: float | None = None

    def compute_loss(
        self,
        objectness: Tensor,
        deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Give the losses of objectness [N, 1] and deltas [N, 4], for labels as above."""
        if not self.focal:
            sampled: tuple[Tensor, Tensor] = super().compute_loss(
                objectness, deltas, labels, regression_targets
            )
            return sampled
        label, target = torch.cat(labels), torch.cat(regression_targets)
        counted, positive = label >= 0, label == 1
        people = max(int(positive.sum()), 1)
        score = sigmoid_focal_loss(objectness.flatten()[counted], label[counted], reduction="sum")
        box = F.smooth_l1_loss(deltas[positive], target[positive], beta=1 / 9, reduction="sum")
        return score / people, box / people

    def scored(self, images: ImageList, maps: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Give each scene's proposals [n, 4], best first, and their scores [n]."""
        objectness, deltas = self.head([maps])
        anchors = self.anchor_generator(images, [maps])
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        proposals = self.box_coder.decode(deltas, anchors).view(len(anchors), -1, 4)
        boxes, scores = self.filter_proposals(
            proposals, objectness, images.image_sizes, [len(anchors[0])]
        )
        if self.vote_iou is not None:
            objectness = objectness.view(len(anchors), -1)
            best = objectness.topk(min(self.pre_nms_top_n(), objectness.shape[1]))
            for place, size in enumerate(images.image_sizes):
                voters = clip_boxes_to_image(proposals[place, best.indices[place]], size)
                weights = best.values[place].sigmoid()
                boxes[place] = vote(boxes[place], voters, weights, self.vote_iou)
        return boxes, scores

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Give labels (1 person, 0 background, -1 neither) and boxes of the anchors, by scene."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, here, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & on_ignored(here, target["ignored"])] = -1
        return labels, boxes


def on_ignored(boxes_xyxy: Tensor, ignored_xyxy: Tensor) -> Tensor:
    """Tell which boxes [n, 4] lie, by more than half of their area, on one of [k, 4]: bool [n]."""
    if len(ignored_xyxy) == 0:
        return torch.zeros(len(boxes_xyxy), dtype=torch.bool, device=boxes_xyxy.device)
    shared = _shared_area(boxes_xyxy, ignored_xyxy)
    covered: Tensor = (shared > MOST_IGNORED * box_area(boxes_xyxy)[:, None]).any(dim=1)
    return covered


def _shared_area(boxes: Tensor, others: Tensor) -> Tensor:
    """Pixels that boxes [N, 4] and others [K, 4] have in common: [N, K]."""
    low = torch.maximum(boxes[:, None, :2], others[:, :2])
    high = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    return (high - low).clamp(min=0).prod(dim=2)


def vote(boxes: Tensor, voters: Tensor, weights: Tensor, least_iou: float) -> Tensor:
    """Give for each box [K, 4] the mean of the voters [N, 4] with an IoU of `least_iou` or more.

    Voters count by their weights [N]; every box is to be among them.
    """
    # A box that nothing is sure of still has itself: a weight of 0 would leave no mean.
    counted = (box_iou(boxes, voters) >= least_iou) * weights.clamp(min=1e-12)
    # Not a matrix product, which autocast would compute in bfloat16.
    means: Tensor = (counted[..., None] * voters).sum(dim=1) / counted.sum(dim=1, keepdim=True)
    return means


def half_scene(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] at half their size, padded to a multiple of the trunk's stride."""
    halves = F.avg_pool2d(images, 2)
    height, width = halves.shape[-2:]
    return F.pad(halves, (0, -width % TRUNK_STRIDE, 0, -height % TRUNK_STRIDE))


def hints_at_large(boxes: Tensor, scores: Tensor) -> Tensor:
    """Tell from a scene's proposals [N, 4] and scores [N] whether its half is to be looked at."""
    return ((boxes[:, 3] - boxes[:, 1] > HINT_PX) & (scores > HINT_SCORE)).any()


def join_scales(
    boxes: Tensor, scores: Tensor, half_boxes: Tensor, half_scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Take the people who are not large from a scene and, given a hint, the large from its half.

    Parameters
    ----------
    boxes, scores
        Proposals of the scene, [N, 4] and [N].
    half_boxes, half_scores
        Those of `half_scene`, in its pixels, [M, 4] and [M].

    Returns
    -------
    tuple
        Boxes [K, 4] in pixels of the scene and scores [K], best first.
    """
    large = half_boxes * 2
    hint = hints_at_large(boxes, scores)
    usual = (boxes[:, 3] - boxes[:, 1] <= LARGE_PX + BOTH_PX) | ~hint
    wanted = (large[:, 3] - large[:, 1] > LARGE_PX - BOTH_PX) & hint
    joined = torch.cat([scores[usual], half_scores[wanted]])
    joined, order = joined.topk(joined.shape[0])  # ONNX knows no sort
    return torch.cat([boxes[usual], large[wanted]])[order], joined


def are_parts(boxes: Tensor) -> Tensor:
    """Tell which boxes [N, 4] are parts of somebody large, such as legs: bool [N]."""
    inside = _shared_area(boxes, boxes) > LEAST_INSIDE * box_area(boxes)[:, None]
    height = boxes[:, 3] - boxes[:, 1]
    # Somebody far away may stand before or beside somebody close by.
    part = (height[:, None] > LEAST_PART * height) & (height[:, None] < MOST_PART * height)
    parts: Tensor = (inside & part & (height > LARGE_PX)).any(dim=1)
    return parts


def build_rpn(config: BINetConfig, channels: int) -> IgnoringRPN:
    """Build torchvision's region proposal network on one map of stride 16."""
    anchors = AnchorGenerator((config.anchor_sizes,), (config.anchor_ratios,))
    rpn = IgnoringRPN(
        anchors,
        Float32RPNHead(channels, anchors.num_anchors_per_location()[0], config.rpn_convs),
        fg_iou_thresh=config.rpn_foreground_iou,
        bg_iou_thresh=config.rpn_background_iou,
        batch_size_per_image=config.rpn_batch_per_scene,
        positive_fraction=config.rpn_positive_fraction,
        pre_nms_top_n={"training": config.rpn_pre_nms_train, "testing": config.rpn_pre_nms_test},
        post_nms_top_n={"training": config.rpn_post_nms_train, "testing": config.rpn_post_nms_test},
        nms_thresh=config.rpn_nms_iou,
    )
    rpn.focal = config.rpn_loss == "focal"
    rpn.vote_iou = config.vote_iou
    return rpn


class Predictor(nn.Module):
    """The three outputs on a feature f (sec. 3.1): person or background, box, embedding."""

    def __init__(
        self, feature_dim: int, detection_dim: int, embedding_dim: int, embedding_std: float
    ) -> None:
        super().__init__()
        self.score = nn.Linear(detection_dim, 2)
        self.box = nn.Linear(detection_dim, 4)
        self.embedding = nn.Linear(feature_dim, embedding_dim)
        stds = ((self.score, 0.01), (self.box, 0.001), (self.embedding, embedding_std))
        for layer, std in stds:
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def embed(self, features: Tensor) -> Tensor:
        """Features [N, F] -> unit vectors [N, D]."""
        return F.normalize(self.embedding(features), dim=1)


@dataclass(frozen=True)
class SampledRoIs:
    """RoIs drawn for training; the lists have one tensor for each scene."""

    boxes_xyxy: list[Tensor]
    #: 1 person, 0 background: int64 [N] over all scenes.
    labels: Tensor
    #: Identity of the matched person, `UNLABELLED` for many; meaningless for background: [N].
    pids: Tensor
    #: What the box output should be: [N, 4].
    box_targets: Tensor


class RoIStage(RoIHeads):  # type: ignore[misc]  # torchvision has no types
    """torchvision's RoI sampling and box coding, with identities beside the boxes."""

    def __init__(self, config: BINetConfig) -> None:
        super().__init__(
            box_roi_pool=None,
            box_head=None,
            box_predictor=None,
            fg_iou_thresh=config.roi_foreground_iou,
            bg_iou_thresh=config.roi_foreground_iou,
            batch_size_per_image=config.rois_per_scene,
            positive_fraction=config.roi_positive_fraction,
            bbox_reg_weights=config.box_weights,
            score_thresh=config.score_threshold,
            nms_thresh=config.detection_nms_iou,
            detections_per_img=config.rpn_post_nms_test,
        )
        self.detects_large = config.detect_large

    def sample(self, proposals: list[Tensor], targets: list[Target]) -> SampledRoIs:
        """Draw RoIs, half of them positive where there are enough; ground truth is among them."""
        proposals = [self._annotated(p, t) for p, t in zip(proposals, targets, strict=True)]
        sampled, matched, labels, box_targets = self.select_training_samples(
            proposals,
            [
                {"boxes": t["boxes_xyxy"], "labels": torch.full_like(t["pids"], PERSON)}
                for t in targets
            ],
        )
        pids = [
            target["pids"][index] if len(target["pids"]) else torch.zeros_like(index)
            for target, index in zip(targets, matched, strict=True)
        ]
        return SampledRoIs(sampled, torch.cat(labels), torch.cat(pids), torch.cat(box_targets))

    def _annotated(self, proposals: Tensor, target: Target) -> Tensor:
        """Leave out proposals on ignored boxes, unless an annotated person is there."""
        ignored = target.get("ignored_xyxy")
        if ignored is None or len(ignored) == 0:
            return proposals
        out = on_ignored(proposals, ignored)
        if len(target["boxes_xyxy"]):
            iou = box_iou(proposals, target["boxes_xyxy"]).amax(dim=1)
            out &= iou < self.proposal_matcher.high_threshold
        return proposals[~out]

    @staticmethod
    def losses(scores: Tensor, deltas: Tensor, sampled: SampledRoIs) -> dict[str, Tensor]:
        """Fast R-CNN's two losses, both over the number of RoIs (as torchvision has them).

        Parameters
        ----------
        scores
            Logits [N, 2].
        deltas
            Box output [N, 4].
        """
        positive = sampled.labels == PERSON
        box = F.smooth_l1_loss(
            deltas[positive], sampled.box_targets[positive], beta=1 / 9, reduction="sum"
        )
        return {
            "roi_score": F.cross_entropy(scores, sampled.labels),
            "roi_box": box / max(len(sampled.labels), 1),
        }

    def decode(
        self,
        proposals: Tensor,
        deltas: Tensor,
        scores: Tensor,
        size: tuple[int, int],
        threshold: float | Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Turn one scene's outputs into people, best score first.

        Parameters
        ----------
        proposals, deltas, scores
            [N, 4], [N, 4] and logits [N, 2].
        size
            Height and width of the scene as the network sees it.
        threshold
            Least person score.

        Returns
        -------
        tuple
            Boxes [M, 4], person scores [M], and the positions [M] of their proposals.
        """
        boxes = self.box_coder.decode_single(deltas, proposals)
        boxes = clip_boxes_to_image(boxes, size)
        return self.select(boxes, scores.softmax(dim=1)[:, PERSON], threshold)

    def select(
        self, boxes: Tensor, probability: Tensor, threshold: float | Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keep the people among boxes [N, 4] with these scores [N]; returns what `decode` does."""
        keep = torch.where(probability > threshold)[0]
        keep = keep[remove_small_boxes(boxes[keep], MIN_BOX_SIDE)]
        if self.detects_large:
            keep = keep[~are_parts(boxes[keep])]
        keep = keep[nms(boxes[keep], probability[keep], self.nms_thresh)]
        return boxes[keep], probability[keep], keep
