"""Virtual time: SimPy events, gathered into instants.

Within one instant everything that completes at time t is applied first; then the phases run in
their fixed order. What they start with zero length completes in the next round of the same
instant. So nothing depends on the order in which events were inserted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import simpy

Effect = Callable[[], None]


class InstantClock:
    """Runs `phases` after the completions of every instant, until nothing is left to happen."""

    def __init__(self) -> None:
        self._environment = simpy.Environment()
        self._phases: Sequence[Effect] = ()
        self._stop_ns = -1
        self.now_ns = 0
        """The current time in ns."""

    def after(self, delay_ns: int, complete: Effect) -> None:
        """Apply `complete` in `delay_ns` ns, then let the instant settle."""
        timeout = self._environment.timeout(delay_ns, complete)
        timeout.callbacks.append(self._complete)

    def run(self, phases: Sequence[Effect], *, until_ns: int | None = None) -> None:
        """Start at time 0 and go on until no event is left.

        With `until_ns` go on to that time, complete what ends then, and begin nothing any more.
        """
        self._phases = phases
        if until_ns is None:
            self._settle()
            self._environment.run()
            return
        self._stop_ns = until_ns
        if until_ns > 0:
            self._settle()
        while self._environment.peek() <= until_ns:
            self._environment.step()

    def _complete(self, event: simpy.Event) -> None:
        complete = event.value
        assert complete is not None
        self.now_ns = now_ns = int(self._environment.now)
        complete()
        more_completes = self._environment.peek() <= now_ns
        if not more_completes and now_ns != self._stop_ns:
            self._settle()

    def _settle(self) -> None:
        for phase in self._phases:
            phase()
