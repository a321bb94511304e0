"""The estimate's model of weights: what a device holds, what a launch must load and what must go.

As the simulator deals with weights (`dynpartition.sim.memory`), but outputs are not followed: what
the hungriest single launch reads and makes is kept free for them. K cells, D devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition.cluster import Cluster, Device
from dynpartition.costs import transfer_ns
from dynpartition.graph import Cell
from dynpartition.profile import PricedGraph, Profile
from dynpartition.residency import UNLIMITED_BYTES, initial_cells
from dynpartition.types import BoolArray, IntArray

ABSENT = -1
UNUSED = -1
"""The last launch of a cell that has not run on a device."""
LOAD_NS_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class CellWeights:
    """The weights of a graph's cells on the devices of a profile, when nothing has been placed."""

    size_bytes: IntArray
    """(K,)"""
    name_rank: IntArray
    """(K,) place of each cell's name in their order, which breaks ties."""
    load_ns: IntArray
    """(K, D) what bringing a cell from the host takes, ABSENT where there is no link from it."""
    resident: BoolArray
    """(K, D)"""
    tracked: BoolArray
    """(D,) devices that may not hold everything; never the host."""
    memory_bytes: IntArray
    """(D,)"""

    @property
    def barred(self) -> BoolArray:
        """(K, D) where a cell can never run: it is larger than the memory, or cannot get there."""
        too_large = self.size_bytes[:, None] > self.memory_bytes
        never: BoolArray = self.tracked & (too_large | (~self.resident & (self.load_ns < 0)))
        return never

    def loading(self, launch_bytes: int) -> BoolArray:
        """Return (D,): the devices on which weights have to be loaded or may have to go.

        `launch_bytes`: see `launch_bytes`.
        """
        room_bytes = self.memory_bytes - min(launch_bytes, UNLIMITED_BYTES)
        fits = self.resident.all(axis=0) & (self.size_bytes.sum() <= room_bytes)
        loading: BoolArray = self.tracked & ~fits
        return loading


def tracks_weights(cluster: Cluster) -> bool:
    """Return whether a device other than the host may not hold all weights."""
    return any(
        device.tracks_memory
        for number, device in enumerate(cluster.devices)
        if number != cluster.host_index
    )


def cell_weights(cells: Sequence[Cell], profile: Profile) -> CellWeights | None:
    """Return what weights do on a machine; None where every device has room for all, always.

    Raises OutOfDeviceMemory where the cells that a device lists as resident do not fit.
    """
    cluster = profile.cluster
    if not tracks_weights(cluster):
        return None
    devices, host = cluster.devices, cluster.host_index
    tracked = [d != host and device.tracks_memory for d, device in enumerate(devices)]
    resident = np.ones((len(cells), len(devices)), dtype=np.bool_)
    load_ns = np.full((len(cells), len(devices)), ABSENT, dtype=np.int64)
    for d in np.flatnonzero(tracked).tolist():
        there = initial_cells(cells, devices[d], _capacity_bytes(devices[d]))
        resident[:, d] = np.isin(np.arange(len(cells)), there)
        link = cluster.link_index(host, d)
        if link >= 0:
            cost = cluster.links[link].cost
            load_ns[:, d] = [min(transfer_ns(cost, c.param_bytes), LOAD_NS_MAX) for c in cells]
    names = sorted(cell.name for cell in cells)
    return CellWeights(
        size_bytes=np.array([cell.param_bytes for cell in cells], dtype=np.int64),
        name_rank=np.array([names.index(cell.name) for cell in cells], dtype=np.int64),
        load_ns=load_ns,
        resident=resident,
        tracked=np.array(tracked),
        memory_bytes=np.array([_capacity_bytes(device) for device in devices], dtype=np.int64),
    )


def without_barred(run_ns: IntArray, barred: BoolArray) -> IntArray:
    """Return durations (n, D) without those of barred devices, unless a row had no others."""
    rest: IntArray = np.where(barred, ABSENT, run_ns)
    is_left = (rest >= 0).any(axis=1, keepdims=True)
    return np.where(is_left, rest, run_ns)


def task_ns_where_weights_fit(priced: PricedGraph, weights: CellWeights | None = None) -> IntArray:
    """Return int64 (N, D): duration of each task alone, negative where it cannot run.

    So it is where its weights can never be, unless they can be nowhere. `weights`: of its cells on
    its machine, if they are known.
    """
    graph = priced.graph
    weights = weights or cell_weights(graph.cells, priced.profile)
    if weights is None:
        return priced.task_ns
    return without_barred(priced.task_ns, weights.barred[graph.cell_of])


def _capacity_bytes(device: Device) -> int:
    return UNLIMITED_BYTES if device.memory_bytes is None else device.memory_bytes


def launch_bytes(
    inputs: Sequence[Sequence[int]], output_bytes: Sequence[int], host_bytes: Sequence[int]
) -> int:
    """Return the most bytes of inputs and output, without weights, that one task needs at once."""
    return max(
        output_bytes[task] + host_bytes[task] + sum(output_bytes[source] for source in row)
        for task, row in enumerate(inputs)
    )


class Holdings:
    """What each device holds as a plan grows.

    `end_ns`: launch → when it ends, as far as is known.
    """

    def __init__(
        self, weights: CellWeights | None, room_bytes: int, end_ns: Callable[[int], int]
    ) -> None:
        self._end_ns = end_ns
        self._shelves: dict[int, _Shelf] = {}
        if weights is not None:
            for device in np.flatnonzero(weights.loading(room_bytes)).tolist():
                self._shelves[device] = _Shelf(weights, device, room_bytes)

    def __bool__(self) -> bool:
        """Whether any device may lack weights."""
        return bool(self._shelves)

    def has(self, cell: int, device: int) -> bool:
        """Return whether the weights of a cell are on a device, or no link could bring them."""
        shelf = self._shelves.get(device)
        return shelf is None or cell in shelf.last_launch or shelf.load_ns[cell] < 0

    def take(self, cell: int, device: int, launch: int) -> None:
        """Let a launch use a cell that is there by then; what was used least recently goes."""
        shelf = self._shelves.get(device)
        if shelf is not None:
            shelf.take(cell, launch, self._end_ns)

    def used_bytes(self, device: int) -> int:
        """Return the bytes of weights on a device; 0 where it has all, always."""
        shelf = self._shelves.get(device)
        return shelf.used_bytes if shelf else 0


class _Shelf:
    """The weights on one device."""

    def __init__(self, weights: CellWeights, device: int, room_bytes: int) -> None:
        self.size_bytes: list[int] = weights.size_bytes.tolist()
        self.load_ns: list[int] = weights.load_ns[:, device].tolist()
        self._name_rank: list[int] = weights.name_rank.tolist()
        there = np.flatnonzero(weights.resident[:, device]).tolist()
        self.last_launch: dict[int, int] = dict.fromkeys(there, UNUSED)
        """Resident cell → the last launch that used it."""
        self.used_bytes = sum(self.size_bytes[cell] for cell in there)
        self.limit_bytes = int(weights.memory_bytes[device]) - room_bytes

    def take(self, cell: int, launch: int, end_ns: Callable[[int], int]) -> None:
        if cell not in self.last_launch:
            self.used_bytes += self.size_bytes[cell]
        self.last_launch[cell] = launch
        while self.used_bytes > self.limit_bytes:
            victim = self._victim(cell, end_ns)
            if victim is None:
                return  # the cell alone is too much: a run may say so
            del self.last_launch[victim]
            self.used_bytes -= self.size_bytes[victim]

    def _victim(self, kept: int, end_ns: Callable[[int], int]) -> int | None:
        """Return the cell used least recently, ties by name; None where nothing can go."""
        idle = [
            (ABSENT if launch < 0 else end_ns(launch), self._name_rank[cell], cell)
            for cell, launch in self.last_launch.items()
            if cell != kept and self.size_bytes[cell]
        ]
        return min(idle)[2] if idle and self.load_ns[kept] >= 0 else None
