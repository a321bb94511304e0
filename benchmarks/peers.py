"""The same graphs through other scheduling libraries, Stable-Baselines3's agents, and ours.

    python benchmarks/peers.py [--families in-tree,layered] [--sizes 16,64] [--worlds 2]
        [--steps 100000] [--machines related,contended] [--json FILE] [--markdown FILE]

Two machines of three devices with speeds 1:3:8. `related`: devices differ in speed alone and every
link is its own, which is what SAGA assumes. `contended`: cells prefer devices and all transfers
share one bus. The simulator judges every plan. A gap is the makespan over that of the best plan
known (annealing and everything in the table), minus one; decisions are timed one by one, graphs
new, tables of the machine known. Agents learn on other graphs of the same families, on the machine
that they are judged on; the shipped policy has never seen it. What is not installed is left out,
and said at the end.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from decisions import again
from references import References, Work

from dynpartition import GraphWorkload, Plan, Profile, Scheduler, TaskGraph, run
from dynpartition.agent.families import FAMILIES, Setting, draw_graph
from dynpartition.agent.machines import Machine, draw_profile
from dynpartition.agent.registry import make_scheduler
from dynpartition.agent.warming import warm_up
from dynpartition.formats import write_json
from dynpartition.sim import SimBackend

MACHINES = {
    "related": Machine(wiring="links", affinity=0.0),
    "contended": Machine(wiring="bus"),
}
OURS = (
    *("random", "best-single", "heft", "cpop", "min-min", "best-of-heuristics"),
    *("local-search", "policy", "policy-search"),
)
TRAINING_GRAPHS = 64
OTHERS = {
    "saga": "anrg-saga: pip install --no-deps anrg-saga PySMT && pip install pydantic networkx",
    "sb3_contrib": "sb3-contrib: pip install stable-baselines3 sb3-contrib",
}
"""Module → what it is called, and how to get it."""
LIBRARIES = ("anrg-saga", "stable-baselines3", "sb3-contrib", "torch", "numpy")

Times = npt.NDArray[np.float64]


class Machined(NamedTuple):
    """One machine, the graphs that are judged on it, and others to learn on."""

    name: str
    profile: Profile
    judged: list[TaskGraph]
    learned: list[GraphWorkload]


class Peer(NamedTuple):
    """A scheduler, the time of its last decision where it has its own clock, and its training."""

    scheduler: Scheduler
    own_ns: Callable[[], int] | None = None
    trained_s: float = 0.0


def drawn(name: str, options: argparse.Namespace) -> Machined:
    """Return a machine for all graphs together, so that an agent can learn on it."""

    def graph(family: str, size: int, *place: int) -> TaskGraph:
        entropy = [options.seed, [*FAMILIES].index(family), size, *place]
        rng = np.random.default_rng(np.random.SeedSequence(entropy))
        return draw_graph(Setting(family=family, n_tasks=size), rng, f"{family}-{size}-{place[-1]}")

    grid = itertools.product(options.families, options.sizes, range(options.worlds))
    judged = [graph(family, size, 0, number) for family, size, number in grid]
    places = itertools.cycle(itertools.product(options.families, options.sizes))
    learned = [graph(*next(places), 1, number) for number in range(TRAINING_GRAPHS)]
    rng = np.random.default_rng(np.random.SeedSequence([options.seed, [*MACHINES].index(name)]))
    profile = draw_profile([*judged, *learned], MACHINES[name], rng)
    return Machined(name, profile, judged, [GraphWorkload(graph) for graph in learned])


def peers(machine: Machined, options: argparse.Namespace) -> Iterator[Peer]:
    """Yield everything that is installed, as schedulers on one machine."""
    for name in OURS:
        yield Peer(make_scheduler(name, seed=options.seed))
    if find_spec("saga") is not None:
        from peers_saga import CLASSES, Saga

        for name in CLASSES:
            scheduler = Saga(name)
            yield Peer(scheduler, lambda scheduler=scheduler: scheduler.decided_ns)  # type: ignore[misc]
    if find_spec("sb3_contrib") is not None:
        from peers_sb3 import NAMES, trained

        for name in NAMES:
            agent = trained(name, machine.profile, machine.learned, options.steps, options.seed)
            yield Peer(agent.scheduler, trained_s=agent.seconds)


def decision_us(peer: Peer, graph: TaskGraph, profile: Profile, repeats: int) -> float:
    """Return the median time of a first decision."""
    times_ns = []
    for _ in range(repeats):
        new = again(graph)
        begun_ns = time.perf_counter_ns()
        peer.scheduler.schedule(new, profile, Plan())
        took_ns = time.perf_counter_ns() - begun_ns
        times_ns.append(took_ns if peer.own_ns is None else peer.own_ns())
    return float(np.median(times_ns)) / 1000


def measured(machine: Machined, options: argparse.Namespace) -> list[dict[str, object]]:
    """Return a row per peer; gaps in %."""
    backend = SimBackend(machine.profile)
    names, makespans, decisions, training = [], [], [], []
    for peer in peers(machine, options):
        warm_up(peer.scheduler, machine.profile)
        names.append(peer.scheduler.name)
        training.append(peer.trained_s)
        makespans.append(
            [
                run(backend, GraphWorkload(graph), peer.scheduler).trace.makespan_ns
                for graph in machine.judged
            ]
        )
        decisions.append(
            [decision_us(peer, g, machine.profile, options.repeats) for g in machine.judged]
        )
        print(f"{machine.name}: {names[-1]}", flush=True)
    kept = References(options.references, Work(options.evaluations, 0.0))
    best = [kept.of(graph, machine.profile).makespan_ns for graph in machine.judged]
    return rows_of(names, np.array(makespans, dtype=float), decisions, training, best)


def rows_of(
    names: Sequence[str],
    makespans: Times,
    decisions: Sequence[Sequence[float]],
    training: Sequence[float],
    best: Sequence[int],
) -> list[dict[str, object]]:
    known = np.minimum(np.array(best, dtype=float), makespans.min(axis=0))
    gaps = 100 * (makespans / known - 1)
    ours = [not name.startswith(("saga", "sb3")) for name in names]
    rows = [
        {
            "scheduler": name,
            "ours": mine,
            "gap": float(gap.mean()),
            "worst": float(gap.max()),
            "decision_us": float(np.median(decision)),
            "trained_s": seconds,
        }
        for name, mine, gap, decision, seconds in zip(
            names, ours, gaps, decisions, training, strict=True
        )
    ]
    saga = [number for number, name in enumerate(names) if name.startswith("saga")]
    if saga:
        least = gaps[saga].min(axis=0)
        rows.append(
            {
                "scheduler": "saga, best of all",
                "ours": False,
                "gap": float(least.mean()),
                "worst": float(least.max()),
                "decision_us": sum(float(np.median(decisions[number])) for number in saga),
                "trained_s": 0.0,
            }
        )
    return rows


def table(rows_by_machine: dict[str, list[dict[str, object]]]) -> list[str]:
    """Return one table in Markdown, ordered by the mean of the gaps."""
    found = {
        machine: {row["scheduler"]: row for row in rows}
        for machine, rows in rows_by_machine.items()
    }
    names = list(next(iter(found.values())))

    def mean_gap(name: object) -> float:
        return float(np.mean([float(rows[name]["gap"]) for rows in found.values()]))  # type: ignore[arg-type]

    heads = [f"{machine}, gap % (worst)" for machine in found]
    lines = [
        f"| scheduler | {' | '.join(heads)} | decision |",
        f"|---|{'---|' * len(heads)}---|",
    ]
    for name in sorted(names, key=mean_gap):
        rows = [by_name[name] for by_name in found.values()]
        gaps = " | ".join(f"{row['gap']:.1f} ({row['worst']:.0f})" for row in rows)
        took_us = float(np.mean([float(row["decision_us"]) for row in rows]))  # type: ignore[arg-type]
        took = f"{took_us / 1000:.2f} ms"
        label = f"**{name}**" if rows[0]["ours"] else str(name)
        lines.append(f"| {label} | {gaps} | {took} |")
    return lines


def versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found


def parse() -> argparse.Namespace:
    def words(text: str) -> list[str]:
        return text.split(",")

    def among(known: Iterable[str]) -> Callable[[str], list[str]]:
        def checked(text: str) -> list[str]:
            for name in set(words(text)) - {*known}:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
            return words(text)

        return checked

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    families = ["in-tree", "tree-with-outputs", "layered", "moe"]
    parser.add_argument("--families", type=among(FAMILIES), default=families)
    parser.add_argument(
        "--sizes", type=lambda text: [int(n) for n in words(text)], default=[16, 64]
    )
    parser.add_argument("--worlds", type=int, default=2, help="per family and size")
    parser.add_argument("--machines", type=among(MACHINES), default=[*MACHINES])
    parser.add_argument("--steps", type=int, default=200_000, help="decisions that agents learn on")
    parser.add_argument("--evaluations", type=int, default=50_000, help="plans per reference")
    parser.add_argument("--references", type=Path, help="file that keeps what the best plans take")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, help="file for the table alone")
    return parser.parse_args()


def main() -> None:
    options = parse()
    rows = {name: measured(drawn(name, options), options) for name in options.machines}
    made = datetime.now(UTC).date().isoformat()
    lines = table(rows)
    print("\n".join(["", f"{made}, {platform.processor() or platform.machine()}", *lines]))
    for machine, found in rows.items():
        spent = [f"{r['scheduler']} {r['trained_s']:.0f} s" for r in found if r["trained_s"]]
        if spent:
            print(f"training on {machine}: {', '.join(spent)}")
    for name in OTHERS:
        if find_spec(name) is None:
            print(f"left out, as it is not installed: {OTHERS[name]}")
    if options.markdown:
        options.markdown.write_text("\n".join([*lines, ""]), encoding="utf-8")
    if options.json:
        write_json(options.json, {"date": made, "versions": versions(), "machines": rows})


if __name__ == "__main__":
    main()
