"""Placements that are run again and again, and what their runs tell."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dynpartition.calibration.fit_launches import SAMPLES_MIN
from dynpartition.calibration.joint import Job
from dynpartition.calibration.observations import HostTimes, Observations, observe
from dynpartition.calibration.quantiles import (
    fast,
    split_half,
    typical,
    typical_error,
    undisturbed,
)
from dynpartition.calibration.rollouts import LAUNCH_SIZES, Batched, OneDevice, RandomRollout
from dynpartition.cluster import Cluster
from dynpartition.contract import FixedPlan, Outcome, Scheduler, drive
from dynpartition.errors import CalibrationError
from dynpartition.hardware import HardwareBackend
from dynpartition.models import ModelInput

Progress = Callable[[float], None]
"""Called with the share that is done, 0…1."""

_WARM_UP_RUNS = 3
_BATCHED_SHARE = 0.5
LARGE_SIZES = (64, 16, 64, 32)
"""Launches of up to so many tasks are measured on each device alone."""
_PATIENCE = 4  # times the asked duration, where other work keeps taking the cores away
_LAUNCHES_MAX = 60_000
"""More observed launches than this make no number better, and the fit slower."""
_SAFELY = 2
"""Cells are measured so many times as often as they have to be, since some stamps are left out."""
_HALVES = 1.6
"""Halves of normal samples differ on average by so many standard errors of the whole: 2·√(2/π)."""
_SPREAD_LEAST = 0.003
"""Nobody knows a makespan better than this: machines drift."""


@dataclass(eq=False)
class MeasuredJob:
    """A placement of one input, and its runs."""

    item: ModelInput
    scheduler: Scheduler
    outcomes: list[tuple[Outcome, HostTimes]] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    """Per run: how long threads waited for a core, relative to the makespan."""

    def best(self) -> list[int]:
        """Return the runs that other work left alone."""
        return undisturbed(self.waited)

    def fast(self) -> list[int]:
        """Return the fastest of those."""
        best = self.best()
        return [best[at] for at in fast(self.times_ns())]

    def times_ns(self) -> list[int]:
        """Return the makespans of those runs."""
        return [self.outcomes[run][0].trace.makespan_ns for run in self.best()]

    def typical_ns(self) -> float:
        """Return what is typical of them."""
        return typical(self.times_ns())


def told(jobs: Sequence[MeasuredJob]) -> list[Job]:
    """Return what the fit needs to know.

    No placement is known better than halves of its runs agree, on average over all placements:
    errors that follow from few runs of one are themselves too uncertain.
    """
    if not jobs:
        return []
    common = float(np.mean([split_half(job.times_ns()) for job in jobs])) / _HALVES
    found = []
    for job in jobs:
        times, first = job.times_ns(), job.outcomes[0][0]
        spread = max(_SPREAD_LEAST, common, typical_error(times))
        found.append(Job(first.graph, first.plan, typical(times), spread))
    return found


def make_jobs(
    inputs: Sequence[ModelInput],
    cluster: Cluster,
    rng: np.random.Generator,
    count: int,
    *,
    largest: bool = False,
) -> list[MeasuredJob]:
    """Return placements: every single device, and random ones, one by one and merged.

    Each device alone runs every cell that the inputs call and, with `largest`, the largest inputs
    merged: plans of one device have larger launches than random ones, and no curve is known beyond
    what was measured.
    """
    names = cluster.names
    order = [inputs[at] for at in rng.permutation(len(inputs)).tolist()]
    jobs = [MeasuredJob(item, OneDevice(name)) for name in names for item in _covering(order)]
    if largest:
        by_size = sorted(order, key=lambda item: -len(item.graph))
        sizes = LARGE_SIZES[: max(1, count // (4 * len(names)))]  # most placements are random
        jobs += [
            MeasuredJob(item, Batched(OneDevice(name), size))
            for name in names
            for item, size in zip(by_size, sizes, strict=False)
        ]
    for number in range(len(jobs), count if inputs else 0):
        scheduler: Scheduler = RandomRollout(rng, len(names))
        if number % 4 == 0 or len(names) == 1:
            scheduler = OneDevice(names[number // 4 % len(names)])
        if rng.random() < _BATCHED_SHARE:
            scheduler = Batched(scheduler, int(rng.choice(LAUNCH_SIZES[1:])))
        jobs.append(MeasuredJob(order[number % len(order)], scheduler))
    return jobs


def _covering(inputs: Sequence[ModelInput]) -> list[ModelInput]:
    """Return the first inputs that call a cell which those before do not."""
    chosen, seen = [], set[int]()
    for item in inputs:
        cells = set(item.graph.cell_of.tolist())
        if not cells <= seen:
            chosen.append(item)
            seen |= cells
    return chosen


def measure_jobs(
    backend: HardwareBackend,
    jobs: Sequence[MeasuredJob],
    rng: np.random.Generator,
    seconds: float,
    progress: Progress,
) -> None:
    """Run all jobs in random order, round after round, for `seconds`."""
    for device in backend.profile.cluster.names * _WARM_UP_RUNS:
        run_once(backend, jobs[0].item, OneDevice(device))
    _capture(backend, jobs[0].item)
    started = time.monotonic()
    elapsed = 0.0
    while elapsed < seconds or (_rounds(jobs) < 2 and elapsed < _PATIENCE * seconds):
        for index in rng.permutation(len(jobs)).tolist():
            job = jobs[index]
            outcome, times, waited_ns = run_once(backend, job.item, job.scheduler)
            if not job.outcomes:
                job.scheduler = FixedPlan(outcome.plan)
            job.outcomes.append((outcome, times))
            job.waited.append(waited_ns / outcome.trace.makespan_ns)
            elapsed = time.monotonic() - started
            if elapsed > seconds and _rounds(jobs) >= 2:
                break
        progress(min(1.0, elapsed / seconds))


def measure_more(backend: HardwareBackend, jobs: Sequence[MeasuredJob], seconds: float) -> None:
    """Run again those of `jobs` with cells that were measured too rarely, mostly for `seconds`.

    Cells that only few inputs call are in few placements. However long it takes, every cell is
    measured as often as a number needs, if only in runs that other work has disturbed.
    """
    started = time.monotonic()
    while True:
        is_late = time.monotonic() - started > seconds
        rare = _rare(jobs, _n_runs if is_late else _n_fast)
        # One placement tells most of each: what all tell is not measured more often than needed.
        chosen = {max(rare[pair], key=lambda job: _alone(job)[pair]) for pair in rare}
        if not chosen:
            break
        for job in chosen:
            outcome, times, waited_ns = run_once(backend, job.item, job.scheduler)
            job.outcomes.append((outcome, times))
            job.waited.append(waited_ns / outcome.trace.makespan_ns)


def _rare(
    jobs: Sequence[MeasuredJob], n_runs_of: Callable[[MeasuredJob], int]
) -> dict[tuple[str, str], list[MeasuredJob]]:
    """Return cell and device of launches of one task that are seldom → the jobs that have some.

    `n_runs_of`: how many runs of a job count.
    """
    counts: Counter[tuple[str, str]] = Counter()
    having: dict[tuple[str, str], list[MeasuredJob]] = {}
    for job in jobs:
        n_runs = n_runs_of(job)
        for pair, count in _alone(job).items():
            counts[pair] += n_runs * count
            having.setdefault(pair, []).append(job)
    least = SAMPLES_MIN * _SAFELY
    return {pair: found for pair, found in having.items() if counts[pair] < least}


def _jobs_of(rare: Mapping[tuple[str, str], list[MeasuredJob]]) -> set[MeasuredJob]:
    return {job for having in rare.values() for job in having}


def _n_fast(job: MeasuredJob) -> int:
    return len(job.fast())


def _n_runs(job: MeasuredJob) -> int:
    return len(job.outcomes)


def _alone(job: MeasuredJob) -> Counter[tuple[str, str]]:
    """Return how many launches of one task a job has, by cell and device."""
    outcome = job.outcomes[0][0]
    return Counter(
        (outcome.graph.cell_name(launch.tasks[0]), launch.device)
        for launch in outcome.plan.launches
        if len(launch.tasks) == 1
    )


def _rounds(jobs: Sequence[MeasuredJob]) -> int:
    return min(len(job.outcomes) for job in jobs)


def _capture(backend: HardwareBackend, item: ModelInput) -> None:
    """Let GPUs capture launches of all sizes: later runs replay them."""
    for device in backend.profile.cluster.devices:
        for size in LAUNCH_SIZES if device.kind == "cuda" else ():
            for _ in range(2):  # asked for in the first run, captured before the second
                run_once(backend, item, Batched(OneDevice(device.name), size))


def run_once(
    backend: HardwareBackend, item: ModelInput, scheduler: Scheduler
) -> tuple[Outcome, HostTimes, int]:
    """Run one input; return what happened and how long threads waited for a core."""
    with backend.open(item) as session:
        outcome = drive(session, scheduler, backend.profile)
        if session.lost:
            why = "; ".join(session.lost.values())
            raise CalibrationError(
                f"{', '.join(session.lost)} was lost while it was measured ({why}); calibrate again"
            )
        times = HostTimes(dict(session.seen_ns), session.dispatch_ns, session.push_ns)
        return outcome, times, session.waited_ns


def observations_of(
    jobs: Sequence[MeasuredJob], cluster: Cluster, *, scattered: bool = False
) -> Observations:
    """Return what the fast runs tell that other work left alone, of all jobs alike.

    `scattered`: fast and slow ones, which tell how much launches vary. Of cells that few runs have
    more count, at need all.
    """
    per_round = sum(len(job.outcomes[0][0].trace.launches) for job in jobs)
    runs_max = max(2, _LAUNCHES_MAX // max(1, per_round))
    more = _jobs_of(_rare(jobs, lambda job: min(runs_max, _n_fast(job))))
    most = _jobs_of(_rare(jobs, _n_fast))
    found, number = Observations(), 0
    for job in jobs:
        runs = job.best() if scattered else job.fast()
        step = 1 if job in more else -(-len(runs) // runs_max)
        for run in range(_n_runs(job)) if job in most else runs[::step]:
            outcome, times = job.outcomes[run]
            found += observe(number, outcome.graph, cluster, outcome.trace, times)
            number += 1
    return found
