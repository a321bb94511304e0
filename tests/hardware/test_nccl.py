"""What is asked of NCCL, where there is none: PyTorch's fake process group takes its place.

It has the calls of all process groups of PyTorch, with the types of their arguments.
"""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore
from torch.distributed import distributed_c10d as c10d

from dynpartition.errors import DeviceError
from dynpartition.hardware.nccl import NcclPeer, environment
from dynpartition.hardware.peer import in_time

CPU = torch.device("cpu")
FakeGroup = torch._C._distributed_c10d.FakeProcessGroup


def nothing():
    """Be a pause."""


class Nccl:
    """A stand-in for NCCL's process groups: what happens to them, and how one fails."""

    Options = SimpleNamespace

    def __init__(self):
        self.said, self.fails, self.depth, self.is_stuck = [], {}, 0, False

    def __call__(self, store, rank, size, options):
        self._happens("make")
        there = os.environ["TORCH_NCCL_BLOCKING_WAIT"]
        self.said.append(("made", rank, size, options._timeout.days, there))
        real = FakeGroup._create_internal(rank, size)
        return Group(self, real)

    def _happens(self, name):
        if name in self.fails:
            raise RuntimeError(self.fails[name])


class Group:
    """Passes all calls on to a group of PyTorch, in a group call of NCCL as PyTorch does."""

    def __init__(self, nccl, real):
        self.nccl, self.real = nccl, real

    def _done(self, name, call, tensors, peer, tag, said):
        self.nccl.depth += 1
        self.nccl._happens(name)
        self.nccl.depth -= 1
        assert not self.nccl.depth, "nothing is begun inside of a group call that was left open"
        work = call(tensors, peer, tag)
        self.nccl.said.append(said)
        return SimpleNamespace(synchronize=lambda: self.nccl.said.append(("end", work.wait())))

    def send(self, tensors, peer, tag):
        said = ("send", *[t.tolist() for t in tensors], peer)
        return self._done("send", self.real.send, tensors, peer, tag, said)

    def recv(self, tensors, peer, tag):
        while self.nccl.is_stuck:
            time.sleep(0.01)
        work = self._done(
            *("recv", self.real.recv, tensors, peer, tag, ("recv", *map(len, tensors), peer))
        )
        tensors[0].copy_(torch.arange(peer, peer + len(tensors[0]), dtype=torch.uint8))
        return work

    def _group_end(self):
        assert self.nccl.depth
        self.nccl.depth -= 1
        raise RuntimeError("NCCL error: what was asked inside has failed")

    def abort(self):
        self.real.abort()
        self.nccl.is_stuck = False
        self.nccl.said.append("abort")


@pytest.fixture
def stand_in(monkeypatch):
    """Let connections use a stand-in for NCCL; return it."""
    nccl = Nccl()
    monkeypatch.setattr(c10d, "is_nccl_available", lambda: True)
    monkeypatch.setattr(c10d, "ProcessGroupNCCL", nccl, raising=False)
    return nccl


def connected(rank=0, enter=lambda stream: None, timeout_s=5.0, pause=nothing):
    store = HashStore()
    store.set(f"here/{1 - rank}", "")
    return NcclPeer(CPU, store, rank, enter, timeout_s=timeout_s, pause=pause)


@pytest.mark.parametrize("rank", [0, 1])
def test_both_directions_are_tried_first_in_one_order(rank, stand_in):
    connected(rank)
    made, *hands = stand_in.said
    assert made == ("made", rank, 2, 1000, "1")
    sends, receives = ("send", [rank], 1 - rank), ("recv", 1, 1 - rank)
    first, second = (receives, sends) if rank else (sends, receives)
    assert hands == [first, ("end", True), second, ("end", True)]


def test_a_transfer_is_one_message_on_the_stream_it_is_enqueued_on(stand_in):
    peer = connected(enter=lambda stream: stand_in.said.append(("enter", stream)))
    stand_in.said.clear()
    blocks = [torch.tensor(block, dtype=torch.uint8) for block in ([3, 4], [5], [6, 7, 8])]
    peer.send("out", blocks)
    peer.send("out", blocks[:1])
    sent = [("enter", "out"), ("send", [3, 4, 5, 6, 7, 8], 1), ("end", True)]
    assert stand_in.said == [*sent, ("enter", "out"), ("send", [3, 4], 1), ("end", True)]
    stand_in.said.clear()
    peer.receive("in", blocks)
    peer.receive("in", blocks[1:2])
    assert [block.tolist() for block in blocks] == [[1, 2], [1], [4, 5, 6]]
    received = [("enter", "in"), ("recv", 6, 1), ("end", True)]
    assert stand_in.said == [*received, ("enter", "in"), ("recv", 1, 1), ("end", True)]


def test_after_a_failure_other_connections_go_on(stand_in):
    one, other = connected(), connected()
    block = [torch.zeros(2, dtype=torch.uint8)]
    stand_in.fails["send"] = "NCCL error: remote process exited"
    with pytest.raises(RuntimeError, match="remote process exited"):
        one.send("out", block)
    stand_in.fails.clear()
    one.cut()
    other.receive("in", block)
    assert stand_in.said[-2:] == [("recv", 2, 1), ("end", True)]


def test_a_connection_is_cut_once(stand_in):
    peer = connected()
    peer.cut()
    peer.cut()
    assert stand_in.said.count("abort") == 1


@pytest.mark.parametrize(("step", "n_aborted"), [("make", 0), ("send", 1), ("recv", 1)])
def test_what_nccl_says_is_passed_on(step, n_aborted, stand_in):
    stand_in.fails[step] = "NCCL error: invalid usage, Duplicate GPU detected\nmore"
    with pytest.raises(DeviceError, match=r"not connect: .* Duplicate GPU detected$"):
        connected()
    assert stand_in.said.count("abort") == n_aborted


def test_hands_that_nobody_shakes_are_taken_back(stand_in):
    """Its kernel would occupy the GPU for good."""
    stand_in.is_stuck = True
    with pytest.raises(DeviceError, match=r"does not connect: no end within 0\.1"):
        connected(timeout_s=0.1)
    assert stand_in.said.count("abort") == 1


def test_so_they_are_when_the_other_end_is_found_to_be_gone(stand_in):
    stand_in.is_stuck, looks = True, []

    def look():
        looks.append(0)
        if len(looks) == 3:
            raise DeviceError("its worker is gone")

    with pytest.raises(DeviceError, match="its worker is gone"):
        connected(pause=look)
    assert stand_in.said.count("abort") == 1


def test_hands_of_a_stranger_are_not_taken(stand_in, monkeypatch):
    def recv(group, tensors, peer, tag):
        tensors[0].fill_(9)
        return SimpleNamespace(synchronize=nothing)

    monkeypatch.setattr(Group, "recv", recv)
    with pytest.raises(DeviceError, match="received what was not sent"):
        connected()


def test_an_end_that_is_alone_gives_up(stand_in):
    with pytest.raises(DeviceError, match=r"the other end does not come within 0\.05 s"):
        NcclPeer(CPU, HashStore(), 0, nothing, timeout_s=0.05, pause=nothing)
    assert not stand_in.said


def test_a_build_without_nccl_says_so():
    if c10d.is_nccl_available():
        pytest.skip("this PyTorch has NCCL")
    with pytest.raises(DeviceError, match="this PyTorch has no NCCL"):
        connected()


def test_the_environment_is_as_it_was(monkeypatch):
    monkeypatch.setenv("DYNPARTITION_A", "before")
    monkeypatch.delenv("DYNPARTITION_B", raising=False)
    with pytest.raises(KeyError), environment({"DYNPARTITION_A": "1", "DYNPARTITION_B": "2"}):
        assert (os.environ["DYNPARTITION_A"], os.environ["DYNPARTITION_B"]) == ("1", "2")
        raise KeyError
    assert os.environ["DYNPARTITION_A"] == "before"
    assert "DYNPARTITION_B" not in os.environ


def test_work_that_takes_too_long_is_left_behind():
    with pytest.raises(TimeoutError):
        in_time(lambda: time.sleep(0.5), 0.02, nothing)


def test_a_pause_may_end_a_wait():
    def look():
        raise DeviceError("its worker is gone")

    with pytest.raises(DeviceError, match="its worker is gone"):
        in_time(lambda: time.sleep(0.5), 60.0, look)


def test_what_work_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        in_time(lambda: 1 / 0, 60.0, nothing)


def test_the_package_needs_no_distributed_pytorch():
    """Some builds have none; a device of this host asks for none."""
    names = ("backend", "machine", "cuda", "links", "peer", "streams", "gpu_worker", "worker")
    imports = "; ".join(f"import dynpartition.hardware.{name}" for name in names)
    absent = "sys.modules['torch.distributed.distributed_c10d'] = None"
    code = f"import sys, torch; {absent}; {imports}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
