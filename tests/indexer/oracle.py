"""The plain NumPy search that every index is compared with, and embeddings to compare on."""

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


def oracle_scores(
    vectors: npt.NDArray[np.float16],
    positives: Float32,
    negatives: Float32 | None = None,
    combine: str = "best",
    negative_weight: float = 1.0,
) -> Float32:
    """Scores [N] of all rows, in float64 and rounded once."""
    stored = vectors.astype(np.float64)
    similarity = stored @ positives.T.astype(np.float64)
    score = similarity.max(axis=1) if combine == "best" else similarity.mean(axis=1)
    if negatives is not None and len(negatives):
        unwanted = (stored @ negatives.T.astype(np.float64)).max(axis=1)
        score = score - negative_weight * np.where(unwanted > 0, unwanted, 0)
    return np.asarray(score, np.float32)


def oracle_top_k(
    ids: npt.NDArray[np.int64], scores: Float32, k: int
) -> tuple[list[int], list[float]]:
    """Best first, ties by ascending id."""
    order = sorted(range(len(ids)), key=lambda row: (-scores[row], ids[row]))[:k]
    return [int(ids[row]) for row in order], [float(scores[row]) for row in order]


def unit(rng: np.random.Generator, rows: int, dimension: int) -> Float32:
    vectors = rng.standard_normal((rows, dimension)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def people(rng: np.random.Generator, rows: int, pids: int, dimension: int) -> Float32:
    """Embeddings in clusters, as re-identification has them, with some exact copies."""
    vectors = unit(rng, pids, dimension)[rng.integers(pids, size=rows)]
    vectors = vectors + 0.3 * unit(rng, rows, dimension)
    copies = rng.random(rows) < 0.1
    vectors[copies] = vectors[rng.integers(rows, size=int(copies.sum()))]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
