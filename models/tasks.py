"""Tasks of a run: what one input of a dynamic network asks for, step by step.

A run opens with the tasks that are known from the start. When a task that `reveals` has finished,
the run expands by the tasks that its output calls for. Tasks of a run are numbered 0, 1, 2, … in
the order in which they are returned, and read only tasks with smaller numbers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dynpartition.errors import ModelError
from dynpartition.graph import Cell, TaskGraph
from dynpartition.types import Ragged, frozen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewTask:
    """One call of one cell, as a run asks for it."""

    cell: str
    inputs: tuple[int, ...] = ()
    """Numbers of the tasks whose outputs the cell reads, in argument order."""
    output_shape: tuple[int, ...]
    """Shape of the float32 output, without the batch axis."""
    host_input: Tensor | None = None
    """Last argument of the cell, without the batch axis, any dtype; never written to."""
    returns: bool = False
    """Whether the output is part of the answer."""
    reveals: bool = False
    """Whether the output decides which further tasks exist."""

    @property
    def output_bytes(self) -> int:
        """Size of the output."""
        return math.prod(self.output_shape) * 4

    @property
    def host_bytes(self) -> int:
        """Size of the host input."""
        return 0 if self.host_input is None else self.host_input.nbytes


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
    def answer(self, outputs: Mapping[int, Tensor]) -> Tensor:
        """Assemble the model's result from the outputs of all tasks that return."""


class StaticRun(ModelRun):
    """The run of an input whose tasks are all known from the start."""

    def __init__(
        self, tasks: Sequence[NewTask], answer: Callable[[Mapping[int, Tensor]], Tensor]
    ) -> None:
        self._tasks = tasks
        self._answer = answer

    def opening(self) -> list[NewTask]:
        """Return all tasks."""
        return list(self._tasks)

    def answer(self, outputs: Mapping[int, Tensor]) -> Tensor:
        """Assemble the result as the model said."""
        return self._answer(outputs)


def graph_of(
    cells: Sequence[Cell], tasks: Sequence[NewTask], revealed_by: Sequence[int], *, name: str = ""
) -> TaskGraph:
    """Return the task graph of the first tasks of a run; `revealed_by` is -1 where known at once.

    Cheap (tens of µs for a hundred tasks), because a run's tasks need no checks: they read and are
    revealed by smaller numbers only.
    """
    number = {cell.name: position for position, cell in enumerate(cells)}
    zeros = frozen([0] * len(tasks))
    return TaskGraph(
        name=name,
        cells=tuple(cells),
        ids=frozen(range(len(tasks))),
        cell_of=frozen([number[task.cell] for task in tasks]),
        inputs=Ragged.of([task.inputs for task in tasks]),
        output_bytes=frozen([task.output_bytes for task in tasks]),
        host_bytes=frozen([task.host_bytes for task in tasks]),
        arrival_ns=zeros,
        request=zeros,
        revealed_by=frozen(revealed_by),
        returns=frozen([task.returns for task in tasks]),
        durations={},
    )
