"""Calibrated simulators against real runs: in virtual time always, on the wall clock by hand."""

from __future__ import annotations

import pytest

from dynpartition import parse_devices
from dynpartition.agent.registry import make_scheduler
from dynpartition.calibration.heldout import Used
from dynpartition.calibration.measure import calibrate
from dynpartition.calibration.validation import Validation, validate
from dynpartition.hardware import HardwareBackend
from dynpartition.models import build_model, generate_inputs
from dynpartition.models.splitting import select
from dynpartition.sim import SimBackend

NAMES = (
    "single:cpu:0",
    "single:cpu:1",
    "heft",
    "heft+merge",
    "best-single+merge",
    "split-left-right",
)


def judged(
    name: str,
    config: dict[str, int],
    clock: str,
    *,
    seconds: float,
    cases: int,
    longer_s: float = 0.0,
) -> Validation:
    model = build_model(name, config)
    devices = parse_devices("cpu:0,cpu:1")
    inputs = generate_inputs(model, 200, 0)
    profile = calibrate(model, devices, select(inputs, "train"), seconds=seconds, clock=clock)
    held_out = Used.of(profile).held_out(select(inputs, "test"))[:cases]
    schedulers = {scheduler: make_scheduler(scheduler) for scheduler in NAMES}
    with HardwareBackend(model, devices, profile=profile, clock=clock) as hardware:
        simulator = SimBackend(profile)
        return validate(simulator, hardware, held_out, schedulers, repeats=8, longer_s=longer_s)


@pytest.mark.parametrize("name", ["treelstm", "moe"])
def test_in_virtual_time_predictions_are_as_good_as_measurements(name: str) -> None:
    """How well measurements repeat depends on the machine, so the limit does too."""
    result = judged(name, {}, "virtual", seconds=12, cases=5)
    assert result.mape <= 0.02 + 1.5 * result.noise
    assert abs(result.bias) <= 0.02 + result.noise
    assert result.regret <= 0.02 + result.noise


@pytest.mark.hardware
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "config"), [("treelstm", {}), ("treelstm", {"hidden_dim": 512}), ("moe", {})]
)
def test_on_the_wall_clock_the_verdict_is_pass(name: str, config: dict[str, int]) -> None:
    result = judged(name, config, "wall", seconds=25, cases=20, longer_s=120)
    assert result.verdict == "pass", result
