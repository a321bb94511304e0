"""Transfers of one link, fitted: a line, or a table where that is clearly better."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dynpartition.calibration.fit_launches import SAMPLES_MIN
from dynpartition.calibration.numbers import Number, measured
from dynpartition.calibration.observations import Moved
from dynpartition.calibration.regress import FloatArray, risen, robust_fit
from dynpartition.cluster import AffineCost, Link, TableCost, TransferCost
from dynpartition.costs import transfer_ns
from dynpartition.errors import CalibrationError

_BANDWIDTH_MAX = 10**13
"""Bytes per second; what looks faster is too fast to be told from 0 time per byte."""
_ASSUMED_BANDWIDTH_BYTES_PER_S = 10**10
"""Where one transfer size leaves the slope open."""
_TABLE_SIZES = 4
"""Sizes that a table needs: of fewer, a line is as good."""


def fit_link(link: Link, moves: Sequence[Moved], numbers: dict[str, Number]) -> Link:
    """Return `link` with its cost, and note in `numbers` where that comes from.

    Raises CalibrationError for a link that was used too rarely.
    """
    rows = [row for row in moves if (row.src, row.dst) == (link.src, link.dst)]
    counts = Counter(row.bytes for row in rows)
    if not any(count >= SAMPLES_MIN for count in counts.values()):
        raise CalibrationError(
            f"too few transfers from {link.src} to {link.dst} were measured; give more --seconds"
        )
    sizes = np.array([row.bytes for row in rows], dtype=float)
    times = np.array([row.ns for row in rows], dtype=float)
    line, parts = fit_line(sizes, times)
    often = [size for size, count in counts.items() if count >= SAMPLES_MIN and size > 0]
    path = f"links/{link.src}->{link.dst}"
    table = _table(sizes, times, sorted(often), numbers, path)
    if table is not None and _error(table, sizes, times) < 0.9 * _error(line, sizes, times):
        return replace(link, cost=table)
    for size in often:
        numbers.pop(f"{path}/{size}", None)
    numbers |= {f"{path}/{name}": part for name, part in parts.items()}
    return replace(link, cost=line)


def fit_line(sizes: FloatArray, times: FloatArray) -> tuple[AffineCost, dict[str, Number]]:
    """Fit latency and bandwidth to transfers of `sizes` bytes that took `times` ns."""
    domain = f"{int(sizes.min())} to {int(sizes.max())} bytes"
    count = len(sizes)
    fit = robust_fit(np.column_stack([np.ones_like(sizes), sizes]), times)
    latency = measured(float(fit.values[0]), float(fit.errors[0]), count=count, domain=domain)
    per_byte = measured(
        float(fit.values[1]), float(fit.errors[1]), count=count, domain=domain, source="fitted"
    )
    if len(set(sizes.tolist())) == 1:
        assumed = 1e9 / _ASSUMED_BANDWIDTH_BYTES_PER_S
        typical = location(times.tolist())
        latency = replace(typical, value=max(0.0, typical.value - assumed * float(sizes[0])))
        per_byte = Number(assumed, "ns", "assumed")
    bandwidth = inverse(per_byte)
    cost = AffineCost(round(latency.value), max(1, round(bandwidth.value)))
    return cost, {"latency": latency, "bandwidth": bandwidth}


def _table(
    sizes: FloatArray,
    times: FloatArray,
    often: Sequence[int],
    numbers: dict[str, Number],
    path: str,
) -> TableCost | None:
    """Return a table of the sizes that were seen often; None where there are few."""
    if len(often) < _TABLE_SIZES:
        return None
    typical = [location(times[sizes == size].tolist()) for size in often]
    rising = risen([part.value for part in typical], [float(part.count) for part in typical])
    for size, part, ns in zip(often, typical, rising, strict=True):
        error = (part.deviation or 0.0) * part.value
        listed = measured(ns, error, count=part.count, domain=f"{size} bytes")
        numbers[f"{path}/{size}"] = listed
    values = [max(1, round(ns)) for ns in rising]
    return TableCost(tuple(zip(often, values, strict=True)))


def _error(cost: TransferCost, sizes: FloatArray, times: FloatArray) -> float:
    """Return the median relative error of a cost on what was observed."""
    priced = np.array([transfer_ns(cost, int(size)) for size in sizes], dtype=float)
    return float(np.median(np.abs(np.log(np.maximum(1, times)) - np.log(np.maximum(1, priced)))))


def location(times: Sequence[float]) -> Number:
    """Return where times lie that all measure the same."""
    fit = robust_fit(np.ones((len(times), 1)), np.array(times, dtype=float))
    return measured(float(fit.values[0]), float(fit.errors[0]), count=len(times))


def inverse(per_byte: Number) -> Number:
    """Return bytes per second for ns per byte."""
    fastest = float(_BANDWIDTH_MAX)
    low, high = (
        None if end is None else min(fastest, 1e9 / max(1e-12, end))
        for end in (per_byte.high, per_byte.low)
    )
    value = min(fastest, 1e9 / max(1e-12, per_byte.value))
    return Number(value, "bytes/s", per_byte.source, per_byte.count, low, high, per_byte.domain)
