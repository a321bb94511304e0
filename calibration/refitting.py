"""Traces of real runs improve a profile, without a new calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from dynpartition.calibration.heldout import Used, placement_id, shape_id
from dynpartition.calibration.identity import HASH, check_same_machine, sealed
from dynpartition.calibration.joint import Job, Refit, refit
from dynpartition.calibration.movable import factor_name, job_error, kind_deviation
from dynpartition.calibration.observations import HostTimes, Observations, observe
from dynpartition.calibration.quantiles import typical, typical_error
from dynpartition.cluster import AffineCost
from dynpartition.errors import CalibrationError
from dynpartition.formats import RecordedRun, Runs
from dynpartition.profile import Profile
from dynpartition.sim.perturb import number_names, rescaled

_SPREAD_LEAST = 0.003
_SPREAD_ALONE = 0.05
"""Relative error of a placement that ran too seldom to tell its own."""
_RUNS_LEAST = 4
_CHECK_SHARE = 0.25
_OBSERVED_RUNS_MAX = 400
"""Runs whose launches are looked at one by one."""


@dataclass(frozen=True)
class Improved:
    """A re-fitted profile, and what it gains on runs that were left out of the fit."""

    profile: Profile
    before: float | None
    """Mean absolute relative error of simulated makespans; None: no runs were left out."""
    after: float | None
    jobs: int
    """Placements that were fitted to."""


def improved(profile: Profile, recorded: Sequence[Runs], source: str) -> Improved:
    """Return `profile`, re-fitted to recorded runs of its machine.

    A quarter of the placements, of other inputs than the rest where there are some, tell what it
    gains. Raises CalibrationError for runs of another machine, version, clock or model, and for
    cells that the profile has no cost of.
    """
    for part in recorded:
        _check_origin(profile, part, source)
    runs = [run for part in recorded for run in part.runs]
    _check_cells(profile, runs, source)
    fit_runs, check_runs = _divided(runs)
    jobs, checked = _jobs(fit_runs), _jobs(check_runs)
    deviations = _deviations(profile)
    near = _in_place(profile, fit_runs, deviations)
    again = refit(near, jobs, deviations)
    used = Used.of(profile) | Used(
        frozenset(run.input for run in fit_runs),
        frozenset(shape_id(run.graph) for run in fit_runs),
        frozenset(placement_id(run.graph, run.plan) for run in fit_runs),
    )
    before, after = job_error(profile, checked), job_error(again.profile, checked)
    story = refit_story(profile, again, used, len(runs), after)
    uncertainty = profile.uncertainty if after is None else min(3.0, after)
    better = sealed(replace(again.profile, provenance=story, uncertainty=uncertainty))
    return Improved(better, before, after, len(jobs))


def _check_origin(profile: Profile, runs: Runs, source: str) -> None:
    check_same_machine(profile, runs.devices, runs.versions, source)
    own = profile.provenance
    for name, theirs in (("clock", runs.clock), ("model", runs.model)):
        if own.get(name) != theirs:
            raise CalibrationError(
                f"{source} has runs with {name} {theirs!r}, the profile is of {own.get(name)!r};"
                " give runs that belong to it"
            )


def _check_cells(profile: Profile, runs: Iterable[RecordedRun], source: str) -> None:
    for run in runs:
        for span in run.trace.launches:
            cell = run.graph.cell_name(span.tasks[0])
            if span.device not in profile.cells.get(cell, {}):
                raise CalibrationError(
                    f"{source} has launches of {cell} on {span.device}, of which the profile has no"
                    " cost; calibrate again"
                )


def _divided(runs: Sequence[RecordedRun]) -> tuple[list[RecordedRun], list[RecordedRun]]:
    """Return runs to fit to, and runs of inputs of other shapes to check with."""
    shapes = list(dict.fromkeys(shape_id(run.graph) for run in runs))
    held = set(shapes[: int(len(shapes) * _CHECK_SHARE)])
    fit = [run for run in runs if shape_id(run.graph) not in held]
    return fit, [run for run in runs if shape_id(run.graph) in held]


def _jobs(runs: Iterable[RecordedRun]) -> list[Job]:
    by_placement: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in runs:
        by_placement[placement_id(run.graph, run.plan)].append(run)
    jobs = []
    for same in by_placement.values():
        times = [run.trace.makespan_ns for run in same]
        spread = _SPREAD_ALONE
        if len(times) >= _RUNS_LEAST:
            spread = max(_SPREAD_LEAST, typical_error(times))
        jobs.append(Job(same[0].graph, same[0].plan, typical(times), spread))
    return jobs


def _deviations(profile: Profile) -> dict[str, float]:
    """Return how far runs may move each number that is not 0."""
    names = number_names(profile)
    found: dict[str, float] = {}
    for name in names:
        moved = rescaled(profile, partial(_factor_of, name))
        if moved != profile:
            found[name] = kind_deviation(name)
    return found


def _factor_of(name: str, other: str) -> float:
    return 1.5 if other == name else 1.0


def _in_place(
    profile: Profile, runs: Sequence[RecordedRun], deviations: dict[str, float]
) -> Profile:
    """Return `profile` with each cell's curve moved to what its launches took, as far as they tell.

    The median ratio of measured to priced launches, drawn towards 1 by the prior.
    """
    step = max(1, len(runs) // _OBSERVED_RUNS_MAX)
    seen = Observations()
    for number, run in enumerate(runs[::step]):
        times = HostTimes(run.seen_ns)
        seen += observe(number, run.graph, profile.cluster, run.trace, times)
    good, _ = seen.cleaned()
    logs: dict[str, list[float]] = defaultdict(list)
    for row in good.launches:
        if row.size == 1 and not (row.is_first or row.waited or row.copies_in):
            priced_ns = profile.cells[row.cell][row.device].at(1)
            priced_ns += profile.dispatch.bookkeeping_on(row.device)
            measured_ns = row.ns - row.gap_ns if _is_driven(profile, row.device) else row.ns
            name = f"cells/{row.cell}/{row.device}"
            logs[name].append(float(np.log(max(1.0, measured_ns) / max(1, priced_ns))))
    factors = {}
    for name, values in logs.items():
        spread = max(1e-3, float(np.std(values))) / len(values) ** 0.5
        weight = deviations.get(name, 0.0) ** 2
        factors[name] = float(np.exp(np.median(values) * weight / (weight + spread**2)))
    return rescaled(profile, lambda name: factors.get(name, 1.0))


def _is_driven(profile: Profile, device: str) -> bool:
    return profile.cluster.devices[profile.cluster.index(device)].kind == "cuda"


def refit_story(
    profile: Profile, again: Refit, used: Used, n_runs: int, error: float | None
) -> dict[str, Any]:
    """Return the provenance: that of before, with what the runs have changed."""
    story = dict(profile.provenance)
    before = story.pop(HASH, None)
    history = story.get("refits")
    refits = list(history) if isinstance(history, list) else []
    refits.append(
        {
            "from": before,
            "runs": n_runs,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "held_out_error": error,
        }
    )
    story |= {"refits": refits, "fitted_to": used.as_plain()}
    numbers = story.get("numbers")
    if isinstance(numbers, dict):
        story["numbers"] = _moved(numbers, profile, again)
    return story


def _moved(numbers: dict[str, Any], before: Profile, again: Refit) -> dict[str, Any]:
    """Return the list of numbers with values and intervals as the re-fit has left them."""
    old, new = numbers_in(before), numbers_in(again.profile)
    moved = {}
    for path, plain in numbers.items():
        deviation = again.deviations.get(factor_name(path))
        if deviation is None or path not in new or not isinstance(plain, dict) or not old.get(path):
            moved[path] = plain
            continue
        value = float(f"{plain['value'] * new[path] / old[path]:.6g}")
        ends = {
            "low": value * max(0.0, 1 - 1.96 * deviation),
            "high": value * (1 + 1.96 * deviation),
        }
        rounded = {key: float(f"{end:.6g}") for key, end in ends.items()}
        moved[path] = {**plain, "value": value, "source": "fitted", **rounded}
    return moved


def numbers_in(profile: Profile) -> dict[str, float]:
    """Return the numbers of a profile by their paths, as `provenance.numbers` has them."""
    found: dict[str, float] = {}
    for cell, curves in profile.cells.items():
        for device, curve in curves.items():
            points = zip(curve.batch, curve.duration_ns, strict=True)
            found |= {f"cells/{cell}/{device}/{size}": float(ns) for size, ns in points}
    for link in profile.cluster.links:
        path = f"links/{link.src}->{link.dst}"
        if isinstance(link.cost, AffineCost):
            found[f"{path}/latency"] = float(link.cost.latency_ns)
            found[f"{path}/bandwidth"] = float(link.cost.bandwidth_bytes_per_s)
        else:
            found |= {f"{path}/{size}": float(ns) for size, ns in link.cost.points}
    dispatch = profile.dispatch
    for device in profile.cluster.names:
        found[f"bookkeeping/{device}"] = float(dispatch.bookkeeping_on(device))
    for name, table in (("copy_in", dispatch.copy_in), ("copy_out", dispatch.copy_out)):
        for device, cost in table.items():
            found[f"{name}/{device}/latency"] = float(cost.latency_ns)
            found[f"{name}/{device}/bandwidth"] = float(cost.bandwidth_bytes_per_s)
    for cell, row in dispatch.first_use_ns.items():
        found |= {f"first_use/{cell}/{device}": float(ns) for device, ns in row.items()}
    for name in ("h_copy", "handoff_ns", "sync_ns", "decision_ns"):
        found[name] = float(getattr(dispatch, name))
    return found
