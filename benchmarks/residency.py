"""Tokens or weights: what is moved where the weights of a mixture of experts do not fit.

    python benchmarks/residency.py [--model moe:width=256,experts=8] [--share 0.4]
        [--devices cpu:0x0.25,cpu:1] [--link 1GBps+20us] [--clock virtual] [--node 2a100]
        [--cases 18] [--repeats 4] [--seconds 30] [--policy DIR] [--json FILE]

The second device is faster, but holds only a share of the weights, and what it lacks comes over a
slow link. An expert that many tokens go to is worth its load there; one of few tokens is better
left to the host. Inputs differ in how many tokens there are and how evenly they go to experts;
routers reveal that one block at a time, and schedulers are asked then.

Three machines in turn: CPU devices whose link is slowed (calibrated, then measured on other
inputs), the simulator of that profile, and the simulator of a GPU node from datasheets (`--node`;
empty: without; its host computes as `--node-cores` cores would that share cells evenly). Rows:
everything on the capped device, which moves weights; everything on the host; heuristics; the
policy. The time of a run is its makespan and the decision before it; later decisions are in the
makespan of devices, and in no simulated one. An input counts by the median of its runs. Ratios are
geometric means over inputs, with paired bootstrap intervals. *Experts*: of those that an input's
tokens go to in a block, the share computed on the host (tokens stay there, or move there), where
the weights lay, and where they came for it. `best per input` picks by every second run and is told
by the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dynpartition import Outcome, Scheduler, parse_devices, run
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.warming import warm_up
from dynpartition.calibration.datasheets import BATCHES, node_profile
from dynpartition.calibration.measure import calibrate
from dynpartition.calibration.operations import count_operations
from dynpartition.calibration.sheet_costs import Assumptions
from dynpartition.calibration.sheets import NODES
from dynpartition.cli.options import parse_model
from dynpartition.contract import Backend
from dynpartition.formats import write_json
from dynpartition.hardware import HardwareBackend
from dynpartition.models import ModelInput
from dynpartition.profile import Curve, Profile, restricted
from dynpartition.sim import SimBackend

Times = npt.NDArray[np.float64]

RESAMPLES = 4000
TOKENS = (16, 48, 96)
LEANINGS = (0.0, 0.4, 1.0)
"""Length of the direction that all tokens of an input share, in deviations of one token: with 0
they go to all experts alike, with 1 mostly to few."""
BEST = "best per input"


class Placed(NamedTuple):
    """Where the experts of one run were computed, as numbers of experts, and its loads."""

    on_host: int
    there: int
    loaded: int


def inputs_of(model: Any, count: int, seed: int) -> list[ModelInput]:
    """Return inputs of all numbers of tokens and leanings, in random order."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 12]))
    width, found = model.config.width, []
    kinds = [(tokens, leaning) for tokens in TOKENS for leaning in LEANINGS]
    for number in range(count):
        n_tokens, leaning = kinds[number % len(kinds)]
        tokens = leaning * rng.standard_normal(width) + rng.standard_normal((n_tokens, width))
        found.append(ModelInput(model, torch.from_numpy(tokens).float()))
    return [found[at] for at in rng.permutation(count).tolist()]


def weights_bytes(model: Any) -> int:
    return sum(cell.param_bytes for cell in model.graph_cells)


def schedulers_for(host: str, capped: str, options: argparse.Namespace) -> dict[str, Scheduler]:
    """Return what is compared, by the names of the rows."""
    names = ("heft", "best-of-heuristics")
    found = {
        "always move weights": make_scheduler(f"single:{capped}"),
        "always on the host": make_scheduler(f"single:{host}"),
    }
    found |= {name: make_scheduler(name) for name in names}
    search = make_scheduler(
        "policy-search", policy=options.policy, budget_us=options.budget_us, evaluations=10**6
    )
    return found | {
        "policy": make_scheduler("policy", policy=options.policy),
        "policy-search": search,
    }


def placed(outcome: Outcome, host: str) -> Placed:
    """Return where an input's experts were computed; one on both devices counts on both."""
    homes: dict[str, set[str]] = {}
    for launch in outcome.plan.launches:
        cell = outcome.graph.cell_name(launch.tasks[0])
        if "expert" in cell:
            homes.setdefault(cell, set()).add(launch.device)
    came = {load.cell for load in outcome.trace.loads}
    on_host = sum(host in found for found in homes.values())
    away = [cell for cell, found in homes.items() if found - {host}]
    loaded = sum(cell in came for cell in away)
    return Placed(on_host, len(away) - loaded, loaded)


def measured(
    backend: Backend, work: Sequence[ModelInput], schedulers: dict[str, Scheduler], repeats: int
) -> tuple[Times, Times, npt.NDArray[np.int64]]:
    """Return (S, N, R) ms, decisions included, those of decisions, and `Placed` (S, N, 3)."""
    for scheduler in schedulers.values():
        warm_up(scheduler, backend.profile)
    rng, players = np.random.default_rng(0), list(schedulers.values())
    host = backend.profile.cluster.host
    times, decisions = np.empty((2, len(players), len(work), repeats))
    where = np.zeros((len(players), len(work), 3), dtype=np.int64)
    for repeat in range(-1, repeats):  # the first round warms up, and is not kept
        for column in rng.permutation(len(work)).tolist():
            for row in rng.permutation(len(players)).tolist():
                outcome = run(backend, work[column], players[row])
                ns = outcome.trace.makespan_ns + outcome.opening_decision_ns
                times[row, column, repeat] = ns / 1e6
                decisions[row, column, repeat] = outcome.decision_ns / 1e6
                where[row, column] = placed(outcome, host)
    return times, decisions, where


def ratio(ours: Times, theirs: Times) -> dict[str, float]:
    """Return the geometric mean of ours / theirs over inputs, with its paired interval."""
    logs = np.log(ours / theirs)
    picks = np.random.default_rng(0).integers(len(logs), size=(RESAMPLES, len(logs)))
    low, high = np.exp(np.percentile(logs[picks].mean(axis=1), [2.5, 97.5]))
    return {"ratio": float(np.exp(logs.mean())), "low": float(low), "high": float(high)}


def judged(
    backend: Backend, work: Sequence[ModelInput], schedulers: dict[str, Scheduler], repeats: int
) -> list[dict[str, Any]]:
    """Return a row per scheduler, and one for the best of them on each input."""
    times, decisions, where = measured(backend, work, schedulers, repeats)
    names = list(schedulers)
    choosing = np.median(times[..., ::2], axis=2)
    telling = np.median(times[..., 1::2] if repeats > 1 else times, axis=2)
    weights, host = telling[0], telling[1]
    rows = [
        entry(name, telling[at], (weights, host), float(np.median(decisions[at])), where[at])
        for at, name in enumerate(names)
    ]
    first = choosing.argmin(axis=0)
    each = np.arange(len(work))
    rows.append(
        entry(BEST, telling[first, each], (weights, host), None, where[first, each])
        | {"wins": {name: int((first == at).sum()) for at, name in enumerate(names)}}
    )
    return rows


def entry(
    name: str,
    ms: Times,
    rivals: tuple[Times, Times],
    decision_ms: float | None,
    where: npt.NDArray[np.int64],
) -> dict[str, Any]:
    shares = where.sum(axis=0) / max(1, int(where.sum()))
    return {
        "row": name,
        "mean_ms": float(ms.mean()),
        "decision_ms": decision_ms,
        "to_moving_weights": ratio(ms, rivals[0]),
        "to_the_host": ratio(ms, rivals[1]),
        "experts": dict(zip(("on_host", "there", "loaded"), shares.tolist(), strict=True)),
        "inputs_that_mix": float(((where[:, 0] > 0) & (where[:, 1:].sum(axis=1) > 0)).mean()),
    }


def print_rows(title: str, rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{title}\n")
    print(
        "| Row | mean, ms | decisions, ms | / always move weights | / always on the host"
        " | experts on the host | there | loaded |\n|---|---|---|---|---|---|---|---|"
    )
    for row in rows:
        cells = [row["row"], f"{row['mean_ms']:.2f}"]
        cells.append("" if row["decision_ms"] is None else f"{row['decision_ms']:.2f}")
        for key in ("to_moving_weights", "to_the_host"):
            found = row[key]
            cells.append(f"{found['ratio']:.3f} ({found['low']:.3f}–{found['high']:.3f})")
        cells += [f"{share:.0%}" for share in row["experts"].values()]
        print("| " + " | ".join(cells) + " |")


def capped_node(model: Any, options: argparse.Namespace) -> Profile:
    """Return the host and the first GPU of a node from datasheets, its memory capped."""
    samples = [item.sample for item in inputs_of(model, 9, options.seed)]
    operations = count_operations(model, samples, BATCHES)
    node = node_profile(NODES[options.node], operations, Assumptions())
    whole = restricted(node, ["cpu:0", "cuda:0"])
    cpu, gpu = whole.cluster.devices
    gpu = replace(gpu, memory_bytes=int(options.share * weights_bytes(model)))
    cells = {
        cell: curves | {"cpu:0": shared_out(curves["cpu:0"], options.node_cores)}
        for cell, curves in whole.cells.items()
    }
    return replace(whole, cluster=replace(whole.cluster, devices=(cpu, gpu)), cells=cells)


def shared_out(curve: Curve, n_cores: int) -> Curve:
    return Curve(curve.batch, tuple(-(-ns // n_cores) for ns in curve.duration_ns))


def capped_devices(text: str, link: str, cap_bytes: int) -> str:
    """Return a device list whose second device has a cap and, unless empty, a slow link."""
    host, second = text.split(",")
    return f"{host},{second}@{cap_bytes}B" + (f"~{link}" if link else "")


def on_cpus(options: argparse.Namespace, found: dict[str, Any]) -> None:
    model = parse_model(options.model, options.seed)
    devices = capped_devices(
        options.devices, options.link, int(options.share * weights_bytes(model))
    )
    profile = calibrate(
        model,
        parse_devices(devices),
        inputs_of(model, 36, options.seed),
        seconds=options.seconds,
        clock=options.clock,
    )
    work = inputs_of(model, options.cases, options.seed + 1000)
    rivals = schedulers_for(*profile.cluster.names, options)
    with HardwareBackend(
        model, profile.cluster.devices, profile=profile, clock=options.clock
    ) as backend:
        rows = judged(backend, work, rivals, options.repeats)
    title = f"{options.model} on {devices}, {options.clock} clock, {len(work)} held-out inputs"
    print(f"held-out error of the profile: {profile.provenance.get('held_out_error')}")
    print_rows(title, rows)
    found["devices"] = {
        "title": title,
        "rows": rows,
        "held_out_error": profile.provenance.get("held_out_error"),
    }
    simulated = judged(SimBackend(profile), work, rivals, 1)
    print_rows("The same in the simulator of the calibrated profile", simulated)
    found["simulator"] = {"title": title, "rows": simulated}


def on_node(options: argparse.Namespace, found: dict[str, Any]) -> None:
    model = parse_model(options.node_model, options.seed)
    profile = capped_node(model, options)
    work = inputs_of(model, options.cases, options.seed + 1000)
    rivals = schedulers_for(*profile.cluster.names, options)
    rows = judged(SimBackend(profile), work, rivals, 1)
    host = f"{options.node_cores} cores of datasheet-{options.node} with one GPU"
    title = f"{options.node_model} on {host}, simulated, {len(work)} inputs"
    print_rows(title, rows)
    found["node"] = {"title": title, "rows": rows}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="moe:width=256,experts=8")
    parser.add_argument("--share", type=float, default=0.4, help="of the weights, for everything")
    parser.add_argument("--devices", default="cpu:0x0.25,cpu:1", help="host, capped; empty: none")
    parser.add_argument("--link", default="1GBps+20us", help="empty: as fast as it goes")
    parser.add_argument("--clock", choices=("wall", "virtual"), default="virtual")
    parser.add_argument("--node", default="2a100", help="of calibration/sheets.py; empty: none")
    parser.add_argument("--node-cores", type=int, default=16, help="of the node's host")
    parser.add_argument("--node-model", default="moe:width=512,heads=8,experts=8")
    parser.add_argument("--cases", type=int, default=18)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--budget-us", type=float, default=1000.0, help="of policy-search")
    parser.add_argument("--seconds", type=float, default=30.0, help="of calibration")
    parser.add_argument("--policy", type=Path, help="checkpoint; else the shipped one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    found: dict[str, Any] = {}
    if options.devices:
        on_cpus(options, found)
    if options.node:
        on_node(options, found)
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
