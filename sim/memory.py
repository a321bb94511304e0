"""What devices hold: weights that come and go, outputs that live until their last reader."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from dynpartition.buffers import NO_GROUP, find_buffers
from dynpartition.profile import PricedGraph
from dynpartition.program import Program
from dynpartition.residency import check_capacity, find_stores, needs_memory, out_of_memory
from dynpartition.sim.clock import Completion, InstantClock
from dynpartition.sim.links import LOAD, Busy, Transfer

NEVER_NS = -1
"""Last use of a cell that has not been used."""
NOTHING = -1


@dataclass(frozen=True, slots=True)
class MemoryWorld:
    """What memory reads of the machine around it."""

    priced: PricedGraph
    program: Program
    clock: InstantClock
    busy: Busy
    released: Callable[[int], bool]
    push: Callable[[Transfer], None]


class Limited:
    """Bytes are counted, and weights are loaded and evicted. `begin_loads` is a phase."""

    def __init__(self, world: MemoryWorld) -> None:
        self._world = world
        self._cells = world.priced.graph.cells
        self._cell_of = world.program.launch_cell.tolist()
        self._device_of = world.program.lists.launch_device
        self._stores = find_stores(world.priced)
        self._weights = [_Weights(dict.fromkeys(s.resident, NEVER_NS)) for s in self._stores]
        self._coming = _launches_of_devices(world)
        self._free_bytes = [
            store.capacity_bytes - sum(self._cells[cell].param_bytes for cell in store.resident)
            for store in self._stores
        ]
        self._buffers = find_buffers(world.program, world.priced.graph)
        check_capacity(world.priced, world.program, self._buffers, self._stores)
        self._holds = [readers + 1 for readers in self._buffers.n_readers()]  # and who makes it
        self._open = _OpenGroups(self._buffers.group_revealers.rows)
        self.something_arrived()

    # Weights

    def begin_loads(self) -> None:
        """Make room for, and queue, the weights that idle devices need next."""
        for device, store in enumerate(self._stores):
            coming = self._coming[device]
            if store.loads_weights and coming and self._must_load(coming[0], device):
                self._begin_load(coming[0], device)

    def _must_load(self, launch: int, device: int) -> bool:
        idle = not self._world.busy.mask >> device & 1
        loading = self._weights[device].loading != NOTHING
        return (
            idle and not loading and not self.has_weights(launch) and self._world.released(launch)
        )

    def _begin_load(self, launch: int, device: int) -> None:
        cell = self._cell_of[launch]
        size = self._cells[cell].param_bytes
        self._weights[device].loading = cell
        self._reserve(device, size, launch)
        key = (self._world.clock.now_ns, launch, device, LOAD)
        self._world.push(Transfer(key, self._stores[device].link, size, cell=cell))

    def has_weights(self, launch: int) -> bool:
        """Return whether the weights of a launch are on its device."""
        device = self._device_of[launch]
        weights = self._weights[device]
        return not self._stores[device].loads_weights or self._cell_of[launch] in weights.last_use

    def resident(self, device: int) -> tuple[int, ...] | None:
        """Return the cells whose weights are on a device; None: all."""
        if not self._stores[device].loads_weights:
            return None
        return tuple(sorted(self._weights[device].last_use))

    # Outputs

    def launch_started(self, launch: int, device: int) -> None:
        """Reserve the outputs of a launch; OutOfDeviceMemory if they do not fit."""
        self._weights[device].running = self._cell_of[launch]
        made = self._buffers.launch_makes.rows[launch]
        self._reserve(device, self._total_bytes(made), launch)

    def launch_ended(self, launch: int, device: int) -> None:
        """Free what the launch was the last to read."""
        self._coming[device].popleft()
        weights = self._weights[device]
        weights.running = NOTHING
        if self._stores[device].loads_weights:
            weights.last_use[self._cell_of[launch]] = self._world.clock.now_ns
        self._let_go(self._buffers.launch_makes.rows[launch])
        self._let_go(self._buffers.launch_reads.rows[launch])

    def transfer_started(self, transfer: Transfer) -> None:
        """Reserve what arrives; OutOfDeviceMemory if it does not fit."""
        if transfer.kind != LOAD:  # those reserve earlier
            self._reserve(transfer.dst, transfer.bytes, transfer.position)

    def transfer_ended(self, transfer: Transfer) -> None:
        """Free what the transfer was the last to read; weights are there now."""
        if transfer.kind == LOAD:
            weights = self._weights[transfer.dst]
            weights.loading = NOTHING
            weights.last_use[transfer.cell] = self._world.clock.now_ns
        for copy in transfer.copies:
            self._let_go(self._buffers.copy_makes.rows[copy])
            self._let_go(self._buffers.copy_reads.rows[copy])

    def _total_bytes(self, buffers: tuple[int, ...]) -> int:
        return sum(int(self._buffers.bytes[buffer]) for buffer in buffers)

    def _let_go(self, buffers: tuple[int, ...]) -> None:
        for buffer in buffers:
            self._holds[buffer] -= 1
            if not self._holds[buffer]:
                group = int(self._buffers.group[buffer])
                if group == NO_GROUP or not self._open.keeps(group, buffer):
                    self._free(buffer)

    def _free(self, buffer: int) -> None:
        device = int(self._buffers.device[buffer])
        self._free_bytes[device] += int(self._buffers.bytes[buffer])

    def became_known(self, revealer: int) -> None:
        """Free the outputs of a request that no task revealed later can read any more."""
        self._open.unknown.discard(revealer)
        self.something_arrived()

    def something_arrived(self) -> None:
        """Free the outputs of a request that no task arriving later can read any more."""
        arrival_ns = self._buffers.group_arrival_ns
        for group in self._open.closing(self._world.clock.now_ns, arrival_ns.tolist()):
            for buffer in self._open.kept.pop(group):
                self._free(buffer)

    # Room

    def _reserve(self, device: int, needed: int, launch: int) -> None:
        while self._free_bytes[device] < needed:
            cell = self._victim(device)
            if cell == NOTHING:
                have = (needed, self._free_bytes[device])
                raise out_of_memory(self._world.program, self._stores, launch, device, have)
            del self._weights[device].last_use[cell]
            # An idle device may need them next: then it loads them in another round of now.
            self._world.clock.after(0, _look_again)
            self._free_bytes[device] += self._cells[cell].param_bytes
        self._free_bytes[device] -= needed

    def _victim(self, device: int) -> int:
        """Return the idle cell used least recently, ties by name, or NOTHING."""
        weights = self._weights[device]
        idle = [
            (last_use_ns, self._cells[cell].name, cell)
            for cell, last_use_ns in weights.last_use.items()
            if cell != weights.running and self._cells[cell].param_bytes
        ]
        if not idle or self._stores[device].link < 0:
            return NOTHING
        return min(idle)[2]


def _look_again(_: Completion) -> None:
    """Nothing has completed."""


@dataclass(slots=True)
class _Weights:
    """The cells that one device holds."""

    last_use: dict[int, int]
    """Resident cell → end of its last use."""
    loading: int = NOTHING
    running: int = NOTHING


class _OpenGroups:
    """Requests that may still gain readers: what they have made is kept."""

    def __init__(self, revealers: tuple[tuple[int, ...], ...]) -> None:
        self._revealers = revealers
        self.unknown = {revealer for row in revealers for revealer in row}
        self.kept: dict[int, list[int]] = {group: [] for group in range(len(revealers))}
        """Open group → buffers that nothing holds but that."""

    def keeps(self, group: int, buffer: int) -> bool:
        """Return whether the group is open, and keep the buffer if it is."""
        if group in self.kept:
            self.kept[group].append(buffer)
        return group in self.kept

    def closing(self, now_ns: int, arrival_ns: list[int]) -> list[int]:
        """Return the open groups that nothing holds open any more."""
        return [
            group
            for group in self.kept
            if arrival_ns[group] <= now_ns and self.unknown.isdisjoint(self._revealers[group])
        ]


def _launches_of_devices(world: MemoryWorld) -> list[deque[int]]:
    """Return for each device its launches, in its order."""
    coming: list[deque[int]] = [deque() for _ in world.priced.cluster.devices]
    for launch, device in enumerate(world.program.lists.launch_device):
        coming[device].append(launch)
    return coming


def make_memory(world: MemoryWorld) -> Limited | None:
    """Return the memory that the cluster asks for; None: everything fits, all weights are there."""
    return Limited(world) if needs_memory(world.priced) else None
