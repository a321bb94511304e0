"""Virtual time: SimPy events, gathered into instants.

Within one instant everything that completes at time t is applied first; then the phases run in
their fixed order. What they start with zero length completes in the next round of the same
instant. So nothing depends on the order in which events were inserted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import simpy
from simpy.events import EventPriority

Effect = Callable[[], None]

# SimPy sorts the events of one time by priority: 0 urgent, 1 normal, then ours.
_AFTER_COMPLETIONS = EventPriority(2)


class InstantClock:
    """Runs `phases` after the completions of every instant, until nothing is left to happen."""

    def __init__(self, phases: Sequence[Effect]) -> None:
        self._environment = simpy.Environment()
        self._phases = phases
        self._settling = False

    @property
    def now_ns(self) -> int:
        """The current time in ns."""
        return int(self._environment.now)

    def after(self, delay_ns: int, complete: Effect) -> None:
        """Apply `complete` in `delay_ns` ns, then let the instant settle."""
        timeout = self._environment.timeout(delay_ns)
        timeout.callbacks.append(lambda _: self._complete(complete))

    def run(self) -> None:
        """Start at time 0 and go on until no event is left."""
        self._request_settling()
        self._environment.run()

    def _complete(self, effect: Effect) -> None:
        effect()
        self._request_settling()

    def _request_settling(self) -> None:
        if not self._settling:
            self._settling = True
            event = self._environment.event()
            event._ok, event._value = True, None
            event.callbacks.append(lambda _: self._settle())
            self._environment.schedule(event, priority=_AFTER_COMPLETIONS)

    def _settle(self) -> None:
        self._settling = False
        for phase in self._phases:
            phase()
