"""Weights that do not fit: the estimate by hand, against the simulator, and compiled."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    GraphWorkload,
    Launch,
    Link,
    Plan,
    PricedGraph,
    Profile,
    Task,
    TaskGraph,
    run,
    single_task_plan,
)
from dynpartition.agent import estimate_kernel as kernel
from dynpartition.agent.decoder import GREEDY, ONE_DEVICE, Decoder
from dynpartition.agent.estimate import Estimate
from dynpartition.agent.facts import Facts
from dynpartition.agent.families import FAMILIES, Setting, draw_world
from dynpartition.agent.list_tables import ListGraph, estimated_ns, machine_of
from dynpartition.agent.machines import Machine
from dynpartition.agent.network import flat, net_of, untrained_weights
from dynpartition.agent.partial import PartialPlan
from dynpartition.agent.registry import make_scheduler
from dynpartition.compiled import compiled
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.plan import chosen_launches
from dynpartition.sim.backend import SimBackend
from dynpartition.sim.reference import simulate
from tests.agent.test_batch import play_both
from tests.agent.test_listing import compare

MODES = ("none", "single", "threads", "processes", "replay")
CELLS = tuple(Cell(name, 1_000) for name in "abc")


def small_machine(memory_bytes, *, links=True, resident=None):
    """cpu:0, the host, and cuda:0, ten times as fast; 1,000 bytes take 100 + 1,000 ns."""
    names = ("cpu:0", "cuda:0")
    cost = AffineCost(100, 10**9)
    devices = (Device("cpu:0", "cpu"), Device("cuda:0", "cuda", memory_bytes, resident=resident))
    both = (Link(*names, cost), Link(*reversed(names), cost))
    curves = {cell.name: {"cpu:0": Curve((1,), (500,)), "cuda:0": Curve((1,), (50,))}
              for cell in CELLS}  # fmt: skip
    return Profile(Cluster(devices, both if links else ()), curves)


def calls(cells, output_bytes=0):
    """Tasks that do not depend on each other."""
    tasks = [Task(id=n, cell=cell, output_bytes=output_bytes) for n, cell in enumerate(cells)]
    return TaskGraph.from_tasks("calls", CELLS, tasks)


def on_gpu(graph):
    return single_task_plan((task, "cuda:0") for task in range(len(graph)))


def test_a_load_starts_when_its_launch_is_next_and_the_least_recently_used_cell_goes():
    """Two of three cells fit; a and b are there.

    cuda:0  |-a-|-b-|-a-|   |-c-|-a-|   |-b-|
    link                |-c-|       |-b-|          c takes b's place, b takes c's
    """
    graph, profile = calls("abacab"), small_machine(2_000)
    estimate = Estimate(PricedGraph(graph, profile))
    assert [estimate.load_ns(task, 1) for task in range(6)] == [0, 0, 0, 1_100, 0, 0]
    estimate.replay(on_gpu(graph))
    assert estimate.span(2) == (100, 150)
    assert estimate.span(3) == (1_250, 1_300)
    assert estimate.span(4) == (1_300, 1_350)
    assert estimate.span(5) == (2_450, 2_500)
    assert estimate.makespan_ns == simulate(graph, profile, on_gpu(graph)).makespan_ns
    assert estimate.weights_bytes(1) == 2_000


def test_among_cells_that_were_never_used_the_first_name_goes():
    graph, profile = calls("cab"), small_machine(2_000)
    estimate = Estimate(PricedGraph(graph, profile))
    estimate.commit(0, 1)  # c, in the place of a
    assert [estimate.load_ns(task, 1) for task in range(3)] == [0, 1_100, 0]
    assert estimate.options(1) == [(0, 500), (2_250, 2_300)]


def test_what_one_launch_makes_and_reads_is_kept_free():
    """3,000 bytes would hold all cells, but not beside an output: a goes as soon as b is used."""
    graph = calls("bca", output_bytes=10)
    estimate = Estimate(PricedGraph(graph, small_machine(3_000)))
    assert estimate.load_ns(2, 1) == 0
    estimate.commit(0, 1)
    assert estimate.load_ns(2, 1) == 1_100


def test_with_room_for_everything_nothing_is_tracked():
    estimate = Estimate(PricedGraph(calls("abc"), small_machine(3_000)))
    estimate.replay(on_gpu(calls("abc")))
    assert estimate.makespan_ns == 150
    assert estimate.weights_bytes(1) == 0


@pytest.mark.parametrize("name", ["heft", "best-single", "policy", "random", "round-robin"])
def test_cells_stay_away_from_where_their_weights_can_never_be(name):
    """Without a link from the host, or with too little memory: the run would refuse."""
    graph = calls("abcabc")
    for profile in (
        small_machine(500),
        small_machine(None, links=False, resident=("a", "b")),
    ):
        outcome = run(SimBackend(profile), GraphWorkload(graph), make_scheduler(name))
        held = profile.cluster.devices[1].resident or ()
        placed = {graph.cell_name(task): home for task, home in outcome.plan.placement().items()}
        assert {cell for cell, home in placed.items() if home == "cuda:0"} <= set(held)


def test_a_cell_that_fits_nowhere_is_left_to_the_run_to_refuse():
    profile = small_machine(500)
    only_gpu = replace(profile, cells={"a": {"cuda:0": Curve((1,), (50,))}})
    workload = GraphWorkload(calls("a"))
    with pytest.raises(OutOfDeviceMemory, match="needs 1000 bytes at once"):
        run(SimBackend(only_gpu), workload, make_scheduler("heft"))


def test_tokens_go_to_the_host_where_bringing_weights_takes_longer():
    """One call of c: 500 ns on the host, 1,150 with its load. Three: 1,500 and 1,250."""
    profile = small_machine(2_000)
    for cells, home in (("c", "cpu:0"), ("ccc", "cuda:0")):
        for name in ("best-single", "best-of-heuristics"):
            launches = make_scheduler(name).schedule(calls(cells), profile, Plan())
            assert {launch.device for launch in launches} == {home} or name != "best-single"
        best = run(
            SimBackend(profile), GraphWorkload(calls(cells)), make_scheduler("best-of-heuristics")
        )
        assert best.trace.makespan_ns <= {"c": 500, "ccc": 1_250}[cells]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(0, 3), st.booleans())
def test_a_device_alone_is_exact_whatever_comes_and_goes(seed, room, blocks):
    """Cells of any sizes, batches of any lengths, no outputs to hold."""
    rng = np.random.default_rng(seed)
    cells = tuple(Cell(name, int(rng.integers(0, 3_000))) for name in "dcbaf")
    most = max(cell.param_bytes for cell in cells)
    machine = small_machine(most + int(room * most // 2))
    links = tuple(
        replace(link, blocks="both" if blocks else None) for link in machine.cluster.links
    )
    curve = {"cpu:0": Curve((1,), (500,)), "cuda:0": Curve((1, 4), (50, 90))}
    profile = replace(
        machine,
        cluster=replace(machine.cluster, links=links),
        cells={cell.name: curve for cell in cells},
    )
    launched = [(cells[c].name, int(n)) for c, n in rng.integers((0, 1), (5, 4), (12, 2))]
    names = [name for name, count in launched for _ in range(count)]
    graph = TaskGraph.from_tasks(
        "any", cells, [Task(id=n, cell=name) for n, name in enumerate(names)]
    )
    bounds = np.cumsum([0, *(count for _, count in launched)]).tolist()
    rows = itertools.pairwise(bounds)
    plan = Plan(tuple(Launch("cuda:0", tuple(range(*row))) for row in rows))
    estimate = Estimate(PricedGraph(graph, profile))
    estimate.replay(plan)
    trace = simulate(graph, profile, plan)
    assert estimate.makespan_ns == trace.makespan_ns == estimated_ns(graph, profile, plan)
    assert [estimate.span(launch.tasks[0]) for launch in plan.launches] == [
        (span.start_ns, span.end_ns) for span in trace.launches
    ]


def scarce_world(seed, n_tasks=24, *, ratio=None):
    """Return a world of any family on a machine with too little memory, as a seed has it."""
    rng = np.random.default_rng(seed)
    machine = Machine(
        memory_share=float(rng.uniform(0.2, 1.0)),
        ratio=ratio or float(rng.choice([0.1, 0.3, 1.0])),
        wiring=str(rng.choice(["links", "bus", "pcie", "ports"])),
        host_mode=str(rng.choice(MODES)),
        blocks=bool(rng.random() < 0.3),
        staging=bool(rng.random() < 0.3),
        first_use=float(rng.choice([0.0, 2.0])),
        batch_gain=0.5,
    )
    setting = Setting(
        family=str(rng.choice(list(FAMILIES))),
        n_tasks=n_tasks,
        machine=machine,
        host_data=bool(rng.random() < 0.5),
        spread=float(rng.choice([0.0, 0.4])),
    )
    return draw_world(setting, rng)


def random_placement(graph, profile, seed):
    """Return a plan that puts tasks anywhere, in an order that is not theirs."""
    rng = np.random.default_rng(seed)
    partial = PartialPlan.of(graph, profile)
    while partial.ready:
        task = int(rng.choice(partial.ready))
        partial.place(task, int(rng.choice(partial.legal_devices(task))))
    return Plan(tuple(partial.take_launches())), partial.estimate


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9))
def test_compiled_choices_are_the_defined_ones(seed):
    graph, profile = scarce_world(seed)
    compare(graph, profile)
    plan, estimate = random_placement(graph, profile, seed)
    assert estimated_ns(graph, profile, plan) == estimate.makespan_ns
    compare(graph, profile, Plan(plan.launches[: len(plan) // 2]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**9))
def test_observations_and_policies_go_by_the_same_times(seed):
    world = scarce_world(seed, n_tasks=14)
    play_both(world.graph, world.profile, seed)
    weights, decoder = untrained_weights(seed, 3), Decoder(world.profile)
    decoder.begin(world.graph)
    decoder.think(flat(weights), net_of(3))
    rolled = decoder.roll(np.array([0, 1, ONE_DEVICE]), np.array([GREEDY, 5, GREEDY]))
    facts = Facts(*world)
    names = world.profile.cluster.names
    for choices, end_ns in zip(rolled.choices, rolled.ends_ns.tolist(), strict=True):
        estimate = Estimate(facts.prices.priced, facts.prices)
        for launch in chosen_launches(choices, names):
            estimate.commit_launch(launch.tasks, names.index(launch.device))
        assert estimate.makespan_ns == end_ns


@compiled
def ask(s, layout, task, device, found):
    p = kernel.unpack(layout)
    found[0] = kernel.load_ns(s, p, task, device)
    found[1] = kernel.weights_bytes(s, p, device)
    found[2] = kernel.weights_limit_bytes(s, p, device)
    found[3] = kernel.is_resident(s, p, s[kernel.of_task(p.tasks, task, kernel.CELL)], device)


def test_what_is_there_can_be_asked_of_a_plan_in_the_making():
    found, loads = np.zeros(4, dtype=np.int64), 0
    for seed in range(6):
        graph, profile = scarce_world(seed)
        plan, _ = random_placement(graph, profile, seed)
        for count in range(0, len(plan), 4):
            begun = Plan(plan.launches[:count])
            lists = ListGraph(graph, machine_of(profile), begun)
            partial = PartialPlan.of(graph, profile, begun)
            for task in partial.ready:
                for number, device in enumerate(profile.cluster.devices):
                    ask(lists.slots[0], lists.layout.array, task, number, found)
                    load_ns = partial.estimate.load_ns(task, number)
                    held_bytes = partial.estimate.weights_bytes(number)
                    assert found[[0, 1, 3]].tolist() == [load_ns, held_bytes, load_ns == 0]
                    assert held_bytes == 0 or held_bytes <= device.memory_bytes
                    assert held_bytes == 0 or 0 < found[2] < device.memory_bytes
                    loads += load_ns > 0
    assert loads > 20


def test_estimates_are_close_to_the_simulator_where_memory_is_scarce():
    """Without loads the estimate would be short by more than half."""
    errors, loads = [], 0
    for seed in range(60):
        graph, profile = scarce_world(seed, 32)
        plan, estimate = random_placement(graph, profile, seed)
        try:
            trace = simulate(graph, profile, plan)
        except OutOfDeviceMemory:
            continue
        errors.append(abs(estimate.makespan_ns / trace.makespan_ns - 1))
        loads += len(trace.loads)
    assert len(errors) > 50
    assert loads > 100
    assert np.median(errors) < 0.05
