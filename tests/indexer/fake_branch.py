"""A search branch without a network: people and embeddings follow from the pixels alone."""

import hashlib
from typing import Any

import numpy as np

from indexer.decode_protocol import Pixels
from model.detections import Detections

DIMENSION = 16


class FakeBranch:
    """Finds one to three people in every frame, the same whoever its neighbours are."""

    weights_sha256 = "1" * 64
    preprocess_sha256 = "2" * 64
    dimension = DIMENSION

    def prepare(self, pixels: Pixels) -> Any:
        return pixels

    def detect(self, scenes: list[Any]) -> list[Detections]:
        return [people_of(scene) for scene in scenes]


def people_of(pixels: Pixels) -> Detections:
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data).digest()
    rng = np.random.default_rng(list(digest))
    count = int(rng.integers(1, 4))
    height, width = pixels.shape[:2]
    corners = rng.uniform(0, 0.5, (count, 2)) * (width, height)
    extent = rng.uniform(0.1, 0.5, (count, 2)) * (width, height)
    embeddings = rng.standard_normal((count, DIMENSION)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Detections(
        np.concatenate([corners, corners + extent], axis=1).astype(np.float32),
        rng.random(count).astype(np.float32),
        embeddings,
    )
