"""A classifier with an exit after every block: what is easy leaves early.

Teerapittayanon, McDanel and Kung 2016 (BranchyNet), on vectors instead of images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynpartition.models.config import ModelConfig
from dynpartition.models.seeds import sample_rng
from dynpartition.models.zoo.base import ZooModel, check_shape


@dataclass(frozen=True)
class EarlyExitConfig(ModelConfig):
    """Sizes of the classifier."""

    width: int = 512
    blocks: int = 6
    classes: int = 10
    sure_percent: int = 30
    """Probability of the likeliest class from which on an input leaves."""


class Block(nn.Module):
    """Two layers around a residual connection: (1, d) → (1, d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus what the layers make of it."""
        made: Tensor = self.narrow(torch.relu(self.widen(self.norm(x))))
        return x + made


class EarlyExitNet(nn.Module):
    """(1, d) → log-probabilities (1, classes), from the first exit that is sure."""

    def __init__(self, config: EarlyExitConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.blocks))
        self.exits = nn.ModuleList(
            nn.Linear(config.width, config.classes) for _ in range(config.blocks)
        )
        self.sure = config.sure_percent / 100

    def forward(self, x: Tensor) -> Tensor:
        """Return what the first exit says that is sure, or the last one."""
        scores = x
        for block, leave in zip(self.blocks, self.exits, strict=True):
            x = block(x)
            scores = leave(x).log_softmax(dim=-1)
            if scores.max().exp() > self.sure:
                break
        return scores


class EarlyExit(ZooModel):
    """The sample is float32 (1, d); an exit that is sure reveals that nothing follows."""

    name = "earlyexit"
    summary = "a classifier with an exit after every block; easy inputs leave early"
    config_type = EarlyExitConfig
    config: EarlyExitConfig
    cell_choices = ("blocks.*", "exits.*")

    def _make_module(self) -> nn.Module:
        return EarlyExitNet(self.config)

    def _check(self, sample: Any) -> None:
        check_shape(self.name, sample, (1, self.config.width))

    @classmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[Tensor]:
        """Return vectors of different lengths: the longer ones are easier."""
        assert isinstance(config, EarlyExitConfig)
        dice = [sample_rng(seed, index) for index in range(count)]
        drawn = [rng.uniform(0.2, 3.0) * rng.standard_normal((1, config.width)) for rng in dice]
        return [torch.from_numpy(one).float() for one in drawn]
