"""Who may ask for what: roles, keys, the scope of cameras, limits."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from indexer.filters import to_us
from service import audit
from service.access import role_of
from service.keys import create_key, revoke_key
from service.roles import Role
from tests.service.conftest import Start, service_of
from tests.service.test_search import ask, crop, png

#: Routes that tell nothing about anybody.
PAGE = {"/", "/page/{name}"}
PUBLIC = {"/livez", "/readyz", "/metrics", *PAGE}
ROLES = {
    "POST /v1/search": Role.VIEWER,
    "POST /v1/searches": Role.VIEWER,
    "GET /v1/cameras": Role.VIEWER,
    "GET /v1/sources": Role.VIEWER,
    "POST /v1/holds": Role.OPERATOR,
    "GET /v1/holds": Role.OPERATOR,
    "DELETE /v1/holds/{hold_id}": Role.OPERATOR,
    "POST /v1/retention": Role.ADMIN,
    "GET /v1/stats": Role.VIEWER,
    "GET /v1/frames/{frame_id}": Role.VIEWER,
    "GET /v1/frames/{frame_id}/image": Role.VIEWER,
    "GET /v1/boxes/{box_id}/crop": Role.VIEWER,
    "DELETE /v1/frames": Role.OPERATOR,
    "POST /v1/cases": Role.VIEWER,
    "GET /v1/cases": Role.VIEWER,
    "GET /v1/cases/{case_id}": Role.VIEWER,
    "POST /v1/cases/{case_id}/reviews": Role.VIEWER,
    "POST /v1/cases/{case_id}/reviews/{box_id}/confirm": Role.VIEWER,
    "POST /v1/cases/{case_id}/reviews/{box_id}/reject": Role.VIEWER,
    "GET /v1/cases/{case_id}/export": Role.VIEWER,
    "DELETE /v1/cases/{case_id}": Role.OPERATOR,
    "POST /v1/jobs": Role.OPERATOR,
    "GET /v1/jobs": Role.VIEWER,
    "GET /v1/jobs/{job_id}": Role.VIEWER,
    "GET /v1/jobs/{job_id}/events": Role.VIEWER,
    "DELETE /v1/jobs/{job_id}": Role.OPERATOR,
    "POST /v1/keys": Role.ADMIN,
    "GET /v1/keys": Role.ADMIN,
    "DELETE /v1/keys/{key_id}": Role.ADMIN,
    "GET /v1/audit": Role.ADMIN,
    "GET /v1/audit/verify": Role.ADMIN,
}


def routes(client: TestClient) -> list[APIRoute]:
    """Every route of the app, those of its routers among them."""
    app: Any = client.app
    found: list[APIRoute] = []
    for route in app.routes:
        inside = getattr(route, "original_router", None)
        found += [r for r in (inside.routes if inside else [route]) if isinstance(r, APIRoute)]
    documented = {
        (path, method.upper()) for path, item in app.openapi()["paths"].items() for method in item
    }
    interface = [r for r in found if r.path not in PAGE]
    assert {(r.path, method) for r in interface for method in r.methods} == documented
    return found


def with_key(client: TestClient, role: Role, cameras: list[str] | None = None) -> dict[str, str]:
    _, secret = create_key(service_of(client).store, f"a {role}", role, cameras)
    return {"Authorization": f"Bearer {secret}"}


def test_every_route_names_its_role(client: TestClient) -> None:
    found = {
        f"{method} {route.path}": role_of(route)
        for route in routes(client)
        for method in route.methods
        if route.path not in PUBLIC
    }
    assert found == ROLES


def test_each_route_refuses_lesser_roles_and_strangers(start: Start) -> None:
    client = start()
    headers = {role: with_key(client, role) for role in Role}
    for name, role in ROLES.items():
        method, path = name.split(" ")
        url = re.sub(r"\{\w+\}", "99999", path)
        stranger = client.request(method, url)
        assert stranger.status_code == 401, name
        assert stranger.headers["www-authenticate"] == "Bearer"
        assert client.request(method, url, headers={"Authorization": "Bearer x"}).status_code == 401
        for lesser in list(Role)[: list(Role).index(role)]:
            answer = client.request(method, url, headers=headers[lesser])
            assert answer.status_code == 403, f"{name} as {lesser}"
            assert role in answer.json()["detail"]
        allowed = client.request(method, url, headers=headers[role])
        assert allowed.status_code not in (401, 403, 500), name


def test_nobody_is_local_from_elsewhere(start: Start) -> None:
    assert start(allow_local=True).get("/v1/cameras").status_code == 200
    assert start().get("/v1/cameras").status_code == 401
    far = start(allow_local=True, client=("192.0.2.7", 1))
    assert far.get("/v1/cameras").status_code == 401
    unix = start(allow_local=True, client=("somewhere", 1))
    assert unix.get("/v1/cameras").status_code == 401


def test_a_revoked_or_expired_key_is_refused_by_the_next_request(start: Start) -> None:
    client = start()
    store = service_of(client).store
    soon = datetime.now(UTC) + timedelta(hours=1)
    key, secret = create_key(store, "desk", Role.VIEWER, expires_at=soon)
    headers = {"Authorization": f"Bearer {secret}"}
    assert client.get("/v1/cameras", headers=headers).status_code == 200
    revoke_key(store, key.id)
    assert client.get("/v1/cameras", headers=headers).status_code == 401
    assert to_us(soon) > 0


def test_keys_over_http(start: Start) -> None:
    client = start()
    admin = with_key(client, Role.ADMIN)
    made = client.post("/v1/keys", json={"name": "desk", "cameras": ["door"]}, headers=admin)
    assert made.status_code == 201
    new = made.json()
    assert (new["role"], new["cameras"]) == ("viewer", ["door"])
    listed = client.get("/v1/keys", headers=admin).json()
    assert [key["name"] for key in listed] == ["a admin", "desk"]
    assert not any("secret" in key for key in listed)
    own = {"Authorization": f"Bearer {new['secret']}"}
    assert [c["name"] for c in client.get("/v1/cameras", headers=own).json()] == ["door"]
    assert client.delete(f"/v1/keys/{new['id']}", headers=admin).status_code == 204
    assert client.get("/v1/cameras", headers=own).status_code == 401
    assert client.delete("/v1/keys/99", headers=admin).status_code == 404
    for bad in ({}, {"name": ""}, {"name": "x", "role": "king"}, {"name": "x", "more": 1}):
        assert client.post("/v1/keys", json=bad, headers=admin).status_code == 422
    past = {"name": "x", "expires_at": "2020-01-01T00:00:00Z"}
    assert client.post("/v1/keys", json=past, headers=admin).status_code == 400
    zoneless = {"name": "x", "expires_at": "2099-01-01T00:00:00"}
    assert client.post("/v1/keys", json=zoneless, headers=admin).status_code == 422
    events = [row["event"] for row in client.get("/v1/audit", headers=admin).json()]
    assert {"create key", "revoke key"} <= set(events)
    rows = client.get("/v1/audit", params={"limit": 1}, headers=admin).json()
    assert len(rows) == 1
    older = client.get("/v1/audit", params={"before": rows[0]["id"]}, headers=admin).json()
    assert all(row["id"] < rows[0]["id"] for row in older)
    text = client.get("/v1/audit", headers=admin).text
    assert new["secret"] not in text


# --- the scope of cameras ---------------------------------------------------------------------


@pytest.fixture
def scoped(start: Start) -> tuple[TestClient, dict[str, str], dict[str, str]]:
    """A client, headers of a key for `door` alone, and of one for everything."""
    client = start()
    operator = with_key(client, Role.OPERATOR, ["door", "a camera that is not there"])
    return client, operator, with_key(client, Role.ADMIN)


def yard(client: TestClient, everything: dict[str, str]) -> list[dict[str, Any]]:
    found = client.post(
        "/v1/search", files=crop(1), data={"k": "100", "camera": "yard"}, headers=everything
    )
    results: list[dict[str, Any]] = found.json()["results"]
    assert results
    return results


def test_a_scoped_key_learns_nothing_of_other_cameras(
    scoped: tuple[TestClient, dict[str, str], dict[str, str]],
) -> None:
    client, own, everything = scoped
    others = yard(client, everything)
    box, frame = others[0]["box_id"], others[0]["frame"]["id"]
    missing_box, missing_frame = 99_999, 99_999

    found = client.post("/v1/search", files=crop(1), data={"k": "100"}, headers=own).json()
    assert {r["frame"]["camera"] for r in found["results"]} == {"door"}
    assert [c["name"] for c in client.get("/v1/cameras", headers=own).json()] == ["door"]
    counts = client.get("/v1/stats", headers=own).json()
    assert counts["cameras"] == 1
    assert counts["frames"] == 4
    assert counts["boxes"] == len(found["results"])

    def same(answers: list[Any], numbers: tuple[int, int]) -> None:
        """What is not there and what is hidden are told in the same words."""
        assert [answer.status_code for answer in answers] == [404, 404]
        told = [a.text.replace(str(n), "N") for a, n in zip(answers, numbers, strict=True)]
        assert told[0] == told[1]

    for form in ("box_id", "not_box_id"):
        answers = [
            client.post("/v1/search", files=crop(1), data={form: str(number)}, headers=own)
            for number in (box, missing_box)
        ]
        same(answers, (box, missing_box))
    for url in ("/v1/frames/{}", "/v1/frames/{}/image"):
        answers = [client.get(url.format(n), headers=own) for n in (frame, missing_frame)]
        same(answers, (frame, missing_frame))
    answers = [client.get(f"/v1/boxes/{n}/crop", headers=own) for n in (box, missing_box)]
    same(answers, (box, missing_box))
    answers = [
        client.get("/v1/frames/1/image", params={"draw": n}, headers=own)
        for n in (box, missing_box)
    ]
    same(answers, (box, missing_box))
    answers = [
        client.post("/v1/search", files=crop(1), data={"camera": name}, headers=own)
        for name in ("yard", "roof")
    ]
    assert answers[0].text.replace("yard", "roof") == answers[1].text
    assert answers[0].status_code == 404
    answers = [
        client.delete("/v1/frames", params={"frame_id": n}, headers=own)
        for n in (frame, missing_frame)
    ]
    same(answers, (frame, missing_frame))
    assert client.delete("/v1/frames", params={"camera": "yard"}, headers=own).status_code == 404
    sources = client.get("/v1/sources", headers=own).json()
    assert {one["camera"] for one in sources} == {"door"}
    held = {"reason": "x", "frame_id": frame}
    answers = [
        client.post("/v1/holds", json=held | {"frame_id": n}, headers=own)
        for n in (frame, missing_frame)
    ]
    same(answers, (frame, missing_frame))
    assert client.post("/v1/holds", json={"reason": "x"}, headers=own).status_code == 403
    made = client.post("/v1/holds", json=held, headers=everything).json()
    assert client.get("/v1/holds", headers=own).json() == []
    assert client.delete(f"/v1/holds/{made['id']}", headers=own).status_code == 404
    # Without naming cameras, a deletion reaches the key's own only.
    done = client.delete("/v1/frames", params={"after": "2026-01-01T00:00:00Z"}, headers=own)
    assert done.json()["frames"] == 4
    assert yard(client, everything) == others


# --- limits -----------------------------------------------------------------------------------


def test_large_bodies_are_refused_with_and_without_a_length(start: Start) -> None:
    client = start(allow_local=True, body_bytes=20_000)

    def chunks() -> Any:
        boundary = b"--x\r\nContent-Disposition: form-data; name=crop; filename=a\r\n\r\n"
        yield boundary
        for _ in range(100):
            yield b"y" * 1000
        yield b"\r\n--x--\r\n"

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    streamed = client.post("/v1/search", content=chunks(), headers=kind)
    told = client.post("/v1/search", content=b"".join(chunks()), headers=kind)
    lying = client.post("/v1/search", content=b"y" * 10, headers={**kind, "Content-Length": "1e9"})
    for answer in (streamed, told, lying):
        assert answer.status_code == 413
        assert answer.headers["content-type"] == "application/problem+json"
    assert ask(client, crop(1))["results"]


def test_too_many_pictures_and_fields(start: Start) -> None:
    client = start(allow_local=True, pictures=3)
    files = [("crop", (f"{n}.png", png(n))) for n in range(4)]
    assert "3 pictures" in ask(client, files, status=422)["detail"]
    answer = client.post("/v1/search", data={"box_id": [str(n + 1) for n in range(3000)]})
    assert 400 <= answer.status_code < 500


def test_who_asks_too_often_is_told_when_to_come_back(start: Start) -> None:
    client = start(rate="3/minute")
    first, second = (with_key(client, Role.VIEWER) for _ in range(2))
    statuses = [client.get("/v1/cameras", headers=first).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    refused = client.get("/v1/cameras", headers=first)
    assert int(refused.headers["retry-after"]) > 0
    assert client.get("/v1/cameras", headers=second).status_code == 200


def test_answers_forbid_scripts_and_caching(client: TestClient) -> None:
    for url in ("/v1/cameras", "/v1/frames/1/image", "/v1/nothing", "/livez"):
        headers = client.get(url).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "no-store" in headers["cache-control"]
        assert len(headers["x-request-id"]) == 32


def test_metrics_and_logs_tell_nothing_about_people(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    client = start()
    headers = with_key(client, Role.VIEWER)
    secret = headers["Authorization"].split()[1]
    client.post("/v1/search", files=crop(1), data={"reason": "WORD"}, headers=headers)
    client.get("/v1/frames/1/image", headers=headers)
    text = client.get("/metrics").text
    assert 'binet_requests_total{method="POST",route="/v1/search",status="200"} 1.0' in text
    assert 'route="/v1/frames/{frame_id}/image"' in text
    assert "binet_index_boxes" in text
    for place in (text, caplog.text):
        for word in (secret, "WORD", "a viewer", "PNG\\r"):
            assert word not in place
    assert audit.verify(service_of(client).store).broken_at is None
