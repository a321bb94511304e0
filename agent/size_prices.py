"""What moving, gathering and staging an output costs, by its size: computed once per profile."""

from __future__ import annotations

import numpy as np

from dynpartition.cluster import AffineCost, TransferCost
from dynpartition.costs import transfer_ns
from dynpartition.profile import Profile
from dynpartition.types import IntArray

_SIZES_MAX = 4096
"""Sizes that are remembered, before all are forgotten."""
_BYTES_MAX = 2**62 // 10**9
_BANDWIDTH_MAX = 2**61
_MANY = 16
"""From so many new sizes on they are priced together."""


class SizePrices:
    """Costs of outputs under one profile; L links, D devices."""

    def __init__(self, profile: Profile) -> None:
        dispatch, names = profile.dispatch, profile.cluster.names
        self._costs: list[TransferCost | None] = [link.cost for link in profile.cluster.links]
        self._costs += [dispatch.copy_in.get(name) for name in names]
        self._costs += [dispatch.copy_out.get(name) for name in names]
        self._known: dict[int, list[int]] = {}
        self._tables: dict[tuple[int, ...], tuple[IntArray, IntArray]] = {}

    def table(self, *sizes: IntArray) -> tuple[IntArray, IntArray]:
        """Return the different sizes, ascending (n,), and their costs (n, L + 2 D) in ns.

        First over every link, then of gathering and of staging on every device.
        """
        distinct = set().union(*(each.tolist() for each in sizes))
        key = tuple(sorted(distinct))
        found = self._tables.get(key)
        if found is None:
            if len(self._known) + len(key) > _SIZES_MAX:
                self._known.clear()
            if len(self._tables) > _SIZES_MAX // 16:
                self._tables.clear()
            ascending = np.array(key, dtype=np.int64)
            found = ascending, self._priced(ascending)
            if len(key) <= _MANY:
                self._tables[key] = found
        return found

    def _priced(self, sizes: IntArray) -> IntArray:
        if len(sizes) > _MANY:
            columns = [_prices(cost, sizes) for cost in self._costs]
            return np.ascontiguousarray(np.array(columns, dtype=np.int64).T)
        rows = [self._row(size) for size in sizes.tolist()]
        return np.array(rows, dtype=np.int64).reshape(len(sizes), len(self._costs))

    def _row(self, size: int) -> list[int]:
        row = self._known.get(size)
        if row is None:
            row = [0 if cost is None else transfer_ns(cost, size) for cost in self._costs]
            self._known[size] = row
        return row


def _prices(cost: TransferCost | None, sizes: IntArray) -> IntArray:
    """Return transfer_ns of each size; exact."""
    if cost is None:
        return np.zeros_like(sizes)
    if isinstance(cost, AffineCost) and cost.bandwidth_bytes_per_s < _BANDWIDTH_MAX:
        bandwidth = cost.bandwidth_bytes_per_s
        if sizes.max(initial=0) < _BYTES_MAX:
            return cost.latency_ns + (sizes * 10**9 + (bandwidth - 1)) // bandwidth
    return np.array([transfer_ns(cost, size) for size in sizes.tolist()], dtype=np.int64)
