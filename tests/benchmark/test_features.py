"""Features are what the network says, computed once, and again only where something changed."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import BenchmarkError
from benchmark.features import Features, FeatureSettings, compute_features, list_work
from model import BINet, read_picture
from model.cropping import cut, inside
from model.errors import PictureError
from model.preprocessing import to_rgb
from tests.benchmark.worlds import drawn_world, quick_network
from tests.conftest import small_network
from training.datasets.dataset import Dataset
from training.datasets.opening import open_dataset, open_protocol
from training.datasets.protocol import ListedGallery, Query, RetrievalProtocol

SETTINGS = FeatureSettings("weights", "float32", 0.3, instance_gallery=True)


@pytest.fixture(scope="module")
def network() -> BINet:
    return quick_network()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(drawn_world(tmp_path_factory.mktemp("world")))


def compute(
    network: BINet, dataset: Dataset, folder: Path, settings: FeatureSettings = SETTINGS
) -> Features:
    return compute_features(network, settings, dataset.test, [open_protocol(dataset)], folder)


@pytest.fixture(scope="module")
def computed(
    network: BINet, world: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Features, Path]:
    folder = tmp_path_factory.mktemp("features")
    return compute(network, world, folder), folder


@pytest.fixture
def first(computed: tuple[Features, Path]) -> Features:
    return computed[0]


@pytest.fixture
def kept(computed: tuple[Features, Path], tmp_path: Path) -> Path:
    """A folder of its own with what was computed the first time."""
    return Path(shutil.copytree(computed[1], tmp_path / "kept"))


def test_they_are_what_the_network_says(network: BINet, world: Dataset, first: Features) -> None:
    protocol, features = open_protocol(world), first
    found = features.galleries["detected", "search"]
    labelled = features.galleries["labelled", "search"]
    as_crops = features.galleries["labelled", "instance"]
    for number, scene in enumerate(world.test):
        pixels = to_rgb(read_picture(scene.path))
        (expected,) = network.detect([pixels], 0.3)
        rows = slice(int(found.ptr[number]), int(found.ptr[number + 1]))
        np.testing.assert_allclose(found.boxes_xyxy[rows], expected.boxes_xyxy, atol=1e-2)
        np.testing.assert_allclose(found.embeddings[rows], expected.embeddings, atol=1e-4)
        rows = slice(int(labelled.ptr[number]), int(labelled.ptr[number + 1]))
        boxes = inside(scene.boxes_xyxy, pixels)
        np.testing.assert_allclose(
            labelled.embeddings[rows], network.embed_boxes(pixels, boxes), atol=1e-4
        )
        np.testing.assert_allclose(
            as_crops.embeddings[rows], network.embed_crops(cut(pixels, boxes)), atol=1e-4
        )
    queries = features.of(protocol, "instance")
    paths = {scene.name: scene.path for scene in world.test}
    for query, embedding in zip(protocol.queries, queries, strict=True):
        pixels = to_rgb(read_picture(paths[query.scene]))
        box = np.array([query.box_xyxy], np.float32)
        np.testing.assert_allclose(embedding, network.embed_crops(cut(pixels, box))[0], atol=1e-4)


def test_a_second_time_computes_nothing(
    network: BINet, world: Dataset, first: Features, kept: Path
) -> None:
    assert first.reused == 0
    written = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert written
    again = compute(network, world, kept)
    assert again.reused == 1
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == written
    assert again.sha256 == first.sha256
    for key, people in first.galleries.items():
        np.testing.assert_array_equal(again.galleries[key].embeddings, people.embeddings)
    np.testing.assert_array_equal(again.queries["search"], first.queries["search"])


@pytest.mark.parametrize(
    "settings",
    [
        FeatureSettings("other", "float32", 0.3, True),
        FeatureSettings("weights", "bfloat16", 0.3, True),
        FeatureSettings("weights", "float32", 0.4, True),
        FeatureSettings("weights", "float32", 0.3, False),
    ],
)
def test_other_settings_are_computed_anew(
    settings: FeatureSettings, network: BINet, world: Dataset, kept: Path
) -> None:
    assert compute(network, world, kept, settings).reused == 0


def test_another_size_of_the_input_is_computed_anew(
    network: BINet, world: Dataset, first: Features, kept: Path
) -> None:
    size = network.config.preprocessing.model_copy(update={"min_side": 160, "max_side": 160})
    larger = small_network(rpn_post_nms_test=16, preprocessing=size)
    larger.load_state_dict(network.state_dict())
    again = compute(larger, world, kept)
    assert again.reused == 0
    assert not np.array_equal(again.queries["search"], first.queries["search"])


def test_a_changed_picture_is_computed_again(network: BINet, tmp_path: Path) -> None:
    dataset = open_dataset(drawn_world(tmp_path / "world"))
    first = compute(network, dataset, tmp_path / "kept")
    shutil.copyfile(dataset.test[1].path, dataset.test[0].path)
    again = compute(network, dataset, tmp_path / "kept")
    assert again.reused == 0, "all of these fit into one piece"
    assert again.sha256 != first.sha256


def test_an_interrupted_evaluation_goes_on(
    network: BINet, world: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.features.SHARD", 4)
    told: list[tuple[int, int]] = []

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done == 4:
            raise StopError

    protocols = [open_protocol(world)]
    with pytest.raises(StopError):
        compute_features(network, SETTINGS, world.test, protocols, tmp_path, progress=stop)
    assert told == [(0, 12), (4, 12)]
    # A piece that was torn by a crash is not trusted.
    (piece,) = tmp_path.iterdir()
    again = compute_features(network, SETTINGS, world.test, protocols, tmp_path)
    assert again.reused == pytest.approx(1 / 3)
    piece.write_bytes(piece.read_bytes()[:-100])
    assert compute_features(
        network, SETTINGS, world.test, protocols, tmp_path
    ).reused == pytest.approx(2 / 3)


def test_only_what_is_needed_is_done(world: Dataset) -> None:
    names = [scene.name for scene in world.test]
    queries = [Query(names[5], (0.0, 0.0, 10.0, 30.0), 1)] * 2
    gallery = ListedGallery(
        np.array([0, 1, 2]), np.array([2, 3], np.int32), np.full((2, 4), np.nan, np.float32)
    )
    work = list_work(world.test, [RetrievalProtocol("some", names, queries, gallery)])
    assert [(one.scene.name, one.searched, len(one.queries)) for one in work] == [
        (names[2], True, 0),
        (names[3], True, 0),
        (names[5], False, 1),
    ]


def test_errors_say_what_is_wrong(network: BINet, world: Dataset, tmp_path: Path) -> None:
    names = [scene.name for scene in world.test]
    gallery = ListedGallery(np.array([0, 0]), np.zeros(0, np.int32), np.zeros((0, 4), np.float32))
    nowhere = RetrievalProtocol("lost", names, [Query("no.jpg", (0, 0, 9, 9), 1)], gallery)
    with pytest.raises(BenchmarkError, match=r"query 0: there is no no\.jpg"):
        list_work(world.test, [nowhere])
    with pytest.raises(BenchmarkError, match="not those of the dataset"):
        list_work(world.test[1:], [nowhere])
    broken = open_dataset(drawn_world(tmp_path / "world"))
    broken.test[3].path.write_bytes(b"no picture")
    with pytest.raises(PictureError, match="cannot be read as a picture"):
        compute(network, broken, tmp_path / "kept")
