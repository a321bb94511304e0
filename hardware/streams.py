"""CUDA streams as the backend uses them, and a stand-in that shows missing waits without a GPU."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor, nn

from dynpartition.cluster import Device
from dynpartition.hardware.green import SmLimits, parts_of, plan_splits
from dynpartition.hardware.messages import Pause
from dynpartition.hardware.peer import FakePeer, Peer, Step, meet
from dynpartition.types import IntArray

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_LOOK_S = 50e-6

StreamT = TypeVar("StreamT")
EventT = TypeVar("EventT")


class StreamApi(ABC, Generic[StreamT, EventT]):
    """What a backend needs of CUDA. Nothing waits for a device but `synchronize` and `close`."""

    n_devices: int
    """Number of CUDA devices there are."""

    @abstractmethod
    def prepare(self, devices: Sequence[Device]) -> None:
        """Set up a backend's devices, before anything else is asked for.

        Raises DeviceError where a GPU cannot be cut into the parts that `devices` name.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what `prepare` has set up, with all streams. Closing twice does nothing."""

    @abstractmethod
    def arena(self, device: Device, size_bytes: int) -> Tensor:
        """Return uint8 memory on `device`."""

    @abstractmethod
    def cells(self, device: Device, cells: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
        """Return copies of the cells on `device`; parts of one GPU share them."""

    @abstractmethod
    def pin(self, host: Tensor) -> None:
        """Let devices reach host memory without staging, as far as the platform allows."""

    @abstractmethod
    def unpin(self, host: Tensor) -> None:
        """Undo `pin`."""

    @abstractmethod
    def stream(self, device: Device) -> StreamT:
        """Return a new stream; of a part of a GPU, one that computes on nothing else."""

    @abstractmethod
    def enqueue(self, stream: StreamT, work: Callable[[], None]) -> None:
        """Run `work` after everything enqueued before; it launches kernels or copies."""

    @abstractmethod
    def restore(self) -> None:
        """Give the calling thread back what it had before work was enqueued."""

    @abstractmethod
    def upload(self, stream: StreamT, values: IntArray) -> Tensor:
        """Return int64 values in the memory of the stream's device, for later work on `stream`."""

    @abstractmethod
    def load(self, stream: StreamT, host: Tensor) -> Tensor:
        """Return a copy of `host`, uint8, on the stream's device, for later work on `stream`.

        The memory is that of what was unloaded on the same stream, where that is large enough.
        """

    @abstractmethod
    def unload(self, stream: StreamT, memory: Tensor) -> None:
        """Give back what `load` has returned: later work on `stream` may overwrite it."""

    @abstractmethod
    def capture(self, stream: StreamT, work: Callable[[], None]) -> Callable[[], None]:
        """Return what does the kernels of `work` again at one call, inside of `enqueue`.

        `work` is run once before. Raises RuntimeError for work that cannot be captured.
        """

    @abstractmethod
    def relieve(self) -> None:
        """Give device memory back that is kept for later, before something is tried again."""

    @abstractmethod
    def join(self, device: Device, store: Store, rank: int, timeout_s: float, pause: Pause) -> Peer:
        """Connect `device` with a GPU of another process, which does the same as the other rank.

        `rank`: 0 or 1. `store`: where both meet, and nobody else. Calls `pause` now and then, which
        may raise. Raises DeviceError where they cannot be connected within `timeout_s`.
        """

    @abstractmethod
    def record(self, stream: StreamT) -> EventT:
        """Return an event that happens when the stream has got this far."""

    @abstractmethod
    def wait(self, stream: StreamT, event: EventT) -> None:
        """Let what is enqueued from now on wait for `event`."""

    @abstractmethod
    def has_happened(self, event: EventT) -> bool:
        """Return whether `event` has happened."""

    @abstractmethod
    def start_clock(self) -> None:
        """Tie the devices' clocks to this host's; the devices are idle."""

    @abstractmethod
    def host_ns(self, event: EventT) -> int:
        """Return when `event` happened, by `time.perf_counter_ns`."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all devices are idle."""


def begun_by(start_ns: int, end_ns: int, enqueued_ns: int) -> tuple[int, int]:
    """Return when enqueued work started and ended, given its events.

    On an idle stream the first event happens at once, long before the work has been enqueued. What
    lies between is the host's time, not the device's.
    """
    return min(max(start_ns, enqueued_ns), end_ns), end_ns


@dataclass(slots=True, eq=False)
class FakeEvent:
    """A point in a stand-in stream."""

    happened_ns: int | None = None


@dataclass(slots=True, eq=False)
class FakeStream:
    """Work that has not been done yet: callables, and what is to be waited for."""

    work: deque[Callable[[], None] | FakeEvent | Step] = field(default_factory=deque)


class FakeStreams(StreamApi[FakeStream, FakeEvent]):
    """A stand-in on the CPU whose streams advance in an order drawn from `seed`.

    Work is put off until somebody asks for an event, and then done in any order that the waits
    allow. Memory starts as NaN. So code that forgets a wait computes wrong numbers under some
    seed. With `ignore_waits` it forgets all of them, to show that. Its GPUs can be cut into parts
    like an H100 (`limits`), which are then like devices of their own.
    """

    limits = SmLimits(total=132, minimum=8, multiple=8)

    def __init__(self, n_devices: int = 8, *, seed: int = 0, ignore_waits: bool = False) -> None:
        self.n_devices = n_devices
        self._ignore_waits = ignore_waits
        self._random = random.Random(seed)
        self._streams: list[FakeStream] = []
        self._arenas: list[Tensor] = []

    def prepare(self, devices: Sequence[Device]) -> None:
        """Check the sizes of parts; DeviceError where they cannot be."""
        for gpu, parts in parts_of(devices).items():
            plan_splits(gpu, parts, self.limits)

    def close(self) -> None:
        """Do nothing."""

    def arena(self, device: Device, size_bytes: int) -> Tensor:
        """Return uint8 memory; all ones, which reads as NaN."""
        self._arenas.append(torch.full((size_bytes,), 255, dtype=torch.uint8))
        return self._arenas[-1]

    def cells(self, device: Device, cells: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
        """Return the cells themselves."""
        return cells

    def pin(self, host: Tensor) -> None:
        """Do nothing."""

    def unpin(self, host: Tensor) -> None:
        """Do nothing."""

    def stream(self, device: Device) -> FakeStream:
        """Return a new stream."""
        self._streams.append(FakeStream())
        return self._streams[-1]

    def enqueue(self, stream: FakeStream, work: Callable[[], None]) -> None:
        """Put `work` off."""
        stream.work.append(work)

    def restore(self) -> None:
        """Do nothing."""

    def upload(self, stream: FakeStream, values: IntArray) -> Tensor:
        """Return values that are out of any range until the stream gets there."""
        tensor = torch.full((len(values),), -1)
        stream.work.append(lambda: _fill(tensor, values))
        return tensor

    def load(self, stream: FakeStream, host: Tensor) -> Tensor:
        """Return memory that reads as NaN until the stream gets there."""
        memory = torch.full((len(host),), 255, dtype=torch.uint8)
        stream.work.append(lambda: _copy(host, memory))
        return memory

    def unload(self, stream: FakeStream, memory: Tensor) -> None:
        """Let the memory read as NaN from when the stream gets there."""
        stream.work.append(lambda: _forget(memory))

    def capture(self, stream: FakeStream, work: Callable[[], None]) -> Callable[[], None]:
        """Return `work` itself."""
        return work

    def relieve(self) -> None:
        """Do nothing."""

    def join(self, device: Device, store: Store, rank: int, timeout_s: float, pause: Pause) -> Peer:
        """Return a stand-in for one end; DeviceError when the other one does not come."""
        meet(store, rank, timeout_s, pause)
        return FakePeer(store, rank)

    def record(self, stream: FakeStream) -> FakeEvent:
        """Return an event that happens when the stream has got this far."""
        event = FakeEvent()

        def happen() -> None:
            event.happened_ns = time.perf_counter_ns()

        stream.work.append(happen)
        return event

    def wait(self, stream: FakeStream, event: FakeEvent) -> None:
        """Let what is enqueued from now on wait for `event`."""
        if not self._ignore_waits:
            stream.work.append(event)

    def has_happened(self, event: FakeEvent) -> bool:
        """Do one piece of work somewhere, then return whether `event` has happened."""
        if event.happened_ns is None:
            self._progress()
        return event.happened_ns is not None

    def start_clock(self) -> None:
        """Forget what was in memory; the clock is the host's already."""
        for arena in self._arenas:
            arena.fill_(255)

    def host_ns(self, event: FakeEvent) -> int:
        """Return when `event` happened."""
        assert event.happened_ns is not None, "the time of an event that has not happened"
        return event.happened_ns

    def synchronize(self) -> None:
        """Do all work."""
        while any(stream.work for stream in self._streams):
            self._progress()

    def _progress(self) -> None:
        """Do the first piece of work of one stream that can go on.

        There must be one, unless another process is waited for.
        """
        able = [stream for stream in self._streams if stream.work and _can_go_on(stream)]
        if able:
            work = self._random.choice(able).work.popleft()
            if not isinstance(work, FakeEvent | Step):
                work()
            return
        heads = [stream.work[0] for stream in self._streams if stream.work]
        assert any(isinstance(head, Step) for head in heads), "streams wait for each other"
        time.sleep(_LOOK_S)


@torch.inference_mode()  # where the memory may come from
def _copy(source: Tensor, target: Tensor) -> None:
    target.copy_(source)


@torch.inference_mode()
def _forget(memory: Tensor) -> None:
    memory.fill_(255)


@torch.inference_mode()  # where the tensor may come from
def _fill(tensor: Tensor, values: IntArray) -> None:
    tensor.copy_(torch.from_numpy(values))


def _can_go_on(stream: FakeStream) -> bool:
    head = stream.work[0]
    if isinstance(head, Step):
        return head.is_over()
    return not isinstance(head, FakeEvent) or head.happened_ns is not None
