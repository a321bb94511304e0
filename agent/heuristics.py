"""The simplest schedulers: one device, chance, turns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynpartition.agent.facts import Facts
from dynpartition.agent.listing import ListPlanner
from dynpartition.agent.partial import PartialPlan
from dynpartition.agent.prices import ABSENT
from dynpartition.contract import Scheduler
from dynpartition.errors import SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan, single_task_launches
from dynpartition.profile import PricedGraph, Profile
from dynpartition.types import IntArray

if TYPE_CHECKING:
    from dynpartition.agent.list_tables import ListGraph


class Placer(Scheduler):
    """Schedulers that say where each task goes, in topological order, without looking at time."""

    @abstractmethod
    def place(self, priced: PricedGraph, planned: Plan) -> IntArray:
        """Return int64 (n, 2): task and device of those that `planned` does not hold.

        Raises SchedulerError for a task that has no place.
        """

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; SchedulerError as in `place`."""
        choices = self.place(PricedGraph(graph, profile), planned)
        return single_task_launches(choices, profile.cluster.names)


class OneDevice(Placer):
    """Schedulers that put everything on one device."""

    @abstractmethod
    def choose(self, priced: PricedGraph, planned: Plan) -> str:
        """Return the device's name; SchedulerError if it cannot run every task."""

    def place(self, priced: PricedGraph, planned: Plan) -> IntArray:
        """Return every task with that device."""
        device = priced.cluster.index(self.choose(priced, planned))
        tasks = unplaced(priced.graph, planned)
        choices = np.empty((len(tasks), 2), dtype=np.int64)
        choices[:, 0], choices[:, 1] = tasks, device
        return choices


def unplaced(graph: TaskGraph, planned: Plan) -> Sequence[int]:
    """Return the tasks that `planned` does not hold, in topological order."""
    if not planned:
        return graph.topological_order
    done = planned.placement()
    return [task for task in graph.topological_order if task not in done]


class SingleDevice(OneDevice):
    """Everything on one device, in topological order."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.name = f"single:{device}"

    def choose(self, priced: PricedGraph, planned: Plan) -> str:
        """Return the device."""
        device = priced.cluster.index(self.device, place=self.name)
        cannot = np.flatnonzero(priced.task_ns[:, device] < 0).tolist()
        if cannot:
            done = planned.placement()
            for task in cannot:
                if task not in done:
                    raise _cannot_run(priced, task, device)
        return self.device


def _cannot_run(priced: PricedGraph, task: int, device: int) -> SchedulerError:
    names = priced.cluster.names
    able = [names[d] for d in np.flatnonzero(priced.task_ns[task] >= 0).tolist()]
    return SchedulerError(
        f"{priced.graph.label(task)} cannot run on {names[device]}, only on {', '.join(able)};"
        " choose one of those or a scheduler that uses several devices"
    )


class BestSingle(OneDevice, ListPlanner):
    """Everything on the device with the smallest estimated makespan.

    Decided at the first call, from the revealed tasks; later calls stay on that device. Cells of
    the graph that have not been seen in a task yet must also run there.
    """

    name = "best-single"

    def choose(self, priced: PricedGraph, planned: Plan) -> str:
        """Return the device; SchedulerError if no single one can run every cell."""
        given = _only_choice(priced, planned)
        if given is not None:
            return given
        from dynpartition.agent.list_tables import list_graph  # needs numba

        lists = list_graph(priced.graph, priced.profile)
        if lists is None:
            return self._chosen(priced)
        device = _best_device(lists)
        if device == ABSENT:
            raise _no_single(priced.graph)
        return lists.machine.names[device]

    def define(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches, by the readable estimate."""
        priced = PricedGraph(graph, profile)
        device = _only_choice(priced, planned) or self._chosen(priced)
        return SingleDevice(device).schedule(graph, profile, planned)

    def plan_on(self, lists: ListGraph, planned: Plan) -> bool:
        """Plan everything on one device, the one of the first launch where there is one."""
        if planned:
            device = lists.machine.profile.cluster.index(planned.launches[0].device)
            joined = lists.machine.all_linked and _runs_all(lists, device, planned)
            return joined and _plan_single(lists, device)
        device = _best_device(lists)
        return device != ABSENT and _plan_single(lists, device)

    def _chosen(self, priced: PricedGraph) -> str:
        facts = Facts(priced.graph, priced.profile)
        feasible = single_devices(facts)
        if not feasible:
            raise _no_single(priced.graph)
        return facts.names[min(feasible, key=lambda d: (_makespan_ns(facts, d), d))]


def _only_choice(priced: PricedGraph, planned: Plan) -> str | None:
    """Return the device of what is planned, or the only one there is, if it runs all tasks."""
    if planned:
        return SingleDevice(planned.launches[0].device).choose(priced, planned)
    if len(priced.cluster.devices) == 1:
        return SingleDevice(priced.cluster.names[0]).choose(priced, planned)
    return None


def _no_single(graph: TaskGraph) -> SchedulerError:
    return SchedulerError(
        f"no single device can run all cells of graph {graph.name!r};"
        " use a scheduler that splits, or add costs to the profile"
    )


def _plan_single(lists: ListGraph, device: int) -> bool:
    from dynpartition.agent import list_kernel  # needs numba

    return lists.plan(list_kernel.FORCED, np.full(len(lists.graph), device))


def _runs_all(lists: ListGraph, device: int, planned: Plan) -> bool:
    """Return whether a device runs every task that is not planned."""
    cannot = np.flatnonzero(lists.run_ns[:, device] < 0).tolist()
    return not cannot or planned.placement().keys() >= set(cannot)


def _best_device(lists: ListGraph) -> int:
    """Return the device that ends first with everything on it, or ABSENT if none can run it."""
    if len(lists.machine.names) == 1:
        return 0
    found = []
    for device in lists.single_devices():
        _plan_single(lists, device)
        found.append((lists.latest_ns, device))
    return min(found)[1] if found else ABSENT


def single_devices(facts: Facts) -> list[int]:
    """Return the devices that can run every cell of the graph and exchange data with the host."""
    return [device for device in facts.prices.devices if _is_feasible(facts, device)]


def _is_feasible(facts: Facts, device: int) -> bool:
    prices = facts.prices
    if not all(row[device] for row in facts.can_run):
        return False
    if any(max(row) >= 0 > row[device] for row in prices.cell_ns):
        return False
    host = prices.host
    needs_in, needs_out = any(prices.host_bytes), any(prices.returns)
    lacks_in = needs_in and prices.link[host][device] < 0
    lacks_out = needs_out and prices.link[device][host] < 0
    return device == host or not (lacks_in or lacks_out)


def _makespan_ns(facts: Facts, device: int) -> int:
    partial = PartialPlan(facts)
    for task in facts.graph.topological_order:
        partial.place(task, device)
    return partial.estimate.makespan_ns


class Random(Scheduler):
    """Each task on a device drawn uniformly, in topological order.

    The draw depends on the seed and the content of the revealed graph only.
    """

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, int(graph.digest, 16)]))
        partial = PartialPlan.of(graph, profile, planned)
        for task in graph.topological_order:
            if not partial.is_placed(task):
                partial.place(task, int(rng.choice(partial.legal_devices(task))))
        return partial.take_launches()


class RoundRobin(Scheduler):
    """The tasks in topological order, the devices in turn; a device that cannot is skipped."""

    name = "round-robin"

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches."""
        partial = PartialPlan.of(graph, profile, planned)
        n_devices = partial.facts.prices.n_devices
        for task in graph.topological_order:
            if not partial.is_placed(task):
                turn = partial.n_placed % n_devices
                legal = partial.legal_devices(task)
                partial.place(task, _next_device(legal, turn, n_devices))
        return partial.take_launches()


def _next_device(legal: Sequence[int], turn: int, n_devices: int) -> int:
    return min(legal, key=lambda device: (device - turn) % n_devices)
