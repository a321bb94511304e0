"""A model that measures machines: chains of plain cells over many shapes and transfer sizes.

A network's own transfers have few sizes and its cells few shapes. These have many, so that links
are known over all sizes, and operator models (`operators.py`) have something to be fitted to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dynpartition.models.config import ModelConfig
from dynpartition.models.model import DynamicModel, ModelRun, StaticRun
from dynpartition.models.seeds import sample_rng
from dynpartition.models.tasks import NewTask

WIDTHS = (32, 128, 384, 1024)
"""Of the matrices of `dense_…` cells."""
LENGTHS = (16, 256, 4096, 32_768, 262_144)
"""Floats that `carry_…` cells pass on: 64 B to 1 MB."""
_CHAINS, _STEPS = 3, 6


@dataclass(frozen=True)
class ProbeConfig(ModelConfig):
    """There is nothing to choose."""


class Dense(nn.Module):
    """(k, n) → (k, n): a matrix product and a squashing function."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.product = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next state."""
        return torch.tanh(self.product(x))


class Carry(nn.Module):
    """(k, n) → (k, n): reads and writes, and computes next to nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the next state."""
        return 1 - x


@dataclass(frozen=True)
class Chain:
    """Steps of one cell, each reading the one before."""

    cell: str
    width: int
    steps: int


class Probe(DynamicModel[tuple[Chain, ...]]):
    """The sample is a few chains beside each other; the answer is the sum of their last states."""

    name = "probe"
    summary = "chains of plain cells, to measure machines"
    config_type = ProbeConfig

    def _make_cells(self) -> dict[str, nn.Module]:
        dense: dict[str, nn.Module] = {f"dense_{width}": Dense(width) for width in WIDTHS}
        return dense | {f"carry_{length}": Carry() for length in LENGTHS}

    def start(self, sample: tuple[Chain, ...]) -> ModelRun:
        """Return the run of some chains, step by step in turn."""
        tasks: list[NewTask] = []
        last: dict[int, int] = {}
        for step in range(max(chain.steps for chain in sample)):
            for number, chain in enumerate(sample):
                if step < chain.steps:
                    tasks.append(_step(chain, step, last.get(number)))
                    last[number] = len(tasks) - 1
        return StaticRun(tasks, _total)

    def eager(self, sample: tuple[Chain, ...]) -> Tensor:
        """Return the answer chain by chain."""
        total = torch.zeros(1)
        for chain in sample:
            state = _start(chain).unsqueeze(0)
            for _ in range(chain.steps):
                state = self.cells[chain.cell](state)
            total = total + state.sum()
        return total

    def digest(self, sample: tuple[Chain, ...]) -> str:
        """Return the digest of the chains."""
        return hashlib.sha256(repr(sample).encode()).hexdigest()

    @classmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[tuple[Chain, ...]]:
        """Return samples of three chains; all cells come equally often."""
        kinds = [(f"dense_{width}", width) for width in WIDTHS]
        kinds += [(f"carry_{length}", length) for length in LENGTHS]
        samples = []
        for index in range(count):
            rng = sample_rng(seed, index)
            turns = [(index * _CHAINS + turn) % len(kinds) for turn in range(_CHAINS)]
            if rng.random() < 0.5:  # alike, so that they can be merged
                turns = [turns[0]] * _CHAINS
            samples.append(tuple(Chain(*kinds[turn], _STEPS) for turn in turns))
        return samples


def _step(chain: Chain, step: int, before: int | None) -> NewTask:
    return NewTask(
        cell=chain.cell,
        inputs=() if before is None else (before,),
        output_shape=(chain.width,),
        host_input=_start(chain) if before is None else None,
        returns=step == chain.steps - 1,
    )


def _start(chain: Chain) -> Tensor:
    values = np.random.default_rng(chain.width).standard_normal(chain.width)
    return torch.from_numpy(values).float()


def _total(outputs: Mapping[int, Tensor]) -> Tensor:
    parts: Sequence[Tensor] = [outputs[task].sum() for task in sorted(outputs)]
    return torch.stack(list(parts)).sum().reshape(1)
