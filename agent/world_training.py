"""Training on random worlds: every update on graphs and machines that have not been seen before.

That makes the shipped policy: it knows no model and no machine, and serves any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dynpartition.agent.checkpoint import Checkpoint
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.families import FAMILIES, Ranges, World, draw_setting, draw_world
from dynpartition.agent.policy import Policy
from dynpartition.agent.rollout import Player
from dynpartition.agent.train import Case, Metrics, TrainResult, train_on
from dynpartition.contract import GraphWorkload
from dynpartition.sim.backend import SimBackend

HELD_OUT = ("grid", "random-dag", "series-parallel")
"""Families that policies are not trained on, so that they show what is learned of others."""
TRAINING_RANGES = Ranges(
    families=tuple(family for family in FAMILIES if family not in HELD_OUT),
    n_tasks=(8, 80),
    host_modes=(*["none"] * 6, "single", "threads", "processes", "replay"),
    first_use_share=0.2,
)
"""What worlds are drawn from, if not told otherwise."""
VALIDATION = 1 << 32
"""Number of the first validation world; training worlds have smaller numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """Which worlds a policy is trained on."""

    ranges: Ranges = field(default=TRAINING_RANGES)
    reuse: int = 4
    """Updates that play the same worlds before new ones are drawn: drawing costs as much as a few
    plays."""
    n_validation: int = 64
    """Worlds that validation plays, never trained on."""


def train_on_worlds(
    start: Checkpoint | Policy,
    config: TrainConfig,
    worlds: WorldConfig,
    *,
    on_update: Callable[[Metrics], None] = lambda metrics: None,
    on_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> TrainResult:
    """Train from `start` on worlds that depend on the seed and the number of the update alone."""
    source = _Worlds(config, worlds)
    numbers = range(VALIDATION, VALIDATION + worlds.n_validation)
    validation = [_case(world_of(worlds.ranges, config.seed, number)) for number in numbers]
    return train_on(
        source.draw, validation, start, config, on_update=on_update, on_checkpoint=on_checkpoint
    )


def world_of(ranges: Ranges, seed: int, number: int) -> World:
    """Return world `number` of a seed."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
    return draw_world(draw_setting(ranges, rng), rng)


class _Worlds:
    """Draws worlds in generations that several updates share."""

    def __init__(self, config: TrainConfig, worlds: WorldConfig) -> None:
        self._config, self._worlds = config, worlds
        self._generation, self._cases = -1, list[Case]()

    def draw(self, update: int) -> Sequence[Case]:
        """Return the cases of an update."""
        generation = update // self._worlds.reuse
        if generation != self._generation:
            first = generation * self._config.groups
            ranges, seed = self._worlds.ranges, self._config.seed
            numbers = range(first, first + self._config.groups)
            self._cases = [_case(world_of(ranges, seed, number)) for number in numbers]
            self._generation = generation
        return self._cases


def _case(world: World) -> Case:
    return Player(SimBackend(world.profile)), GraphWorkload(world.graph)
