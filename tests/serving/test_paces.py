"""A device that slows down in mid-stream: schedulers learn it, and throughput comes back."""

import numpy as np
import pytest

from dynpartition import AffineCost, Cell, Cluster, Device, Link, Task, TaskGraph
from dynpartition.agent.registry import make_scheduler
from dynpartition.conditions import Conditions, Slowdown
from dynpartition.contract import GraphWorkload, drive, run
from dynpartition.profile import Curve, Noise, Profile
from dynpartition.serving.paces import RUNS, TRIED_AGAIN, Paces
from dynpartition.sim.backend import SimBackend

NAMES = ("cpu:0", "cpu:1", "cpu:2")
CLUSTER = Cluster(
    tuple(Device(name, "cpu") for name in NAMES),
    tuple(Link(a, b, AffineCost(5_000, 10**9)) for a in NAMES for b in NAMES if a != b),
)
PROFILE = Profile(
    CLUSTER,
    {
        "leaf": {name: Curve((1, 4), (100_000, 300_000)) for name in NAMES},
        "join": {name: Curve((1,), (50_000,)) for name in NAMES},
    },
    noise=Noise(sigma=((1, 0.1),)),
)


def request(number):
    """A fan of leaves with a join, as large as the number says."""
    n = 12 + number % 5
    tasks = [Task(id=k, cell="leaf", output_bytes=400) for k in range(n)]
    tasks.append(Task(id=n, cell="join", inputs=tuple(range(n)), returns=True))
    return GraphWorkload(TaskGraph.from_tasks(f"r{number}", [Cell("leaf"), Cell("join")], tasks))


def machine(number, slow_from, speed, until=10**9):
    slow = (Slowdown("cpu:1", 0, speed),) if slow_from <= number < until else ()
    return SimBackend(PROFILE, conditions=Conditions(seed=number, slowdowns=slow))


def played(numbers, paces, learns, **slowness):
    """Return the makespans of a stream of requests."""
    heft, makespans = make_scheduler("heft"), []
    for number in numbers:
        backend = machine(number, **slowness)
        with backend.open(request(number)) as session:
            outcome = drive(session, heft, paces.believed)
        makespans.append(outcome.trace.makespan_ns)
        if learns:
            paces.note(outcome)
    return np.array(makespans)


@pytest.mark.parametrize("speed", [0.5, 0.2])
def test_throughput_recovers_as_far_as_it_can(speed):
    slowness = {"slow_from": 20, "speed": speed}
    stubborn = played(range(60), Paces(PROFILE), False, **slowness)
    paces = Paces(PROFILE)
    adapting = played(range(60), paces, True, **slowness)
    knowing = Paces(PROFILE)
    knowing._believed_logs["cpu:1"] = -np.log(speed)
    knowing.believed = knowing._at_pace()
    best = played(range(60), knowing, False, slow_from=0, speed=speed)
    assert (adapting[:20] == stubborn[:20]).all()  # noise changes no plan
    settled = slice(20 + RUNS, None)
    assert adapting[settled].mean() < 1.08 * best[settled].mean()
    assert adapting[settled].mean() < 0.8 * stubborn[settled].mean()
    assert paces.paces["cpu:1"] == pytest.approx(1 / speed, rel=0.15)
    assert paces.paces["cpu:0"] == 1


def test_a_device_that_recovers_is_used_again():
    paces = Paces(PROFILE)
    times = played(range(40 + TRIED_AGAIN * 2), paces, True, slow_from=5, speed=0.01, until=40)
    usual = played(range(5), Paces(PROFILE), False, slow_from=0, speed=1.0)
    assert paces.paces["cpu:1"] == pytest.approx(1, rel=0.1)
    assert times[-20:].mean() < 1.15 * usual.mean()


def test_cells_without_a_cost_teach_nothing():
    paces = Paces(Profile(CLUSTER, {"leaf": PROFILE.cells["leaf"]}))
    backend = SimBackend(PROFILE)
    outcome = run(backend, request(1), make_scheduler("heft"))
    assert not paces.note(outcome)
