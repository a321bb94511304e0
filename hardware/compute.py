"""RUN: gathers the inputs of a launch, calls its cell and writes the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from dynpartition.errors import DeviceLost, ModelError
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import Argument, Call, RunOrder


class CellCall:
    """One call of a cell, with every view made beforehand."""

    __slots__ = ("_arguments", "_cell", "_gathered", "_output")

    def __init__(
        self, cell: nn.Module, arena: Arena, call: Call, index: Sequence[Tensor | None]
    ) -> None:
        """`index`: per argument int64 (k,) rows on the device, for those that are gathered."""
        self._cell = cell
        outputs = arena.rows(call.shape, call.dtype)
        self._output = outputs.narrow(0, call.row, call.size)  # (k, *shape)
        self._arguments: list[Tensor] = []
        self._gathered: list[tuple[int, Tensor]] = []
        for position, (argument, wanted) in enumerate(zip(call.arguments, index, strict=True)):
            rows = arena.rows(argument.shape, argument.dtype)
            if argument.rows:
                assert wanted is not None
                self._gathered.append((position, wanted))
                self._arguments.append(rows)
            else:
                self._arguments.append(rows.narrow(0, argument.row, call.size))

    def __call__(self) -> None:
        """Compute the outputs of all tasks of the call."""
        arguments = self._arguments
        if self._gathered:
            arguments = list(arguments)
            for position, index in self._gathered:
                arguments[position] = arguments[position].index_select(0, index)  # (k, *shape)
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

    def __init__(self, cell: str, calls: Sequence[Callable[[], None]], place: str) -> None:
        self.cell = cell
        self._calls = calls
        self._place = place

    def run(self, repeats: int = 1) -> None:
        """Compute the outputs `repeats` times; DeviceLost when the cell raises."""
        try:
            for _ in range(repeats):
                for call in self._calls:
                    call()
        except Exception as error:
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            where = f"{self._place} was lost in a launch of {self.cell}: {what}"
            if _is_out_of_memory(error):
                raise OutOfMemoryOn(f"{where}; place less on it") from error
            raise DeviceLost(f"{where}; correct the cell and open a new backend") from error


class OutOfMemoryOn(DeviceLost):
    """Raised when a device had no memory for a launch: another one may have."""


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch's allocator for CPUs has no error of its own.
    words = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return words or isinstance(error, MemoryError | torch.OutOfMemoryError)


def launch_on_host(
    order: RunOrder, cells: Mapping[str, nn.Module], arena: Arena, place: str
) -> LaunchCall:
    """Return a launch whose arena and indices lie in host memory."""
    cell = cells[order.cell]
    calls = [
        CellCall(cell, arena, call, [_index(argument) for argument in call.arguments])
        for call in order.calls
    ]
    return LaunchCall(order.cell, calls, place)


def _index(argument: Argument) -> Tensor | None:
    if not argument.rows:
        return None
    return torch.from_numpy(np.frombuffer(argument.rows, dtype=np.int64).copy())  # to be writable


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
