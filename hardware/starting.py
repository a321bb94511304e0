"""Starting the workers of a backend: processes, or threads of this process."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dynpartition.cluster import Device
from dynpartition.device_spec import host_of
from dynpartition.errors import DeviceError
from dynpartition.hardware.blocks import SharedMemory
from dynpartition.hardware.compute import Repeater
from dynpartition.hardware.devices import (
    available_cores,
    core_of,
    driven_by_workers,
    elsewhere,
    spare_core,
)
from dynpartition.hardware.lane import Site, run_delay
from dynpartition.hardware.messages import Channel, Ready, Setup
from dynpartition.hardware.pacing import are_paced, paces_from
from dynpartition.hardware.pool import Pool, PoolOptions, end_workers
from dynpartition.hardware.process import RELAY, WORKER, WorkerProcess
from dynpartition.hardware.server import Server
from dynpartition.hardware.settings import stay_on
from dynpartition.hardware.shelf import CpuShelf
from dynpartition.hardware.thread import WorkerThread
from dynpartition.hardware.weights import hollow_copies, layout_of
from dynpartition.models import DynamicModel
from dynpartition.models.capturing.model import CapturedModel

START_TIMEOUT_S = 180.0
_meetings = itertools.count()


def start_pool(model: DynamicModel[Any], devices: Sequence[Device], options: PoolOptions) -> Pool:
    """Return a pool whose workers have started."""
    memory = SharedMemory(
        *(devices, options.arena_bytes, model.cells),
        weights=needs_shared_weights(devices, options),
        connected=options.connected,
    )
    kind = ThreadStarter if options.threads else ProcessStarter
    starter = kind(model, devices, options, memory)
    return Pool(devices, options, memory, starter.start)


def needs_shared_weights(devices: Sequence[Device], options: PoolOptions) -> bool:
    """Return whether weights lie in shared memory: for processes, and where they come and go.

    One copy for all CPU devices: with one each, what one device computes would push the others'
    copies out of the cache that they share.
    """
    processes = not options.threads and bool(driven_by_workers(devices, options.host))
    return processes or bool(options.stocks)


@dataclass(frozen=True)
class _Starter:
    """What it takes to start the workers of a backend."""

    model: DynamicModel[Any]
    devices: Sequence[Device]
    options: PoolOptions
    memory: SharedMemory

    def index_of(self, number: int) -> int:
        """Return which device worker `number` is."""
        return driven_by_workers(self.devices, self.options.host)[number]

    def name_of(self, number: int) -> str:
        """Return the name of that device."""
        return self.devices[self.index_of(number)].name


class ProcessStarter(_Starter):
    """Starts the worker processes of a model."""

    def start(self, numbers: Sequence[int]) -> list[WorkerProcess]:
        """Return workers that have built the model; DeviceError when one does not come to that."""
        started: list[WorkerProcess] = []
        try:
            for number in numbers:
                name = self.name_of(number)
                module = RELAY if host_of(name) else WORKER
                worker = WorkerProcess(name, self.memory.fds, module)
                started.append(worker)
                with contextlib.suppress(OSError):  # a worker that has died says why below
                    worker.channel.send(self._setup(number))
            deadline_s = time.monotonic() + START_TIMEOUT_S
            for worker in started:
                worker.await_ready(deadline_s)
        except BaseException:
            end_workers(started)
            raise
        return started

    def _setup(self, number: int) -> Setup:
        index, memory, options = self.index_of(number), self.memory, self.options
        device, source = self.devices[index], self.model.source
        # Workers leave GPUs to their driver; a relay knows of their memory only the mirror.
        mirrors = memory.mirrors if host_of(device.name) else {}
        blocks = [mirrors.get(at, block) for at, block in enumerate(memory.blocks)]
        is_far_gpu = device.kind == "cuda" and host_of(device.name) > 0
        is_alone = not is_far_gpu or number in memory.unconnected
        connected, meeting = [] if is_alone else memory.connected, ""
        memory.meetings.pop(number, None)
        if connected:
            memory.meetings[number] = meeting = f"{memory.name}/{number}/{next(_meetings)}"
        return Setup(
            model=("", "") if source else _importable(type(self.model)),
            import_path=list(sys.path),
            config=dict(source.settings if source else self.model.spec().config),
            source=source.place if source else "",
            master=(memory.master_block.fd, memory.master_block.size_bytes),
            layout=layout_of(self.model.cells),
            worker=number,
            device=index,
            names=[d.name for d in self.devices],
            speed=device.speed,
            core=self._core(index),
            polite=options.polite,
            control_fd=memory.control_block.fd,
            arenas=[None if b is None else (b.fd, b.size_bytes) for b in blocks],
            sample_run_delay=options.sample_run_delay,
            stock=options.stocks.get(index),
            virtual=options.virtual,
            arena_bytes=list(options.arena_bytes),
            backend=memory.name,
            beyond=elsewhere(self.devices),
            paces=paces_from(self.devices, index),
            host=options.host,
            paced=are_paced(self.devices),
            bells=self._bells(index),
            answer_timeout_s=options.answer_timeout_s,
            connected=connected,
            meeting=meeting,
        )

    def _core(self, index: int) -> int | None:
        """Return where a worker runs: a relay beside the caller, if no core is left for it."""
        devices, cores = self.devices, available_cores()
        if not host_of(devices[index].name):
            return core_of(devices[index], cores)
        spare = spare_core(cores, [d.name for d in devices], elsewhere(devices).index(index))
        return core_of(devices[self.options.host], cores) if spare is None else spare

    def _bells(self, index: int) -> list[tuple[int, int]]:
        """Return what a device's worker rings or, where it is a relay, is woken by."""
        bells = self.memory.bells
        return [bells[index].ends] if index in bells else [bell.ends for bell in bells.values()]


class ThreadStarter(_Starter):
    """Starts workers of a model as threads. They compute with the caller's own weights."""

    def start(self, numbers: Sequence[int]) -> list[WorkerThread]:
        """Return workers that are ready; DeviceError when one does not come to that."""
        started: list[WorkerThread] = []
        n_threads = torch.get_num_threads()
        try:
            started.extend(WorkerThread(self.name_of(n), self._server_of(n)) for n in numbers)
            for worker in started:
                worker.await_ready()
        except BaseException:
            end_workers(started)
            raise
        finally:
            torch.set_num_threads(n_threads)  # part of the setting is the whole process's
        return started

    def _server_of(self, number: int) -> Callable[[Channel], Server]:
        """Return what makes worker `number`, called in its thread."""

        def make(channel: Channel) -> Server:
            device = self.devices[self.index_of(number)]
            torch.set_num_threads(1)
            stay_on(core_of(device, available_cores()))
            listener = self.memory.control.bell.listener()
            server = Server(number, channel, self._site(number), listener)
            channel.send(Ready())
            return server

        return make

    def _site(self, number: int) -> Site:
        memory, index = self.memory, self.index_of(number)
        device, block = self.devices[index], memory.blocks[index]
        cells, shelf = self.model.cells, None
        stock = self.options.stocks.get(index)
        if stock is not None:
            assert block is not None
            cells = hollow_copies(cells)
            shelf = CpuShelf(cells, memory.master, stock, block)
            shelf.reset()
        delay, repeater = run_delay(self.options.sample_run_delay), Repeater(device.speed)
        return Site(
            *(device.name, index, cells, memory.arenas, memory.control, repeater, delay, shelf),
            virtual=self.options.virtual,
            queue=run_delay(not self.options.virtual),
            paces=paces_from(self.devices, index),
            host=self.options.host,
            paced=are_paced(self.devices),
        )


def _importable(kind: type[DynamicModel[Any]]) -> tuple[str, str]:
    """Return where workers find the model's class: they run no script and unpickle nothing."""
    if kind is CapturedModel:
        raise DeviceError(
            "worker processes cannot build a model that was captured in a running program; build it"
            " in a file and load that (dynpartition.load_model('file.py:build')), or use threads"
            ' (workers="threads") or one CPU device'
        )
    if kind.__module__ == "__main__" or "<" in kind.__qualname__:
        raise DeviceError(
            f"{kind.__qualname__} is defined where worker processes cannot import it; move it to"
            ' the top level of a module, or use threads (workers="threads") or one CPU device'
        )
    return kind.__module__, kind.__qualname__
