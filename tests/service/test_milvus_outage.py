"""A real Milvus server, killed while it is fed and while it is searched; nothing is lost."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from indexer import milvus_client, mirror
from indexer.errors import IndexOutageError
from indexer.gallery import Gallery
from indexer.index_check import check_index, measure_recall
from indexer.query import Query
from tests.indexer.galleries import DIMENSION, all_boxes, new_frames, new_gallery, new_source
from tests.indexer.milvus_server import PATIENCE_S, MilvusServer
from tests.indexer.oracle import unit
from tests.service.conftest import serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    made = MilvusServer(tmp_path_factory.mktemp("milvus"))
    made.start()
    yield made
    made.kill()


def test_killed_while_it_is_fed(
    server: MilvusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (mirror, "_READ_ROWS", 50),
        (mirror, "_ADD_ROWS", 50),
    ):
        monkeypatch.setattr(module, name, value)
    made, encoder = new_gallery(tmp_path)
    rng = np.random.default_rng(0)
    with made:
        source = new_source(made, "door")
        added = made.add_frames(encoder.id, source, new_frames(rng, [40] * 50))
    boxes = sorted(int(box) for ids in added.box_ids for box in ids)

    marked = threading.Semaphore(0)
    mark = milvus_client.Milvus.mark

    def marking(self: Any, *arguments: Any) -> None:
        mark(self, *arguments)
        marked.release()

    monkeypatch.setattr(milvus_client.Milvus, "mark", marking)
    with Gallery.open(tmp_path, index=server.url) as gallery:
        problems: list[BaseException] = []

        def feed() -> None:
            try:
                gallery.refresh()
            except IndexOutageError as error:
                problems.append(error)

        feeding = threading.Thread(target=feed)
        feeding.start()
        for _ in range(3):
            assert marked.acquire(timeout=60)
        server.kill()
        feeding.join()
        assert len(problems) == 1
        # Deleted and added while it is away.
        assert gallery.behind() > 0
        with pytest.raises(IndexOutageError, match="nothing is lost"):
            gallery.search(Query(unit(rng, 1, DIMENSION)))
        gallery.delete(boxes=boxes[::10])
        more = gallery.add_frames(encoder.id, source, new_frames(rng, [7], 50))
        left = sorted({*boxes, *more.box_ids[0].tolist()} - set(boxes[::10]))

        server.start()
        until(lambda: _refreshed(gallery))
        assert gallery.behind() == 0
        assert all_boxes(gallery) == left
        assert check_index(gallery) == []
        assert measure_recall(gallery).least == 1
        gallery.delete(sources=[source])
        assert all_boxes(gallery) == []
        assert len(gallery.refresh()) == 0


def test_killed_while_it_searches(
    server: MilvusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, encoder = new_gallery(tmp_path)
    rng = np.random.default_rng(0)
    with made:
        made.add_frames(encoder.id, new_source(made, "door"), new_frames(rng, [40] * 5))
    query = Query(unit(rng, 1, DIMENSION))
    asked = threading.Semaphore(0)
    search = milvus_client.MilvusCollection.search

    def asking(self: Any, *arguments: Any, **named: Any) -> Any:
        asked.release()
        return search(self, *arguments, **named)

    with Gallery.open(tmp_path, index=server.url) as gallery:
        until(lambda: _refreshed(gallery))
        before = gallery.search(query, 50).hits
        monkeypatch.setattr(milvus_client.MilvusCollection, "search", asking)
        with ThreadPoolExecutor(4) as pool:
            server.stop_answering()
            searches = [pool.submit(gallery.search, query, 50) for _ in range(4)]
            for _ in searches:
                assert asked.acquire(timeout=60)
            server.kill()
            for failed in searches:
                with pytest.raises(IndexOutageError, match="nothing is lost"):
                    failed.result()
        server.start()
        until(lambda: _refreshed(gallery))
        assert gallery.search(query, 50).hits == before


def until(happened: Callable[[], bool]) -> None:
    """Wait for something, as long as a server needs to come back."""
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        threading.Event().wait(0.1)


def _refreshed(gallery: Gallery) -> bool:
    try:
        gallery.refresh()
    except IndexOutageError:
        return False
    return True


def test_the_service_says_that_its_index_is_away(server: MilvusServer, folder: Path) -> None:
    with serving(folder, index=server.url, allow_local=True, follow_s=0.1) as (address, service):
        client = httpx.Client(base_url=address, timeout=60)
        with client:
            until(lambda: client.get("/readyz").status_code == 200)
            boxes = all_boxes(service.gallery)
            ask = {"box_id": str(boxes[0]), "k": "5"}
            assert len(client.post("/v1/search", data=ask).json()["results"]) == 5
            server.kill()
            answer = client.post("/v1/search", data=ask)
            assert answer.status_code == 503
            assert "nothing is lost" in answer.json()["detail"]
            assert "127.0.0.1" not in answer.text
            until(lambda: client.get("/readyz").status_code == 503)
            assert "vector index" in client.get("/readyz").json()["detail"]
            with Gallery.open(folder) as other:
                other.delete(boxes=boxes[1:2])
            assert "binet_index_behind 1.0" in client.get("/metrics").text
            server.start()
            until(lambda: client.get("/readyz").status_code == 200)
            until(lambda: "binet_index_behind 0.0" in client.get("/metrics").text)
            assert all_boxes(service.gallery) == boxes[:1] + boxes[2:]
            assert len(client.post("/v1/search", data=ask).json()["results"]) == 5
