"""Waiting: first spin, then yield the core, then sleep."""

from __future__ import annotations

import os
import time

SPINS = 200
YIELDS = 4000
NAP_S = 50e-6

_yield_core = getattr(os, "sched_yield", lambda: time.sleep(0))


class Patience:
    """Paces a loop that waits. With `polite` it sleeps at once: the core is not its own."""

    def __init__(self, *, polite: bool = False) -> None:
        self._first = SPINS + YIELDS if polite else 0
        self.rounds = self._first

    def reset(self) -> None:
        """Note progress: the next wait begins with spinning again."""
        self.rounds = self._first

    def pause(self) -> None:
        """Spend a moment, longer the longer nothing has happened."""
        self.rounds += 1
        if self.rounds <= SPINS:
            return
        if self.rounds <= SPINS + YIELDS:
            _yield_core()
        else:
            time.sleep(NAP_S)

    @property
    def is_asleep(self) -> bool:
        """Whether spinning has been given up."""
        return self.rounds > SPINS + YIELDS
