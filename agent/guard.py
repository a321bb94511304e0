"""The guard of a deployment: a tuned policy plays only where no baseline is faster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dynpartition.agent.checkpoint import Checkpoint
from dynpartition.agent.evaluation import REFERENCE, evaluate
from dynpartition.agent.merging import Merging
from dynpartition.agent.policy import PolicyScheduler
from dynpartition.agent.registry import make_scheduler
from dynpartition.contract import Backend, Scheduler, Workload

OWN = ("policy", "policy+merge")
"""How a policy can be played."""
RIVALS = ("best-single", "best-single+merge", "heft", "heft+merge", "best-of-heuristics")
"""What it is measured against."""
REPEATS = 3
FINAL_REPEATS = 7


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
    included. The faster way to play the policy and the fastest baseline then meet again, more
    often: who was lucky in the first round is not in the second. Where the baseline is faster on
    average, the scheduler `policy` plays that baseline. `workloads` should not have been trained
    on.
    """
    policy = PolicyScheduler(checkpoint.policy)
    everyone = {"policy": policy, "policy+merge": Merging(policy)}
    everyone |= {name: make_scheduler(name, seed=seed) for name in RIVALS}
    first = _ratios(backend, workloads, everyone, seed, repeats)
    ours, theirs = (min(names, key=first.__getitem__) for names in (OWN, RIVALS))
    finalists = {name: everyone[name] for name in (ours, theirs, REFERENCE)}
    final = _ratios(backend, workloads, finalists, seed + 1, FINAL_REPEATS)
    plays = ours if final[ours] <= final[theirs] else theirs
    note = {
        "plays": plays,
        "ratios": first | final,
        "inputs": len(workloads),
        "repeats": [repeats, FINAL_REPEATS],
    }
    return replace(checkpoint, training={**checkpoint.training, "guard": note})


def _ratios(
    backend: Backend,
    workloads: Sequence[Workload],
    schedulers: Mapping[str, Scheduler],
    seed: int,
    repeats: int,
) -> dict[str, float]:
    """Return each scheduler's time relative to the best single device's."""
    evaluation = evaluate(backend, workloads, schedulers, seed=seed, repeats=repeats)
    return {row.scheduler: round(row.ratio_to_best_single, 4) for row in evaluation.rows}
