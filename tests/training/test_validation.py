"""What is measured while a network is trained is what the literature measures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import Detections
from model.annotations import UNLABELLED, AnnotatedScene
from tests.conftest import small_network
from tests.training.scenes import tiny_world
from training.datasets.protocol import ListedGallery, Query, RetrievalProtocol, Rule, rule_protocol
from training.validation import (
    embed_as_crops,
    embed_queries,
    embed_scenes,
    every_person_once,
    hold_out,
    recall,
    search_metrics,
    validate,
)

GOLDEN_UNLABELLED = 5555
THRESHOLD = 0.5


class Golden:
    """A case with the answers of the public evaluators."""

    def __init__(self, folder: Path, name: str) -> None:
        self.answers: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        self.case = np.load(folder / f"{name}.npz")
        case = self.case
        self.names = case["img_names"].tolist()
        self.scenes, self.gallery = [], []
        for i, image in enumerate(self.names):
            true = slice(case["gt_ptr"][i], case["gt_ptr"][i + 1])
            pids = case["gt_pids"][true].astype(np.int64)
            pids[pids == GOLDEN_UNLABELLED] = UNLABELLED
            boxes = case["gt_boxes"][true].astype(np.float32)
            camera = int(case["img_cam"][i])
            camera_or_none = camera if camera >= 0 else None
            self.scenes.append(AnnotatedScene(image, Path(image), boxes, pids, camera_or_none))
            found = slice(case["det_ptr"][i], case["det_ptr"][i + 1])
            people = Detections(
                case["det_boxes"][found], case["det_scores"][found], case["det_feats"][found]
            )
            self.gallery.append(people[people.scores >= THRESHOLD])
        self.queries = [
            Query(image, tuple(box), int(pid), int(camera))
            for image, box, pid, camera in zip(
                case["q_img"].tolist(),
                case["q_box"].tolist(),
                case["q_pid"],
                case["q_cam"],
                strict=True,
            )
        ]

    def listed(self, key: str) -> RetrievalProtocol:
        ptr, images, boxes = [0], [], []
        for entries in self.answers["protocols"][key]:
            for entry in entries:
                x, y, w, h = entry["gt_xywh"] or [np.nan] * 4
                images.append(
                    self.names.index(entry["img"])
                    if isinstance(entry["img"], str)
                    else entry["img"]
                )
                boxes.append([x, y, x + w, y + h])
            ptr.append(len(images))
        gallery = ListedGallery(
            np.array(ptr, np.int64), np.array(images, np.int32), np.array(boxes, np.float32)
        )
        return RetrievalProtocol(key, self.names, self.queries, gallery)


def compare(golden: Golden, protocol: RetrievalProtocol, answer: dict[str, Any]) -> None:
    found = search_metrics(protocol, golden.gallery, golden.case["q_feat"])
    assert found.queries == len(golden.queries)
    assert found.mean_ap == pytest.approx(answer["mAP"], abs=1e-6)
    ties = len(answer.get("topk_tie_range") or {})
    for ours, theirs in ((found.top1, "top1"), (found.top5, "top5"), (found.top10, "top10")):
        assert ours == pytest.approx(answer[theirs], abs=1e-6 + ties / found.queries)


@pytest.mark.parametrize("name", ["prw_s0", "prw_edge"])
@pytest.mark.parametrize("same_camera_too", [True, False])
def test_prw_as_the_public_evaluators(name: str, same_camera_too: bool, shared: Path) -> None:
    golden = Golden(shared / "golden", name)
    answers = [
        answer
        for answer in golden.answers["search"]
        if answer["peer"] == "SeqNet"
        and answer["params"]["det_thresh"] == THRESHOLD
        and not answer["params"]["cbgm"]
        and answer["params"]["ignore_cam_id"] == same_camera_too
        and not answer["error"]
    ]
    if not answers:
        pytest.skip(f"the public evaluator fails on {name}")
    rule: Rule = "other-images" if same_camera_too else "other-cameras"
    compare(golden, rule_protocol(name, golden.scenes, golden.queries, rule), answers[0])


@pytest.mark.parametrize("name", ["cuhk_s0", "cuhk_anomalies"])
@pytest.mark.parametrize("size", [10, 20, 50])
def test_cuhk_sysu_as_the_public_evaluators(name: str, size: int, shared: Path) -> None:
    golden = Golden(shared / "golden", name)
    (answer,) = (
        answer
        for answer in golden.answers["search"]
        if answer["peer"] == "OIM-orig"
        and answer["params"] == {"gallery_size": size, "det_thresh": THRESHOLD}
    )
    compare(golden, golden.listed(f"TestG{size}"), answer)


def unit(*angles: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([[np.cos(a), np.sin(a)] for a in angles], np.float32)


def test_a_search_by_hand() -> None:
    """One query, two true boxes, one found at rank 2 of 3: AP 1/2 times 1/2."""
    box = np.array([[0, 0, 20, 50]], np.float32)
    other = box + 100
    scenes = [
        AnnotatedScene("query", Path("q"), box, np.array([1])),
        AnnotatedScene("found", Path("f"), box, np.array([1])),
        AnnotatedScene("missed", Path("m"), box, np.array([1])),
        AnnotatedScene("nobody", Path("n"), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)),
    ]
    protocol = every_person_once(scenes)
    assert [query.scene for query in protocol.queries] == ["query"]
    empty = Detections.empty(2)
    ones = np.ones(1, np.float32)
    gallery = [
        Detections(box, ones, unit(0.0)),
        Detections(np.concatenate([box, other]), np.ones(2, np.float32), unit(0.5, 0.2)),
        Detections(other, ones, unit(1.0)),
        empty,
    ]
    found = search_metrics(protocol, gallery, unit(0.0))
    assert (found.mean_ap, found.top1, found.top5, found.queries) == (0.25, 0.0, 1.0, 1)
    assert recall(scenes, gallery) == pytest.approx(2 / 3)
    nothing = search_metrics(protocol, [empty] * 4, unit(0.0))
    assert (nothing.mean_ap, nothing.top10) == (0, 0)


def test_held_out_people_are_never_trained_on(tmp_path: Path) -> None:
    scenes = tiny_world(tmp_path, scenes=12)
    kept, held_out, pids = hold_out(scenes, 0.25, seed=1)
    assert len(kept) + len(held_out) == len(scenes)
    names = {scene.name for scene in kept}
    own = {scene.name: scene.pids for scene in scenes}
    trained = set(np.concatenate([own[name] for name in names]).tolist()) - {UNLABELLED}
    (person,) = set(range(4)) - trained
    assert all(person in scene.pids for scene in held_out)
    # Renumbered without a gap: rows of the look-up table.
    assert set(np.concatenate([s.pids for s in kept]).tolist()) - {UNLABELLED} == set(range(pids))
    assert hold_out(scenes, 0, seed=1)[1] == []


def test_both_branches_embed_the_same_people(tmp_path: Path) -> None:
    scenes, network = tiny_world(tmp_path, scenes=3), small_network()
    labelled = embed_scenes(network, scenes, "labelled")
    for scene, people in zip(scenes, labelled, strict=True):
        np.testing.assert_array_equal(people.boxes_xyxy, scene.boxes_xyxy)
    detected = embed_scenes(network, scenes, "detected")
    again = embed_as_crops(network, scenes, detected)
    for one, other in zip(detected, again, strict=True):
        np.testing.assert_array_equal(one.boxes_xyxy, other.boxes_xyxy)
        assert len(one.embeddings) == len(other.embeddings)
        assert not np.allclose(one.embeddings, other.embeddings, atol=1e-3)
    protocol = every_person_once(scenes)
    # A query is embedded at its own box: the same as that box in the labelled gallery.
    queries = embed_queries(network, scenes, protocol.queries, "search")
    place = {scene.name: i for i, scene in enumerate(scenes)}
    for query, embedding in zip(protocol.queries, queries, strict=True):
        scene = scenes[place[query.scene]]
        row = scene.pids.tolist().index(query.pid)
        np.testing.assert_allclose(
            labelled[place[query.scene]].embeddings[row], embedding, atol=1e-5
        )
    metrics = validate(network, scenes)
    assert metrics.keys() == {"recall", "scene_mAP", "scene_top1", "crop_mAP", "crop_top1"}
    assert all(0 <= value <= 1 for value in metrics.values())
