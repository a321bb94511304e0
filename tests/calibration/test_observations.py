"""Stamps of one run become observations of the right things."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Device,
    LaunchSpan,
    Link,
    LoadSpan,
    Reveal,
    Task,
    TaskGraph,
    Trace,
    TransferSpan,
)
from dynpartition.calibration.observations import (
    HostTimes,
    Launched,
    Moved,
    Noted,
    Observations,
    observe,
)

CLUSTER = Cluster(
    (Device("cpu:0", "cpu"), Device("cpu:1", "cpu")),
    (
        Link("cpu:0", "cpu:1", AffineCost(0, 1), blocks="src"),
        Link("cpu:1", "cpu:0", AffineCost(0, 1), blocks="src"),
    ),
)


def one_run() -> tuple[TaskGraph, Trace]:
    """Two devices; the copy goes out right after task 0 and keeps its source busy.

    cpu:0   |0: 10 50|copy 51 60|   |1: 63 90|
    cpu:1                       ·4·|2: 64 100|3: 103 110|
    """
    tasks = [
        Task(id=0, cell="a", output_bytes=8),
        Task(id=1, cell="b"),
        Task(id=2, cell="a", inputs=(0,)),
        Task(id=3, cell="b"),
    ]
    launches = (
        LaunchSpan("cpu:0", (0,), 10, 50),
        LaunchSpan("cpu:0", (1,), 63, 90),
        LaunchSpan("cpu:1", (2,), 64, 100),
        LaunchSpan("cpu:1", (3,), 103, 110),
    )
    copy = TransferSpan("cpu:0", "cpu:1", (0,), 8, 51, 60)
    graph = TaskGraph.from_tasks("run", [Cell("a"), Cell("b")], tasks)
    return graph, Trace(110, launches, (copy,))


def observed(trace: Trace | None = None, **changes: object) -> Observations:
    graph, usual = one_run()
    return observe(3, graph, CLUSTER, trace or usual, HostTimes({}, **changes))


def test_a_launch_keeps_its_device_from_when_it_could_start() -> None:
    """The gap before it counts, the wait for an input does not."""
    rows = [(row.cell, row.device, row.ns, row.gap_ns, row.waited) for row in observed().launches]
    assert rows == [
        ("a", "cpu:0", 50, 10, False),
        ("b", "cpu:0", 30, 3, False),
        ("a", "cpu:1", 40, 4, True),
        ("b", "cpu:1", 10, 3, False),
    ]


@pytest.mark.parametrize(("there", "told"), [("cpu:1", [9, 2, 1, 20]), ("host1/cpu:0", [9, 20])])
def test_what_came_with_others_from_another_host_tells_nothing_of_its_link(
    there: str, told: list[int]
) -> None:
    """Three transfers in one message, which took 9 ns, and one behind them in another.

    cpu:0 → there   |51 60|60 62|62 63|   |80 100|
    """
    graph, trace = one_run()
    spans = [(51, 60), (60, 62), (62, 63), (80, 100)]
    moves = tuple(TransferSpan("cpu:0", there, (0,), 8, *span) for span in spans)
    launches = tuple(
        replace(one, device=one.device.replace("cpu:1", there)) for one in trace.launches
    )
    devices = (Device("cpu:0", "cpu"), Device(there, "cpu"))
    cluster = Cluster(devices, (Link("cpu:0", there, AffineCost(0, 1)),))
    seen = observe(3, graph, cluster, Trace(110, launches, moves), HostTimes({}))
    assert [move.ns for move in seen.moves] == told


def test_first_uses_and_edges_are_told() -> None:
    rows = [(r.is_first, r.copies_in, r.bytes_in, r.copies_out) for r in observed().launches]
    assert rows == [(True, 0, 0, 1), (True, 0, 0, 0), (True, 1, 8, 0), (True, 0, 0, 0)]
    again = LaunchSpan("cpu:0", (1,), 63, 90)
    graph, trace = one_run()
    cells = replace(graph, cell_of=graph.cell_of * 0)
    seen = observe(0, cells, CLUSTER, trace, HostTimes({}))
    assert trace.launches[1] == again
    assert [row.is_first for row in seen.launches] == [True, False, True, False]


def test_a_blocking_copy_lasts_from_the_end_of_what_its_source_did() -> None:
    assert observed().moves == [Moved(3, 0, "cpu:0", "cpu:1", 8, 10)]


def test_loads_are_what_the_link_carries() -> None:
    graph, trace = one_run()
    loaded = replace(trace, loads=(LoadSpan("cpu:1", "b", 4096, 101, 102),))
    seen = observe(0, graph, CLUSTER, loaded, HostTimes({}))
    assert seen.moves[-1] == Moved(0, 1, "cpu:0", "cpu:1", 4096, 1)
    assert seen.launches[-1].gap_ns == 1


def test_what_waited_for_a_value_is_no_launch_time_but_a_start() -> None:
    graph, trace = one_run()
    hidden = replace(graph, revealed_by=graph.revealed_by.copy())
    hidden.revealed_by[3] = 0
    revealed = replace(trace, reveals=(Reveal(0, 50, 101),))
    seen = observe(0, hidden, CLUSTER, revealed, HostTimes({0: 52}))
    assert [row.number for row in seen.launches] == [0, 1, 2]
    (late,) = seen.late
    span = trace.launches[3]
    assert (late.number, late.ns, late.gap_ns) == (3, span.end_ns - span.start_ns, 0)
    assert seen.notes == [
        Noted(0, 0, "sync", 2),
        Noted(0, 0, "decision", 49),
        Noted(0, 3, "start", 2),
    ]


def test_host_times_of_cuda_devices() -> None:
    seen = observed(dispatch_ns=(0, 0, 7, 0), push_ns=(5,))
    assert seen.notes == [Noted(3, 2, "dispatch of a on cpu:1", 7), Noted(3, 0, "push", 5)]


def test_bad_observations_are_left_out_and_named() -> None:
    good = Launched(0, 0, "a", "cpu:0", 2, 50.0, 1.0)
    seen = Observations(
        launches=[good, good, good._replace(run=1, ns=math.nan)],
        moves=[Moved(0, 0, "cpu:0", "cpu:1", 8, -1.0)],
        notes=[Noted(0, 0, "sync", 4.0), Noted(0, 0, "decision", 4.0)],
    )
    kept, wrong = seen.cleaned()
    assert kept.launches == [good]
    assert kept.moves == []
    assert len(kept.notes) == 2
    assert wrong == {
        "launches of 2 × a on cpu:0: not a number": 1,
        "launches of 2 × a on cpu:0: seen before": 1,
        "transfers from cpu:0 to cpu:1 of 8 bytes: negative": 1,
    }
