"""What passes on between hosts: in which order, and how it sleeps until there is something."""

import os
import socket
import threading
import time
from contextlib import suppress

import pytest
from torch.distributed import HashStore

from dynpartition import parse_devices
from dynpartition.hardware import devices, host_server
from dynpartition.hardware.blocks import SharedMemory
from dynpartition.hardware.compute import Repeater
from dynpartition.hardware.doorbell import Doorbell
from dynpartition.hardware.hosts import World
from dynpartition.hardware.lane import Site
from dynpartition.hardware.messages import Channel, CopyOrder, Finish, Report, Segment, Setup
from dynpartition.hardware.patience import Spinner
from dynpartition.hardware.relay import (
    Refused,
    Relay,
    RemoteClock,
    clock_name,
    connect,
    versions,
)
from dynpartition.hardware.server import Server
from dynpartition.hardware.settings import PREFERRED, PreferredThreads, preferred
from dynpartition.hardware.wire import DATA, GO, HERE, MESSAGE, Wire

LONG_S = 20.0
"""More than anything here takes on the busiest machine; nothing waits for so long."""
NAMES = ["cpu:0", "host1/cpu:0"]


@pytest.fixture
def memory():
    """What rank 0 shares with the workers of cpu:0 and of another host's device."""
    memory = SharedMemory(parse_devices(",".join(NAMES)), [4096, 4096], {}, weights=False)
    yield memory
    memory.close()


@pytest.fixture
def ends():
    """Both ends of the channel between the caller and a worker."""
    ours, theirs = (Channel(end.detach()) for end in socket.socketpair())
    yield ours, theirs
    for end in (ours, theirs):
        end.close()


class RecordedWire:
    """Notes what is sent."""

    def __init__(self):
        self.sent = []

    def send(self, kind, payload=(), **numbers):
        self.sent.append((kind, b"".join(bytes(part) for part in payload)))

    def kinds(self):
        return [kind for kind, _ in self.sent if kind in (GO, MESSAGE, DATA)]


@pytest.fixture
def relay(memory, ends):
    """A relay of host1/cpu:0, its wire, and what the caller writes to."""
    setup = Setup(
        *(("", ""), [], {}, (0, 0), "", 0, 1, NAMES, 1.0, None, False),
        *(
            memory.control_block.fd,
            [(block.fd, 4096) if block else None for block in memory.blocks],
        ),
        sample_run_delay=False,
        bells=[memory.bells[1].ends],
    )
    wire = RecordedWire()
    return Relay(setup, ends[1], wire, RemoteClock(is_same=True)), wire, ends[0]


def test_a_session_begins_before_it_is_to_finish(relay, memory):
    """The caller says both while the relay has no core: it sees both at once."""
    passing, wire, caller = relay
    caller.send(Segment(1, b"", [], [], serial=1))
    assert passing.step() and not passing.step()
    memory.control.go(1)
    caller.send(Finish(1, drain=True, serial=2))
    assert passing.step() and not passing.step()
    assert wire.kinds() == [MESSAGE, GO, MESSAGE]


def test_outputs_leave_with_their_flags(relay, memory):
    passing, wire, caller = relay
    caller.send(Segment(1, b"", [], [CopyOrder(7, 0, 1, [(8, 0, 4)])], serial=1))
    passing.step()
    memory.arenas[0].octets[8:12] = b"abcd"
    memory.control.flags[7] = 1
    assert passing.step() and not passing.step()
    assert wire.sent[-1] == (DATA, (7).to_bytes(8, "little") + b"abcd")


def test_a_line_with_nothing_to_say_is_tried_now_and_then(relay, monkeypatch):
    """Only who sends finds out that the other end is gone."""
    passing, wire, _ = relay
    monkeypatch.setattr("dynpartition.hardware.relay.HERE_EVERY_NS", 10**15)
    for _ in range(3):
        passing._say_here()
    assert wire.sent == [(HERE, b"")]
    passing._here_due_ns = 0
    passing._say_here()
    assert wire.sent == 2 * [(HERE, b"")]


def test_a_worker_that_is_to_finish_wakes_when_its_session_begins(memory, ends):
    """However late that is, it reports: it does not sleep until there is a message."""
    caller, theirs = ends
    own = Site("cpu:0", 0, {}, [memory.arenas[0]], memory.control, Repeater(1.0))
    server = Server(0, theirs, own, Spinner(polite=True))

    def serve():
        with suppress(EOFError):
            server.serve()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    for message in (Segment(1, b"", [], []), Finish(1, drain=True)):
        message.serial = memory.control.ring(0)
        caller.send(message)
    time.sleep(0.05)  # it would be asleep by now
    memory.control.go(1)
    assert caller.poll(LONG_S), "the worker sleeps"
    report = caller.receive()
    assert isinstance(report, Report) and report.epoch == 1
    server.is_dismissed = True
    memory.control.ring(0)
    caller.send(Finish(1, drain=True, serial=3))
    thread.join(LONG_S)
    assert not thread.is_alive()


def test_a_bell_ends_the_sleep_of_another_process_or_the_next_one():
    bell = Doorbell.create()
    other = Doorbell(bell.ends)  # as a process has it that was given the ends
    for _ in range(100_000):  # never too full to ring, nor do strokes add up
        other.wake()
    assert bell.sleep(LONG_S)
    assert not bell.sleep(0.01)
    other.wake()
    assert bell.sleep(LONG_S)
    bell.close()
    bell.wake()  # goes nowhere


@pytest.mark.parametrize(
    ("n_cores", "n_ranks", "names", "number", "core"),
    [
        (2, 2, NAMES, 0, None),
        (4, 2, NAMES, 0, 2),
        (4, 2, NAMES, 1, 3),
        (4, 2, ["cpu:0", "cpu:1", "cpu:2", "host1/cpu:0"], 0, 3),
        (4, 2, ["cpu:0", "cuda:0", "host1/cpu:0"], 2, None),
        (4, 2, ["cpu:0", "host1/cpu:0", "host1/cpu:1", "host1/cuda:5"], 0, 3),
        (8, 1, NAMES, 0, 1),  # the only rank of its machine
    ],
)
def test_who_passes_on_has_a_core_without_a_device_if_there_is_one(
    monkeypatch, n_cores, n_ranks, names, number, core
):
    monkeypatch.setattr(devices, "world", lambda: World(0, n_ranks, 0, n_ranks))
    assert devices.spare_core(range(n_cores), names, number) == core


@pytest.mark.parametrize(
    ("n_cores", "rank", "expected"), [(5, 1, True), (6, 1, False), (2, 2, True), (3, 2, False)]
)
def test_gpus_of_other_hosts_wait_politely_where_cores_are_few(
    monkeypatch, n_cores, rank, expected
):
    """Ranks 0 and 1 share a machine; rank 2 has one of its own."""
    world = World(1, 3, 1, 2) if rank == 1 else World(2, 3, 0, 1)
    monkeypatch.setattr(devices, "world", lambda: world)
    names = ["cpu:0", "host1/cpu:0", "host1/cuda:0", "host1/cuda:1", "host2/cpu:0", "host2/cuda:0"]
    assert devices.are_crowded(range(n_cores), names) == expected


def test_threads_get_their_core_and_priority_back():
    """Also those that others have started; those that are started inside are preferred, too."""
    stop, found = threading.Event(), {}
    outer = threading.Thread(target=stop.wait)
    outer.start()

    def state(thread):
        return os.sched_getaffinity(thread), os.getpriority(os.PRIO_PROCESS, thread)

    before = [state(t) for t in (0, outer.native_id)]
    core = min(before[0][0])
    with preferred(core):
        inner = threading.Thread(target=lambda: found.update(inner=state(0)))
        inner.start()
        inner.join()
        assert [state(t)[0] for t in (0, outer.native_id)] == [{core}] * 2
        assert found["inner"] == state(0)
        assert state(0)[1] in (PREFERRED, before[0][1])  # as far as this user may
    after = [state(t) for t in (0, outer.native_id)]
    stop.set()
    outer.join()
    assert after == before


def test_blocks_that_overlap_share_a_core_from_the_first_to_the_last():
    """Those that are left out, and all after the last, are as before."""
    stop, left = threading.Event(), []
    outer = threading.Thread(target=stop.wait)
    outer.start()

    def states():
        return [
            (os.sched_getaffinity(thread), os.getpriority(os.PRIO_PROCESS, thread))
            for thread in (0, outer.native_id)
        ]

    before = states()
    first, last = min(before[0][0]), max(before[0][0])
    threads = PreferredThreads([outer.native_id])
    one, other = threads.preferred(first), threads.preferred(last)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    left.append(states())
    other.__exit__(None, None, None)
    after = states()
    with threads.preferred(last):
        left.append(states())
    assert [state[0][0] for state in left] == [{first}, {last}]
    assert [state[1] for state in left] == [before[1]] * 2
    assert after == states() == before
    stop.set()
    outer.join()


def test_a_caller_that_goes_before_its_first_word_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(host_server, "HELLO_TIMEOUT_S", 0.2)
    store = HashStore()
    host_server.serve_device(store, None, None)  # it never says who it is
    store.set("versions/0", versions())
    host_server.serve_device(store, None, None)  # or never comes to the wire


def test_a_host_that_answers_and_goes_is_named(monkeypatch):
    store = HashStore()
    store.set("versions/1", versions())
    store.set("clock/1", clock_name())
    monkeypatch.setattr("dynpartition.hardware.relay.dial", lambda host, timeout_s: store)
    setup = Setup(
        *(("", ""), [], {}, (0, 0), "", 0, 1, NAMES, 1.0, None, False, 0, []),
        sample_run_delay=False,
        answer_timeout_s=0.2,
    )
    with pytest.raises(Refused, match="host1 has answered and is gone"):
        connect(setup)


def test_a_wire_may_be_silent_for_longer_than_its_ends_took_to_come():
    store, wires = HashStore(), {}

    def come(rank):
        wires[rank] = Wire(store, rank, timeout_s=0.5)

    ends = [threading.Thread(target=come, args=(rank,)) for rank in range(2)]
    for end in ends:
        end.start()
    for end in ends:
        end.join()
    late = threading.Timer(0.8, lambda: wires[1].send(DATA, [b"abc"], a=7))
    late.start()
    frame = wires[0].receive()
    assert (frame.kind, frame.a, bytes(frame.payload)) == (DATA, 7, b"abc")
    late.join()
    for wire in wires.values():
        wire.close()
