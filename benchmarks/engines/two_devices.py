"""What two CPU devices gain over the best single one, planning and copies included.

The same batch of trees in flight, merged into batches on one device, and on two: with every tree
cut at its root into two halves (`split-left-right+merge`), or with half of the trees on each device
(`split-requests+merge`). Wall time from inputs to answers,
planned anew each time, or of a shape seen before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import torch

from dynpartition.agent.registry import make_scheduler
from dynpartition.contract import Backend, Scheduler
from dynpartition.hardware import HardwareBackend
from dynpartition.models import MergedInput, ModelInput, ParseTree, build_model, merge_inputs
from dynpartition.profile import Profile


@dataclass(frozen=True)
class SplitRow:
    """Medians over rounds of one size of cells; S is the speed-up of two devices over one."""

    hidden: int
    split: str
    """Scheduler of the two devices."""
    seen: bool
    """Whether plans are kept."""
    one_device_ms: float
    two_devices_ms: float
    s: float
    low: float
    high: float
    n_launches: int
    """Of the plan on two devices."""


def measure_split(
    trees: Sequence[ParseTree],
    hidden: int,
    rounds: int,
    profiles: Sequence[Profile],
    split: str,
    seen: bool,
) -> SplitRow:
    """Return the speed-up; `profiles`: of one device and of two. Answers are compared first."""
    model = build_model("treelstm", {"hidden_dim": hidden})
    merged = merge_inputs([ModelInput(model, tree) for tree in trees])
    expected = [model.eager(tree) for tree in trees]
    suffix, kept = ("+merge+cache", 8) if seen else ("+merge", 0)
    names = (f"single:cpu:0{suffix}", f"{split}{suffix}")
    with ExitStack() as stack:
        sides = [
            (
                stack.enter_context(
                    HardwareBackend(model, p.cluster.devices, profile=p, plans_kept=kept)
                ),
                make_scheduler(name),
            )
            for p, name in zip(profiles, names, strict=True)
        ]
        n_launches = [_check(*side, merged, expected) for side in sides]
        times: list[list[int]] = [[], []]
        for turn in range(rounds):
            for number in (0, 1) if turn % 2 else (1, 0):
                _run(*sides[number], merged)  # wakes cores and caches up
                times[number].append(_run(*sides[number], merged))
    gains = [one / two for one, two in zip(*times, strict=True)]
    one_ms, two_ms = (median(row) / 1e6 for row in times)
    return SplitRow(
        hidden, split, seen, one_ms, two_ms, median(gains), min(gains), max(gains), n_launches[1]
    )


def _run(backend: Backend, scheduler: Scheduler, merged: MergedInput) -> int:
    before = time.perf_counter_ns()
    with backend.open(merged) as session:
        while session.advance(scheduler.schedule(session.graph, backend.profile, session.plan)):
            pass
        session.answers()  # type: ignore[attr-defined]
    return time.perf_counter_ns() - before


def _check(
    backend: Backend,
    scheduler: Scheduler,
    merged: MergedInput,
    expected: Sequence[torch.Tensor],
) -> int:
    """Compare the answers with the model's own; return how many launches there are."""
    with backend.open(merged) as session:
        session.advance(scheduler.schedule(session.graph, backend.profile, session.plan))
        answers = session.answers()  # type: ignore[attr-defined]
        for answer, wanted in zip(answers, expected, strict=True):
            assert torch.allclose(answer, wanted, rtol=1e-4, atol=1e-5)
        return len(session.plan)
