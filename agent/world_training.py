"""Training on random worlds: every update on graphs and machines that have not been seen before.

That makes the shipped policy: it knows no model and no machine, and serves any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dynpartition.agent.checkpoint import Checkpoint
from dynpartition.agent.config import TrainConfig
from dynpartition.agent.families import FAMILIES, Ranges, World, draw_setting, draw_world
from dynpartition.agent.lessons import Case, Crew
from dynpartition.agent.policy import Policy
from dynpartition.agent.rollout import Player
from dynpartition.agent.train import Metrics, TrainResult, train_on
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
    crew: Crew | None = None,
) -> TrainResult:
    """Train from `start` on worlds that depend on the seed and the number of the update alone.

    `crew`: who plays rollouts of `WorldSource(config, worlds)` elsewhere, with the same result.
    """
    source = WorldSource(config, worlds)
    numbers = range(VALIDATION, VALIDATION + worlds.n_validation)
    validation = [_case(world_of(worlds.ranges, config.seed, number)) for number in numbers]
    return train_on(
        *(source, validation, start, config),
        on_update=on_update,
        on_checkpoint=on_checkpoint,
        crew=crew,
    )


def world_of(ranges: Ranges, seed: int, number: int) -> World:
    """Return world `number` of a seed."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
    return draw_world(draw_setting(ranges, rng), rng)


class WorldSource:
    """Random worlds, in generations that several updates share."""

    def __init__(self, config: TrainConfig, worlds: WorldConfig) -> None:
        self._config, self._worlds = config, worlds
        self._cases: dict[int, Case] = {}

    def numbers(self, update: int) -> range:
        """Return the numbers of the worlds of an update."""
        first = update // self._worlds.reuse * self._config.groups
        return range(first, first + self._config.groups)

    def case(self, number: int) -> Case:
        """Return a world, drawn where it is not one of this generation that is known."""
        if number not in self._cases:
            first = number // self._config.groups * self._config.groups
            self._cases = {n: case for n, case in self._cases.items() if n >= first}
            world = world_of(self._worlds.ranges, self._config.seed, number)
            self._cases[number] = _case(world)
        return self._cases[number]


def _case(world: World) -> Case:
    return Player(SimBackend(world.profile)), GraphWorkload(world.graph)
