"""The guard of a deployment: a tuned policy plays only where it is not slower than a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dynpartition.agent.checkpoint import Checkpoint
from dynpartition.agent.evaluation import evaluate
from dynpartition.agent.policy import PolicyScheduler
from dynpartition.agent.registry import make_scheduler
from dynpartition.contract import Backend, Workload

RIVALS = ("best-single", "best-single+merge", "heft", "heft+merge", "best-of-heuristics")
"""What a policy is measured against."""
REPEATS = 3


def guarded(
    checkpoint: Checkpoint,
    backend: Backend,
    workloads: Sequence[Workload],
    *,
    seed: int = 0,
    repeats: int = REPEATS,
) -> Checkpoint:
    """Return `checkpoint` with a note of who plays when it is deployed, and why.

    The policy and the baselines run the same inputs on the same backend in turn, decision time
    included. Where a baseline is faster on average, the scheduler `policy` plays that baseline.
    `workloads` should not have been trained on.
    """
    schedulers = {name: make_scheduler(name, seed=seed) for name in RIVALS}
    everyone = {"policy": PolicyScheduler(checkpoint.policy), **schedulers}
    evaluation = evaluate(backend, workloads, everyone, seed=seed, repeats=repeats)
    ratios = {row.scheduler: round(row.ratio_to_best_single, 4) for row in evaluation.rows}
    fastest = min(ratios, key=lambda name: ratios[name])
    plays = "policy" if ratios["policy"] <= ratios[fastest] else fastest
    note = {"plays": plays, "ratios": ratios, "inputs": len(workloads), "repeats": repeats}
    return replace(checkpoint, training={**checkpoint.training, "guard": note})
