"""`binet benchmark crops`: the crop encoder by Market-1501's protocol."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import binet
from model import save
from tests.conftest import random_picture, small_network


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two people by two cameras; the first looks the same in both, the second does not."""
    save(small_network(), tmp_path / "weights")
    (tmp_path / "crops").mkdir()
    for name, seed in (("0001_c1", 1), ("0001_c2", 1), ("0002_c1", 2), ("0002_c2", 3)):
        picture = Image.fromarray(random_picture(64, 32, seed=seed))
        picture.save(tmp_path / "crops" / f"{name}s1_000001_01.jpg", quality=95)
    return tmp_path


def test_it_prints_metrics_with_intervals(folder: Path) -> None:
    line = ["benchmark", "crops", "--weights", str(folder / "weights"), "--data"]
    result = CliRunner().invoke(binet.app, [*line, str(folder / "crops"), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["queries"] == 4
    for name in ("mAP", "rank-1"):
        interval = found[name]
        assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1
    assert found["rank-1"]["value"] >= 0.5
    text = CliRunner().invoke(binet.app, [*line, str(folder / "crops")]).stdout
    assert text.startswith("4 queries: mAP ")
    assert f"rank-1 {100 * found['rank-1']['value']:.1f} (" in text
