"""Virtual time: a device's clock counts the processor time of its thread, and stops while it waits.

On a machine that other work shares, wall-clock times hold what the others took. The CPU time of a
thread does not (it still feels shared caches and clock rates), and what arrives from another device
carries that device's time with it: a launch starts at the latest of its device's own time and its
inputs' arrivals, as in the simulator. So this clock tests whether costs add up, apart from luck.
"""

from __future__ import annotations

import time
from typing import Literal

ClockKind = Literal["wall", "virtual"]
"""Which clock stamps are read from."""

START_NS = 1
"""When every device's virtual clock begins: 0 stands for a clock that has not started."""


class VirtualClock:
    """Virtual time of one device in one session; to be used by the thread that is the device."""

    __slots__ = ("_at_ns", "_since_ns")

    def __init__(self) -> None:
        self._at_ns = START_NS
        self._since_ns = -1  # thread time when it was started last; -1: it stands

    def now_ns(self) -> int:
        """Return the time."""
        if self._since_ns < 0:
            return self._at_ns
        return self._at_ns + time.thread_time_ns() - self._since_ns

    def stop(self) -> None:
        """Stand still: the device waits. Does nothing when it stands."""
        if self._since_ns >= 0:
            self._at_ns += time.thread_time_ns() - self._since_ns
            self._since_ns = -1

    def go(self, not_before_ns: int = 0) -> None:
        """Go on, from `not_before_ns` if that is later."""
        if self._since_ns < 0:
            self._at_ns = max(self._at_ns, not_before_ns)
            self._since_ns = time.thread_time_ns()
        elif not_before_ns:
            self._at_ns += max(0, not_before_ns - self.now_ns())


class DecisionClock:
    """Tells the caller when values are seen and when what they reveal has been planned.

    In virtual time a value is seen when it arrives, and deciding takes the caller's processor time
    but not its device's: so says the simulator.
    """

    def __init__(self, kind: ClockKind) -> None:
        self.is_virtual = kind == "virtual"
        self._seen_ns = self._since_ns = 0

    def start_ns(self) -> int:
        """Return when a session starts that starts now."""
        return START_NS if self.is_virtual else time.perf_counter_ns()

    def seen_ns(self, arrived_ns: int) -> int:
        """Return when a value is seen that arrived, in virtual time, at `arrived_ns`."""
        if not self.is_virtual:
            return time.perf_counter_ns()
        self._seen_ns, self._since_ns = max(self._seen_ns, arrived_ns), time.thread_time_ns()
        return arrived_ns

    def planned_ns(self) -> int:
        """Return when what was seen last has led to a plan, if that is now."""
        if not self.is_virtual:
            return time.perf_counter_ns()
        return self._seen_ns + time.thread_time_ns() - self._since_ns
