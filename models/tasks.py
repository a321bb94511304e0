"""Tasks of a run: what one input of a dynamic network asks for, step by step.

A run opens with the tasks that are known from the start. When a task that `reveals` has finished,
the run expands by the tasks that its output calls for. Tasks of a run are numbered 0, 1, 2, … in
the order in which they are returned, and read only tasks with smaller numbers.

A model says so task by task (`NewTask`), or many at a time as arrays (`TaskBlock`), which is what
backends work with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynpartition.errors import ModelError
from dynpartition.graph import Cell, TaskGraph
from dynpartition.types import IntArray, Ragged, frozen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewTask:
    """One call of one cell, as a run asks for it."""

    cell: str
    inputs: tuple[int, ...] = ()
    """Numbers of the tasks whose outputs the cell reads, in argument order."""
    output_shape: tuple[int, ...]
    """Shape of the output, without the batch axis."""
    output_dtype: torch.dtype = torch.float32
    host_input: Tensor | None = None
    """Last argument of the cell, without the batch axis, any dtype; never written to."""
    returns: bool = False
    """Whether the output is part of the answer."""
    reveals: bool = False
    """Whether the output decides which further tasks exist."""
    variant: str = ""
    """What the task does besides calling its cell, for cells with variants."""

    @property
    def kind(self) -> TaskKind:
        """What it has in common with others."""
        host = self.host_input
        return TaskKind(
            self.cell,
            tuple(self.output_shape),
            None if host is None else tuple(host.shape),
            torch.float32 if host is None else host.dtype,
            self.returns,
            self.reveals,
            self.output_dtype,
            self.variant,
        )

    @property
    def output_bytes(self) -> int:
        """Size of the output."""
        return self.kind.output_bytes

    @property
    def host_bytes(self) -> int:
        """Size of the host input."""
        return self.kind.host_bytes


@dataclass(frozen=True, slots=True)
class TaskKind:
    """What tasks have in common, besides what they read. See `NewTask` for the meaning."""

    cell: str
    output_shape: tuple[int, ...]
    host_shape: tuple[int, ...] | None = None
    """Shape of the host input; None: there is none."""
    host_dtype: torch.dtype = torch.float32
    returns: bool = False
    reveals: bool = False
    output_dtype: torch.dtype = torch.float32
    variant: str = ""

    @property
    def output_bytes(self) -> int:
        """Size of the output."""
        return math.prod(self.output_shape) * self.output_dtype.itemsize

    @property
    def host_bytes(self) -> int:
        """Size of the host input; 0 where there is none."""
        shape = self.host_shape
        return 0 if shape is None else math.prod(shape) * self.host_dtype.itemsize


Tensors = Sequence[Tensor] | Tensor
"""k tensors of one shape, or one tensor (k, *shape)."""


@dataclass(frozen=True, eq=False)
class TaskBlock:
    """n tasks as arrays; the same as a list of `NewTask`, without an object for each."""

    kinds: tuple[TaskKind, ...]
    kind_of: IntArray
    """(n,) index of each task's kind."""
    inputs: Ragged
    """n rows of task numbers of the run, in argument order."""
    host_inputs: Mapping[int, Tensors] = field(default_factory=dict)
    """Kind → the host inputs of its tasks, in task order; for all kinds that have some."""
    request: IntArray | None = None
    """(n,) which of several merged inputs each task belongs to; None: all to the first."""

    @staticmethod
    def of(tasks: Sequence[NewTask]) -> TaskBlock:
        """Return the tasks as arrays."""
        number: dict[TaskKind, int] = {}
        kind_of = [number.setdefault(task.kind, len(number)) for task in tasks]
        fed: dict[int, list[Tensor]] = {}
        for kind, task in zip(kind_of, tasks, strict=True):
            if task.host_input is not None:
                fed.setdefault(kind, []).append(task.host_input)
        inputs = Ragged.of([task.inputs for task in tasks])
        return TaskBlock(tuple(number), frozen(kind_of), inputs, fed)

    def __len__(self) -> int:
        return len(self.kind_of)

    def tasks(self) -> list[NewTask]:
        """Return the tasks one by one."""
        fed = {kind: iter(tensors) for kind, tensors in self.host_inputs.items()}
        return [
            NewTask(
                cell=self.kinds[kind].cell,
                inputs=inputs,
                output_shape=self.kinds[kind].output_shape,
                output_dtype=self.kinds[kind].output_dtype,
                host_input=next(fed[kind]) if kind in fed else None,
                returns=self.kinds[kind].returns,
                reveals=self.kinds[kind].reveals,
                variant=self.kinds[kind].variant,
            )
            for kind, inputs in zip(self.kind_of.tolist(), self.inputs.rows, strict=True)
        ]


class Outputs(Mapping[int, Tensor]):
    """Outputs of tasks by number, each without the batch axis."""

    @abstractmethod
    def stack(self, numbers: Iterable[int]) -> Tensor:
        """Return the outputs of k tasks of one shape: (k, *shape)."""


def as_numbers(numbers: Iterable[int]) -> IntArray:
    """Return task numbers as an array."""
    if isinstance(numbers, range):
        return np.arange(numbers.start, numbers.stop, numbers.step)
    return np.asarray(numbers if isinstance(numbers, np.ndarray) else list(numbers), np.int64)


def stack_outputs(outputs: Mapping[int, Tensor], numbers: Iterable[int]) -> Tensor:
    """Return the outputs of k tasks of one shape: (k, *shape)."""
    if isinstance(outputs, Outputs):
        return outputs.stack(numbers)
    return torch.stack([outputs[number] for number in numbers])


class ModelRun(ABC):
    """One input on its way through a model. It counts its tasks, so it serves one execution."""

    @abstractmethod
    def opening(self) -> list[NewTask]:
        """Return the tasks that are known from the start; call it once, first."""

    def expand(self, task: int, output: Tensor) -> list[NewTask]:
        """Return the tasks, at least one, that the output of revealing task `task` calls for.

        `output` has no batch axis and lies on the CPU.
        Call it once per revealing task, in the order of their numbers where several are due.
        Raises ModelError for a task that reveals nothing, as all of them do by default.
        """
        raise ModelError(f"task {task} reveals nothing; expand only tasks with reveals=True")

    @abstractmethod
    def answer(self, outputs: Mapping[int, Tensor]) -> Any:
        """Assemble the model's result from the outputs of all tasks that return."""

    def opening_block(self) -> TaskBlock:
        """Return `opening` as arrays; call one of the two."""
        return TaskBlock.of(self.opening())

    def expansion_block(self, task: int, output: Tensor) -> TaskBlock:
        """Return `expand` as arrays; call one of the two."""
        return TaskBlock.of(self.expand(task, output))

    def answers(self, outputs: Mapping[int, Tensor]) -> list[Any]:
        """Return the results of all inputs of the run: one, unless inputs were merged."""
        return [self.answer(outputs)]


class StaticRun(ModelRun):
    """The run of an input whose tasks are all known from the start."""

    def __init__(
        self,
        tasks: Sequence[NewTask] | TaskBlock,
        answer: Callable[[Mapping[int, Tensor]], Tensor],
    ) -> None:
        self._tasks = tasks
        self._answer = answer

    def opening(self) -> list[NewTask]:
        """Return all tasks."""
        tasks = self._tasks
        return tasks.tasks() if isinstance(tasks, TaskBlock) else list(tasks)

    def opening_block(self) -> TaskBlock:
        """Return all tasks as arrays."""
        tasks = self._tasks
        return tasks if isinstance(tasks, TaskBlock) else TaskBlock.of(tasks)

    def answer(self, outputs: Mapping[int, Tensor]) -> Any:
        """Assemble the result as the model said."""
        return self._answer(outputs)


def graph_of(
    cells: Sequence[Cell], tasks: Sequence[NewTask], revealed_by: Sequence[int], *, name: str = ""
) -> TaskGraph:
    """Return the task graph of the first tasks of a run; `revealed_by` is -1 where known at once.

    Cheap (tens of µs for a hundred tasks), because a run's tasks need no checks: they read and are
    revealed by smaller numbers only.
    """
    return block_graph(cells, TaskBlock.of(tasks), frozen(revealed_by), name=name)


def block_graph(
    cells: Sequence[Cell],
    block: TaskBlock,
    revealed_by: IntArray,
    *,
    name: str = "",
) -> TaskGraph:
    """Return the task graph of the first tasks of a run."""
    number = {cell.name: position for position, cell in enumerate(cells)}
    kinds, kind_of = block.kinds, block.kind_of
    zeros = frozen(np.zeros(len(block), dtype=np.int64))

    def of_kind(values: list[int]) -> IntArray:
        return frozen(np.array(values, dtype=np.int64)[kind_of])

    return TaskGraph(
        name=name,
        cells=tuple(cells),
        ids=frozen(np.arange(len(block))),
        cell_of=of_kind([number[kind.cell] for kind in kinds]),
        inputs=block.inputs,
        output_bytes=of_kind([kind.output_bytes for kind in kinds]),
        host_bytes=of_kind([kind.host_bytes for kind in kinds]),
        arrival_ns=zeros,
        request=zeros if block.request is None else frozen(block.request),
        revealed_by=revealed_by,
        returns=of_kind([kind.returns for kind in kinds]),
        durations={},
    )
