"""Which weights a device with a memory cap holds before every launch, decided while planning.

A device is walked launch by launch, in plan order, with the bytes of its weights and those given
out of its arena. What arrives there for the launches of one step counts from the first of them on,
because it may come at any time. Both together stay within the cap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition.cluster import Cluster
from dynpartition.errors import OutOfDeviceMemory, PlanError
from dynpartition.graph import Cell
from dynpartition.hardware import placing
from dynpartition.hardware.layout import Placement
from dynpartition.hardware.messages import LoadOrder, Stock
from dynpartition.hardware.tasks import KnownTasks
from dynpartition.program import Program
from dynpartition.residency import UNLIMITED_BYTES, initial_cells

NEVER = -1
"""Last use of weights that have not been used."""

LastUse = dict[str, int]
"""Resident cell → the last launch that used it."""


def find_stocks(cluster: Cluster, cells: Sequence[Cell]) -> dict[int, Stock]:
    """Return what devices that do not simply hold all weights may hold, by device index.

    These have a cap or a list `resident`. The host is never among them. Raises OutOfDeviceMemory
    if the listed cells do not fit together.
    """
    stocks: dict[int, Stock] = {}
    for index, device in enumerate(cluster.devices):
        if device.tracks_memory and index != cluster.host_index:
            capacity = UNLIMITED_BYTES if device.memory_bytes is None else device.memory_bytes
            resident = [cells[number].name for number in initial_cells(cells, device, capacity)]
            stocks[index] = Stock(capacity, resident)
    return stocks


@dataclass(frozen=True)
class Stocking:
    """What new launches need, and what devices hold after them; by device index."""

    orders: Mapping[int, list[LoadOrder]]
    held: Mapping[int, LastUse]


class Ledger:
    """The weights on each device after all launches that have been planned in a session."""

    def __init__(
        self, cluster: Cluster, cells: Sequence[Cell], stocks: Mapping[int, Stock]
    ) -> None:
        self._cluster = cluster
        self._stocks = stocks
        self._size = {cell.name: cell.param_bytes for cell in cells}
        self._held: dict[int, LastUse] = {
            device: dict.fromkeys(stock.resident, NEVER) for device, stock in stocks.items()
        }

    def plan(
        self, tasks: KnownTasks, program: Program, placement: Placement, first_launch: int
    ) -> Stocking:
        """Return what the launches from `first_launch` on need; it counts once it is settled.

        Raises OutOfDeviceMemory where the weights of a launch do not fit beside what the arena
        holds, and PlanError where no link brings them.
        """
        orders: dict[int, list[LoadOrder]] = {}
        held: dict[int, LastUse] = {}
        for device in self._stocks:
            held[device] = dict(self._held[device])
            orders[device] = []
            fresh = first_launch + np.flatnonzero(program.launch_device[first_launch:] == device)
            arena_bytes = _arena_bytes(tasks, placement, fresh.tolist(), device)
            for launch, given_out in arena_bytes.items():
                cell = tasks.kind(program.launch_tasks.rows[launch][0]).cell
                order = self._make_room(device, held[device], launch, cell, given_out)
                held[device][cell] = launch
                if order.cell or order.evict:
                    orders[device].append(order)
        return Stocking(orders, held)

    def settle(self, stocking: Stocking) -> None:
        """Take note that the launches of `stocking` are planned."""
        self._held.update(stocking.held)

    def _make_room(
        self, device: int, held: LastUse, launch: int, cell: str, arena_bytes: int
    ) -> LoadOrder:
        """Evict, the least recently used first, until a launch's weights and outputs fit."""
        missing = cell not in held
        if missing and not self._can_load(device):
            raise self._no_way(device, launch, cell)
        needed = arena_bytes + self._size[cell] * missing
        there = sum(self._size[other] for other in held)
        evict: list[str] = []
        while there + needed > self._stocks[device].capacity_bytes:
            idle = [(use, name) for name, use in held.items() if name != cell and self._size[name]]
            if not idle or not self._can_load(device):
                raise self._shortage(device, launch, cell, arena_bytes)
            _, victim = min(idle)
            del held[victim]
            there -= self._size[victim]
            evict.append(victim)
        return LoadOrder(launch, evict, cell if missing else "", arena_bytes)

    def _can_load(self, device: int) -> bool:
        """Return whether weights come there from the host; else they are not evicted either."""
        return self._cluster.link_index(self._cluster.host_index, device) >= 0

    def _shortage(self, device: int, launch: int, cell: str, arena_bytes: int) -> OutOfDeviceMemory:
        name = self._cluster.names[device]
        return OutOfDeviceMemory(
            f"launch {launch} ({cell}) needs {self._size[cell]:,} bytes of weights on {name} beside"
            f" {arena_bytes:,} of outputs and inputs, but {name} holds"
            f" {self._stocks[device].capacity_bytes:,}; raise its cap (--devices {name}@SIZE) or"
            " place less on it"
        )

    def _no_way(self, device: int, launch: int, cell: str) -> PlanError:
        name, host = self._cluster.names[device], self._cluster.host
        return PlanError(
            f"launch {launch} on {name} needs the weights of {cell}, but the profile has no link"
            f" from {host} to {name}; add the link"
        )


def _arena_bytes(
    tasks: KnownTasks, placement: Placement, launches: Sequence[int], device: int
) -> dict[int, int]:
    """Return launch → bytes given out of its device's arena by then, in plan order.

    Outputs lie in the order of the launches, and behind them all that arrives in this step.
    """
    end = int(placement.used_before[device])
    ends: dict[int, int] = dict.fromkeys(launches, end)
    columns = (placing.LAUNCH, placing.SIZE, placing.ROW, placing.FIRST_TASK)
    for launch, size, row, task in placement.calls[:, columns].tolist():
        if launch in ends:
            row_bytes = int(tasks.output_bytes[tasks.kind_of[task]])
            ends[launch] = max(ends[launch], (row + size) * row_bytes)
    arriving = int(placement.used[device]) - max(ends.values(), default=end)
    for launch in launches:
        end = ends[launch] = max(end, ends[launch])
    return {launch: end + arriving for launch, end in ends.items()}
