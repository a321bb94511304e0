"""The worlds for differential tests, and what finds the first difference of two engines."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dynpartition import Conditions, Plan, Profile, TaskGraph, Trace, check_plan, lower, pricing
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.sim import host, links, memory, simulate
from dynpartition.sim.clock import Effect
from dynpartition.sim.links import Links, Transfer
from dynpartition.sim.memory import NOTHING, Limited
from dynpartition.sim.reference import Machine
from dynpartition.sim.world_maker import SWITCHES, random_world
from dynpartition.sim.worlds import World, describe_difference, find_difference, outcome
from dynpartition.validator import find_violations

SEEDS = range(400)


def test_a_seed_is_the_same_world_everywhere() -> None:
    """A seed that someone reports shows the same world to someone else."""
    worlds = [random_world(seed) for seed in (0, 1, 2)]
    assert [world.graph.digest[:8] for world in worlds] == ["e80f8bbd", "368ccf70", "3a6a477e"]
    assert [len(world.plan) for world in worlds] == [7, 7, 7]


def test_every_plan_is_legal_and_its_links_exist() -> None:
    for seed in SEEDS:
        world = random_world(seed)
        check_plan(world.graph, world.profile.cluster, world.plan)
        lower(world.graph, world.profile.cluster, world.plan)


def test_the_independent_validator_accepts_what_the_reference_does() -> None:
    for seed in SEEDS:
        world = replace(random_world(seed), conditions=Conditions())
        world = replace(world, profile=replace(world.profile, noise=None))
        trace = outcome(simulate, world)
        if isinstance(trace, Trace):
            found = find_violations(
                world.graph, world.profile, world.plan, trace, exact_durations=True
            )
            assert found == [], f"seed {seed}"


def test_sizes_are_kept() -> None:
    for seed in SEEDS[:100]:
        world = random_world(seed, tasks_max=3, devices_max=2)
        assert len(world.graph) <= 3 and len(world.profile.cluster.devices) <= 2
    assert max(len(random_world(seed, tasks_max=60).graph) for seed in SEEDS[:20]) > 40


def test_worlds_differ_and_switches_are_on_in_some_of_them() -> None:
    digests = {random_world(seed).graph.digest for seed in SEEDS}
    assert len(digests) > 0.95 * len(SEEDS)
    assert all(0 < share < 1 for share in SWITCHES.values())


def late(graph: TaskGraph, profile: Profile, plan: Plan, *, conditions: Conditions) -> Trace:
    """An engine that is wrong about the last launch only."""
    trace = simulate(graph, profile, plan, conditions=conditions)
    last = trace.launches[-1]
    return replace(trace, launches=(*trace.launches[:-1], replace(last, end_ns=last.end_ns + 1)))


def forgetful(graph: TaskGraph, profile: Profile, plan: Plan, *, conditions: Conditions) -> Trace:
    """An engine that does not record transfers."""
    return replace(simulate(graph, profile, plan, conditions=conditions), transfers=())


def full(graph: TaskGraph, profile: Profile, plan: Plan, *, conditions: Conditions) -> Trace:
    raise OutOfDeviceMemory("no room")


@pytest.fixture
def world() -> World:
    """A world that ends, with a transfer."""
    ends = ((seed, outcome(simulate, random_world(seed))) for seed in SEEDS)
    return random_world(next(s for s, end in ends if isinstance(end, Trace) and end.transfers))


def test_no_difference_is_none(world: World) -> None:
    assert find_difference(simulate, simulate, world) is None
    assert find_difference(full, full, world) is None


def test_a_difference_says_where_it_is(world: World) -> None:
    last = len(world.plan) - 1
    difference = find_difference(simulate, late, world)
    assert difference is not None
    assert difference.startswith(f"launches: number {last} is LaunchSpan(")
    difference = find_difference(forgetful, simulate, world)
    assert difference is not None
    assert difference.startswith("transfers: 0 and ")
    assert "only the second has TransferSpan(" in difference


def test_an_early_end_is_a_difference_too(world: World) -> None:
    makespan_ns = simulate(world.graph, world.profile, world.plan).makespan_ns
    world = replace(world, conditions=Conditions())
    assert find_difference(full, simulate, world) == (
        f"one ends with 'no room', the other with a trace of {makespan_ns} ns"
    )
    assert describe_difference("no room", "no way") == (
        "one ends with 'no room', the other with 'no way'"
    )


def test_a_makespan_alone_can_differ() -> None:
    trace = Trace(3, ())
    assert describe_difference(trace, replace(trace, makespan_ns=4)) == "makespan_ns: 3 and 4"


# Errors planted in the reference: the worlds must be hostile enough to show each of them.


def evicts_by_number(self: Limited, device: int) -> int:
    weights = self._weights[device]
    idle = [
        (last_use_ns, cell)
        for cell, last_use_ns in weights.last_use.items()
        if cell != weights.running and self._cells[cell].param_bytes
    ]
    return min(idle)[1] if idle and self._stores[device].link >= 0 else NOTHING


def evicts_the_oldest(self: Limited, device: int) -> int:
    weights = self._weights[device]
    idle = [c for c in weights.last_use if c != weights.running and self._cells[c].param_bytes]
    return idle[0] if idle and self._stores[device].link >= 0 else NOTHING


def frees_at_once(self: object, group: int, buffer: int) -> bool:
    return False


def forgets_the_position(transfer: Transfer) -> tuple[int, ...]:
    ready_ns, _, dst, kind = transfer.key
    return ready_ns, dst, kind


def prefers_the_last_destination(transfer: Transfer) -> tuple[int, ...]:
    ready_ns, position, dst, kind = transfer.key
    return ready_ns, position, -dst, kind


START_READY = Links.start_ready


def overtakes(self: Links) -> list[Transfer]:
    """Let every transfer be the only one that waits."""
    queue, started, waiting = self._queue, [], []
    for transfer in queue:
        self._queue = [transfer]
        started += START_READY(self)
        waiting += self._queue
    self._queue = waiting
    return started


PHASES = Machine._phases


def later(phases: list[Effect], one: Effect, by: int) -> Iterator[Effect]:
    """Yield phases with one of them moved back."""
    place = phases.index(one)
    phases.insert(place + by, phases.pop(place))
    return iter(phases)


def launches_first(self: Machine) -> Iterator[Effect]:
    return later(list(PHASES(self)), self._start_transfers, by=2 if self._host else 1)


def loads_after_transfers(self: Machine) -> Iterator[Effect]:
    phases = list(PHASES(self))
    return later(phases, self._memory.begin_loads, by=1) if self._memory else iter(phases)


def rounds_down(duration_ns: int, share: float) -> int:
    return int(duration_ns * share)


@pytest.mark.parametrize(
    ("place", "name", "wrong"),
    [
        (Limited, "_victim", evicts_by_number),
        (Limited, "_victim", evicts_the_oldest),
        (memory._OpenGroups, "keeps", frees_at_once),
        (links, "_by_key", forgets_the_position),
        (links, "_by_key", prefers_the_last_destination),
        (Links, "start_ready", overtakes),
        (Machine, "_phases", launches_first),
        (Machine, "_phases", loads_after_transfers),
        (host, "share_ns", rounds_down),
        (pricing, "bisect_right", bisect_left),
    ],
)
def test_planted_errors_are_found(
    place: object, name: str, wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(seed: int) -> bool:
        world = random_world(seed)
        right = outcome(simulate, world)
        with monkeypatch.context() as patch:
            patch.setattr(place, name, wrong)
            return describe_difference(right, outcome(simulate, world)) is not None

    assert any(map(differs, range(3000)))
