"""Links between CPU devices that are slowed on purpose: `cpu:1~500MBps+20us`.

The bytes are copied as ever, and count as arrived when the slow link would have brought them. The
sender goes on meanwhile, as beside a copy engine; transfers of one link follow each other.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from dynpartition.cluster import AffineCost, Device

Paces = dict[int, AffineCost]
"""Device index → what transfers there take at least."""

_SPUN_NS = 200_000
"""Sleeping ends late by less than this, so the rest is waited for awake."""


def pace_between(a: Device, b: Device) -> AffineCost | None:
    """Return what transfers between two devices take at least: the slower of both links."""
    links = [device.link for device in (a, b) if device.link is not None]
    if not links:
        return None
    return AffineCost(
        max(link.latency_ns for link in links), min(link.bandwidth_bytes_per_s for link in links)
    )


def paces_from(devices: Sequence[Device], index: int) -> Paces:
    """Return the paces of the transfers that a device sends."""
    found = {n: pace_between(devices[index], other) for n, other in enumerate(devices)}
    return {n: pace for n, pace in found.items() if pace is not None and n != index}


def are_paced(devices: Sequence[Device]) -> bool:
    """Return whether any link of these devices is slowed."""
    return any(device.link is not None for device in devices)


def wait_until(time_ns: int) -> None:
    """Return at a time of the monotonic clock, to about a microsecond."""
    while (left_ns := time_ns - time.perf_counter_ns()) > 0:
        if left_ns > _SPUN_NS:
            time.sleep((left_ns - _SPUN_NS) / 1e9)
