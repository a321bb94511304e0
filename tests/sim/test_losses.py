"""Lost devices: worlds to compute by hand, and what holds in any world.

Unless a world says otherwise: three devices of different speed, `cpu:0` the host, every link with
5 ns latency and 1 byte/ns, and tasks of 20 bytes that cost 100 ns on `cpu:0`, 10 ns on `cuda:0`
and 20 ns on `cuda:1`. ✗ is the loss.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Device,
    Dispatch,
    GraphWorkload,
    Link,
    Profile,
    Task,
    TaskGraph,
)
from dynpartition.conditions import Conditions, Loss
from dynpartition.contract import Outcome
from dynpartition.errors import DeviceLost, OutOfDeviceMemory, PlanError
from dynpartition.sim.worlds import World, random_world
from dynpartition.trace import LaunchSpan, LoadSpan, Reveal, Trace, TransferSpan
from tests.sim.players import Dice, Places, Script, play

COSTS = {"cpu:0": 100, "cuda:0": 10, "cuda:1": 20}
DEVICES = (Device("cpu:0", "cpu"), Device("cuda:0", "cuda"), Device("cuda:1", "cuda"))


def task(number: int, *inputs: int, **fields: Any) -> Task:
    return Task(
        **{"id": number, "cell": "cell", "output_bytes": 20, "duration_ns": COSTS} | fields,
        inputs=inputs,
    )


def machine(*devices: Device, blocks: Any = None, **dispatch: Any) -> Profile:
    cost = AffineCost(5, 10**9)
    links = [Link(a, b, cost, blocks=blocks) for a in COSTS for b in COSTS if a != b]
    return Profile(Cluster(devices or DEVICES, tuple(links)), {}, Dispatch(**dispatch))


def lose(
    tasks: Sequence[Task],
    losses: Sequence[tuple[str, int]],
    *calls: Places,
    profile: Profile | None = None,
    cells: Sequence[Cell] = (Cell("cell"),),
) -> Trace:
    """Return the trace of a run whose scheduler follows a script."""
    graph = TaskGraph.from_tasks("world", cells, tasks)
    conditions = Conditions(losses=tuple(Loss(device, at_ns) for device, at_ns in losses))
    script = Script(*calls)
    _, outcome = play(GraphWorkload(graph), profile or machine(), script, conditions)
    assert not script.left
    return outcome.trace


def test_a_running_launch_is_lost_and_runs_again() -> None:
    """The whole trace as a literal.

    cuda:1  |0: 0 … 12 ✗
    cuda:0             |0: 12 22|
    """
    trace = lose([task(0)], [("cuda:1", 12)], [("cuda:1", (0,))], [("cuda:0", (0,))])
    assert trace == Trace(
        makespan_ns=22,
        launches=(LaunchSpan("cuda:0", (0,), 12, 22),),
        wasted=(LaunchSpan("cuda:1", (0,), 0, 12),),
    )


def test_an_output_held_only_on_the_lost_device_is_made_again() -> None:
    """
    cuda:1  |0: 0 20|1: 20 … 30 ✗
    cuda:0                   |0: 30 40|1: 40 50|
    """
    trace = lose(
        [task(0), task(1, 0)],
        [("cuda:1", 30)],
        [("cuda:1", (0,)), ("cuda:1", (1,))],
        [("cuda:0", (0,)), ("cuda:0", (1,))],
    )
    assert trace == Trace(
        makespan_ns=50,
        launches=(LaunchSpan("cuda:0", (0,), 30, 40), LaunchSpan("cuda:0", (1,), 40, 50)),
        wasted=(LaunchSpan("cuda:1", (0,), 0, 20), LaunchSpan("cuda:1", (1,), 20, 30)),
    )


def test_an_output_that_was_copied_survives() -> None:
    """
    cuda:1    |0: 0 20|            ✗ 50
    ->cuda:0          |20 45|
    cuda:0                  |1: 45 55|2: 55 65|
    """
    trace = lose(
        [task(0), task(1, 0), task(2, 0)],
        [("cuda:1", 50)],
        [("cuda:1", (0,)), ("cuda:0", (1,)), ("cuda:0", (2,))],
        [("cuda:0", (2,))],
    )
    assert trace == Trace(
        makespan_ns=65,
        launches=(
            LaunchSpan("cuda:1", (0,), 0, 20),
            LaunchSpan("cuda:0", (1,), 45, 55),
            LaunchSpan("cuda:0", (2,), 55, 65),
        ),
        transfers=(TransferSpan("cuda:1", "cuda:0", (0,), 20, 20, 45),),
    )


def test_what_was_freed_is_made_again_with_all_that_it_needs() -> None:
    """Task 0 is still on a device that lives, but nobody was to read it any more: it is freed.

    cuda:0    |0: 0 10|                           |0: 60 70|1: 70 80|2: 80 90|
    ->cuda:1          |10 35|
    cuda:1                  |1: 35 55|2: 55 … 60 ✗
    """
    trace = lose(
        [task(0), task(1, 0), task(2, 1)],
        [("cuda:1", 60)],
        [("cuda:0", (0,)), ("cuda:1", (1,)), ("cuda:1", (2,))],
        [("cuda:0", (0,)), ("cuda:0", (1,)), ("cuda:0", (2,))],
    )
    assert trace == Trace(
        makespan_ns=90,
        launches=(
            LaunchSpan("cuda:0", (0,), 60, 70),
            LaunchSpan("cuda:0", (1,), 70, 80),
            LaunchSpan("cuda:0", (2,), 80, 90),
        ),
        transfers=(TransferSpan("cuda:0", "cuda:1", (0,), 20, 10, 35),),
        wasted=(
            LaunchSpan("cuda:0", (0,), 0, 10),
            LaunchSpan("cuda:1", (1,), 35, 55),
            LaunchSpan("cuda:1", (2,), 55, 60),
        ),
    )


def test_a_launch_under_way_elsewhere_goes_on_as_one_batch() -> None:
    """Its outputs leave together when it ends, as if nothing had happened.

    cpu:0     |0,1: 0 …      ✗ …   200|
    cuda:1    |2: 0 … 10 ✗
    cuda:0               |2: 10 20|        |3: 245 255|
    ->cuda:0                          |200 245|
    """
    trace = lose(
        [task(0), task(1), task(2), task(3, 0, 1)],
        [("cuda:1", 10)],
        [("cpu:0", (0, 1)), ("cuda:1", (2,)), ("cuda:0", (3,))],
        [("cuda:0", (2,)), ("cuda:0", (3,))],
    )
    assert trace == Trace(
        makespan_ns=255,
        launches=(
            LaunchSpan("cpu:0", (0, 1), 0, 200),
            LaunchSpan("cuda:0", (2,), 10, 20),
            LaunchSpan("cuda:0", (3,), 245, 255),
        ),
        transfers=(TransferSpan("cpu:0", "cuda:0", (0, 1), 40, 200, 245),),
        wasted=(LaunchSpan("cuda:1", (2,), 0, 10),),
    )


def test_a_transfer_under_way_is_dropped_and_repeated() -> None:
    """
    cpu:0     |0: 0 100|
    ->cuda:0           |100 … 110 ✗|110 135|
    cuda:0                                 |1: 135 145|
    """
    trace = lose(
        [task(0), task(1, 0)],
        [("cuda:1", 110)],
        [("cpu:0", (0,)), ("cuda:0", (1,))],
        [("cuda:0", (1,))],
    )
    assert trace == Trace(
        makespan_ns=145,
        launches=(LaunchSpan("cpu:0", (0,), 0, 100), LaunchSpan("cuda:0", (1,), 135, 145)),
        transfers=(TransferSpan("cpu:0", "cuda:0", (0,), 20, 110, 135),),
    )


def test_copies_stay_where_they_were() -> None:
    """Task 1 finds its input on its device, though it is planned anew.

    cpu:0     |0: 0 100|
    ->cuda:0           |100 125|
    cuda:0    |2: 0               150|1: 150 160|3: 160 170|
    cuda:1    |3: 0 …        130 ✗
    """
    trace = lose(
        [
            task(0),
            task(1, 0),
            task(2, duration_ns={"cuda:0": 150}),
            task(3, duration_ns={"cuda:0": 10, "cuda:1": 500}),
        ],
        [("cuda:1", 130)],
        [("cpu:0", (0,)), ("cuda:0", (2,)), ("cuda:0", (1,)), ("cuda:1", (3,))],
        [("cuda:0", (1,)), ("cuda:0", (3,))],
    )
    assert trace == Trace(
        makespan_ns=170,
        launches=(
            LaunchSpan("cpu:0", (0,), 0, 100),
            LaunchSpan("cuda:0", (2,), 0, 150),
            LaunchSpan("cuda:0", (1,), 150, 160),
            LaunchSpan("cuda:0", (3,), 160, 170),
        ),
        transfers=(TransferSpan("cpu:0", "cuda:0", (0,), 20, 100, 125),),
        wasted=(LaunchSpan("cuda:1", (3,), 0, 130),),
    )


def test_an_answer_already_returned_is_not_repeated() -> None:
    """Task 0 has answered, but has to run again for task 2.

    cuda:1    |0: 0 20|1: 20 40|2: 40 … 50 ✗
    ->cpu:0           |20 45|
    cuda:0                               |0: 50 60|1: 60 70|2: 70 80|
    """
    trace = lose(
        [task(0, returns=True), task(1, 0), task(2, 0, 1)],
        [("cuda:1", 50)],
        [("cuda:1", (0,)), ("cuda:1", (1,)), ("cuda:1", (2,))],
        [("cuda:0", (0,)), ("cuda:0", (1,)), ("cuda:0", (2,))],
    )
    assert trace.transfers == (TransferSpan("cuda:1", "cpu:0", (0,), 20, 20, 45),)
    assert trace.makespan_ns == 80


def test_an_answer_under_way_is_sent_again_from_where_the_output_is() -> None:
    """
    cuda:0    |0: 0 10|
    ->cpu:0           |10 … 12 ✗|12 37|
    """
    trace = lose([task(0, returns=True)], [("cuda:1", 12)], [("cuda:0", (0,))])
    assert trace == Trace(
        makespan_ns=37,
        launches=(LaunchSpan("cuda:0", (0,), 0, 10),),
        transfers=(TransferSpan("cuda:0", "cpu:0", (0,), 20, 12, 37),),
    )


REVEALING = (task(0), task(1, revealed_by=0))
SLOW_HOST = machine(sync_ns=3, decision_ns=4)


def test_a_revealer_whose_value_is_not_on_the_host_runs_again() -> None:
    """
    cuda:1    |0: 0 20|
    ->cpu:0           |20 … 30 ✗    |40 65|
    cuda:0                 |0: 30 40|        known 72 |1: 72 82|
    """
    trace = lose(
        REVEALING,
        [("cuda:1", 30)],
        [("cuda:1", (0,))],
        [("cuda:0", (0,))],
        [("cuda:0", (1,))],
        profile=SLOW_HOST,
    )
    assert trace.reveals == (Reveal(0, 40, 72),)
    assert trace.launches[1] == LaunchSpan("cuda:0", (1,), 72, 82)


def test_a_value_on_the_host_is_read_anew() -> None:
    """Without the loss it would be known at 52; the host threads begin again at 48.

    cuda:1    |0: 0 20|         ✗ 48
    ->cpu:0           |20 45|          known 55
    cuda:0                                   |1: 55 65|
    """
    trace = lose(
        REVEALING, [("cuda:1", 48)], [("cuda:1", (0,))], [("cuda:0", (1,))], profile=SLOW_HOST
    )
    assert trace == Trace(
        makespan_ns=65,
        launches=(LaunchSpan("cuda:1", (0,), 0, 20), LaunchSpan("cuda:0", (1,), 55, 65)),
        transfers=(TransferSpan("cuda:1", "cpu:0", (0,), 20, 20, 45),),
        reveals=(Reveal(0, 20, 55),),
    )


def test_what_is_known_stays_known() -> None:
    """
    cuda:1    |0: 0 20|          known 52 |1: 52 … 60 ✗
    ->cpu:0           |20 45|
    cuda:0                                          |1: 60 70|
    """
    trace = lose(
        REVEALING,
        [("cuda:1", 60)],
        [("cuda:1", (0,))],
        [("cuda:1", (1,))],
        [("cuda:0", (1,))],
        profile=SLOW_HOST,
    )
    assert trace == Trace(
        makespan_ns=70,
        launches=(LaunchSpan("cuda:1", (0,), 0, 20), LaunchSpan("cuda:0", (1,), 60, 70)),
        transfers=(TransferSpan("cuda:1", "cpu:0", (0,), 20, 20, 45),),
        reveals=(Reveal(0, 20, 52),),
        wasted=(LaunchSpan("cuda:1", (1,), 52, 60),),
    )


def test_what_ends_at_the_loss_has_ended() -> None:
    """Task 0 has no reader, so nothing is to be done again; task 1 runs elsewhere.

    cuda:1    |0: 0 20|✗
    cpu:0     |1: 0       100|
    """
    trace = lose([task(0), task(1)], [("cuda:1", 20)], [("cuda:1", (0,)), ("cpu:0", (1,))])
    assert trace == Trace(
        makespan_ns=100,
        launches=(LaunchSpan("cuda:1", (0,), 0, 20), LaunchSpan("cpu:0", (1,), 0, 100)),
    )


def test_what_would_begin_at_the_loss_is_withdrawn() -> None:
    """
    cuda:0  |0: 0 10|✗|1: 110|           withdrawn: the next plan has it on cpu:0
    cpu:0             |1: 10 110|
    """
    trace = lose(
        [task(0), task(1)],
        [("cuda:1", 10)],
        [("cuda:0", (0,)), ("cuda:0", (1,))],
        [("cpu:0", (1,))],
    )
    assert trace == Trace(
        makespan_ns=110,
        launches=(LaunchSpan("cuda:0", (0,), 0, 10), LaunchSpan("cpu:0", (1,), 10, 110)),
    )


@pytest.mark.parametrize("at_ns", [45, 46, 10**9])
def test_a_loss_after_the_end_changes_nothing(at_ns: int) -> None:
    tasks, plan = [task(0, returns=True)], [("cuda:1", (0,))]
    assert lose(tasks, [("cuda:1", at_ns)], plan) == lose(tasks, [], plan)


def test_a_loss_at_time_0_leaves_no_waste() -> None:
    trace = lose([task(0)], [("cuda:1", 0)], [("cuda:1", (0,))], [("cuda:0", (0,))])
    assert trace == Trace(makespan_ns=10, launches=(LaunchSpan("cuda:0", (0,), 0, 10),))


def test_a_loss_before_the_first_arrival() -> None:
    """The clock of a run begins at 0, its makespan at the first arrival."""
    trace = lose([task(0, arrival_ns=50)], [("cuda:1", 30)], [("cuda:1", (0,))], [("cuda:0", (0,))])
    assert trace == Trace(makespan_ns=10, launches=(LaunchSpan("cuda:0", (0,), 50, 60),))


def test_two_losses_one_after_the_other() -> None:
    """
    cuda:1  |0: 0 … 10 ✗
    cuda:0             |0: 10 … 15 ✗
    cpu:0                          |0: 15 115|
    """
    trace = lose(
        [task(0)],
        [("cuda:0", 15), ("cuda:1", 10)],
        [("cuda:1", (0,))],
        [("cuda:0", (0,))],
        [("cpu:0", (0,))],
    )
    assert trace == Trace(
        makespan_ns=115,
        launches=(LaunchSpan("cpu:0", (0,), 15, 115),),
        wasted=(LaunchSpan("cuda:1", (0,), 0, 10), LaunchSpan("cuda:0", (0,), 10, 15)),
    )


def test_two_losses_at_once_ask_once_and_leave_the_rest_under_way() -> None:
    """
    cuda:1  |1: 0 … 8 ✗
    cuda:0  |2: 0 … 8 ✗
    cpu:0   |0: 0          100|1: 100 200|2: 200 300|
    """
    trace = lose(
        [task(0), task(1), task(2)],
        [("cuda:0", 8), ("cuda:1", 8)],
        [("cpu:0", (0,)), ("cuda:1", (1,)), ("cuda:0", (2,))],
        [("cpu:0", (1,)), ("cpu:0", (2,))],
    )
    assert trace == Trace(
        makespan_ns=300,
        launches=(
            LaunchSpan("cpu:0", (0,), 0, 100),
            LaunchSpan("cpu:0", (1,), 100, 200),
            LaunchSpan("cpu:0", (2,), 200, 300),
        ),
        wasted=(LaunchSpan("cuda:0", (2,), 0, 8), LaunchSpan("cuda:1", (1,), 0, 8)),
    )


def test_a_batch_carried_over_one_loss_and_gone_with_the_next_is_one_wasted_launch() -> None:
    """
    cuda:1  |2: 0 … 10 ✗
    cpu:0              |2: 10                        110|0,1: 110 310|3: 310 410|
    cuda:0  |0,1: 0     20|3: 20 … 22 ✗
    """
    trace = lose(
        [task(0), task(1), task(2), task(3, 0, 1)],
        [("cuda:1", 10), ("cuda:0", 22)],
        [("cuda:0", (0, 1)), ("cuda:1", (2,)), ("cuda:0", (3,))],
        [("cuda:0", (3,)), ("cpu:0", (2,))],
        [("cpu:0", (0, 1)), ("cpu:0", (3,))],
    )
    assert trace == Trace(
        makespan_ns=410,
        launches=(
            LaunchSpan("cpu:0", (2,), 10, 110),
            LaunchSpan("cpu:0", (0, 1), 110, 310),
            LaunchSpan("cpu:0", (3,), 310, 410),
        ),
        wasted=(
            LaunchSpan("cuda:1", (2,), 0, 10),
            LaunchSpan("cuda:0", (0, 1), 0, 20),
            LaunchSpan("cuda:0", (3,), 20, 22),
        ),
    )


@pytest.mark.parametrize(
    ("mode", "fields"),
    [
        ("none", {}),
        ("single", {"h": 2, "h_copy": 3}),
        ("threads", {"h": 2, "h_copy": 3, "lock": 1.0}),
        ("processes", {"h": 2, "h_copy": 3, "handoff_ns": 4}),
        ("replay", {"h": 2}),
    ],
)
def test_no_host_thread_holds_up_what_is_under_way(mode: str, fields: dict[str, Any]) -> None:
    """Tasks 0 and 1 are under way on a CPU and a GPU; task 3 then reads both on the CPU."""
    trace = lose(
        [
            task(0),
            task(1, duration_ns={"cuda:0": 60}),
            task(2, duration_ns={"cpu:0": 7, "cuda:1": 90}),
            task(3, 0, 1),
        ],
        [("cuda:1", 30)],
        [("cuda:1", (2,)), ("cuda:0", (1,)), ("cpu:0", (0,)), ("cpu:0", (3,))],
        [("cpu:0", (3,)), ("cpu:0", (2,))],
        profile=machine(host_mode=mode, **fields),
    )
    lasts = {s.tasks: s.end_ns - s.start_ns for s in trace.launches if s.start_ns < 30}
    assert lasts == {(0,): 100, (1,): 60}


def test_a_blocking_copy_does_not_get_ahead_of_what_is_under_way() -> None:
    """The input of task 1 waits for task 0, which runs on.

    ->cuda:1   |1 16|
    cuda:1          |1: 16 … 20 ✗
    cuda:0    |0: 0 …        20 …   60|       |1: 75 85|
    ->cuda:0                          |60 75|
    """
    trace = lose(
        [task(0, duration_ns={"cuda:0": 60}), task(1, arrival_ns=1, host_bytes=10)],
        [("cuda:1", 20)],
        [("cuda:0", (0,))],
        [("cuda:1", (1,))],
        [("cuda:0", (1,))],
        profile=machine(blocks="dst"),
    )
    assert trace == Trace(
        makespan_ns=85,
        launches=(LaunchSpan("cuda:0", (0,), 0, 60), LaunchSpan("cuda:0", (1,), 75, 85)),
        transfers=(
            TransferSpan("cpu:0", "cuda:1", (1,), 10, 1, 16, True),
            TransferSpan("cpu:0", "cuda:0", (1,), 10, 60, 75, True),
        ),
        wasted=(LaunchSpan("cuda:1", (1,), 16, 20),),
    )


def test_weights_stay_where_they_were() -> None:
    """Loading b has evicted a, so b is there after the loss and a is not.

    ->cuda:0   |b: 0 65|                        |a: 85 150|
    cuda:0             |0: 65 … 70 ✗ 75|2: 75 85|         |1: 150 160|
    cuda:1     |1: 0 …        70 ✗
    """
    trace = lose(
        [
            task(0, cell="b"),
            task(1, cell="a", duration_ns={"cuda:0": 10, "cuda:1": 200}),
            task(2, cell="b"),
        ],
        [("cuda:1", 70)],
        [("cuda:0", (0,)), ("cuda:1", (1,)), ("cuda:1", (2,))],
        [("cuda:0", (2,)), ("cuda:0", (1,))],
        profile=machine(
            DEVICES[0], replace(DEVICES[1], memory_bytes=100, resident=("a",)), DEVICES[2]
        ),
        cells=[Cell("a", 60), Cell("b", 60)],
    )
    assert trace == Trace(
        makespan_ns=160,
        launches=(
            LaunchSpan("cuda:0", (0,), 65, 75),
            LaunchSpan("cuda:0", (2,), 75, 85),
            LaunchSpan("cuda:0", (1,), 150, 160),
        ),
        loads=(LoadSpan("cuda:0", "b", 60, 0, 65), LoadSpan("cuda:0", "a", 60, 85, 150)),
        wasted=(LaunchSpan("cuda:1", (1,), 0, 70),),
    )


def test_a_load_under_way_is_dropped() -> None:
    """
    ->cuda:0   |b: 0 … 30 ✗|30 95|
    cuda:0                       |0: 95 105|
    """
    trace = lose(
        [task(0, cell="b")],
        [("cuda:1", 30)],
        [("cuda:0", (0,))],
        [("cuda:0", (0,))],
        profile=machine(DEVICES[0], replace(DEVICES[1], resident=()), DEVICES[2]),
        cells=[Cell("b", 60)],
    )
    assert trace == Trace(
        makespan_ns=105,
        launches=(LaunchSpan("cuda:0", (0,), 95, 105),),
        loads=(LoadSpan("cuda:0", "b", 60, 30, 95),),
    )


def test_a_cell_is_pinned_while_its_launch_is_under_way() -> None:
    """After the loss the input of task 1 finds no room: task 0 still runs with its weights."""
    with pytest.raises(OutOfDeviceMemory, match="no idle weights are left"):
        lose(
            [
                task(0, cell="b", output_bytes=0, duration_ns={"cuda:0": 50}),
                task(1, cell="a", output_bytes=0, host_bytes=50),
            ],
            [("cuda:1", 20)],
            [("cuda:0", (0,)), ("cuda:1", (1,))],
            [("cuda:0", (1,))],
            profile=machine(
                DEVICES[0], replace(DEVICES[1], memory_bytes=100, resident=("b",)), DEVICES[2]
            ),
            cells=[Cell("a"), Cell("b", 60)],
        )


def test_outputs_that_were_kept_take_memory() -> None:
    """cuda:0 holds the output of task 0 (20 bytes): 90 more do not fit."""
    large = task(1, duration_ns={"cuda:1": 90, "cuda:0": 10}, output_bytes=90)
    with pytest.raises(OutOfDeviceMemory, match="launch 1 on cuda:0 needs 90 bytes on cuda:0"):
        lose(
            [task(0), large, task(2, 0)],
            [("cuda:1", 20)],
            [("cuda:0", (0,)), ("cuda:1", (1,)), ("cuda:1", (2,))],
            [("cuda:0", (1,)), ("cuda:0", (2,))],
            profile=machine(DEVICES[0], replace(DEVICES[1], memory_bytes=100), DEVICES[2]),
        )


def test_without_the_host_nothing_goes_on() -> None:
    with pytest.raises(DeviceLost, match="cpu:0 is the host and was lost at 5 ns"):
        lose([task(0)], [("cpu:0", 5)], [("cuda:0", (0,))])


def test_a_task_that_only_the_lost_device_can_run_is_named() -> None:
    only_there = task(7, duration_ns={"cuda:1": 20})
    with pytest.raises(DeviceLost, match=r"cuda:1 was lost at 5 ns, and now task 7 \(cell\)"):
        lose([only_there], [("cuda:1", 5)], [("cuda:1", (0,))])


def test_what_nobody_needs_again_may_have_run_only_there() -> None:
    tasks = [task(7, duration_ns={"cuda:1": 20}), task(8)]
    trace = lose(tasks, [("cuda:1", 30)], [("cuda:1", (0,)), ("cpu:0", (1,))])
    assert trace.makespan_ns == 100


# In any world


@dataclass(frozen=True)
class Lossy:
    """A world, with losses and without them."""

    world: World
    losses: tuple[Loss, ...]
    before: Outcome
    after: Outcome
    order: tuple[int, ...]

    @property
    def first_ns(self) -> int:
        return self.losses[0].at_ns

    def lost_ns(self, device: str) -> int:
        """Return when a device is lost; far away, if never."""
        return min((loss.at_ns for loss in self.losses if loss.device == device), default=10**18)


def lossy(seed: int) -> Lossy:
    """Return world number `seed`, or reject it where no run comes to an end."""
    found = _lossy(seed)
    assume(found is not None)
    assert found is not None
    return found


@lru_cache(maxsize=1000)
def _lossy(seed: int) -> Lossy | None:
    world, rng = random_world(seed), random.Random(seed)
    cluster = world.profile.cluster
    names = [name for name in cluster.names if name != cluster.host]
    workload = GraphWorkload(world.graph)
    try:
        _, before = play(workload, world.profile, Dice(seed), world.conditions)
        losses = tuple(random_losses(rng, names, before.trace)) if names else ()
        conditions = replace(world.conditions, losses=losses)
        session, after = play(workload, world.profile, Dice(seed), conditions)
    except (PlanError, OutOfDeviceMemory, DeviceLost):
        return None  # Dice knows neither links nor memory
    return Lossy(world, losses, before, after, session.task_order) if losses else None


def random_losses(rng: random.Random, names: Sequence[str], trace: Trace) -> Iterator[Loss]:
    ends_ns = [span.end_ns for span in trace.launches]
    times = [rng.choice([rng.randint(0, max(ends_ns)), rng.choice(ends_ns)]) for _ in range(3)]
    if rng.random() < 0.3:
        times = [times[0]] * 3
    for at_ns in sorted(times[: rng.choice([1, 1, 1, 2, 2, 3])]):
        yield Loss(rng.choice(names), at_ns)


any_world = settings(max_examples=150, deadline=None)
seeds = st.integers(0, 20_000)


@any_world
@given(seeds)
def test_every_task_ends_exactly_once(seed: int) -> None:
    run = lossy(seed)
    graph, trace = run.after.graph, run.after.trace
    counts = Counter(task for span in trace.launches for task in span.tasks)
    assert counts == Counter(range(len(run.world.graph)))
    assert sorted(run.order) == list(range(len(graph)))
    assert len({span.device for span in trace.launches} - set(run.world.profile.cluster.names)) == 0
    assert [(s.device, s.tasks) for s in trace.launches] == [
        (launch.device, launch.tasks) for launch in run.after.plan.launches
    ]


@any_world
@given(seeds)
def test_a_lost_device_does_nothing_any_more(seed: int) -> None:
    run = lossy(seed)
    trace = run.after.trace
    for span in (*trace.launches, *trace.loads, *trace.wasted):
        assert span.end_ns <= run.lost_ns(span.device)
    for move in trace.transfers:
        assert move.end_ns <= min(run.lost_ns(move.src), run.lost_ns(move.dst))
    assert all(span.start_ns <= span.end_ns <= run.losses[-1].at_ns for span in trace.wasted)


@any_world
@given(seeds)
def test_the_past_is_that_of_the_run_without_losses(seed: int) -> None:
    run = lossy(seed)
    old, new, first_ns = run.before.trace, run.after.trace, run.first_ns

    def past(spans: Sequence[Any]) -> list[str]:
        return sorted(repr(s) for s in spans if s.start_ns < first_ns >= s.end_ns)

    assert past(new.transfers) == past(old.transfers)
    assert past(new.loads) == past(old.loads)
    assert past(new.dispatches) == past(old.dispatches)
    ran = {(t, s.device, s.start_ns) for s in (*new.launches, *new.wasted) for t in s.tasks}
    for span in old.launches:
        if span.start_ns < first_ns:
            assert ran >= {(task, span.device, span.start_ns) for task in span.tasks}


@any_world
@given(seeds)
def test_launches_under_way_elsewhere_run_to_their_end(seed: int) -> None:
    run = lossy(seed)
    trace, lost = run.after.trace, {loss.device for loss in run.losses}
    for span in run.before.trace.launches:
        if span.start_ns < run.first_ns < span.end_ns and span.device not in lost:
            assert span in (*trace.launches, *trace.wasted)


@any_world
@given(seeds)
def test_every_launch_has_its_inputs_where_and_when_it_starts(seed: int) -> None:
    run = lossy(seed)
    graph, trace = run.after.graph, run.after.trace
    there = [(t, s.device, s.end_ns) for s in (*trace.launches, *trace.wasted) for t in s.tasks]
    there += [(t, s.dst, s.end_ns) for s in trace.transfers if not s.host_input for t in s.tasks]
    for span in trace.launches:
        for task_number in span.tasks:
            assert span.start_ns >= graph.available_ns[task_number]
            for source in graph.input_lists[task_number]:
                assert any(
                    (t, device) == (source, span.device) and end_ns <= span.start_ns
                    for t, device, end_ns in there
                )


@any_world
@given(seeds)
def test_devices_run_one_launch_at_a_time(seed: int) -> None:
    run = lossy(seed)
    for device in run.world.profile.cluster.names:
        spans = [s for s in run.after.trace.launches if s.device == device]
        for one, other in pairwise(sorted(spans, key=lambda s: (s.start_ns, s.end_ns))):
            assert one.end_ns <= other.start_ns


@any_world
@given(seeds)
def test_reveals_and_makespan_are_those_of_the_whole_run(seed: int) -> None:
    run = lossy(seed)
    graph, trace, host = run.after.graph, run.after.trace, run.world.profile.cluster.host
    assert sorted(reveal.task for reveal in trace.reveals) == list(graph.revealers)
    ran = {(t, span.end_ns) for span in (*trace.launches, *trace.wasted) for t in span.tasks}
    assert {(reveal.task, reveal.end_ns) for reveal in trace.reveals} <= ran
    answers = [
        move.end_ns
        for move in trace.transfers
        if move.dst == host and not move.host_input and graph.returns[list(move.tasks)].any()
    ]
    end_ns = max([*answers, *(span.end_ns for span in trace.launches)])
    assert trace.makespan_ns == end_ns - int(graph.arrival_ns.min())


@any_world
@given(seeds)
def test_losses_are_deterministic(seed: int) -> None:
    run = lossy(seed)
    conditions = replace(run.world.conditions, losses=run.losses)
    workload = GraphWorkload(run.world.graph)
    _, again = play(workload, run.world.profile, Dice(seed), conditions)
    assert again.trace == run.after.trace
