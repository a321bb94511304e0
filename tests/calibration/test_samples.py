"""Stamps of one run become samples of the right things."""

from __future__ import annotations

from dynpartition import Cell, LaunchSpan, LoadSpan, Reveal, Task, TaskGraph, Trace, TransferSpan
from dynpartition.calibration.samples import Samples


def one_run() -> tuple[TaskGraph, Trace]:
    """Two devices; the copy goes out right after task 0 and keeps its source busy.

    cpu:0   |0: 10 50|copy 51 60|   |1: 63 90|
    cpu:1                       ·4·|2: 64 100|3: 103 110|
    """
    tasks = [
        Task(id=0, cell="a", output_bytes=8),
        Task(id=1, cell="b"),
        Task(id=2, cell="a", inputs=(0,)),
        Task(id=3, cell="b", revealed_by=0),
    ]
    launches = (
        LaunchSpan("cpu:0", (0,), 10, 50),
        LaunchSpan("cpu:0", (1,), 63, 90),
        LaunchSpan("cpu:1", (2,), 64, 100),
        LaunchSpan("cpu:1", (3,), 103, 110),
    )
    copy = TransferSpan("cpu:0", "cpu:1", (0,), 8, 51, 60)
    graph = TaskGraph.from_tasks("run", [Cell("a"), Cell("b")], tasks)
    return graph, Trace(110, launches, (copy,), reveals=(Reveal(0, 50, 57),))


def test_launches_by_cell_device_and_batch() -> None:
    samples = Samples()
    samples.add_launches(*one_run(), [0, 0, 0, 0])
    assert dict(samples.launches) == {
        ("a", "cpu:0", 1): [40],
        ("b", "cpu:0", 1): [27],
        ("a", "cpu:1", 1): [36],
        ("b", "cpu:1", 1): [7],
    }


def test_launches_whose_thread_had_to_wait_are_left_out() -> None:
    samples = Samples()
    samples.add_launches(*one_run(), [0, 500, 0, 1])
    kept = {key for key, times in samples.launches.items() if times}
    assert kept == {("a", "cpu:0", 1), ("a", "cpu:1", 1)}
    assert (samples.dropped, samples.fewest()) == (2, 0)


def test_what_lies_between_launches() -> None:
    """Task 1 follows the copy (3 ns); task 3 follows task 2 (3 ns).

    The first launch of each device says nothing: nobody knows what its device did before.
    """
    samples = Samples()
    samples.add_surroundings(*one_run(), "cpu:0", {0: 52})
    assert dict(samples.transfers) == {("cpu:0", "cpu:1", 8): [9]}
    assert dict(samples.gaps) == {"cpu:0": [3], "cpu:1": [3]}
    assert dict(samples.waits) == {}
    assert (samples.syncs, samples.decisions) == ([2], [5])


def test_a_launch_that_waited_for_a_transfer_measures_the_handoff() -> None:
    graph, trace = one_run()
    swapped = (*trace.launches[:2], LaunchSpan("cpu:1", (3,), 20, 30), trace.launches[2])
    samples = Samples()
    samples.add_surroundings(graph, Trace(110, swapped, trace.transfers), "cpu:0", {})
    assert dict(samples.waits) == {"cpu:1": [4]}


def test_loads_are_what_the_link_carries_and_no_gaps() -> None:
    graph, trace = one_run()
    swapped = (*trace.launches[:2], LaunchSpan("cpu:1", (3,), 20, 30), trace.launches[2])
    loads = (LoadSpan("cpu:1", "a", 4096, 32, 39),)
    samples = Samples()
    samples.add_surroundings(graph, Trace(110, swapped, trace.transfers, loads=loads), "cpu:0", {})
    assert samples.transfers["cpu:0", "cpu:1", 4096] == [7]
    assert dict(samples.waits) == {}
