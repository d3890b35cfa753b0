"""The compose files: valid, and hardened to the last service."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

import binet
from tests.containers import files
from tests.containers.files import COMPOSE, DOCKER

#: Files that stand alone; the other one is laid over the first.
WHOLE = ("compose.yaml", "compose.scaled.yaml")
SERVICES = [
    pytest.param(service, id=f"{name}:{key}")
    for name in WHOLE
    for key, service in files.compose(name)["services"].items()
]
COMMANDS: Any = typer.main.get_command(binet.app)


def test_they_are_valid() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    if not program.exists():
        pytest.skip("check-jsonschema is not installed")
    done = subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", *COMPOSE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_can_do_little(service: dict[str, Any]) -> None:
    user, _, group = service["user"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged", "pid", "network_mode", "devices"} & set(service)
    assert service["healthcheck"]["test"][0] == "CMD"
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["reservations"])
    assert "memory" in service["deploy"]["resources"]["limits"]
    default = service["image"].partition(":-")[2].rstrip("}") or service["image"]
    assert default.rpartition(":")[2] not in ("", "latest", default)


@pytest.mark.parametrize("service", SERVICES)
def test_secrets_are_files(service: dict[str, Any]) -> None:
    for name in service.get("environment", {}):
        assert not ("PASSWORD" in name or "SECRET" in name) or name.endswith("_FILE"), name
    # What is reached from elsewhere is reached from this machine alone, unless somebody says so.
    for port in service.get("ports", []):
        assert port.startswith("${BINET_LISTEN:-127.0.0.1}:")


@pytest.mark.parametrize("name", WHOLE)
def test_names_lead_somewhere(name: str) -> None:
    whole = files.compose(name)
    for key, service in whole["services"].items():
        volumes = service.get("volumes", [])
        sources = {one.partition(":")[0] for one in volumes if not one.startswith("${")}
        for source in sources:
            is_file = source.startswith("./") and (DOCKER / source).exists()
            assert is_file or source in whole["volumes"], (key, source)
        assert set(service.get("secrets", [])) <= set(whole.get("secrets", {}))
        assert set(service.get("depends_on", [])) <= set(whole["services"])
        assert set(service.get("networks", [])) <= set(whole.get("networks", {}))


def test_what_holds_data_reaches_nobody_outside() -> None:
    scaled = files.compose("compose.scaled.yaml")
    assert scaled["networks"]["inside"]["internal"] is True
    for name, service in scaled["services"].items():
        assert ("outside" in service["networks"]) == (name == "front")


def served() -> list[Any]:
    found = [pytest.param(files.command(target), id=target) for target in files.TARGETS]
    for path in COMPOSE:
        for key, service in files.compose(path.name)["services"].items():
            if key == "binet":
                found.append(pytest.param(service["command"], id=path.name))
    return found


@pytest.mark.parametrize("words", served())
def test_the_command_exists(words: list[str]) -> None:
    assert words[0] == "serve"
    context = COMMANDS.commands["serve"].make_context("serve", words[1:])
    assert context.params["host"] == "0.0.0.0"


def test_the_gpu_file_changes_the_image_and_asks_for_a_gpu() -> None:
    service = files.compose("compose.cuda.yaml")["services"]["binet"]
    assert service["command"][-2:] == ["--device", "cuda"]
    assert service["command"][:-2] == files.compose("compose.yaml")["services"]["binet"]["command"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_ray_is_started_with_options_that_it_has() -> None:
    ray: Any = pytest.importorskip("ray.scripts.scripts", reason="ray is not installed")
    for name in ("ray-head", "ray-worker"):
        service = files.compose("compose.scaled.yaml")["services"][name]
        assert service["entrypoint"] == ["ray"]
        assert service["command"][0] == "start"
        ray.start.make_context("start", list(service["command"][1:]))
        assert service["healthcheck"]["test"][1:3] == ["ray", "health-check"]
        ray.healthcheck.make_context("health-check", service["healthcheck"]["test"][3:])
