"""Virtual time: SimPy events, gathered into instants.

Within one instant everything that completes at time t is applied first; then the phases run in
their fixed order. What they start with zero length completes in the next round of the same
instant. So nothing depends on the order in which events were inserted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Protocol

from simpy import Environment, Timeout

Effect = Callable[[], None]


class Completion(Protocol):
    """The SimPy event of something that takes time, when it is over."""

    @property
    def value(self) -> Any:
        """What has completed."""


class InstantClock:
    """Runs phases after the completions of every instant, until nothing is left to happen."""

    def __init__(self) -> None:
        self._environment = Environment()
        self.now_ns = 0
        """The current time in ns."""

    def after(
        self, delay_ns: int, complete: Callable[[Completion], None], what: object = None
    ) -> None:
        """Call `complete` in `delay_ns` ns, with an event of value `what`, before the phases."""
        Timeout(self._environment, delay_ns, what).callbacks.append(complete)

    def run(self, phases: Sequence[Effect], *, until_ns: int | None = None) -> None:
        """Start at time 0 and go on until no event is left.

        With `until_ns` go on to that time, complete what ends then, and begin nothing any more.
        """
        end_ns = inf if until_ns is None else until_ns + 1
        step = self._environment.step
        peek: Callable[[], Any] = self._environment.peek  # infinite when no event is left
        self.after(0, _begin)
        now_ns = peek()
        while now_ns < end_ns:
            self.now_ns = now_ns
            step()
            next_ns = peek()
            if next_ns > now_ns and now_ns != until_ns:
                for phase in phases:
                    phase()
                next_ns = peek()
            now_ns = next_ns


def _begin(_: Completion) -> None:
    """Nothing completes before the first instant."""
