"""The simulator against real runs, on the clock that a busy machine disturbs least.

Replays test the rules alone: each run is simulated with its own durations, so that what is left is
what the rules leave out. Nothing here depends on how fast or how busy the machine is.
"""

from __future__ import annotations

import numpy as np
import pytest

from dynpartition import parse_devices
from dynpartition.calibration.jobs import MeasuredJob, make_jobs, run_once
from dynpartition.calibration.replay import replayed_ns
from dynpartition.hardware import HardwareBackend
from dynpartition.models import build_model, generate_inputs

SIZES = {"treelstm": {}, "mathfunc": {}, "moe": {}}


@pytest.mark.parametrize("name", list(SIZES))
def test_the_rules_predict_real_runs_within_1_percent(name: str) -> None:
    model = build_model(name, SIZES[name])
    rng = np.random.default_rng(0)
    errors = []
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1"), clock="virtual") as backend:
        cluster = backend.profile.cluster
        jobs: list[MeasuredJob] = make_jobs(generate_inputs(model, 12, 0), cluster, rng, 24)
        for job in [*jobs, *jobs]:
            outcome, times, _ = run_once(backend, job.item, job.scheduler)
            simulated_ns = replayed_ns(outcome, cluster, times)
            errors.append(abs(simulated_ns / outcome.trace.makespan_ns - 1))
    assert np.mean(errors) <= 0.01
    assert np.median(errors) <= 0.005
