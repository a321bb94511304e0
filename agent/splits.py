"""The fixed splits of trees over two devices that the DynPartition paper compares with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from dynpartition.agent.partial import PartialPlan
from dynpartition.contract import Scheduler
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile


class _Split(Scheduler):
    """Tasks chosen by `_on_first` on the first device, the others on the second, if there is one.

    A task that cannot go to its device goes to the legal one where it would end first.
    """

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches, in topological order."""
        partial = PartialPlan.of(graph, profile, planned)
        second = min(1, partial.facts.prices.n_devices - 1)
        on_first = self._on_first(graph)
        for task in graph.topological_order:
            if not partial.is_placed(task):
                partial.place(task, partial.earliest(task, 0 if task in on_first else second))
        return partial.take_launches()

    @abstractmethod
    def _on_first(self, graph: TaskGraph) -> set[int]:
        """Return the tasks meant for the first device."""


class SplitLeftRight(_Split):
    """Left subtree of the root on the first device, right subtree and root on the second.

    The root is the task with most ancestors; a task with one input only (the output of a tree's
    root, say) gives way to that input. The first input of the root and all its ancestors are the
    left subtree, also where the graph is no tree. A task outside that reads only tasks of the left
    subtree goes with them, such as the outputs of its nodes. A graph without a task of two inputs
    goes to the first device as a whole.
    """

    name = "split-left-right"

    def _on_first(self, graph: TaskGraph) -> set[int]:
        root = find_root(graph)
        inputs = graph.input_lists[root]
        if not inputs:
            return set(range(len(graph)))
        chosen = ancestors(graph, inputs[0])
        for task in graph.topological_order:
            row = graph.input_lists[task]
            if row and task != root and chosen.issuperset(row):
                chosen.add(task)
        return chosen


class SplitStateOutput(_Split):
    """Tasks that others read (states) on the first device, the rest (outputs) on the second."""

    name = "split-state-output"

    def _on_first(self, graph: TaskGraph) -> set[int]:
        return {task for task, readers in enumerate(graph.reader_lists) if readers}


def find_root(graph: TaskGraph) -> int:
    """Return the task with most ancestors, walking down while a task has a single input."""
    above: list[frozenset[int]] = [frozenset()] * len(graph)
    for task in graph.topological_order:
        inputs = graph.input_lists[task]
        above[task] = frozenset((task,)).union(*(above[source] for source in inputs))
    root = max(range(len(graph)), key=lambda task: (len(above[task]), -task))
    while len(set(graph.input_lists[root])) == 1:
        root = graph.input_lists[root][0]
    return root


def ancestors(graph: TaskGraph, task: int) -> set[int]:
    """Return everything that `task` depends on through inputs, itself included."""
    found, open_tasks = {task}, [task]
    while open_tasks:
        for source in graph.input_lists[open_tasks.pop()]:
            if source not in found:
                found.add(source)
                open_tasks.append(source)
    return found
