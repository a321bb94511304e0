"""The A100 node of the DynPartition paper, fitted to what its authors measured there.

The file of measurements holds, for the first T trees of a treebank file, the time of each tree on
every device alone, and how long tensors of 4 MB take between devices. The executor that was
measured calls one PyTorch operator after the other from one thread, so a GPU task costs what its
calls cost that thread. Only the two single-device logs and the transfers are fitted; the splits
over two devices in the same file are for checking (`held_out_errors`).

Zeng, Shah and Liu 2023, "DynPartition"; logs of its public repository, MIT licence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from dynpartition.calibration.paper_trees import left_nodes, paper_graph
from dynpartition.cluster import AffineCost, Cluster, Device, Link
from dynpartition.errors import CalibrationError
from dynpartition.formats.files import in_file, read_bytes
from dynpartition.graph import TaskGraph
from dynpartition.models.trees import ParseTree
from dynpartition.profile import Curve, Dispatch, Profile
from dynpartition.sim.evaluate import evaluate_many
from dynpartition.types import IntArray

Times = npt.NDArray[np.float64]
"""One number per tree."""

CPU_LOG, GPU_LOG = "single_sync_cpu", "single_sync_gpu"
"""The logs that are fitted."""
SPLIT_LOGS = {"manual_1_sync_cpu_cuda0": (0, 1), "manual_1_sync_cuda0_cuda1": (1, 2)}
"""Logs of the left/right split → device of the left sub-tree, device of the rest."""
HOST = "host A (1-2 GPU jobs)"
"""Of two hosts, the one where jobs with one GPU ran, as the fitted logs did."""

OPERATORS = {"leaf": 10, "composer": 22, "output": 2}
"""PyTorch calls of each cell in the measured code: gates one by one, nothing fused."""
KERNEL_NS = 2_500
"""Assumed duration of one GPU kernel. Each is shorter than the call that starts it, so the GPU has
finished a cell one kernel after the host's last call; the logs stop the clock before that."""
STATE_TENSORS = 2
"""A state travels as two tensors, c and h, copied one after the other."""
_TRANSFER_BYTES = 4_000_000
_MEMORY_BYTES = 40 * 10**9
_HOSTS_DIFFER = 0.1  # standard deviation of two values that are 20 % apart
_GPUS = ("cuda:0", "cuda:1")


class Measurements(msgspec.Struct):
    """What the file of measurements holds; unknown fields are let through."""

    transfer_us: dict[str, dict[str, float] | float] = msgspec.field(name="transfer_4MB_float32_us")
    median_ms: dict[str, list[float]]
    source: str = "unknown"
    learning_curve_final_reward_ms: dict[str, float] = {}
    paper_table_reward_ms: dict[str, float] = {}

    def log_ms(self, name: str) -> Times:
        """Return one log in ms; CalibrationError when it is missing or holds no such times."""
        if name not in self.median_ms:
            raise CalibrationError(f"median_ms has no log {name!r}; give the complete file")
        times = np.array(self.median_ms[name], dtype=np.float64)
        if len(times) < 2 or not (np.isfinite(times) & (times > 0)).all():
            raise CalibrationError(f"median_ms[{name!r}] must be two or more times above 0")
        return times


def read_measurements(path: Path) -> Measurements:
    """Return the measurements in a file; CalibrationError when it is not such a file."""
    with in_file(path):
        try:
            return msgspec.json.decode(read_bytes(path), type=Measurements)
        except msgspec.DecodeError as error:
            raise CalibrationError(f"holds no such measurements: {error}") from None


@dataclass(frozen=True, slots=True)
class NodeCost:
    """What each cell costs a device, or the thread that drives it, in ns."""

    leaf: int
    composer: int
    output: int


def fit_node_cost(nodes: IntArray, times_ms: Times, tail_ns: int = 0) -> NodeCost:
    """Fit the cost of the cells to the times of whole trees of (T,) nodes on one device.

    In a binary tree leaves are inner nodes + 1, so a log tells two numbers: the time of a further
    node and the intercept, which is half the difference of a leaf and a composer where a tree
    itself costs nothing. Outputs get their share of the calls. Errors count relative to the time.
    `tail_ns`: simulated time after the last call, which the log does not hold.
    """
    design = np.stack([np.ones(len(nodes)), nodes], axis=1) / times_ms[:, None]
    (offset, slope), *_ = np.linalg.lstsq(design, np.ones(len(nodes)), rcond=None)
    calls = OPERATORS["leaf"] + OPERATORS["composer"] + 2 * OPERATORS["output"]
    pair_ns, offset_ns = 2e6 * slope, 1e6 * offset - tail_ns
    output = pair_ns * OPERATORS["output"] / calls
    leaf = (pair_ns - 2 * output) / 2 + offset_ns
    cost = NodeCost(round(leaf), round(leaf - 2 * offset_ns), round(output))
    if min(cost.leaf, cost.composer, cost.output) <= 0:
        raise CalibrationError("these times do not grow with the trees; are they of other trees?")
    return cost


def fit_paper_node(measured: Measurements, trees: Sequence[ParseTree]) -> Profile:
    """Return the profile of the node: one CPU, two GPUs, one dispatching thread.

    `trees`: those that were measured, in the same order; more may follow. Raises CalibrationError
    when there are too few, or the measurements are not what they should be.
    """
    logs = {name: measured.log_ms(name) for name in (CPU_LOG, GPU_LOG)}
    nodes = {name: _nodes_of(trees, log) for name, log in logs.items()}
    cpu = fit_node_cost(nodes[CPU_LOG], logs[CPU_LOG])
    gpu = fit_node_cost(nodes[GPU_LOG], logs[GPU_LOG], KERNEL_NS)
    profile = _profile(cpu, gpu, _copies(measured))
    provenance = {**_provenance(measured), "error": _errors(profile, measured, trees)}
    return Profile(
        profile.cluster, profile.cells, profile.dispatch, provenance, None, _HOSTS_DIFFER
    )


def held_out_errors(
    profile: Profile, measured: Mapping[str, Times], trees: Sequence[ParseTree]
) -> dict[str, Times]:
    """Return log → (T,) relative errors of predicted times of the left/right split."""
    errors = {}
    for name, log_ms in measured.items():
        left, rest = SPLIT_LOGS[name]
        predicted = predict_ms(profile, trees[: len(log_ms)], left, rest)
        errors[name] = predicted / log_ms - 1
    return errors


def predict_ms(
    profile: Profile, trees: Sequence[ParseTree], left: int, rest: int | None = None
) -> Times:
    """Return (T,) simulated ms of trees split between devices `left` and `rest`, by index.

    The left sub-tree of the root runs on `left`, all else on `rest`; None: everything on `left`.
    """
    graphs = [paper_graph(tree) for tree in trees]
    plans = [
        _split(graph, tree, left, left if rest is None else rest)
        for graph, tree in zip(graphs, trees, strict=True)
    ]
    predicted: Times = evaluate_many(graphs, plans, profile) / 1e6
    return predicted


def _split(graph: TaskGraph, tree: ParseTree, left: int, rest: int) -> IntArray:
    """Return (N, 2) choices."""
    device = np.full(len(graph), rest, dtype=np.int64)
    device[: 2 * left_nodes(tree)] = left  # a state and an output per node, in post-order
    return np.stack([np.arange(len(graph)), device], axis=1)


def _nodes_of(trees: Sequence[ParseTree], log_ms: Times) -> IntArray:
    if len(trees) < len(log_ms):
        raise CalibrationError(
            f"{len(log_ms)} trees were measured but {len(trees)} are given; give the treebank file"
            " that the measurements name"
        )
    return np.array([len(tree) for tree in trees[: len(log_ms)]], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Copies:
    """What copies cost: host time of one, and bytes per second by kind of link."""

    enqueue_ns: int
    bandwidth: Mapping[str, int]


def _copies(measured: Measurements) -> _Copies:
    """Return host time and speed of copies; one size was measured, so a link has no latency."""
    enqueue_us, rows = (
        measured.transfer_us.get("enqueue_only_cuda->cuda"),
        measured.transfer_us.get(HOST),
    )
    if not isinstance(enqueue_us, float | int) or not isinstance(rows, dict):
        raise CalibrationError(f"transfer_4MB_float32_us lacks {HOST!r} or enqueue_only_cuda->cuda")
    missing = {"cpu->cuda", "cuda->cpu", "cuda->cuda"} - rows.keys()
    if missing or min(rows.values()) <= enqueue_us or enqueue_us < 0:
        raise CalibrationError(
            f"transfer_4MB_float32_us[{HOST!r}] must tell all three directions, each longer than"
            f" the {enqueue_us} µs that handing over a copy takes"
        )
    bandwidth = {
        kind: round(_TRANSFER_BYTES / ((micros - enqueue_us) / 1e6))
        for kind, micros in rows.items()
    }
    return _Copies(round(1e3 * enqueue_us), bandwidth)


def _profile(cpu: NodeCost, gpu: NodeCost, copies: _Copies) -> Profile:
    devices = (
        Device("cpu:0", "cpu"),
        *(Device(name, "cuda", _MEMORY_BYTES) for name in _GPUS),
    )
    links = tuple(
        Link(src.name, dst.name, AffineCost(0, copies.bandwidth[f"{src.kind}->{dst.kind}"]))
        for src in devices
        for dst in devices
        if src is not dst
    )
    cells = {
        cell: {"cpu:0": Curve((1,), (getattr(cpu, cell),))}
        | {name: Curve((1,), (KERNEL_NS,)) for name in _GPUS}
        for cell in OPERATORS
    }
    dispatch = Dispatch(
        host_mode="single",
        h={cell: dict.fromkeys(_GPUS, getattr(gpu, cell)) for cell in OPERATORS},
        h_copy=STATE_TENSORS * copies.enqueue_ns,
    )
    return Profile(Cluster(devices, links), cells, dispatch)


def _provenance(measured: Measurements) -> dict[str, object]:
    return {
        "origin": "fitted",
        "calibrated": True,
        "source": measured.source,
        "host": HOST,
        "devices": {"cuda:0": "NVIDIA A100-PCIE-40GB", "cuda:1": "NVIDIA A100-PCIE-40GB"},
        "fitted_to": [CPU_LOG, GPU_LOG, f"transfers of 4 MB, {HOST}"],
        "assumed": {
            "outputs": "their share of the operator calls of a node",
            "gpu_kernel_ns": KERNEL_NS,
            "tree": "costs nothing itself",
            "links": "no latency beside the host's time for a copy; one size was measured",
        },
        "domain": "TreeLSTM of hidden 150 on 300 inputs, one task per launch, states as two"
        " tensors, words already on the device, answers left there",
    }


def _errors(
    profile: Profile, measured: Measurements, trees: Sequence[ParseTree]
) -> dict[str, object]:
    """Return mean absolute and mean signed errors of simulated times, as shares."""
    fitted = {}
    for name, device in {CPU_LOG: 0, GPU_LOG: 1}.items():
        log_ms = measured.log_ms(name)
        fitted[name] = _summary(predict_ms(profile, trees[: len(log_ms)], device) / log_ms - 1)
    logs = {name: measured.log_ms(name) for name in SPLIT_LOGS if name in measured.median_ms}
    errors = held_out_errors(profile, logs, trees)
    return {"fitted": fitted, "held_out": {name: _summary(e) for name, e in errors.items()}}


def _summary(errors: Times) -> dict[str, float]:
    return {
        "mape": round(float(np.abs(errors).mean()), 4),
        "bias": round(float(errors.mean()), 4),
    }
