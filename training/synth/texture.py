"""Patterns of clothes and surroundings, and the grain of grounds and walls."""

import numpy as np
import numpy.typing as npt

from training.synth.world import Colour, Pattern


def pattern(
    kind: Pattern, width: int, height: int, first: Colour, second: Colour, cell: float
) -> npt.NDArray[np.uint8]:
    """Draw two colours in a pattern, uint8 [height, width, 3], even around its middle.

    `cell` is the breadth of a stripe or the side of a square in pixels. A block has its first
    colour above the middle.
    """
    y, x = np.ogrid[:height, :width]
    y, x = y - height // 2, x - width // 2
    cell = max(cell, 1.0)
    rows, columns = np.floor(y / cell), np.floor(x / cell + 0.5)
    if kind == "horizontal":
        chosen = rows % 2 == 1
    elif kind == "vertical":
        chosen = columns % 2 == 1
    elif kind == "checks":
        chosen = (rows + columns) % 2 == 1
    elif kind == "block":
        chosen = y >= 0
    elif kind == "diagonal":
        chosen = np.floor((x + y) / (1.4 * cell)) % 2 == 1
    elif kind == "dots":
        across, down = (x + cell) % (2 * cell) - cell, (y + cell) % (2 * cell) - cell
        chosen = across**2 + down**2 < (0.7 * cell) ** 2
    else:
        chosen = np.zeros((1, 1), bool)
    mask = np.broadcast_to(chosen, (height, width))[..., None]
    drawn: npt.NDArray[np.uint8] = np.where(
        mask, np.array(second, np.uint8), np.array(first, np.uint8)
    )
    return drawn


def grain(
    rng: np.random.Generator, height: int, width: int, cell: int, depth: float
) -> npt.NDArray[np.float32]:
    """Make smooth random brightness factors around 1, float32 [height, width]."""
    coarse = rng.uniform(1 - depth, 1 + depth, (height // cell + 2, width // cell + 2))
    y, x = np.arange(height) / cell, np.arange(width) / cell
    i, j = y.astype(int), x.astype(int)
    v, u = (y - i)[:, None], (x - j)[None]
    top = coarse[np.ix_(i, j)] * (1 - u) + coarse[np.ix_(i, j + 1)] * u
    below = coarse[np.ix_(i + 1, j)] * (1 - u) + coarse[np.ix_(i + 1, j + 1)] * u
    factors: npt.NDArray[np.float32] = (top * (1 - v) + below * v).astype(np.float32)
    return factors
