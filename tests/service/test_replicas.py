"""Several `binet serve` over one PostgreSQL: what one does holds at the others, and one may die."""

import io
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from indexer.gallery import Gallery
from indexer.jobs import list_jobs
from indexer.query import Query
from indexer.schema import JobState
from model import save
from service.audit import verify
from tests.conftest import random_picture, small_network
from tests.forked import Child, run_binet
from tests.indexer import postgres
from tests.service.conftest import until

pytestmark = pytest.mark.slow

SERVICES = 3
#: Processes that load torch need long on a busy machine.
START_S = 180.0


class Replica:
    """A `binet serve` in a process of its own."""

    def __init__(self, stack: ExitStack, url: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = stack.enter_context(
            binet(folder, "serve", "--gallery", url, "--weights", "weights", "--root", "root",
                  "--port", str(port), "--rate", "100000/minute")
        )  # fmt: skip
        # A process that says more than its pipe holds would wait.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.client = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        )

    def is_ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False


def binet(folder: Path, *arguments: str) -> Child:
    return Child(run_binet, list(arguments), str(folder), {})


def all_boxes(gallery: Gallery) -> list[int]:
    query = Query(np.eye(1, gallery.view().encoder.dimension, dtype=np.float32))
    return sorted(hit.box_id for hit in gallery.search(query, 10_000).hits)


def state(client: httpx.Client, job: int) -> str:
    answer = client.get(f"/v1/jobs/{job}")
    assert answer.status_code == 200, answer.text
    told: str = answer.json()["state"]
    return told


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(random_picture(96, 128, seed)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A gallery in PostgreSQL, made by the commands alone."""
    save(small_network(rpn_post_nms_test=8), tmp_path / "weights")
    for camera in ("door", "yard"):
        for number in range(4):
            file = tmp_path / "root" / camera / f"2026-05-04_10-0{number}-00.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(number + 10 * len(camera) + ord(camera[0])))
    with postgres.server() as server, postgres.new_database(server, "replicas") as made:
        for arguments in (
            ("index", "root/door", "--gallery", made, "--weights", "weights", "--keep", "off"),
            ("keys", "create", "admin", "--role", "admin", "--gallery", made),
        ):
            with binet(tmp_path, *arguments) as child:
                said = child.stdout.read()
                assert child.wait() == 0, said
        (tmp_path / "key").write_text(said.split()[-1])
        yield made


def test_what_one_service_does_holds_at_the_others(url: str, tmp_path: Path) -> None:
    secret = (tmp_path / "key").read_text()
    with ExitStack() as stack, Gallery.open(url) as gallery:
        replicas = [Replica(stack, url, tmp_path) for _ in range(SERVICES)]
        until(lambda: all(replica.is_ready() for replica in replicas), START_S)
        clients = [replica.client for replica in replicas]
        for client in clients:
            client.headers["Authorization"] = f"Bearer {secret}"
        boxes = all_boxes(gallery)
        ask = {"box_id": str(boxes[0]), "k": "200"}

        def found(client: httpx.Client) -> list[int]:
            answer = client.post("/v1/search", data=ask)
            assert answer.status_code == 200, answer.text
            return [result["box_id"] for result in answer.json()["results"]]

        # The same answer from each, many at a time.
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(found, clients * 10))
        assert all(answer == answers[0] for answer in answers)
        assert {boxes[0], *answers[0]} == set(boxes)

        # A key that one has made opens the others, until another revokes it.
        made = clients[0].post("/v1/keys", json={"name": "desk", "cameras": ["yard"]}).json()
        desk = {"Authorization": f"Bearer {made['secret']}"}
        assert clients[1].get("/v1/cameras", headers=desk).json() == []
        assert clients[2].delete(f"/v1/keys/{made['id']}").status_code == 204
        assert clients[0].get("/v1/cameras", headers=desk).status_code == 401

        # What one deletes, no other finds from its next search on.
        assert clients[0].get("/v1/frames/1").status_code == 200
        assert clients[0].delete("/v1/frames", params={"frame_id": 4}).status_code == 200
        left = all_boxes(gallery)
        assert set(left) < set(boxes)
        assert all(set(found(client)) < set(left) for client in clients)

        # A job that one has queued is run by one, also where that one is killed.
        queued = clients[0].post("/v1/jobs", json={"source": "yard"}).json()["id"]
        replicas[0].process.kill()
        assert replicas[0].process.wait() == -9
        until(lambda: state(clients[1], queued) == "done", START_S)
        assert gallery.stats().frames == 3 + 4
        gallery.refresh()
        left = all_boxes(gallery)
        until(lambda: all(len(found(client)) == len(left) - 1 for client in clients[1:]))
        with gallery.database.read() as connection:
            states = [job.state for job in list_jobs(connection)]
        assert states == [JobState.DONE] * 2

        # One audit, in one chain, of whatever they were asked.
        events = clients[1].get("/v1/audit", params={"limit": 1000}).json()
        searches = [event for event in events if event["event"] == "search"]
        assert len(searches) >= len(answers)
        assert verify(gallery.database).broken_at is None
        assert clients[2].get("/v1/audit/verify").json()["broken_at"] is None
