"""Runs the bash and Python blocks of a page in the order of the page; CONTRIBUTING.md says how.

`binet` commands run in this process, everything else in bash. A comment right before a block says
what is different: `<!-- not run: REASON -->`, `<!-- exit 1: REASON -->` (of each command), and
`<!-- with OPTIONS: REASON -->` (added to each command).
"""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from typer.testing import CliRunner

import binet

ROOT = Path(__file__).resolve().parents[1]
#: tests/containers/test_operations.py runs that page: it needs an archive and a restart.
ELSEWHERE = ROOT / "docs" / "operations.md"
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page != ELSEWHERE),
]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^>]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
#: What would need bash, a pipe for example.
SHELL = re.compile(r"[|<>$;&`]")
#: Patience with a server's start.
START_S = 180.0

TRAINING = (
    "backbone_weights=random steps=2 warmup_steps=0 log_every=1 checkpoint_every=1 "
    "validate_every=2 workers=0 hold_out=0.3 network.preprocessing.min_side=64 "
    "network.preprocessing.max_side=96 network.rois_per_scene=4 network.rpn_post_nms_train=8 "
    "network.rpn_post_nms_test=8 network.backbone=mobilenet_v2 network.queue_size=8"
)
_SET = " ".join(f"--set {setting}" for setting in TRAINING.split())
#: What is added to long commands so that they take seconds; the last of equal options counts.
SMALL = {
    "binet train": f"{_SET} --device cpu",
    "binet synth": "--identities 5 --test-identities 3 --scenes 8 --test-scenes 10 --cameras 2 "
    "--size 160x160",
    "binet benchmark run": "--device cpu --workers 1 --no-pictures",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with its mark and its first line."""

    language: str
    text: str
    mark: str
    line: int

    @property
    def runs(self) -> bool:
        return self.language in ("bash", "python") and not self.mark.startswith("not run: ")

    @property
    def exit_code(self) -> int:
        match = re.match(r"exit (\d+): ", self.mark)
        return int(match[1]) if match else 0

    def commands(self) -> list[str]:
        """Commands of bash, one each, with the options of the mark."""
        match = re.match(r"with (.+?): ", self.mark)
        more = f" {match[1]}" if match else ""
        lines = self.text.replace("\\\n", " ").splitlines()
        without_comments = (re.sub(r"(^|\s)#\s.*", "", line).strip() for line in lines)
        return [line + more for line in without_comments if line]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(m["language"], m["text"], m["mark"] or "", text.count("\n", 0, m.start()) + 1)
        for m in BLOCK.finditer(text)
    ]


class Runner:
    """Runs blocks in the working folder; a server that they start ends with it."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {}
        self._stack = ExitStack()
        self._port: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def run(self, block: Block, page: str) -> None:
        if block.language == "python":
            source = compile("\n" * block.line + self._here(block.text), page, "exec")
            exec(source, self._names)
            return
        for command in block.commands():
            began = time.perf_counter()
            code, output = self._command(self._here(command))
            print(f"{time.perf_counter() - began:.1f} s: {command}")
            assert code == block.exit_code, f"{page}:{block.line}: {command}\n{output[-4000:]}"

    def _here(self, text: str) -> str:
        """With the port that the server of this page has."""
        return text.replace(":8000", f":{self._port}") if self._port else text

    def _command(self, command: str) -> tuple[int, str]:
        small = next((more for name, more in SMALL.items() if command.startswith(f"{name} ")), "")
        if command.startswith("torchrun "):
            small = SMALL["binet train"]
        command = f"{command} {small}".strip()
        if command.startswith("binet serve"):
            return self._serve(command)
        if command.startswith("binet ") and not SHELL.search(command):
            result = CliRunner().invoke(binet.app, shlex.split(command)[1:])
            return result.exit_code, f"{result.output}\n{result.exception!r}"
        function = f'binet() {{ {shlex.quote(sys.executable)} -m binet "$@"; }}\n'
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", function + command],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def _serve(self, command: str) -> tuple[int, str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        words = [*shlex.split(command)[1:], "--port", str(self._port)]
        with Path("serve.log").open("w") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "binet", *words], env=_environment(), stderr=log, stdout=log
            )
        self._stack.callback(server.wait, 30)
        self._stack.callback(server.terminate)
        until = time.monotonic() + START_S
        while time.monotonic() < until and server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5)
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
            else:
                return 0, ""
        return server.poll() or 1, Path("serve.log").read_text()[-2000:]


def _environment() -> dict[str, str]:
    """Ours first: the environment's programs, this checkout, and a curl that tells of errors."""
    Path(".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    return {
        **os.environ,
        "CURL_HOME": str(Path.cwd()),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
