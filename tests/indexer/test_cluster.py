"""Indexing on a Ray cluster of two nodes: the same gallery, whoever is lost on the way."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av", reason="PyAV is not installed: pip install 'binet[video]'")
pytest.importorskip("ray", reason="Ray is not installed: pip install 'binet[cluster]'")

from indexer import cluster
from indexer.errors import GalleryError
from indexer.gallery import Gallery
from indexer.index_command import IndexRequest, run_on_cluster
from indexer.indexing import Indexed, leading
from indexer.jobs import read_job
from indexer.limits import Limits
from indexer.schema import JobState
from indexer.work import IndexOptions
from tests.indexer import postgres
from tests.indexer.archives_made import content, make_noise_clip, make_picture, run_index
from tests.indexer.fake_branch import FakeBranch

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120
OPTIONS = IndexOptions(batch=2, workers=1, camera="yard")


class HeldBranch(FakeBranch):
    """Says which process it is in, and waits for the test at its second batch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._batches = 0

    def detect(self, scenes: list[Any]) -> Any:
        self._batches += 1
        if self._batches == 2:
            (self._folder / f"begun-{os.getpid()}").touch()
            until(lambda: (self._folder / "go-on").exists())
        return super().detect(scenes)


class NoBranch(FakeBranch):
    """Cannot be loaded."""

    def __init__(self) -> None:
        raise OSError("no such weights")


def until(condition: Any) -> None:
    waiting = threading.Event()
    for _ in range(int(PATIENCE_S / 0.02)):
        if condition():
            return
        waiting.wait(0.02)
    raise TimeoutError


class Node:
    """One node of a cluster: a process group of its own."""

    def __init__(self, address: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
        command += ["--disable-usage-stats", f"--node-ip-address={address}", "--num-gpus=0"]
        # Less memory than Ray would take: a store of 100 MB.
        command += ["--object-store-memory=100000000", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> None:
        """End all of its processes at once."""
        for pid in [self._process.pid, *descendants(self._process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[tuple[Any, list[Node]]]:
    """Ray, connected to two nodes; the second one may be killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        port = probe.getsockname()[1]
    address = f"127.0.0.2:{port}"
    nodes = [Node("127.0.0.2", "--head", f"--port={port}", "--include-dashboard=false")]
    ray: Any = None
    try:
        nodes.append(Node("127.0.0.3", f"--address={address}"))

        def connected() -> bool:
            nonlocal ray
            with suppress(GalleryError):
                ray = cluster.connect(address)
            return ray is not None

        until(connected)
        until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2)
        yield ray, nodes
    finally:
        if ray is not None:
            ray.shutdown()
        for node in reversed(nodes):
            node.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres.server() as url:
        yield url


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for number in range(70):
        make_picture(folder / f"{number:02}.png", number)
    make_noise_clip(folder / "a.mkv", 13)
    make_noise_clip(folder / "z.avi", 9, "mpeg2video")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_gallery_that_is_a_file_is_refused(tmp_path: Path, archive: Path) -> None:
    with pytest.raises(GalleryError, match="give a PostgreSQL gallery"):
        run_on_cluster(str(tmp_path), IndexRequest([str(archive)], "none"), "auto", None)


def test_a_cluster_that_is_not_there_is_told() -> None:
    with pytest.raises(GalleryError, match="No Ray cluster answers at 'nowhere'"):
        cluster.connect("nowhere")


@pytest.mark.slow
def test_a_node_is_killed_and_the_gallery_is_that_of_one_process(
    ray_cluster: tuple[Any, list[Node]], server: str, archive: Path, tmp_path: Path
) -> None:
    ray, nodes = ray_cluster
    assert cluster.devices(ray, "cpu") == (2, {"num_cpus": 1})
    with pytest.raises(GalleryError, match="has no GPU"):
        cluster.devices(ray, "cuda")
    results: list[Indexed] = []
    seen: list[tuple[int, int]] = []
    with postgres.new_database(server, "cluster") as url:

        def drive() -> None:
            with Gallery.open(url, create=True) as gallery:
                request = {"sources": [str(archive)]}
                with leading(gallery, [archive], OPTIONS, request, None, None, Limits()) as led:
                    load = partial(HeldBranch, tmp_path)
                    results.append(
                        cluster.index_on_cluster(
                            gallery, url, led, OPTIONS, ray, "cpu", load,
                            lambda done, of: seen.append((done, of)),
                        )
                    )  # fmt: skip

        driver = threading.Thread(target=drive)
        driver.start()
        until(lambda: len(list(tmp_path.glob("begun-*"))) == 2 or not driver.is_alive())
        begun = {int(path.name.partition("-")[2]) for path in tmp_path.glob("begun-*")}
        assert len(begun) == 2
        nodes[1].kill()
        (tmp_path / "go-on").touch()
        driver.join(PATIENCE_S)
        (result,) = results
        assert (result.discovered, result.indexed, result.failed) == (73, 72, 1)
        assert [Path(failure.uri).name for failure in result.failures] == ["broken.png"]
        assert seen[-1] == (73, 73)
        # The one that was killed leaves no report of its last share.
        assert result.report["frames"] <= 92
        run_index(tmp_path / "single", [archive], batch=2, camera="yard")
        assert content(url) == content(tmp_path / "single")
        with Gallery.open(url) as gallery, gallery.database.read() as connection:
            assert read_job(connection, result.job_id).state == JobState.DONE
    # Until Ray has noticed, it gives new actors to the node as well.
    until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)


@pytest.mark.slow
def test_workers_that_are_lost_again_and_again_fail_the_job(
    ray_cluster: tuple[Any, list[Node]], server: str, archive: Path
) -> None:
    with (
        postgres.new_database(server, "lost") as url,
        Gallery.open(url, create=True) as gallery,
    ):
        with (
            pytest.raises(GalleryError, match=r"Too many workers.*no such weights"),
            leading(gallery, [archive], OPTIONS, {"sources": []}, None, None, Limits()) as led,
        ):
            cluster.index_on_cluster(gallery, url, led, OPTIONS, ray_cluster[0], "cpu", NoBranch)
        with gallery.database.read() as connection:
            job = read_job(connection, led.job_id)
        assert job.state == JobState.FAILED
        assert "no such weights" in (job.reason or "")
