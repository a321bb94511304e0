"""Small worlds that the tests of the core share."""

import pytest

from dynpartition import (
    AffineCost,
    Cell,
    Cluster,
    Curve,
    Device,
    Dispatch,
    Launch,
    Link,
    Plan,
    Profile,
    TableCost,
    Task,
    TaskGraph,
)


@pytest.fixture
def diamond():
    """Two leaves, a composer of both, an output that a router's value reveals.

    10 ─┐
        30 ──► 40 (revealed by 30)
    20 ─┘
    """
    return TaskGraph.from_tasks(
        "diamond",
        [Cell("leaf"), Cell("composer", 640), Cell("output")],
        [
            Task(id=30, cell="composer", inputs=(10, 20), output_bytes=1200),
            Task(id=10, cell="leaf", output_bytes=1200, host_bytes=8),
            Task(id=20, cell="leaf", output_bytes=1200, duration_ns={"cpu:0": 77}),
            Task(id=40, cell="output", inputs=(30,), revealed_by=30, returns=True),
        ],
    )


@pytest.fixture
def profile():
    """A CPU and a GPU with one link each way."""
    links = (
        Link("cpu:0", "cuda:0", AffineCost(9000, 10**10), ("bus",), "src"),
        Link("cuda:0", "cpu:0", TableCost(((1, 900), (1000, 1500)))),
    )
    cells = {
        name: {"cpu:0": Curve((1, 4), (5000, 9000)), "cuda:0": Curve((1,), (4000,))}
        for name in ("leaf", "composer", "output")
    }
    return Profile(
        Cluster((Device("cpu:0", "cpu"), Device("cuda:0", "cuda", 10**9, 0.5)), links),
        cells,
        Dispatch(host_mode="single", h={"leaf": {"cuda:0": 8000}}, queue_depth=4),
        {"origin": "invented for tests"},
    )


@pytest.fixture
def plan():
    """Leaves together on the GPU, the rest on the CPU."""
    rows = (("cuda:0", (0, 1)), ("cpu:0", (2,)), ("cpu:0", (3,)))
    return Plan(tuple(Launch(device, tasks) for device, tasks in rows))
