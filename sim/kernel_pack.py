"""Worlds as the integer tables that the compiled simulator reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dynpartition.buffers import Buffers, find_buffers
from dynpartition.cluster import AffineCost, Cluster
from dynpartition.costs import share_ns, slowed_ns
from dynpartition.pricing import ProgramPrices
from dynpartition.profile import PricedGraph, Profile
from dynpartition.program import Program
from dynpartition.residency import UNLIMITED_BYTES, Store, check_capacity, find_stores, needs_memory
from dynpartition.sim import kernel
from dynpartition.types import IntArray, Ragged

MODES = {
    "none": kernel.NO_HOST,
    "single": kernel.SINGLE,
    "threads": kernel.THREADS,
    "processes": kernel.PROCESSES,
    "replay": kernel.REPLAY,
}


class ProgramWorld(NamedTuple):
    """One program with its costs: what one run of the simulator needs."""

    priced: PricedGraph
    program: Program
    prices: ProgramPrices


class MachineTables(NamedTuple):
    """The machine of one profile."""

    row: list[int]
    """Row of machines, without the ranges of its links and their resources."""
    links: IntArray
    """(K, 5)"""
    held: IntArray
    """Resources by link, those that are devices last."""

    @property
    def n_resources(self) -> int:
        """Number of resources, devices included."""
        return self.row[kernel.RESOURCES]

    @property
    def nodes_per_copy(self) -> int:
        """Most resources of a link, rounded up to a power of two."""
        return 1 << self.row[kernel.SHIFT]


def machine_tables(profile: Profile) -> MachineTables:
    """Return the tables of a profile's machine."""
    cluster, dispatch = profile.cluster, profile.dispatch
    rows = _held_rows(cluster)
    start = np.cumsum([0, *map(len, rows)])
    to = [cluster.index(link.dst) for link in cluster.links]
    costs = [_affine(link.cost) for link in cluster.links]
    links = np.array(
        [[a, b, dst, *cost] for a, b, dst, cost in zip(start, start[1:], to, costs, strict=False)],
        dtype=np.int64,
    ).reshape(-1, 5)
    n_devices = len(cluster.devices)
    named = {r for row in rows for r in row if r >= n_devices}
    row = [
        n_devices,
        n_devices + len(named),
        (max(map(len, rows), default=1) - 1).bit_length(),
        cluster.host_index,
        MODES[dispatch.host_mode],
        dispatch.sync_ns + dispatch.decision_ns,
        dispatch.handoff_ns if dispatch.host_mode == "processes" else 0,
        kernel.NEVER if dispatch.queue_depth is None else dispatch.queue_depth,
        int(bool(dispatch.lock)),
    ]
    return MachineTables(row, links, _flat(rows))


def _held_rows(cluster: Cluster) -> list[list[int]]:
    names = dict.fromkeys(name for link in cluster.links for name in link.held)
    number = {name: index for index, name in enumerate(names, start=len(cluster.devices))}
    return [
        [number[name] for name in dict.fromkeys(link.held)]
        + [cluster.index(name) for name in link.blocked_devices]
        for link in cluster.links
    ]


def _affine(cost: object) -> tuple[int, int]:
    """Return (latency, bandwidth) for the long division of merged transfers; (0, 0): by Python."""
    if isinstance(cost, AffineCost) and cost.bandwidth_bytes_per_s < kernel.NEVER // 10:
        return cost.latency_ns, cost.bandwidth_bytes_per_s
    return 0, 0


def _flat(rows: Iterable[Sequence[int]]) -> IntArray:
    return np.array([value for row in rows for value in row], dtype=np.int64)


def check_range(world: ProgramWorld) -> None:
    """Raise OverflowError where the times of a world might not fit into 62 bits."""
    priced, program, prices = world
    slowest = min((speed for row in prices.paces for _, speed in row), default=1.0)
    dispatch = priced.profile.dispatch
    known_ns = dispatch.sync_ns + dispatch.decision_ns + dispatch.handoff_ns
    pairs = set(zip(program.copy_link.tolist(), program.copy_bytes.tolist(), strict=True))
    longest_ns = max((priced.transfer_ns(*pair) for pair in pairs), default=0)
    total_ns = (
        sum(prices.launch_ns) / min(slowest, 1.0)
        + sum(prices.dispatch_ns)
        + sum(prices.push_ns)
        + 2 * program.n_copies * longest_ns  # twice: merged transfers
        + (program.n_launches + program.n_copies) * (known_ns + _longest_load_ns(priced))
        + max(priced.graph.available_ns)
    )
    if total_ns >= kernel.NEVER // 2:
        raise OverflowError(f"a run may take {total_ns:.3g} ns; the kernel counts up to 2.3e18")


def _longest_load_ns(priced: PricedGraph) -> int:
    if not needs_memory(priced):
        return 0
    largest = max(cell.param_bytes for cell in priced.graph.cells)
    links = range(len(priced.cluster.links))
    return max((priced.transfer_ns(link, largest) for link in links), default=0)


def is_plain(world: ProgramWorld) -> bool:
    """Return whether the plain kernel can run the world."""
    priced, program, prices = world
    return not (
        priced.profile.dispatch.host_mode != "none"
        or priced.graph.revealers
        or program.launch_arrival_ns.any()
        or any(prices.paces)
        or needs_memory(priced)
    )


@dataclass(slots=True)
class PlainTables:
    """The program of one world; ranges in it are ranges of `rows`."""

    launches: IntArray
    copies: IntArray
    rows: list[IntArray]
    first_ns: int
    n_rows: int = 0

    def add_rows(self, values: IntArray) -> int:
        """Append rows and return where they begin."""
        begin = self.n_rows
        self.rows.append(values)
        self.n_rows += len(values)
        return begin


def plain_tables(world: ProgramWorld, *, with_loads: bool) -> PlainTables:
    """Return the tables of one world; `with_loads`: with one row more per device for its loads."""
    priced, program, prices = world
    launches = np.zeros((program.n_launches, 6), dtype=np.int64)
    n_devices = len(priced.cluster.devices)
    copies = np.zeros((program.n_copies + with_loads * n_devices, 6), dtype=np.int64)
    tables = PlainTables(launches, copies, [], _first_arrival_ns(world))
    launches[:, kernel.DEVICE] = program.launch_device
    launches[:, kernel.LAUNCH_NS] = prices.launch_ns
    _put_range(tables, launches, kernel.WAITS, program.launch_waits)
    _put_range(tables, launches, kernel.SENDS, program.launch_copies)
    _put_copies(copies[: program.n_copies], priced, program)
    return tables


def _first_arrival_ns(world: ProgramWorld) -> int:
    placed = world.program.launch_tasks.values
    return int(world.priced.graph.arrival_ns[placed].min()) if len(placed) else 0


def _put_range(tables: PlainTables, table: IntArray, column: int, rows: Ragged) -> None:
    begin = tables.add_rows(rows.values)
    table[:, column] = begin + rows.start[:-1]
    table[:, column + 1] = begin + rows.start[1:]


def _put_copies(copies: IntArray, priced: PricedGraph, program: Program) -> None:
    if not program.n_copies:
        return
    n_devices = len(priced.cluster.devices)
    transfer_ns = priced.transfer_ns
    pairs = zip(program.copy_link.tolist(), program.copy_bytes.tolist(), strict=True)
    place = program.copy_launch * n_devices + program.copy_dst
    returns = np.maximum.reduceat(
        priced.graph.returns[program.copy_tasks.values], program.copy_tasks.start[:-1]
    )
    to_host = program.copy_dst == priced.cluster.host_index
    copies[:, kernel.LINK] = program.copy_link
    copies[:, kernel.DST] = program.copy_dst
    copies[:, kernel.COPY_NS] = [transfer_ns(link, size) for link, size in pairs]
    copies[:, kernel.RANK] = 3 * place + program.copy_is_input
    copies[:, kernel.ANSWER] = (returns > 0) & to_host & (program.copy_is_input == 0)
    copies[:, kernel.IS_INPUT] = program.copy_is_input


@dataclass(slots=True)
class ExtraTables:
    """What the full kernel reads of one world besides its `PlainTables`."""

    launches: IntArray
    copies: IntArray
    revealers: IntArray
    group_gates: IntArray
    arrivals: IntArray
    devices: IntArray
    buffers: IntArray
    cells: IntArray
    stock: IntArray
    paces_ns: list[int]
    lasts_ns: IntArray
    share_ns: IntArray

    @staticmethod
    def of_refused(plain: PlainTables) -> ExtraTables:
        """Return tables for a world that is never run: of the right sizes, with nothing in them."""
        n_launches, n_copies = len(plain.launches), len(plain.copies)
        return ExtraTables(
            *(_zeros(n_launches, 11), _zeros(n_copies, 8), _zeros(0, 3), _zeros(0), _zeros(0, 2)),
            *(_zeros(0, 6), _zeros(0, 4), _zeros(0, 2), _zeros(0, 2), [], _zeros(n_launches, 1)),
            _zeros(n_launches, 1),
        )


def _zeros(*shape: int) -> IntArray:
    return np.zeros(shape, dtype=np.int64)


@dataclass(slots=True)
class _Waiting:
    """Who waits for what: item numbers as in the kernel's table of arrivals."""

    shown: list[list[int]] = field(default_factory=list)
    arrivals: list[tuple[int, int]] = field(default_factory=list)


def extra_tables(world: ProgramWorld, plain: PlainTables) -> ExtraTables:
    """Return what the full kernel reads of one world; adds rows and loads to `plain`.

    Raises OutOfDeviceMemory and PlanError for what can never run.
    """
    priced, program, _ = world
    stores = find_stores(priced)
    has_memory = needs_memory(priced)
    buffers = find_buffers(program, priced.graph) if has_memory else None
    if buffers is not None:
        check_capacity(priced, program, buffers, stores)
    launches = np.zeros((program.n_launches, 11), dtype=np.int64)
    copies = np.zeros((len(plain.copies), 8), dtype=np.int64)
    waiting = _waiting(world, launches, copies, buffers)
    revealers = _put_reveals(world, plain, launches, copies, waiting, buffers)
    devices, paces_ns = _device_rows(world, stores)
    lasts_ns, shares_ns = _durations(world)
    _put_loads(plain, program.n_copies, stores)
    launches[:, kernel.DISPATCH_NS] = world.prices.dispatch_ns
    launches[:, kernel.PUSH_NS] = world.prices.push_ns
    launches[:, kernel.CELL] = program.launch_cell
    copies[: program.n_copies, kernel.BYTES] = program.copy_bytes
    if buffers is not None:
        _put_buffers(plain, launches, copies[: program.n_copies], buffers)
    return ExtraTables(
        launches=launches,
        copies=copies,
        revealers=revealers,
        group_gates=_group_gates(buffers),
        arrivals=np.array(sorted(waiting.arrivals), dtype=np.int64).reshape(-1, 2),
        devices=devices,
        buffers=_buffer_rows(buffers),
        cells=_cell_rows(priced) if has_memory else np.zeros((0, 2), dtype=np.int64),
        stock=_stock(priced, stores) if has_memory else np.zeros((0, 2), dtype=np.int64),
        paces_ns=paces_ns,
        lasts_ns=lasts_ns,
        share_ns=shares_ns,
    )


def _waiting(
    world: ProgramWorld, launches: IntArray, copies: IntArray, buffers: Buffers | None
) -> _Waiting:
    """Count the gates of launches and transfers, and list what opens them."""
    priced, program, _ = world
    number = {task: index for index, task in enumerate(priced.graph.revealers)}
    waiting = _Waiting([[] for _ in number])
    items = [
        (launches, kernel.LAUNCH_GATES, 0, program.launch_gates, program.launch_arrival_ns),
        (copies, kernel.COPY_GATES, program.n_launches, program.copy_gates, program.copy_due_ns),
    ]
    for table, column, begin, gates, due_ns in items:
        due = due_ns > 0
        table[: len(due), column] = np.diff(gates.start) + due
        for index in np.flatnonzero(due).tolist():
            waiting.arrivals.append((int(due_ns[index]), begin + index))
        for index in np.flatnonzero(np.diff(gates.start)).tolist():
            for task in gates.rows[index]:
                waiting.shown[number[task]].append(begin + index)
    if buffers is not None:
        begin = program.n_launches + program.n_copies
        for group, at_ns in enumerate(buffers.group_arrival_ns.tolist()):
            if at_ns:
                waiting.arrivals.append((at_ns, begin + group))
            for task in buffers.group_revealers.rows[group]:
                waiting.shown[number[task]].append(begin + group)
    return waiting


def _put_reveals(
    world: ProgramWorld,
    plain: PlainTables,
    launches: IntArray,
    copies: IntArray,
    waiting: _Waiting,
    buffers: Buffers | None,
) -> IntArray:
    """Note which launches and transfers carry values that reveal; return the revealers' rows."""
    priced, program, _ = world
    number = {task: index for index, task in enumerate(priced.graph.revealers)}
    if number:
        found = [[number[t] for t in row if t in number] for row in program.launch_tasks.rows]
        _put_range(plain, launches, kernel.LAUNCH_REVEALS, Ragged.of(found))
        found = [[number[t] for t in row if t in number] for row in program.copy_tasks.rows]
        own_copies = copies[: program.n_copies]
        _put_range(plain, own_copies, kernel.COPY_REVEALS, Ragged.of(found))
    revealers = np.zeros((len(number), 3), dtype=np.int64)
    _put_range(plain, revealers, kernel.SHOWS, Ragged.of(waiting.shown))
    return revealers


def _group_gates(buffers: Buffers | None) -> IntArray:
    if buffers is None:
        return np.zeros(0, dtype=np.int64)
    return np.diff(buffers.group_revealers.start) + (buffers.group_arrival_ns > 0)


def _device_rows(world: ProgramWorld, stores: list[Store]) -> tuple[IntArray, list[int]]:
    """Return the devices' rows and when each pace begins, device after device."""
    rows, paces_ns = [], []
    for device, store, paces in zip(
        world.priced.cluster.devices, stores, world.prices.paces, strict=True
    ):
        begin = len(paces_ns)
        paces_ns += [at_ns for at_ns, _ in paces]
        rows.append(
            [
                int(device.kind == "cpu"),
                min(store.capacity_bytes, UNLIMITED_BYTES),
                int(store.loads_weights),
                store.link,
                begin,
                len(paces_ns),
            ]
        )
    return np.array(rows, dtype=np.int64), paces_ns


def _durations(world: ProgramWorld) -> tuple[IntArray, IntArray]:
    """Return launch durations at each pace, and how long each of them holds the lock."""
    priced, program, prices = world
    lock = priced.profile.dispatch.lock
    levels = 1 + max(map(len, prices.paces), default=0)
    lasts_ns = np.zeros((program.n_launches, levels), dtype=np.int64)
    shares_ns = np.zeros_like(lasts_ns)
    lasts_ns[:, 0] = prices.launch_ns
    if levels > 1:
        for launch, device in enumerate(program.launch_device.tolist()):
            for level, (_, speed) in enumerate(prices.paces[device], start=1):
                lasts_ns[launch, level] = slowed_ns(prices.launch_ns[launch], speed)
    if lock:
        for row, values in enumerate(lasts_ns.tolist()):
            shares_ns[row] = [share_ns(value, lock) for value in values]
    return lasts_ns, shares_ns


def _put_loads(plain: PlainTables, n_copies: int, stores: list[Store]) -> None:
    loads = plain.copies[n_copies:]
    loads[:, kernel.LINK] = [store.link for store in stores]
    loads[:, kernel.DST] = range(len(stores))
    loads[:, kernel.IS_INPUT] = 2


def _put_buffers(
    plain: PlainTables, launches: IntArray, copies: IntArray, buffers: Buffers
) -> None:
    _put_range(plain, launches, kernel.MAKES, buffers.launch_makes)
    _put_range(plain, launches, kernel.READS, buffers.launch_reads)
    _put_range(plain, copies, kernel.COPY_MAKES, buffers.copy_makes)
    _put_range(plain, copies, kernel.COPY_READS, buffers.copy_reads)
    sizes = buffers.bytes.tolist()
    launches[:, kernel.MAKES_BYTES] = [
        sum(sizes[buffer] for buffer in row) for row in buffers.launch_makes.rows
    ]


def _buffer_rows(buffers: Buffers | None) -> IntArray:
    if buffers is None:
        return np.zeros((0, 4), dtype=np.int64)
    columns = [buffers.device, buffers.bytes, buffers.group, np.array(buffers.n_readers(), int)]
    return np.stack(columns, axis=1).astype(np.int64).reshape(-1, 4)


def _cell_rows(priced: PricedGraph) -> IntArray:
    names = sorted(priced.graph.cell_names)
    rank = {name: index for index, name in enumerate(names)}
    rows = [[cell.param_bytes, rank[cell.name]] for cell in priced.graph.cells]
    return np.array(rows, dtype=np.int64)


def _stock(priced: PricedGraph, stores: list[Store]) -> IntArray:
    """Return per device and cell: whether its weights are there at time 0, ns to load them."""
    rows = []
    for store in stores:
        for number, cell in enumerate(priced.graph.cells):
            load_ns = priced.transfer_ns(store.link, cell.param_bytes) if store.link >= 0 else 0
            rows.append([int(number in store.resident), load_ns])
    return np.array(rows, dtype=np.int64)
