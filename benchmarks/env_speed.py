"""Decisions per second of the vector environment, and the simulator's share of pretraining.

    python benchmarks/env_speed.py [--envs 64] [--rounds 5] [--seconds 3] [--json FILE]
                                   [--pretrain-seconds 30]

The clock runs in `PlacementVectorEnv.step` alone: placing, the observation and mask that a policy
reads, the finished plans' makespans, and the next episode's start; choosing stands outside. It is
CPU time of the one thread that does it. Graphs have 100 tasks on 4 devices with contended links
(in-trees and layered in turn; the same as in `sim_speed.py`), or are TreeLSTM inputs on the shipped
profile. Choices are random and legal, or those of a list scheduler (highest rank, where it ends
first; with batching it joins where that saves anything), which lie closer to a trained policy's.
Rows take turns; the table shows medians, the lowest and the highest.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from engines.plain_worlds import speed_worlds

from dynpartition import GraphWorkload, Profile, Session, Workload
from dynpartition.agent import env_kernel as kernel
from dynpartition.agent import join_kernel
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.policy import Policy
from dynpartition.agent.vector_env import PlacementVectorEnv
from dynpartition.contract import CompletePlan
from dynpartition.formats import load_shipped
from dynpartition.models import build_model, generate_inputs
from dynpartition.sim import SimBackend
from dynpartition.types import IntArray

TARGET_PER_S = 500_000
SHARE_MAX = 0.2
READY = (4, 8, 16)
"""How many ready tasks are shown: candidates per decision are these times the devices."""
READY_BATCHING = 8
"""The same, where rows with batching stand beside those without."""

Choose = Callable[[np.random.Generator, Any, Any], IntArray]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    profile: Profile
    workloads: Sequence[Workload]
    max_ready: int
    choices: str
    batching: bool


def at_random(rng: np.random.Generator, features: Any, mask: Any) -> IntArray:
    """Return a legal candidate of each row."""
    chosen: IntArray = np.argmax(rng.random(mask.shape, dtype=np.float32) * mask, axis=1)
    return chosen


def by_list(rng: np.random.Generator, features: Any, mask: Any) -> IntArray:
    """Return where the task of highest rank ends first, or with batching what saves by joining."""
    score = features[:, :, kernel.FINISHES_FIRST] * mask
    if features.shape[2] > kernel.N_FEATURES:
        score = score + 2 * (features[:, :, join_kernel.SAVED] < 0)
    chosen: IntArray = np.argmax(score, axis=1)
    return chosen


CHOICES: dict[str, Choose] = {"random": at_random, "list": by_list}


def cases() -> list[Case]:
    worlds = speed_worlds(64)
    profiles = list({id(world.profile): world.profile for world in worlds}.values())
    contended = profiles[0]  # one bus for all links
    graphs = [GraphWorkload(world.graph) for world in worlds if world.profile is contended]
    shipped, trees = load_shipped("synthetic-cpu-2gpu"), build_model("treelstm")
    tree_graphs = [GraphWorkload(each.graph) for each in generate_inputs(trees, 32, seed=0)]
    parts = [("100 tasks, 4 devices, a bus", contended, graphs)]
    parts.append(("TreeLSTM, shipped profile", shipped, tree_graphs))
    return [
        Case(name, profile, workloads, ready, choices, batching)
        for name, profile, workloads in parts
        for ready in READY
        for choices in CHOICES
        for batching in ((False, True) if ready == READY_BATCHING else (False,))
    ]


class Runner:
    """Plays one case."""

    def __init__(self, case: Case, n_envs: int) -> None:
        self.case = case
        self._choose = CHOICES[case.choices]
        self._rng = np.random.default_rng(0)
        self._envs = PlacementVectorEnv(
            SimBackend(case.profile),
            case.workloads,
            num_envs=n_envs,
            max_ready=case.max_ready,
            batching=case.batching,
            copy=False,
        )
        self._seen, _ = self._envs.reset(seed=0)
        self.round(0.5)  # every workload has been met, everything is compiled

    def round(self, seconds: float) -> tuple[int, float]:
        """Play for a while; return decisions, and CPU seconds in `step`."""
        decisions = spent_ns = 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            actions = self._choose(self._rng, self._seen["candidates"], self._seen["mask"])
            before = time.thread_time_ns()
            self._seen, *_ = self._envs.step(actions)
            spent_ns += time.thread_time_ns() - before
            decisions += len(actions)
        return decisions, spent_ns / 1e9


class TimedBackend(SimBackend):
    """Adds up the CPU time spent in simulating."""

    spent_s = 0.0

    def makespans_ns(self, plans: Sequence[CompletePlan]) -> IntArray:
        """Return makespans."""
        before = time.thread_time()
        found = super().makespans_ns(plans)
        self.spent_s += time.thread_time() - before
        return found

    def open(self, workload: Workload) -> Session:
        """Start a run whose `advance` is timed too."""
        session = super().open(workload)
        advance = session.advance

        def timed(launches: Any) -> bool:
            before = time.thread_time()
            more = advance(launches)
            self.spent_s += time.thread_time() - before
            return more

        session.advance = timed  # type: ignore[method-assign]
        return session


def pretraining_share(seconds: float) -> dict[str, float]:
    """Return what share of its CPU time pretraining spends in the simulator, and its speed."""
    from dynpartition.agent.train import train

    backend = TimedBackend(load_shipped("synthetic-cpu-2gpu"))
    inputs = generate_inputs(build_model("treelstm"), 100, seed=1)
    config = TrainConfig(seconds=seconds, seed=0)
    before = time.thread_time()
    result = train(backend, inputs, Policy.untrained(), config)
    total_s = time.thread_time() - before
    episodes = int(result.history[-1]["episodes"])
    return {"share": backend.spent_s / total_s, "episodes_per_s": episodes / total_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="per row, over all rounds")
    parser.add_argument("--pretrain-seconds", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    runners = [Runner(case, asked.envs) for case in cases()]
    rates: list[list[float]] = [[] for _ in runners]
    rng = np.random.default_rng(0)
    for _ in range(asked.rounds):
        for number in rng.permutation(len(runners)).tolist():
            decisions, spent_s = runners[number].round(asked.seconds / asked.rounds)
            rates[number].append(decisions / max(spent_s, 1e-9))
    rows = [
        {
            "graphs": runner.case.name,
            "ready": runner.case.max_ready,
            "choices": runner.case.choices,
            "batching": runner.case.batching,
            "per_s": median(values),
            "low": min(values),
            "high": max(values),
        }
        for runner, values in zip(runners, rates, strict=True)
    ]
    print(f"{'decisions per CPU second':<30}{'ready':>6}{'choices':>9}{'batches':>9}", end="")
    print(f"{'median':>11}{'low':>11}{'high':>11}   target {TARGET_PER_S:,}")
    for row in rows:
        met = "met" if row["per_s"] >= TARGET_PER_S else "missed"
        batches = "yes" if row["batching"] else "no"
        print(f"{row['graphs']:<30}{row['ready']:>6}{row['choices']:>9}{batches:>9}", end="")
        print(f"{row['per_s']:>11,.0f}{row['low']:>11,.0f}{row['high']:>11,.0f}   {met}")
    content: dict[str, Any] = {"envs": asked.envs, "rows": rows}
    if asked.pretrain_seconds:
        share = pretraining_share(asked.pretrain_seconds)
        content["pretraining"] = share
        met = "met" if share["share"] < SHARE_MAX else "missed"
        print(f"\npretraining: {share['share']:.1%} of its CPU time in the simulator", end="")
        print(f" (target < {SHARE_MAX:.0%}: {met}), {share['episodes_per_s']:.0f} episodes/s")
    if asked.json:
        asked.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
