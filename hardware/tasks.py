"""The tasks of a session that are known so far, as arrays that grow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynpartition.graph import Cell, TaskGraph
from dynpartition.models import TaskBlock, TaskKind
from dynpartition.models.tasks import block_graph
from dynpartition.types import IntArray, Ragged, frozen

NO_INPUT = -1


class KnownTasks:
    """N tasks of K kinds, by number."""

    def __init__(self) -> None:
        self.kinds: list[TaskKind] = []
        self.kind_of = _empty()
        """(N,) kind of each task."""
        self.inputs = Ragged(np.zeros(1, dtype=np.int64), _empty())
        """N rows of task numbers."""
        self.revealed_by = _empty()
        """(N,) -1 where known from the start."""
        self.request = _empty()
        """(N,) which of several merged inputs each task belongs to."""
        self.output_bytes = self.host_bytes = self.shape_of = _empty()
        """(K,) bytes of outputs; of host inputs, NO_INPUT where there is none; a number per shape
        and type of outputs."""
        self._number: dict[TaskKind, int] = {}

    def __len__(self) -> int:
        return len(self.kind_of)

    def kind(self, task: int) -> TaskKind:
        """Return the kind of a task."""
        return self.kinds[int(self.kind_of[task])]

    def append(self, block: TaskBlock, revealer: int) -> list[int]:
        """Append tasks; return the kinds here of the block's kinds."""
        own = [self._number.setdefault(kind, len(self._number)) for kind in block.kinds]
        if len(self._number) > len(self.kinds):
            self._count_kinds()
        fresh = np.array(own, dtype=np.int64)[block.kind_of]
        if len(self):
            self.kind_of = np.concatenate([self.kind_of, fresh])
            start = np.concatenate(
                [self.inputs.start, block.inputs.start[1:] + len(self.inputs.values)]
            )
            values = np.concatenate([self.inputs.values, block.inputs.values])
            self.inputs = Ragged(frozen(start), frozen(values))
        else:
            self.kind_of, self.inputs = fresh, block.inputs
        reveals = np.full(len(block), revealer)
        self.revealed_by = np.concatenate([self.revealed_by, reveals])
        request = np.zeros(len(block), np.int64) if block.request is None else block.request
        self.request = np.concatenate([self.request, request])
        return own

    def _count_kinds(self) -> None:
        self.kinds = list(self._number)
        formats = [(kind.output_shape, kind.output_dtype) for kind in self.kinds]
        number = {one: i for i, one in enumerate(dict.fromkeys(formats))}
        host = [NO_INPUT if k.host_shape is None else k.host_bytes for k in self.kinds]
        self.shape_of = np.array([number[one] for one in formats])
        self.host_bytes = np.array(host)
        self.output_bytes = np.array([kind.output_bytes for kind in self.kinds])

    def graph(self, cells: Sequence[Cell], name: str) -> TaskGraph:
        """Return the tasks as schedulers see them."""
        block = TaskBlock(tuple(self.kinds), self.kind_of, self.inputs, {}, self.request)
        return block_graph(cells, block, frozen(self.revealed_by), name=name)

    def where(self, *, returns: bool = False, reveals: bool = False) -> IntArray:
        """Return the numbers of the tasks that return, or reveal, or do either."""
        wanted = [(returns and k.returns) or (reveals and k.reveals) for k in self.kinds]
        return np.flatnonzero(np.array(wanted, dtype=np.bool_)[self.kind_of])


def _empty() -> IntArray:
    return np.empty(0, dtype=np.int64)
