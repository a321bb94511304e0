"""The policy, and the scheduler that plays it. Importing this imports neither torch nor numba."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dynpartition.contract import Scheduler
from dynpartition.errors import SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile
from dynpartition.types import FloatArray, IntArray

if TYPE_CHECKING:
    from dynpartition.agent.decoder import Decoder
    from dynpartition.agent.network import Weights
    from dynpartition.agent.network_kernel import Net

MAX_READY = 16
"""Ready tasks that an environment shows at once, if not told otherwise."""
SHIPPED = Path(__file__).parent / "shipped"
"""The checkpoint that comes with the package."""
ROOM, PLANS_MIN, PLANS_MAX = 192, 2, 12
"""A decision makes as many plans as hold so many tasks together, within bounds: what it costs
hardly depends on the size of small inputs."""


class Policy:
    """A set of weights; see `dynpartition.agent.network`."""

    def __init__(self, weights: Weights) -> None:
        self.weights: dict[str, FloatArray] = dict(weights)
        self._tries: dict[tuple[int, int], tuple[IntArray, IntArray]] = {}

    @staticmethod
    def untrained(seed: int = 0, n_styles: int | None = None) -> Policy:
        """Return a policy with random weights that prefers next to nothing."""
        from dynpartition.agent.network import N_STYLES, untrained_weights

        return Policy(untrained_weights(seed, n_styles or N_STYLES))

    @property
    def n_styles(self) -> int:
        """How many plans it makes for an input, of which the best is taken."""
        return len(self.weights["ready_bias"])

    @cached_property
    def flat(self) -> FloatArray:
        """All weights as one array."""
        from dynpartition.agent.network import flat

        return flat(self.weights)

    @cached_property
    def net(self) -> Net:
        """Where they lie in it."""
        from dynpartition.agent.network import net_of

        return net_of(self.n_styles)

    def tries(self, n_tasks: int, n_devices: int) -> tuple[IntArray, IntArray]:
        """Return styles and seeds of the plans of a decision for so many tasks and devices.

        First everything on one device, each in turn, most of which are given up unseen; then the
        first style greedily, then drawn plans with fixed seeds, style by style: as many plans as
        hold ROOM tasks together, within bounds.
        """
        n_plans = max(PLANS_MIN, min(PLANS_MAX, ROOM // max(1, n_tasks)))
        known = self._tries.get((n_plans, n_devices))
        if known is None:
            from dynpartition.agent.decoder import GREEDY, ONE_DEVICE

            alone, drawn = range(n_devices), range(n_plans - 1)
            styles = [ONE_DEVICE - place for place in alone]
            styles += [0, *((number + 1) % self.n_styles for number in drawn)]
            seeds = [GREEDY] * (n_devices + 1) + [*drawn]
            known = np.array(styles, dtype=np.int64), np.array(seeds, dtype=np.int64)
            self._tries[n_plans, n_devices] = known
        return known


class PolicyScheduler(Scheduler):
    """Plays a policy: the best of several plans and of those on a single device."""

    name = "policy"

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._profile: Profile | None = None
        self._decoder: Decoder | None = None

    @staticmethod
    def load(folder: Path | None = None) -> PolicyScheduler:
        """Return the scheduler of a checkpoint, default: the shipped one.

        Raises CheckpointError if it cannot be used.
        """
        from dynpartition.agent.checkpoint import load_checkpoint

        return PolicyScheduler(load_checkpoint(folder or SHIPPED).policy)

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches in the order of choosing."""
        from dynpartition.agent.list_tables import machine_of  # needs numba

        decoder = self._decoder_for(profile)
        decoder.begin(graph, planned)
        return machine_of(profile).launches(decide(self.policy, decoder, graph))

    def _decoder_for(self, profile: Profile) -> Decoder:
        if self._decoder is None or self._profile is not profile:
            from dynpartition.agent.decoder import Decoder  # needs numba

            self._profile, self._decoder = profile, Decoder(profile)
        return self._decoder


def decide(policy: Policy, decoder: Decoder, graph: TaskGraph) -> IntArray:
    """Return int64 (n, 3) choices in plan order for what `decoder` has begun with.

    Columns: task, device, and whether the task joins the launch of the task before it.

    Raises SchedulerError where a ready task has no legal device.
    """
    if not decoder.n_left:
        return np.zeros((0, 2), dtype=np.int64)
    decoder.think(policy.flat, policy.net)
    rolled = decoder.roll(*policy.tries(decoder.n_left, decoder.n_devices), prunes=True)
    best = decoder.best_of(rolled)
    if best < 0:
        raise SchedulerError(f"no ready task of graph {graph.name!r} has a legal device")
    choices: IntArray = rolled.choices[best]
    return choices
