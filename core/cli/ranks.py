"""A command that torchrun has started several times: rank 0 runs it, the others serve it."""

from __future__ import annotations

import os


def is_rank_zero() -> bool:
    """Return whether this process is to run the command: alone, or first of torchrun's."""
    return "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK", "0") == "0"


def release_ranks() -> None:
    """Let the other ranks end, where there are any; without torchrun this imports nothing."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from dynpartition.hardware.hosts import release

        release()
