"""Turns what a run has recorded into tasks: which glue is part of which task, and their kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dynpartition.models.capturing.packing import Packing
from dynpartition.models.capturing.programs import (
    Made,
    Operation,
    Program,
    Slot,
    Source,
    Weight,
)
from dynpartition.models.capturing.recorder import REPEATED_NUMEL, Recorder
from dynpartition.models.capturing.values import Const, OpNode, Ref, TaskNode, mapped
from dynpartition.models.tasks import TaskBlock, TaskKind
from dynpartition.types import Ragged, frozen

if TYPE_CHECKING:
    from dynpartition.models.capturing.model import CapturedModel


class Stage:
    """Tasks that a run tells of at one time."""

    def __init__(self, recorder: Recorder, first: int) -> None:
        """`first`: the number of the first task."""
        self.recorder = recorder
        self.model: CapturedModel = recorder.model
        self._next = first
        self._kinds: dict[TaskKind, int] = {}
        self._kind_of: list[int] = []
        self._rows: list[Sequence[int]] = []
        self._fed: dict[int, list[Tensor]] = {}

    def block(self) -> TaskBlock:
        """Return all pending tasks, which are pending no longer."""
        pending, self.recorder.pending = self.recorder.pending, []
        for node in pending:
            if node.number < 0:
                self.add(node)
        kinds = frozen(np.array(self._kind_of, dtype=np.int64))
        return TaskBlock(tuple(self._kinds), kinds, Ragged.of(self._rows), self._fed)

    def add(self, node: TaskNode) -> None:
        """Number a task, after the glue that it reads."""
        plain = self._plain_inputs(node) if node.is_plain else None
        if plain is not None:
            variant, (inputs, host) = "", plain
        else:
            builder = Builder(self, may_read_weights=node.outputs is not None)
            program = builder.program(node)
            variant, inputs, host = program.text(), builder.inputs, builder.host_input()
        kind = self.model.kind(node, variant, host)
        number = self._kinds.setdefault(kind, len(self._kinds))
        if host is not None:
            self._fed.setdefault(number, []).append(host)
        node.number = self._next
        self._next += 1
        self._kind_of.append(number)
        self._rows.append(inputs)

    def _plain_inputs(self, node: TaskNode) -> tuple[list[int], Tensor | None] | None:
        """Return inputs and host input of a cell that reads them as they are."""
        inputs: list[int] = []
        last = len(node.args) - 1
        host = None
        for position, leaf in enumerate(node.args):
            if type(leaf) is Ref:
                task = leaf.node if type(leaf.node) is TaskNode else self._own_task(leaf)
                if task is None or len(task.packing.parts) > 1:
                    return None
                inputs.append(task.number)
            elif position == last and id(leaf.tensor) not in self.model.weight_names:
                host = leaf.read()
            else:
                return None
        return (inputs, host) if node.args else None

    def _own_task(self, ref: Ref) -> TaskNode | None:
        """Return the numbered task that makes an operation's value; None: its readers do."""
        node = ref.node
        assert isinstance(node, OpNode)
        if node.task is None and node.uses > 1 and node.work > 0:
            is_large = ref.shape.meta.numel() > REPEATED_NUMEL
            if is_large or node.work > 1:
                # Of an operation that makes several, all: others may read them.
                self.recorder.task_of(node)
        if node.task is not None and node.task.number < 0:
            self.add(node.task)
        return node.task


class Builder:
    """Collects what one task reads and does."""

    def __init__(self, stage: Stage, *, may_read_weights: bool) -> None:
        self._stage = stage
        self._may_read_weights = may_read_weights
        self.inputs: list[int] = []
        self._position: dict[int, int] = {}
        """Task → position among the inputs."""
        self._sources: list[tuple[TaskNode | None, int]] = []
        """Per slot: task and output, or None and constant."""
        self._slot: dict[tuple[int, int], Slot] = {}
        self._constants: list[Tensor] = []
        self._operations: list[Operation] = []
        self._made: dict[OpNode, int] = {}

    def program(self, node: TaskNode) -> Program:
        """Return what a task does."""
        if node.outputs is not None:
            outputs = tuple([self._own_value(ref) for ref in node.outputs])
            call = None
        else:
            outputs = ()
            call = (mapped(tuple(node.args), self._value), mapped(dict(node.kwargs), self._value))
        if not self._sources:
            self._constants.append(torch.zeros(1))  # every task reads something
            self._sources.append((None, 0))
        host = Packing.of([(tuple(c.shape), c.dtype) for c in self._constants] or [((1,), torch.float32)])
        sources = tuple(
            [
                Source(len(self.inputs), host.parts[number])
                if task is None
                else Source(self._position[task.number], task.packing.parts[number])
                for task, number in self._sources
            ]
        )
        return Program(sources, tuple(self._operations), call, outputs)

    def host_input(self) -> Tensor | None:
        """Return the constants as one tensor; None where there are none."""
        if not self._constants:
            return None
        if len(self._constants) == 1:
            return self._constants[0]
        packing = Packing.of([(tuple(c.shape), c.dtype) for c in self._constants])
        return packing.pack([constant.unsqueeze(0) for constant in self._constants])[0]

    def _own_value(self, ref: Ref) -> Any:
        """Return what glue outputs: computed here, whoever else might."""
        if isinstance(ref.node, OpNode):
            return self._operation(ref)
        return self._value(ref)

    def _value(self, leaf: Ref | Const) -> Any:
        if isinstance(leaf, Const):
            return self._constant(leaf)
        node = leaf.node
        task = node if isinstance(node, TaskNode) else self._stage._own_task(leaf)
        if task is None:
            return self._operation(leaf)
        return self._part(task, max(0, leaf.index))

    def _part(self, task: TaskNode, output: int) -> Slot:
        if task.number not in self._position:
            self._position[task.number] = len(self.inputs)
            self.inputs.append(task.number)
        return self._new_slot((task.number, output), task, output)

    def _constant(self, leaf: Const) -> Slot | Weight:
        name = self._stage.model.weight_names.get(id(leaf.tensor))
        if name is not None and self._may_read_weights:
            return Weight(name)
        tensor = leaf.read()
        key = (-1, id(tensor))
        if key not in self._slot:
            self._constants.append(tensor)
        return self._new_slot(key, None, len(self._constants) - 1)

    def _new_slot(self, key: tuple[int, int], task: TaskNode | None, number: int) -> Slot:
        if key not in self._slot:
            self._slot[key] = Slot(len(self._sources))
            self._sources.append((task, number))
        return self._slot[key]

    def _operation(self, ref: Ref) -> Made:
        node = ref.node
        assert isinstance(node, OpNode)
        if node not in self._made:
            args, kwargs = mapped(node.args, self._value), mapped(node.kwargs, self._value)
            self._made[node] = len(self._operations)
            self._operations.append(Operation(node.name, args, kwargs, node.in_place))
        return Made(self._made[node], ref.index)

