"""Priorities of tasks: ranks in the sense of Topcuoglu et al. 2002, with mean costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dynpartition.agent.prices import Prices
from dynpartition.graph import TaskGraph

EdgeCost = Callable[[int, int], float]
"""(source task, reader task) → mean ns of moving the source's output between two devices."""


def mean_costs(prices: Prices) -> list[float]:
    """Return per task its mean duration over the devices that can run it."""
    able = [[ns for ns in row if ns >= 0] for row in prices.run_ns]
    return [sum(row) / len(row) for row in able]


def mean_transfers(prices: Prices) -> list[float]:
    """Return per task the mean time of moving its output over a link, staging included."""
    n_links = len(prices.blocked)
    if not n_links:
        return [0.0] * prices.n_tasks
    cache: dict[int, float] = {}
    for size in set(prices.output_bytes):
        total = sum(prices.transfer_ns(link, size) for link in range(n_links))
        cache[size] = total / n_links + prices.handoff_ns
    return [cache[size] for size in prices.output_bytes]


def upward_ranks(graph: TaskGraph, cost: Sequence[float], edge: EdgeCost) -> list[float]:
    """Return the mean length of the longest path from each task to an exit, itself included.

    Topcuoglu et al. 2002, eq. 7: rank(i) = cost(i) + max over readers j of edge(i, j) + rank(j).
    """
    rank = [0.0] * len(graph)
    for task in reversed(graph.topological_order):
        below = [edge(task, reader) + rank[reader] for reader in graph.reader_lists[task]]
        rank[task] = cost[task] + max(below, default=0.0)
    return rank


def downward_ranks(graph: TaskGraph, cost: Sequence[float], edge: EdgeCost) -> list[float]:
    """Return the mean length of the longest path from an entry to each task, itself excluded.

    Topcuoglu et al. 2002, eq. 9.
    """
    rank = [0.0] * len(graph)
    for task in graph.topological_order:
        above = [
            rank[source] + cost[source] + edge(source, task) for source in _inputs(graph, task)
        ]
        rank[task] = max(above, default=0.0)
    return rank


def _inputs(graph: TaskGraph, task: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(graph.input_lists[task]))


def standard_ranks(graph: TaskGraph, prices: Prices) -> list[float]:
    """Return the upward ranks of a priced graph."""
    move = mean_transfers(prices)
    return upward_ranks(graph, mean_costs(prices), lambda source, _: move[source])
