"""Which links share a bus, and which copies let their devices compute: told by overlaps.

Transfers of equal size are compared: those that another link's transfer overlaps, and those alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations

import numpy as np

from dynpartition.cluster import Cluster, Link
from dynpartition.trace import Trace, TransferSpan

_BYTES_LEAST = 32_768
"""Smaller transfers are mostly latency, which a bus does not share."""
_COUNT_LEAST = 8
_SHARED = 1.5
"""Transfers that take so much longer beside others share a bus; one at a time would be 2."""
_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class Pair:
    """Two links, and how much longer the transfers of one take beside those of the other."""

    links: tuple[str, str]
    slowdown: float
    together: int
    """Transfers with another beside them."""
    alone: int
    shares_bus: bool


def find_pairs(cluster: Cluster, traces: Iterable[Trace]) -> list[Pair]:
    """Return the pairs of links of which enough transfers were seen together and alone."""
    together: dict[tuple[str, str], list[float]] = defaultdict(list)
    alone: dict[tuple[str, int], list[int]] = defaultdict(list)
    beside: list[tuple[tuple[str, str], int, int]] = []
    for trace in traces:
        large = [move for move in trace.transfers if move.bytes >= _BYTES_LEAST]
        for move in large:
            others = {_name(other) for other in _beside(move, large)}
            lasted_ns = move.end_ns - move.start_ns
            if not others:
                alone[_name(move), move.bytes].append(lasted_ns)
            elif len(others) == 1:
                beside.append(((_name(move), others.pop()), move.bytes, lasted_ns))
    for (name, other), size, lasted_ns in beside:
        usual = alone.get((name, size), [])
        if len(usual) >= _COUNT_LEAST:
            pair = (min(name, other), max(name, other))
            together[pair].append(lasted_ns / max(1.0, float(np.median(usual))))
    return list(_pairs(cluster, together, alone))


def _pairs(
    cluster: Cluster,
    together: dict[tuple[str, str], list[float]],
    alone: dict[tuple[str, int], list[int]],
) -> Iterator[Pair]:
    names = sorted(f"{link.src}->{link.dst}" for link in cluster.links)
    for pair in combinations(names, 2):
        ratios = together.get(pair, [])
        if len(ratios) >= _COUNT_LEAST:
            slowdown = float(np.median(ratios))
            n_alone = sum(len(row) for (name, _), row in alone.items() if name in pair)
            yield Pair(pair, slowdown, len(ratios), n_alone, slowdown >= _SHARED)


def _name(move: TransferSpan) -> str:
    return f"{move.src}->{move.dst}"


def _beside(move: TransferSpan, others: Sequence[TransferSpan]) -> Iterator[TransferSpan]:
    """Yield the transfers on other links that go on for at least half of this one."""
    least_ns = _OVERLAP * (move.end_ns - move.start_ns)
    for other in others:
        if _name(other) != _name(move):
            common_ns = min(move.end_ns, other.end_ns) - max(move.start_ns, other.start_ns)
            if common_ns >= max(1.0, least_ns):
                yield other


def with_buses(cluster: Cluster, pairs: Sequence[Pair]) -> Cluster:
    """Return `cluster` with a common resource for every pair of links that shares a bus."""
    links = tuple(_on_buses(link, pairs) for link in cluster.links)
    return replace(cluster, links=links)


def _on_buses(link: Link, pairs: Sequence[Pair]) -> Link:
    name = f"{link.src}->{link.dst}"
    buses = [f"bus of {' and '.join(p.links)}" for p in pairs if p.shares_bus and name in p.links]
    return replace(link, resources=(*link.held, *buses)) if buses else link


def overlaps(cluster: Cluster, traces: Iterable[Trace]) -> dict[str, dict[str, float]]:
    """Return, by link, the share of its transfers beside which each end ran a launch."""
    seen: dict[str, int] = defaultdict(int)
    busy: dict[tuple[str, str], int] = defaultdict(int)
    for trace in traces:
        for move in trace.transfers:
            seen[_name(move)] += 1
            for end in (move.src, move.dst):
                busy[_name(move), end] += any(
                    span.device == end
                    and span.start_ns < move.end_ns
                    and move.start_ns < span.end_ns
                    for span in trace.launches
                )
    return {
        name: {end: busy[name, end] / count for end in name.split("->")}
        for name, count in sorted(seen.items())
        if count >= _COUNT_LEAST
    }


def as_plain(pairs: Sequence[Pair], found: dict[str, dict[str, float]]) -> dict[str, object]:
    """Return both as they stand in a profile file."""
    rows = [asdict(pair) | {"slowdown": round(pair.slowdown, 3)} for pair in pairs]
    shares = {
        link: {end: round(share, 3) for end, share in row.items()} for link, row in found.items()
    }
    return {"pairs": rows, "computes_during_copies": shares}
