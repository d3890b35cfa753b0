"""What may be found, in every form that a search takes; and several searches at once."""

from typing import Any

import numpy as np
from fastapi.testclient import TestClient

from indexer.query import Query
from service import audit
from tests.service.conftest import Start, embedding_of, service_of
from tests.service.test_search import ask, crop, pixels_of, png


def boxes(found: dict[str, Any]) -> list[int]:
    return [result["box_id"] for result in found["results"]]


def test_one_source_and_a_part_of_the_day(client: TestClient) -> None:
    sources = client.get("/v1/sources").json()
    assert len(sources) == 7
    assert all(one["frames"] == 1 and "/" not in one["name"] for one in sources)
    first = client.get("/v1/sources", params={"limit": 2}).json()
    rest = client.get("/v1/sources", params={"after": first[-1]["id"]}).json()
    assert first + rest == sources
    yard = [one["id"] for one in sources if one["camera"] == "yard"]
    everything = ask(client, crop(1), k=100)
    found = ask(client, crop(1), k=100, source=yard)
    expected = [r["box_id"] for r in everything["results"] if r["frame"]["camera"] == "yard"]
    assert boxes(found) == expected
    # Pictures were taken at 10:00 to 10:03 UTC: 12:00 to 12:03 two hours further east.
    for text in ("10:01-10:03", "12:01-12:03+02:00", "07:31-07:33-02:30"):
        minutes = {
            result["frame"]["captured_at"][11:16]
            for result in ask(client, crop(1), k=100, time_of_day=text)["results"]
        }
        assert minutes == {"10:01", "10:02"}, text
    around = ask(client, crop(1), k=100, time_of_day="10:03-10:01")
    assert {r["frame"]["captured_at"][14:16] for r in around["results"]} == {"00", "03"}
    for bad in ("10-11", "25:00-26:00", "10:00-10:00", "10:00-11:00Z"):
        assert "time_of_day" in ask(client, crop(1), 422, time_of_day=bad)["detail"]


def test_negatives_count_as_much_as_is_asked_for(client: TestClient) -> None:
    best = boxes(ask(client, crop(1), k=1))[0]
    pixels = pixels_of(png(1))
    for weight in (0.0, 0.5, 3.0):
        found = ask(client, crop(1), k=50, not_box_id=best, negative_weight=weight)
        query = Query(embedding_of(pixels)[None], negative_boxes=[best], negative_weight=weight)
        expected = service_of(client).gallery.search(query, 50)
        assert boxes(found) == [hit.box_id for hit in expected.hits]
    assert ask(client, crop(1), 422, negative_weight=-1)


def test_several_searches_at_once_are_those_one_by_one(client: TestClient) -> None:
    before = len(audit.entries(service_of(client).store, 1000))
    box = boxes(ask(client, crop(1), k=1))[0]
    answer = client.post(
        "/v1/searches",
        files=[*crop(1), *crop(2)],
        data={"box_id": str(box), "k": "5", "camera": "door", "reason": "theft"},
    )
    assert answer.status_code == 200, answer.text
    found = answer.json()
    alone = [
        ask(client, crop(1), k=5, camera="door"),
        ask(client, crop(2), k=5, camera="door"),
        ask(client, box_id=box, k=5, camera="door"),
    ]
    for one, other in zip(found, alone, strict=True):
        assert boxes(one) == boxes(other)
        scores = [[result["score"] for result in answer["results"]] for answer in (one, other)]
        np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
    rows = audit.entries(service_of(client).store, 1000)
    assert len(rows) == before + 1 + 3 + 3
    assert [row.detail["reason"] for row in rows].count("theft") == 3
    assert len({one["audit_id"] for one in found}) == 3
    assert client.post("/v1/searches", data={"k": "5"}).status_code == 422


def test_a_search_for_several_needs_a_reason_too(start: Start) -> None:
    client = start(allow_local=True, require_reason=True)
    for path in ("/v1/search", "/v1/searches"):
        assert client.post(path, files=crop(1)).status_code == 422
        assert client.post(path, files=crop(1), data={"reason": "theft"}).status_code == 200


def test_pictures_of_a_scene_are_in_the_audit(client: TestClient) -> None:
    ask(client, [("scene", ("scene.png", png(3, (90, 70))))], reason="who is it", case="7")
    (row,) = audit.entries(service_of(client).store)
    assert (row.detail["reason"], row.detail["case"]) == ("who is it", "7")
    assert len(row.detail["pictures_sha256"][0]) == 64


# --- holds and retention ----------------------------------------------------------------------


def test_what_is_held_is_not_deleted(client: TestClient) -> None:
    made = client.post("/v1/holds", json={"reason": "case 7", "camera": "door"})
    assert made.status_code == 201
    hold = made.json()
    assert client.get("/v1/holds").json() == [hold]
    everything = {"after": "2026-01-01T00:00:00Z"}
    deleted = client.delete("/v1/frames", params=everything).json()
    assert (deleted["frames"], deleted["held_frames"]) == (3, 4)
    assert client.delete(f"/v1/holds/{hold['id']}").status_code == 204
    assert client.delete(f"/v1/holds/{hold['id']}").status_code == 404
    assert client.get("/v1/holds").json() == []
    assert client.delete("/v1/frames", params=everything).json()["frames"] == 4
    events = [row.event for row in audit.entries(service_of(client).store)]
    assert {"hold", "release hold", "delete"} <= set(events)


def test_holds_that_cannot_be(client: TestClient) -> None:
    for status, body in (
        (422, {}),
        (422, {"reason": ""}),
        (422, {"reason": "x", "after": "2026-01-01T00:00:00"}),
        (404, {"reason": "x", "camera": "roof"}),
        (404, {"reason": "x", "frame_id": 9999}),
    ):
        assert client.post("/v1/holds", json=body).status_code == status, body


def test_retention_by_age(client: TestClient) -> None:
    assert client.post("/v1/retention", json={"days": 0}).status_code == 422
    client.post("/v1/holds", json={"reason": "case 7", "camera": "yard"})
    # The pictures are of May 2026.
    kept = client.post("/v1/retention", json={"days": 36_000}).json()
    assert kept == {"boxes": 0, "frames": 0, "held_frames": 0}
    gone = client.post("/v1/retention", json={"days": 0.001}).json()
    assert (gone["frames"], gone["held_frames"]) == (4, 3)
    found = ask(client, crop(1), k=100)
    assert {result["frame"]["camera"] for result in found["results"]} == {"yard"}
