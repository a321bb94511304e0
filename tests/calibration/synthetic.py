"""Machines with known parameters, and what observing them gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dynpartition import AffineCost, Cluster, Device, Link
from dynpartition.calibration.observations import Launched, Moved, Noted, Observations
from dynpartition.costs import transfer_ns

NAMES = ("cpu:0", "cpu:1")
LINKS = (("cpu:0", "cpu:1"), ("cpu:1", "cpu:0"))
CLUSTER = Cluster(
    tuple(Device(name, "cpu") for name in NAMES),
    tuple(Link(src, dst, AffineCost(0, 1), blocks="src") for src, dst in LINKS),
)
TOLD = (1, 2, 4, 8)
SIZES = (64, 1024, 16_384, 262_144, 1_048_576)


@dataclass
class Machine:
    """Two devices; times in ns, bandwidths in bytes per second."""

    truth: dict[str, float] = field(default_factory=dict)
    """By the paths that `provenance.numbers` uses."""
    seen: Observations = field(default_factory=Observations)
    bad: dict[str, int] = field(default_factory=dict)
    """Names of bad observations, as they must be reported."""


def machine(rng: np.random.Generator, launches: int, moves: int) -> Machine:
    made = Machine()
    handoff_ns = made.truth["handoff_ns"] = rng.uniform(15_000, 30_000)
    for name in NAMES:
        _observe_launches(made, rng, name, launches, handoff_ns)
    for src, dst in LINKS:
        cost = AffineCost(int(rng.uniform(3_000, 20_000)), int(rng.uniform(5e8, 1e10)))
        made.truth[f"links/{src}->{dst}/latency"] = cost.latency_ns
        made.truth[f"links/{src}->{dst}/bandwidth"] = cost.bandwidth_bytes_per_s
        sizes = [SIZES[number % len(SIZES)] for number in range(moves)]
        exact = {size: transfer_ns(cost, size) for size in SIZES}
        times = _noisy(rng, np.array([exact[size] for size in sizes])).tolist()
        for number, (size, ns) in enumerate(zip(sizes, times, strict=True)):
            made.seen.moves.append(Moved(number, number, src, dst, size, ns))
    for what, low, high in (("sync", 1e3, 1e4), ("decision", 1e5, 1e6)):
        made.truth[f"{what}_ns"] = rng.uniform(low, high)
        times = _noisy(rng, np.full(400, made.truth[f"{what}_ns"]))
        made.seen.notes += [Noted(run, 0, what, ns) for run, ns in enumerate(times.tolist())]
    return made


def _observe_launches(
    made: Machine, rng: np.random.Generator, name: str, count: int, handoff_ns: float
) -> None:
    curves = {cell: np.cumsum(rng.uniform(2e4, 1e5, len(TOLD))) for cell in "abc"}
    first = {cell: rng.uniform(4e4, 1.5e5) for cell in curves}
    per_task, gap_ns = rng.uniform(800, 2500), rng.uniform(2000, 5000)
    copy_in_ns = rng.uniform(15_000, 30_000)
    for cell, curve in curves.items():
        for size, ns in zip(TOLD, curve.tolist(), strict=True):
            made.truth[f"cells/{cell}/{name}/{size}"] = ns
        made.truth[f"first_use/{cell}/{name}"] = first[cell]
    made.truth[f"bookkeeping/{name}"] = per_task
    made.truth[f"copy_in/{name}/latency"] = copy_in_ns
    cells = rng.choice(list(curves), count)
    sizes = np.array(TOLD)[rng.integers(0, len(TOLD), count)]
    copies, waited, is_first = (
        rng.integers(0, 3, count),
        rng.random(count) < 0.4,
        rng.random(count) < 0.2,
    )
    compute = np.array([curves[c][TOLD.index(k)] for c, k in zip(cells, sizes, strict=True)])
    more = np.array([first[c] for c in cells]) * is_first
    whole = compute + per_task * sizes + copy_in_ns * copies + handoff_ns * waited + more
    times, gaps = _noisy(rng, whole), gap_ns + per_task * sizes
    gaps = gaps * (1 + 0.05 * rng.standard_normal(count))
    rows = zip(cells.tolist(), sizes.tolist(), times.tolist(), gaps.tolist(), strict=True)
    more_rows = zip(copies.tolist(), waited.tolist(), is_first.tolist(), strict=True)
    for number, ((cell, size, ns, gap), (n_in, wait, first_use)) in enumerate(
        zip(rows, more_rows, strict=True)
    ):
        row = Launched(number, number, cell, name, size, ns, gap, n_in, 0, 0, wait, first_use)
        made.seen.launches.append(row)


def _noisy(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """5 % noise; one in thirty takes 3 to 30 times as long."""
    noisy = times * (1 + 0.05 * rng.standard_normal(len(times)))
    late = rng.random(len(times)) < 1 / 30
    noisy[late] *= rng.uniform(3, 30, late.sum())
    return noisy


def spoil(made: Machine, rng: np.random.Generator, share: float) -> None:
    """Put bad observations among the good ones: not numbers, negative, and seen before."""
    for rows in (made.seen.launches, made.seen.moves, made.seen.notes):
        for number in rng.permutation(len(rows))[: int(3 * share * len(rows))].tolist():
            row = rows[number]
            kind = number % 3
            if kind == 0:
                bad, why = row._replace(run=row.run + 10**6, ns=float("nan")), "not a number"
            elif kind == 1:
                bad, why = row._replace(run=row.run + 10**6, ns=-row.ns), "negative"
            else:
                bad, why = row, "seen before"
            rows.append(bad)
            words = f"{row.what}: {why}"
            made.bad[words] = made.bad.get(words, 0) + 1
        order = rng.permutation(len(rows)).tolist()
        rows[:] = [rows[at] for at in order]
