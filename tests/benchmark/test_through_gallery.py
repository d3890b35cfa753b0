"""The gallery's answers are the evaluator's numbers, and a gallery that errs is found out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import benchmark.through_gallery as module
from benchmark.errors import BenchmarkError
from benchmark.people import People
from benchmark.search import SearchRules, evaluate_search
from benchmark.through_gallery import through_gallery
from indexer.vector_index import search
from model.detections import FloatArray
from tests.benchmark.test_search import World
from training.datasets.protocol import RetrievalProtocol, rule_protocol


def people_of(world: World) -> People:
    return People.from_detections(world.found)


def protocols(world: World) -> list[RetrievalProtocol]:
    return [
        world.listed(complete=False),
        world.listed(complete=True),
        rule_protocol("images", world.scenes, world.queries, "other-images"),
        rule_protocol("cameras", world.scenes, world.queries, "other-cameras"),
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", range(4))
def test_the_same_numbers(seed: int, kind: int) -> None:
    world = World(seed, scenes=30, ties=False)
    protocol, people = protocols(world)[kind], people_of(world)
    answer = through_gallery(protocol, people, world.query_embeddings, SearchRules())
    assert answer["boxes"] == len(people.above(0.5).scores) > 20
    rounded = replace(people, embeddings=people.embeddings.astype(np.float16).astype(np.float32))
    expected = evaluate_search(protocol, rounded, world.query_embeddings)
    assert answer["mAP"] == pytest.approx(expected.mean_ap, abs=1e-6)
    assert answer["top1"] == expected.top(1)
    assert expected.mean_ap > 0


def test_nobody_was_found() -> None:
    world = World(1, scenes=5, ties=False)
    protocol = world.listed(complete=False)
    answer = through_gallery(
        protocol, people_of(world), world.query_embeddings, SearchRules(det_threshold=1.0)
    )
    assert (answer["boxes"], answer["mAP"]) == (0, 0.0)


def test_a_gallery_that_errs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(2, scenes=30, ties=False)
    protocol = rule_protocol("images", world.scenes, world.queries, "other-images")

    def loses_the_best(view: Any, queries: FloatArray, k: int, allowed: Any) -> Any:
        ids, scores = search(view, queries, k, allowed)
        return ids[:, 3:], scores[:, 3:]

    monkeypatch.setattr(module, "search", loses_the_best)
    with pytest.raises(BenchmarkError, match="the gallery's answers are not the evaluator's"):
        through_gallery(protocol, people_of(world), world.query_embeddings, SearchRules())
