"""Several services over one gallery: a queued job is run once, and the dead are taken over."""

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from indexer.gallery import Gallery
from indexer.index_command import IndexRequest
from indexer.jobs import create_job, read_job
from indexer.schema import JobState
from service.index_jobs import TRIES
from tests.forked import Child
from tests.indexer import postgres, share_child
from tests.indexer.archives_made import make_picture, run_index
from tests.service.conftest import Start, run_here, service_of, until


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def folder(request: Any, tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gallery, on both databases."""
    if request.param == "postgres":
        if not postgres.WANTED:
            postgres.use(request.getfixturevalue("server"), monkeypatch)
    elif postgres.WANTED:
        pytest.skip("this run is PostgreSQL's")
    run_index(tmp_path / "gallery", [pictures / "door"])
    return tmp_path / "gallery"


def test_jobs_of_several_services_are_run_once(start: Start, folder: Path, tmp_path: Path) -> None:
    ran: list[tuple[str, int]] = []
    lock = threading.Lock()

    def run(name: str, job_id: int, owner: str) -> None:
        with lock:
            ran.append((name, job_id))
        run_here(folder, job_id, owner)

    for number in range(6):
        make_picture(tmp_path / "root" / f"c{number}" / "a.png", seed=500 + number)
    options: Any = {"allow_local": True, "roots": (tmp_path / "root",)}
    clients = [start(run_job=partial(run, name), **options) for name in ("one", "two")]
    jobs = [
        clients[number % 2].post("/v1/jobs", json={"source": f"c{number}"}).json()["id"]
        for number in range(6)
    ]
    until(lambda: all(clients[0].get(f"/v1/jobs/{job}").json()["state"] == "done" for job in jobs))
    for client in clients:
        service_of(client).jobs.stop()
    assert sorted(job for _, job in ran) == jobs
    with Gallery.open(folder) as gallery:
        assert gallery.stats().frames == 4 + 6


def test_a_job_of_a_service_that_died_is_taken_up(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    make_picture(tmp_path / "root" / "c" / "a.png", seed=500)
    request = IndexRequest([str(tmp_path / "root")], weights="none")
    with Gallery.open(folder) as gallery:
        with gallery.database.write() as connection:
            job = create_job(connection, "index", vars(request), TRIES)
        with Child(share_child.main, "take", str(folder), "none") as other:
            assert other.stdout.readline() == "begun\n"
            client = start(allow_local=True, run_job=partial(run_here, folder))
            with gallery.database.read() as connection:
                assert read_job(connection, job).state == JobState.RUNNING
            other.kill()

        def done() -> bool:
            with gallery.database.read() as connection:
                return read_job(connection, job).state == JobState.DONE

        until(done)
        service_of(client).jobs.stop()
        assert gallery.stats().frames == 4 + 1


def test_a_service_that_stops_gives_its_job_back(start: Start, folder: Path) -> None:
    request = IndexRequest(["nowhere"], weights="none")
    began, go_on = threading.Event(), threading.Event()

    def run(_: int, __: str) -> None:
        began.set()
        assert go_on.wait(20)
        raise RuntimeError("its process was terminated")

    client = start(allow_local=True, run_job=run)
    jobs = service_of(client).jobs
    job = jobs.add(request)
    assert began.wait(20)
    stopping = threading.Thread(target=jobs.stop)
    stopping.start()
    until(lambda: jobs._stopping)
    go_on.set()
    stopping.join()
    with Gallery.open(folder) as gallery, gallery.database.read() as connection:
        assert read_job(connection, job).state == JobState.QUEUED
