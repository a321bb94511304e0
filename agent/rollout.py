"""Playing a policy on the inputs of one backend, and learning from what was played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dynpartition.agent.decoder import Decoder
from dynpartition.agent.episode import Baseline, reward_of
from dynpartition.agent.policy import Policy, PolicyScheduler, decide
from dynpartition.by_id import ById
from dynpartition.contract import (
    INFEASIBLE_NS,
    Backend,
    CompletePlan,
    Scheduler,
    Workload,
    run,
)
from dynpartition.errors import OutOfDeviceMemory, SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan, chosen_launches
from dynpartition.types import FloatArray, IntArray

_SEEDS = 1 << 40


def draw_seeds(rng: np.random.Generator, n_cases: int, n_rollouts: int) -> IntArray:
    """Return (C, R) seeds of rollouts."""
    return rng.integers(_SEEDS, size=(n_cases, n_rollouts))


@dataclass(eq=False)
class Segment:
    """What rollouts decided at one question: nothing was shown meanwhile."""

    graph: TaskGraph
    planned: Plan
    rollouts: IntArray
    """(n,) which ones of R."""
    styles: IntArray
    seeds: IntArray


@dataclass
class Rollouts:
    """R rollouts of one workload."""

    makespans_ns: IntArray
    """(R,)"""
    rewards: FloatArray
    """(R,) −log(makespan / makespan of the best single device, or of the rival)."""
    segments: list[Segment]

    @property
    def n_decisions(self) -> int:
        """How many tasks were placed, over all rollouts."""
        return sum(
            len(each.rollouts)
            * (len(each.graph) - sum(len(one.tasks) for one in each.planned.launches))
            for each in self.segments
        )


RIVAL_EVERY = 4
"""Rollouts between two runs of the rival's plan, so that what the machine does touches both."""


class Player:
    """Plays workloads on one backend, one session at a time.

    `rival`: a scheduler whose plan of the same input runs in turn with rollouts; rewards compare
    with it instead of the best single device.
    """

    def __init__(
        self, backend: Backend, *, baseline_repeats: int = 1, rival: Scheduler | None = None
    ) -> None:
        self.backend = backend
        self._rival = rival
        self._baseline = Baseline(backend, baseline_repeats)
        self._decoder = Decoder(backend.profile)
        self._flat: ById[Workload, TaskGraph] = ById()
        self._recorded: tuple[Segment, Policy] | None = None

    def greedy(self, policy: Policy, workloads: Sequence[Workload]) -> FloatArray:
        """Return float32 (B,): the rewards of the policy as its scheduler plays it."""
        times = np.zeros(len(workloads), dtype=np.int64)
        plans, priced = [], []
        for number, workload in enumerate(workloads):
            graph = self._known_graph(workload)
            if graph is None:
                times[number] = self._run(workload, policy)
            else:
                self._begin(graph, Plan())
                plans.append(CompletePlan(workload, graph, decide(policy, self._decoder, graph)))
                priced.append(number)
        if plans:
            times[priced] = self.backend.makespans_ns(plans)
        return self._rewards(times, workloads)

    def sample(
        self, policy: Policy, workload: Workload, styles: IntArray, seeds: IntArray
    ) -> Rollouts:
        """Play a workload once per style (R,), drawing every choice by its seed (R,)."""
        graph = self._known_graph(workload)
        if graph is None:
            times, rival_times, segments = self._sample_sessions(policy, workload, styles, seeds)
        else:
            segment = Segment(graph, Plan(), np.arange(len(styles)), styles, seeds)
            choices = self._roll(policy, segment)
            plans = [CompletePlan(workload, graph, each) for each in choices]
            (times, rival_times), segments = self._run_in_turn(plans), [segment]
        if self._rival is None:
            rewards = self._rewards(times, [workload] * len(styles))
        else:
            rewards = _rewards_against(times, rival_times)
        return Rollouts(times, rewards, segments)

    def learn(
        self,
        policy: Policy,
        rollouts: Rollouts,
        weights: npt.NDArray[np.float64],
        entropy: float,
        gradient: FloatArray,
    ) -> npt.NDArray[np.float64]:
        """Add to `gradient` that of Σ weight · log probability over rollouts, plus entropies.

        `policy` must have played them. `weights`: (R,). Returns (4,): sums of the entropies of
        choices of tasks and of devices, each followed by their number.
        """
        totals = np.zeros(4)
        for segment in rollouts.segments:
            if self._recorded != (segment, policy):
                self._roll(policy, segment)  # equal seeds give equal choices
            chosen = weights[segment.rollouts]
            self._decoder.learn(gradient, segment.styles, chosen, entropy, totals)
        return totals

    def _run_in_turn(self, plans: Sequence[CompletePlan]) -> tuple[IntArray, IntArray]:
        """Return (R,) makespans of plans of one workload, and those of the rival's plan between."""
        if self._rival is None:
            return self.backend.makespans_ns(plans), np.zeros(0, dtype=np.int64)
        workload, graph, _ = plans[0]
        names = self.backend.profile.cluster.names
        launches = self._rival.schedule(graph, self.backend.profile, Plan())
        placed = [
            (task, names.index(each.device), int(number > 0))
            for each in launches
            for number, task in enumerate(each.tasks)
        ]
        theirs = CompletePlan(workload, graph, np.array(placed, dtype=np.int64))
        mixed: list[CompletePlan] = []
        for number, plan in enumerate(plans):
            mixed += [theirs, plan] if number % RIVAL_EVERY == 0 else [plan]
        times = self.backend.makespans_ns(mixed)
        is_theirs = np.array([plan is theirs for plan in mixed])
        return times[~is_theirs], times[is_theirs]

    def _roll(self, policy: Policy, segment: Segment) -> IntArray:
        """Play and record; return (n, T, 3) choices."""
        self._begin(segment.graph, segment.planned)
        self._decoder.think(policy.flat, policy.net)
        rolled = self._decoder.roll(segment.styles, segment.seeds, records=True)
        if (rolled.ends_ns < 0).any():
            name = segment.graph.name
            raise SchedulerError(
                f"no ready task of graph {name!r} has a legal device; add links or costs"
            )
        self._recorded = (segment, policy)
        return rolled.choices

    def _begin(self, graph: TaskGraph, planned: Plan) -> None:
        self._recorded = None
        self._decoder.begin(graph, planned)

    def _known_graph(self, workload: Workload) -> TaskGraph | None:
        """Return the graph of a workload that hides nothing, else None."""
        graph = self._flat.get(workload)
        if graph is None:
            with self.backend.open(workload) as session:
                if session.is_complete:
                    graph = self._flat.put(workload, session.graph)
        return graph

    def _run(self, workload: Workload, policy: Policy) -> int:
        try:
            return run(self.backend, workload, PolicyScheduler(policy)).trace.makespan_ns
        except OutOfDeviceMemory:
            return INFEASIBLE_NS

    def _sample_sessions(
        self, policy: Policy, workload: Workload, styles: IntArray, seeds: IntArray
    ) -> tuple[IntArray, IntArray, list[Segment]]:
        """Play rollouts one after the other, each asked again at every reveal; the rival between.

        Returns makespans of the rollouts (R,) and of the rival's runs.
        """
        times = np.zeros(len(styles), dtype=np.int64)
        rival_times: list[int] = []
        segments: list[Segment] = []
        names = self.backend.profile.cluster.names
        for r in range(len(styles)):
            if self._rival is not None and r % RIVAL_EVERY == 0:
                rival_times.append(run(self.backend, workload, self._rival).trace.makespan_ns)
            with self.backend.open(workload) as session:
                more, asked = True, 0
                while more:
                    seed = (seeds[r : r + 1] + 0x9E3779B9 * asked) % _SEEDS
                    which = np.array([r])
                    segment = Segment(session.graph, session.plan, which, styles[r : r + 1], seed)
                    segments.append(segment)
                    choices = self._roll(policy, segment)[0]
                    try:
                        more = session.advance(chosen_launches(choices, names))
                    except OutOfDeviceMemory:
                        times[r] = INFEASIBLE_NS
                        break
                    asked += 1
                else:
                    times[r] = session.trace.makespan_ns
        return times, np.array(rival_times, dtype=np.int64), segments

    def _rewards(self, times_ns: IntArray, workloads: Sequence[Workload]) -> FloatArray:
        rewards = [
            reward_of(ns, self._baseline.best_single_ns(workload))
            for ns, workload in zip(times_ns.tolist(), workloads, strict=True)
        ]
        return np.array(rewards, dtype=np.float32)


def _rewards_against(times_ns: IntArray, rival_ns: IntArray) -> FloatArray:
    """Return float32 (R,): −log of makespans relative to the median of the rival's."""
    base_ns = max(1, int(np.median(rival_ns)))
    return np.array([reward_of(ns, base_ns) for ns in times_ns.tolist()], dtype=np.float32)
