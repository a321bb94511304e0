"""Tables of the report page: how good plans are, and how exact the simulator is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dynpartition.cli.markup import NO_VALUE, Child, Markup, duration, percent, significant, table
from dynpartition.cli.run_folder import Case, Row, RunFolder, Validation
from dynpartition.errors import ProfileError
from dynpartition.graph import TaskGraph
from dynpartition.profile import PricedGraph, Profile


def gap_table(rows: Sequence[Row]) -> Markup | None:
    """Return how far each scheduler's runs are from the fastest and from what was simulated."""
    ran = [(row.makespan_ms, row) for row in rows if row.makespan_ms]
    if not ran:
        return None
    fastest_ms = min(makespan_ms for makespan_ms, _ in ran)
    ordered = sorted(ran, key=lambda pair: pair[0])
    body: list[list[Child]] = [
        [
            row.scheduler,
            f"{significant(makespan_ms)} ms",
            percent(makespan_ms / fastest_ms - 1, signed=True),
            NO_VALUE if row.decision_ms is None else percent(row.decision_ms / makespan_ms),
            NO_VALUE if not row.simulated_mean_ms else f"{significant(row.simulated_mean_ms)} ms",
            _against(makespan_ms, row.simulated_mean_ms),
        ]
        for makespan_ms, row in ordered
    ]
    heads = (
        "scheduler",
        "run",
        "behind the fastest",
        "decision, of the run",
        "simulated",
        "real against simulated",
    )
    return table(heads, body, "lrrrrr", best=0)


def _against(real_ms: float, simulated_ms: float | None) -> str:
    return NO_VALUE if not simulated_ms else percent(real_ms / simulated_ms - 1, signed=True)


def error_table(validation: Validation) -> Markup:
    """Return the errors over all placements and what they mean for decisions."""
    return table(("", ""), list(_figures(validation)), "lr")


def _figures(validation: Validation) -> Iterator[list[Child]]:
    yield ["plans compared", f"{len(validation.cases)}"]
    yield ["mean absolute error", _share(validation.mape)]
    yield ["95 % of the errors below", _share(validation.p95)]
    yield ["largest error", _share(validation.worst)]
    yield ["bias", _share(validation.bias, signed=True)]
    yield ["noise of the measurement", _share(validation.noise)]
    yield ["ranking of placements, Kendall's τ", _number(validation.tau)]
    yield ["loss by taking the simulator's favourite", _share(validation.regret)]
    yield ["its time against the promise", _share(validation.optimism, signed=True)]
    yield ["inputs that decide something", _share(validation.conclusive)]
    yield ["verdict", validation.verdict or NO_VALUE]


def placement_table(validation: Validation) -> Markup | None:
    """Return the errors of each scheduler's placements."""
    cases = [case for case in validation.cases if case.measured_ns]
    if not cases:
        return None
    names = dict.fromkeys(case.scheduler for case in cases)
    body = [_placement_row(name, [c for c in cases if c.scheduler == name]) for name in names]
    heads = ("placement", "plans", "mean error", "bias", "largest", "repeats within")
    return table(heads, body, "lrrrrr")


def _placement_row(name: str, cases: Sequence[Case]) -> list[Child]:
    errors = [case.simulated_ns / case.measured_ns - 1 for case in cases]
    repeats = [case.half_error for case in cases if case.half_error is not None]
    return [
        name,
        f"{len(cases)}",
        percent(sum(map(abs, errors)) / len(errors)),
        percent(sum(errors) / len(errors), signed=True),
        percent(max(map(abs, errors))),
        percent(sum(repeats) / len(repeats)) if repeats else NO_VALUE,
    ]


def bound_line(found: RunFolder) -> str | None:
    """Return how far the plan shown is from the longest chain of its tasks, as a sentence."""
    if found.graph is None or found.profile is None or not found.runs:
        return None
    bound_ns = longest_chain_ns(found.graph, found.profile)
    if not bound_ns:
        return None
    ratios = " and ".join(
        f"{run.trace.makespan_ns / bound_ns:.2f} times that ({run.name})" for run in found.runs
    )
    return (
        f"With each task alone on its fastest device, the longest chain of tasks takes"
        f" {duration(bound_ns)}; the plan takes {ratios}."
    )


def longest_chain_ns(graph: TaskGraph, profile: Profile) -> int | None:
    """Return the time of the longest chain with each task alone on its fastest device.

    None where the profile does not know all cells. Transfers and dispatch are left out.
    """
    try:
        costs = PricedGraph(graph, profile).task_ns
    except ProfileError:
        return None
    fastest = [min(ns for ns in row if ns >= 0) for row in costs.tolist()]
    ends = [0] * len(graph)
    for task in graph.topological_order:
        before = [*graph.input_lists[task], int(graph.revealed_by[task])]
        ends[task] = fastest[task] + max((ends[b] for b in before if b >= 0), default=0)
    return max(ends)


def _share(share: float | None, *, signed: bool = False) -> str:
    return NO_VALUE if share is None else percent(share, signed=signed)


def _number(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.3f}"
