"""Training a policy from scratch on random worlds: the learning curve, and what it cost.

    python benchmarks/learning.py --out FOLDER [--episodes 3000000] [--seed 0] [--json FILE]
                                  [--resume]

FOLDER gets `checkpoint/` and `curve.json` after every validation; --resume goes on from there, to
the same weights as without a stop, so that a training may be cut into commands of any length. The
curve shows the greedy policy on worlds that it is never trained on, as the
geometric mean of its makespan divided by the best single device's, beside HEFT and the portfolio
on the same worlds. CPU time is that of this process, all included but compiling.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dynpartition.agent.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.episode import Baseline, reward_of
from dynpartition.agent.policy import Policy
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.world_training import VALIDATION, WorldConfig, case_of, train_on_worlds
from dynpartition.contract import run

RIVALS = ("heft+merge", "best-of-heuristics+merge")
""""+merge": where batches pay; elsewhere it changes nothing."""


def main() -> None:
    asked = parsed()
    config = TrainConfig(
        seconds=None,
        episodes=asked.episodes,
        seed=asked.seed,
        groups=asked.groups,
        rollouts=asked.rollouts,
        learning_rate=asked.learning_rate,
        entropy=asked.entropy,
        validate_every=asked.validate_every,
        keep="last",
    )
    worlds = WorldConfig()
    rivals = {name: rival_reward(name, config.seed, worlds) for name in RIVALS}
    print({name: round(float(np.exp(-reward)), 4) for name, reward in rivals.items()}, flush=True)
    start: Any = Policy.untrained(asked.seed, asked.styles)
    folder = asked.out / "checkpoint"
    curve: list[dict[str, float]] = []
    spent_s = 0.0
    if asked.resume:
        start, config = load_checkpoint(folder), replace(config, resume=True)
        kept = json.loads((asked.out / "curve.json").read_text())
        curve = [point for point in kept if point["update"] <= start.training["updates"]]
        spent_s = curve[-1]["cpu_s"] if curve else 0.0
    begun = time.process_time()

    def cpu_s() -> float:
        return round(spent_s + time.process_time() - begun, 1)

    def note(metrics: dict[str, float]) -> None:
        if "validation" in metrics:
            point = metrics | {"cpu_s": cpu_s()}
            curve.append(point)
            (asked.out / "curve.json").write_text(json.dumps(curve))
            print({name: round(value, 4) for name, value in point.items()}, flush=True)

    def keep(checkpoint: Checkpoint) -> None:
        training = dict(checkpoint.training) | {
            "worlds": asdict(worlds),
            "cpu_seconds": cpu_s(),
            "rivals": rivals,
        }
        save_checkpoint(folder, replace(checkpoint, training=training))

    asked.out.mkdir(parents=True, exist_ok=True)
    result = train_on_worlds(start, config, worlds, on_update=note, on_checkpoint=keep)
    keep(result.checkpoint)
    for name, reward in rivals.items():
        better = [point["cpu_s"] for point in curve if point["validation"] > reward]
        print(f"better than {name} after {better[0]:.0f} CPU s" if better else f"behind {name}")
    if asked.json:
        asked.json.write_text(json.dumps({"curve": curve, "rivals": rivals}, indent=1))


def rival_reward(name: str, seed: int, worlds: WorldConfig) -> float:
    """Return a scheduler's mean reward on the validation worlds."""
    rewards = []
    for number in range(VALIDATION, VALIDATION + worlds.n_validation):
        player, workload = case_of(worlds, seed, number)
        makespan_ns = run(player.backend, workload, make_scheduler(name)).trace.makespan_ns
        rewards.append(reward_of(makespan_ns, Baseline(player.backend).best_single_ns(workload)))
    return float(np.mean(rewards))


def parsed() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=3_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--styles", type=int, default=4)
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2.5e-3)
    parser.add_argument("--entropy", type=float, default=0.05)
    parser.add_argument("--validate-every", type=int, default=400)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
