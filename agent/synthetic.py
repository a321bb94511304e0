"""Random small graphs over the cells of a profile: what an environment trains on by default."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynpartition.contract import GraphWorkload
from dynpartition.graph import Cell, Task, TaskGraph
from dynpartition.profile import Profile

OUTPUT_BYTES = 1200
"""Output of every synthetic task: a hidden and a cell state of 150 numbers each."""


def synthetic_workloads(
    profile: Profile, count: int, seed: int, *, n_leaves: tuple[int, int] = (2, 10)
) -> list[GraphWorkload]:
    """Return `count` random graphs over the cells of `profile`, alternately trees and layers.

    The first cell is the sources', the second joins, the third, where there is one, hangs an
    answer on every join. `n_leaves`: fewest and most sources.
    """
    cells = [Cell(name) for name in profile.cells] or [Cell("task")]
    workloads = []
    for number in range(count):
        rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
        width = int(rng.integers(n_leaves[0], n_leaves[1] + 1))
        build = random_tree if number % 2 == 0 else random_layers
        inputs = build(width, rng)
        name = f"synthetic-{seed}-{number}"
        workloads.append(GraphWorkload(_graph(name, cells, inputs)))
    return workloads


def random_tree(n_leaves: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Return the inputs of each task of a random binary tree, children before parents."""
    inputs: list[tuple[int, ...]] = [()] * n_leaves
    roots = list(range(n_leaves))
    while len(roots) > 1:
        left = int(rng.integers(len(roots) - 1))
        inputs.append((roots[left], roots[left + 1]))
        roots[left : left + 2] = [len(inputs) - 1]
    return inputs


def random_layers(width: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Return the inputs of each task of a graph of three layers, one to three inputs each."""
    inputs: list[tuple[int, ...]] = [()] * width
    for layer in range(1, 3):
        before = range((layer - 1) * width, layer * width)
        for _ in range(width):
            chosen = rng.choice(before, size=min(width, int(rng.integers(1, 4))), replace=False)
            inputs.append(tuple(sorted(chosen.tolist())))
    return inputs


def _graph(name: str, cells: Sequence[Cell], inputs: Sequence[tuple[int, ...]]) -> TaskGraph:
    joiner = cells[min(1, len(cells) - 1)].name
    tasks = [
        Task(id=t, cell=joiner if row else cells[0].name, inputs=row, output_bytes=OUTPUT_BYTES)
        for t, row in enumerate(inputs)
    ]
    if len(cells) > 2:
        tasks += [
            Task(id=len(tasks) + n, cell=cells[2].name, inputs=(t,), output_bytes=20)
            for n, t in enumerate(t for t, row in enumerate(inputs) if row)
        ]
    return TaskGraph.from_tasks(name, cells, tasks)
