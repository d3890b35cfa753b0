"""Cases: two keys confirm, a scope holds, and an export proves itself."""

import hashlib
import io
import json
import zipfile
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from indexer.errors import GalleryError
from service import audit
from service.case_export import SUMS
from service.roles import Role
from tests.service.conftest import Start, service_of
from tests.service.test_access import with_key
from tests.service.test_search import crop

Headers = dict[str, str]


@pytest.fixture
def people(start: Start) -> tuple[TestClient, Headers, Headers]:
    """A client and the headers of two viewers."""
    client = start()
    return client, with_key(client, Role.VIEWER), with_key(client, Role.VIEWER)


def make(client: TestClient, headers: Headers, name: str = "lost child") -> int:
    made = client.post("/v1/cases", json={"name": name}, headers=headers)
    assert made.status_code == 201, made.text
    number: int = made.json()["id"]
    return number


def search(client: TestClient, headers: Headers, **form: Any) -> dict[str, Any]:
    found = client.post("/v1/search", files=crop(1), data=form, headers=headers)
    assert found.status_code == 200, found.text
    document: dict[str, Any] = found.json()
    return document


def act(client: TestClient, headers: Headers, path: str, body: Any = None) -> tuple[int, Any]:
    answer = client.post(f"/v1/cases/{path}", json={} if body is None else body, headers=headers)
    return answer.status_code, answer.json()


def test_confirmed_needs_two_different_keys(
    people: tuple[TestClient, Headers, Headers],
) -> None:
    client, one, two = people
    case = make(client, one)
    found = search(client, one)
    best = found["results"][0]
    proposal = {"box_id": best["box_id"], "audit_id": found["audit_id"], "note": "the coat"}
    status, document = act(client, one, f"{case}/reviews", proposal)
    assert status == 201
    (review,) = document["reviews"]
    assert review["state"] == "proposed"
    assert review["score"] == pytest.approx(best["score"], abs=1e-4)
    assert review["result"]["frame"] == best["frame"]
    url = f"{case}/reviews/{best['box_id']}"
    assert act(client, one, f"{url}/confirm")[1]["reviews"][0]["state"] == "confirmed once"
    status, problem = act(client, one, f"{url}/confirm")
    assert (status, "second one" in problem["detail"]) == (409, True)
    assert client.get(f"/v1/cases/{case}", headers=one).json()["counts"] == {"confirmed once": 1}
    status, document = act(client, two, f"{url}/confirm", {"note": "I agree"})
    review = document["reviews"][0]
    assert review["state"] == "confirmed"
    assert review["first_by"] != review["second_by"]
    assert review["note"] == "I agree"
    assert act(client, two, f"{url}/confirm")[0] == 409
    assert act(client, one, f"{case}/reviews", proposal)[0] == 409
    assert act(client, two, f"{url}/reject")[1]["reviews"][0]["state"] == "rejected"
    assert act(client, two, f"{url}/reject")[0] == 409
    assert act(client, two, f"{url}/confirm")[0] == 409
    # Proposed again, nothing of the earlier agreement counts.
    again = act(client, two, f"{case}/reviews", proposal | {"audit_id": None})[1]["reviews"][0]
    assert (again["state"], again["first_by"], again["score"]) == ("proposed", None, None)


def test_what_cannot_be_proposed(people: tuple[TestClient, Headers, Headers]) -> None:
    client, one, two = people
    case = make(client, one)
    found = search(client, one, k=1)
    box, row = found["results"][0]["box_id"], found["audit_id"]
    other = search(client, one)["results"][1]["box_id"]
    # Another's search, no search, and one that has not found it.
    for headers, body in (
        (two, {"box_id": box, "audit_id": row}),
        (one, {"box_id": box, "audit_id": 99_999}),
        (one, {"box_id": other, "audit_id": row}),
    ):
        assert act(client, headers, f"{case}/reviews", body)[0] == 422
    assert act(client, one, f"{case}/reviews", {"box_id": 99_999})[0] == 404
    assert act(client, one, f"{case}/reviews/{box}/confirm")[0] == 404
    assert act(client, one, "99/reviews", {"box_id": box})[0] == 404
    assert client.post("/v1/cases", json={"name": "lost child"}, headers=two).status_code == 409
    assert client.post("/v1/cases", json={"name": "  "}, headers=two).status_code == 422


def test_an_export_proves_itself(people: tuple[TestClient, Headers, Headers]) -> None:
    client, one, two = people
    case = make(client, one, "Fall für Zwei/2026")
    search(client, two, reason="something else", case="another case")
    found = search(client, one, reason="lost", case="Fall für Zwei/2026")
    boxes = [result["box_id"] for result in found["results"][:2]]
    for box in boxes:
        act(client, one, f"{case}/reviews", {"box_id": box, "audit_id": found["audit_id"]})
    act(client, two, f"{case}/reviews/{boxes[0]}/confirm")
    # The second one is deleted from the gallery: its pictures are gone, its review stays.
    gone = found["results"][1]["frame"]["id"]
    operator = with_key(client, Role.OPERATOR)
    assert client.delete("/v1/frames", params={"frame_id": gone}, headers=operator).is_success
    answer = client.get(f"/v1/cases/{case}/export", headers=two)
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    sums = dict(line.split("  ")[::-1] for line in files.pop(SUMS).decode().splitlines())
    assert sums == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    content = json.loads(files["case.json"])
    assert [review["box_id"] for review in content["reviews"]] == boxes
    assert [review["result"] is None for review in content["reviews"]] == [False, True]
    assert content["meaning"] == "similar, not identified"
    for name in (f"frames/{boxes[0]}.jpg", f"crops/{boxes[0]}.jpg"):
        with Image.open(io.BytesIO(files[name])) as picture:
            assert picture.format == "JPEG"
    assert f"crops/{boxes[1]}.jpg" not in files
    rows = [json.loads(line) for line in files["audit.jsonl"].decode().splitlines()]
    events = [row["event"] for row in rows]
    assert events == ["create case", "search", "review", "review", "review"]
    for row in rows:
        own = {name: value for name, value in row.items() if name != "hash"}
        text = json.dumps(own, sort_keys=True)
        assert hashlib.sha256(text.encode()).hexdigest() == row["hash"]
    last = audit.entries(service_of(client).store, 1)[0]
    listed = zipfile.ZipFile(io.BytesIO(answer.content)).read(SUMS)
    assert last.event == "export case"
    assert last.detail["sums_sha256"] == hashlib.sha256(listed).hexdigest()


def test_a_scoped_key_sees_its_part_of_a_case(start: Start) -> None:
    client = start()
    everything = with_key(client, Role.ADMIN)
    door = with_key(client, Role.OPERATOR, ["door"])
    case = make(client, everything)
    found = search(client, everything, k=50, case="lost child")["results"]
    by_camera = {result["frame"]["camera"]: result["box_id"] for result in found}
    act(client, everything, f"{case}/reviews", {"box_id": by_camera["yard"]})
    hidden, missing = (client.get(f"/v1/cases/{n}", headers=door) for n in (case, 99))
    assert hidden.status_code == 404
    assert hidden.text.replace(str(case), "99") == missing.text
    assert client.get("/v1/cases", headers=door).json() == []
    assert client.get(f"/v1/cases/{case}/export", headers=door).status_code == 404
    act(client, everything, f"{case}/reviews", {"box_id": by_camera["door"]})
    seen = client.get(f"/v1/cases/{case}", headers=door).json()
    assert [review["box_id"] for review in seen["reviews"]] == [by_camera["door"]]
    assert seen["counts"] == {"proposed": 1}
    for step in ("confirm", "reject"):
        others = act(client, door, f"{case}/reviews/{by_camera['yard']}/{step}")
        nobody = act(client, door, f"{case}/reviews/99999/{step}")
        assert others[0] == nobody[0] == 404
    proposed = act(client, door, f"{case}/reviews", {"box_id": by_camera["yard"]})
    assert proposed[0] == 404
    exported = client.get(f"/v1/cases/{case}/export", headers=door)
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        assert archive.read("audit.jsonl") == b""
        assert not any(str(by_camera["yard"]) in name for name in archive.namelist())
    assert client.delete(f"/v1/cases/{case}", headers=door).status_code == 403
    assert client.delete(f"/v1/cases/{case}", headers=everything).status_code == 204
    assert client.get(f"/v1/cases/{case}", headers=everything).status_code == 404


def test_no_step_without_its_row_in_the_audit(
    people: tuple[TestClient, Headers, Headers], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, one, _ = people
    case = make(client, one)
    box = search(client, one)["results"][0]["box_id"]

    def full(*_: Any) -> int:
        raise GalleryError("the disk is full")

    monkeypatch.setattr(audit, "append", full)
    assert act(client, one, f"{case}/reviews", {"box_id": box})[0] == 503
    assert client.get(f"/v1/cases/{case}/export", headers=one).status_code == 503
    monkeypatch.undo()
    assert client.get(f"/v1/cases/{case}", headers=one).json()["reviews"] == []
