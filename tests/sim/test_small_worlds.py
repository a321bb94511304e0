"""Worlds small enough to compute by hand, run through the command line.

What they are made of, and what it costs, is said in `tests.sim.small_worlds`.
"""

from __future__ import annotations

import pytest

from tests.sim.small_worlds import COSTS, World, dispatches, link, moves, profile, spans, task


def test_chain_pays_one_transfer(world: World) -> None:
    """A chain that changes device once; the whole trace file as a literal.

    cpu:0  |0 100|
    link         |100 125|
    cuda:0               |125 135|135 145|
    """
    trace = world.run(
        [task(0), task(1, 0), task(2, 1)],
        [("cpu:0", [0]), ("cuda:0", [1]), ("cuda:0", [2])],
        profile(),
    )
    assert trace == {
        "format": "dynpartition-trace",
        "version": 1,
        "makespan_ns": 145,
        "launches": [
            {"device": "cpu:0", "tasks": [0], "start_ns": 0, "end_ns": 100},
            {"device": "cuda:0", "tasks": [1], "start_ns": 125, "end_ns": 135},
            {"device": "cuda:0", "tasks": [2], "start_ns": 135, "end_ns": 145},
        ],
        "transfers": [
            {
                "src": "cpu:0",
                "dst": "cuda:0",
                "tasks": [0],
                "bytes": 20,
                "start_ns": 100,
                "end_ns": 125,
            }
        ],
        "dispatches": [],
        "loads": [],
        "reveals": [],
    }


def test_a_device_never_looks_past_its_next_launch(world: World) -> None:
    """Task 2 could start at 0, but the plan puts it behind task 1, which waits.

    cpu:0  |0      100|
    cuda:0            ·····|1: 125 135|2: 135 145|
    """
    trace = world.run(
        [task(0), task(1, 0), task(2)],
        [("cpu:0", [0]), ("cuda:0", [1]), ("cuda:0", [2])],
        profile(),
    )
    assert spans(trace)[1:] == [("cuda:0", [1], 125, 135), ("cuda:0", [2], 135, 145)]


def test_outputs_of_one_launch_share_a_transfer_per_destination(world: World) -> None:
    """Without a batch curve a launch lasts the sum; bytes add up and latency is paid once.

    cpu:0   |0,1: 0 … 200|
    ->cuda:0             |20+30 bytes: 200 255|2: 255 265|
    ->cuda:1             |30 bytes: 200 235|3: 235 255|
    """
    trace = world.run(
        [task(0, size=20), task(1, size=30), task(2, 0, 1), task(3, 1)],
        [("cpu:0", [0, 1]), ("cuda:0", [2]), ("cuda:1", [3])],
        profile(),
    )
    assert moves(trace) == [
        ("cpu:0->cuda:0", [0, 1], 50, 200, 255),
        ("cpu:0->cuda:1", [1], 30, 200, 235),
    ]
    assert spans(trace) == [
        ("cpu:0", [0, 1], 0, 200),
        ("cuda:0", [2], 255, 265),
        ("cuda:1", [3], 235, 255),
    ]
    assert trace["makespan_ns"] == 265


def test_a_shared_bus_serves_equal_keys_by_destination(world: World) -> None:
    """As above, but both links are one bus: cuda:0 stands first in the profile, so it goes first.

    bus  |->cuda:0 200 255|->cuda:1 255 290|
    """
    bus = [link("cpu:0", gpu, resources=["bus"]) for gpu in ("cuda:0", "cuda:1")]
    trace = world.run(
        [task(0, size=20), task(1, size=30), task(2, 0, 1), task(3, 1)],
        [("cpu:0", [0, 1]), ("cuda:1", [3]), ("cuda:0", [2])],
        profile(bus),
    )
    assert moves(trace) == [
        ("cpu:0->cuda:0", [0, 1], 50, 200, 255),
        ("cpu:0->cuda:1", [1], 30, 255, 290),
    ]
    assert spans(trace)[1:] == [("cuda:1", [3], 290, 310), ("cuda:0", [2], 255, 265)]


def test_transfers_neither_overtake_nor_hold_partially(world: World) -> None:
    """A (needs x and y) waits for x; B needs only y, which is idle, but stands behind A.

    x  |C: 10 … 110|A: 110 120|
    y              |A: 110 120|B: 120 130|
    """
    free = {"latency_ns": 0}
    links = [
        link("cpu:0", "cuda:0", resources=["x"], **free),
        link("cpu:0", "cuda:1", resources=["x", "y"], **free),
        link("cuda:0", "cuda:1", resources=["y"], **free),
    ]
    costs = [{"duration_ns": dict.fromkeys(COSTS, ns)} for ns in (10, 10, 30, 10, 10, 10)]
    tasks = [task(0, size=100), task(1, size=10), task(2, size=10)]
    tasks += [task(3, 0), task(4, 1), task(5, 2)]
    trace = world.run(
        [a | b for a, b in zip(tasks, costs, strict=True)],
        [
            ("cpu:0", [0]),
            ("cpu:0", [1]),
            ("cuda:0", [2]),
            ("cuda:0", [3]),
            ("cuda:1", [4]),
            ("cuda:1", [5]),
        ],
        profile(links),
    )
    assert moves(trace) == [
        ("cpu:0->cuda:0", [0], 100, 10, 110),
        ("cpu:0->cuda:1", [1], 10, 110, 120),
        ("cuda:0->cuda:1", [2], 10, 120, 130),
    ]
    assert spans(trace)[3:] == [
        ("cuda:0", [3], 110, 120),
        ("cuda:1", [4], 120, 130),
        ("cuda:1", [5], 130, 140),
    ]


def test_a_blocking_copy_occupies_its_source(world: World) -> None:
    """The copy goes before the source's next launch.

    cpu:0   |0: 0 100|copy 100 125|1: 125 225|
    cuda:0                        |2: 125 135|
    """
    trace = world.run(
        [task(0), task(1), task(2, 0)],
        [("cpu:0", [0]), ("cpu:0", [1]), ("cuda:0", [2])],
        profile([link("cpu:0", "cuda:0", blocks="src")]),
    )
    assert moves(trace) == [("cpu:0->cuda:0", [0], 20, 100, 125)]
    assert spans(trace)[1:] == [("cpu:0", [1], 125, 225), ("cuda:0", [2], 125, 135)]


def test_a_blocking_copy_waits_for_the_running_launch_of_its_destination(world: World) -> None:
    """Both ends are blocked: the copy waits for task 1, then holds task 2 and task 3 back.

    cuda:0  |0: 0 10|   ·wait·   |copy 100 125|3: 125 135|
    cpu:0   |1: 0 ········ 100|   |copy       |2: 125 225|
    """
    trace = world.run(
        [task(0), task(1), task(2, 0), task(3)],
        [("cuda:0", [0]), ("cpu:0", [1]), ("cpu:0", [2]), ("cuda:1", [3])],
        profile([link("cuda:0", "cpu:0", blocks="both")]),
    )
    assert moves(trace) == [("cuda:0->cpu:0", [0], 20, 100, 125)]
    assert spans(trace)[2:] == [("cpu:0", [2], 125, 225), ("cuda:1", [3], 0, 20)]


@pytest.mark.parametrize(("k", "expected_ns"), [(1, 100), (2, 120), (3, 140), (4, 160), (6, 200)])
def test_batch_curve(world: World, k: int, expected_ns: int) -> None:
    """Batches of 1 and 4 were measured: linear between, the last slope beyond."""
    curve = {"cell": {"cpu:0": {"batch": [1, 4], "duration_ns": [100, 160]}}}
    tasks = [task(number, duration_ns={}) for number in range(k)]
    trace = world.run(tasks, [("cpu:0", list(range(k)))], profile(cells=curve))
    assert spans(trace) == [("cpu:0", list(range(k)), 0, expected_ns)]


def test_batch_curve_rounds_up(world: World) -> None:
    """7 + (8 - 7) · 1/2 = 7.5 ns is 8 ns."""
    curve = {"cell": {"cpu:0": {"batch": [1, 3], "duration_ns": [7, 8]}}}
    tasks = [task(number, duration_ns={}) for number in range(2)]
    trace = world.run(tasks, [("cpu:0", [0, 1])], profile(cells=curve))
    assert trace["makespan_ns"] == 8


def test_bookkeeping_copy_in_and_copy_out_are_part_of_the_launch(world: World) -> None:
    """Task 0 stages its output once (2 + 20), task 1 gathers it twice (2 · (1 + 20)); 3 ns a task.

    cpu:0   |0: 100 + 3 + 22 = 125|
    cuda:0                        ·25·|1: 150, 10 + 3 + 42 = 55 → 205|
    """
    dispatch = {
        "host_mode": "none",
        "bookkeeping_ns": 3,
        "copy_in": {"cuda:0": {"latency_ns": 1, "bandwidth_bytes_per_s": 10**9}},
        "copy_out": {"cpu:0": {"latency_ns": 2, "bandwidth_bytes_per_s": 10**9}},
    }
    trace = world.run(
        [task(0), task(1, 0, 0)],
        [("cpu:0", [0]), ("cuda:0", [1])],
        profile(dispatch=dispatch),
    )
    assert spans(trace) == [("cpu:0", [0], 0, 125), ("cuda:0", [1], 150, 205)]


def test_zero_length_items_complete_within_their_instant(world: World) -> None:
    """A chain of free tasks and free transfers across devices ends at 0; task 3 still costs 10."""
    free = link("cpu:0", "cuda:0", latency_ns=0)
    zero = {"duration_ns": {"cpu:0": 0, "cuda:0": 0}, "output_bytes": 0}
    tasks = [task(0) | zero, task(1, 0) | zero, task(2, 1) | zero, task(3, 2)]
    trace = world.run(
        tasks,
        [("cpu:0", [0]), ("cuda:0", [1]), ("cuda:0", [2]), ("cuda:0", [3])],
        profile([free]),
    )
    assert [s[2:] for s in spans(trace)] == [(0, 0), (0, 0), (0, 0), (0, 10)]
    assert moves(trace) == [("cpu:0->cuda:0", [0], 0, 0, 0)]


def test_host_mode_single(world: World) -> None:
    """One thread: 8 ns a CUDA launch, 2 ns a transfer; the CPU launch holds it to its end.

    host    |0: 0 8|1: 8 18|   waits for task 2 ……… 153|3: 153 161|
    cuda:0         |0: 8 18|1: 18 28|                             |3: 161 171|
    link                            |28 53|
    cpu:0                                 |2: 53 153|
    """
    trace = world.run(
        [task(0), task(1, 0), task(2, 1), task(3)],
        [("cuda:0", [0]), ("cuda:0", [1]), ("cpu:0", [2]), ("cuda:0", [3])],
        profile(dispatch={"host_mode": "single", "h": 8, "h_copy": 2}),
    )
    assert dispatches(trace) == [
        ("cuda:0", [0], 0, 8),
        ("cuda:0", [1], 8, 18),
        ("cuda:0", [3], 153, 161),
    ]
    assert spans(trace) == [
        ("cuda:0", [0], 8, 18),
        ("cuda:0", [1], 18, 28),
        ("cpu:0", [2], 53, 153),
        ("cuda:0", [3], 161, 171),
    ]


def test_host_cost_by_cell_and_device_and_a_full_queue(world: World) -> None:
    """With a queue depth of 1 the second dispatch waits for the first launch to end.

    host    |0: 0 8|        |1: 18 26|
    cuda:0         |0: 8 18|         |1: 26 36|
    """
    trace = world.run(
        [task(0), task(1)],
        [("cuda:0", [0]), ("cuda:0", [1])],
        profile(dispatch={"host_mode": "single", "h": {"cell": {"cuda:0": 8}}, "queue_depth": 1}),
    )
    assert dispatches(trace) == [("cuda:0", [0], 0, 8), ("cuda:0", [1], 18, 26)]
    assert spans(trace) == [("cuda:0", [0], 8, 18), ("cuda:0", [1], 26, 36)]


def test_host_mode_threads_shares_one_lock(world: World) -> None:
    """A CPU launch holds the lock for a quarter of its time; CUDA dispatches queue for it too.

    lock    |0: 0 … 25|1: 25 33|2: 33 41|
    cpu:0   |0: 0 ……………………………………………… 100|
    cuda:0                     |1: 33 43|
    cuda:1                              |2: 41 61|
    """
    trace = world.run(
        [task(0), task(1), task(2)],
        [("cpu:0", [0]), ("cuda:0", [1]), ("cuda:1", [2])],
        profile(dispatch={"host_mode": "threads", "h": 8, "lock": 0.25}),
    )
    assert dispatches(trace) == [("cuda:0", [1], 25, 33), ("cuda:1", [2], 33, 41)]
    assert spans(trace) == [
        ("cpu:0", [0], 0, 100),
        ("cuda:0", [1], 33, 43),
        ("cuda:1", [2], 41, 61),
    ]


def test_host_mode_processes_adds_a_handoff_to_each_edge(world: World) -> None:
    """The link is free after the transfer, but the reader sees the data 7 ns later."""
    trace = world.run(
        [task(0), task(1, 0)],
        [("cpu:0", [0]), ("cuda:0", [1])],
        profile(dispatch={"host_mode": "processes", "handoff_ns": 7}),
    )
    assert moves(trace) == [("cpu:0->cuda:0", [0], 20, 100, 125)]
    assert spans(trace)[1] == ("cuda:0", [1], 132, 142)


def test_host_mode_replay_pays_once_per_device(world: World) -> None:
    """One dispatch starts a device's whole program.

    cuda:0  |h: 0 8|0: 8 18|1: 18 28|
    """
    trace = world.run(
        [task(0), task(1, 0)],
        [("cuda:0", [0]), ("cuda:0", [1])],
        profile(dispatch={"host_mode": "replay", "h": 8}),
    )
    assert dispatches(trace) == [("cuda:0", [0], 0, 8)]
    assert spans(trace) == [("cuda:0", [0], 8, 18), ("cuda:0", [1], 18, 28)]


def test_inputs_come_from_the_host_and_answers_return(world: World) -> None:
    """30 bytes in, 20 bytes out; the makespan ends with the answer.

    ->cuda:0  |0 35|0: 35 45|
    ->cpu:0                 |45 70|
    """
    trace = world.run(
        [task(0, host_bytes=30, returns=True)], [("cuda:0", [0])], profile(host="cpu:0")
    )
    assert moves(trace) == [
        ("cpu:0->cuda:0", [0], 30, 0, 35),
        ("cuda:0->cpu:0", [0], 20, 45, 70),
    ]
    assert trace["transfers"][0]["host_input"] is True
    assert trace["makespan_ns"] == 70


def test_inputs_and_answers_on_the_host_itself_are_free(world: World) -> None:
    trace = world.run([task(0, host_bytes=30, returns=True)], [("cpu:0", [0])], profile())
    assert (trace["transfers"], trace["makespan_ns"]) == ([], 100)


def test_a_hidden_task_waits_for_its_revealer_to_be_known(world: World) -> None:
    """Known at 10 + 25 (to the host) + 3 (sync) + 4 (decision); only then is the output pushed on.

    cuda:0   |0: 0 10|
    ->cpu:0          |10 35|
    known                  ·42
    ->cuda:1                  |42 67|
    cuda:1                          |1: 67 87|
    """
    trace = world.run(
        [task(0), task(1, 0, revealed_by=0)],
        [("cuda:0", [0]), ("cuda:1", [1])],
        profile(dispatch={"host_mode": "none", "sync_ns": 3, "decision_ns": 4}),
    )
    assert trace["reveals"] == [{"task": 0, "end_ns": 10, "known_ns": 42}]
    assert moves(trace) == [
        ("cuda:0->cpu:0", [0], 20, 10, 35),
        ("cuda:0->cuda:1", [0], 20, 42, 67),
    ]
    assert spans(trace)[1] == ("cuda:1", [1], 67, 87)


def test_what_hides_an_input_hides_its_readers(world: World) -> None:
    """Task 2 names no revealer but reads hidden task 1: it too waits until 100 is known.

    cpu:0  |0: 0 100|1: 100 200|2: 200 300|
    """
    trace = world.run(
        [task(0), task(1, revealed_by=0), task(2, 1)],
        [("cpu:0", [0]), ("cpu:0", [1]), ("cpu:0", [2])],
        profile(),
    )
    assert [s[2:] for s in spans(trace)] == [(0, 100), (100, 200), (200, 300)]
    assert trace["reveals"] == [{"task": 0, "end_ns": 100, "known_ns": 100}]


def test_a_late_reader_joins_nothing_that_was_sent_before(world: World) -> None:
    """Task 1's output goes to cuda:0 at once for task 2, and to cuda:1 when task 3 is revealed.

    cpu:0    |0: 0 100|1: 100 200|
    known             ·100
    ->cuda:0                     |200 225|
    ->cuda:1                     |200 225|   the reveal came first: pushed when task 1 ends
    """
    trace = world.run(
        [task(0), task(1), task(2, 1), task(3, 1, revealed_by=0)],
        [("cpu:0", [0]), ("cpu:0", [1]), ("cuda:0", [2]), ("cuda:1", [3])],
        profile(),
    )
    assert moves(trace) == [
        ("cpu:0->cuda:0", [1], 20, 200, 225),
        ("cpu:0->cuda:1", [1], 20, 200, 225),
    ]


def test_staging_is_charged_for_readers_known_with_the_producing_launch(world: World) -> None:
    """Tasks 1 and 2 are one launch behind task 0's result, so reader 3, behind it too, is known.

    cpu:0  |0: 0 100|1,2: 100 … 323|   3 + 20 bytes staged for task 3
    """
    staging = {"cpu:0": {"latency_ns": 0, "bandwidth_bytes_per_s": 10**9}}
    trace = world.run(
        [task(0), task(1, size=3), task(2, revealed_by=0), task(3, 1, 2)],
        [("cpu:0", [0]), ("cpu:0", [1, 2]), ("cuda:0", [3])],
        profile(dispatch={"host_mode": "none", "copy_out": staging}),
    )
    assert spans(trace)[1] == ("cpu:0", [1, 2], 100, 100 + 200 + 3 + 20)


def test_a_later_launch_never_changes_the_price_of_an_earlier_one(world: World) -> None:
    """Task 3, behind task 0's result, is the only reader of task 1: nothing is staged for it."""
    staging = {"cuda:0": {"latency_ns": 0, "bandwidth_bytes_per_s": 10**9}}
    trace = world.run(
        [task(0), task(1, size=3, returns=True), task(2, revealed_by=0), task(3, 1)],
        [("cpu:0", [0]), ("cuda:0", [1]), ("cpu:0", [2, 3])],
        profile(dispatch={"host_mode": "none", "copy_out": staging}),
    )
    assert spans(trace)[1] == ("cuda:0", [1], 0, 10)


def test_a_host_input_waits_until_all_of_its_launch_has_arrived(world: World) -> None:
    """The launch of both requests is one decision, taken when the second has arrived."""
    trace = world.run(
        [task(0, host_bytes=30), task(1, arrival_ns=50, request=1)],
        [("cuda:0", [0, 1])],
        profile(),
    )
    assert moves(trace) == [("cpu:0->cuda:0", [0], 30, 50, 85)]
    assert spans(trace) == [("cuda:0", [0, 1], 85, 105)]


def test_requests_wait_for_their_arrival(world: World) -> None:
    """Arrivals at 50 and 500; the makespan counts from the first."""
    trace = world.run(
        [task(0, arrival_ns=50), task(1, arrival_ns=500, request=1)],
        [("cpu:0", [0]), ("cpu:0", [1])],
        profile(),
    )
    assert [s[2:] for s in spans(trace)] == [(50, 150), (500, 600)]
    assert trace["makespan_ns"] == 550


def test_huge_transfers_are_exact(world: World) -> None:
    """10 GB at 3 GB/s: 10¹⁹/3·10⁹ ns rounded up; the product overflows 64 bits."""
    slow = link("cpu:0", "cuda:0", bandwidth_bytes_per_s=3 * 10**9, latency_ns=1)
    trace = world.run(
        [task(0, size=10**10), task(1, 0)],
        [("cpu:0", [0]), ("cuda:0", [1])],
        profile([slow]),
    )
    assert moves(trace)[0][3:] == (100, 100 + 1 + 3_333_333_334)


def test_a_run_longer_than_files_hold_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """10¹⁵ bytes at 1 byte/s: 10²⁴ ns."""
    slow = link("cpu:0", "cuda:0", bandwidth_bytes_per_s=1)
    tasks = [task(0, size=10**15), task(1, 0)]
    assert world.exit_status(tasks, [("cpu:0", [0]), ("cuda:0", [1])], profile([slow])) == 2
    said = capsys.readouterr().err
    assert "the run lasts 1,000,000,000,000,000,000,000,115 ns, but files hold times up to" in said
    assert not world.out.exists()


def test_link_table_is_interpolated_in_log_log_space(world: World) -> None:
    """From (100 bytes, 10 ns) to (10 000, 1000): slope 1, so 1000 bytes cost 100 ns."""
    table = link("cpu:0", "cuda:0", table=[[100, 10], [10_000, 1000]])
    trace = world.run(
        [task(0, size=1000), task(1, 0)], [("cpu:0", [0]), ("cuda:0", [1])], profile([table])
    )
    assert moves(trace)[0][4] - moves(trace)[0][3] in (100, 101)


@pytest.mark.parametrize(("arrival_ns", "pushed_ns"), [(50, 100), (150, 150)])
def test_an_output_goes_to_a_later_reader_when_that_has_arrived(
    world: World, arrival_ns: int, pushed_ns: int
) -> None:
    """Task 1 makes its launch late: it is not staged for it (20 ns), however early it arrives.

    cpu:0     |0: 0 100|
    ->cuda:0           ·|arrival of 1 or end of 0: 25 ns|1: 10 ns|
    """
    staging = {"cpu:0": {"latency_ns": 0, "bandwidth_bytes_per_s": 10**9}}
    trace = world.run(
        [task(0), task(1, 0, arrival_ns=arrival_ns)],
        [("cpu:0", [0]), ("cuda:0", [1])],
        profile(dispatch={"host_mode": "none", "copy_out": staging}),
    )
    assert moves(trace) == [("cpu:0->cuda:0", [0], 20, pushed_ns, pushed_ns + 25)]
    assert spans(trace) == [
        ("cpu:0", [0], 0, 100),
        ("cuda:0", [1], pushed_ns + 25, pushed_ns + 35),
    ]


def test_the_first_reader_pays_for_a_transfer_that_waited_for_its_arrival(world: World) -> None:
    """h is 8 ns, h_copy 2 ns; the transfer does not wait for either.

    host      |0: 0 8|      …      |1: 150 160|
    cuda:1           |0: 8 28|
    ->cuda:0                       |150 175|1: 175 185|
    """
    trace = world.run(
        [task(0), task(1, 0, arrival_ns=150)],
        [("cuda:1", [0]), ("cuda:0", [1])],
        profile(dispatch={"host_mode": "single", "h": 8, "h_copy": 2}),
    )
    assert dispatches(trace) == [("cuda:1", [0], 0, 8), ("cuda:0", [1], 150, 160)]
    assert moves(trace) == [("cuda:1->cuda:0", [0], 20, 150, 175)]
    assert spans(trace) == [("cuda:1", [0], 8, 28), ("cuda:0", [1], 175, 185)]


def test_nothing_arrives_before_what_it_reads_or_what_reveals_it(world: World) -> None:
    """Tasks 1 and 2 name no arrival, but read, or are revealed by, a task that arrives at 50.

    cuda:0     |0: 50 60|
    ->cuda:1   |host input of 1: 50 85|  its output for 1: 60 85|1: 85 105|
    ->cpu:0             |60 85|2: 85 185|
    """
    trace = world.run(
        [task(0, arrival_ns=50), task(1, 0, host_bytes=30), task(2, revealed_by=0)],
        [("cuda:0", [0]), ("cuda:1", [1]), ("cpu:0", [2])],
        profile(),
    )
    assert moves(trace) == [
        ("cpu:0->cuda:1", [1], 30, 50, 85),
        ("cuda:0->cpu:0", [0], 20, 60, 85),
        ("cuda:0->cuda:1", [0], 20, 60, 85),
    ]
    assert spans(trace) == [
        ("cuda:0", [0], 50, 60),
        ("cuda:1", [1], 85, 105),
        ("cpu:0", [2], 85, 185),
    ]
    assert trace["makespan_ns"] == 185  # from time 0, when tasks 1 and 2 say that they arrive


def test_a_slowdown_counts_from_the_launch_that_starts_at_its_time(world: World) -> None:
    """Half speed from 10 on, 0.3 from 31 (10 / 0.3 = 33.3, rounded up), twice the speed from 64.

    cuda:0  |0: 0 10|1: 10 30|2: 30 50|3: 50 84|4: 84 89|
    cuda:1  |5: 0 20|
    """
    trace = world.run(
        [task(number) for number in range(6)],
        [*(("cuda:0", [number]) for number in range(5)), ("cuda:1", [5])],
        profile(),
        slow=["cuda:0@10ns:0.5", "cuda:0@64ns:2", "cuda:0@31ns:0.3"],
    )
    assert [s[2:] for s in spans(trace)] == [
        (0, 10),
        (10, 30),
        (30, 50),
        (50, 84),
        (84, 89),
        (0, 20),
    ]


def test_a_stall_is_part_of_what_a_slowdown_stretches(world: World) -> None:
    """No spread, but each launch stalls 7 ns; transfers do not. Half speed from 42: 2 · (10 + 7).

    cuda:1  |0: 0 27|
    link            |27 52|
    cuda:0                |1: 52 86|
    """
    trace = world.run(
        [task(0), task(1, 0)],
        [("cuda:1", [0]), ("cuda:0", [1])],
        profile(noise={"sigma": 0.0, "stall_probability": 1.0, "stall_ns": 7}),
        slow=["cuda:0@42ns:0.5"],
    )
    assert moves(trace) == [("cuda:1->cuda:0", [0], 20, 27, 52)]
    assert spans(trace) == [("cuda:1", [0], 0, 27), ("cuda:0", [1], 52, 86)]
