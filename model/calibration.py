"""What a similarity has meant: how often a result of a benchmark with it was the same person.

The table lies in a checkpoint's folder, `calibration.json`, and is of these weights alone. It holds
for the benchmark's gallery; in another one, with more or other people, the shares are others.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.checkpoint import read_config
from model.errors import CheckpointError

CALIBRATION_NAME = "calibration.json"

Share = Annotated[float, Field(ge=0, le=1)]


class Calibration(BaseModel):
    """A monotone curve: linear between its points, constant outside."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["binet-calibration"] = "binet-calibration"
    version: Literal[1] = 1
    #: Whose similarities they are.
    weights_sha256: str
    #: Name of the benchmark, and kind of its queries: scene or crop.
    benchmark: str
    query: str
    #: Pairs of a query and one of its best results that the curve is fitted to.
    pairs: int
    similarity: list[float] = Field(min_length=1)
    probability: list[Share] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_curve(self) -> Self:
        if len(self.similarity) != len(self.probability):
            raise ValueError("similarity and probability have different lengths")
        if (np.diff(self.similarity) < 0).any() or (np.diff(self.probability) < 0).any():
            raise ValueError("similarity and probability have to rise")
        return self

    def share(self, similarity: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Give the share of results with each of these similarities that were the same person."""
        values = np.asarray(similarity, np.float64)
        return np.interp(values, self.similarity, self.probability)


def write_calibration(folder: Path, calibration: Calibration) -> Path:
    """Write the table into a checkpoint's folder.

    Raises
    ------
    CheckpointError
        When the folder is no checkpoint, or of other weights.
    """
    _check(folder, calibration)
    path = folder / CALIBRATION_NAME
    path.write_text(calibration.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return path


def read_calibration(folder: Path) -> Calibration | None:
    """Read the table of a checkpoint's folder; None where there is none.

    Raises
    ------
    CheckpointError
        When it is damaged, or of other weights.
    """
    path = folder / CALIBRATION_NAME
    try:
        found = Calibration.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    _check(folder, found)
    return found


def _check(folder: Path, calibration: Calibration) -> None:
    if calibration.weights_sha256 != read_config(folder).sha256:
        raise CheckpointError(
            f"{folder}: the calibration is of other weights; measure these with `binet benchmark "
            "run`, then `binet benchmark calibrate`"
        )
