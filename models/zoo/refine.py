"""A recursive network that refines each node of a tree until it changes no more.

Recursion as in Socher et al. 2011; at every node a loop runs until the state has settled, as in
Graves 2016 (adaptive computation), so how many tasks a node has depends on values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynpartition.errors import InputError
from dynpartition.models.config import ModelConfig
from dynpartition.models.seeds import sample_rng
from dynpartition.models.zoo.base import ZooModel, check_shape

Tree = Tensor | tuple[Any, Any]
"""A leaf, float (1, d), or a pair of trees."""


@dataclass(frozen=True)
class RefineConfig(ModelConfig):
    """Sizes of the network."""

    width: int = 256
    steps: int = 6
    """A node is refined so many times at most."""
    settled_permille: int = 50
    """Mean change of a state, in thousandths, from which on it counts as settled."""
    classes: int = 5


class Join(nn.Module):
    """States of two children, (1, d) each → (1, d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * width, width)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return a first state of their parent."""
        return torch.tanh(self.mix(torch.cat([left, right], dim=1)))


class Step(nn.Module):
    """State (1, d) and what it is refined towards, (1, d) → state (1, d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.given = nn.Linear(width, width)

    def forward(self, state: Tensor, given: Tensor) -> Tensor:
        """Return a state half of which is new."""
        return 0.5 * state + 0.5 * torch.tanh(self.own(state) + self.given(given))


class RefineNet(nn.Module):
    """Tree → log-probabilities of its root (1, classes), and how many steps were taken."""

    def __init__(self, config: RefineConfig) -> None:
        super().__init__()
        self.join = Join(config.width)
        self.step = Step(config.width)
        self.head = nn.Linear(config.width, config.classes)
        self.most = config.steps
        self.settled = config.settled_permille / 1000

    def forward(self, tree: Tree) -> tuple[Tensor, int]:
        """Return the answer at the root and the number of steps in all."""
        state, steps = self.visit(tree)
        return self.head(state).log_softmax(dim=-1), steps

    def visit(self, tree: Tree) -> tuple[Tensor, int]:
        """Return the state of a tree and the steps that it took."""
        if isinstance(tree, Tensor):
            return tree, 0
        (left, n_left), (right, n_right) = self.visit(tree[0]), self.visit(tree[1])
        given = state = self.join(left, right)
        change, n_steps = self.settled, 0
        while change >= self.settled and n_steps < self.most:
            before, state = state, self.step(state, given)
            change = (state - before).abs().mean().item()
            n_steps += 1
        return state, n_left + n_right + n_steps


class Refine(ZooModel):
    """The sample is a tree of pairs with float32 (1, d) leaves."""

    name = "refine"
    summary = "a recursive network that refines every node until it has settled"
    config_type = RefineConfig
    config: RefineConfig
    cell_choices = ("join", "step", "head")

    def _make_module(self) -> nn.Module:
        return RefineNet(self.config)

    def _check(self, sample: Any) -> None:
        if isinstance(sample, Tensor):
            raise InputError(f"a sample of {self.name} is one leaf; give a pair of trees")
        pending = [sample]
        while pending:
            tree = pending.pop()
            if isinstance(tree, tuple) and len(tree) == 2:
                pending += tree
            else:
                check_shape(self.name, tree, (1, self.config.width))

    @classmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[Tree]:
        """Return random trees of 2 to 8 leaves."""
        assert isinstance(config, RefineConfig)
        dice = [sample_rng(seed, index) for index in range(count)]
        return [_random_tree(rng, int(rng.integers(2, 9)), config.width) for rng in dice]


def _random_tree(rng: np.random.Generator, leaves: int, width: int) -> Tree:
    if leaves == 1:
        leaf = rng.uniform(0.1, 2.0) * rng.standard_normal((1, width))
        return torch.from_numpy(leaf).float()
    left = int(rng.integers(1, leaves))
    return _random_tree(rng, left, width), _random_tree(rng, leaves - left, width)
