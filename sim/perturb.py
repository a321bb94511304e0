"""Machines like the one in a profile: each number times a factor of its own.

Domain randomisation draws machines that are as likely as the profile, given how exact it is: every
number is multiplied by its own log-normal factor of median 1, whose standard deviation is the
profile's `uncertainty`. A factor is keyed by (seed, what the number is), so two
schedulers can be compared on the same machine, and adding a device changes no other factor.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import NormalDist

from dynpartition.cluster import AffineCost, Link, TableCost, TransferCost
from dynpartition.graph import VALUE_MAX
from dynpartition.profile import Curve, Dispatch, PerCellAndDevice, PerDevice, Profile

_NORMAL = NormalDist()


def perturbed(profile: Profile, seed: int, *, uncertainty: float | None = None) -> Profile:
    """Return a machine drawn around `profile`; equal seeds give equal machines.

    `uncertainty`: relative standard deviation instead of the profile's own. Batch curves move as
    a whole, one factor for each cell and device, so that they keep their shape.
    """
    sigma = profile.uncertainty if uncertainty is None else uncertainty
    if not sigma:
        return profile

    def factor(key: str) -> float:
        digest = hashlib.blake2b(f"{seed}|{key}".encode(), digest_size=8).digest()
        uniform = ((int.from_bytes(digest, "little") >> 12) + 0.5) / 2**52
        return math.exp(sigma * _NORMAL.inv_cdf(uniform))

    return rescaled(profile, factor)


def number_names(profile: Profile) -> list[str]:
    """Return the names that `rescaled` has for the numbers of a profile."""
    names: dict[str, None] = {}

    def note(key: str) -> float:
        names[key] = None
        return 1.0

    rescaled(profile, note)
    return list(names)


def rescaled(profile: Profile, factor: Callable[[str], float]) -> Profile:
    """Return `profile` with every number multiplied by the factor of its name.

    Batch curves and link tables have one name each, so they keep their shape.
    """
    draw = _Scaling(factor)
    links = tuple(draw.link(link) for link in profile.cluster.links)
    cells = {
        cell: {d: draw.curve(curve, f"{cell}/{d}") for d, curve in curves.items()}
        for cell, curves in profile.cells.items()
    }
    return replace(
        profile,
        cluster=replace(profile.cluster, links=links),
        cells=cells,
        dispatch=draw.dispatch(profile.dispatch),
    )


class _Scaling:
    def __init__(self, factor: Callable[[str], float]) -> None:
        self.factor = factor

    def amount(self, value: int, key: str) -> int:
        return min(VALUE_MAX, round(value * self.factor(key)))

    def curve(self, curve: Curve, key: str) -> Curve:
        factor = self.factor(f"cells/{key}")
        scaled = (min(VALUE_MAX, round(ns * factor)) for ns in curve.duration_ns)
        return Curve(curve.batch, tuple(scaled))

    def link(self, link: Link) -> Link:
        return replace(link, cost=self._cost(link.cost, f"links/{link.src}->{link.dst}"))

    def _cost(self, cost: TransferCost, key: str) -> TransferCost:
        if isinstance(cost, AffineCost):
            return self._affine(cost, key)
        factor = self.factor(key)
        return TableCost(
            tuple((size, max(1, min(VALUE_MAX, round(ns * factor)))) for size, ns in cost.points)
        )

    def _affine(self, cost: AffineCost, key: str) -> AffineCost:
        bandwidth = self.amount(cost.bandwidth_bytes_per_s, f"{key}/bandwidth")
        return AffineCost(self.amount(cost.latency_ns, f"{key}/latency"), max(1, bandwidth))

    def dispatch(self, dispatch: Dispatch) -> Dispatch:
        copies = {
            name: {d: self._affine(cost, f"{name}/{d}") for d, cost in table.items()}
            for name, table in (("copy_in", dispatch.copy_in), ("copy_out", dispatch.copy_out))
        }
        return replace(
            dispatch,
            h=self._per_cell(dispatch.h),
            lock=min(1.0, dispatch.lock * self.factor("lock")),
            bookkeeping_ns=self._per_device(dispatch.bookkeeping_ns, "bookkeeping"),
            copy_in=copies["copy_in"],
            copy_out=copies["copy_out"],
            first_use_ns={
                cell: {d: self.amount(ns, f"first_use/{cell}/{d}") for d, ns in row.items()}
                for cell, row in dispatch.first_use_ns.items()
            },
            h_copy=self.amount(dispatch.h_copy, "h_copy"),
            handoff_ns=self.amount(dispatch.handoff_ns, "handoff_ns"),
            sync_ns=self.amount(dispatch.sync_ns, "sync_ns"),
            decision_ns=self.amount(dispatch.decision_ns, "decision_ns"),
        )

    def _per_device(self, amounts: PerDevice, key: str) -> PerDevice:
        if isinstance(amounts, int):
            return self.amount(amounts, key)
        return {name: self.amount(ns, f"{key}/{name}") for name, ns in amounts.items()}

    def _per_cell(self, h: PerCellAndDevice) -> PerCellAndDevice:
        if isinstance(h, int):
            return self.amount(h, "h")
        rows: Mapping[str, int | Mapping[str, int]] = h
        return {  # type: ignore[return-value]  # by device or by cell, as it was
            name: self.amount(row, f"h/{name}")
            if isinstance(row, int)
            else self._per_device(row, f"h/{name}")
            for name, row in rows.items()
        }
