"""The paper's state: a positional encoding of a tree.

Each node has four whole numbers: its place in in-order (from 1), its depth, the place of its parent
(0 for a root), and 1 for a leaf. Each picks a row of a table of sines and cosines; the mean of the
four rows is the node's encoding. Rows beyond the tree are zero.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from dynpartition.agent.paper.nodes import NodeTree
from dynpartition.errors import SchedulerError
from dynpartition.types import FloatArray, IntArray

_DECAY = 3.5
"""Wavelengths grow up to e to this."""


def n_columns(max_nodes: int) -> int:
    """Return C: a quarter of M, rounded up to an even number."""
    quarter = -(-max_nodes // 4)
    return quarter + quarter % 2


@lru_cache(maxsize=8)
def position_table(max_nodes: int) -> FloatArray:
    """Return float32 (M + 1, C): sine and cosine of p · e^(−3.5 k / C) at columns k and k + 1.

    The paper's table lacks the last row, so that a tree of M nodes fails there.
    """
    columns = n_columns(max_nodes)
    angles = np.arange(max_nodes + 1)[:, None] * np.exp(
        -_DECAY * np.arange(0, columns, 2) / columns
    )
    table = np.empty((max_nodes + 1, columns), dtype=np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)
    table.flags.writeable = False
    return table


def channels(tree: NodeTree, *, parent_channel: bool = True) -> IntArray:
    """Return int64 (n, 4): place, depth, place of the parent, whether a leaf.

    Without `parent_channel` a node's own place stands where its parent's should, as in the paper's
    code.
    """
    place = np.arange(1, len(tree) + 1)
    parent = tree.parent + 1 if parent_channel else np.where(tree.parent < 0, 0, place)
    return np.stack([place, tree.depth, parent, tree.is_leaf.astype(np.int64)], axis=1)


def encode(tree: NodeTree, max_nodes: int, *, parent_channel: bool = True) -> FloatArray:
    """Return float32 (M, C); SchedulerError for a tree of more than M nodes."""
    if len(tree) > max_nodes:
        raise SchedulerError(
            f"the graph has {len(tree)} nodes and this agent has room for {max_nodes}; train one"
            " with a larger max_nodes, or use another scheduler"
        )
    table = position_table(max_nodes)
    code = np.zeros((max_nodes, table.shape[1]), dtype=np.float32)
    code[: len(tree)] = table[channels(tree, parent_channel=parent_channel)].mean(axis=1)
    return code
