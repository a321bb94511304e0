"""Validation of traces: do they obey the execution semantics, whoever made them.

This is a second reading of the semantics. It shares no code with the lowering or with an engine,
so that a mistake there cannot hide here.
"""

from __future__ import annotations

from collections.abc import Iterator

from dynpartition.cluster import Cluster
from dynpartition.conditions import GOOD_DAY, Conditions
from dynpartition.errors import PlanError, ProfileError, ScheduleError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan, check_plan
from dynpartition.profile import Profile
from dynpartition.trace import Trace
from dynpartition.validator_case import Case
from dynpartition.validator_checks import CHECKS
from dynpartition.validator_durations import EXACT_CHECKS
from dynpartition.validator_loads import LOAD_CHECKS, check_weights
from dynpartition.validator_memory import check_memory

SHOWN_MAX = 5
"""How many violations an error message lists."""


def find_violations(
    graph: TaskGraph,
    profile: Profile,
    plan: Plan,
    trace: Trace,
    *,
    tolerance_ns: int = 0,
    exact_durations: bool = False,
    conditions: Conditions = GOOD_DAY,
) -> list[str]:
    """Return every way in which `trace` breaks the execution semantics; empty: none.

    `tolerance_ns` is how far two clocks of a real machine may disagree; 0 for simulated traces.
    `exact_durations` also compares durations with the profile and the `conditions` of the run.
    What devices hold is worked out without tolerance, where nothing else is wrong. With one, only
    what must be there is: every launch's weights have come, and what launches use together fits;
    loads share no link with other loads or transfers then. Runs that lost a device are not covered.
    """
    unusable = _unusable_plan(graph, profile.cluster, plan) or [
        *_unreadable_spans(graph, profile.cluster, trace)
    ]
    if unusable:
        return unusable
    case = Case(graph, profile, plan, trace, tolerance_ns=tolerance_ns, conditions=conditions)
    found = [message for check in (*CHECKS, *LOAD_CHECKS) for message in check(case)]
    if not found:
        found += check_weights(case) if tolerance_ns else check_memory(case)
    if exact_durations:
        found += [message for check in EXACT_CHECKS for message in check(case)]
    return found


def check_trace(
    graph: TaskGraph,
    profile: Profile,
    plan: Plan,
    trace: Trace,
    *,
    tolerance_ns: int = 0,
    exact_durations: bool = False,
    conditions: Conditions = GOOD_DAY,
) -> None:
    """Raise ScheduleError, with the first violations and their number, unless there are none."""
    found = find_violations(
        *(graph, profile, plan, trace),
        tolerance_ns=tolerance_ns,
        exact_durations=exact_durations,
        conditions=conditions,
    )
    if found:
        more = len(found) - SHOWN_MAX
        rest = f"; and {more} more" if more > 0 else ""
        shown = "; ".join(found[:SHOWN_MAX])
        raise ScheduleError(f"the trace breaks the semantics {len(found)} times: {shown}{rest}")


def overlap_ns(trace: Trace, device_a: str, device_b: str) -> int:
    """Return for how long both devices ran launches at the same time."""
    total_ns = 0
    busy_a, busy_b = _busy(trace, device_a), _busy(trace, device_b)
    while busy_a and busy_b:
        (start_a, end_a), (start_b, end_b) = busy_a[-1], busy_b[-1]
        total_ns += max(0, min(end_a, end_b) - max(start_a, start_b))
        # Both lists are walked from the end: drop the stretch that starts later.
        (busy_a if start_a >= start_b else busy_b).pop()
    return total_ns


def _busy(trace: Trace, device: str) -> list[tuple[int, int]]:
    """Return the stretches in which `device` ran launches, ascending and disjoint."""
    stretches: list[tuple[int, int]] = []
    spans = sorted((s.start_ns, s.end_ns) for s in trace.launches if s.device == device)
    for start_ns, end_ns in spans:
        if stretches and start_ns <= stretches[-1][1]:
            start_ns, last_end_ns = stretches.pop()
            end_ns = max(end_ns, last_end_ns)
        stretches.append((start_ns, end_ns))
    return stretches


def _unusable_plan(graph: TaskGraph, cluster: Cluster, plan: Plan) -> list[str]:
    try:
        check_plan(graph, cluster, plan)
    except (PlanError, ProfileError) as error:
        return [f"the plan is not legal: {error}"]
    return []


def _unreadable_spans(graph: TaskGraph, cluster: Cluster, trace: Trace) -> Iterator[str]:
    """Yield names that nothing else could be said about: unknown tasks, devices and cells."""
    named = [
        *((f"trace launch {i}", s.tasks, (s.device,)) for i, s in enumerate(trace.launches)),
        *((f"transfer {i}", s.tasks, (s.src, s.dst)) for i, s in enumerate(trace.transfers)),
        *((f"dispatch {i}", s.tasks, (s.device,)) for i, s in enumerate(trace.dispatches)),
        *((f"reveal {i}", (r.task,), ()) for i, r in enumerate(trace.reveals)),
    ]
    for place, tasks, devices in named:
        if not tasks:
            yield f"{place} has no tasks"
        for task in tasks:
            if not 0 <= task < len(graph):
                yield f"{place}: task {task} is not in the graph"
        for device in devices:
            if device not in cluster.names:
                yield f"{place}: no device is named {device!r}"
    for number, load in enumerate(trace.loads):
        if load.device not in cluster.names:
            yield f"load {number}: no device is named {load.device!r}"
        if load.cell not in graph.cell_names:
            yield f"load {number}: no cell is named {load.cell!r}"
