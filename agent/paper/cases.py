"""Inputs as the paper's agents see them: encoded, with the devices each node may go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition.agent.paper.encoding import encode
from dynpartition.agent.paper.nodes import NodeTree, node_tree
from dynpartition.agent.splits import all_go, placed_where_possible
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.profile import PricedGraph, Profile
from dynpartition.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One graph under one profile."""

    priced: PricedGraph
    tree: NodeTree
    code: FloatArray
    """float32 (M, C)."""
    allowed: BoolArray
    """(M, D) devices that can run the node; all of them beyond the tree."""

    @property
    def is_node(self) -> BoolArray:
        """(M,) False beyond the tree."""
        is_node: BoolArray = np.arange(len(self.code)) < len(self.tree)
        return is_node

    def choices(self, actions: IntArray, planned: Plan) -> IntArray:
        """Return int64 (n, 2): task and device of what is not planned, as (M,) actions say.

        Tasks stand in topological order. One that cannot go where it should goes to the legal
        device where it would end first; SchedulerError where there is none.
        """
        wanted = actions[self.tree.node_of]  # (N,)
        if planned or not all_go(self.priced.cluster, self.priced.task_ns, wanted):
            return placed_where_possible(self.priced, planned, wanted)
        order = np.array(self.priced.graph.topological_order, dtype=np.int64)
        return np.stack([order, wanted[order]], axis=1)

    def actions_of(self, choices: IntArray) -> IntArray:
        """Return (M,) the device that each node really went to, by its first task in `choices`."""
        actions = np.zeros(len(self.code), dtype=np.int64)
        actions[self.tree.node_of[choices[::-1, 0]]] = choices[::-1, 1]
        return actions


def make_case(
    graph: TaskGraph, profile: Profile, max_nodes: int, *, parent_channel: bool = True
) -> Case:
    """Return the case of a graph; SchedulerError when it has more than `max_nodes` nodes."""
    priced, tree = PricedGraph(graph, profile), node_tree(graph)
    code = encode(tree, max_nodes, parent_channel=parent_channel)
    return Case(priced, tree, code, _allowed(priced, tree, max_nodes))


def _allowed(priced: PricedGraph, tree: NodeTree, max_nodes: int) -> BoolArray:
    cannot = np.zeros((max_nodes, priced.task_ns.shape[1]), dtype=np.bool_)
    np.logical_or.at(cannot, tree.node_of, priced.task_ns < 0)
    allowed = ~cannot
    allowed[cannot.all(axis=1)] = True  # its tasks will part
    return allowed


@dataclass(frozen=True, slots=True)
class Stack:
    """B cases as arrays."""

    code: FloatArray  # (B, M, C)
    allowed: BoolArray  # (B, M, D)
    is_node: BoolArray  # (B, M)


def stacked(cases: Sequence[Case], *, masked: bool = True) -> Stack:
    """Return cases side by side; without `masked` every place counts as a node."""
    is_node = np.stack([case.is_node for case in cases])
    return Stack(
        np.stack([case.code for case in cases]),
        np.stack([case.allowed for case in cases]),
        is_node if masked else np.ones_like(is_node),
    )
