"""Requests in flight on the calling thread: what is ready of all of them runs in batches.

There is nothing to place on one device, so nothing is planned: whenever a launch has ended, the
next one takes all ready tasks of one group, of whichever requests. A request that needs a value
waits for the task that reveals it alone, and one that has ended makes room for the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from dynpartition.models import ModelRun, TaskBlock, TaskKind
from dynpartition.models.variants import variant_of

LAUNCH_TASKS_MAX = 256
"""Larger batches gain nothing more, and take memory."""
PATIENCE = 4
"""A request that this many times as many requests have overtaken as are in flight goes first in
every other launch. Without that the urgency below lets one that is unlike all others wait for good,
as long as the others keep coming."""
KINDS_MAX = 10_000
"""So many kinds of tasks, and groups of them, are remembered."""


class _Group:
    """Tasks that one call of a cell can run: of one kind, with inputs of equal shapes."""

    __slots__ = ("cell", "n_known", "ready")

    def __init__(self, cell: nn.Module) -> None:
        self.cell = cell
        self.ready: list[_Task] = []
        self.n_known = 0
        """Tasks that have not run, ready or not."""

    def urgency(self) -> tuple[bool, float, int]:
        """Return what decides which group is next: the greatest goes first.

        Tasks whose output nobody waits for come late, in large batches, unless their request ends
        with them. Among others the group of which the largest share is ready: in the rest waiting
        brings more together.
        """
        first = self.ready[0]
        request = first.request
        is_last = request.n_left == request.n_ready
        is_awaited = bool(first.readers) or first.kind.reveals or is_last
        return is_awaited, len(self.ready) / self.n_known, len(self.ready)


class _Task:
    __slots__ = (
        "group",
        "host",
        "inputs",
        "kind",
        "missing",
        "number",
        "output",
        "readers",
        "request",
    )

    def __init__(self, request: _Request, number: int, kind: TaskKind, group: _Group) -> None:
        self.request = request
        self.number = number
        self.kind = kind
        self.group = group
        self.inputs: list[_Task] = []
        self.host: Tensor | None = None
        self.missing = 0
        """Inputs that have not been computed."""
        self.readers: list[_Task] = []
        self.output: Tensor | None = None


class _Request:
    """One run, and what is known of its tasks."""

    __slots__ = ("n_before", "n_left", "n_ready", "number", "run", "tasks")

    def __init__(self, number: int, run: ModelRun, n_before: int) -> None:
        self.number = number
        self.run = run
        self.n_before = n_before
        """Requests that had ended when it began."""
        self.tasks: list[_Task] = []
        self.n_left = self.n_ready = 0
        """Tasks that have not run; those of them that could."""

    def answer(self) -> Any:
        """Return the answer, once all tasks have run."""
        outputs = {
            number: task.output
            for number, task in enumerate(self.tasks)
            if task.kind.returns and task.output is not None
        }
        return self.run.answer(outputs)


class Loop:
    """Runs requests of one model on the calling thread, one loop at a time."""

    def __init__(self, cells: Mapping[str, nn.Module]) -> None:
        self._cells = cells
        self._groups: dict[tuple[int, ...], _Group] = {}
        self._busy: dict[_Group, None] = {}
        """Groups with ready tasks."""
        self._number: dict[object, int] = {}
        """Kind of task, or format of an output → number."""
        self._numbers = count()
        self._open: dict[_Request, None] = {}
        """Requests under way, the oldest first."""
        self._n_ended = 0
        self._is_oldest_next = True
        """Whose turn it is where the oldest request has been overtaken too often."""

    def run(self, runs: Iterable[ModelRun], in_flight: int) -> Iterator[tuple[int, Any]]:
        """Yield (position, answer) of every run as it ends, with `in_flight` of them under way.

        `runs` is asked again and again while there is room, so it may have more some time after it
        had none.
        """
        waiting, numbers = iter(runs), count()
        for kept in (self._groups, self._busy, self._open):
            kept.clear()
        while True:
            while len(self._open) < in_flight and (run := next(waiting, None)) is not None:
                request = _Request(next(numbers), run, self._n_ended)
                self._open[request] = None
                self._add(request, run.opening_block())
            if not self._open:
                return
            for request in self._launch(PATIENCE * in_flight):
                del self._open[request]
                self._n_ended += 1
                yield request.number, request.answer()

    def _add(self, request: _Request, block: TaskBlock) -> None:
        """Add tasks of a request, and those that are ready to their groups."""
        kinds, tasks = block.kinds, request.tasks
        fed = {kind: iter(tensors) for kind, tensors in block.host_inputs.items()}
        numbers = [self._numbered(kind) for kind in kinds]
        for at, row in zip(block.kind_of.tolist(), block.inputs.rows, strict=True):
            sources = [tasks[number] for number in row]
            formats = [self._format(source.kind) for source in sources]
            group = self._group((numbers[at], *formats), kinds[at])
            task = _Task(request, len(tasks), kinds[at], group)
            task.inputs = sources
            if at in fed:
                task.host = next(fed[at])
            for source in sources:
                if source.output is None:
                    source.readers.append(task)
                    task.missing += 1
            tasks.append(task)
            group.n_known += 1
            if not task.missing:
                self._make_ready(task)
        request.n_left += len(block)

    def _numbered(self, what: object) -> int:
        if len(self._number) >= KINDS_MAX:
            self._number.clear()  # numbers go on, so groups of old ones stay apart
        found = self._number.get(what)
        if found is None:
            found = self._number[what] = next(self._numbers)
        return found

    def _format(self, kind: TaskKind) -> int:
        return self._numbered((kind.output_shape, kind.output_dtype))

    def _group(self, key: tuple[int, ...], kind: TaskKind) -> _Group:
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= KINDS_MAX:
                self._groups.clear()  # their tasks keep them
            cell = variant_of(self._cells[kind.cell], kind.variant)
            group = self._groups[key] = _Group(cell)
        return group

    def _make_ready(self, task: _Task) -> None:
        task.group.ready.append(task)
        task.request.n_ready += 1
        self._busy[task.group] = None

    def _next_group(self, overtaken_max: int) -> _Group:
        """Return the most urgent group, or one of the oldest request where it has to wait long."""
        oldest = next(iter(self._open))
        if self._n_ended - oldest.n_before >= overtaken_max:
            self._is_oldest_next = not self._is_oldest_next
            if not self._is_oldest_next:
                busy = self._busy
                return next(g for g in busy if any(task.request is oldest for task in g.ready))
        return max(self._busy, key=_Group.urgency)

    def _launch(self, overtaken_max: int) -> list[_Request]:
        """Run ready tasks of the next group; return the requests that have ended."""
        group = self._next_group(overtaken_max)
        tasks, group.ready = group.ready[:LAUNCH_TASKS_MAX], group.ready[LAUNCH_TASKS_MAX:]
        if not group.ready:
            del self._busy[group]
        group.n_known -= len(tasks)
        with torch.inference_mode():
            outputs = group.cell(*_columns(tasks))
        # Outside of inference mode: what models and callers get are ordinary tensors.
        if tasks[0].kind.reveals or tasks[0].kind.returns:
            outputs = outputs.clone()
        for task, output in zip(tasks, outputs.unbind(0), strict=True):
            task.output = output
            for reader in task.readers:
                reader.missing -= 1
                if not reader.missing:
                    self._make_ready(reader)
        return [task.request for task in tasks if self._has_ended(task)]

    def _has_ended(self, task: _Task) -> bool:
        """Go on after a task; return whether it was the last one of its request."""
        request = task.request
        request.n_left -= 1
        request.n_ready -= 1
        if task.kind.reveals:
            assert task.output is not None
            self._add(request, request.run.expansion_block(task.number, task.output))
        return not request.n_left


def _columns(tasks: Sequence[_Task]) -> list[Tensor]:
    """Return the arguments of k tasks: (k, *shape) each."""
    if len(tasks) == 1:
        (task,) = tasks
        given = [source.output for source in task.inputs]
        columns = [output.unsqueeze(0) for output in given if output is not None]
        return columns if task.host is None else [*columns, task.host.unsqueeze(0)]
    columns = []
    for column in range(len(tasks[0].inputs)):
        rows = [task.inputs[column].output for task in tasks]
        columns.append(torch.stack([row for row in rows if row is not None]))
    if tasks[0].host is not None:
        columns.append(torch.stack([task.host for task in tasks if task.host is not None]))
    return columns
