"""Operations for one task turned into operations for k tasks, with a launch axis in front.

The rules are for the functions that glue is mostly made of. Whoever uses them compares results
with those of the tasks alone, so a rule that does not hold for some arguments costs time only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

DIMS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("softmax", "log_softmax", "squeeze", "unsqueeze", "narrow", "select"), (1,)),
    **dict.fromkeys(("sum", "mean", "max", "min", "argmax", "argmin", "amax", "amin"), (1,)),
    **dict.fromkeys(("prod", "any", "all", "std", "var", "cumsum", "sort", "argsort"), (1,)),
    **dict.fromkeys(("cat", "concat", "stack", "unbind", "index_select", "logsumexp"), (1,)),
    **dict.fromkeys(("chunk", "split", "topk", "tensor_split"), (2,)),
    **dict.fromkeys(("transpose", "swapaxes", "flatten"), (1, 2)),
}
"""Function → positions of the arguments that name an axis."""
AXIS_NAMES = ("dim", "dim0", "dim1", "start_dim", "end_dim", "axis")
FIRST_AXIS = frozenset({"cat", "concat", "stack", "unbind", "chunk", "split", "tensor_split"})
"""Functions that take the first axis if none is named."""
SHAPED = frozenset({"view", "reshape", "expand", "view_as", "reshape_as", "expand_as", "repeat"})
ELEMENTWISE = frozenset(
    {
        *("add", "sub", "mul", "div", "true_divide", "rsub", "neg", "pow", "exp", "log", "sqrt"),
        *("rsqrt", "abs", "sin", "cos", "sigmoid", "tanh", "relu", "gelu", "silu", "elu", "erf"),
        *("leaky_relu", "softplus", "square", "reciprocal", "sign", "floor", "ceil", "round"),
        *("eq", "ne", "lt", "le", "gt", "ge", "where", "maximum", "minimum", "clamp", "log1p"),
        *("float", "double", "half", "long", "int", "bool", "to", "type_as", "clone", "contiguous"),
        *("logical_and", "logical_or", "logical_not", "addcmul", "lerp", "expm1", "masked_fill"),
        *("and", "or", "invert", "truediv", "radd", "rmul", "rtruediv", "rpow", "mod", "floordiv"),
        *("add_", "sub_", "mul_", "div_", "iadd", "isub", "imul", "itruediv", "zeros_like"),
        *("ones_like", "full_like", "empty_like", "nan_to_num"),
    }
)


def lifted(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return `function` for k tasks at once; NotImplementedError where there is no rule.

    `name` is its full name. Its tensors have the launch axis in front, save weights of glue.
    """
    short = name.rpartition(".")[2].strip("_") if name.endswith("__") else name.rpartition(".")[2]
    if short in ELEMENTWISE:
        return _elementwise(function)
    if short in DIMS:
        return _along(function, short)
    if short == "getitem":
        return _indexed
    if short in SHAPED:
        return _shaped(function)
    if name.endswith(("functional.linear", "functional.layer_norm")):
        return function
    raise NotImplementedError(name)


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        ranks = [a.dim() for a in args if isinstance(a, Tensor)]
        rank = max(ranks, default=0)
        aligned = [_aligned(a, rank) if isinstance(a, Tensor) else a for a in args]
        return function(*aligned, **kwargs)

    return call


def _aligned(tensor: Tensor, rank: int) -> Tensor:
    """Return (k, *shape) as (k, 1, …, *shape) of `rank` axes: shapes are aligned at their end."""
    missing = rank - tensor.dim()
    if not missing:
        return tensor
    return tensor.reshape(tensor.shape[0], *[1] * missing, *tensor.shape[1:])


def _along(function: Callable[..., Any], short: str) -> Callable[..., Any]:
    positions = DIMS[short]

    def call(*args: Any, **kwargs: Any) -> Any:
        shifted = list(args)
        named = {k: _shift(v) if k in AXIS_NAMES else v for k, v in kwargs.items()}
        for position in positions:
            if position < len(shifted):
                shifted[position] = _shift(shifted[position])
        is_named = len(shifted) > positions[0] or any(axis in named for axis in AXIS_NAMES)
        if not is_named:
            if short == "flatten":
                shifted.append(1)
            elif short in FIRST_AXIS:
                named["dim"] = 1
            elif short not in ("chunk", "topk"):
                raise NotImplementedError(short)  # it reduces all axes
        return function(*shifted, **named)

    return call


def _shift(axis: Any) -> Any:
    """Return the number of an axis behind the launch axis."""
    if isinstance(axis, tuple | list):
        return type(axis)([_shift(one) for one in axis])
    is_counted = isinstance(axis, int) and not isinstance(axis, bool) and axis >= 0
    return axis + 1 if is_counted else axis


def _indexed(tensor: Tensor, index: Any) -> Tensor:
    items = index if isinstance(index, tuple) else (index,)
    if any(isinstance(item, Tensor | list) for item in items):
        raise NotImplementedError("index by tensors")
    return tensor[(slice(None), *items)]


def _shaped(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(tensor: Tensor, *sizes: Any) -> Any:
        if len(sizes) == 1 and isinstance(sizes[0], Tensor):
            raise NotImplementedError("shape of another tensor")
        flat: Sequence[int] = sizes[0] if isinstance(sizes[0], tuple | list) else sizes
        first = 1 if function is torch.Tensor.repeat else len(tensor)
        missing = len(flat) + 1 - tensor.dim()
        if function in (torch.Tensor.expand, torch.Tensor.repeat) and missing > 0:
            tensor = _aligned(tensor, len(flat) + 1)
        return function(tensor, first, *flat)

    return call
