"""Profiles of machines that nobody has measured, from datasheets and an operator model.

A launch lasts its overhead and the time of its operations, each of which takes

    overhead + ((flops / peak)^2 + (bytes / bandwidth)^2)^(1/2)

with the share of the datasheet's figures that programs reach. Such a model is 40 to 80 % off, so
these profiles are for trying things out and for training that is robust to errors: calibrate a
machine to learn about it. What is assumed stands in `sheet_costs`, and in every profile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version

from dynpartition.calibration.operations import count_operations
from dynpartition.calibration.sheet_costs import Assumptions, Operation, launch_ns
from dynpartition.calibration.sheets import CPUS, GPUS, NODES, Cpu, Gpu, Node
from dynpartition.cluster import AffineCost, Cluster, Device, Link
from dynpartition.models.registry import MODELS, SHEET_MODELS
from dynpartition.profile import Curve, Dispatch, Profile

Operations = Mapping[str, Mapping[int, tuple[Operation, ...]]]
"""Cell → tasks in a launch → what it does."""

BATCHES = (1, 2, 4, 8, 16, 32)
_SAMPLES = 16  # enough to route a token to every expert


def datasheet_profiles(assumed: Assumptions | None = None) -> dict[str, Profile]:
    """Return name → profile of every node in `NODES`, with the cells of all models."""
    operations: dict[str, Mapping[int, tuple[Operation, ...]]] = {}
    for entry in (MODELS[name] for name in SHEET_MODELS):
        model = entry.build()
        operations |= count_operations(model, entry.generate(_SAMPLES, 0), BATCHES)
    return {
        f"datasheet-{name}": node_profile(node, operations, assumed or Assumptions())
        for name, node in NODES.items()
    }


def node_profile(node: Node, operations: Operations, assumed: Assumptions) -> Profile:
    """Return the profile of one node for cells that do `operations`."""
    cpu, gpus = CPUS[node.cpu], [GPUS[name] for name in node.gpus]
    names = [f"cuda:{number}" for number in range(len(gpus))]
    devices = (
        Device("cpu:0", "cpu"),
        *(Device(name, "cuda", gpu.memory_bytes) for name, gpu in zip(names, gpus, strict=True)),
    )
    cells = {
        cell: {"cpu:0": _curve(launches, cpu, assumed)}
        | {name: _curve(launches, gpu, assumed) for name, gpu in zip(names, gpus, strict=True)}
        for cell, launches in operations.items()
    }
    dispatch = Dispatch(
        host_mode="single",
        h=assumed.h_ns,
        h_copy=assumed.h_copy_ns,
        bookkeeping_ns={"cpu:0": assumed.bookkeeping_ns},
        sync_ns=assumed.sync_ns,
    )
    cluster = Cluster(devices, tuple(_links(node, gpus, assumed)))
    return Profile(
        cluster, cells, dispatch, _provenance(node, assumed), uncertainty=assumed.uncertainty
    )


def _curve(
    launches: Mapping[int, tuple[Operation, ...]], device: Cpu | Gpu, assumed: Assumptions
) -> Curve:
    durations = [launch_ns(operations, device, assumed) for operations in launches.values()]
    return Curve(tuple(launches), tuple(durations))


def _links(node: Node, gpus: Sequence[Gpu], assumed: Assumptions) -> list[Link]:
    """Return the links; each slot of a GPU is a bus up and a bus down."""
    links = []
    for number, gpu in enumerate(gpus):
        speed = AffineCost(assumed.copy_latency_ns, round(gpu.pcie_bytes_per_s * assumed.reached))
        device = f"cuda:{number}"
        links.append(Link("cpu:0", device, speed, (_bus(number, "down"),)))
        links.append(Link(device, "cpu:0", speed, (_bus(number, "up"),)))
    pairs = [(a, b) for a in range(len(gpus)) for b in range(len(gpus)) if a != b]
    return links + [_gpu_link(node, gpus, pair, assumed) for pair in pairs]


def _gpu_link(node: Node, gpus: Sequence[Gpu], pair: tuple[int, int], assumed: Assumptions) -> Link:
    src, dst = pair
    ends = f"cuda:{src}", f"cuda:{dst}"
    if {src, dst} <= set(node.nvlinked):
        speed = round(node.nvlink_bytes_per_s * assumed.reached)
        return Link(*ends, AffineCost(assumed.copy_latency_ns, speed))
    slower = min(gpus[src].pcie_bytes_per_s, gpus[dst].pcie_bytes_per_s) * assumed.reached
    buses = _bus(src, "up"), _bus(dst, "down")
    if gpus[src].peer_to_peer and gpus[dst].peer_to_peer:
        return Link(*ends, AffineCost(assumed.copy_latency_ns, round(slower)), buses)
    # Through the host's memory: up first, then down.
    return Link(*ends, AffineCost(2 * assumed.copy_latency_ns, round(slower / 2)), buses)


def _bus(gpu: int, direction: str) -> str:
    return f"pcie{gpu}-{direction}"


def _provenance(node: Node, assumed: Assumptions) -> dict[str, object]:
    gpus = {f"cuda:{number}": name for number, name in enumerate(node.gpus)}
    return {
        "origin": "datasheets, uncalibrated",
        "calibrated": False,
        "devices": {"cpu:0": f"one core of {node.cpu}", **gpus},
        "sources": {
            node.cpu: CPUS[node.cpu].source,
            **{name: GPUS[name].source for name in node.gpus},
            **({"NVLink": node.nvlink_source} if node.nvlinked else {}),
        },
        "assumed": asdict(assumed),
        "operations_counted_with": f"torch {version('torch').partition('+')[0]}",
        "error": "not known; 40 to 80 % is usual for such a model",
        "domain": "treelstm, mathfunc and moe in their default configurations; combine with one"
        " chunk per expert of the first sample, add and mul with as many terms as its first ones",
    }
