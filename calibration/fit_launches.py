"""Launches of one device, fitted: batch curves, first uses, and what inputs and waiting add."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from dynpartition.calibration.numbers import Number, measured
from dynpartition.calibration.observations import Launched
from dynpartition.calibration.regress import Fit, FloatArray, risen, robust_fit
from dynpartition.cluster import Cluster
from dynpartition.profile import Curve, Noise

SAMPLES_MIN = 8
"""Fewer observations than this do not make a number."""

_CLEAR = 2.0
"""A surcharge that is less than so many standard errors is not told from 0, and is 0."""


def is_driven(cluster: Cluster, device: str) -> bool:
    """Return whether the caller drives the device: its gaps are then the caller's time, h."""
    return cluster.devices[cluster.index(device)].kind == "cuda"


_SURCHARGES = ("waited", "copies_in", "bytes_in", "copies_out")


def _hats(
    rows: Sequence[Launched],
) -> tuple[list[tuple[str, int]], FloatArray, dict[tuple[str, int], int]]:
    """Return the (cell, size) points that curves are told at, and how each launch depends on them.

    The second value is (n, points): a launch of a size between two points is priced between them.
    The third is how many launches speak for a point; points with fewer than SAMPLES_MIN are left
    out.
    """
    groups = Counter((row.cell, row.size) for row in rows)
    told: dict[str, list[int]] = {}
    for cell in sorted({cell for cell, _ in groups}):
        told[cell] = _told_sizes({size: n for (name, size), n in groups.items() if name == cell})
    knots = [(cell, size) for cell, sizes in told.items() for size in sizes]
    weights: dict[tuple[str, int], FloatArray] = {}
    for cell, size in groups:
        weights[cell, size] = np.zeros(len(knots))
        first = knots.index((cell, told[cell][0]))
        own = _hat(size, told[cell])
        weights[cell, size][first : first + len(own)] = own
    hats = np.array([weights[row.cell, row.size] for row in rows]).reshape(len(rows), len(knots))
    counts = (hats >= 0.5).sum(axis=0).tolist()
    return knots, hats, dict(zip(knots, counts, strict=True))


def _told_sizes(counts: Mapping[int, int]) -> list[int]:
    """Return 1, 2, 4, … up to the largest size, without those that few launches are near.

    `counts`: size → launches.
    """
    largest = max(counts)
    told = [2**step for step in range(largest.bit_length())]
    told = [*told[:-1], largest] if len(told) > 1 else told
    while len(told) > 1:
        hats = {size: _hat(size, told) for size in counts}
        near = [sum(n for s, n in counts.items() if hats[s][at] >= 0.5) for at in range(len(told))]
        least = 1 + int(np.argmin(near[1:]))
        if near[least] >= SAMPLES_MIN:
            break
        told.pop(least)
    return told


def _hat(size: int, told: Sequence[int]) -> FloatArray:
    """Return the weights of the told sizes in a curve's value at `size`."""
    weights = np.zeros(len(told))
    if len(told) == 1:
        weights[0] = 1.0
    else:
        right = min(max(1, int(np.searchsorted(told, size))), len(told) - 1)
        low, high = told[right - 1], told[right]
        weights[right] = (size - low) / (high - low)
        weights[right - 1] = 1 - weights[right]
    return weights


class DeviceFit:
    """The launches of one device, fitted.

    time kept = curve(cell, size) + size · bookkeeping + edges · copy_in + … + first use, if it is
                + hand-off, if it waited
    """

    def __init__(self, cluster: Cluster, name: str, launches: Sequence[Launched]) -> None:
        self.name = name
        self._driven = is_driven(cluster, name)
        self.rows = [row for row in launches if row.device == name]
        self._knots, self._hats, self._counts = _hats(self.rows)
        self.bookkeeping = Number(0, "ns", "measured")
        self.surcharges: dict[str, tuple[float, float]] = {}
        """Name → value and standard error; those not told from 0 are missing."""
        self.points: dict[tuple[str, int], tuple[float, float]] = {}
        """(cell, size) → duration and standard error."""
        self.fit: Fit | None = None
        if self.rows:
            self._fit_bookkeeping()
            self._fit_launches()

    def _fit_bookkeeping(self) -> None:
        """What the executor takes per task, not per launch, grows with the size of launches."""
        sizes = np.array([row.size for row in self.rows], dtype=float)
        if self._driven or len(set(sizes.tolist())) < 2:
            return
        rows = [(1.0, row.size, row.copies_in, row.waited) for row in self.rows]
        gaps = np.array([row.gap_ns for row in self.rows])
        fit = robust_fit(np.array(rows, dtype=float), gaps)
        value, error = float(fit.values[1]), float(fit.errors[1])
        if value > _CLEAR * error:
            domain = f"launches of {int(sizes.min())} to {int(sizes.max())} tasks"
            self.bookkeeping = measured(value, error, count=len(self.rows), domain=domain)

    def _fit_launches(self) -> None:
        names, groups = self._knots, self._hats
        per_task = round(self.bookkeeping.value)
        times = np.array(
            [row.ns - row.gap_ns if self._driven else row.ns for row in self.rows], dtype=float
        )
        times = np.maximum(0.0, times - per_task * np.array([row.size for row in self.rows]))
        table = {
            name: np.array([float(getattr(row, name)) for row in self.rows]) for name in _SURCHARGES
        }
        for cell in dict.fromkeys(row.cell for row in self.rows):
            table[cell] = np.array([float(row.cell == cell and row.is_first) for row in self.rows])
        kept = [
            name
            for name in table
            if np.ptp(table[name]) > 0 and not (self._driven and name in _SURCHARGES)
        ]
        while True:
            design = np.column_stack([groups, *(table[name] for name in kept)])
            fit = robust_fit(design, times)
            clear = fit.values[len(names) :] / np.maximum(1e-9, fit.errors[len(names) :])
            if not len(kept) or clear.min() >= _CLEAR:
                break
            kept.pop(int(np.argmin(clear)))
        pairs = list(zip(fit.values.tolist(), fit.errors.tolist(), strict=True))
        self.points = dict(zip(names, pairs, strict=False))
        for cell in sorted({cell for cell, _ in names}):
            own = [name for name in names if name[0] == cell]
            values, errors = zip(*(self.points[name] for name in own), strict=True)
            rising = risen(values, [1 / max(1.0, error) ** 2 for error in errors])
            self.points |= dict(zip(own, zip(rising, errors, strict=True), strict=True))
        self.surcharges = dict(zip(kept, pairs[len(names) :], strict=True))
        self.fit, self.expected = fit, design @ fit.values

    def curves(self) -> dict[str, Curve]:
        """Return a batch curve per cell."""
        points: dict[str, dict[int, float]] = defaultdict(dict)
        for (cell, size), (value, _) in sorted(self.points.items()):
            points[cell][size] = value
        return {
            cell: Curve(tuple(row), tuple(round(ns) for ns in row.values()))
            for cell, row in points.items()
        }

    def numbers(self) -> dict[str, Number]:
        """Return where the numbers of this device come from."""
        found = {
            f"cells/{cell}/{self.name}/{size}": measured(
                value, error, count=self._counts[cell, size], domain=f"{size} tasks in a launch"
            )
            for (cell, size), (value, error) in sorted(self.points.items())
        }
        for cell, (value, error) in self.first_uses().items():
            count = sum(row.cell == cell and row.is_first for row in self.rows)
            path = f"first_use/{cell}/{self.name}"
            found[path] = measured(value, error, count=count, source="fitted")
        if not self._driven:
            found[f"bookkeeping/{self.name}"] = self.bookkeeping
        return found

    def first_uses(self) -> dict[str, tuple[float, float]]:
        """Return, by cell, what its first launch in a run takes longer, and the standard error."""
        return {name: pair for name, pair in self.surcharges.items() if name not in _SURCHARGES}

    def surcharge(self, name: str) -> Number:
        """Return a surcharge; 0 where it is not told from 0."""
        rows = [getattr(row, name) for row in self.rows if getattr(row, name)]
        value, error = self.surcharges.get(name, (0.0, 0.0))
        return measured(value, error, count=len(rows), source="fitted")


def fit_noise(devices: Iterable[DeviceFit]) -> Noise:
    """Return how launches scatter about what is expected, by duration, and how often they stall."""
    expected, ratio, weights = [], [], []
    for device in devices:
        if device.fit is not None:
            times = np.array([row.ns for row in device.rows])
            per_task = device.bookkeeping.value * np.array([row.size for row in device.rows])
            expected.append(np.maximum(1.0, device.expected + per_task))
            ratio.append(np.maximum(1.0, times) / expected[-1])
            weights.append(device.fit.weights)
    if not expected:
        return Noise()
    lasts, logs, kept = (
        np.concatenate(expected),
        np.log(np.concatenate(ratio)),
        np.concatenate(weights),
    )
    edges = np.unique(np.quantile(lasts, [0, 0.25, 0.5, 0.75, 1])).tolist()
    points: list[tuple[int, float]] = []
    for low, high in pairwise(edges if len(edges) > 1 else edges * 2):
        inside = (lasts >= low) & (lasts <= high) & (kept > 0)
        if inside.sum() >= SAMPLES_MIN:
            middle = max(1, round(float(np.median(lasts[inside]))))
            if not points or middle > points[-1][0]:
                points.append((middle, min(3.0, float(logs[inside].std()))))
    stalled = (kept == 0) & (logs > 0)
    stall_ns = (
        round(float(np.median((np.exp(logs) - 1)[stalled] * lasts[stalled])))
        if stalled.any()
        else 0
    )
    return Noise(
        sigma=tuple(points) or ((1, 0.0),),
        stall_probability=float(stalled.mean()),
        stall_ns=stall_ns,
    )
