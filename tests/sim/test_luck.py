"""Noise: the statistics of its draws, and what they depend on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynpartition import Cell, Cluster, Curve, Device, Launch, Plan, Profile, Task, TaskGraph
from dynpartition.conditions import Conditions
from dynpartition.luck import Luck, sigma_at
from dynpartition.profile import Noise
from dynpartition.sim import simulate

N = 20_000
EXPECTED_NS = 10**9


def factors(noise: Noise, *, device: str = "cpu:0", seed: int = 0, key: str = "g") -> list[float]:
    """Return by how much N launches last longer than expected."""
    luck = Luck(noise, seed=seed, graph_key=key)
    return [luck.duration_ns(EXPECTED_NS, device=device, task_id=n) / EXPECTED_NS for n in range(N)]


@pytest.mark.parametrize("sigma", [0.02, 0.2, 0.6])
def test_the_mean_stays_and_the_spread_is_sigma(sigma: float) -> None:
    """Log-normal with mean 1: ln is normal with mean -σ²/2; all within 4 standard errors."""
    drawn = factors(Noise(sigma=((1, sigma),)))
    deviation = math.sqrt(math.exp(sigma * sigma) - 1)
    assert fmean(drawn) == pytest.approx(1, abs=4 * deviation / math.sqrt(N))
    logs = [math.log(factor) for factor in drawn]
    assert fmean(logs) == pytest.approx(-sigma * sigma / 2, abs=4 * sigma / math.sqrt(N))
    assert stdev(logs) == pytest.approx(sigma, rel=4 / math.sqrt(2 * N))


def test_without_sigma_nothing_varies() -> None:
    assert set(factors(Noise())) == {1.0}


def test_stalls_come_as_often_as_they_should_and_add_up() -> None:
    drawn = factors(Noise(stall_probability=0.1, stall_ns=EXPECTED_NS))
    assert set(drawn) == {1.0, 2.0}
    assert fmean(drawn) - 1 == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / N))


def test_stalls_do_not_depend_on_the_spread() -> None:
    """Correlation of two independent sequences: within 4 / √n."""
    spread = factors(Noise(sigma=((1, 0.2),)))
    both = factors(Noise(sigma=((1, 0.2),), stall_probability=0.5, stall_ns=EXPECTED_NS))
    stalled = [b - a > 0.5 for a, b in zip(spread, both, strict=True)]
    assert abs(correlation(spread, stalled)) < 4 / math.sqrt(N)


@pytest.mark.parametrize(
    "other", [{"device": "cpu:1"}, {"seed": 1}, {"key": "h"}, {"device": "cpu:00"}]
)
def test_other_devices_seeds_and_graphs_draw_independently(other: dict[str, object]) -> None:
    noise = Noise(sigma=((1, 0.2),))
    one, two = factors(noise), factors(noise, **other)  # type: ignore[arg-type]
    assert abs(correlation(one, two)) < 4 / math.sqrt(N)


def test_neighbouring_tasks_draw_independently() -> None:
    drawn = factors(Noise(sigma=((1, 0.2),)))
    assert abs(correlation(drawn[:-1], drawn[1:])) < 4 / math.sqrt(N)


def correlation(one: Sequence[float], two: Sequence[float]) -> float:
    mean_one, mean_two = fmean(one), fmean(two)
    products = ((a - mean_one) * (b - mean_two) for a, b in zip(one, two, strict=True))
    return fmean(products) / (stdev(one) * stdev(two))


def test_draws_do_not_depend_on_their_order() -> None:
    noise = Noise(sigma=((1, 0.3),), stall_probability=0.3, stall_ns=7)
    forward = factors(noise)[:50]
    luck = Luck(noise, seed=0, graph_key="g")
    backward = [
        luck.duration_ns(EXPECTED_NS, device="cpu:0", task_id=n) / EXPECTED_NS
        for n in reversed(range(50))
    ]
    assert backward[::-1] == forward


# σ

TWO_POINTS = Noise(sigma=((1_000, 0.4), (1_000_000, 0.1)))


@pytest.mark.parametrize(
    ("duration_ns", "sigma"),
    [(0, 0.4), (1, 0.4), (1_000, 0.4), (10_000, 0.3), (100_000, 0.2), (10**6, 0.1), (10**12, 0.1)],
)
def test_sigma_is_linear_in_the_logarithm_and_constant_beyond(
    duration_ns: int, sigma: float
) -> None:
    assert sigma_at(TWO_POINTS, duration_ns) == pytest.approx(sigma)


@given(st.integers(0, 10**9))
def test_sigma_stays_between_its_points(duration_ns: int) -> None:
    assert 0.1 <= sigma_at(TWO_POINTS, duration_ns) <= 0.4


# In runs

NAMES = ("cpu:0", "cpu:1")
NOISY = Profile(
    Cluster(tuple(Device(name, "cpu") for name in NAMES)),
    {"cell": {name: Curve((1, 2), (10_000, 20_000)) for name in NAMES}},
    noise=Noise(sigma=((1, 0.3),), stall_probability=0.3, stall_ns=5_000),
)


def graph_of(ids: Sequence[int], name: str = "world", size: int = 0) -> TaskGraph:
    tasks = [Task(id=number, cell="cell", output_bytes=size) for number in ids]
    return TaskGraph.from_tasks(name, [Cell("cell")], tasks)


def durations(graph: TaskGraph, *places: tuple[str, tuple[int, ...]], seed: int = 0) -> list[int]:
    plan = Plan(tuple(Launch(device, tasks) for device, tasks in places))
    trace = simulate(graph, NOISY, plan, conditions=Conditions(seed=seed))
    return [span.end_ns - span.start_ns for span in trace.launches]


def test_two_plans_meet_the_same_luck_where_they_choose_the_same() -> None:
    graph = graph_of(range(3))
    one = durations(graph, ("cpu:0", (0,)), ("cpu:0", (1,)), ("cpu:1", (2,)))
    two = durations(graph, ("cpu:1", (2,)), ("cpu:0", (1,)), ("cpu:1", (0,)))
    assert (one[1], one[2]) == (two[1], two[0])
    assert one[0] != two[2]  # another device


def test_a_batch_has_the_luck_of_its_smallest_id_in_any_order() -> None:
    graph = graph_of([5, 6, 7])
    one = durations(graph, ("cpu:0", (2, 1)), ("cpu:1", (0,)))
    two = durations(graph, ("cpu:0", (1, 2)), ("cpu:1", (0,)))
    assert one == two
    luck = Luck(NOISY.noise or Noise(), seed=0, graph_key=graph.digest)
    assert one[0] == luck.duration_ns(20_000, device="cpu:0", task_id=6)
    assert one[1] == luck.duration_ns(10_000, device="cpu:1", task_id=5)


def test_luck_is_keyed_by_what_a_graph_holds_not_by_its_name() -> None:
    place = ("cpu:0", (0,))
    assert durations(graph_of([0]), place) == durations(graph_of([0], "other"), place)
    assert durations(graph_of([0]), place) != durations(graph_of([0], size=1), place)
    assert durations(graph_of([0]), place) != durations(graph_of([0]), place, seed=1)


def test_a_key_of_its_own_takes_the_place_of_the_graph() -> None:
    plan = Plan((Launch("cpu:0", (0,)),))
    traces = [
        simulate(graph_of([0], size=size), NOISY, plan, conditions=Conditions(luck="key"))
        for size in (0, 1)
    ]
    assert traces[0] == traces[1]


def test_what_costs_nothing_may_still_stall() -> None:
    free = replace(NOISY, cells={"cell": {"cpu:0": Curve((1,), (0,))}})
    always = replace(free, noise=Noise(sigma=((1, 0.5),), stall_probability=1.0, stall_ns=9))
    trace = simulate(graph_of([0]), always, Plan((Launch("cpu:0", (0,)),)))
    assert trace.makespan_ns == 9
