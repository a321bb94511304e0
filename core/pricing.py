"""What the launches of a program cost, as integer tables that engines only add."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dynpartition.conditions import GOOD_DAY, Conditions
from dynpartition.costs import slowed_ns, transfer_ns
from dynpartition.graph import CARRIED
from dynpartition.luck import Luck
from dynpartition.profile import PricedGraph
from dynpartition.program import Program


@dataclass(frozen=True, slots=True)
class ProgramPrices:
    """Costs of the L launches of one program, in ns."""

    launch_ns: tuple[int, ...]
    """(L,) time on the device: compute, bookkeeping, first use, copy-in, copy-out, noise."""
    dispatch_ns: tuple[int, ...]
    """(L,) host time for the launch itself; 0 on CPU devices."""
    push_ns: tuple[int, ...]
    """(L,) host time for the transfers charged to the launch."""
    paces: tuple[tuple[tuple[int, float], ...], ...]
    """D rows of (at_ns, speed): how fast launches are that start from then on."""
    carried: frozenset[int] = frozenset()
    """Launches from before a loss: no host work, and the same time whatever the pace."""
    there: frozenset[int] = frozenset()
    """Transfers from before a loss: what they would bring is there."""

    def lasts_ns(self, launch: int, device: int, start_ns: int) -> int:
        """Return how long a launch lasts that starts on `device` at `start_ns`."""
        paces, full_ns = self.paces[device], self.launch_ns[launch]
        if not paces or launch in self.carried:
            return full_ns
        begun = bisect_right(paces, start_ns, key=lambda pace: pace[0])
        return slowed_ns(full_ns, paces[begun - 1][1]) if begun else full_ns


def price(
    program: Program, priced: PricedGraph, conditions: Conditions = GOOD_DAY
) -> ProgramPrices:
    """Return what each launch of `program` costs; ProfileError when a cost is missing."""
    devices = program.launch_device.tolist()
    expected = [_launch_ns(program, priced, c, d) for c, d in enumerate(devices)]
    for launch, ns in _first_uses(program, priced):
        expected[launch] += ns
    carried, there = _from_before(program, priced, conditions)
    prices = ProgramPrices(
        launch_ns=tuple(_with_luck(expected, program, priced, conditions)),
        dispatch_ns=tuple(_dispatch_ns(program, priced, c, d) for c, d in enumerate(devices)),
        push_ns=_push_ns(program, priced, carried, there),
        paces=_paces(priced, conditions),
        carried=carried,
        there=there,
    )
    return _with_carried(prices, program, conditions) if carried else prices


def _from_before(
    program: Program, priced: PricedGraph, conditions: Conditions
) -> tuple[frozenset[int], frozenset[int]]:
    """Return the launches and the transfers from before a loss."""
    if CARRIED not in priced.graph.cells:
        return frozenset(), frozenset()
    cell, rows = priced.graph.cells.index(CARRIED), program.launch_tasks.rows
    carried = set(np.flatnonzero(program.launch_cell == cell).tolist())
    carried |= {c for c, tasks in enumerate(rows) if tasks[0] in conditions.under_way_ns}
    held = {(task, name) for task, names in conditions.copies.items() for name in names}
    there = {
        copy
        for copy, (tasks, dst) in enumerate(
            zip(program.copy_tasks.rows, program.copy_dst.tolist(), strict=True)
        )
        if not program.copy_is_input[copy]
        and held.issuperset((task, priced.cluster.names[dst]) for task in tasks)
    }
    return frozenset(carried), frozenset(there)


def _with_carried(prices: ProgramPrices, program: Program, conditions: Conditions) -> ProgramPrices:
    launch_ns, dispatch_ns = list(prices.launch_ns), list(prices.dispatch_ns)
    for launch in prices.carried:
        launch_ns[launch] = conditions.under_way_ns.get(program.launch_tasks.rows[launch][0], 0)
        dispatch_ns[launch] = 0
    return replace(prices, launch_ns=tuple(launch_ns), dispatch_ns=tuple(dispatch_ns))


def _with_luck(
    expected: list[int], program: Program, priced: PricedGraph, conditions: Conditions
) -> list[int]:
    noise = priced.profile.noise
    if noise is None:
        return expected
    graph, names = priced.graph, priced.cluster.names
    luck = Luck(noise, seed=conditions.seed, graph_key=conditions.luck or graph.digest)
    devices = program.launch_device.tolist()
    smallest = [int(graph.ids[list(tasks)].min()) for tasks in program.launch_tasks.rows]
    return [
        luck.duration_ns(ns, device=names[device], task_id=task_id)
        for ns, device, task_id in zip(expected, devices, smallest, strict=True)
    ]


def _paces(
    priced: PricedGraph, conditions: Conditions
) -> tuple[tuple[tuple[int, float], ...], ...]:
    conditions.check(priced.cluster)
    rows: list[list[tuple[int, float]]] = [[] for _ in priced.cluster.devices]
    for slowdown in sorted(conditions.slowdowns, key=lambda slowdown: slowdown.at_ns):
        rows[priced.cluster.index(slowdown.device)].append((slowdown.at_ns, slowdown.speed))
    return tuple(tuple(row) for row in rows)


def _launch_ns(program: Program, priced: PricedGraph, launch: int, device: int) -> int:
    tasks = program.launch_tasks.rows[launch]
    bookkeeping = priced.profile.dispatch.bookkeeping_on(priced.cluster.names[device])
    return (
        priced.compute_ns(tasks, device)
        + len(tasks) * bookkeeping
        + _copy_in_ns(program, priced, launch, device)
        + _copy_out_ns(program, priced, launch, device)
    )


def _first_uses(program: Program, priced: PricedGraph) -> Iterator[tuple[int, int]]:
    """Yield the launches that are the first of their cell on their device, and what that costs."""
    dispatch, names = priced.profile.dispatch, priced.cluster.names
    cells = [cell.name for cell in priced.graph.cells]
    if not dispatch.first_use_ns:
        return
    seen: set[tuple[int, int]] = set()
    pairs = zip(program.launch_cell.tolist(), program.launch_device.tolist(), strict=True)
    for launch, (cell, device) in enumerate(pairs):
        if (cell, device) not in seen:
            seen.add((cell, device))
            yield launch, dispatch.first_use_on(cells[cell], names[device])


def _copy_in_ns(program: Program, priced: PricedGraph, launch: int, device: int) -> int:
    """Gathering every remote input: once per edge, and once per input from the host."""
    cost = priced.profile.dispatch.copy_in.get(priced.cluster.names[device])
    if cost is None:
        return 0
    remote: set[int] = set()
    for copy in program.launch_waits.rows[launch]:
        if not program.copy_is_input[copy]:
            remote.update(program.copy_tasks.rows[copy])
    graph = priced.graph
    tasks = program.launch_tasks.rows[launch]
    sizes = [graph.output_bytes[s] for t in tasks for s in graph.input_lists[t] if s in remote]
    if device != priced.cluster.host_index:
        sizes += [graph.host_bytes[t] for t in tasks if graph.host_bytes[t] > 0]
    return sum(transfer_ns(cost, int(size)) for size in sizes)


def _copy_out_ns(program: Program, priced: PricedGraph, launch: int, device: int) -> int:
    """Staging each output that a remote task reads; readers revealed later are not charged."""
    cost = priced.profile.dispatch.copy_out.get(priced.cluster.names[device])
    if cost is None:
        return 0
    pushed = [c for c in program.launch_copies.rows[launch] if program.is_prompt(c)]
    sent = {(t, int(program.copy_dst[c])) for c in pushed for t in program.copy_tasks.rows[c]}
    read = {task for task, dst in sent if _is_read_on(program, priced, task, dst)}
    sizes = [int(priced.graph.output_bytes[task]) for task in sorted(read)]
    return sum(transfer_ns(cost, size) for size in sizes)


def _is_read_on(program: Program, priced: PricedGraph, task: int, dst: int) -> bool:
    """Whether a launch on `dst` reads `task` that is known whenever the producing launch is."""
    producer = program.launch_of[task]
    known = set(program.launch_gates.rows[producer])
    arrived_ns = program.launch_arrival_ns[producer]
    readers = [program.launch_of.get(reader) for reader in priced.graph.reader_lists[task]]
    return any(
        program.launch_device[reader] == dst
        and known.issuperset(program.launch_gates.rows[reader])
        and program.launch_arrival_ns[reader] <= arrived_ns
        for reader in readers
        if reader is not None
    )


def _dispatch_ns(program: Program, priced: PricedGraph, launch: int, device: int) -> int:
    cell = priced.graph.cell_name(program.launch_tasks.rows[launch][0])
    return priced.profile.dispatch.h_ns(cell, priced.cluster.devices[device])


def _push_ns(
    program: Program, priced: PricedGraph, carried: frozenset[int], there: frozenset[int]
) -> tuple[int, ...]:
    """Charge each transfer to its producer; host inputs and late ones to their first reader.

    Launches from before a loss pay nothing: what leaves them now is charged like late transfers.
    """
    h_copy = priced.profile.dispatch.h_copy
    charged = [0] * program.n_launches
    seen = set(there)
    for launch in range(program.n_launches):
        for copy in program.launch_waits.rows[launch]:
            if not program.is_prompt(copy) or int(program.copy_launch[copy]) in carried:
                charged[launch] += h_copy if copy not in seen else 0
                seen.add(copy)
        if launch not in carried:
            prompt = [c for c in program.launch_copies.rows[launch] if program.is_prompt(c)]
            charged[launch] += h_copy * len(prompt)
    return tuple(charged)
