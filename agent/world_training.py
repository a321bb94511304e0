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
from dynpartition.agent.lessons import Case, Crew
from dynpartition.agent.list_tables import list_graph
from dynpartition.agent.policy import Policy
from dynpartition.agent.rollout import Player
from dynpartition.agent.search import Problem, problem_of, search_plan
from dynpartition.agent.train import Metrics, TrainResult, train_on
from dynpartition.belief import Believing
from dynpartition.by_id import ById
from dynpartition.contract import Backend, CompletePlan, GraphWorkload
from dynpartition.graph import TaskGraph
from dynpartition.profile import Profile
from dynpartition.sim.backend import SimBackend
from dynpartition.sim.perturb import perturbed
from dynpartition.types import IntArray

HELD_OUT = ("grid", "random-dag", "series-parallel")
"""Families that policies are not trained on, so that they show what is learned of others."""
TRAINING_RANGES = Ranges(
    families=tuple(family for family in FAMILIES if family not in HELD_OUT),
    n_tasks=(8, 80),
    host_modes=(*["none"] * 6, "single", "threads", "processes", "replay"),
    first_use_share=0.2,
    batch_share=0.25,
    scarce_share=0.2,
)
"""What worlds are drawn from, if not told otherwise."""
VALIDATION = 1 << 32
"""Number of the first validation world; training worlds have smaller numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    """Which worlds a policy is trained on."""

    ranges: Ranges = field(default=TRAINING_RANGES)
    wrong_share: float = 0.25
    """Share of the worlds of which the policy knows a profile with errors."""
    wrong_by: tuple[float, float] = (0.03, 0.3)
    """Relative standard deviation of the errors of such a profile, each number its own."""
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
    validation = [case_of(worlds, config.seed, number) for number in numbers]
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
            self._cases[number] = case_of(self._worlds, self._config.seed, number)
        return self._cases[number]


def case_of(worlds: WorldConfig, seed: int, number: int) -> Case:
    """Return world `number` of a seed, and who plays it."""
    world = world_of(worlds.ranges, seed, number)
    backend: Backend = WorldBackend(world.profile)
    rng = np.random.default_rng(np.random.SeedSequence([seed, number, 1]))
    if rng.random() < worlds.wrong_share:
        error = float(rng.uniform(*worlds.wrong_by))
        backend = Believing(backend, perturbed(world.profile, number, uncertainty=error))
    return Player(backend), GraphWorkload(world.graph)


class WorldBackend(SimBackend):
    """The simulator, which prices many plans of one graph as searches do, batches too."""

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self._problems: ById[TaskGraph, Problem | None] = ById()

    def makespans_ns(self, plans: Sequence[CompletePlan]) -> IntArray:
        """Price all plans in one compiled call where they are of one graph, and memory is ample."""
        graph, problem = plans[0].graph, None
        if all(plan.graph is graph for plan in plans):
            problem = self._problems.get_or_make(graph, self._problem)
        if problem is None:
            return super().makespans_ns(plans)
        rows = [search_plan(plan.choices, len(graph)) for plan in plans]
        return problem.makespans_ns(np.stack(rows))

    def _problem(self, graph: TaskGraph) -> Problem | None:
        lists = list_graph(graph, self.profile)
        return None if lists is None else problem_of(lists)
