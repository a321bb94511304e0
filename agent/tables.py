"""A machine and a graph in the terms of the compiled estimate: what a slot begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from dynpartition.agent import env_kernel
from dynpartition.agent import estimate_kernel as kernel
from dynpartition.agent.facts import Facts
from dynpartition.agent.holdings import CellWeights, tracks_weights
from dynpartition.agent.host_walk import dispatch_is_free
from dynpartition.cluster import Cluster
from dynpartition.profile import Profile
from dynpartition.types import FloatArray, IntArray

SLOWNESS_MAX = 8.0


@dataclass(frozen=True, slots=True)
class Tables:
    """One graph at the start of its plan; N tasks, D devices, L links. See `kernel.Places`."""

    tasks: IntArray
    """(N, 26)"""
    pairs: IntArray
    """(N, 9, D)"""
    above: IntArray
    """(N, D)"""
    moves: IntArray
    """(N, L)"""
    rows: IntArray
    refuges: IntArray
    """(n, D)"""
    first_ns: IntArray
    """(K, D)"""
    weights: IntArray
    """(K, 2, D) or empty"""
    sizes: IntArray
    """(K, 2) or empty"""
    memory: IntArray
    """(D, 3) or empty"""
    scales: FloatArray
    """(2,)"""
    known: FloatArray
    """(N, D, 8)"""
    sums: IntArray
    """(12,)"""
    ready: IntArray


def graph_tables(facts: Facts) -> Tables:
    """Return the tables of a graph with nothing placed."""
    rows = _Rows(len(facts.graph))
    gates = facts.graph.gates
    tasks = _tasks(facts, rows)
    ready = np.flatnonzero(tasks[:, kernel.MISSING] == 0)
    sums = np.zeros(kernel.N_SUMS, dtype=np.int64)
    sums[kernel.N_TASKS] = len(facts.graph)
    sums[kernel.N_READY] = len(ready)
    sums[kernel.N_GATED] = sum(map(bool, gates))
    sums[kernel.WORK_LEFT_NS] = facts.work_ns
    refuges = facts.legality.refuge_rows
    sums[kernel.N_REFUGES] = len(refuges)
    first_ns = np.array(facts.prices.first_ns, dtype=np.int64).reshape(-1, len(facts.names))
    sums[kernel.N_CELLS], sums[kernel.N_FIRST] = len(first_ns), (first_ns > 0).sum()
    weights, sizes, memory = _weights(facts)
    sums[kernel.N_LOADING] = memory[:, kernel.LOADS].sum()
    return Tables(
        tasks=tasks,
        pairs=_pairs(facts),
        above=np.zeros((len(facts.graph), len(facts.names)), dtype=np.int64),
        moves=_moves(facts),
        rows=rows.joined(),
        refuges=refuges,
        first_ns=first_ns,
        weights=weights,
        sizes=sizes,
        memory=memory,
        scales=np.array([1 / facts.unit_ns, 1 / max(1, facts.work_ns)], dtype=np.float32),
        known=_known(facts),
        sums=sums,
        ready=ready[np.argsort(tasks[ready, kernel.PRIORITY])],
    )


class _Rows:
    """Ragged rows, one table after the other."""

    def __init__(self, n_tasks: int) -> None:
        self._n_tasks = n_tasks
        self._values: list[int] = []

    def add(self, tasks: IntArray, column: int, rows: Sequence[Sequence[int]]) -> None:
        """Append one row per task; write where they lie into two columns of `tasks`."""
        bounds = len(self._values) + np.cumsum([0, *map(len, rows)])
        tasks[:, column], tasks[:, column + 1] = bounds[:-1], bounds[1:]
        for row in rows:
            self._values += row

    def joined(self) -> IntArray:
        """Return everything as one array."""
        return np.array(self._values, dtype=np.int64)


def _tasks(facts: Facts, rows: _Rows) -> IntArray:
    graph, prices, n_tasks = facts.graph, facts.prices, len(facts.graph)
    tasks = np.zeros((n_tasks, kernel.N_TASK_COLUMNS), dtype=np.int64)
    rows.add(tasks, kernel.INPUTS, prices.inputs)
    rows.add(tasks, kernel.READERS, graph.reader_lists)
    rows.add(tasks, kernel.FOLLOWS, facts.followers)
    rows.add(tasks, kernel.GATES, graph.gates)
    order = np.lexsort((np.arange(n_tasks), -np.array(facts.rank)))
    tasks[order, kernel.PRIORITY] = np.arange(n_tasks)
    tasks[:, kernel.NEAR], tasks[:, kernel.FAR] = facts.near, facts.far
    tasks[:, kernel.NEAR_SIZE] = facts.near_size
    tasks[:, kernel.RANK_NS] = np.rint(facts.static_columns[:, 0])
    tasks[:, kernel.BELOW_NS] = np.rint(facts.static_columns[:, 1])
    tasks[:, kernel.HAS_HOST_INPUT] = graph.host_bytes > 0
    tasks[:, kernel.RETURNS] = graph.returns
    tasks[:, kernel.BEST_NS] = facts.best_ns
    tasks[:, kernel.RELEASE_NS] = graph.arrival_ns
    tasks[:, kernel.CELL] = graph.cell_of
    tasks[:, kernel.MISSING] = tasks[:, kernel.INPUTS_END] - tasks[:, kernel.INPUTS]
    for column in (kernel.HOME, kernel.SEEN, kernel.CHECKED):
        tasks[:, column] = kernel.ABSENT
    return tasks


def _pairs(facts: Facts) -> IntArray:
    prices, names = facts.prices, facts.names
    pairs = np.zeros((len(facts.graph), kernel.N_PAIR_ROWS, len(names)), dtype=np.int64)
    pairs[:, kernel.RUN_NS] = prices.run_ns
    pairs[:, kernel.THERE_NS] = pairs[:, kernel.READY_NS] = kernel.ABSENT
    sizes, where = np.unique(facts.graph.output_bytes, return_inverse=True)
    for device in prices.devices:
        for column, cost in (
            (kernel.COPY_IN_NS, prices.staging_in_ns),
            (kernel.COPY_OUT_NS, prices.staging_out_ns),
        ):
            by_size = np.array([cost(device, size) for size in sizes.tolist()], dtype=np.int64)
            pairs[:, column, device] = by_size[where]
        link = prices.link[prices.host][device]
        if link >= 0 and any(prices.host_bytes):
            times = [prices.transfer_ns(link, size) for size in prices.host_bytes]
            pairs[:, kernel.HOST_COPY_NS, device] = times
    if facts.profile.dispatch.h:
        pairs[:, kernel.H_NS] = prices.h_ns
    return pairs


def _moves(facts: Facts) -> IntArray:
    sizes, where = np.unique(facts.graph.output_bytes, return_inverse=True)
    links = range(len(facts.profile.cluster.links))
    by_size = np.array(
        [[facts.prices.transfer_ns(link, size) for link in links] for size in sizes.tolist()],
        dtype=np.int64,
    ).reshape(len(sizes), len(links))
    moves: IntArray = by_size[where]
    return moves


def _weights(facts: Facts) -> tuple[IntArray, IntArray, IntArray]:
    held = facts.prices.weights
    weights, sizes, memory = weight_tables(held, len(facts.names))
    if held is not None:
        room_bytes = facts.prices.launch_bytes
        memory[:, kernel.LOADS] = held.loading(room_bytes)
        memory[:, kernel.LIMIT_BYTES] -= room_bytes
    return weights, sizes, memory


def weight_tables(held: CellWeights | None, n_devices: int) -> tuple[IntArray, IntArray, IntArray]:
    """Return (K, 2, D), (K, 2) and (D, 3): see `kernel.Places`; empty where nothing is tracked.

    LOADS marks devices that may not hold everything, LIMIT_BYTES is the whole memory.
    """
    n_cells = 0 if held is None else len(held.size_bytes)
    weights = np.zeros((n_cells, kernel.N_WEIGHT_ROWS, n_devices), dtype=np.int64)
    sizes = np.zeros((n_cells, 2), dtype=np.int64)
    memory = np.zeros((n_devices if n_cells else 0, kernel.N_MEMORY_COLUMNS), dtype=np.int64)
    if held is not None:
        weights[:, kernel.LAST_USE] = np.where(held.resident, 0, kernel.ABSENT)
        weights[:, kernel.LOAD_NS] = held.load_ns
        sizes[:, kernel.SIZE_BYTES], sizes[:, kernel.NAME_RANK] = held.size_bytes, held.name_rank
        memory[:, kernel.LOADS] = held.tracked
        memory[:, kernel.USED_BYTES] = held.size_bytes @ held.resident
        memory[:, kernel.LIMIT_BYTES] = held.memory_bytes
    return weights, sizes, memory


def _known(facts: Facts) -> FloatArray:
    """Return the features that no choice changes; zeros for the rest."""
    rank, _, move, readers = facts.static_columns.T[:, :, None]  # (N, 1) each
    known = np.zeros((len(facts.graph), len(facts.names), env_kernel.N_KNOWN), dtype=np.float32)
    known[:, :, env_kernel.RANK_SHARE] = rank / facts.rank_max
    known[:, :, env_kernel.MOVE_OUT] = _squashed(move / facts.unit_ns)
    known[:, :, env_kernel.N_READERS] = _squashed(readers)
    known[:, :, env_kernel.SLOWNESS] = np.clip(facts.device_slowness, 0, SLOWNESS_MAX)
    return known


def _squashed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    squashed: npt.NDArray[np.float64] = 4 * values / (4 + values)
    return squashed


@dataclass(frozen=True, slots=True)
class MachineTables:
    """What the compiled estimate reads about a profile's machine; D devices, L links."""

    facts: dict[str, int]
    """The first of `kernel.Places`."""
    tables: dict[str, IntArray]
    """Each under its name there."""
    n_resources: int
    """The interpreter lock included."""
    n_uses: int
    """Links per resource, at most."""


def machine_tables(profile: Profile) -> MachineTables:
    """Return the tables of a profile's machine."""
    cluster, dispatch = profile.cluster, profile.dispatch
    pairs = range(len(cluster.devices))
    links = np.array([[cluster.link_index(a, b) for b in pairs] for a in pairs], dtype=np.int64)
    held = [list(dict.fromkeys(link.held)) for link in cluster.links]
    number = {name: n for n, name in enumerate(dict.fromkeys(chain(*held)))}
    blocked = [[cluster.index(name) for name in link.blocked_devices] for link in cluster.links]
    machine = np.zeros((len(cluster.devices), kernel.N_MACHINE_COLUMNS), dtype=np.int64)
    machine[:, kernel.STAGES_IN] = [name in dispatch.copy_in for name in cluster.names]
    machine[:, kernel.STAGES_OUT] = [name in dispatch.copy_out for name in cluster.names]
    machine[:, kernel.WALK] = 0 if dispatch.host_mode == "single" else pairs
    machine[:, kernel.IS_CPU] = [device.kind == "cpu" for device in cluster.devices]
    tables = {
        "machine": machine,
        "links": links,
        "held": _filled([[number[name] for name in row] for row in held], 1),
        "blocked": _filled(blocked, 2),
        "slowed": _slowed(cluster, held),
        "disturbs": _disturbs(cluster, blocked),
    }
    facts = _facts(profile, len(number), all_linked=not _has_gaps(links))
    facts |= {"n_links": len(held), "n_held": tables["held"].shape[1]}
    n_uses = max((sum(name in row for row in held) for name in number), default=0)
    return MachineTables(facts, tables, len(number) + 1, n_uses)


def _has_gaps(links: IntArray) -> bool:
    return bool(((links < 0) & ~np.eye(len(links), dtype=np.bool_)).any())


def _facts(profile: Profile, n_resources: int, *, all_linked: bool) -> dict[str, int]:
    dispatch = profile.dispatch
    locks = dispatch.host_mode == "threads" and dispatch.lock > 0
    depth = dispatch.queue_depth
    return {
        "host": profile.cluster.host_index,
        "handoff_ns": dispatch.handoff_ns if dispatch.host_mode == "processes" else 0,
        "known_after_ns": dispatch.sync_ns + dispatch.decision_ns,
        "dispatches": int(not dispatch_is_free(profile)),
        "replays": int(dispatch.host_mode == "replay"),
        "depth": kernel.ABSENT if depth is None else depth,
        "lock": n_resources if locks else kernel.ABSENT,
        "lock_share_ppm": round(dispatch.lock * 1_000_000),
        "h_copy_ns": dispatch.h_copy,
        "all_linked": int(all_linked),
        "tracks": int(tracks_weights(profile.cluster)),
        "n_devices": len(profile.cluster.devices),
    }


def _filled(rows: Sequence[Sequence[int]], least: int) -> IntArray:
    """Return rows as a rectangle with at least `least` columns, filled up with ABSENT."""
    width = max([least, *map(len, rows)])
    filled = [[*row, *[kernel.ABSENT] * (width - len(row))] for row in rows]
    return np.array(filled, dtype=np.int64).reshape(len(rows), width)


def _slowed(cluster: Cluster, held: Sequence[Sequence[str]]) -> IntArray:
    """Return (L, D): 1 for the sources of links that share a resource with the link."""
    slowed = np.zeros((len(cluster.links), len(cluster.devices)), dtype=np.int64)
    for number, row in enumerate(held):
        for other, link in zip(held, cluster.links, strict=True):
            if not set(row).isdisjoint(other):
                slowed[number, cluster.index(link.src)] = 1
    return slowed


def _disturbs(cluster: Cluster, blocked: Sequence[Sequence[int]]) -> IntArray:
    """Return (D, D): 1 for a device itself and the sources of links that block it."""
    disturbs = np.eye(len(cluster.devices), dtype=np.int64)
    for row, link in zip(blocked, cluster.links, strict=True):
        for device in row:
            disturbs[device, cluster.index(link.src)] = 1
    return disturbs
