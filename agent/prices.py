"""A graph's costs under a profile as Python lists, which beat numpy at the sizes of one choice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from dynpartition.agent.holdings import (
    cell_weights,
    launch_bytes,
    task_ns_where_weights_fit,
    without_barred,
)
from dynpartition.cluster import AffineCost
from dynpartition.costs import transfer_ns
from dynpartition.profile import PricedGraph

ABSENT = -1
"""Where a task cannot run, a link does not exist, or something has not happened."""


class Prices:
    """What the scheduler's estimate looks up: N tasks, D devices.

    Nothing in here changes while a plan grows; `PricedGraph` stays the only source of costs.
    """

    def __init__(self, priced: PricedGraph) -> None:
        graph, cluster = priced.graph, priced.cluster
        self.priced = priced
        self.n_tasks = len(graph)
        self.n_devices = len(cluster.devices)
        self.devices = range(self.n_devices)
        self.host = cluster.host_index
        self.inputs = [tuple(dict.fromkeys(row)) for row in graph.input_lists]
        self.output_bytes: list[int] = graph.output_bytes.tolist()
        self.host_bytes: list[int] = graph.host_bytes.tolist()
        self.arrival_ns: list[int] = graph.arrival_ns.tolist()
        self.returns: list[int] = graph.returns.tolist()
        self.gates = graph.gates
        self.link = [[cluster.link_index(a, b) for b in self.devices] for a in self.devices]
        self.bookkeeping_ns = [
            priced.profile.dispatch.bookkeeping_on(name) for name in cluster.names
        ]
        self.weights = cell_weights(graph.cells, priced.profile)
        self.run_ns = self._run_ns()
        dispatch, cells = priced.profile.dispatch, graph.cell_names
        self.first_ns = [[dispatch.first_use_on(c, d) for d in cluster.names] for c in cells]
        """Cell → device → what its first launch there takes longer."""
        self.cell_of: list[int] = graph.cell_of.tolist()
        self._read_staging()
        self._read_links()

    def _run_ns(self) -> list[list[int]]:
        """Task → device → duration of a launch of that task alone, ABSENT where it cannot run.

        So it is where its weights can never be, unless they can be nowhere.
        """
        extra = self.bookkeeping_ns
        rows: list[list[int]] = task_ns_where_weights_fit(self.priced, self.weights).tolist()
        return [
            [ABSENT if ns < 0 else ns + more for ns, more in zip(row, extra, strict=True)]
            for row in rows
        ]

    def _read_staging(self) -> None:
        dispatch, names = self.priced.profile.dispatch, self.priced.cluster.names
        self.handoff_ns = dispatch.handoff_ns if dispatch.host_mode == "processes" else 0
        self._copy_in = [dispatch.copy_in.get(name) for name in names]
        self._copy_out = [dispatch.copy_out.get(name) for name in names]
        self.stages_in = [cost is not None for cost in self._copy_in]
        self.stages_out = [cost is not None for cost in self._copy_out]

    def _read_links(self) -> None:
        cluster = self.priced.cluster
        numbers: dict[str, int] = {}
        self.resources = [
            tuple(numbers.setdefault(name, len(numbers)) for name in link.held)
            for link in cluster.links
        ]
        self.n_resources = len(numbers)
        self.blocked = [
            tuple(cluster.index(name) for name in link.blocked_devices) for link in cluster.links
        ]
        sources = [cluster.index(link.src) for link in cluster.links]
        self.touched = [self._touched(link, sources) for link in range(len(sources))]
        """Link → devices whose outputs it delays: those that share its resources or block."""

    def _touched(self, link: int, sources: list[int]) -> tuple[int, ...]:
        held = set(self.resources[link])
        sharing = {src for src, row in zip(sources, self.resources, strict=True) if held & set(row)}
        return tuple(sorted(sharing.union(self.blocked[link])))

    def launch_ns(self, tasks: Sequence[int], device: int) -> int:
        """Return how long one launch of `tasks` runs on `device`, without gathering."""
        if len(tasks) == 1:
            return self.run_ns[tasks[0]][device]
        compute = self.priced.compute_ns(tuple(tasks), device)
        return compute + len(tasks) * self.bookkeeping_ns[device]

    def transfer_ns(self, link: int, size_bytes: int) -> int:
        """Return how long `size_bytes` occupy link `link`."""
        return self.priced.transfer_ns(link, size_bytes)

    def copy_in_ns(self, device: int, task: int) -> int:
        """Return what gathering the remote output of `task` adds to its reader on `device`."""
        return self.staging_in_ns(device, self.output_bytes[task])

    def copy_out_ns(self, device: int, task: int) -> int:
        """Return what staging the output of `task` for remote readers adds to it on `device`."""
        return self.staging_out_ns(device, self.output_bytes[task])

    def staging_in_ns(self, device: int, size_bytes: int) -> int:
        """Return what gathering a remote output of `size_bytes` on `device` takes."""
        return _staging_ns(self._copy_in[device], size_bytes)

    def staging_out_ns(self, device: int, size_bytes: int) -> int:
        """Return what staging an output of `size_bytes` on `device` takes."""
        return _staging_ns(self._copy_out[device], size_bytes)

    @cached_property
    def cell_ns(self) -> list[list[int]]:
        """Cell → device → duration of one task, ABSENT where it cannot run; see `run_ns`."""
        alone_ns = self.priced.profile.cell_prices(self.priced.graph.cells).alone_ns
        if self.weights is not None:
            alone_ns = without_barred(alone_ns, self.weights.barred)
        rows: list[list[int]] = alone_ns.tolist()
        return rows

    @cached_property
    def launch_bytes(self) -> int:
        """The most bytes of inputs and output that one task needs at once, without weights."""
        return launch_bytes(self.inputs, self.output_bytes, self.host_bytes)

    @cached_property
    def h_ns(self) -> list[list[int]]:
        """Task → device → host time of its launch."""
        graph, dispatch = self.priced.graph, self.priced.profile.dispatch
        by_cell = [
            [dispatch.h_ns(cell, device) for device in self.priced.cluster.devices]
            for cell in graph.cell_names
        ]
        return [by_cell[cell] for cell in graph.cell_of.tolist()]


def _staging_ns(cost: AffineCost | None, size_bytes: int) -> int:
    return 0 if cost is None else transfer_ns(cost, size_bytes)
