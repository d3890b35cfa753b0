"""The network as the indexer and the search use it. The one module here that loads weights."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch

from indexer.decode_protocol import Pixels
from indexer.work import Precision
from model import (
    BINet,
    BINetConfig,
    Detections,
    InferenceOptions,
    Picture,
    Scene,
    load,
    optimise,
)
from model.allocator import keep_freed_memory
from model.checkpoint import read_config
from model.detections import FloatArray
from model.onnx_parts import FASTER_IN_ONNX, can_use_onnx


def preprocess_digest(config: BINetConfig) -> str:
    """SHA-256 of how pictures become embeddings, apart from the weights."""
    document = config.preprocessing.model_dump(mode="json")
    if config.gallery_branch != "search":
        document["gallery_branch"] = config.gallery_branch
    if config.mirror:
        document["mirror"] = True
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class NetworkBranch:
    """A checkpoint's network, made faster: `indexer.work.SearchBranch`, and queries.

    Parameters
    ----------
    network
        In evaluation mode, on its device.
    weights_sha256
        Of the checkpoint.
    """

    def __init__(
        self, network: BINet, weights_sha256: str, precision: Precision = "float32"
    ) -> None:
        self.weights_sha256 = weights_sha256
        self.preprocess_sha256 = preprocess_digest(network.config)
        self.dimension = network.config.embedding_dim
        self._preprocessing = network.preprocessing
        onnx = (
            network.config.backbone in FASTER_IN_ONNX
            and network.device.type == "cpu"
            and precision == "float32"
            and can_use_onnx()
        )
        self._network = optimise(
            network,
            InferenceOptions(
                fold_batchnorm=True,
                channels_last=True,
                bfloat16=precision == "bfloat16",
                onnx=onnx,
            ),
        )
        # One scene on each core takes two thirds of the time of one scene on all of them; with
        # torch alone it takes as long. In each of these threads torch keeps to itself.
        self._pool = None
        if onnx:
            alone = partial(torch.set_num_threads, 1)
            self._pool = ThreadPoolExecutor(torch.get_num_threads(), "network", alone)

    @classmethod
    def load(
        cls, folder: str | Path, device: str = "cpu", precision: Precision = "float32"
    ) -> Self:
        """Load a checkpoint.

        Raises
        ------
        CheckpointError, DeviceError
            When it cannot be loaded, or there is no such device.
        """
        if device == "cpu":
            keep_freed_memory()
        network, _ = load(folder, device)
        return cls(network, read_config(folder).sha256, precision)

    def prepare(self, pixels: Pixels) -> Scene:
        """Make a scene of uint8 [H, W, 3] RGB."""
        return self._preprocessing.scene(pixels)

    def detect(self, scenes: list[Scene]) -> list[Detections]:
        """Find the people of prepared scenes: on a GPU all in one go where they are of one size.

        A CPU is as fast with one scene at a time, and needs the memory of one for each core.
        """
        if self._pool:
            return list(self._pool.map(lambda scene: self._network.detect([scene])[0], scenes))
        together = 1 if self._network.device.type == "cpu" else max(len(scenes), 1)
        return self._network.detect(scenes, batch_size=together)

    def find_people(self, scene: Picture) -> Detections:
        """Find the people of one picture."""
        return self._network.detect([scene])[0]

    def embed_crop(self, crop: Picture) -> FloatArray:
        """Embed a crop of one person by the instance-aware branch: float32 [1, D]."""
        return self.embed_crops([crop])

    def embed_crops(self, crops: Sequence[Picture]) -> FloatArray:
        """Embed crops of one person each by the instance-aware branch: float32 [N, D]."""
        return self._network.embed_crops(crops)

    def embed_box(self, scene: Picture, box_xyxy: tuple[float, float, float, float]) -> FloatArray:
        """Embed a person marked in a scene as the gallery's people are: float32 [1, D].

        Raises
        ------
        ValueError
            When the box has no area inside the scene.
        """
        return self._network.embed_people(scene, np.array([box_xyxy], np.float32))
