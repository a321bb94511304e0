"""Arenas: where a device's tensors lie. Each session fills them from the start."""

from __future__ import annotations

import ctypes
import math
import mmap
from functools import cached_property

import torch
from torch import Tensor

from dynpartition.hardware.shared import SharedBlock

_EMPTY_ROWS = 1 << 40
"""Tensors without elements lie in row 0 of as many as one likes."""


class Arena:
    """One device's memory as tensors."""

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw
        """uint8 (bytes,)."""
        self._rows: dict[tuple[tuple[int, ...], str], Tensor] = {}

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

    def rows(self, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
        """Return the arena as (R, *shape): as many tensors as it holds, the first at its start."""
        rows = self._rows.get((shape, dtype))
        if rows is None:
            rows = self._rows[shape, dtype] = self._viewed(shape, getattr(torch, dtype))
        return rows

    def _viewed(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        # Views of an inference tensor stay such only if they are made in inference mode.
        with torch.inference_mode():
            row_bytes = math.prod(shape) * dtype.itemsize
            if not row_bytes:
                return torch.empty((_EMPTY_ROWS, *shape), dtype=dtype, device=self.raw.device)
            n_rows = self.raw.numel() // row_bytes
            return self.raw[: n_rows * row_bytes].view(dtype).view(n_rows, *shape)


def private_memory(size_bytes: int) -> Tensor:
    """Return uint8 memory of pages that go back to the system with the last tensor on it.

    The heap would keep what it was once given.
    """
    if not size_bytes:
        return torch.empty(0, dtype=torch.uint8)
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with torch.inference_mode():
        return torch.frombuffer(pages, dtype=torch.uint8)


def trim_heap() -> None:
    """Give free pages of the heap back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def dtype_name(dtype: torch.dtype) -> str:
    """Return how arguments name `dtype`: `float32`."""
    return str(dtype).removeprefix("torch.")
