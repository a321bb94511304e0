"""Weights in host memory as loads read them, and cells whose weights come and go."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynpartition.hardware.shared import SharedBlock

Cells = Mapping[str, nn.Module]
"""By name."""

_ALIGNED_BYTES = 64
"""Parameters begin at multiples of this, as PyTorch's own allocators place them."""


@dataclass(frozen=True)
class _Part:
    """One parameter or buffer in the memory of its cell."""

    key: str
    begin: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def view(self, memory: Tensor) -> Tensor:
        """Return it as it lies in uint8 `memory` of its cell."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return memory[self.begin : self.begin + size].view(self.dtype).view(self.shape)


class CellPlan:
    """How the weights of one cell lie behind each other."""

    def __init__(self, cell: nn.Module) -> None:
        self.parts: list[_Part] = []
        self.size_bytes = 0
        """With what aligns them."""
        self.param_bytes = 0
        """As graphs and profiles count them."""
        for key, tensor in cell.state_dict().items():
            self.parts.append(_Part(key, self.size_bytes, tuple(tensor.shape), tensor.dtype))
            self.size_bytes += _aligned(tensor.nbytes)
            self.param_bytes += tensor.nbytes


class Slots:
    """The parameters and buffers of one cell, which point to memory that comes and goes."""

    def __init__(self, cell: nn.Module, plan: CellPlan) -> None:
        state: dict[str, Tensor] = cell.state_dict(keep_vars=True)
        self._slots = [(state[part.key], part) for part in plan.parts]
        self._nothing = [_nothing(part, state[part.key].device) for part in plan.parts]

    def fill(self, memory: Tensor) -> None:
        """Let them point into `memory`, uint8 (plan.size_bytes,)."""
        for tensor, part in self._slots:
            tensor.data = part.view(memory)

    def hollow(self) -> None:
        """Let them point to one value, NaN where there is such: a call of the cell is of no use."""
        for (tensor, _), nothing in zip(self._slots, self._nothing, strict=True):
            tensor.data = nothing


class Master:
    """The weights of all cells in one block of host memory, cell by cell."""

    def __init__(self, cells: Cells, raw: Tensor) -> None:
        """`raw`: uint8, at least `master_bytes(cells)` long."""
        self.raw = raw
        self.plans = {name: CellPlan(cell) for name, cell in cells.items()}
        self._memory = dict(self._split())

    def _split(self) -> Iterator[tuple[str, Tensor]]:
        begin = 0
        for name, plan in self.plans.items():
            yield name, self.raw[begin : begin + plan.size_bytes]
            begin += plan.size_bytes

    def memory(self, cell: str) -> Tensor:
        """Return the weights of a cell, uint8; not to be written to."""
        return self._memory[cell]

    @staticmethod
    def on(block: SharedBlock, cells: Cells) -> Master:
        """Return the master that lies in `block`."""
        return Master(cells, torch.frombuffer(block.view, dtype=torch.uint8))

    def write(self, cells: Cells) -> None:
        """Copy the weights of `cells` here."""
        for name, cell in cells.items():
            state, memory = cell.state_dict(), self._memory[name]
            for part in self.plans[name].parts:
                part.view(memory).copy_(state[part.key])


def layout_of(cells: Cells) -> str:
    """Return what masters have in common that cells can compute from alike."""
    rows = [(name, part) for name, cell in cells.items() for part in CellPlan(cell).parts]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def compute_from(cells: Cells, master: Master) -> None:
    """Let `cells` compute with the weights that lie in `master`, and forget their own."""
    for name, cell in cells.items():
        Slots(cell, master.plans[name]).fill(master.memory(name))


def master_bytes(cells: Cells) -> int:
    """Return the size of a master; at least 1, as no mapping is empty."""
    return max(1, sum(CellPlan(cell).size_bytes for cell in cells.values()))


def hollow_copies(cells: Cells) -> dict[str, nn.Module]:
    """Return copies of the cells that have no weights, without copying any."""
    return {name: _hollow_copy(cell) for name, cell in cells.items()}


def _hollow_copy(cell: nn.Module) -> nn.Module:
    state: dict[str, Tensor] = cell.state_dict(keep_vars=True)
    # What the memo holds already is not copied: empty parameters stand in for the real ones.
    memo: dict[int, object] = {id(tensor): _without_memory(tensor) for tensor in state.values()}
    return copy.deepcopy(cell, memo)


def _nothing(part: _Part, device: torch.device) -> Tensor:
    # Of the right shape: kernels that do not check would read beyond the end of an empty one.
    value = math.nan if part.dtype.is_floating_point else 0
    return torch.full((), value, dtype=part.dtype, device=device).expand(part.shape)


def _without_memory(tensor: Tensor) -> Tensor:
    nothing = torch.empty(0, dtype=tensor.dtype)
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(nothing, requires_grad=False) if is_parameter else nothing


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNED_BYTES) * _ALIGNED_BYTES
