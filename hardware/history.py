"""What ran before workers were lost, and the trace of the whole session.

A lost worker takes along when its launches ran: those whose outputs survive count, but only the
plan shows them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from dynpartition.hardware.messages import LaunchStamp, Report
from dynpartition.hardware.tracing import (
    Measured,
    Ran,
    is_returning,
    launch_span,
    load_spans,
    transfer_spans,
)
from dynpartition.plan import Launch, Plan
from dynpartition.trace import LaunchSpan, LoadSpan, Reveal, Trace, TransferSpan


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """One launch, and what its device has said of it."""

    launch: Launch
    span: LaunchSpan | None
    stamp: LaunchStamp | None


class History:
    """The legs of a session that losses have cut off. Times are ns since the session's start."""

    def __init__(self) -> None:
        self._made: dict[int, _Made] = {}  # task → the launch that made what counts, in plan order
        self._end_ns: dict[int, int] = {}  # revealer → end of the launch whose value was seen
        self._transfers: list[TransferSpan] = []
        self._loads: list[LoadSpan] = []
        self._wasted: list[LaunchSpan] = []
        self._cut_ns = 0

    def add(self, ran: Ran, reports: Sequence[Report], again: Collection[int], at_ns: int) -> None:
        """Take in a leg that a loss has cut off; `again`: tasks that have to run once more."""
        self._note(ran, reports)
        wasted: dict[_Made, list[int]] = {}
        for task in sorted(again):
            made = self._made.pop(task, None)
            if made is not None and made.span is not None:
                wasted.setdefault(made, []).append(task)
        self._wasted += [span for made in wasted for span in _spans({made: wasted[made]})]
        self._cut_ns = at_ns

    def _note(self, ran: Ran, reports: Sequence[Report]) -> None:
        stamps = {stamp.launch: stamp for report in reports for stamp in report.launches}
        for number in range(ran.n_carried, len(ran.plan)):
            launch, stamp = ran.plan.launches[number], stamps.get(number)
            made = _Made(launch, None if stamp is None else launch_span(ran, stamp), stamp)
            self._made |= dict.fromkeys(launch.tasks, made)
        self._transfers += transfer_spans(ran, reports)
        self._loads += load_spans(ran, reports)
        for task, known_ns in ran.known_ns.items():
            made_by = self._made.get(task)
            span = None if made_by is None else made_by.span
            latest_ns = known_ns - ran.origin_ns
            self._end_ns.setdefault(task, latest_ns if span is None else span.end_ns)

    def whole(self, ran: Ran, reports: Sequence[Report]) -> tuple[Plan, Measured]:
        """Return what ran and counts, given the last leg; call it once."""
        self._note(ran, reports)
        made: dict[_Made, list[int]] = {}
        for task, one in self._made.items():
            made.setdefault(one, []).append(task)
        plan = Plan(tuple(Launch(one.launch.device, tuple(made[one])) for one in made))
        stamps = [one.stamp for one in made if one.stamp is not None]
        trace = Trace(
            makespan_ns=self._makespan_ns(ran, list(_spans(made))),
            launches=tuple(_spans(made)),
            transfers=tuple(self._transfers),
            reveals=tuple(
                Reveal(task, self._end_ns[task], known_ns - ran.origin_ns)
                for task, known_ns in ran.known_ns.items()
            ),
            loads=tuple(sorted(self._loads, key=lambda span: span.start_ns)),
            wasted=tuple(self._wasted),
        )
        repeats = tuple(stamp.repeats for stamp in stamps)
        return plan, Measured(trace, repeats, tuple(stamp.run_delay_ns for stamp in stamps))

    def _makespan_ns(self, ran: Ran, launches: Sequence[LaunchSpan]) -> int:
        ends_ns = [span.end_ns for span in launches]
        ends_ns += [span.end_ns for span in self._transfers if is_returning(ran, span)]
        # A loss that left nothing to do ended the run, as far as anybody knows.
        return max([*ends_ns, self._cut_ns])


def _spans(made: dict[_Made, list[int]]) -> Iterator[LaunchSpan]:
    """Yield the launches that were measured, with some of their tasks."""
    for one, tasks in made.items():
        if one.span is not None:
            yield LaunchSpan(one.span.device, tuple(tasks), one.span.start_ns, one.span.end_ns)
