"""What a policy brings to a search: the plans of a decision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynpartition.agent.decoder import Decoder
from dynpartition.agent.estimate_kernel import NEVER
from dynpartition.agent.list_tables import ListGraph
from dynpartition.agent.policy import Policy
from dynpartition.agent.search import search_plan
from dynpartition.plan import Plan
from dynpartition.profile import Profile
from dynpartition.types import IntArray


class PolicyStarts:
    """Plans around which a search begins."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._profile: Profile | None = None
        self._decoder: Decoder | None = None

    def plans(self, lists: ListGraph, planned: Plan) -> Sequence[IntArray]:
        """Return search plans (3, N) for what is not planned, the policy's decision first.

        Not all that a decision makes: one is given up as soon as an earlier one is as good.
        """
        profile = lists.machine.profile
        if self._decoder is None or self._profile is not profile:
            self._profile, self._decoder = profile, Decoder(profile)
        decoder = self._decoder
        decoder.begin_on(lists, planned)
        if not decoder.n_left:
            return []
        decoder.think(self._policy.flat, self._policy.net)
        rolled = decoder.roll(*self._policy.tries(decoder.n_left, decoder.n_devices), prunes=True)
        best = decoder.best_of(rolled)
        if best < 0:
            return []
        by_end = np.argsort(rolled.ends_ns, kind="stable").tolist()
        others = [each for each in by_end if each != best and 0 <= rolled.ends_ns[each] < NEVER]
        return [search_plan(rolled.choices[each], len(lists.graph)) for each in [best, *others]]
