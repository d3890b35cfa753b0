"""docs/operations.md: every command is run, in order, or checked where it needs an engine."""

import ast
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from typer.testing import CliRunner

import binet
from model import save
from tests.conftest import small_network
from tests.containers import files
from tests.containers.files import DOCKER, ROOT
from training.synth.plan import SynthConfig
from training.synth.write import write_world

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run: [^>]+) -->\n)?^```bash\n(?P<text>.*?)^```$", re.M | re.S
)
#: What would need a shell.
SHELL = re.compile(r"[|<>$;&]")
COMMANDS: Any = typer.main.get_command(binet.app)
#: What a block that is not run may call.
ENGINES = {
    "docker",
    "helm",
    "kubectl",
    "export",
    "install",
    "python3",
    "chmod",
    "sudo",
    "venv/bin/pip",
}


def lines(marked: bool) -> list[str]:
    return [
        line
        for block in BLOCK.finditer(PAGE)
        if bool(block["mark"]) == marked
        for line in block["text"].replace("\\\n", " ").splitlines()
    ]


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page takes as given: an archive, a crop, other weights."""
    drawn = SynthConfig(
        seed=7, identities=3, test_identities=5, scenes=6, test_scenes=12, cameras=2, width=320,
        height=320,
    )  # fmt: skip
    write_world(tmp_path / "drawn", "prw", drawn)
    (tmp_path / "archive" / "yard").mkdir(parents=True)
    for number, path in enumerate(sorted((tmp_path / "drawn" / "frames").glob("*.jpg"))[:3]):
        shutil.copy(path, tmp_path / "archive" / "yard" / f"2026-05-04_10-0{number}-00.jpg")
        shutil.copy(path, tmp_path / "person.jpg")
    save(small_network(rpn_post_nms_test=8), tmp_path / "runs" / "better" / "final")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment() -> dict[str, str]:
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": programs}


@contextmanager
def serving(line: str, port: int) -> Iterator[None]:
    words = [*shlex.split(line)[1:], "--port", str(port)]
    with Path("serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "binet", *words], env=environment(), stderr=log, text=True
        )
        try:
            files.wait_until_ready(f"http://127.0.0.1:{port}", process)
            yield
        finally:
            process.terminate()
            process.wait(30)


def run(line: str) -> None:
    if line.startswith("binet ") and (not SHELL.search(line) or " > " in line):
        words, _, target = line.partition(" > ")
        result = CliRunner().invoke(binet.app, shlex.split(words)[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
        if target:
            Path(target).write_text(result.stdout)
        return
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
def test_its_commands_run(given: Path) -> None:
    found = lines(marked=False)
    (serve,) = [line for line in found if line.startswith("binet serve")]
    begin = found.index(serve)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    for line in found[:begin]:
        run(line)
    with serving(serve, port):
        for line in found[begin + 1 :]:
            # An error of the service is one of the command, too.
            more = "curl --fail-with-body -sS " if line.startswith("curl ") else ""
            run(re.sub(r"^curl ", more, line).replace(":8000", f":{port}"))
    assert (given / "asked.html").is_file()
    assert "rows are as they were written" in (given / "saved" / "audit.txt").read_text()


def test_what_is_not_run_calls_engines_and_names_what_is_there() -> None:
    found = lines(marked=True)
    assert found
    for line in found:
        program, *words = shlex.split(line)
        assert program in ENGINES, line
        for word in words:
            if word.startswith("docker/") and not word.startswith(
                ("docker/secrets", "docker/state")
            ):
                assert (ROOT / word).exists(), word
        if program == "docker" and words[0] == "compose":
            check_compose(words[1:])
        if "binet" in words[3:] and program == "kubectl":
            check_binet(words[words.index("--") + 2 :])


def check_compose(words: list[str]) -> None:
    assert words[0] == "-f"
    services = yaml.safe_load((ROOT / words[1]).read_text())["services"]
    verb, *rest = words[2:]
    if verb == "up":
        names = {word.partition("=")[0] for word in rest if not word.startswith("-")}
        assert names <= set(services), words
        return
    assert verb in ("run", "exec"), words
    service, *command = [word for word in rest if word not in ("--rm", "-T")]
    assert service in services, words
    if verb == "run":
        check_binet(command)
    elif command[0] == "binet":
        check_binet(command[1:])


def check_binet(words: list[str]) -> None:
    command = COMMANDS
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    assert not hasattr(command, "commands"), words
    for word in words:
        assert not word.startswith("-") or word in known, words


def test_its_messages_are_those_of_the_program() -> None:
    said = "\n".join(
        node.value
        for package in ("indexer", "service")
        for path in (ROOT / package).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    table = PAGE[PAGE.index("| it says |") :]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) > 8
    for message in messages:
        assert message in said, message


def test_the_chart_is_told_of_values_that_it_has() -> None:
    values = yaml.safe_load((DOCKER / "chart" / "values.yaml").read_text())
    for name in [*re.findall(r"--set ([\w.]+)=", PAGE), "networkPolicy.toPorts", "tools.enabled"]:
        found = values
        for part in name.split("."):
            found = found[part]
