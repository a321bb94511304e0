"""Which devices a task may go to so that the plan can always be finished.

Where every pair of devices is linked, that is every device that can run the task. Otherwise a
*refuge* is kept: a set of devices, all linked with each other, that can run every cell between
them and that every device used so far can reach. A choice that would lose the last refuge is not
allowed, so no choice leads to a dead end.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from dynpartition.agent.prices import Prices
from dynpartition.errors import SchedulerError
from dynpartition.types import IntArray

DEVICES_MAX = 12
"""With more devices than this and missing links, refuges of one and two devices are sought."""


class Legality:
    """Answers for one graph under one profile."""

    def __init__(self, prices: Prices) -> None:
        self.prices = prices
        devices = prices.devices
        self._joined = [[a == b or prices.link[a][b] >= 0 for b in devices] for a in devices]
        self.all_linked = all(map(all, self._joined))
        self._runners = _runners(prices)
        self._refuges: list[frozenset[int]] = [] if self.all_linked else self._find_refuges()

    @property
    def refuge_rows(self) -> IntArray:
        """Int64 (n, D): 1 where a device belongs to a refuge."""
        rows = [[int(d in refuge) for d in self.prices.devices] for refuge in self._refuges]
        return np.array(rows, dtype=np.int64).reshape(-1, self.prices.n_devices)

    def devices(self, task: int, used: frozenset[int], homes: frozenset[int]) -> list[int]:
        """Return the devices that `task` may go to, or raise SchedulerError if there is none.

        `used`: devices that hold launches. `homes`: the devices of the task's inputs.
        """
        able = [d for d in self.prices.devices if self.prices.run_ns[task][d] >= 0]
        if self.all_linked:
            return able
        linked = [d for d in able if self._is_linked(task, d, homes)]
        safe = [d for d in linked if self._keeps_refuge(used | {d})]
        if not linked:
            raise SchedulerError(self._stuck_message(task))
        return safe or linked

    def _is_linked(self, task: int, device: int, homes: frozenset[int]) -> bool:
        prices, joined = self.prices, self._joined
        if prices.host_bytes[task] and not joined[prices.host][device]:
            return False
        if prices.returns[task] and not joined[device][prices.host]:
            return False
        return all(joined[home][device] for home in homes)

    def _keeps_refuge(self, used: frozenset[int]) -> bool:
        return any(self._reaches(used, refuge) for refuge in self._refuges)

    def _reaches(self, used: frozenset[int], refuge: frozenset[int]) -> bool:
        return all(self._joined[a][b] for a in used for b in refuge)

    def _find_refuges(self) -> list[frozenset[int]]:
        """Return refuges linked with the host both ways if there are any, else all.

        Any task may turn out to decide which others exist, and that needs the way to the host.
        """
        sizes = range(1, self.prices.n_devices + 1 if self.prices.n_devices <= DEVICES_MAX else 3)
        found = [
            frozenset(chosen)
            for size in sizes
            for chosen in combinations(self.prices.devices, size)
            if self._is_refuge(chosen)
        ]
        return [refuge for refuge in found if self._knows_host(refuge)] or found

    def _is_refuge(self, chosen: tuple[int, ...]) -> bool:
        mutual = all(self._joined[a][b] for a in chosen for b in chosen)
        return mutual and all(not row.isdisjoint(chosen) for row in self._runners)

    def _knows_host(self, refuge: frozenset[int]) -> bool:
        host = self.prices.host
        return all(self._joined[host][d] and self._joined[d][host] for d in refuge)

    def _stuck_message(self, task: int) -> str:
        label = self.prices.priced.graph.label(task)
        return (
            f"{label} cannot reach its inputs on any device; add the missing links to the profile"
        )


def _runners(prices: Prices) -> set[frozenset[int]]:
    """Return the sets of devices that can run each task, and each cell not yet seen in a task."""
    tasks = {frozenset(d for d, ns in enumerate(row) if ns >= 0) for row in prices.run_ns}
    cells = {frozenset(d for d, ns in enumerate(row) if ns >= 0) for row in prices.cell_ns}
    return tasks | (cells - {frozenset()})
