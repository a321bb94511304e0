"""Robust linear regression of times that cannot be negative, with intervals.

n observations, p parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

FloatArray = NDArray[np.float64]

_ABSOLUTE_ROUNDS, _ROUNDS = 4, 12
_BISQUARE = 4.685
"""Residuals beyond so many standard deviations count nothing (Tukey; 95 % efficient)."""
_SPREAD_LEAST = 1e-6
"""Relative; exact data have no spread to be measured in."""
_NORMAL_MAD = 0.6745
_RIDGE = 1e-10
_CLOSE = 1e-6
"""Relative change of the values at which there is nothing more to gain."""


@dataclass(frozen=True)
class Fit:
    """Parameters and how well they are known."""

    values: FloatArray
    """(p,)"""
    covariance: FloatArray
    """(p, p) of the values."""
    weights: FloatArray
    """(n,) from 0, for an outlier, to 1."""
    spread: float
    """Relative standard deviation of the observations about their expectations."""

    @property
    def errors(self) -> FloatArray:
        """(p,) standard error of each value."""
        errors: FloatArray = np.sqrt(np.maximum(0, np.diag(self.covariance)))
        return errors


def robust_fit(design: FloatArray, times: FloatArray) -> Fit:
    """Fit `times` (n,) ≈ `design` (n, p) · values, values not negative.

    The spread is taken to be in proportion to what is expected. Outliers are found by Tukey's
    bisquare, iterated from least absolute deviations.
    """
    weights = np.ones(len(times))
    scale = np.maximum(1.0, times)
    values = np.zeros(design.shape[1])
    spread = 1.0
    for step in range(_ABSOLUTE_ROUNDS + _ROUNDS):
        root = np.sqrt(weights) / scale
        before = values
        values = _not_negative(design * root[:, None], times * root)
        expected = design @ values
        scale = np.maximum(1.0, expected)
        residuals = (times - expected) / scale
        if step < _ABSOLUTE_ROUNDS:
            weights = 1 / np.maximum(_SPREAD_LEAST, np.abs(residuals))
            continue
        spread = max(_SPREAD_LEAST, float(np.median(np.abs(residuals))) / _NORMAL_MAD)
        ratio = np.minimum(1.0, np.abs(residuals) / (_BISQUARE * spread))
        weights = (1 - ratio**2) ** 2
        if np.abs(values - before).max() <= _CLOSE * values.max():
            break
    return Fit(values, _covariance(design / scale[:, None], residuals, weights), weights, spread)


def _not_negative(design: FloatArray, times: FloatArray) -> FloatArray:
    """Return the least-squares solution without negative values, by way of a (p, p) problem."""
    gram, pull = design.T @ design, design.T @ times
    length = np.sqrt(np.maximum(1e-300, np.diag(gram)))
    gram, pull = gram / np.outer(length, length), pull / length
    gram += _RIDGE * np.eye(len(gram))  # columns may be the same
    root = np.linalg.cholesky(gram)
    small = np.linalg.solve(root, pull)
    values: FloatArray = np.linalg.solve(root.T, small)
    if (values < 0).any():
        values = optimize.nnls(root.T, small)[0]
    scaled: FloatArray = values / length
    return scaled


def _covariance(scaled: FloatArray, residuals: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the sandwich estimate for an M-estimator (Huber 1981, section 7.6)."""
    n, p = scaled.shape
    bread = np.linalg.pinv(scaled.T @ (scaled * weights[:, None]))
    meat = scaled.T @ (scaled * ((weights * residuals) ** 2)[:, None])
    # ψ falls again where residuals are large: the slope of ψ is less than its weight.
    ratio = np.sqrt(np.maximum(0.0, 1 - np.sqrt(weights)))
    slope = float(np.mean(np.maximum(0.0, np.sqrt(weights)) * (1 - 5 * ratio**2)))
    mean_weight = float(weights.mean())
    bend = mean_weight / slope if slope > 0 else 1.0
    covariance: FloatArray = bread @ meat @ bread * bend**2 * n / max(1, n - p)
    return covariance


def risen(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the values nearest to `values` that never fall: more never takes less time.

    A curve that falls at its end would be extended below zero.
    """
    found: list[float] = optimize.isotonic_regression(values, weights=weights).x.tolist()
    return found
