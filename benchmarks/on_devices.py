"""The policy on real devices of unequal speed, against every baseline, decisions included.

    python benchmarks/on_devices.py [--devices cpu:0,cpu:1x0.5] [--trees FILE] [--clock virtual]
        [--models "treelstm:hidden_dim=512;treelstm:hidden_dim=1024;moe"] [--cases 24]
        [--repeats 7] [--episodes 200] [--json FILE]

Per model: the devices are calibrated, `finetune` corrects the profile and tunes the policy on
training inputs, and its guard says who is deployed. Then all schedulers run held-out inputs on the
same executor and the same corrected profile, in turn and in random order. The time of a run is its
makespan and the decision before it; later decisions are in the makespan. An input counts by the
median over its runs; ratios are geometric means over inputs, with paired bootstrap intervals.

Which baseline is the best one, and which plan of an input, is chosen by every second run; how fast
they are is told by the others. So nobody is chosen for luck. An input is worth splitting where the
best plan, whoever made it, takes at least 10 % less time than the best single device, which may
merge tasks into launches too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from dynpartition import Scheduler, parse_devices, run
from dynpartition.agent.checkpoint import load_checkpoint
from dynpartition.agent.finetuning import FinetuneConfig
from dynpartition.agent.policy import SHIPPED
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.warming import warm_up
from dynpartition.belief import Believing
from dynpartition.calibration.measure import calibrate
from dynpartition.cli.finetune import finetune_into
from dynpartition.cli.options import load_inputs, parse_model
from dynpartition.cli.training import CHECKPOINT
from dynpartition.contract import Backend, Workload
from dynpartition.formats import write_json
from dynpartition.hardware import HardwareBackend
from dynpartition.models.splitting import select

Times = npt.NDArray[np.float64]

BASELINES = (
    *("best-single", "best-single+merge", "split-left-right", "split-left-right+merge"),
    *("heft", "heft+merge"),
    *("best-of-heuristics", "best-of-heuristics+merge"),
)
DEPLOYED = "deployed"
BUDGET_US = 1000.0
SEARCH = f"policy-search, {BUDGET_US / 1000:.0f} ms"
OURS = (DEPLOYED, "policy", "policy+merge", SEARCH)
GAIN = 0.10
RESAMPLES = 4000


def schedulers_for(names: Sequence[str], folder: Path) -> dict[str, Scheduler]:
    """Return the baselines, every single device, what fine-tuning deploys, and the policy."""
    alone = [f"single:{name}{suffix}" for name in names for suffix in ("", "+merge")]
    checkpoint = folder / CHECKPOINT
    found = {name: make_scheduler(name) for name in (*alone, *BASELINES)}
    found[DEPLOYED] = make_scheduler("policy", policy=checkpoint)
    plain = folder / "plain"
    found |= {name: make_scheduler(name, policy=plain) for name in OURS[1:-1]}
    found[SEARCH] = make_scheduler("policy-search", policy=plain, budget_us=BUDGET_US)
    return found


def measured(
    backend: Backend, work: Sequence[Workload], schedulers: dict[str, Scheduler], repeats: int
) -> Times:
    """Return (S, N, R) ms, decisions included."""
    for scheduler in schedulers.values():
        warm_up(scheduler, backend.profile)
    rng = np.random.default_rng(0)
    players = list(schedulers.values())
    times = np.empty((len(players), len(work), repeats))
    for repeat in range(-1, repeats):  # the first round warms up, and is not kept
        for column in rng.permutation(len(work)).tolist():
            for row in rng.permutation(len(players)).tolist():
                outcome = run(backend, work[column], players[row])
                ns = outcome.trace.makespan_ns + outcome.opening_decision_ns
                if repeat >= 0:
                    times[row, column, repeat] = ns / 1e6
    return times


def ratio(ours: Times, theirs: Times) -> dict[str, float]:
    """Return the geometric mean of ours / theirs over inputs, with its paired interval."""
    logs = np.log(ours / theirs)
    picks = np.random.default_rng(0).integers(len(logs), size=(RESAMPLES, len(logs)))
    low, high = np.exp(np.percentile(logs[picks].mean(axis=1), [2.5, 97.5]))
    return {"ratio": float(np.exp(logs.mean())), "low": float(low), "high": float(high)}


def judged(times: Times, names: Sequence[str]) -> dict[str, Any]:
    """Return how the policy does against the best baseline, over all inputs and where it pays."""
    choosing, telling = np.median(times[..., ::2], axis=2), np.median(times[..., 1::2], axis=2)
    inputs = np.arange(times.shape[1])
    rows = {name: at for at, name in enumerate(names)}
    alone = [at for name, at in rows.items() if name.startswith("single:")]
    rivals = [rows[name] for name in BASELINES]
    best = rivals[int(np.log(choosing[rivals]).mean(axis=1).argmin())]
    single = telling[np.array(alone)[choosing[alone].argmin(axis=0)], inputs]
    plan = telling[choosing.argmin(axis=0), inputs]
    pays = np.flatnonzero(plan <= (1 - GAIN) * single)
    found: dict[str, Any] = {
        "inputs": len(inputs),
        "best_baseline": names[best],
        "mean_ms": {name: float(telling[at].mean()) for name, at in rows.items()},
        "best_plan_to_best_single": ratio(plan, single),
        "worth_splitting": len(pays),
        "ratios": {name: ratio(telling[rows[name]], telling[best]) for name in OURS},
    }
    if len(pays):
        found["ratios_where_worth"] = {
            name: ratio(telling[rows[name]][pays], telling[best][pays]) for name in OURS
        }
    return found


def one_model(text: str, options: argparse.Namespace) -> dict[str, Any]:
    model = parse_model(text, options.seed)
    trees = options.trees if model.name == "treelstm" else None
    inputs = load_inputs(model, trees, options.inputs, options.seed)
    training, validation, held_out = (select(inputs, p) for p in ("train", "validation", "test"))
    profile = calibrate(
        *(model, parse_devices(options.devices), training),
        seconds=options.calibrate_seconds,
        clock=options.clock,
    )
    start = load_checkpoint(options.policy or SHIPPED).policy
    config = FinetuneConfig(
        episodes=options.episodes,
        correcting=min(FinetuneConfig().correcting, options.episodes),
        rehearsals=options.rehearsals,
        seed=options.seed,
    )
    with (
        TemporaryDirectory() as place,
        HardwareBackend(model, profile.cluster.devices, profile=profile, clock=options.clock) as b,
    ):
        folder = Path(place)
        tuned = finetune_into(folder, b, (training, validation), start, config, model=text)
        keep_plain(folder)
        schedulers = schedulers_for(profile.cluster.names, folder)
        backend = Believing(b, tuned.profile)
        times = measured(backend, held_out[: options.cases], schedulers, options.repeats)
    found = judged(times, list(schedulers))
    guard = tuned.checkpoint.training["guard"]
    assert isinstance(guard, dict)
    return {"model": text, "deployed": guard["plays"], **found}


def keep_plain(folder: Path) -> None:
    """Keep the tuned policy also as a checkpoint whose guard plays nothing else."""
    from dataclasses import replace

    from dynpartition.agent.checkpoint import save_checkpoint

    checkpoint = load_checkpoint(folder / CHECKPOINT)
    training = {key: value for key, value in checkpoint.training.items() if key != "guard"}
    save_checkpoint(folder / "plain", replace(checkpoint, training=training))


def print_model(found: dict[str, Any]) -> None:
    best, means = found["best_baseline"], found["mean_ms"]
    gain = 1 - found["best_plan_to_best_single"]["ratio"]
    print(f"\n{found['model']}: {found['inputs']} held-out inputs, deployed: {found['deployed']}")
    print(
        f"  the best plan takes {gain:.1%} less than the best single device; at least {GAIN:.0%}"
        f" less on {found['worth_splitting']} inputs"
    )
    for name, ms in sorted(means.items(), key=lambda item: item[1]):
        print(f"  {name:28} {ms:9.3f} ms" + ("  (the best baseline)" if name == best else ""))
    for title, ratios in (
        ("all inputs", found["ratios"]),
        ("inputs worth splitting", found.get("ratios_where_worth", {})),
    ):
        for name, row in ratios.items():
            print(
                f"  {name} / {best}, {title}: {row['ratio']:.3f} ({row['low']:.3f}–"
                f"{row['high']:.3f})"
            )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    models = "treelstm:hidden_dim=512;treelstm:hidden_dim=1024;moe"
    parser.add_argument("--models", default=models, help="with semicolons between")
    parser.add_argument("--devices", default="cpu:0,cpu:1x0.5")
    parser.add_argument("--trees", type=Path, help="bracketed parse trees for treelstm")
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=("wall", "virtual"), default="wall")
    parser.add_argument("--calibrate-seconds", type=float, default=30.0)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--rehearsals", type=int, default=20_000)
    parser.add_argument("--policy", type=Path, help="checkpoint to begin with; else the shipped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    found = []
    for text in options.models.split(";"):
        found.append(one_model(text, options))
        print_model(found[-1])
    if options.json:
        write_json(
            options.json, {"devices": options.devices, "clock": options.clock, "models": found}
        )


if __name__ == "__main__":
    main()
