"""Settings for all tests."""

import os
import shutil
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.leftovers import Leftovers, lasting

# Small matrices are all there is here: threads for them would wait for each other most of the time,
# the more so where tests run side by side. Nothing has imported NumPy or PyTorch yet.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

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
    if "PYTEST_XDIST_WORKER" in os.environ:
        from tests.distribution import in_order

        items[:] = in_order(items)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_behind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Fail at the end where a process, shared memory or a temporary file has outlived the tests."""
    tmp_path_factory.getbasetemp()  # stays where pytest wants it
    leftovers, found = Leftovers(), []
    with leftovers.watched():
        yield
        if request.session.exitstatus != pytest.ExitCode.INTERRUPTED:  # who stops it does not wait
            found += lasting(leftovers.processes) + lasting(leftovers.memory) + leftovers.files()
            if not request.session.testsfailed:  # what failed is kept for its report
                found += leftovers.mapped_memory()
    shutil.rmtree(leftovers.folder)
    if found:
        pytest.fail("the tests have left behind:\n" + "\n".join(found), pytrace=False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Say what `-n auto` means here."""
    from tests.distribution import n_processes

    return n_processes(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Say which tests belong together."""
    from tests.distribution import Distribution

    config.option.loadscopereorder = False  # in the order of the items, see below
    return Distribution(config, log)
