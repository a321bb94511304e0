"""Task graphs as the trees of nodes that the paper's agents place.

A node is a task with its outputs: tasks that nobody reads and that read it alone. In the paper's
networks that is a state and what is computed from it for the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition.graph import TaskGraph
from dynpartition.types import BoolArray, IntArray, frozen


@dataclass(frozen=True, slots=True, eq=False)
class NodeTree:
    """The n nodes of a graph, numbered from 0 in in-order: left children, node, right children."""

    node_of: IntArray
    """(N,) node of each task."""
    depth: IntArray
    """(n,) edges to the root."""
    parent: IntArray
    """(n,) node that reads it first; -1 for a root."""
    is_leaf: BoolArray
    """(n,) whether no node is below it."""

    def __len__(self) -> int:
        return len(self.depth)


def node_tree(graph: TaskGraph) -> NodeTree:
    """Return the nodes of `graph`.

    Where it is no tree, a node hangs below the first node that reads it, and roots stand one after
    the other. Of an odd number of children the one in the middle counts as left: the paper's code
    loses it.
    """
    head_of = _heads(graph)
    parent, children = _relations(graph, head_of)
    order = _in_order([head for head in _heads_in_order(head_of) if head not in parent], children)
    number = {head: position for position, head in enumerate(order)}
    depth: dict[int, int] = {}
    for head in sorted(order, key=_positions(graph).__getitem__, reverse=True):
        depth[head] = depth[parent[head]] + 1 if head in parent else 0  # readers come later
    return NodeTree(
        node_of=frozen([number[head] for head in head_of]),
        depth=frozen([depth[head] for head in order]),
        parent=frozen([number[parent[head]] if head in parent else -1 for head in order]),
        is_leaf=np.array([not children[head] for head in order], dtype=np.bool_),
    )


def _heads(graph: TaskGraph) -> list[int]:
    """Return per task the task that its node is named after."""
    heads = list(range(len(graph)))
    for task, inputs in enumerate(graph.input_lists):
        if not graph.reader_lists[task] and len(set(inputs)) == 1:
            heads[task] = inputs[0]
    return heads


def _heads_in_order(head_of: Sequence[int]) -> list[int]:
    return [task for task, head in enumerate(head_of) if task == head]


def _positions(graph: TaskGraph) -> dict[int, int]:
    return {task: position for position, task in enumerate(graph.topological_order)}


def _relations(
    graph: TaskGraph, head_of: Sequence[int]
) -> tuple[dict[int, int], dict[int, list[int]]]:
    """Return node → its parent, for all but roots, and node → its children, left to right."""
    parent: dict[int, int] = {}
    children: dict[int, list[int]] = {head: [] for head in _heads_in_order(head_of)}
    for task in graph.topological_order:
        for source in dict.fromkeys(graph.input_lists[task]):
            below, above = head_of[source], head_of[task]
            if below != above and below not in parent:
                parent[below] = above
                children[above].append(below)
    return parent, children


def _in_order(roots: Sequence[int], children: dict[int, list[int]]) -> list[int]:
    order: list[int] = []
    open_nodes = [(root, False) for root in reversed(roots)]
    while open_nodes:
        node, is_due = open_nodes.pop()
        if is_due:
            order.append(node)
            continue
        below = children[node]
        middle = (len(below) + 1) // 2
        visits = [(child, False) for child in below]
        open_nodes += reversed([*visits[:middle], (node, True), *visits[middle:]])
    return order
