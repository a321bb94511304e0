"""Weights and memory in worlds small enough to compute by hand, run through the command line.

What they are made of, and what it costs, is said in `tests.sim.small_worlds`; besides, a load of
n bytes takes 5 + n ns, like any transfer.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.small_worlds import Json, World, devices, link, loads, moves, profile, spans, task


def small_gpu(links: list[Json] | None = None, **fields: Any) -> Json:
    """A profile whose cuda:0 has these fields."""
    return profile(links, devices=devices({"cuda:0": fields}))


def test_a_launch_waits_for_its_weights_the_next_one_has_them(world: World) -> None:
    """Nothing is resident; no memory is counted, so nothing has to go either.

    ->cuda:0  |load cell: 0 45|
    cuda:0                    |0: 45 55|1: 55 65|
    """
    trace = world.run(
        [task(0), task(1)],
        [("cuda:0", [0]), ("cuda:0", [1])],
        small_gpu(resident=[]),
        weights={"cell": 40},
    )
    assert trace["loads"] == [
        {"device": "cuda:0", "cell": "cell", "bytes": 40, "start_ns": 0, "end_ns": 45}
    ]
    assert spans(trace) == [("cuda:0", [0], 45, 55), ("cuda:0", [1], 55, 65)]


def test_listed_cells_are_resident_and_unknown_ones_do_not_matter(world: World) -> None:
    """The load of `a` begins when the device is idle, not before.

    ->cuda:0           |load a: 10 55|
    cuda:0    |0(b): 0 10|           |1(a): 55 65|2(b): 65 75|
    """
    trace = world.run(
        [task(0, cell="b"), task(1, cell="a"), task(2, cell="b")],
        [("cuda:0", [0]), ("cuda:0", [1]), ("cuda:0", [2])],
        small_gpu(resident=["b", "elsewhere"]),
        weights={"a": 40, "b": 40},
    )
    assert loads(trace) == [("cuda:0", "a", 10, 55)]
    assert [s[2:] for s in spans(trace)] == [(0, 10), (55, 65), (65, 75)]


def test_without_a_list_all_that_fits_is_resident_in_cell_order(world: World) -> None:
    """Of 50 bytes `big` takes 40, `mid` does not fit, `tiny` does; `mid` later takes their room.

    cuda:0    |0(tiny): 0 10|1(big): 10 20|
    ->cuda:0                              |load mid: 20 45|
    cuda:0                                                |2(mid): 45 55|
    """
    trace = world.run(
        [task(n, cell=cell, size=0) for n, cell in enumerate(["tiny", "big", "mid"])],
        [("cuda:0", [0]), ("cuda:0", [1]), ("cuda:0", [2])],
        small_gpu(memory_bytes=50),
        weights={"big": 40, "mid": 20, "tiny": 10},
    )
    assert loads(trace) == [("cuda:0", "mid", 20, 45)]
    assert [s[2:] for s in spans(trace)] == [(0, 10), (10, 20), (45, 55)]


def test_what_was_used_longest_ago_is_evicted_first(world: World) -> None:
    """Three of four cells fit. Each load evicts one: `a` and `b`, never used, by name; then c, a.

    cuda:0  |c|   |d|   |a|   |b|d|   |c|b|
    loads     |d|   |a|   |b|     |c|
            0 10  45 55 90 100 135 155 190 210
    """
    cells = ["c", "d", "a", "b", "d", "c", "b"]
    trace = world.run(
        [task(n, cell=cell, size=0) for n, cell in enumerate(cells)],
        [("cuda:0", [n]) for n in range(len(cells))],
        small_gpu(memory_bytes=100),
        weights={"c": 30, "b": 30, "a": 30, "d": 30},
    )
    assert loads(trace) == [
        ("cuda:0", "d", 10, 45),  # a goes
        ("cuda:0", "a", 55, 90),  # b goes
        ("cuda:0", "b", 100, 135),  # c goes, used at 10
        ("cuda:0", "c", 155, 190),  # a goes, used at 100; b at 145, d at 155
    ]
    assert [s[2] for s in spans(trace)] == [0, 45, 90, 135, 145, 190, 200]


def test_a_load_queues_behind_the_transfer_on_its_link(world: World) -> None:
    """cuda:0 is idle at 110; the load is queued then, behind task 0's output.

    cpu:0     |0: 0 100|
    ->cuda:0           |0: 100 125|load b: 125 170|
    cuda:0    |1(a): 0    110|                    |2(b): 170 180|
    """
    trace = world.run(
        [
            task(0, cell="a"),
            task(1, cell="a", duration_ns={"cuda:0": 110}),
            task(2, 0, cell="b"),
        ],
        [("cpu:0", [0]), ("cuda:0", [1]), ("cuda:0", [2])],
        small_gpu(resident=["a"]),
        weights={"a": 40, "b": 40},
    )
    assert moves(trace) == [("cpu:0->cuda:0", [0], 20, 100, 125)]
    assert loads(trace) == [("cuda:0", "b", 125, 170)]
    assert spans(trace)[2] == ("cuda:0", [2], 170, 180)


def test_the_input_of_a_launch_goes_before_its_weights(world: World) -> None:
    """Both are ready at 0, with one key.

    ->cuda:0  |input: 0 35|load: 35 80|0: 80 90|
    """
    trace = world.run(
        [task(0, host_bytes=30)], [("cuda:0", [0])], small_gpu(resident=[]), weights={"cell": 40}
    )
    assert moves(trace) == [("cpu:0->cuda:0", [0], 30, 0, 35)]
    assert loads(trace) == [("cuda:0", "cell", 35, 80)]
    assert spans(trace) == [("cuda:0", [0], 80, 90)]


def test_a_load_on_a_blocking_link_occupies_the_host_device(world: World) -> None:
    """Task 2 arrives at 30; its load waits for the running launch and goes before the next.

    cpu:0   |0: 0 100|load: 100 145|1: 145 245|
    cuda:0                         |2: 145 155|
    """
    trace = world.run(
        [task(0), task(1), task(2, arrival_ns=30)],
        [("cpu:0", [0]), ("cpu:0", [1]), ("cuda:0", [2])],
        small_gpu([link("cpu:0", "cuda:0", blocks="src")], resident=[]),
        weights={"cell": 40},
    )
    assert loads(trace) == [("cuda:0", "cell", 100, 145)]
    assert spans(trace) == [
        ("cpu:0", [0], 0, 100),
        ("cpu:0", [1], 145, 245),
        ("cuda:0", [2], 145, 155),
    ]


def test_a_load_does_not_begin_while_a_copy_blocks_its_device(world: World) -> None:
    """Task 1 arrives at 30, while task 0's output for task 2 occupies cuda:0.

    cuda:1    |0(a): 0 20|
    cuda:0               |copy: 20 45|load b: 45 90|1(b): 90 100|2(a): 100 110|
    """
    blocking = [link("cpu:0", "cuda:0"), link("cuda:1", "cuda:0", blocks="dst")]
    trace = world.run(
        [task(0, cell="a"), task(1, cell="b", arrival_ns=30), task(2, 0, cell="a")],
        [("cuda:1", [0]), ("cuda:0", [1]), ("cuda:0", [2])],
        small_gpu(blocking, resident=["a"]),
        weights={"a": 40, "b": 40},
    )
    assert moves(trace) == [("cuda:1->cuda:0", [0], 20, 20, 45)]
    assert loads(trace) == [("cuda:0", "b", 45, 90)]
    assert [s[2:] for s in spans(trace)] == [(0, 20), (90, 100), (100, 110)]


def test_a_transfer_evicts_what_does_not_run(world: World) -> None:
    """30 bytes find 20 of 60 free: `b` goes at 100, for `a` runs; at 105 `a` goes for `b`.

    cpu:0     |0: 0 100|
    ->cuda:0           |0: 100 135|load b: 135 160|
    cuda:0    |1(a): 0   105|                     |2(b): 160 170|
    """
    tasks = [
        task(0, cell="a", size=30),
        task(1, cell="a", size=0, duration_ns={"cuda:0": 105}),
        task(2, 0, cell="b", size=0),
    ]
    trace = world.run(
        tasks,
        [("cpu:0", [0]), ("cuda:0", [1]), ("cuda:0", [2])],
        small_gpu(memory_bytes=60),
        weights={"a": 20, "b": 20},
    )
    assert moves(trace) == [("cpu:0->cuda:0", [0], 30, 100, 135)]
    assert loads(trace) == [("cuda:0", "b", 135, 160)]
    assert spans(trace)[1:] == [("cuda:0", [1], 0, 105), ("cuda:0", [2], 160, 170)]


def test_evicted_weights_of_the_next_launch_are_loaded_again_in_the_same_instant(
    world: World,
) -> None:
    """Task 1 is next on the idle cuda:0. Task 2's output takes `a` away at 20; its load takes `b`.

    cpu:0     |0: 0           …             100|
    ->cuda:0          |load a: 20 45|           |0: 100 105|
    cuda:1    |2: 0 20|
    ->cuda:0          |2: 20 55|
    cuda:0                                                 |1(a): 105 115|3: 115 125|
    """
    tasks = [task(0, cell="free", size=0), task(1, 0, cell="a", size=0)]
    tasks += [task(2, cell="free", size=30), task(3, 2, cell="free", size=0)]
    trace = world.run(
        tasks,
        [("cpu:0", [0]), ("cuda:1", [2]), ("cuda:0", [1]), ("cuda:0", [3])],
        small_gpu(memory_bytes=60),
        weights={"a": 20, "b": 20, "free": 0},
    )
    assert moves(trace) == [
        ("cuda:1->cuda:0", [2], 30, 20, 55),
        ("cpu:0->cuda:0", [0], 0, 100, 105),
    ]
    assert loads(trace) == [("cuda:0", "a", 20, 45)]
    assert spans(trace)[2:] == [("cuda:0", [1], 105, 115), ("cuda:0", [3], 115, 125)]


def test_an_output_makes_room_when_its_last_reader_has_ended(world: World) -> None:
    """Two of the chain's outputs fit at once; a task that reads one twice needs it once.

    cuda:0  |0: 0 10|1: 10 20|2: 20 30|3: 30 40|
    """
    trace = world.run(
        [task(0), task(1, 0), task(2, 1, 1), task(3, 2)],
        [("cuda:0", [n]) for n in range(4)],
        small_gpu(memory_bytes=40),
    )
    assert [s[2:] for s in spans(trace)] == [(0, 10), (10, 20), (20, 30), (30, 40)]


def test_an_output_takes_room_until_it_has_been_sent(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Task 0's answer is on its way from 10 to 35; at 10 task 1 finds 10 of 30 bytes.

    cuda:0    |0: 0 10|✗
    ->cpu:0           |10 35|
    """
    tasks = [task(0, returns=True), task(1)]
    plan = [("cuda:0", [0]), ("cuda:0", [1])]
    assert world.exit_status(tasks, plan, small_gpu(memory_bytes=30)) == 2
    message = capsys.readouterr().err
    assert "launch 1 on cuda:0" in message
    assert "20 bytes" in message
    trace = world.run(tasks, plan, small_gpu(memory_bytes=40))
    assert [s[2:] for s in spans(trace)] == [(0, 10), (10, 20)]


def test_a_transfer_takes_room_at_its_destination_when_it_starts(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 100 task 1's own output takes 20 of 30 bytes, so the 20 bytes for task 2 do not fit.

    cpu:0     |0: 0 100|✗
    cuda:0    |1: 0   105|
    """
    tasks = [task(0), task(1, duration_ns={"cuda:0": 105}), task(2, 0, size=0)]
    plan = [("cpu:0", [0]), ("cuda:0", [1]), ("cuda:0", [2])]
    assert world.exit_status(tasks, plan, small_gpu(memory_bytes=30)) == 2
    message = capsys.readouterr().err
    assert "launch 0 on cpu:0" in message
    assert "20 bytes on cuda:0" in message


@pytest.mark.parametrize(
    ("memory_bytes", "resident", "wrong"),
    [
        (49, None, "launch 1 on cuda:0"),  # weights 10, input 20, output 20
        (60, ["cell", "other"], "cuda:0"),  # 10 + 60 listed
    ],
)
def test_what_can_never_fit_is_refused_before_the_run(
    world: World,
    capsys: pytest.CaptureFixture[str],
    memory_bytes: int,
    resident: list[str] | None,
    wrong: str,
) -> None:
    """Each launch needs at most 50 bytes at once; the cells listed as resident need 70."""
    fields = {"memory_bytes": memory_bytes} | ({} if resident is None else {"resident": resident})
    tasks, plan = [task(0), task(1, 0)], [("cpu:0", [0]), ("cuda:0", [1])]
    weights = {"cell": 10, "other": 60}
    assert world.exit_status(tasks, plan, small_gpu(**fields), weights=weights) == 2
    assert wrong in capsys.readouterr().err
    assert world.exit_status(tasks, plan, small_gpu(memory_bytes=50), weights=weights) == 0


@pytest.mark.parametrize(
    ("request_of_revealer", "third", "start_ns"),
    [
        (0, {}, None),  # outputs of tasks 0 and 1 stay: launch 2 finds 10 of 50 bytes
        (1, {}, 20),  # nothing of request 0 is hidden: each output goes when it is complete
        (0, {"revealed_by": 3}, 100),  # they go when task 3 is known, and then launch 2 starts
    ],
)
def test_outputs_stay_while_their_request_hides_tasks(
    world: World, request_of_revealer: int, third: Json, start_ns: int | None
) -> None:
    """Tasks 0, 1 and 2 have no readers and need 60 bytes together, of 50; task 3 reveals task 4.

    cuda:0  |0: 0 10|1: 10 20|2|
    cpu:0   |3: 0    …     100|4: 100 200|
    """
    other = {"request": request_of_revealer}
    tasks = [task(0), task(1), task(2, **third), task(3, **other), task(4, revealed_by=3, **other)]
    plan = [("cuda:0", [0]), ("cuda:0", [1]), ("cpu:0", [3]), ("cuda:0", [2]), ("cpu:0", [4])]
    gpu = small_gpu(memory_bytes=50)
    if start_ns is None:
        assert world.exit_status(tasks, plan, gpu) == 2
    else:
        trace = world.run(tasks, plan, gpu)
        assert spans(trace)[3] == ("cuda:0", [2], start_ns, start_ns + 10)


@pytest.mark.parametrize(
    ("request_of_last", "inputs", "status"),
    [
        (0, (), 2),
        (1, (), 0),
        (1, (1,), 2),  # an edge joins the two requests
    ],
)
def test_outputs_stay_until_all_of_their_request_has_arrived(
    world: World, request_of_last: int, inputs: tuple[int, ...], status: int
) -> None:
    """Task 2 arrives at 15. If it is of task 0's request, 10 of 30 bytes are free at 10.

    cuda:0  |0: 0 10|1: 10 20|2: 20 30|
    """
    last = task(2, *inputs, size=0, arrival_ns=15, request=request_of_last)
    plan = [("cuda:0", [n]) for n in range(3)]
    assert world.exit_status([task(0), task(1), last], plan, small_gpu(memory_bytes=30)) == status
