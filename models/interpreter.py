"""Running tasks: one launch of a cell, and the interpreter that runs a whole run node by node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynpartition.models.tasks import ModelRun, NewTask
from dynpartition.models.variants import variant_of


def task_arguments(task: NewTask, outputs: Mapping[int, Tensor]) -> list[Tensor]:
    """Return the arguments of one call of the task's cell, without the batch axis."""
    host = [] if task.host_input is None else [task.host_input]
    return [*(outputs[source] for source in task.inputs), *host]


def call_cell(cell: nn.Module, rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Run one launch: `rows` of arguments without batch axis → as many outputs.

    Tasks of one cell may differ in argument count and shapes (sums of two and of three terms); the
    rows that agree are stacked, each such group is one call of the cell.
    """
    outputs: dict[int, Tensor] = {}
    for members in _alike(rows):
        columns = zip(*(rows[member] for member in members), strict=True)
        stacked = [torch.stack(column) for column in columns]  # each (k, *shape)
        outputs.update(zip(members, cell(*stacked), strict=True))
    return [outputs[position] for position in range(len(rows))]


def _alike(rows: Sequence[Sequence[Tensor]]) -> list[list[int]]:
    groups: dict[tuple[torch.Size, ...], list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(tuple(argument.shape for argument in row), []).append(position)
    return list(groups.values())


class Interpreter:
    """Runs the tasks of one run node by node (one task per call) on the CPU."""

    def __init__(self, cells: Mapping[str, nn.Module], run: ModelRun) -> None:
        self.cells = cells
        self.run = run
        self.tasks: list[NewTask] = run.opening()
        self.revealed_by = [-1] * len(self.tasks)
        self.outputs: dict[int, Tensor] = {}

    def revealing(self) -> Iterator[int]:
        """Yield the numbers of revealing tasks, those of expansions made meanwhile too."""
        for number, task in enumerate(self.tasks):  # the list may grow between two steps
            if task.reveals:
                yield number

    def missing(self, task: int) -> list[int]:
        """Return `task` and what it needs, ascending, as far as not computed yet."""
        needed, pending = set(), [task]
        while pending:
            number = pending.pop()
            if number not in needed and number not in self.outputs:
                needed.add(number)
                pending += self.tasks[number].inputs
        return sorted(needed)

    @torch.inference_mode()
    def compute(self, numbers: Sequence[int]) -> None:
        """Run the given tasks in the order given; what they read must have been computed."""
        for number in numbers:
            task = self.tasks[number]
            arguments = task_arguments(task, self.outputs)
            cell = variant_of(self.cells[task.cell], task.variant)
            self.outputs[number] = call_cell(cell, [arguments])[0]

    def expand(self, task: int) -> None:
        """Append the tasks that the output of `task` calls for."""
        revealed = self.run.expand(task, self.outputs[task])
        self.tasks += revealed
        self.revealed_by += [task] * len(revealed)

    @torch.inference_mode()
    def answer(self) -> Any:
        """Return the result, once all tasks have been computed."""
        returned = [number for number, task in enumerate(self.tasks) if task.returns]
        return self.run.answer({number: self.outputs[number] for number in returned})


def unfold(cells: Mapping[str, nn.Module], run: ModelRun) -> tuple[list[NewTask], list[int]]:
    """Return all tasks of a fresh `run` and the revealer of each, -1 where there is none."""
    interpreter = Interpreter(cells, run)
    for task in interpreter.revealing():
        interpreter.compute(interpreter.missing(task))
        interpreter.expand(task)
    return interpreter.tasks, interpreter.revealed_by
