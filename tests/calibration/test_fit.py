"""From observations to profiles, beyond recovery: curves, links, what is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import AffineCost, Cluster, Device, Link
from dynpartition.calibration.fit import fit_profile
from dynpartition.calibration.fit_links import fit_line
from dynpartition.calibration.observations import Launched, Moved, Noted, Observations
from dynpartition.cluster import TableCost
from dynpartition.costs import transfer_ns
from dynpartition.errors import CalibrationError
from tests.calibration.synthetic import CLUSTER, LINKS, NAMES


@settings(deadline=None)
@given(st.integers(500, 10**6), st.integers(10**7, 10**11))
def test_exact_lines_are_fitted_exactly(latency_ns: int, bandwidth: int) -> None:
    cost = AffineCost(latency_ns, bandwidth)
    sizes = np.array([10.0**k for k in range(1, 8)] * 5)
    fitted, _ = fit_line(sizes, np.array([float(transfer_ns(cost, int(size))) for size in sizes]))
    for size in sizes[:7]:
        assert transfer_ns(fitted, int(size)) == pytest.approx(
            transfer_ns(cost, int(size)), rel=0.02, abs=3
        )


def test_one_transfer_size_leaves_the_bandwidth_assumed() -> None:
    cost, parts = fit_line(np.full(20, 1000.0), np.full(20, 5100.0))
    assert cost == AffineCost(5000, 10**10)
    assert parts["bandwidth"].source == "assumed"
    assert parts["latency"].source == "measured"


def seen(**curves: dict[int, float]) -> Observations:
    """Fifty exact launches of every cell and size on each device, and transfers."""
    found = Observations()
    for device in NAMES:
        for cell, points in curves.items():
            for size, ns in points.items():
                for _ in range(50):
                    number = len(found.launches)
                    found.launches.append(Launched(0, number, cell, device, size, ns, 0.0))
    for src, dst in LINKS:
        for _ in range(20):
            found.moves.append(Moved(0, len(found.moves), src, dst, 100, 1000.0))
    return found


def test_batch_curves_have_points_at_powers_of_two_and_at_the_largest_size() -> None:
    line = {size: 1000.0 * size + 9000 for size in (1, 2, 3, 4, 5, 6)}
    curve = fit_profile(CLUSTER, seen(a=line)).profile.cells["a"]["cpu:0"]
    assert curve.batch == (1, 2, 6)  # the largest size takes the last power of two's place
    for size, ns in line.items():
        assert curve.at(size) == pytest.approx(ns, rel=1e-3)


def test_curves_never_fall() -> None:
    curve = fit_profile(CLUSTER, seen(a={1: 10_000.0, 2: 15_000.0, 4: 14_000.0})).profile.cells["a"]
    assert curve["cpu:1"].duration_ns == (10_000, 14_500, 14_500)


def test_points_with_few_launches_are_left_out() -> None:
    few = seen(a={1: 10_000.0, 2: 15_000.0})
    few.launches += [Launched(1, n, "a", "cpu:0", 8, 9e5, 0.0) for n in range(3)]
    curve = fit_profile(CLUSTER, few).profile.cells["a"]["cpu:0"]
    assert curve.batch == (1, 2)


def test_too_few_launches_are_refused_by_name() -> None:
    few = seen(a={1: 10_000.0})
    few.launches += [Launched(1, n, "composer", "cpu:1", 1, 9e5, 0.0) for n in range(3)]
    with pytest.raises(CalibrationError, match=r"'composer'.*only 3 times on cpu:1"):
        fit_profile(CLUSTER, few)


def test_a_cell_that_was_never_alone_in_a_launch_is_refused() -> None:
    with pytest.raises(CalibrationError, match="'b' alone in a launch was measured only 0 times"):
        fit_profile(CLUSTER, seen(a={1: 10_000.0}, b={4: 1000.0}))


def test_a_link_that_was_never_used_is_refused_by_name() -> None:
    with pytest.raises(CalibrationError, match="from cpu:0 to cpu:1"):
        fit_profile(CLUSTER, Observations())


def test_links_that_are_no_line_become_tables_that_never_fall() -> None:
    steps = {64: 1000.0, 1024: 5000.0, 4096: 4900.0, 65_536: 90_000.0, 10**6: 95_000.0}
    bent = seen(a={1: 10_000.0})
    bent.moves = []
    for src, dst in LINKS:
        for size, ns in steps.items():
            bent.moves += [Moved(n, size, src, dst, size, ns) for n in range(20)]
    cost = fit_profile(CLUSTER, bent).profile.cluster.links[0].cost
    assert isinstance(cost, TableCost)
    assert [size for size, _ in cost.points] == list(steps)
    times = [ns for _, ns in cost.points]
    assert times == sorted(times)
    assert times[0] == 1000


def test_surcharges_that_are_not_told_from_nothing_are_nothing() -> None:
    rng = np.random.default_rng(0)
    noisy = seen(a={1: 50_000.0})
    noisy.launches = [
        row._replace(
            ns=row.ns * (1 + 0.05 * rng.standard_normal()), copies_in=n % 3, waited=n % 2 == 0
        )
        for n, row in enumerate(noisy.launches * 4)
    ]
    noisy.launches = [row._replace(run=n) for n, row in enumerate(noisy.launches)]
    dispatch = fit_profile(CLUSTER, noisy).profile.dispatch
    assert dispatch.handoff_ns <= 800
    assert all(cost.latency_ns <= 800 for cost in dispatch.copy_in.values())


def test_one_thread_that_drives_gpus_is_told_by_host_times() -> None:
    """The caller's cpu:0 and a GPU: host mode `single`; the GPU's gaps are the caller's time."""
    devices = (Device("cpu:0", "cpu"), Device("cuda:0", "cuda"))
    pairs = (("cpu:0", "cuda:0"), ("cuda:0", "cpu:0"))
    cluster = Cluster(devices, tuple(Link(*pair, AffineCost(1, 1)) for pair in pairs))
    found = Observations()
    for device in ("cpu:0", "cuda:0"):
        found.launches += [Launched(n, 0, "leaf", device, 1, 1070.0, 70.0) for n in range(10)]
    for src, dst in pairs:
        found.moves += [Moved(n, 0, src, dst, 100, 50.0) for n in range(10)]
    found.notes += [Noted(n, 0, "dispatch of leaf on cuda:0", 300.0) for n in range(10)]
    found.notes += [Noted(n, 0, "push", 40.0) for n in range(10)]
    profile = fit_profile(cluster, found).profile
    dispatch = profile.dispatch
    assert dispatch.host_mode == "single"
    assert dispatch.h == {"leaf": {"cuda:0": 300}}
    assert (dispatch.h_copy, dispatch.handoff_ns) == (40, 0)
    assert profile.cells["leaf"]["cpu:0"].at(1) == 1070
    assert profile.cells["leaf"]["cuda:0"].at(1) == 1000


def test_noise_tells_spread_and_stalls() -> None:
    rng = np.random.default_rng(0)
    found = seen(a={1: 10_000.0})
    times = 10_000 * np.exp(0.1 * rng.standard_normal(4000))
    times[::20] += 200_000
    found.launches = [
        Launched(n, 0, "a", "cpu:0", 1, ns, 0.0) for n, ns in enumerate(times.tolist())
    ]
    found.launches += [row._replace(device="cpu:1") for row in found.launches]
    noise = fit_profile(CLUSTER, found).noise
    assert noise.stall_probability == pytest.approx(0.05, rel=0.2)
    assert noise.stall_ns == pytest.approx(200_000, rel=0.1)
    assert noise.sigma[0][1] == pytest.approx(0.1, rel=0.15)


def test_a_cell_that_only_runs_behind_values_is_priced_with_the_usual_gap() -> None:
    found = Observations()
    for device in CLUSTER.names:
        found.launches += [Launched(n, 0, "a", device, 1, 1070.0, 70.0) for n in range(10)]
        found.late += [Launched(n, 1, "b", device, 1, 500.0, 0.0) for n in range(10)]
        found.late += [Launched(n, 2, "a", device, 1, 9e6, 0.0) for n in range(10)]
    for first, second in (("cpu:0", "cpu:1"), ("cpu:1", "cpu:0")):
        found.moves += [Moved(n, n, first, second, 64, 100.0) for n in range(10)]
    cells = fit_profile(CLUSTER, found).profile.cells
    assert {cell: row["cpu:1"].duration_ns for cell, row in cells.items()} == {
        "a": (1070,),  # others than those behind values are there
        "b": (570,),
    }
