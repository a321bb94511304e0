"""Arenas: where a device's tensors lie. Each session fills them from the start."""

from __future__ import annotations

from functools import cached_property, lru_cache

import torch
from torch import Tensor

from dynpartition.hardware.messages import Slot
from dynpartition.hardware.shared import SharedBlock

ALIGN_BYTES = 64


class Arena:
    """One device's memory as tensors."""

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw
        """uint8 (bytes,)."""
        self._typed: dict[str, Tensor] = {}

    @cached_property
    def octets(self) -> memoryview:
        """The same bytes for plain copies; CPU arenas only."""
        return self.raw.numpy().data

    @staticmethod
    def on(block: SharedBlock) -> Arena:
        """Return the arena that lies in `block`."""
        # An inference tensor: cells then skip the bookkeeping of views that autograd needs.
        with torch.inference_mode():
            return Arena(torch.frombuffer(block.view, dtype=torch.uint8))

    def tensor(self, slot: Slot, k: int = 1) -> Tensor:
        """Return a view of `k` tensors that lie behind each other from `slot` on: (k, *shape)."""
        typed = self._typed.get(slot.dtype)
        if typed is None:
            typed = self._typed[slot.dtype] = self.raw.view(getattr(torch, slot.dtype))
        first = slot.offset // typed.element_size()
        return typed.as_strided((k, *slot.shape), strides(slot.shape), first)

    def read(self, slot: Slot) -> Tensor:
        """Return a copy of the tensor in `slot`: (*shape)."""
        return self.tensor(slot)[0].clone()

    def write(self, slot: Slot, value: Tensor) -> None:
        """Copy `value` into `slot`."""
        with torch.inference_mode():
            self.tensor(slot)[0].copy_(value)


@lru_cache(maxsize=4096)
def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of k contiguous tensors of `shape`, the batch axis first."""
    steps = [1]
    for size in reversed(shape):
        steps.append(steps[-1] * max(size, 1))
    return tuple(reversed(steps))


@lru_cache(maxsize=4096)
def size_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Return the bytes of one tensor."""
    width: int = getattr(torch, dtype).itemsize
    for size in shape:
        width *= size
    return width


def dtype_name(dtype: torch.dtype) -> str:
    """Return how slots name `dtype`: `float32`."""
    return str(dtype).removeprefix("torch.")
