"""What launches of several tasks last, for environments in which tasks may join launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

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
    apart = prices.priced.own_cost.copy()
    batch_ns = np.zeros_like(apart)
    for cell, n in enumerate(counts.tolist()):
        for device, curve in enumerate(prices.priced.curves_of(cell)):
            if curve is None:
                apart[graph.cell_of == cell, device] = 1
            else:
                extra_ns = prices.bookkeeping_ns[device] * np.arange(1, n + 1)
                rows = slice(first[cell], first[cell] + n)
                batch_ns[rows, device] = np.array(curve.up_to(n), dtype=np.int64) + extra_ns
    return JoinTables(first, batch_ns, apart)
