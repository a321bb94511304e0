"""From observations to a profile, and to how well each of its numbers is known."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy import optimize

from dynpartition.calibration.numbers import Number, measured
from dynpartition.calibration.observations import Launched, Moved, Observations
from dynpartition.calibration.regress import Fit, FloatArray, robust_fit
from dynpartition.cluster import AffineCost, Cluster, Link, TableCost, TransferCost
from dynpartition.costs import transfer_ns
from dynpartition.errors import CalibrationError
from dynpartition.profile import Curve, Dispatch, Noise, Profile

SAMPLES_MIN = 8
"""Fewer observations than this do not make a number."""

_BANDWIDTH_MAX = 10**13
"""Bytes per second; what looks faster is too fast to be told from 0 time per byte."""
_ASSUMED_BANDWIDTH_BYTES_PER_S = 10**10
"""Where one transfer size leaves the slope open."""
_CLEAR = 2.0
"""A surcharge that is less than so many standard errors is not told from 0, and is 0."""
_TABLE_SIZES = 4
"""Sizes that a table needs: of fewer, a line is as good."""


@dataclass(frozen=True)
class Fitted:
    """A profile and what is known of its numbers."""

    profile: Profile
    numbers: Mapping[str, Number]
    """Path in the file → where the number comes from."""
    wrong: Mapping[str, int]
    """What was left out, by name."""
    noise: Noise
    """How much launches vary from run to run."""


def fit_profile(cluster: Cluster, observations: Observations) -> Fitted:
    """Return the profile of `cluster` that the observations speak for.

    Raises CalibrationError naming a (cell, device) or a link that was observed too rarely.
    """
    good, wrong = observations.cleaned()
    _check_cells(good.launches)
    numbers: dict[str, Number] = {}
    devices = {name: _Device(cluster, name, good.launches) for name in cluster.names}
    for device in devices.values():
        numbers |= device.numbers()
    links = tuple(_fit_link(link, good.moves, numbers) for link in cluster.links)
    dispatch = _fit_dispatch(cluster, devices, good, numbers)
    cells: dict[str, dict[str, Curve]] = defaultdict(dict)
    for name, device in devices.items():
        for cell, curve in device.curves().items():
            cells[cell][name] = curve
    profile = Profile(replace(cluster, links=links), dict(cells), dispatch)
    return Fitted(profile, numbers, wrong, _fit_noise(devices.values()))


def fit_cells(cluster: Cluster, observations: Observations) -> dict[str, dict[str, Curve]]:
    """Return the batch curves alone: cell → device → curve, of what was observed often enough."""
    good, _ = observations.cleaned()
    counts = Counter((row.cell, row.device) for row in good.launches)
    often = [row for row in good.launches if counts[row.cell, row.device] >= SAMPLES_MIN]
    cells: dict[str, dict[str, Curve]] = defaultdict(dict)
    for name in cluster.names:
        for cell, curve in _Device(cluster, name, often).curves().items():
            cells[cell][name] = curve
    return dict(cells)


def _check_cells(launches: Sequence[Launched]) -> None:
    alone = Counter((row.cell, row.device) for row in launches if row.size == 1)
    for cell, device in sorted({(row.cell, row.device) for row in launches}):
        if alone[cell, device] < SAMPLES_MIN:
            raise CalibrationError(
                f"cell {cell!r} alone in a launch was measured only {alone[cell, device]} times on"
                f" {device}; {SAMPLES_MIN} are needed: give more --seconds or more inputs"
            )


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


class _Device:
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
            risen = _risen(values, [1 / max(1.0, error) ** 2 for error in errors])
            self.points |= dict(zip(own, zip(risen, errors, strict=True), strict=True))
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


def _fit_dispatch(
    cluster: Cluster,
    devices: Mapping[str, _Device],
    good: Observations,
    numbers: dict[str, Number],
) -> Dispatch:
    own = [device for name, device in devices.items() if not is_driven(cluster, name)]
    kinds = [device.kind for device in cluster.devices]
    # One CPU device, and GPUs: the caller's thread drives all of them.
    one_thread = kinds.count("cpu") == 1 and len(kinds) > 1
    notes: dict[str, list[float]] = defaultdict(list)
    for note in good.notes:
        notes[note.what].append(note.ns)
    times = {what: _location(row) for what, row in notes.items() if len(row) >= SAMPLES_MIN}
    sync, decision = _note(times, "sync"), _note(times, "decision")
    start, push = _note(times, "start"), _note(times, "push")
    if decision is not None and start is not None:  # planned, but not yet begun
        gap_ns = float(np.median([row.gap_ns for device in own for row in device.rows] or [0.0]))
        late_ns = max(0.0, start.value - gap_ns)
        error = (decision.deviation or 0) * decision.value
        decision = measured(decision.value + late_ns, error, count=decision.count, source="fitted")
    handoff = _mean([device.surcharge("waited") for device in own])
    found = {"sync_ns": sync, "decision_ns": decision, "h_copy": push}
    found["handoff_ns"] = None if one_thread else handoff
    numbers |= {f"{name}": number for name, number in found.items() if number is not None}
    h = _host_times(times, numbers)
    copies = {name: _copies(own, name, numbers) for name in ("copy_in", "copy_out")}
    first: dict[str, dict[str, int]] = defaultdict(dict)
    for name, device in devices.items():
        for cell, (value, _) in device.first_uses().items():
            first[cell][name] = round(value)
    return Dispatch(
        host_mode="single" if one_thread else "processes",
        h=h or 0,
        h_copy=_amount(push),
        handoff_ns=0 if one_thread else _amount(handoff),
        bookkeeping_ns={device.name: round(device.bookkeeping.value) for device in own},
        copy_in=copies["copy_in"],
        copy_out=copies["copy_out"],
        first_use_ns=dict(first),
        sync_ns=_amount(sync),
        decision_ns=_amount(decision),
    )


def _note(times: Mapping[str, Number], what: str) -> Number | None:
    return times.get(what)


def _amount(number: Number | None) -> int:
    return 0 if number is None else round(number.value)


def _mean(parts: Sequence[Number]) -> Number:
    """Return the mean of one number by device, weighted by observations."""
    counts = np.array([part.count for part in parts], dtype=float)
    if not counts.sum():
        return Number(0, "ns", "assumed")
    shares = counts / counts.sum()
    errors = np.array([(part.deviation or 0) * part.value for part in parts])
    value = float(shares @ [part.value for part in parts])
    error = float(np.sqrt(((shares * errors) ** 2).sum()))
    return measured(value, error, count=int(counts.sum()), source="fitted")


def _location(times: Sequence[float]) -> Number:
    fit = robust_fit(np.ones((len(times), 1)), np.array(times, dtype=float))
    return measured(float(fit.values[0]), float(fit.errors[0]), count=len(times))


def _host_times(
    times: Mapping[str, Number], numbers: dict[str, Number]
) -> dict[str, dict[str, int]]:
    """Return cell → CUDA device → how long a launch occupies the caller's thread."""
    h: dict[str, dict[str, int]] = defaultdict(dict)
    for what, number in sorted(times.items()):
        if what.startswith("dispatch of "):
            cell, _, device = what.removeprefix("dispatch of ").rpartition(" on ")
            h[cell][device] = round(number.value)
            numbers[f"h/{cell}/{device}"] = number
    return dict(h)


def _copies(own: Sequence[_Device], name: str, numbers: dict[str, Number]) -> dict[str, AffineCost]:
    """Return device → what one remote input, or output, adds to a launch."""
    costs: dict[str, AffineCost] = {}
    for device in own:
        each = device.surcharge("copies_in" if name == "copy_in" else "copies_out")
        per_byte = device.surcharge("bytes_in") if name == "copy_in" else Number(0, "ns", "fitted")
        numbers[f"{name}/{device.name}/latency"] = each
        if each.value or per_byte.value:
            bandwidth = min(_BANDWIDTH_MAX, 1e9 / max(1e-12, per_byte.value))
            costs[device.name] = AffineCost(round(each.value), round(bandwidth))
            numbers[f"{name}/{device.name}/bandwidth"] = _inverse(per_byte)
    return costs


def _inverse(per_byte: Number) -> Number:
    """Return bytes per second for ns per byte."""
    fastest = float(_BANDWIDTH_MAX)
    low, high = (
        None if end is None else min(fastest, 1e9 / max(1e-12, end))
        for end in (per_byte.high, per_byte.low)
    )
    value = min(fastest, 1e9 / max(1e-12, per_byte.value))
    return Number(value, "bytes/s", per_byte.source, per_byte.count, low, high, per_byte.domain)


def _fit_link(link: Link, moves: Sequence[Moved], numbers: dict[str, Number]) -> Link:
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
        typical = _location(times.tolist())
        latency = replace(typical, value=max(0.0, typical.value - assumed * float(sizes[0])))
        per_byte = Number(assumed, "ns", "assumed")
    bandwidth = _inverse(per_byte)
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
    typical = [_location(times[sizes == size].tolist()) for size in often]
    risen = _risen([part.value for part in typical], [float(part.count) for part in typical])
    for size, part, ns in zip(often, typical, risen, strict=True):
        error = (part.deviation or 0.0) * part.value
        listed = measured(ns, error, count=part.count, domain=f"{size} bytes")
        numbers[f"{path}/{size}"] = listed
    values = [max(1, round(ns)) for ns in risen]
    return TableCost(tuple(zip(often, values, strict=True)))


def _risen(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the values nearest to `values` that never fall: more never takes less time.

    A curve that falls at its end would be extended below zero.
    """
    found: list[float] = optimize.isotonic_regression(values, weights=weights).x.tolist()
    return found


def _error(cost: TransferCost, sizes: FloatArray, times: FloatArray) -> float:
    """Return the median relative error of a cost on what was observed."""
    priced = np.array([transfer_ns(cost, int(size)) for size in sizes], dtype=float)
    return float(np.median(np.abs(np.log(np.maximum(1, times)) - np.log(np.maximum(1, priced)))))


def _fit_noise(devices: Iterable[_Device]) -> Noise:
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
