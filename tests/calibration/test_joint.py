"""Re-fitting to makespans finds numbers that were wrong, and every number moves predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynpartition import AffineCost, Curve, Profile, run
from dynpartition.calibration.joint import Job, JobSimulator, refit
from dynpartition.calibration.movable import job_error
from dynpartition.calibration.rollouts import Batched, RandomRollout
from dynpartition.contract import Workload
from dynpartition.models import build_model, generate_inputs
from dynpartition.profile import Dispatch
from dynpartition.sim import SimBackend
from dynpartition.sim.perturb import number_names, rescaled
from tests.calibration.synthetic import CLUSTER, NAMES


def machine(model: str) -> tuple[Profile, list[Workload]]:
    """A machine on which everything costs something."""
    built = build_model(model)
    curves = {
        cell: {
            name: Curve((1, 8), (40_000 + 7_000 * n + 9_000 * at, 150_000 + 20_000 * n))
            for at, name in enumerate(NAMES)
        }
        for n, cell in enumerate(built.cells)
    }
    copies = {name: AffineCost(4000, 10**9) for name in NAMES}
    dispatch = Dispatch(
        host_mode="processes",
        handoff_ns=9000,
        bookkeeping_ns=dict.fromkeys(NAMES, 2500),
        copy_in=copies,
        copy_out=copies,
        first_use_ns={cell: dict.fromkeys(NAMES, 60_000) for cell in built.cells},
        sync_ns=20_000,
        decision_ns=200_000,
    )
    links = tuple(replace(link, cost=AffineCost(9000, 10**8)) for link in CLUSTER.links)
    cluster = replace(CLUSTER, links=links)
    return Profile(cluster, curves, dispatch), list(generate_inputs(built, 8, 0))


def jobs_of(profile: Profile, items: list[Workload], count: int, seed: int) -> list[Job]:
    rng = np.random.default_rng(seed)
    simulator, jobs = SimBackend(profile), []
    for number in range(count):
        item = items[number % len(items)]
        scheduler = RandomRollout(rng, 2)
        outcome = run(simulator, item, Batched(scheduler, 8) if number % 2 else scheduler)
        jobs.append(Job(outcome.graph, outcome.plan, outcome.trace.makespan_ns, 0.002))
    return jobs


@pytest.mark.parametrize("model", ["treelstm", "moe"])
def test_jobs_are_simulated_as_sessions_are(model: str) -> None:
    profile, items = machine(model)
    jobs = jobs_of(profile, items, 12, 0)
    times = JobSimulator(profile, jobs).makespans_ns(profile).tolist()
    assert times == [job.typical_ns for job in jobs]


@pytest.mark.parametrize("model", ["treelstm", "moe"])
@pytest.mark.parametrize("seed", range(3))
def test_wrong_numbers_are_put_right_for_placements_never_seen(model: str, seed: int) -> None:
    truth, items = machine(model)
    rng = np.random.default_rng(seed)
    wrong = rescaled(truth, lambda name: float(np.exp(0.1 * rng.standard_normal())))
    fit, check = jobs_of(truth, items[:5], 40, seed), jobs_of(truth, items[5:], 20, seed + 100)
    again = refit(wrong, fit, dict.fromkeys(number_names(wrong), 0.15))
    before, after = job_error(wrong, check), job_error(again.profile, check)
    assert before is not None
    assert after is not None
    assert after < before / 3
    assert after < 0.01
    assert all(0 < deviation <= 0.151 for deviation in again.deviations.values())


def test_numbers_without_a_prior_stay() -> None:
    truth, items = machine("treelstm")
    wrong = rescaled(truth, lambda name: 1.1)
    again = refit(wrong, jobs_of(truth, items, 10, 0), {"cells/leaf/cpu:0": 0.2})
    assert set(again.factors) == {"cells/leaf/cpu:0"}
    assert again.profile.dispatch == wrong.dispatch
    assert again.profile.cells["composer"] == wrong.cells["composer"]


def test_one_wild_job_does_not_spoil_the_others() -> None:
    truth, items = machine("treelstm")
    jobs = jobs_of(truth, items, 40, 1)
    jobs[3] = replace(jobs[3], typical_ns=3 * jobs[3].typical_ns)
    again = refit(truth, jobs, dict.fromkeys(number_names(truth), 0.1))
    error = job_error(again.profile, jobs_of(truth, items, 20, 2))
    assert error is not None
    assert error < 0.01


@pytest.mark.parametrize("model", ["treelstm", "moe"])
def test_a_change_of_any_number_moves_what_it_should(model: str) -> None:
    """Some prediction moves, by no more than the number's own 10 %, in its own direction."""
    profile, items = machine(model)
    jobs = jobs_of(profile, items, 24, 0)
    simulator = JobSimulator(profile, jobs)
    usual = simulator.makespans_ns(profile)
    unmoved = {"h", "h_copy", "lock"}  # of GPUs and threads; `processes` charges none of them here
    if model == "treelstm":
        unmoved |= {"sync_ns", "decision_ns"}
    for name in number_names(profile):
        moved = simulator.makespans_ns(
            rescaled(profile, lambda other, name=name: 1.1 if other == name else 1.0)
        )
        change = moved / usual - 1
        if name in unmoved:
            assert not change.any(), name
            continue
        sign = -1 if name.endswith("bandwidth") else 1
        assert (sign * change).max() > 1e-5, name
        assert np.abs(change).max() < 0.101, name
