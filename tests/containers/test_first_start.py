"""The image's own commands, in its own environment, on a source tree that nothing is written to."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from PIL import Image

from model.files import DEFAULT_WEIGHTS
from tests.conftest import random_picture
from tests.containers import files
from tests.containers.files import ROOT
from tests.service.conftest import PATIENCE_S

PACKAGES = ("benchmark", "indexer", "model", "service", "training")


@dataclass(frozen=True)
class Container:
    """What the image runs in: `root` stands for its file system."""

    root: Path
    port: int

    def here(self, words: list[str]) -> list[str]:
        return [self._here(word) for word in words]

    def _here(self, text: str) -> str:
        match = re.fullmatch(r"/(archive|data|tmp)(/\w+)?", text)
        moved = f"{self.root}{text}" if match else text
        return moved.replace(":8000", f":{self.port}")

    @property
    def environment(self) -> dict[str, str]:
        own = files.environment("cpu")
        own["PATH"] = own["PATH"].replace("/opt/binet/bin", str(Path(sys.executable).parent))
        own["PATH"] = own["PATH"].replace("$PATH", os.defpath)
        own = {name: self._here(value) for name, value in own.items()}
        # The program is a copy of the checkout: an installed one would be found before it.
        return own | {"PYTHONPATH": str(self.root / "opt"), "OMP_NUM_THREADS": "1"}

    def popen(self, words: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.here(words),
            cwd=self.root / "data",
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.popen(list(words))
        try:
            output, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        return subprocess.CompletedProcess(words, process.returncode, output, errors)

    def binet(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What `docker compose run --rm binet ...` runs: the entry point with other arguments."""
        return self.run(*BINET, *words)

    @contextmanager
    def service(self) -> Iterator[subprocess.Popen[str]]:
        """The image's CMD, at a port that is free here."""
        process = self.popen([*BINET, *files.command("cpu"), "--port", str(self.port)])
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


#: The image's entry point is `binet`; -P keeps the working folder out, as it does.
BINET = [sys.executable, "-P", "-m", "binet"]


@pytest.fixture
def container(tmp_path: Path) -> Container:
    program = tmp_path / "opt"
    for name in PACKAGES:
        kept = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(ROOT / name, program / name, ignore=kept)
    shutil.copy(ROOT / "binet.py", program)
    (program / "model" / "weights").mkdir()
    shutil.copytree(DEFAULT_WEIGHTS, program / "model" / "weights" / DEFAULT_WEIGHTS.name)
    for path in sorted(program.rglob("*"), reverse=True):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    for name in ("data", "tmp", "archive"):
        (tmp_path / name).mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    for number in range(2):
        scene = random_picture(96, 128, number)
        Image.fromarray(scene).save(tmp_path / "archive" / f"2026-05-04_10-0{number}-00.png")
    return Container(tmp_path, port)


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.slow
def test_from_an_empty_volume_to_an_answer(container: Container) -> None:
    program = listing(container.root / "opt")
    address = f"http://127.0.0.1:{container.port}"
    check = [sys.executable, *files.health_check("cpu")[1:]]

    # Without a gallery and keys it says in one line what to do, and ends.
    refused = container.binet(*files.command("cpu"))
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert container.run(*check).returncode == 1

    secret = container.binet("keys", "create", "admin", "--role", "admin").stdout.strip()
    indexed = container.binet("index", "/archive", "--keep", "thumbnails")
    assert indexed.returncode == 0, indexed.stderr
    with container.service() as process:
        files.wait_until_ready(address, process)
        healthy = container.run(*check)
        assert healthy.returncode == 0, healthy.stderr
        crop = (container.root / "archive" / "2026-05-04_10-00-00.png").read_bytes()
        search = f"{address}/v1/search"
        assert httpx.post(search, files={"crop": crop}).status_code == 401
        key = {"Authorization": f"Bearer {secret}"}
        answer = httpx.post(search, files={"crop": crop}, headers=key, timeout=PATIENCE_S)
        assert answer.status_code == 200, answer.text
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) in (0, -signal.SIGTERM)

    assert listing(container.root / "opt") == program
    made = {path.name for path in container.root.iterdir()}
    assert made == {"archive", "data", "opt", "tmp"}
    assert {path.name for path in (container.root / "data").iterdir()} == {"gallery"}
