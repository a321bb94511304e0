"""Graphs on the command line: graph files, and files of other tools."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from dynpartition.errors import DynPartitionError, UsageError
from dynpartition.formats import find_profile, in_file, read_graph
from dynpartition.formats.files import read_bytes
from dynpartition.graph import TaskGraph
from dynpartition.profile import Profile

if TYPE_CHECKING:
    from dynpartition.interop.nodes import Imported

ONNX = ".onnx"
_DIM = re.compile(r"\s*([^=]+?)\s*=\s*([0-9]{1,9})\s*")


class _Peek(msgspec.Struct):
    """What tells a file of another tool from a graph file."""

    format: object = None
    nodes: object = None


class World(NamedTuple):
    """A graph and a profile."""

    graph: TaskGraph
    profile: Profile
    names: tuple[Hashable, ...] | None
    """Task → its node in the other tool; None for graph files, which have ids only."""


def load_world(path: Path, profile: str, dims: Sequence[str]) -> World:
    """Return the graph in a file, as `load_graph` does, and the profile of a file or a name."""
    if _is_onnx(path) or _is_node_link(path):
        priced = find_profile(profile)
        graph, names = _load(path, priced, dims)
        return World(graph, priced, names)
    return World(load_graph(path, None, dims), find_profile(profile), None)


def load_graph(path: Path, profile: Profile | None, dims: Sequence[str] = ()) -> TaskGraph:
    """Return the graph in a graph file, an ONNX model (`.onnx`) or a file of node-link JSON.

    `profile` prices the nodes of the latter two, and `dims` (`batch=8`) are sizes of an ONNX
    model's symbolic dimensions. Raises UsageError where the library that reads the file is not
    there, and what the readers raise.
    """
    if _is_onnx(path) or _is_node_link(path):
        return _load(path, profile, dims).graph
    _refuse_dims(dims)
    return read_graph(path)


def parse_dims(texts: Sequence[str]) -> dict[str, int]:
    """Return name → size of texts like `batch=8`; UsageError for others."""
    dims: dict[str, int] = {}
    for text in texts:
        match = _DIM.fullmatch(text)
        if match is None:
            raise UsageError(f"--dims {text}: write dimensions as name=number, as in batch=8")
        if match[1] in dims:
            raise UsageError(f"--dims {text}: {match[1]} is given twice; give it once")
        dims[match[1]] = int(match[2])
    return dims


def _load(path: Path, profile: Profile | None, dims: Sequence[str]) -> Imported:
    if not _is_onnx(path):
        _refuse_dims(dims)
        return _load_node_link(path, profile)
    try:
        from dynpartition.interop.onnx_graphs import from_onnx
    except ImportError as error:
        raise _not_installed(path, "onnx") from error
    return from_onnx(path, profile, dims=parse_dims(dims))


def _load_node_link(path: Path, profile: Profile | None) -> Imported:
    try:
        from dynpartition.interop.networkx_graphs import read_node_link
    except ImportError as error:
        raise _not_installed(path, "networkx") from error
    return read_node_link(path, profile)


def _refuse_dims(dims: Sequence[str]) -> None:
    if dims:
        raise UsageError("--dims gives sizes of an ONNX model's dimensions; leave it out")


def _not_installed(path: Path, extra: str) -> UsageError:
    return UsageError(
        f"{path} needs the library {extra}; install it with: pip install 'dynpartition[{extra}]'"
    )


def _is_onnx(path: Path) -> bool:
    return path.suffix.lower() == ONNX


def _is_node_link(path: Path) -> bool:
    """Whether a file has `nodes` and no `format`; whatever is wrong with it is for the readers."""
    try:
        with in_file(path):
            peeked = msgspec.json.decode(read_bytes(path), type=_Peek)
    except (msgspec.MsgspecError, DynPartitionError, UnicodeDecodeError, RecursionError):
        return False
    return peeked.format is None and peeked.nodes is not None
