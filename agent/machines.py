"""Synthetic machines: devices of unequal speed, links that share buses, what a host costs.

Times are set relative to the graphs that a machine is drawn for: the communication ratio is the
mean time that an edge's output takes over a link, divided by the mean duration of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import numpy.typing as npt

from dynpartition.cluster import AffineCost, Cluster, Device, Link
from dynpartition.errors import ProfileError, did_you_mean
from dynpartition.graph import TaskGraph
from dynpartition.profile import Curve, Dispatch, HostMode, Profile

BATCHES = (1, 2, 4, 8, 16)

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a machine is drawn from; D devices."""

    speeds: tuple[float, ...] = (1.0, 3.0, 8.0)
    """How fast each device is; the first `n_cpus` are CPUs, the others GPUs."""
    n_cpus: int = 1
    wiring: str = "links"
    """A name in WIRINGS: what transfers share."""
    ratio: float = 1.0
    """Communication ratio."""
    affinity: float = 0.25
    """σ of the log-normal factor by which a cell's time on a device differs from its speed."""
    task_ns: float = 100_000.0
    """Mean duration of a task over the tasks of the graphs and the devices."""
    host_mode: str = "none"
    host_share: float = 0.1
    """Host time of a CUDA launch divided by the mean duration of a task; half for a transfer."""
    queue_depth: int | None = None
    batch_gain: float = 0.0
    """0: a launch on a GPU lasts as long as its tasks one by one, 1: as long as one of them."""
    cpu_batch_gain: float = 0.0
    """The same of CPUs."""
    blocks: bool = False
    """Whether copies keep the sending device from computing."""
    staging: bool = False
    """Whether launches pay for gathering and staging remote data."""
    first_use: float = 0.0
    """What the first launch of a cell on a device takes longer, divided by the mean duration of a
    task: the mean over cells and devices."""
    memory_share: float | None = None
    """Memory of each GPU divided by the weights of all cells; None: unlimited."""


def draw_profile(
    graphs: Sequence[TaskGraph], machine: Machine, rng: np.random.Generator
) -> Profile:
    """Return a random machine that runs every cell of the graphs on every device.

    Raises ProfileError for an unknown wiring or host mode, or a machine without devices.
    """
    _check(machine)
    cells = tuple(dict.fromkeys(name for graph in graphs for name in graph.cell_names))
    count = np.zeros(len(cells))
    for graph in graphs:
        numbers = np.array([cells.index(name) for name in graph.cell_names])
        count += np.bincount(numbers[graph.cell_of], minlength=len(cells))
    durations_ns = _durations(count, machine, rng)  # (K, D)
    curves = {
        cell: {name: _curve(ns, machine, name) for name, ns in zip(names, row, strict=True)}
        for cell, row in zip(cells, durations_ns.tolist(), strict=True)
        for names in [_names(machine)]
    }
    return Profile(
        cluster=_cluster(graphs, machine, rng),
        cells=curves,
        dispatch=replace(_dispatch(machine), first_use_ns=_first_uses(cells, machine, rng)),
        provenance={"origin": "synthetic", "wiring": machine.wiring, "ratio": machine.ratio},
    )


def _check(machine: Machine) -> None:
    if machine.wiring not in WIRINGS:
        remedy = did_you_mean(machine.wiring, WIRINGS)
        raise ProfileError(f"no wiring is named {machine.wiring!r}; {remedy}")
    if machine.host_mode not in get_args(HostMode):
        remedy = did_you_mean(machine.host_mode, get_args(HostMode))
        raise ProfileError(f"no host mode is named {machine.host_mode!r}; {remedy}")
    if not machine.speeds or min(machine.speeds) <= 0:
        raise ProfileError(f"speeds are {machine.speeds}; give each device one above 0")
    if machine.ratio <= 0:
        raise ProfileError(f"the communication ratio is {machine.ratio}; it must be above 0")


def _names(machine: Machine) -> tuple[str, ...]:
    cpus = min(machine.n_cpus, len(machine.speeds))
    gpus = len(machine.speeds) - cpus
    return (*(f"cpu:{n}" for n in range(cpus)), *(f"cuda:{n}" for n in range(gpus)))


def _durations(count: Numbers, machine: Machine, rng: np.random.Generator) -> Numbers:
    """Return (K, D) durations in ns whose mean, weighted with (K,) tasks, is the machine's."""
    work = rng.lognormal(0, 0.6, len(count))  # (K,)
    slowness = 1 / np.array(machine.speeds)  # (D,)
    affinity = rng.lognormal(0, machine.affinity, (len(count), len(slowness)))
    durations = work[:, None] * slowness * affinity
    mean = float(np.average(durations.mean(axis=1), weights=count))
    return np.maximum(1, np.rint(durations * (machine.task_ns / mean)))


def _curve(alone_ns: float, machine: Machine, device: str) -> Curve:
    gain = machine.cpu_batch_gain if device.startswith("cpu") else machine.batch_gain
    if not gain:
        return Curve((1,), (round(alone_ns),))
    each_ns = alone_ns * (1 - gain)  # what every task after the first adds
    return Curve(BATCHES, tuple(round(alone_ns + (k - 1) * each_ns) for k in BATCHES))


def _cluster(graphs: Sequence[TaskGraph], machine: Machine, rng: np.random.Generator) -> Cluster:
    names = _names(machine)
    moved = np.concatenate([graph.output_bytes[graph.inputs.values] for graph in graphs])
    if not len(moved):  # nothing travels between tasks; answers still do
        moved = np.concatenate([graph.output_bytes for graph in graphs])
    edge_bytes, edge_ns = max(1.0, float(moved.mean())), machine.ratio * machine.task_ns
    pairs = [(a, b) for a in range(len(names)) for b in range(len(names)) if a != b]
    slower = rng.lognormal(0, 0.25, len(pairs))
    slower /= slower.mean() if len(pairs) else 1.0
    share = float(rng.uniform(0.1, 0.4))  # of the time that is latency
    held = WIRINGS[machine.wiring]
    n_cpus = min(machine.n_cpus, len(names))
    links = [
        Link(
            names[a],
            names[b],
            _cost(edge_ns * factor, edge_bytes, share),
            held(a, b, n_cpus),
            "src" if machine.blocks else None,
        )
        for (a, b), factor in zip(pairs, slower.tolist(), strict=True)
    ]
    return Cluster(_devices(graphs, machine), tuple(links))


def _cost(time_ns: float, size_bytes: float, latency_share: float) -> AffineCost:
    """Return a cost under which `size_bytes` take `time_ns`."""
    moving_ns = max(1.0, time_ns * (1 - latency_share))
    return AffineCost(round(time_ns * latency_share), max(1, round(size_bytes * 1e9 / moving_ns)))


def _devices(graphs: Sequence[TaskGraph], machine: Machine) -> tuple[Device, ...]:
    weights = {cell.name: cell.param_bytes for graph in graphs for cell in graph.cells}
    made = max(int(graph.output_bytes.sum() + graph.host_bytes.sum()) for graph in graphs)
    memory = None
    if machine.memory_share is not None:
        # All outputs fit beside the largest weights: what is scarce is room for weights.
        most = max(max(weights.values()), round(sum(weights.values()) * machine.memory_share))
        memory = made + most
    return tuple(
        Device(name, "cpu") if name.startswith("cpu") else Device(name, "cuda", memory)
        for name in _names(machine)
    )


def _dispatch(machine: Machine) -> Dispatch:
    names, h_ns = _names(machine), round(machine.task_ns * machine.host_share)
    copies: Mapping[str, AffineCost] = {}
    if machine.staging:
        copies = {name: AffineCost(h_ns // 4, 10**10) for name in names}
    if machine.host_mode == "none":
        return Dispatch(copy_in=copies, copy_out=copies)
    return Dispatch(
        host_mode=_host_mode(machine.host_mode),
        h=h_ns,
        h_copy=h_ns // 2,
        lock=0.4 if machine.host_mode == "threads" else 0.0,
        handoff_ns=h_ns // 2 if machine.host_mode == "processes" else 0,
        queue_depth=machine.queue_depth,
        copy_in=copies,
        copy_out=copies,
    )


def _first_uses(
    cells: Sequence[str], machine: Machine, rng: np.random.Generator
) -> Mapping[str, Mapping[str, int]]:
    if not machine.first_use:
        return {}
    names, mean_ns = _names(machine), machine.first_use * machine.task_ns
    longer_ns = mean_ns * rng.exponential(1.0, (len(cells), len(names)))
    return {
        cell: dict(zip(names, np.rint(row).astype(np.int64).tolist(), strict=True))
        for cell, row in zip(cells, longer_ns, strict=True)
    }


def _host_mode(name: str) -> HostMode:
    known: dict[str, HostMode] = {mode: mode for mode in get_args(HostMode)}
    return known[name]


# What links hold: (source, destination, number of CPUs) → resources; devices by index.


def _ports(a: int, b: int, n_cpus: int) -> tuple[str, ...]:
    return f"out{a}", f"in{b}"


def _pcie(a: int, b: int, n_cpus: int) -> tuple[str, ...]:
    """Between CPUs and GPUs one bus each way; elsewhere a link of its own."""
    if a < n_cpus <= b:
        return ("to_gpus",)
    return ("from_gpus",) if b < n_cpus <= a else ()


WIRINGS: dict[str, Callable[[int, int, int], tuple[str, ...]]] = {
    "links": lambda a, b, n_cpus: (),
    "ports": _ports,
    "pcie": _pcie,
    "bus": lambda a, b, n_cpus: ("bus",),
}
"""Wiring → what a link holds: its own alone, one port per device and direction, one bus each way
between CPUs and GPUs, one bus for everything."""
