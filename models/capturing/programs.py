"""Glue as data: which PyTorch functions a task calls around its cell, as text that workers read.

A program is recorded in the caller's process. Workers get it as JSON, look functions up by name,
and never unpickle anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, reduce
from typing import Any

import torch
from torch import Tensor
from torch.overrides import resolve_name

from dynpartition.errors import ModelError
from dynpartition.models.capturing.lifting import lifted
from dynpartition.models.capturing.packing import Part

_TYPES = {"dtype": torch.dtype, "memory_format": torch.memory_format, "layout": torch.layout}
"""Constants that are written as attributes of torch."""


@dataclass(frozen=True, slots=True)
class Slot:
    """An argument of the task, or a part of one."""

    index: int


@dataclass(frozen=True, slots=True)
class Made:
    """What an operation of the program has made."""

    operation: int
    output: int
    """Which of several; -1: it makes one tensor."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter or buffer of the model that belongs to no cell."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a PyTorch function."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    in_place: bool = False
    """It writes to its first argument: a copy is made first, and is what the operation makes."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a slot comes from."""

    argument: int
    """Position among the task's arguments: inputs in order, then the host input."""
    part: Part


@dataclass(frozen=True)
class Program:
    """What a task does: operations, and a call of its cell with what they made.

    Without a call, `outputs` are what the task outputs.
    """

    sources: tuple[Source, ...]
    operations: tuple[Operation, ...] = ()
    call: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
    outputs: tuple[Any, ...] = ()
    _functions: list[Callable[..., Any]] = field(default_factory=list, repr=False)
    _lifted: list[Callable[..., Any]] = field(default_factory=list, repr=False)

    def slots(self, columns: Sequence[Tensor]) -> list[Tensor]:
        """Return the rows of every slot, (k, *shape), of the task's arguments (k, *shape) each."""
        return [source.part.of(columns[source.argument]) for source in self.sources]

    def run(
        self, slots: Sequence[Tensor], weights: Mapping[str, Tensor], *, together: bool = False
    ) -> list[Tensor]:
        """Return the tensors among the arguments of the call, or the outputs.

        `slots` have no launch axis; if `together`, they have: NotImplementedError where operations
        have no rule for that.
        """
        functions = self._lifted if together else self._functions
        if len(functions) != len(self.operations):
            found = [(function_named(one.name), one.name) for one in self.operations]
            functions[:] = [lifted(*one) if together else one[0] for one in found]
        made: list[Any] = []

        def filled(value: Any) -> Any:
            return _filled(value, slots, made, weights)

        for one, function in zip(self.operations, functions, strict=True):
            args = [filled(argument) for argument in one.args]
            kwargs = {name: filled(argument) for name, argument in one.kwargs.items()}
            if one.in_place:
                target = args[0].clone()
                function(target, *args[1:], **kwargs)
                made.append(target)
            else:
                made.append(function(*args, **kwargs))
        return [filled(value) for value in self.results]

    @cached_property
    def results(self) -> list[Slot | Made | Weight]:
        """What the call is given, or what the task outputs."""
        found: list[Slot | Made | Weight] = []
        _noted(self.outputs if self.call is None else list(self.call), found)
        return found

    def called(self, cell: Callable[..., Any], tensors: Sequence[Tensor]) -> Any:
        """Call the cell with the tensors that `run` has returned."""
        assert self.call is not None
        rest = iter(tensors)
        args, kwargs = _replaced(self.call[0], rest), _replaced(self.call[1], rest)
        return cell(*args, **kwargs)

    def text(self) -> str:
        """Return the program as JSON."""
        operations = [
            [one.name, int(one.in_place), _plain(one.args), _plain(dict(one.kwargs))]
            for one in self.operations
        ]
        call = None if self.call is None else [_plain(self.call[0]), _plain(dict(self.call[1]))]
        sources = [
            [s.argument, s.part.begin, list(s.part.shape), _type_name(s.part.dtype)]
            for s in self.sources
        ]
        return json.dumps([sources, operations, call, _plain(self.outputs)], separators=(",", ":"))


def parse_program(text: str) -> Program:
    """Return the program that `text` says."""
    sources, operations, call, outputs = json.loads(text)
    return Program(
        tuple(Source(a, Part(b, tuple(shape), getattr(torch, t))) for a, b, shape, t in sources),
        tuple(
            Operation(name, _meant(args), _meant(kwargs), bool(in_place))
            for name, in_place, args, kwargs in operations
        ),
        None if call is None else (_meant(call[0]), _meant(call[1])),
        _meant(outputs),
    )


def _filled(
    value: Any, slots: Sequence[Tensor], made: Sequence[Any], weights: Mapping[str, Tensor]
) -> Any:
    kind = type(value)
    if kind is Slot:
        return slots[value.index]
    if kind is Made:
        result = made[value.operation]
        return result if value.output < 0 else result[value.output]
    if kind is Weight:
        return weights[value.name]
    if kind is tuple or kind is list:
        return kind([_filled(one, slots, made, weights) for one in value])
    if kind is dict:
        return {key: _filled(one, slots, made, weights) for key, one in value.items()}
    if kind is slice:
        ends = (value.start, value.stop, value.step)
        return slice(*(_filled(one, slots, made, weights) for one in ends))
    return value


def _noted(value: Any, found: list[Slot | Made | Weight]) -> None:
    """Append what stands for tensors in `value` to `found`."""
    if isinstance(value, Slot | Made | Weight):
        found.append(value)
    elif isinstance(value, tuple | list):
        for one in value:
            _noted(one, found)
    elif isinstance(value, dict):
        _noted(list(value.values()), found)


def _replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Return `value` with the next tensors in the place of what stands for them."""
    if isinstance(value, Slot | Made | Weight):
        return next(tensors)
    if isinstance(value, tuple | list):
        return type(value)([_replaced(one, tensors) for one in value])
    if isinstance(value, dict):
        return {key: _replaced(one, tensors) for key, one in value.items()}
    return value


def _plain(value: Any) -> Any:
    """Return JSON values that say `value`; ModelError for what cannot be written."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {"tuple": [_plain(one) for one in value]}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, Slot):
        return {"slot": value.index}
    if isinstance(value, Made):
        return {"made": [value.operation, value.output]}
    if isinstance(value, Weight):
        return {"weight": value.name}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _plain(one) for key, one in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_plain(one) for one in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": 1}
    if isinstance(value, tuple(_TYPES.values())):
        return {"torch": _type_name(value)}
    raise ModelError(
        f"a value of type {type(value).__qualname__} is an argument of a cell or of an operation"
        " on what cells return; pass tensors, numbers, strings and containers of these, or choose"
        " a submodule inside as the cell"
    )


def _meant(value: Any) -> Any:
    if isinstance(value, list):
        return [_meant(one) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, said),) = value.items()
    if kind == "tuple":
        return tuple(_meant(one) for one in said)
    if kind == "dict":
        return {key: _meant(one) for key, one in said.items()}
    if kind == "slice":
        return slice(*(_meant(one) for one in said))
    if kind == "torch":
        return getattr(torch, said)
    if kind == "ellipsis":
        return Ellipsis
    if kind == "made":
        return Made(*said)
    return Slot(said) if kind == "slot" else Weight(said)


def _type_name(value: object) -> str:
    return str(value).removeprefix("torch.")


_NAMES: dict[Any, str | None] = {}


def name_of(function: Callable[..., Any]) -> str | None:
    """Return the name that workers find a PyTorch function by; None where there is none."""
    if function not in _NAMES:
        module = getattr(function, "__module__", None)
        guessed = f"{module}.{getattr(function, '__name__', '')}"
        names = (resolve_name(function), guessed)
        fitting = (name for name in names if name and _is_named(name, function))
        _NAMES[function] = next(fitting, None)
    return _NAMES[function]


def _is_named(name: str, function: Callable[..., Any]) -> bool:
    try:
        return bool(function_named(name) == function)
    except (AttributeError, ModelError):
        return False


@cache
def function_named(name: str) -> Callable[..., Any]:
    """Return the PyTorch function of that name."""
    first, *rest = name.split(".")
    if first != "torch":
        raise ModelError(f"{name} is no function of PyTorch")
    function: Any = reduce(getattr, rest, torch)
    return function  # type: ignore[no-any-return]
