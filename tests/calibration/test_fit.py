"""Known parameters are recovered from noisy samples, on synthetic devices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import Cluster, Device, Link
from dynpartition.calibration.fit import fit_affine, fit_profile, typical_ns
from dynpartition.calibration.samples import Samples
from dynpartition.cluster import AffineCost
from dynpartition.costs import transfer_ns
from dynpartition.errors import CalibrationError

CLUSTER = Cluster(
    (Device("cpu:0", "cpu"), Device("cpu:1", "cpu")),
    (
        Link("cpu:0", "cpu:1", AffineCost(0, 1), blocks="src"),
        Link("cpu:1", "cpu:0", AffineCost(0, 1), blocks="src"),
    ),
)
SIZES = (12, 1200, 60_000)


def noisy(rng: np.random.Generator, truth_ns: float, count: int = 200) -> list[int]:
    """Return samples with 5 % noise, of which one in twenty is a stall of 15 to 30 times."""
    values = truth_ns * (1 + 0.05 * rng.standard_normal(count))
    stalled = rng.random(count) < 0.05
    values[stalled] *= rng.uniform(15, 30, stalled.sum())
    return [max(0, round(value)) for value in values]


@pytest.mark.parametrize("seed", range(20))
def test_parameters_are_recovered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cells = {(cell, d): int(rng.integers(10_000, 200_000)) for cell in "ab" for d in CLUSTER.names}
    cost = AffineCost(int(rng.integers(1000, 20_000)), int(rng.integers(1e9, 2e10)))
    bookkeeping_ns, handoff_ns = (int(x) for x in rng.integers(1000, 9000, 2))
    samples = Samples()
    for (cell, device), truth_ns in cells.items():
        samples.launches[cell, device, 1] += noisy(rng, truth_ns)
    for link in CLUSTER.links:
        for size in SIZES:
            samples.transfers[link.src, link.dst, size] += noisy(rng, transfer_ns(cost, size))
    for device in CLUSTER.names:
        samples.gaps[device] += noisy(rng, bookkeeping_ns)
        samples.waits[device] += noisy(rng, bookkeeping_ns + handoff_ns)
    profile = fit_profile(CLUSTER, samples, {"origin": "synthetic"})
    for (cell, device), truth_ns in cells.items():
        assert profile.cells[cell][device].at(1) == pytest.approx(truth_ns, rel=0.05)
    for link in profile.cluster.links:
        for size in SIZES:
            assert transfer_ns(link.cost, size) == pytest.approx(transfer_ns(cost, size), rel=0.07)
    assert profile.dispatch.bookkeeping_on("cpu:1") == pytest.approx(bookkeeping_ns, rel=0.05)
    assert profile.dispatch.handoff_ns == pytest.approx(handoff_ns, rel=0.1, abs=600)


@settings(deadline=None)
@given(st.integers(500, 10**6), st.integers(10**7, 10**11))
def test_exact_lines_are_fitted_exactly(latency_ns: int, bandwidth: int) -> None:
    cost = AffineCost(latency_ns, bandwidth)
    sizes = [10**k for k in range(1, 8)]
    fitted = fit_affine({size: transfer_ns(cost, size) for size in sizes})
    for size in sizes:
        assert transfer_ns(fitted, size) == pytest.approx(transfer_ns(cost, size), rel=0.02, abs=3)


def test_stalls_do_not_count_but_cold_starts_and_repeats_do() -> None:
    assert typical_ns([100] * 60 + [5000] * 40) == 100
    assert typical_ns([100] * 90 + [400] * 10) == 130
    assert typical_ns([200, 300] * 50) == 250


def test_one_transfer_size_leaves_the_bandwidth_assumed() -> None:
    fitted = fit_affine({1000: 5100})
    assert fitted == AffineCost(5000, 10**10)


def test_too_few_samples_are_refused_by_name() -> None:
    samples = Samples()
    samples.launches["composer", "cpu:1", 1] += [5, 6, 7]
    for link in CLUSTER.links:
        samples.transfers[link.src, link.dst, 8] += [5] * 20
    with pytest.raises(CalibrationError, match=r"'composer'.*only 3 times on cpu:1"):
        fit_profile(CLUSTER, samples, {})


def test_a_link_that_was_never_used_is_refused_by_name() -> None:
    with pytest.raises(CalibrationError, match="from cpu:0 to cpu:1"):
        fit_profile(CLUSTER, Samples(), {})


def test_batch_curves_have_a_point_where_there_were_enough_samples_and_never_fall() -> None:
    samples = samples_of_a_cell()
    for k, duration_ns, count in ((2, 15_000, 50), (4, 14_000, 50), (8, 40_000, 3)):
        for device in CLUSTER.names:
            samples.launches["a", device, k] += [duration_ns] * count
    curve = fit_profile(CLUSTER, samples, {}).cells["a"]["cpu:0"]
    assert (curve.batch, curve.duration_ns) == ((1, 2, 4), (10_000, 15_000, 15_000))


def test_a_cell_that_was_never_alone_in_a_launch_is_refused() -> None:
    samples = samples_of_a_cell()
    samples.launches["b", "cpu:1", 4] += [1_000] * 50
    with pytest.raises(CalibrationError, match="'b' alone in a launch was measured only 0 times"):
        fit_profile(CLUSTER, samples, {})


def samples_of_a_cell() -> Samples:
    samples = Samples()
    for device in CLUSTER.names:
        samples.launches["a", device, 1] += [10_000] * 50
    for link in CLUSTER.links:
        samples.transfers[link.src, link.dst, 100] += [1_000] * 50
    return samples


def test_one_thread_that_drives_gpus_is_told_by_host_times():
    """The caller's cpu:0 and a GPU: host mode `single`; the GPU's gaps are the caller's time."""
    devices = (Device("cpu:0", "cpu"), Device("cuda:0", "cuda"))
    links = (
        Link("cpu:0", "cuda:0", AffineCost(1, 1)),
        Link("cuda:0", "cpu:0", AffineCost(1, 1)),
    )
    samples = Samples()
    for device in ("cpu:0", "cuda:0"):
        samples.launches["leaf", device, 1] = [1000] * 10
        samples.gaps[device] = [70] * 10
    for pair in (("cpu:0", "cuda:0"), ("cuda:0", "cpu:0")):
        samples.transfers[(*pair, 100)] = [50] * 10
    samples.dispatches["leaf", "cuda:0"] = [300] * 10
    samples.pushes = [40] * 10
    dispatch = fit_profile(Cluster(devices, links), samples, {}).dispatch
    assert dispatch.host_mode == "single"
    assert dispatch.h == {"leaf": {"cuda:0": 300}}
    assert dispatch.h_copy == 40
    assert dispatch.bookkeeping_ns == {"cpu:0": 70}
