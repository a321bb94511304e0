"""Graphs as the integer tables from which the compiled simulator lowers plans."""

from __future__ import annotations

import numpy as np

from dynpartition.cluster import AffineCost
from dynpartition.costs import transfer_ns
from dynpartition.profile import PricedGraph
from dynpartition.residency import needs_memory
from dynpartition.sim import kernel
from dynpartition.sim.kernel_pack import machine_tables
from dynpartition.types import IntArray

_PLAIN_BYTES_MAX = 2**62 // 10**9
_BANDWIDTH_MAX = 2**61


class PreparedGraph:
    """A priced graph whose plans can be evaluated in compiled code, if its features allow it."""

    def __init__(self, priced: PricedGraph) -> None:
        self.priced = priced
        graph = priced.graph
        self.is_quick = not (
            graph.revealers
            or any(graph.available_ns)
            or priced.profile.noise is not None
            or needs_memory(priced)
        )
        self.machine = machine_tables(priced.profile)
        self.tables = _graph_tables(priced) if self.is_quick else []
        self.values = np.concatenate([np.zeros(1, np.int64), *(t.reshape(-1) for t in self.tables)])
        """All tables, one after the other; not empty."""
        if self.is_quick and _longest_ns(priced, self.tables) >= kernel.NEVER // 2:
            self.is_quick = False


def _graph_tables(priced: PricedGraph) -> list[IntArray]:
    """Return the tables of the kernel's GraphPlaces, in its order."""
    graph, cluster, dispatch = priced.graph, priced.cluster, priced.profile.dispatch
    n_tasks, n_devices = priced.task_ns.shape
    host = cluster.host_index
    bookkeeping = [dispatch.bookkeeping_on(name) for name in cluster.names]
    gather_ns, stage_ns = np.zeros((2, n_tasks, n_devices), dtype=np.int64)
    alone_ns = np.where(priced.task_ns < 0, -1, priced.task_ns + np.array(bookkeeping))
    fed = graph.host_bytes > 0
    for device, name in enumerate(cluster.names):
        copy_in, copy_out = dispatch.copy_in.get(name), dispatch.copy_out.get(name)
        if copy_in is not None:
            gather_ns[:, device] = _prices(copy_in, graph.output_bytes)
            if device != host:
                feeding_ns = np.where(fed, _prices(copy_in, graph.host_bytes), 0)
                alone_ns[:, device] += np.where(alone_ns[:, device] < 0, 0, feeding_ns)
        if copy_out is not None:
            stage_ns[:, device] = _prices(copy_out, graph.output_bytes)
    cells, kind = np.unique(graph.cell_of, return_inverse=True)
    link_of = np.full((n_devices, n_devices), -1, dtype=np.int64)
    output_ns = np.zeros((n_tasks, len(cluster.links)), dtype=np.int64)
    feed_ns = np.where(fed, kernel.GONE, kernel.NONE)[:, None].repeat(n_devices, axis=1)
    for number, link in enumerate(cluster.links):
        src, dst = cluster.index(link.src), cluster.index(link.dst)
        link_of[src, dst] = number
        output_ns[:, number] = _prices(link.cost, graph.output_bytes)
        if src == host and fed.any():
            feed_ns[fed, dst] = _prices(link.cost, graph.host_bytes[fed])
    return [
        *(graph.inputs.start, graph.inputs.values, alone_ns, gather_ns, stage_ns),
        *(output_ns, feed_ns, np.asarray(graph.returns), link_of, _dispatch_ns(priced)),
        *(kind, _first_use_ns(priced), *_batch_tables(priced, cells, kind)),
        *(graph.output_bytes, graph.host_bytes),
    ]


def _dispatch_ns(priced: PricedGraph) -> IntArray:
    """Return (N, D) host times of launches of each task."""
    dispatch, devices = priced.profile.dispatch, priced.cluster.devices
    rows = [[dispatch.h_ns(name, device) for device in devices] for name in priced.graph.cell_names]
    return np.array(rows, dtype=np.int64)[np.asarray(priced.graph.cell_of)]


def _batch_tables(
    priced: PricedGraph, cells: IntArray, kind: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Return `batch_start`, `batch_ns` and `own`; `kind`: (N,) which of the Q `cells` tasks are."""
    counts = np.bincount(kind)
    batch_start = np.cumsum(counts) - counts
    batch_ns = np.zeros(priced.task_ns.shape, dtype=np.int64)
    for number, cell in enumerate(cells.tolist()):
        count, begin = int(counts[number]), int(batch_start[number])
        for device, curve in enumerate(priced.curves_of(cell)):
            if curve is None or curve.is_proportional:
                continue
            lasts_ns = curve.up_to(count)
            adds_ns = [ns - k * lasts_ns[0] for k, ns in enumerate(lasts_ns, start=1)]
            # What does not fit makes the graph one for Python; see _longest_ns.
            kept = [max(-kernel.NEVER, min(ns, kernel.NEVER)) for ns in adds_ns]
            batch_ns[begin : begin + count, device] = kept
    return batch_start, batch_ns, priced.own_cost


def _first_use_ns(priced: PricedGraph) -> IntArray:
    """Return (N, D) what the first launch of each task's cell takes longer."""
    dispatch, names = priced.profile.dispatch, priced.cluster.names
    cells = priced.graph.cell_names
    rows = [[dispatch.first_use_on(cell, name) for name in names] for cell in cells]
    return np.array(rows, dtype=np.int64)[np.asarray(priced.graph.cell_of)]


def _prices(cost: object, sizes: IntArray) -> IntArray:
    """Return transfer_ns of each size; exact."""
    if isinstance(cost, AffineCost) and cost.bandwidth_bytes_per_s < _BANDWIDTH_MAX:
        bandwidth = cost.bandwidth_bytes_per_s
        if sizes.max(initial=0) < _PLAIN_BYTES_MAX:
            return cost.latency_ns + (sizes * 10**9 + (bandwidth - 1)) // bandwidth
    unique, inverse = np.unique(sizes, return_inverse=True)
    prices = [transfer_ns(cost, size) for size in unique.tolist()]  # type: ignore[arg-type]
    return np.array(prices, dtype=np.int64)[inverse]


def _longest_ns(priced: PricedGraph, tables: list[IntArray]) -> float:
    """Return a bound for the makespan of any plan."""
    graph, dispatch, n_tasks = priced.graph, priced.profile.dispatch, len(priced.graph)
    total_bytes = graph.output_bytes.sum(dtype=float) + graph.host_bytes.sum(dtype=float)
    if total_bytes >= kernel.NEVER:
        return float(kernel.NEVER)
    largest = sum(
        float(np.abs(table).max(initial=0))
        for table in (*tables[2:7], tables[9], tables[11], tables[13])
    )
    longest_ns = [transfer_ns(link.cost, int(total_bytes)) for link in priced.cluster.links]
    largest += max(longest_ns, default=0)
    return (largest + dispatch.h_copy + dispatch.handoff_ns) * (len(tables[1]) + 2 * n_tasks)
