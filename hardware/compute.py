"""RUN: gathers the inputs of a launch, calls its cell and writes the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from dynpartition.errors import DeviceLost, ModelError
from dynpartition.hardware.losses import OutOfMemoryOn, is_of_cuda, is_out_of_memory
from dynpartition.hardware.memory import Arena, trim_heap
from dynpartition.hardware.messages import Argument, Call, RunOrder
from dynpartition.models.variants import variant_of


class CellCall:
    """One call of a cell, with every view made beforehand."""

    __slots__ = ("_arena", "_arguments", "_call", "_cell", "_gathered", "_index", "_output")

    def __init__(
        self, cell: nn.Module, arena: Arena, call: Call, index: Sequence[Tensor | None]
    ) -> None:
        """`index`: per argument int64 (k,) rows on the device, for those that are gathered."""
        self._cell, self._arena, self._call, self._index = cell, arena, call, index
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

    @property
    def size(self) -> int:
        """Number of tasks."""
        return self._call.size

    def halves(self) -> list[CellCall]:
        """Return two calls that do the same, each with half of the tasks."""
        middle = self.size // 2
        return [self._part(0, middle), self._part(middle, self.size)]

    def _part(self, begin: int, end: int) -> CellCall:
        call, arguments = self._call, list[Argument]()
        for argument in call.arguments:
            row = argument.row if argument.rows else argument.row + begin
            rows = argument.rows[8 * begin : 8 * end]
            arguments.append(Argument(argument.shape, argument.dtype, row, rows))
        row, size = call.row + begin, end - begin
        part = Call(arguments, call.shape, call.dtype, row, size, call.variant)
        index = [None if one is None else one[begin:end] for one in self._index]
        return CellCall(self._cell, self._arena, part, index)

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

    __slots__ = ("_calls", "_place", "_relieve", "cell")

    def __init__(
        self,
        cell: str,
        calls: Sequence[Callable[[], None]],
        place: str,
        relieve: Callable[[], None] = trim_heap,
    ) -> None:
        """`relieve` gives memory back that is kept for later."""
        self.cell = cell
        self._calls = list(calls)
        self._place = place
        self._relieve = relieve

    def run(self, repeats: int = 1) -> None:
        """Compute the outputs `repeats` times, in smaller batches where there is no memory.

        Raises OutOfMemoryOn where there is none for one task, and DeviceLost when the cell raises
        anything else; what CUDA raises is not the cell's, and stays as it is.
        """
        for _ in range(repeats):
            at = 0
            while at < len(self._calls):
                try:
                    self._calls[at]()
                    at += 1
                except Exception as error:
                    if is_of_cuda(error):
                        raise
                    self._make_smaller(at, error)

    def _make_smaller(self, at: int, error: Exception) -> None:
        """Put two halves in the place of a call that has found no memory, for later runs too."""
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        where = f"{self._place} was lost in a launch of {self.cell}: {what}"
        if not is_out_of_memory(error):
            raise DeviceLost(f"{where}; correct the cell and open a new backend") from error
        call = self._calls[at]
        if not isinstance(call, CellCall) or call.size == 1:
            raise OutOfMemoryOn(f"{where}; place less on it", self._place) from error
        self._calls[at : at + 1] = call.halves()
        self._relieve()


def launch_on_host(
    order: RunOrder, cells: Mapping[str, nn.Module], arena: Arena, place: str
) -> LaunchCall:
    """Return a launch whose arena and indices lie in host memory."""
    cell = cells[order.cell]
    calls = [
        CellCall(
            variant_of(cell, call.variant),
            arena,
            call,
            [_index(argument) for argument in call.arguments],
        )
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
