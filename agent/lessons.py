"""What one case teaches in one update: rollouts, and their share of the gradient.

A lesson depends on weights, seeds and case alone, so it does not matter who works it out, nor how
often; and an update adds its lessons up in the order of its cases, so not when either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dynpartition.agent.network import unflat
from dynpartition.agent.policy import Policy
from dynpartition.agent.rollout import Player
from dynpartition.contract import Workload
from dynpartition.types import FloatArray, IntArray

Case = tuple[Player, Workload]
"""An input, and who plays it on its backend."""

ADDED_SHARE = 0.3
"""What counts of a rollout for what it adds to those of other styles."""
TOP_SHARE, TOP_WEIGHT = 0.1, 10.0
"""The best share of rollouts is told apart by so much more than the others."""


@dataclass(frozen=True, slots=True)
class Course:
    """What an update wants to know of each of its cases. C cases, R rollouts, P weights."""

    weights: FloatArray
    """(P,)"""
    n_styles: int
    styles: IntArray
    """(R,)"""
    seeds: IntArray
    """(C, R)"""
    entropy: float
    """Weight of the entropy bonus."""

    @property
    def policy(self) -> Policy:
        """Who plays."""
        return Policy(unflat(self.weights, self.n_styles))


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one case has come to."""

    reward: float
    """Mean over the rollouts."""
    gradient: FloatArray
    """(P,) this case's share of it."""
    totals: npt.NDArray[np.float64]
    """(4,) sums of the entropies of choices of tasks and devices, each followed by their number."""


class Source(Protocol):
    """Where an update's cases come from; the same number is the same case on every machine."""

    def numbers(self, update: int) -> Sequence[int]:
        """Return the numbers of the cases of an update."""

    def case(self, number: int) -> Case:
        """Return a case."""


@dataclass(frozen=True)
class Inputs:
    """Cases that are the inputs of one backend."""

    player: Player
    workloads: Sequence[Workload]
    draw: Callable[[int], Sequence[int]]
    """Number of an update → positions in `workloads`."""

    def numbers(self, update: int) -> Sequence[int]:
        """Return the numbers of the cases of an update."""
        return self.draw(update)

    def case(self, number: int) -> Case:
        """Return a case."""
        return self.player, self.workloads[number]


class Crew(Protocol):
    """Who works lessons out elsewhere."""

    def learn(self, numbers: Sequence[int], course: Course) -> list[Lesson]:
        """Return the lessons of the cases of these numbers, in their order."""


class Alone:
    """Works lessons out here, one after the other."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def learn(self, numbers: Sequence[int], course: Course) -> list[Lesson]:
        """Return the lessons of the cases of these numbers, in their order."""
        policy, case = course.policy, self._source.case
        return [learn_from(case(n), policy, course, at) for at, n in enumerate(numbers)]


def learn_from(case: Case, policy: Policy, course: Course, at: int) -> Lesson:
    """Work out the lesson of a case, which is number `at` in its update; `policy`: the course's."""
    player, workload = case
    rollouts = player.sample(policy, workload, course.styles, course.seeds[at])
    # Divided by decisions, so that the step size does not depend on how large inputs are.
    share = 1 / max(1, rollouts.n_decisions * len(course.seeds))
    weights = advantages(rollouts.makespans_ns, course.n_styles) * share
    gradient = np.zeros(len(course.weights), dtype=np.float32)
    totals = player.learn(policy, rollouts, weights, course.entropy * share, gradient)
    return Lesson(float(rollouts.rewards.mean()), gradient, totals)


def advantages(makespans_ns: IntArray, n_styles: int) -> npt.NDArray[np.float64]:
    """Return (R,) how much better each rollout was than those of its style; styles take turns.

    In part from what sets it apart from other rollouts of its style, in part (ADDED_SHARE) from
    what it adds to the other styles' of its turn. Zeros where all are equal.
    """
    ranked = _ranks(makespans_ns).reshape(-1, n_styles)  # (S, K)
    spread = ranked.std() + 1e-3
    own: npt.NDArray[np.float64] = (ranked - ranked.mean(axis=0)) / spread
    if n_styles == 1:
        return own.reshape(-1)
    ordered = np.sort(ranked, axis=1)
    added = np.zeros_like(ranked)
    winner = ranked.argmax(axis=1)
    added[np.arange(len(ranked)), winner] = (ordered[:, -1] - ordered[:, -2]) / spread
    mixed: npt.NDArray[np.float64] = (1 - ADDED_SHARE) * own + ADDED_SHARE * n_styles * added
    return mixed.reshape(-1)


def _ranks(makespans_ns: IntArray) -> npt.NDArray[np.float64]:
    """Return (R,) from 0, the slowest, to 1, equal for equal ones; the top is stretched."""
    _, place, count = np.unique(makespans_ns, return_inverse=True, return_counts=True)
    behind = np.cumsum(count) - (count + 1) / 2  # mean place of those that are equal
    share = 1 - behind[place] / max(1, len(makespans_ns) - 1)
    top = np.maximum(share - (1 - TOP_SHARE), 0)
    ranks: npt.NDArray[np.float64] = share + TOP_WEIGHT * top
    return ranks
