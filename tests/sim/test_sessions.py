"""Sessions of the simulator: what is shown when, and that the past never changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    Dispatch,
    GraphWorkload,
    Launch,
    Link,
    Plan,
    Profile,
    Task,
    TaskGraph,
)
from dynpartition.conditions import Conditions, Loss, Slowdown
from dynpartition.contract import drive
from dynpartition.errors import OutOfDeviceMemory, PlanError, ProfileError
from dynpartition.graph import CARRIED
from dynpartition.profile import Noise
from dynpartition.sim import SimBackend, SimSession, simulate
from dynpartition.sim.worlds import World, random_world
from dynpartition.streams import closed_loop
from dynpartition.trace import LaunchSpan, Reveal, Trace
from tests.sim.players import Dice, Script, play

CELL = Cell("cell")
LINK = AffineCost(5, 10**9)
CPU = Cluster((Device("cpu:0", "cpu"),))


def graph_of(*tasks: Task) -> TaskGraph:
    return TaskGraph.from_tasks("world", [CELL], tasks)


def task(number: int, *inputs: int, **fields: Any) -> Task:
    return Task(id=number, cell="cell", inputs=inputs, duration_ns={"cpu:0": 10}, **fields)


def on_cpu(*tasks: int) -> list[tuple[str, tuple[int, ...]]]:
    return [("cpu:0", (number,)) for number in tasks]


def test_tasks_are_shown_at_their_arrival() -> None:
    """
    shown   0       1           2
    cpu:0   |0: 0 10|   |1: 15 25|2: 30 40|
    """
    graph = graph_of(task(0), task(1, arrival_ns=15), task(2, arrival_ns=30))
    script = Script(on_cpu(0), on_cpu(1), on_cpu(2))
    _, outcome = play(GraphWorkload(graph), Profile(CPU, {}), script)
    assert script.seen == [1, 2, 3]
    assert outcome.trace == Trace(
        makespan_ns=40,
        launches=(
            LaunchSpan("cpu:0", (0,), 0, 10),
            LaunchSpan("cpu:0", (1,), 15, 25),
            LaunchSpan("cpu:0", (2,), 30, 40),
        ),
    )


def test_a_run_begins_with_the_first_arrival() -> None:
    graph = graph_of(task(0, arrival_ns=50), task(1, arrival_ns=70))
    script = Script(on_cpu(0), on_cpu(1))
    _, outcome = play(GraphWorkload(graph), Profile(CPU, {}), script)
    assert script.seen == [1, 2]
    assert outcome.trace.makespan_ns == 30


def test_an_arrival_and_a_reveal_at_one_instant_are_one_call() -> None:
    """Task 0 reveals task 1, known at 10 + 3 + 4; task 2 arrives then, task 3 a little later.

    cpu:0   |0: 0 10|   |1: 17 27|2: 27 37|3: 37 47|
    """
    graph = graph_of(
        task(0), task(1, revealed_by=0), task(2, arrival_ns=17), task(3, arrival_ns=18)
    )
    profile = Profile(CPU, {}, Dispatch(sync_ns=3, decision_ns=4))
    script = Script(on_cpu(0), on_cpu(1, 2), on_cpu(3))
    _, outcome = play(GraphWorkload(graph), profile, script)
    assert script.seen == [1, 3, 4]
    assert outcome.trace == Trace(
        makespan_ns=47,
        launches=tuple(
            LaunchSpan("cpu:0", (number,), start_ns, start_ns + 10)
            for number, start_ns in enumerate((0, 17, 27, 37))
        ),
        reveals=(Reveal(0, 10, 17),),
    )


def test_a_task_is_shown_when_all_before_it_has_arrived() -> None:
    """Task 1 is there at 0, but reads task 0, which arrives at 20."""
    graph = graph_of(task(0, arrival_ns=20), task(1, 0), task(2))
    script = Script([("cpu:0", (0,))], on_cpu(1, 2))
    play(GraphWorkload(graph), Profile(CPU, {}), script)
    assert script.seen == [1, 3]


def test_of_one_instant_tasks_without_a_revealer_come_first() -> None:
    graph = graph_of(task(0), task(1, revealed_by=0), task(2, arrival_ns=10), task(3, 1))
    script = Script(on_cpu(0), on_cpu(1, 3, 2))
    session, outcome = play(GraphWorkload(graph), Profile(CPU, {}), script)
    assert session.task_order == (0, 2, 3, 1)
    assert outcome.graph.ids.tolist() == [0, 1, 2, 3]
    assert session.complete_plan.placement().keys() == {0, 1, 2, 3}


def test_a_task_may_arrive_as_late_as_a_file_can_say() -> None:
    graph = graph_of(task(0), task(1, arrival_ns=10**15))
    _, outcome = play(GraphWorkload(graph), Profile(CPU, {}), Script(on_cpu(0), on_cpu(1)))
    assert outcome.trace.makespan_ns == 10**15 + 10


def test_a_trace_is_asked_for_too_early() -> None:
    session = SimBackend(Profile(CPU, {})).open(GraphWorkload(graph_of(task(0))))
    with pytest.raises(PlanError, match="has not finished"):
        _ = session.trace


def test_every_task_that_is_shown_must_be_placed() -> None:
    graph = graph_of(task(0), task(1), task(2, arrival_ns=5))
    session = SimBackend(Profile(CPU, {})).open(GraphWorkload(graph))
    with pytest.raises(PlanError, match="1 tasks are in no launch"):
        session.advance([Launch("cpu:0", (0,))])


@pytest.mark.parametrize(
    "conditions",
    [Conditions(slowdowns=(Slowdown("cpu:9", 0, 0.5),)), Conditions(losses=(Loss("cpu:9", 0),))],
)
def test_conditions_name_devices_that_exist(conditions: Conditions) -> None:
    with pytest.raises(ProfileError, match="no device is named 'cpu:9'; did you mean 'cpu:0'"):
        SimBackend(Profile(CPU, {}), conditions=conditions)


# In any world


def with_decisions(world: World) -> World:
    """Let decisions take time: in no time, new launches may change the instant they are made in."""
    dispatch = replace(world.profile.dispatch, decision_ns=2)
    return replace(world, profile=replace(world.profile, dispatch=dispatch))


def play_dice(world: World, seed: int) -> tuple[SimSession, Dice]:
    dice = Dice(seed)
    try:
        session, _ = play(GraphWorkload(world.graph), world.profile, dice, world.conditions)
    except (PlanError, OutOfDeviceMemory):
        assume(False)  # Dice knows neither links nor memory
    return session, dice


many = settings(max_examples=150, deadline=None)
seeds = st.integers(0, 20_000)


@many
@given(seeds)
def test_a_session_does_what_its_complete_plan_does(seed: int) -> None:
    world = random_world(seed)
    session, _ = play_dice(world, seed)
    trace = simulate(
        *(session.complete_graph, world.profile, session.complete_plan),
        complete=True,
        conditions=world.conditions,
    )
    assert trace == session.complete_trace


@many
@given(seeds)
def test_launches_appended_later_never_change_the_past(seed: int) -> None:
    world = with_decisions(random_world(seed))
    session, dice = play_dice(world, seed)
    order, traces = session.task_order, []
    for graph, planned in [*dice.calls[1:], (session.graph, session.plan)]:
        launches = [Launch(c.device, tuple(order[t] for t in c.tasks)) for c in planned.launches]
        traces.append(
            simulate(
                *(world.graph, world.profile, Plan(tuple(launches))),
                complete=len(graph) == len(planned.placement()) == len(world.graph),
                conditions=world.conditions,
            )
        )
    shown = [len(graph) for graph, _ in dice.calls]
    for before, after, first, last in zip(traces, traces[1:], shown, shown[1:], strict=False):
        times = {time_shown(world.graph, order[n], after) for n in range(first, last)}
        assert len(times) == 1  # one call for an instant
        now_ns = times.pop()
        assert past(before, now_ns) == past(after, now_ns)


def time_shown(graph: TaskGraph, number: int, trace: Trace) -> int:
    known_ns = {reveal.task: reveal.known_ns for reveal in trace.reveals}
    return max([graph.available_ns[number], *(known_ns[gate] for gate in graph.gates[number])])


def past(trace: Trace, now_ns: int) -> dict[str, list[Any]]:
    spans = {
        "launches": trace.launches,
        "transfers": trace.transfers,
        "dispatches": trace.dispatches,
        "loads": trace.loads,
    }
    return {name: [s for s in found if s.start_ns < now_ns] for name, found in spans.items()}


CELLS = (Cell("a", 3), Cell("b", 2))
LATER_NS = 12


@st.composite
def requests(draw: st.DrawFn, first_id: int, request: int, arrival_ns: int) -> list[Task]:
    tasks: list[Task] = []
    for number in range(draw(st.integers(1, 4))):
        before = [each.id for each in tasks]
        hidden = bool(before) and draw(st.integers(0, 2)) == 0
        tasks.append(
            Task(
                id=first_id + number,
                cell=draw(st.sampled_from("ab")),
                inputs=tuple(draw(st.lists(st.sampled_from(before), max_size=2)) if before else ()),
                output_bytes=draw(st.integers(0, 3)),
                revealed_by=draw(st.sampled_from(before)) if hidden else None,
                arrival_ns=arrival_ns,
                request=request,
                host_bytes=draw(st.sampled_from([0, 2])),
                returns=draw(st.booleans()),
            )
        )
    return tasks


@st.composite
def machines(draw: st.DrawFn) -> Profile:
    limit = draw(st.sampled_from([None, None, 20, 9]))
    devices = (Device("cpu:0", "cpu"), Device("cuda:0", "cuda", limit), Device("cuda:1", "cuda"))
    names = [device.name for device in devices]
    blocks = draw(st.sampled_from([None, None, "src", "dst", "both"]))
    cost = AffineCost(draw(st.integers(0, 2)), 10**9)
    resources = draw(st.sampled_from([(), ("bus",)]))
    links = [Link(a, b, cost, resources, blocks) for a in names for b in names if a != b]
    cells = {
        cell: {name: Curve((1,), (draw(st.integers(1, 6)),)) for name in names} for cell in "ab"
    }
    dispatch = Dispatch(
        host_mode=draw(st.sampled_from(["none", "single", "threads", "processes", "replay"])),
        h=draw(st.integers(0, 2)),
        h_copy=draw(st.integers(0, 2)),
        lock=draw(st.sampled_from([0.0, 0.5, 1.0])),
        queue_depth=draw(st.sampled_from([None, 1, 2])),
        copy_in=dict.fromkeys(names, AffineCost(1, 10**9)) if draw(st.booleans()) else {},
        copy_out=dict.fromkeys(names, AffineCost(1, 10**9)) if draw(st.booleans()) else {},
        decision_ns=draw(st.integers(1, 2)),
    )
    return Profile(Cluster(devices, tuple(links)), cells, dispatch)


@many
@given(machines(), st.data(), st.integers(0, 100))
def test_another_later_request_changes_nothing_before_it_arrives(
    profile: Profile, data: st.DataObject, seed: int
) -> None:
    """Metamorphic: observations, decisions and times are equal up to its arrival."""
    first = data.draw(requests(0, 0, 0))
    seen = []
    for _ in range(2):
        later = data.draw(requests(len(first), 1, LATER_NS))
        graph = TaskGraph.from_tasks("world", CELLS, [*first, *later])
        dice = Dice(seed)
        try:
            session, outcome = play(GraphWorkload(graph), profile, dice)
        except OutOfDeviceMemory:
            assume(False)
        early = [(shown.digest, plan) for shown, plan in dice.calls if not shown.request.any()]
        seen.append((early, past(session.complete_trace, LATER_NS)))
        assert max(outcome.graph.request) == 1
    assert seen[0] == seen[1]


def test_runs_of_a_randomised_backend_differ_and_repeat_with_the_seed() -> None:
    graph = graph_of(*(task(number) for number in range(4)))
    graph = replace(graph, durations={})
    profile = Profile(
        CPU,
        {"cell": {"cpu:0": Curve((1,), (1_000_000,))}},
        uncertainty=0.1,
        noise=Noise(sigma=((1, 0.05),)),
    )

    def makespans(seed: int) -> list[int]:
        backend = SimBackend(profile, conditions=Conditions(seed=seed), randomise=True)
        assert backend.profile is profile
        times = []
        for _ in range(4):
            with backend.open(GraphWorkload(graph)) as session:
                session.advance([Launch("cpu:0", (number,)) for number in range(4)])
                times.append(session.trace.makespan_ns)
        return times

    assert len(set(makespans(0))) == 4
    assert makespans(0) == makespans(0)
    assert makespans(0)[1:] == makespans(1)[:3]  # run n has seed + n


def test_a_closed_loop_is_complete_afterwards() -> None:
    stream = closed_loop([graph_of(task(0), task(1, 0))] * 4, clients=2, think_ns=3)
    session, _ = play(stream, Profile(CPU, {}), Dice(1))
    complete = (session.complete_graph, Profile(CPU, {}), session.complete_plan)
    assert simulate(*complete) == session.complete_trace


def test_another_engine_is_not_asked_about_what_a_loss_leaves_behind() -> None:
    """Only the reference knows how carried launches stand there."""
    asked: list[bool] = []

    def engine(graph: TaskGraph, *rest: Any, **named: Any) -> Trace:
        asked.append(CARRIED in graph.cells)
        return simulate(graph, *rest, **named)

    two = Profile(Cluster((Device("cpu:0", "cpu"), Device("cpu:1", "cpu"))), {})
    both = replace(
        graph_of(task(0), task(1)), durations={n: np.full(2, 10) for n in two.cluster.names}
    )
    backend = SimBackend(two, conditions=Conditions(losses=(Loss("cpu:1", 4),)), engine=engine)
    script = Script([("cpu:0", (0,)), ("cpu:1", (1,))], on_cpu(1))
    with backend.open(GraphWorkload(both)) as session:
        outcome = drive(session, script, two)
    assert outcome.trace.makespan_ns == 20
    assert asked and not any(asked)
