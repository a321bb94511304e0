"""What is asked of NCCL, where there is none: PyTorch's fake process group takes its place.

Process groups are PyTorch's own, so the calls are those that it has.
"""

import os
import time
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore
from torch.distributed import distributed_c10d as c10d

from dynpartition.errors import DeviceError
from dynpartition.hardware import nccl
from dynpartition.hardware.nccl import NcclPeer, environment, in_time

CPU = torch.device("cpu")
FakeGroup = torch._C._distributed_c10d.FakeProcessGroup
PyTorchGroup = c10d.ProcessGroup


def nothing():
    """Be a pause."""


class Nccl:
    """What happens to groups, and how one of them fails."""

    def __init__(self):
        self.said, self.fails, self.hangs = [], None, False


@pytest.fixture
def stand_in(monkeypatch):
    """Let groups use a stand-in for NCCL; return what happens to them."""
    seen = Nccl()

    def backend(store, rank, size, options):
        calm = os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"]
        seen.said.append(("made", rank, size, options._timeout.days, calm))
        if seen.fails:
            raise RuntimeError(seen.fails)
        return FakeGroup._create_internal(rank, size)

    class Group:
        """Passes all calls on to a group of PyTorch."""

        BackendType = PyTorchGroup.BackendType

        def __init__(self, *ends):
            self.real = PyTorchGroup(*ends)

        def _set_default_backend(self, kind):
            assert kind == self.BackendType.NCCL
            self.real._set_default_backend(self.BackendType.CUSTOM)

        def _register_backend(self, device, kind, backend):
            assert kind == self.BackendType.NCCL
            self.real._register_backend(device, self.BackendType.CUSTOM, backend)

        def _start_coalescing(self, device):
            self.real._start_coalescing(device)
            seen.said.append("begin")

        def send(self, tensors, to, tag):
            self.real.send(tensors, to, tag)
            seen.said.append(("send", *[t.tolist() for t in tensors], to))

        def recv(self, tensors, source, tag):
            self.real.recv(tensors, source, tag)
            tensors[0].fill_(source)
            seen.said.append(("recv", *[len(t) for t in tensors], source))

        def _end_coalescing(self, device):
            work = self.real._end_coalescing(device)
            return SimpleNamespace(wait=lambda: seen.said.append(("end", work.wait())))

        def abort(self):
            while seen.hangs:
                time.sleep(0.01)
            self.real.abort()
            seen.said.append("abort")

    monkeypatch.setattr(c10d, "is_nccl_available", lambda: True)
    backend.Options = SimpleNamespace
    monkeypatch.setattr(c10d, "ProcessGroupNCCL", backend, raising=False)
    monkeypatch.setattr(c10d, "ProcessGroup", Group)
    return seen


def connected(rank=0, enter=lambda stream: None, timeout_s=5.0):
    store = HashStore()
    store.set(f"here/{1 - rank}", "")
    return NcclPeer(CPU, store, rank, enter, timeout_s=timeout_s, pause=nothing)


@pytest.mark.parametrize("rank", [0, 1])
def test_both_directions_are_tried_first(rank, stand_in):
    connected(rank)
    made, *hands = stand_in.said
    assert made == ("made", rank, 2, 1000, "0")
    assert hands == ["begin", ("send", [rank], 1 - rank), ("recv", 1, 1 - rank), ("end", True)]


def test_a_transfer_is_one_call_on_the_stream_it_is_enqueued_on(stand_in):
    peer = connected(enter=lambda stream: stand_in.said.append(("enter", stream)))
    stand_in.said.clear()
    blocks = [torch.tensor([3, 4], dtype=torch.uint8), torch.tensor([5], dtype=torch.uint8)]
    peer.send("out", blocks)
    peer.receive("in", blocks)
    sent = [("enter", "out"), "begin", ("send", [3, 4], 1), ("send", [5], 1), ("end", True)]
    received = [("enter", "in"), "begin", ("recv", 2, 1), ("recv", 1, 1), ("end", True)]
    assert stand_in.said == sent + received


def test_a_connection_is_cut_once(stand_in):
    peer = connected()
    peer.cut()
    peer.cut()
    assert stand_in.said.count("abort") == 1


def test_a_communicator_that_does_not_let_go_holds_up_nobody(stand_in, monkeypatch):
    monkeypatch.setattr(nccl, "_CUT_TIMEOUT_S", 0.05)
    peer, stand_in.hangs = connected(), True
    with pytest.raises(RuntimeError, match="NCCL does not let go of cpu"):
        peer.cut()
    stand_in.hangs = False


def test_what_nccl_says_is_passed_on(stand_in):
    stand_in.fails = "NCCL error: invalid usage, Duplicate GPU detected\nmore"
    with pytest.raises(DeviceError, match=r"not connect: .* Duplicate GPU detected$"):
        connected()


def test_an_end_that_is_alone_gives_up(stand_in):
    with pytest.raises(DeviceError, match=r"the other end does not come within 0\.05 s"):
        NcclPeer(CPU, HashStore(), 0, nothing, timeout_s=0.05, pause=nothing)
    assert not stand_in.said


def test_a_build_without_nccl_says_so():
    if c10d.is_nccl_available():
        pytest.skip("this PyTorch has NCCL")
    with pytest.raises(DeviceError, match="this PyTorch has no NCCL; exchange by way of host mem"):
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
