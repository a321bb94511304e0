"""Makespans of many plans: what search and training ask for, without programs and traces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dynpartition.cluster import AffineCost
from dynpartition.conditions import GOOD_DAY, Conditions
from dynpartition.costs import transfer_ns
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.pricing import price
from dynpartition.profile import PricedGraph, Profile
from dynpartition.program import lower
from dynpartition.residency import needs_memory
from dynpartition.sim import kernel, reference
from dynpartition.sim.batch import pack, plain_sizes, plain_state_sizes, run_batch
from dynpartition.sim.kernel_pack import FIELDS, PLAIN_FIELDS, ProgramWorld, machine_tables
from dynpartition.types import IntArray

INFEASIBLE_NS = np.iinfo(np.int64).max
"""Makespan of a plan that runs out of memory: worse than any other."""

_PLAIN_BYTES_MAX = 2**62 // 10**9
_BANDWIDTH_MAX = 2**61


class PlanArrays(NamedTuple):
    """A plan as arrays: cheaper to make than a `Plan`."""

    order: IntArray
    """(N,) task indices in plan order."""
    device: IntArray
    """(N,) device index of each task, by task index."""
    launch: IntArray | None = None
    """(N,) launch number of each entry of `order`, not descending; None: a launch per task."""


class PreparedGraph:
    """A priced graph whose plans can be evaluated in compiled code, if its features allow it."""

    def __init__(self, priced: PricedGraph) -> None:
        self.priced = priced
        graph, dispatch = priced.graph, priced.profile.dispatch
        self.is_quick = not (
            graph.revealers
            or any(graph.available_ns)
            or dispatch.host_mode != "none"
            or priced.profile.noise is not None
            or needs_memory(priced)
            or not machine_tables(priced.profile).is_small
        )
        self.tables = _graph_tables(priced) if self.is_quick else []
        if self.is_quick and _longest_ns(self.tables, len(graph)) >= kernel.NEVER // 2:
            self.is_quick = False


def evaluate_many(
    graphs: Sequence[TaskGraph | PreparedGraph],
    plans: Sequence[Plan | PlanArrays],
    profile: Profile,
    *,
    conditions: Conditions = GOOD_DAY,
) -> IntArray:
    """Return the makespan in ns of each plan for the graph beside it: int64 (B,).

    Equal to simulating them one by one; INFEASIBLE_NS where memory runs out. Plans of one task
    per launch, for graphs without reveals, arrivals, noise, memory and host modes, are lowered and
    priced in compiled code. Give the same graph object again to prepare it only once, or a
    `PreparedGraph` to keep it for further calls. Raises PlanError for an illegal plan.
    """
    assert len(graphs) == len(plans)
    known: dict[int, PreparedGraph] = {}
    for graph in graphs:
        if id(graph) not in known:
            known[id(graph)] = (
                graph
                if isinstance(graph, PreparedGraph)
                else PreparedGraph(PricedGraph(graph, profile))
            )
    prepared = [known[id(graph)] for graph in graphs]
    assert all(one.priced.profile is profile for one in known.values())
    makespan_ns = np.full(len(plans), -1, dtype=np.int64)
    arrays = [_as_arrays(plan, one) for plan, one in zip(plans, prepared, strict=True)]
    good_day = not (conditions.slowdowns or conditions.under_way_ns)
    quick = [
        index
        for index, (plan, one) in enumerate(zip(arrays, prepared, strict=True))
        if good_day and one.is_quick and plan is not None
    ]
    if quick:
        _evaluate_quick(prepared, arrays, quick, makespan_ns)
    slow = np.flatnonzero(makespan_ns < 0).tolist()
    for index in slow:
        plan = _as_plan(plans[index], prepared[index])
        makespan_ns[index] = _evaluate_one(prepared[index].priced, plan, conditions)
    return makespan_ns


def _as_arrays(plan: Plan | PlanArrays, prepared: PreparedGraph) -> PlanArrays | None:
    """Return a plan as arrays, or None if it has batches or cannot be right."""
    count = len(prepared.priced.graph)
    if isinstance(plan, PlanArrays):
        fits = len(plan.order) == len(plan.device) == count
        return plan if fits and plan.launch is None else None
    order = [task for launch in plan.launches for task in launch.tasks]
    if len(order) != len(plan.launches) or sorted(order) != list(range(count)):
        return None
    names = prepared.priced.cluster.names
    if any(launch.device not in names for launch in plan.launches):
        return None
    device = np.empty(count, dtype=np.int64)
    device[order] = [prepared.priced.cluster.index(launch.device) for launch in plan.launches]
    return PlanArrays(np.array(order, dtype=np.int64), device)


def _as_plan(plan: Plan | PlanArrays, prepared: PreparedGraph) -> Plan:
    if isinstance(plan, Plan):
        return plan
    names, device = prepared.priced.cluster.names, plan.device.tolist()
    order = plan.order.tolist()
    number = range(len(order)) if plan.launch is None else plan.launch.tolist()
    batches: dict[int, list[int]] = {}
    for task, launch in zip(order, number, strict=True):
        batches.setdefault(launch, []).append(task)
    return Plan(tuple(Launch(names[device[row[0]]], tuple(row)) for row in batches.values()))


def _evaluate_one(priced: PricedGraph, plan: Plan, conditions: Conditions) -> int:
    program = lower(priced.graph, priced.cluster, plan)
    world = ProgramWorld(priced, program, price(program, priced, conditions))
    try:
        result = run_batch(pack([world]), recording=False)
        return INFEASIBLE_NS if result.error(0) else int(result.makespan_ns[0])
    except OverflowError:
        machine = reference.Machine(*world)
        machine.run()
        return machine.makespan_ns
    except OutOfDeviceMemory:
        return INFEASIBLE_NS


def _evaluate_quick(
    prepared: list[PreparedGraph],
    arrays: list[PlanArrays | None],
    chosen: list[int],
    makespan_ns: IntArray,
) -> None:
    """Fill in the makespans of the chosen plans; -1 stays where a plan is not legal."""
    graphs = list(dict.fromkeys(prepared[index] for index in chosen))
    number = {graph: index for index, graph in enumerate(graphs)}
    tables, places = _joined([graph.tables for graph in graphs])
    plans = [plan for index in chosen if (plan := arrays[index]) is not None]
    sizes = [len(plan.order) for plan in plans]
    state, own, plain, shared, scratch = _lowering_state(graphs)
    found = np.full(len(plans), -1, dtype=np.int64)
    kernel.evaluate_plans(
        tables,
        state,
        places,
        np.array([number[prepared[index]] for index in chosen], dtype=np.int64),
        own,
        plain,
        shared,
        scratch,
        np.cumsum([0, *sizes]).astype(np.int64),
        np.concatenate([plan.order for plan in plans]).astype(np.int64, copy=False),
        np.concatenate([plan.device for plan in plans]).astype(np.int64, copy=False),
        found,
        np.zeros(len(plans), dtype=np.int64),
    )
    makespan_ns[chosen] = found


def _joined(graphs: list[list[IntArray]]) -> tuple[IntArray, IntArray]:
    """Return all tables as one array, and (G, 10) GraphPlaces."""
    parts = [table.reshape(-1) for tables in graphs for table in tables]
    ends = np.cumsum([len(part) for part in parts])
    starts = (ends - [len(part) for part in parts]).reshape(len(graphs), -1)
    counts = [[len(tables[0]) - 1] for tables in graphs]
    return np.concatenate([*parts, np.zeros(1, dtype=np.int64)]), np.hstack([counts, starts])


def _lowering_state(
    graphs: list[PreparedGraph],
) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    """Return the kernel's state, a world's own places, those of the plain loop, those of lowering.

    Two sets for the plain loop: a world's own, then the shared ones.
    """
    machine = machine_tables(graphs[0].priced.profile)
    n_tasks = max(len(graph.priced.graph) for graph in graphs)
    n_edges = max(len(graph.priced.graph.inputs.values) for graph in graphs)
    n_devices, n_copies = machine.facts["n_devices"], n_edges + 2 * n_tasks
    facts = dict.fromkeys((*FIELDS, *PLAIN_FIELDS), 0) | machine.facts
    facts |= {"n_launches": n_tasks, "n_copies": n_copies, "n_queued": n_copies << facts["shift"]}
    facts["n_rows"] = n_edges + n_tasks + n_copies
    end = kernel.N_PLAIN_WORK

    def reserve(sizes: dict[str, int]) -> dict[str, int]:
        nonlocal end
        places = {}
        for name, size in sizes.items():
            places[name] = end
            end += size
        return places

    shared = reserve(plain_state_sizes(facts))
    tables = machine.tables()
    common = reserve({name: table.size for name, table in tables.items()})
    own = reserve({"launches": 6 * n_tasks, "copies": 6 * n_copies, "rows": facts["n_rows"]})
    plain = reserve(plain_sizes(facts) | {"launch_log": 2 * n_tasks, "copy_log": 3 * n_copies})
    sizes = zip(
        kernel.Lowering._fields, (n_tasks, n_tasks * n_devices, n_copies, n_tasks), strict=True
    )
    scratch = reserve(dict(sizes))
    state = np.empty(end, dtype=np.int64)
    for name, table in tables.items():
        state[common[name] : common[name] + table.size] = table.reshape(-1)
    own, plain = facts | common | own, facts | common | plain
    return (
        state,
        _row(own[name] for name in FIELDS),
        _row(plain[name] for name in PLAIN_FIELDS),
        _row(shared.values()),
        _row(scratch.values()),
    )


def _row(values: Iterable[int]) -> IntArray:
    return np.array(list(values), dtype=np.int64)


def _graph_tables(priced: PricedGraph) -> list[IntArray]:
    """Return the tables of the kernel's GraphPlaces, in its order."""
    graph, cluster, dispatch = priced.graph, priced.cluster, priced.profile.dispatch
    n_tasks, n_devices = priced.task_ns.shape
    host = cluster.host_index
    bookkeeping = [dispatch.bookkeeping_on(name) for name in cluster.names]
    gather_ns, stage_ns = np.zeros((2, n_tasks, n_devices), dtype=np.int64)
    alone_ns = np.where(priced.task_ns < 0, -1, priced.task_ns + np.array(bookkeeping))
    fed = graph.host_bytes > 0
    for device, name in enumerate(cluster.names):
        copy_in, copy_out = dispatch.copy_in.get(name), dispatch.copy_out.get(name)
        if copy_in is not None:
            gather_ns[:, device] = _prices(copy_in, graph.output_bytes)
            if device != host:
                feeding_ns = np.where(fed, _prices(copy_in, graph.host_bytes), 0)
                alone_ns[:, device] += np.where(alone_ns[:, device] < 0, 0, feeding_ns)
        if copy_out is not None:
            stage_ns[:, device] = _prices(copy_out, graph.output_bytes)
    link_of = np.full((n_devices, n_devices), -1, dtype=np.int64)
    output_ns = np.zeros((n_tasks, len(cluster.links)), dtype=np.int64)
    feed_ns = np.where(fed, kernel.GONE, kernel.NONE)[:, None].repeat(n_devices, axis=1)
    for number, link in enumerate(cluster.links):
        src, dst = cluster.index(link.src), cluster.index(link.dst)
        link_of[src, dst] = number
        output_ns[:, number] = _prices(link.cost, graph.output_bytes)
        if src == host and fed.any():
            feed_ns[fed, dst] = _prices(link.cost, graph.host_bytes[fed])
    return [
        *(graph.inputs.start, graph.inputs.values, alone_ns, gather_ns, stage_ns),
        *(output_ns, feed_ns, np.asarray(graph.returns), link_of),
    ]


def _prices(cost: object, sizes: IntArray) -> IntArray:
    """Return transfer_ns of each size; exact."""
    if isinstance(cost, AffineCost) and cost.bandwidth_bytes_per_s < _BANDWIDTH_MAX:
        bandwidth = cost.bandwidth_bytes_per_s
        if sizes.max(initial=0) < _PLAIN_BYTES_MAX:
            return cost.latency_ns + (sizes * 10**9 + (bandwidth - 1)) // bandwidth
    unique, inverse = np.unique(sizes, return_inverse=True)
    prices = [transfer_ns(cost, size) for size in unique.tolist()]  # type: ignore[arg-type]
    return np.array(prices, dtype=np.int64)[inverse]


def _longest_ns(tables: list[IntArray], n_tasks: int) -> float:
    """Return a bound for the makespan of any plan."""
    largest = sum(float(np.abs(table).max(initial=0)) for table in tables[2:7])
    return largest * (len(tables[1]) + 2 * n_tasks)
