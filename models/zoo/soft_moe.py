"""A mixture of experts behind a soft gate: every expert sees every token, weights decide.

Jacobs et al. 1991. Nothing depends on values, so all tasks are known at once.
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
class SoftMoEConfig(ModelConfig):
    """Sizes of the mixture."""

    width: int = 128
    experts: int = 4
    blocks: int = 2
    tokens: int = 16
    classes: int = 16


class Expert(nn.Module):
    """Tokens (T, d) → (T, d)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return what a two-layer network makes of each token."""
        made: Tensor = self.narrow(nn.functional.gelu(self.widen(x)))
        return made


class SoftMoEBlock(nn.Module):
    """Tokens (T, d) plus the experts' outputs, weighted token by token."""

    def __init__(self, config: SoftMoEConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.experts)
        self.experts = nn.ModuleList(Expert(config.width) for _ in range(config.experts))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (T, d)."""
        weights = self.gate(x).softmax(dim=-1)  # (T, experts)
        made = torch.stack([expert(x) for expert in self.experts], dim=-1)  # (T, d, experts)
        mixed: Tensor = (made * weights.unsqueeze(1)).sum(dim=-1)
        return x + mixed


class SoftMoENet(nn.Module):
    """Tokens (T, d) → log-probabilities (T, classes)."""

    def __init__(self, config: SoftMoEConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SoftMoEBlock(config) for _ in range(config.blocks))
        self.head = nn.Linear(config.width, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the log-softmax over classes for every token."""
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(x)
        return scores.log_softmax(dim=-1)


class SoftMoE(ZooModel):
    """The sample is float32 (T, d) tokens; generated ones have `config.tokens` of them."""

    name = "softmoe"
    summary = "a mixture of experts that all see every token, weighted by a soft gate"
    config_type = SoftMoEConfig
    config: SoftMoEConfig
    cell_choices = ("blocks.*.gate", "blocks.*.experts.*", "head")

    def _make_module(self) -> nn.Module:
        return SoftMoENet(self.config)

    def _check(self, sample: Any) -> None:
        check_shape(self.name, sample, (None, self.config.width))

    @classmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[Tensor]:
        """Return normally distributed tokens."""
        assert isinstance(config, SoftMoEConfig)
        shape = (config.tokens, config.width)
        dice = [sample_rng(seed, index) for index in range(count)]
        return [torch.from_numpy(rng.standard_normal(shape)).float() for rng in dice]
