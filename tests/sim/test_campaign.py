"""The reference and the compiled simulator on thousands of small hostile worlds.

`benchmarks/campaign.py` runs millions of them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, TypeVar

import pytest

from dynpartition import PricedGraph, Trace, lower
from dynpartition.contract import INFEASIBLE_NS
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.pricing import price
from dynpartition.sim import reference, simulate
from dynpartition.sim.batch import pack, run_batch
from dynpartition.sim.clock import Completion, Effect
from dynpartition.sim.engine import simulate_compiled
from dynpartition.sim.evaluate import evaluate_many
from dynpartition.sim.kernel_pack import ProgramWorld, is_plain
from dynpartition.sim.reference import Machine
from dynpartition.sim.worlds import (
    PLAIN,
    World,
    describe_difference,
    find_difference,
    find_features,
    outcome,
    random_world,
)

Item = TypeVar("Item")
WORLDS = 20_000
BLOCK = 500
SEEDS = range(600)
"""Worlds of the tests that run more slowly."""
SHARE_MIN = 0.01
"""Each feature must occur in at least this share of the worlds…"""
RARE = {"huge numbers": 0.002}
"""…but for these."""
FEATURES = {
    *("1 devices", "2 devices", "3 devices", "4 devices", "a single task", "absent link"),
    *("answer", "arrivals", "batch", "batch over requests", "bookkeeping", "copies block both"),
    *("copies block dst", "copies block src", "copy-in", "copy-out", "dispatch"),
    *("edge between requests", "h", "h by device or cell", "h_copy", "handoff", "host input"),
    *("host is not the first device", "host mode none", "host mode processes"),
    *("host mode replay", "host mode single", "host mode threads", "huge numbers"),
    *("isolated task", "launch of 0 ns", "launches start together", "link table"),
    *("link with several resources", "load", "lock", "memory limit", "multi-edge"),
    *("nested reveal", "noise", "nothing arrives at 0", "out of memory before the run"),
    *("out of memory during the run", "own duration", "queue depth", "remote edge"),
    *("resident list", "reveal", "several requests", "shared resource", "slowdown"),
    *("sync or decision", "transfer", "transfer of 0 ns", "transfer of several outputs"),
    *("transfer waits", "weights", "weights loaded again"),
}


def blocks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def world_of(seed: int) -> World:
    """Return the world of a seed: every fourth is plain, for the plain kernel."""
    return random_world(seed, without=PLAIN if seed % 4 == 3 else ())


def lowered(world: World) -> ProgramWorld:
    priced = PricedGraph(world.graph, world.profile)
    program = lower(world.graph, world.profile.cluster, world.plan)
    return ProgramWorld(priced, program, price(program, priced, world.conditions))


def reference_end(parts: ProgramWorld) -> Trace | str:
    try:
        machine = Machine(*parts)
        machine.run()
    except OutOfDeviceMemory as error:
        return str(error)
    return machine.trace()


def compiled_ends(worlds: Sequence[ProgramWorld], plain: bool | None = None) -> list[Trace | str]:
    result = run_batch(pack(worlds, plain=plain))
    errors = [result.error(number) for number in range(len(worlds))]
    return [str(e) if e else result.trace(number) for number, e in enumerate(errors)]


def both_ends(worlds: Sequence[ProgramWorld]) -> Iterator[tuple[int, Trace | str, Trace | str]]:
    """Yield how each world ends; plain ones run on the plain kernel, the others on the full one."""
    for plain in (True, False):
        chosen = [number for number, world in enumerate(worlds) if is_plain(world) == plain]
        ends = compiled_ends([worlds[number] for number in chosen]) if chosen else []
        for number, end in zip(chosen, ends, strict=True):
            yield number, reference_end(worlds[number]), end


def test_both_simulators_give_the_same_traces_everywhere() -> None:
    census: Counter[str] = Counter()
    for seeds in blocks(range(WORLDS), BLOCK):
        worlds = [world_of(seed) for seed in seeds]
        parts = [lowered(world) for world in worlds]
        census["plain"] += sum(map(is_plain, parts))
        for number, expected, found in both_ends(parts):
            assert describe_difference(expected, found) is None, f"seed {seeds[number]}"
            census.update(find_features(worlds[number], expected))
    assert census.keys() == {*FEATURES, "plain"}
    least = {name: RARE.get(name, SHARE_MIN) * WORLDS for name in census}
    assert {name: count for name, count in census.items() if count < least[name]} == {}


def test_one_world_at_a_time_is_the_same_as_many() -> None:
    worlds = [lowered(random_world(seed)) for seed in SEEDS]
    alone = [compiled_ends([world])[0] for world in worlds]
    together = [end for group in blocks(worlds, 64) for end in compiled_ends(group)]
    order = random.Random(0).sample(range(len(worlds)), len(worlds))
    mixed = dict(zip(order, compiled_ends([worlds[number] for number in order]), strict=True))
    assert alone == together == [mixed[number] for number in range(len(worlds))]


def test_the_full_kernel_gives_plain_worlds_the_same_traces() -> None:
    worlds = [lowered(random_world(seed, without=PLAIN)) for seed in SEEDS]
    assert all(map(is_plain, worlds))
    assert compiled_ends(worlds, plain=True) == compiled_ends(worlds, plain=False)


def test_the_function_for_one_plan_is_the_same_engine() -> None:
    for seed in SEEDS[:200]:
        assert find_difference(simulate, simulate_compiled, random_world(seed)) is None, seed


def test_evaluating_plans_gives_the_same_makespans() -> None:
    for seed in SEEDS:
        world = random_world(seed, without=(*PLAIN, "batches", "noise") if seed % 2 else ())
        end = outcome(simulate, world)
        expected_ns = end.makespan_ns if isinstance(end, Trace) else INFEASIBLE_NS
        found_ns = evaluate_many(
            [world.graph], [world.plan], world.profile, conditions=world.conditions
        )
        assert found_ns.tolist() == [expected_ns], f"seed {seed}"


UNCOMPILED = """
import sys
import numba
from dynpartition.sim import simulate
from dynpartition.sim.engine import simulate_compiled
from dynpartition.sim.worlds import find_difference, random_world
assert numba.config.DISABLE_JIT
for seed in range(int(sys.argv[1])):
    difference = find_difference(simulate, simulate_compiled, random_world(seed))
    assert difference is None, (seed, difference)
"""


def test_the_kernel_does_the_same_when_python_runs_it() -> None:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "error", "-c", UNCOMPILED, str(len(SEEDS))]
    subprocess.run(command, env=environment, check=True, timeout=240)


@dataclass(frozen=True)
class Completed:
    """What the clock's events are to those who get them."""

    value: Any


class ShuffledClock:
    """A clock that applies what completes at one instant in random order."""

    def __init__(self) -> None:
        self._random = random.Random(0)
        self._heap: list[tuple[int, float, Callable[[Completion], None], Completed]] = []
        self.now_ns = 0

    def after(
        self, delay_ns: int, complete: Callable[[Completion], None], what: object = None
    ) -> None:
        at_ns, order = self.now_ns + delay_ns, self._random.random()
        heappush(self._heap, (at_ns, order, complete, Completed(what)))

    def run(self, phases: Sequence[Effect], *, until_ns: int | None = None) -> None:
        assert until_ns is None
        for phase in phases:
            phase()
        while self._heap:
            self.now_ns, _, complete, completed = heappop(self._heap)
            complete(completed)
            if not self._heap or self._heap[0][0] > self.now_ns:
                for phase in phases:
                    phase()


class ShuffledMachine(Machine):
    """A reference that turns copies into transfers in random order too."""

    def _push_due(self) -> None:
        random.Random(len(self._outbox)).shuffle(self._outbox)
        super()._push_due()


def test_the_order_of_insertion_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions of one instant in another order, and copies pushed in another order."""
    worlds = [random_world(seed) for seed in SEEDS]
    expected = [outcome(simulate, world) for world in worlds]
    monkeypatch.setattr(reference, "InstantClock", ShuffledClock)
    monkeypatch.setattr(reference, "Machine", ShuffledMachine)
    for seed, (world, end) in enumerate(zip(worlds, expected, strict=True)):
        assert describe_difference(end, outcome(simulate, world)) is None, f"seed {seed}"
