"""Runs correct a profile: numbers that are wrong are found, also from few and noisy runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynpartition import Curve, Profile, TableCost, run
from dynpartition.calibration.correcting import Correction
from dynpartition.calibration.movable import job_error
from dynpartition.calibration.refitting import numbers_in
from dynpartition.calibration.rollouts import Batched, RandomRollout
from dynpartition.contract import Workload
from dynpartition.formats import find_profile
from dynpartition.models import build_model, generate_inputs
from dynpartition.profile import Noise
from dynpartition.sim import SimBackend
from dynpartition.sim.perturb import rescaled
from tests.calibration.synthetic import NAMES
from tests.calibration.test_joint import jobs_of, machine

TIMED = ("cells", "links", "bookkeeping", "copy_in", "copy_out", "first_use")


def learn(correction: Correction, truth: Profile, items: list[Workload], count: int, seed: int):
    rng = np.random.default_rng(seed)
    simulator = SimBackend(truth)
    for number in range(count):
        item, scheduler = items[number % len(items)], RandomRollout(rng, len(truth.cluster.names))
        outcome = run(simulator, item, Batched(scheduler, 8) if number % 2 else scheduler)
        correction.note(item, outcome)
    return correction.corrected()


def wrong_everywhere(truth: Profile, seed: int, by: float = 0.3) -> Profile:
    """Every number that launches and transfers are made of is off by up to 30 %."""
    rng = np.random.default_rng(seed)

    def factor(name: str) -> float:
        return float(1 + by * rng.uniform(-1, 1)) if name.partition("/")[0] in TIMED else 1.0

    return rescaled(truth, factor)


def worst(found: Profile, truth: Profile, *kinds: str) -> float:
    """Return the largest relative error of numbers of these kinds."""
    mine, right = numbers_in(found), numbers_in(truth)
    names = [name for name, value in right.items() if value and name.startswith(kinds)]
    return max(abs(mine[name] / right[name] - 1) for name in names)


@pytest.mark.parametrize("model", ["treelstm", "moe"])
@pytest.mark.parametrize("seed", range(3))
def test_exact_runs_tell_the_truth(model: str, seed: int) -> None:
    """Also of placements never run. Cells that run once a run are one with their first use."""
    truth, items = machine(model)
    wrong = wrong_everywhere(truth, seed)
    found = learn(Correction(wrong), truth, items[:5], 40, seed)
    new = jobs_of(truth, items[5:], 20, seed + 100)
    before, after = job_error(wrong, new), job_error(found, new)
    assert before is not None
    assert after is not None
    assert after < before / 5
    assert after < 0.005
    assert worst(found, truth, "links") < 0.01
    if model == "treelstm":
        assert worst(found, truth, "cells") < 0.01


@pytest.mark.parametrize("host_mode", ["none", "single", "threads", "replay"])
def test_waiting_for_the_host_is_no_part_of_a_launch(host_mode: str) -> None:
    truth, items = machine("treelstm")
    truth = replace(truth, dispatch=replace(truth.dispatch, host_mode=host_mode, lock=0.5))
    found = learn(Correction(wrong_everywhere(truth, 1, 0.1)), truth, items, 30, 1)
    assert worst(found, truth, "cells") < 0.03


@pytest.mark.parametrize("seed", range(2))
def test_one_host_that_drives_gpus(seed: int) -> None:
    """Its numbers are off by 30 % too, and its waits are not taken for durations."""
    truth = find_profile("synthetic-cpu-2gpu")
    items = list(generate_inputs(build_model("treelstm"), 12, 0))
    wrong = wrong_everywhere(truth, seed)
    found = learn(Correction(wrong), truth, items, 24, seed)
    called = tuple(f"cells/{cell}/" for cell in build_model("treelstm").cells)
    assert worst(wrong, truth, *called) > 0.15
    assert worst(found, truth, *called) < 0.02


def test_noise_and_stalls_are_told_from_numbers() -> None:
    truth, items = machine("treelstm")
    noisy = replace(
        truth, noise=Noise(sigma=((1, 0.1),), stall_probability=0.05, stall_ns=2_000_000)
    )
    wrong = replace(wrong_everywhere(truth, 2), noise=noisy.noise)
    found = learn(Correction(wrong), noisy, items, 60, 2)
    assert worst(wrong, truth, "cells") > 0.15
    assert worst(found, truth, "cells") < 0.06


def test_tables_of_links_keep_their_shape() -> None:
    truth, items = machine("treelstm")
    cost = TableCost(((64, 9_000), (4096, 14_000), (65536, 90_000)))
    links = tuple(replace(link, cost=cost) for link in truth.cluster.links)
    truth = replace(truth, cluster=replace(truth.cluster, links=links))
    found = learn(Correction(wrong_everywhere(truth, 3)), truth, items, 20, 3)
    assert worst(found, truth, "links") < 0.01


def test_what_has_not_run_moves_with_its_device() -> None:
    """One cell is never seen; the others on its device take 30 % longer than was said."""
    truth, items = machine("treelstm")
    slow = NAMES[1]
    unseen = {name: Curve((1,), (50_000,)) for name in NAMES}
    truth = replace(truth, cells={**truth.cells, "unseen": unseen})
    wrong = rescaled(truth, lambda name: 1 / 1.3 if name.endswith(f"/{slow}") else 1.0)
    found = learn(Correction(wrong), truth, items, 10, 4)
    assert found.cells["unseen"][NAMES[0]].at(1) == pytest.approx(50_000, rel=0.05)
    assert found.cells["unseen"][slow].at(1) > 1.15 * wrong.cells["unseen"][slow].at(1)


def test_without_runs_nothing_changes() -> None:
    truth, items = machine("treelstm")
    correction = Correction(truth)
    assert correction.corrected() == truth
    assert correction.dump() == b""
    right = learn(correction, truth, items, 4, 0)
    assert worst(right, truth, *TIMED) < 0.005


@pytest.mark.parametrize("model", ["treelstm", "moe"])
def test_runs_are_taken_up_again(model: str) -> None:
    truth, items = machine(model)
    first = Correction(wrong_everywhere(truth, 5))
    found = learn(first, truth, items, 6, 5)
    again = Correction(wrong_everywhere(truth, 5))
    again.restore(first.dump())
    assert again.corrected() == found
    assert again.dump() == first.dump()
