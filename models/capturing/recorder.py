"""Records one run of a model: its cell calls, the operations between them, the values it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dynpartition.errors import InputError, ModelError
from dynpartition.models.capturing.aliases import View, note_view, written_through
from dynpartition.models.capturing.cells import GLUE, NEEDS_VALUES
from dynpartition.models.capturing.evaluation import Evaluation, unknown
from dynpartition.models.capturing.operations import (
    ANSWERS,
    IN_PLACE,
    SAME,
    attribute_of,
    dropout_input,
    judge,
    known_index,
    refuse,
    without_devices,
)
from dynpartition.models.capturing.stage import Stage
from dynpartition.models.capturing.structure import replaced, sample_tensors, tensors_in
from dynpartition.models.capturing.values import (
    Calling,
    CellCalling,
    Const,
    Handle,
    OpCalling,
    OpNode,
    Ref,
    TaskNode,
    code_of,
    filled,
    handle_of,
    template,
)
from dynpartition.models.tasks import TaskBlock

if TYPE_CHECKING:
    from dynpartition.models.capturing.model import CapturedModel, Entry

UNUSUAL = frozenset({"device", "out", "inplace"})
"""Arguments by name that ask for more than a result."""
OPERATIONS_MAX = 16
"""Operations in one task: longer chains of glue are several tasks, so that their kinds are few."""
OPERATIONS_ON_HOST = 4
"""So many operations on a task's output are done on the host when Python needs their result."""
CALLINGS_MAX = 20_000
"""Kinds of operations that a model remembers."""
HOST_BYTES = 1 << 16
"""Larger outputs do not travel to the host for the sake of a value computed from them."""


class Recorder:
    """What one run has asked for. `wait` gives a task's output, once the run has it."""

    def __init__(
        self, model: CapturedModel, sample: Any, wait: Callable[[Recorder, TaskNode], Tensor]
    ) -> None:
        self.model = model
        self.token = model.token
        self.pending: list[TaskNode] = []
        """Tasks that nobody has been told of yet."""
        self.awaited: TaskNode | None = None
        """The task whose output the model's code waits for."""
        self.last_forced: Ref | None = None
        """The value that Python needed last."""
        self._wait = wait
        self._sample = sample
        self._n_told = 0

    def told(self) -> TaskBlock:
        """Return the pending tasks, which are pending no longer."""
        stage = Stage(self.model, self.task_of, self._n_told)
        pending, self.pending = self.pending, []
        block = stage.block(pending)
        self.pending = []  # glue that has been made, and told of, meanwhile
        self._n_told += len(block)
        return block

    # Calls of cells

    def call(self, entry: Entry, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Record a call of a cell and return handles of what it returns."""
        _refuse_autocast()
        leaves: list[Ref | Const] = []
        key: Any = None
        try:
            key = self._key(args, leaves)
            if kwargs:
                key = (key, self._key(kwargs, leaves))
        except TypeError:
            raise ModelError(
                f"cell {entry.name} is called with an argument that is neither a tensor nor a plain"
                " value or a container of these; choose a submodule inside of it as the cell"
            ) from None
        calling = entry.known.get(key)
        if calling is None:
            if len(entry.known) >= CALLINGS_MAX:
                entry.known.clear()
            calling = entry.known[key] = self._learn(entry, args, kwargs, leaves)
        node = TaskNode(entry.name, calling.packing, calling, leaves)
        self.pending.append(node)
        if calling.is_single:
            return handle_of(Ref(node, 0, calling.shapes[0]))
        return _rebuilt(calling, [Ref(node, n, shape) for n, shape in enumerate(calling.shapes)])

    def _learn(
        self,
        entry: Entry,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        leaves: Sequence[Ref | Const],
    ) -> CellCalling:
        def real() -> tuple[Sequence[Any], Mapping[str, Any]]:
            evaluation = Evaluation(self.model.run_task)
            values = [evaluation.value(leaf) for leaf in leaves]
            (given, named), _ = template((tuple(args), dict(kwargs)))
            return filled(given, values), filled(named, values)

        def meta(tensor: Tensor) -> Tensor:
            return tensor._ref.shape.meta if isinstance(tensor, Handle) else tensor

        with self.model.aside():
            return entry.lesson.learn(
                replaced(tuple(args), meta), replaced(dict(kwargs), meta), real
            )

    def _key(self, value: Any, leaves: list[Ref | Const]) -> Any:
        """Return what decides what becomes of an argument, and append its tensors to `leaves`."""
        kind = type(value)
        if kind is Handle:
            return self._known_key(value._ref, leaves)
        if isinstance(value, Tensor):
            leaves.append(self._const(value))
            return code_of(value.shape, value.dtype)
        if kind is tuple or kind is list:
            key: list[Any] = [kind]
            for one in value:
                if type(one) is Handle:
                    key.append(self._known_key(one._ref, leaves))
                else:
                    key.append(self._key(one, leaves))
            return tuple(key)
        if kind is slice:
            return (kind, self._key((value.start, value.stop, value.step), leaves))
        if isinstance(value, Mapping):
            return (dict, *[(key, self._key(one, leaves)) for key, one in value.items()])
        if isinstance(value, tuple | list):
            return (kind, *[self._key(one, leaves) for one in value])
        hash(value)
        return (kind, value)

    def _known_key(self, ref: Ref, leaves: list[Ref | Const]) -> int:
        leaves.append(ref)
        node = ref.node
        if type(node) is OpNode:
            node.uses += 1
        return ref.shape.code

    def _const(self, tensor: Tensor) -> Const:
        name = self.model.weight_names.get(id(tensor))
        if name is None:
            if tensor.requires_grad and not isinstance(tensor, torch.nn.Parameter):
                raise InputError(
                    "a tensor that requires a gradient was given to a captured model, which runs"
                    " forward only; detach it"
                )
            if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
                raise InputError(
                    f"a {tensor.layout} tensor on {tensor.device} was given to a captured model;"
                    " give dense tensors in host memory"
                )
        return Const(tensor, name)

    # Operations between cells

    def operation(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Record what a PyTorch function makes, or call it if it needs numbers."""
        ordinary = self.model.ordinary
        if function in ordinary and (not kwargs or UNUSUAL.isdisjoint(kwargs)):
            return self._recorded(function, args, kwargs)
        name = getattr(function, "__name__", "")
        if name == "__get__":
            attribute = attribute_of(function)
            if attribute is not None and attribute in ANSWERS:
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
            args = (args[0], known_index(args[1], self.force))
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
        if name not in ("__get__", "__getitem__", "to", "type_as"):
            ordinary.add(function)
        return self._recorded(function, args, kwargs)

    def _recorded(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        leaves: list[Ref | Const] = []
        calling = self._calling(function, args, kwargs, leaves)
        if calling is None:
            return self._forced(function, args, kwargs)
        if not calling.shapes:
            return calling.structure
        node = self._operation_node(calling, leaves)
        if calling.is_single:
            handle = handle_of(Ref(node, -1, calling.shapes[0]))
            if calling.is_view and type(args[0]) is Handle:
                is_index = getattr(function, "__name__", "") == "__getitem__"
                note_view(handle, args[0], args[1] if is_index else None)
            return handle
        refs = [Ref(node, number, shape) for number, shape in enumerate(calling.shapes)]
        made = _rebuilt(calling, refs)
        if calling.is_view and type(args[0]) is Handle:
            for part in tensors_in(made):
                assert isinstance(part, Handle)
                note_view(part, args[0])
        return made

    def _calling(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        leaves: list[Ref | Const],
        *,
        in_place: bool = False,
    ) -> OpCalling | None:
        """Return what becomes of an operation, and append its tensors to `leaves`."""
        try:
            key = (function, in_place, self._key(tuple(args), leaves), self._key(kwargs, leaves))
        except TypeError:
            return None  # an argument of a kind that no program can hold
        callings = self.model.callings
        if key not in callings:
            if len(callings) >= CALLINGS_MAX:
                self.model.forget_operations()
            with self.model.aside():
                callings[key] = judge(function, args, kwargs, in_place=in_place)
        return callings[key]

    def _operation_node(self, calling: OpCalling, leaves: Sequence[Ref | Const]) -> OpNode:
        _refuse_autocast()
        node = OpNode(calling, leaves)
        if node.size > OPERATIONS_MAX or node.reads_weights:
            # A task of its own: so programs stay short and alike, and weights are where glue is.
            self.task_of(node)
        return node

    def task_of(self, node: OpNode) -> TaskNode:
        """Return the glue that makes what an operation makes."""
        if node.task is None:
            refs = [
                Ref(node, -1 if node.calling.is_single else number, shape)
                for number, shape in enumerate(node.calling.shapes)
            ]
            node.task = self.glue(refs)
        return node.task

    def glue(self, refs: Sequence[Ref]) -> TaskNode:
        """Ask for a task that only hands on, or computes, some values."""
        packing = self.model.packing(tuple([ref.shape.format for ref in refs]))
        task = TaskNode(GLUE, packing)
        task.outputs = list(refs)
        self.pending.append(task)
        return task

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
                raise ModelError(
                    "requires_grad_(True) on a captured value; nothing is trained here"
                )
            return args[0]
        target = args[0]
        if name == "__setitem__":
            args = (target, known_index(args[1], self.force), *args[2:])
        if type(target) is not Handle:
            self._adopt(target)
        view = written_through(name, target, args[1:])
        ref: Ref = target._ref
        leaves: list[Ref | Const] = []
        calling = self._calling(function, args, kwargs, leaves, in_place=True)
        if calling is None:
            raise ModelError(f"{name} writes in place and is no function that tasks can call")
        self._rebind(target, Ref(self._operation_node(calling, leaves), -1, ref.shape), view)
        return target

    def _rebind(self, target: Handle, ref: Ref, view: View | None) -> None:
        """Let a handle stand for a new value, and what it shows part of for one with that part."""
        target._ref = ref
        whole = None if view is None else view.holder()
        if view is not None and whole is not None:
            self._written("__setitem__", Tensor.__setitem__, (whole, view.index, target), {})
            note_view(target, whole, view.index)

    def _adopt(self, tensor: Tensor) -> None:
        """Make a handle of a plain tensor that is written to with a value not computed yet."""
        memory = tensor.untyped_storage().data_ptr()
        given = {part.untyped_storage().data_ptr() for part in sample_tensors(self._sample)}
        if memory in given or self.model.owns(tensor):
            raise ModelError(
                f"a tensor of shape {tuple(tensor.shape)} that the model was given, or that is a"
                " weight of it, is written to in place with what cells return; write to a clone()"
            )
        if tensor._is_view() or type(tensor) is not Tensor:
            raise ModelError(
                f"a view of shape {tuple(tensor.shape)} of another tensor is written to in place"
                " with what cells return; write to a clone()"
            )
        leaves: list[Ref | Const] = []
        copied = tensor.clone()
        calling = self._calling(torch.clone, (copied,), {}, leaves)
        assert calling is not None
        tensor.__class__ = Handle
        tensor._ref = Ref(OpNode(calling, leaves), -1, calling.shapes[0])  # type: ignore[attr-defined]

    def _rebound(self, target: Any, result: Any) -> Any:
        """Let the handle that was written to stand for the result."""
        if type(target) is Handle and type(result) is Handle:
            view = written_through("a function with inplace=True", target, [result])
            self._rebind(target, result._ref, view)
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
        output = self._wait(self, revealing)
        parts = revealing.packing.unpack(output.unsqueeze(0))
        revealing.known = {number: part[0] for number, part in enumerate(parts)}
        for made, part in zip(revealing.outputs, parts, strict=False):
            made.node.known[made.index] = part[0]


def _refuse_autocast() -> None:
    if torch.is_autocast_enabled("cpu"):
        raise ModelError("autocast is on around captured calls; convert types explicitly")


def _rebuilt(calling: Calling, refs: Sequence[Ref]) -> Any:
    """Return what a function returns, with handles in it."""
    handles = [handle_of(ref) for ref in refs]
    if calling.flat is not None:
        return handles if calling.flat is list else tuple(handles)
    rest = iter(handles)
    return replaced(calling.structure, lambda _: next(rest))


def _bytes(node: TaskNode) -> int:
    return math.prod(node.packing.shape) * node.packing.dtype.itemsize
