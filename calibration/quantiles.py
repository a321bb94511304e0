"""What a placement takes, of many runs.

The lower quartile: what other work adds to a run is never negative, and the median is full of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

QUANTILE = 0.25


def typical(times: ArrayLike) -> float:
    """Return the lower quartile of the times of runs."""
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
    return abs(typical(values[::2]) - typical(values[1::2])) / typical(values)
