"""Checkpoints: what goes in comes out, and nothing else is let in."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from model import BINet, CheckpointError, load, save
from model.checkpoint import CONFIG_NAME, read_config, write_checkpoint
from model.errors import DeviceError
from tests.conftest import random_picture, random_targets, small_config, small_network
from tests.forked import Child


def weights_file(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save(small_network(), folder, {"recipe": "none"})
    return folder


def copy_of(folder: Path, tmp_path: Path) -> Path:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_trained_network_comes_back_whole(tmp_path: Path) -> None:
    network = small_network().train()
    scene = network.preprocessing.scene(random_picture(120, 120))
    network([scene], [random_targets([0, 1, -1])])
    save(network, tmp_path, {"recipe": "one step"})

    loaded, preprocessing = load(tmp_path)
    assert not loaded.training
    assert loaded.config == network.config
    assert preprocessing.config == network.config.preprocessing
    assert loaded.provenance == {"backbone_weights": "random", "recipe": "one step"}
    assert loaded.search_memory.lut.any()  # the OIM memory is part of it
    assert int(loaded.search_memory.queue_position) > 0
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    picture = random_picture(100, 100)
    expected = network.eval().detect([picture])[0].embeddings
    np.testing.assert_array_equal(loaded.detect([picture])[0].embeddings, expected)


def test_half_the_size_in_float16(tmp_path: Path) -> None:
    network = small_network()
    save(network, tmp_path / "whole")
    save(network, tmp_path / "half", dtype=torch.float16)
    sizes = [weights_file(tmp_path / name).stat().st_size for name in ("whole", "half")]
    assert 0.5 <= sizes[1] / sizes[0] < 0.52
    loaded, _ = load(tmp_path / "half")
    for name, value in network.state_dict().items():
        found = loaded.state_dict()[name]
        assert found.dtype == value.dtype, name
        expected = value.half().float() if value.is_floating_point() else value
        assert torch.equal(found, expected), name
    with torch.no_grad():
        network.predictor.score.bias.fill_(1e6)
    with pytest.raises(CheckpointError, match=r"score\.bias holds numbers that are too large"):
        save(network, tmp_path / "half", dtype=torch.float16)
    assert load(tmp_path / "half")[0].config == network.config  # the old one is still there


def test_the_files_explain_themselves(saved: Path) -> None:
    document = json.loads((saved / CONFIG_NAME).read_text())
    assert document["config"]["backbone"] == "mobilenet_v2"
    assert document["config"]["preprocessing"]["min_side"] == 128
    assert document["provenance"]["recipe"] == "none"
    assert document["sha256"][:16] in weights_file(saved).name
    assert {path.name for path in saved.iterdir()} == {CONFIG_NAME, weights_file(saved).name}


def test_saving_again_replaces(tmp_path: Path) -> None:
    network = small_network()
    save(network, tmp_path)
    with torch.no_grad():
        network.predictor.score.bias.add_(1)
    save(network, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    loaded, _ = load(tmp_path)
    assert torch.equal(loaded.predictor.score.bias, network.predictor.score.bias)


def write_again_and_again(folder: Path) -> None:
    for step in range(10_000):
        state = {"weight": torch.full((200_000,), float(step))}
        write_checkpoint(folder, small_config(), state, {"step": step})
        print(step, flush=True)


@pytest.mark.parametrize("after", [1, 7, 20])
def test_killed_while_writing(tmp_path: Path, after: int) -> None:
    with Child(write_again_and_again, tmp_path) as writer:
        for _ in range(after):
            last = int(writer.stdout.readline())
        writer.kill()
    checkpoint = read_config(tmp_path)
    assert checkpoint.provenance["step"] >= last
    state = safetensors.torch.load_file(tmp_path / checkpoint.weights)
    assert (state["weight"] == checkpoint.provenance["step"]).all()
    write_checkpoint(tmp_path, small_config(), {"weight": torch.ones(1)})
    assert len(list(tmp_path.iterdir())) == 2  # nothing half-written stays behind


def test_a_pickle_is_refused(tmp_path: Path, saved: Path) -> None:
    torch.save(small_network().state_dict(), tmp_path / "pytorch_model.bin")
    for path in (tmp_path / "pytorch_model.bin", tmp_path):
        with pytest.raises(CheckpointError, match="refused"):
            load(path)
    folder = copy_of(saved, tmp_path)
    document = json.loads((folder / CONFIG_NAME).read_text())
    pickle = (tmp_path / "pytorch_model.bin").read_bytes()
    weights_file(folder).write_bytes(pickle)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load(folder)
    document["sha256"] = hashlib.sha256(pickle).hexdigest()
    (folder / CONFIG_NAME).write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load(folder)


def test_damage_is_found(saved: Path, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    data = bytearray(weights_file(folder).read_bytes())
    data[len(data) // 2] ^= 1
    weights_file(folder).write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        load(folder)
    weights_file(folder).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "not a BINet checkpoint"),
        ('{"architecture": "bert"}', "not a BINet checkpoint"),
        ('{"format": "binet-checkpoint", "version": 99}', "version 99"),
        ('{"format": "binet-checkpoint", "version": 1}', "damaged"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / CONFIG_NAME).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load(tmp_path / "none")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"no config.json in it, found \['notes.txt'\]"):
        load(tmp_path)


def test_a_device_that_is_not_there(saved: Path) -> None:
    for device in ("cuda:99", "nothing"):
        with pytest.raises(DeviceError, match=f"There is no device '{device}' here"):
            load(saved, device)


def test_a_config_never_points_outside_its_folder(saved: Path, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    document = json.loads((folder / CONFIG_NAME).read_text())
    document["weights"] = f"../../{document['weights']}"
    (folder / CONFIG_NAME).write_text(json.dumps(document))
    assert read_config(folder).weights == weights_file(saved).name


def test_missing_unexpected_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    state = small_network().state_dict()
    embedding = state.pop("predictor.embedding.weight")
    state["predictor.embeding.weight"] = embedding
    state["predictor.score.bias"] = torch.zeros(3)
    write_checkpoint(tmp_path, small_config(), state)
    with pytest.raises(CheckpointError) as error:
        load(tmp_path)
    message = str(error.value)
    assert "missing predictor.embedding.weight" in message
    assert "unexpected predictor.embeding.weight" in message
    assert "predictor.score.bias has shape [3], expected [2]" in message


def test_hugging_face_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", no_network)
    network = small_network()
    network.save_pretrained(tmp_path)
    loaded = BINet.from_pretrained(tmp_path)
    assert isinstance(loaded, BINet)
    assert loaded.config == network.config
    assert torch.equal(loaded.predictor.embedding.weight, network.predictor.embedding.weight)
    load(tmp_path)  # the same format

    (tmp_path / CONFIG_NAME).write_text("{}")
    with pytest.raises(CheckpointError):
        BINet.from_pretrained(tmp_path)


def test_push_to_hub_sends_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself is not reachable in tests: what would be sent is looked at instead."""

    class Sent:
        repo_id = "someone/binet"

    def upload(_: object, *, folder_path: Path, **__: object) -> str:
        copy_of(Path(folder_path), tmp_path)
        return "url"

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: Sent)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload)
    small_network().push_to_hub("someone/binet")
    assert (tmp_path / "README.md").exists()
    load(tmp_path)


def test_a_download_from_the_hub(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo_id: str, filename: str, **_: object) -> str:
        asked.append((repo_id, filename))
        return str(saved / filename)

    monkeypatch.setattr("model.binet.hf_hub_download", download)
    loaded = BINet._from_pretrained(model_id="someone/binet", revision="main")
    assert asked == [
        ("someone/binet", CONFIG_NAME),
        ("someone/binet", weights_file(saved).name),
    ]
    assert loaded.config == small_config()
