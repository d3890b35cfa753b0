"""The job for GPU runners: its steps run here on drawn worlds, its workflow is safe."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.forked import commands

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the job is a Bash script")
def test_the_steps_of_the_job(tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    with commands(tmp_path) as binet:
        done = subprocess.run(
            ["bash", ROOT / ".ci" / "benchmark-smoke", tmp_path / "smoke"],
            env={**os.environ, "BINET": binet, "GITHUB_STEP_SUMMARY": str(summary)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("benchmark-smoke: passed\n")
    text = summary.read_text()
    assert "No baseline is committed" not in text.split("## prw", 2)[2]
    assert "FAILED: CUHK-SYSU 100, scene query" in text or "FAILED: PRW" in text
    assert not list((tmp_path / "smoke" / "first").rglob("*.jpg")), "no pictures of people"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_pin_actions_and_ask_for_little(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    workflow: dict[str, Any] = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job.get("permissions", {}) in ({}, {"contents": "read"})
        assert job["timeout-minutes"]
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
            # What a stranger can write must not become part of a command.
            assert "${{" not in step.get("run", "")
    for script in re.findall(r"\.ci/[\w-]+", text):
        assert (ROOT / script).is_file()
