"""`evaluate --stream`: schedulers on one stream of requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dynpartition.cli.incidents import TIME, time_ns
from dynpartition.cli.options import COUNT_MAX, check_count
from dynpartition.cli.words import printable
from dynpartition.contract import Backend, Outcome, Scheduler, run
from dynpartition.errors import UsageError
from dynpartition.graph import VALUE_MAX, TaskGraph

if TYPE_CHECKING:
    from dynpartition.streams import RequestStream

_FORMS = re.compile(
    rf"(?:poisson:(?P<rate>[0-9.eE+-]{{1,20}})|file:(?P<path>.+)"
    rf"|closed:(?P<clients>[0-9]{{1,9}})(?::{TIME})?)"
)
_COLUMNS = ("scheduler", "mean ms", "p50 ms", "p95 ms", "p99 ms", "requests/s", "decision ms")
_WIDTH_MIN = 100  # where the output is no terminal, rich assumes 80 and would fold the cells

Build = Callable[[Sequence[TaskGraph], int], "RequestStream"]
"""(graphs, seed) → the stream."""


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One scheduler on the stream. Latency: from a request's arrival to its end."""

    scheduler: str
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    throughput_per_s: float
    """Requests by the time from the first arrival to the last end."""
    decision_ms: float
    """Wall time in the scheduler, per request; not part of the latencies."""


@dataclass(frozen=True, slots=True)
class StreamEvaluation:
    """All rows, and what they were simulated on."""

    rows: tuple[StreamRow, ...]
    stream: str
    requests: int


def parse_stream(text: str) -> Build:
    """Return what makes the stream that `--stream` asks for; UsageError for an unknown form."""
    match = _FORMS.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--stream {text}: write poisson:RATE_PER_S, file:PATH or closed:CLIENTS[:THINK], as"
            " in poisson:200, file:arrivals.txt or closed:4:5ms"
        )
    if match["rate"] is not None:
        return _poisson(text, match["rate"])
    if match["path"] is not None:
        return _from_file(text, Path(match["path"]))
    return _closed(text, int(match["clients"]), time_ns(match[4] or "0", match[5] or "ns"))


def _poisson(text: str, rate: str) -> Build:
    try:
        rate_per_s = float(rate)
    except ValueError:
        rate_per_s = 0.0
    if not 0 < rate_per_s < float("inf"):
        raise UsageError(f"--stream {text}: {rate!r} is no rate; give requests a second, above 0")

    def build(graphs: Sequence[TaskGraph], seed: int) -> RequestStream:
        from dynpartition.streams import open_stream, poisson_arrivals

        arrivals_ns = poisson_arrivals(len(graphs), rate_per_s=rate_per_s, seed=seed)
        return open_stream(graphs, arrivals_ns)

    return build


def _from_file(text: str, path: Path) -> Build:
    from dynpartition.streams import open_stream, read_arrivals

    arrivals_ns = read_arrivals(path)
    check_count(f"the number of arrivals in --stream {text}", len(arrivals_ns))

    def build(graphs: Sequence[TaskGraph], seed: int) -> RequestStream:
        return open_stream(list(islice(cycle(graphs), len(arrivals_ns))), arrivals_ns)

    return build


def _closed(text: str, clients: int, think_ns: int) -> Build:
    if not 1 <= clients <= COUNT_MAX:
        raise UsageError(f"--stream {text}: give from 1 to {COUNT_MAX} clients, not {clients}")
    if think_ns > VALUE_MAX:
        raise UsageError(f"--stream {text}: the think time is above 10^15 ns; give less")

    def build(graphs: Sequence[TaskGraph], seed: int) -> RequestStream:
        from dynpartition.streams import closed_loop

        return closed_loop(graphs, clients=clients, think_ns=think_ns)

    return build


def evaluate_stream(
    backend: Backend,
    stream: RequestStream,
    schedulers: Mapping[str, Scheduler],
    *,
    text: str,
    progress: Callable[[float], None] = lambda share: None,
) -> StreamEvaluation:
    """Run every scheduler once on `stream`, which `text` describes, and return the comparison."""
    from dynpartition.agent.warming import warm_up

    rows = []
    for number, (name, scheduler) in enumerate(schedulers.items(), start=1):
        warm_up(scheduler, backend.profile)
        outcome = run(backend, stream, scheduler)
        rows.append(_row(name, outcome, backend.profile.cluster.host))
        progress(number / len(schedulers))
    return StreamEvaluation(tuple(rows), text, len(set(stream.graph.request.tolist())))


def _row(scheduler: str, outcome: Outcome, host: str) -> StreamRow:
    import numpy as np

    from dynpartition.streams import latencies_ns

    latency_ms = [ns / 1e6 for ns in latencies_ns(outcome.graph, outcome.trace, host).values()]
    p50, p95, p99 = np.percentile(latency_ms, [50, 95, 99]).tolist()
    return StreamRow(
        scheduler,
        float(np.mean(latency_ms)),
        *(p50, p95, p99),
        # At least 1 ns: a profile may make everything free.
        throughput_per_s=len(latency_ms) * 1e9 / max(1, outcome.trace.makespan_ns),
        decision_ms=outcome.decision_ns / 1e6 / len(latency_ms),
    )


def print_stream(evaluation: StreamEvaluation) -> None:
    """Print one row per scheduler, the smallest mean latency first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title = f"{evaluation.requests} requests, {printable(evaluation.stream)}: latencies"
    table = Table()
    for column in _COLUMNS:
        justify: Literal["left", "right"] = "left" if column == "scheduler" else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for row in sorted(evaluation.rows, key=lambda row: row.mean_ms):
        latencies = (row.mean_ms, row.p50_ms, row.p95_ms, row.p99_ms)
        table.add_row(
            escape(printable(row.scheduler)),
            *(f"{ms:.3f}" for ms in latencies),
            f"{row.throughput_per_s:.1f}",
            f"{row.decision_ms:.3f}",
        )
    console = Console()
    console.width = max(console.width, _WIDTH_MIN)
    with console.capture() as captured:  # rich itself would end the program at a broken pipe
        console.print(table)
    print(title)  # not the table's own, which folds a long path
    print(captured.get(), end="")
