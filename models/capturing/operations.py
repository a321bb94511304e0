"""What becomes of the PyTorch functions that a model calls on values not computed yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynpartition.errors import ModelError
from dynpartition.models.capturing.cells import NEEDS_VALUES
from dynpartition.models.capturing.programs import name_of
from dynpartition.models.capturing.structure import replaced, tensors_in
from dynpartition.models.capturing.values import (
    Handle,
    OpCalling,
    Ref,
    Shape,
    flat_kind,
    template,
)

ANSWERS: Mapping[str, Any] = {
    "device": torch.device("cpu"),
    "is_meta": False,
    "is_cpu": True,
    "requires_grad": False,
    "grad": None,
    "grad_fn": None,
    "is_leaf": True,
}
"""Attributes of values that are not computed yet."""

SAME = frozenset({"cpu", "cuda", "detach", "pin_memory"})
"""Methods that give the same numbers: where they lie is for the scheduler to say."""

RANDOM = frozenset(
    {
        *("rand_like", "randn_like", "randint_like", "bernoulli", "bernoulli_", "multinomial"),
        *("normal", "normal_", "uniform_", "random_", "exponential_", "poisson", "rrelu"),
        *("gumbel_softmax", "geometric_", "cauchy_", "log_normal_"),
    }
)
REFUSED = frozenset(
    {"backward", "register_hook", "data_ptr", "untyped_storage", "storage", "share_memory_", "set_"}
)
IN_PLACE = frozenset(
    f"__i{name}__"
    for name in (
        *("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "matmul"),
        *("and", "or", "xor", "lshift", "rshift"),
    )
) | {"__setitem__"}
JOINING = frozenset({"cat", "stack", "concat", "concatenate", "hstack", "vstack"})
"""Functions that move numbers without computing any."""


def judge(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    in_place: bool = False,
) -> OpCalling | None:
    """Return what the function makes of such arguments, tried on the meta device.

    None: it needs their numbers.
    """
    name = name_of(function)
    if name is None or getattr(function, "__name__", "") in NEEDS_VALUES:
        return None
    given, named = replaced(list(args), _on_meta), replaced(dict(kwargs), _on_meta)
    try:
        if in_place:
            given[0] = given[0].clone()
        made = function(*given, **named)
    except (RuntimeError, NotImplementedError, ValueError, IndexError, TypeError):
        if in_place:
            raise
        return None  # it says itself what is wrong, if anything is, once it has the numbers
    if in_place:
        made = given[0]
    tensors = tensors_in(made)
    is_single = isinstance(made, Tensor)
    is_list = isinstance(made, tuple | list) and len(tensors) == len(made)
    if tensors and not is_single and not is_list:
        return None
    before = {t.untyped_storage()._cdata for t in tensors_in([given, named])}
    is_view = not in_place and any(t.untyped_storage()._cdata in before for t in tensors)
    is_move = is_view or getattr(function, "__name__", "") in JOINING
    (template_args, template_kwargs), _ = template((tuple(args), dict(kwargs)))
    return OpCalling(
        template_args,
        template_kwargs,
        tuple(Shape.of(tensor) for tensor in tensors),
        made,
        is_single,
        flat_kind(made),
        function,
        name,
        is_view,
        is_move,
        in_place,
    )


def _on_meta(tensor: Tensor) -> Tensor:
    if isinstance(tensor, Handle):
        return tensor._ref.shape.meta
    return torch.empty_like(tensor, device="meta")


def attribute_of(function: Callable[..., Any]) -> str | None:
    """Return which attribute a getter reads; None for other functions."""
    if getattr(function, "__name__", "") != "__get__":
        return None
    return getattr(getattr(function, "__self__", None), "__name__", None)


def without_devices(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments without devices, which schedulers choose."""
    named = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking", "pin_memory")}
    if name not in ("to", "type_as"):
        return tuple(args), named
    kept = [args[0]]
    for argument in args[1:]:
        if isinstance(argument, Tensor):
            kept.append(argument.dtype)
        elif not isinstance(argument, torch.device | str) and type(argument) is not int:
            kept.append(argument)
    return tuple(kept), named


def dropout_input(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return what a dropout that is switched off hands on; ModelError for one that is not."""
    is_training = kwargs.get("training", args[2] if len(args) > 2 else True)
    if is_training:
        raise ModelError(f"{name} is in training mode; call model.eval() before capturing")
    return kwargs["input"] if "input" in kwargs else args[0]


def refuse(name: str) -> None:
    """Raise ModelError for functions that no task can call."""
    if name in RANDOM:
        raise ModelError(
            f"{name} draws random numbers from what cells return, so no two runs agree; draw them"
            " before, or pass them in as an input"
        )
    if name in REFUSED:
        raise ModelError(
            f"{name} was called on a value that is not computed yet; captured models run forward"
            " only, and values have no memory until they are asked for"
        )


def known_index(index: Any, force: Callable[[Ref], Tensor]) -> Any:
    """Return an index whose result has a shape that is known: masks become numbers."""
    items = index if isinstance(index, tuple) else (index,)
    if not any(isinstance(item, Tensor) for item in items):
        return index
    found: list[Any] = []
    for item in items:
        number = _known_number(item, force) if type(item) is Handle else item
        if _is_mask(number):
            found.extend(number.nonzero(as_tuple=True))
        else:
            found.append(number)
    return tuple(found) if isinstance(index, tuple) or len(found) != 1 else found[0]


def _known_number(item: Handle, force: Callable[[Ref], Tensor]) -> Any:
    """Return the value of a mask, or of one number, which decide about shapes."""
    shape, dtype = item._ref.shape.format
    if dtype in (torch.bool, torch.uint8):
        return force(item._ref)
    return item if shape else int(force(item._ref))


def _is_mask(item: Any) -> bool:
    is_known = isinstance(item, Tensor) and type(item) is not Handle
    return is_known and item.dim() > 0 and item.dtype in (torch.bool, torch.uint8)
