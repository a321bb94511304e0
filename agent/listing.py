"""List schedulers: HEFT and its relatives, with the contention-aware estimate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

from dynpartition.agent.facts import Facts
from dynpartition.agent.partial import PartialPlan
from dynpartition.agent.ranks import downward_ranks, mean_costs, mean_transfers
from dynpartition.contract import Scheduler
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile

Choose = Callable[[PartialPlan], tuple[int, int]]
"""(plan so far) → (ready task, legal device)."""


class _Listing(Scheduler):
    """Places one ready task after the other as `_choose` says."""

    def schedule(self, graph: TaskGraph, profile: Profile, planned: Plan) -> Sequence[Launch]:
        """Return the launches in the order of choosing."""
        partial = PartialPlan.of(graph, profile, planned)
        choose = self._chooser(partial.facts)
        while partial.ready:
            partial.place(*choose(partial))
        return partial.take_launches()

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

    def _chooser(self, facts: Facts) -> Choose:
        def choose(partial: PartialPlan) -> tuple[int, int]:
            task = highest(partial.ready, facts.rank)
            return task, partial.earliest(task)

        return choose


class MinMin(_Listing):
    """Of all ready tasks and devices, the pair that ends first (Ibarra and Kim 1977)."""

    name = "min-min"

    def _chooser(self, facts: Facts) -> Choose:
        return _first_to_end


def _first_to_end(partial: PartialPlan) -> tuple[int, int]:
    pairs = [
        (end_ns, task, device)
        for task in partial.ready
        for device, (_, end_ns) in partial.legal_options(task).items()
    ]
    if not pairs:
        return partial.ready[0], partial.earliest(partial.ready[0])  # raises and says why
    _, task, device = min(pairs)
    return task, device


class Cpop(_Listing):
    """Critical path on one device, the rest where it ends first (Topcuoglu et al. 2002, CPOP).

    Priority is upward plus downward rank. The critical tasks go to the device that runs all of them
    fastest, where that is legal.
    """

    name = "cpop"

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
    return sum(values) / len(values)
