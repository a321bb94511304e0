"""Makespans of many plans: what search and training ask for, without programs and traces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dynpartition.conditions import GOOD_DAY, Conditions
from dynpartition.contract import INFEASIBLE_NS
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.graph import TaskGraph
from dynpartition.lowering import lower_quickly
from dynpartition.plan import Plan, chosen_launches
from dynpartition.pricing import price
from dynpartition.profile import PricedGraph, Profile
from dynpartition.residency import UNLIMITED_BYTES
from dynpartition.sim import kernel, reference
from dynpartition.sim.batch import make_state, pack, plain_sizes, run_batch
from dynpartition.sim.kernel_pack import (
    FIELDS,
    PLAIN_FIELDS,
    MachineTables,
    ProgramWorld,
    slot_facts,
)
from dynpartition.sim.prepared import PreparedGraph
from dynpartition.types import IntArray

_PLANS_PER_CALL = 32
"""Their tables should stay in the processor's caches."""
_ROOM_MAX = 1 << 18
"""Plans times tasks and edges up to which tables are kept larger than a call needs."""
_VALUES_MAX = 1 << 22
"""Values of graph tables that are kept, 32 MB, unless one call needs more."""
_WANTED_MAX = 256
"""Prices of merged transfers that are asked for at once."""
_MERGED_MAX = 1 << 16
"""Prices of merged transfers that are kept."""


def evaluate_many(
    graphs: Sequence[TaskGraph | PreparedGraph],
    plans: Sequence[Plan | IntArray],
    profile: Profile,
    *,
    conditions: Conditions = GOOD_DAY,
    evaluator: Evaluator | None = None,
) -> IntArray:
    """Return the makespan in ns of each plan for the graph beside it: int64 (B,).

    Arrays instead of plans are (N, 2) or (N, 3) choices: see `plan.chosen_launches`.
    Equal to simulating them one by one; INFEASIBLE_NS where memory runs out. Plans for graphs
    without reveals, arrivals, noise and little memory are lowered and priced in compiled code.
    Give the same graph object again to prepare it only once, or a `PreparedGraph` to keep it for
    further calls, and an `Evaluator` for this profile to keep the tables of graphs too. Raises
    PlanError for an illegal plan.
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
    choices = [_choices(plan, one) for plan, one in zip(plans, prepared, strict=True)]
    good_day = not (conditions.slowdowns or conditions.under_way_ns)
    quick = [
        index
        for index, (plan, one) in enumerate(zip(choices, prepared, strict=True))
        if good_day and one.is_quick and plan is not None
    ]
    if quick:
        chosen = [each for index in quick if (each := choices[index]) is not None]
        evaluator = evaluator or Evaluator()
        makespan_ns[quick] = evaluator.makespans_ns([prepared[index] for index in quick], chosen)
    slow = np.flatnonzero(makespan_ns < 0).tolist()
    for index in slow:
        plan = _as_plan(plans[index], prepared[index])
        makespan_ns[index] = _evaluate_one(prepared[index].priced, plan, conditions)
    return makespan_ns


def _choices(plan: Plan | IntArray, prepared: PreparedGraph) -> IntArray | None:
    """Return a plan as choices, or None if it cannot be right."""
    count = len(prepared.priced.graph)
    if not isinstance(plan, Plan):
        return plan if len(plan) == count else None
    index = {name: number for number, name in enumerate(prepared.priced.cluster.names)}
    if not all(launch.device in index for launch in plan.launches):
        return None
    rows = [
        (task, index[launch.device], place > 0)
        for launch in plan.launches
        for place, task in enumerate(launch.tasks)
    ]
    return np.array(rows, dtype=np.int64) if len(rows) == count else None


def _as_plan(plan: Plan | IntArray, prepared: PreparedGraph) -> Plan:
    if isinstance(plan, Plan):
        return plan
    return Plan(tuple(chosen_launches(plan, prepared.priced.cluster.names)))


def _evaluate_one(priced: PricedGraph, plan: Plan, conditions: Conditions) -> int:
    program = lower_quickly(priced.graph, priced.cluster, plan)
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


class _Room(NamedTuple):
    """What the tables of an `Evaluator` have room for."""

    n_tasks: int
    n_edges: int
    n_plans: int

    def including(self, other: _Room) -> _Room:
        """Return room for both, or for the other alone where both would take much memory."""
        both = _Room(*map(max, self, other))
        return both if both.n_plans * (both.n_tasks + both.n_edges) <= _ROOM_MAX else other


class Evaluator:
    """Prices plans for one profile in compiled code; keeps tables and state from call to call."""

    def __init__(self) -> None:
        self._number: dict[PreparedGraph, int] = {}
        self._rows: list[list[int]] = []  # of GraphPlaces
        self._graph_places = np.zeros((0, 0), dtype=np.int64)
        self._graphs = np.zeros(0, dtype=np.int64)
        self._n_values = 0
        self._room = _Room(0, 0, 0)
        self._merged: dict[tuple[int, int], int] = {}  # (link, bytes) → ns
        self._merged_rows = np.zeros((0, 3), dtype=np.int64)

    def makespans_ns(self, graphs: Sequence[PreparedGraph], plans: Sequence[IntArray]) -> IntArray:
        """Return int64 (B,): the makespan of each plan for its graph; -1 if it is not legal.

        All graphs must be quick and under the profile of the first call.
        """
        self._add_graphs(list(dict.fromkeys(graphs)))
        self._make_room(graphs, min(len(plans), _PLANS_PER_CALL))
        found = []
        for begin in range(0, len(plans), _PLANS_PER_CALL):
            part = slice(begin, begin + _PLANS_PER_CALL)
            found.append(self._makespans_ns(graphs[part], plans[part]))
        return np.concatenate(found)

    def _add_graphs(self, graphs: list[PreparedGraph]) -> None:
        """Append the tables of graphs that are not known; forget others where they grow large."""
        fresh = [graph for graph in graphs if graph not in self._number]
        if not fresh:
            return
        if self._n_values + sum(len(graph.values) for graph in fresh) > _VALUES_MAX:
            self._number.clear()
            self._rows.clear()
            self._n_values, fresh = 0, graphs
        end = self._n_values + sum(len(graph.values) for graph in fresh)
        if end > len(self._graphs):
            self._graphs = np.resize(self._graphs, 2 * end)
        for graph in fresh:
            self._number[graph] = len(self._rows)
            self._rows.append(_places_in(graph, self._n_values))
            self._graphs[self._n_values :][: len(graph.values)] = graph.values
            self._n_values += len(graph.values)
        self._graph_places = np.array(self._rows, dtype=np.int64)

    def _make_room(self, graphs: Sequence[PreparedGraph], n_plans: int) -> None:
        n_tasks = max(len(graph.priced.graph) for graph in graphs)
        n_edges = max(len(graph.priced.graph.inputs.values) for graph in graphs)
        room = self._room.including(_Room(n_tasks, n_edges, n_plans))
        if room != self._room:
            self._room = room
            self._lay_out(graphs[0])

    def _lay_out(self, graph: PreparedGraph) -> None:
        """Make tables and state; `graph`: any, its machine is that of all."""
        dispatch, n_plans = graph.priced.profile.dispatch, self._room.n_plans
        self._is_plain = graph.machine.is_small and dispatch.host_mode == "none"
        parts = round(dispatch.lock * 1_000_000) if dispatch.host_mode == "threads" else 0
        self._host_costs = _row([] if self._is_plain else [dispatch.h_copy, parts])
        facts = _largest(self._room, graph.machine, is_plain=self._is_plain)
        machine = graph.machine.tables() | {"device_extras": _device_rows(graph.priced)}
        space = _Space()
        fixed = space.take({name: table.size for name, table in machine.items()})
        self._scratch = np.concatenate([*space.take(_scratch_sizes(facts)).values()])
        own = space.take(_world_sizes(facts, is_plain=self._is_plain), n_plans)
        self._worlds = _table(FIELDS, facts, fixed | own)
        own = space.take(plain_sizes(facts), n_plans)
        self._plain = _table(PLAIN_FIELDS, facts, fixed | own)
        self._tables = np.zeros(space.end, dtype=np.int64)
        for name, table in machine.items():
            self._tables[int(fixed[name][0]) :][: table.size] = table.reshape(-1)
        rows = self._plain if self._is_plain else self._worlds
        self._state, self._shared = make_state(rows, is_plain=self._is_plain, recording=False)

    def _makespans_ns(self, graphs: Sequence[PreparedGraph], plans: Sequence[IntArray]) -> IntArray:
        outcomes = self._lower(graphs, plans)
        found = np.full(len(plans), -1, dtype=np.int64)
        legal = np.flatnonzero(outcomes == kernel.OK)
        found[legal] = self._run(self._worlds[legal], legal)
        return found

    def _lower(self, graphs: Sequence[PreparedGraph], plans: Sequence[IntArray]) -> IntArray:
        """Lower plans to the tables of worlds, again while merged transfers have no price yet."""
        if len(self._merged) > _MERGED_MAX:
            self._merged.clear()
            self._merged_rows = self._merged_rows[:0]
        outcomes = np.zeros(len(plans), dtype=np.int64)
        wanted = np.zeros((_WANTED_MAX, 2), dtype=np.int64)
        arguments = (
            np.array([self._number[graph] for graph in graphs], dtype=np.int64),
            self._worlds,
            self._scratch,
            self._host_costs,
            np.cumsum([0, *map(len, plans)]),
            _joined(plans),
        )
        tables = (self._graphs, self._tables, self._graph_places)
        while True:
            n_wanted = kernel.lower_plans(*tables, *arguments, self._merged_rows, wanted, outcomes)
            if not n_wanted:
                return outcomes
            self._price_merged(graphs[0], wanted[:n_wanted])

    def _price_merged(self, graph: PreparedGraph, wanted: IntArray) -> None:
        """Add prices of merged transfers; only Python's logarithms price a link with a table."""
        for link, size_bytes in {(int(link), int(size)) for link, size in wanted}:
            self._merged[link, size_bytes] = graph.priced.transfer_ns(link, size_bytes)
        rows = [(*key, ns) for key, ns in sorted(self._merged.items())]
        self._merged_rows = np.array(rows, dtype=np.int64)

    def _run(self, worlds: IntArray, legal: IntArray) -> IntArray:
        found = np.full(len(legal), -1, dtype=np.int64)
        outcomes = np.zeros((len(legal), kernel.N_OUTCOMES), dtype=np.int64)
        arguments = (self._tables, self._state)
        if self._is_plain:
            plain = self._plain[legal]
            for name in ("n_launches", "n_copies"):
                plain[:, PLAIN_FIELDS[name]] = worlds[:, FIELDS[name]]
            kernel.condense_worlds(self._tables, worlds, plain)
            kernel.run_plain_worlds(*arguments, plain, self._shared, found, outcomes)
        else:
            chosen = np.arange(len(legal))
            kernel.run_worlds(*arguments, worlds, self._shared, chosen, found, outcomes)
        assert (outcomes[:, kernel.OUTCOME] == kernel.OK).all(), "a legal plan did not end"
        return found


def _joined(plans: Sequence[IntArray]) -> IntArray:
    """Return the rows of all plans, (sum N, 3)."""
    if len({plan.shape[1] for plan in plans}) > 1:
        plans = [_with_joins(plan) for plan in plans]
    # The compiler makes other code for other kinds of arrays.
    return np.ascontiguousarray(_with_joins(np.concatenate(plans)), dtype=np.int64)


def _with_joins(choices: IntArray) -> IntArray:
    """Return (N, 3) choices; those with two columns join nothing."""
    if choices.shape[1] == 3:
        return choices
    return np.concatenate([choices, np.zeros((len(choices), 1), dtype=np.int64)], axis=1)


def _row(values: Iterable[int]) -> IntArray:
    return np.array(list(values), dtype=np.int64)


def _largest(room: _Room, machine: MachineTables, *, is_plain: bool) -> dict[str, int]:
    """Return the facts of a world that has room for any plan of any of the graphs."""
    n_tasks, n_edges, _ = room
    n_copies = n_edges + 2 * n_tasks
    facts = dict.fromkeys((*FIELDS, *PLAIN_FIELDS), 0) | machine.facts
    facts |= {"n_launches": n_tasks, "n_copies": n_copies, "n_queued": n_copies << facts["shift"]}
    facts |= {"n_rows": n_edges + n_tasks + n_copies, "n_paces": 1}
    return facts | slot_facts(facts, is_plain=is_plain)


class _Space:
    """Hands out places in an array that does not exist yet."""

    def __init__(self) -> None:
        self.end = 0

    def take(self, sizes: dict[str, int], count: int = 1) -> dict[str, IntArray]:
        """Return (count,) places of `count` tables of each size."""
        places = {}
        for name, size in sizes.items():
            places[name] = self.end + size * np.arange(count, dtype=np.int64)
            self.end += size * count
        return places


def _world_sizes(facts: dict[str, int], *, is_plain: bool) -> dict[str, int]:
    """Return the sizes of a world's tables in the kernel's `Places`."""
    launches, copies = facts["n_launches"], facts["n_copies"]
    sizes = {"launches": 6 * launches, "copies": 6 * copies, "rows": facts["n_rows"]}
    if not is_plain:
        sizes |= {"launch_extras": 11 * launches, "copy_extras": 8 * copies}
        sizes |= {"lasts_ns": launches, "share_ns": launches}
    return sizes


def _scratch_sizes(facts: dict[str, int]) -> dict[str, int]:
    n_tasks, n_copies = facts["n_launches"], facts["n_copies"]
    n_pairs = n_tasks * facts["n_devices"]
    sizes = (*[n_tasks] * 3, *[n_pairs] * 3, *[n_copies] * 4)
    return dict(zip(kernel.Lowering._fields, sizes, strict=True))


def _table(fields: dict[str, int], facts: dict[str, int], places: dict[str, IntArray]) -> IntArray:
    """Return rows of facts and places, a row per plan."""
    rows = np.tile(_row(facts[name] for name in fields), (max(map(len, places.values())), 1))
    for name in fields.keys() & places.keys():
        rows[:, fields[name]] = places[name]
    return rows


def _device_rows(priced: PricedGraph) -> IntArray:
    """Return the kernel's device_extras of devices whose memory does not matter."""
    kinds = [device.kind == "cpu" for device in priced.cluster.devices]
    return np.array([[kind, UNLIMITED_BYTES, 0, -1, 0, 0] for kind in kinds], dtype=np.int64)


def _places_in(graph: PreparedGraph, begin: int) -> list[int]:
    """Return the GraphPlaces of a graph whose values begin at a place."""
    sizes = [table.size for table in graph.tables]
    return [len(graph.priced.graph), *np.cumsum([begin + 1, *sizes[:-1]]).tolist()]
