"""torch.fx graphs as task graphs: one task per node that makes a tensor."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

from dynpartition.calibration.counting import counted
from dynpartition.calibration.operators import Work
from dynpartition.errors import GraphError
from dynpartition.interop.nodes import Durations, Imported, Node, import_nodes
from dynpartition.profile import Profile


def from_fx(
    module: nn.Module,
    inputs: Sequence[Any],
    profile: Profile | None = None,
    *,
    durations: Durations | None = None,
    name: str = "",
) -> Imported:
    """Return the task graph of one call of a module with `inputs`, by torch.fx.

    `module`: a GraphModule (also of `torch.export`), or a module that `torch.fx.symbolic_trace` can
    trace. It is run twice, node by node, to count what each node computes: a task is a node whose
    result holds tensors. Calls of submodules are cells of the submodule's path, calls of functions
    cells like `relu[2x64]`, or of the node's name where they read weights. Picking an element of a
    result is no task, neither are numbers; what reads them depends on what they were made of.
    `profile` prices the nodes: cells that it knows by name, others by its operator models;
    `durations` (node name → device → ns) comes before both. Inputs come from the host, outputs
    return there.

    Raises GraphError where the module cannot be traced or run, and ProfileError where a node cannot
    be priced.
    """
    traced = module if isinstance(module, fx.GraphModule) else _traced(module)
    counter = _Counter(traced)
    counter.play(inputs)
    label = name or type(module).__name__
    return import_nodes(label, counter.nodes, profile, durations)


def _traced(module: nn.Module) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(module)
    except (TypeError, RuntimeError, ValueError, AttributeError, NotImplementedError) as error:
        raise GraphError(
            f"torch.fx cannot trace {type(module).__name__}: {error}; give a GraphModule that you"
            " traced yourself, for instance torch.export.export(…).module()"
        ) from error


class _FlopCounter(fx.Interpreter):
    """Runs a graph and notes the floating-point operations of every node."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.flops: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        result, _, self.flops[n] = counted(lambda: super(_FlopCounter, self).run_node(n))
        return result


@contextmanager
def _unfused() -> Iterator[None]:
    """Let layers compute by plain products: PyTorch's counter does not know all fused kernels."""
    before = torch.backends.mha.get_fastpath_enabled()
    plain_cpu = torch.backends.mkldnn.flags(
        enabled=False, deterministic=None, allow_tf32=None, fp32_precision=None
    )
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), plain_cpu:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _Counter(fx.Interpreter):
    """Runs a graph and notes every node as a task."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.nodes: list[Node] = []
        self._flops = _FlopCounter(module)
        self._sources: dict[fx.Node, tuple[str, ...]] = {}
        """Node → tasks whose outputs its value is made of."""
        self._outer: dict[fx.Node, int] = {}
        """Node → bytes of the module's inputs that its value is made of."""
        self._params: dict[fx.Node, int] = {}
        """get_attr → bytes of its weights."""
        self._cells: dict[tuple[object, ...], str] = {}
        """Function, weights and shapes → name of the first node that had them."""
        self._shapes: dict[str, str] = {}
        """Path of a submodule → the shapes that it was first called with."""

    @torch.no_grad()
    def play(self, inputs: Sequence[Any]) -> None:
        """Run the graph, once for products and once for all else; buffers stay as they were."""
        before = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        try:
            with _unfused():
                self._flops.run(*inputs)
            super().run(*inputs)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            said = str(error).strip().partition("\n")[0]
            raise GraphError(f"the graph cannot be run with these inputs: {said}") from error
        finally:  # layers like batch normalisation keep statistics while they train
            for buffer, kept in before:
                buffer.copy_(kept)

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and note what it did."""
        result, ops, _ = counted(lambda: super(_Counter, self).run_node(n))
        if n.op == "placeholder":
            self._sources[n], self._outer[n] = (), _bytes(result)
        elif n.op == "get_attr":
            self._sources[n], self._outer[n] = (), 0
            self._params[n] = _bytes(result)
        elif n.op == "output":
            self._mark_answers(n)
        elif n.target is operator.getitem or not _tensors(result):
            self._pass_on(n)
        else:
            self._note(n, result, ops)
        return result

    def _pass_on(self, n: fx.Node) -> None:
        """A value that is no task's: who reads it depends on what it was made of."""
        before = n.all_input_nodes
        self._sources[n] = tuple(dict.fromkeys(s for b in before for s in self._sources[b]))
        self._outer[n] = sum(self._outer[b] for b in before)

    def _note(self, n: fx.Node, result: Any, ops: int) -> None:
        read = n.all_input_nodes
        values = [self.env[b] for b in read]
        output_bytes = _bytes(result)
        param_bytes = sum(self._params.get(b, 0) for b in read) + self._submodule_bytes(n)
        moved = sum(_bytes(v) for b, v in zip(read, values, strict=True) if b not in self._params)
        arguments = _nodes_in((n.args, n.kwargs))
        self.nodes.append(
            Node(
                key=n.name,
                cell=self._cell(n, values),
                inputs=tuple(source for a in arguments for source in self._sources[a]),
                output_bytes=output_bytes,
                param_bytes=param_bytes,
                work=Work(max(1, ops), self._flops.flops[n], param_bytes, moved + output_bytes),
                host_bytes=sum(self._outer[b] for b in read),
            )
        )
        self._sources[n], self._outer[n] = (n.name,), 0

    def _submodule_bytes(self, n: fx.Node) -> int:
        if n.op != "call_module":
            return 0
        submodule = self.module.get_submodule(str(n.target))
        return _bytes([*submodule.parameters(), *submodule.buffers()])

    def _cell(self, n: fx.Node, values: Sequence[Any]) -> str:
        shapes = ",".join("x".join(map(str, t.shape)) or "1" for t in _tensors(values))
        if n.op != "call_module":
            target = n.target if isinstance(n.target, str) else _name_of(n.target)
            weights = tuple(str(b.target) for b in n.all_input_nodes if b in self._params)
            # The same weights and shapes are the same cell; other weights are another one.
            own = self._cells.setdefault((target, weights, shapes), n.name)
            return own if weights else f"{target}[{shapes}]"
        path = str(n.target)
        is_usual = self._shapes.setdefault(path, shapes) == shapes
        return path if is_usual else f"{path}[{shapes}]"

    def _mark_answers(self, n: fx.Node) -> None:
        answers = {source for b in n.all_input_nodes for source in self._sources[b]}
        self.nodes = [replace(node, returns=node.key in answers) for node in self.nodes]


def _nodes_in(tree: Any) -> list[fx.Node]:
    """Return the nodes in nested arguments, in order, slices included."""
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.node.map_arg(tree, note)
    return found


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _bytes(value: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(value))


def _name_of(function: object) -> str:
    return str(getattr(function, "__name__", function)).removesuffix(".default")
