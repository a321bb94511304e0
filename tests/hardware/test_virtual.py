"""Virtual time: the same answers and legal traces, whose times add up whatever else runs."""

from __future__ import annotations

import threading

import pytest
import torch

from dynpartition import FixedPlan, Launch, Plan, parse_devices, run
from dynpartition.errors import DeviceError, DeviceLost
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.hardware.virtual import START_NS, DecisionClock, VirtualClock
from dynpartition.models import ModelInput, run_eagerly
from dynpartition.profile import Profile
from dynpartition.validator import check_trace

TOLERANCE_NS = 1


def burn(rounds: int) -> None:
    for _ in range(rounds):
        sum(range(1000))


def test_a_clock_counts_the_threads_own_work_while_it_goes() -> None:
    clock = VirtualClock()
    assert clock.now_ns() == START_NS
    clock.go()
    burn(50)
    clock.stop()
    worked_ns = clock.now_ns()
    assert worked_ns > START_NS
    burn(50)
    assert clock.now_ns() == worked_ns
    other = threading.Thread(target=burn, args=(50,))
    clock.go()
    other.start()
    other.join()  # waiting takes no time of this thread
    clock.stop()
    assert clock.now_ns() - worked_ns < 50 * (worked_ns - START_NS)


def test_a_clock_goes_on_from_what_it_waited_for() -> None:
    clock = VirtualClock()
    clock.go(10**12)
    clock.stop()
    late_ns = clock.now_ns()
    assert 10**12 <= late_ns < 10**12 + 10**9
    clock.go(5)  # nothing to wait for
    clock.go(3 * 10**12)  # while it goes
    assert clock.now_ns() >= 3 * 10**12


def test_deciding_takes_time_from_when_the_value_came() -> None:
    clock = DecisionClock("virtual")
    assert clock.seen_ns(1000) == 1000
    assert clock.seen_ns(700) == 700
    burn(20)
    planned_ns = clock.planned_ns()
    assert planned_ns > 1000
    burn(20)
    assert clock.planned_ns() > planned_ns


@pytest.fixture(scope="module")
def backends(models):
    made = {
        name: HardwareBackend(model, parse_devices("cpu:0,cpu:1"), clock="virtual")
        for name, model in models.items()
    }
    yield made
    for backend in made.values():
        backend.close()


@pytest.mark.parametrize("name", ["treelstm", "mathfunc", "moe"])
def test_answers_and_traces_are_right(name, backends, inputs, random_scheduler) -> None:
    backend = backends[name]
    for seed, item in enumerate(inputs[name]):
        with backend.open(item) as session:
            scheduler = random_scheduler(seed)
            more = True
            while more:
                launches = scheduler.schedule(session.graph, backend.profile, session.plan)
                more = session.advance(launches)
            answer, trace = session.answer(), session.trace
            torch.testing.assert_close(answer, run_eagerly(item))
            free = Profile(backend.profile.cluster, {})
            check_trace(session.graph, free, session.plan, trace, tolerance_ns=TOLERANCE_NS)


def test_waiting_takes_no_virtual_time(toy) -> None:
    """The first launch sleeps 50 ms, which is no work; the second waits for it elsewhere."""
    item = ModelInput(toy, [((1, 50), ()), ((1, 0), (0,))])
    plan = FixedPlan(Plan((Launch("cpu:1", (0,)), Launch("cpu:0", (1,)))))
    with HardwareBackend(toy, parse_devices("cpu:0,cpu:1"), clock="virtual") as backend:
        first, second = run(backend, item, plan).trace.launches
    assert first.end_ns - first.start_ns < 40e6
    assert second.start_ns >= first.end_ns
    assert second.start_ns < 40e6


def test_virtual_time_is_for_cpu_devices(toy) -> None:
    with pytest.raises(DeviceError, match="cuda:0 has no virtual time"):
        HardwareBackend(toy, parse_devices("cpu:0,cuda:0"), clock="virtual", streams=FakeStreams())
    with pytest.raises(DeviceError, match="clock is 'moon'"):
        HardwareBackend(toy, parse_devices("cpu:0"), clock="moon")  # type: ignore[arg-type]


def test_a_lost_device_ends_virtual_time(toy) -> None:
    item = ModelInput(toy, [((1, -2), ()), ((1, 0), (0,))])
    plan = FixedPlan(Plan((Launch("cpu:1", (0,)), Launch("cpu:0", (1,)))))
    with (
        HardwareBackend(toy, parse_devices("cpu:0,cpu:1"), clock="virtual") as backend,
        pytest.raises(DeviceLost, match="virtual time ends with a device"),
    ):
        run(backend, item, plan)
