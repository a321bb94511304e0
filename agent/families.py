"""Families of synthetic task graphs, and worlds: such a graph with a machine that fits it.

What schedulers are compared on and policies are trained on. Everything comes from the generator
that is passed in; other seeds give other worlds of the same families.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import NamedTuple

import numpy as np

from dynpartition.agent.machines import Machine, draw_profile
from dynpartition.errors import GraphError, did_you_mean
from dynpartition.graph import Cell, Task, TaskGraph
from dynpartition.profile import PricedGraph, Profile

OUTPUT_BYTES_MEDIAN = 16_384
PARAM_BYTES_MEDIAN = 1 << 20


class Call(NamedTuple):
    """One task of a shape: what it calls and reads."""

    cell: str
    inputs: tuple[int, ...] = ()
    """Earlier tasks."""
    revealed_by: int | None = None
    """The earlier task whose result decides that this one exists."""


Shape = Callable[[int, np.random.Generator], list[Call]]
"""(number of tasks, generator) → that many calls, inputs first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a world is drawn from."""

    family: str = "in-tree"
    """A name in FAMILIES."""
    n_tasks: int = 32
    machine: Machine = field(default_factory=Machine)
    spread: float = 0.0
    """σ of the log-normal factor by which tasks of one cell differ; 0: only cells differ."""
    host_data: bool = False
    """Whether sources read bytes from the host and sinks send their outputs back."""
    reveals: bool = False
    """Whether what routers decide stays hidden until they have run."""


class World(NamedTuple):
    """A graph and the profile of a machine that runs it."""

    graph: TaskGraph
    profile: Profile


def draw_world(setting: Setting, rng: np.random.Generator, name: str = "") -> World:
    """Return a random world of a setting; `name`: what its graph is called.

    Raises GraphError for an unknown family, ProfileError for a machine that cannot be drawn.
    """
    graph = draw_graph(setting, rng, name)
    profile = draw_profile([graph], setting.machine, rng)
    return World(spread_durations(graph, profile, setting.spread, rng), profile)


def draw_graph(setting: Setting, rng: np.random.Generator, name: str = "") -> TaskGraph:
    """Return a random graph of a setting's family; equal cells have equal outputs."""
    calls = draw_calls(setting.family, setting.n_tasks, rng)
    names = tuple(dict.fromkeys(call.cell for call in calls))
    param_bytes = _sizes(PARAM_BYTES_MEDIAN, 0.8, len(names), rng)
    output_bytes = dict(zip(names, _sizes(OUTPUT_BYTES_MEDIAN, 0.5, len(names), rng), strict=True))
    read = {source for call in calls for source in call.inputs}
    tasks = [
        Task(
            id=number,
            cell=call.cell,
            inputs=call.inputs,
            output_bytes=output_bytes[call.cell],
            revealed_by=call.revealed_by if setting.reveals else None,
            host_bytes=output_bytes[call.cell] if setting.host_data and not call.inputs else 0,
            returns=setting.host_data and number not in read,
        )
        for number, call in enumerate(calls)
    ]
    cells = [Cell(cell, size) for cell, size in zip(names, param_bytes, strict=True)]
    return TaskGraph.from_tasks(name or f"{setting.family}-{setting.n_tasks}", cells, tasks)


def draw_calls(family: str, n_tasks: int, rng: np.random.Generator) -> list[Call]:
    """Return `n_tasks` calls of a family; GraphError for an unknown one or too few tasks."""
    if family not in FAMILIES:
        raise GraphError(f"no family is named {family!r}; {did_you_mean(family, FAMILIES)}")
    if n_tasks < 1:
        raise GraphError(f"a graph of {n_tasks} tasks cannot be drawn; ask for at least one")
    calls = FAMILIES[family](n_tasks, rng)
    assert len(calls) == n_tasks, f"{family} gave {len(calls)} tasks instead of {n_tasks}"
    return calls


def spread_durations(
    graph: TaskGraph, profile: Profile, sigma: float, rng: np.random.Generator
) -> TaskGraph:
    """Return `graph` with durations of their own for all tasks: the profile's times exp(σ z).

    One factor per task, whatever the device. With σ = 0 the graph itself.
    """
    if not sigma:
        return graph
    factors = rng.lognormal(0, sigma, len(graph))
    own_ns = np.rint(PricedGraph(graph, profile).task_ns * factors[:, None]).astype(int).tolist()
    names = profile.cluster.names
    tasks = [
        replace(task, duration_ns={names[d]: max(1, ns) for d, ns in enumerate(row) if ns >= 0})
        for task, row in zip(graph.tasks(), own_ns, strict=True)
    ]
    return TaskGraph.from_tasks(graph.name, graph.cells, tasks)


def _sizes(median: int, sigma: float, count: int, rng: np.random.Generator) -> list[int]:
    sizes: list[int] = np.rint(median * rng.lognormal(0, sigma, count)).astype(int).tolist()
    return sizes


# Shapes


def _independent(n: int, rng: np.random.Generator) -> list[Call]:
    """Tasks that need nothing of each other."""
    return [Call(f"job_{rng.integers(3)}") for _ in range(n)]


def _chains(n: int, rng: np.random.Generator) -> list[Call]:
    """One to four chains side by side."""
    width = int(rng.integers(1, 5))
    return [
        Call(f"step_{rng.integers(3)}", (number - width,) if number >= width else ())
        for number in range(n)
    ]


def _in_tree(n: int, rng: np.random.Generator) -> list[Call]:
    """A random binary tree from leaves to a root; a head on it where `n` is even."""
    calls = _binary_tree((n + 1) // 2, rng)
    return [*calls, Call("head", (len(calls) - 1,))] if n > len(calls) else calls


def _tree_with_outputs(n: int, rng: np.random.Generator) -> list[Call]:
    """A random binary tree with an answer on each inner task, and on leaves where `n` is more."""
    n_leaves = max(1, (n + 2) // 3)
    calls = _binary_tree(n_leaves, rng)
    states = [*range(n_leaves, len(calls)), *range(n_leaves)]
    answers = [Call("output", (state,)) for state in islice(cycle(states), n - len(calls))]
    return [*calls, *answers]


def _forest(n: int, rng: np.random.Generator) -> list[Call]:
    """Several binary trees, as of several inputs in flight."""
    calls: list[Call] = []
    while len(calls) < n:
        left = n - len(calls)
        size = left if left < 4 else int(rng.integers(max(3, n // 6), max(4, n // 2)))
        first = len(calls)
        calls += [
            Call(call.cell, tuple(first + source for source in call.inputs))
            for call in _in_tree(min(size, left), rng)
        ]
    return calls


def _binary_tree(n_leaves: int, rng: np.random.Generator) -> list[Call]:
    """Return leaves, then inner tasks; each joins two neighbours, as in a parse tree."""
    calls = [Call("leaf")] * n_leaves
    roots = list(range(n_leaves))
    while len(roots) > 1:
        left = int(rng.integers(len(roots) - 1))
        calls.append(Call("composer", (roots[left], roots[left + 1])))
        roots[left : left + 2] = [len(calls) - 1]
    return calls


def _out_tree(n: int, rng: np.random.Generator) -> list[Call]:
    """A tree from a root to leaves: each task has at most two or three readers."""
    arity = int(rng.integers(2, 4))
    calls = [Call("root")]
    open_ends = [0] * arity
    while len(calls) < n:
        source = open_ends.pop(int(rng.integers(len(open_ends))))
        open_ends += [len(calls)] * arity
        calls.append(Call(f"split_{rng.integers(2)}", (source,)))
    return calls


def _fork_join(n: int, rng: np.random.Generator) -> list[Call]:
    """Stages of a fork, some branches and their join, one after the other."""
    calls = [Call("fork")]
    while len(calls) < n:
        width = min(int(rng.integers(2, 9)), n - len(calls))
        first = len(calls)
        calls += [Call(f"branch_{rng.integers(2)}", (first - 1,)) for _ in range(width)]
        calls.append(Call("join", tuple(range(first, first + width))))
    return calls[:n]


def _layered(n: int, rng: np.random.Generator) -> list[Call]:
    """Layers of equal width; each task reads one to three of the layer before."""
    width = max(2, round(float(np.sqrt(n) * rng.uniform(0.6, 1.6))))
    calls: list[Call] = []
    for number in range(n):
        first = number - number % width
        before = range(max(0, first - width), first)
        count = min(len(before), int(rng.integers(1, 4)))
        chosen = rng.choice(before, size=count, replace=False).tolist() if count else []
        calls.append(Call(f"unit_{rng.integers(4)}", tuple(sorted(chosen))))
    return calls


def _moe(n: int, rng: np.random.Generator) -> list[Call]:
    """Blocks of a mixture: attention, a router, the experts that it chooses, their sum."""
    n_experts = int(rng.integers(4, 9))
    calls = [Call("embed")]
    while n - len(calls) >= 5:
        below = len(calls) - 1
        attention, router = len(calls), len(calls) + 1
        calls += [Call("attention", (below,)), Call("router", (attention,))]
        k = int(rng.integers(2, min(n_experts, n - len(calls) - 1) + 1))
        chosen = rng.choice(n_experts, size=k, replace=False).tolist()
        calls += [Call(f"expert_{e}", (attention, router), router) for e in sorted(chosen)]
        calls.append(Call("sum", tuple(range(router + 1, router + 1 + k)), router))
    while len(calls) < n:
        calls.append(Call("dense", (len(calls) - 1,)))
    return calls


def _series_parallel(n: int, rng: np.random.Generator) -> list[Call]:
    """Parts one after the other or side by side, each made of such parts again."""
    calls: list[Call] = []

    def grow(count: int, source: tuple[int, ...]) -> int:
        """Add `count` tasks that begin with `source`; return the last of them."""
        if count < 3 or rng.random() < 0.5:
            if count == 1:
                calls.append(Call(f"part_{rng.integers(3)}", source))
                return len(calls) - 1
            before = int(rng.integers(1, count))
            return grow(count - before, (grow(before, source),))
        left = int(rng.integers(1, count - 1))
        ends = (grow(left, source), grow(count - 1 - left, source))
        calls.append(Call("join", ends))
        return len(calls) - 1

    grow(n, ())
    return calls


def _grid(n: int, rng: np.random.Generator) -> list[Call]:
    """A grid whose tasks read the ones above and to the left, as a two-dimensional LSTM."""
    width = max(1, round(float(np.sqrt(n) * rng.uniform(0.5, 1.0))))
    calls = []
    for number in range(n):
        above = (number - width,) if number >= width else ()
        left = (number - 1,) if number % width else ()
        calls.append(Call("cell" if number else "corner", (*above, *left)))
    return calls


def _random_dag(n: int, rng: np.random.Generator) -> list[Call]:
    """Each task reads up to three of the twelve before it."""
    calls: list[Call] = []
    for number in range(n):
        before = range(max(0, number - 12), number)
        count = min(len(before), int(rng.integers(0, 4)))
        chosen = rng.choice(before, size=count, replace=False).tolist() if count else []
        calls.append(Call(f"unit_{rng.integers(4)}", tuple(sorted(chosen))))
    return calls


FAMILIES: dict[str, Shape] = {
    "independent": _independent,
    "chains": _chains,
    "in-tree": _in_tree,
    "tree-with-outputs": _tree_with_outputs,
    "forest": _forest,
    "out-tree": _out_tree,
    "fork-join": _fork_join,
    "layered": _layered,
    "moe": _moe,
    "series-parallel": _series_parallel,
    "grid": _grid,
    "random-dag": _random_dag,
}
"""Family → its shape. No shape depends on a machine."""


# Distributions of settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """What settings are drawn from, uniformly unless said: domain randomisation."""

    families: Sequence[str] = tuple(FAMILIES)
    n_tasks: tuple[int, int] = (8, 64)
    """Fewest and most, log-uniform."""
    n_devices: tuple[int, int] = (2, 8)
    slowest: tuple[float, float] = (1.0, 16.0)
    """The slowest device's time over the fastest's, log-uniform; others lie between."""
    ratio: tuple[float, float] = (0.05, 20.0)
    """Communication ratio, log-uniform."""
    wirings: Sequence[str] = ("links", "ports", "bus", "pcie")
    host_modes: Sequence[str] = ("none",)
    affinity: tuple[float, float] = (0.0, 0.5)
    spread: tuple[float, float] = (0.0, 0.3)
    """Half of the settings have none."""
    host_data_share: float = 0.2
    """Share of the settings that have it."""
    batch_share: float = 0.0
    """Share of the settings whose GPUs gain by batches; CPUs do in half of them, by less."""
    first_use_share: float = 0.0
    """Share of the settings in which first uses of cells cost something."""
    scarce_share: float = 0.0
    """Share of the settings whose GPUs hold only part of the weights."""


def draw_setting(ranges: Ranges, rng: np.random.Generator) -> Setting:
    """Return a random setting."""
    n_devices = int(rng.integers(ranges.n_devices[0], ranges.n_devices[1] + 1))
    slowest = _log_uniform(ranges.slowest, rng)
    between = slowest ** rng.uniform(0, 1, max(0, n_devices - 2))
    slowness = np.concatenate([[slowest], between, [1.0]])[:n_devices]
    machine = Machine(
        speeds=tuple((slowest / slowness).tolist()),
        wiring=str(rng.choice(np.array(ranges.wirings))),
        ratio=_log_uniform(ranges.ratio, rng),
        affinity=float(rng.uniform(*ranges.affinity)),
        host_mode=str(rng.choice(np.array(ranges.host_modes))),
        batch_gain=float(rng.uniform(0.2, 0.95)) if rng.random() < ranges.batch_share else 0.0,
    )
    if machine.batch_gain and rng.random() < 0.5:
        machine = replace(machine, cpu_batch_gain=float(rng.uniform(0, machine.batch_gain)))
    if ranges.scarce_share and rng.random() < ranges.scarce_share:
        machine = replace(machine, memory_share=float(rng.uniform(0.1, 0.8)))
    if ranges.first_use_share and rng.random() < ranges.first_use_share:
        machine = replace(machine, first_use=_log_uniform((0.1, 10.0), rng))
    return Setting(
        family=str(rng.choice(np.array(ranges.families))),
        n_tasks=round(_log_uniform(ranges.n_tasks, rng)),
        machine=machine,
        spread=float(rng.uniform(*ranges.spread)) if rng.random() < 0.5 else 0.0,
        host_data=bool(rng.random() < ranges.host_data_share),
    )


def _log_uniform(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    low, high = np.log(bounds)
    return float(np.exp(rng.uniform(low, high)))
