"""Profiles: the calibrated cost of everything in a cluster."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from dynpartition.cluster import AffineCost, Cluster, Device
from dynpartition.costs import curve_ns, transfer_ns
from dynpartition.errors import ProfileError, did_you_mean
from dynpartition.graph import CARRIED, Cell, TaskGraph
from dynpartition.types import IntArray

HostMode = Literal["none", "single", "threads", "processes", "replay"]
ValueT = TypeVar("ValueT")
PerDevice = int | Mapping[str, int]
PerCellAndDevice = int | Mapping[str, int] | Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Curve:
    """Duration of a launch of 1, 2, … tasks of one cell on one device."""

    batch: tuple[int, ...]
    duration_ns: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = all(low < high for low, high in pairwise((0, *self.batch)))
        if not self.batch or len(self.batch) != len(self.duration_ns) or not ascending:
            raise ProfileError(
                f"a curve needs ascending batches from 1 and a duration for each, not"
                f" {self.batch} and {self.duration_ns}"
            )

    def at(self, k: int) -> int:
        """Return the duration of a launch of `k` tasks, in ns."""
        return curve_ns(self.batch, self.duration_ns, k)

    def up_to(self, count: int) -> list[int]:
        """Return the durations of launches of 1, 2, … `count` tasks, in ns."""
        return [self.at(k) for k in range(1, count + 1)]

    @property
    def is_proportional(self) -> bool:
        """Whether k tasks take k times as long as one: one point, at batch 1."""
        return self.batch == (1,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """What the host and the executor add to the launches themselves; the default adds nothing."""

    host_mode: HostMode = "none"
    h: PerCellAndDevice = 0
    """Host time of one CUDA launch in ns: one number, by device, or by cell and device."""
    h_copy: int = 0
    """Host time of one transfer in ns, charged to the producer."""
    lock: float = 0.0
    """Share of a CPU launch that holds the lock, 0…1 (host mode `threads`)."""
    handoff_ns: int = 0
    """Added to each cross-device edge (host mode `processes`)."""
    queue_depth: int | None = None
    """Launches that may be dispatched and unfinished per device; None: no limit."""
    bookkeeping_ns: PerDevice = 0
    """Executor time per task."""
    copy_in: Mapping[str, AffineCost] = field(default_factory=dict)
    """Device → cost of gathering one remote input inside the launch that reads it."""
    copy_out: Mapping[str, AffineCost] = field(default_factory=dict)
    """Device → cost of staging one output that has remote readers, inside its launch."""
    first_use_ns: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Cell → device → what its first launch there in a run takes longer, with cold caches."""
    sync_ns: int = 0
    """From a revealer's output on the host to Python seeing its value."""
    decision_ns: int = 0
    """From seeing a revealed value to the new launches being planned."""

    def h_ns(self, cell: str, device: Device) -> int:
        """Return the host time of one launch of `cell` on `device`; 0 for CPU devices."""
        if device.kind != "cuda":
            return 0
        if isinstance(self.h, int):
            return self.h
        own = self.h.get(cell, self.h.get(device.name, 0))
        return own if isinstance(own, int) else own.get(device.name, 0)

    def first_use_on(self, cell: str, device: str) -> int:
        """Return what the first launch of `cell` on `device` in a run takes longer, in ns."""
        return self.first_use_ns.get(cell, {}).get(device, 0)

    def bookkeeping_on(self, device: str) -> int:
        """Return the executor time per task on `device`, in ns."""
        if isinstance(self.bookkeeping_ns, int):
            return self.bookkeeping_ns
        return self.bookkeeping_ns.get(device, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How much launches vary from run to run; the default is not at all."""

    sigma: tuple[tuple[int, float], ...] = ((1, 0.0),)
    """(duration_ns, σ) points of a log-normal factor of mean 1; see `dynpartition.luck`."""
    stall_probability: float = 0.0
    """Chance of a launch to be held up once more by `stall_ns`."""
    stall_ns: int = 0


@dataclass(frozen=True)
class Profile:
    """A cluster with the cost of every cell on every device that can run it."""

    cluster: Cluster
    cells: Mapping[str, Mapping[str, Curve]]
    dispatch: Dispatch = field(default_factory=Dispatch)
    provenance: Mapping[str, object] = field(default_factory=dict)
    """Where the numbers come from: origin, date, machine, versions."""
    noise: Noise | None = None
    """None: every run is the same."""
    uncertainty: float = 0.0
    """Relative standard deviation of every number here; see `dynpartition.sim.perturb`."""

    def __post_init__(self) -> None:
        for cell, curves in self.cells.items():
            for device in curves:
                self.cluster.index(device, place=f"cell {cell!r}")

    @cached_property
    def _known_prices(self) -> dict[tuple[Cell, ...], CellPrices]:
        return {}

    def cell_prices(self, cells: tuple[Cell, ...]) -> CellPrices:
        """Return what the cells of a graph cost; graphs of one model have the same ones."""
        known = self._known_prices.get(cells)
        if known is None:
            names = self.cluster.names
            curves = tuple(
                tuple(self.cells.get(cell.name, {}).get(device) for device in names)
                for cell in cells
            )
            alone = [[-1 if curve is None else curve.at(1) for curve in row] for row in curves]
            table = np.array(alone, dtype=np.int64).reshape(-1, len(names))
            known = self._known_prices[cells] = CellPrices(curves, table)
        return known


class CellPrices(NamedTuple):
    """What each of K cells costs on each of D devices."""

    curves: tuple[tuple[Curve | None, ...], ...]
    """K rows of D; None where a cell cannot run."""
    alone_ns: IntArray
    """(K, D) duration of a launch of one task, -1 where a cell cannot run."""


class PricedGraph:
    """A graph and a profile, with costs as integer tables.

    `task_ns`: int64 (N, D), duration of each task alone on each device, -1 where it cannot run.
    """

    def __init__(self, graph: TaskGraph, profile: Profile) -> None:
        self.graph = graph
        self.profile = profile
        self.cluster = profile.cluster
        for device in graph.durations:
            self.cluster.index(device, place="duration_ns")
        self._curves, self._alone_ns = profile.cell_prices(graph.cells)
        self.task_ns = self._price_tasks()
        self._transfer_cache: dict[tuple[int, int], int] = {}

    def _price_tasks(self) -> IntArray:
        table: IntArray = self._alone_ns[self.graph.cell_of]  # (N, D)
        for device, own in self.graph.durations.items():
            column = self.cluster.index(device)
            table[:, column] = np.where(own >= 0, own, table[:, column])
        runs_nowhere = np.flatnonzero((table < 0).all(axis=1))
        if len(runs_nowhere):
            raise ProfileError(self._no_cost_message(int(runs_nowhere[0])))
        table.flags.writeable = False
        return table

    def _no_cost_message(self, task: int, device: str | None = None) -> str:
        where = f" on {device}" if device else " on any device"
        cell = self.graph.cell_name(task)
        remedy = (
            f"add cells[{cell!r}] to the profile or duration_ns to the task"
            if device or cell in self.profile.cells or not self.profile.cells
            else did_you_mean(cell, self.profile.cells)
        )
        return f"{self.graph.label(task)} has no cost{where}; {remedy}"

    @cached_property
    def _task_rows(self) -> list[list[int]]:
        rows: list[list[int]] = self.task_ns.tolist()
        return rows

    @cached_property
    def own_cost(self) -> IntArray:
        """Int64 (N, D): 1 where a task brings its own duration."""
        own = np.zeros_like(self.task_ns)
        for device, row in self.graph.durations.items():
            own[:, self.cluster.index(device)] = row >= 0
        return own

    def can_run(self, task: int, device: int) -> bool:
        """Return whether `task` has a cost on device index `device`."""
        return bool(self.task_ns[task, device] >= 0)

    def compute_ns(self, tasks: tuple[int, ...], device: int) -> int:
        """Return the compute time of one launch of `tasks` (one cell) on device `device`.

        By the cell's batch curve; the sum of the tasks where any of them brings its own duration.
        Raises ProfileError when a task has no cost there.
        """
        if not self.graph.durations:
            known = self._curves[int(self.graph.cell_of[tasks[0]])][device]
            if known is not None:
                return known.at(len(tasks))
        alone = [self._task_rows[task][device] for task in tasks]
        if min(alone) < 0:
            culprit = tasks[alone.index(-1)]
            raise ProfileError(self._no_cost_message(culprit, self.cluster.names[device]))
        if len(tasks) == 1:
            return alone[0]
        curve = self._curves[int(self.graph.cell_of[tasks[0]])][device]
        if curve is None or self.own_cost[list(tasks), device].any():
            return sum(alone)
        return curve.at(len(tasks))

    def curves_of(self, cell: int) -> tuple[Curve | None, ...]:
        """Return (D,) batch curves of a cell, by its index; None where it cannot run."""
        return self._curves[cell]

    def transfer_ns(self, link: int, size_bytes: int) -> int:
        """Return how long `size_bytes` occupy link index `link`."""
        key = (link, size_bytes)
        if key not in self._transfer_cache:
            self._transfer_cache[key] = transfer_ns(self.cluster.links[link].cost, size_bytes)
        return self._transfer_cache[key]


def without_device(
    profile: Profile, lost: str, resident: Sequence[tuple[str, ...] | None]
) -> Profile:
    """Return `profile` with a device that runs nothing and that no link reaches.

    `resident`: per device the cells that it holds, or None for all.
    """
    cluster = profile.cluster
    links = tuple(link for link in cluster.links if lost not in (link.src, link.dst))
    devices = tuple(
        replace(device, resident=None if held is None else (*held, CARRIED.name))
        for device, held in zip(cluster.devices, resident, strict=True)
    )
    cluster = Cluster(devices, links, cluster.host)
    return replace(without_costs(profile, lost), cluster=cluster)


def without_costs(profile: Profile, full: str) -> Profile:
    """Return `profile` with a device that runs nothing; what it holds can be read."""
    cells = {
        cell: {device: curve for device, curve in curves.items() if device != full}
        for cell, curves in profile.cells.items()
    }
    return replace(profile, cells=cells)


def restricted(profile: Profile, names: Sequence[str]) -> Profile:
    """Return `profile` with these devices alone, in the order of the profile.

    Raises ProfileError for a name that it does not have, and without its host.
    """
    cluster = profile.cluster
    kept = {cluster.names[cluster.index(name, place="restricted")] for name in names}
    devices = tuple(device for device in cluster.devices if device.name in kept)
    links = tuple(link for link in cluster.links if {link.src, link.dst} <= kept)
    dispatch = profile.dispatch
    return replace(
        profile,
        cluster=Cluster(devices, links, cluster.host),
        cells={cell: _only(curves, kept) for cell, curves in profile.cells.items()},
        dispatch=replace(
            dispatch,
            h=_restricted_host_times(dispatch.h, kept),
            bookkeeping_ns=_restricted_numbers(dispatch.bookkeeping_ns, kept),
            copy_in=_only(dispatch.copy_in, kept),
            copy_out=_only(dispatch.copy_out, kept),
            first_use_ns={cell: _only(row, kept) for cell, row in dispatch.first_use_ns.items()},
        ),
    )


def _only(by_device: Mapping[str, ValueT], kept: Collection[str]) -> dict[str, ValueT]:
    return {name: value for name, value in by_device.items() if name in kept}


def _restricted_numbers(numbers: PerDevice, kept: Collection[str]) -> PerDevice:
    return numbers if isinstance(numbers, int) else _only(numbers, kept)


def _restricted_host_times(h: PerCellAndDevice, kept: Collection[str]) -> PerCellAndDevice:
    if isinstance(h, int):
        return h
    by_cell = {cell: _only(row, kept) for cell, row in h.items() if not isinstance(row, int)}
    return by_cell or _only({name: ns for name, ns in h.items() if isinstance(ns, int)}, kept)
