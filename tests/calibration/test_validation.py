"""Error figures, and the comparison of a backend with itself."""

from __future__ import annotations

import numpy as np
import pytest

from dynpartition import FixedPlan, check_plan, run
from dynpartition.agent.registry import make_scheduler
from dynpartition.calibration.rollouts import OneDevice, RandomRollout
from dynpartition.calibration.validation import Case, summarise, validate
from dynpartition.errors import CalibrationError
from dynpartition.formats import load_shipped
from dynpartition.models import build_model, generate_inputs
from dynpartition.sim import SimBackend


def test_figures_of_some_cases() -> None:
    cases = [Case(0, "a", 110, 100, 0.02), Case(0, "b", 80, 100, 0.04)]
    result = summarise(cases)
    assert (result.mape, result.bias) == (pytest.approx(0.15), pytest.approx(-0.05))
    assert (result.worst, result.noise) == (pytest.approx(0.2), pytest.approx(0.03))


@pytest.fixture
def backend() -> SimBackend:
    return SimBackend(load_shipped("synthetic-cpu-2gpu"))


def test_a_simulator_agrees_with_itself(backend: SimBackend) -> None:
    for name in ("treelstm", "moe"):
        inputs = generate_inputs(build_model(name), 3, 0)
        schedulers = {key: make_scheduler(key) for key in ("heft", "random")}
        result = validate(backend, backend, inputs, schedulers, repeats=2)
        assert (result.mape, result.noise, len(result.cases)) == (0, 0, 6)


def test_one_repeat_cannot_tell_the_noise(backend: SimBackend) -> None:
    with pytest.raises(CalibrationError, match="repeats is 1"):
        validate(backend, backend, [], {}, repeats=1)


@pytest.mark.parametrize("model", ["treelstm", "mathfunc", "moe"])
def test_rollouts_are_legal_and_cover_the_devices(backend: SimBackend, model: str) -> None:
    rng = np.random.default_rng(0)
    used = set()
    for item in generate_inputs(build_model(model), 5, 1):
        outcome = run(backend, item, RandomRollout(rng, 3))
        check_plan(outcome.graph, backend.profile.cluster, outcome.plan)
        used |= set(outcome.plan.placement().values())
        single = run(backend, item, OneDevice("cuda:1"))
        assert set(single.plan.placement().values()) == {"cuda:1"}
        assert run(backend, item, FixedPlan(single.plan)).trace == single.trace
    assert used == set(backend.profile.cluster.names)
