"""The process of one GPU of another host: `python -m dynpartition.hardware.gpu_worker …`.

Its caller is the server of that host, `host_server.py`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from dynpartition.cluster import Device
from dynpartition.device_spec import host_of, is_gpu
from dynpartition.errors import DeviceError
from dynpartition.hardware.compute import Repeater
from dynpartition.hardware.control import CONTROL_BYTES, Control
from dynpartition.hardware.cuda_lane import Api, DeviceStreams, graphs_of
from dynpartition.hardware.devices import device_number
from dynpartition.hardware.doorbell import Doorbell
from dynpartition.hardware.gpu_run import GpuDevice
from dynpartition.hardware.lane import Site
from dynpartition.hardware.links import join_rank_0
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import Channel, Failure, Ready, Setup
from dynpartition.hardware.patience import Spinner
from dynpartition.hardware.server import Server
from dynpartition.hardware.shared import SharedBlock
from dynpartition.hardware.shelf import CudaShelf, Shelf
from dynpartition.hardware.weights import Master, compute_from, hollow_copies
from dynpartition.hardware.worker import rebuilt_model, run_worker
from dynpartition.models import DynamicModel


def gpu_device(setup: Setup, model: DynamicModel[object], api: Api) -> GpuDevice:
    """Return the GPU that a setup asks for; DeviceError when it is not there."""
    name, index = setup.names[setup.device], setup.device
    own = own_device(setup)
    _check_there(name, device_number(own), api.n_devices)
    api.prepare([own])
    control = Control(SharedBlock(setup.control_fd, CONTROL_BYTES))
    for ends in setup.bells:
        control.bell.add(Doorbell(ends))
    # Of GPUs, its own among them, the host's memory holds the mirrors.
    reached = [None if a is None else Arena.on(SharedBlock(*a)) for a in setup.arenas]
    gpus = [at for at, other in enumerate(setup.names) if is_gpu(other)]
    mirrors = {at: arena for at in gpus if (arena := reached[at]) is not None}
    arenas: list[Arena | None] = [None if at in gpus else one for at, one in enumerate(reached)]
    arenas[index] = Arena(api.arena(own, setup.arena_bytes[index]))
    master = Master.on(SharedBlock(*setup.master), model.cells)
    for arena in reached:
        if arena is not None:
            api.pin(arena.raw)
    streams = DeviceStreams(*(api.stream(own) for _ in range(3)))
    shelf: Shelf | None = None
    if setup.stock is None:
        compute_from(model.cells, master)
        cells = api.cells(own, model.cells)
    else:
        api.pin(master.raw)
        cells = api.cells(own, hollow_copies(model.cells))
        between = streams.incoming, streams.compute
        shelf = CudaShelf(cells, master, setup.stock, api, between)
        shelf.reset()
    site = Site(name, index, cells, arenas, control, Repeater(setup.speed), shelf=shelf)
    graphs = graphs_of(api, streams.compute, site)
    return GpuDevice(setup.worker, site, api, streams, graphs, mirrors)


def own_device(setup: Setup) -> Device:
    """Return the device that a setup is for, by its name on its own host."""
    name = setup.names[setup.device].partition("/")[2]
    return Device(name, "cuda", speed=setup.speed)


def _check_there(name: str, number: int, n_devices: int) -> None:
    if number < n_devices:
        return
    host = host_of(name)
    seen = f"cuda:0 to cuda:{n_devices - 1}" if n_devices else "no CUDA device"
    last = f"host{host}/cuda:{n_devices - 1}" if n_devices else f"host{host}/cpu:0"
    raise DeviceError(f"{name} is not there: PyTorch of rank {host} sees {seen}; use {last}")


def serve_gpu(channel: Channel, setup: Setup, api: Api) -> None:
    """Be the worker of a GPU until the caller hangs up."""
    torch.set_num_threads(1)
    device = started(channel, setup, lambda: gpu_device(setup, rebuilt_model(setup), api))
    connect(channel, setup, device)
    gc.freeze()  # the model is not garbage: collections during a run are short
    patience = Spinner(polite=setup.polite)
    Server(setup.worker, channel, device.site, patience, device.open_run).serve()


def started(channel: Channel, setup: Setup, make: Callable[[], GpuDevice]) -> GpuDevice:
    """Return what `make` makes, and tell the caller that it is ready, or why it cannot be.

    Raises DeviceError then, also for what CUDA raises.
    """
    try:
        device = make()
    except (DeviceError, RuntimeError) as error:
        name, what = setup.names[setup.device], str(error).strip().partition("\n")[0]
        known = isinstance(error, DeviceError)
        channel.send(Failure(what if known else f"{name} cannot be used: {what}", ""))
        raise DeviceError(what) from error
    channel.send(Ready())
    return device


def connect(channel: Channel, setup: Setup, device: GpuDevice) -> None:
    """Connect a GPU with those of rank 0 that it is to be; tell why, and raise, where it fails."""
    try:
        device.links.update(join_rank_0(setup, device.api, own_device(setup)))
    except DeviceError as error:
        channel.send(Failure(str(error), "", others_may=True))
        raise


def _serve(channel: Channel, setup: Setup) -> None:
    from dynpartition.hardware.cuda import CudaStreams

    api, number = CudaStreams(), device_number(Device(setup.names[setup.device], "cuda"))
    if number < api.n_devices:
        torch.cuda.set_device(number)  # or locking host memory would cost memory of the first GPU
    serve_gpu(channel, setup, api)


if __name__ == "__main__":
    run_worker(_serve)
