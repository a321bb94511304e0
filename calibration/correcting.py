"""Correcting a profile by a handful of runs, as they come.

Every launch and transfer of a run is compared with what the profile says that it lasts: a sum of
numbers of the profile. The logarithms of factors on these numbers are fitted (maximum a posteriori,
Gauss-Newton; outliers count less by Tukey's bisquare). By the prior the numbers of one device move
together, and so do those of all links: what a slower clock does to a cell that has run, it does to
one that has not.

n observations, P numbers, G groups of numbers, Q = P + G unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dynpartition.calibration.heldout import Used, input_id, placement_id, shape_id
from dynpartition.calibration.identity import sealed
from dynpartition.calibration.joint import Refit
from dynpartition.calibration.observations import HostTimes, Launched, Moved, Observations, observe
from dynpartition.calibration.refitting import refit_story
from dynpartition.calibration.regress import FloatArray
from dynpartition.cluster import AffineCost
from dynpartition.contract import Outcome, Workload
from dynpartition.costs import transfer_ns
from dynpartition.formats import RecordedRun, Runs
from dynpartition.formats.runs import runs_bytes, runs_of
from dynpartition.models import ModelInput
from dynpartition.pricing import price
from dynpartition.profile import PricedGraph, Profile
from dynpartition.program import Program, lower
from dynpartition.sim.perturb import number_names, rescaled

GROUP_DEVIATION = 0.3
"""How far all numbers of a device, or of all links, may be off together, relatively."""
OWN_DEVIATION = 0.2
"""How far each of them may be off besides."""
_HOST_MODES_SHARED = ("single", "threads", "replay")
"""In these CPU launches wait for the host, or for a lock, like those of GPUs."""
_ROUNDS_ABSOLUTE, _ROUNDS = 3, 12
_CLOSE = 1e-6
_SPREAD_LEAST = 0.002
"""Relative; exact data have no spread to be measured in."""
_BISQUARE, _NORMAL_MAD = 4.685, 0.6745
"""As in `dynpartition.calibration.regress`."""


@dataclass(frozen=True)
class _Rows:
    """Observations: what was measured, and what the given profile says that it is made of."""

    measured_ns: FloatArray
    """(n,)"""
    fixed_ns: FloatArray
    """(n,) What no number of the profile moves: durations that the graph brings."""
    shares_ns: FloatArray
    """(n, P) What each number adds."""

    def sound(self) -> _Rows:
        """Return those that have a logarithm."""
        priced_ns = self.fixed_ns + self.shares_ns.sum(axis=1)
        good = (self.measured_ns > 0) & (priced_ns > 0)
        return _Rows(self.measured_ns[good], self.fixed_ns[good], self.shares_ns[good])


NOWHERE = Runs("unknown", "wall", {}, {}, ())


class Correction:
    """A profile that runs of its machine correct.

    `origin`: what a file of the runs says about them, without the runs.
    """

    def __init__(self, profile: Profile, origin: Runs = NOWHERE) -> None:
        self._given = profile
        self._origin = origin
        self._exact = replace(profile, noise=None)
        self._names = number_names(profile)
        self._signs = np.array([-1.0 if _is_rate(name) else 1.0 for name in self._names])
        self._members = _members(self._names)  # (P, G)
        is_shared = profile.dispatch.host_mode in _HOST_MODES_SHARED
        devices = profile.cluster.devices
        self._driven = {each.name for each in devices if is_shared or each.kind == "cuda"}
        self._place = {name: at for at, name in enumerate(self._names)}
        kinds = dict.fromkeys(kind for name in self._names if (kind := _kind_of(name)))
        self._doubled = {kind: _doubled(self._exact, kind) for kind in kinds}
        self._runs: list[RecordedRun] = []
        self._launches: list[_Rows] = []
        self._moves: list[_Rows] = []

    @property
    def runs(self) -> Sequence[RecordedRun]:
        """The runs so far."""
        return self._runs

    def note(self, workload: Workload, outcome: Outcome) -> None:
        """Learn from one run of the machine, unless it lost a device."""
        if outcome.trace.wasted:
            return
        known = input_id(workload) if isinstance(workload, ModelInput) else workload.graph.digest
        self.add(RecordedRun(known, outcome.graph, outcome.plan, outcome.trace))

    def dump(self) -> bytes:
        """Return the runs so far as a file of recorded runs; nothing where there are none."""
        return runs_bytes(replace(self._origin, runs=self._runs)) if self._runs else b""

    def restore(self, content: bytes) -> None:
        """Take in the runs of such a file."""
        for run in runs_of(content).runs if content else ():
            self.add(run)

    def add(self, run: RecordedRun) -> None:
        """Learn from one run."""
        seen = self._observed(run)
        self._runs.append(run)
        self._launches.append(self._launches_of(run, seen.launches).sound())
        self._moves.append(self._moves_of(seen.moves).sound())

    def refit(self) -> Refit:
        """Return the profile as all runs so far say, with a factor for each of its numbers."""
        parts = [_stacked(rows) for rows in (self._launches, self._moves) if rows]
        logs, covariance = self._fitted([rows for rows in parts if len(rows.measured_ns)])
        factors = dict(zip(self._names, np.exp(logs).tolist(), strict=True))
        left = np.sqrt(np.maximum(0.0, np.diag(covariance)))
        deviations = dict(zip(self._names, left.tolist(), strict=True))
        return Refit(rescaled(self._given, factors.__getitem__), factors, deviations)

    def corrected(self) -> Profile:
        """Return that profile."""
        return self.refit().profile if self._runs else self._given

    def as_file(self) -> Profile:
        """Return it with a provenance that says what it was corrected by."""
        if not self._runs:
            return self._given
        again, runs = self.refit(), self._runs
        used = Used.of(self._given) | Used(
            frozenset(run.input for run in runs),
            frozenset(shape_id(run.graph) for run in runs),
            frozenset(placement_id(run.graph, run.plan) for run in runs),
        )
        story = refit_story(self._given, again, used, len(runs), None)
        return sealed(replace(again.profile, provenance=story))

    def _observed(self, run: RecordedRun) -> Observations:
        cluster, times = self._given.cluster, HostTimes(run.seen_ns)
        good, _ = observe(len(self._runs), run.graph, cluster, run.trace, times).cleaned()
        return good

    def _launches_of(self, run: RecordedRun, rows: Sequence[Launched]) -> _Rows:
        profile, graph = self._exact, run.graph
        program = lower(graph, profile.cluster, run.plan)
        numbers = [row.number for row in rows]
        priced_ns = _launch_ns(program, run, profile)[numbers]
        shares_ns = np.zeros((len(rows), len(self._names)))
        for kind, doubled in self._doubled.items():
            added_ns = _launch_ns(program, run, doubled)[numbers] - priced_ns
            for at, row in enumerate(rows):
                if added_ns[at]:
                    name = _name_of(kind, row.cell, row.device)
                    shares_ns[at, self._place[name if name in self._place else kind]] = added_ns[at]
        fixed_ns = np.maximum(0.0, priced_ns - shares_ns.sum(axis=1))
        measured_ns = np.array([self._lasted_ns(row) for row in rows], dtype=float)
        return _Rows(measured_ns, fixed_ns, shares_ns)

    def _lasted_ns(self, row: Launched) -> float:
        """Return what a launch lasted.

        What the executor does before its start is a part of it, waiting for a hand-off or for the
        host is not.
        """
        waits = row.waited or row.device in self._driven
        return row.ns - row.gap_ns if waits else row.ns

    def _moves_of(self, moves: Sequence[Moved]) -> _Rows:
        costs = {(link.src, link.dst): link.cost for link in self._given.cluster.links}
        shares_ns = np.zeros((len(moves), len(self._names)))
        for row, move in enumerate(moves):
            cost = costs[move.src, move.dst]
            path, priced_ns = f"links/{move.src}->{move.dst}", transfer_ns(cost, move.bytes)
            if isinstance(cost, AffineCost):
                shares_ns[row, self._place[f"{path}/latency"]] = cost.latency_ns
                shares_ns[row, self._place[f"{path}/bandwidth"]] = priced_ns - cost.latency_ns
            else:
                shares_ns[row, self._place[path]] = priced_ns
        measured_ns = np.array([move.ns for move in moves], dtype=float)
        return _Rows(measured_ns, np.zeros(len(moves)), shares_ns)

    def _fitted(self, parts: Sequence[_Rows]) -> tuple[FloatArray, FloatArray]:
        """Return the logarithms of the factors (P,) and their covariance (P, P)."""
        n_numbers, n_groups = self._members.shape
        spread_of = np.hstack([np.eye(n_numbers), self._members])  # (P, Q)
        deviation = [OWN_DEVIATION] * n_numbers + [GROUP_DEVIATION] * n_groups
        prior = np.diag(1 / np.square(deviation))
        unknown = np.zeros(n_numbers + n_groups)
        normal = prior
        for step in range(_ROUNDS_ABSOLUTE + _ROUNDS if parts else 0):
            normal, pull = prior.copy(), prior @ unknown
            times = np.exp(self._signs * (spread_of @ unknown))  # (P,)
            for rows in parts:
                made_ns = rows.shares_ns * times  # (n, P)
                priced_ns = rows.fixed_ns + made_ns.sum(axis=1)
                misfit = np.log(priced_ns / rows.measured_ns)
                slopes = (made_ns * self._signs / priced_ns[:, None]) @ spread_of  # (n, Q)
                weights = _weights(misfit, is_absolute=step < _ROUNDS_ABSOLUTE)
                normal += slopes.T @ (slopes * weights[:, None])
                pull += slopes.T @ (weights * misfit)
            change = np.linalg.solve(normal, pull)
            unknown = unknown - change
            if step >= _ROUNDS_ABSOLUTE and np.abs(change).max() < _CLOSE:
                break
        covariance = spread_of @ np.linalg.inv(normal) @ spread_of.T
        return spread_of @ unknown, covariance


def _kind_of(name: str) -> str:
    """Return which part of all launches a number belongs to; none: of no launch."""
    kind, _, rest = name.partition("/")
    if kind in ("copy_in", "copy_out"):
        return f"{kind}/{rest.rpartition('/')[2]}"
    return kind if kind in ("cells", "first_use", "bookkeeping") else ""


def _name_of(kind: str, cell: str, device: str) -> str:
    """Return the number of a kind that a launch of a cell on a device is made of."""
    head, _, last = kind.partition("/")
    if last:
        return f"{head}/{device}/{last}"
    return f"{kind}/{device}" if kind == "bookkeeping" else f"{kind}/{cell}/{device}"


def _doubled(profile: Profile, kind: str) -> Profile:
    """Return `profile` with twice the time that numbers of a kind stand for."""
    factor = 0.5 if _is_rate(kind) else 2.0
    return rescaled(profile, lambda name: factor if _kind_of(name) == kind else 1.0)


def _is_rate(name: str) -> bool:
    return name.endswith("/bandwidth")


def _members(names: Sequence[str]) -> FloatArray:
    """Return (P, G): 1 where a number belongs to a group."""
    groups = [_group_of(name) for name in names]
    known = [group for group in dict.fromkeys(groups) if group]
    members = np.zeros((len(names), len(known)))
    for at, group in enumerate(groups):
        if group:
            members[at, known.index(group)] = -1.0 if _is_rate(names[at]) else 1.0
    return members


def _group_of(name: str) -> str:
    """Return what a number moves with: `links`, a device, or nothing."""
    kind, _, rest = name.partition("/")
    if kind in ("cells", "first_use"):
        return rest.rpartition("/")[2]
    if kind in ("copy_in", "copy_out"):
        return rest.rpartition("/")[0]
    return {"links": "links", "bookkeeping": rest}.get(kind, "")


def _launch_ns(program: Program, run: RecordedRun, profile: Profile) -> FloatArray:
    """Return (L,) what the launches of a run last under a profile."""
    priced = PricedGraph(run.graph, profile)
    return np.array(price(program, priced).launch_ns, dtype=float)


def _stacked(rows: Sequence[_Rows]) -> _Rows:
    return _Rows(
        np.concatenate([each.measured_ns for each in rows]),
        np.concatenate([each.fixed_ns for each in rows]),
        np.concatenate([each.shares_ns for each in rows]),
    )


def _weights(misfit: FloatArray, *, is_absolute: bool) -> FloatArray:
    """Return (n,) what each observation counts: 1 / variance, less for outliers."""
    size = np.abs(misfit)
    spread = max(_SPREAD_LEAST, float(np.median(size)) / _NORMAL_MAD)
    far = np.minimum(1.0, size / (_BISQUARE * spread))
    weights: FloatArray = (1 - far**2) ** 2 / spread**2
    if is_absolute:
        weights = 1 / (spread * np.maximum(_SPREAD_LEAST, size))
    return weights
