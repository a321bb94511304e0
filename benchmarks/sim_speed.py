"""How fast are the simulators? The compiled one against SimPy, an event loop in Python, and C.

    python benchmarks/sim_speed.py [--worlds 64] [--rounds 9] [--json FILE] [--quick]

All engines first run all worlds and must give the same start and end of every launch and transfer.
Then they take turns, in random order; the table shows CPU time per world: median over rounds, and
the lowest and highest. The clock of an engine starts with a lowered and priced world in the
engine's own tables and stops before a Trace is built. Plain worlds have 100 tasks on 4 devices
with contended links, half of them in-trees and half layered; full worlds have batches, host modes,
weights and little memory as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from engines.c_loop import CBatch, build, compiler
from engines.heap_loop import run_heap
from engines.naive_simpy import NaiveMachine
from engines.plain_worlds import Lowered, Tables, Times, speed_worlds, tables_of, with_everything_on

from dynpartition import Plan, Profile, TaskGraph, Trace
from dynpartition.sim.batch import Batch, pack, run_batch
from dynpartition.sim.evaluate import Evaluator, evaluate_many
from dynpartition.sim.kernel_pack import ProgramWorld
from dynpartition.sim.links import HOST_INPUT
from dynpartition.sim.prepared import PreparedGraph
from dynpartition.sim.reference import Machine
from dynpartition.types import IntArray

ROUND_NS = 150_000_000
"""CPU time that an engine gets per round, about."""
ROWS = {
    "naive": "naive SimPy, a process per task and transfer",
    "reference": "reference",
    "heapq": "event loop in Python (heapq)",
    "kernel_single": "compiled, one world per call",
    "kernel": "compiled, all worlds in one call",
    "kernel_makespans": "compiled, all in one call, makespans only",
    "c": "C, -O3, all worlds in one call",
    "evaluate": "evaluate_many, from graphs and plans",
    "evaluate_prepared": "evaluate_many, plans of known graphs as arrays",
    "reference_full": "reference, everything on",
    "kernel_full": "compiled, everything on, all in one call",
}
TARGETS = (
    ("compiled batch ÷ reference", "reference", "kernel", 25.0),
    ("reference ÷ event loop in Python", "heapq", "reference", 0.25),
    ("compiled batch ÷ event loop in Python", "heapq", "kernel", 10.0),
    ("compiled batch ÷ C", "c", "kernel", 0.7),
    ("compiled ÷ reference, everything on", "reference_full", "kernel_full", 15.0),
)
"""(what, slower engine, faster engine, the ratio of their speeds that it should reach)."""
COLD_S_MAX, CACHED_S_MAX = 20.0, 1.0

START = """
import time
import dynpartition.sim
before = time.process_time()
from dynpartition.sim.engine import compile_all
imported = time.process_time()
compile_all()
print(imported - before, time.process_time() - imported)
"""
"""What a child process runs: all kernels from nothing, or from numba's cache on disk."""


@dataclass(frozen=True)
class Contest:
    """The same worlds for everybody."""

    plain: list[Lowered]
    full: list[Lowered]
    tables: list[Tables]
    plain_batch: Batch
    full_batch: Batch
    singles: list[Batch]
    c_batch: CBatch | None
    asked: list[Asked]


def main() -> None:
    asked = parse_arguments()
    contest = prepare(asked.worlds)
    check_agreement(contest)
    times = measure(engines_of(contest), asked.worlds, asked.rounds, asked.round_ns)
    starts = {} if asked.quick else start_times()
    summary = {name: spread(values) for name, values in times.items()}
    verdicts = judge(summary, starts)
    print_tables(contest, summary, verdicts)
    if asked.json:
        content = {"worlds": asked.worlds, "us_per_world": summary, "targets": verdicts}
        asked.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="one short round, no cold start")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.round_ns = ROUND_NS
    if asked.quick:
        asked.worlds, asked.rounds, asked.round_ns = min(asked.worlds, 8), 1, 1
    return asked


def prepare(count: int) -> Contest:
    worlds = speed_worlds(count)
    plain = [Lowered.of(world) for world in worlds]
    full = [Lowered.of(with_everything_on(world, n)) for n, world in enumerate(worlds)]
    tables = [tables_of(each) for each in plain]
    return Contest(
        plain=plain,
        full=full,
        tables=tables,
        plain_batch=pack(parts_of(plain)),
        full_batch=pack(parts_of(full)),
        singles=[pack(parts_of([each])) for each in plain],
        c_batch=CBatch(build(), tables) if compiler() else None,
        asked=Asked.of(plain),
    )


def parts_of(worlds: list[Lowered]) -> list[ProgramWorld]:
    return [ProgramWorld(*world.parts) for world in worlds]


def reference_run(lowered: Lowered) -> Machine:
    machine = Machine(*lowered.parts)
    machine.run()
    return machine


# Agreement


def check_agreement(contest: Contest) -> None:
    """Raise AssertionError unless all engines give the same times."""
    compiled = run_batch(contest.plain_batch)
    alone = [run_batch(batch).trace(0) for batch in contest.singles]
    makespans = run_batch(contest.plain_batch, recording=False).makespan_ns.tolist()
    if contest.c_batch:
        contest.c_batch.run()
    for number, (lowered, tables) in enumerate(zip(contest.plain, contest.tables, strict=True)):
        machine = reference_run(lowered)
        expected, trace = reference_times(machine, tables), machine.trace()
        assert NaiveMachine(tables).run() == expected, f"naive, world {number}"
        assert run_heap(tables) == expected, f"heapq, world {number}"
        assert compiled.trace(number) == trace == alone[number], f"compiled, world {number}"
        assert makespans[number] == trace.makespan_ns == expected.makespan_ns(tables)
        if contest.c_batch:
            assert contest.c_batch.times(number) == expected, f"C, world {number}"
    check_full_worlds(contest)
    expected_ns = [reference_run(each).makespan_ns for each in contest.plain]
    for prepared in (False, True):
        assert evaluate(contest, prepared=prepared) == expected_ns, "evaluate_many"


def check_full_worlds(contest: Contest) -> None:
    compiled = run_batch(contest.full_batch)
    loads = 0
    for number, lowered in enumerate(contest.full):
        trace: Trace = reference_run(lowered).trace()
        assert compiled.trace(number) == trace, f"compiled, full world {number}"
        loads += len(trace.loads)
    assert loads, "little memory should make weights travel"


def reference_times(machine: Machine, tables: Tables) -> Times:
    """Return the reference's times in the order of the tables."""
    moved = {(t.position, t.dst, t.kind == HOST_INPUT): t for t in machine._links.history}
    copies = [moved[key] for key in tables.key]
    return Times(
        machine.start_ns,
        machine.end_ns,
        [copy.start_ns for copy in copies],
        [copy.end_ns for copy in copies],
    )


# Time


def engines_of(contest: Contest) -> dict[str, Callable[[], object]]:
    """Return what each engine does to run all worlds once."""
    engines: dict[str, Callable[[], object]] = {
        "naive": lambda: drain(NaiveMachine(tables).run() for tables in contest.tables),
        "reference": lambda: drain(reference_run(each) for each in contest.plain),
        "heapq": lambda: drain(run_heap(tables) for tables in contest.tables),
        "kernel_single": lambda: drain(run_batch(batch) for batch in contest.singles),
        "kernel": lambda: run_batch(contest.plain_batch),
        "kernel_makespans": lambda: run_batch(contest.plain_batch, recording=False),
        "evaluate": lambda: evaluate(contest, prepared=False),
        "evaluate_prepared": lambda: evaluate(contest, prepared=True),
        "reference_full": lambda: drain(reference_run(each) for each in contest.full),
        "kernel_full": lambda: run_batch(contest.full_batch),
    }
    if contest.c_batch:
        engines["c"] = contest.c_batch.run
    return engines


def drain(results: Iterable[object]) -> None:
    """Let every engine run, and keep no result: what is kept makes the garbage collector work."""
    deque(results, maxlen=0)


@dataclass(frozen=True)
class Asked:
    """Plans for one machine: as objects, and as search and training have them."""

    profile: Profile
    numbers: list[int]
    graphs: list[TaskGraph]
    plans: list[Plan]
    prepared: list[PreparedGraph]
    choices: list[IntArray]
    evaluator: Evaluator

    @staticmethod
    def of(plain: list[Lowered]) -> list[Asked]:
        """Sort the worlds by their machine."""
        asked = []
        for profile in {id(each.world.profile): each.world.profile for each in plain}.values():
            numbers = [n for n, each in enumerate(plain) if each.world.profile is profile]
            own = [plain[number] for number in numbers]
            graphs, plans = [w.world.graph for w in own], [w.world.plan for w in own]
            prepared = [PreparedGraph(each.priced) for each in own]
            choices = [plan_choices(plan, profile) for plan in plans]
            asked.append(Asked(profile, numbers, graphs, plans, prepared, choices, Evaluator()))
        return asked


def plan_choices(plan: Plan, profile: Profile) -> IntArray:
    index = profile.cluster.index
    return np.array([(launch.tasks[0], index(launch.device)) for launch in plan.launches])


def evaluate(contest: Contest, *, prepared: bool) -> list[int]:
    """Return the makespan of every plain world, lowering included."""
    ends: dict[int, int] = {}
    for own in contest.asked:
        pairs = (own.prepared, own.choices) if prepared else (own.graphs, own.plans)
        known = own.evaluator if prepared else None
        times = evaluate_many(*pairs, own.profile, evaluator=known)
        ends |= dict(zip(own.numbers, times.tolist(), strict=True))
    return [ends[number] for number in range(len(contest.plain))]


def measure(
    engines: dict[str, Callable[[], object]], count: int, rounds: int, round_ns: int
) -> dict[str, list[float]]:
    """Return µs of CPU time per world and round; engines take turns in random order."""
    repeats = {name: calibrated(engine, round_ns) for name, engine in engines.items()}
    times: dict[str, list[float]] = {name: [] for name in ROWS if name in engines}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for name in rng.permutation(list(engines)).tolist():
            spent_ns = cpu_ns(engines[name], repeats[name])
            times[name].append(spent_ns / repeats[name] / count / 1000)
    return times


def calibrated(engine: Callable[[], object], round_ns: int) -> int:
    return max(1, round(round_ns / max(1, cpu_ns(engine, 1))))


def cpu_ns(engine: Callable[[], object], repeats: int) -> int:
    before = time.process_time_ns()
    for _ in range(repeats):
        engine()
    return time.process_time_ns() - before


def start_times() -> dict[str, tuple[float, float]]:
    """Return (import, first runs) of all kernels in CPU seconds, without and with a cache."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        found = {}
        for name in ("cold", "cached"):
            ran = subprocess.run(
                [sys.executable, "-c", START],
                env=environment,
                check=True,
                capture_output=True,
                encoding="utf-8",
            )
            imported, runs = map(float, ran.stdout.split())
            found[name] = (imported, runs)
    return found


# Tables


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "low": min(values), "high": max(values)}


def judge(
    summary: dict[str, dict[str, float]], starts: dict[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    """Return each target with what was measured."""
    verdicts = []
    for what, slower, faster, least in TARGETS:
        if {slower, faster} <= summary.keys():
            ratio = summary[slower]["median"] / summary[faster]["median"]
            verdicts.append(
                {"what": what, "measured": ratio, "target": f"≥ {least:g}", "met": ratio >= least}
            )
    for name, most in (("cold", COLD_S_MAX), ("cached", CACHED_S_MAX)):
        if name in starts:
            imported, runs = starts[name]
            what = f"{name} start: all kernels, CPU s (import {imported:.2f} s besides)"
            verdicts.append(
                {"what": what, "measured": runs, "target": f"≤ {most:g}", "met": runs <= most}
            )
    return verdicts


def print_tables(
    contest: Contest, summary: dict[str, dict[str, float]], verdicts: list[dict[str, Any]]
) -> None:
    copies = sum(len(tables.copy_ns) for tables in contest.tables) / len(contest.tables)
    batches = sum(each.program.n_launches for each in contest.full) / len(contest.full)
    print(f"{len(contest.plain)} worlds of 100 tasks: {copies:.0f} transfers each; with everything")
    print(f"on {batches:.0f} launches. All engines agree on every start and end.\n")
    print(f"{'µs of CPU time per world':<48}{'median':>9}{'low':>9}{'high':>9}")
    for name, row in summary.items():
        print(f"{ROWS[name]:<48}{row['median']:>9.1f}{row['low']:>9.1f}{row['high']:>9.1f}")
    print(f"\n{'ratio of speeds, or seconds':<66}{'is':>8}{'target':>9}")
    for row in verdicts:
        met = "met" if row["met"] else "missed"
        print(f"{row['what']:<66}{row['measured']:>8.2f}{row['target']:>9}  {met}")


if __name__ == "__main__":
    main()
