"""Binary TreeLSTM for sentiment, with an output at every node.

Tai, Socher and Manning 2015, section 3.2, in the cell structure of the DynPartition paper.
Axes: k tasks of a launch, H hidden, n nodes. A state is h and c side by side: (k, 2H).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import numpy as np
import torch
from torch import Tensor, nn

from dynpartition.models.config import ModelConfig
from dynpartition.models.model import DynamicModel, StaticRun
from dynpartition.models.tasks import TaskBlock, TaskKind, stack_outputs
from dynpartition.models.trees import ParseTree, generate_trees
from dynpartition.types import IntArray, Ragged, frozen

_LEAF, _COMPOSER, _OUTPUT = range(3)
"""Kinds of tasks."""


@dataclass(frozen=True)
class TreeLSTMConfig(ModelConfig):
    """Sizes of the TreeLSTM."""

    input_dim: int = 300
    hidden_dim: int = 150
    classes: int = 3


class Leaf(nn.Module):
    """Word vector (k, input_dim) → state (k, 2H)."""

    def __init__(self, config: TreeLSTMConfig) -> None:
        super().__init__()
        self.gates = nn.Linear(config.input_dim, 3 * config.hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state of a leaf: it has no memory to forget."""
        i, o, u = self.gates(x).chunk(3, dim=1)  # each (k, H)
        c = torch.sigmoid(i) * torch.tanh(u)
        return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], dim=1)


class Composer(nn.Module):
    """States of the left and the right child, (k, 2H) each → state (k, 2H)."""

    def __init__(self, config: TreeLSTMConfig) -> None:
        super().__init__()
        self.gates = nn.Linear(2 * config.hidden_dim, 5 * config.hidden_dim)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the state of an inner node; all five gates are one matrix product."""
        (h_l, c_l), (h_r, c_r) = left.chunk(2, dim=1), right.chunk(2, dim=1)
        i, f_l, f_r, o, u = self.gates(torch.cat([h_l, h_r], dim=1)).chunk(5, dim=1)
        kept = torch.sigmoid(f_l) * c_l + torch.sigmoid(f_r) * c_r  # (k, H)
        c = torch.sigmoid(i) * torch.tanh(u) + kept
        return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], dim=1)


class Output(nn.Module):
    """State (k, 2H) → log-probabilities (k, classes)."""

    def __init__(self, config: TreeLSTMConfig) -> None:
        super().__init__()
        self.hidden_dim = config.hidden_dim
        self.scores = nn.Linear(config.hidden_dim, config.classes)

    def forward(self, state: Tensor) -> Tensor:
        """Return the log-softmax over classes of h; c is not read."""
        return torch.log_softmax(self.scores(state[:, : self.hidden_dim]), dim=1)


class TreeLSTM(DynamicModel[ParseTree]):
    """The sample is a parse tree; the answer is (n, classes) in the tree's post-order.

    Tasks stand in post-order too: node j is task 2j (`leaf` or `composer`), its output task 2j+1
    follows at once. The last two tasks belong to the root.
    """

    name = "treelstm"
    summary = "binary TreeLSTM over parse trees, an output at every node"
    config_type = TreeLSTMConfig
    config: TreeLSTMConfig

    def _make_cells(self) -> dict[str, nn.Module]:
        kinds = {"leaf": Leaf, "composer": Composer, "output": Output}
        return {name: kind(self.config) for name, kind in kinds.items()}

    def start(self, sample: ParseTree) -> StaticRun:
        """Return the run of a tree: all its tasks are known from the start."""
        size = self.config.input_dim
        vectors = [word_vector(word, size) for word in sample.words if word]
        left, right = np.array(sample.left), np.array(sample.right)  # (n,), -1 for leaves
        kind_of = np.full((len(sample), 2), _OUTPUT)
        kind_of[:, 0] = np.where(left < 0, _LEAF, _COMPOSER)
        block = TaskBlock(
            self._kinds, frozen(kind_of.reshape(-1)), _reads(left, right), {_LEAF: vectors}
        )
        outputs = range(1, 2 * len(sample), 2)
        return StaticRun(block, partial(stack_outputs, numbers=outputs))

    @cached_property
    def _kinds(self) -> tuple[TaskKind, ...]:
        state, scores = (2 * self.config.hidden_dim,), (self.config.classes,)
        leaf = TaskKind("leaf", state, host_shape=(self.config.input_dim,))
        return leaf, TaskKind("composer", state), TaskKind("output", scores, returns=True)

    @torch.inference_mode()
    def eager(self, sample: ParseTree) -> Tensor:
        """Return the answer by a stack machine over the post-order: (n, classes)."""
        states: list[Tensor] = []  # of the nodes whose parent has not come yet
        answers: list[Tensor] = []
        for word in sample.words:
            states.append(self._leaf_state(word) if word else self._composed(states))
            answers.append(self.cells["output"](states[-1]))
        return torch.cat(answers)

    def _leaf_state(self, word: str) -> Tensor:
        vector = word_vector(word, self.config.input_dim)
        state: Tensor = self.cells["leaf"](vector.unsqueeze(0))
        return state

    def _composed(self, states: list[Tensor]) -> Tensor:
        right, left = states.pop(), states.pop()
        state: Tensor = self.cells["composer"](left, right)
        return state

    def digest(self, sample: ParseTree) -> str:
        """Return the digest of words and structure."""
        return sample.digest

    @classmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[ParseTree]:
        """Return trees with the statistics of the Stanford Sentiment Treebank."""
        return generate_trees(count, seed)


def _reads(left: IntArray, right: IntArray) -> Ragged:
    """Return what each of the 2n tasks reads: of composers both children, of outputs the state."""
    n_nodes = len(left)
    reads = np.zeros((n_nodes, 3), dtype=np.int64)  # left, right, the node itself
    reads[:, 0], reads[:, 1], reads[:, 2] = 2 * left, 2 * right, np.arange(0, 2 * n_nodes, 2)
    count = np.ones((n_nodes, 2), dtype=np.int64)
    count[:, 0] = np.where(left < 0, 0, 2)
    start = np.concatenate([[0], np.cumsum(count)])
    return Ragged(frozen(start), frozen(reads[reads >= 0]))


@lru_cache(maxsize=16_384)
def word_vector(word: str, size: int) -> Tensor:
    """Return a float32 (size,) vector that follows from the word alone; shared, do not write.

    Entries are uniform with mean 0 and variance 1. They come from a hash, not from a random
    generator, so they never change between versions, and no embedding file is needed.
    """
    data = hashlib.shake_256(word.encode()).digest(4 * size)
    fractions = np.frombuffer(data, dtype="<u4") / 2.0**32  # in [0, 1)
    return torch.from_numpy(((2.0 * fractions - 1.0) * 3.0**0.5).astype(np.float32))
