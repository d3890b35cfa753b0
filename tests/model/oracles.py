"""The paper in NumPy, one formula at a time, as slowly as it is written."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def eq1_feature_interaction(f_r: Array, f_s: Array) -> float:
    total = 0.0
    for r, s in zip(f_r, f_s, strict=True):
        total += 1 - r @ s / (np.linalg.norm(r) * np.linalg.norm(s))
    return total / len(f_r)


def eq4_soften(p: Array, temperature: float) -> Array:
    return np.array([np.exp(v / temperature) / np.exp(p / temperature).sum() for v in p])


def eq3_kl(p_a: Array, p_b: Array, temperature: float) -> float:
    total = 0.0
    for a, b in zip(p_a, p_b, strict=True):
        soft_a, soft_b = eq4_soften(a, temperature), eq4_soften(b, temperature)
        for c in range(len(a)):
            total += soft_a[c] * np.log(soft_a[c] / soft_b[c])
    return total


def eq2_prediction_interaction(p_r: Array, p_s: Array, temperature: float) -> float:
    return eq3_kl(p_r, p_s, temperature) + eq3_kl(p_s, p_r, temperature)


class OIM:
    """Xiao et al. 2017, eq. 1-3, with empty rows left out of the sums."""

    def __init__(
        self, num_pids: int, queue_size: int, dim: int, temperature: float, momentum: float
    ) -> None:
        self.lut = np.zeros((num_pids, dim))
        self.queue = np.zeros((queue_size, dim))
        self.position = 0
        self.temperature = temperature
        self.momentum = momentum

    def probabilities(self, x: Array) -> Array:
        rows = np.concatenate([self.lut, self.queue])
        e = np.array([np.exp(v @ x / self.temperature) if v.any() else 0.0 for v in rows])
        return np.asarray(e / e.sum())

    def loss(self, xs: Array, pids: list[int]) -> float:
        terms = [
            -np.log(self.probabilities(x)[pid])
            for x, pid in zip(xs, pids, strict=True)
            if pid >= 0 and self.lut[pid].any()
        ]
        return float(np.mean(terms)) if terms else 0.0

    def update(self, xs: Array, pids: list[int]) -> None:
        for x, pid in zip(xs, pids, strict=True):
            if pid >= 0:
                v = self.momentum * self.lut[pid] + (1 - self.momentum) * x
                self.lut[pid] = v / np.linalg.norm(v)
            elif len(self.queue):
                self.queue[self.position] = x
                self.position = (self.position + 1) % len(self.queue)


def roi_align(
    image_map: Array, box: Array, size: tuple[int, int], stride: int, ratio: int
) -> Array:
    """He et al., Mask R-CNN, sec. 3: bilinear samples at the regular points of each bin, averaged.

    `image_map` is [C, H, W]; half a cell is taken off, since a cell's value stands at its centre.
    """
    _, height, width = image_map.shape
    x1, y1, x2, y2 = box / stride - 0.5
    out = np.zeros((len(image_map), *size))
    for i in range(size[0]):
        for j in range(size[1]):
            for a in range(ratio):
                for b in range(ratio):
                    y = y1 + (i + (a + 0.5) / ratio) * (y2 - y1) / size[0]
                    x = x1 + (j + (b + 0.5) / ratio) * (x2 - x1) / size[1]
                    if not (-1 <= y <= height and -1 <= x <= width):
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    top, left = int(y), int(x)
                    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
                    dy, dx = y - top, x - left
                    out[:, i, j] += (
                        image_map[:, top, left] * (1 - dy) * (1 - dx)
                        + image_map[:, top, right] * (1 - dy) * dx
                        + image_map[:, below, left] * dy * (1 - dx)
                        + image_map[:, below, right] * dy * dx
                    ) / ratio**2
    return out


def focal_loss(logits: Array, labels: Array, alpha: float = 0.25, gamma: float = 2.0) -> float:
    """Lin et al., "Focal Loss for Dense Object Detection", Eq. 5, summed, over the positives."""
    total = 0.0
    for logit, label in zip(logits, labels, strict=True):
        if label < 0:
            continue
        p = 1 / (1 + np.exp(-logit))
        p_t, alpha_t = (p, alpha) if label == 1 else (1 - p, 1 - alpha)
        total += -alpha_t * (1 - p_t) ** gamma * np.log(p_t)
    return float(total / max((labels == 1).sum(), 1))


def smooth_l1(outputs: Array, targets: Array, labels: Array, beta: float = 1 / 9) -> float:
    """Fast R-CNN's box loss of the positives, over their number."""
    total = 0.0
    for row, target, label in zip(outputs, targets, labels, strict=True):
        if label == 1:
            for d in np.abs(row - target):
                total += 0.5 * d**2 / beta if d < beta else d - 0.5 * beta
    return float(total / max((labels == 1).sum(), 1))
