"""A scheduler that remembers what it decided for graphs of the same content."""

from __future__ import annotations

from collections.abc import Sequence

from dynpartition.contract import Scheduler
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile

SUFFIX = "+cache"
"""What `--scheduler` names end with."""
PLANS_MAX = 4096
"""Plans that are remembered; the one used longest ago makes room."""


class Caching(Scheduler):
    """Asks the inner scheduler once per graph content and profile.

    Inputs of one shape have equal graphs. Only first calls are remembered: what is planned after a
    reveal depends on more than the graph.
    """

    def __init__(self, inner: Scheduler, size: int = PLANS_MAX) -> None:
        self.inner = inner
        self.name = inner.name + SUFFIX
        self._size = size
        self._profile: Profile | None = None
        self._plans: dict[object, Sequence[Launch]] = {}  # least recently used first

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; those of an equal graph, where there was one."""
        if planned:
            return self.inner.schedule(graph, profile, planned)
        if profile is not self._profile:
            self._profile = profile
            self._plans.clear()
        key = _content(graph)
        launches = self._plans.pop(key, None)
        if launches is None:
            launches = tuple(self.inner.schedule(graph, profile, planned))
        self._plans[key] = launches
        if len(self._plans) > self._size:
            del self._plans[next(iter(self._plans))]
        return launches


def _content(graph: TaskGraph) -> object:
    """Return what equal graphs have in common; faster than their digest."""
    arrays = (
        graph.cell_of,
        graph.inputs.start,
        graph.inputs.values,
        graph.output_bytes,
        graph.host_bytes,
        graph.returns,
        graph.revealed_by,
        graph.arrival_ns,
        graph.request,
        *graph.durations.values(),
    )
    return graph.cells, tuple(graph.durations), tuple([array.tobytes() for array in arrays])
