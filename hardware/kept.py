"""Plans of shapes seen before: lowered once, and kept by every device that has had its part.

A shape is which tasks there are, of which kinds, and what they read. An input of a shape seen
before, planned the same way, is only told to run: nothing is lowered, placed, sent or prepared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynpartition.hardware.layout import Places
from dynpartition.hardware.messages import Segment
from dynpartition.hardware.tasks import KnownTasks
from dynpartition.plan import Launch, Plan
from dynpartition.program import Program

PLANS_MAX = 128
"""Plans that a backend keeps; the one used longest ago makes room."""
TASKS_MAX = 5000
"""Larger ones are not kept: they take long to run, and much memory to keep."""

Shape = tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Kept:
    """A plan with all that was derived from it."""

    launches: tuple[Launch, ...]
    plan: Plan
    program: Program
    places: Places
    segments: Sequence[Segment]


class KeptPlans:
    """The plans of a backend, by shape; at most one for each."""

    def __init__(self, size: int = PLANS_MAX) -> None:
        self._size = size
        self._plans: dict[Shape, Kept] = {}  # least recently used first

    def __len__(self) -> int:
        return len(self._plans)

    def find(self, tasks: KnownTasks, launches: Sequence[Launch]) -> Kept | None:
        """Return the plan of these launches for tasks of this shape, or None."""
        shape = _shape(tasks)
        kept = self._plans.get(shape)
        if kept is None or kept.launches != tuple(launches):
            return None
        self._plans[shape] = self._plans.pop(shape)
        return kept

    def keep(self, tasks: KnownTasks, kept: Kept) -> None:
        """Keep a plan and number its segments; devices overwrite what had the number before."""
        if not self._size or len(tasks) > TASKS_MAX:
            return
        shape = _shape(tasks)
        old = self._plans.pop(shape, None)
        if old is None and len(self._plans) >= self._size:
            old = self._plans.pop(next(iter(self._plans)))
        number = len(self._plans) + 1 if old is None else old.segments[0].number
        for segment in kept.segments:
            segment.number = number
        self._plans[shape] = kept


def _shape(tasks: KnownTasks) -> Shape:
    inputs = tasks.inputs
    rows = (tasks.kind_of.tobytes(), inputs.start.tobytes(), inputs.values.tobytes())
    return (*rows, *tasks.kinds)
