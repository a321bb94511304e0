"""The placement policy: a small network that scores every candidate. Inference is numpy only.

B decisions, K candidates, F features, H hidden units. All candidates share the weights, and the
mean of the legal candidates' codes is the context of each: any number of tasks and devices works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dynpartition.agent.observe import FEATURES, Observation
from dynpartition.contract import Scheduler
from dynpartition.errors import SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile
from dynpartition.types import FloatArray, IntArray

HIDDEN = 64
"""Hidden units per layer."""
MAX_READY = 16
"""Ready tasks shown at once."""
ILLEGAL = np.float32(-1e9)
"""Score of a candidate that may not be chosen."""

Weights = Mapping[str, FloatArray]


def weight_shapes(hidden: int = HIDDEN) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every weight."""
    return {
        "encode.weight": (len(FEATURES), hidden),
        "encode.bias": (hidden,),
        "mix.weight": (hidden, hidden),
        "context.weight": (hidden, hidden),
        "mix.bias": (hidden,),
        "score.weight": (hidden,),
    }


class Policy:
    """Weights, and how many ready tasks they were trained to see."""

    def __init__(self, weights: Weights, max_ready: int = MAX_READY) -> None:
        self.weights = dict(weights)
        self.max_ready = max_ready

    @staticmethod
    def untrained(seed: int = 0, hidden: int = HIDDEN, max_ready: int = MAX_READY) -> Policy:
        """Return a policy with random weights that prefers next to nothing."""
        rng = np.random.default_rng(np.random.SeedSequence([seed]))
        weights = {
            name: _initial(name, shape, rng) for name, shape in weight_shapes(hidden).items()
        }
        return Policy(weights, max_ready)

    @property
    def hidden(self) -> int:
        """Hidden units per layer, H."""
        return len(self.weights["encode.bias"])

    def scores(self, observation: Observation) -> FloatArray:
        """Return float32 (B, K), ILLEGAL where the mask is 0. Each row needs a legal candidate."""
        w = self.weights
        mask = observation.mask.astype(np.bool_)  # (B, K)
        count = mask.sum(axis=1)
        code = np.maximum(observation.features[mask] @ w["encode.weight"] + w["encode.bias"], 0)
        first = np.cumsum(count) - count  # code: one row per legal candidate
        context = np.add.reduceat(code, first) / count[:, None]  # (B, H)
        shared = context.astype(np.float32) @ w["context.weight"] + w["mix.bias"]
        mixed = np.maximum(code @ w["mix.weight"] + np.repeat(shared, count, axis=0), 0)
        scores = np.full(mask.shape, ILLEGAL, dtype=np.float32)
        scores[mask] = mixed @ w["score.weight"]
        return scores

    def choose(self, observation: Observation, rng: np.random.Generator | None = None) -> IntArray:
        """Return int64 (B,): the best candidate, or with `rng` one drawn by softmax."""
        scores = self.scores(observation)
        if rng is not None:
            noise = rng.gumbel(size=scores.shape)  # argmax of the sum is a softmax draw
            scores += noise.astype(np.float32)
        chosen: IntArray = np.argmax(scores, axis=1)
        return chosen


def _initial(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    if name.endswith("bias"):
        return np.zeros(shape, dtype=np.float32)
    scale = 0.01 if name == "score.weight" else np.sqrt(2 / shape[0])
    return (rng.standard_normal(shape) * scale).astype(np.float32)


class PolicyScheduler(Scheduler):
    """Plays a policy: the best candidate at every step."""

    name = "policy"

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @staticmethod
    def load(folder: Path) -> PolicyScheduler:
        """Return the scheduler of a checkpoint; CheckpointError if it cannot be used."""
        from dynpartition.agent.checkpoint import load_checkpoint

        return PolicyScheduler(load_checkpoint(folder).policy)

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches in the order of choosing."""
        from dynpartition.agent.batch import Batch  # needs numba
        from dynpartition.agent.facts import Facts

        batch = Batch(profile, 1, self.policy.max_ready)
        batch.begin(0, Facts(graph, profile), planned)
        slot, observation = np.zeros(1, dtype=np.int64), Observation(batch.features, batch.mask)
        batch.observe(slot)
        while observation.mask.any():
            batch.act(slot, self.policy.choose(observation))
        if batch.n_ready(0):
            raise SchedulerError(f"no ready task of graph {graph.name!r} has a legal device")
        return batch.launches(0)
