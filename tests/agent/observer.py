"""What a policy sees, computed again from the readable estimate: slow, and shares no code."""

from __future__ import annotations

import math

import numpy as np

from dynpartition.agent.observe import FEATURES
from dynpartition.agent.partial import PartialPlan
from dynpartition.errors import SchedulerError


def squashed(value: float) -> float:
    return 4 * value / (4 + abs(value))


def compared(value: float, base: float) -> float:
    return 2 * (value - base) / max(value + base, 1)


class Observer:
    """Observes plans in the making; `shown` are the tasks of the last observation."""

    def __init__(self, n_devices: int, max_ready: int) -> None:
        self.n_devices, self.max_ready = n_devices, max_ready
        self.shown: list[int] = []

    def observe(self, partial: PartialPlan) -> tuple[np.ndarray, np.ndarray]:
        """Return features (K, F) and mask (K,)."""
        rank = partial.facts.rank
        self.shown = sorted(partial.ready, key=lambda t: (-rank[t], t))[: self.max_ready]
        options = [legal_options(partial, task) for task in self.shown]
        features = np.zeros((self.max_ready * self.n_devices, len(FEATURES)), dtype=np.float32)
        mask = np.zeros(len(features), dtype=np.int8)
        everything = [option for row in options for option in row.values()]
        if everything:
            first_start = min(start for start, _ in everything)
            below = [round(rank[t] - mean_cost(partial, t)) for t in self.shown]
            ends = [min((e for _, e in row.values()), default=None) for row in options]
            paths = [b + e for b, e in zip(below, ends, strict=True) if e is not None]
            for row, task in enumerate(self.shown):
                for device in options[row]:
                    k = row * self.n_devices + device
                    mask[k] = 1
                    values = self._describe(
                        partial, task, device, options[row], first_start, max(1, *paths)
                    )
                    features[k] = [values[name] for name in FEATURES]
        return features, mask

    def _describe(self, partial, task, device, options, first_start, longest):
        facts, estimate = partial.facts, partial.estimate
        unit, prices = facts.unit_ns, facts.prices
        start, end = options[device]
        first_end = min(e for _, e in options.values())
        free = estimate.device_free_ns
        durations = {d: estimate.duration_ns(task, d) for d in options}
        moves = {d: estimate.data_ready_ns(task, d) for d in options}
        homes = [estimate.device_of(source) for source in prices.inputs[task]]
        homes += [prices.host] if prices.host_bytes[task] else []
        near, far = int(facts.near[task]), int(facts.far[task])
        near_here, near_of = placed_above(partial, near)[device], placed_above(partial, near)
        far_of = placed_above(partial, far)
        left = sum(b for t, b in enumerate(facts.best_ns) if not partial.is_placed(t))
        rank = [round(value) for value in facts.rank]
        below = round(facts.rank[task] - mean_cost(partial, task))
        return {
            "wait": squashed((start - free[device]) / unit),
            "start_lag": squashed((start - first_start) / unit),
            "finish_lag": squashed((end - first_end) / unit),
            "finishes_first": float(end == first_end),
            "rise": squashed(max(end - latest_ns(partial), 0) / unit),
            "rank_lead": rank[task] / max(rank[self.shown[0]], 1),
            "path": compared(end + below, longest),
            "load": squashed((free[device] - sum(free) / len(free)) / unit),
            "work_left": left / max(1, facts.work_ns),
            "near_here": near_here / max(1, sum(near_of)),
            "far_here": far_of[device] / max(1, sum(far_of)),
            "near_placed": sum(near_of) / len(ancestors(partial, near)),
            "duration": squashed(durations[device] / unit),
            "slower": compared(durations[device], min(durations.values())),
            "rank": facts.rank[task] / facts.rank_max,
            "move_in": squashed((moves[device] - min(moves.values())) / unit),
            "local_inputs": homes.count(device) / len(homes) if homes else 1.0,
            "move_out": squashed(facts.static_columns[task, 2] / unit),
            "readers": squashed(len(partial.graph.reader_lists[task])),
            "slowness": min(8.0, slowness(partial, device)),
        }


def legal_options(partial: PartialPlan, task: int) -> dict[int, tuple[int, int]]:
    try:
        return partial.legal_options(task)
    except SchedulerError:
        return {}  # links are missing


def latest_ns(partial: PartialPlan) -> int:
    arrivals = partial.facts.prices.arrival_ns
    return partial.estimate.makespan_ns + min(arrivals) if partial.n_placed else 0


def mean_cost(partial: PartialPlan, task: int) -> float:
    able = [ns for ns in partial.facts.prices.run_ns[task] if ns >= 0]
    return sum(able) / len(able)


def ancestors(partial: PartialPlan, task: int) -> set[int]:
    found, stack = set(), [task]
    while stack:
        one = stack.pop()
        if one not in found:
            found.add(one)
            stack += partial.facts.prices.inputs[one]
    return found


def placed_above(partial: PartialPlan, task: int) -> list[int]:
    """Per device: how many of the tasks that `task` depends on, itself included, are there."""
    homes = [partial.estimate.device_of(t) for t in ancestors(partial, task)]
    return [homes.count(device) for device in partial.facts.prices.devices]


def slowness(partial: PartialPlan, device: int) -> float:
    pairs = [
        (row[device], min(ns for ns in row if ns >= 0))
        for row in partial.facts.prices.run_ns
        if row[device] >= 0
    ]
    if not pairs:
        return 0.0
    return math.log(max(1, sum(a for a, _ in pairs)) / max(1, sum(b for _, b in pairs)))
