"""What a thread needs to run launches undisturbed, and how it gets its old settings back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stay_on(core: int | None) -> None:
    """Keep this thread on one processor core, where the platform can."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


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
