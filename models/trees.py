"""Binary parse trees with a label at every node, and a generator with a treebank's statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from dynpartition.errors import InputError
from dynpartition.models.seeds import sample_rng
from dynpartition.types import IntArray

LEAF_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
LEAF_COUNTS = (2.0, 5.0, 6.9, 13.5, 19.5, 26.5, 34.9, 42.5, 47.9)
"""Words per sentence of the Stanford Sentiment Treebank's development part, at the quantiles;
rounded down when used."""

SPLIT_FIRST, SPLIT_LAST = 1.35, 0.22
"""How often a phrase of n words splits off its first word, times √n, and its last word; fitted to
that part. Other split points are uniform, the lower of two draws: English branches to the right."""

LABEL_SHARES = (0.07, 0.66, 0.27)
"""Shares of the labels 0, 1, 2 there."""

VOCABULARY = 20_000
"""Synthetic words; word r has a frequency proportional to 1 / (r + 2), counted from 0."""


@dataclass(frozen=True)
class ParseTree:
    """A binary tree with n nodes in post-order: children before parents, left before right.

    The root is the last node. Raises InputError when the arrays are not such a tree.
    """

    labels: tuple[int, ...]
    words: tuple[str, ...]
    """The word of a leaf; empty for an inner node."""
    left: tuple[int, ...]
    """Left child; -1 for a leaf."""
    right: tuple[int, ...]
    """Right child; -1 for a leaf."""

    def __post_init__(self) -> None:
        sizes = {len(row) for row in (self.labels, self.words, self.left, self.right)}
        if len(sizes) > 1:
            raise InputError("the arrays of a tree differ in length; build it with read_tree")
        open_nodes: list[int] = []
        for node, children in enumerate(zip(self.left, self.right, strict=True)):
            if children != (-1, -1):
                if children != tuple(open_nodes[-2:]):
                    raise InputError(f"node {node}: {children} are not the two nodes before it")
                del open_nodes[-2:]
            open_nodes.append(node)
        if len(open_nodes) != 1:
            raise InputError("these arrays are not one tree in post-order; build it with read_tree")

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def children(self) -> IntArray:
        """(n, 2) left and right child of each node, -1 for leaves."""
        children = np.array([self.left, self.right], dtype=np.int64).T
        children.flags.writeable = False
        return children

    @property
    def root(self) -> int:
        """The last node."""
        return len(self) - 1

    def is_leaf(self, node: int) -> bool:
        """Return whether `node` holds a word."""
        return self.left[node] < 0

    @cached_property
    def depth(self) -> int:
        """Edges from the root to the deepest leaf: 0 for a single word."""
        heights: list[int] = []
        for left, right in zip(self.left, self.right, strict=True):
            heights.append(0 if left < 0 else 1 + max(heights[left], heights[right]))
        return heights[-1]

    @property
    def text(self) -> str:
        """The tree in brackets, as `read_trees` reads it."""
        return self._bracketed([f"{label} " for label in self.labels])

    @cached_property
    def digest(self) -> str:
        """sha256 of words and structure; without labels, which a model does not read."""
        unlabelled = self._bracketed([""] * len(self))
        return hashlib.sha256(unlabelled.encode()).hexdigest()

    def _bracketed(self, labels: Sequence[str]) -> str:
        parts: list[list[str]] = []  # of the nodes whose parent has not come yet
        for node, label in enumerate(labels):
            inner = [self.words[node]]
            if not self.is_leaf(node):
                right, left = parts.pop(), parts.pop()
                inner = [*left, " ", *right]
            parts.append([f"({label}", *inner, ")"])
        return "".join(parts[0])


class TreeBuilder:
    """Collects the nodes of a tree in post-order."""

    def __init__(self) -> None:
        self._nodes: list[tuple[int, str, int, int]] = []

    def leaf(self, label: int, word: str) -> int:
        """Append a leaf and return its number."""
        return self._append((label, word, -1, -1))

    def inner(self, label: int, left: int, right: int) -> int:
        """Append the parent of two nodes and return its number."""
        return self._append((label, "", left, right))

    def _append(self, node: tuple[int, str, int, int]) -> int:
        self._nodes.append(node)
        return len(self._nodes) - 1

    def tree(self) -> ParseTree:
        """Return the tree; its root is the node appended last."""
        labels, words, left, right = zip(*self._nodes, strict=True)
        return ParseTree(labels, words, left, right)


def generate_trees(count: int, seed: int) -> list[ParseTree]:
    """Return `count` random trees with the sizes and depths of the treebank.

    Nodes: mean 38, median 37, 90 % from 11 to 68, at most 93; depth: mean 10. Words are synthetic
    (`w0`, `w1`, …). Tree i depends on (seed, i) alone.
    """
    return [_random_tree(sample_rng(seed, index)) for index in range(count)]


def _random_tree(rng: np.random.Generator) -> ParseTree:
    leaves = int(np.interp(rng.random(), LEAF_QUANTILES, LEAF_COUNTS))
    ranks = np.searchsorted(_word_shares(), rng.random(leaves)).tolist()
    labels = rng.choice(len(LABEL_SHARES), size=2 * leaves - 1, p=LABEL_SHARES).tolist()
    builder = TreeBuilder()
    made: list[int] = []  # nodes whose parent has not come yet
    for number, count in enumerate(_post_order_counts(leaves, rng)):
        if count == 1:
            made.append(builder.leaf(labels[number], f"w{ranks.pop()}"))
        else:
            right, left = made.pop(), made.pop()
            made.append(builder.inner(labels[number], left, right))
    return builder.tree()


def _post_order_counts(leaves: int, rng: np.random.Generator) -> list[int]:
    """Return the leaf count below each node of a random tree, in post-order."""
    counts, pending = [], [leaves]
    while pending:  # root, right, left: post-order from its end
        count = pending.pop()
        counts.append(count)
        if count > 1:
            first = _split(count, rng)
            pending += [first, count - first]
    return counts[::-1]


def _split(count: int, rng: np.random.Generator) -> int:
    """Return how many of `count` leaves go to the left child."""
    draw, first = rng.random(), SPLIT_FIRST / count**0.5
    if draw < first:
        return 1
    if draw < first + SPLIT_LAST:
        return count - 1
    return 2 + int((count - 3) * min(rng.random(), rng.random()))


@lru_cache(maxsize=1)
def _word_shares() -> npt.NDArray[np.float64]:
    """Cumulated word frequencies after Zipf."""
    shares = np.cumsum(1.0 / (np.arange(VOCABULARY) + 2.0))
    return np.asarray(shares / shares[-1])
