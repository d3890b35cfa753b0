"""Average precision: the step-wise one, in which what is equally similar is found together."""

import numpy as np
import numpy.typing as npt

#: Up to so many positives are counted one by one; for more, everything is sorted once.
FEW = 24


def average_precision(
    positives: npt.NDArray[np.floating], everything: npt.NDArray[np.floating]
) -> float:
    """Mean, over the positives, of the precision at their similarity.

    Equal to scikit-learn's `average_precision_score`, whatever the order of ties.

    Parameters
    ----------
    positives
        Similarities of the positives [P], in any order.
    everything
        Similarities of everything, the positives among it, in any order [N].

    Examples
    --------
    >>> average_precision(np.array([0.9, 0.5]), np.array([0.1, 0.5, 0.7, 0.9]))
    0.8333333333333333
    """
    if len(positives) == 0:
        return 0.0
    right = at_least(positives, positives)
    return float((right / at_least(everything, positives)).mean())


def at_least(
    values: npt.NDArray[np.floating], thresholds: npt.NDArray[np.floating]
) -> npt.NDArray[np.int64]:
    """Count the values that reach each threshold: [N] and [P] -> [P]."""
    if len(thresholds) <= FEW:
        return np.array([np.count_nonzero(values >= t) for t in thresholds], np.int64)
    ranked = np.sort(values)
    return np.asarray(len(ranked) - np.searchsorted(ranked, thresholds, side="left"), np.int64)
