"""Searching over HTTP: what comes back is what the gallery says, and nothing leaves unrecorded."""

import io
import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import select

from indexer import schema
from indexer.fast_tier import TierReport
from indexer.filters import Filter
from indexer.gallery import Gallery
from indexer.ingest import revise
from indexer.query import Query
from model.calibration import Calibration
from service import audit
from tests.indexer.archives_made import make_picture, run_index
from tests.service.conftest import FakeEncoder, Start, embedding_of, service_of, until

#: Damaged pictures; more in `make nightly`.
PICTURES = int(os.environ.get("BINET_PICTURES", "1000"))


def png(seed: int, size: tuple[int, int] = (24, 48), mode: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(1, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, mode)
    return file.getvalue()


def pixels_of(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def ask(client: TestClient, files: Any = None, status: int = 200, **form: Any) -> dict[str, Any]:
    answer = client.post("/v1/search", files=files, data=form)
    assert answer.status_code == status, answer.text
    document: dict[str, Any] = answer.json()
    return document


def crop(seed: int) -> list[tuple[str, tuple[str, bytes]]]:
    return [("crop", ("crop.png", png(seed)))]


def test_a_crop_finds_what_the_gallery_finds(client: TestClient) -> None:
    found = ask(client, crop(1), k=50)
    assert found["meaning"] == "similar, not identified"
    query = Query(embedding_of(pixels_of(png(1)))[None])
    expected = service_of(client).gallery.search(query, 50)
    assert [r["box_id"] for r in found["results"]] == [hit.box_id for hit in expected.hits]
    assert [r["score"] for r in found["results"]] == pytest.approx(
        [hit.score for hit in expected.hits]
    )
    assert found["encoder"]["index_revision"] == expected.revision
    first, hit = found["results"][0], expected.hits[0]
    assert first["frame"]["camera"] == hit.frame.camera
    assert datetime.fromisoformat(first["frame"]["captured_at"]) == hit.frame.captured_at
    for url in (first["crop_url"], first["frame"]["image_url"]):
        picture = client.get(url)
        assert picture.status_code == 200
        assert picture.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(picture.content)) as image:
            assert image.format == "JPEG"
    drawn = client.get(first["frame"]["image_url"], params={"draw": first["box_id"]})
    assert drawn.content != client.get(first["frame"]["image_url"]).content


def test_a_person_marked_in_a_scene_and_people_to_choose_from(client: TestClient) -> None:
    scene = [("scene", ("scene.jpg", png(3, (90, 70), "JPEG")))]
    choice = ask(client, scene)
    assert choice["results"] == []
    assert choice["people"]
    assert choice["people"][0].keys() == {"box", "detection_score"}
    found = ask(client, scene, box="1,2,30,60")
    assert found["people"] == []
    pixels = pixels_of(png(3, (90, 70), "JPEG"))
    query = Query(embedding_of(pixels, "(1.0, 2.0, 30.0, 60.0)")[None])
    expected = service_of(client).gallery.search(query, 20)
    assert [r["box_id"] for r in found["results"]] == [hit.box_id for hit in expected.hits]


def test_several_positives_and_negatives_and_stored_boxes(client: TestClient) -> None:
    files = [*crop(1), *crop(2), ("not_crop", ("n.png", png(5)))]
    found = ask(client, files, box_id=[2], not_box_id=[3], combine="mean", k=50)
    query = Query(
        np.stack([embedding_of(pixels_of(png(seed))) for seed in (1, 2)]),
        embedding_of(pixels_of(png(5)))[None],
        boxes=[2],
        negative_boxes=[3],
        combine="mean",
    )
    expected = service_of(client).gallery.search(query, 50)
    assert [r["box_id"] for r in found["results"]] == [hit.box_id for hit in expected.hits]
    assert not {2, 3} & {r["box_id"] for r in found["results"]}


def test_filters_grouping_and_least_scores(client: TestClient) -> None:
    everything = ask(client, crop(1), k=100)["results"]
    yard = ask(client, crop(1), k=100, camera="yard")["results"]
    assert yard == [r for r in everything if r["frame"]["camera"] == "yard"]
    both = ask(client, crop(1), k=100, camera=["yard", "door"])["results"]
    assert both == everything
    after = "2026-05-04T10:02:00Z"
    late = ask(client, crop(1), k=100, after=after)["results"]
    assert late == [r for r in everything if r["frame"]["captured_at"] >= after]
    early = ask(client, crop(1), k=100, before=after)["results"]
    assert len(early) + len(late) == len(everything)
    sure = ask(client, crop(1), k=100, min_detection=0.5)["results"]
    assert sure == [r for r in everything if r["detection_score"] >= 0.5]
    close = ask(client, crop(1), k=100, min_score=0.1)["results"]
    assert close == [r for r in everything if r["score"] >= 0.1]
    for group_by in ("frame", "appearance"):
        groups = ask(client, crop(1), k=100, group_by=group_by)["groups"]
        inside = [r["box_id"] for group in groups for r in group["results"]]
        assert sorted(inside) == sorted(r["box_id"] for r in everything)
        assert [g["score"] for g in groups] == sorted((g["score"] for g in groups), reverse=True)


BAD: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "nothing": ({}, {}, "at least: `crop`"),
    "box without scene": ({}, {"box": "1,2,3,4", "box_id": "1"}, "give both"),
    "no box": ({"scene": png(1)}, {"box": "1,2,3"}, "is no box"),
    "no picture": ({"crop": b"no picture at all"}, {}, "Picture 1 cannot be used"),
    "a format that is not let in": ({"crop": png(1, mode="GIF")}, {}, "JPEG, PNG or WebP"),
    "a broken picture": ({"crop": png(1)[:90]}, {}, "Picture 1 cannot be used"),
    "too many pixels": ({"crop": png(1, (200, 200))}, {}, "pixels"),
    "a picture that the network refuses": ({"crop": "black"}, {}, "network cannot use this"),
    "unknown camera": ({"crop": png(1)}, {"camera": "roof"}, "There is no camera 'roof'"),
    "time without zone": ({"crop": png(1)}, {"after": "2026-05-04T10:00:00"}, "time zone"),
    "no time": ({"crop": png(1)}, {"after": "yesterday"}, "after"),
    "k": ({"crop": png(1)}, {"k": "0"}, "k"),
    "large k": ({"crop": png(1)}, {"k": "5000"}, "1000 at most"),
    "unknown box": ({}, {"box_id": "999"}, "There is no box 999"),
    "huge box": ({}, {"box_id": str(2**70)}, "box_id"),
    "not a number": ({}, {"box_id": "one"}, "box_id"),
    "group": ({"crop": png(1)}, {"group_by": "colour"}, "group_by"),
    "long reason": ({"crop": png(1)}, {"reason": "x" * 501}, "reason"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_answered_says_why(start: Start, name: str) -> None:
    files, form, message = BAD[name]
    client = start(allow_local=True, pixels=20_000)
    if files.get("crop") == "black":
        file = io.BytesIO()
        Image.new("RGB", (9, 9)).save(file, "PNG")
        files = {"crop": file.getvalue()}
    answer = client.post("/v1/search", files=files or None, data=form)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert message in problem["detail"]
    # The service goes on.
    assert ask(client, crop(1))["results"]


def test_a_bomb_is_refused_by_its_header(start: Start) -> None:
    """81 megapixels in 10 KB; Pillow would decode them and warn."""
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    assert len(file.getvalue()) < 20_000
    client = start(allow_local=True)
    document = ask(client, [("crop", ("bomb.png", file.getvalue()))], status=422)
    assert "9000x9000 pixels" in document["detail"]


def test_every_search_is_in_the_audit_before_it_is_answered(client: TestClient) -> None:
    found = ask(client, crop(1), reason="theft on Monday", case="case 7", camera="yard", k=3)
    store = service_of(client).store
    (row,) = audit.entries(store)
    assert row.id == found["audit_id"]
    assert (row.caller, row.event) == ("key 0 (local)", "search")
    assert (row.detail["reason"], row.detail["case"]) == ("theft on Monday", "case 7")
    assert row.detail["filter"]["cameras"] == ["yard"]
    assert [box for box, _ in row.detail["results"]] == [r["box_id"] for r in found["results"]]
    assert row.detail["encoder"] == found["encoder"]["weights_sha256"]
    assert len(row.detail["pictures_sha256"]) == 1
    assert not any(word in json.dumps(row.detail) for word in ("embedding", "vector"))
    assert client.get("/v1/audit/verify").json()["broken_at"] is None


def test_without_the_audit_there_is_no_answer(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from indexer.errors import GalleryError

    def full(*_: Any) -> int:
        raise GalleryError("the disk is full")

    monkeypatch.setattr(audit, "append", full)
    document = ask(client, crop(1), status=503)
    assert "audit" in document["detail"]
    assert "results" not in document


def test_a_reason_may_be_asked_for(start: Start) -> None:
    client = start(allow_local=True, require_reason=True)
    assert "reason" in ask(client, crop(1), status=422)["detail"]
    assert "reason" in ask(client, crop(1), status=422, reason="  ")["detail"]
    assert ask(client, crop(1), reason="theft")["results"]


def test_frames_cameras_and_counts(client: TestClient, pictures: Path) -> None:
    assert [c["name"] for c in client.get("/v1/cameras").json()] == ["door", "yard"]
    counts = client.get("/v1/stats").json()
    with service_of(client).gallery.database.read() as connection:
        boxes = list(connection.execute(select(schema.box)))
    numbers = {"cameras": 2, "sources": 7, "frames": 7, "boxes": len(boxes)}
    assert counts == {"role": "admin", **numbers}
    frame = client.get("/v1/frames/1").json()
    assert (frame["width"], frame["height"]) == (64, 48)
    assert [b["box_id"] for b in frame["boxes"]] == [b.id for b in boxes if b.frame_id == 1]
    picture = client.get("/v1/frames/1/image")
    with Image.open(io.BytesIO(picture.content)) as image:
        assert image.size == (64, 48)
    for url in ("/v1/frames/99", "/v1/frames/99/image", "/v1/boxes/999/crop", "/v1/nothing"):
        answer = client.get(url)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    other = next(b.id for b in boxes if b.frame_id != 1)
    assert client.get("/v1/frames/1/image", params={"draw": other}).status_code == 404
    (pictures / "door").rename(pictures / "moved")
    try:
        gone = client.get("/v1/frames/1/image")
    finally:
        (pictures / "moved").rename(pictures / "door")
    assert gone.status_code == 410
    assert str(pictures) not in gone.text


def test_what_is_deleted_is_not_found_any_more(client: TestClient) -> None:
    before = ask(client, crop(1), k=100)["results"]
    done = client.delete("/v1/frames", params={"frame_id": 1, "reason": "erasure"})
    assert done.status_code == 200, done.text
    assert done.json()["frames"] == 1
    after = ask(client, crop(1), k=100)["results"]
    assert after == [r for r in before if r["frame"]["id"] != 1]
    assert client.get("/v1/frames/1").status_code == 404
    done = client.delete("/v1/frames", params={"camera": "yard"})
    assert done.json()["frames"] == 3
    assert (
        not service_of(client)
        .gallery.search(Query(embedding_of(pixels_of(png(1)))[None]), 9, Filter(cameras=[2]))
        .hits
    )
    events = [entry.event for entry in audit.entries(service_of(client).store)]
    assert events.count("delete") == 2
    assert client.delete("/v1/frames").status_code == 422
    assert client.delete("/v1/frames", params={"frame_id": 2, "camera": "door"}).status_code == 422
    assert client.delete("/v1/frames", params={"frame_id": 99}).status_code == 404


@pytest.mark.slow
def test_a_thousand_mutated_pictures(start: Start) -> None:
    """None of them is the service's fault, and a good picture is answered after them."""
    client = start(allow_local=True, pixels=1_000_000, rate="100000/minute")
    rng = np.random.default_rng(0)
    originals = [png(seed, (20, 30), mode) for seed, mode in enumerate(("PNG", "JPEG", "WEBP"))]
    statuses: dict[int, int] = {}
    for number in range(PICTURES):
        data = bytearray(originals[number % 3])
        for _ in range(int(rng.integers(1, 6))):
            kind = rng.integers(3)
            place = int(rng.integers(len(data)))
            if kind == 0:
                data[place] = int(rng.integers(256))
            elif kind == 1:
                del data[place : place + int(rng.integers(1, 40))]
            else:
                data[place:place] = rng.bytes(int(rng.integers(1, 40)))
        answer = client.post("/v1/search", files={"crop": ("x", bytes(data))}, data={"k": "1"})
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
    assert set(statuses) == {200, 422}, statuses
    assert min(statuses.values()) > 50
    assert ask(client, crop(1))["results"]


def test_scores_are_told_with_what_they_have_meant(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(client, crop(1))["calibration"] is None
    curve = Calibration(
        weights_sha256=FakeEncoder.weights_sha256,
        benchmark="somewhere",
        query="crop",
        pairs=100,
        similarity=[-1.0, 1.0],
        probability=[0.0, 1.0],
    )
    monkeypatch.setattr(service_of(client), "_calibration", curve)
    found = ask(client, crop(1), group_by="frame")
    assert found["calibration"] == {"benchmark": "somewhere", "query": "crop", "pairs": 100}
    for result in [*found["results"], *found["groups"][0]["results"]]:
        assert result["same_person"] == pytest.approx((result["score"] + 1) / 2)
    # Less what is like a negative, a score is no similarity.
    less = ask(client, crop(1), not_box_id=found["results"][0]["box_id"])
    assert less["calibration"] is None
    assert less["results"][0]["same_person"] is None
    other = curve.model_copy(update={"weights_sha256": "f" * 64})
    monkeypatch.setattr(service_of(client), "_calibration", other)
    assert ask(client, crop(1))["calibration"] is None


def test_the_fast_tier_is_built_where_it_is_asked_for(
    folder: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []

    def build(gallery: Gallery) -> TierReport:
        built.append(len(gallery.view()))
        return TierReport(built[-1], 1.0, 1, used=True)

    monkeypatch.setattr(Gallery, "build_fast_tier", build)
    start(allow_local=True)
    assert built == []
    service = service_of(start(allow_local=True, fast=True, follow_s=0.01))
    assert built == [service.gallery.stats().boxes]
    # It follows the gallery when that has grown.
    for number in range(4):
        make_picture(folder.parent / "more" / f"2026-05-05_10-0{number}-00.png", seed=number)
    run_index(folder, [folder.parent / "more"])
    until(lambda: len(built) > 1)
    assert built[-1] > 1.1 * built[0]


def test_metrics_tell_the_stages_of_a_search(client: TestClient) -> None:
    def counted() -> dict[str, float]:
        pattern = r'binet_search_stage_seconds_count\{stage="(\w+)"\} (\S+)'
        return {name: float(n) for name, n in re.findall(pattern, client.get("/metrics").text)}

    assert counted() == {}
    assert client.post("/v1/search", files={"crop": png(1)}).status_code == 200
    stages = ("decode", "encode", "index", "group", "audit")
    assert counted() == dict.fromkeys(stages, 1)


def test_metrics_tell_how_far_the_index_is_behind(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def behind() -> float:
        lines = client.get("/metrics").text.splitlines()
        return float(next(li for li in lines if li.startswith("binet_index_behind ")).split()[1])

    assert behind() == 0
    service = service_of(client)
    monkeypatch.setattr(Gallery, "refresh", lambda gallery: gallery.view())
    with Gallery.open(service.settings.gallery) as other, other.database.write() as connection:
        revise(connection)
        revise(connection)
    assert behind() == 2
