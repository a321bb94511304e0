"""Waiting: how a loop that waits for others is paced."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol

SPINS = 200
YIELDS = 4000
NAP_S = 50e-6
LISTEN_S = 1e-3
"""How long a thread waits for the bell before it shows a sign of life."""

_yield_core = getattr(os, "sched_yield", lambda: time.sleep(0))


class Patience(Protocol):
    """Paces a loop that waits."""

    def reset(self) -> None:
        """Note progress: the next wait begins as the first one did."""

    def pause(self) -> None:
        """Spend a moment."""

    @property
    def is_asleep(self) -> bool:
        """Whether nothing has come for so long that a slower way of waiting will do."""


class Spinner:
    """First spins, then yields the core, then sleeps, for processes that have a core each.

    With `polite` it sleeps at once: the core is not its own.
    """

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


class Listener:
    """Waits for a `Bell`, for threads of one process.

    One that spun would hold the interpreter's lock, which those need that it waits for.
    """

    def __init__(self) -> None:
        self._strokes: SimpleQueue[None] = SimpleQueue()

    def wake(self) -> None:
        """End the pause, or the next one."""
        if self._strokes.empty():  # one stroke is as good as many
            self._strokes.put(None)

    def reset(self) -> None:
        """Do nothing: every wait is the same."""

    def pause(self) -> None:
        """Wait for the bell, but not for long."""
        with suppress(Empty):
            self._strokes.get(timeout=LISTEN_S)

    @property
    def is_asleep(self) -> bool:
        """Always: it costs nothing to wait in another way."""
        return True


class Sleeper(Protocol):
    """Somebody who waits for the bell."""

    def wake(self) -> None:
        """End the pause, or the next one."""


class Bell:
    """Wakes all threads of this process that listen, and others' that do. Silent where none do."""

    def __init__(self) -> None:
        self._listeners: tuple[Sleeper, ...] = ()

    def add(self, sleeper: Sleeper) -> None:
        """Wake `sleeper` too from now on."""
        self._listeners = (*self._listeners, sleeper)

    def listener(self) -> Listener:
        """Return a new listener."""
        listener = Listener()
        self.add(listener)
        return listener

    def dismiss(self, listener: Patience | Sleeper) -> None:
        """Wake a listener no more."""
        self._listeners = tuple(one for one in self._listeners if one is not listener)

    def ring(self) -> None:
        """Wake all listeners; what they wait for has been written before."""
        for listener in self._listeners:
            listener.wake()
