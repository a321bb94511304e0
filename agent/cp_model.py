"""A constraint model of the execution semantics for OR-Tools' CP-SAT, with free transfer order.

The model leaves out what only delays: memory and loads, most of the host, queues of transfers. So
nothing that the simulator can do is faster than the model's optimum, for plans of one task per
launch. Where batches pay, what they could save is granted to every task, which makes the bound hold
for all plans, and weaker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynpartition.agent import estimate_kernel as tables_of
from dynpartition.agent import search_kernel as kernel
from dynpartition.agent.list_tables import ListGraph
from dynpartition.agent.search import batches
from dynpartition.costs import transfer_ns
from dynpartition.errors import SchedulerError
from dynpartition.plan import Launch
from dynpartition.types import IntArray

if TYPE_CHECKING:
    from types import ModuleType


N_WORKERS = 8
"""Ways of searching side by side, where the clock ends them."""
WORK_S = 5.0
"""About how long one unit of what the solver calls deterministic time takes on one core."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What CP-SAT knows about one graph on one machine."""

    bound_ns: int
    """No plan of one task per launch is faster; where batches pay, no plan at all."""
    plan: IntArray | None
    """Its best plan (3, N), see `search_kernel`; None where it found nothing new."""
    is_proven: bool
    """Whether the bound is the model's optimum."""


def load_solver() -> ModuleType:
    """Return OR-Tools' module; SchedulerError where it is not installed."""
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise SchedulerError(
            "scheduler 'optimal' needs OR-Tools, which the extra 'optimal' brings: install it with"
            " pip install 'dynpartition[optimal]'"
        ) from error
    module: ModuleType = cp_model
    return module


def solve(
    lists: ListGraph,
    known: Sequence[Launch],
    known_ns: int,
    *,
    time_s: float,
    by_clock: bool = False,
    seed: int = 0,
) -> Solution:
    """Return a lower bound of the makespan, and the model's best plan where it has found one.

    `known`: launches of a legal plan that takes `known_ns` in the simulator; no slower one is
    looked for. `by_clock`: end after that time, else after about as much work of one core, which
    is repeatable.
    """
    cp = load_solver()
    model = _Model(cp, lists, known_ns)
    model.build()
    model.hint(known)
    solver: Any = cp.CpSolver()
    solver.parameters.random_seed = seed % (1 << 30)
    if by_clock:
        solver.parameters.num_workers = N_WORKERS
        solver.parameters.max_time_in_seconds = time_s
    else:
        solver.parameters.num_workers = 1
        solver.parameters.max_deterministic_time = time_s / WORK_S
    status = solver.solve(model.model)
    if status == cp.MODEL_INVALID:
        raise AssertionError(f"the model is invalid: {model.model.validate()}")
    assert status != cp.INFEASIBLE, "the model forbids what the simulator has done"
    bound_ns = max(0, _rounded(solver.best_objective_bound) - model.first_ns)
    if status not in (cp.OPTIMAL, cp.FEASIBLE):
        return Solution(bound_ns, None, is_proven=False)
    return Solution(bound_ns, model.plan(solver), is_proven=status == cp.OPTIMAL)


def _rounded(bound: float) -> int:
    """Return an integer that is surely a bound; numbers beyond 2^50 lose digits on the way."""
    if not math.isfinite(bound):
        return 0
    return math.ceil(bound - 1e-6) if bound < 2**50 else math.floor(bound * (1 - 1e-12))


def _longest_ns(lists: ListGraph) -> int:
    """Return what any plan takes at most, one thing after the other."""
    dispatch = lists.machine.profile.dispatch
    tables = (
        *(tables_of.RUN_NS, tables_of.COPY_IN_NS),
        *(tables_of.COPY_OUT_NS, tables_of.HOST_COPY_NS),
    )
    once = [np.maximum(lists.pair_ns(table), 0).max(axis=1).sum() for table in tables]
    each_ns = (
        dispatch.sync_ns
        + dispatch.decision_ns
        + len(lists.machine.names) * (dispatch.handoff_ns + dispatch.h_copy)
    )
    host_ns = lists.pair_ns(tables_of.H_NS).max(axis=1).sum() + len(lists.graph) * each_ns
    edges = len(lists.graph.inputs.values) + 1  # gathering is paid per edge
    return int(sum(once)) * edges + int(
        lists.moves_ns.sum() + host_ns + max(lists.graph.available_ns)
    )


class _Model:
    """Variables and constraints of one graph; times in ns."""

    def __init__(self, cp: ModuleType, lists: ListGraph, known_ns: int) -> None:
        self.cp, self.lists = cp, lists
        self.graph, self.profile = lists.graph, lists.machine.profile
        self.cluster, self.dispatch = self.profile.cluster, self.profile.dispatch
        self.devices = range(len(self.cluster.devices))
        self.host = self.cluster.host_index
        self.first_ns = int(self.graph.arrival_ns.min())
        self.horizon_ns = min(known_ns, _longest_ns(lists)) + self.first_ns
        self.model: Any = cp.CpModel()
        self.on: list[dict[int, Any]] = []
        """Task → device → whether it is there."""
        self.start: list[Any] = []
        self.end: list[Any] = []
        self.there: dict[tuple[int, int], tuple[Any, Any]] = {}
        """(task, device) → whether its output travels there, and when it has arrived."""
        self.of_device: list[list[Any]] = [[] for _ in self.devices]
        """Device → intervals of which only one can be at a time."""
        self.of_resource: dict[str, list[Any]] = {}
        self.of_walk: list[Any] = []
        self.handoff_ns = 0
        if self.dispatch.host_mode == "processes":
            self.handoff_ns = self.dispatch.handoff_ns
        self.least_ns, self.share_ns = self._durations()
        self.merges = bool((self.share_ns != lists.run_ns).any())

    def _durations(self) -> tuple[IntArray, IntArray]:
        """Return (N, D) the least time of a launch with each task, and the least share of one."""
        run_ns = self.lists.run_ns
        table = batches(self.lists)
        if table.shape[2] <= 2:
            return run_ns, run_ns
        counts = np.arange(1, table.shape[2])
        whole = np.where(table[:, :, 1:] < 0, kernel.NEVER, table[:, :, 1:])
        share = (whole // counts).min(axis=2)[self.graph.cell_of]
        least = whole.min(axis=2)[self.graph.cell_of]
        able = run_ns >= 0
        return (
            np.where(able, np.minimum(run_ns, least), run_ns),
            np.where(able, np.minimum(run_ns, share), run_ns),
        )

    def build(self) -> None:
        """Add everything."""
        self.makespan = self.model.new_int_var(0, self.horizon_ns, "makespan")
        for task in range(len(self.graph)):
            self._add_task(task)
        for task in range(len(self.graph)):
            self._add_outputs(task)
        for task in range(len(self.graph)):
            self._add_inputs(task)
        for task in range(len(self.graph)):
            self._add_duration(task)
        self._share()
        self.model.minimize(self.makespan)

    def _add_task(self, task: int) -> None:
        model, able = self.model, [d for d in self.devices if self.lists.run_ns[task, d] >= 0]
        self.on.append({d: model.new_bool_var(f"on_{task}_{d}") for d in able})
        model.add_exactly_one(self.on[task].values())
        earliest_ns = min(int(self.graph.available_ns[task]), self.horizon_ns)
        self.start.append(model.new_int_var(earliest_ns, self.horizon_ns, f"start_{task}"))
        self.end.append(model.new_int_var(earliest_ns, self.horizon_ns, f"end_{task}"))
        model.add(self.makespan >= self.end[task])

    def _add_outputs(self, task: int) -> None:
        """Let the output travel to the devices of its readers, and to the host as an answer."""
        model, graph = self.model, self.graph
        for device in self.devices:
            askers = [
                self.on[reader][device]
                for reader in graph.reader_lists[task]
                if device in self.on[reader]
            ]
            returns = bool(graph.returns[task]) and device == self.host
            if not askers and not returns:
                continue
            here = self.on[task].get(device)
            travels = model.new_bool_var(f"travels_{task}_{device}")
            arrival = model.new_int_var(0, self.horizon_ns, f"there_{task}_{device}")
            self.there[task, device] = (travels, arrival)
            away = [here] if here is not None else []
            for asker in askers:
                model.add_bool_or([travels, asker.negated(), *away])
            if returns:
                model.add_bool_or([travels, *away])
                model.add(self.makespan >= arrival).only_enforce_if(travels)
            if here is not None:
                model.add_implication(here, travels.negated())
            for home, placed in self.on[task].items():
                if home != device:
                    self._add_transfer(task, home, device, [placed, travels], arrival)

    def _add_transfer(
        self, task: int, home: int, device: int, conditions: list[Any], arrival: Any
    ) -> None:
        model, link = self.model, self.cluster.link_index(home, device)
        if link < 0:
            model.add_bool_or([condition.negated() for condition in conditions])
            return
        both = model.new_bool_var(f"moves_{task}_{home}_{device}")
        model.add_bool_or([both, *(condition.negated() for condition in conditions)])
        for condition in conditions:
            model.add_implication(both, condition)
        size = int(self.lists.moves_ns[task, link])
        start = model.new_int_var(0, self.horizon_ns, f"sent_{task}_{home}_{device}")
        model.add(start >= self.end[task]).only_enforce_if(both)
        model.add(arrival >= start + size).only_enforce_if(both)
        self._occupy(link, start, size, both)

    def _occupy(self, link: int, start: Any, size_ns: int, present: Any) -> None:
        """Let a transfer hold what its link holds; nothing where batches might send less."""
        if self.merges or not size_ns:
            return
        interval = self.model.new_optional_fixed_size_interval_var(start, size_ns, present, "")
        for name in dict.fromkeys(self.cluster.links[link].held):
            self.of_resource.setdefault(name, []).append(interval)
        for name in self.cluster.links[link].blocked_devices:
            self.of_device[self.cluster.index(name)].append(interval)

    def _add_inputs(self, task: int) -> None:
        """Let a task wait for what it reads, and for what decides that it exists."""
        model, graph, start = self.model, self.graph, self.start[task]
        for source in dict.fromkeys(graph.input_lists[task]):
            model.add(start >= self.end[source])
            for device, placed in self.on[task].items():
                travels, arrival = self.there[source, device]
                handed = arrival + self.handoff_ns
                model.add(start >= handed).only_enforce_if([placed, travels])
        revealer = int(graph.revealed_by[task])
        if revealer >= 0:
            known_ns = self.dispatch.sync_ns + self.dispatch.decision_ns
            model.add(start >= self.end[revealer] + known_ns)
        if graph.host_bytes[task]:
            for device, placed in self.on[task].items():
                if device != self.host:
                    self._add_host_input(task, device, placed)

    def _add_host_input(self, task: int, device: int, placed: Any) -> None:
        link = self.cluster.link_index(self.host, device)
        if link < 0:
            self.model.add(placed == 0)
            return
        cost = self.cluster.links[link].cost
        size_ns = transfer_ns(cost, int(self.graph.host_bytes[task]))
        earliest_ns = min(int(self.graph.available_ns[task]), self.horizon_ns)
        fed = self.model.new_int_var(earliest_ns, self.horizon_ns, f"fed_{task}_{device}")
        self.model.add(self.start[task] >= fed + size_ns).only_enforce_if(placed)
        self._occupy(link, fed, size_ns, placed)

    def _add_duration(self, task: int) -> None:
        """Let a task last as long as it does where it is, gathering and staging included."""
        model, lasts = self.model, self.end[task] - self.start[task]
        for device, placed in self.on[task].items():
            terms = [int(self.least_ns[task, device])]
            terms += self._gathering(task, device)
            terms += self._staging(task, device)
            total = sum(terms)
            if len(terms) == 1:
                model.add(lasts == total).only_enforce_if(placed)
                interval = model.new_optional_fixed_size_interval_var(
                    self.start[task], total, placed, ""
                )
            else:
                model.add(lasts == total).only_enforce_if(placed)
                size = model.new_int_var(0, self.horizon_ns, "")
                interval = model.new_optional_interval_var(
                    self.start[task], size, self.end[task], placed, ""
                )
            if not self.merges:
                self.of_device[device].append(interval)
                if self.cluster.devices[device].kind == "cpu":
                    self.of_walk.append(interval)

    def _gathering(self, task: int, device: int) -> list[Any]:
        cost = self.dispatch.copy_in.get(self.cluster.names[device])
        if cost is None:
            return []
        found = []
        for source in self.graph.input_lists[task]:  # once per edge
            gathered_ns = transfer_ns(cost, int(self.graph.output_bytes[source]))
            here = self.on[source].get(device)
            found.append(gathered_ns if here is None else gathered_ns * (1 - here))
        if self.graph.host_bytes[task] and device != self.host:
            found.append(transfer_ns(cost, int(self.graph.host_bytes[task])))
        return found

    def _staging(self, task: int, device: int) -> list[Any]:
        """Return what staging adds: once, if any reader is elsewhere and known with the task."""
        cost = self.dispatch.copy_out.get(self.cluster.names[device])
        known = [
            reader
            for reader in self.graph.reader_lists[task]
            if self.graph.gates[reader] == self.graph.gates[task]
            and self.graph.available_ns[reader] == self.graph.available_ns[task]
        ]
        if cost is None or not known:
            return []
        staged = self.model.new_bool_var(f"staged_{task}_{device}")
        for reader in known:
            here = self.on[reader].get(device)
            own = self.on[task][device].negated()
            self.model.add_bool_or([staged, own] if here is None else [staged, own, here])
        return [transfer_ns(cost, int(self.graph.output_bytes[task])) * staged]

    def _share(self) -> None:
        """Let devices and resources do one thing at a time."""
        model = self.model
        for uses in (*self.of_device, *self.of_resource.values()):
            if len(uses) > 1:
                model.add_no_overlap(uses)
        for device in self.devices:
            load = [
                int(self.share_ns[task, device]) * row[device]
                for task, row in enumerate(self.on)
                if device in row
            ]
            model.add(self.makespan >= sum(load) + self.first_ns)
        if self.dispatch.host_mode == "single":
            self._share_host()

    def _share_host(self) -> None:
        """Let the one host thread do one thing at a time: CPU launches, and dispatching others."""
        if len(self.of_walk) > 1:
            self.model.add_no_overlap(self.of_walk)
        if self.merges:
            return
        work = []
        for task, row in enumerate(self.on):
            cell = self.graph.cell_name(task)
            for device, placed in row.items():
                kind = self.cluster.devices[device]
                is_cpu = kind.kind == "cpu"
                least_ns = int(self.least_ns[task, device])
                work.append((least_ns if is_cpu else self.dispatch.h_ns(cell, kind)) * placed)
        self.model.add(self.makespan >= sum(work) + self.first_ns)

    def hint(self, launches: Sequence[Launch]) -> None:
        """Tell the solver where a known plan has its tasks."""
        for launch in launches:
            device = self.cluster.index(launch.device)
            for task in launch.tasks:
                for other, placed in self.on[task].items():
                    self.model.add_hint(placed, other == device)

    def plan(self, solver: Any) -> IntArray:
        """Return the solver's plan (3, N): tasks in the order in which they start."""
        position = {task: at for at, task in enumerate(self.graph.topological_order)}
        starts = [(solver.value(at), position[task], task) for task, at in enumerate(self.start)]
        device = [next(d for d, placed in row.items() if solver.value(placed)) for row in self.on]
        order = [task for _, _, task in sorted(starts)]
        return np.array([order, device, [0] * len(device)], dtype=np.int64)
