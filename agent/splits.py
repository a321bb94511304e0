"""The fixed splits of trees over two devices that the DynPartition paper compares with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynpartition.agent.heuristics import Placer
from dynpartition.agent.listing import ListPlanner
from dynpartition.agent.partial import PartialPlan
from dynpartition.cluster import Cluster
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import PricedGraph, Profile
from dynpartition.types import BoolArray, IntArray

if TYPE_CHECKING:
    from dynpartition.agent.list_kernel import Before
    from dynpartition.agent.list_tables import ListGraph


class _Split(Placer, ListPlanner):
    """Tasks chosen by `_on_first` on the first device, the others on the second, if there is one.

    A task that cannot go to its device goes to the legal one where it would end first.
    """

    def place(self, priced: PricedGraph, planned: Plan) -> IntArray:
        """Return task and device of all tasks that are not planned, in topological order."""
        graph, second = priced.graph, min(1, len(priced.cluster.devices) - 1)
        wanted = np.where(self._on_first(graph), 0, second)  # (N,)
        if planned or not _all_go(priced.cluster, priced.task_ns, wanted):
            return _placed_where_possible(priced, planned, wanted)
        order = np.array(graph.topological_order, dtype=np.int64)
        return np.stack([order, wanted[order]], axis=1)

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; SchedulerError where a task has no legal device."""
        return Placer.schedule(self, graph, profile, planned)

    def define(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches."""
        return self.schedule(graph, profile, planned)

    def plan_on(self, lists: ListGraph, planned: Plan, before: Before) -> bool:
        """Plan every task where it is meant to go, or where it would end first."""
        from dynpartition.agent import list_kernel  # needs numba

        graph, second = lists.graph, min(1, len(lists.machine.names) - 1)
        wanted = np.where(self._on_first_of_many(graph), 0, second)
        forced = not planned and _all_go(lists.machine.profile.cluster, lists.run_ns, wanted)
        method = list_kernel.FORCED if forced else list_kernel.GIVEN
        return lists.plan(method, before, wanted)

    def _on_first_of_many(self, graph: TaskGraph) -> BoolArray:
        """Return the same as `_on_first`, by compiled code where there is some."""
        return self._on_first(graph)

    @abstractmethod
    def _on_first(self, graph: TaskGraph) -> BoolArray:
        """Return (N,) whether each task is meant for the first device."""


def _all_go(cluster: Cluster, task_ns: IntArray, wanted: IntArray) -> bool:
    """Whether every task runs on the device it is meant for, and all of these are linked."""
    used = sorted({cluster.host_index, *np.unique(wanted).tolist()})
    linked = all(cluster.link_table[a, b] >= 0 for a in used for b in used if a != b)
    return linked and bool((task_ns[np.arange(len(wanted)), wanted] >= 0).all())


def _placed_where_possible(priced: PricedGraph, planned: Plan, wanted: IntArray) -> IntArray:
    partial = PartialPlan.of(priced.graph, priced.profile, planned)
    for task in priced.graph.topological_order:
        if not partial.is_placed(task):
            partial.place(task, partial.earliest(task, int(wanted[task])))
    index = priced.cluster.index
    launches = partial.take_launches()
    placed = [(task, index(launch.device)) for launch in launches for task in launch.tasks]
    return np.array(placed, dtype=np.int64).reshape(-1, 2)


class SplitLeftRight(_Split):
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

    def _on_first_of_many(self, graph: TaskGraph) -> BoolArray:
        from dynpartition.agent.subtrees import left_of_many_roots  # needs numba

        return left_of_many_roots(graph)


class SplitStateOutput(_Split):
    """Tasks that others read (states) on the first device, the rest (outputs) on the second."""

    name = "split-state-output"

    def _on_first(self, graph: TaskGraph) -> BoolArray:
        is_read = np.zeros(len(graph), dtype=np.bool_)
        is_read[graph.inputs.values] = True
        return is_read


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
