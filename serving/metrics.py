"""What a service counts, and how it tells."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Literal, TypedDict

import numpy as np

from dynpartition.errors import ServingError

Event = Literal["received", "answered", "failed", "refused", "timed_out", "cancelled"]
EVENTS: tuple[Event, ...] = (
    *("received", "answered", "failed"),
    *("refused", "timed_out", "cancelled"),
)
QUANTILES = (0.5, 0.9, 0.99)
KEPT = 4096
"""Quantiles are of the last so many answers."""


class Snapshot(TypedDict):
    """What is known at one moment. Times are in seconds."""

    up_s: float
    requests: dict[str, int]
    """Event → how many; those of warming up are left out."""
    latency_s: dict[float, float]
    """Quantile → time from coming to being answered, of the last answers; empty without any."""
    waiting_s: dict[float, float]
    """Quantile → the part of it before the request was begun."""
    queue_length: int
    in_flight: int
    device_use: dict[str, float]
    """Device → the share of the time since the start in which it computed."""
    paces: dict[str, float]
    """Device → how much longer launches take than the profile says, as schedulers are told."""
    replans: int
    """How often that has changed."""
    devices_lost: int
    """Devices that were lost; they are started again."""


class Metrics:
    """Counts for one service; any thread may count and ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun_s = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._latency_s: deque[float] = deque(maxlen=KEPT)
        self._waiting_s: deque[float] = deque(maxlen=KEPT)
        self._busy_ns: Counter[str] = Counter()
        self.in_flight = 0
        self.devices_lost = 0
        self.replans = 0
        self.paces: Mapping[str, float] = {}

    def count(self, event: Event) -> None:
        """Note that something happened to a request."""
        with self._lock:
            self._counts[event] += 1

    def answered(self, latency_s: float, waiting_s: float) -> None:
        """Note an answer."""
        with self._lock:
            self._counts["answered"] += 1
            self._latency_s.append(latency_s)
            self._waiting_s.append(waiting_s)

    def computed(self, device: str, ns: int) -> None:
        """Note that a device has computed for some time."""
        with self._lock:
            self._busy_ns[device] += ns

    def snapshot(self, queue_length: int) -> Snapshot:
        """Return what is known now."""
        with self._lock:
            up_s = time.monotonic() - self._begun_s
            return Snapshot(
                up_s=up_s,
                requests={event: self._counts[event] for event in EVENTS},
                latency_s=_quantiles(self._latency_s),
                waiting_s=_quantiles(self._waiting_s),
                queue_length=queue_length,
                in_flight=self.in_flight,
                device_use={name: ns / 1e9 / up_s for name, ns in self._busy_ns.items()},
                paces=dict(self.paces),
                replans=self.replans,
                devices_lost=self.devices_lost,
            )


def _quantiles(values: deque[float]) -> dict[float, float]:
    if not values:
        return {}
    return dict(zip(QUANTILES, np.quantile(list(values), QUANTILES).tolist(), strict=True))


def prometheus_text(snapshot: Snapshot, model: str) -> str:
    """Return a snapshot in the text format that Prometheus reads.

    Raises ServingError where the package `prometheus_client` is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
        from prometheus_client.registry import Collector
    except ModuleNotFoundError as error:
        raise ServingError(
            "text for Prometheus needs a package; pip install 'dynpartition[prometheus]'"
        ) from error

    def counter(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        family = CounterMetricFamily(f"dynpartition_{name}", text, labels=["model", label])
        for key, value in values.items():
            family.add_metric([model, key], value)
        return family

    def gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        labels = ["model", label] if label else ["model"]
        family = GaugeMetricFamily(f"dynpartition_{name}", text, labels=labels)
        for key, value in values.items():
            family.add_metric([model, key] if label else [model], value)
        return family

    def quantiles(values: Mapping[float, float]) -> dict[str, float]:
        return {f"{quantile:g}": value for quantile, value in values.items()}

    class Once(Collector):
        def collect(self) -> list[Metric]:
            s = snapshot
            latency, waiting = quantiles(s["latency_s"]), quantiles(s["waiting_s"])
            lost, replans = {"": s["devices_lost"]}, {"": s["replans"]}
            return [
                counter("requests", "Requests by what became of them.", "event", s["requests"]),
                gauge("latency_seconds", "From coming to answered.", "quantile", latency),
                gauge("waiting_seconds", "From coming to begun.", "quantile", waiting),
                gauge("queue_length", "Requests that wait.", "", {"": s["queue_length"]}),
                gauge("in_flight", "Requests that are computed.", "", {"": s["in_flight"]}),
                gauge("device_use", "Share of the time computing.", "device", s["device_use"]),
                gauge("device_pace", "Time of launches over profile.", "device", s["paces"]),
                gauge("devices_lost", "Devices lost so far.", "", lost),
                gauge("replans", "Changes of what schedulers are told.", "", replans),
            ]

    registry = CollectorRegistry()
    registry.register(Once())
    text: str = generate_latest(registry).decode()
    return text
