"""The build file and the locks of the images: pinned, not root, nothing secret, one faiss."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.containers import files
from tests.containers.files import DOCKER, DOCKERFILE, ROOT, TARGETS

TORCH = {"torch", "torchvision"}
LOCK = {target: files.lock(DOCKER / f"requirements-{target}.lock") for target in TARGETS}


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_nobody_is_root_and_the_image_says_how_it_is(target: str) -> None:
    assert files.last(target, "USER") == "10001:10001"
    assert files.health_check(target)
    assert files.last(target, "ENTRYPOINT") == '["binet"]'
    after = files.instructions()[target]
    assert all(keyword in ("FROM", "ENV", "COPY", "CMD") for keyword, _ in after)


def test_base_images_are_pinned_and_nothing_is_secret() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert re.search(r"^ARG PYTHON=\d+\.\d+\.\d+-", text, re.MULTILINE)
    bases = {stage[0][1].split()[0] for name, stage in files.instructions().items() if name}
    assert bases == {"python:${PYTHON}", "build", "run"}
    assert not re.search(r"password|secret|token", text, re.IGNORECASE)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    copied = {
        source
        for instructions in files.instructions().values()
        for keyword, rest in instructions
        if keyword == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(Path(source).match(pattern) for pattern in allowed), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= copied


def test_an_image_has_one_faiss() -> None:
    assert "faiss-cpu" in LOCK["cpu"]
    assert "faiss-gpu" in LOCK["cuda"]
    assert "faiss-gpu" not in LOCK["cpu"]
    assert "faiss-cpu" not in LOCK["cuda"]
    assert not any(name.startswith(("nvidia-", "triton", "torch")) for name in LOCK["cpu"])


@pytest.mark.parametrize(("target", "vectors"), [("cpu", "cpu"), ("cuda", "gpu")])
def test_an_image_has_what_its_extras_need(target: str, vectors: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = list(project["dependencies"])
    for extra in (vectors, "service", "video", "postgres", "milvus", "cluster"):
        wanted += extras[extra]
    held = LOCK[target] | (files.lock(ROOT / "constraints.in") if target == "cpu" else {})
    for line in wanted:
        requirement = Requirement(line)
        versions = held[canonicalize_name(requirement.name)]
        assert all(version in requirement.specifier for version in versions), line
    # They are built with what the lock holds, without the index.
    assert "setuptools" in held


@pytest.mark.parametrize("target", TARGETS)
def test_the_locks_agree(target: str) -> None:
    tested = files.lock(ROOT / "requirements-dev.lock")
    for name, versions in LOCK[target].items():
        assert versions <= tested.get(name, versions), name
    assert files.lock(ROOT / "constraints.in").keys() == TORCH
