"""Sizes of the values of an ONNX graph."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping

import onnx
from onnx import helper

from dynpartition.errors import GraphError, did_you_mean
from dynpartition.graph import VALUE_MAX

Shape = tuple[int, ...]
_NAME = re.compile(r"[^\W\d]\w*")


def with_dims(model: onnx.ModelProto, dims: Mapping[str, int]) -> onnx.ModelProto:
    """Return a copy whose symbolic dimensions have the sizes in `dims`.

    Raises GraphError for a dimension that the model does not have, and for sizes below 1.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    symbols = set()
    for dim in _dims(copy.graph):
        if dim.dim_param:
            symbols.update({dim.dim_param, *_NAME.findall(dim.dim_param)})
            size = _evaluated(dim.dim_param, dims)
            if size is not None and 0 <= size <= VALUE_MAX:
                dim.dim_value = size
    for name, size in dims.items():
        if name not in symbols:
            remedy = did_you_mean(name, symbols)
            raise GraphError(f"the model has no dimension {name!r}; {remedy}")
        if size < 1:
            raise GraphError(f"dimension {name!r} is {size}; give a number from 1")
    return copy


def _evaluated(text: str, dims: Mapping[str, int]) -> int | None:
    """Return a size: a name in `dims`, or sums and products of such names; None for others."""
    if text in dims:
        return dims[text]
    try:
        return _size_of(ast.parse(text, mode="eval").body, dims)
    except (SyntaxError, ValueError, LookupError, ZeroDivisionError, RecursionError):
        return None


def _size_of(node: ast.AST, dims: Mapping[str, int]) -> int:
    """Evaluate a dimension as exporters write it: `2*batch + 1`; LookupError for anything else."""
    if isinstance(node, ast.Name):
        return dims[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp):
        combine = _OPERATORS[type(node.op)]
        return combine(_size_of(node.left, dims), _size_of(node.right, dims))
    raise LookupError(type(node))


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def _dims(graph: onnx.GraphProto) -> Iterator[onnx.TensorShapeProto.Dimension]:
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield from value.type.tensor_type.shape.dim


class Shapes:
    """Shapes and bytes of every value of one graph, after shape inference."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        """By name; dense ones only."""
        self._constants = {
            node.output[0]: attribute.t
            for node in graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
        values = (*graph.value_info, *graph.input, *graph.output)
        self._values = {value.name: value.type for value in values}

    def shape(self, value: str, node: str) -> Shape:
        """Return the shape of `value`, which `node` reads or writes.

        Raises GraphError naming both where a size is not known.
        """
        tensor = self._tensor(value)
        if tensor is not None:
            return tuple(tensor.dims)
        kind = self._values.get(value)
        if kind is None or not kind.HasField("tensor_type"):
            return self._unknown(value, node, kind)
        if not kind.tensor_type.HasField("shape"):
            raise _no_size(value, node, "its rank", "export the model with fixed input sizes")
        return tuple(
            self._size(dim, place, value, node)
            for place, dim in enumerate(kind.tensor_type.shape.dim)
        )

    def size_bytes(self, value: str, node: str) -> int:
        """Return how many bytes `value` has; GraphError where that is not known."""
        count = math.prod(self.shape(value, node))
        try:
            return count * self._item_bytes(value)
        except KeyError as error:
            what = f"type {error}, which this version of onnx does not know"
            raise GraphError(f"node {node!r}: {value!r} has {what}; update onnx") from None

    def _tensor(self, value: str) -> onnx.TensorProto | None:
        return self.weights.get(value) or self._constants.get(value)

    def _unknown(self, value: str, node: str, kind: onnx.TypeProto | None) -> Shape:
        # Other constants (a number, a list of numbers) are as good as nothing.
        if any(value in made.output for made in self.graph.node if made.op_type == "Constant"):
            return (1,)
        what = "its size" if kind is None else "the size of what is no dense tensor"
        raise _no_size(value, node, what, "replace the operator that makes it")

    def _size(self, dim: onnx.TensorShapeProto.Dimension, place: int, value: str, node: str) -> int:
        if dim.HasField("dim_value"):
            return int(dim.dim_value)
        named = dim.dim_param and not dim.dim_param.startswith("unk__")
        if named:
            what, remedy = f"dimension {dim.dim_param!r}", f"give its size, {dim.dim_param}=8 say"
        else:
            what, remedy = f"axis {place}", "export the model with fixed input sizes"
        raise _no_size(value, node, what, remedy)

    def _item_bytes(self, value: str) -> int:
        tensor = self._tensor(value)
        kind = self._values.get(value)
        code = tensor.data_type if tensor is not None else 0
        if tensor is None and kind is not None:
            code = kind.tensor_type.elem_type
        return int(helper.tensor_dtype_to_np_dtype(code).itemsize) if code else 8


def _no_size(value: str, node: str, what: str, remedy: str) -> GraphError:
    return GraphError(f"node {node!r}: {what} of {value!r} is not known; {remedy}")
