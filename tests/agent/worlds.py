"""Small profiles and graphs that the agent's tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Dispatch,
    GraphWorkload,
    Link,
    Plan,
    Profile,
    Task,
    TaskGraph,
    parse_devices,
)
from dynpartition.agent.facts import Facts
from dynpartition.agent.synthetic import random_tree
from dynpartition.cluster import Blocks
from dynpartition.errors import DynPartitionError
from dynpartition.sim.world_maker import World, random_world

CELLS = (Cell("leaf"), Cell("composer"), Cell("output"))
COST_NS = {"leaf": 40_000, "composer": 60_000, "output": 20_000}


def two_cpus(
    blocks: Blocks | None = "src", dispatch: Dispatch | None = None, latency_ns: int = 8_000
) -> Profile:
    """cpu:0 and cpu:1 at half its speed; transfers 8 µs and a hand-off of 3 µs."""
    devices = parse_devices("cpu:0,cpu:1x0.5")
    ends = (("cpu:0", "cpu:1"), ("cpu:1", "cpu:0"))
    cost = AffineCost(latency_ns, 10**10)
    return Profile(
        Cluster(devices, tuple(Link(a, b, cost, blocks=blocks) for a, b in ends)),
        {
            cell: {"cpu:0": Curve((1,), (ns,)), "cpu:1": Curve((1,), (2 * ns,))}
            for cell, ns in COST_NS.items()
        },
        dispatch or Dispatch(host_mode="processes", handoff_ns=3_000),
    )


def tree_graph(n_leaves: int, seed: int) -> TaskGraph:
    """A random TreeLSTM graph: every node has an output task that returns its answer."""
    inputs = random_tree(n_leaves, np.random.default_rng(seed))
    nodes = [
        Task(id=n, cell="composer" if row else "leaf", inputs=row, output_bytes=1200)
        for n, row in enumerate(inputs)
    ]
    outputs = [
        Task(id=len(nodes) + n, cell="output", inputs=(n,), output_bytes=20, returns=True)
        for n in range(len(nodes))
    ]
    return TaskGraph.from_tasks(f"tree-{seed}", CELLS, nodes + outputs)


def trees(count: int, first_seed: int, n_leaves: tuple[int, int] = (4, 8)) -> list[GraphWorkload]:
    """Random trees with a number of leaves drawn from a range, both ends included."""
    rng = np.random.default_rng(first_seed)
    sizes = rng.integers(n_leaves[0], n_leaves[1] + 1, size=count).tolist()
    return [GraphWorkload(tree_graph(n, first_seed + i)) for i, n in enumerate(sizes)]


def graph_of(
    inputs: Sequence[tuple[int, ...]],
    reveals: dict[int, int] | None = None,
    cells: Sequence[str] | None = None,
    output_bytes: int = 1200,
) -> TaskGraph:
    """A graph given by the inputs of each task; sources are leaves, other tasks composers."""
    names = cells or ["composer" if row else "leaf" for row in inputs]
    tasks = [
        Task(
            id=n,
            cell=names[n],
            inputs=row,
            output_bytes=output_bytes,
            revealed_by=(reveals or {}).get(n),
        )
        for n, row in enumerate(inputs)
    ]
    return TaskGraph.from_tasks("small", CELLS, tasks)


def with_first_uses(profile: Profile, seed: int) -> Profile:
    """Return a profile in which, for two of three seeds, some cells take longer at first."""
    if seed % 3 == 0:
        return profile
    rng = np.random.default_rng(seed)
    scale = max(1, *(row.at(1) for curves in profile.cells.values() for row in curves.values()), 1)
    names = [*profile.cells, *"abcd"]
    first = {
        cell: {
            device: int(rng.integers(0, 2 * scale))
            for device in profile.cluster.names
            if rng.random() < 0.6
        }
        for cell in names
    }
    return replace(profile, dispatch=replace(profile.dispatch, first_use_ns=first))


def can_be_scheduled(world: World) -> bool:
    """Return whether schedulers can serve a random world: something runs, and values get home.

    They see what is revealed, and cannot know where a revealer must not go.
    """
    try:
        Facts(world.graph, world.profile)
    except DynPartitionError:
        return False  # nothing can run it
    cluster = world.profile.cluster
    reach_host = [cluster.link_index(d, cluster.host_index) for d in range(len(cluster.devices))]
    reach_host[cluster.host_index] = 0
    return not world.graph.revealers or min(reach_host) >= 0


def half_of_batches() -> tuple[World, Plan]:
    """Return a random world, and the first half of its plan, which has launches of several."""
    for world in map(random_world, range(10**6)):
        half = world.plan.launches[: len(world.plan) // 2]
        if any(len(launch.tasks) > 1 for launch in half):
            return world, Plan(world.plan.launches[: len(half) + 1])
    raise AssertionError("no random world has batches")


def run_uncompiled(program: str, *, disabled: str = "1") -> str:
    """Return what a program prints whose kernels are not compiled; `disabled` "0": are."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | {"NUMBA_DISABLE_JIT": disabled},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
