"""How far every scheduler is from the best known plan, and how long it takes to decide.

    python benchmarks/policy.py [--worlds 2] [--families in-tree,moe] [--sizes 16,32,64]
        [--ratios 0.1,1,10] [--clusters links,bus] [--schedulers heft,local-search@1000us]
        [--batch-gain 0.8] [--memory-share 0.4]
        [--graph G --profile P]... [--references FILE] [--json FILE] [--plot FILE]
    python benchmarks/policy.py --splitting 40 [--schedulers policy] [--seed 0] [--json FILE]
    python benchmarks/policy.py --decisions 16,64,1000,10000 [--schedulers policy,policy+cache]

Worlds are drawn: families of graphs × sizes × communication ratios × wirings of three devices with
speeds 1:3:8. Or they are given as files, the first graph with the first profile and so on. A gap is
the simulated makespan over that of the best plan known, minus one: the best of annealing (4 walks
of 150,000 plans from different starts), of CP-SAT, and of every scheduler in the table. How many of
these are not proven to be optimal is printed. Intervals are bootstrapped over worlds, those of
differences pairwise. `NAME@1000us` gives a scheduler that searches a budget of time,
`NAME@200` one of plans. Decisions are timed on new graph objects, profile tables known.

`--splitting N` counts how often schedulers use one device, and several, where that pays, on N
worlds per place of the grid; `--decisions` says how long decisions take by the number of tasks.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from decisions import decision_us, decisions, print_decisions
from references import Reference, References, Work
from splitting import Share, splitting

from dynpartition import GraphWorkload, Profile, Scheduler, TaskGraph, run
from dynpartition.agent.families import FAMILIES, Setting, draw_world
from dynpartition.agent.machines import WIRINGS, Machine
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.warming import warm_up
from dynpartition.formats import find_profile, read_graph, write_json
from dynpartition.sim import SimBackend

Times = npt.NDArray[np.float64]

USUAL = (
    *("best-single", "heft", "peft", "cpop", "min-min", "lookahead", "best-of-heuristics"),
    *("local-search@200", "local-search@2000", "local-search@1000us", "annealing"),
)
RESAMPLES = 4000


@dataclass(frozen=True)
class Case:
    """One world, and what it was drawn from."""

    family: str
    tasks: int
    ratio: str
    cluster: str
    graph: TaskGraph
    profile: Profile

    def of(self, axis: str) -> str:
        """Return where the world stands on an axis of the table."""
        return str(getattr(self, axis))


def drawn(options: argparse.Namespace) -> list[Case]:
    """Return the worlds of the grid; each depends on its place there and on the seed alone."""
    cases = []
    grid = itertools.product(options.families, options.sizes, options.ratios, options.clusters)
    for family, size, ratio, wiring in grid:
        machine = Machine(
            speeds=options.speeds,
            wiring=wiring,
            ratio=ratio,
            batch_gain=options.batch_gain,
            cpu_batch_gain=options.batch_gain / 2,
            memory_share=options.memory_share,
        )
        for number in range(options.worlds):
            place = [*FAMILIES].index(family), [*WIRINGS].index(wiring)
            entropy = [options.seed, *place, size, round(1000 * ratio), number]
            rng = np.random.default_rng(np.random.SeedSequence(entropy))
            setting = Setting(
                family=family, n_tasks=size, machine=machine, spread=0.3 * (number % 2)
            )
            world = draw_world(setting, rng, f"{family}-{size}-{ratio}-{wiring}-{number}")
            cases.append(Case(family, size, f"{ratio:g}", wiring, *world))
    return cases


def given(graphs: Sequence[Path], profiles: Sequence[str]) -> list[Case]:
    """Return the worlds of files; one profile serves all graphs."""
    if len(profiles) not in (1, len(graphs)):
        raise SystemExit(f"{len(graphs)} graphs need one --profile or as many, not {len(profiles)}")
    names = list(profiles) * (len(graphs) if len(profiles) == 1 else 1)
    cases = []
    for path, name in zip(graphs, names, strict=True):
        graph = read_graph(path)
        cases.append(Case(path.stem, len(graph), "-", name, graph, find_profile(name)))
    return cases


def scheduler_of(text: str, policy: Path | None, seed: int) -> Scheduler:
    """Return the scheduler of NAME, NAME@PLANS or NAME@TIMEus."""
    name, _, budget = text.partition("@")
    budget_us = float(budget.removesuffix("us")) if budget.endswith("us") else None
    evaluations = int(budget) if budget and budget_us is None else None
    return make_scheduler(
        name, seed=seed, policy=policy, budget_us=budget_us, evaluations=evaluations
    )


def measure(
    cases: Sequence[Case], names: Sequence[str], options: argparse.Namespace
) -> tuple[Times, Times]:
    """Return (S, W) makespans in ns and decision times in µs of each scheduler on each world."""
    makespan, decision = np.empty((2, len(names), len(cases)))
    schedulers = [scheduler_of(name, options.policy, options.seed) for name in names]
    for scheduler in schedulers:
        warm_up(scheduler, cases[0].profile)
    for column, case in enumerate(cases):
        backend, workload = SimBackend(case.profile), GraphWorkload(case.graph)
        for row, scheduler in enumerate(schedulers):
            makespan[row, column] = run(backend, workload, scheduler).trace.makespan_ns
            times = decision_us(scheduler, case.graph, case.profile, options.repeats)
            decision[row, column] = np.median(times)
    return makespan, decision


def interval(values: Times, picks: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return the bootstrapped 95 % interval of a mean."""
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def timedof(
    cases: Sequence[Case], names: Sequence[str], gap: Times, decision: Times, baseline: str
) -> list[dict[str, object]]:
    """Return a row per scheduler; gaps in %."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(cases), size=(RESAMPLES, len(cases)))
    against = gap[names.index(baseline)]
    rows = []
    for row, name in enumerate(names):
        low, high = interval(gap[row], picks)
        less, more = interval(gap[row] - against, picks)
        by = {
            axis: {
                value: float(gap[row][[case.of(axis) == value for case in cases]].mean())
                for value in dict.fromkeys(case.of(axis) for case in cases)
            }
            for axis in ("family", "tasks", "ratio", "cluster")
        }
        rows.append(
            {
                "scheduler": name,
                "gap": float(gap[row].mean()),
                "gap_low": low,
                "gap_high": high,
                "against": float((gap[row] - against).mean()),
                "against_low": less,
                "against_high": more,
                "worst": float(gap[row].max()),
                "decision_us": float(np.median(decision[row])),
                "decision_us_p90": float(np.percentile(decision[row], 90)),
                "by": by,
            }
        )
    return rows


def print_rows(rows: Sequence[dict[str, object]], baseline: str) -> None:
    width = max(len(str(row["scheduler"])) for row in rows)
    print(f"{'scheduler':{width}}   gap %        95 %      against {baseline}    worst   decision")
    for row in rows:
        print(
            f"{row['scheduler']:{width}}  {row['gap']:6.2f}  {row['gap_low']:6.2f}–"
            f"{row['gap_high']:<6.2f} {row['against']:+7.2f} ({row['against_low']:+.2f} to"
            f" {row['against_high']:+.2f})  {row['worst']:6.1f}  {row['decision_us']:8.0f} µs"
        )
    for axis in ("family", "tasks", "ratio", "cluster"):
        values = list(rows[0]["by"][axis])  # type: ignore[index]
        print(f"\n{axis:{width}}  " + "  ".join(f"{value[:18]:>18}" for value in values))
        for row in rows:
            gaps = row["by"][axis]  # type: ignore[index]
            print(f"{row['scheduler']:{width}}  " + "  ".join(f"{gaps[v]:18.2f}" for v in values))


def plot(file: Path, rows: Sequence[dict[str, object]]) -> None:
    """Draw gaps over decision times, with intervals."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for row in rows:
        gap, decision = float(row["gap"]), float(row["decision_us"])  # type: ignore[arg-type]
        low, high = gap - float(row["gap_low"]), float(row["gap_high"]) - gap  # type: ignore[arg-type]
        axes.errorbar(decision, gap, yerr=[[low], [high]], fmt="o", capsize=3)
        axes.annotate(str(row["scheduler"]), (decision, gap), fontsize=8, xytext=(4, 4),
                      textcoords="offset points")  # fmt: skip
    axes.set(xscale="log", xlabel="decision, µs", ylabel="gap to the best known plan, %")
    axes.set_yscale("symlog", linthresh=1.0)  # from a fraction of a percent to many times
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file)


def parse() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    def floats(text: str) -> tuple[float, ...]:
        return tuple(float(word) for word in text.split(","))

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    families = ["in-tree", "tree-with-outputs", "layered", "moe"]
    parser.add_argument("--families", type=words, default=families)
    parser.add_argument(
        "--sizes", type=lambda text: [int(n) for n in words(text)], default=[16, 32, 64]
    )
    parser.add_argument("--ratios", type=floats, default=(0.1, 1.0, 10.0))
    parser.add_argument("--clusters", type=words, default=["links", "bus"])
    parser.add_argument("--speeds", type=floats, default=(1.0, 3.0, 8.0))
    parser.add_argument("--batch-gain", type=float, default=0.0, help="of GPUs; half of it of CPUs")
    parser.add_argument("--memory-share", type=float, help="of all weights that fit on a GPU")
    parser.add_argument("--worlds", type=int, default=2, help="per place of the grid")
    parser.add_argument("--schedulers", type=words, default=list(USUAL))
    parser.add_argument("--baseline", default="best-of-heuristics")
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--graph", type=Path, action="append", default=[])
    parser.add_argument("--profile", action="append", default=[])
    parser.add_argument("--references", type=Path, help="file that keeps what the best plans take")
    parser.add_argument("--evaluations", type=int, default=Work.evaluations)
    parser.add_argument("--solver-s", type=float, default=Work.solver_s)
    parser.add_argument("--splitting", type=int, help="worlds per place of the grid")
    parser.add_argument("--decisions", type=lambda text: [int(n) for n in words(text)])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()


def best_known(references: Sequence[Reference], makespan: Times) -> Times:
    """Return (W,) the best makespan of references and schedulers."""
    found = np.array([reference.makespan_ns for reference in references], dtype=np.float64)
    return np.maximum(1.0, np.minimum(found, makespan.min(axis=0)))


def count_splits(options: argparse.Namespace) -> None:
    """Print and write how often schedulers do what pays."""
    options.worlds = options.splitting
    worlds = [(case.graph, case.profile) for case in drawn(options)]
    found = splitting(worlds, options.schedulers, evaluations=2000)
    print(f"{len(worlds)} worlds")
    for name, (one, several) in found.items():
        print(f"{name}: one device where it pays {one}, several where they pay {several}")
    if options.json:
        content = {name: [entry(one), entry(several)] for name, (one, several) in found.items()}
        write_json(options.json, {"worlds": len(worlds), "shares": content})


def entry(share: Share) -> dict[str, object]:
    return {"right": share.right, "worlds": share.worlds, "interval": share.interval}


def main() -> None:
    options = parse()
    if options.splitting:
        count_splits(options)
        return
    if options.decisions:
        timed = decisions(options.schedulers, options.decisions, options.seed)
        print_decisions(timed)
        if options.json:
            write_json(options.json, {"decisions": [asdict(row) for row in timed]})
        return
    cases = given(options.graph, options.profile) if options.graph else drawn(options)
    names = list(dict.fromkeys([*options.schedulers, options.baseline]))
    kept = References(options.references, Work(options.evaluations, options.solver_s))
    makespan, decision = measure(cases, names, options)
    references = [kept.of(case.graph, case.profile) for case in cases]
    best = best_known(references, makespan)
    bound = np.array([reference.bound_ns for reference in references], dtype=np.float64)
    unproven = float((bound < best).mean())
    gap = 100 * (makespan / best - 1)
    rows = timedof(cases, names, gap, decision, options.baseline)
    print(f"{len(cases)} worlds; for {100 * unproven:.0f} % the best plan is not proven optimal\n")
    print_rows(rows, options.baseline)
    if options.plot:
        plot(options.plot, rows)
    if options.json:
        content = {
            "worlds": len(cases),
            "unproven": unproven,
            "baseline": options.baseline,
            "rows": rows,
            "references": [
                {"graph": case.graph.name, **asdict(reference), "best_ns": int(ns)}
                for case, reference, ns in zip(cases, references, best, strict=True)
            ],
        }
        write_json(options.json, content)


if __name__ == "__main__":
    main()
