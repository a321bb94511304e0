"""Parts of a GPU through PyTorch: on a stand-in, and on which multiprocessors they compute."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dynpartition import parse_devices
from dynpartition.errors import DeviceError
from dynpartition.hardware import cuda as cuda_module
from dynpartition.hardware.cuda import CudaStreams

BLOCKS, SPINS = 2000, 2000
"""Enough that every multiprocessor of a part gets blocks."""


class Contexts:
    """Stands in for the green contexts of one GPU."""

    def __init__(self, log, gpu, parts):
        if 12 in parts.values():
            raise DeviceError("12")
        self.log, self.gpu, self.parts = log, gpu, parts
        log.append(f"carve {gpu}")

    def stream(self, name):
        return self.parts[name]

    def close(self):
        self.log.append(f"close {self.gpu}")


@pytest.fixture
def log(monkeypatch):
    """What PyTorch and the driver would have been asked for."""
    log = []

    def stream(handle=None, device=None):
        return SimpleNamespace(
            handle=handle,
            device=device,
            device_index=int(device[5:]),
            synchronize=lambda: log.append(f"wait {handle}"),
        )

    fake = SimpleNamespace(
        is_available=lambda: False,
        synchronize=lambda device: log.append(f"synchronize {device}"),
        empty_cache=lambda: log.append("empty cache"),
        Stream=stream,
        ExternalStream=stream,
    )
    monkeypatch.setattr(cuda_module, "_cuda", fake)
    monkeypatch.setattr(cuda_module, "GreenContexts", lambda *args: Contexts(log, *args))
    return log


def test_streams_of_a_part_are_those_of_its_green_context(log):
    devices = parse_devices("cpu:0,cuda:0/sm16,cuda:0/sm32,cuda:1,cuda:2/sm8")
    streams = CudaStreams()
    streams.prepare(devices)
    assert log == ["synchronize cuda:0", "carve cuda:0", "synchronize cuda:2", "carve cuda:2"]
    made = [streams.stream(device) for device in devices[1:]]
    assert [(s.handle, s.device) for s in made] == [
        (16, "cuda:0"),
        (32, "cuda:0"),
        (None, "cuda:1"),
        (8, "cuda:2"),
    ]
    log.clear()
    streams._graphs.append(SimpleNamespace(reset=lambda: log.append("reset")))
    streams.close()
    assert log[:4] == ["wait 16", "wait 32", "wait None", "wait 8"]
    assert sorted(log[4:7]) == ["synchronize 0", "synchronize 1", "synchronize 2"]
    assert log[7:9] == ["reset", "empty cache"]
    assert sorted(log[9:]) == ["close cuda:0", "close cuda:2"]
    log.clear()
    streams.close()
    assert not any(word.startswith("close") for word in log)


def test_contexts_are_ended_though_the_gpu_was_lost(log, monkeypatch):
    streams = CudaStreams()
    streams.prepare(parse_devices("cuda:0/sm16"))
    streams.stream(parse_devices("cuda:0/sm16")[0])

    def lost(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(cuda_module._cuda, "synchronize", lost)
    streams.close()
    assert log[-1] == "close cuda:0"


def test_what_was_cut_before_a_refusal_is_given_back(log):
    streams = CudaStreams()
    with pytest.raises(DeviceError):
        streams.prepare(parse_devices("cuda:0/sm16,cuda:1/sm12"))
    streams.close()
    assert log[-1] == "close cuda:0"


def test_parts_of_a_gpu_share_weights_and_memory(log, monkeypatch):
    def to(module, device):
        assert "/" not in device
        return module

    monkeypatch.setattr(nn.Module, "to", to)
    streams, cells = CudaStreams(), {"leaf": nn.Linear(2, 2)}
    first, second, other = parse_devices("cuda:0/sm16,cuda:0/sm32,cuda:1")
    shared = streams.cells(first, cells)
    assert streams.cells(second, cells) is shared
    assert shared["leaf"] is not cells["leaf"]
    assert streams.cells(other, cells)["leaf"] is not shared["leaf"]
    assert streams.cells(second, {"leaf": nn.Linear(2, 2)}) is not shared


@pytest.fixture
def sms_of():
    """Return a function that says on which multiprocessors enqueued work computes."""
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    pytest.importorskip("triton")
    pytest.importorskip("cuda.bindings")
    from sm_kernel import write_sm

    def sms_of(streams, own, wrap):
        """Per stream, for work on all of them at once; `wrap(stream, launch)` is enqueued."""
        outs = [torch.empty(BLOCKS, dtype=torch.int32, device="cuda:0") for _ in own]

        def launcher(out):
            return lambda: write_sm[(BLOCKS,)](out, SPINS)

        work = [wrap(s, launcher(out)) for s, out in zip(own, outs, strict=True)]
        for out in outs:
            out.fill_(-1)  # also what a capture or a first launch has written
        torch.cuda.synchronize()
        for stream, one in zip(own, work, strict=True):
            streams.enqueue(stream, one)
        streams.synchronize()
        return [set(out.tolist()) for out in outs]

    return sms_of


def captured(stream, launch):
    """Return the replay of a CUDA graph of `launch`, captured on `stream`."""
    with torch.cuda.stream(stream):
        launch()  # compiles, which a capture does not allow
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        launch()
    return graph.replay


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore")  # Triton's and PyTorch's own are none of ours
@pytest.mark.parametrize("wrap", [lambda stream, launch: launch, captured], ids=["eager", "graph"])
def test_parts_compute_on_multiprocessors_of_their_own(sms_of, wrap):
    devices = parse_devices("cuda:0/sm16,cuda:0/sm32,cuda:0/sm64")
    for _ in range(2):  # the second time, the GPU has been given back
        streams = CudaStreams()
        streams.prepare(devices)
        try:
            found = sms_of(streams, [streams.stream(device) for device in devices], wrap)
        finally:
            streams.close()
        assert [len(sms) for sms in found] == [16, 32, 64]
        assert len(set.union(*found)) == 16 + 32 + 64
        assert min(set.union(*found)) >= 0
    whole = CudaStreams()
    (found,) = sms_of(whole, [whole.stream(parse_devices("cuda:0")[0])], wrap)
    assert len(found) == torch.cuda.get_device_properties(0).multi_processor_count


@pytest.mark.cuda
def test_a_gpu_refuses_more_multiprocessors_than_it_has():
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    pytest.importorskip("cuda.bindings")
    count = torch.cuda.get_device_properties(0).multi_processor_count
    half = -(-count // 16) * 8  # a multiple of 8
    streams = CudaStreams()
    with pytest.raises(DeviceError, match=f"together, but cuda:0 has {count}"):
        streams.prepare(parse_devices(f"cuda:0/sm{half},cuda:0/sm{half}.1,cuda:0/sm8"))
    streams.close()
