"""A run: what it writes, that it can be killed at any time, and that it learns."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn

from model import BINet, create, load
from model.annotations import AnnotatedScene
from tests.conftest import random_picture
from tests.forked import Child, on_ranks
from tests.training.scenes import COLOURS, tiny_recipe, tiny_world
from training.datasets.crops import number_crops
from training.datasets.opening import open_dataset
from training.errors import RunError
from training.loop import Process, train
from training.recipe import Recipe, load_recipe
from training.state import saved_states, step_of
from training.synth.plan import SynthConfig
from training.synth.write import write_world
from training.validation import (
    embed_queries,
    embed_scenes,
    every_person_once,
    hold_out,
    search_metrics,
    validate,
)

PIDS = len(COLOURS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> list[AnnotatedScene]:
    return tiny_world(tmp_path_factory.mktemp("world"))


def weights(run: Path) -> dict[str, Tensor]:
    return load(run / "final")[0].state_dict()


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


class Recorder:
    """A tracker of one's own."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.validated: list[tuple[int, dict[str, float]]] = []
        self.drawn: list[tuple[int, dict[str, Tensor]]] = []
        self.closed = False

    def scalars(self, step: int, values: dict[str, float]) -> None:
        assert {"loss", "lr", "step_s", "data_s", "oim_search"} <= values.keys()
        self.steps.append(step)

    def validation(self, step: int, values: dict[str, float]) -> None:
        self.validated.append((step, values))

    def pictures(self, step: int, pictures: dict[str, Tensor]) -> None:
        self.drawn.append((step, pictures))

    def close(self) -> None:
        self.closed = True


def test_a_run_folder_explains_itself(world: list[AnnotatedScene], tmp_path: Path) -> None:
    recipe, recorder = tiny_recipe(steps=3), Recorder()
    network = train(recipe, world, PIDS, tmp_path / "run", trackers=[recorder])
    run = tmp_path / "run"
    assert Recipe.model_validate_json((run / "recipe.json").read_text()) == recipe
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    assert [line["step"] for line in log(run)] == recorder.steps == [1, 2, 3]
    explained = set(re.findall(r"`([a-z.-]+)/?` \|", (run / "README.md").read_text()))
    assert {path.name for path in run.iterdir()} - {"README.md"} <= explained
    assert recorder.closed
    loaded, _ = load(run / "final")
    assert loaded.provenance["recipe"] == recipe.model_dump(mode="json")
    assert loaded.provenance["step"] == 3
    assert_equal(loaded.state_dict(), network.state_dict())
    assert [step_of(state) for state in saved_states(run / "states")] == [3]


def test_the_best_network_at_validation_is_kept(
    world: list[AnnotatedScene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured as 0.2, 0.7, 0.5: the second is kept, and the run goes on undisturbed."""
    scores = iter([0.2, 0.7, 0.5])

    def measured(network: BINet, scenes: Sequence[AnnotatedScene]) -> dict[str, float]:
        assert not network.training
        return {**validate(network, scenes), "scene_mAP": next(scores)}

    kept, held_out, pids = hold_out(world, 0.25, seed=0)
    fields = {"steps": 6, "hold_out": 0.25, "ema": 0.5, "checkpoint_every": 3}
    undisturbed = train(
        tiny_recipe(**fields, validate_every=99), kept, pids, tmp_path / "a", held_out=held_out
    )
    monkeypatch.setattr("training.record.validate", measured)
    recorder = Recorder()
    network = train(
        tiny_recipe(**fields, validate_every=2),
        kept,
        pids,
        tmp_path / "b",
        trackers=[recorder],
        held_out=held_out,
    )
    assert_equal(undisturbed.state_dict(), network.state_dict())
    lines = (tmp_path / "b" / "validation.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6]
    assert [step for step, _ in recorder.validated] == [2, 4, 6]
    best, _ = load(tmp_path / "b" / "best")
    assert best.provenance["step"] == 4
    assert best.provenance["scene_mAP"] == 0.7
    assert [step for step, _ in recorder.drawn] == [3, 6]
    for picture in recorder.drawn[0][1].values():
        assert (picture.dtype, picture.ndim) == (torch.uint8, 3)


def test_a_compiled_trunk_learns_the_same(
    world: list[AnnotatedScene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is traced as for a compiler, and run without one."""
    compiled = []

    def traced(self: nn.Module) -> None:
        compiled.append(self)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", traced)
    networks = [
        train(tiny_recipe(steps=2, compile=on), world, PIDS, tmp_path / str(on))
        for on in (False, True)
    ]
    assert compiled == [networks[1].trunk]
    eager, traced_state = (network.state_dict() for network in networks)
    for name, value in eager.items():
        torch.testing.assert_close(traced_state[name], value, rtol=1e-4, atol=1e-5)


def test_crops_join_the_batches(world: list[AnnotatedScene], tmp_path: Path) -> None:
    crops, pids = number_crops([crop_folder(tmp_path)], PIDS)
    recipe = tiny_recipe(crops_per_batch=2)
    network = train(recipe, world, pids, tmp_path / "run", crops=crops)
    # Their rows of the look-up table are filled, and resuming is as exact as without them.
    assert bool(network.search_memory.filled[PIDS:].all())
    with pytest.raises(KilledError):
        train(recipe, world, pids, tmp_path / "cut", trackers=[Killer(at=5)], crops=crops)
    train(recipe, world, pids, tmp_path / "cut", resume=True, crops=crops)
    assert_equal(weights(tmp_path / "run"), weights(tmp_path / "cut"))


def crop_folder(folder: Path) -> Path:
    crops = folder / "crops"
    crops.mkdir()
    for pid in (3, 8):
        name = f"{pid:04}_c1s1_000001_01.jpg"
        Image.fromarray(random_picture(64, 32, seed=pid)).save(crops / name)
    return crops


VARIED: dict[str, dict[str, object]] = {
    "plain": {},
    "adamw": {"optimiser": "adamw", "lr": 1e-4, "cosine": True, "warmup_steps": 2},
    "average": {"ema": 0.9, "accumulation": 2, "group_by_shape": True},
    "bfloat16": {"precision": "bfloat16"},
}


class KilledError(Exception):
    """Stands for a kill: raised from a tracker."""


class Killer(Recorder):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def scalars(self, step: int, values: dict[str, float]) -> None:
        super().scalars(step, values)
        if step == self.at:
            raise KilledError


@pytest.mark.parametrize("kind", VARIED)
def test_resume_is_bit_equal(world: list[AnnotatedScene], tmp_path: Path, kind: str) -> None:
    recipe = tiny_recipe(**VARIED[kind])
    train(recipe, world, PIDS, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(recipe, world, PIDS, tmp_path / "cut", trackers=[Killer(at=5)])
    assert [step_of(state) for state in saved_states(tmp_path / "cut/states")] == [4]
    train(recipe, world, PIDS, tmp_path / "cut", resume=True)
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    without_times = [
        [{k: v for k, v in line.items() if not k.endswith("_s")} for line in log(tmp_path / run)]
        for run in ("whole", "cut")
    ]
    assert without_times[0] == without_times[1]


class Printer(Recorder):
    def scalars(self, step: int, values: dict[str, float]) -> None:
        super().scalars(step, values)
        print(step, flush=True)


def run_and_print(world: list[AnnotatedScene], folder: Path, resume: bool) -> None:
    torch.set_num_threads(1)
    recipe = tiny_recipe(checkpoint_every=1)
    train(recipe, world, PIDS, folder, resume=resume, trackers=[Printer()])


def test_killed_again_and_again(world: list[AnnotatedScene], tmp_path: Path) -> None:
    """`kill -9` right after a step, while its state is being written, until the run is through."""
    train(tiny_recipe(checkpoint_every=1), world, PIDS, tmp_path / "whole")
    status, kills = None, 0
    while status != 0:
        with Child(run_and_print, world, tmp_path / "run", status is not None) as runner:
            steps = [runner.stdout.readline() for _ in range(2)]
            if steps[1]:
                runner.kill()
                kills += 1
            status = runner.wait()
            assert status in (0, -9), runner.stderr.read()
    assert kills >= 3
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_the_batch(
    world: list[AnnotatedScene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward: Callable[..., dict[str, Tensor]] = BINet.forward

    def broken(self: BINet, *args: object) -> dict[str, Tensor]:
        losses = forward(self, *args)
        return {**losses, "roi_box": losses["roi_box"] * torch.inf}

    monkeypatch.setattr(BINet, "forward", broken)
    with pytest.raises(RunError, match=r"step 1: not finite: roi_box; the batch is in .*bad-batch"):
        train(tiny_recipe(), world, PIDS, tmp_path / "run")
    batch = torch.load(tmp_path / "run" / "bad-batch.pt", weights_only=True)
    assert len(batch["scenes"]) == 2
    assert batch["scenes"][0]["boxes_xyxy"].shape[1] == 4


def test_what_cannot_be_started_or_resumed_is_said(
    world: list[AnnotatedScene], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match="no run to resume"):
        train(tiny_recipe(), world, PIDS, run, resume=True)
    with pytest.raises(RunError, match="no scenes"):
        train(tiny_recipe(), [], PIDS, run)
    with pytest.raises(RunError, match="crops_per_batch is 2 and there are 0 crops"):
        train(tiny_recipe(crops_per_batch=2), world, PIDS, run)
    with pytest.raises(RunError, match=r"hold_out is 0\.1 and 0 scenes are held out"):
        train(tiny_recipe(hold_out=0.1), world, PIDS, run)
    train(tiny_recipe(steps=1), world, PIDS, run)
    with pytest.raises(RunError, match="already: give --resume"):
        train(tiny_recipe(steps=1), world, PIDS, run)
    with pytest.raises(RunError, match="another recipe: lr, steps differ"):
        train(tiny_recipe(steps=2, lr=0.5), world, PIDS, run, resume=True)


#: With crops, and the interaction with the sum of Eq. 3.
SHARED_NETWORK = {**tiny_recipe().network, "interaction_reduction": "sum"}
SHARED_RUN: dict[str, object] = {
    "batch_size": 1,
    "crops_per_batch": 1,
    "steps": 3,
    "network": SHARED_NETWORK,
}


def first_ones(n: int, **_: object) -> Tensor:
    """Stands for `torch.randperm`: RoIs are then sampled alike, whoever samples them."""
    return torch.arange(n)


def on_rank(rank: int, folder: str, world: list[AnnotatedScene], freeze: str) -> None:
    torch.set_num_threads(1)
    torch.randperm = first_ones  # type: ignore[assignment]
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    crops, pids = number_crops([Path(folder) / "crops"], PIDS)
    recipe = tiny_recipe(
        **{**SHARED_RUN, "network": {**SHARED_NETWORK, "freeze_batchnorm": freeze}}
    )
    network = train(
        recipe, world, pids, Path(folder) / "run", process=Process(rank, 2), crops=crops
    )
    torch.save(network.state_dict(), f"{folder}/rank-{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_are_one_with_twice_the_batch(
    world: list[AnnotatedScene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops, pids = number_crops([crop_folder(tmp_path)], PIDS)
    on_ranks(on_rank, str(tmp_path), world, "all")
    first, second = (torch.load(tmp_path / f"rank-{r}.pt", weights_only=True) for r in (0, 1))
    assert_equal(first, second)
    assert_equal(first, weights(tmp_path / "run"))

    monkeypatch.setattr(torch, "randperm", first_ones)
    recipe = tiny_recipe(**{**SHARED_RUN, "batch_size": 2, "crops_per_batch": 2})
    torch.manual_seed(0)
    before = create(recipe.network_config(pids), "random")[0].state_dict()
    alone = train(recipe, world, pids, tmp_path / "alone", crops=crops).state_dict()
    for name, value in alone.items():
        change = float((value - before[name]).abs().max())
        difference = float((value - first[name]).abs().max())
        assert difference <= 1e-3 * change + 1e-6, (name, difference, change)


def test_two_processes_whose_batchnorm_is_trained(
    world: list[AnnotatedScene], tmp_path: Path
) -> None:
    """Statistics are those of the first process; weights and memory are equal on both."""
    crop_folder(tmp_path)
    on_ranks(on_rank, str(tmp_path), world, "none")
    first, second = (torch.load(tmp_path / f"rank-{r}.pt", weights_only=True) for r in (0, 1))
    weights_only = [name for name in first if not re.search("running_|num_batches", name)]
    assert_equal({n: first[n] for n in weights_only}, {n: second[n] for n in weights_only})
    assert_equal(first, weights(tmp_path / "run"))


def test_statistics_stay_from_a_step_on(world: list[AnnotatedScene], tmp_path: Path) -> None:
    trained = {"network": {**tiny_recipe().network, "freeze_batchnorm": "none"}}
    short = train(tiny_recipe(steps=2, **trained), world, 4, tmp_path / "short")
    fixed = tiny_recipe(steps=4, fix_statistics_after=2, **trained)
    long = train(fixed, world, 4, tmp_path / "long")
    free = train(tiny_recipe(steps=4, **trained), world, 4, tmp_path / "free")
    names = [name for name, _ in short.named_buffers() if name.endswith("running_mean")]
    assert names
    for name in names:
        assert torch.equal(short.get_buffer(name), long.get_buffer(name))
    assert any(not torch.equal(short.get_buffer(n), free.get_buffer(n)) for n in names)
    weight = "predictor.score.weight"
    assert not torch.equal(short.get_parameter(weight), long.get_parameter(weight))


@pytest.mark.slow
def test_binet_overfits_eight_drawn_scenes(tmp_path: Path, shared: Path) -> None:
    """Within minutes, from ImageNet weights: people are found, and told apart."""
    write_world(
        tmp_path / "world",
        "prw",
        SynthConfig(seed=3, identities=6, test_identities=2, scenes=8, test_scenes=4, cameras=2),
    )
    dataset = open_dataset(tmp_path / "world")
    weights = shared / "data/weights/mobilenet_v2_imagenet_features.torchvision.pth"
    recipe = load_recipe(
        "ablation",
        [
            f'backbone_weights="{weights}"',
            # With two scenes in a step it ends between 0.85 and 1, by the processor's rounding.
            "batch_size=4",
            "steps=400",
            "channels_last=true",
            # Half as many pixels, and patches to match.
            "network.preprocessing={min_side=180,max_side=240,patch_size=[96,48]}",
            "network.roi_size=[6,3]",
            # There are two or three people in a scene: more RoIs cost time and add background.
            "network.rois_per_scene=10",
            "network.roi_positive_fraction=0.75",
            # The last quarter adapts to the statistics that people are found with.
            "fix_statistics_after=300",
            # By seed and rounding, one person in twenty ends with a score between 0.3 and 0.5.
            "network.score_threshold=0.3",
            "augmentation.flip=0",
        ],
    )
    network = train(recipe, dataset.train, dataset.num_pids, tmp_path / "run")
    protocol = every_person_once(dataset.train)
    assert len(protocol) >= 10
    gallery = embed_scenes(network, dataset.train, "detected")
    for branch in ("search", "instance"):
        queries = embed_queries(network, dataset.train, protocol.queries, branch)
        assert search_metrics(protocol, gallery, queries).mean_ap >= 0.95
