"""The words that all processes of a backend share: arrival flags and one line per worker.

Flags hold the number (epoch) of the session that set them last, so nothing needs clearing.
"""

from __future__ import annotations

import platform
import threading
import time

import numpy as np

from dynpartition.hardware.patience import Bell
from dynpartition.hardware.shared import SharedBlock

LINE_WORDS = 8
"""Words of a cache line: what different processes write lies on different lines."""
LINES = 256
FLAGS_MAX = 1 << 22
"""Transfers that one session can hold."""
CONTROL_BYTES = 8 * (LINES * LINE_WORDS + 2 * FLAGS_MAX)

NO_LAUNCH = 1 << 62
"""Where a worker is that has done all it knows of."""

_CUE_BITS = FLAGS_MAX.bit_length()
"""Of a cue: the transfer; the epoch lies above."""
_GO, _BELL, _READY, _FAILED, _LAUNCH, _BEAT, _CUE = range(7)
_lock = threading.Lock()


def _fence_by_lock() -> None:
    """Order all memory accesses before against all after, on processors that reorder them.

    An acquire may not pass an earlier release, so of two rounds nothing slips through.
    """
    with _lock:
        pass
    with _lock:
        pass


def _no_fence() -> None:
    """x86 keeps stores in order, and loads in order."""


fence = _no_fence if platform.machine() in ("x86_64", "AMD64", "i686") else _fence_by_lock


class Control:
    """Flags and words in shared memory. A word has one writer.

    `bell` tells threads of this process that something has been written.
    """

    def __init__(self, block: SharedBlock) -> None:
        self.bell = Bell()
        words = block.view.cast("q")
        self._words = words
        times = LINES * LINE_WORDS + FLAGS_MAX
        self.flags = words[LINES * LINE_WORDS : times]
        """Per transfer: the epoch in which it arrived last."""
        self.times = words[times:]
        """Per transfer: when that was, in virtual time or over slowed links; or the next cue."""

    def go(self, epoch: int) -> None:
        """Let all workers begin session `epoch`."""
        self._words[_GO] = epoch
        self.bell.ring()

    def has_gone(self, epoch: int) -> bool:
        """Return whether session `epoch` has begun."""
        return self._words[_GO] == epoch

    def ring(self, worker: int) -> int:
        """Tell `worker` that one more message is on its way; return how many there were."""
        word = _word(worker, _BELL)
        serial = self._words[word] + 1
        self._words[word] = serial
        self.bell.ring()
        return serial

    def rings(self, worker: int) -> int:
        """Return how many messages `worker` has been sent."""
        return self._words[_word(worker, _BELL)]

    def set_ready(self, worker: int, epoch: int) -> None:
        """Publish that `worker` has prepared its first segment of session `epoch`."""
        self._words[_word(worker, _READY)] = epoch
        self.bell.ring()

    def is_ready(self, worker: int, epoch: int) -> bool:
        """Return whether `worker` has prepared its first segment of session `epoch`."""
        return self._words[_word(worker, _READY)] == epoch

    def set_failed(self, worker: int) -> None:
        """Publish that `worker` has failed; its message says why."""
        self._words[_word(worker, _FAILED)] = 1
        self.bell.ring()

    def has_failed(self, worker: int) -> bool:
        """Return whether `worker` has failed."""
        return self._words[_word(worker, _FAILED)] == 1

    def set_launch(self, worker: int, launch: int) -> None:
        """Publish which launch `worker` is at."""
        self._words[_word(worker, _LAUNCH)] = launch

    def launch_of(self, worker: int) -> int:
        """Return which launch `worker` was at last."""
        return self._words[_word(worker, _LAUNCH)]

    def beat(self, worker: int) -> None:
        """Publish that `worker` is alive, though it waits."""
        self._words[_word(worker, _BEAT)] += 1

    def signs_of(self, worker: int) -> tuple[int, int]:
        """Return which launch `worker` was at last, and a number that changes while it waits."""
        return self._words[_word(worker, _LAUNCH)], self._words[_word(worker, _BEAT)]

    def clear(self, worker: int) -> None:
        """Forget a worker that is gone, so that another one can take its place."""
        for kind in (_BELL, _READY, _FAILED, _BEAT, _CUE):
            self._words[_word(worker, kind)] = 0
        self._words[_word(worker, _LAUNCH)] = NO_LAUNCH


class Arrivals:
    """The flags as one session sees them."""

    __slots__ = ("_bell", "_epoch", "_flags", "_paced", "_times")

    def __init__(self, control: Control, epoch: int, *, paced: bool = False) -> None:
        """`paced`: whether transfers arrive at times of the wall clock that are yet to come."""
        self._paced = paced
        self._flags = control.flags
        self._times = control.times
        self._epoch = epoch
        self._bell = control.bell

    def set(self, copy: int) -> None:
        """Publish that transfer `copy` has arrived, after everything written so far."""
        fence()
        self._flags[copy] = self._epoch
        self._bell.ring()

    def set_at(self, copy: int, now_ns: int) -> None:
        """Publish that transfer `copy` has arrived, or will have, at `now_ns`."""
        self._times[copy] = now_ns
        self.set(copy)

    def time_ns(self, copy: int) -> int:
        """Return when transfer `copy`, which has arrived, did so in virtual time."""
        return self._times[copy]

    def has(self, copy: int) -> bool:
        """Return whether transfer `copy` has arrived; its bytes may be read then."""
        if self._flags[copy] != self._epoch:
            return False
        fence()
        return not self._paced or time.perf_counter_ns() >= self._times[copy]


class Awaited:
    """Transfers whose flags one session waits for, however many."""

    def __init__(self, arrivals: Arrivals) -> None:
        """`arrivals`: the session's, of links that are not slowed."""
        self._flags = np.frombuffer(arrivals._flags, dtype=np.int64)
        self._epoch = arrivals._epoch
        self._new: list[int] = []
        self._copies = np.empty(0, dtype=np.int64)

    def add(self, copy: int) -> None:
        """Wait for one more."""
        self._new.append(copy)

    def take(self) -> list[int]:
        """Return those that have arrived, each once; their bytes may be read then."""
        if self._new:
            self._copies = np.concatenate([self._copies, np.array(self._new, dtype=np.int64)])
            self._new.clear()
        if not len(self._copies):
            return []
        is_there = self._flags[self._copies] == self._epoch
        if not is_there.any():
            return []
        there: list[int] = self._copies[is_there].tolist()
        self._copies = self._copies[~is_there]
        fence()
        return there


class Cues:
    """Which transfers between connected GPUs begin, in order: a chain for each worker elsewhere.

    Its first word is the worker's; the next one lies where the time of the transfer before would,
    which nobody needs. One end of it appends, the other reads on.
    """

    def __init__(self, control: Control, worker: int, epoch: int) -> None:
        self._words, self._first = control._words, _word(worker, _CUE)
        self._times, self._bell = control.times, control.bell
        self._epoch = (epoch + 1) << _CUE_BITS  # no word of a session is 0
        self._last = -1

    def append(self, copy: int) -> None:
        """Publish that transfer `copy` begins next."""
        word = self._epoch | copy
        if self._last < 0:
            self._words[self._first] = word
        else:
            self._times[self._last] = word
        self._last = copy
        self._bell.ring()

    def peek(self) -> int:
        """Return the transfer that begins next, until `skip`; -1: none yet."""
        word = self._words[self._first] if self._last < 0 else self._times[self._last]
        copy = word - self._epoch
        return copy if 0 <= copy < FLAGS_MAX else -1

    def skip(self) -> None:
        """Read on."""
        self._last = self.peek()


def _word(worker: int, kind: int) -> int:
    # Two lines per worker: the caller writes to the first, the worker to the second.
    line = 2 + 2 * worker + (kind not in (_BELL, _CUE))
    return line * LINE_WORDS + kind
