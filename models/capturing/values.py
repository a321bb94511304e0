"""Values that a captured model has asked for and that are not computed yet.

A `Handle` is what the model's code sees: a tensor with a shape and a type, without numbers. It
refers to an output of a task, or of an operation between tasks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from dynpartition.errors import ModelError
from dynpartition.models.capturing.packing import Packing

if TYPE_CHECKING:
    from dynpartition.models.capturing.recorder import Recorder

Format = tuple[tuple[int, ...], torch.dtype]
"""Shape and type."""


class _Active(threading.local):
    recorder: Recorder | None = None


ACTIVE = _Active()
"""Whose model is running in this thread."""


class Const:
    """A tensor with numbers, as a task reads it."""

    __slots__ = ("tensor", "version")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.version = version_of(tensor)

    def read(self) -> Tensor:
        """Return the tensor; ModelError if somebody has written to it since it was captured."""
        if version_of(self.tensor) != self.version:
            raise ModelError(
                f"a tensor of shape {tuple(self.tensor.shape)} was written to in place after a"
                " captured call was given it and before that call ran; write to a clone"
            )
        return self.tensor


def version_of(tensor: Tensor) -> int:
    """Return how often a tensor was written to; -1 where nobody counts."""
    return -1 if tensor.is_inference() else tensor._version


class TaskNode:
    """A call of a cell, or a task of glue alone."""

    __slots__ = (
        "args",
        "cell",
        "is_plain",
        "known",
        "kwargs",
        "number",
        "outputs",
        "packing",
        "returns",
        "reveals",
    )

    def __init__(
        self, cell: str, args: Sequence[Any], kwargs: Mapping[str, Any], packing: Packing
    ) -> None:
        self.cell = cell
        self.args = args
        """Refs, constants and plain values, in containers."""
        self.kwargs = kwargs
        self.packing = packing
        """How its outputs are one tensor."""
        self.is_plain = False
        """Whether the arguments are tensors alone, given by position."""
        self.number = -1
        """Of the task in its run; -1: nobody has been told of it yet."""
        self.returns = self.reveals = False
        self.known: dict[int, Tensor] = {}
        """Its outputs that have come to the host."""
        self.outputs: list[Ref] | None = None
        """Of glue: what it outputs."""


class OpNode:
    """A call of a PyTorch function on values that are not known yet."""

    __slots__ = (
        "args",
        "function",
        "in_place",
        "is_move",
        "is_several",
        "known",
        "kwargs",
        "name",
        "reads_weights",
        "shapes",
        "size",
        "task",
        "uses",
        "work",
    )

    def __init__(
        self, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Any
    ) -> None:
        self.name = name
        self.function = function
        self.args = args
        self.kwargs: Mapping[str, Any] = kwargs
        self.in_place = False
        self.is_move = False
        """Whether it computes nothing: it shows, moves or joins what is there."""
        self.is_several = False
        """Whether it makes several tensors."""
        self.known: dict[int, Tensor] = {}
        """What it makes, as far as it has come to the host."""
        self.reads_weights = False
        self.shapes: Sequence[Shape] = ()
        """Of all that it makes."""
        self.size = 1
        """Operations that a task does in order to have it, this one too."""
        self.work = 1
        """The same without those that compute nothing."""
        self.uses = 0
        """Calls and operations that read it."""
        self.task: TaskNode | None = None
        """The glue that makes it, if it is a task of its own."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a value before it is computed."""

    meta: Tensor
    """On the meta device."""
    format: Format
    """Shape and type."""

    @staticmethod
    def of(tensor: Tensor) -> Shape:
        """Return the shape of a tensor."""
        meta = tensor if tensor.is_meta else torch.empty_like(tensor, device="meta")
        return Shape(meta, (tuple(tensor.shape), tensor.dtype))


class Ref:
    """One output of a node."""

    __slots__ = ("index", "is_view", "is_viewed", "node", "shape")

    def __init__(self, node: TaskNode | OpNode, index: int, shape: Shape) -> None:
        self.node = node
        self.index = index
        """Which output; -1: of an operation that makes one tensor."""
        self.shape = shape
        self.is_view = self.is_viewed = False
        """Whether writing to it would write to others, or others show it."""


class Handle(torch.Tensor):
    """A tensor whose numbers are not computed yet; printing it does not compute them."""

    _ref: Ref

    @staticmethod
    def to(ref: Ref) -> Handle:  # type: ignore[override]
        """Return a new handle for a value."""
        handle: Handle = _make(Handle, ref.shape.meta)
        handle._ref = ref
        return handle

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Record what PyTorch was asked to do."""
        recorder = ACTIVE.recorder
        if recorder is None:
            raise ModelError(
                "a value of a captured run is used outside of the model's forward; return it from"
                " there instead of keeping it"
            )
        return recorder.operation(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: object = None) -> str:
        shape, dtype = self._ref.shape.format
        return f"<tensor {shape} of {dtype}, not computed yet>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise ModelError("a value that is not computed yet cannot be copied deeply; use clone()")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise ModelError("a value that is not computed yet cannot be pickled")


_make = torch.Tensor._make_subclass


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return recorded arguments with every ref and constant changed."""
    kind = type(value)
    if kind is Ref or kind is Const:
        return change(value)
    if kind is tuple or kind is list:
        return kind([mapped(one, change) for one in value])
    if kind is dict:
        return {key: mapped(one, change) for key, one in value.items()}
    if kind is slice:
        ends = (value.start, value.stop, value.step)
        return slice(*(mapped(one, change) for one in ends))
    return value


def leaves_of(value: Any) -> list[Ref | Const]:
    """Return the refs and constants of recorded arguments."""
    found: list[Ref | Const] = []

    def note(leaf: Ref | Const) -> Ref | Const:
        found.append(leaf)
        return leaf

    mapped(value, note)
    return found
