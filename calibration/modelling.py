"""Profiles of models that were never measured, by the operator models of one that was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from dynpartition.calibration.counting import count_work
from dynpartition.calibration.identity import HASH, sealed
from dynpartition.calibration.numbers import Number, as_plain
from dynpartition.calibration.operators import OperatorModel
from dynpartition.calibration.rollouts import LAUNCH_SIZES
from dynpartition.errors import CalibrationError
from dynpartition.models import DynamicModel, ModelInput
from dynpartition.profile import Curve, Profile


def modelled(
    profile: Profile, model: DynamicModel[Any], inputs: Sequence[ModelInput], name: str
) -> Profile:
    """Return `profile` with costs of the cells of `model`, and of no others, from operator models.

    Where the profile was measured with the same model, what was measured is kept, and only cells
    are added that no input had called then; a cell that these do not call either goes without.

    Links and the executor's costs stay as they were measured; first uses are not modelled. Every
    cost says that it is modelled, with an interval of twice the error that the operator model has
    on cells left out of its fit. Raises CalibrationError where a device has no operator model, and
    for a cell that no input calls: its shape is not known.
    """
    operators = _operators(profile)
    works = count_work(model, inputs)
    is_same = profile.provenance.get("model") == name
    measured = {cell: costs for cell, costs in profile.cells.items() if is_same}
    missing = [cell for cell in model.cells if cell not in works and cell not in measured]
    if missing and not is_same:
        raise CalibrationError(
            f"no input calls {missing[0]}, so its shape is not known; give more inputs"
        )
    cells: dict[str, dict[str, Curve]] = {}
    numbers: dict[str, Number] = {}
    for cell, work in works.items():
        if cell in measured:
            continue
        cells[cell] = {}
        for device, operator in operators.items():
            curve = cells[cell][device] = operator.curve(work, LAUNCH_SIZES)
            spread = 2 * operator.held_out_error
            for size, ns in zip(curve.batch, curve.duration_ns, strict=True):
                ends = (max(0.0, ns * (1 - spread)), ns * (1 + spread))
                number = Number(ns, "ns", "modelled", operator.points, *ends, "roofline")
                numbers[f"cells/{cell}/{device}/{size}"] = number
    story = {key: value for key, value in profile.provenance.items() if key not in (HASH, "refits")}
    kept = story.get("numbers")
    kept = kept if isinstance(kept, dict) else {}
    others = {
        path: plain
        for path, plain in kept.items()
        if is_same or not path.startswith(("cells/", "first_use/"))
    }
    story |= {
        "model": name,
        "modelled_from": profile.provenance.get(HASH),
        "cells": {
            **(_counted(profile) if is_same else {}),
            **{cell: asdict(work) for cell, work in works.items()},
        },
        "uncalled": missing,
        "numbers": {**as_plain(numbers), **others},
        "held_out_error": None,
    }
    worst = max(operator.held_out_error for operator in operators.values())
    return sealed(
        replace(
            profile,
            cells={**measured, **cells},
            dispatch=profile.dispatch if is_same else replace(profile.dispatch, first_use_ns={}),
            provenance=story,
            uncertainty=min(3.0, worst),
        )
    )


def _counted(profile: Profile) -> Mapping[str, object]:
    """Return what was counted of the cells that a profile was measured with."""
    plain = profile.provenance.get("cells")
    return plain if isinstance(plain, dict) else {}


def _operators(profile: Profile) -> dict[str, OperatorModel]:
    plain = profile.provenance.get("operators")
    table = plain if isinstance(plain, dict) else {}
    missing = [name for name in profile.cluster.names if name not in table]
    if missing:
        raise CalibrationError(
            f"the profile has no operator model of {missing[0]}; give one that `calibrate` wrote"
        )
    return {name: OperatorModel.from_plain(table[name]) for name in profile.cluster.names}
