"""Graphs on machines as compiled code reads them: for list schedulers, policies and searches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from dynpartition.agent import estimate_kernel, tables_kernel
from dynpartition.agent import list_kernel as kernel
from dynpartition.agent.holdings import cell_weights, without_barred
from dynpartition.agent.legality import Legality
from dynpartition.agent.partial import PartialPlan
from dynpartition.agent.prices import Prices
from dynpartition.agent.slots import Layout, Room, lay_out
from dynpartition.agent.tables import machine_tables, weight_tables
from dynpartition.by_id import ById
from dynpartition.cluster import AffineCost, TransferCost
from dynpartition.costs import transfer_ns
from dynpartition.graph import Cell, TaskGraph
from dynpartition.plan import Launch, Plan, chosen_launches
from dynpartition.profile import PricedGraph, Profile
from dynpartition.types import BoolArray, IntArray

_BANDWIDTH_MAX = 2**61
_NOTHING = np.zeros(0, dtype=np.int64)
_NO_ROWS = np.zeros((0, 0), dtype=np.int64)
_NO_PLAN = Plan()
_PROFILES_MAX = 64
_SIZES_MAX = 4096
_INT64 = np.dtype(np.int64)
# Flags of arrays that are contiguous, aligned and read-only; asking for each takes longer.
_KIND, _FIXED = 0x501, 0x101
_ROOM_MIN = 16


class CellCosts(NamedTuple):
    """What the cells of a graph cost on a machine; K cells, D devices."""

    run_ns: IntArray
    """(K, D) duration of one task of each cell, bookkeeping included, -1 where it cannot run."""
    first_ns: IntArray
    """(K, D) what its first launch takes longer."""
    flat: IntArray
    """See `tables_kernel.Costs`."""
    barred: BoolArray | None
    """(K, D) where weights can never be; None: nowhere."""
    refuges: IntArray
    """(n, D) see `agent.legality`."""


class ListMachine:
    """A profile's machine, and what cells cost on it; made once per profile."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.names = profile.cluster.names
        self.tables = machine_tables(profile)
        facts, dispatch = self.tables.facts, profile.dispatch
        self.all_linked = bool(facts["all_linked"])
        self.handoff_ns = facts["handoff_ns"]
        self.dispatches = bool(facts["dispatches"])
        """Whether the host may delay launches."""
        self.link_of = np.ascontiguousarray(self.tables.tables["links"])
        """(D, D) link from row to column, or -1."""
        each = [dispatch.bookkeeping_on(name) for name in self.names]
        self.bookkeeping_ns: IntArray = np.array(each, dtype=np.int64)
        """(D,) executor time per task."""
        self.gathering = [dispatch.copy_in.get(name) for name in self.names]
        """Device → cost of gathering, or None."""
        costs = [_formula(link.cost) for link in profile.cluster.links]
        self.costs: IntArray = np.array(costs, dtype=np.int64).reshape(-1, 2)
        """(L, 2) latency and bandwidth of links; bandwidth 0: no formula."""
        staging = [
            [_formula(table.get(name)) for name in self.names]
            for table in (dispatch.copy_in, dispatch.copy_out)
        ]
        self._staging: IntArray = np.array(staging, dtype=np.int64)
        staged = [*dispatch.copy_in.values(), *dispatch.copy_out.values()]
        known = [bandwidth for _, bandwidth in (*costs, *map(_formula, staged))]
        self.has_formulas = all(known)
        """Whether links and staging have one each that compiled code can work out."""
        parts = [table.ravel() for table in self.tables.tables.values()]
        self._head: IntArray = np.concatenate(parts).astype(np.int64)
        self._known: ById[tuple[Cell, ...], CellCosts] = ById(_PROFILES_MAX)
        self._cells: dict[tuple[Cell, ...], CellCosts] = {}
        self._batches: dict[tuple[Cell, ...], dict[int, IntArray]] = {}
        self._known_batches: ById[tuple[Cell, ...], dict[int, IntArray]] = ById(_PROFILES_MAX)
        self._row_of: dict[int, int] = {}  # bytes → row of `_rows`
        n_costs = len(profile.cluster.links) + 2 * len(self.names)
        self._rows = np.zeros((0, n_costs), dtype=np.int64)
        self._layouts: dict[Room, Layout] = {}
        self._alone: list[list[Launch]] = []

    def layout(self, room: Room) -> Layout:
        """Return a layout of slots that have this room."""
        found = self._layouts.get(room)
        if found is None:
            found = self._layouts[room] = lay_out(self.tables, room, 1)
        return found

    def launches(self, choices: IntArray) -> list[Launch]:
        """Return the launches of (n, 2) or (n, 3) choices; see `plan.chosen_launches`."""
        if choices.shape[1] > 2 and choices[:, 2].any():
            return chosen_launches(choices, self.names)
        most = int(choices[:, 0].max(initial=-1)) + 1
        alone = self._alone
        if not alone or len(alone[0]) < most:  # making them takes longer than looking them up
            tasks = [(task,) for task in range(_roomy(most))]
            alone = self._alone = [[Launch(name, one) for one in tasks] for name in self.names]
        return [alone[device][task] for task, device in choices[:, :2].tolist()]

    def cells(self, graph: TaskGraph) -> CellCosts:
        """Return what links and the cells of a graph cost."""
        found = self._known.get(graph.cells)  # hashing all cells takes longer than the rest
        if found is None:
            found = self._cells.get(graph.cells)
            if found is None:
                found = self._cells[graph.cells] = self._price_cells(graph)
            self._known.put(graph.cells, found)
        if graph.durations and not self.all_linked:  # tasks may run where their cells cannot
            return found._replace(refuges=self._refuges(graph))
        return found

    def _price_cells(self, graph: TaskGraph) -> CellCosts:
        dispatch, devices = self.profile.dispatch, self.profile.cluster.devices
        alone_ns = self.profile.cell_prices(graph.cells).alone_ns
        run_ns = np.where(alone_ns < 0, estimate_kernel.ABSENT, alone_ns + self.bookkeeping_ns)
        held = cell_weights(graph.cells, self.profile)
        if held is not None:
            run_ns = without_barred(run_ns, held.barred)
        first_use, cells, shape = dispatch.first_use_on, graph.cell_names, run_ns.shape
        h_ns = [[dispatch.h_ns(cell, device) for device in devices] for cell in cells]
        first_ns = [[first_use(cell, name) for name in self.names] for cell in cells]
        made = CellCosts(
            run_ns=np.ascontiguousarray(run_ns, dtype=np.int64),
            first_ns=np.array(first_ns, dtype=np.int64).reshape(shape),
            flat=_NOTHING,
            barred=None if held is None or not held.barred.any() else held.barred,
            refuges=self._refuges(graph),
        )
        hosts: IntArray = np.array(h_ns, dtype=np.int64)
        weights = weight_tables(held, len(self.names))
        parts = (self._head, self.costs, self._staging, made.run_ns, hosts, made.first_ns, *weights)
        return made._replace(flat=np.concatenate([part.ravel() for part in parts]))

    def _refuges(self, graph: TaskGraph) -> IntArray:
        if self.all_linked:
            return np.zeros((0, len(self.names)), dtype=np.int64)
        return Legality(Prices(PricedGraph(graph, self.profile))).refuge_rows

    def batches(self, cells: tuple[Cell, ...], count_max: int) -> IntArray:
        """Return (K, D, B) durations of launches of b < B tasks, bookkeeping included.

        ABSENT where a launch of two lasts as long as two launches or longer, and where B would be
        more than `count_max`. B is 2 where no cell gains anything.
        """
        by_count = self._known_batches.get(cells)
        if by_count is None:
            by_count = self._known_batches.put(cells, self._batches.setdefault(cells, {}))
        found = by_count.get(count_max)
        if found is None:
            found = by_count[count_max] = self._price_batches(cells, count_max)
        return found

    def _price_batches(self, cells: tuple[Cell, ...], count_max: int) -> IntArray:
        curves = self.profile.cell_prices(cells).curves
        table = np.full(
            (len(cells), len(self.names), count_max + 1), estimate_kernel.ABSENT, dtype=np.int64
        )
        for cell, row in enumerate(curves):
            for device, curve in enumerate(row):
                if curve is not None and curve.at(2) < 2 * curve.at(1):
                    extra_ns = self.bookkeeping_ns[device] * np.arange(1, count_max + 1)
                    table[cell, device, 1:] = np.array(curve.up_to(count_max)) + extra_ns
        if (table < 0).all():
            return np.ascontiguousarray(table[:, :, :2])
        return table

    def moves(self, sizes: IntArray) -> IntArray:
        """Return (N, L + 2 D) times of moving, gathering and staging bytes, priced by Python."""
        wanted, known = sizes.tolist(), self._row_of
        fresh = [size for size in dict.fromkeys(wanted) if size not in known]
        if fresh:
            if len(known) + len(fresh) > _SIZES_MAX:
                known.clear()
                self._rows = self._rows[:0]
                fresh = list(dict.fromkeys(wanted))
            dispatch, links = self.profile.dispatch, self.profile.cluster.links
            costs: list[TransferCost | None] = [link.cost for link in links]
            for table in (dispatch.copy_in, dispatch.copy_out):
                costs += [table.get(name) for name in self.names]
            rows = [
                [0 if cost is None else transfer_ns(cost, size) for cost in costs] for size in fresh
            ]
            known.update(zip(fresh, range(len(known), len(known) + len(fresh)), strict=True))
            self._rows = np.concatenate([self._rows, np.array(rows, dtype=np.int64)])
        return self._rows[[known[size] for size in wanted]]


def _formula(cost: object) -> tuple[int, int]:
    """Return latency and bandwidth; (0, 0) where Python must price."""
    if isinstance(cost, AffineCost) and cost.bandwidth_bytes_per_s < _BANDWIDTH_MAX:
        return cost.latency_ns, cost.bandwidth_bytes_per_s
    return 0, 0


_MACHINES: ById[Profile, ListMachine] = ById(_PROFILES_MAX)


def machine_of(profile: Profile) -> ListMachine:
    """Return the machine of a profile; the same object's is known."""
    return _MACHINES.get_or_make(profile, ListMachine)


class ListGraph:
    """One graph on a machine of which `planned` is placed, for as many plans as are wanted of it.

    Two slots: one that stays as it is, and one that plans grow in.
    """

    def __init__(self, graph: TaskGraph, machine: ListMachine, planned: Plan = _NO_PLAN) -> None:
        self.graph, self.machine = graph, machine
        self.costs = machine.cells(graph)
        self.given = _given(graph, machine, self.costs)
        self.order: IntArray = np.empty(len(graph), dtype=np.int64)
        """(N,) tasks in topological order, the smallest number first among equals."""
        hides = bool((graph.revealed_by >= 0).any())
        self.outcome = tables_kernel.HIDES if hides else self._fill(_NOTHING)
        """DONE of `tables_kernel`, or why there are no tables."""
        if self.outcome in (tables_kernel.HIDES, tables_kernel.LARGE):
            self.given = _completed(self.given, graph, machine)
            self.outcome = self._fill(np.array(graph.topological_order, dtype=np.int64))
        self._work: kernel.Work | None = None
        self._is_ranked = False
        if planned and self.outcome == tables_kernel.DONE:
            self._replay(planned)

    def _fill(self, order: IntArray) -> int:
        """Lay out two slots and fill them; return what became of it."""
        n_tasks, costs, given = len(self.graph), self.costs, self.given
        n_rows = 2 * len(given.inputs) + len(given.gates)
        room = _roomy(n_tasks), _roomy(n_rows), len(costs.refuges), _roomy(len(costs.run_ns))
        self.layout = self.machine.layout(Room(*room))
        self.slots = _take_slots(self.layout.n_ints)
        """Int64 (2, n)"""
        scratch = np.empty(max(n_tasks, tables_kernel.SIZES_KEPT), dtype=np.int64)
        outcome: int = tables_kernel.fill(
            *(self.slots[0], self.slots[1], self.layout.array, costs.flat, costs.refuges),
            *given,
            *(self.order, order, scratch),
        )
        return outcome

    def _replay(self, planned: Plan) -> None:
        """Append launches that are planned already."""
        launches, index = planned.launches, self.machine.profile.cluster.index
        devices = [index(launch.device) for launch in launches]
        pairs = zip(launches, devices, strict=True)
        run_ns = [self._launch_ns(launch.tasks, device) for launch, device in pairs]
        tasks = [task for launch in launches for task in launch.tasks]
        start = np.cumsum([0, *(len(launch.tasks) for launch in launches)])
        arrays = (np.array(row, dtype=np.int64) for row in (tasks, start, devices, run_ns))
        estimate_kernel.replay(self.slots[0], self.layout.array, *arrays)

    def _launch_ns(self, tasks: tuple[int, ...], device: int) -> int:
        """Return the duration of a launch, bookkeeping included."""
        if not self.graph.durations:
            cell, count = self.graph.cell_of[tasks[0]], len(tasks)
            known = self.costs.run_ns[cell, device]
            if count > 1:
                known = (
                    self._batch_ns[cell, device, count] if count < self._batch_ns.shape[2] else -1
                )
            if known >= 0:
                return int(known)
        extra_ns = len(tasks) * int(self.machine.bookkeeping_ns[device])
        return self._priced.compute_ns(tasks, device) + extra_ns

    @cached_property
    def _batch_ns(self) -> IntArray:
        return self.machine.batches(self.graph.cells, most_together(len(self.graph)))

    @cached_property
    def _priced(self) -> PricedGraph:
        return PricedGraph(self.graph, self.machine.profile)

    def plan(self, method: int, wanted: IntArray = _NOTHING) -> bool:
        """Plan by a method; return False if a task can go nowhere."""
        if self._work is None:
            self._work = self._make_work()
        ranks_tasks = method in _RANKED and not self._is_ranked
        self._is_ranked |= ranks_tasks
        w = self._work
        done: bool = kernel.make_plan(
            self.slots[1],
            self.slots[0],
            self.layout.array,
            w.order,
            w.ranks,
            w.after,
            w.heap,
            w.critical,
            w.shown,
            w.sums,
            method,
            wanted,
            ranks_tasks,
        )
        return done

    def _make_work(self) -> kernel.Work:
        n_tasks = len(self.graph)
        heap, critical = np.empty((2, n_tasks), dtype=np.int64)
        return kernel.Work(
            order=self.order,
            ranks=np.empty((5, n_tasks)),
            after=np.empty((n_tasks, len(self.machine.names))),
            heap=heap,
            critical=critical,
            shown=np.empty(kernel.SHOWN_MAX, dtype=np.int64),
            sums=np.empty(kernel.N_WORK_SUMS, dtype=np.int64),
        )

    def planned_ns(self) -> int:
        """Return the estimated makespan of what is planned already."""
        return self._sum(0, estimate_kernel.LATEST_NS) - int(self.graph.arrival_ns.min())

    @property
    def latest_ns(self) -> int:
        """When everything ends in the last plan, by the estimate."""
        return self._sum(1, estimate_kernel.LATEST_NS)

    def _sum(self, slot: int, place: int) -> int:
        return int(self.slots[slot, self.layout.places.sums + place])

    def give_back(self) -> None:
        """Let another graph have the memory of the slots. Nothing may be asked afterwards."""
        _give_slots(self.slots)

    def view(self, name: str, slot: int = 0) -> IntArray:
        """Return a table of a slot, by its name in `estimate_kernel.Places`; not a copy."""
        shape, at = self.layout.shapes[name], self.layout.at[name]
        table: IntArray = self.slots[slot, at : at + math.prod(shape)].reshape(shape)
        return table[: len(self.graph)] if name in ("tasks", "pairs", "moves") else table

    @property
    def run_ns(self) -> IntArray:
        """Int64 (N, D): duration of each task alone on each device, ABSENT where it cannot run."""
        return self.pair_ns(estimate_kernel.RUN_NS)

    def pair_ns(self, row: int) -> IntArray:
        """Return int64 (N, D): what a row of `estimate_kernel`'s pairs says."""
        return np.ascontiguousarray(self.view("pairs")[:, row])

    @property
    def moves_ns(self) -> IntArray:
        """Int64 (N, L): how long each task's output occupies each link."""
        return self.view("moves")

    @property
    def readers(self) -> tuple[IntArray, IntArray]:
        """Int64 (N + 1,) and (E,): ranges of readers without repeats, and these."""
        tasks, rows = self.view("tasks"), self.view("rows")
        first, last = tasks[0, estimate_kernel.READERS], tasks[-1, estimate_kernel.READERS_END]
        start = np.append(tasks[:, estimate_kernel.READERS], last) - first
        return start, rows[first:last]

    def single_devices(self) -> list[int]:
        """Return the devices that can run every cell and exchange data with the host."""
        graph, machine = self.graph, self.machine
        host, link_of = machine.profile.cluster.host_index, machine.link_of
        is_host = np.arange(len(machine.names)) == host
        # A cell without any cost may only be in tasks that bring their own.
        runs_nowhere = (self.costs.run_ns < 0).all(axis=1, keepdims=True)
        fits: BoolArray = np.logical_and.reduce((self.costs.run_ns >= 0) | runs_nowhere, axis=0)
        if graph.durations:
            fits &= (self.run_ns >= 0).all(axis=0)
        if graph.host_bytes.any():
            fits &= (link_of[host] >= 0) | is_host
        if graph.returns.any():
            fits &= (link_of[:, host] >= 0) | is_host
        return np.flatnonzero(fits).tolist()

    @property
    def choices(self) -> IntArray:
        """Int64 (n, 2): task and device of each choice of the last plan."""
        at, count = self.layout.places.chosen, self._sum(1, estimate_kernel.N_CHOSEN)
        return self.slots[1, at : at + 2 * count].reshape(count, 2)

    def take_choices(self, choices: IntArray) -> None:
        """Let choices made before be those of the last plan."""
        self.slots[1, self.layout.places.sums + estimate_kernel.N_CHOSEN] = len(choices)
        self.choices[:] = choices

    def launches(self) -> list[Launch]:
        """Return the choices of the last plan as launches."""
        return self.machine.launches(self.choices)


_SPARE: list[IntArray] = []
_SPARE_MAX = 2
"""Slots that are kept: fresh memory costs more than what is done with it."""


def _take_slots(n_ints: int) -> IntArray:
    """Return int64 (2, n) of any content."""
    try:
        spare = _SPARE.pop()
    except IndexError:
        return np.empty((2, n_ints), dtype=np.int64)
    return spare[:, :n_ints] if spare.shape[1] >= n_ints else np.empty((2, n_ints), dtype=np.int64)


def _give_slots(slots: IntArray) -> None:
    if len(_SPARE) < _SPARE_MAX:
        _SPARE.append(slots if slots.base is None else slots.base)


_RANKED = (kernel.HEFT, kernel.PEFT, kernel.CPOP, kernel.MIN_MIN, kernel.LOOKAHEAD)


def _roomy(count: int) -> int:
    """Return a little more than a number: graphs of about one size share a layout."""
    step = max(_ROOM_MIN, 1 << max(0, count.bit_length() - 3))
    return -(-count // step) * step


def most_together(n_tasks: int) -> int:
    """Return how many tasks per launch policies and searches go up to in a graph of so many."""
    return 32 if n_tasks <= 64 else 128


def list_graph(graph: TaskGraph, profile: Profile, planned: Plan = _NO_PLAN) -> ListGraph | None:
    """Return the tables of a graph, or None where only the readable definitions can count.

    That is where times may pass 62 bits. Raises ProfileError for a task that runs nowhere.
    """
    machine = machine_of(profile)
    made = ListGraph(graph, machine, planned)
    if made.outcome == tables_kernel.UNPRICED:
        PricedGraph(graph, profile)  # raises and says why
    return made if made.outcome == tables_kernel.DONE else None


def _given(graph: TaskGraph, machine: ListMachine, costs: CellCosts) -> tables_kernel.Given:
    """Return a graph that hides nothing, and whose sizes have a formula if the links have one."""
    own = priced = fed = _NO_ROWS
    if graph.durations:
        own = np.full((len(graph), len(machine.names)), estimate_kernel.ABSENT, dtype=np.int64)
        for device, row in graph.durations.items():
            column = machine.profile.cluster.index(device, place="duration_ns")
            extra_ns = machine.bookkeeping_ns[column]
            own[:, column] = np.where(row < 0, estimate_kernel.ABSENT, row + extra_ns)
        if costs.barred is not None:
            task_ns = PricedGraph(graph, machine.profile).task_ns
            left_ns = without_barred(task_ns, costs.barred[graph.cell_of])
            own = np.where(left_ns < 0, tables_kernel.BARRED, left_ns + machine.bookkeeping_ns)
    if not machine.has_formulas:
        priced, fed = machine.moves(graph.output_bytes), machine.moves(graph.host_bytes)
    return tables_kernel.Given(
        _fixed(graph.cell_of),
        _fixed(graph.inputs.start),
        _fixed(graph.inputs.values),
        _fixed(graph.output_bytes),
        _fixed(graph.host_bytes),
        _fixed(graph.returns),
        _fixed(graph.arrival_ns),
        _fixed(graph.revealed_by),
        own,
        priced,
        fed,
        _NOTHING,
        _NOTHING,
    )


def _completed(
    given: tables_kernel.Given, graph: TaskGraph, machine: ListMachine
) -> tables_kernel.Given:
    """Return the same with what only Python can say."""
    rows: Sequence[Sequence[int]] = graph.gates
    is_priced = len(given.priced) > 0
    return given._replace(
        priced=given.priced if is_priced else machine.moves(graph.output_bytes),
        fed=given.fed if is_priced else machine.moves(graph.host_bytes),
        gate_start=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        gates=np.array([gate for row in rows for gate in row], dtype=np.int64),
    )


def _fixed(values: IntArray) -> IntArray:
    """Return read-only int64 values: the compiler makes other code for other kinds of arrays."""
    if values.dtype is _INT64 and values.flags.num & _KIND == _FIXED:
        return values
    fixed = np.array(values, dtype=np.int64)
    fixed.flags.writeable = False
    return fixed


def estimated_ns(graph: TaskGraph, profile: Profile, plan: Plan) -> int:
    """Return the estimated makespan of a whole plan."""
    lists = list_graph(graph, profile, plan)
    if lists is None:
        return PartialPlan.of(graph, profile, plan).estimate.makespan_ns
    return lists.planned_ns()
