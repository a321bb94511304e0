"""Floating-point operations of ONNX nodes: those of products, as PyTorch's counter has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import onnx
from onnx import helper

from dynpartition.errors import GraphError

Shape = tuple[int, ...]
Attributes = Mapping[str, object]


class _Sizes(Protocol):
    def shape(self, value: str, node: str) -> Shape: ...


def flops_of(node: onnx.NodeProto, shapes: _Sizes, key: str) -> int:
    """Return the operations of a node; a multiplication with an addition counts as two.

    Operators without products (additions, activations, copies) count nothing: bytes decide there.
    Raises GraphError for shapes that the operator cannot have.
    """
    rule = _RULES.get(node.op_type)
    if rule is None:
        return 0
    plain = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    read = [shapes.shape(value, key) if value else () for value in node.input]
    written = [shapes.shape(value, key) if value else () for value in node.output]
    try:
        return 2 * rule(read, written, plain)
    except (IndexError, ValueError):
        listed = ", ".join("x".join(map(str, shape)) or "scalar" for shape in read)
        raise GraphError(
            f"node {key!r}: {node.op_type} cannot read {listed}; export the model again"
        ) from None


Rule = Callable[[Sequence[Shape], Sequence[Shape], Attributes], int]
"""(shapes read, shapes written, attributes) → multiplications."""


def _matmul(read: Sequence[Shape], written: Sequence[Shape], plain: Attributes) -> int:
    return math.prod(written[0]) * read[0][-1]


def _gemm(read: Sequence[Shape], written: Sequence[Shape], plain: Attributes) -> int:
    return math.prod(written[0]) * read[0][0 if plain.get("transA") else 1]


def _conv(read: Sequence[Shape], written: Sequence[Shape], plain: Attributes) -> int:
    return math.prod(written[0]) * math.prod(read[1][1:])  # (out, in / groups, kernel…)


def _qlinear_conv(read: Sequence[Shape], written: Sequence[Shape], plain: Attributes) -> int:
    return math.prod(written[0]) * math.prod(read[3][1:])  # after x, its scale and zero point


def _conv_transpose(read: Sequence[Shape], written: Sequence[Shape], plain: Attributes) -> int:
    return math.prod(read[0]) * math.prod(read[1][1:])  # (in, out / groups, kernel…)


def _recurrent(gates: int) -> Rule:
    def rule(read: Sequence[Shape], written: Sequence[Shape], plain: Attributes) -> int:
        steps, batch, _ = read[0]
        directions, rows, width = read[1]  # (directions, gates · hidden, input)
        return steps * batch * directions * rows * (width + rows // gates)

    return rule


def _einsum(read: Sequence[Shape], written: Sequence[Shape], plain: Attributes) -> int:
    """Count as if all operands met at once: an upper bound for more than two."""
    equation = plain.get("equation", b"")
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    terms = text.replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    rest = 1
    for term, shape in zip(terms, read, strict=False):
        before, dots, after = term.partition("...")
        tail = shape[len(shape) - len(after) :] if after else ()
        sizes |= dict(zip(before, shape, strict=False)) | dict(zip(after, tail, strict=False))
        if dots:
            rest = max(rest, math.prod(shape[len(before) : len(shape) - len(after)]))
    return rest * math.prod(sizes.values())


def _attention(read: Sequence[Shape], written: Sequence[Shape], plain: Attributes) -> int:
    """Count both products; heads may be an axis or lie side by side in the last one."""
    query, key = read[:2]
    return (math.prod(query) + math.prod(written[0])) * key[-2]


_RULES: dict[str, Rule] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _qlinear_conv,
    "ConvTranspose": _conv_transpose,
    "RNN": _recurrent(1),
    "GRU": _recurrent(3),
    "LSTM": _recurrent(4),
    "Einsum": _einsum,
    "Attention": _attention,
}
