"""Calibration on real CPU devices: the shape of what comes out, not how fast this machine is."""

from __future__ import annotations

import pytest

from dynpartition import parse_devices
from dynpartition.calibration import measure
from dynpartition.calibration.heldout import Used, input_id
from dynpartition.calibration.identity import is_as_measured
from dynpartition.calibration.measure import calibrate
from dynpartition.calibration.refitting import numbers_in
from dynpartition.cluster import AffineCost
from dynpartition.errors import CalibrationError, DeviceError
from dynpartition.formats import read_profile, write_profile
from dynpartition.hardware.session import HardwareSession
from dynpartition.models import build_model, generate_inputs
from dynpartition.sim.perturb import number_names


@pytest.mark.parametrize(("name", "clock"), [("treelstm", "wall"), ("moe", "virtual")])
def test_everything_is_measured_and_says_how_well(name: str, clock: str, tmp_path) -> None:
    small = {
        "treelstm": {"input_dim": 16, "hidden_dim": 16},
        "moe": {"width": 16, "heads": 2, "experts": 2},
    }
    model = build_model(name, small[name])
    devices = parse_devices("cpu:0,cpu:1x0.25")
    shares: list[float] = []
    inputs = generate_inputs(model, 12, 0)
    profile = calibrate(model, devices, inputs, seconds=4, clock=clock, progress=shares.append)
    assert set(profile.cells) == set(model.cells)
    for curves in profile.cells.values():
        assert set(curves) == {"cpu:0", "cpu:1"}
        assert all(curve.at(1) > 0 for curve in curves.values())
    assert profile.cluster.devices == devices
    assert shares == sorted(shares)
    assert shares[-1] <= 1
    story = profile.provenance
    listed = story["numbers"]
    for path, value in numbers_in(profile).items():
        if value:
            assert listed[path]["value"] == pytest.approx(value, rel=0.02, abs=1), path
            assert listed[path]["unit"] in ("ns", "bytes/s")
            assert listed[path]["source"] in ("measured", "fitted", "assumed")
    assert set(number_names(profile)) >= {
        "cells/" + "/".join((cell, d)) for cell in model.cells for d in ("cpu:0", "cpu:1")
    }
    assert story["clock"] == clock
    assert story["devices"]["cpu:1"]["emulated_speed"] == 0.25
    assert set(story["operators"]) == {"cpu:0", "cpu:1"}
    assert story["held_out_error"] == profile.uncertainty
    assert set(story["cells"]) == set(model.cells)
    domains = [listed[path]["domain"] for path in listed if path.startswith("links/")]
    costs = [link.cost for link in profile.cluster.links]
    assert all("bytes" in domain for domain in domains)
    assert all(isinstance(cost, AffineCost) or len(cost.points) >= 4 for cost in costs)
    used = Used.of(profile)
    assert 0 < len(used.inputs) <= 9
    assert used.inputs <= {input_id(item) for item in inputs}
    write_profile(tmp_path / "profile.json", profile)
    read = read_profile(tmp_path / "profile.json")
    assert (read.cells, read.dispatch, read.cluster) == (
        profile.cells,
        profile.dispatch,
        profile.cluster,
    )
    assert is_as_measured(read)


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


def test_how_gpus_are_connected_is_handed_on_and_told() -> None:
    model = build_model("moe", {"width": 16, "heads": 2, "experts": 2})
    devices, inputs = parse_devices("cpu:0,cpu:1"), generate_inputs(model, 4, 0)
    with pytest.raises(DeviceError, match="gpu_links is 'nccl', but among cpu:0, cpu:1"):
        calibrate(model, devices, inputs, seconds=0.1, gpu_links="nccl")
    assert measure.manner("wall", "processes", "", "nccl")["gpu_links"] == "nccl"
    assert "gpu_links" not in measure.manner("wall", "processes", "", "host")
