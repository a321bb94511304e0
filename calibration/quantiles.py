"""What a placement takes, of many runs.

The lowest tenth of the runs whose threads did not have to wait for a core: what other work adds to
a run is never negative, and the median is full of it. On shared machines most runs can be in slow
phases, in which each of two busy cores was seen to compute at two thirds of its speed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

QUANTILE = 0.1
DELAY_MAX = 0.01
"""A run whose threads waited longer for a core, relative to its makespan, tells nothing…"""
RUNS_LEAST = 4
"""… unless fewer of a placement's runs are better; then the best so many count."""
FAST_SHARE = 0.4


def undisturbed(waited: Sequence[float]) -> list[int]:
    """Return the runs that other work left alone, in order.

    `waited`: per run, how long its threads waited for a core, relative to the makespan.
    """
    limit = max(DELAY_MAX, sorted(waited)[:RUNS_LEAST][-1])
    return [run for run, share in enumerate(waited) if share <= limit]


def fast(times: Sequence[float]) -> list[int]:
    """Return the runs that make out what is typical, in order: the fastest 4 of 10, at least 4."""
    limit = sorted(times)[max(RUNS_LEAST, math.ceil(len(times) * FAST_SHARE)) - 1 :][:1]
    return [run for run, ns in enumerate(times) if not limit or ns <= limit[0]]


def typical(times: ArrayLike) -> float:
    """Return the lowest tenth of the times of runs, interpolated."""
    return float(np.quantile(np.asarray(times, dtype=float), QUANTILE))


def typical_error(times: ArrayLike) -> float:
    """Return the relative standard error of `typical`, from the order statistics about it."""
    values = np.asarray(times, dtype=float)
    step = (QUANTILE * (1 - QUANTILE) / len(values)) ** 0.5
    ends = np.clip([QUANTILE - step, QUANTILE + step], 0, 1)
    low, high = np.quantile(values, ends)
    return float(high - low) / 2 / typical(values)


def split_half(times: ArrayLike) -> float:
    """Return how far the typical times of two halves of the runs differ, relatively.

    Halves are every other run, so that a drift of the machine is in both.
    """
    values = np.asarray(times, dtype=float)
    if len(values) < 2:
        return 1.0  # nobody knows
    return abs(typical(values[::2]) - typical(values[1::2])) / typical(values)
