"""Everything that the requests of one service share."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

from prometheus_client import Histogram

from indexer.errors import EncoderError, IndexEngineError, IndexOutageError
from indexer.gallery import Gallery
from indexer.media import MediaReader
from indexer.mirror import Encoder as GalleryEncoder
from model.calibration import Calibration, read_calibration
from service.encoder import BusyError, Encoder, EncoderWorker, WorkerLimits, WorkerState
from service.index_jobs import IndexJobs, Run
from service.keys import Key
from service.limits import RateLimit
from service.problems import INDEX_OUTAGE
from service.serving import open_store
from service.settings import Settings

_log = logging.getLogger(__name__)

#: The fast tier is built anew when the gallery has grown so much.
_TIER_GROWTH = 1.1

#: Frames that are cut from their sources at the same time.
_READERS = 2


class Service:
    """The gallery, the encoder worker, keys and audit of a service.

    Parameters
    ----------
    settings
        What it was told.
    load
        Makes the encoder; None loads the weights of the settings.
    run_job
        Runs an index job; None starts a process for each.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Encoder] | None = None,
        run_job: Run | None = None,
    ) -> None:
        self.settings = settings
        if settings.index and settings.fast:
            raise IndexEngineError("--fast is for vectors in memory: leave it out with --index")
        self.gallery = Gallery.open(settings.gallery, index=settings.index)
        try:
            self.store = open_store(settings.gallery, self.gallery)
        except BaseException:
            self.gallery.close()
            raise
        self.rate = RateLimit(settings.rate)
        self._places = settings.queue + settings.batch
        self._search_s = 1.0
        #: How long the parts of a search take; `stages.labels("index").time()` takes one's time.
        self.stages = Histogram(
            "binet_search_stage_seconds",
            "Seconds of a search by stage; encode includes the wait for the network.",
            ["stage"],
            registry=None,
        )
        self._calibration = read_calibration(settings.weights)
        limits = WorkerLimits(batch=settings.batch, queue=settings.queue, hang_s=settings.hang_s)
        self.worker = EncoderWorker(load or self._load, limits)
        self._readers: SimpleQueue[MediaReader] = SimpleQueue()
        for _ in range(_READERS):
            self._readers.put(MediaReader(self.gallery))
        self.jobs = IndexJobs(settings.gallery, self.gallery, run_job)
        self._ended, self._loaded = threading.Event(), threading.Event()
        self._loading: threading.Thread | None = None
        self._problem: str | None = "the index is being loaded"
        #: Set when the encoder is gone for good: the process has to be started anew.
        self.broken = threading.Event()
        #: Set when index and network are there for the first time.
        self.settled = threading.Event()

    def start(self) -> None:
        """Load index and network, in the background."""
        self.worker.start()
        self._loading = threading.Thread(target=self._load_index, name="index", daemon=True)
        self._loading.start()
        self.jobs.start()

    def stop(self) -> None:
        """Answer what was accepted, then close everything."""
        self._ended.set()
        self.jobs.stop()
        self.worker.stop()
        if self._loading is not None:
            self._loading.join()
        self.close()

    def close(self) -> None:
        """Close pictures and databases; for a service that was not started, too."""
        while not self._readers.empty():
            self._readers.get().close()
        self.store.close()
        self.gallery.close()

    def problem(self) -> str | None:
        """Return why searches cannot be answered now; None when they can."""
        state = self.worker.state
        if state != WorkerState.READY:
            return self.worker.reason or f"the encoder is {state}"
        if self._problem is None:
            encoder, active = self.worker.encoder, self.gallery.view().encoder
            own = None if encoder is None else (encoder.weights_sha256, encoder.preprocess_sha256)
            if own != (active.weights_sha256, active.preprocess_sha256):
                return "the gallery is of other weights than the service: start it with those"
        return self._problem

    def calibration(self, encoder: GalleryEncoder) -> Calibration | None:
        """Return what similarities of an encoder have meant; None where its weights do not say."""
        found = self._calibration
        return found if found and found.weights_sha256 == encoder.weights_sha256 else None

    def scope(self, key: Key) -> frozenset[int] | None:
        """Return the ids of the cameras that a key may know of; None for all."""
        if key.cameras is None:
            return None
        known = self.gallery.cameras()
        return frozenset(known[name] for name in key.cameras if name in known)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places for searches, in the event loop; the queue of the whole service.

        Raises
        ------
        BusyError
            When all are taken.
        """
        if not self._places:
            raise BusyError(max(1, round(self._search_s)))
        self._places -= 1
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._places += 1
            self._search_s += 0.1 * (time.perf_counter() - begun - self._search_s)

    @contextmanager
    def media(self) -> Iterator[MediaReader]:
        """Lend a reader of pictures; whoever comes when all are lent waits."""
        reader = self._readers.get()
        try:
            yield reader
        finally:
            self._readers.put(reader)

    def _load(self) -> Encoder:
        from indexer.branch import NetworkBranch

        return NetworkBranch.load(self.settings.weights, self.settings.device)

    def _load_index(self) -> None:
        """Load the index, then follow what other processes put into it, and how the encoder is."""
        tier_of = 0
        while True:
            if self.worker.state in (WorkerState.HANGING, WorkerState.FAILED):
                self.broken.set()
            try:
                boxes = len(self.gallery.refresh())
                if self.settings.fast and boxes > _TIER_GROWTH * tier_of:
                    tier_of = self.gallery.build_fast_tier().rows
            except EncoderError:
                self._problem = "the gallery is empty: index something into it"
            except IndexOutageError as error:
                if self._problem != INDEX_OUTAGE:
                    _log.warning("%s", error)
                self._problem = INDEX_OUTAGE
            except Exception as error:
                _log.exception("The index cannot be brought up to date")
                self._problem = f"the index cannot be loaded: {type(error).__name__}"
            else:
                self._problem = None
                if self.worker.state == WorkerState.READY:
                    self.settled.set()
            self._loaded.set()
            if self._ended.wait(self.settings.follow_s):
                return
