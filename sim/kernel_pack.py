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


FIELDS = {name: column for column, name in enumerate(kernel.Places._fields[: kernel.N_OWN])}
"""Name → column of a world's own places."""
PLAIN_FIELDS = {
    name: column for column, name in enumerate(kernel.PlainPlaces._fields[: kernel.N_PLAIN_OWN])
}
"""The same for the plain loop."""


class ProgramWorld(NamedTuple):
    """One program with its costs: what one run of the simulator needs."""

    priced: PricedGraph
    program: Program
    prices: ProgramPrices


class MachineTables(NamedTuple):
    """The machine of one profile, in the kernel's terms."""

    facts: dict[str, int]
    links: IntArray
    """(K, 5)"""
    held: IntArray
    """Resources by link, those that are devices last."""
    link_bits: IntArray
    """(K, 2) what links hold, as bits, and the devices that they block."""
    device_bits: IntArray
    """(D,) the device as one of the resources that links hold, as a bit, or 0."""

    @property
    def is_small(self) -> bool:
        """Whether sets of devices and of resources fit into bits, as the plain loop needs."""
        return max(self.facts["n_bits"], self.facts["n_devices"]) <= kernel.BITS_MAX

    def tables(self) -> dict[str, IntArray]:
        """Return the tables by their names in `Places` and `PlainPlaces`."""
        bits = {"link_bits": self.link_bits, "device_bits": self.device_bits}
        return {"links": self.links, "held": self.held} | bits


def machine_tables(profile: Profile) -> MachineTables:
    """Return the tables of a profile's machine."""
    cluster, dispatch = profile.cluster, profile.dispatch
    rows = _held_rows(cluster)
    start = np.cumsum([0, *map(len, rows)]).tolist()
    to = [cluster.index(link.dst) for link in cluster.links]
    costs = [_affine(link.cost) for link in cluster.links]
    links = [
        (a, b, dst, *cost) for a, b, dst, cost in zip(start, start[1:], to, costs, strict=False)
    ]
    n_devices = len(cluster.devices)
    named = {resource for row in rows for resource in row if resource >= n_devices}
    bits = {held: bit for bit, held in enumerate(dict.fromkeys(h for row in rows for h in row))}
    facts = {
        "n_devices": n_devices,
        "n_bits": len(bits),
        "n_links": len(links),
        "n_resources": n_devices + len(named),
        "shift": (max(map(len, rows), default=1) - 1).bit_length(),
        "host": cluster.host_index,
        "mode": MODES[dispatch.host_mode],
        "known_after_ns": dispatch.sync_ns + dispatch.decision_ns,
        "handoff_ns": dispatch.handoff_ns if dispatch.host_mode == "processes" else 0,
        "depth": kernel.NEVER if dispatch.queue_depth is None else dispatch.queue_depth,
        "locks": int(bool(dispatch.lock)),
    }
    small = max(len(bits), n_devices) <= kernel.BITS_MAX
    link_bits = _link_bits(rows, bits, n_devices) if small else []
    device_bits = [1 << bits[d] if d in bits else 0 for d in range(n_devices if small else 0)]
    return MachineTables(
        facts,
        links=np.array(links, dtype=np.int64).reshape(-1, 5),
        held=_flat(rows),
        link_bits=np.array(link_bits, dtype=np.int64),
        device_bits=np.array(device_bits, dtype=np.int64),
    )


def _link_bits(
    rows: list[list[int]], bits: dict[int, int], n_devices: int
) -> list[tuple[int, int]]:
    return [
        (sum(1 << bits[held] for held in row), sum(1 << held for held in row if held < n_devices))
        for row in rows
    ]


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


def slot_facts(facts: dict[str, int], *, is_plain: bool) -> dict[str, int]:
    """Return how many ends the full kernel keeps: of resources, host walks and the lock."""
    slots = facts["n_resources"] + (0 if is_plain else facts["n_devices"] + 1)
    return {"n_slots": slots, "n_blocks": ((slots - 1) >> kernel.BLOCK_BITS) + 1}


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
    """Return whether the plain loop can run the world, if its machine is small."""
    priced, program, prices = world
    return not (
        priced.profile.dispatch.host_mode != "none"
        or priced.graph.revealers
        or program.launch_arrival_ns.any()
        or any(prices.paces)
        or needs_memory(priced)
    )


class WorldTables:
    """The tables of one world, by their names in the kernel's `Places`."""

    def __init__(self, world: ProgramWorld, *, with_loads: bool) -> None:
        """Make the tables of a plain world; `with_loads`: and a row per device for its loads."""
        priced, program, prices = world
        n_launches, n_copies = program.n_launches, program.n_copies
        n_loads = len(priced.cluster.devices) if with_loads else 0
        self.tables: dict[str, IntArray] = {
            "launches": np.zeros((n_launches, 6), dtype=np.int64),
            "copies": np.zeros((n_copies + n_loads, 6), dtype=np.int64),
        }
        self.facts = {
            "n_launches": n_launches,
            "n_copies": n_copies,
            "first_ns": _first_arrival_ns(world),
        }
        self._rows: list[IntArray] = []
        self._n_rows = 0
        launches = self.tables["launches"]
        launches[:, kernel.DEVICE] = program.launch_device
        launches[:, kernel.LAUNCH_NS] = prices.launch_ns
        self.put_range(launches, kernel.WAITS, program.launch_waits)
        self.put_range(launches, kernel.SENDS, program.launch_copies)
        _put_copies(self.tables["copies"][:n_copies], priced, program)

    def put_range(self, table: IntArray, column: int, rows: Ragged) -> None:
        """Add `rows`, and write into two columns of `table` where each of them lies."""
        table[:, column] = self._n_rows + rows.start[:-1]
        table[:, column + 1] = self._n_rows + rows.start[1:]
        self._rows.append(rows.values)
        self._n_rows += len(rows.values)

    def all_tables(self) -> dict[str, IntArray]:
        """Return all tables, the ragged rows included."""
        return self.tables | {"rows": _joined(self._rows)}

    @property
    def n_rows(self) -> int:
        """How many entries the ragged rows have."""
        return self._n_rows


def _joined(rows: list[IntArray]) -> IntArray:
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)


def _first_arrival_ns(world: ProgramWorld) -> int:
    placed = world.program.launch_tasks.values
    return int(world.priced.graph.arrival_ns[placed].min()) if len(placed) else 0


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
class _Waiting:
    """Who waits for what: item numbers as in the kernel's table of arrivals."""

    shown: list[list[int]] = field(default_factory=list)
    arrivals: list[tuple[int, int]] = field(default_factory=list)


def add_extras(own: WorldTables, world: ProgramWorld) -> None:
    """Add what the full kernel reads besides.

    Raises OutOfDeviceMemory and PlanError for what can never run.
    """
    priced, program, prices = world
    stores = find_stores(priced)
    has_memory = needs_memory(priced)
    buffers = find_buffers(program, priced.graph) if has_memory else None
    if buffers is not None:
        check_capacity(priced, program, buffers, stores)
    launches = np.zeros((program.n_launches, 11), dtype=np.int64)
    copies = np.zeros((program.n_copies, 8), dtype=np.int64)
    launches[:, kernel.DISPATCH_NS] = prices.dispatch_ns
    launches[:, kernel.PUSH_NS] = prices.push_ns
    launches[:, kernel.CELL] = program.launch_cell
    copies[:, kernel.BYTES] = program.copy_bytes
    own.tables |= {"launch_extras": launches, "copy_extras": copies}
    _put_waiting(own, world, buffers)
    _put_devices(own, world, stores)
    _put_durations(own, world)
    _put_loads(own, program.n_copies, stores)
    if buffers is not None:
        _put_buffers(own, buffers)
        _put_weights(own, priced, stores)


def _put_waiting(own: WorldTables, world: ProgramWorld, buffers: Buffers | None) -> None:
    waiting = _waiting(world, own.tables["launch_extras"], own.tables["copy_extras"], buffers)
    _put_reveals(own, world, waiting)
    arrivals = np.array(sorted(waiting.arrivals), dtype=np.int64).reshape(-1, 2)
    own.tables["arrivals"] = arrivals
    own.facts["n_arrivals"] = len(arrivals)


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


def _put_reveals(own: WorldTables, world: ProgramWorld, waiting: _Waiting) -> None:
    """Note which launches and transfers carry values that reveal, and what these show."""
    priced, program, _ = world
    number = {task: index for index, task in enumerate(priced.graph.revealers)}
    revealers = np.zeros((len(number), 2), dtype=np.int64)
    own.facts["n_revealers"] = len(number)
    own.tables["revealers"] = revealers
    if not number:
        return
    own.put_range(revealers, kernel.SHOWS, Ragged.of(waiting.shown))
    for table, column, tasks in (
        ("launch_extras", kernel.LAUNCH_REVEALS, program.launch_tasks),
        ("copy_extras", kernel.COPY_REVEALS, program.copy_tasks),
    ):
        found = [[number[task] for task in row if task in number] for row in tasks.rows]
        own.put_range(own.tables[table], column, Ragged.of(found))


def _put_devices(own: WorldTables, world: ProgramWorld, stores: list[Store]) -> None:
    """Add the devices' rows and when each pace begins, device after device."""
    rows = []
    paces_ns: list[int] = []
    devices = world.priced.cluster.devices
    for device, store, paces in zip(devices, stores, world.prices.paces, strict=True):
        begin = len(paces_ns)
        paces_ns += [at_ns for at_ns, _ in paces]
        is_cpu, capacity = device.kind == "cpu", min(store.capacity_bytes, UNLIMITED_BYTES)
        rows.append([is_cpu, capacity, store.loads_weights, store.link, begin, len(paces_ns)])
    own.tables["device_extras"] = np.array(rows, dtype=np.int64)
    own.tables["paces_ns"] = np.array(paces_ns, dtype=np.int64)


def _put_durations(own: WorldTables, world: ProgramWorld) -> None:
    """Add launch durations at each pace, and how long each of them holds the lock."""
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
    if lock and priced.profile.dispatch.host_mode == "threads":
        for row, values in enumerate(lasts_ns.tolist()):
            shares_ns[row] = [share_ns(value, lock) for value in values]
    own.tables |= {"lasts_ns": lasts_ns, "share_ns": shares_ns}
    own.facts["n_paces"] = levels


def _put_loads(own: WorldTables, n_copies: int, stores: list[Store]) -> None:
    loads = own.tables["copies"][n_copies:]
    loads[:, kernel.LINK] = [store.link for store in stores]
    loads[:, kernel.DST] = range(len(stores))
    loads[:, kernel.IS_INPUT] = 2


def _put_buffers(own: WorldTables, buffers: Buffers) -> None:
    launches, copies = own.tables["launch_extras"], own.tables["copy_extras"]
    own.put_range(launches, kernel.MAKES, buffers.launch_makes)
    own.put_range(launches, kernel.READS, buffers.launch_reads)
    own.put_range(copies, kernel.COPY_MAKES, buffers.copy_makes)
    own.put_range(copies, kernel.COPY_READS, buffers.copy_reads)
    sizes = buffers.bytes.tolist()
    made_bytes = [sum(sizes[buffer] for buffer in row) for row in buffers.launch_makes.rows]
    launches[:, kernel.MAKES_BYTES] = made_bytes
    readers = np.array(buffers.n_readers(), dtype=np.int64)
    columns = [buffers.device, buffers.bytes, buffers.group, readers]
    own.tables["buffers"] = np.stack(columns, axis=1)
    gates = np.diff(buffers.group_revealers.start) + (buffers.group_arrival_ns > 0)
    own.tables["group_counts"] = gates
    own.facts |= {"n_buffers": len(readers), "n_groups": len(gates)}


def _put_weights(own: WorldTables, priced: PricedGraph, stores: list[Store]) -> None:
    """Add the cells and, per device and cell, whether it is there at time 0 and ns to load it."""
    cells = priced.graph.cells
    rank = {name: index for index, name in enumerate(sorted(priced.graph.cell_names))}
    own.tables["cells"] = np.array([(c.param_bytes, rank[c.name]) for c in cells], dtype=np.int64)
    own.facts["n_cells"] = len(cells)
    stock = [
        (
            number in store.resident,
            priced.transfer_ns(store.link, cell.param_bytes) if store.link >= 0 else 0,
        )
        for store in stores
        for number, cell in enumerate(cells)
    ]
    own.tables["stock"] = np.array(stock, dtype=np.int64)
