"""Trees as the DynPartition paper's executor runs them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from dynpartition.graph import TaskGraph
from dynpartition.models.model import ModelInput
from dynpartition.models.treelstm import TreeLSTM, TreeLSTMConfig
from dynpartition.models.trees import ParseTree
from dynpartition.types import frozen


@lru_cache(maxsize=1)
def _model() -> TreeLSTM:
    return TreeLSTM(TreeLSTMConfig(), seed=0)


def paper_graph(tree: ParseTree) -> TaskGraph:
    """Return the graph of a tree: node j (in post-order) is task 2j, its output task 2j + 1.

    Words are looked up on the device of their leaf and answers stay where they are computed, so
    nothing comes from the host or returns to it.
    """
    graph = ModelInput(_model(), tree).graph
    nothing = frozen([0] * len(graph))
    return replace(graph, host_bytes=nothing, returns=nothing)


def left_nodes(tree: ParseTree) -> int:
    """Return how many nodes the left sub-tree of the root has; 0 where the root is a leaf."""
    return tree.left[tree.root] + 1
