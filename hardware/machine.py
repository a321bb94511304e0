"""Puts a backend's devices together: shared memory, workers, and what the caller drives itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from dynpartition.cluster import Device
from dynpartition.hardware.compute import Repeater
from dynpartition.hardware.cuda_lane import Api, DeviceStreams
from dynpartition.hardware.devices import available_cores, core_of
from dynpartition.hardware.execution import Machine
from dynpartition.hardware.graphs import GraphCache
from dynpartition.hardware.lane import RunDelay, Site, run_delay
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.pool import Pool, PoolOptions
from dynpartition.models import DynamicModel

_PAGE_BYTES = 4096
"""Arenas are whole pages, so that every type fits."""


@dataclass(frozen=True)
class MachineOptions:
    """What a user may choose."""

    arena_bytes: Sequence[int]
    """Per device."""
    sample_run_delay: bool


def build_machine(
    model: DynamicModel[Any], devices: Sequence[Device], api: Api, options: MachineOptions
) -> Machine:
    """Start the workers and prepare the devices of the calling thread."""
    cores = available_cores()
    cpus = [index for index, device in enumerate(devices) if device.kind == "cpu"]
    polite = any(core_of(devices[index], cores) is None for index in cpus)
    arena_bytes = [-(-size // _PAGE_BYTES) * _PAGE_BYTES for size in options.arena_bytes]
    pool = Pool(model, devices, PoolOptions(cpus[0], arena_bytes, polite, options.sample_run_delay))
    try:
        return _driven(model, pool, api, core_of(devices[cpus[0]], cores))
    except BaseException:
        pool.close()
        raise


def _driven(model: DynamicModel[Any], pool: Pool, api: Api, core: int | None) -> Machine:
    """Return the machine around a pool, with the devices that the caller drives."""
    devices, options = pool.devices, pool.options
    cuda = [index for index, device in enumerate(devices) if device.kind == "cuda"]
    arenas = list(pool.memory.arenas)
    for index in cuda:
        arenas[index] = Arena(api.arena(devices[index], options.arena_bytes[index]))
    for arena in pool.memory.arenas:
        if cuda and arena is not None:
            api.pin(arena.raw)

    def site(index: int, cells: Mapping[str, nn.Module], delay: RunDelay | None) -> Site:
        device = devices[index]
        # The host's program leaves pushes to CUDA devices to their own driver.
        reach = pool.memory.arenas if device.kind == "cpu" else arenas
        repeater = Repeater(device.speed)
        return Site(device.name, index, cells, reach, pool.control, repeater, delay)

    driven = {index: site(index, api.cells(devices[index], model.cells), None) for index in cuda}
    streams = {i: DeviceStreams(*(api.stream(devices[i]) for _ in range(3))) for i in cuda}
    return Machine(
        pool=pool,
        host=site(options.host, model.cells, run_delay(options.sample_run_delay)),
        cuda=list(driven.values()),
        arenas=arenas,
        api=api,
        streams=streams,
        graphs={
            index: GraphCache(api, streams[index].compute, one.cells, _arena_of(arenas, index))
            for index, one in driven.items()
        },
        core=core,
        polite=options.polite,
    )


def _arena_of(arenas: Sequence[Arena | None], index: int) -> Arena:
    arena = arenas[index]
    assert arena is not None
    return arena
