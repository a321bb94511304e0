"""networkx graphs in and out, also as node-link JSON."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
import networkx as nx

from dynpartition.calibration.operators import Work
from dynpartition.errors import FileFormatError, GraphError, ProfileError
from dynpartition.formats.files import in_file, read_bytes
from dynpartition.graph import Cell, Task, TaskGraph
from dynpartition.interop.costs import Pricer, pricers
from dynpartition.interop.nodes import Imported
from dynpartition.profile import Profile

_AMOUNTS = ("output_bytes", "host_bytes", "arrival_ns", "request")
_WORK = ("flops", "operators", "moved_bytes")
_KNOWN = {"cell", "inputs", "duration_ns", "revealed_by", "returns", "param_bytes"}
_KNOWN |= {*_AMOUNTS, *_WORK}
_SPELLED = _KNOWN - {"operators"}  # graphs from elsewhere name their `operator`


def to_networkx(graph: TaskGraph) -> nx.DiGraph[int]:
    """Return a DiGraph of the task ids.

    Nodes have the fields of tasks as attributes. An edge is an output that is read, its `positions`
    the places among the reader's inputs, its `bytes` the size; or, with `control=True`, from a task
    whose result decides that the other exists. `from_networkx` gives an equal graph back.
    """
    result: nx.DiGraph[int] = nx.DiGraph(
        name=graph.name, cells={cell.name: cell.param_bytes for cell in graph.cells}
    )
    tasks = graph.tasks()
    for task in tasks:
        own = {each.name: getattr(task, each.name) for each in fields(Task)}
        del own["id"], own["inputs"]  # the node, and its edges
        result.add_node(task.id, **own | {"duration_ns": dict(task.duration_ns)})
    size = {task.id: task.output_bytes for task in tasks}
    for task in tasks:
        for source in dict.fromkeys(task.inputs):
            positions = [place for place, name in enumerate(task.inputs) if name == source]
            result.add_edge(source, task.id, positions=positions, bytes=size[source])
        if task.revealed_by is not None and task.revealed_by not in task.inputs:
            result.add_edge(task.revealed_by, task.id, control=True)
    return result


def from_networkx(
    graph: nx.DiGraph[Any], profile: Profile | None = None, *, name: str = ""
) -> Imported:
    """Return the task graph of a networkx DiGraph or MultiDiGraph, a task per node.

    Nodes may have the attributes `cell` (default `task`), `output_bytes`, `host_bytes`,
    `arrival_ns`, `request`, `revealed_by` (a node), `returns`, `param_bytes` (of the cell), and
    `duration_ns`: {device: ns}, or one number for every device of `profile`. Without a duration the
    profile's cell decides, or else its operator models with the node's `flops`, `moved_bytes` and
    `operators` (default 1). Without `output_bytes` a node sends the `bytes` of its outgoing edges,
    which must agree. Edges with `control=True` reveal. Inputs stand in the order of the edges'
    `positions` or, without any, of the edges.

    Node names that are whole numbers stay the tasks' ids; others are numbered in the graph's order.
    Raises GraphError for other attributes of these names, undirected graphs and cycles, and
    ProfileError where a node cannot be priced.
    """
    if not graph.is_directed():
        raise GraphError("the networkx graph is undirected; give a DiGraph, edges to the readers")
    nodes = list(graph.nodes)
    _refuse_cycles(graph)
    number = _numbers(nodes)
    reader = _Reader(graph, number, profile)
    listed = graph.graph.get("cells", {})
    params = (
        {str(cell): _amount(f"cell {cell!r}", "param_bytes", size) for cell, size in listed.items()}
        if isinstance(listed, Mapping)
        else {}
    )
    for node in nodes:
        _note_cell(params, node, graph.nodes[node])
    tasks = [reader.task(node) for node in nodes]
    cells = [Cell(cell, param_bytes) for cell, param_bytes in params.items()]
    result = TaskGraph.from_tasks(name or str(graph.graph.get("name") or "networkx"), cells, tasks)
    by_id = {task: node for node, task in number.items()}
    return Imported(result, tuple(by_id[task] for task in result.ids.tolist()))


def read_node_link(path: Path, profile: Profile | None = None) -> Imported:
    """Return the task graph in a file of node-link JSON, as `networkx.node_link_data` gives it.

    FileFormatError, GraphError and ProfileError name the file.
    """
    with in_file(path):
        graph = parse_node_link(read_bytes(path))
        return from_networkx(graph, profile, name=str(graph.graph.get("name") or path.stem))


def parse_node_link(data: bytes) -> nx.DiGraph[Any]:
    """Return the graph in node-link JSON; edges may stand under `edges` or `links`.

    Raises FileFormatError for anything else.
    """
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FileFormatError(f"malformed JSON: {error}; write the file again") from None
    edges = "links" if isinstance(document, dict) and "links" in document else "edges"
    rows = document.get(edges) if isinstance(document, dict) else None
    if not isinstance(rows, list) or not isinstance(document.get("nodes"), list):
        raise FileFormatError(
            "is no node-link JSON: it needs lists `nodes` and `edges`; write it with"
            " networkx.node_link_data"
        )
    if not isinstance(document.get("graph", {}), dict):
        raise FileFormatError("`graph` is no object of attributes; correct it or leave it out")
    if not document.get("directed"):
        raise GraphError("`directed` is not true; write the node-link data of a DiGraph")
    nodes = {_key(node.get("id") if isinstance(node, dict) else None) for node in document["nodes"]}
    for row in rows:
        ends = [row.get("source"), row.get("target")] if isinstance(row, dict) else [None]
        if not nodes.issuperset(map(_key, ends)):
            raise FileFormatError(f"edge {row!r} does not join two of the `nodes`; correct it")
        if not isinstance(row.get("key"), str | int | float | None):
            raise FileFormatError(f"edge key {row['key']!r} is no text or number; correct it")
    graph: nx.DiGraph[Any] = nx.node_link_graph(document, edges=edges)
    return graph


def _key(name: object) -> Hashable:
    """Return a node's name as networkx reads it: lists are tuples."""
    parts = name if isinstance(name, list) else [name]
    if not all(isinstance(part, str | int | float) for part in parts):
        raise FileFormatError(
            f"{name!r} names no node: ids are texts, numbers or lists of these; write the file"
            " with networkx.node_link_data"
        )
    return tuple(parts) if isinstance(name, list) else parts[0]


def _numbers(nodes: list[Hashable]) -> dict[Hashable, int]:
    """Return node → task id."""
    if all(isinstance(node, int) and not isinstance(node, bool) and node >= 0 for node in nodes):
        return {node: int(node) for node in nodes}  # type: ignore[call-overload]
    return {node: at for at, node in enumerate(nodes)}


def _refuse_cycles(graph: nx.DiGraph[Any]) -> None:
    if nx.is_directed_acyclic_graph(graph):
        return
    cycle = nx.find_cycle(graph)
    names = " → ".join(repr(edge[0]) for edge in [*cycle, cycle[0]][:12])
    raise GraphError(f"nodes form a cycle: {names}; remove one of these edges")


def _note_cell(params: dict[str, int], node: Hashable, attributes: Mapping[str, Any]) -> None:
    cell = attributes.get("cell", "task")
    if not isinstance(cell, str) or not cell:
        raise GraphError(f"node {node!r}: cell is {cell!r}; give a name")
    size = attributes.get("param_bytes")
    known = params.setdefault(
        cell, 0 if size is None else _amount(f"node {node!r}", "param_bytes", size)
    )
    if size is not None and size != known:
        raise GraphError(
            f"node {node!r}: cell {cell} has param_bytes {size} here and {known} elsewhere; give"
            " every node of a cell the same"
        )


class _Reader:
    """Makes tasks of the nodes of one graph."""

    def __init__(
        self, graph: nx.DiGraph[Any], number: dict[Hashable, int], profile: Profile | None
    ) -> None:
        self._graph, self._number, self._profile = graph, number, profile
        self._pricers: dict[str, Pricer] = {}

    def task(self, node: Hashable) -> Task:
        attributes: dict[str, Any] = self._graph.nodes[node]
        _check_names(node, attributes)
        amounts = {
            field: _amount(f"node {node!r}", field, attributes[field])
            for field in _AMOUNTS
            if attributes.get(field) is not None
        }
        if "output_bytes" not in amounts:
            amounts["output_bytes"] = self._sent_bytes(node)
        returns = attributes.get("returns", False)
        if not isinstance(returns, bool):
            raise GraphError(f"node {node!r}: returns is {returns!r}; give True or False")
        return Task(
            id=self._number[node],
            cell=attributes.get("cell", "task"),
            inputs=self._inputs(node),
            duration_ns=self._durations(node, attributes),
            revealed_by=self._revealer(node, attributes),
            returns=returns,
            **amounts,
        )

    def _inputs(self, node: Hashable) -> tuple[int, ...]:
        placed: list[tuple[float, int, int]] = []
        for count, (source, _, edge) in enumerate(self._graph.in_edges(node, data=True)):
            if edge.get("control"):
                continue
            positions = edge.get("positions", [edge.get("position", count)])
            try:
                placed += [(float(position), count, self._number[source]) for position in positions]
            except (TypeError, ValueError):
                raise GraphError(
                    f"edge {source!r} → {node!r}: positions are {positions!r}; give a list of"
                    " whole numbers"
                ) from None
        return tuple(task for *_, task in sorted(placed))

    def _sent_bytes(self, node: Hashable) -> int:
        sizes = {
            _amount(f"node {node!r}", "bytes of an edge", edge["bytes"])
            for *_, edge in self._graph.out_edges(node, data=True)
            if "bytes" in edge
        }
        if len(sizes) > 1:
            few = ", ".join(map(str, sorted(sizes)[:3]))
            raise GraphError(
                f"node {node!r} sends {few} bytes to its readers, but a task has one output, which"
                " every reader gets; give the node output_bytes"
            )
        return sizes.pop() if sizes else 0

    def _revealer(self, node: Hashable, attributes: Mapping[str, Any]) -> int | None:
        found = attributes.get("revealed_by")
        control = [
            source
            for source, _, edge in self._graph.in_edges(node, data=True)
            if edge.get("control")
        ]
        if isinstance(found, list):  # a tuple that JSON has made a list
            found = tuple(found)
        try:
            hash(found)
        except TypeError:
            said = f"node {node!r}: revealed_by is {found!r}; give the name of a node"
            raise GraphError(said) from None
        named = {*control, *([] if found is None else [found])}
        if len(named) > 1:
            raise GraphError(f"node {node!r} is revealed by {named}; name one of them")
        if not named:
            return None
        source = named.pop()
        if source not in self._number:
            raise GraphError(f"node {node!r}: revealed_by is {source!r}, which is no node")
        return self._number[source]

    def _durations(self, node: Hashable, attributes: Mapping[str, Any]) -> dict[str, int]:
        given, profile = attributes.get("duration_ns"), self._profile
        if isinstance(given, Mapping) and given:
            return {
                str(device): _amount(f"node {node!r}", f"duration_ns[{device!r}]", ns)
                for device, ns in given.items()
            }
        if given is not None and not isinstance(given, Mapping):
            if profile is None:
                raise ProfileError(
                    f"node {node!r}: duration_ns is one number; give the profile with the devices"
                    " that it is for, or {device: ns}"
                )
            return dict.fromkeys(
                profile.cluster.names, _amount(f"node {node!r}", "duration_ns", given)
            )
        if profile is None or attributes.get("cell", "task") in profile.cells:
            return {}
        return self._modelled(profile, node, attributes)

    def _modelled(
        self, profile: Profile, node: Hashable, attributes: Mapping[str, Any]
    ) -> dict[str, int]:
        if not any(field in attributes for field in _WORK):
            raise ProfileError(
                f"node {node!r} has no cost: no duration_ns, no flops or moved_bytes, and the"
                f" profile has no cell {attributes.get('cell', 'task')!r}; give one of them"
            )
        work = Work(
            ops=max(1, _amount(f"node {node!r}", "operators", attributes.get("operators", 1))),
            flops=_amount(f"node {node!r}", "flops", attributes.get("flops", 0)),
            weight_bytes=_amount(f"node {node!r}", "param_bytes", attributes.get("param_bytes", 0)),
            task_bytes=_amount(f"node {node!r}", "moved_bytes", attributes.get("moved_bytes", 0)),
        )
        self._pricers = self._pricers or pricers(profile)
        return {device: price(work) for device, price in self._pricers.items()}


def _check_names(node: Hashable, attributes: Mapping[str, Any]) -> None:
    """Refuse attributes that are ours but for a letter: they would silently count for nothing."""
    for name in attributes:
        close = get_close_matches(str(name), _SPELLED, n=1, cutoff=0.9)
        if close and name not in _KNOWN:
            raise GraphError(f"node {node!r}: {name!r} is no attribute; did you mean {close[0]!r}?")


def _amount(owner: str, field: str, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON from elsewhere writes 3.0
    if not hasattr(value, "__index__") or isinstance(value, bool):
        raise GraphError(f"{owner}: {field} is {value!r}; give a whole number")
    amount = operator.index(value)
    if amount < 0:
        raise GraphError(f"{owner}: {field} is {amount}; give a whole number from 0")
    return amount
