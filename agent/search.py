"""Search around plans: the engine of `local-search`, `annealing` and whoever brings starts.

It never returns a plan that is slower in the simulator than the best of its starts.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

from dynpartition.agent import estimate_kernel, list_kernel
from dynpartition.agent import search_kernel as kernel
from dynpartition.agent.list_tables import ListGraph, most_together
from dynpartition.agent.tables_kernel import BYTES_MAX
from dynpartition.by_id import ById
from dynpartition.costs import transfer_ns
from dynpartition.profile import PricedGraph, Profile
from dynpartition.residency import needs_memory
from dynpartition.sim.kernel_pack import MachineTables, machine_tables
from dynpartition.types import IntArray

_ZERO = np.zeros(1, dtype=np.int64)
_NOTHING = np.zeros(0, dtype=np.int64)


class Found(NamedTuple):
    """The best plan that a search has seen."""

    plan: IntArray
    """(3, N): tasks in plan order; of each task, its device and whether it joins the launch of the
    task before it."""
    makespan_ns: int
    n_evaluated: int


def search_plan(choices: IntArray, n_tasks: int) -> IntArray:
    """Return (n, 2) or (n, 3) choices in order as a plan (3, N); see `plan.chosen_launches`."""
    plan = np.zeros((3, n_tasks), dtype=np.int64)
    plan[0, : len(choices)] = choices[:, 0]
    plan[1, choices[:, 0]] = choices[:, 1]
    if choices.shape[1] > 2:
        plan[2, choices[:, 0]] = choices[:, 2]
    return plan


def launches_of(plan: IntArray, first: int = 0) -> list[tuple[int, tuple[int, ...]]]:
    """Return the launches of a plan (3, N) whose marks all fit: device and tasks of each.

    Without those of the `first` tasks in its order.
    """
    order, device, joined = plan.tolist()
    rows: list[tuple[int, list[int]]] = []
    for task in order[first:]:
        if joined[task] and rows:
            rows[-1][1].append(task)
        else:
            rows.append((device[task], [task]))
    return [(home, tuple(tasks)) for home, tasks in rows]


class Problem:
    """One graph on one machine as the compiled search knows it."""

    def __init__(self, lists: ListGraph, tables: MachineTables) -> None:
        self.lists = lists
        self.n_tasks, self.n_devices = len(lists.graph), len(lists.machine.names)
        self.arrays = _arrays(lists, tables)
        n_edges, n_cells = len(lists.graph.inputs.values), len(lists.graph.cells)
        self.scratch = _scratch(self.n_tasks, self.n_devices, n_edges, n_cells)

    def makespans_ns(self, plans: IntArray, *, best_only: bool = False) -> IntArray:
        """Return int64 (B,): what the simulator says of plans (B, 3, N), or ILLEGAL.

        `best_only`: TOO_LONG for plans that are no faster than an earlier one.
        """
        found = np.empty(len(plans), dtype=np.int64)
        kernel.evaluate_plans(self.arrays, self.scratch, plans, found, kernel.NEVER, best_only)
        return found

    def start(self, order: IntArray, device: IntArray) -> IntArray:
        """Return a plan (3, N) of one task per launch: tasks in order, device by task."""
        return np.stack([order, device, np.zeros_like(order)])

    def is_within(self, plan: IntArray, limit_ns: int) -> bool:
        """Return whether a plan is legal and takes no longer than a limit; may be quick to tell."""
        found = np.empty(1, dtype=np.int64)
        kernel.evaluate_plans(self.arrays, self.scratch, plan[None], found, limit_ns, False)
        return int(found[0]) <= limit_ns

    def unmarked(self, plan: IntArray) -> IntArray:
        """Return a plan without the marks that do not fit, as `search_kernel` reads it."""
        kept = plan.copy()
        if not kernel.keep_marks(self.arrays, self.scratch, kept):
            kept[kernel.JOINED] = 0
        return kept

    def walk(self, plan: IntArray, seed: int) -> kernel.Walk:
        """Return a search that begins with a plan."""
        position = np.empty(self.n_tasks, dtype=np.int64)
        position[plan[kernel.ORDER]] = np.arange(self.n_tasks)
        sums = np.zeros(kernel.N_SUMS, dtype=np.int64)
        sums[kernel.CURRENT_NS] = sums[kernel.BEST_NS] = kernel.NEVER
        # Any two numbers from 1 on; far apart for seeds that are close.
        sums[kernel.SEED_A] = 1 + (seed * 1_103_515_245 + 12_345) % 2_147_483_398
        sums[kernel.SEED_B] = 1 + (seed * 69_069 + 362_437) % 2_147_483_398
        return kernel.Walk(
            plan=plan.copy(),
            best=plan.copy(),
            position=position,
            critical=np.empty(self.n_tasks, dtype=np.int64),
            moved=np.empty((3, self.n_tasks), dtype=np.int64),
            load_ns=np.zeros(self.n_devices, dtype=np.int64),
            sums=sums,
        )

    def go_on(
        self, walk: kernel.Walk, n_evaluations: int, hot_ns: float = 0.0, cooling: float = 1.0
    ) -> None:
        """Go on with a search: see `search_kernel.search`."""
        kernel.search(self.arrays, self.scratch, walk, n_evaluations, hot_ns, cooling)


class Budget:
    """What a search may spend: evaluations, or time. One of both; evaluations are repeatable."""

    def __init__(self, *, evaluations: int | None = None, time_us: float | None = None) -> None:
        assert (evaluations is None) != (time_us is None), "a budget is evaluations or time"
        self._evaluations, self._time_us = evaluations, time_us
        self._begun_ns = time.perf_counter_ns()
        self._searching_ns, self._searched = 0, 0
        self.spent = 0
        """Evaluations so far."""

    @property
    def share(self) -> float:
        """How much of it is spent, 1 when nothing is left."""
        if self._evaluations is not None:
            return min(1.0, self.spent / max(1, self._evaluations))
        return min(1.0, self._elapsed_us / max(1e-9, self._time_us or 0.0))

    @property
    def left_us(self) -> float:
        """Time left in µs, infinite where evaluations count."""
        return math.inf if self._time_us is None else self._time_us - self._elapsed_us

    @property
    def _elapsed_us(self) -> float:
        return (time.perf_counter_ns() - self._begun_ns) / 1000

    def chunk(self) -> int:
        """Return how many evaluations to do before looking again."""
        if self._evaluations is not None:
            return min(CHUNK_MAX, self._evaluations - self.spent)
        if not self._searched:
            return CHUNK_FIRST
        each_us = self._searching_ns / 1000 / self._searched
        left_us = max(0.0, self.left_us)
        return max(1, min(CHUNK_MAX, int(CHUNK_SHARE * left_us / max(1e-3, each_us))))

    def note(self, evaluations: int, begun_ns: int) -> None:
        """Count evaluations that began at a time of `perf_counter_ns` and have just ended."""
        self.spent += evaluations
        self._searched += evaluations
        self._searching_ns += time.perf_counter_ns() - begun_ns


CHUNK_FIRST, CHUNK_MAX = 64, 1024
CHUNK_SHARE = 0.9
"""How much of the time left a chunk may take, by the pace so far."""


def improve(
    problem: Problem,
    starts: IntArray,
    budget: Budget,
    *,
    seed: int = 0,
    hot: float = 0.0,
    cold: float = 0.0,
    n_walks: int = 1,
) -> Found | None:
    """Return the best plan found around `starts` (B, 3, N), never slower than the best of them.

    `n_walks` searches begin with the best starts, each from another one as far as there are; the
    better half goes on after half of the budget. `hot`, `cold`: first and last temperature, divided
    by the makespan of the best start; 0 is local search. None where no start is legal.
    """
    makespans_ns = problem.makespans_ns(starts, best_only=n_walks == 1)
    budget.spent += len(starts)
    ranking = np.argsort(makespans_ns, kind="stable")
    first = int(ranking[0])
    best_ns = int(makespans_ns[first])
    if best_ns >= kernel.NEVER:
        return None
    legal = int((makespans_ns < kernel.NEVER).sum())
    chosen = ranking[np.arange(n_walks) % min(legal, max(n_walks, 1))]
    walks = [
        problem.walk(starts[start], seed=seed * 1_000_003 + number)
        for number, start in enumerate(chosen.tolist())
    ]
    all_walks = list(walks)
    while budget.share < 1:
        share = budget.share
        if len(walks) > 1 and share > 0.5:
            walks.sort(key=lambda walk: int(walk.sums[kernel.BEST_NS]))
            del walks[(len(walks) + 1) // 2 :]
        temperature_ns = 0.0
        if hot > 0:
            temperature_ns = best_ns * hot * (cold / hot) ** share
        for walk in walks:
            count = budget.chunk()
            if count > 0:
                begun_ns = time.perf_counter_ns()
                problem.go_on(walk, count, temperature_ns)
                budget.note(count, begun_ns)
    best = min(all_walks, key=lambda walk: int(walk.sums[kernel.BEST_NS]), default=None)
    if best is None or best.sums[kernel.BEST_NS] >= best_ns:
        return Found(starts[first], best_ns, budget.spent)
    return Found(best.best, int(best.sums[kernel.BEST_NS]), budget.spent)


# What the compiled search reads


_TABLES: ById[Profile, MachineTables] = ById(64)


def tables_of(profile: Profile) -> MachineTables:
    """Return the simulator's tables of a profile's machine; the same object's are known."""
    return _TABLES.get_or_make(profile, machine_tables)


def problem_of(lists: ListGraph) -> Problem | None:
    """Return the problem of a graph, or None where only the simulator itself can price plans.

    It can where nothing is hidden or late, weights and outputs fit, and the host delays nothing.
    """
    graph, machine = lists.graph, lists.machine
    if machine.dispatches or graph.revealers or graph.arrival_ns.any():
        return None
    if any(device.tracks_memory for device in machine.profile.cluster.devices) and needs_memory(
        PricedGraph(graph, machine.profile)
    ):
        return None
    tables = tables_of(machine.profile)
    return Problem(lists, tables) if tables.is_small else None


def _arrays(lists: ListGraph, tables: MachineTables) -> kernel.Problem:
    graph, machine, given = lists.graph, lists.machine, lists.given
    batch_ns, (reader_start, readers) = batches(lists), lists.readers
    cell_of, n_cells = given.cell_of, len(graph.cells)
    has_batches = batch_ns.shape[2] > 2
    above_ns, below_ns = _paths_ns(lists, batch_ns)
    peers, peer_start = _ZERO, _ZERO
    if has_batches:
        peers = np.argsort(cell_of, kind="stable")
        peer_start = np.searchsorted(cell_of[peers], np.arange(n_cells + 1)).astype(np.int64)
    return kernel.Problem(
        input_start=given.input_start,
        inputs=given.inputs,
        reader_start=reader_start,
        readers=readers,
        cell_of=cell_of,
        output_bytes=given.output_bytes,
        host_bytes=given.host_bytes,
        returns=given.returns,
        run_ns=lists.run_ns,
        gather_ns=lists.pair_ns(estimate_kernel.COPY_IN_NS),
        stage_ns=lists.pair_ns(estimate_kernel.COPY_OUT_NS),
        feed_ns=lists.pair_ns(estimate_kernel.HOST_COPY_NS),
        feed_gather_ns=_feed_gather_ns(lists),
        moves=lists.moves_ns,
        above_ns=above_ns,
        below_ns=below_ns,
        batch_ns=batch_ns,
        link_of=machine.link_of,
        cost=machine.costs,
        holds=np.ascontiguousarray(tables.link_bits.reshape(-1, 2)[:, 0]),
        device_bits=tables.device_bits,
        peer_start=peer_start,
        peers=peers,
        host=machine.profile.cluster.host_index,
        handoff_ns=machine.handoff_ns,
        has_batches=int(has_batches),
        first_use_ns=lists.costs.first_ns,
        has_first_uses=int(lists.costs.first_ns.any()),
    )


def batches(lists: ListGraph) -> IntArray:
    """Return (K, D, B) durations of launches of b tasks; -1 where a cell gains nothing by them.

    Only of graphs whose tasks have no durations of their own, over links that have a formula.
    """
    graph, machine = lists.graph, lists.machine
    if not graph.durations and machine.has_formulas:
        found = machine.batches(graph.cells, most_together(len(graph)))
        if found.shape[2] == 2:
            return found
        if int(graph.output_bytes.sum()) + int(graph.host_bytes.sum()) < BYTES_MAX:
            return found
    shape = (len(graph.cells), len(machine.names), 2)
    return np.full(shape, kernel.NONE, dtype=np.int64)


def _feed_gather_ns(lists: ListGraph) -> IntArray:
    graph, machine = lists.graph, lists.machine
    table = np.zeros((len(graph), len(machine.names)), dtype=np.int64)
    if graph.host_bytes.any():
        for device, cost in enumerate(machine.gathering):
            if cost is not None:
                fed = np.flatnonzero(graph.host_bytes)
                prices = [transfer_ns(cost, size) for size in graph.host_bytes[fed].tolist()]
                table[fed, device] = prices
    return table


def _paths_ns(lists: ListGraph, batch_ns: IntArray) -> tuple[IntArray, IntArray]:
    """Return (N,) each: the longest path before and behind each task takes at least so long."""
    together = _NOTHING
    if batch_ns.shape[2] > 2:
        together = np.where(batch_ns < 0, kernel.NEVER, batch_ns).min(axis=(1, 2))
    above_ns, below_ns = np.empty((2, len(lists.graph)), dtype=np.int64)
    slot, layout = lists.slots[0], lists.layout.array
    list_kernel.sum_paths(slot, layout, lists.order, together, above_ns, below_ns)
    return above_ns, below_ns


def _scratch(n_tasks: int, n_devices: int, n_edges: int, n_cells: int) -> kernel.Scratch:
    n_transfers = 2 * n_tasks * n_devices

    def ints(*shape: int) -> IntArray:
        return np.empty(shape, dtype=np.int64)

    return kernel.Scratch(
        launch_of=ints(n_tasks),
        sent=ints(n_tasks),
        staged=ints(n_tasks),
        launches=ints(n_tasks, kernel.N_LAUNCH_COLUMNS),
        transfers=ints(n_transfers, kernel.N_TRANSFER_COLUMNS),
        waiting=ints(n_edges + n_tasks, 2),
        engines=ints(n_devices, kernel.N_ENGINE_COLUMNS),
        pending=ints(n_transfers),
        active=ints(kernel.ACTIVE_MAX, 2),
        handed=ints(n_transfers, 2),
        used=ints(n_cells, n_devices),
    )
