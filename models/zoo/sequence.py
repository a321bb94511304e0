"""A recurrent classifier of sequences of any length, read from both ends.

Schuster and Paliwal 1997, with the cell of Cho et al. 2014. The graph is as long as the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynpartition.errors import InputError
from dynpartition.models.config import ModelConfig
from dynpartition.models.seeds import sample_rng
from dynpartition.models.zoo.base import ZooModel

LENGTH_MAX = 4096
"""Longer sequences are an error: each token is two tasks."""


@dataclass(frozen=True)
class SequenceConfig(ModelConfig):
    """Sizes of the classifier."""

    width: int = 128
    vocabulary: int = 1000
    classes: int = 5


class SequenceNet(nn.Module):
    """Tokens int64 (T,) → log-probabilities (1, classes)."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.vocabulary, config.width)
        self.forth = nn.GRUCell(config.width, config.width)
        self.back = nn.GRUCell(config.width, config.width)
        self.head = nn.Linear(2 * config.width, config.classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the answer from the states at both ends."""
        words = self.embed(tokens)  # (T, d)
        first = words.new_zeros(1, words.shape[1])
        forth, back = first, first
        for word in words.split(1):
            forth = self.forth(word, forth)
        for word in reversed(words.split(1)):
            back = self.back(word, back)
        scores: Tensor = self.head(torch.cat([forth, back], dim=1))
        return scores.log_softmax(dim=-1)


class SequenceModel(ZooModel):
    """The sample is int64 (T,) tokens with T from 1 to `LENGTH_MAX`."""

    name = "sequence"
    summary = "a recurrent classifier of sequences of any length, read from both ends"
    config_type = SequenceConfig
    config: SequenceConfig
    cell_choices = ("forth", "back", "head")

    def _make_module(self) -> nn.Module:
        return SequenceNet(self.config)

    def _check(self, sample: Any) -> None:
        is_tensor = isinstance(sample, Tensor) and sample.dtype == torch.int64
        if not is_tensor or sample.dim() != 1 or not 1 <= len(sample) <= LENGTH_MAX:
            raise InputError(f"a sample of {self.name} is int64 (T,) with T from 1 to {LENGTH_MAX}")
        if int(sample.min()) < 0 or int(sample.max()) >= self.config.vocabulary:
            raise InputError(
                f"tokens run from {int(sample.min())} to {int(sample.max())}; the vocabulary of"
                f" {self.name} is 0 to {self.config.vocabulary - 1}"
            )

    @classmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[Tensor]:
        """Return sequences of 2 to 40 tokens; short ones are more frequent."""
        assert isinstance(config, SequenceConfig)
        dice = [sample_rng(seed, index) for index in range(count)]
        lengths = [2 + min(38, int(rng.exponential(10.0))) for rng in dice]
        drawn = [
            rng.integers(0, config.vocabulary, length)
            for rng, length in zip(dice, lengths, strict=True)
        ]
        return [torch.from_numpy(tokens) for tokens in drawn]
