"""`binet train` as a user calls it."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner, Result

import binet
from model import load
from tests.training.test_loop import crop_folder
from training.synth.plan import SynthConfig
from training.synth.write import write_world

#: Seconds instead of an hour.
QUICK = [
    "backbone_weights=random",
    "steps=4",
    "warmup_steps=1",
    "log_every=2",
    "checkpoint_every=2",
    "validate_every=2",
    "hold_out=0.2",
    "network.preprocessing.min_side=96",
    "network.preprocessing.max_side=96",
    "network.rois_per_scene=8",
    "augmentation.colour=0.2",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = tmp_path_factory.mktemp("data") / "world"
    config = SynthConfig(
        identities=5, test_identities=1, scenes=12, test_scenes=4, cameras=2, width=160, height=160
    )
    write_world(world, "prw", config)
    return world


def run(data: Path, out: Path, *arguments: str) -> Result:
    settings = [word for setting in QUICK for word in ("--set", setting)]
    fixed = ["train", "--recipe", "cpu-small", "--data", str(data), "--out", str(out)]
    return CliRunner().invoke(binet.app, [*fixed, *settings, *arguments])


def test_a_run_with_everything_on(data: Path, tmp_path: Path) -> None:
    crops = str(crop_folder(tmp_path))
    more = ["--crops", crops, "--set", "crops_per_batch=2", "--crops-held-out", crops]
    result = run(data, tmp_path / "run", "--tensorboard", *more)
    assert result.exit_code == 0, result.output
    assert "binet after 4 steps" in result.output
    network, _ = load(tmp_path / "run" / "final")
    assert network.provenance["training_crops"] == 2
    assert (tmp_path / "run" / "best" / "config.json").is_file()
    validated = (tmp_path / "run" / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in validated] == [2, 4]
    assert all({"scene_mAP", "reid_mAP"} <= json.loads(line).keys() for line in validated)

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss/loss", "loss/oim_instance", "lr/lr", "time/data_s", "validation/scene_mAP"} <= {
        *tags["scalars"]
    }
    assert [event.step for event in events.Scalars("validation/scene_mAP")] == [2, 4]
    (picture, *_) = tags["images"]
    assert picture.startswith("scenes/")
    assert [(event.width, event.height) for event in events.Images(picture)] == [(160, 160)] * 2


def test_resuming_needs_the_same_settings(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "run").exit_code == 0
    again = run(data, tmp_path / "run", "--resume")
    assert again.exit_code == 0, again.output
    other = run(data, tmp_path / "run", "--resume", "--set", "steps=6")
    assert "another recipe: steps differ" in str(other.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "crops_per_batch=2"], "crops_per_batch is 2 and there are 0 crops"),
        (["--set", "learning_rate=1"], "learning_rate: Extra inputs are not permitted"),
        (["--device", "cuda:99"], "There is no device 'cuda:99' here; leave --device out"),
        (["--crops", "nowhere"], "nowhere: expected a folder or a .zip file of crops"),
    ],
)
def test_errors_say_what_to_do(
    arguments: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    result = run(data, tmp_path / "run", *arguments)
    assert result.exit_code == 1
    assert message in str(result.exception)
