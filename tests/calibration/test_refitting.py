"""Recorded runs improve a profile; those of another machine or version are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynpartition import run
from dynpartition.calibration.heldout import Used, shape_id
from dynpartition.calibration.identity import content_hash, is_as_measured, sealed
from dynpartition.calibration.recording import Recorder
from dynpartition.calibration.refitting import improved, numbers_in
from dynpartition.calibration.rollouts import RandomRollout
from dynpartition.device_spec import parse_devices
from dynpartition.errors import CalibrationError, FileFormatError
from dynpartition.formats import (
    RecordedRun,
    Runs,
    read_profile,
    read_runs,
    write_profile,
    write_runs,
)
from dynpartition.hardware import HardwareBackend
from dynpartition.models import build_model, generate_inputs
from dynpartition.profile import Profile
from dynpartition.sim import SimBackend
from dynpartition.sim.perturb import perturbed
from tests.calibration.test_joint import machine

DEVICES = {"cpu:0": {"kind": "cpu", "name": "abacus"}, "cpu:1": {"kind": "cpu", "name": "abacus"}}
VERSIONS = {"dynpartition": "1", "torch": "2"}


def profile_of(truth: Profile, seed: int) -> Profile:
    numbers = {
        path: {"value": value, "unit": "ns", "source": "measured", "count": 9, "domain": "here"}
        for path, value in numbers_in(truth).items()
    }
    story = {
        "devices": DEVICES,
        "versions": VERSIONS,
        "clock": "wall",
        "model": "treelstm",
        "numbers": numbers,
    }
    wrong = perturbed(truth, seed, uncertainty=0.1)
    numbers |= {p: numbers[p] | {"value": v} for p, v in numbers_in(wrong).items()}
    return sealed(replace(wrong, provenance=story))


@pytest.fixture(scope="module")
def truth() -> Profile:
    return machine("treelstm")[0]


@pytest.fixture(scope="module")
def runs(truth: Profile) -> Runs:
    """Real runs, by a simulator that knows the truth, with 1 % noise."""
    rng = np.random.default_rng(0)
    simulator, kept = SimBackend(truth), []
    for item in generate_inputs(build_model("treelstm"), 20, 0):
        for _ in range(3):
            outcome = run(simulator, item, RandomRollout(rng, 2))
            for _ in range(4):
                ns = round(outcome.trace.makespan_ns * (1 + 0.01 * rng.standard_normal()))
                trace = replace(outcome.trace, makespan_ns=ns)
                kept.append(RecordedRun(item.digest[:16], outcome.graph, outcome.plan, trace))
    return Runs("treelstm", "wall", DEVICES, VERSIONS, kept)


@pytest.mark.parametrize("seed", range(3))
def test_runs_improve_a_profile(truth: Profile, runs: Runs, seed: int) -> None:
    before = profile_of(truth, seed)
    result = improved(before, [runs], "runs.json")
    assert result.before is not None
    assert result.after is not None
    assert result.after < result.before / 2
    assert result.after < 0.015
    after = result.profile
    assert after.uncertainty == result.after
    assert is_as_measured(after)
    story = after.provenance
    assert story["refits"][0]["from"] == content_hash(before)
    assert story["refits"][0]["runs"] == len(runs.runs)
    listed = story["numbers"]
    for path, value in numbers_in(after).items():
        assert listed[path]["value"] == pytest.approx(value, rel=2e-3, abs=1), path
    again = improved(after, [runs], "runs.json").profile
    assert len(again.provenance["refits"]) == 2


def test_what_was_fitted_to_is_remembered(truth: Profile, runs: Runs, tmp_path) -> None:
    after = improved(profile_of(truth, 0), [runs], "runs.json").profile
    used = Used.of(after)
    shapes = {shape_id(each.graph) for each in runs.runs}
    assert len(shapes) * 0.7 <= len(used.shapes) < len(shapes)
    write_profile(tmp_path / "p.json", after)
    read = read_profile(tmp_path / "p.json")
    assert Used.of(read) == used
    assert is_as_measured(read)
    assert not is_as_measured(replace(read, uncertainty=0.5))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"devices": DEVICES | {"cpu:1": {"kind": "cpu", "name": "slide rule"}}},
         r"another machine: cpu:1 is name slide rule there and name abacus in the profile"),
        ({"devices": {"cpu:0": DEVICES["cpu:0"]}}, r"cpu:1 is not there there"),
        ({"versions": VERSIONS | {"torch": "3"}}, r"recorded with torch 3, the profile with 2"),
        ({"versions": {"torch": "2"}}, r"recorded with dynpartition None"),
        ({"clock": "virtual"}, r"runs with clock 'virtual', the profile is of 'wall'"),
        ({"model": "treelstm:hidden_dim=9"}, r"runs with model 'treelstm:hidden_dim=9'"),
    ],
)  # fmt: skip
def test_other_machines_versions_clocks_and_models_are_refused(
    truth: Profile, runs: Runs, change: dict[str, object], words: str
) -> None:
    with pytest.raises(CalibrationError, match=words):
        improved(profile_of(truth, 0), [replace(runs, **change)], "runs.json")


def test_profiles_without_a_machine_and_unknown_cells_are_refused(
    truth: Profile, runs: Runs
) -> None:
    with pytest.raises(CalibrationError, match="does not say which machine"):
        improved(truth, [runs], "runs.json")
    known = profile_of(truth, 0)
    fewer = replace(known, cells={"leaf": known.cells["leaf"]})
    with pytest.raises(
        CalibrationError, match=r"launches of output on cpu:\d, of which .* no cost"
    ):
        improved(fewer, [runs], "runs.json")


def test_runs_survive_their_file_and_damaged_ones_are_named(runs: Runs, tmp_path) -> None:
    few = replace(runs, runs=[replace(each, seen_ns={0: 7}) for each in runs.runs[:3]])
    path = tmp_path / "runs.json"
    write_runs(path, few)
    read = read_runs(path)
    assert replace(read, runs=()) == replace(few, runs=())
    for one, other in zip(read.runs, few.runs, strict=True):
        assert (one.plan, one.trace, one.input) == (other.plan, other.trace, other.input)
        assert one.graph.digest == other.graph.digest
        assert one.seen_ns == {0: 7}
    text = path.read_text()
    for wrong, words in (
        (
            text.replace('"device": "cpu:1"', '"device": "cpu:9"', 1),
            "run 0: its trace is not of its",
        ),
        (text.replace("dynpartition-runs", "dynpartition-run"), 'expected "dynpartition-runs"'),
        (text.replace('"clock": "wall"', '"clock": "sun"'), r"\$\.clock"),
    ):
        path.write_text(wrong)
        with pytest.raises(FileFormatError, match=words):
            read_runs(path)


def test_a_recorder_keeps_what_ran() -> None:
    model = build_model("moe", {"width": 16, "heads": 2, "experts": 2})
    items = generate_inputs(model, 2, 0)
    rng = np.random.default_rng(0)
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1"), clock="virtual") as hardware:
        recorder = Recorder(hardware)
        outcomes = [run(recorder, item, RandomRollout(rng, 2)) for item in items]
    assert [kept.trace for kept in recorder.runs] == [outcome.trace for outcome in outcomes]
    assert all(len(kept.seen_ns) == 2 for kept in recorder.runs)
