"""Graphs and machines as the arrays that the compiled list schedulers read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynpartition.agent import list_kernel as kernel
from dynpartition.agent.legality import Legality
from dynpartition.agent.partial import PartialPlan
from dynpartition.agent.prices import Prices
from dynpartition.agent.tables import machine_tables
from dynpartition.by_id import ById
from dynpartition.cluster import AffineCost
from dynpartition.costs import transfer_ns
from dynpartition.graph import Cell, TaskGraph
from dynpartition.plan import Launch, Plan, single_task_launches
from dynpartition.profile import PricedGraph, Profile
from dynpartition.types import BoolArray, IntArray

_BYTES_MAX = 2**62 // 10**9
_BANDWIDTH_MAX = 2**61
_NOTHING = np.zeros(0, dtype=np.int64)
_NO_ROWS = np.zeros((0, 0), dtype=np.int64)
_BEFORE_ANYTHING = kernel.Before(_NOTHING, np.zeros(1, dtype=np.int64), _NOTHING, _NOTHING)
_PROFILES_MAX = 64


class ListMachine:
    """A profile's machine, and what cells cost on it; made once per profile."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.names = profile.cluster.names
        known = machine_tables(profile)
        tables, facts, dispatch = known.tables, known.facts, profile.dispatch
        names = (
            *("host", "handoff_ns", "known_after_ns", "dispatches", "replays", "depth", "lock"),
            *("lock_share_ppm", "h_copy_ns", "all_linked"),
        )
        has_blocks = int((tables["blocked"] >= 0).any())
        self.n_resources = known.n_resources
        self.all_linked = bool(facts["all_linked"])
        each = [dispatch.bookkeeping_on(name) for name in self.names]
        self.bookkeeping_ns: IntArray = np.array(each, dtype=np.int64)
        """(D,) executor time per task."""
        self.gathering = [dispatch.copy_in.get(name) for name in self.names]
        """Device → cost of gathering, or None."""
        self.has_staging = bool(dispatch.copy_in or dispatch.copy_out)
        costs = [_formula(link.cost) for link in profile.cluster.links]
        self.has_formulas = all(bandwidth for _, bandwidth in costs)
        staging = [
            [_formula(table.get(name)) for name in self.names]
            for table in (dispatch.copy_in, dispatch.copy_out)
        ]
        self.arrays = kernel.Machine(
            facts=np.array([*(facts[name] for name in names), has_blocks], dtype=np.int64),
            devices=np.ascontiguousarray(tables["machine"]),
            link_of=np.ascontiguousarray(tables["links"]),
            held=np.ascontiguousarray(tables["held"]),
            blocked=np.ascontiguousarray(tables["blocked"]),
            cost=np.array(costs, dtype=np.int64).reshape(-1, 2),
            staging=np.array(staging, dtype=np.int64),
        )
        self._cells: dict[tuple[Cell, ...], kernel.Cells] = {}
        self._batches: dict[tuple[Cell, ...], IntArray] = {}
        self._rows: dict[int, list[int]] = {}  # bytes → ns over each link

    def cells(self, graph: TaskGraph) -> kernel.Cells:
        """Return what the cells of a graph cost."""
        found = self._cells.get(graph.cells)
        if found is None:
            found = self._cells[graph.cells] = self._price_cells(graph)
        if graph.durations and not self.all_linked:  # tasks may run where their cells cannot
            return found._replace(refuges=self._refuges(graph))
        return found

    def _price_cells(self, graph: TaskGraph) -> kernel.Cells:
        dispatch, devices = self.profile.dispatch, self.profile.cluster.devices
        alone_ns = self.profile.cell_prices(graph.cells).alone_ns
        run_ns = np.where(alone_ns < 0, kernel.ABSENT, alone_ns + self.bookkeeping_ns)
        h_ns = [[dispatch.h_ns(cell, device) for device in devices] for cell in graph.cell_names]
        return kernel.Cells(
            run_ns=np.ascontiguousarray(run_ns, dtype=np.int64),
            h_ns=np.array(h_ns, dtype=np.int64).reshape(run_ns.shape),
            refuges=self._refuges(graph),
        )

    def _refuges(self, graph: TaskGraph) -> IntArray:
        if self.all_linked:
            return np.zeros((0, len(self.names)), dtype=np.int64)
        return Legality(Prices(PricedGraph(graph, self.profile))).refuge_rows

    def batches(self, cells: tuple[Cell, ...], count_max: int) -> IntArray:
        """Return (K, D, B) durations of launches of b < B tasks, bookkeeping included.

        ABSENT where a launch of two lasts as long as two launches or longer, and where B would be
        more than `count_max`. B is 2 where no cell gains anything.
        """
        found = self._batches.get(cells)
        if found is None:
            found = self._batches[cells] = self._price_batches(cells, count_max)
        return found

    def _price_batches(self, cells: tuple[Cell, ...], count_max: int) -> IntArray:
        curves = self.profile.cell_prices(cells).curves
        table = np.full((len(cells), len(self.names), count_max + 1), kernel.ABSENT, dtype=np.int64)
        for cell, row in enumerate(curves):
            for device, curve in enumerate(row):
                if curve is not None and curve.at(2) < 2 * curve.at(1):
                    extra_ns = int(self.bookkeeping_ns[device])
                    counts = range(1, count_max + 1)
                    table[cell, device, 1:] = [curve.at(k) + k * extra_ns for k in counts]
        if (table < 0).all():
            return np.ascontiguousarray(table[:, :, :2])
        return table

    def moves(self, sizes: IntArray) -> IntArray:
        """Return (N, L) transfer times of sizes in bytes, priced by Python."""
        unique, where = np.unique(sizes, return_inverse=True)
        links = self.profile.cluster.links
        for size in unique.tolist():
            if size not in self._rows:
                if len(self._rows) > 4096:
                    self._rows.clear()
                self._rows[size] = [transfer_ns(link.cost, size) for link in links]
        rows = [self._rows[size] for size in unique.tolist()]
        table = np.array(rows, dtype=np.int64).reshape(len(unique), len(links))
        return np.ascontiguousarray(table[where])


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
    """One graph on a machine, for as many plans as are wanted of it."""

    def __init__(self, graph: TaskGraph, machine: ListMachine) -> None:
        self.graph, self.machine = graph, machine
        self.cells = machine.cells(graph)
        self.given = _given(graph, machine)
        self.work = _work(graph, machine)
        self.outcome = self._prepare()
        self._is_ranked = False

    def _prepare(self) -> int:
        """Fill the tables; return `kernel.DONE` or why not."""
        order = np.array(self.graph.topological_order) if self.graph.revealers else _NOTHING
        outcome = kernel.prepare(self.machine.arrays, self.cells, self.given, self.work, order)
        if outcome == kernel.UNORDERED:
            order = np.array(self.graph.topological_order, dtype=np.int64)
            arrays = (self.machine.arrays, self.cells, self.given, self.work)
            outcome = kernel.prepare(*arrays, order)
        return outcome

    def before(self, planned: Plan) -> kernel.Before:
        """Return launches that are planned already as arrays."""
        if not planned:
            return _BEFORE_ANYTHING
        priced = PricedGraph(self.graph, self.machine.profile)
        launches, cluster = planned.launches, priced.cluster
        devices = [cluster.index(launch.device) for launch in launches]
        extra = self.machine.bookkeeping_ns.tolist()
        run_ns = [
            priced.compute_ns(launch.tasks, device) + len(launch.tasks) * extra[device]
            for launch, device in zip(launches, devices, strict=True)
        ]
        return kernel.Before(
            np.array([task for launch in launches for task in launch.tasks], dtype=np.int64),
            np.cumsum([0, *(len(launch.tasks) for launch in launches)], dtype=np.int64),
            np.array(devices, dtype=np.int64),
            np.array(run_ns, dtype=np.int64),
        )

    def plan(
        self,
        method: int,
        before: kernel.Before = _BEFORE_ANYTHING,
        wanted: IntArray = _NOTHING,
    ) -> bool:
        """Plan by a method; return False if a task can go nowhere."""
        arrays = (self.machine.arrays, self.cells, self.given, self.work)
        if method in _RANKED and not self._is_ranked:
            kernel.rank_tasks(self.machine.arrays, self.work)
            self._is_ranked = True
        done: bool = kernel.make_plan(*arrays, before, method, wanted) == kernel.DONE
        return done

    def estimated_ns(self, plan: Plan) -> int:
        """Return the estimated makespan of a whole plan."""
        self.plan(kernel.FORCED, self.before(plan))
        return self.latest_ns - int(self.graph.arrival_ns.min())

    @property
    def latest_ns(self) -> int:
        """When everything that is planned ends, by the estimate."""
        return int(self.work.sums[kernel.LATEST_NS])

    @property
    def run_ns(self) -> IntArray:
        """Int64 (N, D): duration of each task alone on each device, ABSENT where it cannot run."""
        table: IntArray = self.work.pairs[kernel.RUN_NS]
        return table

    def single_devices(self) -> list[int]:
        """Return the devices that can run every cell and exchange data with the host."""
        graph, machine = self.graph, self.machine
        host, link_of = machine.profile.cluster.host_index, machine.arrays.link_of
        cells, is_host = self.cells.run_ns, np.arange(len(machine.names)) == host
        # A cell without any cost may only be in tasks that bring their own.
        runs_nowhere = (cells < 0).all(axis=1, keepdims=True)
        fits: BoolArray = np.logical_and.reduce((cells >= 0) | runs_nowhere, axis=0)
        if len(self.given.own_ns):
            fits &= (self.run_ns >= 0).all(axis=0)
        if graph.host_bytes.any():
            fits &= (link_of[host] >= 0) | is_host
        if graph.returns.any():
            fits &= (link_of[:, host] >= 0) | is_host
        return np.flatnonzero(fits).tolist()

    @property
    def choices(self) -> IntArray:
        """Int64 (n, 2): task and device of each choice of the last plan."""
        chosen: IntArray = self.work.chosen[: self.work.sums[kernel.N_CHOSEN]]
        return chosen

    def take_choices(self, choices: IntArray) -> None:
        """Let choices made before be those of the last plan."""
        self.work.chosen[: len(choices)] = choices
        self.work.sums[kernel.N_CHOSEN] = len(choices)

    def launches(self) -> list[Launch]:
        """Return the choices of the last plan as launches."""
        return single_task_launches(self.choices, self.machine.names)


_RANKED = (kernel.HEFT, kernel.PEFT, kernel.CPOP, kernel.MIN_MIN, kernel.LOOKAHEAD)


def list_graph(graph: TaskGraph, profile: Profile) -> ListGraph | None:
    """Return the tables of a graph, or None where only the readable definitions can count.

    That is where times may pass 62 bits. Raises ProfileError for a task that runs nowhere.
    """
    machine = machine_of(profile)
    if machine.has_staging and graph.output_bytes.max() >= _BYTES_MAX:
        return None
    made = ListGraph(graph, machine)
    if made.outcome == kernel.UNPRICED:
        PricedGraph(graph, profile)  # raises and says why
    return made if made.outcome == kernel.DONE else None


def _given(graph: TaskGraph, machine: ListMachine) -> kernel.Given:
    own = priced = fed = _NO_ROWS
    if graph.durations:
        own = np.full((len(graph), len(machine.names)), kernel.ABSENT, dtype=np.int64)
        for device, row in graph.durations.items():
            column = machine.profile.cluster.index(device, place="duration_ns")
            own[:, column] = np.where(row < 0, kernel.ABSENT, row + machine.bookkeeping_ns[column])
    if (
        not machine.has_formulas
        or max(graph.output_bytes.max(), graph.host_bytes.max()) >= _BYTES_MAX
    ):
        priced, fed = machine.moves(graph.output_bytes), machine.moves(graph.host_bytes)
    gate_start = gate_values = _NOTHING
    if graph.revealers:
        rows: Sequence[Sequence[int]] = graph.gates
        gate_start = np.cumsum([0, *map(len, rows)], dtype=np.int64)
        gate_values = np.array([gate for row in rows for gate in row], dtype=np.int64)
    return kernel.Given(
        _fixed(graph.cell_of),
        _fixed(graph.inputs.start),
        _fixed(graph.inputs.values),
        _fixed(graph.output_bytes),
        _fixed(graph.host_bytes),
        _fixed(graph.returns),
        _fixed(graph.arrival_ns),
        own,
        priced,
        fed,
        gate_start,
        gate_values,
    )


def _fixed(values: IntArray) -> IntArray:
    """Return read-only int64 values: the compiler makes other code for other kinds of arrays."""
    fixed = np.ascontiguousarray(values, dtype=np.int64)
    if fixed.flags.writeable:
        fixed = fixed.view()
        fixed.flags.writeable = False
    return fixed


def _work(graph: TaskGraph, machine: ListMachine) -> kernel.Work:
    n_tasks, n_edges = len(graph), len(graph.inputs.values)
    n_devices, n_links = len(machine.names), len(machine.arrays.cost)
    # At most one booking per edge, and an answer, a host input and a value per task.
    n_intervals = n_edges + 3 * n_tasks + 1

    def ints(*shape: int) -> IntArray:
        return np.empty(shape, dtype=np.int64)

    return kernel.Work(
        tasks=ints(n_tasks, kernel.N_TASK_COLUMNS),
        pairs=ints(kernel.N_PAIR_TABLES, n_tasks, n_devices),
        moves=ints(n_tasks, n_links),
        starts=ints(2, n_tasks + 1),
        inputs=ints(n_edges),
        readers=ints(n_edges),
        order=ints(n_tasks),
        ranks=np.empty((5, n_tasks)),
        after=np.empty((n_tasks, n_devices)),
        devices=ints(n_devices, kernel.N_DEVICE_COLUMNS),
        spans=ints(n_devices, n_tasks, 2),
        finished=ints(n_devices, n_tasks),
        n_busy=ints(machine.n_resources),
        busy=ints(machine.n_resources, n_intervals, 2),
        heap=ints(n_tasks),
        shown=ints(kernel.SHOWN_MAX),
        sums=ints(kernel.N_SUMS),
        chosen=ints(n_tasks, 2),
    )


def estimated_ns(graph: TaskGraph, profile: Profile, plan: Plan) -> int:
    """Return the estimated makespan of a whole plan."""
    lists = list_graph(graph, profile)
    if lists is None:
        return PartialPlan.of(graph, profile, plan).estimate.makespan_ns
    return lists.estimated_ns(plan)
