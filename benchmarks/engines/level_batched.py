"""A TreeLSTM level by level, written by hand: one call of a cell for all nodes of one height.

States lie in one tensor, sorted by height: leaves, then parents of leaves, and so on. So the
result of a call is a block of rows, and only children are gathered.

n nodes of all trees, m inner ones, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynpartition.models import ParseTree
from dynpartition.models.treelstm import TreeLSTM, word_vectors


@dataclass(frozen=True)
class Levels:
    """The order in which nodes of several trees are computed."""

    sizes: list[int]
    """How many nodes have height 0 (the leaves), 1, 2, …"""
    left: Tensor
    """(m,) row of the state of each inner node's left child, in the order of rows."""
    right: Tensor
    """(m,) the same of the right child."""
    row_of: Tensor
    """(n,) row of each node; nodes are numbered tree by tree."""


def find_levels(trees: Sequence[ParseTree]) -> Levels:
    """Return the levels of trees that run together."""
    heights: list[int] = []
    lefts: list[int] = []
    # A loop over numbers in lists: at these sizes it is faster than a NumPy pass per level.
    for tree in trees:
        first = len(heights)
        for left in tree.left:
            if left < 0:
                heights.append(0)
                lefts.append(-1)
            else:
                # In post-order the right child is the node before.
                below, other = heights[first + left], heights[-1]
                if other > below:  # a call of max() would be half of the loop
                    below = other
                heights.append(below + 1)
                lefts.append(first + left)
    height_of = np.array(heights, dtype=np.int16)  # 16 bits: NumPy sorts them by radix
    nodes = np.argsort(height_of, kind="stable")  # (n,) node of each row
    sizes = np.bincount(height_of).tolist()
    row_of = np.empty_like(nodes)
    row_of[nodes] = np.arange(len(nodes))
    inner = nodes[sizes[0] :]
    left_rows = row_of[np.array(lefts)[inner]]
    return Levels(sizes, *map(torch.from_numpy, (left_rows, row_of[inner - 1], row_of)))


class LevelBatched:
    """Runs trees together: one call for all leaves, one per height, one for all outputs."""

    def __init__(self, model: TreeLSTM) -> None:
        self.input_dim, self.hidden_dim = model.config.input_dim, model.config.hidden_dim
        names = ("leaf", "composer", "output")
        self.leaf, self.composer, self.output = (model.cells[name] for name in names)
        self._memory = torch.empty(0, 2 * self.hidden_dim)

    @torch.inference_mode()
    def run(self, trees: Sequence[ParseTree]) -> list[Tensor]:
        """Return the answer of each tree: (n, classes) in post-order."""
        levels = find_levels(trees)
        states = self.states(levels, self.leaf_vectors(trees))
        answers = self.output(states).index_select(0, levels.row_of)  # (n, classes)
        return list(answers.split_with_sizes([len(tree) for tree in trees]))

    def leaf_vectors(self, trees: Sequence[ParseTree]) -> Tensor:
        """Return the word vectors of all leaves, tree by tree: (leaves, input_dim)."""
        words = [word for tree in trees for word in tree.words if word]
        return word_vectors(words, self.input_dim, torch.float32)

    @torch.inference_mode()
    def states(self, levels: Levels, vectors: Tensor) -> Tensor:
        """Return the states of all nodes in the order of rows: (n, 2H), until the next call."""
        sizes, n_nodes = levels.sizes, len(levels.row_of)
        if n_nodes > len(self._memory):  # kept between calls: fresh memory is slow at first touch
            self._memory = torch.empty(n_nodes, 2 * self.hidden_dim)
        states = self._memory[:n_nodes]
        leaves, *blocks = states.split_with_sizes(sizes)
        leaves.copy_(self.leaf(vectors))
        lefts, rights = (rows.split_with_sizes(sizes[1:]) for rows in (levels.left, levels.right))
        for block, left, right in zip(blocks, lefts, rights, strict=True):
            below = states.index_select(0, left), states.index_select(0, right)
            block.copy_(self.composer(*below))
        return states
