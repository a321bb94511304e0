"""RUN: gathers the inputs of a launch, calls its cell and writes the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from dynpartition.errors import DeviceLost, ModelError
from dynpartition.hardware.memory import Arena, size_bytes
from dynpartition.hardware.messages import Batch, RunOrder, Slot


class BatchCall:
    """One call of a cell, with every view made beforehand."""

    __slots__ = ("_arguments", "_cell", "_output", "_parts")

    def __init__(self, cell: nn.Module, arena: Arena, batch: Batch) -> None:
        self._cell = cell
        self._output = arena.tensor(batch.output, batch.size)  # (k, *output_shape)
        self._arguments = [_view(arena, slots) for slots in batch.arguments]
        self._parts = [
            (position, [arena.tensor(slot) for slot in slots])
            for position, slots in enumerate(batch.arguments)
            if not _is_adjacent(slots)
        ]

    def __call__(self) -> None:
        """Compute the outputs of all tasks of the batch."""
        arguments = self._arguments
        if self._parts:
            arguments = list(arguments)
            for position, parts in self._parts:
                arguments[position] = torch.cat(parts)  # (k, *shape)
        result: Tensor = self._cell(*arguments)
        if result.shape != self._output.shape:
            raise ModelError(
                f"the cell returned shape {tuple(result.shape)} where its tasks announced"
                f" {tuple(self._output.shape)}; correct output_shape or the cell"
            )
        self._output.copy_(result)


class LaunchCall:
    """All calls of one launch."""

    __slots__ = ("_calls", "_place", "cell")

    def __init__(
        self, order: RunOrder, cells: Mapping[str, nn.Module], arena: Arena, place: str
    ) -> None:
        self.cell = order.cell
        self._place = place
        self._calls = [BatchCall(cells[order.cell], arena, batch) for batch in order.batches]

    def run(self, repeats: int = 1) -> None:
        """Compute the outputs `repeats` times; DeviceLost when the cell raises."""
        try:
            for _ in range(repeats):
                for call in self._calls:
                    call()
        except Exception as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise DeviceLost(
                f"{self._place} was lost in a launch of {self.cell}: {what};"
                " correct the cell and open a new backend"
            ) from error


class Repeater:
    """Slows a device by repeating work: 1/speed executions on average, remainders carried over."""

    def __init__(self, speed: float) -> None:
        self._speed = Fraction(speed).limit_denominator(10_000)
        self._credit = 0

    def next(self) -> int:
        """Return how often the next launch runs."""
        self._credit += self._speed.denominator
        repeats, self._credit = divmod(self._credit, self._speed.numerator)
        return repeats


def _is_adjacent(slots: Sequence[Slot]) -> bool:
    if len(slots) == 1:
        return True
    first = slots[0]
    step = size_bytes(first.shape, first.dtype)
    return all(slot.offset == first.offset + i * step for i, slot in enumerate(slots))


def _view(arena: Arena, slots: Sequence[Slot]) -> Tensor:
    """Return the argument as one view; of the first task alone where a gather replaces it."""
    return arena.tensor(slots[0], len(slots) if _is_adjacent(slots) else 1)
