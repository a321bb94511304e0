"""How far the simulator is from the real machine, on inputs that calibration never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition.calibration.measure import Progress
from dynpartition.contract import Backend, FixedPlan, Scheduler, run
from dynpartition.errors import CalibrationError
from dynpartition.models import ModelInput
from dynpartition.plan import Plan


@dataclass(frozen=True, slots=True)
class Case:
    """One placement of one held-out input."""

    input: int
    scheduler: str
    simulated_ns: int
    measured_ns: int
    """Median over the repeats."""
    half_error: float
    """Relative difference between the medians of even and odd repeats."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Simulated against measured makespans."""

    cases: tuple[Case, ...]
    mape: float
    """Mean absolute relative error."""
    bias: float
    """Mean signed relative error; positive: the simulator is too slow."""
    worst: float
    """Largest absolute relative error."""
    noise: float
    """Mean split-half difference of the measurements: errors below it say nothing."""


def validate(
    simulator: Backend,
    hardware: Backend,
    inputs: Sequence[ModelInput],
    schedulers: Mapping[str, Scheduler],
    *,
    repeats: int = 8,
    seed: int = 0,
    progress: Progress = lambda share: None,
) -> Validation:
    """Run the same plans on both backends and compare makespans.

    The plans are decided once; repeats of all of them are interleaved in random order.
    """
    if repeats < 2:
        raise CalibrationError(f"repeats is {repeats}; two are needed to know the noise")
    jobs = [
        (number, name, item, run(hardware, item, scheduler).plan)
        for number, item in enumerate(inputs)
        for name, scheduler in schedulers.items()
    ]
    measured = _measure(
        hardware, [(item, plan) for _, _, item, plan in jobs], repeats, seed, progress
    )
    cases = tuple(
        _case(number, name, _makespan(simulator, item, plan), times)
        for (number, name, item, plan), times in zip(jobs, measured, strict=True)
    )
    return summarise(cases)


def summarise(cases: Sequence[Case]) -> Validation:
    """Return the error figures of some cases."""
    errors = np.array([case.simulated_ns / case.measured_ns - 1 for case in cases])
    return Validation(
        cases=tuple(cases),
        mape=float(np.abs(errors).mean()),
        bias=float(errors.mean()),
        worst=float(np.abs(errors).max()),
        noise=float(np.mean([case.half_error for case in cases])),
    )


def _measure(
    hardware: Backend,
    jobs: Sequence[tuple[ModelInput, Plan]],
    repeats: int,
    seed: int,
    progress: Progress,
) -> list[list[int]]:
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    times: list[list[int]] = [[] for _ in jobs]
    for done in range(repeats):
        for job in rng.permutation(len(jobs)):
            item, plan = jobs[int(job)]
            times[int(job)].append(_makespan(hardware, item, plan))
        progress((done + 1) / repeats)
    return times


def _makespan(backend: Backend, item: ModelInput, plan: Plan) -> int:
    return run(backend, item, FixedPlan(plan)).trace.makespan_ns


def _case(number: int, name: str, simulated_ns: int, times: Sequence[int]) -> Case:
    measured_ns = float(np.median(times))
    halves = abs(float(np.median(times[::2])) - float(np.median(times[1::2])))
    return Case(number, name, simulated_ns, round(measured_ns), halves / measured_ns)
