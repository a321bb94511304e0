"""A plan in the making: what is ready, where it may go, and the estimate so far."""

from __future__ import annotations

from dynpartition.agent.estimate import Estimate, Option
from dynpartition.agent.facts import Facts
from dynpartition.errors import SchedulerError
from dynpartition.graph import TaskGraph
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile


class PartialPlan:
    """Places ready tasks, launch by launch; the order of placing is the plan order."""

    def __init__(self, facts: Facts, planned: Plan | None = None) -> None:
        self.facts = facts
        self.estimate = Estimate(facts.prices.priced, facts.prices)
        self.ready: list[int] = []
        """Unplaced tasks whose inputs are all placed, in the order in which they became ready."""
        self.used: frozenset[int] = frozenset()
        """Devices that hold launches."""
        self.n_placed = 0
        self._launches: list[Launch] = []
        self._missing: list[int] = []
        if planned:
            self.estimate.replay(planned)
            self._take_over(planned)
        self._find_ready()

    @staticmethod
    def of(graph: TaskGraph, profile: Profile, planned: Plan | None = None) -> PartialPlan:
        """Return the state of a scheduler that has been handed `planned`."""
        return PartialPlan(Facts(graph, profile), planned)

    @property
    def graph(self) -> TaskGraph:
        """The tasks revealed so far."""
        return self.facts.graph

    def is_placed(self, task: int) -> bool:
        """Return whether `task` has a device."""
        return self.estimate.launch_of[task] >= 0

    def legal_devices(self, task: int) -> list[int]:
        """Return the devices that the ready `task` may go to."""
        legality = self.facts.legality
        if legality.all_linked:
            return self.facts.able[task]
        inputs = self.facts.prices.inputs[task]
        homes = frozenset(self.estimate.device_of(source) for source in inputs)
        return legality.devices(task, self.used, homes)

    def legal_options(self, task: int) -> dict[int, Option]:
        """Return device → (start, end) over the devices that `task` may go to."""
        found = {d: self.estimate.option(task, d) for d in self.legal_devices(task)}
        return {device: option for device, option in found.items() if option is not None}

    def earliest(self, task: int, preferred: int | None = None) -> int:
        """Return the legal device where `task` ends first, or `preferred` if it is legal.

        Raises SchedulerError when no device is legal.
        """
        options = self.legal_options(task)
        if preferred is not None and preferred in options:
            return preferred
        if not options:
            raise SchedulerError(f"{self.graph.label(task)} can run on no device; add its cost")
        return min(options, key=lambda device: (options[device][1], device))

    def place(self, task: int, device: int) -> None:
        """Append a launch of `task` on `device`; both must be legal."""
        self.place_launch((task,), device)

    def place_launch(self, tasks: tuple[int, ...], device: int) -> None:
        """Append a launch of ready tasks of one cell, as one batch, on `device`."""
        self.estimate.commit_launch(tasks, device)
        self.used |= {device}
        self.n_placed += len(tasks)
        self._launches.append(Launch(self.facts.names[device], tasks))
        for task in tasks:
            self.ready.remove(task)
            for reader in self.graph.reader_lists[task]:
                self._missing[reader] -= 1
                if not self._missing[reader] and not self.is_placed(reader):
                    self.ready.append(reader)

    def take_launches(self) -> list[Launch]:
        """Return the launches placed since this was last called."""
        taken, self._launches = self._launches, []
        return taken

    def _take_over(self, planned: Plan) -> None:
        placement = planned.placement()
        index = {name: device for device, name in enumerate(self.facts.names)}
        self.used = frozenset(index[name] for name in placement.values())
        self.n_placed = len(placement)

    def _find_ready(self) -> None:
        for task in range(len(self.graph)):
            inputs = self.facts.prices.inputs[task]
            missing = sum(not self.is_placed(source) for source in inputs)
            self._missing.append(missing)
            if not missing and not self.is_placed(task):
                self.ready.append(task)
