"""How a whole test run is spread over processes: pytest-xdist asks here (see conftest)."""

from __future__ import annotations

import os

import pytest
from xdist.scheduler import LoadFileScheduling

DEVICES = (
    "tests/hardware/",
    "tests/serving/",
    "tests/benchmarks/test_capture_benchmark.py",
    "tests/benchmarks/test_execution_benchmark.py",
    "tests/calibration/test_calibrate.py",
    "tests/calibration/test_sim_vs_real.py",
    "tests/calibration/test_virtual_time.py",
    "tests/agent/test_on_hardware.py",
    "tests/core/test_quickstart.py",
)
"""Tests that spend their time on driving devices; those that need compiled code come last."""
LONG = ("tests/agent/", "tests/sim/test_oracle.py", "tests/sim/test_campaign.py")
"""What goes first of the others: it compiles what others need, or takes a minute by itself."""


class Distribution(LoadFileScheduling):
    """A file's tests run in one process, for what they share, and all device tests in one.

    Two sets of devices at a time would make each other wait where there are two cores.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "devices" if nodeid.startswith(DEVICES) else super()._split_scope(nodeid)


def n_processes(config: pytest.Config) -> int:
    """Return how many processes a run is worth: some for a whole one, none besides for a choice."""
    is_choice = config.args_source is config.ArgsSource.ARGS
    if is_choice or config.option.keyword or config.option.markexpr:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # One process drives devices, which need cores of their own.
    return 0 if cores < 2 else max(2, min(4, cores - 1))


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """Return tests in the order in which their groups are handed out."""
    first = (*DEVICES, *LONG)

    def place(item: pytest.Item) -> int:
        return next((n for n, name in enumerate(first) if item.nodeid.startswith(name)), len(first))

    return sorted(items, key=place)
