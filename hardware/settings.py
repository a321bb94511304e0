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
def preferred() -> Iterator[None]:
    """Let this process's threads go before others inside the block, where the system lets it.

    For those that pass on between hosts: they compute little, and devices wait for it. Threads that
    are started inside go first for as long as they live.
    """
    before = {thread: os.getpriority(os.PRIO_PROCESS, thread) for thread in _threads()}
    try:
        for thread in before:
            _set_priority(thread, PREFERRED)
        yield
    finally:
        for thread, priority in before.items():
            _set_priority(thread, priority)


def _threads() -> list[int]:
    """Return the threads of this process, by number; only this one where nobody tells."""
    tasks = Path("/proc/self/task")
    return [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else [0]


def _set_priority(thread: int, priority: int) -> None:
    with suppress(PermissionError, ProcessLookupError):  # not ours to set; or it has ended
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
