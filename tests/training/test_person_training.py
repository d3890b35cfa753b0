"""What the recipe `cpu-person` needs: crops alone, their validation, and its data."""

import csv
import json
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model import CheckpointError, create, save
from model.annotations import AnnotatedScene
from tests.conftest import random_picture, small_network
from tests.training.scenes import COLOURS, tiny_recipe, tiny_world
from tests.training.test_loop import KilledError, Recorder, assert_equal, crop_folder, log, weights
from training.batches import BatchStream
from training.crop_losses import crop_losses
from training.datasets.crops import number_crops, read_crops
from training.datasets.opening import open_dataset
from training.datasets.reid import reid_metrics
from training.errors import DatasetError, RecipeError, RunError
from training.loop import Process, train
from training.person_data import write_person_data
from training.recipe import load_recipe, parse_recipe

PIDS = len(COLOURS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> list[AnnotatedScene]:
    return tiny_world(tmp_path_factory.mktemp("world"))


class Killed(Recorder):
    """Stops a run; steps on crops alone have no loss of scenes, which `Recorder` looks for."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def scalars(self, step: int, values: dict[str, float]) -> None:
        super().scalars(step, {**values, "oim_search": 0.0})
        if step == self.at:
            raise KilledError


# --- crops alone ------------------------------------------------------------------------------


@given(st.integers(0, 4), st.integers(0, 12))
def test_crops_alone_come_first_and_go_round(alone: int, start: int) -> None:
    def stream(first: int) -> BatchStream:
        return BatchStream(
            5, 2, seed=1, start=first, crops=7, crops_per_batch=3, crops_alone=(alone, 4)
        )

    batches = list(islice(stream(0), start + 12))
    assert list(islice(stream(start), 12)) == batches[start:]
    for number, batch in enumerate(batches):
        assert sum(key.is_crop for key in batch) == (4 if number < alone else 3)
        assert sum(not key.is_crop for key in batch) == (0 if number < alone else 2)
    crops = [(key.place, key.epoch) for batch in batches for key in batch if key.is_crop]
    assert len(set(crops)) == len(crops)
    first_round = crops[:7]
    assert {place for place, _ in first_round} == set(range(7))
    scenes = [key for batch in batches for key in batch if not key.is_crop]
    without = [key for batch in islice(BatchStream(5, 2, seed=1), 12) for key in batch]
    shared = min(len(scenes), len(without))
    assert scenes[:shared] == without[:shared]


def test_crop_losses_are_those_of_embed_crops() -> None:
    """With fixed statistics: OIM's loss of the embeddings that inference gives."""
    network = small_network()
    memory = network.search_memory
    pictures = [random_picture(224, 96, seed=seed) for seed in range(3)]
    embeddings = torch.from_numpy(network.embed_crops(pictures))
    pids = torch.tensor([2, 0, 2])
    memory.update(embeddings, pids)
    before = memory.lut.clone()
    scores = embeddings @ before.T / memory.temperature
    scores[:, ~before.any(dim=1)] = -torch.inf
    expected = -scores.log_softmax(dim=1)[torch.arange(3), pids].mean()
    patches = [network.preprocessing.patch(picture) for picture in pictures]
    losses = crop_losses(network, {"pixels": patches, "pids": pids})
    torch.testing.assert_close(losses["oim_instance"], expected, rtol=1e-4, atol=1e-5)
    assert losses["oim_instance"].requires_grad
    assert not torch.equal(memory.lut, before)


def test_batchnorm_takes_the_statistics_of_crops_alone() -> None:
    network = small_network(freeze_batchnorm="none").train()
    patch = network.preprocessing.patch(random_picture(224, 96))
    before = network.trunk[0][1].running_mean.clone()
    crop_losses(network, {"pixels": [patch, patch], "pids": torch.tensor([0, 1])})
    assert not torch.equal(network.trunk[0][1].running_mean, before)


def test_a_run_that_begins_with_crops_alone(world: list[AnnotatedScene], tmp_path: Path) -> None:
    folder = crop_folder(tmp_path)
    crops, pids = number_crops([folder], PIDS)
    fields = {"crops_per_batch": 1, "crops_alone_steps": 3, "crops_alone_batch": 2}
    recipe = tiny_recipe(**fields, optimiser="adamw", lr=1e-4, channels_last=True)
    network = train(recipe, world, pids, tmp_path / "run", crops=crops)
    assert bool(network.search_memory.filled.any())
    lines = log(tmp_path / "run")
    assert ["roi_score" in line for line in lines] == [False] * 3 + [True] * 3
    assert all("oim_instance" in line for line in lines)
    for at in (2, 5):
        cut = tmp_path / f"cut-{at}"
        with pytest.raises(KilledError):
            train(recipe, world, pids, cut, trackers=[Killed(at)], crops=crops)
        train(recipe, world, pids, cut, resume=True, crops=crops)
        assert_equal(weights(tmp_path / "run"), weights(cut))
    with pytest.raises(RunError, match="one process"):
        train(recipe, world, pids, tmp_path / "two", process=Process(0, 2), crops=crops)
    with pytest.raises(RecipeError, match="crops_alone_steps needs crops_per_batch"):
        parse_recipe({"crops_alone_steps": 3}, "here")


def test_a_run_that_begins_with_another_checkpoint(
    world: list[AnnotatedScene], tmp_path: Path
) -> None:
    first = train(tiny_recipe(steps=2), world, PIDS, tmp_path / "first")
    before = {name: value.clone() for name, value in first.state_dict().items()}
    recipe = tiny_recipe(steps=1, lr=1e-9, start_from=str(tmp_path / "first" / "final"))
    second = train(recipe, world, PIDS, tmp_path / "second")
    for name, parameter in second.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=1e-6)
    assert second.provenance["start_from"]["step"] == 2
    with pytest.raises(CheckpointError, match=r"search_memory\.lut has shape"):
        train(recipe, world, PIDS + 1, tmp_path / "third")


def test_only_what_is_named_is_trained(world: list[AnnotatedScene], tmp_path: Path) -> None:
    fields = {"optimiser": "adamw", "lr": 1e-3, "train_only": ["rpn", "predictor.score"]}
    begin = create(tiny_recipe(**fields).network_config(PIDS), "random")[0]
    save(begin, tmp_path / "begin")
    recipe = tiny_recipe(steps=2, start_from=str(tmp_path / "begin"), **fields)
    trained = train(recipe, world, PIDS, tmp_path / "run")
    before = dict(begin.named_parameters())
    for name, parameter in trained.named_parameters():
        is_trained = name.startswith(("rpn.", "predictor.score."))
        assert torch.equal(parameter, before[name]) != is_trained, name
    with pytest.raises(RunError, match="no parameter's name begins with 'neck'"):
        train(tiny_recipe(train_only=["neck"]), world, PIDS, tmp_path / "other")


def test_learning_rates_by_name(world: list[AnnotatedScene], tmp_path: Path) -> None:
    """With Adam the first step is the learning rate, whatever the gradient, or nearly."""
    factors = {"predictor": 0.25, "predictor.embedding": 1e-3, "trunk": 0.5}
    fields = {"optimiser": "adamw", "lr": 1e-3, "lr_factors": factors, "checkpoint_every": 1}
    begin = create(tiny_recipe().network_config(PIDS), "random")[0]
    save(begin, tmp_path / "begin")
    fields |= {"start_from": str(tmp_path / "begin")}
    trained = train(tiny_recipe(steps=1, **fields), world, PIDS, tmp_path / "run")
    before = {name: value.detach() for name, value in begin.named_parameters()}
    longest_first = sorted(factors, key=len, reverse=True)
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            begins = [factors[prefix] for prefix in longest_first if name.startswith(prefix)]
            moved = float((parameter.detach() - before[name]).abs().max())
            rate = 1e-3 * [*begins, 1.0][0]
            # Less where the gradient is as small as Adam's epsilon.
            assert moved < 1.05 * rate, name
    recipe = tiny_recipe(steps=2, **fields)
    whole = train(recipe, world, PIDS, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(recipe, world, PIDS, tmp_path / "cut", trackers=[Killed(2)])
    train(recipe, world, PIDS, tmp_path / "cut", resume=True)
    assert_equal(whole.state_dict(), weights(tmp_path / "cut"))
    with pytest.raises(RunError, match="lr_factors: no parameter's name begins with 'neck'"):
        train(tiny_recipe(lr_factors={"neck": 1}), world, PIDS, tmp_path / "other")


def test_held_out_crops_decide_which_network_is_the_best(
    world: list[AnnotatedScene], tmp_path: Path
) -> None:
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    for name, seed in (("0001_c1s1_000001_01", 1), ("0001_c2s1_000001_01", 2)):
        Image.fromarray(random_picture(64, 32, seed=seed)).save(held_out / f"{name}.jpg")
    recipe = tiny_recipe(steps=2, validate_every=1)
    run = tmp_path / "run"
    train(recipe, world, PIDS, run, held_out_crops=read_crops(held_out))
    lines = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["reid_mAP"] == line["reid_top1"] == 1.0 for line in lines)
    assert (run / "best" / "config.json").is_file()


def test_the_second_stage_fits_the_first() -> None:
    crops, scenes = load_recipe("cpu-person-crops"), load_recipe("cpu-person")
    assert crops.crops_alone_steps == crops.steps
    training_only = {"freeze_batchnorm", "rois_per_scene"}
    assert {k: v for k, v in crops.network.items() if k not in training_only} == {
        k: v for k, v in scenes.network.items() if k not in training_only
    }


# --- validation ---------------------------------------------------------------------------------


def slow_metrics(
    embeddings: np.ndarray, pids: list[int], cameras: list[int]
) -> tuple[float, float, int]:
    """Loops over everything, by the words of the protocol."""
    seen, aps, tops = set(), [], []
    for query, (pid, camera) in enumerate(zip(pids, cameras, strict=True)):
        if (pid, camera) in seen:
            continue
        seen.add((pid, camera))
        ranked = sorted(
            (i for i in range(len(pids)) if (pids[i], cameras[i]) != (pid, camera)),
            key=lambda i: -float(np.float32(embeddings[query] @ embeddings[i])),
        )
        hits, precisions = 0, []
        for rank, i in enumerate(ranked, 1):
            if pids[i] == pid:
                hits += 1
                precisions.append(hits / rank)
        if hits:
            aps.append(sum(precisions) / hits)
            tops.append(pids[ranked[0]] == pid)
    return (float(np.mean(aps)), float(np.mean(tops)), len(aps)) if aps else (0.0, 0.0, 0)


@given(st.integers(0, 2**32 - 1), st.integers(0, 25))
def test_the_metrics_are_those_of_plain_loops(seed: int, crops: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.standard_normal((crops, 4)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    pids, cameras = rng.integers(0, 5, crops), rng.integers(0, 3, crops)
    found = reid_metrics(embeddings, pids, cameras)
    expected = slow_metrics(embeddings, pids.tolist(), cameras.tolist())
    assert (found.mean_ap, found.top1, found.queries) == pytest.approx(expected)


def test_the_same_camera_is_junk() -> None:
    """The query's twin by its own camera is nearest, and does not count."""
    embeddings = np.array([[1, 0], [1, 0], [0.8, 0.6], [0.6, 0.8]], np.float32)
    found = reid_metrics(embeddings, np.array([1, 1, 2, 1]), np.array([1, 1, 1, 2]))
    # From camera 1: the other person is before the right crop. From camera 2: behind nobody else.
    assert found.queries == 2
    assert found.mean_ap == pytest.approx((1 / 2 + (1 / 2 + 2 / 3) / 2) / 2)
    assert found.cosine == pytest.approx((0.8 + 0.8 + 0.96) / 3)


# --- data ---------------------------------------------------------------------------------------


def write_rows(path: Path, fields: str, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([fields, *rows]) + "\n")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_picture(40, 60)).save(path)


def zip_of_crops(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(f"images/{name}", b"")


def developers_data(root: Path) -> Path:
    """Every source with a picture or two, in its own form."""
    for name in ("a", "b"):
        picture(root / f"coco_val2017_person/images/{name}.jpg")
    boxes = ["a.jpg,1,2,10,30,60,40", "a.jpg,20,2,5,10,60,40", "b.jpg,0,0,50,30,60,40"]
    write_rows(root / "coco_val2017_person/gt.csv", "image,x,y,w,h,orig_w,orig_h", boxes)
    for name in ("a", "crowd", "empty"):
        picture(root / f"coco_small/images/{name}.jpg")
    boxes = ["crowd.jpg,1,1,10,30,0", "crowd.jpg,1,1,50,30,1"]
    write_rows(root / "coco_small/gt.csv", "image,x,y,w,h,iscrowd", boxes)
    nobody = '{"images": [], "annotations": [], "categories": []}'
    (root / "coco_small/person_instances.json").write_text(nobody)
    picture(root / "pennfudan/images/p.jpg")
    mask = root / "pennfudan/masks/p.png"
    mask.parent.mkdir()
    Image.new("L", (60, 40), 1).save(mask)
    write_rows(root / "pennfudan/gt.csv", "image,x,y,w,h,mask_value", ["p.jpg,1,1,10,30,1"])
    people = [("m0002", "m0003"), ("prw7", ""), ("m0004", "m0009"), ("m0005", "m0003")]
    boxes = []
    for number, pair in enumerate(people):
        picture(root / f"prw_c6s1/frames/f{number}.jpg")
        boxes += [f"f{number}.jpg,{who},x,train,{9 * i},1,8,30" for i, who in enumerate(pair)]
    write_rows(root / "prw_c6s1/gt.csv", "frame,person,prw_id,prw_part,x,y,w,h", boxes)
    crops = [f"{pid:04}_c{camera}s1_000001_01.jpg" for pid in (2, 3, 4, 6, 9) for camera in (1, 2)]
    zip_of_crops(root / "market1501_train/images.zip", crops)
    rows = [f"{name},{int(name[:4])},{name[6]},1" for name in crops]
    write_rows(root / "market1501_train/index.csv", "file,id,camera,sequence", rows)
    zip_of_crops(root / "cuhk03/images.zip", ["0000_00.jpg", "0000_05.jpg"])
    rows = ["0000_00.jpg,0,1,1", "0000_05.jpg,0,2,1"]
    write_rows(root / "cuhk03/index.csv", "file,id,camera,pair", rows)
    return root


def test_the_data_of_the_recipe(tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = write_person_data(developers_data(tmp_path / "data"), out, held_out=1)
    dataset = open_dataset(out / "scenes")
    scenes = {Path(scene.name).as_posix(): scene for scene in dataset.train}
    # Each picture of COCO once, none with a crowd; the first half of the camera's time.
    assert list(scenes) == [
        "coco_val2017_person/images/a.jpg",
        "coco_val2017_person/images/b.jpg",
        "coco_small/images/empty.jpg",
        "pennfudan/images/p.jpg",
        "prw_c6s1/frames/f0.jpg",
        "prw_c6s1/frames/f1.jpg",
    ]
    assert (summary.scenes, summary.scene_people) == (6, 3)
    a = scenes["coco_val2017_person/images/a.jpg"]
    assert (len(a), len(a.ignored_xyxy)) == (1, 1)  # a small one
    b = scenes["coco_val2017_person/images/b.jpg"]
    assert (len(b), len(b.ignored_xyxy)) == (0, 1)  # one who lies
    assert dataset.pid_of == {2: 0, 3: 1, 100_000: 2}
    assert scenes["prw_c6s1/frames/f1.jpg"].pids.tolist() == [2, -1]
    assert scenes["prw_c6s1/frames/f0.jpg"].camera == 6

    # 9 is held out. 3 and 4 are seen in the second half: their crops are not trained on.
    crops, pids = number_crops([out / "market", out / "cuhk03"], dataset.num_pids, dataset.pid_of)
    assert [(crop.name[7:11], crop.pid) for crop in crops] == [
        ("0002", 0),
        ("0002", 0),
        ("0006", 3),
        ("0006", 3),
        ("0000", 4),
        ("0000", 4),
    ]
    assert pids == 5
    assert {crop.pid for crop in read_crops(out / "market-held-out")[1]} == {9}
    with pytest.raises(DatasetError, match="person_id 2 of the index are not among"):
        number_crops([out / "market"], 0)
    with pytest.raises(DatasetError, match="exists"):
        write_person_data(tmp_path / "data", out)
    with pytest.raises(DatasetError, match="missing coco_val2017_person"):
        write_person_data(tmp_path, tmp_path / "other")


def test_whoever_is_held_out_is_nobody_in_the_scenes(tmp_path: Path) -> None:
    write_person_data(developers_data(tmp_path / "data"), tmp_path / "out", held_out=4)
    # 3, 4, 6 and 9 are held out, and 3 stands in the first frame.
    assert open_dataset(tmp_path / "out" / "scenes").pid_of == {2: 0, 100_000: 1}


def test_nobody_of_the_benchmark_is_trained_on(shared: Path, tmp_path: Path) -> None:
    """On the real data: no frame, and no crop of anybody who is searched for."""
    data = shared / "data"
    write_person_data(data, tmp_path / "out", pasted=10)
    frames = sorted(path.name for path in (data / "prw_c6s1" / "frames").glob("*.jpg"))
    second = set(frames[round(0.5 * len(frames)) :])
    with (data / "prw_c6s1" / "gt.csv").open(newline="") as file:
        people = {row["person"] for row in csv.DictReader(file) if row["frame"] in second}
    searched = {int(person[1:]) for person in people if person.startswith("m")}
    dataset = open_dataset(tmp_path / "out" / "scenes")
    names = {Path(scene.name).name for scene in dataset.train}
    assert not names & second
    assert not any("pets" in scene.name for scene in dataset.train)
    _, trained = read_crops(tmp_path / "out" / "market")
    _, held_out = read_crops(tmp_path / "out" / "market-held-out")
    assert not {crop.pid for crop in trained} & searched
    last = {crop.pid for crop in held_out}
    assert len(last) == 100
    assert not last & {crop.pid for crop in trained}
    assert not last & set(dataset.pid_of)
