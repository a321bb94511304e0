"""Re-fitting a profile to whole runs: makespans of randomised placements, all numbers at once.

What launches cost one by one leaves out what they do to each other: caches, memory bandwidth, the
interpreter. So every number gets a factor, near 1 by its prior, and the factors are fitted to what
the placements took (maximum a posteriori, Gauss-Newton on logarithms).

J jobs, P numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition.calibration.regress import FloatArray
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.pricing import price
from dynpartition.profile import PricedGraph, Profile
from dynpartition.program import Program, lower
from dynpartition.sim.batch import pack, run_batch
from dynpartition.sim.kernel_pack import ProgramWorld
from dynpartition.sim.perturb import number_names, rescaled

_STEP = 0.05
"""Relative change by which slopes are found: far above what rounding to nanoseconds does."""
_ROUNDS = 6
_HUBER = 2.0
"""Jobs that are farther off than so many standard deviations count less."""


@dataclass(frozen=True)
class Job:
    """A placement of one input, and what it took."""

    graph: TaskGraph
    plan: Plan
    typical_ns: float
    spread: float
    """Relative standard error of `typical_ns`."""


@dataclass(frozen=True)
class Refit:
    """A re-fitted profile."""

    profile: Profile
    factors: Mapping[str, float]
    """Number → what it was multiplied by."""
    deviations: Mapping[str, float]
    """Number → relative standard deviation that is left."""


class JobSimulator:
    """Simulates jobs on changing profiles of one cluster; plans are lowered once."""

    def __init__(self, profile: Profile, jobs: Sequence[Job]) -> None:
        cluster = profile.cluster
        self._graphs = [job.graph for job in jobs]
        self._programs: list[Program] = [lower(job.graph, cluster, job.plan) for job in jobs]

    def makespans_ns(self, profile: Profile) -> FloatArray:
        """Return (J,) what each job takes on `profile`."""
        known: dict[int, PricedGraph] = {}
        worlds = []
        for graph, program in zip(self._graphs, self._programs, strict=True):
            priced = known.setdefault(id(graph), PricedGraph(graph, profile))
            worlds.append(ProgramWorld(priced, program, price(program, priced)))
        result = run_batch(pack(worlds), recording=False)
        return np.asarray(result.makespan_ns, dtype=float)


def refit(profile: Profile, jobs: Sequence[Job], deviations: Mapping[str, float]) -> Refit:
    """Return `profile` with its numbers re-fitted to `jobs`.

    `deviations`: number → relative standard deviation of its prior; the others stay as they are.
    """
    names = [name for name in number_names(profile) if deviations.get(name, 0) > 0]
    prior = np.array([deviations[name] for name in names])
    simulator = JobSimulator(profile, jobs)
    measured = np.log([job.typical_ns for job in jobs])
    noise = np.array([job.spread for job in jobs])

    def misfit(logs: FloatArray) -> FloatArray:
        moved = rescaled(profile, _factors(names, logs))
        deviation: FloatArray = np.log(simulator.makespans_ns(moved)) - measured
        return deviation

    logs = np.zeros(len(names))
    slopes = np.zeros((len(jobs), len(names)))
    weights = np.ones(len(jobs))
    for step in range(_ROUNDS):
        here = misfit(logs)
        if step in (0, 2):  # which path is critical changes little after that
            slopes = _slopes(misfit, logs, here)
        weights = np.minimum(1.0, _HUBER * noise / np.maximum(1e-12, np.abs(here)))
        normal, pull = _normal(slopes, here, weights / noise**2, logs, prior)
        logs = logs - np.linalg.solve(normal, pull)
    left = np.sqrt(np.diag(np.linalg.inv(normal))) if len(names) else np.zeros(0)
    factors = dict(zip(names, np.exp(logs).tolist(), strict=True))
    return Refit(
        rescaled(profile, _factors(names, logs)),
        factors,
        dict(zip(names, left.tolist(), strict=True)),
    )


def _factors(names: Sequence[str], logs: FloatArray) -> Callable[[str], float]:
    table = dict(zip(names, np.exp(logs).tolist(), strict=True))
    return lambda name: table.get(name, 1.0)


def _slopes(
    misfit: Callable[[FloatArray], FloatArray], logs: FloatArray, here: FloatArray
) -> FloatArray:
    columns = []
    for at in range(len(logs)):
        there = logs.copy()
        there[at] += _STEP
        columns.append((misfit(there) - here) / _STEP)
    return np.stack(columns, axis=1) if columns else np.zeros((len(here), 0))


def _normal(
    slopes: FloatArray, here: FloatArray, weights: FloatArray, logs: FloatArray, prior: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the matrix and the right side of one Gauss-Newton step."""
    normal = slopes.T @ (slopes * weights[:, None]) + np.diag(1 / prior**2)
    pull = slopes.T @ (here * weights) + logs / prior**2
    return normal, pull
