"""Reference against compiled simulator on random small worlds: complete traces must be equal.

    python benchmarks/campaign.py [--worlds 1000000] [--first-seed 0] [--jobs 2] [--json FILE]
    python benchmarks/campaign.py --seed N

Prints how often each feature occurred. At the first difference it prints the seed and a small world
that shows it, and exits with status 1. `--seed` runs one world again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from pprint import pprint

from shrinking import shrink

from dynpartition import PricedGraph, Trace, lower
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.pricing import price
from dynpartition.sim import simulate
from dynpartition.sim.batch import BatchResult, pack, run_batch
from dynpartition.sim.engine import simulate_compiled
from dynpartition.sim.kernel_pack import ProgramWorld, is_plain
from dynpartition.sim.reference import Machine
from dynpartition.sim.worlds import (
    PLAIN,
    World,
    describe_difference,
    find_difference,
    find_features,
    random_world,
)

BLOCK = 500
"""Worlds per batch of the compiled simulator, and per piece of work of a process."""
WARM_UP = 100
"""Worlds among which there are some for both kernels."""


def main() -> None:
    asked = parse_arguments()
    if asked.seed is not None:
        sys.exit(show(asked.seed))
    started = time.perf_counter()
    counts, differences = campaign(asked.first_seed, asked.worlds, asked.jobs)
    seconds = time.perf_counter() - started
    checked = counts["worlds"]
    print(f"{checked:,} worlds from seed {asked.first_seed} in {seconds:.0f} s")
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"{count:>12,}  {100 * count / checked:5.1f} %  {name}")
    if asked.json:
        content = {
            "worlds": checked,
            "first_seed": asked.first_seed,
            "seconds": round(seconds, 1),
            "differences": differences,
            "features": dict(sorted(counts.items())),
        }
        asked.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if differences:
        sys.exit(show(min(differences)))
    print("no differences")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, default=1_000_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, help="run this world alone")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def campaign(first: int, count: int, jobs: int) -> tuple[Counter[str], list[int]]:
    """Compare until the end, or until a block has differences; return counts and their seeds."""
    blocks = [(at, min(BLOCK, first + count - at)) for at in range(first, first + count, BLOCK)]
    counts: Counter[str] = Counter()
    compare_block((first, WARM_UP))  # so that processes find the compiled code on disk
    started = time.perf_counter()
    with get_context("spawn").Pool(jobs) as pool:
        for found, differences in pool.imap_unordered(compare_block, blocks):
            counts += found
            rate = counts["worlds"] / (time.perf_counter() - started)
            line = f"\r{counts['worlds']:,} of {count:,} worlds, {rate:,.0f} per second"
            print(line, end="", file=sys.stderr, flush=True)
            if differences:
                break
    print(file=sys.stderr)
    return counts, differences if blocks else []


def compare_block(block: tuple[int, int]) -> tuple[Counter[str], list[int]]:
    """Return how often each feature occurred in a block of seeds, and the seeds that differ."""
    first, count = block
    worlds = {seed: world_of(seed) for seed in range(first, first + count)}
    lowered = {seed: lower_world(world) for seed, world in worlds.items()}
    counts = Counter({"worlds": count})
    differences = []
    for seed, end in compiled_ends(lowered):
        expected = reference_end(lowered[seed])
        counts.update(find_features(worlds[seed], expected))
        if describe_difference(expected, end):
            differences.append(seed)
    return counts, sorted(differences)


def world_of(seed: int) -> World:
    """Return the world of a seed: every fourth is plain, for the plain kernel."""
    return random_world(seed, without=PLAIN if seed % 4 == 3 else ())


def lower_world(world: World) -> ProgramWorld:
    priced = PricedGraph(world.graph, world.profile)
    program = lower(world.graph, world.profile.cluster, world.plan)
    return ProgramWorld(priced, program, price(program, priced, world.conditions))


def reference_end(lowered: ProgramWorld) -> Trace | str:
    try:
        machine = Machine(*lowered)
        machine.run()
    except OutOfDeviceMemory as error:
        return str(error)
    return machine.trace()


def compiled_ends(lowered: dict[int, ProgramWorld]) -> Iterator[tuple[int, Trace | str]]:
    """Yield how each world ends; plain worlds by the plain kernel, the others by the full one."""
    for plain in (True, False):
        seeds = [seed for seed, parts in lowered.items() if is_plain(parts) == plain]
        if seeds:
            result = run_batch(pack([lowered[seed] for seed in seeds]))
            for number, seed in enumerate(seeds):
                yield seed, compiled_end(result, number)


def compiled_end(result: BatchResult, number: int) -> Trace | str:
    error = result.error(number)
    return result.trace(number) if error is None else str(error)


def show(seed: int) -> int:
    """Print what differs in one world, made as small as it goes; return the exit status."""
    world = world_of(seed)
    difference = find_difference(simulate, simulate_compiled, world)
    if difference is None:
        print(f"seed {seed}: no difference")
        return 0
    print(f"seed {seed}: {difference}")
    small = shrink(simulate, simulate_compiled, world)
    print(f"smaller: {find_difference(simulate, simulate_compiled, small)}")
    pprint(small.graph.tasks(), width=100)
    pprint([cell for cell in small.graph.cells if cell.param_bytes], width=100)
    pprint((small.profile, small.plan, small.conditions), width=100)
    return 1


if __name__ == "__main__":
    main()
