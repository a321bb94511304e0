"""What the observation reads about every ready task of one growing plan, kept up to date.

One float64 row per task, so that an observation is one gather per episode; whole nanoseconds stay
exact below 2⁵³.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dynpartition.agent.partial import PartialPlan

Table = npt.NDArray[np.float64]


class Columns:
    """Where a row keeps what: first four quantities per device, then those of the task alone."""

    def __init__(self, n_devices: int) -> None:
        starts = range(0, 5 * n_devices, n_devices)
        self.n_devices = n_devices
        self.ready, self.legal, self.duration, self.local = (
            slice(first, first + n_devices) for first in starts[:4]
        )
        """When inputs could be there (ns), 1 where legal, duration (ns), share of local inputs."""
        self.changing = slice(0, 2 * n_devices)
        """Ready and legal."""
        self.per_device = slice(0, 4 * n_devices)
        """All four."""
        self.alone = slice(4 * n_devices, 4 * n_devices + 4)
        """See RANK, BELOW, MOVE, READERS."""
        self.width = 4 * n_devices + 4


RANK, BELOW, MOVE, READERS = range(4)
"""Quantities of a task alone: upward rank, rank without its own cost, mean transfer, readers."""


class TaskTable:
    """Follows one `PartialPlan`. Call `placed` after each placement."""

    def __init__(self, partial: PartialPlan) -> None:
        self.partial = partial
        self.columns = Columns(partial.facts.prices.n_devices)
        self._homes: dict[int, list[int]] = {}  # task → devices that its inputs come from
        self._filled_at: dict[int, int] = {}  # task → their traffic when its row was written
        facts, n_tasks = partial.facts, len(partial.graph)
        self.values: Table = np.zeros((n_tasks, self.columns.width))  # (N, C)
        self.values[:, self.columns.alone] = facts.static_columns
        self.placed_on: Table = np.zeros((n_tasks, self.columns.n_devices))  # (N, D)
        self._work_left_ns = facts.work_ns
        for task in range(n_tasks):
            if partial.is_placed(task):
                self.placed(task, partial.estimate.device_of(task))

    def placed(self, task: int, device: int) -> None:
        """Take note of a placement."""
        self.placed_on[:, device] += self.partial.facts.descends[task]
        self._work_left_ns -= self.partial.facts.best_ns[task]

    @property
    def work_left(self) -> float:
        """Share of the work that is not placed yet, each task at its fastest."""
        return self._work_left_ns / max(1, self.partial.facts.work_ns)

    def shown(self, n_max: int) -> list[int]:
        """Return the ready tasks of highest upward rank, at most `n_max`; refresh their rows."""
        rank = self.partial.facts.rank
        tasks = sorted(self.partial.ready, key=lambda task: (-rank[task], task))[:n_max]
        self._refresh(tasks)
        return tasks

    def _refresh(self, tasks: list[int]) -> None:
        estimate = self.partial.estimate
        always = not estimate.dispatch_is_free
        for task in tasks:
            if task not in self._filled_at:
                self._fill_row(task)
            elif self._filled_at[task] != self._traffic(task):
                self.values[task, self.columns.changing] = self._changing(task)
            if always:
                self._fill_dispatch(task)
        if not self.partial.facts.legality.all_linked:
            for task in tasks:
                self._fill_legal(task)

    def _fill_row(self, task: int) -> None:
        """Write what a task that has become ready needs on each device."""
        partial, estimate = self.partial, self.partial.estimate
        can_run = partial.facts.can_run[task]
        prices = partial.facts.prices
        homes = [estimate.device_of(source) for source in prices.inputs[task]]
        self._homes[task] = [*homes, *([prices.host] if prices.host_bytes[task] else [])]
        duration = [estimate.duration_ns(task, d) if able else 1 for d, able in enumerate(can_run)]
        local = [homes.count(d) / len(homes) if homes else 1.0 for d in range(len(can_run))]
        self.values[task, self.columns.per_device] = self._changing(task) + duration + local

    def _traffic(self, task: int) -> int:
        """Return what changes when a transfer may have delayed an input of `task`.

        A launch that delays a transfer yet to be booked goes unnoticed until the next transfer.
        """
        traffic = self.partial.estimate.traffic
        return sum([traffic[home] for home in self._homes[task]])

    def _changing(self, task: int) -> list[float]:
        """Return when inputs could be there and where, which changes as links get busier."""
        estimate = self.partial.estimate
        self._filled_at[task] = self._traffic(task)
        can_run = self.partial.facts.can_run[task]
        ready: list[float] = [
            estimate.data_ready_ns(task, d) if able else -1 for d, able in enumerate(can_run)
        ]
        return ready + [float(at >= 0) for at in ready]

    def _fill_dispatch(self, task: int) -> None:
        """Replace when inputs are there by when the launch starts: it depends on every choice."""
        estimate = self.partial.estimate
        for device in self.partial.facts.able[task]:
            option = estimate.option(task, device)
            if option is not None:
                self.values[task, device] = option[0]

    def _fill_legal(self, task: int) -> None:
        columns = self.columns
        row = np.zeros(columns.n_devices)
        row[self.partial.legal_devices(task)] = 1
        self.values[task, columns.legal] *= row
