"""What two processes gain on two cores over one, at launches of a TreeLSTM that share nothing.

The trees of a batch are cut below their roots, and the sub-trees are dealt to two halves. Both
halves run level by level in calls of the fused cells, planned beforehand. T1 is the time of one
process for one half after the other. T2 is the time of two processes, each pinned to a core of
its own, for both halves at once, from when the first starts to when the last ends. S_probe is
T1 / T2: no division of this work over two devices can gain more, as nothing is planned or
exchanged here. The halves are not equally long; what their lengths alone allow is
T1 / the longer half's time, measured in T1.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from dynpartition.models import ParseTree, build_model
from dynpartition.models.treelstm import TreeLSTM
from engines.level_batched import LevelBatched, Levels, find_levels

SPLITS = ("left | right", "balanced")
"""Left sub-trees in one half and right ones in the other, or the larger ones dealt evenly."""
PATIENCE_S = 120.0
"""How long a process waits for the other one before it gives up."""

Halves = tuple[list[ParseTree], list[ParseTree]]


@dataclass(frozen=True)
class ProbeRow:
    """Medians over rounds of one size of cells and one way to split."""

    hidden: int
    split: str
    one_process_ms: float
    """T1"""
    longer_half_ms: float
    """The longer half's part of T1."""
    two_processes_ms: float
    """T2"""
    s_probe: float
    """T1 / T2"""
    s_of_lengths: float
    """T1 / the longer half."""
    off_core_share: float
    """Share of their time together that a process was kept off its core; 0 on a quiet machine."""


@dataclass(frozen=True)
class Stamps:
    """One round of one process, in ns of the clock that processes share."""

    alone: tuple[int, int, int] | None
    """Start, end of the first half, end of the second; only the first process runs alone."""
    together: tuple[int, int]
    """Start and end of its own half, beside the other process."""
    on_core_ns: int
    """CPU time between these two."""

    @property
    def off_core_share(self) -> float:
        """Share of the time together in which something else had the core."""
        start, end = self.together
        return max(0.0, 1 - self.on_core_ns / (end - start))


def probe(trees: Sequence[ParseTree], hidden_sizes: Sequence[int], rounds: int) -> list[ProbeRow]:
    """Return a row per size of cells and split. RuntimeError where there are not two cores."""
    cores = two_cores()
    context = multiprocessing.get_context("spawn")  # PyTorch's threads do not survive a fork
    shared = (context.Barrier(2), context.RawArray("q", 2))
    rows = []
    with ProcessPoolExecutor(2, context, initializer=_join, initargs=shared) as pool:
        for hidden in hidden_sizes:
            for split in SPLITS:
                halves = split_trees(trees, split)
                futures = [
                    pool.submit(_run_rounds, number, cores[number], halves, hidden, rounds)
                    for number in range(2)
                ]
                first, second = (future.result() for future in futures)
                rows.append(summarise(hidden, split, first, second))
    return rows


def two_cores() -> tuple[int | None, int | None]:
    """Return two cores that this process may use; None where the platform cannot pin."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise RuntimeError(f"two processes need two cores, but only core {allowed[0]} is allowed")
    return allowed[0], allowed[1]


def summarise(hidden: int, split: str, first: list[Stamps], second: list[Stamps]) -> ProbeRow:
    """Return medians over rounds; ratios are taken round by round."""
    one, longer, two = [], [], []
    for mine, other in zip(first, second, strict=True):
        assert mine.alone is not None
        start, middle, end = mine.alone
        one.append(end - start)
        longer.append(max(middle - start, end - middle))
        spans = mine.together, other.together
        two.append(max(span[1] for span in spans) - min(span[0] for span in spans))
    return ProbeRow(
        hidden=hidden,
        split=split,
        one_process_ms=median(one) / 1e6,
        longer_half_ms=median(longer) / 1e6,
        two_processes_ms=median(two) / 1e6,
        s_probe=median(a / b for a, b in zip(one, two, strict=True)),
        s_of_lengths=median(a / b for a, b in zip(one, longer, strict=True)),
        off_core_share=median(stamps.off_core_share for stamps in (*first, *second)),
    )


# Halves


def split_trees(trees: Sequence[ParseTree], split: str) -> Halves:
    """Return the sub-trees below the roots in two halves; trees of one word have none."""
    halves: Halves = ([], [])
    sizes = [0, 0]
    for tree in trees:
        if tree.is_leaf(tree.root):
            continue
        pair = sub_trees(tree)
        if split == "balanced" and (len(pair[0]) > len(pair[1])) == (sizes[0] > sizes[1]):
            pair = pair[1], pair[0]  # the larger one to the half that has less
        for number, part in enumerate(pair):
            halves[number].append(part)
            sizes[number] += len(part)
    return halves


def sub_trees(tree: ParseTree) -> tuple[ParseTree, ParseTree]:
    """Return what hangs below the root on the left and on the right."""
    cut = tree.left[tree.root] + 1  # in post-order the left sub-tree comes first
    return part_of(tree, 0, cut), part_of(tree, cut, tree.root)


def part_of(tree: ParseTree, first: int, end: int) -> ParseTree:
    """Return the sub-tree of the nodes from `first` up to, not including, `end`."""
    children = [
        tuple(-1 if child < 0 else child - first for child in row[first:end])
        for row in (tree.left, tree.right)
    ]
    return ParseTree(tree.labels[first:end], tree.words[first:end], *children)


class Launches:
    """The calls of cells of one half, ready to run."""

    def __init__(self, cells: LevelBatched, trees: Sequence[ParseTree]) -> None:
        self._cells = cells
        self._levels: Levels = find_levels(trees)
        self._vectors = cells.leaf_vectors(trees)

    def run(self) -> Tensor:
        """Return the states of all nodes, sorted by height: (n, 2H), until the next run."""
        return self._cells.states(self._levels, self._vectors)


# In the two processes

_shared: tuple[Any, Any]
"""The barrier that both sleep at, and the flags that both spin on."""


def _join(barrier: Any, flags: Any) -> None:
    global _shared
    _shared = barrier, flags
    torch.set_num_threads(1)


def _run_rounds(
    number: int, core: int | None, halves: Halves, hidden: int, rounds: int
) -> list[Stamps]:
    """Return the stamps of process `number` (0 or 1); the other one must run this as well."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    barrier, flags = _shared
    model = build_model("treelstm", {"hidden_dim": hidden})
    assert isinstance(model, TreeLSTM)
    cells = LevelBatched(model)
    launches = [Launches(cells, half) for half in halves]
    flags[number] = 0
    barrier.wait(PATIENCE_S)
    stamps = []
    for turn in range(1, rounds + 1):
        # The second process sleeps meanwhile: spinning could slow the first one down.
        alone = None if number else _timed_alone(launches)
        barrier.wait(PATIENCE_S)
        launches[number].run()  # wakes core and caches up
        _start_together(flags, number, turn)
        start, before = time.monotonic_ns(), time.process_time_ns()
        launches[number].run()
        end, after = time.monotonic_ns(), time.process_time_ns()
        stamps.append(Stamps(alone, (start, end), after - before))
        barrier.wait(PATIENCE_S)
    return stamps


def _timed_alone(launches: Sequence[Launches]) -> tuple[int, int, int]:
    first, second = launches
    for each in launches:
        each.run()  # wakes core and caches up
    start = time.monotonic_ns()
    first.run()
    middle = time.monotonic_ns()
    second.run()
    return start, middle, time.monotonic_ns()


def _start_together(flags: Any, number: int, turn: int) -> None:
    """Return when the other process has come here too, without going to sleep."""
    flags[number] = turn
    deadline = time.monotonic() + PATIENCE_S
    while flags[1 - number] < turn:
        if time.monotonic() > deadline:
            raise TimeoutError("the other process did not come; see its error")
