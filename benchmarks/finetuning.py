"""What a wrong profile costs, and how much of that fine-tuning recovers.

    python benchmarks/finetuning.py [--worlds 2] [--families in-tree,layered] [--trees FILE]
        [--by 0.3] [--each device|number] [--noise 0.05] [--episodes 200] [--rehearsals 50000]
        [--json FILE]
    python benchmarks/finetuning.py --hardware cpu:0,cpu:1x0.5 [--models treelstm:hidden_dim=512]
        [--trees FILE] [--errors 4] [--clock virtual] [--json FILE]

A profile is made wrong: all times of a device, and all of a link, times a factor of their own
between 1 − by and 1 + by (`--each number`: every number its own factor). What that costs is the
makespan of the policy's plans decided on the wrong profile against those decided on the true one,
on inputs that fine-tuning never runs. Fine-tuning gets the wrong profile, and runs on the truth:
a simulator that hides it (families of synthetic graphs, and TreeLSTM graphs of the trees in a
file, each on machines of their own), or the devices of this machine, whose truth is a calibration
made just before, and whose errors are those of many that cost most in its simulator. Shares are of
sums over worlds, intervals bootstrapped over worlds (simulated) or over inputs (real devices).

`cost table`: the corrected profile, the policy as it was. `all`: the tuned policy on it, too.
"""

from __future__ import annotations

import argparse
import itertools
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dynpartition import GraphWorkload, Profile, Scheduler, parse_devices, run
from dynpartition.agent.checkpoint import load_checkpoint
from dynpartition.agent.families import Setting, draw_graph
from dynpartition.agent.finetuning import FinetuneConfig, finetune
from dynpartition.agent.machines import Machine, draw_profile
from dynpartition.agent.policy import SHIPPED, Policy, PolicyScheduler
from dynpartition.belief import Believing
from dynpartition.calibration.correcting import Correction
from dynpartition.cli.options import load_inputs, parse_model
from dynpartition.contract import Backend, Workload
from dynpartition.formats import write_json
from dynpartition.models.splitting import select
from dynpartition.profile import Noise
from dynpartition.sim import SimBackend
from dynpartition.sim.perturb import rescaled

Logs = npt.NDArray[np.float64]
RESAMPLES = 4000
HELD_OUT, VALIDATION, TRAINING = 40, 24, 100
"""Inputs of each simulated world."""
WIRINGS = ("links", "bus")
TREES = "parse trees"
WARM_RUNS = 10


@dataclass(frozen=True)
class World:
    """Inputs of one kind and the machine that runs them."""

    name: str
    truth: Profile
    training: Sequence[Workload]
    validation: Sequence[Workload]
    held_out: Sequence[Workload]


def wrong_profile(truth: Profile, seed: int, by: float, each: str) -> Profile:
    """Return `truth` with factors between 1 − by and 1 + by, keyed by what they are of."""

    def factor_of(key: str) -> float:
        entropy = [seed, zlib.crc32(key.encode())]
        return 1 + by * float(np.random.default_rng(entropy).uniform(-1, 1))

    def factor(name: str) -> float:
        kind, _, rest = name.partition("/")
        if each == "number":
            return factor_of(name)
        if kind == "links":
            found = factor_of(rest.partition("/")[0])
            return 1 / found if name.endswith("/bandwidth") else found
        device = next((d for d in truth.cluster.names if d in name.split("/")), None)
        found = factor_of(device) if device else 1.0
        return 1 / found if name.endswith("/bandwidth") else found

    return rescaled(truth, factor)


def simulated_worlds(options: argparse.Namespace) -> list[World]:
    """Return worlds of families, ratios and wirings; each depends on its place and the seed."""
    families = [*options.families, *([TREES] if options.trees else [])]
    worlds = []
    grid = itertools.product(families, options.ratios, WIRINGS, range(options.worlds))
    for family, ratio, wiring, number in grid:
        place = [zlib.crc32(family.encode()), round(1000 * ratio), WIRINGS.index(wiring), number]
        rng = np.random.default_rng([options.seed, *place])
        speeds = ((1.0, 3.0, 8.0), (1.0, 2.0), (1.0, 1.0, 4.0, 4.0))[int(rng.integers(3))]
        machine = Machine(
            speeds=speeds, wiring=wiring, ratio=ratio, host_mode="processes", staging=True
        )
        if family == TREES:
            graphs = tree_graphs(options.trees, rng)
        else:
            setting = Setting(family=family, n_tasks=options.tasks, machine=machine)
            count = HELD_OUT + VALIDATION + TRAINING
            graphs = [draw_graph(setting, rng) for _ in range(count)]
        truth = draw_profile(graphs, machine, rng)
        work = [GraphWorkload(graph) for graph in graphs]
        parts = np.split(np.arange(len(work)), [HELD_OUT, HELD_OUT + VALIDATION])
        held_out, validation, training = ([work[at] for at in part] for part in parts)
        name = f"{family} {ratio:g} {wiring} {number}"
        worlds.append(World(name, truth, training, validation, held_out))
    return worlds


def tree_graphs(file: Path, rng: np.random.Generator) -> list[Any]:
    """Return the graphs of distinct parse trees of up to 120 tasks, in random order."""
    model = parse_model("treelstm", 0)
    graphs = {item.graph.digest: item.graph for item in load_inputs(model, file, 0, 0)}
    small = [graph for graph in graphs.values() if len(graph) <= 120]
    count = min(len(small), HELD_OUT + VALIDATION + TRAINING)
    return [small[at] for at in rng.permutation(len(small))[:count]]


def logs_of(backend: Backend, work: Sequence[Workload], sides: Sequence[tuple[Profile, Scheduler]],
            repeats: int = 1) -> Logs:  # fmt: skip
    """Return (sides, inputs): log of the lower quartile of the makespans; the sides take turns."""
    rng = np.random.default_rng(0)
    found = np.empty((len(sides), len(work), repeats))
    known = [Believing(backend, profile) for profile, _ in sides]
    for column, workload in enumerate(work):
        for repeat in range(repeats):
            for row in rng.permutation(len(sides)).tolist():
                outcome = run(known[row], workload, sides[row][1])
                found[row, column, repeat] = outcome.trace.makespan_ns
    return np.log(np.quantile(found, 0.25, axis=2))


def tuned_sides(
    world: World, machine: Backend, wrong: Profile, start: Policy, options: argparse.Namespace,
) -> list[tuple[Profile, Scheduler]]:  # fmt: skip
    """Fine-tune; return what the truth, the error, the cost table and all of it decide by."""
    config = FinetuneConfig(
        episodes=options.episodes,
        correcting=min(FinetuneConfig().correcting, options.episodes),
        rehearsals=options.rehearsals,
        seed=options.seed,
    )
    tuned = finetune(
        Believing(machine, wrong),
        world.training,
        start,
        Correction(wrong),
        config,
        validation=world.validation,
    )
    before, after = PolicyScheduler(start), PolicyScheduler(tuned.policy)
    return [
        *((world.truth, before), (wrong, before)),
        *((tuned.profile, before), (tuned.profile, after)),
    ]


def share_of(costs: Logs, left: Logs) -> float:
    """Return the recovered share of what the error costs, over all."""
    return 1 - float(left.sum() / costs.sum())


def interval(measure: Callable[[npt.NDArray[np.int64]], float], count: int) -> tuple[float, float]:
    """Return the bootstrapped 95 % interval of a measure of `count` units."""
    picks = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    low, high = np.percentile([measure(pick) for pick in picks], [2.5, 97.5])
    return float(low), float(high)


def summary_of(logs: Logs) -> dict[str, Any]:
    """Return what the error costs and what is recovered, of (4, units) mean logs."""
    good, bad, table, everything = logs
    found: dict[str, Any] = {"cost": float((bad - good).mean())}
    found["cost_interval"] = interval(lambda pick: float((bad - good)[pick].mean()), len(good))
    for name, after in (("cost_table", table), ("all", everything)):
        found[name] = share_of(bad - good, after - good)
        found[f"{name}_interval"] = interval(
            lambda pick, after=after: share_of((bad - good)[pick], (after - good)[pick]), len(good)
        )
    return found


def print_summary(title: str, found: dict[str, Any]) -> None:
    low, high = found["cost_interval"]
    print(f"{title}: the error costs {found['cost']:.2%} ({low:.2%}–{high:.2%})")
    for name in ("cost_table", "all"):
        low, high = found[f"{name}_interval"]
        print(f"  recovered, {name.replace('_', ' ')}: {found[name]:.0%} ({low:.0%}–{high:.0%})")


def simulated(options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune on simulators that hide the truth."""
    start = load_checkpoint(options.policy or SHIPPED).policy
    rows, means = [], []
    for number, world in enumerate(simulated_worlds(options)):
        begun = time.perf_counter()
        wrong = wrong_profile(world.truth, options.seed + number, options.by, options.each)
        noise = Noise(sigma=((1, options.noise),)) if options.noise else None
        machine = SimBackend(replace(world.truth, noise=noise))
        sides = tuned_sides(world, machine, wrong, start, options)
        logs = logs_of(SimBackend(world.truth), world.held_out, sides).mean(axis=1)
        means.append(logs)
        costs = dict(
            zip(("error", "cost_table", "all"), (logs[1:] - logs[0]).tolist(), strict=True)
        )
        rows.append({"world": world.name, **costs, "seconds": time.perf_counter() - begun})
        print(
            f"{world.name:32}" + "".join(f"  {name} {cost:+7.2%}" for name, cost in costs.items()),
            flush=True,
        )
    found = summary_of(np.array(means).T)
    print_summary(f"{len(rows)} worlds", found)
    return {"worlds": rows, "summary": found}


def costly_errors(world: World, start: Policy, options: argparse.Namespace) -> list[Profile]:
    """Return the wrong profiles, of many, that cost most in a simulator of the calibration.

    With two devices most errors change no decision, and there is nothing to recover.
    """
    simulator, scheduler = SimBackend(world.truth), PolicyScheduler(start)
    wrong = [
        wrong_profile(world.truth, options.seed + number, options.by, options.each)
        for number in range(options.drawn)
    ]
    sides: list[tuple[Profile, Scheduler]] = [(profile, scheduler) for profile in wrong]
    costs = logs_of(simulator, world.training[:VALIDATION], sides).mean(axis=1)
    return [wrong[at] for at in np.argsort(-costs)[: options.errors]]


def real(options: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune on this machine's devices, whose calibration is made wrong."""
    from dynpartition.calibration.measure import calibrate
    from dynpartition.hardware import HardwareBackend

    start = load_checkpoint(options.policy or SHIPPED).policy
    devices, rows, all_logs = parse_devices(options.hardware), [], []
    for text in options.models:
        model = parse_model(text, options.seed)
        trees = options.trees if model.name == "treelstm" else None
        inputs = load_inputs(model, trees, options.inputs, options.seed)
        parts = [select(inputs, part) for part in ("train", "validation", "test")]
        truth = calibrate(
            model, devices, parts[0], seconds=options.calibrate_seconds, clock=options.clock
        )
        world = World(text, truth, parts[0], parts[1][:VALIDATION], parts[2][: options.cases])
        with HardwareBackend(model, devices, profile=truth, clock=options.clock) as machine:
            for workload in world.training[:WARM_RUNS]:
                run(machine, workload, PolicyScheduler(start))
            for error, wrong in enumerate(costly_errors(world, start, options)):
                sides = tuned_sides(world, machine, wrong, start, options)
                logs = logs_of(machine, world.held_out, sides, options.repeats)
                found = summary_of(logs)
                print_summary(f"{text}, error {error}", found)
                rows.append({"model": text, "error": error, **found})
                all_logs.append(logs)
    found = summary_of(np.concatenate(all_logs, axis=1))
    print_summary(f"{len(rows)} errors", found)
    return {"devices": options.hardware, "clock": options.clock, "errors": rows, "summary": found}


def parse() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    def settings(text: str) -> list[str]:
        return text.split(";")

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    families = ["in-tree", "tree-with-outputs", "layered", "fork-join", "random-dag", "grid"]
    parser.add_argument("--families", type=words, default=families)
    parser.add_argument("--ratios", type=lambda t: [float(w) for w in words(t)], default=[0.3, 3.0])
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--worlds", type=int, default=1, help="per family, ratio and wiring")
    parser.add_argument("--trees", type=Path, help="bracketed parse trees: a family more")
    parser.add_argument("--by", type=float, default=0.3, help="largest relative error")
    parser.add_argument("--each", choices=("device", "number"), default="device")
    parser.add_argument("--noise", type=float, default=0.0, help="σ of the hidden simulator's runs")
    parser.add_argument("--episodes", type=int, default=200, help="runs on the machine")
    parser.add_argument("--rehearsals", type=int, default=FinetuneConfig().rehearsals)
    parser.add_argument("--policy", type=Path, help="checkpoint to begin with; else the shipped")
    parser.add_argument("--hardware", help="devices of this machine instead of simulators")
    parser.add_argument("--models", type=settings, default=["treelstm:hidden_dim=512"],
                        help="with semicolons between")  # fmt: skip
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--cases", type=int, default=30, help="held-out inputs on devices")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, on devices")
    parser.add_argument("--errors", type=int, default=3, help="wrong profiles per model:")
    parser.add_argument("--drawn", type=int, default=40,
                        help="the most costly of so many, in a simulator")  # fmt: skip
    parser.add_argument("--clock", choices=("wall", "virtual"), default="wall")
    parser.add_argument("--calibrate-seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    found = real(options) if options.hardware else simulated(options)
    if options.json:
        asked = {name: str(value) for name, value in vars(options).items() if name != "json"}
        write_json(options.json, {"asked": asked, **found})


if __name__ == "__main__":
    main()
