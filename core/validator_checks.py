"""The validator's checks: each yields a message per violation of one rule of the semantics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import TypeVar

from dynpartition.trace import LaunchSpan, Reveal, TransferSpan
from dynpartition.validator_case import Case, Check, Moved, Span, label

_AnySpan = TypeVar("_AnySpan", LaunchSpan, Moved, Span)


def _check_times(case: Case) -> Iterator[str]:
    spans: list[Span] = [*case.trace.launches, *case.moved, *case.trace.dispatches]
    for span in spans:
        if span.start_ns < 0:
            yield f"{label(case, span)} starts at {span.start_ns} ns, before the run"
        if span.end_ns < span.start_ns:
            yield f"{label(case, span)} ends at {span.end_ns} ns, before its start"


def _check_launches_complete(case: Case) -> Iterator[str]:
    copies = Counter(span.tasks for span in case.trace.launches)
    for number, launch in enumerate(case.plan.launches):
        if copies[launch.tasks] != 1:
            yield f"{case.label(number)} is in the trace {copies[launch.tasks]} times"
    for span in case.trace.launches:
        number_or_none = case.number_of.get(span.tasks)
        if number_or_none is None:
            yield f"{label(case, span)} is not in the plan"
        elif span.device != case.plan.launches[number_or_none].device:
            yield f"{case.label(number_or_none)} ran on {span.device}"
    listed = [case.number_of[s.tasks] for s in case.trace.launches if s.tasks in case.number_of]
    if listed != sorted(listed):
        yield "the trace does not list its launches in plan order"


def _check_device_order(case: Case) -> Iterator[str]:
    rows: dict[str, list[tuple[int, LaunchSpan]]] = {}
    for number, span in case.spans:
        rows.setdefault(span.device, []).append((number, span))
    for row in rows.values():
        for (first, a), (second, b) in pairwise(row):
            if case.early(b.start_ns, a.end_ns):
                how = "runs before" if b.end_ns <= a.start_ns else "overlaps"
                yield f"{case.label(second)} {how} {case.label(first)}"


def _check_inputs(case: Case) -> Iterator[str]:
    """Every input made on the same device before, or brought there before, the reader starts."""
    for number, span in case.spans:
        device = case.plan.launches[number].device
        for source in dict.fromkeys(s for t in span.tasks for s in case.graph.input_lists[t]):
            what = f"{case.label(number)} starts at {span.start_ns} ns before"
            producer = case.span_of.get(case.launch_of[source])
            if case.device_of[source] != device:
                for brought in case.deliveries.get((source, device), [])[:1]:
                    if case.early(span.start_ns, brought.end_ns):
                        yield f"{what} {case.graph.label(source)} arrives at {brought.end_ns} ns"
            elif producer is not None and case.early(span.start_ns, producer.end_ns):
                yield f"{what} {case.graph.label(source)} ends at {producer.end_ns} ns"


def _check_host_inputs(case: Case) -> Iterator[str]:
    for (task, dst), number in case.fed_from.items():
        span = case.span_of.get(number)
        for fed in case.feeds.get((task, dst), [])[:1]:
            if span is not None and case.early(span.start_ns, fed.end_ns):
                when = f"at {span.start_ns} ns before its host input arrives at {fed.end_ns} ns"
                yield f"{case.label(number)} starts {when}"


def _check_transfers_needed(case: Case) -> Iterator[str]:
    """Each output that another device needs goes there once; nothing else travels."""
    for needed, sent, what in (
        (case.asked_by, case.deliveries, "output"),
        (case.fed_from, case.feeds, "host input"),
    ):
        for task, dst in needed:
            count = len(sent.get((task, dst), ()))
            if count != 1:
                yield f"the {what} of {case.graph.label(task)} is sent to {dst} {count} times"
        for task, dst in sent:
            if (task, dst) not in needed:
                yield f"the {what} of {case.graph.label(task)} is sent to {dst} without need"


def _check_transfer_ends(case: Case) -> Iterator[str]:
    for span in case.trace.transfers:
        if case.link(span) is None:
            yield f"{label(case, span)} has no such link"
        for task in span.tasks:
            src = case.host if span.host_input else case.device_of[task]
            if span.src != src:
                yield f"{label(case, span)}: {case.graph.label(task)} is on {src}"


def _check_transfer_bytes(case: Case) -> Iterator[str]:
    for span in case.trace.transfers:
        sizes = case.graph.host_bytes if span.host_input else case.graph.output_bytes
        expected = int(sizes[list(span.tasks)].sum())
        if span.bytes != expected:
            yield f"{label(case, span)} moves {span.bytes} bytes instead of {expected}"


def _check_transfer_starts(case: Case) -> Iterator[str]:
    """Nothing leaves before it is made, has arrived, and somebody known asks for it."""
    for span in case.trace.transfers:
        bounds = dict.fromkeys(bound for t in span.tasks for bound in _push_bounds(case, span, t))
        for bound_ns, event in bounds:
            if case.early(span.start_ns, bound_ns):
                when = f"starts at {span.start_ns} ns before {event} at {bound_ns} ns"
                yield f"{label(case, span)} {when}"


def _push_bounds(case: Case, span: TransferSpan, task: int) -> Iterator[tuple[int, str]]:
    launch = case.launch_of[task]
    gates = case.gates[launch]
    if span.host_input:
        yield case.arrived_ns[launch], f"{case.label(launch)} arrives"
    elif launch in case.span_of:
        yield case.span_of[launch].end_ns, f"{case.graph.label(task)} ends"
    if not span.host_input and (task, span.dst) in case.asked_by:
        gates = case.late_gates(task, span.dst)
        reader = case.label(case.asked_by[task, span.dst])
        yield case.late_arrival_ns(task, span.dst), f"{reader} arrives"
    for gate in sorted(gates):
        yield case.known_ns.get(gate, 0), f"{case.graph.label(gate)} is known"


def _clashes(case: Case, spans: Iterable[_AnySpan]) -> Iterator[tuple[_AnySpan, _AnySpan]]:
    """Yield pairs of spans that overlap in time: each late-comer with what still runs then."""
    latest: _AnySpan | None = None
    for span in sorted(spans, key=lambda s: (s.start_ns, s.end_ns)):
        if latest is not None and case.early(span.start_ns, latest.end_ns):
            yield latest, span
        if latest is None or span.end_ns > latest.end_ns:
            latest = span


def _check_resources(case: Case) -> Iterator[str]:
    users: dict[str, list[Moved]] = {}
    for span in case.on_links:
        link = case.link(span)
        for resource in dict.fromkeys(link.held) if link else ():
            users.setdefault(resource, []).append(span)
    for resource, spans in users.items():
        for a, b in _clashes(case, spans):
            yield f"{label(case, b)} overlaps {label(case, a)} on resource {resource!r}"


def _check_blocked_devices(case: Case) -> Iterator[str]:
    """A copy over a link that blocks a device occupies it like a launch."""
    users: dict[str, list[Span]] = {}
    for span in case.on_links:
        link = case.link(span)
        for device in link.blocked_devices if link else ():
            users.setdefault(device, []).append(span)
    for launch in case.trace.launches:
        if launch.device in users:
            users[launch.device].append(launch)
    for device, spans in users.items():
        for a, b in _clashes(case, spans):
            if not (isinstance(a, LaunchSpan) and isinstance(b, LaunchSpan)):
                yield f"{label(case, b)} overlaps {label(case, a)}, which blocks {device}"


def _check_gates(case: Case) -> Iterator[str]:
    """No launch, and no host work for it, before it has arrived and all that hid it is known."""
    begun = [(number, span.start_ns, "starts") for number, span in case.spans]
    for dispatch in case.trace.dispatches:
        if dispatch.tasks in case.number_of:
            begun.append((case.number_of[dispatch.tasks], dispatch.start_ns, "is dispatched"))
        else:
            yield f"{label(case, dispatch)} is for no launch of the plan"
    for number, start_ns, what in begun:
        for bound_ns, event in release_bounds(case, number):
            if case.early(start_ns, bound_ns):
                yield f"{case.label(number)} {what} before {event} at {bound_ns} ns"


def release_bounds(case: Case, number: int) -> Iterator[tuple[int, str]]:
    """Yield the times, and what they are, before which nothing may happen for a launch."""
    yield case.arrived_ns[number], "its arrival"
    for gate in sorted(case.gates[number]):
        yield case.known_ns.get(gate, 0), f"{case.graph.label(gate)} is known"


def _check_reveals(case: Case) -> Iterator[str]:
    count = Counter(reveal.task for reveal in case.trace.reveals)
    for task in case.graph.revealers:
        if count[task] != 1:
            yield f"{case.graph.label(task)} is revealed {count[task]} times"
    for reveal in case.trace.reveals:
        name = case.graph.label(reveal.task)
        if reveal.task not in case.graph.revealers:
            yield f"{name} is revealed but hides nothing"
        for bound_ns, event in reveal_bounds(case, reveal):
            if case.early(reveal.known_ns, bound_ns):
                yield f"{name} is known at {reveal.known_ns} ns before {event} at {bound_ns} ns"


def reveal_bounds(case: Case, reveal: Reveal) -> Iterator[tuple[int, str]]:
    """Yield the times, and what they are, before which a value cannot be known."""
    yield reveal.end_ns, "its reveal's end"
    span = case.span_of.get(case.launch_of[reveal.task])
    if span is not None:
        yield span.end_ns, "its launch ends"
    for answer in case.deliveries.get((reveal.task, case.host), []):
        yield answer.end_ns, "its output reaches the host"


def _check_makespan(case: Case) -> Iterator[str]:
    ends = [span.end_ns for span in case.trace.launches]
    for span in case.trace.transfers:
        returns = not span.host_input and case.graph.returns[list(span.tasks)].any()
        if returns and span.dst == case.host:
            ends.append(span.end_ns)
    expected_ns = max(ends, default=0) - int(case.graph.arrival_ns.min())
    if abs(case.trace.makespan_ns - expected_ns) > case.tolerance_ns:
        yield f"the makespan is {case.trace.makespan_ns} ns instead of {expected_ns} ns"


CHECKS: tuple[Check, ...] = (
    _check_times,
    _check_launches_complete,
    _check_device_order,
    _check_inputs,
    _check_host_inputs,
    _check_transfers_needed,
    _check_transfer_ends,
    _check_transfer_bytes,
    _check_transfer_starts,
    _check_resources,
    _check_blocked_devices,
    _check_gates,
    _check_reveals,
    _check_makespan,
)
"""Rules that every trace obeys, on either clock."""
