"""CUDA through PyTorch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dynpartition.cluster import Device
from dynpartition.device_spec import gpu_of
from dynpartition.hardware.green import GreenContexts, parts_of
from dynpartition.hardware.messages import Pause
from dynpartition.hardware.peer import Peer
from dynpartition.hardware.streams import StreamApi
from dynpartition.types import IntArray

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_cuda: Any = torch.cuda  # most of it has no types


@dataclass(slots=True, eq=False)
class CudaEvent:
    """An event and the device whose clock it reads."""

    device: int
    event: Any
    """`torch.cuda.Event`."""


class CudaStreams(StreamApi[torch.cuda.Stream, CudaEvent]):
    """The CUDA devices that PyTorch sees. Full float32 precision is switched on."""

    def __init__(self) -> None:
        self.n_devices = _cuda.device_count() if _cuda.is_available() else 0
        self._base: dict[int, tuple[Any, int]] = {}
        self._pinned: set[int] = set()
        self._devices: set[int] = set()
        self._streams: list[torch.cuda.Stream] = []
        self._current: torch.cuda.Stream | None = None
        """Where the last work went; None: the calling thread has its own stream."""
        self._callers: Any = None
        self._events: dict[int, list[Any]] = {}
        """Per device: an event stays with the device that it was first recorded on."""
        self._n_events: dict[int, int] = {}
        """How many of them this session has used."""
        self._green: dict[str, GreenContexts] = {}
        self._graphs: list[Any] = []
        """Every `torch.cuda.CUDAGraph` captured on a stream of these devices."""
        self._cells: dict[
            tuple[str, int], tuple[Mapping[str, nn.Module], Mapping[str, nn.Module]]
        ] = {}

    def prepare(self, devices: Sequence[Device]) -> None:
        """Cut GPUs into the parts that `devices` name; DeviceError where that cannot be."""
        for gpu, parts in parts_of(devices).items():
            _cuda.synchronize(gpu)  # makes the primary context, which green ones belong to
            self._green[gpu] = GreenContexts(gpu, parts)

    def close(self) -> None:
        """End the green contexts and their streams, once all devices are idle."""
        self.restore()  # or the caller's current stream would be one that is gone
        # Of a GPU that was lost nothing can be waited for, and its memory is gone anyway.
        with suppress(RuntimeError):
            self.synchronize()
            while self._graphs:
                self._graphs.pop().reset()  # while the contexts of its kernels are there
            if self._green:
                _cuda.empty_cache()  # blocks that were kept for streams that will be gone
        self._streams.clear()
        while self._green:
            self._green.popitem()[1].close()
        self._cells.clear()

    def arena(self, device: Device, size_bytes: int) -> Tensor:
        """Return uint8 memory on `device`."""
        # TensorFloat-32 would make results differ from the CPU's in the fourth digit.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        return torch.empty(size_bytes, dtype=torch.uint8, device=gpu_of(device.name))

    def cells(self, device: Device, cells: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
        """Return copies of the cells on `device`; parts of one GPU share them."""
        gpu = gpu_of(device.name)
        key = gpu, id(cells)  # which nothing else can have while the cells are kept here
        if key not in self._cells:
            copies = {name: copy.deepcopy(cell).to(gpu) for name, cell in cells.items()}
            self._cells[key] = cells, copies
        return self._cells[key][1]

    def pin(self, host: Tensor) -> None:
        """Lock host pages; where that is refused, copies are staged by the driver instead."""
        status = _cuda.cudart().cudaHostRegister(host.data_ptr(), host.nbytes, 0)
        if int(status) == 0:
            self._pinned.add(host.data_ptr())

    def unpin(self, host: Tensor) -> None:
        """Unlock host pages."""
        if host.data_ptr() in self._pinned:
            self._pinned.discard(host.data_ptr())
            _cuda.cudart().cudaHostUnregister(host.data_ptr())

    def stream(self, device: Device) -> torch.cuda.Stream:
        """Return a new stream; of a part of a GPU, in its green context."""
        gpu = gpu_of(device.name)
        stream: torch.cuda.Stream
        if gpu == device.name:
            stream = _cuda.Stream(device=gpu)
        else:
            # PyTorch takes it like any other: kernels run where the stream belongs to, while the
            # primary context stays current and owns the memory and the events.
            handle = self._green[gpu].stream(device.name)
            stream = _cuda.ExternalStream(handle, device=gpu)
        self._devices.add(stream.device_index)
        self._streams.append(stream)
        return stream

    def enqueue(self, stream: torch.cuda.Stream, work: Callable[[], None]) -> None:
        """Launch the kernels or copies of `work` on `stream`."""
        self._enter(stream)
        work()

    def _enter(self, stream: torch.cuda.Stream) -> None:
        # `torch.cuda.stream` costs 8 µs each time; work mostly goes where the last went.
        if self._current is None:
            self._callers = _cuda.current_stream()
        if self._current is not stream:
            _cuda.set_stream(stream)
            self._current = stream

    def restore(self) -> None:
        """Give the calling thread back its current stream and device."""
        if self._current is not None:
            _cuda.set_stream(self._callers)
            self._current = None

    def upload(self, stream: torch.cuda.Stream, values: IntArray) -> Tensor:
        """Return int64 values on the device; the copy is enqueued from page-locked memory."""
        self._enter(stream)
        staged = torch.empty(len(values), dtype=torch.int64, pin_memory=True)
        staged.copy_(torch.from_numpy(values))
        # PyTorch keeps the staging memory until the copy has been made.
        return staged.to(stream.device, non_blocking=True)

    def load(self, stream: torch.cuda.Stream, host: Tensor) -> Tensor:
        """Return a copy on the device; it is enqueued, from page-locked memory without staging."""
        self._enter(stream)
        # PyTorch keeps a pool of memory per stream, and takes this from the stream's own.
        memory = torch.empty(len(host), dtype=torch.uint8, device=stream.device)
        memory.copy_(host, non_blocking=True)
        return memory

    def unload(self, stream: torch.cuda.Stream, memory: Tensor) -> None:
        """Do nothing: with its last reference the memory goes back to the stream's pool."""

    def capture(self, stream: torch.cuda.Stream, work: Callable[[], None]) -> Callable[[], None]:
        """Return the replay of a CUDA graph of `work`."""
        graph = _cuda.CUDAGraph()
        try:
            self._enter(stream)
            work()  # libraries set themselves up at their first call, which cannot be captured
            stream.synchronize()
            # Other threads may go on using the GPU meanwhile.
            with _cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                work()
        finally:
            self.restore()
        self._graphs.append(graph)
        replay: Callable[[], None] = graph.replay
        return replay

    def relieve(self) -> None:
        """Give back the blocks that PyTorch keeps; that waits for the devices."""
        _cuda.empty_cache()

    def join(self, device: Device, store: Store, rank: int, timeout_s: float, pause: Pause) -> Peer:
        """Connect a whole GPU with one of another process by NCCL."""
        from dynpartition.hardware.nccl import NcclPeer

        gpu = torch.device(gpu_of(device.name))
        return NcclPeer(gpu, store, rank, self._enter, timeout_s=timeout_s, pause=pause)

    def record(self, stream: torch.cuda.Stream) -> CudaEvent:
        """Return an event that happens when the stream has got this far."""
        event = self._next_event(stream.device_index)
        event.record(stream)
        return CudaEvent(stream.device_index, event)

    def _next_event(self, device: int) -> Any:
        """Return an event; making one costs more than recording one, so a session's are reused."""
        events, used = self._events.setdefault(device, []), self._n_events.get(device, 0)
        if used == len(events):
            events.append(_cuda.Event(enable_timing=True))
        self._n_events[device] = used + 1
        return events[used]

    def wait(self, stream: torch.cuda.Stream, event: CudaEvent) -> None:
        """Let what is enqueued from now on wait for `event`."""
        stream.wait_event(event.event)

    def has_happened(self, event: CudaEvent) -> bool:
        """Return whether `event` has happened."""
        return bool(event.event.query())

    def start_clock(self) -> None:
        """Note one event of each device together with the host's time of it."""
        self._n_events.clear()
        for device in self._devices:
            stream = _cuda.current_stream(device)
            _cuda.synchronize(device)
            event = _cuda.Event(enable_timing=True)
            event.record(stream)
            event.synchronize()
            self._base[device] = (event, time.perf_counter_ns())

    def host_ns(self, event: CudaEvent) -> int:
        """Return when `event` happened, by the host's clock (good to some 10 µs)."""
        base, base_ns = self._base[event.device]
        return base_ns + int(base.elapsed_time(event.event) * 1e6)

    def synchronize(self) -> None:
        """Wait until all devices are idle; of a GPU, all its parts are waited for."""
        # A device's own synchronisation leaves out graphs that run on streams of green contexts.
        for stream in self._streams:
            stream.synchronize()
        for device in self._devices:
            _cuda.synchronize(device)
