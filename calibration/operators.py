"""Operator models: what a cell of a shape that was never measured takes, from its arithmetic.

    time = launch + ops · overhead + ((flops / peak)^p + (bytes / bandwidth)^p)^(1/p)

A p-norm of both roofs of the roofline model (Williams, Waterman and Patterson 2009): p → ∞ is the
sharp roofline, p = 1 adds both. Fitted per device on logarithms; judged by leaving out each cell in
turn. What cells do is counted by `dynpartition.calibration.counting`; nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from dynpartition.calibration.regress import FloatArray
from dynpartition.errors import CalibrationError
from dynpartition.profile import Curve

_CELLS_MIN = 4
"""Of fewer cells no model is made: it could not be judged."""
_LOGS_START = np.log([5000.0, 1500.0, 20.0, 10.0])
"""5 µs per launch, 1.5 µs per operator, 20 floating-point operations and 10 bytes per ns."""
_POWER_START, _POWER_MAX = 1.5, 8.0


@dataclass(frozen=True, slots=True)
class Work:
    """What one call of a cell does, for one task and for any number of them."""

    ops: int
    """Operators called."""
    flops: float
    """Per task."""
    weight_bytes: int
    task_bytes: float
    """Inputs and outputs, per task."""

    def bytes_of(self, size: int) -> float:
        """Return what a launch of `size` tasks reads and writes."""
        return self.weight_bytes + size * self.task_bytes


class Roofs(NamedTuple):
    """The parameters of one device."""

    launch_ns: float
    overhead_ns: float
    flops_per_ns: float
    bytes_per_ns: float
    power: float


@dataclass(frozen=True, slots=True)
class OperatorModel:
    """The roofs of one device, and how well they fit."""

    roofs: Roofs
    held_out_error: float
    """Mean absolute logarithmic error on cells that were left out: 0.1 is about 10 %."""
    cells: int
    points: int

    def ns(self, work: Work, size: int) -> float:
        """Return what a launch of `size` tasks takes."""
        *positive, power = self.roofs
        values = np.append(np.log(positive), power)
        return float(np.exp(_log_times(values, _amounts([(work, size)]))[0]))

    def curve(self, work: Work, sizes: Sequence[int]) -> Curve:
        """Return a batch curve."""
        times = np.maximum.accumulate([max(1, round(self.ns(work, size))) for size in sizes])
        return Curve(tuple(sizes), tuple(times.tolist()))

    def as_plain(self) -> dict[str, float]:
        """Return it as it stands in a profile file."""
        judged = {"held_out_error": self.held_out_error, "cells": self.cells, "points": self.points}
        plain = {**self.roofs._asdict(), **judged}
        return {key: float(f"{value:.6g}") for key, value in plain.items()}

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> OperatorModel:
        """Return the model that stands in a profile file; CalibrationError where it is damaged."""
        try:
            model = OperatorModel(
                Roofs(*(float(plain[name]) for name in Roofs._fields)),
                held_out_error=float(plain["held_out_error"]),
                cells=int(plain["cells"]),
                points=int(plain["points"]),
            )
            if not all(np.isfinite(value) and value > 0 for value in model.roofs):
                raise ValueError
        except (TypeError, ValueError, KeyError):
            raise CalibrationError(
                f"an operator model of the profile is damaged ({dict(plain)}); calibrate again"
            ) from None
        return model


def fit_operators(points: Sequence[tuple[str, Work, int, float]]) -> OperatorModel | None:
    """Fit one device's model to (cell, work, size, ns); None where there are too few cells."""
    names = sorted({cell for cell, *_ in points})
    if len(names) < _CELLS_MIN:
        return None
    errors = []
    for name in names:
        rest = [point for point in points if point[0] != name]
        left_out = [point for point in points if point[0] == name]
        amounts = _amounts([(work, size) for _, work, size, _ in left_out])
        guess = _log_times(_fitted(rest), amounts)
        errors += np.abs(guess - np.log([ns for *_, ns in left_out])).tolist()
    found = _fitted(points)
    return OperatorModel(
        Roofs(*[*np.exp(found[:4]).tolist(), float(found[4])]),
        held_out_error=float(np.mean(errors)),
        cells=len(names),
        points=len(points),
    )


def _fitted(points: Sequence[tuple[str, Work, int, float]]) -> FloatArray:
    amounts = _amounts([(work, size) for _, work, size, _ in points])
    logs = np.log([max(1.0, ns) for *_, ns in points])

    def misfit(values: FloatArray) -> FloatArray:
        return _log_times(values, amounts) - logs

    start = np.append(_LOGS_START, _POWER_START)
    bounds = ([*(_LOGS_START - 12), 1.0], [*(_LOGS_START + 12), _POWER_MAX])
    found = optimize.least_squares(
        misfit,
        start,
        bounds=bounds,
        loss="soft_l1",
        f_scale=0.2,
    )
    solution: FloatArray = found.x
    return solution


class _Amounts(NamedTuple):
    """What launches do, one entry each."""

    ops: FloatArray
    flops: FloatArray
    bytes: FloatArray


def _amounts(launches: Sequence[tuple[Work, int]]) -> _Amounts:
    """Return what launches do of so many tasks; once, as a fit asks for their times very often."""
    rows = [(work.ops, work.flops * size, work.bytes_of(size)) for work, size in launches]
    return _Amounts(*np.array(rows, dtype=float).reshape(-1, 3).T)


def _log_times(values: FloatArray, amounts: _Amounts) -> FloatArray:
    """Return the logarithms of the times of launches; `values`: four logarithms and p."""
    launch, overhead, peak, bandwidth = np.exp(values[:4])
    power = values[4]
    compute, memory = amounts.flops / peak, amounts.bytes / bandwidth
    roof = np.maximum(compute, memory) + 1e-9
    ratio = np.minimum(compute, memory) / roof  # at most 1: powers of it cannot overflow
    fixed = launch + amounts.ops * overhead
    times: FloatArray = np.log(fixed + roof * (1 + ratio**power) ** (1 / power))
    return times
