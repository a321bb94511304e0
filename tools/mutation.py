"""Mutation testing of the simulators: whether the tests notice small changes.

    python -m tools.mutation --json build/mutants.json
    python -m tools.mutation --module sim/links --sample 50

Tools that start one test run per mutant take a second each, and there are thousands; here a parent
imports everything once, and forks a child per mutant that runs the changed module and all that
import it again, and then worlds until one ends otherwise (see `tools.mutation_bench`).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tools.mutation_operators import Mutant, find_mutants

if TYPE_CHECKING:
    from tools.mutation_bench import Bench

KILLED, TIMED_OUT, SURVIVED = "killed", "timed out", "survived"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mutant."""

    module: str
    number: int
    line: int
    kind: str
    before: str
    after: str
    status: str
    by: str
    seconds: float


def judged(
    bench: Bench, chosen: list[tuple[str, int, Mutant]], most: int, jobs: int
) -> Iterator[Verdict]:
    """Yield the verdict of every chosen mutant, `jobs` at a time."""
    waiting = list(reversed(chosen))
    running: dict[int, tuple[tuple[str, int, Mutant], int, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            entry = waiting.pop()
            pid, pipe = _begin(bench, entry, most)
            running[pid] = (entry, pipe, time.perf_counter())
        pid, status = os.wait()
        (module, number, mutant), pipe, began = running.pop(pid)
        with os.fdopen(pipe, "rb") as file:
            told = file.read().decode()
        if told:
            end, by = told.split("\t")
        elif os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
            end, by = TIMED_OUT, ""
        else:
            end, by = KILLED, f"died with {status}"
        facts = (module, number, mutant.line, mutant.kind, *mutant.difference())
        yield Verdict(*facts, end, by, round(time.perf_counter() - began, 2))


def _begin(bench: Bench, entry: tuple[str, int, Mutant], most: int) -> tuple[int, int]:
    """Fork a child that judges a mutant; return its process number and the pipe to read."""
    module, _, mutant = entry
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        told = "\t".join(bench.judge(module, mutant, most))
    except BaseException as error:  # noqa: BLE001 # nothing may come back into the parent's loop
        told = f"{KILLED}\traised {type(error).__name__}"
    os.write(writer, told.encode())
    os._exit(0)


def chosen_mutants(bench: Bench, options: argparse.Namespace) -> list[tuple[str, int, Mutant]]:
    """Return (module, number in it, mutant) as the options say."""
    names = options.module or list(bench.trees)
    every = [(name, n, m) for name in names for n, m in enumerate(find_mutants(bench.trees[name]))]
    if options.again:
        old = {
            (v["module"], v["number"])
            for v in json.loads(options.again.read_text())
            if v["status"] == SURVIVED
        }
        every = [entry for entry in every if entry[:2] in old]
    if options.sample and options.sample < len(every):
        picked = random.Random(options.seed).sample(range(len(every)), options.sample)
        every = [every[number] for number in sorted(picked)]
    return every


def unchanged(bench: Bench, chosen: list[tuple[str, int, Mutant]]) -> Iterator[Verdict]:
    """Yield the verdicts of mutants that change nothing, one per module."""
    for module in dict.fromkeys(module for module, _, _ in chosen):
        tree = bench.trees[module]
        nothing = Mutant("none", tree, "body", None, tree.body, 0, 0, False, tree.body[0])
        yield from judged(bench, [(module, -1, nothing)], 100, 1)


def table(verdicts: list[Verdict]) -> str:
    """Return the figures of every module as a Markdown table."""
    lines = [
        "| Module | Mutants | Killed | Timed out | Survived | Score |",
        "|---|---|---|---|---|---|",
    ]
    count = Counter((v.module, v.status) for v in verdicts)
    count.update(("all", v.status) for v in verdicts)
    for name in [*dict.fromkeys(v.module for v in verdicts), "all"]:
        killed, slow, alive = (count[name, status] for status in (KILLED, TIMED_OUT, SURVIVED))
        total = killed + slow + alive
        score = 100 * (killed + slow) / total
        lines.append(f"| {name} | {total} | {killed} | {slow} | {alive} | {score:.1f} % |")
    return "\n".join(lines)


def parsed(words: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutation")
    parser.add_argument("--module", action="append", help="such as sim/links; default: all")
    parser.add_argument("--sample", type=int, help="judge so many mutants, chosen at random")
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--worlds", type=int, default=3000, help="random worlds in the bank")
    parser.add_argument("--most", type=int, default=800, help="worlds per mutant")
    parser.add_argument("--jobs", type=int, default=1, help="mutants judged at a time")
    parser.add_argument("--json", type=Path, help="where all verdicts go")
    parser.add_argument("--again", type=Path, help="only the survivors of such a file")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """Judge mutants and print what became of them."""
    options = parsed(words)
    os.environ["NUMBA_DISABLE_JIT"] = "1"  # before the kernel is imported
    os.environ["CI"] = "1"  # hypothesis tries the same examples every time
    from tools.mutation_bench import Bench

    began = time.perf_counter()
    bench = Bench(options.worlds)
    for line in bench.disagreements():
        print(line)
    print(f"{options.worlds} worlds in {time.perf_counter() - began:.0f} s", flush=True)
    gc.collect()
    gc.freeze()
    chosen = chosen_mutants(bench, options)
    if wrong := [v for v in unchanged(bench, chosen) if v.status != SURVIVED]:
        print("The unchanged modules do not survive:", *wrong, sep="\n")
        return 1
    verdicts = []
    for verdict in judged(bench, chosen, options.most, options.jobs):
        verdicts.append(verdict)
        if verdict.status == SURVIVED:
            print(f"{verdict.module}.py:{verdict.line} {verdict.kind} ({verdict.by})")
            print(f"    - {verdict.before}\n    + {verdict.after}")
        if len(verdicts) % 100 == 0:
            spent = time.perf_counter() - began
            print(f"{len(verdicts)} of {len(chosen)} in {spent:.0f} s", flush=True)
            _save(options.json, verdicts)
    _save(options.json, verdicts)
    print(table(verdicts))
    return 0


def _save(path: Path | None, verdicts: list[Verdict]) -> None:
    if path is not None:
        rows = sorted(verdicts, key=lambda verdict: (verdict.module, verdict.number))
        path.write_text(json.dumps([asdict(verdict) for verdict in rows], indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
