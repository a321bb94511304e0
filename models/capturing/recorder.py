"""Records one run of a model: its cell calls, the operations between them, the values it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynpartition.errors import InputError, ModelError
from dynpartition.models.capturing.cells import GLUE, NEEDS_VALUES
from dynpartition.models.capturing.evaluation import Evaluation, unknown
from dynpartition.models.capturing.operations import (
    ANSWERS,
    FORCED,
    IN_PLACE,
    SAME,
    Outcome,
    attribute_of,
    dropout_input,
    judge,
    refuse,
    signature,
    without_devices,
)
from dynpartition.models.capturing.packing import Packing
from dynpartition.models.capturing.programs import name_of
from dynpartition.models.capturing.structure import replaced, sample_tensors
from dynpartition.models.capturing.values import (
    Const,
    Handle,
    OpNode,
    Ref,
    Shape,
    TaskNode,
    leaves_of,
    mapped,
)

if TYPE_CHECKING:
    from dynpartition.models.capturing.model import CapturedModel, Entry

OPERATIONS_MAX = 16
"""Operations in one task: longer chains of glue are several tasks, so that their kinds are few."""
REPEATED_NUMEL = 4096
"""A value of more numbers that several tasks read is computed once, in a task of its own."""
OPERATIONS_ON_HOST = 4
"""So many operations on a task's output are done on the host when Python needs their result."""
OUTCOMES_MAX = 20_000
"""Outcomes that a model remembers."""
HOST_BYTES = 1 << 16
"""Larger outputs do not travel to the host for the sake of a value computed from them."""


class Recorder:
    """What one run has asked for. `wait` gives a task's output, once the run has it."""

    def __init__(
        self, model: CapturedModel, sample: Any, wait: Callable[[TaskNode], Tensor]
    ) -> None:
        self.model = model
        self.pending: list[TaskNode] = []
        """Tasks that nobody has been told of yet."""
        self.last_forced: Ref | None = None
        """The value that Python needed last."""
        self._wait = wait
        self._sample_memory = {
            tensor.untyped_storage().data_ptr() for tensor in sample_tensors(sample)
        }

    # Calls of cells

    def call(self, entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Record a call of a cell and return handles of what it returns."""
        recorded, formats = [], []
        if kwargs:
            return self._call_of_any(entry, args, kwargs)
        for argument in args:
            if type(argument) is Handle:
                ref = argument._ref
                recorded.append(ref)
                formats.append(ref.shape.format)
            elif isinstance(argument, Tensor):
                recorded.append(self._const(argument))
                formats.append((tuple(argument.shape), argument.dtype))
            else:
                return self._call_of_any(entry, args, kwargs)
        key = tuple(formats)
        learnt = entry.learnt.get(key)
        if learnt is None:
            learnt = entry.learnt[key] = self._learn(entry, recorded, {})
        node = TaskNode(entry.name, recorded, {}, learnt.packing)
        node.is_plain = True
        return self._called(node, learnt)

    def _call_of_any(self, entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        recorded, named = replaced(tuple(args), self._leaf), replaced(dict(kwargs), self._leaf)
        try:
            key = (signature(list(args)), signature(kwargs))
        except TypeError:
            key = None
        learnt = entry.learnt.get(key)
        if learnt is None:
            learnt = self._learn(entry, recorded, named)
            if key is not None:
                entry.learnt[key] = learnt
        return self._called(TaskNode(entry.name, recorded, named, learnt.packing), learnt)

    def _called(self, node: TaskNode, learnt: Any) -> Any:
        for leaf in node.args if node.is_plain else leaves_of([node.args, node.kwargs]):
            if type(leaf) is Ref and type(leaf.node) is OpNode:
                leaf.node.uses += 1
        self.pending.append(node)
        if learnt.is_single:
            return Handle.to(Ref(node, 0, learnt.shapes[0]))
        numbered = iter(range(len(learnt.shapes)))

        def handle(_: Tensor) -> Handle:
            number = next(numbered)
            return Handle.to(Ref(node, number, learnt.shapes[number]))

        return replaced(learnt.structure, handle)

    def _learn(self, entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        def meta(leaf: Ref | Const) -> Tensor:
            return leaf.shape.meta if isinstance(leaf, Ref) else leaf.tensor

        def real() -> tuple[Sequence[Any], Mapping[str, Any]]:
            evaluation = Evaluation(self.model.run_task)
            value = evaluation.value
            return mapped(list(args), value), mapped(dict(kwargs), value)

        with self.model.aside():
            return entry.lesson.learn(mapped(list(args), meta), mapped(dict(kwargs), meta), real)

    def _leaf(self, tensor: Tensor) -> Ref | Const:
        return tensor._ref if type(tensor) is Handle else self._const(tensor)

    def _const(self, tensor: Tensor) -> Const:
        if tensor.requires_grad and id(tensor) not in self.model.weight_names:
            if not isinstance(tensor, torch.nn.Parameter):
                raise InputError(
                    "a tensor that requires a gradient was given to a captured model, which runs"
                    " forward only; detach it"
                )
        if not tensor.device.type == "cpu" or tensor.layout != torch.strided:
            raise InputError(
                f"a {tensor.layout} tensor on {tensor.device} was given to a captured model; give"
                " dense tensors in host memory"
            )
        return Const(tensor)

    # Operations between cells

    def operation(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Record what a PyTorch function makes, or call it if it needs numbers."""
        name = getattr(function, "__name__", "")
        if name == "__get__":
            attribute = attribute_of(function)
            if attribute in ANSWERS:
                return ANSWERS[attribute]
        elif name in SAME and type(args[0]) is Handle:
            return args[0]
        elif name in IN_PLACE or (name.endswith("_") and not name.endswith("__")):
            return self._written(name, function, args, kwargs)
        elif name in NEEDS_VALUES:
            return self._forced(function, args, kwargs)
        elif name.endswith("dropout") or "dropout" in name:
            return dropout_input(name, args, kwargs)
        elif name == "__iter__":
            return iter(args[0].unbind(0))
        elif name == "__getitem__":
            args = (args[0], self._index(args[1]))
        elif name in ("to", "type_as") or "device" in kwargs:
            args, kwargs = without_devices(name, args, kwargs)
            if name in ("to", "type_as") and len(args) == 1 and not kwargs:
                return args[0]
        refuse(name)
        if name == "__set__" or kwargs.get("out") is not None:
            raise ModelError(
                "a value that is not computed yet was written to (out=, .data or .requires_grad);"
                " use what functions return"
            )
        if kwargs.get("inplace"):
            result = self.operation(function, args, {**kwargs, "inplace": False})
            return self._rebound(args[0], result)
        return self._recorded(function, args, kwargs)

    def _recorded(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        outcome = self._outcome(function, args, kwargs)
        if outcome.verdict == "value":
            return outcome.value
        if outcome is FORCED:
            return self._forced(function, args, kwargs)
        node = self._operation_node(outcome.name, function, args, kwargs)
        node.is_move = outcome.is_move
        node.is_several = outcome.verdict == "several"
        if outcome.is_move:
            node.work -= 1
        node.shapes = outcome.shapes
        self._cut(node)
        if outcome.is_view:
            self._note_view(args)
        if outcome.verdict == "one":
            ref = Ref(node, -1, outcome.shapes[0])
            ref.is_view = outcome.is_view
            return Handle.to(ref)
        handles = []
        for number, shape in enumerate(outcome.shapes):
            ref = Ref(node, number, shape)
            ref.is_view = outcome.is_view
            handles.append(Handle.to(ref))
        kind = type(outcome.value)
        return handles if kind is list else tuple(handles) if kind is tuple else kind(handles)

    def _outcome(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Outcome:
        try:
            key = (function, signature(args), signature(kwargs))
        except TypeError:
            return judge(function, args, kwargs)
        known = self.model.outcomes.get(key)
        if known is None:
            if len(self.model.outcomes) >= OUTCOMES_MAX:
                self.model.outcomes.clear()
            with self.model.aside():
                known = self.model.outcomes[key] = judge(function, args, kwargs)
        return known

    def _operation_node(
        self,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> OpNode:
        if torch.is_autocast_enabled("cpu"):
            raise ModelError("autocast is on around captured calls; convert types explicitly")
        recorded = replaced(tuple(args), self._leaf)
        named = replaced(dict(kwargs), self._leaf)
        node = OpNode(name, function, recorded, named)
        for leaf in leaves_of([recorded, named]):
            if type(leaf) is Const:
                node.reads_weights |= id(leaf.tensor) in self.model.weight_names
            elif isinstance(leaf, Ref) and type(leaf.node) is OpNode:
                leaf.node.uses += 1
                if leaf.node.task is None:
                    node.size += leaf.node.size
                    node.work += leaf.node.work
        return node

    def _cut(self, node: OpNode) -> None:
        """Let a task of its own make it, if a chain has become long or weights are read."""
        if node.size > OPERATIONS_MAX or node.reads_weights:
            self.task_of(node)

    def task_of(self, node: OpNode) -> TaskNode:
        """Return the glue that makes what an operation makes."""
        if node.task is None:
            refs = [
                Ref(node, number if node.is_several else -1, shape)
                for number, shape in enumerate(node.shapes)
            ]
            node.task = self.glue(refs)
        return node.task

    def glue(self, refs: Sequence[Ref]) -> TaskNode:
        """Ask for a task that only hands on, or computes, some values."""
        packing = Packing.of([ref.shape.format for ref in refs])
        task = TaskNode(GLUE, (), {}, packing)
        task.outputs = list(refs)
        self.pending.append(task)
        return task

    def _note_view(self, args: Sequence[Any]) -> None:
        for argument in args[:1]:
            if type(argument) is Handle:
                argument._ref.is_viewed = True

    def _index(self, index: Any) -> Any:
        """Return an index whose result has a shape that is known: masks become numbers."""
        items = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(item, Tensor) for item in items):
            return index
        found: list[Any] = []
        for item in items:
            number = item
            if type(item) is Handle:
                dtype = item._ref.shape.format[1]
                if dtype in (torch.bool, torch.uint8):
                    number = self.force(item._ref)
                elif not item._ref.shape.format[0]:
                    number = int(self.force(item._ref))
            if isinstance(number, Tensor) and type(number) is not Handle and number.dim():
                if number.dtype in (torch.bool, torch.uint8):
                    found.extend(number.nonzero(as_tuple=True))
                    continue
            found.append(number)
        return tuple(found) if isinstance(index, tuple) or len(found) != 1 else found[0]

    # Writing in place

    def _written(
        self,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        refuse(name)
        if name == "requires_grad_":
            if kwargs.get("requires_grad", args[1] if len(args) > 1 else True):
                raise ModelError("requires_grad_(True) on a captured value; nothing is trained here")
            return args[0]
        target = args[0]
        if name == "__setitem__":
            args = (target, self._index(args[1]), *args[2:])
        if type(target) is not Handle:
            self._adopt(target)
        ref: Ref = target._ref
        if ref.is_view or ref.is_viewed:
            raise ModelError(
                f"{name} writes in place to a value of shape {ref.shape.format[0]} that shares its"
                " memory with another one (a slice, a view); write to a clone()"
            )
        node = self._operation_node(_named(function), function, args, kwargs)
        node.in_place = True
        node.shapes = [ref.shape]
        self._cut(node)
        target._ref = Ref(node, -1, ref.shape)
        return target

    def _adopt(self, tensor: Tensor) -> None:
        """Make a handle of a plain tensor that is written to with a value not computed yet."""
        memory = tensor.untyped_storage().data_ptr()
        if memory in self._sample_memory or self.model.owns(tensor):
            raise ModelError(
                f"a tensor of shape {tuple(tensor.shape)} that the model was given, or that is a"
                " weight of it, is written to in place with what cells return; write to a clone()"
            )
        if tensor._is_view() or type(tensor) is not Tensor:
            raise ModelError(
                f"a view of shape {tuple(tensor.shape)} of another tensor is written to in place"
                " with what cells return; write to a clone()"
            )
        shape = Shape.of(tensor)
        node = OpNode("torch.clone", torch.clone, (Const(tensor.clone()),), {})
        tensor.__class__ = Handle
        tensor._ref = Ref(node, -1, shape)  # type: ignore[attr-defined]

    def _rebound(self, target: Any, result: Any) -> Any:
        """Let the handle that was written to stand for the result."""
        if type(target) is Handle and type(result) is Handle:
            if target._ref.is_view or target._ref.is_viewed:
                raise ModelError("a function with inplace=True writes to a view; use inplace=False")
            target._ref = result._ref
            return target
        return result

    # Values that Python needs

    def _forced(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        def value(tensor: Tensor) -> Tensor:
            return self.force(tensor._ref) if type(tensor) is Handle else tensor

        return function(*replaced(list(args), value), **replaced(dict(kwargs), value))

    def force(self, ref: Ref) -> Tensor:
        """Return a value, after a task that reveals it has run, if need be."""
        if waited := unknown(ref):
            self._reveal(ref, waited)
        return Evaluation().value(ref)

    def _reveal(self, ref: Ref, waited: Sequence[TaskNode]) -> None:
        """Wait for the task that has the value, or all that it takes to compute it here."""
        node = ref.node
        revealing = waited[0]
        is_near = len(waited) == 1 and revealing.number < 0 and _bytes(revealing) <= HOST_BYTES
        if not is_near or (isinstance(node, OpNode) and node.work > OPERATIONS_ON_HOST):
            revealing = self.glue([ref])
        revealing.reveals = True
        self.last_forced = ref
        output = self._wait(revealing)
        parts = revealing.packing.unpack(output.unsqueeze(0))
        revealing.known = {number: part[0] for number, part in enumerate(parts)}
        if revealing.outputs is not None:
            for made, part in zip(revealing.outputs, parts, strict=True):
                made.node.known[made.index] = part[0]


def _named(function: Callable[..., Any]) -> str:
    name = name_of(function)
    if name is None:
        raise ModelError(f"{function} writes in place and is no public function of torch")
    return name


def _bytes(node: TaskNode) -> int:
    return math.prod(node.packing.shape) * node.packing.dtype.itemsize
