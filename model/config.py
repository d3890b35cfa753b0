"""The configuration of a network, and every system of the paper as a named variant of it.

One frozen, validated object describes a network completely (weights apart). It travels inside every
checkpoint. Where the paper is silent the field says what was decided and what the alternative is.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Backbone = Literal["resnet50", "mobilenet_v2", "convnext_tiny", "convnext_base"]

#: Stride of the trunk in pixels. It is 16 for every backbone here, so a 224x96 patch gives the 14x6
#: map that RoIAlign gives, and the instance-aware branch needs no RoIAlign (sec. 3.3).
TRUNK_STRIDE = 16


class PreprocessingConfig(BaseModel):
    """How a picture becomes the network's input; it travels with the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Pixels of the shorter side after resizing, unless the longer side would pass `max_side`
    #: (sec. 4.3: 600 and 1000 for CUHK-SYSU, 900 and 1500 for PRW).
    min_side: Positive = 600
    max_side: Positive = 1000
    #: Height and width in pixels of a person patch (sec. 3.3).
    patch_size: tuple[Positive, Positive] = (224, 96)
    #: Mean and standard deviation of RGB in 0..1 (those of the ImageNet weights).
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _sides_in_order(self) -> Self:
        if self.min_side > self.max_side:
            raise ValueError(f"min_side {self.min_side} is larger than max_side {self.max_side}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        return self


class BINetConfig(BaseModel):
    """Everything that defines a network except its weights.

    Defaults are BINet on CUHK-SYSU as in the paper. `variant_config` gives the other rows of the
    paper's tables.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # --- architecture -------------------------------------------------------------------------
    backbone: Backbone = "resnet50"
    #: Where the backbone is split into trunk and head. `conv4`: trunk conv1..conv4, head conv5
    #: (sec. 3.1). `conv4_3`: the split of the original OIM network, ResNet-50 only (Table 8).
    split: Literal["conv4", "conv4_3"] = "conv4"
    #: Height and width of the RoIAlign map: 14x6 in the paper, 14x14 in the original OIM.
    roi_size: tuple[Positive, Positive] = (14, 6)
    #: Sampling points per bin and direction of RoIAlign (the paper is silent; torchvision's is 2).
    roi_sampling_ratio: Positive = 2
    embedding_dim: Positive = 256
    #: Standard deviation of the embedding layer's weights at the start (the paper is silent; 0.01
    #: as in OIM's code). Embeddings are unit vectors, so it decides nothing but how fast the layer
    #: turns: 0.01 is too fast for Adam, and all embeddings fall together (docs/training.md).
    embedding_std: Annotated[float, Field(gt=0)] = 0.01
    #: Where BatchNorm keeps its ImageNet statistics and affine parameters. `all`: the paper's batch
    #: is 2. `trunk`: the head's are trained, on the RoIs of both branches together. `none`: the
    #: trunk's too, on scenes alone; patches are normalised by the running statistics of scenes.
    freeze_batchnorm: Literal["all", "trunk", "none"] = "all"
    #: conv1 (the stem) keeps its ImageNet weights.
    freeze_stem: bool = True

    # --- the instance-aware branch and the interaction ----------------------------------------
    instance_branch: bool = True
    #: L_fi, Eq. 1.
    feature_interaction: bool = True
    #: L_pi, Eq. 2-4.
    prediction_interaction: bool = True
    #: Which branch learns from the interaction losses. `instance_to_search` (R->S, BINet-1)
    #: detaches the instance side, `search_to_instance` (S->R, BINet-2) the search side.
    direction: Literal["both", "instance_to_search", "search_to_instance"] = "both"
    #: `resized`: patches of `patch_size`, no RoIAlign. `original`: patches keep their size in the
    #: network's input, and RoIAlign follows the trunk (Re-id-O and BINet-O, Table 6).
    patches: Literal["resized", "original"] = "resized"
    #: T in Eq. 4.
    temperature: Annotated[float, Field(gt=0)] = 1.0
    #: p in Eq. 4. `logits`: OIM's logits x.lut/0.1, so that T = 1 is OIM's own distribution.
    #: `probabilities`: the literal reading, a softmax of probabilities.
    interaction_input: Literal["logits", "probabilities"] = "logits"
    #: Eq. 3 sums over the positive RoIs; `mean` makes it independent of their number.
    interaction_reduction: Literal["sum", "mean"] = "sum"

    # --- OIM ----------------------------------------------------------------------------------
    #: Rows of the look-up table: labelled identities of the training set, numbered 0..num_pids-1.
    num_pids: Positive = 5532
    #: Rows of the circular queue of unlabelled persons (5000 for CUHK-SYSU, 500 for PRW).
    queue_size: Annotated[int, Field(ge=0)] = 5000
    #: One look-up table and queue for both branches, or one for each.
    memory: Literal["shared", "separate"] = "shared"
    oim_temperature: Annotated[float, Field(gt=0)] = 0.1
    oim_momentum: Fraction = 0.5

    # --- detection (the paper refers to Faster R-CNN; values as in the peers' code) -----------
    anchor_sizes: tuple[Positive, ...] = (32, 64, 128, 256, 512)
    #: Height over width.
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    #: Convolutions of the RPN before its outputs.
    rpn_convs: Positive = 1
    #: `sampled`: `rpn_batch_per_scene` anchors of each scene, as in Faster R-CNN. `focal`: all of
    #: them by the focal loss (https://arxiv.org/abs/1708.02002), over the number of positives;
    #: ours, for an RPN that is the detector.
    rpn_loss: Literal["sampled", "focal"] = "sampled"
    rpn_foreground_iou: Fraction = 0.7
    rpn_background_iou: Fraction = 0.3
    rpn_batch_per_scene: Positive = 256
    rpn_positive_fraction: Fraction = 0.5
    rpn_nms_iou: Fraction = 0.7
    rpn_pre_nms_train: Positive = 12000
    rpn_post_nms_train: Positive = 2000
    rpn_pre_nms_test: Positive = 6000
    rpn_post_nms_test: Positive = 300
    rois_per_scene: Positive = 128
    roi_positive_fraction: Fraction = 0.5
    roi_foreground_iou: Fraction = 0.5
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    #: Detections with a person score above this are kept.
    score_threshold: Fraction = 0.5
    detection_nms_iou: Fraction = 0.4

    #: What scores and boxes are computed from. `pooled`: the feature f, as in the paper. `map`: the
    #: head's map before it is pooled; ours, for small networks, whose pooled features hardly tell
    #: where in its box a person is. `rpn`: scores and boxes of the RPN are the people, as in a
    #: detector of one stage; ours, for small networks, whose head can learn people or boxes but
    #: hardly both (docs/weights.md).
    detection_from: Literal["pooled", "map", "rpn"] = "pooled"
    #: An RPN that is the detector looks at the scene at half its size as well, for people who are
    #: too large for its anchors; ours, for cameras that people pass close by.
    detect_large: bool = False
    #: Each person's box is the mean, by score, of the RPN's boxes that overlap it by at least this
    #: (https://arxiv.org/abs/1505.01749, sec. 5); ours, for an RPN that is the detector.
    vote_iou: Fraction | None = None
    #: Which branch embeds the people whom `detect` finds. `search`: the paper's. `instance`: each
    #: is cut from the picture itself and embedded as a crop query is; ours, for small networks and
    #: small people, of whom a map of stride 16 shows little.
    gallery_branch: Literal["search", "instance"] = "search"
    #: A crop's embedding is that of the crop and of its mirror image together: twice the work for a
    #: network that has not learnt well that both are the same person. Ours.
    mirror: bool = False

    # --- input --------------------------------------------------------------------------------
    preprocessing: PreprocessingConfig = PreprocessingConfig()

    @property
    def interacts(self) -> bool:
        """Whether any interaction loss is on."""
        return self.feature_interaction or self.prediction_interaction

    @model_validator(mode="after")
    def _switches_agree(self) -> Self:
        if self.interacts and not self.instance_branch:
            raise ValueError("the interaction losses need instance_branch=True")
        if self.split == "conv4_3" and self.backbone != "resnet50":
            raise ValueError(f"split='conv4_3' exists for resnet50 only, not for {self.backbone}")
        if self.gallery_branch == "instance" and not self.instance_branch:
            raise ValueError("gallery_branch='instance' needs instance_branch=True")
        if self.mirror and not self.instance_branch:
            raise ValueError("mirror=True needs instance_branch=True")
        if self.detect_large and self.detection_from != "rpn":
            raise ValueError("detect_large=True needs detection_from='rpn'")
        if self.vote_iou is not None and self.detection_from != "rpn":
            raise ValueError("vote_iou needs detection_from='rpn'")
        if self.instance_branch and self.patches == "resized":
            height, width = self.preprocessing.patch_size
            expected = (self.roi_size[0] * TRUNK_STRIDE, self.roi_size[1] * TRUNK_STRIDE)
            if (height, width) != expected:
                raise ValueError(
                    f"patch_size {height}x{width} does not give the RoIAlign map "
                    f"{self.roi_size[0]}x{self.roi_size[1]}: use {expected[0]}x{expected[1]}"
                )
        return self


_NO_INTERACTION: dict[str, Any] = {"feature_interaction": False, "prediction_interaction": False}
_SEARCH_ONLY: dict[str, Any] = {"instance_branch": False, **_NO_INTERACTION}
_ORIGINAL_OIM: dict[str, Any] = {**_SEARCH_ONLY, "split": "conv4_3", "roi_size": (14, 14)}

#: Every system of the paper: name -> what differs from BINet. `siamese` is the paper's BINet-0 and
#: Re-id-R; `baseline` its "OIM (modified)"; `binet` its BINet-R.
VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": _SEARCH_ONLY,
    "siamese": _NO_INTERACTION,
    "binet": {},
    "binet-1": {"direction": "instance_to_search"},
    "binet-2": {"direction": "search_to_instance"},
    "binet-3": {"prediction_interaction": False},
    "binet-4": {"feature_interaction": False},
    "re-id-o": {**_NO_INTERACTION, "patches": "original"},
    "binet-o": {"patches": "original"},
    "oim": _ORIGINAL_OIM,
}


def variant_config(name: str, **fields: Any) -> BINetConfig:
    """Return the configuration of a system of the paper.

    Parameters
    ----------
    name
        A key of `VARIANTS`.
    fields
        Further fields of `BINetConfig`, such as `backbone` or `num_pids`; they win over the
        variant's own.

    Raises
    ------
    ValueError
        When the name is not a variant, or the fields contradict each other.

    Examples
    --------
    >>> variant_config("binet-1", num_pids=483, queue_size=500).direction
    'instance_to_search'
    """
    if name not in VARIANTS:
        raise ValueError(f"no variant {name!r}: choose one of {', '.join(VARIANTS)}")
    return BINetConfig(**{**VARIANTS[name], **fields})
