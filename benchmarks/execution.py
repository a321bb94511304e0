"""How fast does a TreeLSTM run parse trees? Recursion, asyncio, level batching and dynpartition.

    python benchmarks/execution.py [--trees FILE] [--hidden 150] [--inputs 150] [--rounds 9]
                                   [--in-flight 1,6,25] [--engines recursion,asyncio,…]
                                   [--gpu DEVICE] [--devices 2] [--json FILE] [--quick]

On one core with one PyTorch thread, engines run the same trees, so many in flight at a time, and
give an output at every node. First every answer of every engine is compared with the model's own.
Then the engines take turns, in random order, at all trees; the table shows wall time per tree:
median over rounds, and the lowest and highest. The time runs from inputs to answers: whatever is
planned per tree is in it; weights, word vectors and event loops are there before. Ratios are
medians of the rounds' ratios.

`recursion` and `asyncio` run node by node with a linear map per gate and child, as the DynPartition
paper had it; `level-batched` is what an expert writes by hand for this one model. `dynpartition`
plans every batch anew; `dynpartition seen` keeps plans, and has seen the shape of every batch.

With `--devices 2` it measures instead what two CPU devices gain over one at this work
(`engines/two_devices.py`), beside what two processes that share nothing gain
(`engines/two_processes.py`).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from engines.level_batched import LevelBatched
from engines.two_processes import SPLITS, ProbeRow, probe
from engines.unfused import AsyncioTasks, Recursion
from torch import Tensor

from dynpartition import Profile
from dynpartition.cli.options import load_inputs
from dynpartition.models import ModelInput, ParseTree, build_model
from dynpartition.models.treelstm import TreeLSTM

if TYPE_CHECKING:  # the probe's processes import this script too, and need no devices
    from engines.two_devices import SplitRow

ASYNCIO_RATIO_MAX = 1.7
"""An asyncio baseline that is slower than this against recursion would be a straw man."""
BASES = ("recursion", "level-batched")
"""Engines that others are compared with."""
PROBE_HIDDEN = (150, 512, 1024)
PROBE_TREES = 25
PROBED_AS = {"split-left-right": SPLITS[0], "split-requests": SPLITS[1]}
"""Scheduler of two devices → how the probe divides the same work."""
S_PROBE_MIN, GAIN_KEPT_MIN = 1.2, 0.75
"""Where two processes gain less, there is nothing to keep."""

Engine = Callable[[Sequence[ModelInput]], list[Tensor]]
"""Inputs that are in flight together → their answers."""
Row = dict[str, Any]


def main() -> None:
    asked = parse_arguments()
    model = build_model("treelstm", {"hidden_dim": asked.hidden})
    assert isinstance(model, TreeLSTM)
    inputs = load_inputs(model, asked.trees, asked.inputs, 0)[: asked.inputs]
    content: dict[str, Any] = {
        "trees": asked.trees.name if asked.trees else "generated",
        "inputs": len(inputs),
    }
    if asked.devices == 2:
        trees = [each.sample for each in inputs[:PROBE_TREES]]
        probed, split = [], []
        for hidden in asked.probe_hidden:  # next to each other: the machine is shared
            probed += probe(trees, (hidden,), asked.rounds)
            split += split_on_two_devices(trees, hidden, asked.rounds)
        print_probe(probed, len(trees))
        print_split(split, probed)
        content |= {"two_processes": [asdict(row) for row in probed]}
        content |= {"two_devices": [asdict(row) for row in split]}
    else:
        with undisturbed():
            rows = measure(model, inputs, asked)
        print_table(rows, model, inputs)
        content |= {"hidden": asked.hidden, "rows": rows}
    if asked.json:
        asked.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", type=Path, help="bracketed parse trees; else generated")
    parser.add_argument("--inputs", type=int, default=150, help="how many trees at most")
    parser.add_argument("--hidden", type=int, default=150)
    parser.add_argument("--in-flight", type=numbers, default=(1, 6, 25))
    parser.add_argument("--engines", type=names, default=tuple(ENGINES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--devices", type=int, choices=(1, 2), default=1)
    parser.add_argument("--quick", action="store_true", help="one round of few trees")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--gpu", help="also run dynpartition on this device, cuda:0 for instance")
    asked = parser.parse_args()
    if asked.gpu:
        name = f"dynpartition {asked.gpu}"
        ENGINES[name] = partial(dynpartition_runner, device=asked.gpu)
        asked.engines = (*asked.engines, name)
    asked.probe_hidden = PROBE_HIDDEN
    if asked.quick:
        asked.inputs, asked.rounds = min(asked.inputs, 25), 1
        asked.probe_hidden = PROBE_HIDDEN[:1]
    unknown = set(asked.engines) - ENGINES.keys()
    if unknown:
        parser.error(f"no engine {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}")
    return asked


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep this process on one core, with one PyTorch thread, inside the block."""
    threads = torch.get_num_threads()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    torch.set_num_threads(1)
    try:
        if allowed:
            os.sched_setaffinity(0, {max(allowed)})  # the last one: the first has interrupts
        yield
    finally:
        torch.set_num_threads(threads)
        if allowed:
            os.sched_setaffinity(0, allowed)


# Engines


@contextmanager
def recursion_runner(model: TreeLSTM, in_flight: int) -> Iterator[Engine]:
    """Plain recursion, tree after tree: nothing is gained from more in flight."""
    recursion = Recursion(model)
    yield lambda inputs: recursion.run([each.sample for each in inputs])


@contextmanager
def asyncio_runner(model: TreeLSTM, in_flight: int) -> Iterator[Engine]:
    """A task per node; all trees in flight are gathered in one event loop."""
    tasks = AsyncioTasks(model)
    try:
        yield lambda inputs: tasks.run([each.sample for each in inputs])
    finally:
        tasks.close()


@contextmanager
def level_batched_runner(model: TreeLSTM, in_flight: int) -> Iterator[Engine]:
    """Level batching by hand."""
    batched = LevelBatched(model)
    yield lambda inputs: batched.run([each.sample for each in inputs])


@contextmanager
def dynpartition_runner(
    model: TreeLSTM, in_flight: int, device: str = "cpu:0", seen: bool = False
) -> Iterator[Engine]:
    """The inputs in flight as one workload of a backend, everything on one device.

    `seen`: plans are kept, so that all rounds meet shapes seen before; else none are.
    """
    # Imported here because the probe's processes import this script too, and need no devices.
    from dynpartition.agent.registry import make_scheduler
    from dynpartition.hardware import HardwareBackend
    from dynpartition.models import merge_inputs

    scheduler = make_scheduler(f"single:{device}+merge{'+cache' if seen else ''}")
    kept = 1000 if seen else 0
    profile = merging_profile(model, "cpu:0" if device == "cpu:0" else f"cpu:0,{device}")
    devices = profile.cluster.devices
    with HardwareBackend(model, devices, profile=profile, plans_kept=kept) as backend:

        def answers(inputs: Sequence[ModelInput]) -> list[Tensor]:
            with backend.open(merge_inputs(inputs)) as session:
                while session.advance(scheduler.schedule(session.graph, profile, session.plan)):
                    pass
                return session.answers()

        yield answers


def merging_profile(model: TreeLSTM, devices: str) -> Profile:
    """Return a profile that says no more than that a launch of many tasks is worth it."""
    from dynpartition import parse_devices
    from dynpartition.hardware.devices import uncalibrated_profile
    from dynpartition.profile import Curve

    blank = uncalibrated_profile(parse_devices(devices))
    curve = Curve((1, 16), (50_000, 200_000))
    costs = {cell: dict.fromkeys(blank.cluster.names, curve) for cell in model.cells}
    return Profile(blank.cluster, costs, blank.dispatch)


def split_on_two_devices(trees: Sequence[ParseTree], hidden: int, rounds: int) -> list[SplitRow]:
    """Return what two devices gain over one at trees that are in flight together."""
    from engines.two_devices import measure_split

    model = build_model("treelstm", {"hidden_dim": hidden})
    profiles = [merging_profile(model, devices) for devices in ("cpu:0", "cpu:0,cpu:1")]
    return [
        measure_split(trees, hidden, rounds, profiles, split, seen)
        for split in PROBED_AS
        for seen in (False, True)
    ]


ENGINES: dict[str, Callable[[TreeLSTM, int], AbstractContextManager[Engine]]] = {
    "recursion": recursion_runner,
    "asyncio": asyncio_runner,
    "level-batched": level_batched_runner,
    "dynpartition": dynpartition_runner,
    "dynpartition seen": partial(dynpartition_runner, seen=True),
}


# Agreement and time


def measure(model: TreeLSTM, inputs: list[ModelInput], asked: argparse.Namespace) -> list[Row]:
    """Return a row per number in flight and engine; comparing the answers warms everything up."""
    expected = [model.eager(each.sample) for each in inputs]
    rows = []
    for in_flight in asked.in_flight:
        batches = in_batches(inputs, in_flight)
        with ExitStack() as stack:
            engines = {
                name: stack.enter_context(ENGINES[name](model, in_flight)) for name in asked.engines
            }
            for name, engine in engines.items():
                check_agreement(name, engine, batches, expected)
            rows += summarise(in_flight, take_turns(engines, batches, asked.rounds))
    return rows


def in_batches(inputs: list[ModelInput], size: int) -> list[list[ModelInput]]:
    """Return as many full batches as there are."""
    batches = [inputs[at : at + size] for at in range(0, len(inputs) - size + 1, size)]
    if not batches:
        raise SystemExit(f"{len(inputs)} trees are not enough for {size} in flight; give more")
    return batches


def check_agreement(
    name: str, engine: Engine, batches: list[list[ModelInput]], expected: list[Tensor]
) -> None:
    """Raise AssertionError unless every answer is the model's."""
    answers = [answer for batch in batches for answer in engine(batch)]
    for number, (answer, wanted) in enumerate(zip(answers, expected, strict=False)):
        agrees = torch.allclose(answer, wanted, rtol=1e-4, atol=1e-5)
        assert agrees, f"{name}, {len(batches[0])} in flight: tree {number} has another answer"


def take_turns(
    engines: dict[str, Engine], batches: list[list[ModelInput]], rounds: int
) -> dict[str, list[float]]:
    """Return ms per tree of each engine and round."""
    n_trees = sum(len(batch) for batch in batches)
    times: dict[str, list[float]] = {name: [] for name in engines}
    rng = np.random.default_rng(0)
    # What imports have left is no engine's: without this, an engine that makes many objects has
    # the garbage collector look through all of it in some rounds.
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        for name in rng.permutation(list(engines)).tolist():
            times[name].append(run_ns(engines[name], batches) / n_trees / 1e6)
    gc.unfreeze()
    return times


def run_ns(engine: Engine, batches: list[list[ModelInput]]) -> int:
    before = time.perf_counter_ns()
    for batch in batches:
        engine(batch)
    return time.perf_counter_ns() - before


def summarise(in_flight: int, times: dict[str, list[float]]) -> list[Row]:
    rows = []
    for name, own in times.items():
        ratios = {base: ratio(own, times[base]) for base in BASES if base in times}
        spread = {"median": median(own), "low": min(own), "high": max(own)}
        rows.append({"in_flight": in_flight, "engine": name, "ms_per_tree": spread, "to": ratios})
    return rows


def ratio(own: list[float], base: list[float]) -> float:
    return median(a / b for a, b in zip(own, base, strict=True))


# Tables


def print_table(rows: list[Row], model: TreeLSTM, inputs: list[ModelInput]) -> None:
    nodes = sum(len(each.sample) for each in inputs) / len(inputs)
    sizes = f"input {model.config.input_dim}, hidden {model.config.hidden_dim}"
    print(f"{len(inputs)} trees of {nodes:.1f} nodes, {sizes}, one core. All answers agree.\n")
    heads = "".join(f"{'× ' + base:>16}" for base in BASES)
    print(f"{'in flight':<11}{'ms per tree':<21}{'median':>9}{'low':>9}{'high':>9}{heads}")
    for row in rows:
        took = row["ms_per_tree"]
        ms = "".join(f"{took[key]:>9.3f}" for key in ("median", "low", "high"))
        to = "".join(f"{row['to'].get(base, float('nan')):>16.3f}" for base in BASES)
        print(f"{row['in_flight']:<11}{row['engine']:<21}{ms}{to}")
    against = [row["to"]["recursion"] for row in rows if can_judge(row)]
    if against:
        met = "met" if max(against) <= ASYNCIO_RATIO_MAX else "missed"
        print(f"\nasyncio ÷ recursion, worst: {max(against):.2f}, ≤ {ASYNCIO_RATIO_MAX:g} {met}")


def can_judge(row: Row) -> bool:
    return row["engine"] == "asyncio" and "recursion" in row["to"]


def print_probe(rows: list[ProbeRow], n_trees: int) -> None:
    print(f"Sub-trees of {n_trees} trees in two halves; ms of one process and of two, medians.")
    heads = f"{'S_probe':>9}{'lengths allow':>15}{'off core':>10}"
    print(f"{'hidden':<8}{'halves':<14}{'one':>9}{'two':>9}{heads}")
    for row in rows:
        ms = f"{row.one_process_ms:>9.2f}{row.two_processes_ms:>9.2f}"
        speedups = f"{row.s_probe:>9.2f}{row.s_of_lengths:>15.2f}"
        print(f"{row.hidden:<8}{row.split:<14}{ms}{speedups}{row.off_core_share:>10.0%}")


def print_split(rows: list[SplitRow], probed: list[ProbeRow]) -> None:
    print(
        "\nThe same trees in flight on one CPU device and on two, with planning: cut at their roots"
        " (split-left-right), or half of them on each (split-requests)."
    )
    heads = f"{'S':>9}{'low':>7}{'high':>7}{'S_probe':>9}{'gain kept':>11}{'allowed':>9}"
    print(f"{'hidden':<8}{'split':<18}{'shape':<7}{'launches':>9}{'one':>9}{'two':>9}{heads}")
    for row in rows:
        wanted = row.hidden, PROBED_AS[row.split]
        beside = next(p for p in probed if (p.hidden, p.split) == wanted)
        bound, allowed = beside.s_probe, row.one_device_ms / beside.two_processes_ms
        kept = f"{(row.s - 1) / (bound - 1):>11.2f}" if bound >= S_PROBE_MIN else f"{'-':>11}"
        shape = "seen" if row.seen else "new"
        what = f"{row.hidden:<8}{row.split:<18}{shape:<7}{row.n_launches:>9}"
        ms = f"{row.one_device_ms:>9.2f}{row.two_devices_ms:>9.2f}"
        print(
            f"{what}{ms}{row.s:>9.2f}{row.low:>7.2f}{row.high:>7.2f}{bound:>9.2f}{kept}{allowed:>9.2f}"
        )
    print(
        f"gain kept: (S − 1) / (S_probe − 1), ≥ {GAIN_KEPT_MIN:g} where S_probe ≥ {S_PROBE_MIN:g}"
    )
    print("allowed: one device, which launches both halves together, against the two processes")


if __name__ == "__main__":
    main()
