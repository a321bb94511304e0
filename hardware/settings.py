"""What a thread needs to run launches undisturbed, and how it gets its old settings back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

PREFERRED = -10
"""Priority of those that others wait for."""


def stay_on(core: int | None) -> None:
    """Keep this thread on one processor core, where the platform can."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


@contextmanager
def preferred(core: int | None) -> Iterator[None]:
    """Keep this process's threads on `core`, and before others, inside the block.

    For those that pass on between hosts: they compute little, and devices wait for it. Only as far
    as the platform lets it; threads that are started inside stay so for as long as they live.
    """
    before = [(thread, _priority(thread), _affinity(thread)) for thread in _threads()]
    try:
        for thread, _, affinity in before:
            _set(thread, PREFERRED, affinity if core is None else {core})
        yield
    finally:
        for thread, priority, affinity in before:
            _set(thread, priority, affinity)


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
