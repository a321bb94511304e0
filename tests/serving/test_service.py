"""A service under many threads: answers, limits, deadlines, figures, faults and its end."""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

import dynpartition
from dynpartition import parse_devices
from dynpartition.errors import InputError, RequestTimeout, ServiceClosed, ServiceFull, ServingError
from dynpartition.models import build_model
from dynpartition.models.check import agrees
from dynpartition.serving.rough import rough_profile
from tests.hardware.test_faults import is_alive
from tests.serving.test_runtime import OUTSIDERS, Loops

pytestmark = pytest.mark.filterwarnings("ignore:.* cores are available")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Gate(nn.Module):
    """Computes when it may."""

    opened = threading.Event()
    seen: list[float] = []  # noqa: RUF012

    def forward(self, x):
        Gate.opened.wait()
        Gate.seen.append(x.max().item())
        return x * 2


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = Gate()

    def forward(self, x):
        if x.max() > 1000:
            raise ValueError("too large")
        return self.gate(x)


@pytest.fixture
def gated():
    """A model that computes nothing until the gate is opened."""
    Gate.opened.set()
    model = dynpartition.capture(Gated().eval(), cells=["gate"])
    model.start(torch.ones(1, 1)).opening_block()  # shapes are learnt with the gate open
    Gate.opened.clear()
    Gate.seen.clear()
    yield model
    Gate.opened.set()


def full_of(service, n):
    """Ask for n more than are in flight; return their futures once the first is computed."""
    futures = [service.submit(torch.full((1, 1), 1.0))]
    while service.metrics()["queue_length"]:
        time.sleep(0.001)
    return [*futures, *(service.submit(torch.full((1, 1), float(k))) for k in range(n))]


def until(condition):
    while not condition():
        time.sleep(0.001)


def test_many_threads_get_their_own_answers():
    model = dynpartition.capture(Loops().eval(), cells=["cell"])
    samples = [torch.full((1, 2), 4.0 + 7 * n) for n in range(120)]
    with (
        dynpartition.Runtime() as runtime,
        runtime.serve(model, in_flight=8) as service,
        ThreadPoolExecutor(6) as threads,
    ):
        answers = list(threads.map(service, samples))
        told = service.metrics()
    assert all(map(agrees, answers, map(model.eager, samples)))
    assert told["requests"] == {
        **dict.fromkeys(told["requests"], 0),
        "received": 120,
        "answered": 120,
    }
    assert 0 < told["latency_s"][0.5] <= told["latency_s"][0.99]
    assert told["waiting_s"][0.5] <= told["latency_s"][0.5]
    assert told["queue_length"] == told["in_flight"] == 0
    assert 0 < told["device_use"]["cpu:0"] <= 1


def test_coroutines_wait_without_blocking_the_loop():
    model = build_model("earlyexit", {"width": 16, "blocks": 4}, seed=1)
    samples = model.samples(40, seed=3)

    async def all_of_them(service):
        return await asyncio.gather(*[service.ask(sample) for sample in samples])

    with dynpartition.Runtime() as runtime, runtime.serve(model, queue_max=4) as service:
        answers = asyncio.run(all_of_them(service))
        told = service.metrics()["requests"]
    assert all(map(agrees, answers, map(model.eager, samples)))
    assert told == {**dict.fromkeys(told, 0), "received": 40, "answered": 40}


def test_coroutines_that_wait_for_room_take_no_threads(gated):
    """Nor the loop's own pool of them, which other code needs for its blocking calls."""

    async def crowd(service):
        asking = [asyncio.ensure_future(service.ask(torch.ones(1, 1))) for _ in range(100)]
        await asyncio.sleep(0)
        before = threading.active_count()
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 60) == 7
        assert threading.active_count() <= before + 1
        Gate.opened.set()
        return await asyncio.gather(*asking)

    with dynpartition.Runtime() as runtime, runtime.serve(gated, queue_max=2) as service:
        assert len(asyncio.run(crowd(service))) == 100


def test_a_coroutine_cancelled_while_it_waits_for_room_is_left_out(gated):
    async def some(service):
        asking = [asyncio.ensure_future(service.ask(torch.full((1, 1), k))) for k in (1.0, 2, 3, 4)]
        await asyncio.sleep(0.05)
        asking[2].cancel()
        await asyncio.sleep(0)
        Gate.opened.set()
        return await asyncio.gather(*asking, return_exceptions=True)

    with (
        dynpartition.Runtime() as runtime,
        runtime.serve(gated, in_flight=1, queue_max=1) as service,
    ):
        answers = asyncio.run(some(service))
        told = service.metrics()["requests"]
    assert isinstance(answers.pop(2), asyncio.CancelledError)
    assert [answer.item() for answer in answers] == [2, 4, 8]
    assert (told["answered"], told["cancelled"]) == (3, 1)


def test_who_waits_for_room_is_served_in_turn(gated):
    """Threads and coroutines alike, first come, first served."""

    async def ask(service, value, timeout_s=None):
        return await service.ask(torch.full((1, 1), value), timeout_s=timeout_s)

    with dynpartition.Runtime() as runtime, ThreadPoolExecutor(8) as threads:
        service = runtime.serve(gated, in_flight=1, queue_max=1)
        first = full_of(service, 1)
        waiting = []
        for k in range(1, 7):
            if k % 2:
                waiting.append(threads.submit(service, torch.full((1, 1), float(k))))
            else:
                waiting.append(threads.submit(asyncio.run, ask(service, float(k))))
            until(lambda k=k: service._queue.n_outside == k)
        with pytest.raises(RequestTimeout, match="before its deadline"):
            asyncio.run(ask(service, 7.0, timeout_s=0.01))
        Gate.opened.set()
        assert [future.result().item() for future in waiting] == [2, 4, 6, 8, 10, 12]
        service.close()
        assert Gate.seen == [1, 0, 1, 2, 3, 4, 5, 6]
        told = service.metrics()["requests"]
    assert (told["answered"], told["refused"], told["timed_out"]) == (8, 0, 1)
    assert first[1].result().item() == 0


def test_closing_turns_away_who_waits_for_room(gated):
    async def ask(service):
        return await service.ask(torch.ones(1, 1))

    with dynpartition.Runtime() as runtime, ThreadPoolExecutor(8) as threads:
        service = runtime.serve(gated, in_flight=1, queue_max=1)
        first = full_of(service, 1)
        waiting = [threads.submit(service, torch.ones(1, 1)) for _ in range(2)]
        waiting += [threads.submit(asyncio.run, ask(service)) for _ in range(2)]
        until(lambda: service._queue.n_outside == 4)
        closing = threads.submit(service.close)
        assert all(isinstance(future.exception(), ServiceClosed) for future in waiting)
        Gate.opened.set()
        closing.result()
        assert [future.result().item() for future in first] == [2, 0]


def test_a_full_queue_refuses_or_lets_wait(gated):
    with dynpartition.Runtime() as runtime:
        service = runtime.serve(gated, in_flight=1, queue_max=3)
        futures = full_of(service, 3)
        with pytest.raises(ServiceFull, match="3 requests wait already"):
            service.submit(torch.ones(1, 1))
        with pytest.raises(RequestTimeout, match="no room in the queue"):
            service.submit(torch.ones(1, 1), wait=True, timeout_s=0.02)
        assert service.metrics()["queue_length"] == 3
        threading.Timer(0.05, Gate.opened.set).start()
        last = service.submit(torch.ones(1, 1), wait=True)
        assert [future.result().item() for future in [*futures, last]] == [2, 0, 2, 4, 2]
        told = service.metrics()["requests"]
    assert (told["refused"], told["timed_out"], told["answered"]) == (1, 1, 5)


def test_deadlines_and_cancelled_requests_cost_nothing(gated):
    with dynpartition.Runtime() as runtime:
        service = runtime.serve(gated, in_flight=1)
        first, second = full_of(service, 1)
        late = service.submit(torch.ones(1, 1), timeout_s=0.01)
        assert second.cancel()
        with pytest.raises(RequestTimeout, match="not answered before its deadline"):
            service(torch.ones(1, 1), timeout_s=0.02)

        async def ask():
            await service.ask(torch.ones(1, 1), timeout_s=0.02)

        with pytest.raises(RequestTimeout, match="not answered before its deadline"):
            asyncio.run(ask())
        Gate.opened.set()
        with pytest.raises(RequestTimeout, match="beyond its deadline"):
            late.result()
        assert first.result().item() == 2
        service.close()
        told = service.metrics()["requests"]
    assert (told["answered"], told["timed_out"], told["cancelled"]) == (1, 3, 1)


def test_what_one_request_raises_is_told_to_nobody_else(gated):
    Gate.opened.set()
    values = [1.0, 5000.0, 2.0, 3.0, 9000.0, 4.0]
    with dynpartition.Runtime() as runtime, runtime.serve(gated, in_flight=6) as service:
        futures = [service.submit(torch.full((1, 1), value)) for value in values]
        futures.append(service.submit("no tensor"))
        for value, future in zip(values, futures, strict=False):
            if value > 1000:
                with pytest.raises(ValueError, match="too large"):
                    future.result()
            else:
                assert future.result().item() == 2 * value
        with pytest.raises(AttributeError):
            futures[-1].result()
        assert service.metrics()["requests"]["failed"] == 3


def test_closing_answers_what_waits_or_turns_it_away(gated):
    with dynpartition.Runtime() as runtime:
        service = runtime.serve(gated, in_flight=1)
        futures = full_of(service, 3)
        Gate.opened.set()
        service.close()
        assert [future.result().item() for future in futures] == [2, 0, 2, 4]
        with pytest.raises(ServiceClosed, match="make a new one"):
            service(torch.ones(1, 1))
        Gate.opened.clear()
        service = runtime.serve(gated, in_flight=1)
        futures = full_of(service, 3)
        threading.Timer(0.05, Gate.opened.set).start()
        service.close(drain=False)
        assert futures[0].result().item() == 2
        for future in futures[1:]:
            with pytest.raises(ServiceClosed, match="before this request had its turn"):
                future.result()


def test_a_block_that_ends_by_an_exception_does_not_wait_for_the_queue(gated):
    with (
        pytest.raises(KeyboardInterrupt),
        dynpartition.Runtime() as runtime,
        runtime.serve(gated, in_flight=1) as service,
    ):
        futures = full_of(service, 2)
        threading.Timer(0.05, Gate.opened.set).start()
        raise KeyboardInterrupt
    assert futures[0].result().item() == 2
    assert isinstance(futures[2].exception(), ServiceClosed)


def test_use_is_told_while_requests_keep_coming():
    """Under load the thread never comes to an end of what it does."""
    model = dynpartition.capture(Loops().eval(), cells=["cell"])
    over = threading.Event()

    def ask_on(service):
        while not over.is_set():
            service(torch.full((1, 2), 1000.0))

    with (
        dynpartition.Runtime() as runtime,
        runtime.serve(model, in_flight=4) as service,
        ThreadPoolExecutor(8) as threads,
    ):
        service.warm_up([torch.full((1, 2), 1000.0)])
        for _ in range(8):
            threads.submit(ask_on, service)
        try:
            until(lambda: service.metrics()["requests"]["answered"] > 100)
            assert 0.5 < service.metrics()["device_use"]["cpu:0"] <= 1
        finally:
            over.set()


def test_warming_up_is_not_counted():
    model = build_model("sequence", {"width": 8, "vocabulary": 30}, seed=1)
    with dynpartition.Runtime() as runtime, runtime.serve(model) as service:
        service.warm_up(model.samples(4, seed=1))
        assert not any(service.metrics()["requests"].values())
        assert not service.metrics()["latency_s"]
        service(model.samples(1, seed=2)[0])
        assert service.metrics()["requests"]["answered"] == 1


def test_prometheus_reads_the_figures(gated):
    parser = pytest.importorskip("prometheus_client.parser")
    Gate.opened.set()
    with dynpartition.Runtime() as runtime, runtime.serve(gated) as service:
        service(torch.ones(1, 1))
        text = service.prometheus()
    rows = {
        (
            sample.name,
            *(value for key, value in sorted(sample.labels.items()) if key != "model"),
        ): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert rows["dynpartition_requests_total", "answered"] == 1
    assert rows["dynpartition_latency_seconds", "0.99"] > 0
    assert rows["dynpartition_queue_length",] == 0


def test_prometheus_is_optional(gated, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with (
        dynpartition.Runtime() as runtime,
        runtime.serve(gated) as service,
        pytest.raises(ServingError, match=r"dynpartition\[prometheus\]"),
    ):
        service.prometheus()


def test_a_runtime_forgets_services_that_have_ended_and_ends_those_at_work(gated):
    Gate.opened.set()
    with dynpartition.Runtime() as runtime:
        ended = weakref.ref(runtime.serve(gated))
        ended().close()
        gc.collect()
        assert ended() is None
        runtime.serve(gated)  # nobody holds it, but it works
        gc.collect()
        (working,) = runtime._services
        assert working(torch.ones(1, 1)).item() == 2
    with pytest.raises(ServiceClosed):
        working.submit(torch.ones(1, 1))


def test_nonsense_is_refused(gated):
    with dynpartition.Runtime() as runtime:
        with pytest.raises(InputError, match="queue_max is 0"):
            runtime.serve(gated, queue_max=0)
        with pytest.raises(InputError, match="timeout_s is -1"):
            runtime.serve(gated, timeout_s=-1)
        with pytest.raises(InputError, match="in_flight is 0"):
            runtime.serve(gated, in_flight=0)


def test_a_lost_device_is_made_up_for_and_comes_back():
    model = dynpartition.load_model(f"{OUTSIDERS / 'builds.py'}:parser", seed=3)
    samples = model.samples(6, seed=4)
    with (
        dynpartition.Runtime("cpu:0,cpu:1", "round-robin") as runtime,
        runtime.serve(model, in_flight=3) as service,
        ThreadPoolExecutor(3) as threads,
    ):
        service.warm_up(samples[:2])
        (worker,) = service._engine._backend._machine.pool.workers
        answers = threads.map(service, samples)
        os.kill(worker.process.pid, signal.SIGKILL)
        assert all(map(agrees, answers, map(model.eager, samples)))
        told = service.metrics()
        (again,) = service._engine._backend._machine.pool.workers
    assert told["requests"]["answered"] == 6
    assert told["devices_lost"] <= 1
    assert set(told["paces"]) == set(told["device_use"]) == {"cpu:0", "cpu:1"}
    assert not is_alive(worker.process.pid)
    assert not is_alive(again.process.pid)


def test_on_devices_too_what_one_request_raises_is_told_to_nobody_else(gated):
    Gate.opened.set()
    devices = parse_devices("cpu:0,cpu:1")
    rough = rough_profile(gated, devices, [torch.ones(1, 1)])
    profile = replace(rough, provenance={"workers": "threads"})
    with (
        dynpartition.Runtime(devices, "round-robin", profile=profile) as runtime,
        runtime.serve(gated, in_flight=4) as service,
    ):
        service(torch.ones(1, 1))
        backend = service._engine._backend
        for value in (1.0, 2.0):
            good = [service.submit(torch.full((1, 1), value)) for _ in range(2)]
            bad = [service.submit(torch.full((1, 1), 5000.0)), service.submit("no tensor")]
            assert [future.result().item() for future in good] == [2 * value] * 2
            with pytest.raises(ValueError, match="too large"):
                bad[0].result()
            with pytest.raises(AttributeError):
                bad[1].result()
        assert service._engine._backend is backend  # nothing had to be started again


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_service_when_it_has_answered(gated, number):
    usual = signal.getsignal(number)

    def strike():
        while signal.getsignal(number) is usual:
            time.sleep(0.001)
        os.kill(os.getpid(), number)
        Gate.opened.set()

    with dynpartition.Runtime() as runtime, runtime.serve(gated, in_flight=1) as service:
        futures = full_of(service, 2)
        striking = threading.Thread(target=strike)
        striking.start()
        service.run_until_signal()
        striking.join()
        assert [future.result().item() for future in futures] == [2, 0, 2]
        with pytest.raises(ServiceClosed):
            service.submit(torch.ones(1, 1))
    assert signal.getsignal(number) is usual
