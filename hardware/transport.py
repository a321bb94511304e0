"""What the caller needs of time and of its workers; tests put a simulated world there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dynpartition.hardware.messages import Channel, Message, Pause
from dynpartition.hardware.patience import Patience, Spinner


def _spinner(polite: bool) -> Patience:
    return Spinner(polite=polite)


@dataclass(frozen=True)
class Clock:
    """The time, and how to spend some of it."""

    now_ns: Callable[[], int] = time.monotonic_ns
    patience: Callable[[bool], Patience] = _spinner
    """`polite` → how a loop that waits is paced."""


class Worker(Protocol):
    """One worker as the caller sees it; besides there are the words and flags of `Control`."""

    @property
    def name(self) -> str:
        """The device that it is."""

    @property
    def has_ended(self) -> bool:
        """Whether it is gone; cheap."""

    def ending(self) -> str:
        """Return how it ended, in a few words; ends it if need be."""

    def send(self, message: Message, pause: Pause) -> None:
        """Send one message; OSError when the worker is gone."""

    def has_mail(self) -> bool:
        """Return whether a message, or the end of the stream, is there."""

    def receive(self, pause: Pause) -> Message:
        """Wait for one message; EOFError or OSError when the worker is gone."""

    def hang_up(self) -> None:
        """Tell the worker to end."""

    def bury(self, deadline_s: float) -> None:
        """End it by force at a time of the monotonic clock; afterwards it writes to nothing."""


class WorkerOnSocket:
    """What workers have in common that are at the other end of a socket."""

    channel: Channel
    """Our end."""

    def send(self, message: Message, pause: Pause) -> None:
        """Send one message; OSError when the worker is gone."""
        self.channel.send(message, pause)

    def has_mail(self) -> bool:
        """Return whether a message, or the end of the stream, is there."""
        return self.channel.poll(0)

    def receive(self, pause: Pause) -> Message:
        """Wait for one message; EOFError or OSError when the worker is gone."""
        return self.channel.receive(pause)


StartWorkers = Callable[[Sequence[int]], Sequence[Worker]]
"""Numbers of workers → these, ready for work. Raises DeviceError, and leaves none behind then."""
