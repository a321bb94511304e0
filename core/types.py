"""Aliases and small array types used everywhere, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
"""int64 array: ids, bytes, nanoseconds."""

FloatArray = npt.NDArray[np.float32]
"""float32 array: features."""

BoolArray = npt.NDArray[np.bool_]
"""Boolean array: masks."""


def frozen(values: Iterable[int] | IntArray) -> IntArray:
    """Return a read-only int64 array of `values`."""
    is_array = isinstance(values, np.ndarray)
    array: IntArray = np.array(values if is_array else list(values), dtype=np.int64)
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of integers of unequal length in CSR form: `start` (R+1,), `values` (sum of rows,)."""

    start: IntArray
    values: IntArray

    @staticmethod
    def of(rows: Sequence[Sequence[int]]) -> Ragged:
        """Return the CSR form of `rows`."""
        start = np.cumsum([0] + [len(row) for row in rows])
        ragged = Ragged(frozen(start), frozen([value for row in rows for value in row]))
        ragged.__dict__["rows"] = tuple(map(tuple, rows))  # known already, no need to slice
        return ragged

    def __len__(self) -> int:
        return len(self.start) - 1

    @cached_property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The rows as tuples, for interpreters written in Python."""
        bounds, flat = self.start.tolist(), self.values.tolist()
        return tuple(tuple(flat[a:b]) for a, b in pairwise(bounds))
