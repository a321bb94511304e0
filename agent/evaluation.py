"""Comparing schedulers on the same inputs of one backend, decision time included."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynpartition.agent.warming import warm_up
from dynpartition.contract import Backend, Scheduler, Workload, run
from dynpartition.errors import SchedulerError

REFERENCE = "best-single"
"""What every scheduler is compared with, input by input."""

_RESAMPLES = 2000

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """One scheduler over all inputs. Times are means over inputs of medians over repeats."""

    scheduler: str
    mean_ms: float
    """Makespan and decision time together. Decisions after a reveal are part of the makespan."""
    ci_low_ms: float
    ci_high_ms: float
    """Bootstrap 95 % interval of `mean_ms` over inputs."""
    makespan_ms: float
    """Without decision time."""
    run_ratio: float
    """Like `ratio_to_best_single`, without the decision times of both."""
    decision_ms: float
    """Time of the decision before the run."""
    ratio_to_best_single: float
    """Geometric mean over inputs of this time divided by `best-single`'s; below 1 is faster."""
    ratio_low: float
    ratio_high: float
    """Paired bootstrap 95 % interval of the ratio."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All rows, and what they were measured on."""

    rows: tuple[Row, ...]
    inputs: int
    repeats: int

    def row(self, scheduler: str) -> Row:
        """Return the row of one scheduler."""
        return next(row for row in self.rows if row.scheduler == scheduler)


def evaluate(
    backend: Backend,
    workloads: Sequence[Workload],
    schedulers: Mapping[str, Scheduler],
    *,
    repeats: int = 1,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Evaluation:
    """Run every scheduler on every workload `repeats` times and return the comparison.

    On each workload the schedulers take turns in random order, so that noise of the machine touches
    all alike. Raises SchedulerError unless `best-single` is among the schedulers.
    """
    if REFERENCE not in schedulers:
        raise SchedulerError(
            f"{REFERENCE!r}, to compare with, is not among {', '.join(schedulers)}"
        )
    names = tuple(schedulers)
    for scheduler in schedulers.values():
        warm_up(scheduler, backend.profile)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 3]))
    makespan, decision = (np.empty((len(names), len(workloads), repeats)) for _ in range(2))
    for number, workload in enumerate(workloads):
        for repeat in range(repeats):
            for index in rng.permutation(len(names)):
                outcome = run(backend, workload, schedulers[names[int(index)]])
                decision[index, number, repeat] = outcome.opening_decision_ns / 1e6
                # At least 1 ns: a profile may make everything free.
                makespan[index, number, repeat] = max(1, outcome.trace.makespan_ns) / 1e6
        progress((number + 1) / len(workloads))
    rows = _rows(names, np.median(makespan, axis=2), np.median(decision, axis=2), rng)
    return Evaluation(rows, len(workloads), repeats)


def _rows(
    names: Sequence[str],
    makespan: Times,  # (schedulers, inputs)
    decision: Times,  # (schedulers, inputs)
    rng: np.random.Generator,
) -> tuple[Row, ...]:
    inputs = makespan.shape[1]
    picks = rng.integers(inputs, size=(_RESAMPLES, inputs))
    total = makespan + decision
    reference = names.index(REFERENCE)
    logs = np.log(total / total[reference])
    run_logs = np.log(makespan / makespan[reference])
    return tuple(
        Row(
            name,
            float(total[index].mean()),
            *_interval(total[index][picks].mean(axis=1)),
            float(makespan[index].mean()),
            float(np.exp(run_logs[index].mean())),
            float(decision[index].mean()),
            float(np.exp(logs[index].mean())),
            *_interval(np.exp(logs[index][picks].mean(axis=1))),
        )
        for index, name in enumerate(names)
    )


def _interval(values: Times) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
