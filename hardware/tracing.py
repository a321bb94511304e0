"""Turns the stamps of all devices into a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dynpartition.cluster import Cluster
from dynpartition.device_spec import host_of, is_gpu
from dynpartition.graph import TaskGraph
from dynpartition.hardware.messages import CopyStamp, LaunchStamp, LoadStamp, Report
from dynpartition.plan import Plan
from dynpartition.program import Program
from dynpartition.trace import LaunchSpan, LoadSpan, Reveal, Trace, TransferSpan


@dataclass(frozen=True)
class Measured:
    """What one run did, and what calibration wants to know besides."""

    trace: Trace
    repeats: tuple[int, ...]
    """Per launch, in plan order: how often it was computed; above 1 on slowed devices."""
    run_delay_ns: tuple[int, ...]
    """Per launch: how long its thread waited for a core meanwhile; 0 where not sampled."""
    dispatch_ns: tuple[int, ...] = ()
    """Per launch: how long the caller's thread was busy with starting it; 0 on CPU devices.
    Empty for runs that lost a device."""
    push_ns: tuple[int, ...] = ()
    """Per transfer: the same; 0 between CPU devices, empty likewise."""
    waited_ns: int = 0
    """How long threads of CPU devices waited for a core, all together; 0 where not counted."""


@dataclass(frozen=True)
class Ran:
    """A finished run: what was planned, and since when the clock counts."""

    graph: TaskGraph
    cluster: Cluster
    plan: Plan
    program: Program
    origin_ns: int
    known_ns: Mapping[int, int]
    """Revealer → when its value and what it revealed had been planned."""
    n_carried: int = 0
    """Launches at the beginning of the plan that ran before a loss."""


def measured(ran: Ran, reports: Sequence[Report]) -> Measured:
    """Return the trace of a run from what its devices report."""
    stamps = sorted((s for report in reports for s in report.launches), key=lambda s: s.launch)
    copies = copy_stamps(reports)
    assert [s.launch for s in stamps] == list(range(len(ran.plan))), "every launch runs once"
    assert [s.copy for s in copies] == list(range(ran.program.n_copies)), "every copy is made once"
    launches = tuple(launch_span(ran, stamp) for stamp in stamps)
    transfers = transfer_spans(ran, reports)
    trace = Trace(
        makespan_ns=_makespan_ns(ran, launches, transfers),
        launches=launches,
        transfers=transfers,
        reveals=_reveals(ran, launches),
        loads=load_spans(ran, reports),
    )
    return Measured(
        trace,
        repeats=tuple(s.repeats for s in stamps),
        run_delay_ns=tuple(s.run_delay_ns for s in stamps),
        dispatch_ns=tuple(s.dispatch_ns for s in stamps),
        push_ns=tuple(s.dispatch_ns for s in copies),
        waited_ns=sum(report.run_delay_ns for report in reports),
    )


def launch_span(ran: Ran, stamp: LaunchStamp) -> LaunchSpan:
    """Return when a launch ran."""
    launch, origin = ran.plan.launches[stamp.launch], ran.origin_ns
    return LaunchSpan(launch.device, launch.tasks, stamp.start_ns - origin, stamp.end_ns - origin)


def transfer_spans(ran: Ran, reports: Sequence[Report]) -> tuple[TransferSpan, ...]:
    """Return all transfers that were reported, by number."""
    spans = [_transfer_span(ran, stamp) for stamp in copy_stamps(reports)]
    return tuple(_in_turn(spans))


def copy_stamps(reports: Sequence[Report]) -> list[CopyStamp]:
    """Return one stamp for each transfer, by number: between hosts each end has stamped its own.

    Clocks of two hosts agree to half of a round trip at best, so an end may seem to come first.
    """
    stamps: dict[int, CopyStamp] = {}
    for stamp in (stamp for report in reports for stamp in report.copies):
        other = stamps.get(stamp.copy, stamp)
        start_ns, end_ns = min(stamp.start_ns, other.start_ns), max(stamp.end_ns, other.end_ns)
        dispatch_ns = max(stamp.dispatch_ns, other.dispatch_ns)
        stamps[stamp.copy] = CopyStamp(stamp.copy, start_ns, end_ns, dispatch_ns)
    return [stamps[copy] for copy in sorted(stamps)]


def _is_passed_on(src: str, dst: str) -> bool:
    """Return whether others than the two ends carry a transfer, a part of its way each."""
    gpus_apart = is_gpu(src) and is_gpu(dst) and host_of(src) > 0  # each has its own process
    return host_of(src) != host_of(dst) or gpus_apart


def _in_turn(spans: list[TransferSpan]) -> list[TransferSpan]:
    """Return the spans with those that are passed on one after the other, link by link.

    A transfer there is pushed before it has the link: it begins when the one before has come.
    """
    free_ns: dict[tuple[str, str], int] = {}
    for at in sorted(range(len(spans)), key=lambda at: spans[at].end_ns):
        span = spans[at]
        if _is_passed_on(span.src, span.dst):
            link = span.src, span.dst
            start_ns = max(span.start_ns, free_ns.get(link, span.start_ns))
            spans[at] = replace(span, start_ns=start_ns)
            free_ns[link] = span.end_ns
    return spans


def _transfer_span(ran: Ran, stamp: CopyStamp) -> TransferSpan:
    program, number, names = ran.program, stamp.copy, ran.cluster.names
    return TransferSpan(
        names[program.copy_src[number]],
        names[program.copy_dst[number]],
        program.copy_tasks.rows[number],
        int(program.copy_bytes[number]),
        stamp.start_ns - ran.origin_ns,
        stamp.end_ns - ran.origin_ns,
        bool(program.copy_is_input[number]),
    )


def load_spans(ran: Ran, reports: Sequence[Report]) -> tuple[LoadSpan, ...]:
    """Return all loads that were reported, by start."""
    stamps: list[LoadStamp] = [stamp for report in reports for stamp in report.loads]
    names, origin = ran.cluster.names, ran.origin_ns
    size = {cell.name: cell.param_bytes for cell in ran.graph.cells}
    return tuple(
        LoadSpan(names[s.device], s.cell, size[s.cell], s.start_ns - origin, s.end_ns - origin)
        for s in sorted(stamps, key=lambda stamp: (stamp.start_ns, stamp.device))
    )


def _makespan_ns(
    ran: Ran, launches: Sequence[LaunchSpan], transfers: Sequence[TransferSpan]
) -> int:
    returning = (span.end_ns for span in transfers if is_returning(ran, span))
    return max((*(span.end_ns for span in launches), *returning))


def is_returning(ran: Ran, span: TransferSpan) -> bool:
    """Return whether a transfer brings an answer to the host."""
    if span.host_input or span.dst != ran.cluster.host:
        return False
    return any(ran.graph.returns[task] for task in span.tasks)


def _reveals(ran: Ran, launches: Sequence[LaunchSpan]) -> tuple[Reveal, ...]:
    end_ns = {task: span.end_ns for span in launches for task in span.tasks}
    return tuple(
        Reveal(task, end_ns[task], known_ns - ran.origin_ns)
        for task, known_ns in ran.known_ns.items()
    )
