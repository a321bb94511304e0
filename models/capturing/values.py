"""Values that a captured model has asked for and that are not computed yet.

A `Handle` is what the model's code sees: a tensor with a shape and a type, without numbers. It
refers to an output of a task, or of an operation between tasks.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from dynpartition.errors import ModelError
from dynpartition.models.capturing.packing import Packing
from dynpartition.models.capturing.structure import replaced

if TYPE_CHECKING:
    from dynpartition.models.capturing.aliases import View
    from dynpartition.models.capturing.recorder import Recorder

Format = tuple[tuple[int, ...], torch.dtype]
"""Shape and type."""


class _Active(threading.local):
    recorder: Recorder | None = None


ACTIVE = _Active()
"""Whose model is running in this thread."""


class Const:
    """A tensor with numbers, as a task reads it."""

    __slots__ = ("name", "tensor", "version")

    def __init__(self, tensor: Tensor, name: str | None = None) -> None:
        self.tensor = tensor
        self.name = name
        """Of a weight of the model that belongs to no cell."""
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


CODES_MAX = 100_000
"""So many are remembered."""
_CODES: dict[Format, int] = {}
_NUMBERS = count()
"""Each is given once, whatever other threads do, so unlike formats never have the same."""


def code_of(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return a number for a shape and a type: quicker to compare, the same for equal ones.

    Until there have been too many: then equal ones get another, and what was learnt of them anew.
    """
    code = _CODES.get((shape, dtype))
    if code is None:
        if len(_CODES) >= CODES_MAX:
            _CODES.clear()
        code = _CODES.setdefault((shape, dtype), next(_NUMBERS))
    return code


class Shape:
    """What is known of a value before it is computed."""

    __slots__ = ("code", "format", "meta")

    def __init__(self, meta: Tensor) -> None:
        self.meta = meta
        """On the meta device."""
        self.format: Format = (tuple(meta.shape), meta.dtype)
        self.code = code_of(*self.format)

    @staticmethod
    def of(tensor: Tensor) -> Shape:
        """Return the shape of a tensor."""
        return Shape(tensor if tensor.is_meta else torch.empty_like(tensor, device="meta"))


@dataclass(frozen=True, eq=False)
class Calling:
    """What calls of one function with arguments of equal shapes and equal plain values share."""

    args: tuple[Any, ...]
    """With `Leaf(0)`, `Leaf(1)`, … in the place of tensors."""
    kwargs: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    """Of all tensors that it makes."""
    structure: Any
    """What it makes, with tensors on the meta device; the plain result where it makes none."""
    is_single: bool
    """Whether it makes one tensor and nothing else."""
    flat: type | None
    """list or tuple, if it makes one of tensors alone."""


@dataclass(frozen=True, eq=False)
class CellCalling(Calling):
    """Of a cell."""

    packing: Packing
    """How what it makes is one tensor."""


@dataclass(frozen=True, eq=False)
class OpCalling(Calling):
    """Of a PyTorch function."""

    function: Callable[..., Any]
    name: str
    is_view: bool = False
    """Whether what it makes lies in the memory of what it is given."""
    is_move: bool = False
    """Whether it computes nothing: it shows, moves or joins what is there."""
    in_place: bool = False


class TaskNode:
    """A call of a cell, or a task of glue alone."""

    __slots__ = (
        "calling",
        "cell",
        "known",
        "leaves",
        "number",
        "outputs",
        "packing",
        "returns",
        "reveals",
    )

    def __init__(
        self,
        cell: str,
        packing: Packing,
        calling: CellCalling | None = None,
        leaves: Sequence[Ref | Const] = (),
    ) -> None:
        self.cell = cell
        self.calling = calling
        """None: it is glue."""
        self.leaves = leaves
        """The tensors among the arguments."""
        self.packing = packing
        """How its outputs are one tensor."""
        self.number = -1
        """Of the task in its run; -1: nobody has been told of it yet."""
        self.returns = self.reveals = False
        self.known: dict[int, Tensor] = {}
        """Its outputs that have come to the host."""
        self.outputs: Sequence[Ref] = ()
        """Of glue: what it outputs."""


class OpNode:
    """A call of a PyTorch function on values that are not known yet."""

    __slots__ = ("calling", "known", "leaves", "reads_weights", "size", "task", "uses", "work")

    def __init__(self, calling: OpCalling, leaves: Sequence[Ref | Const]) -> None:
        self.calling = calling
        self.leaves = leaves
        self.known: dict[int, Tensor] = {}
        """What it makes, as far as it has come to the host."""
        self.size = 1
        """Operations that a task does in order to have it, this one too."""
        self.work = 0 if calling.is_move else 1
        """The same without those that compute nothing."""
        self.uses = 0
        """Calls and operations that read it."""
        self.task: TaskNode | None = None
        """The glue that makes it, if it is a task of its own."""
        self.reads_weights = False
        for leaf in leaves:
            if type(leaf) is Const:
                self.reads_weights |= leaf.name is not None
            elif isinstance(leaf, Ref):
                made = leaf.node
                if isinstance(made, OpNode) and made.task is None:
                    self.size += made.size
                    self.work += made.work


class Ref:
    """One output of a node."""

    __slots__ = ("index", "node", "shape", "view", "views")

    def __init__(self, node: TaskNode | OpNode, index: int, shape: Shape) -> None:
        self.node = node
        self.index = index
        """Which output; -1: of an operation that makes one tensor."""
        self.shape = shape
        self.view: View | None = None
        """What it shows part of."""
        self.views: list[weakref.ref[Handle]] | None = None
        """What shows part of it."""


class Handle(torch.Tensor):
    """A tensor whose numbers are not computed yet; printing it does not compute them."""

    _ref: Ref

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

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
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


def handle_of(ref: Ref) -> Handle:
    """Return a new handle for a value."""
    handle: Handle = _make(Handle, ref.shape.meta)
    handle._ref = ref
    return handle


def flat_kind(made: Any) -> type | None:
    """Return list or tuple for one of tensors alone, None for all else."""
    kind = type(made)
    is_flat = kind in (list, tuple) and all(isinstance(one, Tensor) for one in made)
    return kind if is_flat else None


class Leaf:
    """The place of a tensor among arguments."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


def template(value: Any) -> tuple[Any, list[Tensor]]:
    """Return arguments with leaves in the place of tensors, and those tensors."""
    found: list[Tensor] = []

    def leaf(tensor: Tensor) -> Leaf:
        found.append(tensor)
        return Leaf(len(found) - 1)

    return replaced(value, leaf), found


def filled(value: Any, leaves: Sequence[Any]) -> Any:
    """Return a template with values in the place of leaves."""
    kind = type(value)
    if kind is Leaf:
        return leaves[value.number]
    if kind is tuple or kind is list:
        return kind([filled(one, leaves) for one in value])
    if kind is dict:
        return {key: filled(one, leaves) for key, one in value.items()}
    if kind is slice:
        return slice(*(filled(one, leaves) for one in (value.start, value.stop, value.step)))
    return value
