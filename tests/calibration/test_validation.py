"""Error figures, verdicts, placements, and the comparison of backends with themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dynpartition import FixedPlan, check_plan, run
from dynpartition.agent.registry import make_scheduler
from dynpartition.calibration.anchors import anchors_of, at_pace
from dynpartition.calibration.candidates import candidate_plans, simulated_ns
from dynpartition.calibration.heldout import Used, input_id, placement_id, shape_id, used_by
from dynpartition.calibration.identity import is_as_measured
from dynpartition.calibration.quantiles import (
    QUANTILE,
    fast,
    split_half,
    typical,
    typical_error,
    undisturbed,
)
from dynpartition.calibration.rollouts import OneDevice, RandomRollout
from dynpartition.calibration.validation import Case, kendall_tau, summarise, validate
from dynpartition.cli.validate import describe_validation
from dynpartition.errors import CalibrationError, ProfileError
from dynpartition.formats import load_shipped
from dynpartition.formats.shipped import shipped_names
from dynpartition.models import build_model, generate_inputs
from dynpartition.sim import SimBackend
from dynpartition.sim.perturb import rescaled


def cases(number: int, times: list[tuple[int, int]], noise: float = 0.001) -> list[Case]:
    return [Case(number, f"p{at}", sim, real, noise) for at, (sim, real) in enumerate(times)]


def test_figures_of_some_cases() -> None:
    result = summarise(cases(0, [(110, 100), (160, 200)]) + cases(1, [(105, 100)]))
    assert result.mape == pytest.approx(0.35 / 3)
    assert result.bias == pytest.approx((0.1 - 0.2 + 0.05) / 3)
    assert result.worst == pytest.approx(0.2)
    assert result.p95 == pytest.approx(np.quantile([0.1, 0.2, 0.05], 0.95))
    assert result.tau == 1
    assert result.regret == 0
    assert result.noise == pytest.approx(0.001)


def test_regret_and_optimism_are_of_what_the_simulator_prefers() -> None:
    """It prefers the first, which takes 30 % longer than it says, 24 % longer than the other."""
    result = summarise(cases(0, [(100, 130), (110, 105)]))
    assert result.regret == pytest.approx(130 / 105 - 1)
    assert result.tau == -1
    assert result.graphs[0].optimism == pytest.approx(0.3)
    assert result.optimism == pytest.approx(0.3 - (0.3 + 105 / 110 - 1) / 2)


def test_tau_leaves_out_what_cannot_be_told_apart() -> None:
    assert kendall_tau([(1, 100), (2, 101)]) is None
    assert kendall_tau([(1, 100), (2, 101), (3, 150)]) == 1
    assert kendall_tau([(3, 100), (2, 101), (2, 150)]) == pytest.approx((-1 + 0) / 2)


def test_verdicts() -> None:
    good, noisy = [(100, 100), (150, 151)], 0.02
    assert summarise(cases(0, good)).verdict == "pass"
    assert summarise(cases(0, [(103, 100), (154, 151)])).verdict == "fail"
    assert summarise(cases(0, [(101, 100), (100, 101)])).verdict == "fail"  # regret 1 %
    assert summarise(cases(0, good, noisy)).verdict == "inconclusive"
    mixed = cases(0, good) + cases(1, [(300, 100), (900, 150)], noisy)
    result = summarise(mixed)
    assert (result.conclusive, result.verdict) == (0.5, "pass")
    assert result.decisive_mape < 0.01 < result.mape
    assert summarise(mixed + cases(2, good, noisy)).verdict == "inconclusive"
    with pytest.raises(CalibrationError, match="nothing was compared"):
        summarise([])


def test_typical_times_and_their_errors() -> None:
    rng = np.random.default_rng(0)
    runs = 1000 * (1 + 0.1 * rng.random((4000, 64)))
    found = np.array([typical(row) for row in runs])
    expected = (QUANTILE * 63 + 1) / 65  # of uniform order statistics, interpolated
    assert found.mean() == pytest.approx(1000 * (1 + 0.1 * expected), rel=0.0005)
    claimed = np.mean([typical_error(row) for row in runs])
    assert claimed == pytest.approx(found.std() / found.mean(), rel=0.15)
    assert split_half([1, 9, 1, 9]) == pytest.approx(8 / typical([1, 9, 1, 9]))


@pytest.fixture
def backend() -> SimBackend:
    return SimBackend(load_shipped("synthetic-cpu-2gpu"))


@pytest.mark.parametrize("name", ["treelstm", "moe"])
def test_a_simulator_agrees_with_itself(backend: SimBackend, name: str) -> None:
    inputs = generate_inputs(build_model(name), 3, 0)
    schedulers = {key: make_scheduler(key) for key in ("heft", "random")}
    result = validate(backend, backend, inputs, schedulers, repeats=2)
    assert (result.mape, result.noise, result.regret) == (0, 0, 0)
    assert (result.tau, result.verdict, result.conclusive) == (1, "pass", 1)
    assert {case.input for case in result.cases} == {0, 1, 2}
    assert len(result.cases) >= 30


def test_a_machine_unlike_its_profile_fails(backend: SimBackend) -> None:
    slower = SimBackend(rescaled(backend.profile, lambda name: 0.9))
    inputs = generate_inputs(build_model("treelstm"), 3, 0)
    result = validate(slower, backend, inputs, {"heft": make_scheduler("heft")}, repeats=2)
    assert result.verdict == "fail"
    assert result.bias == pytest.approx(-0.1, abs=0.03)


def test_a_machine_that_has_become_slower_is_told_from_a_wrong_profile() -> None:
    """Each device at a pace of its own: anchors find it, and the errors of the profile are 0."""
    slower = {"cpu:0": 1.2, "cpu:1": 0.9}
    profile = load_shipped("small-cpu")
    backend = SimBackend(profile)
    now = SimBackend(at_pace(profile, slower))
    inputs = generate_inputs(build_model("treelstm"), 12, 0)
    rows = [
        {
            "input": input_id(item),
            "device": name,
            "typical_ns": run(backend, item, OneDevice(name)).trace.makespan_ns,
        }
        for name in profile.cluster.names
        for item in inputs[:3]
    ]
    story = {"anchors": rows, "fitted_to": {}}
    told = replace(profile, provenance=story)
    anchors = anchors_of(told, inputs[:3])
    assert len(anchors) == 6
    assert anchors_of(told, inputs[3:]) == anchors_of(profile, inputs) == []
    schedulers = {"heft": make_scheduler("heft")}
    result = validate(SimBackend(told), now, inputs[3:7], schedulers, repeats=2, anchors=anchors)
    for name, pace in slower.items():
        assert result.paces[name] == pytest.approx(pace, abs=0.05)
    assert result.mape < 0.02
    assert result.calibrated_mape > 3 * result.mape
    alone = validate(SimBackend(told), now, inputs[3:7], schedulers, repeats=2)
    assert (alone.mape, alone.bias) == (result.calibrated_mape, result.calibrated_bias)


@pytest.mark.parametrize(
    ("anchors", "message"),
    [
        ("a", "anchors is no list"),
        (
            [{"input": "a", "device": "cpu:0", "typical_ns": 0}],
            r"anchors\[0\]: Expected `float` > 0",
        ),
        ([{"input": "a", "device": "cpu:0"}], "missing required field `typical_ns`"),
        ([{"input": "a", "device": "cpu:7", "typical_ns": 5}], "cpu:7"),
        ([3], r"anchors\[0\]"),
    ],
)
def test_anchors_that_cannot_be_are_refused_by_place(anchors: object, message: str) -> None:
    profile = replace(load_shipped("small-cpu"), provenance={"anchors": anchors})
    with pytest.raises(ProfileError, match=message):
        anchors_of(profile, generate_inputs(build_model("treelstm"), 1, 0))


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_profiles_with_a_hash_are_as_they_were_written(name: str) -> None:
    profile = load_shipped(name)
    assert is_as_measured(profile) or "content_sha256" not in profile.provenance


def test_a_pace_moves_what_belongs_to_its_device_alone(backend: SimBackend) -> None:
    moved = at_pace(backend.profile, {"cuda:0": 2.0})
    for cell, curves in backend.profile.cells.items():
        for device, curve in curves.items():
            factor = 2 if device == "cuda:0" else 1
            assert moved.cells[cell][device].at(1) == factor * curve.at(1)
    assert moved.cluster == backend.profile.cluster
    assert at_pace(backend.profile, {}) is backend.profile


def test_the_fastest_runs_are_chosen_and_never_too_few() -> None:
    assert fast([5, 1, 4, 2, 3, 9, 8, 7, 6, 10]) == [1, 2, 3, 4]
    assert fast(range(20)) == list(range(8))
    assert fast([3, 1, 2]) == [0, 1, 2]
    assert fast([]) == []


def test_one_repeat_cannot_tell_the_noise(backend: SimBackend) -> None:
    with pytest.raises(CalibrationError, match="repeats is 1"):
        validate(backend, backend, [], {}, repeats=1)


def test_candidates_are_new_and_the_best_is_the_simulators(backend: SimBackend) -> None:
    item = generate_inputs(build_model("treelstm"), 1, 3)[0]
    given = [run(backend, item, make_scheduler("heft")).plan]
    found = candidate_plans(backend, item, given, count=8, seed=0)
    assert len(found) == 8
    assert len({*found.values(), *given}) == 9
    assert {"adversarial", "random-1"} <= set(found)
    for plan in found.values():
        check_plan(item.graph, backend.profile.cluster, plan)
    times = simulated_ns(backend.profile, item.graph, [*given, *found.values()])
    if "sim-best" in found:
        assert times.min() == times[1 + list(found).index("sim-best")]
    else:
        assert times.min() == times[0]


def test_what_was_fitted_to_is_not_judged_by(backend: SimBackend) -> None:
    """An input, one of the same shape, and a placement of a profile's fit are refused by name."""
    items = generate_inputs(build_model("treelstm"), 40, 0)
    fitted = [(item, run(backend, item, make_scheduler("heft"))) for item in items[:10]]
    used = used_by((item, outcome.graph, outcome.plan) for item, outcome in fitted)
    story = {"fitted_to": used.as_plain()}
    profile = replace(backend.profile, provenance=story)
    assert Used.of(profile) == used
    left = used.held_out(items)
    assert left
    shapes = {shape_id(item.graph) for item, _ in fitted}
    assert shapes.isdisjoint(shape_id(item.graph) for item in left)
    assert len({shape_id(item.graph) for item in left}) == len(left)
    schedulers = {"heft": make_scheduler("heft")}
    simulator = SimBackend(profile)
    validate(simulator, backend, left[:2], schedulers, repeats=2)
    with pytest.raises(CalibrationError, match=f"fitted to {items[0].name!r}"):
        validate(simulator, backend, [items[0]], schedulers, repeats=2)
    with pytest.raises(CalibrationError, match="shapes of all 10 held-out"):
        used.held_out(items[:10])
    plan = run(backend, left[0], schedulers["heft"]).plan
    placement = placement_id(left[0].graph, plan)
    only = replace(used, placements=frozenset([placement]))
    profile = replace(backend.profile, provenance={"fitted_to": only.as_plain()})
    with pytest.raises(CalibrationError, match=f"fitted to placement {placement}"):
        validate(SimBackend(profile), backend, left[:1], schedulers, repeats=2)
    assert input_id(items[0]) in used.inputs


def test_a_model_of_few_shapes_is_judged_by_new_inputs_and_placements(backend: SimBackend) -> None:
    """All graphs have one shape, which was fitted to; what was fitted to still is left out."""
    drawn = generate_inputs(build_model("moe"), 60, 0)
    items = list({item.digest: item for item in drawn}.values())
    by_shape = Counter(shape_id(item.graph) for item in items)
    shape = by_shape.most_common(1)[0][0]
    alike = [item for item in items if shape_id(item.graph) == shape]
    assert len(alike) > 2
    fitted = [(alike[0], run(backend, alike[0], make_scheduler("heft")))]
    used = used_by((item, outcome.graph, outcome.plan) for item, outcome in fitted)
    left, known_shapes = used.to_judge_by(alike)
    assert known_shapes and len(left) == 1 and left[0] is not alike[0]
    others = [item for item in items if shape_id(item.graph) != shape]
    assert used.to_judge_by([*alike, *others[:3]])[1] is False
    simulator = SimBackend(replace(backend.profile, provenance={"fitted_to": used.as_plain()}))
    schedulers = {"heft": make_scheduler("heft")}
    result = validate(simulator, backend, left, schedulers, repeats=2, known_shapes=True)
    assert result.known_shapes and "shapes are not" in describe_validation(result)
    assert {case.scheduler for case in result.cases}.isdisjoint(schedulers)  # it was fitted to
    assert len(result.cases) > 5
    with pytest.raises(CalibrationError, match="same shape"):
        validate(simulator, backend, left, schedulers, repeats=2)
    with pytest.raises(CalibrationError, match="all placements that were tried"):
        validate(simulator, backend, left, schedulers, placements=1, repeats=2, known_shapes=True)
    with pytest.raises(CalibrationError, match="of all 1 held-out"):
        used.to_judge_by(alike[:1])


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


def test_runs_that_waited_for_a_core_are_left_out_while_others_are_there() -> None:
    assert undisturbed([0.0] * 9) == list(range(9))
    assert undisturbed([0.5, 0, 0, 0.9, 0, 0.005, 0]) == [1, 2, 4, 5, 6]
    assert undisturbed([0.5, 0.4, 0.1, 0.9, 0.3, 0.2]) == [1, 2, 4, 5]
    assert undisturbed([0.7, 0.1]) == [0, 1]
