"""Domain randomisation: the factors' statistics, and what each one is keyed by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import correlation, fmean, median, stdev

import pytest

from dynpartition import AffineCost, Cluster, Curve, Device, Dispatch, Link, Profile, TableCost
from dynpartition.sim import perturbed

LARGE = 10**12
"""So large that rounding does not count."""
NAMES = ("cpu:0", "cuda:0", "cuda:1")
N = 4000


def profile_of(*names: str, cells: str = "ab", uncertainty: float = 0.2) -> Profile:
    devices = tuple(Device(name, "cpu" if name < "cq" else "cuda") for name in names)
    links = tuple(Link(a, b, AffineCost(LARGE, LARGE)) for a in names for b in names if a != b)
    return Profile(
        Cluster(devices, links),
        {
            cell: {name: Curve((1, 2, 4), (LARGE, 2 * LARGE, 4 * LARGE)) for name in names}
            for cell in cells
        },
        Dispatch(
            host_mode="threads",
            h={cell: dict.fromkeys(names, LARGE) for cell in cells},
            h_copy=LARGE,
            lock=0.5,
            bookkeeping_ns=dict.fromkeys(names, LARGE),
            copy_in=dict.fromkeys(names, AffineCost(LARGE, LARGE)),
            copy_out=dict.fromkeys(names, AffineCost(LARGE, LARGE)),
            sync_ns=LARGE,
            decision_ns=LARGE,
        ),
        uncertainty=uncertainty,
    )


def first_curve(profile: Profile) -> int:
    return profile.cells["a"]["cpu:0"].duration_ns[0]


def first_cost(profile: Profile) -> AffineCost:
    cost = profile.cluster.links[0].cost
    assert isinstance(cost, AffineCost)
    return cost


READERS: dict[str, Callable[[Profile], float]] = {
    "curve": first_curve,
    "latency": lambda profile: first_cost(profile).latency_ns,
    "bandwidth": lambda profile: first_cost(profile).bandwidth_bytes_per_s,
    "sync": lambda profile: profile.dispatch.sync_ns,
    "copy-in": lambda profile: profile.dispatch.copy_in["cuda:0"].latency_ns,
    "copy-out": lambda profile: profile.dispatch.copy_out["cuda:0"].latency_ns,
}


@pytest.fixture(scope="module")
def drawn() -> Mapping[str, list[float]]:
    """What N machines have of some numbers, as ln of the factor."""
    machines = [perturbed(profile_of("cpu:0", "cuda:0"), seed) for seed in range(N)]
    return {
        name: [math.log(read(machine) / LARGE) for machine in machines]
        for name, read in READERS.items()
    }


@pytest.mark.parametrize("name", READERS)
def test_factors_have_median_1_and_the_uncertainty_as_spread(
    drawn: Mapping[str, list[float]], name: str
) -> None:
    """ln of a factor is normal with mean 0 and σ 0.2; within 4 standard errors."""
    error = 0.2 / math.sqrt(N)
    assert fmean(drawn[name]) == pytest.approx(0, abs=4 * error)
    assert median(drawn[name]) == pytest.approx(0, abs=4 * 1.2533 * error)
    assert stdev(drawn[name]) == pytest.approx(0.2, rel=4 / math.sqrt(2 * N))


def test_factors_of_different_numbers_are_independent(drawn: Mapping[str, list[float]]) -> None:
    names = list(READERS)
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            assert abs(correlation(drawn[one], drawn[other])) < 4.5 / math.sqrt(N)


def test_the_same_seed_gives_the_same_machine() -> None:
    profile = profile_of(*NAMES)
    assert perturbed(profile, 3) == perturbed(profile, 3)
    assert perturbed(profile, 3) != perturbed(profile, 4)


def test_without_uncertainty_the_profile_itself_comes_back() -> None:
    exact = profile_of(*NAMES, uncertainty=0.0)
    assert perturbed(exact, 1) is exact
    assert perturbed(exact, 1, uncertainty=0.1) != exact
    vague = profile_of(*NAMES)
    assert perturbed(vague, 1, uncertainty=0.0) is vague


def test_an_uncertainty_of_its_own_takes_the_place_of_the_profile_s() -> None:
    given = perturbed(profile_of(*NAMES, uncertainty=0.0), 1, uncertainty=0.2)
    own = perturbed(profile_of(*NAMES, uncertainty=0.2), 1)
    assert (given.cells, given.cluster, given.dispatch) == (own.cells, own.cluster, own.dispatch)


def test_another_device_changes_no_other_factor() -> None:
    two, three = (perturbed(profile_of(*NAMES[:n]), 5) for n in (2, 3))
    for cell in "ab":
        assert two.cells[cell].items() <= three.cells[cell].items()
    assert set(two.cluster.links) <= set(three.cluster.links)
    for table in ("copy_in", "copy_out", "bookkeeping_ns"):
        assert getattr(two.dispatch, table).items() <= getattr(three.dispatch, table).items()
    assert isinstance(two.dispatch.h, dict) and isinstance(three.dispatch.h, dict)
    assert two.dispatch.h["a"].items() <= three.dispatch.h["a"].items()
    assert two.dispatch.sync_ns == three.dispatch.sync_ns


def test_another_cell_changes_no_other_factor() -> None:
    one, two = (perturbed(profile_of(*NAMES, cells=cells), 5) for cells in ("a", "ab"))
    assert one.cells["a"] == two.cells["a"]
    assert one.cluster == two.cluster
    assert two.cells["a"] != two.cells["b"]


def test_a_batch_curve_keeps_its_shape() -> None:
    curve = perturbed(profile_of(*NAMES), 8).cells["b"]["cuda:1"]
    first, second, last = curve.duration_ns
    assert second == pytest.approx(2 * first, rel=1e-9)
    assert last == pytest.approx(4 * first, rel=1e-9)


def test_a_table_of_transfer_times_keeps_its_shape_and_stays_positive() -> None:
    cost = TableCost(((1, 1), (1000, LARGE)))
    cluster = Cluster((Device("cpu:0", "cpu"), Device("cuda:0", "cuda")), (Link(*NAMES[:2], cost),))
    for seed in range(50):
        drawn_cost = perturbed(Profile(cluster, {}), seed, uncertainty=0.9).cluster.links[0].cost
        assert isinstance(drawn_cost, TableCost)
        assert [size for size, _ in drawn_cost.points] == [1, 1000]
        assert all(ns >= 1 for _, ns in drawn_cost.points)


def test_extremes_stay_legal() -> None:
    """A share stays a share, a bandwidth positive, a time within what files may hold."""
    profile = replace(
        profile_of(*NAMES), dispatch=Dispatch(lock=0.9, sync_ns=10**15, h=3, bookkeeping_ns=5)
    )
    slow = Link("cpu:0", "cuda:0", AffineCost(0, 1))
    profile = replace(profile, cluster=replace(profile.cluster, links=(slow,)))
    for seed in range(200):
        machine = perturbed(profile, seed, uncertainty=3.0)
        assert 0 <= machine.dispatch.lock <= 1
        assert machine.dispatch.sync_ns <= 10**15
        cost = first_cost(machine)
        assert cost.latency_ns == 0
        assert cost.bandwidth_bytes_per_s >= 1


def test_what_is_no_number_stays() -> None:
    profile = profile_of(*NAMES)
    machine = perturbed(profile, 2)
    assert machine.cluster.devices == profile.cluster.devices
    assert machine.dispatch.host_mode == "threads"
    assert machine.dispatch.queue_depth is None
    assert machine.uncertainty == profile.uncertainty
