"""Turns what a run has recorded into tasks: which glue is part of which task, and their kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dynpartition.models.capturing.packing import Packing, Part
from dynpartition.models.capturing.programs import (
    Made,
    Operation,
    Program,
    Slot,
    Source,
    Weight,
)
from dynpartition.models.capturing.values import (
    CellCalling,
    Const,
    Leaf,
    OpCalling,
    OpNode,
    Ref,
    TaskNode,
    filled,
)
from dynpartition.models.tasks import TaskBlock, TaskKind
from dynpartition.types import Ragged, frozen

if TYPE_CHECKING:
    from dynpartition.models.capturing.model import CapturedModel

PATTERNS_MAX = 10_000
"""Kinds of tasks that a model remembers."""
REPEATED_NUMEL = 4096
"""A value of more numbers that several tasks read is computed once, in a task of its own."""


class Pattern:
    """What tasks have in common that do the same, whatever they read."""

    __slots__ = ("cell", "host", "kinds", "packing", "variant")

    def __init__(self, cell: str, variant: str, packing: Packing, host: Packing | None) -> None:
        self.cell = cell
        self.variant = variant
        self.packing = packing
        self.host = host
        """How constants are one host input; None: there are none."""
        self.kinds: dict[tuple[bool, bool], TaskKind] = {}

    def kind(self, returns: bool, reveals: bool) -> TaskKind:
        """Return the kind of such tasks."""
        found = self.kinds.get((returns, reveals))
        if found is None:
            found = self.kinds[returns, reveals] = TaskKind(
                self.cell,
                self.packing.shape,
                None if self.host is None else self.host.shape,
                torch.float32 if self.host is None else self.host.dtype,
                returns,
                reveals,
                self.packing.dtype,
                self.variant,
            )
        return found


class Stage:
    """Tasks that a run tells of at one time."""

    def __init__(
        self, model: CapturedModel, task_of: Callable[[OpNode], TaskNode], first: int
    ) -> None:
        """`task_of`: makes glue of an operation. `first`: the number of the first task."""
        self.model = model
        self._task_of = task_of
        self._next = first
        self._kinds: dict[TaskKind, int] = {}
        self._number_of: dict[Any, int] = {}
        self._kind_of: list[int] = []
        self._rows: list[Sequence[int]] = []
        self._fed: dict[int, list[Tensor]] = {}

    def block(self, pending: Sequence[TaskNode]) -> TaskBlock:
        """Return the pending tasks."""
        for node in pending:
            if node.number < 0:
                self.add(node)
        kinds = frozen(np.array(self._kind_of, dtype=np.int64))
        return TaskBlock(tuple(self._kinds), kinds, Ragged.of(self._rows), self._fed)

    def add(self, node: TaskNode) -> None:
        """Number a task, after the glue that it reads."""
        key, inputs, constants = _simple_reads(node)
        pattern = self.model.quick_patterns.get(key)
        if pattern is None:
            reads = Reads(self, node)
            inputs, constants = reads.inputs, reads.constants
            pattern = self.model.patterns.get(reads.key)
            if pattern is None:
                if len(self.model.patterns) >= PATTERNS_MAX:
                    self.model.forget_operations()
                pattern = self.model.patterns[reads.key] = reads.pattern(node)
            if key is not None:
                self.model.quick_patterns[key] = pattern
        known = (pattern, node.returns, node.reveals) if node.returns or node.reveals else pattern
        number = self._number_of.get(known)
        if number is None:
            kind = pattern.kind(node.returns, node.reveals)
            number = self._number_of[known] = self._kinds.setdefault(kind, len(self._kinds))
        if pattern.host is not None:
            host = _packed(pattern.host, [leaf.read() for leaf in constants])
            self._fed.setdefault(number, []).append(host)
        node.number = self._next
        self._next += 1
        self._kind_of.append(number)
        self._rows.append(inputs)

    def own_task(self, ref: Ref) -> TaskNode | None:
        """Return the numbered task that makes an operation's value; None: its readers do."""
        node = ref.node
        assert isinstance(node, OpNode)
        if node.task is None and node.uses > 1 and node.work > 0:
            is_large = ref.shape.meta.numel() > REPEATED_NUMEL
            if is_large or node.work > 1:
                self._task_of(node)
        if node.task is not None and node.task.number < 0:
            self.add(node.task)
        return node.task


_NO_CONSTANT = Packing.of([((1,), torch.float32)])


def _packed(packing: Packing, tensors: Sequence[Tensor]) -> Tensor:
    if not tensors:
        return torch.zeros(1)
    if len(tensors) == 1:
        return tensors[0]
    return packing.pack([tensor.unsqueeze(0) for tensor in tensors])[0]


def _simple_reads(node: TaskNode) -> tuple[Any, list[int], list[Const]]:
    """Return a key, inputs and constants of a call without glue; the key is None for others."""
    inputs: list[int] = []
    constants: list[Const] = []
    if node.calling is None:
        return None, inputs, constants
    key: list[Any] = [node.calling]
    for leaf in node.leaves:
        if type(leaf) is Const:
            if constants and any(leaf.tensor is other.tensor for other in constants):
                return None, inputs, constants
            constants.append(leaf)
            key.append(None)
        else:
            task = leaf.node  # type: ignore[union-attr]
            if type(task) is not TaskNode:
                return None, inputs, constants
            number = task.number
            if number not in inputs:
                inputs.append(number)
            key += (inputs.index(number), task.packing.parts[leaf.index])  # type: ignore[union-attr]
    return tuple(key), inputs, constants


class Reads:
    """What one task reads, and a key that tasks share which do the same with it.

    A token is what stands for a value in the key: the number of a slot, ("made", operation, output)
    for what the task computes itself, or the name of a weight.
    """

    __slots__ = (
        "_made",
        "_operations",
        "_slots",
        "_stage",
        "_tokens",
        "constants",
        "inputs",
        "key",
    )

    def __init__(self, stage: Stage, node: TaskNode) -> None:
        self._stage = stage
        self.inputs: list[int] = []
        """Numbers of tasks."""
        self.constants: list[Const] = []
        self._slots: dict[tuple[int, Part | int], int] = {}
        """(position among the inputs, part), or (-1, number of the constant) → slot."""
        self._made: dict[OpNode, int] = {}
        self._operations: list[tuple[OpCalling, list[Any]]] = []
        calling = node.calling
        if calling is None:
            self._tokens = [
                self._operation(ref) if type(ref.node) is OpNode else self._value(ref)
                for ref in node.outputs
            ]
        else:
            self._tokens = [
                self._constant(leaf) if type(leaf) is Const else self._value(leaf)
                for leaf in node.leaves
            ]
        done = [(one, *tokens) for one, tokens in self._operations]
        self.key = (calling, *self._tokens, *self._slots, *done)

    def _value(self, leaf: Ref | Const) -> Any:
        if type(leaf) is Const:
            return self._constant(leaf) if leaf.name is None else leaf.name
        assert isinstance(leaf, Ref)
        node = leaf.node
        if type(node) is TaskNode:
            return self._part(node, leaf.index)
        task = self._stage.own_task(leaf)
        return self._operation(leaf) if task is None else self._part(task, max(0, leaf.index))

    def _part(self, task: TaskNode, output: int) -> int:
        number, inputs = task.number, self.inputs
        if number not in inputs:
            inputs.append(number)
        place = (inputs.index(number), task.packing.parts[output])
        return self._slots.setdefault(place, len(self._slots))

    def _constant(self, leaf: Const) -> int:
        for number, other in enumerate(self.constants):
            if other.tensor is leaf.tensor:
                return self._slots[-1, number]
        self.constants.append(leaf)
        return self._slots.setdefault((-1, len(self.constants) - 1), len(self._slots))

    def _operation(self, ref: Ref) -> Any:
        node = ref.node
        assert isinstance(node, OpNode)
        if node not in self._made:
            tokens = [self._value(leaf) for leaf in node.leaves]
            self._made[node] = len(self._operations)
            self._operations.append((node.calling, tokens))
        return ("made", self._made[node], ref.index)

    def pattern(self, node: TaskNode) -> Pattern:
        """Return what such tasks have in common."""
        formats = [(tuple(one.tensor.shape), one.tensor.dtype) for one in self.constants]
        host = Packing.of(formats) if formats else None
        if node.calling is not None and self._is_plain(node.calling):
            return Pattern(node.cell, "", node.packing, host)
        if not self._slots:
            host = _NO_CONSTANT  # every task reads something
        return Pattern(node.cell, self._program(node, host).text(), node.packing, host)

    def _is_plain(self, calling: CellCalling) -> bool:
        """Whether the cell reads its inputs, and a host input last, as they are."""
        given, count = calling.args, len(self._tokens)
        return (
            not (self._operations or calling.kwargs)
            and count > 0
            and [type(one) for one in given] == [Leaf] * count
            and self._tokens == list(range(count))
            and all(isinstance(part, int) or part.begin < 0 for _, part in self._slots)
            and [at for at, _ in self._slots] in (list(range(count)), [*range(count - 1), -1])
        )

    def _program(self, node: TaskNode, host: Packing | None) -> Program:
        sources = [
            Source(at, part)
            if isinstance(part, Part)
            else Source(len(self.inputs), (host or _NO_CONSTANT).parts[part])
            for at, part in self._slots
        ]
        if not sources:
            sources = [Source(0, _NO_CONSTANT.parts[0])]
        operations = [
            Operation(
                one.name,
                filled(one.args, [_meant(token) for token in tokens]),
                filled(one.kwargs, [_meant(token) for token in tokens]),
                one.in_place,
            )
            for one, tokens in self._operations
        ]
        values = [_meant(token) for token in self._tokens]
        calling, call = node.calling, None
        if calling is not None:
            call = (filled(calling.args, values), filled(calling.kwargs, values))
        outputs = tuple(values) if calling is None else ()
        return Program(tuple(sources), tuple(operations), call, outputs)


def _meant(token: Any) -> Slot | Made | Weight:
    """Return a token as programs write it."""
    if isinstance(token, int):
        return Slot(token)
    return Weight(token) if isinstance(token, str) else Made(*token[1:])
