"""The validator's checks of loads on either clock: each brings weights that a launch needs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from dynpartition.cluster import Device
from dynpartition.trace import LoadSpan
from dynpartition.validator_case import Case, Check, label
from dynpartition.validator_checks import release_bounds


def holds_all_weights(case: Case, device: Device) -> bool:
    """Return whether weights never have to be loaded there."""
    return device.name == case.host or not device.tracks_memory


def _check_load_ends(case: Case) -> Iterator[str]:
    size_bytes = {cell.name: cell.param_bytes for cell in case.graph.cells}
    for load in case.trace.loads:
        if holds_all_weights(case, case.cluster.devices[case.cluster.index(load.device)]):
            yield f"{label(case, load)} is not needed: {load.device} holds all weights"
        elif case.link(load) is None:
            yield f"{label(case, load)} has no such link"
        if load.bytes != size_bytes[load.cell]:
            expected = size_bytes[load.cell]
            yield f"{label(case, load)} moves {load.bytes} bytes instead of {expected}"


def _check_load_starts(case: Case) -> Iterator[str]:
    """A load is for the next launch of its device, which has arrived and is known."""
    for load in case.trace.loads:
        number = _served(case, load)
        if number is None:
            yield f"{label(case, load)} at {load.start_ns} ns is for no launch after it"
            continue
        for bound_ns, event in (*_turn(case, number), *release_bounds(case, number)):
            if case.early(load.start_ns, bound_ns):
                when = f"starts at {load.start_ns} ns before {event} at {bound_ns} ns"
                yield f"{label(case, load)} for {case.label(number)} {when}"


def _served(case: Case, load: LoadSpan) -> int | None:
    """Return the first launch of the cell there that starts when the load has ended."""
    runs = case.runs_of.get((load.device, load.cell), [])
    first = bisect_left(runs, (load.end_ns - case.tolerance_ns, 0))
    return runs[first][1] if first < len(runs) else None


def _turn(case: Case, number: int) -> Iterator[tuple[int, str]]:
    """Yield the end of the launch before on the same device."""
    before = case.before.get(number, -1)
    if before in case.span_of:
        yield case.span_of[before].end_ns, f"{case.label(before)} ends"


LOAD_CHECKS: tuple[Check, ...] = (_check_load_ends, _check_load_starts)
"""Rules that loads obey on either clock; see also `validator_memory`."""
