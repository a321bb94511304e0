"""Which numbers of a profile whole runs may move, how far, and what is known of them afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dynpartition.calibration.joint import Job, JobSimulator, Refit
from dynpartition.calibration.numbers import Number
from dynpartition.profile import Profile

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
"""Kind of number → how far whole runs may move it, relatively."""


def kind_deviation(name: str) -> float:
    """Return how far whole runs may move the number of that name; 0: not at all."""
    return _PRIOR_DEVIATIONS.get(name.partition("/")[0], 0.0)


def prior_deviations(numbers: Mapping[str, Number]) -> dict[str, float]:
    """Return, by the names of `rescaled`, how far numbers may be moved."""
    found: dict[str, float] = {}
    for path, number in numbers.items():
        name = factor_name(path)
        if number.value > 0:
            found[name] = kind_deviation(path)
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


def job_error(profile: Profile, jobs: Sequence[Job]) -> float | None:
    """Return the mean absolute relative error of simulated makespans; None without jobs."""
    if not jobs:
        return None
    simulated = JobSimulator(profile, jobs).makespans_ns(profile)
    typical_ns = np.array([job.typical_ns for job in jobs])
    return float(np.abs(simulated / typical_ns - 1).mean())
