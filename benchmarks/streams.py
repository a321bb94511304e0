"""How schedulers do with several requests in flight, each decided when it arrives.

    python benchmarks/streams.py [--worlds 2] [--families in-tree,moe] [--ratios 0.1,1,10]
        [--loads 0.5,1,2] [--requests 16] [--tasks 16] [--schedulers policy,heft]
        [--batch-gain 0.8] [--reveals] [--seed 0] [--json FILE]

A world is a machine with three devices of speeds 1:3:8 on one bus and requests of one family, of
other shapes each; they arrive at random times (a Poisson process). At load 1 they come as fast as
the best single device could just answer them one after the other. Schedulers are asked at each
arrival, know nothing of later ones, and cannot change what is planned. With `--reveals` routers
hide what they decide until they have run.

Latency, from arrival to answer, is the mean over the requests of a world. It is compared with
another scheduler's in the same world: below 1 is faster. Tables show geometric means over worlds,
with intervals that are bootstrapped over worlds. Deciding takes no simulated time; what it takes
here is in the last column.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dynpartition import Cell, GraphWorkload, Profile, Scheduler, TaskGraph, run
from dynpartition.agent.families import FAMILIES, Setting, draw_graph
from dynpartition.agent.machines import Machine, draw_profile
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.warming import warm_up
from dynpartition.formats import write_json
from dynpartition.sim import SimBackend
from dynpartition.streams import RequestStream, latencies_ns, open_stream, poisson_arrivals

Numbers = npt.NDArray[np.float64]

USUAL = ("policy", "best-single", "heft", "lookahead", "best-of-heuristics")
RESAMPLES = 4000
AXES = ("family", "ratio", "load")


@dataclass(frozen=True)
class Case:
    """One world, and what it was drawn from."""

    family: str
    ratio: float
    load: float
    stream: RequestStream
    profile: Profile

    def of(self, axis: str) -> str:
        """Return where the world stands on an axis of the table."""
        value = getattr(self, axis)
        return value if isinstance(value, str) else f"{value:g}"


def drawn(options: argparse.Namespace) -> list[Case]:
    """Return the worlds of the grid; each depends on its place there and on the seed alone."""
    grid = itertools.product(options.families, options.ratios, range(options.worlds))
    cases = []
    for family, ratio, number in grid:
        entropy = [options.seed, [*FAMILIES].index(family), round(1000 * ratio), number]
        rng = np.random.default_rng(np.random.SeedSequence(entropy))
        machine = Machine(
            wiring="bus",
            ratio=ratio,
            batch_gain=options.batch_gain,
            cpu_batch_gain=options.batch_gain / 2,
        )
        setting = Setting(
            family=family, n_tasks=options.tasks, machine=machine, reveals=options.reveals
        )
        drawn_graphs = [draw_graph(setting, rng, f"{n}") for n in range(options.requests)]
        graphs = of_one_model(drawn_graphs)
        profile = draw_profile(graphs, machine, rng)
        alone_ns = answer_ns(graphs, profile)
        seed = int(rng.integers(1 << 31))
        for load in options.loads:
            rate_per_s = load * 1e9 / alone_ns
            arrivals_ns = poisson_arrivals(len(graphs), rate_per_s=rate_per_s, seed=seed)
            cases.append(Case(family, ratio, load, open_stream(graphs, arrivals_ns), profile))
    return cases


def of_one_model(graphs: Sequence[TaskGraph]) -> list[TaskGraph]:
    """Return the graphs with cells and outputs as large as where they are first called."""
    cells: dict[str, Cell] = {}
    sizes: dict[str, int] = {}
    changed = []
    for graph in graphs:
        own = [cells.setdefault(cell.name, cell) for cell in graph.cells]
        tasks = [
            replace(task, output_bytes=sizes.setdefault(task.cell, task.output_bytes))
            for task in graph.tasks()
        ]
        changed.append(TaskGraph.from_tasks(graph.name, own, tasks))
    return changed


def answer_ns(graphs: Sequence[TaskGraph], profile: Profile) -> float:
    """Return how long the best single device takes for a request alone, on average."""
    backend, scheduler = SimBackend(profile), make_scheduler("best-single")
    runs = [run(backend, GraphWorkload(graph), scheduler) for graph in graphs]
    return float(np.mean([outcome.trace.makespan_ns for outcome in runs]))


def measure(cases: Sequence[Case], schedulers: Sequence[Scheduler]) -> tuple[Numbers, Numbers]:
    """Return (S, W) mean latencies in ns, and decision times per request in ms."""
    latency, decision = np.empty((2, len(schedulers), len(cases)))
    for column, case in enumerate(cases):
        backend, host = SimBackend(case.profile), case.profile.cluster.host
        for row, scheduler in enumerate(schedulers):
            warm_up(scheduler, case.profile)
            outcome = run(backend, case.stream, scheduler)
            found = latencies_ns(outcome.graph, outcome.trace, host)
            latency[row, column] = np.mean(list(found.values()))
            decision[row, column] = outcome.decision_ns / 1e6 / len(found)
    return latency, decision


def rows_of(
    cases: Sequence[Case], names: Sequence[str], latency: Numbers, decision: Numbers, baseline: str
) -> list[dict[str, object]]:
    """Return a row per scheduler: latencies divided by the baseline's in the same world."""
    picks = np.random.default_rng(0).integers(len(cases), size=(RESAMPLES, len(cases)))
    logs = np.log(latency / latency[names.index(baseline)])
    rows: list[dict[str, object]] = []
    for row, name in enumerate(names):
        low, high = np.exp(np.percentile(logs[row][picks].mean(axis=1), [2.5, 97.5])).tolist()
        by = {
            axis: {
                value: float(np.exp(logs[row][[case.of(axis) == value for case in cases]].mean()))
                for value in dict.fromkeys(case.of(axis) for case in cases)
            }
            for axis in AXES
        }
        rows.append(
            {
                "scheduler": name,
                "latency": float(np.exp(logs[row].mean())),
                "low": low,
                "high": high,
                "worst": float(np.exp(logs[row].max())),
                "decision_ms": float(decision[row].mean()),
                "by": by,
            }
        )
    return rows


def print_rows(rows: Sequence[dict[str, object]], baseline: str) -> None:
    width = max(len(str(row["scheduler"])) for row in rows)
    print(f"{'scheduler':{width}}  latency       95 %    worst  decision   ({baseline} = 1)")
    for row in rows:
        print(
            f"{row['scheduler']:{width}}  {row['latency']:7.3f}  {row['low']:.3f}–{row['high']:.3f}"
            f"  {row['worst']:5.2f}  {row['decision_ms']:5.2f} ms"
        )
    for axis in AXES:
        values = list(rows[0]["by"][axis])  # type: ignore[index]
        print(f"\n{axis:{width}}  " + "  ".join(f"{value[:18]:>18}" for value in values))
        for row in rows:
            ratios = row["by"][axis]  # type: ignore[index]
            print(f"{row['scheduler']:{width}}  " + "  ".join(f"{ratios[v]:18.3f}" for v in values))


def parse() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    def floats(text: str) -> list[float]:
        return [float(word) for word in words(text)]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    families = ["in-tree", "tree-with-outputs", "layered", "moe"]
    parser.add_argument("--families", type=words, default=families)
    parser.add_argument("--ratios", type=floats, default=[0.1, 1.0, 10.0])
    parser.add_argument("--loads", type=floats, default=[0.5, 1.0, 2.0])
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tasks", type=int, default=16, help="per request")
    parser.add_argument("--worlds", type=int, default=2, help="per place of the grid")
    parser.add_argument("--schedulers", type=words, default=list(USUAL))
    parser.add_argument("--baseline", default="best-of-heuristics")
    parser.add_argument("--batch-gain", type=float, default=0.0, help="of GPUs; half of it of CPUs")
    parser.add_argument("--reveals", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    names = list(dict.fromkeys([*options.schedulers, options.baseline]))
    cases = drawn(options)
    schedulers = [make_scheduler(name, seed=options.seed) for name in names]
    latency, decision = measure(cases, schedulers)
    rows = rows_of(cases, names, latency, decision, options.baseline)
    print(f"{len(cases)} worlds, {options.requests} requests of {options.tasks} tasks\n")
    print_rows(rows, options.baseline)
    if options.json:
        write_json(options.json, {"worlds": len(cases), "rows": rows})


if __name__ == "__main__":
    main()
