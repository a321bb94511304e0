"""Wakes a process that sleeps until another one has written something to shared memory.

A pipe: whoever writes to the memory rings by a byte, which costs a microsecond or two, and more
only where the other one has to be woken. Those that pass on between hosts sleep this way: by
spinning they would take the cores of devices, by napping they would notice late.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress

_STROKES_MAX = 1 << 16
"""What a pipe holds, or more."""


class Doorbell:
    """A pipe, by the file descriptors of its ends: one sleeps, any number ring."""

    def __init__(self, ends: tuple[int, int]) -> None:
        """`ends`: as `create` made them, here or in the process that this one was started by."""
        self.ends = ends
        self._poll = select.poll()
        self._poll.register(ends[0], select.POLLIN)

    @staticmethod
    def create() -> Doorbell:
        """Return a new one."""
        ends = os.pipe()
        for end in ends:
            os.set_blocking(end, False)
        return Doorbell(ends)

    def wake(self) -> None:
        """End the sleep of the other process, or its next one; what it waits for lies there."""
        with suppress(
            OSError
        ):  # full of strokes, which is as good; or nobody sleeps there any more
            os.write(self.ends[1], b"\0")

    def also(self, fd: int) -> None:
        """Let what can be read from another file end a sleep, too."""
        self._poll.register(fd, select.POLLIN)

    def sleep(self, timeout_s: float) -> bool:
        """Sleep until it rings, or has rung since the last sleep, or for `timeout_s`.

        Returns whether it rang.
        """
        rang = any(fd == self.ends[0] for fd, _ in self._poll.poll(1000 * timeout_s))
        if rang:
            os.read(self.ends[0], _STROKES_MAX)
        return rang

    def close(self) -> None:
        """Close both ends in this process. A late stroke goes nowhere, not to other files."""
        ends, self.ends = self.ends, (-1, -1)
        for end in ends:
            os.close(end)
