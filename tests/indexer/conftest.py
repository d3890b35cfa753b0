"""Galleries and fixtures of the indexer's tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.indexer.galleries import new_frames, new_gallery, new_source


@pytest.fixture
def gallery(tmp_path: Path) -> Any:
    """12 boxes: two cameras, two sources, six frames."""
    made, encoder = new_gallery(tmp_path / "gallery")
    rng = np.random.default_rng(1)
    for camera in ("door", "yard"):
        source = new_source(made, camera, camera)
        made.add_frames(encoder.id, source, new_frames(rng, [3, 1, 2]))
    with made:
        yield made
