"""Several hosts in one process: real relays, servers and workers in threads, on stand-in wires.

Each host has memory of its own, so nothing reaches another one but what travels. GPUs of all hosts
are stand-ins whose streams advance in an order that a seed decides.
"""

import copy
import queue
import socket
import sys
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import torch
from torch.distributed import HashStore

from dynpartition import drive
from dynpartition.contract import Scheduler
from dynpartition.device_spec import host_of, is_gpu
from dynpartition.errors import DeviceError, DynPartitionError
from dynpartition.hardware import FakeStreams
from dynpartition.hardware.blocks import SharedMemory
from dynpartition.hardware.compute import Repeater
from dynpartition.hardware.control import CONTROL_BYTES, Control
from dynpartition.hardware.doorbell import Doorbell
from dynpartition.hardware.gpu_worker import connect, gpu_device, started
from dynpartition.hardware.host_memory import HostMemories
from dynpartition.hardware.host_server import serve_wire
from dynpartition.hardware.lane import Site
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import NAP_S, Channel, Failure, Ready
from dynpartition.hardware.patience import Spinner
from dynpartition.hardware.pool import Pool, end_workers
from dynpartition.hardware.relay import Refused, RemoteClock, relay_frames
from dynpartition.hardware.server import Server
from dynpartition.hardware.shared import SharedBlock
from dynpartition.hardware.shelf import CpuShelf
from dynpartition.hardware.starting import ProcessStarter, needs_shared_weights
from dynpartition.hardware.transport import WorkerOnSocket
from dynpartition.hardware.weights import Master, compute_from, hollow_copies
from dynpartition.hardware.wire import Frame, WireFailed
from dynpartition.models import run_eagerly
from dynpartition.validator import find_violations

_GONE = object()
TOLERANCE_NS = 100_000_000
"""Threads of one process stamp late when they wait for each other's turn."""


class Line:
    """One end of a stand-in wire."""

    def __init__(self, outgoing, incoming):
        self.outgoing, self.incoming = outgoing, incoming
        self.is_cut = False

    @staticmethod
    def pair():
        one, other = queue.SimpleQueue(), queue.SimpleQueue()
        return Line(one, other), Line(other, one)

    def send(self, kind, payload=(), *, a=0, b=0, c=0):
        if self.is_cut:
            raise WireFailed("the line was cut")
        self.outgoing.put(Frame(kind, a, b, c, memoryview(b"".join(map(bytes, payload)))))

    def receive(self):
        frame = self.incoming.get()
        if frame is _GONE or self.is_cut:
            self.is_cut = True
            raise WireFailed("the line was cut")
        return frame

    def close(self):
        """End the line for both ends."""
        self.is_cut = True
        self.outgoing.put(_GONE)
        self.incoming.put(_GONE)


class InThread(WorkerOnSocket):
    """A worker that is a thread; `work(worker)` is all that it does."""

    def __init__(self, name, work):
        self.name, self.why = name, "its thread has ended"
        ours, theirs = socket.socketpair()
        self.channel, self.own = Channel(ours.detach(), NAP_S), Channel(theirs.detach())
        self._is_open, self.server, self.links = True, None, {}
        self._thread = threading.Thread(target=self._main, args=(work,), daemon=True)
        self._thread.start()

    def _main(self, work):
        try:
            work(self)
        except (EOFError, OSError):
            pass
        except DynPartitionError as error:
            self.why = str(error)
        finally:
            self.own.close()

    @property
    def has_ended(self):
        return not self._thread.is_alive()

    def ending(self):
        self._thread.join(5)
        return self.why

    def hang_up(self):
        if self._is_open:
            self._is_open = False
            self.channel.close()

    def serve(self, server):
        """Be this server's thread."""
        self.server = server
        server.serve()

    def bury(self, deadline_s):
        for link in list(self.links.values()):
            link.peer.cut()  # what waits there ends with a process, but not with a thread
        if self.server is not None:
            self.server.is_dismissed = True
        self._thread.join(5)

    def await_ready(self):
        try:
            message = self.channel.receive()
        except (EOFError, OSError):
            raise DeviceError(
                f"the worker of {self.name} did not start ({self.ending()})"
            ) from None
        if isinstance(message, Failure):
            raise DeviceError(message.text)
        assert isinstance(message, Ready)
        return self


class Hosts:
    """All hosts but the caller's. `n_gpus`: of each; `make_streams(name)`: of one GPU."""

    def __init__(self, seed, n_gpus=2, make_streams=None):
        self.n_gpus, self.seed = n_gpus, seed
        self.make_streams = make_streams or (lambda name: FakeStreams(n_gpus, seed=seed))
        self.memories, self.lines, self.far_ends, self.workers = {}, {}, {}, {}
        self.store = HashStore()
        self.threads, self.ever = [], []
        self.started = []

    def start_pool(self, model, devices, options):
        """Stand in for `starting.start_pool`."""
        weights = needs_shared_weights(devices, options)
        memory = SharedMemory(
            *(devices, options.arena_bytes, model.cells),
            weights=weights,
            connected=options.connected,
        )
        starter = ProcessStarter(model, devices, options, memory)

        def start(numbers):
            workers = []
            try:
                for number in numbers:
                    workers.append(self._start(starter, number))
                    workers[-1].await_ready()
            except BaseException:
                end_workers(workers)
                raise
            return workers

        return Pool(devices, options, memory, start)

    def _start(self, starter, number):
        name, setup, model = starter.name_of(number), starter._setup(number), starter.model
        self.started.append(name)
        if not host_of(name):
            return InThread(name, lambda worker: _serve_cpu(worker, setup, model))
        near, far = Line.pair()
        memories = self.memories.setdefault(host_of(name), HostMemories())
        memories.threads = SimpleNamespace(preferred=as_ever)

        def start_there(setup, fds):
            return self._start_there(name, setup, model)

        def serve():
            try:
                serve_wire(far, memories, start_there)
            except WireFailed:
                pass
            finally:
                far.close()

        self.lines[name], self.far_ends[name] = near, far
        self.threads.append(threading.Thread(target=serve, daemon=True))
        self.threads[-1].start()
        return InThread(name, lambda worker: _relay(worker.own, setup, near))

    def _start_there(self, name, setup, model):
        work = _serve_cpu
        if is_gpu(name):
            work = self._serve_gpu
        self.workers[name] = InThread(name, lambda worker: work(worker, setup, model))
        self.ever.append(self.workers[name])
        try:
            return self.workers[name].await_ready()
        except BaseException:
            end_workers([self.workers[name]])
            raise

    def _serve_gpu(self, worker, setup, model):
        own = SimpleNamespace(cells=copy.deepcopy(dict(model.cells)))
        api = self.make_streams(setup.names[setup.device])
        device = started(worker.own, setup, lambda: gpu_device(setup, own, api))
        worker.links = device.links
        connect(worker.own, setup, device)
        patience = Spinner(polite=True)
        worker.serve(Server(setup.worker, worker.own, device.site, patience, device.open_run))

    def go_on(self):
        """Stand in for `wait_on` in the threads of workers, which end when they are hung up on."""
        own = threading.current_thread()
        if any(w._thread is own and not w._is_open for w in self.ever):
            raise DeviceError("nobody listens any more")

    def kill(self, name):
        """End the worker of a device, whatever it is at."""
        with suppress(OSError):  # it has ended already
            self.workers[name].own._socket.shutdown(socket.SHUT_RDWR)

    def end_rank(self, host):
        """End all that a host does."""
        for name, line in self.lines.items():
            if host_of(name) == host:
                line.close()

    def await_end(self):
        """Wait until nothing of a host is left; its memory goes with its last device."""
        deadline = time.monotonic() + 10
        for thread in self.threads:
            thread.join(max(0, deadline - time.monotonic()))
        assert not any(thread.is_alive() for thread in self.threads)
        for worker in self.ever:
            worker._thread.join(max(0, deadline - time.monotonic()))
            frame = sys._current_frames().get(worker._thread.ident)
            assert worker.has_ended, traceback.format_stack(frame)[-6:]
        assert not any(memories._found for memories in self.memories.values())


@contextmanager
def as_ever(core):
    """Stand in for `preferred`: the threads of this process are not all alike."""
    yield


def _relay(channel, setup, line):
    try:
        relay_frames(channel, setup, line, RemoteClock(is_same=True))
    except Refused as error:
        channel.send(Failure(str(error), ""))
        raise
    finally:
        line.close()


def _serve_cpu(worker, setup, model):
    arenas = [None if a is None else Arena.on(SharedBlock(*a)) for a in setup.arenas]
    control = Control(SharedBlock(setup.control_fd, CONTROL_BYTES))
    for ends in setup.bells:
        control.bell.add(Doorbell(ends))
    cells, shelf = hollow_copies(model.cells), None
    master = Master.on(SharedBlock(*setup.master), model.cells)
    if setup.stock is None:
        compute_from(cells, master)
    else:
        block = SharedBlock(*setup.arenas[setup.device])
        shelf = CpuShelf(cells, master, setup.stock, block)
        shelf.reset()
    repeater = Repeater(setup.speed)
    site = Site(
        *(setup.names[setup.device], setup.device, cells, arenas, control, repeater),
        shelf=shelf,
        beyond=frozenset(setup.beyond),
        host=setup.host,
    )
    worker.own.send(Ready())
    worker.serve(Server(setup.worker, worker.own, site, Spinner(polite=True)))


@contextmanager
def several_hosts(monkeypatch, *, seed=0, size=9, **more):
    """Let backends find other hosts in this process."""
    hosts = Hosts(seed, **more)
    with monkeypatch.context() as patch:
        patch.setattr("dynpartition.hardware.machine.start_pool", hosts.start_pool)
        there = SimpleNamespace(rank=0, size=size, local_rank=0, local_size=size)
        patch.setattr("dynpartition.hardware.hosts.world", lambda: there)
        patch.setattr("dynpartition.hardware.hosts.store", lambda: hosts.store)
        patch.setattr("dynpartition.hardware.host_server.world", lambda: there)
        patch.setattr("dynpartition.hardware.devices.world", lambda: there)
        patch.setattr("dynpartition.hardware.relay.preferred", as_ever)
        patch.setattr("dynpartition.hardware.links.wait_on", hosts.go_on)
        yield hosts
    hosts.await_end()


def check(backend, workload, scheduler):
    """Run an input and compare with eager PyTorch; return what happened and what was lost."""
    with backend.open(workload) as session:
        outcome = drive(session, scheduler, backend.profile)
        answers, lost = session.answers(), dict(session.lost)
    parts = getattr(workload, "inputs", [workload])
    for one, answer in zip(parts, answers, strict=True):
        torch.testing.assert_close(answer, run_eagerly(one), rtol=1e-4, atol=1e-5)
    if not lost:
        known = outcome.graph, backend.profile, outcome.plan, outcome.trace
        wrong = find_violations(*known, tolerance_ns=TOLERANCE_NS)
        assert not wrong, wrong[:3]
    return outcome, lost


class Interrupted(Scheduler):
    """Another scheduler's plans, with something that happens while they run.

    What is left out of `first` until later is what the model reveals: there is time for it then.
    """

    name = "interrupted"

    def __init__(self, inner, when, what):
        self.inner, self.left, self.what = inner, when, what

    def schedule(self, graph, profile, planned):
        self.left -= 1
        if self.left == 0:
            self.what()
        return self.inner.schedule(graph, profile, planned)
