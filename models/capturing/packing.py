"""Several tensors as one: what a task outputs, and the host input of one that reads several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ALIGNED_BYTES = 16
"""Where bytes of tensors of different types begin, so that each can be viewed as its type."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Where one tensor lies in a packed one. Equal to itself alone, so that hashing is quick."""

    begin: int
    """Element, or byte where types differ; -1: it is not packed, it is the whole."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    def of(self, packed: Tensor) -> Tensor:
        """Return it from packed rows (k, n): (k, *shape)."""
        if self.begin < 0:
            return packed
        size = math.prod(self.shape)
        if packed.dtype != self.dtype:
            size *= self.dtype.itemsize
        flat = packed[:, self.begin : self.begin + size]
        if packed.dtype != self.dtype:
            flat = flat.reshape(-1).view(self.dtype)
        return flat.reshape(len(packed), *self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """How tensors of given shapes and types are packed: one alone is left as it is."""

    parts: tuple[Part, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(formats: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> Packing:
        """Return the packing of tensors with these shapes and types, at least one."""
        if len(formats) == 1:
            shape, dtype = formats[0]
            return Packing((Part(-1, shape, dtype),), shape, dtype)
        types = {dtype for _, dtype in formats}
        is_mixed = len(types) > 1
        parts, begin = [], 0
        for shape, dtype in formats:
            parts.append(Part(begin, shape, dtype))
            size = math.prod(shape)
            begin += _aligned(size * dtype.itemsize) if is_mixed else size
        packed_type = torch.uint8 if is_mixed else types.pop()
        return Packing(tuple(parts), (begin,), packed_type)

    def pack(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return tensors (k, *shape) as one: (k, *self.shape)."""
        if len(self.parts) == 1:
            return tensors[0]
        rows = [tensor.reshape(len(tensor), -1) for tensor in tensors]
        if any(part.dtype != self.dtype for part in self.parts):
            rows = [_padded(row) for row in rows]
        return torch.cat(rows, dim=1)

    def unpack(self, packed: Tensor) -> list[Tensor]:
        """Return the tensors of packed rows, each (k, *shape)."""
        return [part.of(packed) for part in self.parts]


def _padded(row: Tensor) -> Tensor:
    octets = (
        row.contiguous().view(torch.uint8)
        if row.shape[1]
        else row.new_empty(row.shape).to(torch.uint8)
    )
    missing = _aligned(octets.shape[1]) - octets.shape[1]
    return torch.nn.functional.pad(octets, (0, missing))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES
