"""The validator's comparison of durations with the profile, the luck and the slowdowns of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dynpartition.cluster import AffineCost
from dynpartition.costs import slowed_ns, transfer_ns
from dynpartition.luck import Luck
from dynpartition.profile import PricedGraph
from dynpartition.trace import LaunchSpan
from dynpartition.validator_case import Case, Check, Span, label
from dynpartition.validator_checks import reveal_bounds


def _check_link_durations(case: Case) -> Iterator[str]:
    for span in case.moved:
        link = case.link(span)
        if link is not None:
            expected_ns = transfer_ns(link.cost, span.bytes)
            yield from _compare(case, span, expected_ns)


def _check_launch_durations(case: Case) -> Iterator[str]:
    priced, luck = PricedGraph(case.graph, case.profile), _luck(case)
    for number, span in case.spans:
        device = case.cluster.index(case.plan.launches[number].device)
        if all(priced.can_run(task, device) for task in span.tasks):
            quiet_ns = _launch_ns(case, priced, number)
            noisy_ns = quiet_ns if luck is None else _with_luck(case, luck, span, quiet_ns)
            yield from _compare(case, span, _at_pace(case, span, noisy_ns))
        else:
            yield f"{case.label(number)} has no cost there"


def _luck(case: Case) -> Luck | None:
    noise, conditions = case.profile.noise, case.conditions
    key = conditions.luck or case.graph.digest
    return None if noise is None else Luck(noise, seed=conditions.seed, graph_key=key)


def _with_luck(case: Case, luck: Luck, span: LaunchSpan, quiet_ns: int) -> int:
    smallest = min(int(case.graph.ids[task]) for task in span.tasks)
    return luck.duration_ns(quiet_ns, device=span.device, task_id=smallest)


def _at_pace(case: Case, span: LaunchSpan, full_ns: int) -> int:
    """Slow a launch down by the latest slowdown of its device that had begun when it started."""
    begun = [s for s in case.conditions.slowdowns if s.device == span.device]
    begun = sorted((s for s in begun if s.at_ns <= span.start_ns), key=lambda s: s.at_ns)
    return slowed_ns(full_ns, begun[-1].speed) if begun else full_ns


def _compare(case: Case, span: Span, expected_ns: int) -> Iterator[str]:
    lasted_ns = span.end_ns - span.start_ns
    if abs(lasted_ns - expected_ns) > case.tolerance_ns:
        yield f"{label(case, span)} lasts {lasted_ns} ns instead of {expected_ns} ns"


def _launch_ns(case: Case, priced: PricedGraph, number: int) -> int:
    launch, dispatch = case.plan.launches[number], case.profile.dispatch
    return (
        priced.compute_ns(launch.tasks, case.cluster.index(launch.device))
        + len(launch.tasks) * dispatch.bookkeeping_on(launch.device)
        + _staging_ns(dispatch.copy_in.get(launch.device), _gathered_bytes(case, number))
        + _staging_ns(dispatch.copy_out.get(launch.device), _staged_bytes(case, number))
        + _first_use_ns(case, number)
    )


def _first_use_ns(case: Case, number: int) -> int:
    launches, graph = case.plan.launches, case.graph
    own = launches[number]
    cell = graph.cell_name(own.tasks[0])
    before = [launch for launch in launches[:number] if launch.device == own.device]
    if any(graph.cell_name(launch.tasks[0]) == cell for launch in before):
        return 0
    return case.profile.dispatch.first_use_on(cell, own.device)


def _staging_ns(cost: AffineCost | None, sizes: Iterable[int]) -> int:
    return 0 if cost is None else sum(transfer_ns(cost, size) for size in sizes)


def _gathered_bytes(case: Case, number: int) -> Iterator[int]:
    """Yield the bytes of each edge from another device, then of each host input."""
    launch, graph = case.plan.launches[number], case.graph
    for task in launch.tasks:
        for source in graph.input_lists[task]:
            if case.device_of[source] != launch.device:
                yield int(graph.output_bytes[source])
        if (task, launch.device) in case.fed_from:
            yield int(graph.host_bytes[task])


def _staged_bytes(case: Case, number: int) -> Iterator[int]:
    """Yield the bytes of each output that a task elsewhere, known by then, reads."""
    launch, graph = case.plan.launches[number], case.graph
    for task in launch.tasks:
        if any(_reads_from_afar(case, task, reader) for reader in graph.reader_lists[task]):
            yield int(graph.output_bytes[task])


def _reads_from_afar(case: Case, task: int, reader: int) -> bool:
    dst, made, read = case.device_of[reader], case.launch_of[task], case.launch_of[reader]
    known = case.gates[made] >= case.gates[read]
    arrived = case.arrived_ns[made] >= case.arrived_ns[read]
    return known and arrived and dst != case.device_of[task] and not case.is_late(task, dst)


def _check_decision_times(case: Case) -> Iterator[str]:
    """A value is known when it is on the host, has been read there and acted upon."""
    delay_ns = case.profile.dispatch.sync_ns + case.profile.dispatch.decision_ns
    for reveal in case.trace.reveals:
        bounds = [bound_ns for bound_ns, _ in reveal_bounds(case, reveal)]
        if case.early(reveal.known_ns, max(bounds) + delay_ns):
            name = case.graph.label(reveal.task)
            yield f"{name} is known at {reveal.known_ns} ns before sync and decision are over"


EXACT_CHECKS: tuple[Check, ...] = (
    _check_launch_durations,
    _check_link_durations,
    _check_decision_times,
)
"""Rules that compare a trace with the profile's costs."""
