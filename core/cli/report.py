"""`dynpartition report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dynpartition.cli.graphs import load_graph
from dynpartition.cli.page import run_page, traces_page
from dynpartition.cli.perfetto import perfetto_events
from dynpartition.cli.run_folder import read_run_folder
from dynpartition.cli.timeline import Run
from dynpartition.cli.verb import Verb
from dynpartition.errors import UsageError
from dynpartition.formats import read_trace, write_bytes, write_json
from dynpartition.graph import TaskGraph

PAGE_NAME = "report.html"


@dataclass(frozen=True, slots=True)
class _Content:
    """What one report shows."""

    page: str
    graph: TaskGraph | None
    runs: tuple[Run, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report(Verb):
    """Build one offline HTML page, report.html, from a run folder or from traces of one graph."""

    run: Path | None = None
    """Folder of a run; the page is written into it."""
    traces: tuple[Path, ...] = ()
    """Trace files to compare instead of a run; the page is written into this folder."""
    graph: Path | None = None
    """Graph that the traces belong to: a graph file, ONNX model or node-link JSON."""
    dims: tuple[str, ...] = ()
    """Sizes of an ONNX model's symbolic dimensions, as for `schedule`."""
    html: Path | None = None
    """Where to write the page instead."""
    trace: Path | None = None
    """Where to write the timelines for Perfetto, as Chrome trace events."""

    def execute(self) -> None:
        """Build the page."""
        content = self._read()
        page = self.html or (self.run or Path()) / PAGE_NAME
        if self.trace:
            _write_events(self.trace, content)
        write_bytes(page, content.page.encode())
        if self.json:
            write_json(self.json, {"page": str(page), "missing": list(content.missing)})
        print(f"wrote {page}{_describe_missing(content.missing)}")

    def _read(self) -> _Content:
        if self.run is not None and not self.traces and self.graph is None:
            return _from_folder(self.run)
        if self.run is None and self.traces and self.graph is not None:
            return _from_traces(load_graph(self.graph, None, self.dims), self.traces)
        raise UsageError("give either --run FOLDER, or --traces FILE… together with --graph FILE")


def _from_folder(folder: Path) -> _Content:
    found = read_run_folder(folder)
    return _Content(run_page(found), found.graph, found.runs, found.missing)


def _from_traces(graph: TaskGraph, files: Sequence[Path]) -> _Content:
    names = [path.stem for path in files]
    # Files of one name in different folders are told apart by their paths.
    shown = names if len(set(names)) == len(names) else [str(path) for path in files]
    pairs = zip(shown, files, strict=True)
    runs = tuple(Run(name, read_trace(path, graph)) for name, path in pairs)
    return _Content(traces_page(graph, runs), graph, runs)


def _write_events(path: Path, content: _Content) -> None:
    if content.graph is None or not content.runs:
        raise UsageError("--trace: this run has no timeline; leave the option out")
    write_bytes(path, msgspec.json.encode(perfetto_events(content.graph, content.runs)))


def _describe_missing(missing: Sequence[str]) -> str:
    return f"; not in the run folder: {', '.join(missing)}" if missing else ""
