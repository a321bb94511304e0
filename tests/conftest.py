"""Settings for all tests."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a test: only results count here, not times. CI tries the same
# examples every time, so that what passed once passes again; elsewhere each run tries new ones.
settings.register_profile(
    "calm",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("calm")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process
# that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what compares wall-clock times, unless it is asked for."""
    if "hardware" not in config.option.markexpr:
        leave_out = pytest.mark.skip(reason="compares wall-clock times; run with -m hardware")
        for item in items:
            if item.get_closest_marker("hardware"):
                item.add_marker(leave_out)
