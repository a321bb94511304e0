"""Runs of several inputs, numbered as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from dynpartition.errors import InputError
from dynpartition.models.tasks import (
    ModelRun,
    NewTask,
    Outputs,
    TaskBlock,
    TaskKind,
    as_numbers,
    stack_outputs,
)
from dynpartition.types import IntArray, Ragged, frozen


class MergedRun(ModelRun):
    """The runs of several inputs, numbered as one."""

    def __init__(self, runs: Sequence[ModelRun]) -> None:
        self._runs = runs
        self._numbers: list[IntArray] = []
        """Per run: number in the run → number here."""
        self._first: list[int] = []
        """Number here of the first task of each run that was known from the start."""
        self._owner: list[int] = []
        """Run of each task that was revealed."""
        self._n_tasks = self._n_opening = 0

    def opening(self) -> list[NewTask]:
        """Return the tasks of all runs that are known from the start."""
        return self.opening_block().tasks()

    def opening_block(self) -> TaskBlock:
        """Return the tasks of all runs that are known from the start, run by run."""
        blocks = [run.opening_block() for run in self._runs]
        ends = np.cumsum([0] + [len(block) for block in blocks])
        self._first = ends[:-1].tolist()
        self._numbers = [np.arange(a, b) for a, b in pairwise(ends.tolist())]
        self._n_tasks = self._n_opening = int(ends[-1])
        return joined_blocks(blocks, self._first)

    def expand(self, task: int, output: Tensor) -> list[NewTask]:
        """Return what the output of `task` calls for."""
        return self.expansion_block(task, output).tasks()

    def expansion_block(self, task: int, output: Tensor) -> TaskBlock:
        """Return what the output of `task` calls for, with the numbers used here."""
        owner = self._owner_of(task)
        numbers = self._numbers[owner]
        local = int(np.searchsorted(numbers, task))
        block = self._runs[owner].expansion_block(local, output)
        fresh = np.arange(self._n_tasks, self._n_tasks + len(block))
        self._n_tasks += len(block)
        self._owner += [owner] * len(block)
        self._numbers[owner] = numbers = np.concatenate([numbers, fresh])
        inputs = Ragged(block.inputs.start, frozen(numbers[block.inputs.values]))
        request = np.full(len(block), owner)
        return TaskBlock(block.kinds, block.kind_of, inputs, block.host_inputs, request)

    def _owner_of(self, task: int) -> int:
        if task < self._n_opening:
            return bisect_right(self._first, task) - 1
        return self._owner[task - self._n_opening]

    def answer(self, outputs: Mapping[int, Tensor]) -> Any:
        """Return the only answer; InputError where several inputs were merged."""
        if len(self._runs) != 1:
            raise InputError(
                f"{len(self._runs)} inputs were merged; ask for answers(), one of each"
            )
        return self.answers(outputs)[0]

    def answers(self, outputs: Mapping[int, Tensor]) -> list[Any]:
        """Return the answer of each input, in their order."""
        return [
            answer
            for run, numbers in zip(self._runs, self._numbers, strict=True)
            for answer in run.answers(_Part(outputs, numbers))
        ]


class _Part(Outputs):
    """One run's share of the outputs of all."""

    def __init__(self, outputs: Mapping[int, Tensor], numbers: IntArray) -> None:
        self._outputs = outputs
        self._numbers = numbers

    def __getitem__(self, number: int) -> Tensor:
        if not 0 <= number < len(self._numbers):
            raise KeyError(number)
        return self._outputs[int(self._numbers[number])]

    def __iter__(self) -> Iterator[int]:
        there = (int(number) in self._outputs for number in self._numbers)
        return (number for number, is_there in enumerate(there) if is_there)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def stack(self, numbers: Iterable[int]) -> Tensor:
        """Return the outputs of k tasks of one shape: (k, *shape)."""
        return stack_outputs(self._outputs, self._numbers[as_numbers(numbers)])


def joined_blocks(blocks: Sequence[TaskBlock], first: Sequence[int]) -> TaskBlock:
    """Return blocks one after the other, the numbers that they read raised by `first` of each."""
    number: dict[TaskKind, int] = {}
    kind_of, fed = [], dict[int, list[Tensor]]()
    for block in blocks:
        own = [number.setdefault(kind, len(number)) for kind in block.kinds]
        kind_of.append(np.array(own, dtype=np.int64)[block.kind_of])
        for kind, tensors in block.host_inputs.items():
            fed.setdefault(own[kind], []).extend(tensors)
    inputs = joined_rows([block.inputs for block in blocks], first)
    request = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    return TaskBlock(tuple(number), frozen(np.concatenate(kind_of)), inputs, fed, request)


def joined_rows(rows: Sequence[Ragged], offsets: Sequence[int]) -> Ragged:
    """Return the rows of all, values raised by the offset of each."""
    values = [one.values + offset for one, offset in zip(rows, offsets, strict=True)]
    n_values = np.cumsum([0] + [len(one.values) for one in rows])[:-1].tolist()
    starts = [one.start[1:] + offset for one, offset in zip(rows, n_values, strict=True)]
    return Ragged(frozen(np.concatenate([[0], *starts])), frozen(np.concatenate(values)))
