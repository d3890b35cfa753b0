"""The table of what similarities have meant: of these weights alone, and a curve."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from model import CheckpointError, save
from model.calibration import (
    CALIBRATION_NAME,
    Calibration,
    read_calibration,
    write_calibration,
)
from model.checkpoint import read_config
from tests.conftest import small_network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(small_network(), tmp_path / "weights")
    return tmp_path / "weights"


def table(sha256: str) -> Calibration:
    return Calibration(
        weights_sha256=sha256,
        benchmark="somewhere",
        query="crop",
        pairs=100,
        similarity=[0.2, 0.4, 0.8],
        probability=[0.0, 0.1, 0.9],
    )


def test_it_is_kept_with_the_weights(folder: Path) -> None:
    assert read_calibration(folder) is None
    made = table(read_config(folder).sha256)
    write_calibration(folder, made)
    assert read_calibration(folder) == made
    found = made.share([-1, 0.3, 0.6, 1.0])
    np.testing.assert_allclose(found, [0, 0.05, 0.5, 0.9])


def test_other_weights_have_another(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="of other weights"):
        write_calibration(folder, table("0" * 64))
    write_calibration(folder, table(read_config(folder).sha256))
    path = folder / CALIBRATION_NAME
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"weights_sha256": "1" * 64}))
    with pytest.raises(CheckpointError, match="of other weights"):
        read_calibration(folder)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        read_calibration(folder)


@pytest.mark.parametrize(
    ("similarity", "probability"),
    [([], []), ([0.1], [0.1, 0.2]), ([0.2, 0.1], [0.1, 0.2]), ([0.1, 0.2], [0.1, 1.2])],
)
def test_what_is_no_curve(similarity: list[float], probability: list[float]) -> None:
    fields = table("0" * 64).model_dump()
    with pytest.raises(ValidationError):
        Calibration(**fields | {"similarity": similarity, "probability": probability})
