"""Turns the new part of a program into orders: which bytes every RUN and COPY touches."""

from __future__ import annotations

from collections.abc import Sequence

from dynpartition.hardware.layout import Layout, input_slot, output_slot
from dynpartition.hardware.messages import (
    OPCODE_OPERAND_LAUNCH,
    Batch,
    CopyOrder,
    RunOrder,
    Segment,
    Slot,
)
from dynpartition.models import NewTask
from dynpartition.program import COPY, RECORD, RUN, Program
from dynpartition.types import IntArray


class Orders:
    """Gives places to new launches and transfers and writes their orders."""

    def __init__(self, tasks: Sequence[NewTask], program: Program, layout: Layout) -> None:
        self.tasks = tasks
        self.program = program
        self.layout = layout
        self._groups: dict[int, list[list[int]]] = {}
        self._launch_device: list[int] = program.launch_device.tolist()
        self._copy_launch: list[int] = program.copy_launch.tolist()

    def segments(self, launches_before: int, copies_before: int) -> list[Segment]:
        """Return per device what a shorter plan's program did not have."""
        launches = range(launches_before, self.program.n_launches)
        for number in launches:
            self._place(number)
        copies = [self._copy_order(n) for n in range(copies_before, self.program.n_copies)]
        runs = [self._run_order(number) for number in launches]
        code = self.program.segment(launches_before, copies_before)
        return [
            Segment(
                epoch=0,
                code=self._owned(rows),
                runs=[run for run in runs if self._launch_device[run.launch] == device],
                copies=[copy for copy in copies if device in (copy.src, copy.dst)],
            )
            for device, rows in enumerate(code)
        ]

    def _owned(self, rows: IntArray) -> list[OPCODE_OPERAND_LAUNCH]:
        """Add to each instruction the launch that it belongs to; WAITs precede their RUN."""
        owned: list[OPCODE_OPERAND_LAUNCH] = []
        current = -1
        for opcode, operand in reversed(rows.tolist()):
            current = operand if opcode in (RUN, RECORD) else current
            launch = self._copy_launch[operand] if opcode == COPY else current
            owned.append((opcode, operand, launch))
        return owned[::-1]

    def _place(self, number: int) -> None:
        """Give the outputs of launch `number` places, each group of like tasks together."""
        tasks = self.program.launch_tasks.rows[number]
        device, who = self._launch_device[number], f"launch {number} ({self.tasks[tasks[0]].cell})"
        self._groups[number] = self._alike(tasks)
        for group in self._groups[number]:
            slots = [output_slot(self.tasks[task]) for task in group]
            self.layout.place_outputs(device, group, slots, who)
            self._place_empty_inputs(device, group, who)

    def _place_empty_inputs(self, device: int, tasks: Sequence[int], who: str) -> None:
        """Give host inputs of no bytes places: no transfer will bring them."""
        empty = [t for t in tasks if self._has_input(t) and not self.tasks[t].host_bytes]
        if empty:
            slots = [input_slot(self.tasks[task]) for task in empty]
            self.layout.place_inputs(device, empty, slots, who)

    def _alike(self, tasks: Sequence[int]) -> list[list[int]]:
        """Split tasks by shapes: what one call of the cell can hold, in order of appearance."""
        if len(tasks) == 1:
            return [list(tasks)]
        groups: dict[object, list[int]] = {}
        for task in tasks:
            groups.setdefault(self._signature(task), []).append(task)
        return list(groups.values())

    def _signature(self, number: int) -> object:
        task = self.tasks[number]
        shapes = tuple(self.tasks[source].output_shape for source in task.inputs)
        own = None if task.host_input is None else (task.host_input.shape, task.host_input.dtype)
        return shapes, own, task.output_shape

    def _copy_order(self, number: int) -> CopyOrder:
        """Return the order of transfer `number`, and give what it brings a place."""
        program, layout = self.program, self.layout
        src, dst = int(program.copy_src[number]), int(program.copy_dst[number])
        tasks = program.copy_tasks.rows[number]
        is_input = bool(program.copy_is_input[number])
        places = layout.inputs if is_input else layout.outputs
        place = layout.place_inputs if is_input else layout.place_outputs
        sources = [places[src, task] for task in tasks]
        place(dst, tasks, sources, self._who_copies(number, tasks[0]))
        sizes = [self._size_bytes(task, is_input) for task in tasks]
        targets = [places[dst, task] for task in tasks]
        spans = zip(sources, targets, sizes, strict=True)
        return CopyOrder(number, src, dst, _joined([(s.offset, t.offset, n) for s, t, n in spans]))

    def _who_copies(self, number: int, task: int) -> str:
        return f"transfer of launch {self._copy_launch[number]} ({self.tasks[task].cell})"

    def _size_bytes(self, task: int, is_input: bool) -> int:
        return self.tasks[task].host_bytes if is_input else self.tasks[task].output_bytes

    def _run_order(self, number: int) -> RunOrder:
        device, groups = self._launch_device[number], self._groups[number]
        batches = [
            Batch(self._arguments(device, group), self.layout.outputs[device, group[0]], len(group))
            for group in groups
        ]
        return RunOrder(number, self.tasks[groups[0][0]].cell, batches)

    def _arguments(self, device: int, group: Sequence[int]) -> list[list[Slot]]:
        """Return per argument of the cell the slots of the tasks."""
        outputs, inputs = self.layout.outputs, self.layout.inputs
        reads = (self.tasks[task].inputs for task in group)
        rows = [[outputs[device, s] for s in column] for column in zip(*reads, strict=True)]
        if self._has_input(group[0]):
            rows.append([inputs[device, task] for task in group])
        return rows

    def _has_input(self, task: int) -> bool:
        return self.tasks[task].host_input is not None


def _joined(spans: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Join spans that follow each other on both sides."""
    joined: list[tuple[int, int, int]] = []
    for src, dst, size in spans:
        last = joined[-1] if joined else (-1, -1, 0)
        if (src, dst) == (last[0] + last[2], last[1] + last[2]):
            joined[-1] = (last[0], last[1], last[2] + size)
        else:
            joined.append((src, dst, size))
    return joined
