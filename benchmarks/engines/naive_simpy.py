"""The way SimPy suggests: a process per task and per transfer, an event for everything awaited."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

import simpy

from engines.plain_worlds import Tables, Times


class NaiveMachine:
    """One run; `arbiter` decides at the end of an instant which transfers start."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.env = env = simpy.Environment()
        launches, copies = len(tables.device), len(tables.copy_ns)
        self.times = Times([0] * launches, [0] * launches, [0] * copies, [0] * copies)
        self.ended = [env.event() for _ in range(launches)]
        self.arrived = [env.event() for _ in range(copies)]
        self.granted = [env.event() for _ in range(copies)]
        self.waiting: list[tuple[int, int]] = []
        self.busy: set[int] = set()
        self.asked = False

    def run(self) -> Times:
        """Run to the end."""
        before = {after: launch for launch, after in enumerate(self.tables.follower)}
        for launch in range(len(self.ended)):
            self.env.process(self.launch(launch, before.get(launch, -1)))
        for copy in self.tables.inputs:
            self.env.process(self.transfer(copy))
        self.env.run()
        return self.times

    def launch(self, launch: int, before: int) -> Iterator[simpy.Event]:
        """One launch, after the one before it on its device."""
        needed = [self.arrived[copy] for copy in self.tables.waits[launch]]
        if before >= 0:
            needed.append(self.ended[before])
        yield self.env.all_of(needed)
        self.times.launch_start[launch] = self.env.now
        yield self.env.timeout(self.tables.duration_ns[launch])
        self.times.launch_end[launch] = self.env.now
        self.ended[launch].succeed()
        for copy in self.tables.sends[launch]:
            self.env.process(self.transfer(copy))

    def transfer(self, copy: int) -> Iterator[simpy.Event]:
        """One transfer."""
        insort(self.waiting, (self.env.now, copy))
        self.ask()
        yield self.granted[copy]
        self.times.copy_start[copy] = self.env.now
        yield self.env.timeout(self.tables.copy_ns[copy])
        self.times.copy_end[copy] = self.env.now
        self.busy.difference_update(self.tables.copy_resources[copy])
        self.ask()
        self.arrived[copy].succeed()

    def ask(self) -> None:
        """Let the arbiter look again at the end of this instant."""
        if not self.asked:
            self.asked = True
            self.env.timeout(0).callbacks.append(self.arbiter)

    def arbiter(self, _: simpy.Event) -> None:
        """Start every transfer that is first in all its queues, where all is idle."""
        self.asked = False
        claimed = set(self.busy)
        for entry in self.waiting[:]:
            resources = self.tables.copy_resources[entry[1]]
            if claimed.isdisjoint(resources):
                self.waiting.remove(entry)
                self.busy.update(resources)
                self.granted[entry[1]].succeed()
            claimed.update(resources)
