"""The validator's checks of loads on either clock: each brings weights that a launch needs."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from heapq import heappop, heappush
from typing import NamedTuple

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


class _Stay(NamedTuple):
    """From when until when weights must be on a device: from their arrival to their last use."""

    start_ns: int
    end_ns: int
    bytes: int


def check_weights(case: Case) -> Iterator[str]:
    """Yield launches whose weights never came, and the first moment when not all needed ones fit.

    This holds whatever was evicted when, so clocks need not agree.
    """
    if case.trace.wasted or case.conditions.losses:
        return
    for device in case.cluster.devices:
        if not holds_all_weights(case, device):
            stays: dict[tuple[str, int], _Stay] = {}
            yield from _find_stays(case, device, stays)
            yield from _overfull(case, device, list(stays.values()))


def _find_stays(case: Case, device: Device, stays: dict[tuple[str, int], _Stay]) -> Iterator[str]:
    """Fill `stays`, by cell and number of its loads before; yield the launches without weights."""
    there, size_bytes = _at_first(case, device)
    loads: dict[str, list[LoadSpan]] = {}
    for load in sorted(case.trace.loads, key=lambda load: load.end_ns):
        if load.device == device.name:
            loads.setdefault(load.cell, []).append(load)
    ends_ns = {cell: [load.end_ns for load in row] for cell, row in loads.items()}
    for number, span in case.spans:
        if span.device != device.name:
            continue
        cell = case.graph.cell_name(span.tasks[0])
        n_before = bisect_right(ends_ns.get(cell, []), span.start_ns + case.tolerance_ns)
        if n_before or cell in there:
            since_ns = loads[cell][n_before - 1].start_ns if n_before else 0
            stays[cell, n_before] = _Stay(since_ns, span.end_ns, size_bytes[cell])
        else:
            yield f"{case.label(number)} starts at {span.start_ns} ns without the weights of {cell}"


def _at_first(case: Case, device: Device) -> tuple[set[str], dict[str, int]]:
    """Return the cells that are there at time 0, and the bytes of all cells."""
    size_bytes = {cell.name: cell.param_bytes for cell in case.graph.cells}
    if device.resident is not None:
        return set(device.resident), size_bytes
    there: set[str] = set()
    left_bytes = device.memory_bytes or 0
    for cell, size in size_bytes.items():
        if size <= left_bytes:
            there.add(cell)
            left_bytes -= size
    return there, size_bytes


def _overfull(case: Case, device: Device, stays: list[_Stay]) -> Iterator[str]:
    if device.memory_bytes is None:
        return
    total = 0
    ends: list[tuple[int, int]] = []
    for stay in sorted(stays):
        while ends and not case.early(stay.start_ns, ends[0][0]):
            total -= heappop(ends)[1]
        heappush(ends, (stay.end_ns, stay.bytes))
        total += stay.bytes
        if total > device.memory_bytes:
            yield (
                f"launches on {device.name} need {total} bytes of weights at {stay.start_ns} ns,"
                f" where it holds {device.memory_bytes}"
            )
            return
