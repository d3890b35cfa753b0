"""The plan for large archives: its tables are the script's, and its simulation makes sense."""

from pathlib import Path

import numpy as np
import pytest

from perf import scale_plan

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scale.md"


def test_the_page_has_the_tables_of_the_script(capsys: pytest.CaptureFixture[str]) -> None:
    scale_plan.main()
    printed = capsys.readouterr().out.splitlines()
    written = PAGE.read_text(encoding="utf-8").splitlines()
    missing = [line for line in printed if line and line not in written]
    assert not missing, "run python -m perf.scale_plan and put its tables into docs/scale.md"


def test_leased_clips_are_all_done_and_losses_cost_the_rest_of_a_clip() -> None:
    hours = np.full(100, 1.0)
    assert scale_plan._leased(hours, 10, 0) == 10
    # One of ten ends at 5 h; nine do the other 50 hours, after a clip that was cut.
    assert 10 < scale_plan._leased(hours, 10, 1) <= 5 + np.ceil(50 / 9) + 1
    assert scale_plan._leased(hours, 1, 0) == 100
