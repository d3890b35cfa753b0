"""Index jobs over HTTP: sources below the roots only, followed to their end, cancelled, scoped."""

import json
import runpy
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from indexer.branch import NetworkBranch
from indexer.errors import GalleryError
from indexer.gallery import Gallery
from indexer.index_command import IndexRequest
from indexer.jobs import create_job, read_job, take_job
from indexer.schema import JobState
from service import index_process
from service.index_jobs import TRIES, Run, source_below
from service.roles import Role
from tests.indexer.archives_made import make_picture
from tests.indexer.fake_branch import FakeBranch
from tests.indexer.postgres import url_of
from tests.service.conftest import Start, run_here, service_of
from tests.service.test_access import with_key
from tests.service.test_search import ask, crop

PATIENCE_S = 20


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A root with a camera's folder, in which one file is broken; and something outside of it."""
    root = tmp_path / "archive"
    for number in range(3):
        make_picture(root / "gate" / f"2026-06-01_08-0{number}-00.png", seed=100 + number)
    (root / "gate" / "broken.png").write_bytes(b"no picture")
    make_picture(tmp_path / "secret" / "a.png", seed=7)
    (root / "link").symlink_to(tmp_path / "secret")
    return root


@pytest.fixture
def run_job(folder: Path) -> Run:
    return partial(run_here, folder)


def follow(client: TestClient, job_id: int, headers: Any = None) -> list[dict[str, Any]]:
    """Every state of a job that the service tells, until it is over."""
    lines = client.get(f"/v1/jobs/{job_id}/events", headers=headers).text.splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_a_source_is_indexed_and_found(start: Start, archive: Path, run_job: Run) -> None:
    client = start(allow_local=True, roots=(archive,), run_job=run_job, follow_s=0.02)
    queued = client.post("/v1/jobs", json={"source": "gate"})
    assert queued.status_code == 202, queued.text
    job = queued.json()
    assert job["sources"] == ["gate"]
    assert str(archive) not in queued.text
    states = follow(client, job["id"])
    done = states[-1]
    assert done["state"] == "done"
    assert (done["discovered"], done["indexed"], done["failed"]) == (4, 3, 1)
    assert [failure["name"] for failure in done["failures"]] == ["broken.png"]
    assert done["failures"][0]["reason"]
    assert client.get(f"/v1/jobs/{job['id']}").json() == done
    listed = client.get("/v1/jobs").json()
    assert listed[0]["id"] == job["id"]
    # What another process has put there is followed.
    gallery = service_of(client).gallery
    for _ in range(500):
        if len(gallery.view()) > 0 and ask(client, crop(1), k=100, camera="gate")["results"]:
            break
        threading.Event().wait(0.02)
    assert ask(client, crop(1), k=100, camera="gate")["results"]


def test_sources_are_below_the_roots_only(
    start: Start, archive: Path, tmp_path: Path, run_job: Run
) -> None:
    client = start(allow_local=True, roots=(archive,), run_job=run_job)
    for source in (
        "../secret",
        "gate/../../secret",
        str(tmp_path / "secret"),
        "/etc/passwd",
        "link",
        "link/a.png",
        ".",
        "gate/none.png",
        "nul\0byte",
        "http://example.org/a.mp4",
        "~root",
    ):
        answer = client.post("/v1/jobs", json={"source": source})
        assert answer.status_code == 404, source
        assert str(tmp_path) not in answer.text.replace(source, "")
    for bad in ({}, {"source": ""}, {"source": "gate", "fps": 0}, {"source": "gate", "more": 1}):
        assert client.post("/v1/jobs", json=bad).status_code == 422
    zoneless = {"source": "gate", "start": "2026-01-01T00:00:00"}
    assert client.post("/v1/jobs", json=zoneless).status_code == 422
    assert start(allow_local=True).post("/v1/jobs", json={"source": "gate"}).status_code == 409
    assert source_below((tmp_path / "nowhere", archive), "gate") == archive / "gate"
    assert client.get("/v1/jobs/99").status_code == 404
    assert client.get(f"/v1/jobs/{2**70}").status_code == 404


def test_jobs_wait_for_each_other_and_can_be_cancelled(start: Start, archive: Path) -> None:
    gate, entered, ran = threading.Event(), threading.Event(), []

    def run(job_id: int, _: str) -> None:
        ran.append(job_id)
        entered.set()
        assert gate.wait(PATIENCE_S)
        raise RuntimeError("it broke")

    client = start(allow_local=True, roots=(archive,), run_job=run)
    first, second = (
        client.post("/v1/jobs", json={"source": "gate"}).json()["id"] for _ in range(2)
    )
    assert entered.wait(PATIENCE_S)
    cancelled = client.delete(f"/v1/jobs/{second}")
    assert cancelled.status_code == 202
    assert cancelled.json()["state"] == "cancelled"
    assert client.delete(f"/v1/jobs/{second}").status_code == 409
    gate.set()
    assert follow(client, first)[-1]["state"] == "failed"
    service_of(client).jobs.stop()
    assert ran == [first]


def test_queued_jobs_are_taken_up_by_the_next_service(
    folder: Path, start: Start, archive: Path, run_job: Run
) -> None:
    request = IndexRequest([str(archive / "gate")], weights="none")
    with Gallery.open(folder) as gallery, gallery.database.write() as connection:
        job = create_job(connection, "index", vars(request), TRIES)
    client = start(allow_local=True, roots=(archive,), run_job=run_job)
    assert follow(client, job)[-1]["state"] == "done"


def test_a_job_runs_in_a_process_of_its_own(start: Start, archive: Path, folder: Path) -> None:
    """Weights that are not there: the process says so in the job, and ends."""
    client = start(
        gallery=url_of(folder),
        allow_local=True,
        roots=(archive,),
        weights=folder / "no-weights",
    )
    job = client.post("/v1/jobs", json={"source": "gate"}).json()["id"]
    last = follow(client, job)[-1]
    assert last["state"] == "failed"
    assert "no-weights" in last["reason"] or "checkpoint" in last["reason"].lower()


def test_the_process_runs_what_was_queued(
    folder: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NetworkBranch, "load", lambda *_: FakeBranch())
    request = IndexRequest([str(archive / "gate")], weights="none", camera="gate")
    with Gallery.open(folder) as gallery, gallery.database.write() as connection:
        job = create_job(connection, "index", vars(request), TRIES)
        assert take_job(connection, "index", "me here 1 - x") == job
    assert index_process.main(str(folder), job, "somebody else 1 - x") == 0
    with Gallery.open(folder) as gallery, gallery.database.read() as connection:
        assert read_job(connection, job).owner == "me here 1 - x"
    assert index_process.main(str(folder), job, "me here 1 - x") == 0
    with Gallery.open(folder) as gallery, gallery.database.read() as connection:
        assert read_job(connection, job).state == JobState.DONE


def test_a_job_stands_back_behind_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("os.nice", asked.append)
    monkeypatch.setattr("sys.argv", ["index_process", str(tmp_path / "none"), "1", "me"])
    with pytest.raises(GalleryError):
        runpy.run_path(index_process.__file__, run_name="__main__")
    assert asked == [index_process.NICENESS]


def test_a_scoped_key_sees_and_makes_jobs_of_its_cameras(
    start: Start, archive: Path, run_job: Run
) -> None:
    client = start(roots=(archive,), run_job=run_job)
    own = with_key(client, Role.OPERATOR, ["door"])
    admin = with_key(client, Role.ADMIN)
    for camera in (None, "gate"):
        body = {"source": "gate", "camera": camera}
        assert client.post("/v1/jobs", json=body, headers=own).status_code == 403
    other = client.post("/v1/jobs", json={"source": "gate"}, headers=admin).json()["id"]
    body = {"source": "gate", "camera": "door"}
    mine = client.post("/v1/jobs", json=body, headers=own).json()["id"]
    follow(client, mine, own)
    assert [job["id"] for job in client.get("/v1/jobs", headers=own).json()] == [mine]
    for url in (f"/v1/jobs/{other}", f"/v1/jobs/{other}/events"):
        assert client.get(url, headers=own).status_code == 404
    assert client.delete(f"/v1/jobs/{other}", headers=own).status_code == 404
    assert len(client.get("/v1/jobs", headers=admin).json()) >= 2
