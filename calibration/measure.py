"""Calibration: a profile of the local devices from real runs of randomised placements."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dynpartition.calibration.fit import SAMPLES_MIN, Fitted, fit_profile
from dynpartition.calibration.heldout import fitted_to
from dynpartition.calibration.joint import Job, JobSimulator, Refit, refit
from dynpartition.calibration.numbers import Number, as_plain
from dynpartition.calibration.observations import HostTimes, Observations, observe
from dynpartition.calibration.quantiles import typical, typical_error
from dynpartition.calibration.rollouts import LAUNCH_SIZES, Batched, OneDevice, RandomRollout
from dynpartition.cluster import Cluster, Device
from dynpartition.contract import FixedPlan, Outcome, Scheduler, drive
from dynpartition.errors import CalibrationError
from dynpartition.hardware import HardwareBackend
from dynpartition.hardware.virtual import ClockKind
from dynpartition.models import DynamicModel, ModelInput
from dynpartition.profile import Profile

Progress = Callable[[float], None]
"""Called with the share that is done, 0…1."""

FIT_JOBS, CHECK_JOBS = 48, 16
"""Placements that numbers are fitted to, and others, of other inputs, that tell how well."""
_CHECK_SHARE = 0.25
_WARM_UP_RUNS = 3
_BATCHED_SHARE = 0.5
_PATIENCE = 4  # times the asked duration, where other work keeps taking the cores away
_LAUNCHES_MAX = 60_000
"""More observed launches than this make no number better, and the fit slower."""
_DELAY_MAX = 0.01
"""A run whose threads waited longer for a core, relative to its makespan, tells nothing…"""
_RUNS_LEAST = 0.25
"""… unless fewer than this share of a placement's runs are better; then those count."""
_SPREAD_LEAST = 0.003
"""Nobody knows a makespan better than this: machines drift."""


@dataclass
class MeasuredJob:
    """A placement of one input, and its runs."""

    item: ModelInput
    scheduler: Scheduler
    outcomes: list[tuple[Outcome, HostTimes]] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    """Per run: how long threads waited for a core, relative to the makespan."""

    def best(self) -> list[int]:
        """Return the runs that other work left alone."""
        waited = np.array(self.waited)
        limit = max(_DELAY_MAX, float(np.quantile(waited, _RUNS_LEAST)))
        return np.flatnonzero(waited <= limit).tolist()

    def job(self) -> Job:
        """Return what the fit needs to know."""
        times = [outcome.trace.makespan_ns for outcome, _ in self.outcomes]
        first = self.outcomes[0][0]
        return Job(first.graph, first.plan, typical(times), max(_SPREAD_LEAST, typical_error(times)))


def calibrate(
    model: DynamicModel[Any],
    devices: Sequence[Device],
    inputs: Sequence[ModelInput],
    *,
    seconds: float,
    seed: int = 0,
    clock: ClockKind = "wall",
    progress: Progress = lambda share: None,
    provenance: Mapping[str, object] | None = None,
) -> Profile:
    """Return the profile of `devices`, measured for `seconds` while they run `inputs`.

    Randomised placements and each single device are run again and again in random order, so that a
    slow phase of the machine touches all alike. Stamps of their launches and transfers make the
    numbers; then all are re-fitted to the makespans. Raises CalibrationError without inputs, or
    when a cell or a link was not measured often enough.
    """
    if not inputs:
        raise CalibrationError("calibration needs at least one input")
    if not seconds > 0:
        raise CalibrationError(f"calibration time is {seconds} s; give more than 0")
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    with HardwareBackend(model, devices, clock=clock) as backend:
        cluster = backend.profile.cluster
        fit_inputs, check_inputs = _divided(inputs)
        fit_jobs = _jobs(fit_inputs, cluster, rng, FIT_JOBS)
        check_jobs = _jobs(check_inputs, cluster, rng, CHECK_JOBS)
        _measure(backend, [*fit_jobs, *check_jobs], rng, seconds, progress)
    fitted = fit_profile(cluster, _observations(fit_jobs, cluster))
    again = refit(fitted.profile, [job.job() for job in fit_jobs], prior_deviations(fitted.numbers))
    checked = [job.job() for job in check_jobs if job.outcomes]
    used = fitted_to((job.item, job.outcomes[0][0].graph, job.outcomes[0][0].plan) for job in fit_jobs)
    story = {**(provenance or {}), "clock": clock, "fitted_to": used.as_plain()}
    return _described(fitted, again, checked, story)


def _divided(inputs: Sequence[ModelInput]) -> tuple[Sequence[ModelInput], Sequence[ModelInput]]:
    """Return inputs to fit to and, of other content, inputs to check with; none if there is one."""
    by_content: dict[str, ModelInput] = {item.digest: item for item in inputs}
    different = list(by_content.values())
    n_check = int(len(different) * _CHECK_SHARE)
    return different[n_check:], different[:n_check]


def _jobs(
    inputs: Sequence[ModelInput], cluster: Cluster, rng: np.random.Generator, count: int
) -> list[MeasuredJob]:
    """Return placements: every single device, and random ones, one by one and merged."""
    jobs = []
    names = cluster.names
    for number in range(count if inputs else 0):
        scheduler: Scheduler = RandomRollout(rng, len(names))
        if number < count // 4 or len(names) == 1:
            scheduler = OneDevice(names[number % len(names)])
        if rng.random() < _BATCHED_SHARE and number >= len(names):
            scheduler = Batched(scheduler, int(rng.choice(LAUNCH_SIZES[1:])))
        jobs.append(MeasuredJob(inputs[int(rng.integers(len(inputs)))], scheduler))
    return jobs


def _measure(
    backend: HardwareBackend,
    jobs: Sequence[MeasuredJob],
    rng: np.random.Generator,
    seconds: float,
    progress: Progress,
) -> None:
    """Run all jobs in random order, round after round, for `seconds`."""
    for device in backend.profile.cluster.names * _WARM_UP_RUNS:
        _run(backend, jobs[0].item, OneDevice(device))
    _capture(backend, jobs[0].item)
    started = time.monotonic()
    elapsed = 0.0
    while elapsed < seconds or (_rounds(jobs) < 2 and elapsed < _PATIENCE * seconds):
        for index in rng.permutation(len(jobs)).tolist():
            job = jobs[index]
            outcome, times, waited_ns = _run(backend, job.item, job.scheduler)
            if not job.outcomes:
                job.scheduler = FixedPlan(outcome.plan)
            job.outcomes.append((outcome, times))
            job.waited.append(waited_ns / outcome.trace.makespan_ns)
            elapsed = time.monotonic() - started
            if elapsed > seconds and _rounds(jobs) >= 2:
                break
        progress(min(1.0, elapsed / seconds))


def _rounds(jobs: Sequence[MeasuredJob]) -> int:
    return min(len(job.outcomes) for job in jobs)


def _capture(backend: HardwareBackend, item: ModelInput) -> None:
    """Let GPUs capture launches of all sizes: later runs replay them."""
    for device in backend.profile.cluster.devices:
        for size in LAUNCH_SIZES if device.kind == "cuda" else ():
            for _ in range(2):  # asked for in the first run, captured before the second
                _run(backend, item, Batched(OneDevice(device.name), size))


def _run(
    backend: HardwareBackend, item: ModelInput, scheduler: Scheduler
) -> tuple[Outcome, HostTimes, int]:
    """Run one input; return what happened and how long threads waited for a core."""
    with backend.open(item) as session:
        outcome = drive(session, scheduler, backend.profile)
        if session.lost:
            raise CalibrationError(
                f"{', '.join(session.lost)} was lost while it was measured; calibrate again"
            )
        times = HostTimes(dict(session.seen_ns), session.dispatch_ns, session.push_ns)
        return outcome, times, session.waited_ns


def _observations(jobs: Sequence[MeasuredJob], cluster: Cluster) -> Observations:
    """Return what the runs tell that other work left alone, of all jobs alike."""
    per_round = sum(len(job.outcomes[0][0].trace.launches) for job in jobs)
    runs_max = max(2, _LAUNCHES_MAX // max(1, per_round))
    found, number = Observations(), 0
    for job in jobs:
        best = job.best()
        for run in best[:: -(-len(best) // runs_max)]:
            outcome, times = job.outcomes[run]
            found += observe(number, outcome.graph, cluster, outcome.trace, times)
            number += 1
    return found


_PRIOR_DEVIATIONS = {
    "cells": 0.05,
    "links": 0.2,
    "bookkeeping": 0.2,
    "copy_in": 0.3,
    "copy_out": 0.3,
    "first_use": 0.2,
    "h": 0.1,
    "h_copy": 0.2,
    "handoff_ns": 0.5,
    "sync_ns": 0.5,
    "decision_ns": 0.3,
}
"""Kind of number → how far whole runs may move it, relatively: by what launches do to each other."""


def prior_deviations(numbers: Mapping[str, Number]) -> dict[str, float]:
    """Return, by the names of `rescaled`, how far numbers may be moved."""
    found: dict[str, float] = {}
    for path, number in numbers.items():
        name = factor_name(path)
        kind = _PRIOR_DEVIATIONS[path.partition("/")[0]]
        if number.value > 0:
            found[name] = max(found.get(name, 0.0), kind)
    return found


def factor_name(path: str) -> str:
    """Return the name by which `rescaled` moves the number at `path`: that of its whole curve."""
    head, _, last = path.rpartition("/")
    return head if path.startswith(("cells/", "links/")) and last.isdecimal() else path


def moved_numbers(numbers: Mapping[str, Number], again: Refit) -> dict[str, Number]:
    """Return numbers as a re-fit has left them."""
    moved: dict[str, Number] = {}
    for path, number in numbers.items():
        name = factor_name(path)
        if name not in again.factors:
            moved[path] = number
            continue
        value = number.value * again.factors[name]
        deviation = np.hypot(again.deviations[name], number.deviation or 0.0)
        low, high = value * max(0.0, 1 - 1.96 * deviation), value * (1 + 1.96 * deviation)
        moved[path] = replace(number, value=value, source="fitted", low=low, high=high)
    return moved


def _described(
    fitted: Fitted, again: Refit, checked: Sequence[Job], provenance: Mapping[str, object]
) -> Profile:
    """Return the profile with the story of its numbers."""
    profile = again.profile
    error = job_error(profile, checked)
    story = {
        **provenance,
        "numbers": as_plain(moved_numbers(fitted.numbers, again)),
        "left_out": dict(fitted.wrong),
        "held_out_error": error,
    }
    return replace(profile, provenance=story, uncertainty=min(3.0, error or 0.0))


def job_error(profile: Profile, jobs: Sequence[Job]) -> float | None:
    """Return the mean absolute relative error of simulated makespans; None without jobs."""
    if not jobs:
        return None
    simulated = JobSimulator(profile, jobs).makespans_ns(profile)
    typical_ns = np.array([job.typical_ns for job in jobs])
    return float(np.abs(simulated / typical_ns - 1).mean())
