"""GPUs of two hosts that are connected: hosts are threads, and connections stand-ins.

A stand-in waits as NCCL does, and fails when its ends disagree about what comes next.

rank 0: cpu:0 (the caller), cuda:0, cuda:1      rank 1: cpu:0, cuda:0, cuda:1
"""

import random
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore

from dynpartition import drive, parse_devices
from dynpartition.contract import Scheduler
from dynpartition.device_spec import is_gpu
from dynpartition.errors import DeviceError
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.hardware.control import CONTROL_BYTES, Arrivals, Control, Cues
from dynpartition.hardware.devices import uncalibrated_profile
from dynpartition.hardware.direct import FollowingTransfers, GpuLink
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import CopyOrder
from dynpartition.hardware.peer import FakePeer, cut_all
from dynpartition.hardware.shared import SharedBlock
from dynpartition.models import merge_inputs
from tests.hardware.hosts_in_threads import Interrupted, check, several_hosts

ALL = "cpu:0,cuda:0,cuda:1,host1/cpu:0,host1/cuda:0,host1/cuda:1"
FAR = [name for name in ALL.split(",") if name.startswith("host1")]
ONE_PAIR = "cpu:0,cuda:0,host1/cuda:0"


class Watched(FakeStreams):
    """Keeps the connections that are made, to see what goes over them."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.peers = []

    def join(self, *args):
        self.peers.append(super().join(*args))
        return self.peers[-1]


def open_backend(model, devices=ALL, streams=None, **more):
    streams = streams or FakeStreams(seed=5)
    more = {"gpu_links": "nccl", "arena_bytes": 1 << 20, **more}
    return HardwareBackend(model, parse_devices(devices), streams=streams, **more)


def is_direct(span):
    hosts = {name.startswith("host1") for name in (span.src, span.dst)}
    return is_gpu(span.src) and is_gpu(span.dst) and len(hosts) == 2


@pytest.mark.parametrize("name", ["treelstm", "moe"])
def test_any_plan_gives_the_eager_answer(name, models, inputs, random_scheduler, monkeypatch):
    streams, spans = Watched(seed=5), []
    with (
        several_hosts(monkeypatch, seed=3),
        open_backend(models[name], streams=streams) as backend,
    ):
        for seed in range(8):
            few = inputs[name][: 1 + 2 * (seed % 2)]
            workload = few[0] if name == "moe" or len(few) == 1 else merge_inputs(few)
            outcome, _ = check(backend, workload, random_scheduler(seed))
            spans += [span for span in outcome.trace.transfers if is_direct(span)]
    assert sum(peer.count for peer in streams.peers) == len(spans)
    assert len({(span.src, span.dst) for span in spans}) > 5
    assert all(span.end_ns > span.start_ns for span in spans)


def test_without_a_wait_the_answer_is_wrong(models, inputs, random_scheduler, monkeypatch):
    """The stand-in would show it if a reader forgot to wait for what comes over a connection."""

    def forgetful(name):
        return FakeStreams(1, seed=1, ignore_waits=True)

    with (
        several_hosts(monkeypatch, make_streams=forgetful),
        open_backend(models["treelstm"], ONE_PAIR) as backend,
        pytest.raises(AssertionError, match="not close"),
    ):
        for seed, item in enumerate(inputs["treelstm"]):
            check(backend, item, random_scheduler(seed))


@pytest.mark.parametrize("seed", range(8))
def test_a_run_outlives_any_of_them(seed, models, inputs, random_scheduler, monkeypatch):
    """Also several; the next session has them all again, connected anew."""
    dice, items, streams = random.Random(seed), inputs["moe"], Watched(seed=seed)
    with (
        several_hosts(monkeypatch, seed=seed) as hosts,
        open_backend(models["moe"], streams=streams) as backend,
    ):
        check(backend, items[0], random_scheduler(seed))
        victims = dice.sample(FAR, dice.choice([1, 1, 2]))

        def strike():
            for name in victims:
                hosts.kill(name)

        scheduler = Interrupted(random_scheduler(seed + 100), dice.randint(1, 3), strike)
        _, lost = check(backend, items[1], scheduler)
        assert set(lost) <= set(victims)
        for again in range(2):
            _, lost = check(backend, items[2], random_scheduler(seed + again))
            assert not lost
        assert len(streams.peers) == 4 + 2 * sum(map(is_gpu, victims))
        assert sum(not peer.is_cut for peer in streams.peers) == 4
    assert all(peer.is_cut for peer in streams.peers)


class Struck(Watched):
    """Something happens to a connection when it is used for the n-th time from here."""

    def __init__(self, n, what, seed):
        super().__init__(seed=seed)
        self.left, self.what = n, what

    def join(self, *args):
        peer = super().join(*args)
        for name in ("send", "receive"):
            setattr(peer, name, self._striking(getattr(peer, name)))
        return peer

    def _striking(self, use):
        def used(stream, blocks):
            self.left -= 1
            if self.left == 0:
                self.what()
            use(stream, blocks)

        return used


@pytest.mark.parametrize("n", range(1, 9))
def test_what_a_lost_gpu_was_sending_is_not_taken_for_there(
    n, models, inputs, random_scheduler, monkeypatch
):
    """The worker dies when this end begins a transfer and the other one has not come to it."""
    with several_hosts(monkeypatch, seed=n) as hosts:

        def strike():
            worker = hosts.workers["host1/cuda:0"]
            worker.server.is_dismissed = True
            worker.ending()

        streams = Struck(n, strike, seed=n)
        with open_backend(models["treelstm"], ONE_PAIR, streams=streams) as backend:
            items = enumerate(inputs["treelstm"])
            runs = [check(backend, item, random_scheduler(seed)) for seed, item in items]
    assert streams.left <= 0
    assert [list(lost) for _, lost in runs if lost] == [["host1/cuda:0"]]


@pytest.mark.parametrize("n", [1, 4])
def test_what_nccl_raises_costs_the_other_end_only(
    n, models, inputs, random_scheduler, monkeypatch
):
    def fail():
        raise RuntimeError("NCCL error: remote process exited or there was a network error\nmore")

    with (
        several_hosts(monkeypatch),
        open_backend(models["moe"], ONE_PAIR, streams=Struck(n, fail, seed=2)) as backend,
    ):
        items = enumerate(inputs["moe"])
        runs = [check(backend, item, random_scheduler(seed)) for seed, item in items]
    (lost,) = [lost for _, lost in runs if lost]
    assert list(lost) == ["host1/cuda:0"]
    assert "NCCL error: remote process exited or there was a network error" in str(lost)
    assert any(launch.device == "cuda:0" for launch in runs[-1][0].plan.launches)


class Failing(FakeStreams):
    """Fails for good after `lives` uses, as CUDA does."""

    def __init__(self, lives, seed):
        super().__init__(seed=seed)
        self.lives = lives

    def record(self, stream):
        self.lives -= 1
        if self.lives < 0:
            raise RuntimeError("CUDA error: unspecified launch failure\nmore words")
        return super().record(stream)


@pytest.mark.parametrize("lives", [0, 5, 20, 60])
def test_gpus_that_were_connected_with_lost_ones_come_back_without(
    lives, models, inputs, random_scheduler, monkeypatch
):
    with (
        several_hosts(monkeypatch, seed=lives) as hosts,
        open_backend(models["moe"], ONE_PAIR, streams=Failing(lives, seed=3)) as backend,
    ):
        runs = [check(backend, i, random_scheduler(n)) for n, i in enumerate(inputs["moe"] * 2)]
        assert hosts.started.count("host1/cuda:0") == 2
    lost = [set(lost) for _, lost in runs]
    first = lost.index({"cuda:0", "host1/cuda:0"})
    assert not any(lost[:first])
    assert all(some == {"cuda:0"} for some in lost[first + 1 :])
    assert any(launch.device == "host1/cuda:0" for launch in runs[-1][0].plan.launches)


def test_a_connection_that_does_not_come_about_is_an_error_at_once(models, monkeypatch):
    class Deaf(FakeStreams):
        def join(self, device, store, *args):
            return super().join(device, HashStore(), *args)

    started = "cuda:0 and host1/cuda:0 are not connected: the other end does not come within 0.3 s"
    with (
        several_hosts(monkeypatch),
        pytest.raises(DeviceError, match=f"{started}; gpu_links='host' does without"),
    ):
        open_backend(models["moe"], ONE_PAIR, streams=Deaf(), answer_timeout_s=0.3)


def test_what_kept_the_other_end_from_connecting_is_said(models, monkeypatch):
    class Unable(FakeStreams):
        def join(self, *args):
            raise DeviceError("this PyTorch has no NCCL")

    with (
        several_hosts(monkeypatch, make_streams=lambda name: Unable(1)),
        pytest.raises(DeviceError, match=r"cuda:0 and host1/cuda:0 .* this PyTorch has no NCCL"),
    ):
        open_backend(models["moe"], ONE_PAIR)


@pytest.mark.parametrize("devices", ["cpu:0,host1/cuda:0", "cpu:0,cuda:0/sm32,host1/cuda:0"])
def test_without_two_whole_gpus_there_is_nothing_to_connect(devices, models, monkeypatch):
    with several_hosts(monkeypatch), pytest.raises(DeviceError, match="gpu_links is 'nccl', but"):
        open_backend(models["moe"], devices)


def test_other_ways_of_exchange_are_refused(models, monkeypatch):
    with (
        several_hosts(monkeypatch),
        pytest.raises(DeviceError, match="gpu_links is 'ncc'; did you mean 'nccl'"),
    ):
        open_backend(models["moe"], ONE_PAIR, gpu_links="ncc")


@pytest.mark.parametrize(("measured", "n_peers"), [("nccl", 1), ("host", 0), (None, 0)])
def test_gpus_are_connected_as_they_were_when_the_profile_was_measured(
    measured, n_peers, models, inputs, random_scheduler, monkeypatch
):
    streams, profile = Watched(), uncalibrated_profile(parse_devices(ONE_PAIR))
    if measured:
        profile = replace(profile, provenance={"gpu_links": measured})
    more = {"streams": streams, "profile": profile, "gpu_links": "auto"}
    with (
        several_hosts(monkeypatch),
        open_backend(models["treelstm"], ONE_PAIR, **more) as backend,
    ):
        check(backend, inputs["treelstm"][0], random_scheduler(1))
    assert len(streams.peers) == n_peers


def test_ends_that_disagree_are_found_out():
    store, streams, memory = HashStore(), FakeStreams(), torch.zeros(8, dtype=torch.uint8)
    for rank in range(2):
        FakePeer(store, rank).send(streams.stream(None), [memory])
    with pytest.raises(AssertionError, match="transfer 1: the other end b'sends"):
        streams.synchronize()


class Giving(Scheduler):
    """Raises when it is asked for the n-th time; else another scheduler's plans."""

    name = "giving up"

    def __init__(self, inner, n):
        self.inner, self.left = inner, n

    def schedule(self, graph, profile, planned):
        self.left -= 1
        if self.left == 0:
            raise ZeroDivisionError
        return self.inner.schedule(graph, profile, planned)


@pytest.mark.parametrize("seed", range(4))
def test_any_series_of_runs_losses_and_exceptions(
    seed, models, inputs, random_scheduler, monkeypatch
):
    """Every second plan was seen before."""
    dice, name = random.Random(seed), ("moe", "treelstm")[seed % 2]
    with (
        several_hosts(monkeypatch, seed=seed) as hosts,
        open_backend(models[name], streams=FakeStreams(seed=seed)) as backend,
    ):

        def strike():
            for victim in dice.sample(FAR, dice.choice([1, 1, 2])):
                hosts.kill(victim)

        for step in range(10):
            item, scheduler = inputs[name][step % 2], random_scheduler(step % 2)
            event = dice.choice(["none", "none", "given up", "lost", "lost while idle"])
            if event == "given up":
                scheduler = Giving(scheduler, dice.randint(1, 2))
                with backend.open(item) as session, suppress(ZeroDivisionError):
                    drive(session, scheduler, backend.profile)
                continue
            if event == "lost":
                scheduler = Interrupted(scheduler, dice.randint(1, 3), strike)
            elif event == "lost while idle":
                strike()
            check(backend, item, scheduler)


class Noted(FakePeer):
    """Notes what is enqueued."""

    def __init__(self, calls):
        super().__init__(HashStore(), 1)
        self.calls = calls

    def send(self, stream, blocks):
        self.calls.append(("send", [block.tolist() for block in blocks]))

    def receive(self, stream, blocks):
        self.calls.append(("receive", [block.tolist() for block in blocks]))


WORKER, EPOCH = 3, 7


@pytest.fixture
def end():
    """Device 2 of another rank, connected with devices 0 and 1, and the flags that it sees."""
    block, streams, calls = SharedBlock.create(CONTROL_BYTES), FakeStreams(), []
    control, arena = Control(block), Arena(torch.arange(64, dtype=torch.uint8))
    links = {(2, there): GpuLink(Noted(calls), streams.stream(None), WORKER) for there in range(2)}
    transfers = FollowingTransfers(streams, links, [None, None, arena], control, EPOCH)
    there = SimpleNamespace(transfers=transfers, calls=calls, control=control)
    there.cues = Cues(control, WORKER, EPOCH)
    yield there
    vars(there).clear()  # tests hold it for longer
    block.close()


def test_a_worker_keeps_one_order_for_all_its_connections(end):
    """A cue of another segment, which has not been read yet, holds up those after it."""
    for copy in (3, 5, 4):
        end.cues.append(copy)
    end.transfers.expect(CopyOrder(4, 0, 2, [(0, 40, 2)]))
    end.transfers.expect(CopyOrder(5, 1, 2, [(0, 50, 2)]))
    end.transfers.pump()
    assert not end.calls
    end.transfers.expect(CopyOrder(3, 0, 2, [(0, 30, 2), (0, 34, 0), (0, 36, 1)]))
    end.transfers.pump()
    received = [[[30, 31], [36]], [[50, 51]], [[40, 41]]]
    assert end.calls == [("receive", blocks) for blocks in received]


def test_outputs_leave_once_rank_0_says_so(end):
    end.transfers.offer(CopyOrder(9, 2, 0, [(8, 0, 3)]), None)
    end.transfers.pump()
    assert Arrivals(end.control, EPOCH).has(9)
    assert not end.calls and not end.transfers.is_settled
    Cues(end.control, WORKER, EPOCH - 1).append(9)  # of another session
    Cues(end.control, WORKER + 1, EPOCH).append(9)  # of another worker
    end.transfers.pump()
    assert not end.calls
    end.cues.append(9)
    end.transfers.pump()
    assert end.calls == [("send", [[8, 9, 10]])]
    end.transfers.pump()
    assert end.transfers.is_settled


def test_what_has_no_bytes_takes_its_turn_and_nothing_else(end):
    end.transfers.expect(CopyOrder(2, 0, 2, [(0, 0, 0)]))
    end.cues.append(2)
    for _ in range(4):
        end.transfers.pump()
    assert not end.calls and 2 in end.transfers.arrived


def test_with_many_transfers_a_step_costs_what_it_does_with_few(end):
    """Nothing that is waited for is looked at before its turn."""

    class Counted(dict):
        looks = 0

        def __iter__(self):
            Counted.looks += len(self)
            return super().__iter__()

    end.transfers._expected = Counted()
    for copy in range(2000):
        end.transfers.expect(CopyOrder(copy, 0, 2, [(0, 0, 1)]))
    for copy in range(2000):
        end.cues.append(copy)
        end.transfers.pump()
    assert len(end.calls) == 2000 and Counted.looks == 0


class Held(FakePeer):
    """Comes free only when all others that hold the same GPU have been cut, too."""

    def __init__(self, holders):
        super().__init__(HashStore(), 0)
        self.holders = holders
        holders.append(self)

    def cut(self):
        super().cut()
        while not all(holder.is_cut for holder in self.holders):
            time.sleep(0.001)


def test_connections_that_wait_for_each_other_are_cut_together():
    holders = []
    for _ in range(3):
        Held(holders)
    cut_all(holders)


def test_a_device_that_does_not_come_free_holds_up_nobody(monkeypatch):
    monkeypatch.setattr("dynpartition.hardware.peer._CUT_TIMEOUT_S", 0.05)
    holders = []
    held, other = Held(holders), Held(holders)
    with pytest.raises(RuntimeError, match="does not let go within"):
        cut_all([held])
    other.cut()


def until(is_so):
    deadline_s = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


class Breaking(Watched):
    """Once told to, the next connection fails with an error, or its cut does."""

    def __init__(self, **more):
        super().__init__(**more)
        self.error = None

    def join(self, *args):
        error, self.error = self.error, None
        if error is not None:
            raise error
        return super().join(*args)


def lost_while_idle(hosts, backend, *names):
    for name in names:
        hosts.kill(name)
    pool = backend._machine.pool
    until(lambda: sum(worker.has_ended for worker in pool.workers) == len(names))


@pytest.mark.parametrize("kind", [DeviceError, RuntimeError])
def test_a_gpu_that_cannot_be_connected_again_comes_back_without(
    kind, models, inputs, random_scheduler, monkeypatch
):
    streams = Breaking(seed=1)
    with (
        several_hosts(monkeypatch) as hosts,
        open_backend(models["moe"], ALL, streams=streams) as backend,
    ):
        check(backend, inputs["moe"][0], random_scheduler(1))
        lost_while_idle(hosts, backend, "host1/cuda:1")
        streams.error, n_peers = kind("no route to the store"), len(streams.peers)
        _, lost = check(backend, inputs["moe"][1], random_scheduler(2))
        assert list(lost) == ["host1/cuda:1"]
        assert "no route to the store" in lost["host1/cuda:1"]
        runs = [check(backend, item, random_scheduler(3)) for item in inputs["moe"]]
        assert not any(lost for _, lost in runs)
        assert any(
            launch.device == "host1/cuda:1" for run, _ in runs for launch in run.plan.launches
        )
        assert len(streams.peers) == n_peers


def test_ctrl_c_while_a_gpu_is_connected_again(models, inputs, random_scheduler, monkeypatch):
    streams = Breaking(seed=1)
    with (
        several_hosts(monkeypatch) as hosts,
        open_backend(models["moe"], ONE_PAIR, streams=streams) as backend,
    ):
        check(backend, inputs["moe"][0], random_scheduler(1))
        lost_while_idle(hosts, backend, "host1/cuda:0")
        streams.error = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            backend.open(inputs["moe"][1])
        for item in inputs["moe"]:
            check(backend, item, random_scheduler(2))


def test_gpus_that_are_lost_between_sessions_leave_nobody_waiting(
    models, inputs, random_scheduler, monkeypatch
):
    """One of the other host was restarted, and waits to be connected."""
    streams = Breaking(seed=1)
    monkeypatch.setattr("dynpartition.hardware.peer._CUT_TIMEOUT_S", 0.05)
    with (
        several_hosts(monkeypatch) as hosts,
        open_backend(models["moe"], ALL, streams=streams) as backend,
    ):
        check(backend, inputs["moe"][0], random_scheduler(1))
        streams.peers[0].cut = lambda: time.sleep(1.0)
        lost_while_idle(hosts, backend, "host1/cuda:0")
        _, lost = check(backend, inputs["moe"][1], random_scheduler(2))
        assert set(lost) == {"cuda:0", "cuda:1", "host1/cuda:0", "host1/cuda:1"}
        _, lost = check(backend, inputs["moe"][2], random_scheduler(3))
        assert set(lost) == {"cuda:0", "cuda:1"}
