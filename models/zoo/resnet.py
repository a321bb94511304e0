"""ResNet-50 in six stages, fed in micro-batches: the static network beside the dynamic ones.

He et al. 2016, table 1, with the strides of its successors in the 3 × 3 convolutions. Pipelining
micro-batches over stages follows Huang et al. 2019 (GPipe).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynpartition.models.config import ModelConfig
from dynpartition.models.seeds import sample_rng
from dynpartition.models.zoo.base import ZooModel, check_shape

BLOCKS = (3, 4, 6, 3)
"""Bottleneck blocks of the four inner stages."""


@dataclass(frozen=True)
class ResNetConfig(ModelConfig):
    """Sizes of network and inputs."""

    width: int = 64
    """Channels of the stem; 64 in ResNet-50."""
    image: int = 64
    """Height and width of generated images."""
    images: int = 4
    """How many a generated sample has."""
    micro_batch: int = 1
    """Images that go through the stages together."""
    classes: int = 1000


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolutions around a residual connection."""

    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        made = 4 * width
        self.layers = nn.Sequential(
            *(nn.Conv2d(given, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, made, 1, bias=False), nn.BatchNorm2d(made)),
        )
        is_same = given == made and stride == 1
        self.shortcut: nn.Module = nn.Identity()
        if not is_same:
            convolution = nn.Conv2d(given, made, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(made))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 4 · width, …)."""
        return torch.relu(self.layers(x) + self.shortcut(x))


class ResNet50(nn.Module):
    """Images (B, 3, H, W) → scores (B, classes)."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        width = config.width
        convolution = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        pool = nn.MaxPool2d(3, 2, 1)
        self.stem = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), pool)
        self.stages = nn.ModuleList()
        given = width
        for number, count in enumerate(BLOCKS):
            inner, stride = width << number, 1 if number == 0 else 2
            blocks = [Bottleneck(given, inner, stride)]
            blocks += [Bottleneck(4 * inner, inner, 1) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))
            given = 4 * inner
        pooled = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(pooled, nn.Flatten(), nn.Linear(given, config.classes))
        self.micro_batch = config.micro_batch

    def forward(self, batch: Tensor) -> Tensor:
        """Return the scores of all images, computed one micro-batch after the other."""
        scores = []
        for images in torch.split(batch, self.micro_batch):
            x = self.stem(images)
            for stage in self.stages:
                x = stage(x)
            scores.append(self.head(x))
        return torch.cat(scores)


class ResNet(ZooModel):
    """The sample is float32 (B, 3, H, W) images."""

    name = "resnet50"
    summary = "ResNet-50 in six stages, fed in micro-batches; all tasks are known at once"
    config_type = ResNetConfig
    config: ResNetConfig
    cell_choices = ("stem", "stages.*", "head")

    def _make_module(self) -> nn.Module:
        return ResNet50(self.config)

    def _check(self, sample: Any) -> None:
        check_shape(self.name, sample, (None, 3, None, None))

    @classmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[Tensor]:
        """Return normally distributed images."""
        assert isinstance(config, ResNetConfig)
        shape = (config.images, 3, config.image, config.image)
        dice = [sample_rng(seed, index) for index in range(count)]
        return [torch.from_numpy(rng.standard_normal(shape, dtype="float32")) for rng in dice]
