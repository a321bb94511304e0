"""Operator models recover known roofs, and price models that were never measured."""

from __future__ import annotations

import numpy as np
import pytest

from dynpartition.calibration.counting import count_work
from dynpartition.calibration.identity import is_as_measured
from dynpartition.calibration.modelling import modelled
from dynpartition.calibration.operators import (
    OperatorModel,
    Roofs,
    Work,
    fit_operators,
)
from dynpartition.calibration.probe import LENGTHS, WIDTHS, Probe, ProbeConfig
from dynpartition.cli.local import check_cells
from dynpartition.errors import CalibrationError, ProfileError
from dynpartition.formats import read_profile, write_profile
from dynpartition.models import build_model, check_model, generate_inputs
from dynpartition.profile import PricedGraph, Profile
from tests.calibration.synthetic import CLUSTER

ROOFS = Roofs(6000.0, 1500.0, 30.0, 12.0, 2.0)


def works(rng: np.random.Generator, count: int) -> dict[str, Work]:
    """Cells whose arithmetic and weights spread over three decades."""
    return {
        f"cell {n}": Work(
            int(rng.integers(1, 20)),
            float(10 ** rng.uniform(3, 7)),
            int(10 ** rng.uniform(3, 6.5)),
            float(10 ** rng.uniform(2, 5)),
        )
        for n in range(count)
    }


def points(rng: np.random.Generator, noise: float) -> list[tuple[str, Work, int, float]]:
    truth = OperatorModel(ROOFS, 0.0, 0, 0)
    return [
        (cell, work, size, truth.ns(work, size) * float(np.exp(noise * rng.standard_normal())))
        for cell, work in works(rng, 20).items()
        for size in (1, 4, 16)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_known_roofs_are_recovered(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = fit_operators(points(rng, 0.03))
    assert found is not None
    for name in ("launch_ns", "overhead_ns", "flops_per_ns", "bytes_per_ns"):
        assert getattr(found.roofs, name) == pytest.approx(getattr(ROOFS, name), rel=0.3), name
    assert found.held_out_error < 0.06
    fresh = works(np.random.default_rng(seed + 50), 30).values()
    truth = OperatorModel(ROOFS, 0.0, 0, 0)
    errors = [abs(np.log(found.ns(work, k) / truth.ns(work, k))) for work in fresh for k in (1, 8)]
    assert np.mean(errors) < 0.06


def test_one_bad_point_does_not_spoil_the_roofs() -> None:
    rng = np.random.default_rng(0)
    rows = points(rng, 0.02)
    rows[7] = (*rows[7][:3], 40 * rows[7][3])
    found = fit_operators(rows)
    assert found is not None
    assert found.roofs.flops_per_ns == pytest.approx(ROOFS.flops_per_ns, rel=0.3)


def test_few_cells_make_no_model() -> None:
    rows = [row for row in points(np.random.default_rng(0), 0.0) if row[0] in ("cell 0", "cell 1")]
    assert fit_operators(rows) is None


def test_work_is_counted_as_by_hand() -> None:
    model = build_model("treelstm", {"input_dim": 30, "hidden_dim": 20, "classes": 3})
    found = count_work(model, generate_inputs(model, 3, 0))
    assert found["leaf"].flops == 2 * 30 * 60
    assert found["composer"].flops == 2 * 40 * 100
    assert found["output"].flops == 2 * 20 * 3
    assert found["leaf"].weight_bytes == 4 * (30 * 60 + 60)
    assert found["leaf"].task_bytes == 4 * (30 + 40)
    assert found["composer"].task_bytes == 4 * (40 + 40 + 40)


def test_the_probe_is_a_model_like_any_other() -> None:
    probe = Probe(ProbeConfig())
    check_model(probe, Probe.generate(4, 0, probe.config))
    cells = {chain.cell for sample in Probe.generate(9, 0, probe.config) for chain in sample}
    assert cells == {*(f"dense_{n}" for n in WIDTHS), *(f"carry_{n}" for n in LENGTHS)}


def profile_with(**operators: object) -> Profile:
    return Profile(CLUSTER, {}, provenance={"operators": operators, "clock": "wall"})


def test_a_model_is_priced_by_operators_and_says_so(tmp_path) -> None:
    plain = OperatorModel(ROOFS, 0.1, 12, 40).as_plain()
    profile = profile_with(**{"cpu:0": plain, "cpu:1": plain})
    model = build_model("mathfunc")
    items = generate_inputs(model, 50, 0)
    with pytest.raises(ProfileError, match="has no cost"):
        PricedGraph(items[0].graph, profile)
    priced = modelled(profile, model, items, "mathfunc")
    assert set(priced.cells) == set(model.cells)
    assert priced.uncertainty == pytest.approx(0.1)
    PricedGraph(items[0].graph, priced)
    number = priced.provenance["numbers"]["cells/mul/cpu:0/1"]
    assert number["source"] == "modelled"
    assert number["low"] < number["value"] < number["high"]
    write_profile(tmp_path / "p.json", priced)
    assert read_profile(tmp_path / "p.json") == priced
    assert is_as_measured(priced)


def test_missing_and_damaged_operator_models_are_refused() -> None:
    model = build_model("mathfunc")
    items = generate_inputs(model, 50, 0)
    plain = OperatorModel(ROOFS, 0.1, 12, 40).as_plain()
    with pytest.raises(CalibrationError, match="no operator model of cpu:1"):
        modelled(profile_with(**{"cpu:0": plain}), model, items, "mathfunc")
    broken = plain | {"power": -1}
    with pytest.raises(CalibrationError, match="operator model of the profile is damaged"):
        modelled(profile_with(**{"cpu:0": plain, "cpu:1": broken}), model, items, "mathfunc")
    with pytest.raises(CalibrationError, match="no input calls"):
        modelled(profile_with(**{"cpu:0": plain, "cpu:1": plain}), model, [], "mathfunc")


def test_a_profile_of_other_shapes_is_refused() -> None:
    model = build_model("treelstm", {"input_dim": 20, "hidden_dim": 16})
    other = build_model("treelstm", {"input_dim": 20, "hidden_dim": 32})
    plain = OperatorModel(ROOFS, 0.1, 12, 40).as_plain()
    profile = profile_with(**{"cpu:0": plain, "cpu:1": plain})
    priced = modelled(profile, model, generate_inputs(model, 4, 0), "treelstm")
    check_cells(model, priced, "--profile here.json")
    words = (
        r"here.json is of a leaf with [\d,]+ bytes of weights, but that of this model has [\d,]+;"
    )
    with pytest.raises(ProfileError, match=words):
        check_cells(other, priced, "--profile here.json")
