"""Dice, and the shapes of random task graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


class Dice:
    """Random choices from one seed; numbers are drawn in blocks, which is much faster."""

    def __init__(self, seed: int) -> None:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed])))
        blocks: Iterator[list[float]] = iter(lambda: rng.random(256).tolist(), [])
        self._uniform = chain.from_iterable(blocks).__next__

    def chance(self, odds: float) -> bool:
        """Return True with probability `odds`."""
        return self._uniform() < odds

    def below(self, n: int) -> int:
        """Return 0…n-1."""
        return int(self._uniform() * n)

    def pick(self, items: Sequence[Item]) -> Item:
        """Return one of `items`."""
        return items[int(self._uniform() * len(items))]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """Return `items` in another order."""
        return sorted(items, key=lambda _: self._uniform())


# Shapes: number of tasks → inputs of each, all of them earlier.


def _isolated(dice: Dice, n: int) -> list[list[int]]:
    return [[] for _ in range(n)]


def _chain(dice: Dice, n: int) -> list[list[int]]:
    return [[i - 1] if i else [] for i in range(n)]


def _fork_join(dice: Dice, n: int) -> list[list[int]]:
    rows = [[0] if i else [] for i in range(n)]
    if n > 2 and dice.chance(0.7):
        rows[-1] = list(range(1, n - 1))
    return rows


def _out_tree(dice: Dice, n: int) -> list[list[int]]:
    return [[dice.below(i)] if i else [] for i in range(n)]


def _in_tree(dice: Dice, n: int) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(n)]
    for i in range(n - 1):
        rows[i + 1 + dice.below(min(3, n - 1 - i))].append(i)
    return rows


def _layered(dice: Dice, n: int) -> list[list[int]]:
    width = 1 + dice.below(4)
    rows: list[list[int]] = []
    for i in range(n):
        layer = i // width
        before = range((layer - 1) * width, layer * width) if layer else range(0)
        rows.append([j for j in before if dice.chance(0.6)])
    return rows


def _random_dag(dice: Dice, n: int) -> list[list[int]]:
    density = dice.pick((0.15, 0.3, 0.6))
    return [[j for j in range(i) if dice.chance(density)] for i in range(n)]


def _multi_edges(dice: Dice, n: int) -> list[list[int]]:
    return [[dice.below(i) for _ in range(dice.below(4))] if i else [] for i in range(n)]


SHAPES: tuple[Callable[[Dice, int], list[list[int]]], ...] = (
    *(_isolated, _chain, _fork_join, _out_tree, _in_tree),
    *(_layered, _random_dag, _random_dag, _multi_edges),
)
