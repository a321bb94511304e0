"""What devices hold at time 0, and what can never fit on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynpartition.buffers import Buffers
from dynpartition.cluster import Device
from dynpartition.errors import OutOfDeviceMemory, PlanError
from dynpartition.graph import Cell
from dynpartition.profile import PricedGraph
from dynpartition.program import Program

UNLIMITED_BYTES = 1 << 62
"""Capacity of a device that has none."""


@dataclass(frozen=True, slots=True)
class Store:
    """How one device deals with memory and weights."""

    name: str
    capacity_bytes: int
    loads_weights: bool
    """Whether it keeps track of weights; otherwise it has them all."""
    resident: tuple[int, ...]
    """Cells (indices) whose weights are there at time 0."""
    link: int
    """From the host; -1: nothing can be loaded, so nothing is evicted."""


def needs_memory(priced: PricedGraph) -> bool:
    """Return whether memory or weights can change what happens, whatever the plan."""
    tracked = [device for device in priced.cluster.devices if device.tracks_memory]
    return any(not _holds_everything(priced, device) for device in tracked)


def _holds_everything(priced: PricedGraph, device: Device) -> bool:
    """Return whether all weights are there, and all outputs and host inputs fit beside them."""
    graph = priced.graph
    if device.resident is not None and not set(graph.cell_names) <= set(device.resident):
        return False
    weights = sum(cell.param_bytes for cell in graph.cells)
    # A device holds each of them at most once.
    everything = weights + int(graph.output_bytes.sum()) + int(graph.host_bytes.sum())
    return device.memory_bytes is None or everything <= device.memory_bytes


def find_stores(priced: PricedGraph) -> list[Store]:
    """Return each device's store; OutOfDeviceMemory if its `resident` cells do not fit."""
    matters = needs_memory(priced)
    return [_store(priced, device, matters) for device in range(len(priced.cluster.devices))]


def _store(priced: PricedGraph, index: int, matters: bool) -> Store:
    cluster = priced.cluster
    device = cluster.devices[index]
    is_host = index == cluster.host_index
    unlimited = device.memory_bytes is None
    capacity = UNLIMITED_BYTES if device.memory_bytes is None else device.memory_bytes
    return Store(
        name=device.name,
        capacity_bytes=capacity,
        loads_weights=matters and not is_host and not (unlimited and device.resident is None),
        resident=() if is_host else initial_cells(priced.graph.cells, device, capacity),
        link=-1 if is_host else cluster.link_index(cluster.host_index, index),
    )


def initial_cells(cells: Sequence[Cell], device: Device, capacity_bytes: int) -> tuple[int, ...]:
    """Return the cells (indices) whose weights are on a device, not the host, at time 0.

    Those in its list `resident`; without one all that fit, in order. Raises OutOfDeviceMemory if
    the listed ones do not fit together.
    """
    if device.resident is not None:
        listed = set(device.resident)
        chosen = tuple(number for number, cell in enumerate(cells) if cell.name in listed)
        total = sum(cells[number].param_bytes for number in chosen)
        if total > capacity_bytes:
            raise OutOfDeviceMemory(
                f"{device.name}: the resident cells need {total} bytes but it holds"
                f" {capacity_bytes}; list fewer in devices[].resident"
            )
        return chosen
    chosen_cells, free = [], capacity_bytes
    for number, cell in enumerate(cells):
        if cell.param_bytes <= free:
            chosen_cells.append(number)
            free -= cell.param_bytes
    return tuple(chosen_cells)


def check_capacity(
    priced: PricedGraph, program: Program, buffers: Buffers, stores: list[Store]
) -> None:
    """Raise an error for what can never work: a launch that cannot fit, weights without a way."""
    for launch, device in enumerate(program.launch_device.tolist()):
        store = stores[device]
        cell = priced.graph.cells[int(program.launch_cell[launch])]
        held = {*buffers.launch_reads.rows[launch], *buffers.launch_makes.rows[launch]}
        needed = sum(int(buffers.bytes[buffer]) for buffer in held)
        needed += cell.param_bytes if store.loads_weights else 0
        if needed > store.capacity_bytes:
            raise OutOfDeviceMemory(
                f"launch {launch} on {store.name} ({cell.name}) needs {needed} bytes at once but"
                f" {store.name} holds {store.capacity_bytes}; place it on a larger device"
            )
        missing = store.loads_weights and int(program.launch_cell[launch]) not in store.resident
        if missing and store.link < 0:
            raise PlanError(
                f"launch {launch} on {store.name} needs the weights of {cell.name}, but the"
                f" profile has no link from {priced.cluster.host} to {store.name}; add the link"
            )


def out_of_memory(
    program: Program, stores: list[Store], launch: int, device: int, needed_free: tuple[int, int]
) -> OutOfDeviceMemory:
    """Return the error of a reservation for `launch` on `device`: (needed, free) bytes."""
    needed, free = needed_free
    own = stores[int(program.launch_device[launch])].name
    store = stores[device]
    return OutOfDeviceMemory(
        f"launch {launch} on {own} needs {needed} bytes on {store.name}, where {free} of"
        f" {store.capacity_bytes} are free and no idle weights are left to evict; place less"
        f" on {store.name} or give it more memory"
    )
