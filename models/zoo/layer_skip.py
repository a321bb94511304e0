"""A network that decides at every layer whether to run it: most inputs skip some.

Wang et al. 2018 (SkipNet), on vectors instead of images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynpartition.models.config import ModelConfig
from dynpartition.models.seeds import sample_rng
from dynpartition.models.zoo.base import ZooModel, check_shape
from dynpartition.models.zoo.early_exit import Block


@dataclass(frozen=True)
class LayerSkipConfig(ModelConfig):
    """Sizes of the network."""

    width: int = 512
    layers: int = 8
    classes: int = 10


class Gate(nn.Module):
    """(1, d) → one number: above 0, the layer runs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the score, (1, 1)."""
        score: Tensor = self.score(self.norm(x))
        return score


class LayerSkipNet(nn.Module):
    """(1, d) → log-probabilities (1, classes), and which layers ran."""

    def __init__(self, config: LayerSkipConfig) -> None:
        super().__init__()
        self.gates = nn.ModuleList(Gate(config.width) for _ in range(config.layers))
        self.layers = nn.ModuleList(Block(config.width) for _ in range(config.layers))
        self.head = nn.Linear(config.width, config.classes)

    def forward(self, x: Tensor) -> tuple[Tensor, list[bool]]:
        """Return the answer and, per layer, whether it ran."""
        ran = []
        for gate, layer in zip(self.gates, self.layers, strict=True):
            runs = bool(gate(x) > 0)
            if runs:
                x = layer(x)
            ran.append(runs)
        return self.head(x).log_softmax(dim=-1), ran


class LayerSkip(ZooModel):
    """The sample is float32 (1, d); every gate reveals whether its layer runs."""

    name = "layerskip"
    summary = "a network whose gates decide layer by layer what runs"
    config_type = LayerSkipConfig
    config: LayerSkipConfig
    cell_choices = ("gates.*", "layers.*", "head")

    def _make_module(self) -> nn.Module:
        return LayerSkipNet(self.config)

    def _check(self, sample: Any) -> None:
        check_shape(self.name, sample, (1, self.config.width))

    @classmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[Tensor]:
        """Return normally distributed vectors."""
        assert isinstance(config, LayerSkipConfig)
        dice = [sample_rng(seed, index) for index in range(count)]
        return [torch.from_numpy(rng.standard_normal((1, config.width))).float() for rng in dice]
