"""Binary TreeLSTM for sentiment, with an output at every node.

Tai, Socher and Manning 2015, section 3.2, in the cell structure of the DynPartition paper.
Axes: k tasks of a launch, H hidden, n nodes. A state is h and c side by side: (k, 2H).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from dynpartition.errors import InputError
from dynpartition.models.config import ModelConfig
from dynpartition.models.model import DynamicModel, StaticRun
from dynpartition.models.tasks import TaskBlock, TaskKind, stack_outputs
from dynpartition.models.trees import ParseTree, generate_trees
from dynpartition.types import BoolArray, IntArray, Ragged, frozen

_LEAF, _COMPOSER, _OUTPUT = range(3)
"""Kinds of tasks."""

VOCABULARY_MAX = 50_000
"""Words whose vectors are kept, about; with 300 numbers each they take 60 MB."""


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
        self.hidden_dim = config.hidden_dim
        self.gates = nn.Linear(config.input_dim, 3 * config.hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the state of a leaf: it has no memory to forget."""
        i, o, u = _squashed(self.gates(x), self.hidden_dim).chunk(3, dim=1)  # each (k, H)
        return _state(o, _times_tanh(i, u))


class Composer(nn.Module):
    """States of the left and the right child, (k, 2H) each → state (k, 2H)."""

    def __init__(self, config: TreeLSTMConfig) -> None:
        super().__init__()
        self.hidden_dim = config.hidden_dim
        self.gates = nn.Linear(2 * config.hidden_dim, 5 * config.hidden_dim)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the state of an inner node; all five gates are one matrix product."""
        size = self.hidden_dim
        gates = self.gates(torch.cat([left[:, :size], right[:, :size]], dim=1))  # (k, 5H)
        i, f_l, f_r, o, u = _squashed(gates, size).chunk(5, dim=1)
        c = _times_tanh(i, u)
        c = c.addcmul_(f_l, left[:, size:]).addcmul_(f_r, right[:, size:])
        return _state(o, c)


def _squashed(gates: Tensor, size: int) -> Tensor:
    """Return the sigmoid of all gates, of the last `size` columns of twice their value."""
    # tanh(x) = 2 σ(2x) − 1, and PyTorch's σ takes a seventh of the time of its tanh on a CPU.
    gates[:, -size:].mul_(2)
    return gates.sigmoid_()


def _times_tanh(factor: Tensor, half: Tensor) -> Tensor:
    """Return factor · tanh(x), where `half` is σ(2x)."""
    return torch.addcmul(factor, factor, half, value=-2).neg_()


def _state(o: Tensor, c: Tensor) -> Tensor:
    return torch.cat([_times_tanh(o, torch.mul(c, 2).sigmoid_()), c], dim=1)


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

    def start(self, sample: ParseTree) -> TreeRun:
        """Return the run of a tree: all its tasks are known from the start."""
        return self.start_together([sample])

    def start_together(self, samples: Sequence[ParseTree]) -> TreeRun:
        """Return the run of several trees."""
        sizes = [len(tree) for tree in samples]
        first = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)  # (n,) of all trees
        children = np.concatenate([tree.children for tree in samples])  # (n, 2)
        is_leaf = children[:, 0] < 0
        size = self.config.input_dim
        words = [word for tree in samples for word in tree.words if word]
        vectors = word_vectors(words, size, self.config.dtype)
        kind_of = np.full((len(children), 2), _OUTPUT)
        kind_of[:, 0] = np.where(is_leaf, _LEAF, _COMPOSER)
        inputs = _reads(children + first[:, None], is_leaf)
        request = np.repeat(np.arange(len(samples)), [2 * size for size in sizes])
        kinds, fed = frozen(kind_of.reshape(-1)), {_LEAF: vectors}
        block = TaskBlock(self._kinds, kinds, inputs, fed, request)
        return TreeRun(block, sizes)

    @cached_property
    def _kinds(self) -> tuple[TaskKind, ...]:
        state, scores = (2 * self.config.hidden_dim,), (self.config.classes,)
        dtype = self.config.dtype
        host_shape = (self.config.input_dim,)
        return (
            TaskKind("leaf", state, host_shape, dtype, output_dtype=dtype),
            TaskKind("composer", state, output_dtype=dtype),
            TaskKind("output", scores, returns=True, output_dtype=dtype),
        )

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
        vector = word_vector(word, self.config.input_dim, self.config.dtype)
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


class TreeRun(StaticRun):
    """Trees with all their tasks; sizes in nodes."""

    def __init__(self, block: TaskBlock, sizes: Sequence[int]) -> None:
        super().__init__(block, self._only_answer)
        self._sizes = list(sizes)

    def _only_answer(self, outputs: Mapping[int, Tensor]) -> Tensor:
        if len(self._sizes) != 1:
            raise InputError(f"{len(self._sizes)} trees were merged; ask for answers()")
        return self.answers(outputs)[0]

    def answers(self, outputs: Mapping[int, Tensor]) -> list[Tensor]:
        """Return the answer of each tree: (n, classes)."""
        answers = stack_outputs(outputs, range(1, 2 * sum(self._sizes), 2))
        return list(answers.split_with_sizes(self._sizes))


def _reads(children: IntArray, is_leaf: BoolArray) -> Ragged:
    """Return what each of the 2n tasks reads: of composers both children, of outputs the state."""
    n_nodes = len(children)
    reads = np.empty((n_nodes, 3), dtype=np.int64)  # left, right, the node itself
    np.multiply(children, 2, out=reads[:, :2])
    reads[:, 2] = np.arange(0, 2 * n_nodes, 2)
    is_read = np.ones((n_nodes, 3), dtype=np.bool_)
    is_read[:, :2] = ~is_leaf[:, None]
    start = np.zeros(2 * n_nodes + 1, dtype=np.int64)
    start[1::2] = np.where(is_leaf, 0, 2)
    start[2::2] = 1
    return Ragged(frozen(np.cumsum(start)), frozen(reads[is_read]))


def word_vectors(words: Sequence[str], size: int, dtype: torch.dtype) -> Tensor:
    """Return (k, size): the vectors of k words; quick for words that came before."""
    return _vocabulary(size, dtype).vectors(words)


class _Vocabulary:
    """Vectors of words that have been asked for, row by row in one table."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        self._row: dict[str, int] = {}
        self._dtype = dtype
        self._table = torch.empty((256, size), dtype=dtype).numpy()

    def vectors(self, words: Sequence[str]) -> Tensor:
        """Return (k, size)."""
        row = self._row
        try:
            rows = [row[word] for word in words]
        except KeyError:
            self._learn(words)
            rows = [row[word] for word in words]
        # By NumPy, which uses this thread alone: PyTorch would wake others for so little.
        return torch.from_numpy(self._table.take(np.array(rows, dtype=np.int64), axis=0))

    def _learn(self, words: Sequence[str]) -> None:
        if len(self._row) > VOCABULARY_MAX:
            self._row.clear()
        for word in dict.fromkeys(words):
            if word not in self._row:
                row, size = len(self._row), self._table.shape[1]
                if row == len(self._table):
                    self._table = np.concatenate([self._table, np.empty_like(self._table)])
                self._table[row] = word_vector(word, size, self._dtype).numpy()
                self._row[word] = row


@lru_cache(maxsize=8)
def _vocabulary(size: int, dtype: torch.dtype) -> _Vocabulary:
    return _Vocabulary(size, dtype)


@lru_cache(maxsize=1024)
def word_vector(word: str, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a (size,) vector that follows from the word alone; shared, do not write.

    Entries are uniform with mean 0 and variance 1. They come from a hash, not from a random
    generator, so they never change between versions, and no embedding file is needed.
    """
    data = hashlib.shake_256(word.encode()).digest(4 * size)
    fractions = np.frombuffer(data, dtype="<u4") / 2.0**32  # in [0, 1)
    return torch.from_numpy(((2.0 * fractions - 1.0) * 3.0**0.5).astype(np.float32)).to(dtype)
