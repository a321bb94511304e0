"""What is learnt of a cell by calling it: what it returns, and whether a task can stand for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dynpartition.errors import ModelError
from dynpartition.models.capturing.cells import ValueWatch
from dynpartition.models.capturing.packing import Packing
from dynpartition.models.capturing.structure import replaced, tensors_in
from dynpartition.models.capturing.values import CellCalling, Shape, flat_kind, template


class Lesson:
    """Calls one cell for the first time, for some shapes of its arguments."""

    def __init__(self, name: str, module: nn.Module, call: Callable[..., Any]) -> None:
        self._name = name
        self._module = module
        self._call = call
        self._is_examined = False

    def learn(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        real: Callable[[], tuple[Sequence[Any], Mapping[str, Any]]],
    ) -> CellCalling:
        """Return what the cell returns; tensors of the arguments say only shape and type.

        Calls it with random numbers, and with the `real` arguments where it refuses those.
        """
        try:
            made = self._tried(*_filled_in(args, kwargs))
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
            made = self._tried(*real())
        tensors = tensors_in(made)
        if not tensors:
            raise ModelError(f"cell {self._name} returns no tensor; choose another submodule")
        shapes = tuple(Shape.of(tensor) for tensor in tensors)
        structure = replaced(made, lambda tensor: torch.empty_like(tensor, device="meta"))
        (template_args, template_kwargs), _ = template((tuple(args), dict(kwargs)))
        packing = Packing.of([shape.format for shape in shapes])
        is_single = isinstance(made, Tensor)
        flat = flat_kind(made)
        return CellCalling(
            template_args, template_kwargs, shapes, structure, is_single, flat, packing
        )

    def _tried(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if self._is_examined:
            return self._call(*args, **kwargs)
        before = _state(self._module)
        given = tensors_in([list(args), dict(kwargs)])
        copies = [tensor.clone() for tensor in given]
        luck = torch.get_rng_state()
        with ValueWatch() as watch:
            made = self._call(*args, **kwargs)
        self._check_arguments(given, copies, tensors_in(made))
        if not torch.equal(luck, torch.get_rng_state()) and self._draws(args, kwargs):
            self._refuse("draws random numbers", "switch that off, or draw them outside of it")
        if changed := [
            key for key, value in _state(self._module).items() if before.get(key) != value
        ]:
            self._refuse(f"changes its own state ({changed[0]})", "let it return what it keeps")
        self._check_values(made, asked=watch.asked)
        self._is_examined = True
        return made

    def _draws(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether it was the cell that drew numbers: threads share the generator."""
        watch = _LuckWatch()
        with watch:
            self._call(*args, **kwargs)
        return watch.drawn

    def _check_arguments(
        self, given: Sequence[Tensor], copies: Sequence[Tensor], made: Sequence[Tensor]
    ) -> None:
        if not all(_is_equal(a, b) for a, b in zip(given, copies, strict=True)):
            self._refuse("writes to its arguments", "let it write to a clone")
        memory = {tensor.untyped_storage().data_ptr() for tensor in given if tensor.numel()}
        if any(tensor.untyped_storage().data_ptr() in memory for tensor in made if tensor.numel()):
            self._refuse("returns memory of its arguments", "let it return a clone")
        if any(tensor.is_sparse or tensor.is_quantized for tensor in made):
            self._refuse("returns a sparse or quantized tensor", "let it return a dense one")

    def _check_values(self, made: Any, *, asked: bool) -> None:
        plain: list[Any] = []

        def note(value: Any) -> None:
            if isinstance(value, tuple | list):
                for one in value:
                    note(one)
            elif isinstance(value, Mapping):
                note(list(value.values()))
            elif not isinstance(value, Tensor):
                plain.append(value)

        note(made)
        if asked and any(isinstance(value, bool | int | float) for value in plain):
            self._refuse("returns plain numbers read from tensors", "let it return tensors")
        if unusual := [v for v in plain if not isinstance(v, bool | int | float | str | None)]:
            kind = type(unusual[0]).__qualname__
            self._refuse(f"returns a {kind}", "let it return tensors in tuples, lists or dicts")

    def _refuse(self, what: str, remedy: str) -> None:
        raise ModelError(
            f"cell {self._name} ({type(self._module).__qualname__}) {what}, so its calls cannot"
            f" become tasks; {remedy}, or choose other cells"
        )


class _LuckWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether this thread draws random numbers inside a block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drawn = False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function."""
        self.drawn |= torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _filled_in(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    generator = torch.Generator().manual_seed(0)

    def numbers(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(
                tensor.dtype
            )
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    return replaced(list(args), numbers), replaced(dict(kwargs), numbers)


def _state(module: nn.Module) -> dict[str, Any]:
    """Return what can be seen to change: versions of weights, and which attributes are there."""
    seen: dict[str, Any] = {}
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        for key, value in part.__dict__.items():
            if key not in ("_parameters", "_buffers", "_modules"):
                seen[prefix + key] = _Same(value)
    for key, tensor in module.state_dict(keep_vars=True).items():
        version = 0 if tensor.is_inference() else tensor._version
        seen[key] = (id(tensor), version)
    return seen


class _Same:
    """Equal to what stands for the same object, with as much in it."""

    def __init__(self, value: object) -> None:
        self._value = value
        self._size = len(value) if isinstance(value, list | dict | set) else 0
        self._is_plain = isinstance(value, bool | int | float | str | tuple | None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return False
        if self._is_plain:
            return type(self._value) is type(other._value) and self._value == other._value
        return self._value is other._value and self._size == other._size

    __hash__ = None  # type: ignore[assignment]


def _is_equal(one: Tensor, other: Tensor) -> bool:
    return bool(torch.equal(one, other)) or bool(
        torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)
    )
