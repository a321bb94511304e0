"""How do the simulators scale? Time per task and peak memory from 100 to 100,000 tasks.

    python benchmarks/sim_scale.py [--tasks 100,1000,10000,100000] [--devices 2,8,64] [--rounds 7]
                                   [--json FILE]

Layered graphs on devices whose links share ports, random plans. Each size runs in a process of its
own; its peak memory includes the interpreter, the graph, the plan and the lowering. Times are CPU
times of a lowered and priced world; the reference runs up to 10,000 tasks.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from engines.plain_worlds import Lowered, graph_of, layered, machine, random_plan

REFERENCE_TASKS_MAX = 10_000
TARGET_TASKS, TARGET_DEVICES, BASE_TASKS = 100_000, 64, 1_000
RATIO_MAX, PEAK_MB_MAX = 2.0, 1000.0
LAUNCHES_PER_ROUND = 100_000
"""Small worlds run several times per round."""


def main() -> None:
    asked = parse_arguments()
    if asked.one:
        print(json.dumps(one_size(*asked.one, asked.rounds)))
        return
    rows = []
    print(f"{'tasks':>8}{'devices':>9}{'transfers':>11}{'compiled ns/task':>18}", end="")
    print(f"{'spread':>14}{'reference ns/task':>19}{'peak MB':>9}{'prepare s':>11}")
    for devices in asked.devices:
        for tasks in asked.tasks:
            rows.append(in_a_child(tasks, devices, asked.rounds))
            print_row(rows[-1])
    verdicts = judge(rows)
    for row in verdicts:
        met = "met" if row["met"] else "missed"
        print(f"{row['what']}: {row['measured']:.2f}, target {row['target']}: {met}")
    if asked.json:
        content = {"sizes": rows, "targets": verdicts}
        asked.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=numbers, default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--devices", type=numbers, default=[2, 8, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", type=numbers, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_a_child(tasks: int, devices: int, rounds: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", f"{tasks},{devices}", "--rounds", str(rounds)]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    row: dict[str, Any] = json.loads(ran.stdout)
    return row


def one_size(n_tasks: int, n_devices: int, rounds: int) -> dict[str, Any]:
    """Measure one size in this process."""
    from dynpartition.sim.batch import pack, run_batch
    from dynpartition.sim.kernel_pack import ProgramWorld
    from dynpartition.sim.reference import Machine

    before = time.process_time()
    lowered = lowered_world(n_tasks, n_devices)
    batch = pack([ProgramWorld(*lowered.parts)])
    prepare_s = time.process_time() - before
    makespan_ns = int(run_batch(batch).makespan_ns[0])
    repeats = max(1, LAUNCHES_PER_ROUND // n_tasks)
    times = [cpu_ns(lambda: run_batch(batch), repeats) / n_tasks for _ in range(rounds)]
    row = {
        "tasks": n_tasks,
        "devices": n_devices,
        "transfers": lowered.program.n_copies,
        "compiled_ns_per_task": median(times),
        "compiled_low": min(times),
        "compiled_high": max(times),
        "reference_ns_per_task": None,
        "peak_mb": peak_mb(),
        "prepare_s": prepare_s,
    }
    if n_tasks <= REFERENCE_TASKS_MAX:
        machine = Machine(*lowered.parts)
        row["reference_ns_per_task"] = cpu_ns(machine.run, 1) / n_tasks
        assert machine.makespan_ns == makespan_ns, "the engines differ"
    return row


def lowered_world(n_tasks: int, n_devices: int) -> Lowered:
    rng = np.random.default_rng(np.random.SeedSequence([n_tasks, n_devices]))
    inputs = layered(rng, n_tasks, width=min(max(10, 2 * n_devices), n_tasks // 2))
    profile = machine(rng, n_devices, "ports")
    return Lowered.of(random_plan(rng, graph_of(rng, inputs), profile, together=0.5))


def cpu_ns(work: Callable[[], object], repeats: int) -> float:
    before = time.process_time_ns()
    for _ in range(repeats):
        work()
    return (time.process_time_ns() - before) / repeats


def peak_mb() -> float:
    """Return the largest memory that this process has had: KiB on Linux, bytes on macOS."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def print_row(row: dict[str, Any]) -> None:
    spread = f"{row['compiled_low']:.0f} … {row['compiled_high']:.0f}"
    reference = row["reference_ns_per_task"]
    shown = "–" if reference is None else f"{reference:,.0f}"
    print(f"{row['tasks']:>8,}{row['devices']:>9}{row['transfers']:>11,}", end="")
    print(f"{row['compiled_ns_per_task']:>18,.0f}{spread:>14}{shown:>19}", end="")
    print(f"{row['peak_mb']:>9,.0f}{row['prepare_s']:>11.2f}", flush=True)


def judge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = {(row["tasks"], row["devices"]): row for row in rows}
    large = found.get((TARGET_TASKS, TARGET_DEVICES))
    base = found.get((BASE_TASKS, TARGET_DEVICES))
    if large is None or base is None:
        return []
    ratio = large["compiled_ns_per_task"] / base["compiled_ns_per_task"]
    size = f"{TARGET_TASKS:,} tasks on {TARGET_DEVICES} devices"
    return [
        {
            "what": f"{size}: time per task ÷ that of {BASE_TASKS:,} tasks",
            "measured": ratio,
            "target": f"≤ {RATIO_MAX:g}",
            "met": ratio <= RATIO_MAX,
        },
        {
            "what": f"{size}: peak MB",
            "measured": large["peak_mb"],
            "target": f"< {PEAK_MB_MAX:g}",
            "met": large["peak_mb"] < PEAK_MB_MAX,
        },
    ]


if __name__ == "__main__":
    main()
