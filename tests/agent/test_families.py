"""Synthetic families: sizes, repeatability, and that what was asked for is what is drawn."""

import numpy as np
import pytest

from dynpartition.agent.families import (
    FAMILIES,
    Ranges,
    Setting,
    draw_calls,
    draw_setting,
    draw_world,
)
from dynpartition.agent.machines import WIRINGS, Machine
from dynpartition.agent.registry import make_scheduler
from dynpartition.contract import GraphWorkload, run
from dynpartition.errors import GraphError, ProfileError
from dynpartition.profile import PricedGraph
from dynpartition.sim.backend import SimBackend
from dynpartition.validator import check_trace


def rng_of(*seed):
    return np.random.default_rng(np.random.SeedSequence(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_gives_as_many_tasks_as_asked_for_whose_inputs_come_earlier(family):
    for n_tasks in (*range(1, 20), 33, 64, 300):
        calls = draw_calls(family, n_tasks, rng_of(1, n_tasks))
        assert len(calls) == n_tasks
        for number, call in enumerate(calls):
            assert all(source < number for source in call.inputs)
            assert len(set(call.inputs)) == len(call.inputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_seed_gives_one_world_and_another_seed_another(family):
    setting = Setting(family=family, n_tasks=24, spread=0.2, host_data=True)
    first, again, other = (draw_world(setting, rng_of(5, seed)) for seed in (0, 0, 1))
    assert first.graph.digest == again.graph.digest
    assert first.profile == again.profile
    assert first.graph.digest != other.graph.digest
    assert first.profile != other.profile


@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0])
def test_the_communication_ratio_is_that_of_the_edges_and_durations(ratio):
    for family in FAMILIES:
        setting = Setting(family=family, n_tasks=64, machine=Machine(ratio=ratio, wiring="bus"))
        graph, profile = draw_world(setting, rng_of(2))
        if not len(graph.inputs.values):
            continue
        priced = PricedGraph(graph, profile)
        links = range(len(profile.cluster.links))
        sizes = graph.output_bytes[graph.inputs.values].tolist()
        mean_ns = np.mean([priced.transfer_ns(link, size) for size in sizes for link in links])
        assert mean_ns / priced.task_ns.mean() == pytest.approx(ratio, rel=0.01)


def test_devices_are_as_unequal_as_asked_for():
    machine = Machine(speeds=(1.0, 3.0, 8.0), affinity=0.0)
    graph, profile = draw_world(Setting(family="layered", machine=machine), rng_of(3))
    slowness = PricedGraph(graph, profile).task_ns.mean(axis=0)
    assert slowness[0] / slowness == pytest.approx([1, 3, 8], rel=0.01)
    assert [device.kind for device in profile.cluster.devices] == ["cpu", "cuda", "cuda"]


@pytest.mark.parametrize("wiring", WIRINGS)
def test_what_links_share_is_what_the_wiring_says(wiring):
    machine = Machine(wiring=wiring, speeds=(1.0, 2.0, 4.0))
    _, profile = draw_world(Setting(machine=machine), rng_of(4))
    held = [link.held for link in profile.cluster.links]
    assert len(held) == 6
    shared = len({name for row in held for name in row})
    assert shared == {"links": 6, "ports": 6, "pcie": 4, "bus": 1}[wiring]


def test_reveals_hide_what_routers_decide():
    graph, _ = draw_world(Setting(family="moe", n_tasks=32, reveals=True), rng_of(5))
    assert {graph.cell_name(task) for task in graph.revealers} == {"router"}
    plain, _ = draw_world(Setting(family="moe", n_tasks=32), rng_of(5))
    assert not plain.revealers


def test_worlds_of_any_setting_can_be_run_and_are_valid():
    modes = ("none", "single", "threads", "processes", "replay")
    ranges = Ranges(n_tasks=(1, 24), host_modes=modes, host_data_share=0.5, batch_share=0.5)
    rng = rng_of(6)
    for _ in range(40):
        graph, profile = draw_world(draw_setting(ranges, rng), rng)
        outcome = run(SimBackend(profile), GraphWorkload(graph), make_scheduler("round-robin"))
        check_trace(graph, profile, outcome.plan, outcome.trace)


def test_memory_is_scarce_only_where_asked_for():
    machine = Machine(memory_share=0.5, staging=True, blocks=True)
    graph, profile = draw_world(Setting(family="moe", machine=machine), rng_of(7))
    weights = sum(cell.param_bytes for cell in graph.cells)
    cpu, *gpus = profile.cluster.devices
    assert cpu.memory_bytes is None
    made = int(graph.output_bytes.sum())
    assert all(made < gpu.memory_bytes < made + weights for gpu in gpus)


@pytest.mark.parametrize(
    ("setting", "error", "words"),
    [
        (Setting(family="in-trees"), GraphError, "no family is named 'in-trees'; did you mean"),
        (Setting(n_tasks=0), GraphError, "a graph of 0 tasks cannot be drawn"),
        (Setting(machine=Machine(wiring="busses")), ProfileError, "no wiring is named 'busses'"),
        (Setting(machine=Machine(host_mode="double")), ProfileError, "no host mode is named"),
        (Setting(machine=Machine(speeds=())), ProfileError, "give each device one above 0"),
        (Setting(machine=Machine(ratio=0.0)), ProfileError, "must be above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(setting, error, words):
    with pytest.raises(error, match=words):
        draw_world(setting, rng_of(8))


def test_first_uses_cost_what_was_asked_for():
    machine = Machine(first_use=2.0, task_ns=1000.0, speeds=(1.0, 2.0, 4.0, 4.0))
    setting = Setting(family="moe", n_tasks=64, machine=machine)
    costs = []
    for seed in range(20):
        graph, profile = draw_world(setting, rng_of(4, seed))
        used = profile.dispatch.first_use_on
        costs += [used(cell, name) for cell in graph.cell_names for name in profile.cluster.names]
    assert np.mean(costs) == pytest.approx(2000, rel=0.15)
    assert min(costs) < 400 < 4000 < max(costs)
    plain = Setting(family="moe", n_tasks=64)
    assert not draw_world(plain, rng_of(4, 0)).profile.dispatch.first_use_ns
