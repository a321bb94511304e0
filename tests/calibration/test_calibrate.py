"""Calibration on real CPU devices: the shape of what comes out, not how fast this machine is."""

from __future__ import annotations

import pytest

from dynpartition import parse_devices
from dynpartition.calibration.measure import calibrate
from dynpartition.errors import CalibrationError
from dynpartition.formats import read_profile, write_profile
from dynpartition.hardware.session import HardwareSession
from dynpartition.models import build_model, generate_inputs


@pytest.mark.parametrize("name", ["treelstm", "moe"])
def test_every_cell_device_and_link_is_measured(name: str, tmp_path) -> None:
    small = {
        "treelstm": {"input_dim": 16, "hidden_dim": 16},
        "moe": {"width": 16, "heads": 2, "experts": 2},
    }
    model = build_model(name, small[name])
    devices = parse_devices("cpu:0,cpu:1x0.25")
    shares = []
    profile = calibrate(
        model, devices, generate_inputs(model, 6, 0), seconds=3, progress=shares.append
    )
    assert set(profile.cells) == set(model.cells)
    for curves in profile.cells.values():
        assert set(curves) == {"cpu:0", "cpu:1"}
        assert all(curve.at(1) > 0 for curve in curves.values())
    assert all(link.cost.latency_ns >= 0 for link in profile.cluster.links)
    assert profile.cluster.devices == devices
    assert shares == sorted(shares)
    assert shares[-1] <= 1
    write_profile(tmp_path / "profile.json", profile)
    assert read_profile(tmp_path / "profile.json") == profile


def test_no_time_and_no_inputs_are_refused() -> None:
    model = build_model("treelstm")
    inputs = generate_inputs(model, 1, 0)
    with pytest.raises(CalibrationError, match="at least one input"):
        calibrate(model, parse_devices("cpu:0"), [], seconds=1)
    with pytest.raises(CalibrationError, match="more than 0"):
        calibrate(model, parse_devices("cpu:0"), inputs, seconds=0)


def test_a_device_that_is_lost_meanwhile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("treelstm", {"input_dim": 4, "hidden_dim": 2})
    lost = property(lambda session: {"cpu:1": "its worker ended with signal SIGKILL"})
    monkeypatch.setattr(HardwareSession, "lost", lost)
    with pytest.raises(CalibrationError, match="cpu:1 was lost while it was measured"):
        calibrate(model, parse_devices("cpu:0"), generate_inputs(model, 1, 0), seconds=1)
