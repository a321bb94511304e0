"""How fast devices are now, seen from the launches of runs, and what schedulers are told of it.

A device that slows down, because its clock does or because others use it, makes all plans wrong
that were made by its profile. Its launches show it: what they take over what the profile says. When
that has changed for good, schedulers are told a profile in which the device is as slow as it is.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import replace
from math import exp, log

import numpy as np

from dynpartition.contract import Outcome
from dynpartition.errors import ProfileError
from dynpartition.lowering import lower_quickly
from dynpartition.pricing import price
from dynpartition.profile import Curve, PricedGraph, Profile

RUNS = 5
"""The median of so many runs counts: two that were disturbed in a row change nothing."""
TOLERANCE = 0.25
"""A smaller change is not worth other plans."""
TRIED_AGAIN = 64
"""After so many runs without a device it is taken to be as its profile says, so that it is used,
and seen, again."""


class Paces:
    """What schedulers are told of a machine: `profile`, at the pace that its devices have now."""

    def __init__(self, profile: Profile) -> None:
        self._given = replace(profile, noise=None)
        self.believed = profile
        """The profile for schedulers."""
        self._recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RUNS))
        self._believed_logs: dict[str, float] = {}
        self._unseen: dict[str, int] = defaultdict(int)

    @property
    def paces(self) -> Mapping[str, float]:
        """Device → how much longer its launches are believed to take than the profile says."""
        return {name: exp(self._believed_logs.get(name, 0.0)) for name in self._given.cluster.names}

    def note(self, outcome: Outcome) -> bool:
        """Learn from a run; return whether schedulers are told something else from now on."""
        seen = self._log_ratios(outcome)
        changed = False
        for name in self._given.cluster.names:
            self._unseen[name] = 0 if name in seen else self._unseen[name] + 1
            if name in seen:
                changed |= self._learn(name, seen[name])
            elif self._unseen[name] >= TRIED_AGAIN and name in self._believed_logs:
                del self._believed_logs[name]
                self._recent[name].clear()
                changed = True
        if changed:
            self.believed = self._at_pace()
        return changed

    def _learn(self, name: str, log_ratio: float) -> bool:
        recent = self._recent[name]
        recent.append(log_ratio)
        now = float(np.median(recent))
        is_new = abs(now - self._believed_logs.get(name, 0.0)) > log(1 + TOLERANCE)
        if len(recent) == RUNS and is_new:
            self._believed_logs[name] = now
            return True
        return False

    def _log_ratios(self, outcome: Outcome) -> dict[str, float]:
        """Return device → the median logarithm of measured over expected durations in a run."""
        program = lower_quickly(outcome.graph, self._given.cluster, outcome.plan)
        try:
            prices = price(program, PricedGraph(outcome.graph, self._given)).launch_ns
        except ProfileError:
            return {}  # a cell that the profile does not know
        expected = {
            launch.tasks: ns for launch, ns in zip(outcome.plan.launches, prices, strict=True)
        }
        ratios: dict[str, list[float]] = defaultdict(list)
        for span in outcome.trace.launches:
            expected_ns = expected.get(span.tasks, 0)
            lasted_ns = span.end_ns - span.start_ns
            if expected_ns > 0 and lasted_ns > 0:
                ratios[span.device].append(log(lasted_ns / expected_ns))
        return {name: float(np.median(logs)) for name, logs in ratios.items()}

    def _at_pace(self) -> Profile:
        paces = self.paces
        cells = {
            cell: {device: _slower(curve, paces[device]) for device, curve in row.items()}
            for cell, row in self._given.cells.items()
        }
        return replace(self._given, cells=cells)


def _slower(curve: Curve, pace: float) -> Curve:
    return replace(curve, duration_ns=tuple(max(1, round(ns * pace)) for ns in curve.duration_ns))
