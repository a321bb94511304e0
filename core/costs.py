"""The one place where costs become integer nanoseconds.

`latency + bytes/bandwidth` computed two ways differs in the last bit, so every part of the project
prices through these functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from dynpartition.cluster import AffineCost, TableCost, TransferCost


def transfer_ns(cost: TransferCost, size_bytes: int) -> int:
    """Return how long a transfer of `size_bytes` occupies its link."""
    size_bytes = int(size_bytes)  # NumPy's integers would overflow in the product below
    if isinstance(cost, AffineCost):
        bandwidth = cost.bandwidth_bytes_per_s
        return cost.latency_ns + (size_bytes * 10**9 + bandwidth - 1) // bandwidth
    return _table_ns(cost, size_bytes)


def _table_ns(cost: TableCost, size_bytes: int) -> int:
    """Interpolate in log-log space, rounded up; the smallest point holds below the table."""
    points = cost.points
    if len(points) == 1 or size_bytes <= points[0][0]:
        return points[0][1]
    for size, ns in points:
        if size == size_bytes:
            return ns
    low, high = next(
        ((a, b) for a, b in pairwise(points) if a[0] <= size_bytes < b[0]), points[-2:]
    )
    slope = (math.log(high[1]) - math.log(low[1])) / (math.log(high[0]) - math.log(low[0]))
    return math.ceil(low[1] * math.exp(slope * (math.log(size_bytes) - math.log(low[0]))))


def curve_ns(batch: Sequence[int], duration_ns: Sequence[int], k: int) -> int:
    """Return the duration of a launch of `k` tasks on a batch curve.

    Linear between points, rounded up; beyond the last point its slope goes on. A curve with a
    single point at batch b costs k/b times that point.
    """
    if len(batch) == 1:
        return -(-duration_ns[0] * k // batch[0])
    position = next((i for i in range(1, len(batch)) if k <= batch[i]), len(batch) - 1)
    k0, k1 = batch[position - 1], batch[position]
    d0, d1 = duration_ns[position - 1], duration_ns[position]
    return max(0, d0 - (-(d1 - d0) * (k - k0) // (k1 - k0)))


def slowed_ns(duration_ns: int, speed: float) -> int:
    """Return a duration at `speed` (1: full), rounded up; exact to one part in a million."""
    return -(-duration_ns * 1_000_000 // round(speed * 1_000_000))


def share_ns(duration_ns: int, share: float) -> int:
    """Return `share` of a duration, rounded up; exact to one part in a million."""
    return -(-duration_ns * round(share * 1_000_000) // 1_000_000)
