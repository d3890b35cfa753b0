"""How far a mean over queries can be trusted, and what a similarity is worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Int64 = npt.NDArray[np.int64]

#: Resamples of the bootstrap, and the share of them that the interval holds.
RESAMPLES = 2000
CONFIDENCE = 0.95
#: Bins of the calibration's error.
BINS = 10


@dataclass(frozen=True)
class Interval:
    """A mean over queries with its bootstrap interval (percentiles)."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Give the three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}


def mean_interval(values: Floats, seed: int = 0) -> Interval:
    """Bootstrap the mean over queries [Q]; 0 without any."""
    if len(values) == 0:
        return Interval(0.0, 0.0, 0.0)
    means = _resampled_means(np.asarray(values, np.float64), seed)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail]).tolist()
    return Interval(float(np.mean(values)), low, high)


def _resampled_means(values: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    count = len(values)
    means = np.empty(RESAMPLES)
    # In blocks: 2,000 resamples of 2,900 queries at once would take 46 MB.
    for start in range(0, RESAMPLES, 250):
        drawn = rng.multinomial(count, np.full(count, 1 / count), 250)
        means[start : start + 250] = drawn @ values / count
    return means


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often a result of this similarity is the same person: a monotone curve.

    Attributes
    ----------
    similarity, probability
        float64 [K], ascending; between the points it is linear, outside it is constant.
    pairs
        int64 [K], how many pairs each point stands for.
    """

    similarity: npt.NDArray[np.float64]
    probability: npt.NDArray[np.float64]
    pairs: Int64

    def __call__(self, similarity: Floats) -> npt.NDArray[np.float64]:
        """Give the probability of each similarity."""
        if len(self.similarity) == 0:
            return np.full(np.shape(similarity), np.nan)
        return np.interp(similarity, self.similarity, self.probability)


def calibrate(similarity: Floats, right: npt.NDArray[np.bool_]) -> Calibration:
    """Fit the curve by isotonic regression.

    Parameters
    ----------
    similarity, right
        Of pairs of a query and a result [N].
    """
    from scipy.optimize import isotonic_regression

    if len(similarity) == 0:
        return Calibration(np.empty(0), np.empty(0), np.empty(0, np.int64))
    order = np.argsort(similarity, kind="stable")
    values, same = np.asarray(similarity, np.float64)[order], right[order].astype(np.float64)
    fit = isotonic_regression(same)
    starts = fit.blocks[:-1]
    counts = np.diff(fit.blocks)
    return Calibration(
        np.add.reduceat(values, starts) / counts, fit.x[starts], counts.astype(np.int64)
    )


def calibration_error(
    similarity: Floats, right: npt.NDArray[np.bool_], pids: Int64, seed: int = 0
) -> float | None:
    """Mean gap between promised and true share, fitted on half of the people, tried on the other.

    Parameters
    ----------
    pids
        Of the query of each pair [N].

    Returns
    -------
    Expected calibration error over bins of equal width; None with fewer than two people.
    """
    people = np.random.default_rng(seed).permutation(np.unique(pids))
    if len(people) < 2:
        return None
    first = np.isin(pids, people[: len(people) // 2])
    gaps = 0.0
    for part in (first, ~first):
        promised = calibrate(similarity[part], right[part])(similarity[~part])
        truth = right[~part]
        bins = np.minimum((promised * BINS).astype(int), BINS - 1)
        for number in np.unique(bins):
            here = bins == number
            gaps += abs(float(promised[here].mean() - truth[here].mean())) * int(here.sum())
    return gaps / len(similarity)


def paired_difference(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Interval:
    """Bootstrap the mean difference of two results on the same queries."""
    return mean_interval(np.asarray(ours) - np.asarray(theirs), seed)
