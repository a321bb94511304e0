"""Calibrated simulators against real runs: in virtual time always, on the wall clock by hand."""

from __future__ import annotations

import pytest

from dynpartition import parse_devices
from dynpartition.agent.registry import make_scheduler
from dynpartition.calibration.anchors import anchors_of
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
    *,
    seconds: float,
    cases: int,
    longer_s: float,
) -> Validation:
    model = build_model(name, config)
    devices = parse_devices("cpu:0,cpu:1")
    inputs = generate_inputs(model, 200, 0)
    profile = calibrate(model, devices, select(inputs, "train"), seconds=seconds)
    held_out = Used.of(profile).held_out(select(inputs, "test"))[:cases]
    schedulers = {scheduler: make_scheduler(scheduler) for scheduler in NAMES}
    with HardwareBackend(model, devices, profile=profile) as hardware:
        simulator = SimBackend(profile)
        return validate(
            simulator,
            hardware,
            held_out,
            schedulers,
            repeats=16,
            longer_s=longer_s,
            anchors=anchors_of(profile, inputs),
        )


@pytest.mark.parametrize("name", ["treelstm", "moe"])
def test_in_virtual_time_predictions_are_as_good_as_measurements(name: str) -> None:
    """Of inputs and placements left out of the fit, which were run in the same rounds.

    So it is not the machine's drift that is tested. How well measurements repeat depends on the
    machine, and the limit does too.
    """
    model = build_model(name)
    inputs = generate_inputs(model, 200, 0)
    devices = parse_devices("cpu:0,cpu:1")
    story = calibrate(model, devices, inputs, seconds=15, clock="virtual").provenance
    error, noise = story["held_out_error"], story["held_out_noise"]
    assert isinstance(error, float)
    assert isinstance(noise, float)
    assert error <= 0.02 + 1.5 * noise


@pytest.mark.hardware
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "config"), [("treelstm", {}), ("treelstm", {"hidden_dim": 512}), ("moe", {})]
)
def test_on_the_wall_clock_the_verdict_is_pass(name: str, config: dict[str, int]) -> None:
    result = judged(name, config, seconds=25, cases=20, longer_s=120)
    assert result.verdict == "pass", result
