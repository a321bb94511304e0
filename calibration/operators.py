"""Operator models: what a cell of a shape that was never measured takes, from its arithmetic.

    time = launch + ops · overhead + ((flops / peak)^p + (bytes / bandwidth)^p)^(1/p)

A p-norm of both roofs of the roofline model (Williams, Waterman and Patterson 2009): p → ∞ is the
sharp roofline, p = 1 adds both. Fitted per device on logarithms; judged by leaving out each cell in
turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import optimize
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dynpartition.calibration.regress import FloatArray
from dynpartition.errors import CalibrationError
from dynpartition.models import DynamicModel, ModelInput
from dynpartition.models.interpreter import Interpreter, task_arguments
from dynpartition.models.variants import variant_of
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
        return float(np.exp(_log_times(values, [(work, size)])[0]))

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
        guess = _log_times(_fitted(rest), [(work, size) for _, work, size, _ in left_out])
        errors += np.abs(guess - np.log([ns for *_, ns in left_out])).tolist()
    found = _fitted(points)
    return OperatorModel(
        Roofs(*[*np.exp(found[:4]).tolist(), float(found[4])]),
        held_out_error=float(np.mean(errors)),
        cells=len(names),
        points=len(points),
    )


def _fitted(points: Sequence[tuple[str, Work, int, float]]) -> FloatArray:
    rows = [(work, size) for _, work, size, _ in points]
    logs = np.log([max(1.0, ns) for *_, ns in points])

    def misfit(values: FloatArray) -> FloatArray:
        return _log_times(values, rows) - logs

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


def _log_times(values: FloatArray, rows: Sequence[tuple[Work, int]]) -> FloatArray:
    """Return the logarithms of the times of launches; `values`: four logarithms and p."""
    launch, overhead, peak, bandwidth = np.exp(values[:4])
    power = values[4]
    ops = np.array([work.ops for work, _ in rows], dtype=float)
    compute = np.array([work.flops * size for work, size in rows]) / peak
    memory = np.array([work.bytes_of(size) for work, size in rows]) / bandwidth
    roof = np.maximum(compute, memory) + 1e-9
    ratio = np.minimum(compute, memory) / roof  # at most 1: powers of it cannot overflow
    times: FloatArray = np.log(launch + ops * overhead + roof * (1 + ratio**power) ** (1 / power))
    return times


def count_work(model: DynamicModel[Any], inputs: Iterable[ModelInput]) -> dict[str, Work]:
    """Return what the calls of each cell do, as the first of them in `inputs` is shaped.

    Cells that no input calls are missing.
    """
    calls: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {}
    for item in inputs:
        if len(calls) == len(model.cells):
            break
        _note_calls(model, item, calls)
    return {name: _work_of(model.cells[name], *call) for name, call in calls.items()}


def _note_calls(
    model: DynamicModel[Any],
    item: ModelInput,
    calls: dict[str, tuple[nn.Module, tuple[Any, ...]]],
) -> None:
    """Note the first call of every cell, with its arguments (1, *shape)."""
    interpreter = Interpreter(model.cells, item.start())
    for number, task in enumerate(interpreter.tasks):  # the list grows at reveals
        if task.cell not in calls:
            arguments = task_arguments(task, interpreter.outputs)
            cell = variant_of(model.cells[task.cell], task.variant)
            calls[task.cell] = cell, tuple(argument.unsqueeze(0) for argument in arguments)
        interpreter.compute([number])
        if task.reveals:
            interpreter.expand(number)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def _work_of(owner: nn.Module, cell: nn.Module, arguments: tuple[Any, ...]) -> Work:
    """Return what a call does; `owner` has the weights."""
    flops = FlopCounterMode(display=False)
    with flops:
        result = cell(*arguments)
    counting = _Counting()
    with counting:
        cell(*arguments)
    size = len(arguments[0])
    moved = sum(tensor.numel() * tensor.element_size() for tensor in (*arguments, result))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in owner.parameters())
    return Work(counting.count, flops.get_total_flops() / size, weights, moved / size)
