"""The drawn world: what is planned, what is seen, and what lies on disk."""

import hashlib
import json
import re
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import binet
from model.annotations import UNLABELLED, AnnotatedScene
from training.synth.draw import Drawn, Painter
from training.synth.plan import Scene, SynthConfig, SynthError, World, make_world
from training.synth.world import make_identities, make_surroundings
from training.synth.write import Format, gallery_sizes, write_world

FORMATS: tuple[Format, ...] = ("prw", "cuhk-sysu")
CONFIG = SynthConfig(
    seed=3, identities=12, test_identities=8, scenes=72, test_scenes=60, cameras=3, unlabelled=0.2
)
TINY = replace(CONFIG, identities=4, test_identities=3, scenes=8, test_scenes=8, width=160)


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def worlds() -> dict[float, World]:
    return {bias: make_world(replace(CONFIG, context_bias=bias)) for bias in (0.0, 0.5, 1.0)}


@pytest.fixture(scope="module")
def drawn(worlds: dict[float, World]) -> dict[tuple[float, str], list[tuple[Scene, Drawn]]]:
    """Drawn scenes by bias and part."""
    found = {}
    for bias in (0.0, 1.0):
        painter = Painter(worlds[bias])
        for part in ("train", "test"):
            scenes: tuple[Scene, ...] = getattr(worlds[bias], part)
            found[bias, part] = [(scene, painter.draw(scene)) for scene in scenes]
    return found


@pytest.fixture(scope="module", params=FORMATS)
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("scipy", reason="needs the extra `train`")
    out: Path = tmp_path_factory.mktemp("synth") / request.param
    write_world(out, request.param, CONFIG)
    return out


# Plans


def test_identities_and_surroundings_are_all_different() -> None:
    rng = np.random.default_rng(0)
    people = make_identities(rng, 300)
    assert len({person.look for person in people}) == 300
    colours = [(p.upper.colour, p.upper.second, p.lower.colour) for p in people]
    assert len(set(colours)) < 290  # hard negatives: equal colours, unequal look
    assert len(set(make_surroundings(rng, 300))) == 300
    assert make_identities(rng, 0) == []


@pytest.mark.parametrize("bias", [0.0, 0.5, 1.0])
def test_everybody_is_seen_by_several_cameras(worlds: dict[float, World], bias: float) -> None:
    world = worlds[bias]
    parts = []
    for scenes in (world.train, world.test):
        cameras = defaultdict(set)
        for scene in scenes:
            labelled = [person.pid for person in scene.people if person.pid != UNLABELLED]
            assert len(set(labelled)) == len(labelled)
            assert scene.people
            for pid in labelled:
                cameras[pid].add(scene.camera.number)
        assert all(len(seen) >= 2 for seen in cameras.values())
        parts.append(set(cameras))
    assert parts == [set(range(1, 13)), set(range(13, 21))]


def test_share_of_unlabelled_people() -> None:
    for share in (0.0, 0.5):
        world = make_world(replace(CONFIG, unlabelled=share))
        pids = [person.pid for scene in world.train + world.test for person in scene.people]
        assert abs(np.mean(np.array(pids) == UNLABELLED) - share) < 0.05


def test_the_fewest_scenes_still_show_everybody_twice() -> None:
    for seed in range(20):
        world = make_world(
            SynthConfig(
                seed, identities=8, test_identities=8, scenes=8, test_scenes=8, unlabelled=0.0
            )
        )
        for scenes in (world.train, world.test):
            cameras = defaultdict(set)
            for scene in scenes:
                for person in scene.people:
                    cameras[person.pid].add(scene.camera.number)
            assert min(len(cameras[pid]) for pid in cameras if pid != UNLABELLED) >= 2
            assert len(set(cameras) - {UNLABELLED}) == 8


def test_bias_is_how_often_a_surrounding_is_the_own_one(worlds: dict[float, World]) -> None:
    for bias, world in worlds.items():
        own = [
            person.surrounding == person.pid - 1
            for scene in world.train
            for person in scene.people
            if person.pid != UNLABELLED
        ]
        assert abs(np.mean(own) - (bias + (1 - bias) / 12)) < 0.1
        every = {person.surrounding for scene in world.test for person in scene.people}
        assert every == set(range(12))


def test_bias_changes_the_training_surroundings_only(worlds: dict[float, World]) -> None:
    without, full = worlds[0.0], worlds[1.0]
    assert without.test == full.test
    for a, b in zip(without.train, full.train, strict=True):
        people = tuple(
            replace(p, surrounding=q.surrounding) for p, q in zip(a.people, b.people, strict=True)
        )
        assert replace(a, people=people) == b


# Pictures


def test_boxes_are_sane(drawn: dict[tuple[float, str], list[tuple[Scene, Drawn]]]) -> None:
    heights, visible = [], []
    for scenes in drawn.values():
        for scene, picture in scenes:
            assert picture.picture.shape == (240, 320, 3)
            assert picture.picture.dtype == np.uint8
            x1, y1, x2, y2 = picture.boxes_xyxy.T
            assert len(x1) == len(scene.people)
            assert (x1 >= 0).all()
            assert (y1 >= 0).all()
            assert (x2 <= 320).all()
            assert (y2 <= 240).all()
            assert (x2 - x1 >= 4).all()
            heights += (y2 - y1).tolist()
            visible += picture.visible.tolist()
    assert min(heights) >= 20
    assert max(heights) > 2 * min(heights)
    assert min(visible) > 0.15
    assert np.mean(np.array(visible) < 0.8) > 0.05  # occlusion does happen
    assert np.median(visible) > 0.8


def test_a_box_touches_its_figure(worlds: dict[float, World]) -> None:
    """What changes when a person is taken away lies in the box, but for shadow and surrounding."""
    world = worlds[0.0]
    scene = next(s for s in world.train if len(s.people) == 1)
    camera = replace(scene.camera, props=(), noise=0.0, softness=0.0, gamma=1.0)
    person = replace(scene.people[0], x=160.0, y=200.0)
    other = replace(person.identity.upper, colour=(1, 2, 3), pattern="plain")
    changed = replace(person, identity=replace(person.identity, upper=other))
    first, second = (
        Painter(world).draw(replace(scene, camera=camera, people=(who,)))
        for who in (person, changed)
    )
    rows, columns = np.nonzero((first.picture != second.picture).any(axis=2))
    x1, y1, x2, y2 = first.boxes_xyxy[0]
    assert x1 <= columns.min() < columns.max() < x2
    assert y1 <= rows.min() < rows.max() < y2
    assert first.visible.tolist() == [1.0]


def test_scenes_do_not_depend_on_what_was_drawn_before(worlds: dict[float, World]) -> None:
    world = worlds[0.5]
    painter = Painter(world)
    for scene in world.test[:4]:
        painter.draw(scene)
    again = Painter(world).draw(world.test[3])
    np.testing.assert_array_equal(painter.draw(world.test[3]).picture, again.picture)


def masks(picture: Drawn, index: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Pixels of a box; and of a ring around it that holds nobody's box."""
    height, width = picture.picture.shape[:2]
    inside, ring, people = (np.zeros((height, width), bool) for _ in range(3))
    for i, (x1, y1, x2, y2) in enumerate(picture.boxes_xyxy):
        people[y1:y2, x1:x2] = True
        if i == index:
            tall = y2 - y1
            side, over = round(0.3 * tall), round(0.14 * tall)
            inside[y1:y2, x1:x2] = True
            ring[max(y1 - over, 0) : y2 + over, max(x1 - side, 0) : x2 + side] = True
    return inside, ring & ~people


def recognised_by_surroundings(scenes: list[tuple[Scene, Drawn]], where: str) -> float:
    """Share of people whose nearest neighbour in another picture is the same identity.

    What is compared is a histogram of colours of the ring around the box.
    """
    pids, numbers, descriptors = [], [], []
    for scene, picture in scenes:
        for i, person in enumerate(scene.people):
            mask = masks(picture, i)[0 if where == "inside" else 1]
            if person.pid != UNLABELLED and mask.sum() > 200:
                # A camera's light is taken out as far as its mean and deviation go.
                pixels = picture.picture.astype(np.float64)
                pixels = (pixels - pixels.mean((0, 1))) / pixels.std((0, 1))
                cells, _ = np.histogramdd(pixels[mask], bins=6, range=[(-2.5, 2.5)] * 3)
                descriptors.append(np.sqrt(cells.ravel() / max(cells.sum(), 1)))
                pids.append(person.pid)
                numbers.append(scene.number)
    similar = np.array(descriptors) @ np.array(descriptors).T
    similar[np.array(numbers)[:, None] == np.array(numbers)] = -1
    return float(np.mean(np.array(pids)[similar.argmax(axis=1)] == np.array(pids)))


def test_surroundings_tell_identity_in_biased_training_only(
    drawn: dict[tuple[float, str], list[tuple[Scene, Drawn]]],
) -> None:
    shares = {key: recognised_by_surroundings(scenes, "ring") for key, scenes in drawn.items()}
    assert shares[1.0, "train"] > 0.6, shares
    for key in ((0.0, "train"), (0.0, "test"), (1.0, "test")):
        chance = 1 / (12 if key[1] == "train" else 8)
        assert shares[key] < chance + 0.12, shares


def test_a_surrounding_is_seen_around_the_box_and_not_in_it(
    worlds: dict[float, World],
) -> None:
    world = worlds[0.0]
    painter = Painter(world)
    inside_changed, ring_changed = [], []
    for scene in world.train[:24]:
        before = painter.draw(scene)
        person = scene.people[0]
        other = replace(person, surrounding=(person.surrounding + 1) % 12)
        after = painter.draw(replace(scene, people=(other, *scene.people[1:])))
        differs = (np.abs(before.picture.astype(int) - after.picture) > 12).any(axis=2)
        inside, ring = masks(before, 0)
        inside_changed.append(differs[inside].mean())
        ring_changed.append(differs[ring].mean())
    assert max(inside_changed) < 0.03
    assert np.mean(ring_changed) > 0.4


# Files


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="needs the extra `train`")
    for data_format in FORMATS:
        for name, config in (("a", TINY), ("b", TINY), ("c", replace(TINY, seed=4))):
            write_world(tmp_path / data_format / name, data_format, config)
        a, b, c = (digests(tmp_path / data_format / name) for name in "abc")
        assert a == b
        assert a != c
        assert [p.name for p in sorted((tmp_path / data_format).iterdir())] == ["a", "b", "c"]


def test_tree_is_the_format(tree: Path) -> None:
    names = set(digests(tree))
    if tree.name == "prw":
        frames = {name for name in names if name.startswith("frames/")}
        assert len(frames) == 132
        for name in frames:
            assert re.fullmatch(r"frames/c[1-3]s\d_\d{6}\.jpg", name)
            assert f"{name.replace('frames', 'annotations')}.mat" in names
        top = {"frame_train.mat", "frame_test.mat", "ID_train.mat", "ID_test.mat"}
        assert {name for name in names if "/" not in name} == {
            *top,
            "query_info.txt",
            "synth.json",
        }
        lines = (tree / "query_info.txt").read_bytes().split(b"\r\n")
        assert lines.pop() == b""
        assert len(lines) >= 2 * 8
    else:
        pictures = {f"Image/SSM/s{n}.jpg" for n in range(1, 133)}
        annotation = {"Images.mat", "pool.mat"} | {
            f"test/train_test/{name}.mat" for name in ("Train", "TestG50")
        }
        assert names == pictures | {f"annotation/{name}" for name in annotation} | {"synth.json"}
    assert json.loads((tree / "synth.json").read_text())["seed"] == 3


def test_tree_reads_back_as_drawn(
    tree: Path, drawn: dict[tuple[float, str], list[tuple[Scene, Drawn]]]
) -> None:
    opening = pytest.importorskip("training.datasets.opening")
    dataset = opening.open_dataset(tree)
    own_pid = {row: pid for pid, row in dataset.pid_of.items()}
    own_pid[UNLABELLED] = UNLABELLED
    assert dataset.num_pids == 12
    scene: AnnotatedScene
    for part in ("train", "test"):
        expected = {
            hashlib.sha256(np.sort(picture.boxes_xyxy, axis=0).tobytes()).hexdigest(): (
                planned,
                picture,
            )
            for planned, picture in drawn[0.0, part]
        }
        scenes = getattr(dataset, part)
        assert len(scenes) == len(drawn[0.0, part])
        for scene in scenes:
            boxes = scene.boxes_xyxy.astype(np.int64)
            key = hashlib.sha256(np.sort(boxes, axis=0).tobytes()).hexdigest()
            planned, picture = expected[key]
            np.testing.assert_array_equal(boxes, picture.boxes_xyxy)
            pids = scene.pids.tolist()
            # CUHK-SYSU numbers people by their place in its files, here in the order of pids.
            if part == "train":
                pids = [own_pid[pid] for pid in pids]
            elif tree.name == "cuhk-sysu":
                pids = [pid + 12 if pid != UNLABELLED else pid for pid in pids]
            assert pids == [person.pid for person in planned.people]
            if tree.name == "prw":
                assert scene.camera == planned.camera.number
            with Image.open(scene.path) as image:
                error = np.asarray(image).astype(int) - picture.picture
            assert np.abs(error).mean() < 6


def test_queries_are_valid(tree: Path) -> None:
    opening = pytest.importorskip("training.datasets.opening")
    dataset = opening.open_dataset(tree)
    protocol = opening.open_protocol(dataset, gallery_size=50)
    scenes = {scene.name: scene for scene in dataset.test}
    where: dict[int, set[str]] = defaultdict(set)
    for scene in dataset.test:
        for pid in scene.pids[scene.pids != UNLABELLED]:
            where[int(pid)].add(scene.name)
    assert {query.pid for query in protocol.queries} == set(where)
    for query in protocol.queries:
        scene = scenes[query.scene]
        same = (scene.boxes_xyxy == np.array(query.box_xyxy)).all(axis=1)
        assert scene.pids[same].tolist() == [query.pid]
        assert len(where[query.pid]) >= 2


def test_galleries_hold_all_pictures_of_the_person(tree: Path) -> None:
    if tree.name != "cuhk-sysu":
        pytest.skip("PRW's gallery is all test pictures")
    from scipy.io import loadmat

    tests = loadmat(tree / "annotation" / "test" / "train_test" / "TestG50.mat")["TestG50"]
    assert tests.shape == (1, 8)
    assert tests.dtype.names == ("Query", "Gallery")
    for test in tests.ravel():
        query, gallery = test["Query"], test["Gallery"]
        assert query.dtype.names == ("imname", "idlocate", "ishard", "idname")
        assert gallery.dtype.names == ("imname", "idlocate", "ishard")
        assert gallery.shape == (1, 50)
        names = [str(cell.item()) for cell in gallery["imname"].ravel()]
        assert len(set(names)) == 50
        assert str(query["imname"][0, 0].item()) not in names
        shapes = [cell.shape for cell in gallery["idlocate"].ravel()]
        assert set(shapes) == {(1, 4), (1, 0)}
        types = {cell.dtype for cell in gallery["idlocate"].ravel() if cell.size}
        assert types <= {np.dtype("uint8"), np.dtype("uint16")}


def test_gallery_sizes() -> None:
    assert gallery_sizes(120, 10) == [50, 100]
    assert gallery_sizes(50, 10) == [49]
    assert gallery_sizes(120, 60) == [100]
    assert gallery_sizes(7000, 10) == [50, 100, 500, 1000, 2000, 4000]


# Mistakes


def test_feet_that_are_nowhere_solid_have_no_shadow() -> None:
    """Somebody far away in a small picture, with this seed."""
    small = {"scenes": 6, "test_scenes": 12, "cameras": 2, "width": 160, "height": 160}
    world = make_world(SynthConfig(seed=6, identities=3, test_identities=5, **small))
    painter = Painter(world)
    for scene in (*world.train, *world.test):
        assert painter.draw(scene).picture.shape == (160, 160, 3)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"cameras": 1}, "2 to 9"),
        ({"cameras": 10}, "2 to 9"),
        ({"seed": -1}, "0 or more"),
        ({"width": 20}, "160"),
        ({"context_bias": 1.5}, "context bias"),
        ({"context_bias": float("nan")}, "context bias"),
        ({"unlabelled": 1.0}, "unlabelled"),
        ({"identities": 1000}, "2 to 900"),
        ({"test_identities": 0}, "1 or more"),
        ({"identities": 200}, "too few .* scenes or fewer identities"),
        ({"scenes": 5}, "6 or more"),
        ({"test_scenes": 0}, "6 or more"),
    ],
)
def test_wrong_arguments(fields: dict[str, float], says: str) -> None:
    with pytest.raises(SynthError, match=says):
        replace(CONFIG, **fields)  # type: ignore[arg-type]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    for out in (tmp_path, tmp_path / "mine"):
        with pytest.raises(SynthError, match="not an empty folder"):
            write_world(out, "prw", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nothing_is_left_when_it_fails(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="needs the extra `train`")

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "out", "prw", TINY, tick=fail)
    assert not list(tmp_path.iterdir())


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("scipy", reason="needs the extra `train`")
    out = tmp_path / "new" / "world"
    call = ["binet", "synth", "--format", "prw", "--out", str(out), "--seed", "3", "--size"]
    small = "--identities 4 --test-identities 3 --scenes 8 --test-scenes 8 --cameras 3"
    rest = [*small.split(), "--unlabelled", "0.2", "--context-bias", "0"]
    for size, code in (("wide", 1), ("160x240", 0), ("160x240", 1)):
        monkeypatch.setattr(sys, "argv", [*call, size, *rest])
        with pytest.raises(SystemExit) as stop:
            binet.main()
        assert (stop.value.code or 0) == code
        captured = capsys.readouterr()
        if code:
            assert re.fullmatch(r"error: .+\n", captured.err)
        else:
            assert "16 pictures" in captured.out
    write_world(tmp_path / "same", "prw", TINY)
    assert digests(out) == digests(tmp_path / "same")
