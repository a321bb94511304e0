"""Puts a backend's devices together: shared memory, workers, and what the caller drives itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynpartition.cluster import Device
from dynpartition.hardware.compute import Repeater
from dynpartition.hardware.cuda_lane import Api, DeviceStreams, graphs_of
from dynpartition.hardware.devices import available_cores, core_of, elsewhere, gpus_here
from dynpartition.hardware.execution import Machine
from dynpartition.hardware.hosts import ANSWER_TIMEOUT_S
from dynpartition.hardware.lane import Site, run_delay
from dynpartition.hardware.links import GpuLinks
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import Stock
from dynpartition.hardware.pacing import are_paced, paces_from
from dynpartition.hardware.pool import STALL_TIMEOUT_S, Pool, PoolOptions
from dynpartition.hardware.shelf import CudaShelf, Shelf
from dynpartition.hardware.starting import start_pool
from dynpartition.hardware.weights import compute_from, hollow_copies
from dynpartition.models import DynamicModel

_PAGE_BYTES = 4096
"""Arenas are whole pages, so that every type fits."""


@dataclass(frozen=True)
class MachineOptions:
    """What a user may choose."""

    arena_bytes: Sequence[int]
    """Per device."""
    sample_run_delay: bool
    stocks: Mapping[int, Stock]
    """By index, the devices whose weights come and go."""
    stall_timeout_s: float = STALL_TIMEOUT_S
    """How long a worker may show no sign of life in one launch."""
    threads: bool = False
    """Whether workers are threads of this process."""
    virtual: bool = False
    """Whether stamps are in virtual time; only without CUDA devices."""
    answer_timeout_s: float = ANSWER_TIMEOUT_S
    """How long another host may take to answer."""
    connected: Sequence[int] = ()
    """GPUs here that are to be connected with those of other hosts."""


def build_machine(
    model: DynamicModel[Any], devices: Sequence[Device], api: Api, options: MachineOptions
) -> Machine:
    """Start the workers and prepare the devices of the calling thread."""
    cores = available_cores()
    there = elsewhere(devices)
    cpus = [i for i, device in enumerate(devices) if device.kind == "cpu" and i not in there]
    # In virtual time waiting takes none, so it may as well leave the cores to others.
    polite = options.virtual or any(core_of(devices[index], cores) is None for index in cpus)
    arena_bytes = [-(-size // _PAGE_BYTES) * _PAGE_BYTES for size in options.arena_bytes]
    pool_options = PoolOptions(
        host=cpus[0],
        arena_bytes=arena_bytes,
        polite=polite,
        sample_run_delay=options.sample_run_delay,
        stocks=options.stocks,
        stall_timeout_s=options.stall_timeout_s,
        threads=options.threads,
        virtual=options.virtual,
        answer_timeout_s=options.answer_timeout_s,
        connected=options.connected,
    )
    pool = start_pool(model, devices, pool_options)
    links = GpuLinks(api, pool)
    try:
        links.connect()
        return _driven(model, pool, links, api, core_of(devices[cpus[0]], cores))
    except BaseException:
        links.close()
        pool.close()
        raise


def _driven(
    model: DynamicModel[Any], pool: Pool, links: GpuLinks, api: Api, core: int | None
) -> Machine:
    """Return the machine around a pool, with the devices that the caller drives."""
    devices, options = pool.devices, pool.options
    cuda = gpus_here(devices)
    arenas = list(pool.memory.arenas)
    for index in cuda:
        arenas[index] = Arena(api.arena(devices[index], options.arena_bytes[index]))
    mirrors = {index: Arena.on(block) for index, block in pool.memory.mirrors.items()}
    for arena in (*pool.memory.arenas, *mirrors.values()):
        if cuda and arena is not None:
            api.pin(arena.raw)
    if not options.stocks.keys().isdisjoint(cuda):
        api.pin(pool.memory.master.raw)
    streams = {i: DeviceStreams(*(api.stream(devices[i]) for _ in range(3))) for i in cuda}

    def cuda_site(index: int) -> Site:
        device, stock = devices[index], options.stocks.get(index)
        shelf: Shelf | None = None
        if stock is None:
            cells = api.cells(device, model.cells)
        else:
            cells = api.cells(device, hollow_copies(model.cells))
            own = streams[index].incoming, streams[index].compute
            shelf = CudaShelf(cells, pool.memory.master, stock, api, own)
            shelf.reset()
        repeater = Repeater(device.speed)
        return Site(device.name, index, cells, arenas, pool.control, repeater, shelf=shelf)

    driven = {index: cuda_site(index) for index in cuda}
    return Machine(
        pool=pool,
        host=_host_site(model, pool),
        cuda=list(driven.values()),
        arenas=arenas,
        mirrors=mirrors,
        api=api,
        streams=streams,
        graphs={at: graphs_of(api, streams[at].compute, site) for at, site in driven.items()},
        links=links,
        core=core,
    )


def _host_site(model: DynamicModel[Any], pool: Pool) -> Site:
    """Return the caller's own CPU device."""
    options = pool.options
    device, delay = pool.devices[options.host], run_delay(options.sample_run_delay)
    # Its program leaves pushes to CUDA devices to their own driver.
    reach, repeater = pool.memory.arenas, Repeater(device.speed)
    cells = model.cells
    if pool.memory.has_weights:
        cells = hollow_copies(cells)  # the model keeps its own: the caller may go on training it
        compute_from(cells, pool.memory.master)
    return Site(
        *(device.name, options.host, cells, reach, pool.control, repeater, delay),
        virtual=options.virtual,
        queue=run_delay(not options.virtual),
        beyond=frozenset(elsewhere(pool.devices)),
        paces=paces_from(pool.devices, options.host),
        host=options.host,
        paced=are_paced(pool.devices),
    )
