"""ONNX models as task graphs, a task per node; nothing is run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import inliner, shape_inference
from onnx.shape_inference import InferenceError

from dynpartition.calibration.operators import Work
from dynpartition.errors import DynPartitionError, FileFormatError, GraphError
from dynpartition.formats.files import in_file
from dynpartition.interop.nodes import Durations, Imported, Node, import_nodes
from dynpartition.interop.onnx_flops import flops_of
from dynpartition.interop.onnx_shapes import Shapes, with_dims
from dynpartition.profile import Profile


def from_onnx(
    source: Path | str | onnx.ModelProto,
    profile: Profile | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    durations: Durations | None = None,
) -> Imported:
    """Return the task graph of an ONNX model, a task per node in the order of the file.

    `dims`: sizes of symbolic dimensions, for instance {"batch": 8}. `profile` prices the nodes:
    cells that it knows by name, others by its operator models; `durations` (node name → device →
    ns) comes before both. A node with weights is a cell of its own name, or shares that of the
    first node with the same ones; others are cells like `Relu[1x64]`. Weights are initializers,
    constants, and what nodes make of them alone, which are no tasks then. Inputs of the model come
    from the host, its outputs return there.

    Raises FileFormatError for a file that is no ONNX model, GraphError for sizes that are not known
    and for control flow (If, Loop, Scan) without durations, ProfileError where a node cannot be
    priced.
    """
    if isinstance(source, onnx.ModelProto):
        return _import(source, "", profile, dims or {}, durations)
    path = Path(source)
    with in_file(path):
        return _import(_load(path), path.stem, profile, dims or {}, durations)


def _load(path: Path) -> onnx.ModelProto:
    try:
        # Shapes of weights stand in the file itself, wherever their values are.
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise FileFormatError(f"{error.strerror}; check the path") from error
    except DecodeError as error:
        raise FileFormatError(f"is no ONNX model ({error}); export it again") from None
    if not model.ir_version:
        raise FileFormatError("is no ONNX model: it has no version; export it again")
    return model


def _import(
    model: onnx.ModelProto,
    name: str,
    profile: Profile | None,
    dims: Mapping[str, int],
    durations: Durations | None,
) -> Imported:
    shapes = Shapes(_inferred(model, dims).graph)
    return import_nodes(
        name or model.graph.name or "onnx",
        _Reader(shapes, frozenset(durations or ())).nodes(),
        profile,
        durations,
    )


def _inferred(model: onnx.ModelProto, dims: Mapping[str, int]) -> onnx.ModelProto:
    """Return a copy with the sizes of all values, as far as they can be known."""
    try:
        flat = inliner.inline_local_functions(model) if model.functions else model
        return shape_inference.infer_shapes(with_dims(flat, dims), data_prop=True)
    except DynPartitionError:
        raise
    except (RuntimeError, ValueError, TypeError, DecodeError, InferenceError) as error:
        first = str(error).strip().partition("\n")[0]
        raise FileFormatError(f"is no valid ONNX model: {first}") from None


@dataclass(slots=True)
class _Seen:
    """What became of the values of the graph so far."""

    made_by: dict[str, str]
    """Value → key of the node that makes it; values from outside are not there."""
    cell_of: dict[tuple[object, ...], str]
    """Operator and weights → name of the cell that has them."""


class _Reader:
    """Turns the nodes of one graph into `Node`s."""

    def __init__(self, shapes: Shapes, priced: frozenset[Hashable]) -> None:
        self._shapes, self._priced = shapes, priced
        self._seen = _Seen({}, {})
        self._constants = set(shapes.weights)
        self._given = {value.name for value in shapes.graph.input}
        self._same: dict[str, str] = {}
        """Output of an Identity → its input."""

    def nodes(self) -> list[Node]:
        graph = self._shapes.graph
        keys: set[str] = set()
        found = []
        for number, node in enumerate(graph.node):
            if self._is_constant(node):
                self._constants.update(node.output)
            elif node.op_type == "Identity":
                self._same[node.output[0]] = self._original(node.input[0])
            else:
                key = node.name or f"{node.op_type}_{number}"
                while key in keys:  # names need not differ
                    key += f"_{number}"
                keys.add(key)
                found.append(self._node(node, key))
        answers = {self._original(value.name) for value in graph.output}
        returning = {self._seen.made_by.get(value) for value in answers}
        return [replace(node, returns=node.key in returning) for node in found]

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        """Whether a node always makes the same, so that it is computed once, not in every run."""
        read = [self._original(value) for value in node.input if value]
        if not read:
            return node.op_type == "Constant"
        return self._constants.issuperset(read) and not _subgraphs(node)

    def _original(self, value: str) -> str:
        return self._same.get(value, value)

    def _node(self, node: onnx.NodeProto, key: str) -> Node:
        shapes, made_by = self._shapes, self._seen.made_by
        read = [self._original(value) for value in (*node.input, *_captured(node)) if value]
        weights = [value for value in read if value in self._constants]
        outer = [value for value in read if value not in self._constants and value not in made_by]
        for value in outer:
            if value not in self._given:
                raise GraphError(
                    f"node {key!r} reads {value!r}, which no input, dense weight or earlier node"
                    " gives; sort the nodes, or export the model again"
                )
        inputs = [made_by[value] for value in read if value in made_by]
        written = [value for value in node.output if value]
        if _subgraphs(node) and key not in self._priced:
            raise GraphError(
                f"node {key!r} ({node.op_type}) runs other nodes a number of times that the model"
                " does not tell; give it durations, or export the model without control flow"
            )
        output_bytes = sum(shapes.size_bytes(value, key) for value in written)
        moved = [value for value in dict.fromkeys(read) if value not in weights]
        param_bytes = sum(shapes.size_bytes(value, key) for value in dict.fromkeys(weights))
        moved_bytes = sum(shapes.size_bytes(value, key) for value in moved) + output_bytes
        work = Work(1, flops_of(node, shapes, key), param_bytes, moved_bytes)
        made_by.update(dict.fromkeys(written, key))
        return Node(
            key=key,
            cell=self._cell(node, key, weights, written),
            inputs=tuple(inputs),
            output_bytes=output_bytes,
            param_bytes=param_bytes,
            work=work,
            host_bytes=sum(shapes.size_bytes(value, key) for value in dict.fromkeys(outer)),
        )

    def _cell(self, node: onnx.NodeProto, key: str, weights: list[str], written: list[str]) -> str:
        sizes = [self._shapes.shape(value, key) for value in [*node.input, *written] if value]
        if not weights:
            listed = ",".join("x".join(map(str, size)) or "1" for size in sizes)
            return f"{node.op_type}[{listed}]"
        same = (node.op_type, *weights, *sizes)
        return self._seen.cell_of.setdefault(same, key)


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [
        graph for a in node.attribute for graph in (*([a.g] if a.HasField("g") else []), *a.graphs)
    ]


def _captured(node: onnx.NodeProto) -> list[str]:
    """Return what a node's subgraphs read from outside, by name."""
    read: dict[str, None] = {}
    for graph in _subgraphs(node):
        inner = {value.name for value in (*graph.input, *graph.initializer)}
        inner.update(value for made in graph.node for value in made.output)
        used = [value for made in graph.node for value in (*made.input, *_captured(made))]
        answers = [value.name for value in graph.output]
        read |= dict.fromkeys(value for value in (*used, *answers) if value not in inner)
    return list(read)
