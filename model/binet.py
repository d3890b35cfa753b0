"""BINet: training and inference on the two branches, checkpoints, and the hub."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from torch import Tensor

from model.annotations import UNLABELLED
from model.backbones import DOWNLOAD, RANDOM
from model.branches import Branches, cut_patches
from model.checkpoint import (
    CONFIG_NAME,
    load_strictly,
    read_config,
    read_state,
    write_checkpoint,
)
from model.config import BINetConfig
from model.cropping import cut, inside
from model.detections import Detections, FloatArray
from model.losses import feature_interaction_loss, one_way, prediction_interaction_loss
from model.oim import EMPTY_LOGIT, OIMMemory
from model.preprocessing import Picture, Preprocessing, Scene, to_rgb
from model.roi import PERSON, Crops, SampledRoIs, Target

#: The people of a scene: boxes [M, 4] in its pixels, scores [M], and what gives features f [M, F].
_Found: TypeAlias = tuple[FloatArray, FloatArray, Callable[[], Tensor]]

#: Scenes or patches that go through the network at once, unless the caller says otherwise.
BATCH_SIZE = 8


class BINet(Branches, PyTorchModelHubMixin, library_name="binet"):
    """The network, with every variant of the paper behind the switches of its configuration.

    Training: `forward` gives the losses by name. Inference: `detect`, `embed_boxes` and
    `embed_crops`. All variants of one backbone and split have the same parameters, and the search
    branch works the same without the instance-aware branch.

    Parameters
    ----------
    config
        What to build.
    backbone_weights
        `download`, a path, or `random`; see `model.backbones.imagenet_weights`.
    """

    def __init__(self, config: BINetConfig, backbone_weights: str | Path = DOWNLOAD) -> None:
        super().__init__(config, backbone_weights)
        self.preprocessing = Preprocessing(
            config.preprocessing, keep_picture=config.gallery_branch == "instance"
        )
        self.search_memory = self._new_memory()
        separate = config.instance_branch and config.memory == "separate"
        self.instance_memory = self._new_memory() if separate else None
        #: Where the weights come from; saved with them.
        self.provenance: dict[str, Any] = {"backbone_weights": str(backbone_weights)}

    def _new_memory(self) -> OIMMemory:
        config = self.config
        return OIMMemory(
            config.num_pids,
            config.queue_size,
            config.embedding_dim,
            config.oim_temperature,
            config.oim_momentum,
        )

    # --- training -----------------------------------------------------------------------------

    def forward(
        self, scenes: Sequence[Scene], targets: Sequence[Target], crops: Crops | None = None
    ) -> dict[str, Tensor]:
        """Losses of a step by name, unweighted (`model.losses.total_loss` adds them up, Eq. 5).

        The look-up tables and queues are updated at the end.

        Parameters
        ----------
        scenes
            Prepared scenes, any sizes.
        targets
            Their people; boxes in pixels of the scene itself.
        crops
            More people for the instance-aware branch: each counts as a positive RoI does in
            L_oim^r and in the memory. They have no scene, so no interaction loss.

        Raises
        ------
        RuntimeError
            In evaluation mode.
        ValueError
            When the targets are not of the form of `Target`, or there are crops and no
            instance-aware branch.
        """
        if not self.training:
            raise RuntimeError("forward gives losses: call train() first, or use detect()")
        self._require_whole("trained")
        if crops is not None and not self.config.instance_branch:
            raise ValueError("crops need an instance-aware branch: this variant has none")
        images, sizes = self.normalise([scene.pixels for scene in scenes])
        scaled = self._on_input(scenes, targets)
        maps = self.trunk_maps(images)
        proposals, losses = self.propose(images, maps, sizes, scaled)
        sampled = self.roi_stage.sample(proposals, scaled)
        positive = sampled.labels == PERSON
        roi_maps = self.align(maps, sampled.boxes_xyxy)
        patch_maps = self.instance_maps(self._patches(images, sampled, positive, crops))
        # Both branches pass the head together: BatchNorm, where it is trained, sees one batch.
        head_maps, both = self.head_outputs(torch.cat([roi_maps, patch_maps.to(roi_maps.dtype)]))
        features, instance = torch.split(both, [len(roi_maps), len(patch_maps)])
        if self.config.detection_from != "rpn":
            scores, deltas = self.detect_rois(head_maps[: len(roi_maps)], features)
            losses |= self.roi_stage.losses(scores, deltas, sampled)

        pids = sampled.pids[positive]
        search = features[positive]  # f_s [N, F]
        memory = self.search_memory
        search_embeddings = self.predictor.embed(search)
        search_logits = memory.logits(search_embeddings)
        losses["oim_search"] = memory.loss(search_logits, pids)
        if not self.config.instance_branch:
            memory.update(search_embeddings, pids)
            return losses

        # f_r [N + crops, F]: first the same people as f_s, then the crops.
        instance_pids = pids
        if crops is not None:
            instance_pids = torch.cat([pids, self._checked_pids(crops["pids"]).to(pids.device)])
        instance_memory = self.instance_memory or memory
        instance_embeddings = self.predictor.embed(instance)
        instance_logits = instance_memory.logits(instance_embeddings)
        losses["oim_instance"] = instance_memory.loss(instance_logits, instance_pids)
        rois = len(search)
        losses |= self._interaction(search, instance[:rois], search_logits, instance_logits[:rois])
        # One after the other also over all ranks: the order that one process would have.
        memory.update(search_embeddings, pids)
        instance_memory.update(instance_embeddings, instance_pids)
        return losses

    def _patches(
        self, images: Tensor, sampled: SampledRoIs, positive: Tensor, crops: Crops | None
    ) -> list[Tensor]:
        """Cut the positive RoIs from the input, and put the crops behind them."""
        if not self.config.instance_branch:
            return []
        per_scene = torch.split(positive, [len(boxes) for boxes in sampled.boxes_xyxy])
        patches = cut_patches(
            images, [b[p] for b, p in zip(sampled.boxes_xyxy, per_scene, strict=True)]
        )
        if crops is not None:
            patches += [self._normalised(pixels) for pixels in crops["pixels"]]
        return patches

    def _on_input(self, scenes: Sequence[Scene], targets: Sequence[Target]) -> list[Target]:
        """Check the targets and bring their boxes to the network's input."""
        if len(scenes) != len(targets):
            raise ValueError(f"{len(scenes)} scenes but {len(targets)} targets")
        scaled: list[Target] = []
        for scene, target in zip(scenes, targets, strict=True):
            boxes, pids = target["boxes_xyxy"], target["pids"]
            if boxes.shape != (len(pids), 4) or pids.ndim != 1 or pids.dtype != torch.int64:
                raise ValueError(
                    f"expected boxes [n, 4] and int64 pids [n], got {list(boxes.shape)} and "
                    f"{pids.dtype} {list(pids.shape)}"
                )
            self._checked_pids(pids)
            if not bool((boxes[:, 2:] > boxes[:, :2]).all()):
                raise ValueError("boxes_xyxy: a box is empty or not finite")
            scale = scene.scale.to(boxes.device)
            ignored = target.get("ignored_xyxy", boxes.new_zeros(0, 4))
            scaled.append(
                {
                    "boxes_xyxy": (boxes.float() * scale).to(self.device),
                    "pids": pids.to(self.device),
                    "ignored_xyxy": (ignored.float() * scale).to(self.device),
                }
            )
        return scaled

    def _checked_pids(self, pids: Tensor) -> Tensor:
        last = self.config.num_pids - 1
        if len(pids) and not UNLABELLED <= int(pids.min()) <= int(pids.max()) <= last:
            raise ValueError(
                f"identities must be {UNLABELLED} (unlabelled) or 0..{last} "
                f"(num_pids = {last + 1}), got {int(pids.min())}..{int(pids.max())}"
            )
        return pids

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Crop uint8 [3, h, w] -> float32, with the ImageNet statistics."""
        return (pixels.to(self.device) / 255 - self.mean) / self.std

    def _interaction(
        self, search: Tensor, instance: Tensor, search_logits: Tensor, instance_logits: Tensor
    ) -> dict[str, Tensor]:
        config = self.config
        losses = {}
        if config.feature_interaction:
            losses["feature_interaction"] = feature_interaction_loss(
                *one_way(search, instance, config.direction)
            )
        if config.prediction_interaction:
            p_search = self._predictions(search_logits, self.search_memory)
            p_instance = self._predictions(
                instance_logits, self.instance_memory or self.search_memory
            )
            losses["prediction_interaction"] = prediction_interaction_loss(
                *one_way(p_search, p_instance, config.direction),
                config.temperature,
                config.interaction_reduction,
            )
        return losses

    def _predictions(self, logits: Tensor, memory: OIMMemory) -> Tensor:
        """Return p of Eq. 4: the C look-up table entries of OIM's logits or probabilities."""
        if self.config.interaction_input == "logits":
            return logits[:, : memory.num_pids]
        probabilities = logits.softmax(dim=1)[:, : memory.num_pids]
        return probabilities.masked_fill(~memory.filled, EMPTY_LOGIT)

    # --- inference ----------------------------------------------------------------------------

    @torch.inference_mode()
    def detect(
        self,
        scenes: Sequence[Picture | Scene],
        score_threshold: float | None = None,
        batch_size: int = BATCH_SIZE,
        branch: Literal["search", "instance"] | None = None,
    ) -> list[Detections]:
        """Search branch: find the people of each scene and embed them.

        Scenes of one size share a batch; nothing else about a scene depends on its neighbours.

        Parameters
        ----------
        scenes
            Pictures of any size and kind, or scenes prepared by `preprocessing.scene`.
        score_threshold
            Keep people scored above this; None is the configuration's.
        batch_size
            How many scenes go through the network at once.
        branch
            Whose embeddings; None is the configuration's `gallery_branch`.

        Returns
        -------
        list
            One `Detections` for each scene, in order, best score first. Boxes are in pixels of the
            scene itself (upright, where EXIF turns it).
        """
        self._require_eval()
        threshold = self.config.score_threshold if score_threshold is None else score_threshold
        prepared = [self._scene(scene) for scene in scenes]
        same_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, scene in enumerate(prepared):
            same_size[tuple(scene.pixels.shape)].append(place)
        found: dict[int, Detections] = {}
        for places in same_size.values():
            for start in range(0, len(places), batch_size):
                batch = places[start : start + batch_size]
                together = [prepared[i] for i in batch]
                if (branch or self.config.gallery_branch) == "instance":
                    detections = self._embedded_as_crops(together, threshold)
                else:
                    detections = self.search_people(together, threshold)
                found.update(zip(batch, detections, strict=True))
        return [found[place] for place in range(len(prepared))]

    @torch.inference_mode()
    def search_people(self, scenes: Sequence[Scene], threshold: float) -> list[Detections]:
        """Search branch alone, on prepared scenes of one size; see `detect`."""
        found = self._found(scenes, threshold)
        embeddings = self.predictor.embed(torch.cat([features() for _, _, features in found]))
        parts = torch.split(embeddings, [len(scores) for _, scores, _ in found])
        return [
            Detections(boxes, scores, part.cpu().numpy())
            for (boxes, scores, _), part in zip(found, parts, strict=True)
        ]

    def _embedded_as_crops(self, scenes: Sequence[Scene], threshold: float) -> list[Detections]:
        """As `search_people`, but each person is cut from the picture and embedded as a crop."""
        found = self._found(scenes, threshold)
        crops = []
        for scene, (boxes, _, _) in zip(scenes, found, strict=True):
            picture = _picture_of(scene)
            crops += cut(picture, inside(boxes, picture))
        ends = np.cumsum([len(scores) for _, scores, _ in found])
        parts = np.split(self.embed_crops(crops), ends[:-1])
        return [
            Detections(boxes, scores, part)
            for (boxes, scores, _), part in zip(found, parts, strict=True)
        ]

    def _found(self, scenes: Sequence[Scene], threshold: float) -> list[_Found]:
        """Find the people of prepared scenes of one size."""
        images, sizes = self.normalise([scene.pixels for scene in scenes])
        maps = self.trunk_maps(images)
        found = []
        if self.config.detection_from == "rpn":
            proposed = self.propose_scored(images, maps, sizes)
            for place, (p, s) in enumerate(zip(*proposed, strict=True)):
                boxes, scores, _ = self.roi_stage.select(p, s, threshold)
                # The head is for embeddings alone, which may be those of crops.
                features = partial(self._features_at, maps[place : place + 1], boxes)
                found.append((boxes, scores, features))
        else:
            proposals, _ = self.propose(images, maps, sizes)
            head_maps, pooled = self.head_outputs(self.align(maps, proposals))
            counts = [len(boxes) for boxes in proposals]
            outputs = (*self.detect_rois(head_maps, pooled), pooled)
            per_scene = zip(*(torch.split(output, counts) for output in outputs), strict=True)
            for size, p, (s, d, f) in zip(sizes, proposals, per_scene, strict=True):
                boxes, scores, keep = self.roi_stage.decode(p, d, s, size, threshold)
                found.append((boxes, scores, partial(f.__getitem__, keep)))
        return [
            (
                (boxes / scene.scale.to(boxes.device)).cpu().numpy(),
                scores.cpu().numpy(),
                features,
            )
            for scene, (boxes, scores, features) in zip(scenes, found, strict=True)
        ]

    def _features_at(self, maps: Tensor, boxes: Tensor) -> Tensor:
        return self.head_features(self.align(maps, [boxes]))

    @torch.inference_mode()
    def embed_boxes(
        self, scene: Picture | Scene, boxes_xyxy: npt.NDArray[np.floating[Any]]
    ) -> FloatArray:
        """Search branch at given boxes: the embedding of a person marked in a scene.

        Parameters
        ----------
        scene
            A picture or a prepared scene.
        boxes_xyxy
            [N, 4] in pixels of the scene; what reaches past the picture is cut off.

        Returns
        -------
        numpy.ndarray
            float32 [N, D], unit vectors.

        Raises
        ------
        ValueError
            When a box is empty, not finite, or outside the picture.
        """
        self._require_eval()
        prepared = self._scene(scene)
        boxes = _inside(prepared, boxes_xyxy)
        images, _ = self.normalise([prepared.pixels])
        on_input = (torch.from_numpy(boxes) * prepared.scale).to(self.device)
        features = self.head_features(self.align(self.trunk_maps(images), [on_input]))
        embeddings: FloatArray = self.predictor.embed(features).cpu().numpy()
        return embeddings

    def embed_people(
        self, scene: Picture | Scene, boxes_xyxy: npt.NDArray[np.floating[Any]]
    ) -> FloatArray:
        """Embed people marked in a scene as `detect` embeds those it finds; see `embed_boxes`."""
        if self.config.gallery_branch == "search":
            return self.embed_boxes(scene, boxes_xyxy)
        prepared = self._scene(scene)
        boxes = _inside(prepared, boxes_xyxy)
        return self.embed_crops(cut(_picture_of(prepared), boxes))

    @torch.inference_mode()
    def embed_crops(self, crops: Sequence[Picture], batch_size: int = 8 * BATCH_SIZE) -> FloatArray:
        """Instance-aware branch: the embedding of a person's crop, without its scene.

        Parameters
        ----------
        crops
            Pictures of any size, each of one person.
        batch_size
            How many crops go through the network at once.

        Returns
        -------
        numpy.ndarray
            float32 [N, D], unit vectors, comparable with those of `detect`.
        """
        self._require_eval()
        resized = self.config.patches == "resized"
        prepare = self.preprocessing.patch if resized else self._bounded_crop
        embeddings = [np.zeros((0, self.config.embedding_dim), np.float32)]
        for start in range(0, len(crops), batch_size):
            patches = [prepare(crop) for crop in crops[start : start + batch_size]]
            normalised = [self._normalised(patch) for patch in patches]
            found = self._embed_patches(normalised)
            if self.config.mirror:
                mirrored = self._embed_patches([patch.flip(-1) for patch in normalised])
                found = F.normalize(found + mirrored)
            embeddings.append(found.cpu().numpy())
        return np.concatenate(embeddings)

    def _embed_patches(self, patches: list[Tensor]) -> Tensor:
        return self.predictor.embed(self.head_features(self.instance_maps(patches)))

    def _bounded_crop(self, crop: Picture) -> Tensor:
        """Keep a crop's own size up to that of a scene: a photo is not a hundred times a person."""
        pixels = to_rgb(crop)
        if max(pixels.shape[-2:]) <= self.config.preprocessing.max_side:
            return pixels
        return self.preprocessing.scene(pixels).pixels

    def _scene(self, scene: Picture | Scene) -> Scene:
        return scene if isinstance(scene, Scene) else self.preprocessing.scene(scene)

    def checkpoint_state(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds: the weights and the OIM memory."""
        self._require_whole("saved")
        return self.state_dict()

    def _require_whole(self, use: str) -> None:
        if self.inference_only:
            raise RuntimeError(f"a network made faster for inference cannot be {use}")

    def _require_eval(self) -> None:
        if self.training:
            raise RuntimeError("the network is in training mode: call eval() before inference")

    # --- Hugging Face hub -----------------------------------------------------------------------

    def _save_pretrained(self, save_directory: Path) -> None:
        write_checkpoint(save_directory, self.config, self.checkpoint_state(), self.provenance)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **where: Any) -> "BINet":
        """Load from a local folder (no network at all) or from the hub; always strict."""
        folder = Path(model_id)
        if not folder.is_dir():
            known = ("revision", "cache_dir", "force_download", "local_files_only", "token")
            options = {key: where[key] for key in known if key in where}
            folder = Path(hf_hub_download(model_id, CONFIG_NAME, **options)).parent
            hf_hub_download(model_id, read_config(folder).weights, **options)
        return cls.from_checkpoint(folder)

    @classmethod
    def from_checkpoint(cls, folder: str | Path) -> "BINet":
        """Build the network that a checkpoint describes and load it strictly, in eval mode.

        Raises
        ------
        CheckpointError
            When the checkpoint is missing, damaged, or does not fit.
        """
        checkpoint = read_config(folder)
        state = read_state(folder, checkpoint)
        network = cls(checkpoint.config, backbone_weights=RANDOM)
        load_strictly(network, state)
        network.provenance = checkpoint.provenance
        return network.eval()


def _inside(scene: Scene, boxes_xyxy: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """Cut boxes [N, 4] at the edges of the picture; refuse those that have no area then."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes_xyxy: expected shape (N, 4), got {boxes.shape}")
    limit = np.array([scene.width, scene.height] * 2, dtype=np.float32)
    cut_off: FloatArray = np.clip(boxes, 0, limit)
    usable = np.isfinite(boxes).all(axis=1) & (cut_off[:, 2:] > cut_off[:, :2]).all(axis=1)
    if not usable.all():
        bad = int(np.argmin(usable))
        raise ValueError(
            f"box {bad} {boxes[bad].tolist()} has no area inside the picture of "
            f"{scene.width}x{scene.height} pixels"
        )
    return cut_off


def _picture_of(scene: Scene) -> Tensor:
    if scene.picture is None:
        raise ValueError(
            "this network cuts people from the picture itself: prepare scenes with its own "
            "`preprocessing`"
        )
    return scene.picture
