"""List schedulers: HEFT and its relatives, with the contention-aware estimate.

What each of them chooses is defined here in Python. They are played by `list_kernel`, compiled,
which chooses the same; the definitions are for reading, for tests, and for times beyond int64.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from heapq import nsmallest
from typing import TYPE_CHECKING

from dynpartition.agent.facts import Facts
from dynpartition.agent.partial import PartialPlan
from dynpartition.agent.prices import ABSENT
from dynpartition.agent.ranks import downward_ranks, mean_costs, mean_transfers
from dynpartition.contract import Scheduler
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile

if TYPE_CHECKING:
    from dynpartition.agent.list_tables import ListGraph

Choose = Callable[[PartialPlan], tuple[int, int]]
"""(plan so far) → (ready task, legal device)."""

WINDOW = 32
"""How many ready tasks min-min looks at: those of highest rank. So time stays linear in tasks."""


class ListPlanner(Scheduler):
    """Schedulers that decide on the tables of `list_tables`, in compiled code."""

    @abstractmethod
    def define(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches as Python finds them: what `schedule` must return, but slow."""

    @abstractmethod
    def plan_on(self, lists: ListGraph, planned: Plan) -> bool:
        """Plan what `lists` has not planned; the choices stand there then. False: it cannot."""

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches; SchedulerError where a task has no legal device."""
        from dynpartition.agent.list_tables import list_graph  # needs numba

        lists = list_graph(graph, profile, planned)
        if lists is None or not self.plan_on(lists, planned):
            return self.define(graph, profile, planned)  # where there is no plan, it says why
        launches = lists.launches()
        lists.give_back()
        return launches


class _Listing(ListPlanner):
    """Places one ready task after the other as `_chooser` says."""

    method: str
    """What `list_kernel` calls it."""

    def define(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches in the order of choosing."""
        partial = PartialPlan.of(graph, profile, planned)
        choose = self._chooser(partial.facts)
        while partial.ready:
            partial.place(*choose(partial))
        return partial.take_launches()

    def plan_on(self, lists: ListGraph, planned: Plan) -> bool:
        """Plan by the method."""
        from dynpartition.agent import list_kernel  # needs numba

        return lists.plan(getattr(list_kernel, self.method))

    @abstractmethod
    def _chooser(self, facts: Facts) -> Choose:
        """Return the function that names the next (task, device)."""


def highest(ready: Sequence[int], rank: Sequence[float]) -> int:
    """Return the ready task of highest rank, the smallest number among equals."""
    return min(ready, key=lambda task: (-rank[task], task))


class Heft(_Listing):
    """Tasks by decreasing upward rank, each where the estimate has it end first.

    Topcuoglu et al. 2002, with two differences: devices run launches in plan order, so a task is
    appended and never inserted into a gap; and links are contended. Launches are emitted in rank
    order, which is topological. The paper's ten-task example, 80 there, comes to 89.
    """

    name = "heft"
    method = "HEFT"

    def _chooser(self, facts: Facts) -> Choose:
        def choose(partial: PartialPlan) -> tuple[int, int]:
            task = highest(partial.ready, facts.rank)
            return task, partial.earliest(task)

        return choose


class MinMin(_Listing):
    """Of the ready tasks and devices, the pair that ends first (Ibarra and Kim 1977).

    Of more than WINDOW ready tasks, those of highest upward rank are looked at.
    """

    name = "min-min"
    method = "MIN_MIN"

    def _chooser(self, facts: Facts) -> Choose:
        def choose(partial: PartialPlan) -> tuple[int, int]:
            shown = nsmallest(WINDOW, partial.ready, key=lambda task: (-facts.rank[task], task))
            pairs = [
                (end_ns, task, device)
                for task in shown
                for device, (_, end_ns) in partial.legal_options(task).items()
            ]
            if not pairs:
                return shown[0], partial.earliest(shown[0])  # raises and says why
            _, task, device = min(pairs)
            return task, device

        return choose


class Lookahead(_Listing):
    """HEFT that puts each task where the last of its readers could end first.

    Of two devices with the same outlook, the one where the task itself ends first. After
    Bittencourt et al. 2010, who place the readers for this; here each of them is looked at alone,
    with those of its inputs that are placed, on the links as they are.
    """

    name = "lookahead"
    method = "LOOKAHEAD"

    def _chooser(self, facts: Facts) -> Choose:
        def choose(partial: PartialPlan) -> tuple[int, int]:
            task = highest(partial.ready, facts.rank)
            options = partial.legal_options(task)
            if not options:
                return task, partial.earliest(task)  # raises and says why
            readers = facts.graph.reader_lists[task]

            def outlook(device: int) -> tuple[int, int, int]:
                end_ns = options[device][1]
                ends = [reader_end_ns(partial, task, device, end_ns, each) for each in readers]
                return max([end_ns, *ends]), end_ns, device

            return task, min(options, key=outlook)

        return choose


def reader_end_ns(partial: PartialPlan, task: int, home: int, end_ns: int, reader: int) -> int:
    """Return when a reader of `task` could end at best, if `task` ended at `end_ns` on `home`.

    ABSENT where it can go nowhere.
    """
    facts, estimate = partial.facts, partial.estimate
    prices = facts.prices
    size_bytes = prices.output_bytes[task]
    others = [source for source in prices.inputs[reader] if partial.is_placed(source)]
    found = []
    for device in facts.able[reader]:
        there = [estimate.alone_there_ns(source, device) for source in others]
        gathered = [source for source in others if estimate.device_of(source) != device]
        if device == home:
            there.append(end_ns)
        else:
            pushed_ns = end_ns + prices.copy_out_ns(home, task)
            there.append(estimate.moved_ns(size_bytes, home, device, pushed_ns))
            gathered.append(task)
        # The task itself may bring their cell and use it for the first time.
        alike = device == home and prices.cell_of[reader] == prices.cell_of[task]
        first_ns = 0 if alike else estimate.first_use_ns(reader, device)
        after_ns = end_ns if device == home else 0
        there.append(0 if alike else estimate.loaded_ns(reader, device, after_ns))
        if min(there) >= 0:
            start_ns = max(*there, estimate.release_ns[reader], estimate.device_free_ns[device])
            gathering_ns = sum(prices.copy_in_ns(device, source) for source in gathered)
            found.append(start_ns + prices.run_ns[reader][device] + gathering_ns + first_ns)
    return min(found, default=ABSENT)


class Cpop(_Listing):
    """Critical path on one device, the rest where it ends first (Topcuoglu et al. 2002, CPOP).

    Priority is upward plus downward rank. The critical tasks go to the device that runs all of them
    fastest, where that is legal.
    """

    name = "cpop"
    method = "CPOP"

    def _chooser(self, facts: Facts) -> Choose:
        move = mean_transfers(facts.prices)
        down = downward_ranks(facts.graph, mean_costs(facts.prices), lambda a, _: move[a])
        priority = [up + below for up, below in zip(facts.rank, down, strict=True)]
        critical = _critical_path(facts, priority)
        device = _fastest_for(facts, critical)

        def choose(partial: PartialPlan) -> tuple[int, int]:
            task = highest(partial.ready, priority)
            return task, partial.earliest(task, device if task in critical else None)

        return choose


def _critical_path(facts: Facts, priority: Sequence[float]) -> set[int]:
    """Return one path from an entry to an exit along the highest priorities."""
    entries = [task for task, row in enumerate(facts.prices.inputs) if not row]
    path = [highest(entries, priority)]
    while readers := facts.graph.reader_lists[path[-1]]:
        path.append(highest(readers, priority))
    return set(path)


def _fastest_for(facts: Facts, tasks: set[int]) -> int | None:
    able = [d for d in facts.prices.devices if all(facts.can_run[task][d] for task in tasks)]
    run_ns = facts.prices.run_ns
    return min(able, key=lambda d: (sum(run_ns[task][d] for task in tasks), d), default=None)


class Peft(_Listing):
    """Earliest finish plus what must follow at best (Arabnejad and Barbosa 2014, PEFT)."""

    name = "peft"
    method = "PEFT"

    def _chooser(self, facts: Facts) -> Choose:
        costs = optimistic_costs(facts)
        rank = [_mean([row[d] for d in facts.able[task]]) for task, row in enumerate(costs)]

        def choose(partial: PartialPlan) -> tuple[int, int]:
            task = highest(partial.ready, rank)
            options = partial.legal_options(task)
            if not options:
                return task, partial.earliest(task)  # raises and says why
            return task, min(options, key=lambda d: (options[d][1] + costs[task][d], d))

        return choose


def optimistic_costs(facts: Facts) -> list[list[float]]:
    """Return task → device → the shortest the rest of its longest path can take after it.

    Arabnejad and Barbosa 2014, eq. 4, with mean transfer costs.
    """
    graph, run_ns = facts.graph, facts.prices.run_ns
    move = mean_transfers(facts.prices)
    table = [[0.0] * facts.prices.n_devices for _ in range(len(graph))]
    for task in reversed(graph.topological_order):
        for device in facts.prices.devices:
            after = [
                min(
                    table[reader][d] + run_ns[reader][d] + (0.0 if d == device else move[task])
                    for d in facts.able[reader]
                )
                for reader in graph.reader_lists[task]
            ]
            table[task][device] = max(after, default=0.0)
    return table


def _mean(values: Sequence[float]) -> float:
    total = 0.0
    for value in values:  # not by `sum`, which later versions of Python compensate
        total += value
    return total / len(values)
