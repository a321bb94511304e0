"""What launches of several tasks last, for environments in which tasks may join launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dynpartition.profile import Curve
from dynpartition.types import IntArray

if TYPE_CHECKING:
    from dynpartition.agent.facts import Facts


@dataclass(frozen=True, slots=True)
class JoinTables:
    """One graph; N tasks, K cells, D devices. See `join_kernel.Joins`."""

    batch_first: IntArray
    """(K,)"""
    batch_ns: IntArray
    """(N, D)"""
    apart: IntArray
    """(N, D)"""


def join_tables(facts: Facts) -> JoinTables:
    """Return the tables of a graph."""
    graph, prices = facts.graph, facts.prices
    counts = np.bincount(graph.cell_of, minlength=len(graph.cells))
    first = np.cumsum(counts) - counts
    batch_ns = np.zeros((len(graph), prices.n_devices), dtype=np.int64)
    apart = np.zeros_like(batch_ns)
    for name, own in graph.durations.items():
        apart[:, prices.priced.cluster.index(name)] = own >= 0
    curves = facts.profile.cell_prices(graph.cells).curves
    for cell, row in enumerate(curves):
        n = int(counts[cell])
        for device, curve in enumerate(row):
            if curve is None:
                apart[graph.cell_of == cell, device] = 1
            else:
                extra_ns = prices.bookkeeping_ns[device] * np.arange(1, n + 1)
                rows = slice(first[cell], first[cell] + n)
                batch_ns[rows, device] = _durations_ns(curve, n) + extra_ns
    return JoinTables(first, batch_ns, apart)


def _durations_ns(curve: Curve, count: int) -> IntArray:
    """Return int64 (count,): how long launches of 1, 2, … tasks last."""
    return np.array([curve.at(k) for k in range(1, count + 1)], dtype=np.int64)
