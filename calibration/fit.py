"""From samples to a profile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import optimize

from dynpartition.calibration.samples import Samples
from dynpartition.cluster import AffineCost, Cluster, Link
from dynpartition.errors import CalibrationError
from dynpartition.profile import Curve, Dispatch, Profile

SAMPLES_MIN = 8
"""Fewer samples than this do not make a number."""

_STALL = 10  # times the median: beyond it the machine was busy with something else
_ASSUMED_BANDWIDTH_BYTES_PER_S = 10**10  # where one transfer size leaves the slope open


def typical_ns(samples: Sequence[int]) -> int:
    """Return the mean of the samples that are no stalls, in ns.

    A makespan is a sum, so the mean predicts it and the median does not: the first launches of a
    run find cold caches and cost several times the others, and a slowed device repeats its work 2,
    3, 2, 3… times.
    """
    values = np.asarray(samples)
    return round(float(values[values <= _STALL * max(1.0, float(np.median(values)))].mean()))


def fit_profile(cluster: Cluster, samples: Samples, provenance: Mapping[str, object]) -> Profile:
    """Return the profile of `cluster` that the samples speak for.

    Raises CalibrationError naming a (cell, device) that was measured too rarely.
    """
    bookkeeping = {
        device: typical_ns(gaps)
        for device, gaps in samples.gaps.items()
        if not _is_driven(cluster, device)  # its gaps are the caller's time, which h tells
    }
    waits = [wait - bookkeeping.get(d, 0) for d, row in samples.waits.items() for wait in row]
    dispatch = Dispatch(
        host_mode="single" if _has_one_thread(cluster) else "processes",
        h=_fit_dispatches(samples) or 0,
        h_copy=typical_ns(samples.pushes) if samples.pushes else 0,
        handoff_ns=max(0, typical_ns(waits)) if waits else 0,
        bookkeeping_ns=bookkeeping,
        sync_ns=max(0, typical_ns(samples.syncs)) if samples.syncs else 0,
        decision_ns=typical_ns(samples.decisions) if samples.decisions else 0,
    )
    links = tuple(_fit_link(link, samples) for link in cluster.links)
    return Profile(
        cluster=replace(cluster, links=links),
        cells=_fit_cells(samples),
        dispatch=dispatch,
        provenance={**provenance, "samples": _counts(samples)},
    )


def _is_driven(cluster: Cluster, device: str) -> bool:
    return cluster.devices[cluster.index(device)].kind == "cuda"


def _has_one_thread(cluster: Cluster) -> bool:
    """Whether the caller's thread drives all devices: one CPU device, and GPUs."""
    kinds = [device.kind for device in cluster.devices]
    return kinds.count("cpu") == 1 and len(kinds) > 1


def _fit_dispatches(samples: Samples) -> dict[str, dict[str, int]]:
    """Return cell → CUDA device → how long a launch occupies the caller's thread."""
    h: dict[str, dict[str, int]] = defaultdict(dict)
    for (cell, device), times in sorted(samples.dispatches.items()):
        if len(times) >= SAMPLES_MIN:
            h[cell][device] = typical_ns(times)
    return dict(h)


def _fit_cells(samples: Samples) -> dict[str, dict[str, Curve]]:
    points: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for (cell, device, k), durations in sorted(samples.launches.items()):
        if len(durations) >= SAMPLES_MIN:
            points[cell, device][k] = typical_ns(durations)
    for cell, device in sorted({(cell, device) for cell, device, _ in samples.launches}):
        if 1 not in points[cell, device]:
            count = len(samples.launches.get((cell, device, 1), ()))
            raise CalibrationError(
                f"cell {cell!r} alone in a launch was measured only {count} times on"
                f" {device}; {SAMPLES_MIN} are needed: give more --seconds or more inputs"
            )
    cells: dict[str, dict[str, Curve]] = defaultdict(dict)
    for (cell, device), curve in points.items():
        # More tasks never take less time: a falling end would be extended below zero.
        rising = np.maximum.accumulate(list(curve.values())).tolist()
        cells[cell][device] = Curve(tuple(curve), tuple(rising))
    return dict(cells)


def _fit_link(link: Link, samples: Samples) -> Link:
    rows = {
        size: typical_ns(durations)
        for (src, dst, size), durations in samples.transfers.items()
        if (src, dst) == (link.src, link.dst) and len(durations) >= SAMPLES_MIN
    }
    if not rows:
        raise CalibrationError(
            f"too few transfers from {link.src} to {link.dst} were measured; give more --seconds"
        )
    return replace(link, cost=fit_affine(rows))


def fit_affine(rows: Mapping[int, int]) -> AffineCost:
    """Fit latency and bandwidth to {bytes: ns}, neither negative, equal weight per size."""
    sizes = np.array(sorted(rows), dtype=float)
    times = np.array([rows[int(size)] for size in sizes], dtype=float)
    weights = 1 / np.maximum(times, 1)
    design = np.stack([np.ones_like(sizes), sizes], axis=1) * weights[:, None]
    (latency_ns, ns_per_byte), _ = optimize.nnls(design, times * weights)
    if len(sizes) == 1 or ns_per_byte < 1e9 / 10**15:
        ns_per_byte = 1e9 / _ASSUMED_BANDWIDTH_BYTES_PER_S
        latency_ns = max(0.0, float(np.mean(times - sizes * ns_per_byte)))
    return AffineCost(round(latency_ns), max(1, round(1e9 / ns_per_byte)))


def _counts(samples: Samples) -> dict[str, int]:
    return {
        "launches": sum(map(len, samples.launches.values())),
        "launches_dropped": samples.dropped,
        "transfers": sum(map(len, samples.transfers.values())),
    }
