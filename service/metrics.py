"""What is measured, for Prometheus: counts and times, nothing about people."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.encoder import WorkerState
from service.state import Service


class Metrics:
    """The measurements of one service.

    Attributes
    ----------
    registry
        What `/metrics` shows.
    """

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter(
            "binet_requests", "Requests answered.", labels, registry=self.registry
        )
        self._seconds = Histogram(
            "binet_request_seconds", "Seconds to answer.", labels[:2], registry=self.registry
        )
        self.registry.register(service.stages)
        self.registry.register(_State(service))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request, by its route: paths with their ids would tell who was looked at."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


class _State(Collector):
    """Read from the service when somebody asks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        worker = self._service.worker
        ready = worker.state == WorkerState.READY
        stats, gallery = worker.stats(), self._service.gallery.stats()
        gauges: dict[str, tuple[str, float]] = {
            "binet_encoder_ready": ("Whether the encoder answers.", int(ready)),
            "binet_queue_depth": ("Requests that wait for the encoder.", stats.waiting),
            "binet_index_boxes": ("Boxes in the loaded index.", gallery.index_boxes),
            "binet_index_bytes": ("Memory of the loaded index.", gallery.index_bytes),
            "binet_index_behind": (
                "Changes in the database that the index lacks.",
                self._service.gallery.behind(),
            ),
            "binet_gallery_boxes": ("Boxes in the database, of all encoders.", gallery.boxes),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
        counters: dict[str, tuple[str, float]] = {
            "binet_encoded": ("Requests to the encoder.", stats.requests),
            "binet_encoder_batches": ("Batches of the encoder.", stats.batches),
            "binet_encoder_refused": ("Requests refused, the queue being full.", stats.refused),
            "binet_encoder_failed": ("Requests that the encoder could not answer.", stats.failed),
            "binet_encoder_busy_seconds": ("Seconds of work.", stats.busy_s),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value=value)
