"""Fixed splits: the two of trees that the DynPartition paper compares with, and whole requests.

N tasks, R requests, D devices.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynpartition.agent.heuristics import Placer
from dynpartition.agent.holdings import task_ns_where_weights_fit
from dynpartition.agent.listing import ListPlanner
from dynpartition.agent.partial import PartialPlan
from dynpartition.cluster import Cluster
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import PricedGraph, Profile
from dynpartition.types import BoolArray, IntArray

if TYPE_CHECKING:
    from dynpartition.agent.list_tables import ListGraph


class _Split(Placer, ListPlanner):
    """Every task on the device that it is meant for.

    One that cannot go there goes to the legal device where it would end first.
    """

    def place(self, priced: PricedGraph, planned: Plan) -> IntArray:
        """Return task and device of all tasks that are not planned, in topological order."""
        graph, cluster = priced.graph, priced.cluster
        task_ns = task_ns_where_weights_fit(priced)
        wanted = self._wanted(graph, task_ns, cluster, planned)
        if planned or not all_go(cluster, task_ns, wanted):
            return placed_where_possible(priced, planned, wanted)
        order = np.array(graph.topological_order, dtype=np.int64)
        return np.stack([order, wanted[order]], axis=1)

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; SchedulerError where a task has no legal device."""
        return Placer.schedule(self, graph, profile, planned)

    def define(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches."""
        return self.schedule(graph, profile, planned)

    def plan_on(self, lists: ListGraph, planned: Plan) -> bool:
        """Plan every task where it is meant to go, or where it would end first."""
        from dynpartition.agent import list_kernel  # needs numba

        cluster = lists.machine.profile.cluster
        wanted = self._wanted(lists.graph, lists.run_ns, cluster, planned)
        forced = not planned and all_go(cluster, lists.run_ns, wanted)
        method = list_kernel.FORCED if forced else list_kernel.GIVEN
        return lists.plan(method, wanted)

    @abstractmethod
    def _wanted(
        self, graph: TaskGraph, task_ns: IntArray, cluster: Cluster, planned: Plan
    ) -> IntArray:
        """Return (N,) the device that each task is meant for; `task_ns` (N, D), < 0: cannot."""


class _TwoWaySplit(_Split):
    """Tasks chosen by `_on_first` on the first device, the others on the second, if any."""

    def _wanted(
        self, graph: TaskGraph, task_ns: IntArray, cluster: Cluster, planned: Plan
    ) -> IntArray:
        second = min(1, len(cluster.devices) - 1)
        return np.where(self._on_first(graph), 0, second)

    @abstractmethod
    def _on_first(self, graph: TaskGraph) -> BoolArray:
        """Return (N,) whether each task is meant for the first device."""


def all_go(cluster: Cluster, task_ns: IntArray, wanted: IntArray) -> bool:
    """Return whether every task runs where (N,) `wanted` says, and all these devices are linked."""
    used = sorted({cluster.host_index, *np.unique(wanted).tolist()})
    linked = all(cluster.link_table[a, b] >= 0 for a in used for b in used if a != b)
    return linked and bool((task_ns[np.arange(len(wanted)), wanted] >= 0).all())


def placed_where_possible(priced: PricedGraph, planned: Plan, wanted: IntArray) -> IntArray:
    """Return int64 (n, 2): tasks that are not planned and devices, (N,) `wanted` where legal.

    A task that cannot go to its device goes to the legal one where it would end first;
    SchedulerError where there is none.
    """
    partial = PartialPlan.of(priced.graph, priced.profile, planned)
    for task in priced.graph.topological_order:
        if not partial.is_placed(task):
            partial.place(task, partial.earliest(task, int(wanted[task])))
    index = priced.cluster.index
    launches = partial.take_launches()
    placed = [(task, index(launch.device)) for launch in launches for task in launch.tasks]
    return np.array(placed, dtype=np.int64).reshape(-1, 2)


class SplitLeftRight(_TwoWaySplit):
    """Left subtree of the root on the first device, right subtree and root on the second.

    The root is the task with most ancestors; a task with one input only (the output of a tree's
    root, say) gives way to that input. The first input of the root and all its ancestors are the
    left subtree, also where the graph is no tree. A task outside that reads only tasks of the left
    subtree goes with them, such as the outputs of its nodes. A graph without a task of two inputs
    goes to the first device as a whole. Of inputs in flight together, each is split by itself.
    """

    name = "split-left-right"

    def _on_first(self, graph: TaskGraph) -> BoolArray:
        if graph.request.any():
            from dynpartition.agent.subtrees import left_of_many_roots  # needs numba

            return left_of_many_roots(graph)
        return left_of_roots(graph)


class SplitStateOutput(_TwoWaySplit):
    """Tasks that others read (states) on the first device, the rest (outputs) on the second."""

    name = "split-state-output"

    def _on_first(self, graph: TaskGraph) -> BoolArray:
        is_read = np.zeros(len(graph), dtype=np.bool_)
        is_read[graph.inputs.values] = True
        return is_read


class SplitRequests(_Split):
    """Whole requests dealt to devices, so that all end at the same time and nothing is exchanged.

    The longest first, each to the device that would have done with it first (Graham 1969, LPT),
    by the sum of its tasks. A request that has begun stays where it is.
    """

    name = "split-requests"

    def _wanted(
        self, graph: TaskGraph, task_ns: IntArray, cluster: Cluster, planned: Plan
    ) -> IntArray:
        _, request = np.unique(graph.request, return_inverse=True)  # (N,) numbers below R
        n_requests = int(request.max(initial=-1)) + 1
        cost_ns = np.zeros((n_requests, task_ns.shape[1]))
        np.add.at(cost_ns, request, np.where(task_ns < 0, np.inf, task_ns))
        home = np.full(n_requests, -1)
        for launch in planned.launches:
            for task in launch.tasks:
                if home[request[task]] < 0:
                    home[request[task]] = cluster.index(launch.device)
        load_ns = np.zeros(task_ns.shape[1])
        for one in np.flatnonzero(home >= 0).tolist():
            load_ns[home[one]] += cost_ns[one, home[one]]
        for one in np.argsort(-cost_ns.min(axis=1, initial=np.inf), kind="stable").tolist():
            if home[one] < 0:
                home[one] = int((load_ns + cost_ns[one]).argmin())
                load_ns[home[one]] += cost_ns[one, home[one]]
        wanted: IntArray = home[request]
        return wanted


def left_of_roots(graph: TaskGraph) -> BoolArray:
    """Return (N,) whether each task is in the left sub-tree of its request: see SplitLeftRight."""
    requests: dict[int, list[int]] = {}
    request_of = graph.request.tolist()
    for task in graph.topological_order:
        requests.setdefault(request_of[task], []).append(task)
    left = np.zeros(len(graph), dtype=np.bool_)
    for tasks in requests.values():
        left[_left_of_root(graph.input_lists, tasks)] = True
    return left


def _left_of_root(inputs: Sequence[tuple[int, ...]], tasks: Sequence[int]) -> list[int]:
    """Return the left sub-tree among `tasks`, which are one request in topological order."""
    bit = {task: 1 << place for place, task in enumerate(tasks)}
    above: dict[int, int] = {}  # task → itself and its ancestors, as bits
    for task in tasks:
        above[task] = bit[task]
        for source in inputs[task]:
            above[task] |= above.get(source, 0)
    root = max(tasks, key=lambda task: (above[task].bit_count(), -task))
    while len(set(inputs[root])) == 1:
        root = inputs[root][0]
    if not inputs[root]:
        return list(tasks)
    chosen = above.get(inputs[root][0], 0)
    for task in tasks:
        reads = inputs[task]
        if reads and task != root and all(chosen & bit.get(source, 0) for source in reads):
            chosen |= bit[task]
    return [task for task in tasks if chosen & bit[task]]
