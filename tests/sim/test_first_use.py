"""The first launch of a cell on a device takes longer, in every engine alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynpartition import AffineCost, Cell, Cluster, Curve, Device, Link, Profile, Task, TaskGraph
from dynpartition.plan import single_task_plan
from dynpartition.profile import Dispatch, PricedGraph
from dynpartition.sim import reference
from dynpartition.sim.engine import simulate_compiled
from dynpartition.sim.evaluate import evaluate_many
from dynpartition.sim.prepared import PreparedGraph
from dynpartition.sim.worlds import find_difference, outcome, random_world
from dynpartition.trace import Trace
from dynpartition.validator import check_trace
from tests.sim.test_kernel_evaluate import as_plan, makespan, plainly, random_plan


def test_only_the_first_launch_of_a_cell_on_a_device_pays() -> None:
    """Four tasks of cell a, 10 ns each; the first use costs 5 on cpu:0 and 7 on cpu:1.

    cpu:0   |0: 0 15|1: 15 25|
    cpu:1   |2: 0 17|3: 17 27|
    """
    graph = TaskGraph.from_tasks("four", [Cell("a")], [Task(id=n, cell="a") for n in range(4)])
    devices = (Device("cpu:0", "cpu"), Device("cpu:1", "cpu"))
    curves = {"a": {device.name: Curve((1,), (10,)) for device in devices}}
    dispatch = Dispatch(first_use_ns={"a": {"cpu:0": 5, "cpu:1": 7}})
    profile = Profile(
        Cluster(devices, (Link("cpu:0", "cpu:1", AffineCost(1, 1)),)), curves, dispatch
    )
    plan = single_task_plan([(0, "cpu:0"), (1, "cpu:0"), (2, "cpu:1"), (3, "cpu:1")])
    trace = reference.simulate(graph, profile, plan)
    spans = [(span.device, span.start_ns, span.end_ns) for span in trace.launches]
    assert spans == [("cpu:0", 0, 15), ("cpu:0", 15, 25), ("cpu:1", 0, 17), ("cpu:1", 17, 27)]
    assert simulate_compiled(graph, profile, plan) == trace
    check_trace(graph, profile, plan, trace, exact_durations=True)


def with_first_uses(profile: Profile, seed: int) -> Profile:
    random = np.random.default_rng(seed)
    table = {
        cell: {name: int(random.integers(0, 50)) for name in curves if random.random() < 0.8}
        for cell, curves in profile.cells.items()
    }
    return replace(profile, dispatch=replace(profile.dispatch, first_use_ns=table))


@pytest.mark.parametrize("seed", range(60))
def test_engines_and_validator_agree_on_random_worlds(seed: int) -> None:
    world = random_world(seed)
    world = replace(world, profile=with_first_uses(world.profile, seed))
    assert find_difference(reference.simulate, simulate_compiled, world) is None
    trace = outcome(reference.simulate, world)
    if isinstance(trace, Trace):
        asked = {"exact_durations": True, "conditions": world.conditions}
        check_trace(world.graph, world.profile, world.plan, trace, **asked)


def test_compiled_lowering_prices_first_uses() -> None:
    random = np.random.default_rng(0)
    checked = costs = 0
    for seed in range(200):
        world = random_world(seed)
        graph, plain = plainly(world.graph, world.profile)
        profile = with_first_uses(plain, seed)
        prepared = PreparedGraph(PricedGraph(graph, profile))
        assert prepared.is_quick
        choices = random_plan(graph, len(profile.cluster.devices), random)
        expected = makespan(graph, profile, as_plan(choices, profile))
        if expected is not None:
            assert evaluate_many([prepared], [choices], profile).tolist() == [expected]
            costs += expected != makespan(graph, plain, as_plan(choices, plain))
            checked += 1
    assert checked > 50
    assert costs > 20
