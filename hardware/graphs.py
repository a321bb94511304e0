"""Calls that a GPU replays: a gather, a cell and a scatter as one captured graph.

A small cell is some ten kernels, and starting them takes longer than they run. A captured call is
started at once. It serves every launch of its cell with as many tasks or fewer: which rows it reads
and writes stands in an index tensor of its own, which is written before each replay. Empty places
compute the first task once more.

k tasks of a call, b places of a captured call, A arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynpartition.hardware.compute import CellCall, LaunchCall
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import Call, RunOrder
from dynpartition.hardware.streams import StreamApi
from dynpartition.models.variants import variant_of
from dynpartition.types import IntArray

PLACES_MAX = 256
"""Larger calls are not captured: starting their kernels takes less time than they run."""

Format = tuple[tuple[int, ...], str]
"""Shape and dtype."""


@dataclass(frozen=True)
class CallKind:
    """What calls that one capture serves have in common."""

    cell: str
    arguments: tuple[Format, ...]
    output: Format
    n_places: int
    variant: str = ""


@dataclass(frozen=True, eq=False)
class Captured:
    """A call on the device."""

    index: Tensor
    """int64 (A + 1, b): rows read per argument, and rows written."""
    replay: Callable[[], None]
    """Does the call on the current stream."""


@dataclass(eq=False)
class GraphCache:
    """What has been captured on one device, and what calls were asked for before they were."""

    api: StreamApi[Any, Any]
    stream: Any
    """The compute stream."""
    cells: Mapping[str, nn.Module]
    arena: Arena
    captured: dict[CallKind, Captured | None] = field(default_factory=dict)
    """None: the cell cannot be captured, so it is called."""
    wanted: dict[CallKind, IntArray] = field(default_factory=dict)
    """With the rows that the last such call has read and written."""
    version: int = 0
    """Changes with what has been captured."""
    unsteady: set[str] = field(default_factory=set)
    """Cells whose weights come and go: never captured, because a capture holds addresses."""

    def forget(self, cells: Iterable[str]) -> None:
        """Capture these cells no more: their weights are evicted from now on."""
        fresh = set(cells) - self.unsteady
        if fresh:
            self.unsteady |= fresh
            self.version += 1
            self.captured = {k: one for k, one in self.captured.items() if k.cell not in fresh}
            self.wanted = {k: rows for k, rows in self.wanted.items() if k.cell not in fresh}

    def capture_wanted(self) -> None:
        """Capture what was asked for, after a session has finished and before the next one.

        A call is made once to be captured: on what the session has left, which it writes again. A
        cell may take a number for an index, and other memory holds anything.
        """
        with torch.inference_mode():
            for kind, rows in self.wanted.items():
                self.captured[kind] = self._capture(kind, rows)
                self.version += 1
        self.wanted.clear()

    def _capture(self, kind: CallKind, rows: IntArray) -> Captured | None:
        arena, cell = self.arena, variant_of(self.cells[kind.cell], kind.variant)
        sources = [arena.rows(shape, dtype) for shape, dtype in kind.arguments]
        target = arena.rows(*kind.output)
        try:
            index = self.api.upload(self.stream, rows.reshape(-1)).view(*rows.shape)

            def work() -> None:
                arguments = [source.index_select(0, index[i]) for i, source in enumerate(sources)]
                target.index_copy_(0, index[-1], cell(*arguments))

            return Captured(index, self.api.capture(self.stream, work))
        except RuntimeError:
            # It waits for the device, or is otherwise not made of kernels alone, or has no memory.
            return None

    def launches(self, runs: Sequence[RunOrder], place: str) -> dict[int, LaunchCall]:
        """Return launch → its calls; one copy brings all their indices to the device."""
        kinds = [[_kind(run.cell, call) for call in run.calls] for run in runs]
        tables = [
            _table(call, kind.n_places)
            for run, row in zip(runs, kinds, strict=True)
            for call, kind in zip(run.calls, row, strict=True)
        ]
        if not tables:
            return {}
        flat = self.api.upload(self.stream, np.concatenate([table.reshape(-1) for table in tables]))
        indices = zip(_split(flat, tables), tables, strict=True)
        return {
            run.launch: LaunchCall(
                run.cell,
                [
                    self._call(run.cell, call, kind, *next(indices))
                    for call, kind in zip(run.calls, row, strict=True)
                ],
                place,
                self.api.relieve,
            )
            for run, row in zip(runs, kinds, strict=True)
        }

    def _call(
        self, cell: str, call: Call, kind: CallKind, index: Tensor, table: IntArray
    ) -> Callable[[], None]:
        captured = self.captured.get(kind)
        if captured is not None:
            return CapturedCall(captured, index)
        is_steady = cell not in self.unsteady
        if is_steady and kind not in self.captured and kind.n_places <= PLACES_MAX:
            self.wanted[kind] = table
        rows = [index[at, : call.size] for at in range(len(call.arguments))]
        return CellCall(variant_of(self.cells[cell], call.variant), self.arena, call, rows)


class CapturedCall:
    """One launch's use of a captured call."""

    __slots__ = ("_captured", "_index")

    def __init__(self, captured: Captured, index: Tensor) -> None:
        self._captured = captured
        self._index = index

    def __call__(self) -> None:
        """Name the rows and replay."""
        self._captured.index.copy_(self._index)
        self._captured.replay()


def places(count: int) -> int:
    """Return how many places a captured call for `count` tasks has: the next power of two."""
    return 1 << (count - 1).bit_length()


def _kind(cell: str, call: Call) -> CallKind:
    formats = tuple([(argument.shape, argument.dtype) for argument in call.arguments])
    n_places = places(call.size)
    output = call.shape, call.dtype
    n_served = n_places if n_places <= PLACES_MAX else call.size
    return CallKind(cell, formats, output, n_served, call.variant)


def _table(call: Call, n_places: int) -> IntArray:
    """Return int64 (A + 1, b): the rows of each argument and of the output, filled up."""
    table = np.empty((len(call.arguments) + 1, n_places), dtype=np.int64)
    following = np.arange(call.size)
    for row, argument in zip(table, call.arguments, strict=False):
        listed = np.frombuffer(argument.rows, dtype=np.int64) if argument.rows else None
        row[: call.size] = argument.row + following if listed is None else listed
    table[-1, : call.size] = call.row + following
    table[:, call.size :] = table[:, :1]
    return table


def _split(flat: Tensor, tables: Sequence[IntArray]) -> Iterator[Tensor]:
    """Yield the part of `flat` that holds each table."""
    first = 0
    for table in tables:
        yield flat[first : first + table.size].view(*table.shape)
        first += table.size
