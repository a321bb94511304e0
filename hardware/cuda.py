"""CUDA through PyTorch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynpartition.cluster import Device
from dynpartition.hardware.streams import StreamApi

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

    def arena(self, device: Device, size_bytes: int) -> Tensor:
        """Return uint8 memory on `device`."""
        # TensorFloat-32 would make results differ from the CPU's in the fourth digit.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        return torch.empty(size_bytes, dtype=torch.uint8, device=device.name)

    def cells(self, device: Device, cells: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
        """Return copies of the cells on `device`."""
        return {name: copy.deepcopy(cell).to(device.name) for name, cell in cells.items()}

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
        """Return a new stream."""
        stream: torch.cuda.Stream = _cuda.Stream(device=device.name)
        self._devices.add(stream.device_index)
        return stream

    def enqueue(self, stream: torch.cuda.Stream, work: Callable[[], None]) -> None:
        """Launch the kernels or copies of `work` on `stream`."""
        with _cuda.stream(stream):
            work()

    def record(self, stream: torch.cuda.Stream) -> CudaEvent:
        """Return an event that happens when the stream has got this far."""
        event = _cuda.Event(enable_timing=True)
        event.record(stream)
        return CudaEvent(stream.device_index, event)

    def wait(self, stream: torch.cuda.Stream, event: CudaEvent) -> None:
        """Let what is enqueued from now on wait for `event`."""
        stream.wait_event(event.event)

    def has_happened(self, event: CudaEvent) -> bool:
        """Return whether `event` has happened."""
        return bool(event.event.query())

    def start_clock(self) -> None:
        """Note one event of each device together with the host's time of it."""
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
        """Wait until all devices are idle."""
        for device in self._devices:
            _cuda.synchronize(device)
