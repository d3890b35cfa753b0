"""Indexing on a Ray cluster: an actor on each device, with the pipeline of a single machine.

The driver begins the job and writes down its items (`indexer.items`). Each actor takes them by
lease, as `binet index --join` does, and commits its batches itself; so a lost actor or node costs
its unfinished batches alone, and another takes over what it had.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from indexer.errors import GalleryError, JobCancelled
from indexer.gallery import Gallery
from indexer.indexing import Indexed, Led, help_index
from indexer.jobs import failures_of, finish_if_done, read_job
from indexer.schema import JobState
from indexer.work import IndexOptions, SearchBranch
from model.errors import BINetError

#: Actors that may be lost in one job, for each that it began with; then something else is wrong.
LOSSES = 3
#: Seconds without any actor at work, after which the job fails.
START_S = 300.0
#: Seconds between looks at the job.
_LOOK_S = 0.5

Load = Callable[[], SearchBranch]
#: Called with the files that are through, and all.
Show = Callable[[int, int], None]


def connect(address: str) -> Any:
    """Connect to a Ray cluster, and return the module.

    Parameters
    ----------
    address
        HOST:PORT of its head, or "auto": the one that runs on this machine.

    Raises
    ------
    GalleryError
        When Ray is not installed, or no cluster answers.
    """
    # Ray would tell its makers how it is used.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        raise GalleryError("Ray is not installed: pip install 'binet[cluster]'") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise GalleryError(
            f"No Ray cluster answers at {address!r}: start one with `ray start --head`, and more "
            "nodes with `ray start --address=HOST:PORT`"
        ) from error
    return ray


class Indexer:
    """What runs in an actor: the network, and the gallery that its batches go into."""

    def __init__(self, url: str, load: Load) -> None:
        self._url = url
        self._branch = load()

    def ready(self) -> None:
        """Return once the network is loaded."""

    def work(self, job_id: int, options: IndexOptions) -> None:
        """Take items of a job until it is done."""
        with Gallery.open(self._url) as gallery:
            help_index(gallery, self._branch, job_id, options)


@dataclass(frozen=True)
class _Hand:
    """An actor, and what it has been asked for."""

    actor: Any
    ready: Any
    work: Any


class _Crew:
    """The actors of one job; those that are lost are replaced."""

    def __init__(self, ray: Any, new: Callable[[], Any], count: int) -> None:
        self._ray = ray
        self._new = new
        self._left = LOSSES * count
        self._hands: list[_Hand] = []
        self._count = count

    def begin(self, job_id: int, options: IndexOptions) -> None:
        """Start as many actors as there are devices."""
        while len(self._hands) < self._count:
            actor = self._new()
            ready = actor.ready.remote()
            self._hands.append(_Hand(actor, ready, actor.work.remote(job_id, options)))

    def look(self) -> bool:
        """Wait a moment; replace who was lost. Return whether anybody is at work.

        Raises
        ------
        GalleryError
            When too many were lost; and what an actor itself has raised.
        """
        ray = self._ray
        work = [hand.work for hand in self._hands]
        ended, _ = ray.wait(work, num_returns=len(work), timeout=_LOOK_S)
        for hand in [hand for hand in self._hands if hand.work in ended]:
            self._hands.remove(hand)
            try:
                ray.get(hand.work)
            except ray.exceptions.RayActorError as error:
                self._left -= 1
                if self._left < 0:
                    reason = " ".join(str(error).split())[-300:]
                    raise GalleryError(
                        f"Too many workers of the cluster were lost, the last one so: {reason}"
                    ) from error
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, BINetError):
                    raise error.cause from error
                raise
        if not self._hands:
            return False
        ready, _ = ray.wait([hand.ready for hand in self._hands], timeout=0)
        return bool(ready)

    def end(self) -> None:
        """End all actors."""
        for hand in self._hands:
            self._ray.kill(hand.actor)


def devices(ray: Any, device: str) -> tuple[int, dict[str, float]]:
    """Count the actors that a cluster has room for, and what each of them takes.

    Raises
    ------
    GalleryError
        When it has no such device.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if device != "cpu":
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if not gpus:
            raise GalleryError("The cluster has no GPU: index with --device cpu, or add one")
        return gpus, {"num_gpus": 1, "num_cpus": 0}
    cores = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cores:
        raise GalleryError("The cluster has no CPU for work: start its nodes with --num-cpus")
    # The network uses all cores that it is given: one actor on each node, if they are alike.
    return sum(count // min(cores) for count in cores), {"num_cpus": min(cores)}


def index_on_cluster(
    gallery: Gallery,
    url: str,
    led: Led,
    options: IndexOptions,
    ray: Any,
    device: str,
    load: Load,
    show: Show | None = None,
) -> Indexed:
    """Have the actors of a cluster do a job that was begun (see `indexer.indexing.leading`).

    Parameters
    ----------
    url
        The gallery as the actors reach it.
    ray
        See `connect`.
    load
        Makes the network, in each actor.

    Raises
    ------
    JobCancelled
        When it was cancelled.
    GalleryError
        When workers are lost again and again, or none comes; and whatever a worker raises.
    """
    database, job_id = gallery.database, led.job_id
    count, takes = devices(ray, device)
    kind = ray.remote(scheduling_strategy="SPREAD", **takes)(Indexer)
    crew = _Crew(ray, lambda: kind.remote(url, load), count)
    idle = 0.0
    try:
        while True:
            with database.write() as connection:
                finish_if_done(connection, job_id)
                job = read_job(connection, job_id)
            if show is not None:
                show(job.indexed + job.failed, job.discovered)
            if job.state == JobState.DONE:
                break
            if job.state != JobState.RUNNING:
                raise JobCancelled(f"Job {job_id} does not run any more")
            crew.begin(job_id, options)
            idle = 0.0 if crew.look() else idle + _LOOK_S
            if idle > START_S:
                raise GalleryError(
                    f"No worker of the cluster has begun within {START_S:g} s: see `ray status`"
                )
    finally:
        crew.end()
    with database.read() as connection:
        failures = failures_of(connection, job_id)
    new = {name: job.report.get(name, 0) for name in ("unchanged", "new_frames", "new_boxes")}
    return Indexed(
        job_id,
        job.discovered,
        job.indexed,
        job.failed,
        ignored=led.ignored,
        failures=failures,
        report=job.report,
        **new,
    )
