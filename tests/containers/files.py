"""The images' build file, the compose files and the locks, as values."""

import json
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
CHART = DOCKER / "chart"
DOCKERFILE = DOCKER / "Dockerfile"
COMPOSE = sorted(DOCKER.glob("compose*.yaml"))
TARGETS = ("cpu", "cuda")


def compose(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))
    return read


def instructions() -> dict[str, list[tuple[str, str]]]:
    """Keyword and rest of each instruction of the Dockerfile, by stage, in order."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages: dict[str, list[tuple[str, str]]] = {}
    stage = ""
    for line in filter(None, text.replace("\\\n", " ").splitlines()):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            stage = rest.split()[-1]
        stages.setdefault(stage, []).append((keyword, rest.strip()))
    return stages


def stage(target: str) -> list[tuple[str, str]]:
    """Instructions of a stage, after those of the stages it is made from."""
    stages = instructions()
    own = stages[target]
    parent = own[0][1].split()[0]
    return [*(stage(parent) if parent in stages else []), *own]


def last(target: str, keyword: str) -> str:
    return [rest for name, rest in stage(target) if name == keyword][-1]


def environment(target: str) -> dict[str, str]:
    """What ENV sets in an image."""
    rests = [rest for keyword, rest in stage(target) if keyword == "ENV"]
    return {
        name: value
        for rest in rests
        for name, value in (word.split("=", 1) for word in rest.split())
    }


def command(target: str) -> list[str]:
    words: list[str] = json.loads(last(target, "CMD"))
    return words


def health_check(target: str) -> list[str]:
    words: list[str] = json.loads(last(target, "HEALTHCHECK").partition("CMD ")[2])
    return words


def lock(path: Path) -> dict[str, set[str]]:
    """Versions by package; several where markers choose."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


#: Of a service that loads torch and weights beside other tests.
START_S = 180.0


def wait_until_ready(address: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + START_S
    pause = threading.Event()
    said = "nothing"
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        try:
            answer = httpx.get(f"{address}/readyz", timeout=START_S)
        except httpx.TransportError as error:
            said = str(error)
        else:
            if answer.status_code == 200:
                return
            said = answer.text
        pause.wait(0.2)
    raise AssertionError(f"it does not become ready: {said}")
