"""What the models of the zoo share: a configuration, weights from a seed, generated samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dynpartition.errors import InputError
from dynpartition.models.capturing.model import CapturedModel, CellChoice
from dynpartition.models.capturing.structure import replaced, tensors_in
from dynpartition.models.config import ModelConfig
from dynpartition.models.seeds import checked_seed


class ZooModel(CapturedModel):
    """A module of this package, captured with its cells."""

    cell_choices: ClassVar[Sequence[CellChoice]]

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        self.config = config
        self._samples = None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(checked_seed(seed))
            module = self._make_module()
        module = module.to(config.dtype).eval().requires_grad_(False)
        self._capture(module, self.cell_choices)

    @abstractmethod
    def _make_module(self) -> nn.Module:
        """Return the module of `self.config`, with fresh weights from torch's CPU generator."""

    @abstractmethod
    def _check(self, sample: Any) -> None:
        """Raise InputError for a sample of another shape than the model reads."""

    def _prepared(self, sample: Any) -> Any:
        """Return the sample in the numbers that the model computes with."""
        self._check(sample)
        for tensor in tensors_in(sample):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise InputError(f"the sample of {self.name} is not finite; give finite values")
        return replaced(sample, lambda t: t.to(self.config.dtype) if t.is_floating_point() else t)

    @classmethod
    @abstractmethod
    def generate(cls, count: int, seed: int, config: ModelConfig) -> list[Any]:
        """Return `count` samples; sample i depends on (seed, i) and the configuration alone."""

    def samples(self, count: int, seed: int) -> list[Any]:
        """Return generated samples of this model's sizes."""
        return self.generate(count, seed, self.config)


def check_shape(model: str, sample: Any, shape: tuple[int | None, ...]) -> None:
    """Raise InputError unless a sample is a floating-point tensor of `shape`; None: any size."""
    is_tensor = isinstance(sample, Tensor) and sample.is_floating_point()
    found = tuple(sample.shape) if is_tensor else type(sample).__qualname__
    if (
        not is_tensor
        or len(found) != len(shape)
        or any(size is not None and size != own for size, own in zip(shape, found, strict=True))
        or not sample.numel()
    ):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise InputError(f"a sample of {model} is {found}; give floating-point ({wanted})")
