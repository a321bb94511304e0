"""How far the simulator is from the real machine, on inputs that calibration never saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np

from dynpartition.calibration.anchors import Anchor, at_pace, paces
from dynpartition.calibration.candidates import candidate_plans, simulated_ns
from dynpartition.calibration.heldout import Used, placement_id
from dynpartition.calibration.joint import Job, JobSimulator
from dynpartition.calibration.quantiles import split_half, typical, undisturbed
from dynpartition.calibration.rollouts import OneDevice
from dynpartition.contract import Backend, FixedPlan, Scheduler, drive, run
from dynpartition.errors import CalibrationError
from dynpartition.models import ModelInput
from dynpartition.plan import Plan
from dynpartition.profile import Profile

Progress = Callable[[float], None]
"""Called with the share that is done, 0…1."""

PLACEMENTS = 12
"""Placements per input."""
CONCLUSIVE_NOISE = 0.01
"""A graph whose placements repeat worse than this, on average, decides nothing."""
CONCLUSIVE_SHARE = 0.5
"""Of the graphs, at least so many have to decide something."""
MAPE_MAX, TAU_MIN, REGRET_MAX = 0.015, 0.95, 0.003
"""What a profile has to reach on the graphs that decide something."""
_TELLS_APART = 0.02
"""Placements that differ by less are not ranked."""

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Case:
    """One placement of one held-out input."""

    input: int
    scheduler: str
    simulated_ns: int
    """At the pace of the machine while it was measured."""
    measured_ns: int
    """Lowest tenth of the repeats whose threads did not wait for a core."""
    half_error: float
    """Relative difference between even and odd repeats."""
    calibrated_ns: int | None = None
    """Simulated at the pace of the machine during calibration; None: they are the same."""

    @property
    def error(self) -> float:
        """Signed relative error of the simulator."""
        return self.simulated_ns / self.measured_ns - 1

    @property
    def calibrated_error(self) -> float:
        """The same, had the machine been taken to be as during calibration."""
        simulated_ns = self.simulated_ns if self.calibrated_ns is None else self.calibrated_ns
        return simulated_ns / self.measured_ns - 1


@dataclass(frozen=True, slots=True)
class GraphResult:
    """All placements of one held-out input."""

    input: int
    tau: float | None
    """Kendall's rank correlation of placements that differ by more than 2 %; None: none do."""
    regret: float
    """How much slower than the fastest placement that one is that the simulator prefers."""
    optimism: float
    """How much slower that one is than simulated."""
    noise: float
    """Mean difference between the halves of the measurements."""
    is_conclusive: bool


@dataclass(frozen=True, slots=True)
class Validation:
    """Simulated against measured makespans. All errors are shares: 0.02 is 2 %."""

    cases: tuple[Case, ...]
    graphs: tuple[GraphResult, ...]
    mape: float
    """Mean absolute relative error."""
    bias: float
    """Mean signed relative error; positive: the simulator is too slow."""
    p95: float
    """95 % of the absolute relative errors are below."""
    worst: float
    """Largest absolute relative error."""
    tau: float | None
    """Mean over graphs."""
    regret: float
    """Mean over graphs."""
    optimism: float
    """How much more optimistic the simulator is about what it prefers than about all placements."""
    noise: float
    """Mean split-half difference of the measurements: errors below it say nothing."""
    conclusive: float
    """Share of the graphs that decide something."""
    decisive_mape: float | None
    """As `mape`, `tau` and `regret`, on those graphs alone."""
    decisive_tau: float | None
    decisive_regret: float | None
    verdict: Verdict
    """Inconclusive counts as not passed."""
    paces: Mapping[str, float] = field(default_factory=dict)
    """Device → how much longer its anchors took than during calibration; without anchors empty."""
    calibrated_mape: float = 0.0
    """As `mape`, had the machine been taken to be as during calibration."""
    calibrated_bias: float = 0.0
    known_shapes: bool = False
    """Whether inputs and placements are new to the profile, but not the shapes of the graphs."""


def validate(
    simulator: Backend,
    hardware: Backend,
    inputs: Sequence[ModelInput],
    schedulers: Mapping[str, Scheduler],
    *,
    repeats: int = 8,
    placements: int = PLACEMENTS,
    anchors: Sequence[tuple[ModelInput, Anchor]] = (),
    longer_s: float = 0.0,
    seed: int = 0,
    known_shapes: bool = False,
    progress: Progress = lambda share: None,
) -> Validation:
    """Run the same plans on both backends and compare makespans.

    Plans are decided once: by the schedulers and, up to `placements` of them, by the simulator
    itself. Repeats of all of them are interleaved in random order, and `anchors` with them, which
    tell how much faster or slower the machine is now than during calibration: errors are those
    of the simulator at that pace. Where too few graphs decide
    something after `repeats`, measuring goes on for up to `longer_s` seconds. Raises
    CalibrationError for an input or a placement that the simulator's profile was fitted to, and for
    shapes of graphs that it was fitted to but with `known_shapes`, for models that have no others:
    then placements that it was fitted to are left out.
    """
    if repeats < 2:
        raise CalibrationError(f"repeats is {repeats}; two are needed to know the noise")
    used = Used.of(simulator.profile)
    jobs: list[_Job] = []
    for number, item in enumerate(inputs):
        used.check_input(item, known_shapes=known_shapes)
        plans = {name: run(hardware, item, it).plan for name, it in schedulers.items()}
        count = max(0, placements - len(set(plans.values())))
        if count and len(hardware.profile.cluster.devices) > 1:
            known = list(plans.values())
            plans |= candidate_plans(simulator, item, known, count=count, seed=seed + number)
        jobs += _jobs(simulator.profile, number, item, plans)
    if known_shapes:
        jobs = [
            job for job in jobs if placement_id(job.item.graph, job.plan) not in used.placements
        ]
        if not jobs:
            raise CalibrationError(
                "the profile was fitted to all placements that were tried of its model's shapes;"
                " calibrate with fewer --seconds, or validate with more --placements"
            )
    for job in jobs:
        used.check_placement(placement_id(job.item.graph, job.plan))
    measurement = _Measurement(simulator.profile, jobs, _anchor_jobs(hardware, anchors))
    measurement.go_on(hardware, repeats, longer_s, seed, progress)
    return replace(measurement.result(), known_shapes=known_shapes)


@dataclass
class _Job:
    number: int
    name: str
    item: ModelInput
    plan: Plan
    simulated_ns: int
    times: list[int] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    def run_on(self, hardware: Backend) -> None:
        with hardware.open(self.item) as session:
            outcome = drive(session, FixedPlan(self.plan), hardware.profile)
            self.times.append(outcome.trace.makespan_ns)
            self.waited.append(session.waited_ns / outcome.trace.makespan_ns)

    def best_times(self) -> list[int]:
        return [self.times[run] for run in undisturbed(self.waited)]

    def case(self, simulated_ns: float) -> Case:
        times = self.best_times()
        measured = (round(typical(times)), split_half(times))
        name = (self.number, self.name)
        return Case(*name, round(simulated_ns), *measured, self.simulated_ns)


def _anchor_jobs(
    hardware: Backend, anchors: Sequence[tuple[ModelInput, Anchor]]
) -> list[tuple[Anchor, _Job]]:
    found = []
    for item, anchor in anchors:
        plan = run(hardware, item, OneDevice(anchor.device)).plan
        found.append((anchor, _Job(-1, "anchor", item, plan, 0)))
    return found


def _jobs(
    profile: Profile, number: int, item: ModelInput, plans: Mapping[str, Plan]
) -> Iterable[_Job]:
    times = simulated_ns(profile, item.graph, list(plans.values())).tolist() if plans else []
    for (name, plan), ns in zip(plans.items(), times, strict=True):
        yield _Job(number, name, item, plan, round(ns))


@dataclass
class _Measurement:
    """Placements and anchors that are run again and again."""

    profile: Profile
    jobs: Sequence[_Job]
    anchors: Sequence[tuple[Anchor, _Job]]

    def go_on(
        self, hardware: Backend, repeats: int, longer_s: float, seed: int, progress: Progress
    ) -> None:
        """Run all of them `repeats` times, then for `longer_s` seconds while inconclusive."""
        rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
        every = [*self.jobs, *(job for _, job in self.anchors)]
        done, until_s = 0, float("inf")
        while self.jobs and (done < repeats or time.monotonic() < until_s):
            for index in rng.permutation(len(every)).tolist():
                every[index].run_on(hardware)
            done += 1
            progress(min(1.0, done / repeats))
            if done == repeats:
                until_s = time.monotonic() + longer_s
            if done >= repeats and self.result().verdict != "inconclusive":
                return

    @cached_property
    def _simulator(self) -> JobSimulator:
        plans = [Job(job.item.graph, job.plan, 1.0, 1.0) for job in self.jobs]
        return JobSimulator(self.profile, plans)

    def result(self) -> Validation:
        """Return what has been found out."""
        now = paces((anchor, typical(job.best_times())) for anchor, job in self.anchors)
        profile = at_pace(self.profile, now)
        times = self._simulator.makespans_ns(profile).tolist() if self.jobs else []
        cases = [job.case(ns) for job, ns in zip(self.jobs, times, strict=True)]
        return replace(summarise(cases), paces=now)


def summarise(cases: Sequence[Case]) -> Validation:
    """Return the error figures of some cases; CalibrationError without any."""
    if not cases:
        raise CalibrationError("nothing was compared; give at least one input and one scheduler")
    by_input: dict[int, list[Case]] = {}
    for case in cases:
        by_input.setdefault(case.input, []).append(case)
    graphs = tuple(_graph(number, own) for number, own in by_input.items())
    errors = np.array([case.error for case in cases])
    before = np.array([case.calibrated_error for case in cases])
    decisive = {graph.input for graph in graphs if graph.is_conclusive}
    chosen = [graph for graph in graphs if graph.is_conclusive]
    conclusive = len(chosen) / len(graphs)
    mape = _mean([abs(case.error) for case in cases if case.input in decisive])
    tau, regret = _mean([graph.tau for graph in chosen]), _mean([graph.regret for graph in chosen])
    mean_optimism = float(np.mean([graph.optimism for graph in graphs]))
    return Validation(
        cases=tuple(cases),
        graphs=graphs,
        mape=float(np.abs(errors).mean()),
        bias=float(errors.mean()),
        p95=float(np.quantile(np.abs(errors), 0.95)),
        worst=float(np.abs(errors).max()),
        tau=_mean([graph.tau for graph in graphs]),
        regret=float(np.mean([graph.regret for graph in graphs])),
        optimism=mean_optimism - float(np.mean([1 / (1 + error) - 1 for error in errors])),
        noise=float(np.mean([case.half_error for case in cases])),
        conclusive=conclusive,
        decisive_mape=mape,
        decisive_tau=tau,
        decisive_regret=regret,
        verdict=_verdict(conclusive, mape, tau, regret),
        calibrated_mape=float(np.abs(before).mean()),
        calibrated_bias=float(before.mean()),
    )


def _verdict(
    conclusive: float, mape: float | None, tau: float | None, regret: float | None
) -> Verdict:
    if conclusive < CONCLUSIVE_SHARE or mape is None or regret is None:
        return "inconclusive"
    good = mape <= MAPE_MAX and regret <= REGRET_MAX and (tau is None or tau >= TAU_MIN)
    return "pass" if good else "fail"


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _graph(number: int, cases: Sequence[Case]) -> GraphResult:
    preferred = min(cases, key=lambda case: case.simulated_ns)
    fastest_ns = min(case.measured_ns for case in cases)
    noise = float(np.mean([case.half_error for case in cases]))
    return GraphResult(
        input=number,
        tau=kendall_tau([(case.simulated_ns, case.measured_ns) for case in cases]),
        regret=preferred.measured_ns / fastest_ns - 1,
        optimism=preferred.measured_ns / preferred.simulated_ns - 1,
        noise=noise,
        is_conclusive=noise <= CONCLUSIVE_NOISE,
    )


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return Kendall's τ of (simulated, measured) over pairs whose measured times differ by > 2 %.

    A tie of the simulator counts half right. None where no two differ that much (Kendall 1938).
    """
    agreed = []
    for (sim_a, real_a), (sim_b, real_b) in combinations(pairs, 2):
        if abs(real_a - real_b) > _TELLS_APART * min(real_a, real_b):
            agreed.append(float(np.sign(sim_a - sim_b) * np.sign(real_a - real_b)))
    return float(np.mean(agreed)) if agreed else None
