"""What a session gives back: copies of the outputs that return, by task number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from dynpartition.hardware.memory import Arena, dtype_name
from dynpartition.hardware.tasks import KnownTasks
from dynpartition.models import Outputs, TaskKind
from dynpartition.models.tasks import as_numbers
from dynpartition.types import IntArray


def output_rows(arena: Arena, kind: TaskKind) -> Tensor:
    """Return the arena as (R, *shape) outputs of a kind of tasks."""
    return arena.rows(kind.output_shape, dtype_name(kind.output_dtype))


class CollectedOutputs(Outputs):
    """Outputs by task number; tensors of one shape and type lie in one (m, *shape)."""

    def __init__(self, tasks: KnownTasks, arena: Arena, host_row: IntArray) -> None:
        """Copy them out of the host's arena; `host_row` (N,) says where they lie."""
        self._returned = tasks.where(returns=True)
        self._shape_of = tasks.shape_of[tasks.kind_of]
        self._place = np.zeros(len(tasks), dtype=np.int64)
        self._tensors: dict[int, Tensor] = {}
        shapes = self._shape_of[self._returned]
        for shape in np.unique(shapes).tolist():
            numbers = self._returned[shapes == shape]
            rows = output_rows(arena, tasks.kind(int(numbers[0])))
            self._tensors[shape] = rows.index_select(0, torch.from_numpy(host_row[numbers]))
            self._place[numbers] = np.arange(len(numbers))

    def __getitem__(self, number: int) -> Tensor:
        at = int(np.searchsorted(self._returned, number))
        if at == len(self._returned) or self._returned[at] != number:
            raise KeyError(number)
        return self._tensors[int(self._shape_of[number])][int(self._place[number])]

    def __iter__(self) -> Iterator[int]:
        return iter(self._returned.tolist())

    def __len__(self) -> int:
        return len(self._returned)

    def stack(self, numbers: Iterable[int]) -> Tensor:
        """Return the outputs of k tasks of one shape: (k, *shape)."""
        wanted = as_numbers(numbers)
        tensor, place = self._tensors[int(self._shape_of[wanted[0]])], self._place[wanted]
        first, count = int(place[0]), len(place)
        if np.array_equal(place, np.arange(first, first + count)):
            return tensor[first : first + count]
        return tensor.index_select(0, torch.from_numpy(place))
