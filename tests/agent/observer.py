"""What a policy sees, computed again from the readable estimate: slow, and shares no code."""

from __future__ import annotations

import math

import numpy as np

from dynpartition.agent.estimate import Estimate
from dynpartition.agent.facts import Facts
from dynpartition.agent.observe import BATCH_FEATURES, FEATURES
from dynpartition.agent.partial import PartialPlan
from dynpartition.errors import SchedulerError
from dynpartition.plan import Plan


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


class JoinObserver:
    """Observes plans in which tasks may join the last launch; everything is made anew each time."""

    def __init__(self, facts: Facts, max_ready: int, planned: Plan | None = None) -> None:
        self.facts, self.planned = facts, planned
        self.max_ready, self.n_devices = max_ready, len(facts.names)
        self.launches: list[tuple[int, list[int]]] = []
        """(device, tasks) chosen so far."""
        self._plain = Observer(self.n_devices, max_ready)

    @property
    def shown(self) -> list[int]:
        return self._plain.shown

    def choose(self, action: int) -> None:
        """Place what candidate `action` says."""
        row, device = divmod(action, self.n_devices)
        if action < self.max_ready * self.n_devices:
            self.launches.append((device, [self.shown[row]]))
        else:
            self.launches[-1][1].append(self.shown[action - self.max_ready * self.n_devices])

    def observe(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features (R · (D + 1), F) and mask."""
        partial = PartialPlan(self.facts, self.planned)
        for device, tasks in self.launches:
            partial.place_launch(tuple(tasks), device)
        own, legal = self._plain.observe(partial)
        n_alone, n_own = own.shape
        n_all = n_own + len(BATCH_FEATURES)
        features = np.zeros((n_alone + self.max_ready, n_all), dtype=np.float32)
        mask = np.zeros(len(features), dtype=np.int8)
        features[:n_alone, :n_own], mask[:n_alone] = own, legal
        for row, task in enumerate(self.shown):
            for device in range(self.n_devices):
                k = row * self.n_devices + device
                if legal[k]:
                    values = self._others(partial, (task,), device)
                    features[k, n_own:] = [values.get(name, 0) for name in BATCH_FEATURES]
            if self._may_join(partial, task):
                k = n_alone + row
                mask[k] = 1
                values = self._describe(partial, task, features)
                features[k] = [values[name] for name in (*FEATURES, *BATCH_FEATURES)]
        return features, mask

    def _may_join(self, partial: PartialPlan, task: int) -> bool:
        if not self.launches:
            return False
        device, tasks = self.launches[-1]
        cell_of, estimate = self.facts.prices.cell_of, partial.estimate
        last = estimate.launch_of[tasks[0]]
        before = [*self.facts.prices.inputs[task], *self.facts.graph.gates[task]]
        return (
            cell_of[task] == cell_of[tasks[0]]
            and device in legal_options(partial, task)
            and all(0 <= estimate.launch_of[each] < last for each in before)
        )

    def _others(
        self, partial: PartialPlan, tasks: tuple[int, ...], device: int
    ) -> dict[str, float]:
        """Return what is seen of tasks of the cell that could follow."""
        prices, graph = self.facts.prices, self.facts.graph
        others = [t for t in partial.ready if prices.cell_of[t] == prices.cell_of[tasks[0]]]
        n_mates = len(others) - 1
        curve = prices.priced.profile.cells.get(graph.cell_name(tasks[0]), {}).get(
            self.facts.names[device]
        )
        own = graph.durations.get(self.facts.names[device])
        apart = curve is None or (own is not None and any(own[t] >= 0 for t in tasks))
        following = 0.0
        if n_mates and not apart:
            extra = prices.bookkeeping_ns[device]
            count = len(tasks)
            more = curve.at(count + 1) - curve.at(count) + extra
            following = compared(max(more, 0), curve.at(1) + extra)
        return {"mates": squashed(n_mates), "next": following}

    def _describe(self, partial: PartialPlan, task: int, features: np.ndarray) -> dict[str, float]:
        facts, prices, unit = self.facts, self.facts.prices, self.facts.unit_ns
        device, tasks = self.launches[-1]
        together = (*tasks, task)
        before = Estimate(prices.priced, prices)
        if self.planned:
            before.replay(self.planned)
        for home, row in self.launches[:-1]:
            before.commit_launch(tuple(row), home)
        before._release_known()
        there = max(before._bring(each, device) for each in tasks)
        come = before.data_ready_ns(task, device)
        lasts = before._batch_ns(together, device)
        release = max(before.release_ns[each] for each in together)
        free = before.device_free_ns[device]
        start = max(there, come, free, before.loaded_ns(task, device, release))
        if not before.dispatch_is_free:
            start = before.dispatched_start_ns(tasks[0], device, start, lasts)
        end = start + lasts
        grows = prices.launch_ns(together, device) - prices.launch_ns(tuple(tasks), device)
        grows = max(0, grows + before._gather_ns(task, device))
        options = legal_options(partial, task)
        durations = {d: partial.estimate.duration_ns(task, d) for d in options}
        soonest = min(partial.estimate.data_ready_ns(task, d) for d in options)
        own_row = features[self.shown.index(task) * self.n_devices + device]
        values = dict(zip(FEATURES, own_row.tolist(), strict=False))
        everything = [legal_options(partial, each) for each in self.shown]
        below = [round(facts.rank[t] - mean_cost(partial, t)) for t in self.shown]
        ends = [min((e for _, e in row.values()), default=None) for row in everything]
        paths = [b + e for b, e in zip(below, ends, strict=True) if e is not None]
        first_end = min(e for _, e in options.values())
        values |= {
            "wait": squashed((start - free) / unit),
            "start_lag": squashed(
                (start - min(s for row in everything for s, _ in row.values())) / unit
            ),
            "finish_lag": squashed((end - first_end) / unit),
            "finishes_first": float(end <= first_end),
            "rise": squashed(max(end - latest_ns(partial), 0) / unit),
            "path": compared(end + below[self.shown.index(task)], max(1, *paths)),
            "duration": squashed(grows / unit),
            "slower": compared(grows, min(durations.values())),
            "move_in": squashed((come - soonest) / unit),
            "joins": 1.0,
            "together": squashed(len(tasks)),
            "delay": squashed((end - partial.estimate.span(tasks[0])[1]) / unit),
            "saved": compared(grows, durations[device]),
        }
        return values | self._others(partial, together, device)


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
