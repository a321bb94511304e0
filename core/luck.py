"""Noise: how long launches really last, drawn before the run.

A draw depends on the seed, the graph, the smallest task of the launch and the device alone, so two
plans meet the same luck wherever they make the same choice.
"""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from statistics import NormalDist

from dynpartition.profile import Noise

_MASK = (1 << 64) - 1
_NORMAL = NormalDist()


class Luck:
    """The draws of one run: one stream per device."""

    def __init__(self, noise: Noise, *, seed: int, graph_key: str) -> None:
        self._noise = noise
        self._start = f"{seed}|{graph_key}|"
        self._streams: dict[str, int] = {}

    def duration_ns(self, expected_ns: int, *, device: str, task_id: int) -> int:
        """Return how long a launch lasts whose smallest task id is `task_id`."""
        spread, stall = self._draw(device, task_id)
        sigma = sigma_at(self._noise, expected_ns)
        factor = math.exp(sigma * _NORMAL.inv_cdf(spread) - sigma * sigma / 2) if sigma else 1.0
        lasts_ns = round(expected_ns * factor) if sigma else expected_ns
        return lasts_ns + (self._noise.stall_ns if stall < self._noise.stall_probability else 0)

    def _draw(self, device: str, task_id: int) -> tuple[float, float]:
        """Return two independent numbers in (0, 1)."""
        if device not in self._streams:
            digest = hashlib.blake2b((self._start + device).encode(), digest_size=8).digest()
            self._streams[device] = int.from_bytes(digest, "little")
        first = _mix(self._streams[device] + 2 * task_id)
        second = _mix(self._streams[device] + 2 * task_id + 1)
        return _unit(first), _unit(second)


def sigma_at(noise: Noise, duration_ns: int) -> float:
    """Return σ for launches of a duration: linear in its logarithm, constant beyond the points."""
    points = noise.sigma
    if duration_ns <= points[0][0]:
        return points[0][1]
    for (low, at_low), (high, at_high) in pairwise(points):
        if duration_ns < high:
            share = math.log(duration_ns / low) / math.log(high / low)
            return at_low + share * (at_high - at_low)
    return points[-1][1]


def _mix(value: int) -> int:
    """Return 64 well-mixed bits (Steele, Lea, Flood 2014, SplitMix64)."""
    value = (value * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _unit(bits: int) -> float:
    return ((bits >> 12) + 0.5) / 2**52
