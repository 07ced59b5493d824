"""Numbers for Prometheus; the only door to ``prometheus_client``.

In: what happens in the service. Out: the text that Prometheus reads. Labels have few values, whatever clients send.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ServiceMetrics:
    """The numbers of one service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        here = self._registry
        self._requests = Counter(
            "refineseg_requests", "Answers by route and status.", ("route", "status"), registry=here
        )
        self._seconds = Histogram(
            "refineseg_request_seconds", "Time of a request by route.", ("route",), buckets=_SECONDS, registry=here
        )
        self._stages = Histogram(
            "refineseg_stage_seconds",
            "Time of an image by stage: decode, wait, predict (of its batch), encode.",
            ("stage",),
            buckets=_SECONDS,
            registry=here,
        )
        self._batches = Histogram(
            "refineseg_batch_images", "Images in a batch.", buckets=(1, 2, 4, 8, 16, 32), registry=here
        )
        self._pending = Gauge("refineseg_pending_images", "Images that wait or are worked on.", registry=here)
        self._memory = Gauge("refineseg_reserved_bytes", "Memory that requests have reserved.", registry=here)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request is done."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """A stage of an image is done."""
        self._stages.labels(name).observe(seconds)

    def batch(self, num_images: int) -> None:
        """A batch begins."""
        self._batches.observe(num_images)

    def text(self, *, pending: int, reserved: int) -> bytes:
        """Everything, for Prometheus.

        Args:
            pending: Images in the service now.
            reserved: Bytes that are reserved now.
        """
        self._pending.set(pending)
        self._memory.set(reserved)
        return generate_latest(self._registry)
