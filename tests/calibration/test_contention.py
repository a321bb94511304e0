"""Shared buses and blocking copies are told from overlaps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynpartition import AffineCost, Cluster, Device, LaunchSpan, Link, Trace, TransferSpan
from dynpartition.calibration.contention import find_pairs, overlaps, with_buses

NAMES = ("cpu:0", "cuda:0", "cuda:1")
CLUSTER = Cluster(
    (Device("cpu:0", "cpu"), Device("cuda:0", "cuda"), Device("cuda:1", "cuda")),
    tuple(Link("cpu:0", name, AffineCost(0, 1)) for name in NAMES[1:]),
)
MB = 1_000_000


def traces(rng: np.random.Generator, factor: float) -> list[Trace]:
    """Transfers to both GPUs, half of them at the same time, which makes them `factor` as long."""
    found = []
    for number in range(40):
        together = number % 2 == 0
        lasts = [int(MB * (factor if together else 1) * rng.uniform(0.95, 1.05)) for _ in range(2)]
        begins = (0, 1000 if together else 10 * MB)
        moves = tuple(
            TransferSpan("cpu:0", dst, (0,), MB, begin, begin + ns)
            for dst, begin, ns in zip(NAMES[1:], begins, lasts, strict=True)
        )
        launch = LaunchSpan("cuda:0", (0,), 0, 2 * MB)
        found.append(Trace(20 * MB, (launch,), moves))
    return found


@pytest.mark.parametrize(("factor", "shares"), [(2.0, True), (1.0, False), (1.2, False)])
def test_a_shared_bus_is_found(factor: float, shares: bool) -> None:
    pairs = find_pairs(CLUSTER, traces(np.random.default_rng(0), factor))
    assert len(pairs) == 1
    assert pairs[0].links == ("cpu:0->cuda:0", "cpu:0->cuda:1")
    assert pairs[0].slowdown == pytest.approx(factor, rel=0.05)
    assert pairs[0].shares_bus is shares
    held = [set(link.held) for link in with_buses(CLUSTER, pairs).links]
    assert bool(held[0] & held[1]) is shares
    assert "cpu:0->cuda:0" in held[0]


def test_small_and_rare_transfers_say_nothing() -> None:
    found = traces(np.random.default_rng(0), 2.0)
    assert find_pairs(CLUSTER, found[:6]) == []
    small = [
        replace(t, transfers=tuple(replace(move, bytes=64) for move in t.transfers)) for t in found
    ]
    assert find_pairs(CLUSTER, small) == []


def test_launches_beside_copies_are_counted() -> None:
    found = overlaps(CLUSTER, traces(np.random.default_rng(0), 1.0))
    assert found["cpu:0->cuda:0"] == {"cpu:0": 0.0, "cuda:0": 1.0}
    assert found["cpu:0->cuda:1"] == {"cpu:0": 0.0, "cuda:1": 0.0}
