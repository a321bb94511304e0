"""Streams of requests: many inputs on their way at once, each with its time of arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dynpartition.contract import Workload
from dynpartition.errors import GraphError, InputError
from dynpartition.formats.files import in_file, read_bytes
from dynpartition.graph import VALUE_MAX, Cell, Task, TaskGraph
from dynpartition.trace import Trace
from dynpartition.types import frozen

FIRST = -1
"""Instead of the request that a request follows: it has a time of its own."""


@dataclass(frozen=True)
class RequestStream(Workload):
    """R requests in one graph; task t belongs to request `graph.request[t]`, 0…R-1."""

    requests: TaskGraph
    follows: tuple[int, ...] = ()
    """(R,) the request after whose end each one is sent, or FIRST; empty: all FIRST."""
    think_ns: int = 0
    """Time from the end of a request to the arrival of the one that follows it."""
    offsets_ns: tuple[int, ...] = ()
    """(N,) how long after its request each task arrives; empty: all with it."""

    @property
    def graph(self) -> TaskGraph:
        """All requests; those that follow others have arrived once it is known when."""
        return self.requests


def open_stream(graphs: Sequence[TaskGraph], arrivals_ns: Sequence[int]) -> RequestStream:
    """Return requests that arrive at given times, whatever the machine does."""
    if len(graphs) != len(arrivals_ns):
        raise InputError(f"{len(graphs)} graphs but {len(arrivals_ns)} arrival times; give as many")
    return RequestStream(join_requests(graphs, arrivals_ns))


def closed_loop(graphs: Sequence[TaskGraph], *, clients: int, think_ns: int = 0) -> RequestStream:
    """Return requests of `clients` that each send the next one when the last has been answered.

    Client c sends requests c, c + clients, c + 2·clients, …; the first ones arrive at time 0.
    """
    if clients < 1 or not 0 <= think_ns <= VALUE_MAX:
        raise InputError(
            f"a closed loop needs at least one client and a think time from 0 ns on, not {clients}"
            f" and {think_ns}"
        )
    follows = tuple(max(FIRST, request - clients) for request in range(len(graphs)))
    arrivals = [0 if before == FIRST else VALUE_MAX for before in follows]
    offsets = tuple(ns for graph in graphs for ns in graph.arrival_ns.tolist())
    return RequestStream(join_requests(graphs, arrivals), follows, think_ns, offsets)


def poisson_arrivals(n: int, *, rate_per_s: float, seed: int) -> list[int]:
    """Return `n` arrival times in ns with independent exponential gaps of mean 1 / rate."""
    if not 0 < rate_per_s < float("inf"):
        raise InputError(f"rate_per_s is {rate_per_s}; give the mean number of requests a second")
    rng = np.random.default_rng(np.random.SeedSequence([seed]))
    times = np.cumsum(rng.exponential(1e9 / rate_per_s, size=n))
    if n and times[-1] > VALUE_MAX:
        raise InputError(f"{n} requests at {rate_per_s} a second take too long; raise the rate")
    return [int(time) for time in times]


def read_arrivals(path: Path) -> list[int]:
    """Return the arrival times in a file: one number of ns a line, `#` starts a comment."""
    with in_file(path):
        lines = read_bytes(path).decode("utf-8", errors="replace").splitlines()
        texts = [(n, line.partition("#")[0].strip()) for n, line in enumerate(lines, start=1)]
        return [_time(text, n) for n, text in texts if text]


def _time(text: str, line: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 16 or int(text) > VALUE_MAX:
        raise InputError(f"line {line}: {text[:40]!r} is no time; give whole ns from 0 to 10^15")
    return int(text)


def join_requests(graphs: Sequence[TaskGraph], arrivals_ns: Sequence[int]) -> TaskGraph:
    """Return one graph of all, numbered one after the other; request r is `graphs[r]`."""
    if not graphs:
        raise InputError("a stream needs at least one request")
    joined = _Joined()
    for request, (graph, arrival_ns) in enumerate(zip(graphs, arrivals_ns, strict=True)):
        joined.add(graph, request, int(arrival_ns))
    return TaskGraph.from_tasks(f"{len(graphs)} requests", joined.cells.values(), joined.tasks)


@dataclass
class _Joined:
    cells: dict[str, Cell] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)

    def add(self, graph: TaskGraph, request: int, arrival_ns: int) -> None:
        for cell in graph.cells:
            if self.cells.setdefault(cell.name, cell) != cell:
                raise GraphError(
                    f"cell {cell.name!r} has {cell.param_bytes} bytes in {graph.name!r} but"
                    f" {self.cells[cell.name].param_bytes} before; requests share one model"
                )
        first = len(self.tasks)
        number = {int(task_id): first + n for n, task_id in enumerate(graph.ids)}
        self.tasks += [_moved(task, number, request, arrival_ns) for task in graph.tasks()]


def _moved(task: Task, number: dict[int, int], request: int, arrival_ns: int) -> Task:
    return replace(
        task,
        id=number[task.id],
        inputs=tuple(number[source] for source in task.inputs),
        revealed_by=None if task.revealed_by is None else number[task.revealed_by],
        arrival_ns=min(VALUE_MAX, arrival_ns + task.arrival_ns),
        request=request,
    )


def request_ends_ns(graph: TaskGraph, trace: Trace, host: str) -> dict[int, int]:
    """Return request → the end of its last launch or answer in `trace`."""
    ends: dict[int, int] = {}
    answers = [
        (task, span.end_ns)
        for span in trace.transfers
        if span.dst == host and not span.host_input
        for task in span.tasks
        if graph.returns[task]
    ]
    launches = [(task, span.end_ns) for span in trace.launches for task in span.tasks]
    for task, end_ns in (*launches, *answers):
        request = int(graph.request[task])
        ends[request] = max(ends.get(request, 0), end_ns)
    return ends


def latencies_ns(graph: TaskGraph, trace: Trace, host: str) -> dict[int, int]:
    """Return request → the time from its arrival to its last launch or answer."""
    arrivals: dict[int, int] = {}
    for request, arrival_ns in zip(graph.request.tolist(), graph.arrival_ns.tolist(), strict=True):
        arrivals[request] = min(arrivals.get(request, arrival_ns), arrival_ns)
    ends = request_ends_ns(graph, trace, host)
    return {request: end_ns - arrivals[request] for request, end_ns in ends.items()}


class ClosedLoop:
    """Which requests of a running stream wait for the end of others."""

    def __init__(self, stream: RequestStream) -> None:
        self._think_ns = stream.think_ns
        self._offsets_ns = stream.offsets_ns or (0,) * len(stream.graph)
        self._next = {before: r for r, before in enumerate(stream.follows) if before != FIRST}
        self.waiting = sorted(self._next)
        """Requests whose end another one waits for."""
        self.tasks: dict[int, list[int]] = {}
        """Request → its tasks."""
        for task, request in enumerate(stream.graph.request.tolist()):
            self.tasks.setdefault(request, []).append(task)

    @staticmethod
    def of(workload: Workload) -> ClosedLoop:
        """Return the loop of a workload; nothing waits in one that is not a stream."""
        if isinstance(workload, RequestStream):
            return ClosedLoop(workload)
        return ClosedLoop(RequestStream(workload.graph))

    def follow(self, graph: TaskGraph, request: int, end_ns: int) -> TaskGraph:
        """Return `graph` with the arrival of the request that follows `request`."""
        arrival_ns = graph.arrival_ns.copy()
        for task in self.tasks[self._next[request]]:
            arrival_ns[task] = end_ns + self._think_ns + self._offsets_ns[task]
            if arrival_ns[task] >= VALUE_MAX:
                raise InputError(
                    f"request {self._next[request]} would arrive after 10^15 ns; give fewer"
                    " requests or a shorter think time"
                )
        return replace(graph, arrival_ns=frozen(arrival_ns))
