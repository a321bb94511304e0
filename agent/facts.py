"""What is fixed about one graph under one profile, computed once and shared by all plans."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dynpartition.agent.legality import Legality
from dynpartition.agent.prices import Prices
from dynpartition.agent.ranks import mean_costs, mean_transfers, standard_ranks
from dynpartition.graph import TaskGraph
from dynpartition.profile import PricedGraph, Profile
from dynpartition.types import IntArray

if TYPE_CHECKING:
    from dynpartition.agent.joins import JoinTables
    from dynpartition.agent.tables import Tables


class Facts:
    """Prices, ranks and reachability of the tasks revealed so far. N tasks, D devices."""

    def __init__(self, graph: TaskGraph, profile: Profile) -> None:
        self.graph = graph
        self.profile = profile
        self.names = profile.cluster.names
        self.prices = Prices(PricedGraph(graph, profile))
        self.legality = Legality(self.prices)
        self.able = [
            [device for device, ns in enumerate(row) if ns >= 0] for row in self.prices.run_ns
        ]
        """Task → devices that can run it."""
        self.can_run = [[ns >= 0 for ns in row] for row in self.prices.run_ns]
        self.best_ns = [min(ns for ns in row if ns >= 0) for row in self.prices.run_ns]
        """Task → duration where it is fastest."""
        self.work_ns = sum(self.best_ns)

    @cached_property
    def tables(self) -> Tables:
        """All this in the terms of the compiled estimate."""
        from dynpartition.agent.tables import graph_tables  # needs numba

        return graph_tables(self)

    @cached_property
    def join_tables(self) -> JoinTables:
        """What launches of several tasks last, in the same terms."""
        from dynpartition.agent.joins import join_tables

        return join_tables(self)

    @cached_property
    def rank(self) -> list[float]:
        """Task → upward rank."""
        return standard_ranks(self.graph, self.prices)

    @cached_property
    def rank_max(self) -> float:
        """Length of the critical path with mean costs, at least 1."""
        return max(1.0, *self.rank)

    @cached_property
    def unit_ns(self) -> float:
        """What times are divided by: the mean over tasks of their mean duration."""
        return max(1.0, sum(mean_costs(self.prices)) / len(self.graph))

    @cached_property
    def device_slowness(self) -> tuple[float, ...]:
        """Device → log of its mean duration relative to the fastest device of each task."""
        return tuple(self._slowness(device) for device in self.prices.devices)

    def _slowness(self, device: int) -> float:
        pairs = zip(self.prices.run_ns, self.best_ns, strict=True)
        both = [(row[device], best) for row, best in pairs if row[device] >= 0]
        if not both:
            return 0.0
        return math.log(max(1, sum(ns for ns, _ in both)) / max(1, sum(best for _, best in both)))

    @cached_property
    def static_columns(self) -> npt.NDArray[np.float64]:
        """Float64 (N, 4): upward rank, rank without own cost, mean transfer, readers."""
        cost, move = mean_costs(self.prices), mean_transfers(self.prices)
        readers = [len(row) for row in self.graph.reader_lists]
        below = [rank - own for rank, own in zip(self.rank, cost, strict=True)]
        return np.array([self.rank, below, move, readers], dtype=np.float64).T

    @cached_property
    def near(self) -> IntArray:
        """Int64 (N,): each task's reader of highest rank, itself where it has none."""
        readers = enumerate(self.graph.reader_lists)
        best = [max(row, key=self.rank.__getitem__, default=task) for task, row in readers]
        return np.array(best, dtype=np.int64)

    @cached_property
    def far(self) -> IntArray:
        """Int64 (N,): three steps along `near`."""
        return self.near[self.near[self.near]]

    @cached_property
    def near_size(self) -> IntArray:
        """Int64 (N,): how many tasks each task's `near` depends on, itself included."""
        counts = np.bincount([follower for row in self.followers for follower in row])
        sizes: IntArray = counts[self.near]
        return sizes

    @cached_property
    def followers(self) -> list[list[int]]:
        """Task → those of the tasks that are `near` or `far` of any that it is or leads to."""
        watched = set(self.near.tolist()) | set(self.far.tolist())
        rows: list[set[int]] = [set() for _ in range(len(self.graph))]
        for task in reversed(self.graph.topological_order):
            readers = self.graph.reader_lists[task]
            rows[task] = ({task} & watched).union(*(rows[reader] for reader in readers))
        return [sorted(row) for row in rows]


class FactsCache:
    """Facts of the graphs seen last, found again by content."""

    def __init__(self, profile: Profile, size: int = 4096) -> None:
        self.profile = profile
        self.size = size
        self._facts: dict[str, Facts] = {}  # least recently used first

    def of(self, graph: TaskGraph) -> Facts:
        """Return the facts of `graph`."""
        facts = self._facts.pop(graph.digest, None) or Facts(graph, self.profile)
        self._facts[graph.digest] = facts
        if len(self._facts) > self.size:
            del self._facts[next(iter(self._facts))]
        return facts
