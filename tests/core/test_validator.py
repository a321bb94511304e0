import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    Dispatch,
    DispatchSpan,
    Launch,
    LaunchSpan,
    Link,
    LoadSpan,
    Plan,
    Profile,
    Reveal,
    Task,
    TaskGraph,
    Trace,
    TransferSpan,
    single_task_plan,
)
from dynpartition.conditions import Conditions, Slowdown
from dynpartition.errors import ScheduleError
from dynpartition.profile import Noise
from dynpartition.sim import simulate
from dynpartition.validator import check_trace, find_violations, overlap_ns

CPU, GPU = "cpu:0", "cuda:0"


def affine(latency_ns):
    """One byte per ns after the latency."""
    return AffineCost(latency_ns, 10**9)


def world(*, blocks=None):
    """CPU (host) and GPU on one bus.

    0,1 ─► 3 ┄► 4, 5     0, 1 and 3, 5 on the GPU, 2 and 4 on the CPU; 3 reveals 4 and 5;
    2 ────►┘             4 reads 3 and 1; 5 reads 2; both return; 0 and 1 come from the host
    """
    graph = TaskGraph.from_tasks(
        "world",
        [Cell("leaf"), Cell("node")],
        [
            Task(id=0, cell="leaf", output_bytes=10, host_bytes=6),
            Task(id=1, cell="leaf", output_bytes=10, host_bytes=4),
            Task(id=2, cell="leaf", output_bytes=10),
            Task(id=3, cell="node", inputs=(0, 2), output_bytes=8),
            Task(id=4, cell="node", inputs=(3, 1), revealed_by=3, returns=True),
            Task(id=5, cell="node", inputs=(2,), output_bytes=20, revealed_by=3, returns=True),
        ],
    )
    links = (
        Link(CPU, GPU, affine(5), ("bus",), blocks),
        Link(GPU, CPU, affine(3), ("bus",)),
    )
    profile = Profile(
        Cluster((Device(CPU, "cpu"), Device(GPU, "cuda")), links),
        {
            "leaf": {CPU: Curve((1,), (10,)), GPU: Curve((1, 2), (4, 6))},
            "node": {CPU: Curve((1,), (20,)), GPU: Curve((1,), (8,))},
        },
        Dispatch(
            bookkeeping_ns=1,
            copy_in={GPU: affine(2)},
            copy_out={CPU: affine(1)},
            sync_ns=2,
            decision_ns=3,
        ),
    )
    plan = Plan(
        (
            Launch(GPU, (0, 1)),
            Launch(CPU, (2,)),
            Launch(GPU, (3,)),
            Launch(CPU, (4,)),
            Launch(GPU, (5,)),
        )
    )
    return graph, profile, plan


VALID = Trace(
    makespan_ns=118,
    launches=(
        LaunchSpan(GPU, (0, 1), 15, 37),  # 6 + 2·1 + (2+6) + (2+4)
        LaunchSpan(CPU, (2,), 0, 22),  # 10 + 1 + (1+10)
        LaunchSpan(GPU, (3,), 37, 58),  # 8 + 1 + (2+10)
        LaunchSpan(CPU, (4,), 87, 108),  # 20 + 1
        LaunchSpan(GPU, (5,), 74, 95),  # 8 + 1 + (2+10)
    ),
    transfers=(
        TransferSpan(CPU, GPU, (0, 1), 10, 0, 15, host_input=True),
        TransferSpan(CPU, GPU, (2,), 10, 22, 37),
        TransferSpan(GPU, CPU, (3,), 8, 58, 69),
        TransferSpan(GPU, CPU, (1,), 10, 74, 87),  # gains its reader when 3 is known
        TransferSpan(GPU, CPU, (5,), 20, 95, 118),
    ),
    reveals=(Reveal(3, 58, 74),),
)


def launches(number, **changes):
    return edited("launches", number, **changes)


def transfers(number, **changes):
    return edited("transfers", number, **changes)


def edited(part, number, **changes):
    rows = list(getattr(VALID, part))
    rows[number] = replace(rows[number], **changes)
    return replace(VALID, **{part: tuple(rows)})


def without(part, number):
    rows = getattr(VALID, part)
    return replace(VALID, **{part: rows[:number] + rows[number + 1 :]})


def with_more(part, span):
    return replace(VALID, **{part: (*getattr(VALID, part), span)})


def swapped():
    a, b, *rest = VALID.launches
    return replace(VALID, launches=(b, a, *rest))


MUTATIONS = {
    "launch missing": (
        without("launches", 1),
        "launch 1 (task 2 (leaf) on cpu:0) is in the trace 0",
    ),
    "launch twice": (with_more("launches", VALID.launches[3]), "is in the trace 2 times"),
    "launch unplanned": (with_more("launches", LaunchSpan(GPU, (2,), 200, 201)), "in the trace 2"),
    "batch torn": (launches(0, tasks=(0,)), "launch of task 0 (leaf) on cuda:0 is not in the plan"),
    "wrong device": (launches(1, device=GPU), "launch 1 (task 2 (leaf) on cpu:0) ran on cuda:0"),
    "listed out of order": (swapped(), "does not list its launches in plan order"),
    "overlap on device": (launches(2, start_ns=30), "overlaps launch 0 (task 0 (leaf) and 1 more"),
    "order on device": (launches(4, start_ns=20, end_ns=30), "runs before launch 2"),
    "end before start": (launches(3, end_ns=80), "ends at 80 ns, before its start"),
    "before the run": (launches(1, start_ns=-1), "starts at -1 ns, before the run"),
    "transfer before the run": (transfers(0, start_ns=-3), "starts at -3 ns, before the run"),
    "remote input late": (transfers(1, end_ns=40), "before task 2 (leaf) arrives at 40 ns"),
    "local input late": (launches(0, end_ns=50), "before task 0 (leaf) ends at 50 ns"),
    "host input late": (transfers(0, end_ns=16), "before its host input arrives at 16 ns"),
    "transfer missing": (
        without("transfers", 1),
        "output of task 2 (leaf) is sent to cuda:0 0 times",
    ),
    "host input missing": (
        without("transfers", 0),
        "host input of task 0 (leaf) is sent to cuda:0 0",
    ),
    "answer missing": (without("transfers", 4), "output of task 5 (node) is sent to cpu:0 0 times"),
    "reveal not sent": (
        without("transfers", 2),
        "output of task 3 (node) is sent to cpu:0 0 times",
    ),
    "sent twice": (
        with_more("transfers", TransferSpan(CPU, GPU, (2,), 10, 120, 135)),
        "output of task 2 (leaf) is sent to cuda:0 2 times",
    ),
    "sent without need": (
        with_more("transfers", TransferSpan(GPU, CPU, (0,), 10, 120, 133)),
        "output of task 0 (leaf) is sent to cpu:0 without need",
    ),
    "host input not marked": (transfers(0, host_input=False), "task 0 (leaf) is on cuda:0"),
    "sent from elsewhere": (transfers(1, src=GPU, dst=CPU), "task 2 (leaf) is on cpu:0"),
    "no such link": (transfers(1, src=GPU), "cuda:0->cuda:0 has no such link"),
    "wrong bytes": (transfers(2, bytes=9), "moves 9 bytes instead of 8"),
    "sent before made": (transfers(2, start_ns=57), "starts at 57 ns before task 3 (node) ends"),
    "late output clairvoyant": (
        transfers(3, start_ns=70, end_ns=83),
        "starts at 70 ns before task 3 (node) is known at 74 ns",
    ),
    "bus shared": (transfers(1, start_ns=14), "on resource 'bus'"),
    "launch clairvoyant": (launches(4, start_ns=73), "starts before task 3 (node) is known at 74"),
    "known before end": (
        replace(VALID, reveals=(Reveal(3, 58, 57),)),
        "is known at 57 ns before its launch ends",
    ),
    "known before sent": (
        replace(VALID, reveals=(Reveal(3, 58, 68),)),
        "is known at 68 ns before its output reaches the host",
    ),
    "reveal end after known": (replace(VALID, reveals=(Reveal(3, 80, 74),)), "before its reveal"),
    "reveal missing": (replace(VALID, reveals=()), "task 3 (node) is revealed 0 times"),
    "reveal of nothing": (with_more("reveals", Reveal(0, 37, 50)), "is revealed but hides nothing"),
    "makespan": (replace(VALID, makespan_ns=108), "makespan is 108 ns instead of 118 ns"),
    "unknown device": (launches(0, device="gpu"), "trace launch 0: no device is named 'gpu'"),
    "unknown task": (transfers(0, tasks=(0, 9)), "transfer 0: task 9 is not in the graph"),
    "unknown device of a dispatch": (
        with_more("dispatches", DispatchSpan("gpu", (0, 1), 0, 1)),
        "dispatch 0: no device is named 'gpu'",
    ),
    "unknown device of a load": (
        with_more("loads", LoadSpan("gpu", "leaf", 0, 0, 1)),
        "load 0: no device is named 'gpu'",
    ),
    "unknown cell": (
        with_more("loads", LoadSpan(GPU, "leave", 0, 0, 1)),
        "load 0: no cell is named 'leave'",
    ),
    "load where all weights are": (
        with_more("loads", LoadSpan(GPU, "leaf", 0, 0, 5)),
        "load of leaf to cuda:0 is not needed: cuda:0 holds all weights",
    ),
    "empty span": (transfers(0, tasks=()), "transfer 0 has no tasks"),
}

EXACT_MUTATIONS = {
    "launch too long": (launches(3, end_ns=109), "lasts 22 ns instead of 21 ns"),
    "launch too short": (launches(4, end_ns=94), "lasts 20 ns instead of 21 ns"),
    "transfer too short": (transfers(3, end_ns=86), "lasts 12 ns instead of 13 ns"),
    "decision too fast": (
        replace(VALID, reveals=(Reveal(3, 58, 73),)),
        "known at 73 ns before sync and decision are over",
    ),
}


@pytest.mark.parametrize("exact_durations", [False, True])
def test_valid_trace_has_no_violations(exact_durations):
    assert find_violations(*world(), VALID, exact_durations=exact_durations) == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_found(name):
    trace, fragment = MUTATIONS[name]
    found = find_violations(*world(), trace)
    assert any(fragment in message for message in found), found


@pytest.mark.parametrize("name", EXACT_MUTATIONS)
def test_mutation_of_durations_is_found_only_when_asked(name):
    trace, fragment = EXACT_MUTATIONS[name]
    found = find_violations(*world(), trace, exact_durations=True)
    assert any(fragment in message for message in found), found
    assert find_violations(*world(), trace) == []


def test_copy_that_blocks_a_device_may_not_overlap_its_launches():
    found = find_violations(*world(blocks="dst"), VALID)
    assert found == [
        "transfer of task 2 (leaf) cpu:0->cuda:0 overlaps launch of task 0 (leaf) and 1 more on"
        " cuda:0, which blocks cuda:0"
    ]


def test_arrivals_bound_launches_and_host_inputs_and_start_the_makespan():
    graph, profile, plan = world()
    later = [replace(task, arrival_ns=5) for task in graph.tasks()]
    found = find_violations(TaskGraph.from_tasks("later", graph.cells, later), profile, plan, VALID)
    assert found == [
        "host input of task 0 (leaf) and 1 more cpu:0->cuda:0 starts at 0 ns before launch 0"
        " (task 0 (leaf) and 1 more on cuda:0) arrives at 5 ns",
        "launch 1 (task 2 (leaf) on cpu:0) starts before its arrival at 5 ns",
        "the makespan is 118 ns instead of 113 ns",
    ]


def arriving(**arrival_ns):
    """The world with other arrivals, by task: `task_2=7`."""
    graph, profile, plan = world()
    times = {int(name.removeprefix("task_")): ns for name, ns in arrival_ns.items()}
    tasks = [replace(task, arrival_ns=times.get(task.id, 0)) for task in graph.tasks()]
    return TaskGraph.from_tasks("later", graph.cells, tasks), profile, plan


def test_a_task_arrives_with_its_inputs_and_what_reveals_it():
    """Task 2 arrives at 7: so do 3, which reads it, and 4 and 5, which 3 reveals."""
    world_of_7 = arriving(task_2=7)
    early = [*VALID.launches]
    early[3] = replace(early[3], start_ns=5, end_ns=26)
    found = find_violations(*world_of_7, replace(VALID, launches=tuple(early)))
    assert "launch 3 (task 4 (node) on cpu:0) starts before its arrival at 7 ns" in found


def test_nothing_is_sent_to_a_reader_that_has_not_arrived():
    """Task 4 arrives at 80: the output of 1, which only 4 reads, must wait, that of 3 need not."""
    assert find_violations(*arriving(task_4=80), VALID) == [
        "transfer of task 1 (leaf) cuda:0->cpu:0 starts at 74 ns before launch 3 (task 4 (node) on"
        " cpu:0) arrives at 80 ns"
    ]
    assert find_violations(*arriving(task_4=74), VALID) == []


def test_outputs_are_not_staged_for_readers_that_arrive_later():
    """Task 3 arrives after 2 ended, so 2 does not pay for `copy_out`."""
    assert find_violations(*arriving(task_3=22), VALID, exact_durations=True) == [
        "launch of task 2 (leaf) on cpu:0 lasts 22 ns instead of 11 ns"
    ]


def test_nothing_is_dispatched_before_it_arrives_is_known_or_without_a_launch():
    dispatches = (
        DispatchSpan(GPU, (0, 1), 0, 1),
        DispatchSpan(CPU, (2,), 2, 4),
        DispatchSpan(GPU, (5,), 73, 75),
        DispatchSpan(GPU, (4, 5), 80, 90),
        DispatchSpan(GPU, (3,), 90, 89),
    )
    assert find_violations(*arriving(task_2=3), replace(VALID, dispatches=dispatches)) == [
        "dispatch of task 3 (node) on cuda:0 ends at 89 ns, before its start",
        "dispatch of task 4 (node) and 1 more on cuda:0 is for no launch of the plan",
        "launch 1 (task 2 (leaf) on cpu:0) starts before its arrival at 3 ns",
        "launch 1 (task 2 (leaf) on cpu:0) is dispatched before its arrival at 3 ns",
        "launch 4 (task 5 (node) on cuda:0) is dispatched before task 3 (node) is known at 74 ns",
    ]


SLOW = Conditions(slowdowns=(Slowdown(CPU, 20, 0.5), Slowdown(CPU, 80, 0.75), Slowdown(GPU, 75, 9)))


def test_slowdowns_that_have_begun_change_how_long_launches_last():
    """Task 4 starts at 87 on the CPU: 21 / 0.75 = 28. Everything else started before."""
    found = find_violations(*world(), VALID, exact_durations=True, conditions=SLOW)
    assert found == ["launch of task 4 (node) on cpu:0 lasts 21 ns instead of 28 ns"]
    slower = launches(3, end_ns=87 + 28)
    assert find_violations(*world(), slower, exact_durations=True, conditions=SLOW) == []
    check_trace(*world(), slower, exact_durations=True, conditions=SLOW)


def test_noise_is_the_luck_of_the_seed():
    graph, profile, plan = world()
    noisy = replace(profile, noise=Noise(stall_probability=1.0, stall_ns=7))
    found = find_violations(graph, noisy, plan, VALID, exact_durations=True)
    assert found[0] == "launch of task 0 (leaf) and 1 more on cuda:0 lasts 22 ns instead of 29 ns"
    assert len(found) == 5
    noisy = replace(profile, noise=Noise(sigma=((1, 0.5),)))
    for conditions in (Conditions(seed=3), Conditions(seed=3, luck="key")):
        trace = simulate(graph, noisy, plan, conditions=conditions)
        exact = {"exact_durations": True}
        assert find_violations(graph, noisy, plan, trace, **exact, conditions=conditions) == []
        assert find_violations(graph, noisy, plan, trace, **exact) != []


def test_tolerance_forgives_clocks_that_disagree():
    trace = transfers(1, start_ns=20, end_ns=39)
    assert find_violations(*world(), trace, tolerance_ns=2) == []
    assert len(find_violations(*world(), trace, tolerance_ns=1)) == 2


def test_illegal_plan_is_the_only_violation():
    graph, profile, plan = world()
    found = find_violations(graph, profile, Plan(plan.launches[:-1]), VALID)
    assert found == [
        "the plan is not legal: 1 tasks are in no launch, first task 5 (node); add them"
    ]


def test_check_trace_counts_and_lists_the_first_violations():
    check_trace(*world(), VALID)
    nothing = Trace(makespan_ns=0, launches=())
    with pytest.raises(ScheduleError, match=r"12 times: launch 0 .*; and 7 more$"):
        check_trace(*world(), nothing)


@given(
    part=st.sampled_from(["launches", "transfers"]),
    number=st.integers(0, 4),
    shift_ns=st.integers(1, 10**6),
)
def test_moving_any_span_to_an_earlier_time_is_found(part, number, shift_ns):
    span = getattr(VALID, part)[number]
    moved = edited(part, number, start_ns=span.start_ns - shift_ns, end_ns=span.end_ns - shift_ns)
    assert find_violations(*world(), moved)


@given(
    part=st.sampled_from(["launches", "transfers"]),
    number=st.integers(0, 4),
    end=st.sampled_from(["start_ns", "end_ns"]),
    shift_ns=st.integers(-(10**6), 10**6).filter(bool),
)
def test_moving_any_end_of_a_span_is_found(part, number, end, shift_ns):
    moved = edited(part, number, **{end: getattr(getattr(VALID, part)[number], end) + shift_ns})
    assert find_violations(*world(), moved, exact_durations=True)


@given(scale=st.integers(1, 10**9))
def test_slower_clock_is_still_a_valid_trace(scale):
    def slow(spans):
        return tuple(
            replace(s, start_ns=s.start_ns * scale, end_ns=s.end_ns * scale) for s in spans
        )

    trace = Trace(
        VALID.makespan_ns * scale,
        slow(VALID.launches),
        slow(VALID.transfers),
        reveals=(Reveal(3, 58 * scale, 74 * scale),),
    )
    assert find_violations(*world(), trace) == []


def test_long_chain_is_checked_in_linear_time():
    n = 10_000
    tasks = [
        Task(id=i, cell="node", inputs=(i - 1,) if i else (), output_bytes=5) for i in range(n)
    ]
    graph = TaskGraph.from_tasks("chain", [Cell("node")], tasks)
    cluster = Cluster(
        (Device(CPU, "cpu"), Device(GPU, "cuda")),
        (Link(CPU, GPU, affine(0), ("bus",), "both"), Link(GPU, CPU, affine(0), ("bus",), "both")),
    )
    profile = Profile(cluster, {"node": {CPU: Curve((1,), (5,)), GPU: Curve((1,), (5,))}})
    device = [(CPU, GPU)[i % 2] for i in range(n)]
    trace = Trace(
        10 * n - 5,
        tuple(LaunchSpan(device[i], (i,), 10 * i, 10 * i + 5) for i in range(n)),
        tuple(
            TransferSpan(device[i], device[i + 1], (i,), 5, 10 * i + 5, 10 * i + 10)
            for i in range(n - 1)
        ),
    )
    plan = single_task_plan(enumerate(device))
    started = time.process_time()
    assert find_violations(graph, profile, plan, trace, exact_durations=True) == []
    assert time.process_time() - started < 10  # a tenth of it when quadratic work is absent


def test_overlap_counts_the_time_when_both_devices_run_launches():
    spans = [(CPU, 0, 10), (CPU, 10, 20), (CPU, 30, 40), (GPU, 5, 35), (GPU, 38, 50)]
    trace = Trace(50, tuple(LaunchSpan(d, (i,), a, b) for i, (d, a, b) in enumerate(spans)))
    assert overlap_ns(trace, CPU, GPU) == overlap_ns(trace, GPU, CPU) == 15 + 5 + 2
    assert overlap_ns(trace, CPU, CPU) == 30
    assert overlap_ns(trace, CPU, "cuda:1") == 0
