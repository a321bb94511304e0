"""Does the policy learn? Pretrained against untrained, random, HEFT and the best single device.

    python benchmarks/first_policy.py [--trees FILE] [--devices cpu:0,cpu:1x0.5] [--seeds 3]
                                      [--seconds 60] [--finetune-runs 200] [--json FILE]

Calibrates the devices once, then per seed pretrains in the simulator, compares makespans on
held-out inputs there, fine-tunes on hardware and compares fine-tuned with pretrained on hardware,
input by input. Ratios are geometric means over inputs; the intervals are paired, over seeds
(Student's t) in the simulator and over inputs (bootstrap) on hardware.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dynpartition import Scheduler, parse_devices, run
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.finetuning import FinetuneConfig, finetune
from dynpartition.agent.policy import Policy, PolicyScheduler
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.train import train
from dynpartition.belief import Believing
from dynpartition.calibration.correcting import Correction
from dynpartition.calibration.measure import calibrate
from dynpartition.cli.options import load_inputs, parse_model
from dynpartition.contract import Backend
from dynpartition.hardware import HardwareBackend
from dynpartition.models import ModelInput
from dynpartition.models.splitting import select
from dynpartition.sim import SimBackend

RIVALS = ("random", "heft", "best-single")
RESAMPLES = 4000


def main() -> None:
    asked = parse_arguments()
    model = parse_model(asked.model, 0)
    devices = parse_devices(asked.devices)
    inputs = load_inputs(model, asked.trees, asked.inputs, 0)
    parts = [select(inputs, part) for part in ("train", "validation", "test")]
    profile = calibrate(model, devices, parts[0], seconds=20)
    simulator = SimBackend(profile)
    rows = []
    with HardwareBackend(model, devices, profile=profile) as hardware:
        for seed in range(asked.seeds):
            rows.append(one_seed(seed, simulator, hardware, parts, asked))
            print(json.dumps(rows[-1]), flush=True)
    summary = summarise(rows)
    print_table(summary)
    if asked.json:
        content = {"devices": asked.devices, "seeds": rows, "summary": summary}
        asked.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="treelstm")
    parser.add_argument("--trees", type=Path)
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--devices", default="cpu:0,cpu:1x0.5")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--finetune-runs", type=int, default=200, help="0: do not fine-tune")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def one_seed(
    seed: int,
    simulator: SimBackend,
    hardware: HardwareBackend,
    parts: list[list[ModelInput]],
    asked: argparse.Namespace,
) -> dict[str, Any]:
    """Pretrain and fine-tune once; return log ratios of makespans."""
    training, choosing, held_out = parts
    untrained = Policy.untrained(seed)
    config = TrainConfig(seconds=asked.seconds, seed=seed)
    pretrained = train(simulator, training, untrained, config, validation=choosing)
    rivals: dict[str, Scheduler] = {name: make_scheduler(name, seed=seed) for name in RIVALS}
    rivals["untrained"] = PolicyScheduler(untrained)
    policy = PolicyScheduler(pretrained.policy)
    ours = log_times(simulator, held_out, policy)
    gaps = {
        name: float(np.mean(ours - log_times(simulator, held_out, rival)))
        for name, rival in rivals.items()
    }
    row = {"seed": seed, "episodes": int(pretrained.history[-1]["episodes"]), "log_ratio_to": gaps}
    if asked.finetune_runs:
        config = FinetuneConfig(episodes=asked.finetune_runs, rehearsals=0, seed=seed)
        row |= finetuned(hardware, pretrained.policy, parts, config)
    return row


def finetuned(
    hardware: HardwareBackend, start: Policy, parts: list[list[ModelInput]], config: FinetuneConfig
) -> dict[str, Any]:
    """Fine-tune and compare with not fine-tuning, on hardware."""
    training, choosing, held_out = parts
    correction = Correction(hardware.profile)
    tuned = finetune(hardware, training, start, correction, config, validation=choosing)
    sides = (
        (Believing(hardware, tuned.profile), PolicyScheduler(tuned.policy)),
        (hardware, PolicyScheduler(start)),
    )
    return {
        "finetune_runs": int(tuned.history[-1]["episodes"]),
        "finetuned_to_pretrained": paired_on_hardware(held_out[:40], sides, config.seed),
    }


def log_times(backend: Backend, inputs: list[ModelInput], scheduler: Scheduler) -> np.ndarray:
    """Return the log of each input's makespan."""
    return np.log([run(backend, item, scheduler).trace.makespan_ns for item in inputs])


def paired_on_hardware(
    inputs: list[ModelInput],
    sides: tuple[tuple[Backend, Scheduler], ...],
    seed: int,
    repeats: int = 5,
) -> tuple[float, float, float]:
    """Return the ratio of makespans with its bootstrap 95 % interval, runs interleaved."""
    logs = np.empty((len(inputs), repeats, 2))
    for number, item in enumerate(inputs):
        for repeat in range(repeats):
            for side, (backend, scheduler) in enumerate(sides):
                logs[number, repeat, side] = log_times(backend, [item], scheduler)[0]
    medians = np.median(logs, axis=1)
    difference = medians[:, 0] - medians[:, 1]
    rng = np.random.default_rng(seed)
    means = rng.choice(difference, (RESAMPLES, len(difference))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.exp(low)), float(np.exp(difference.mean())), float(np.exp(high))


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return per rival the ratio of makespans and its 95 % interval over seeds."""
    summary = {}
    for name in rows[0]["log_ratio_to"]:
        logs = np.array([row["log_ratio_to"][name] for row in rows])
        spread = stats.t.ppf(0.975, max(1, len(logs) - 1)) * logs.std(ddof=1) / len(logs) ** 0.5
        summary[name] = {
            "ratio": float(np.exp(logs.mean())),
            "low": float(np.exp(logs.mean() - spread)),
            "high": float(np.exp(logs.mean() + spread)),
        }
    return summary


def print_table(summary: dict[str, dict[str, float]]) -> None:
    print(f"{'pretrained policy against':<28} ratio    95 % interval over seeds")
    for name, row in summary.items():
        print(f"{name:<28} {row['ratio']:.3f}    {row['low']:.3f} … {row['high']:.3f}")


if __name__ == "__main__":
    main()
