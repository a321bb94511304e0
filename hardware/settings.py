"""What a thread needs to run launches undisturbed, and how it gets its old settings back."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

PREFERRED = -10
"""Priority of those that others wait for."""


def stay_on(core: int | None) -> None:
    """Keep this thread on one processor core, where the platform can."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


@contextmanager
def preferred(core: int | None, leave: Collection[int] = ()) -> Iterator[None]:
    """Keep this process's threads on `core`, and before others, inside the block; not `leave`.

    For those that pass on between hosts: they compute little, and devices wait for it. Only as far
    as the platform lets it; threads that are started inside stay so for as long as they live.
    """
    threads = [thread for thread in _threads() if thread not in leave]
    before = [(thread, _priority(thread), _affinity(thread)) for thread in threads]
    try:
        for thread, _, affinity in before:
            _set(thread, PREFERRED, affinity if core is None else {core})
        yield
    finally:
        for thread, priority, affinity in before:
            _set(thread, priority, affinity)


class PreferredThreads:
    """`preferred` for blocks that overlap: from the first that begins to the last that ends.

    The threads of the process stay on the core of the first.
    """

    def __init__(self, leave: Collection[int] = ()) -> None:
        self._leave = leave
        self._lock = threading.Lock()
        self._n_blocks = 0
        self._scope = ExitStack()

    @contextmanager
    def preferred(self, core: int | None) -> Iterator[None]:
        """Be one of the blocks."""
        with self._lock:
            if not self._n_blocks:
                self._scope.enter_context(preferred(core, self._leave))
            self._n_blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_blocks -= 1
                if not self._n_blocks:
                    self._scope.close()


def _threads() -> list[int]:
    """Return the threads of this process, by number; only this one where nobody tells."""
    tasks = Path("/proc/self/task")
    return [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else [0]


def _priority(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


def _affinity(thread: int) -> set[int]:
    return os.sched_getaffinity(thread) if hasattr(os, "sched_getaffinity") else set()


def _set(thread: int, priority: int, affinity: set[int]) -> None:
    with suppress(ProcessLookupError):  # it has ended
        if affinity and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(thread, affinity)
        with suppress(PermissionError):  # as for most users
            os.setpriority(os.PRIO_PROCESS, thread, priority)


@contextmanager
def running_thread(core: int | None) -> Iterator[None]:
    """Keep the caller on `core`, with one PyTorch thread and no autograd, inside the block."""
    threads = torch.get_num_threads()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        torch.set_num_threads(1)
        stay_on(core)
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)
        if allowed is not None:
            os.sched_setaffinity(0, allowed)
