"""The schedulers' own estimate of a growing plan.

An incremental, contention-aware list-scheduling estimate: devices run launches in plan order,
transfers take the first gap on their link from the end of their producer, and copies that block a
device push back what follows on it. Once committed, a launch is moved only by such pushes on its
own device, so a long plan may drift from what the simulator says; it never sees a backend's clock
or a task that has not been revealed.

Where weights may be missing on a device, a launch loads those of its cell over the link from the
host, from when the device is free for it, and cells give way as `agent.holdings` says. An option is
looked at as if its load were alone on that link; memory for outputs is not followed.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynpartition.agent.holdings import Holdings
from dynpartition.agent.host_walk import HostWalk
from dynpartition.agent.occupancy import Occupancy, common_fit
from dynpartition.agent.prices import ABSENT, Prices
from dynpartition.plan import Plan
from dynpartition.profile import PricedGraph

Option = tuple[int, int]
"""(start_ns, end_ns) of a task on one device."""


class Estimate:
    """When the launches committed so far start and end, and when another one would."""

    def __init__(self, priced: PricedGraph, prices: Prices | None = None) -> None:
        self.prices = prices or Prices(priced)
        self.device_free_ns = [0] * self.prices.n_devices
        """Device → when its last launch, or a copy that blocks it, ends."""
        self.launch_of = [ABSENT] * self.prices.n_tasks
        """Task → its launch, ABSENT while it has none."""
        self.release_ns = list(self.prices.arrival_ns)
        """Task → no earlier than this can it be dispatched."""
        self.traffic = [0] * self.prices.n_devices
        """Device → grows with every transfer that changes when its outputs could be elsewhere."""
        self._start: list[int] = []
        self._end: list[int] = []
        self._device: list[int] = []
        self._order: list[list[int]] = [[] for _ in self.prices.devices]
        self._arrival = [[ABSENT] * self.prices.n_devices for _ in range(self.prices.n_tasks)]
        self._resources = [Occupancy() for _ in range(self.prices.n_resources)]
        self._held = [[self._resources[r] for r in row] for row in self.prices.resources]
        self._staged: set[int] = set()
        self._used: set[tuple[int, int]] = set()  # cell, device
        self._walk = HostWalk(self.prices)
        room_bytes = self.prices.launch_bytes if self.prices.weights is not None else 0
        self._holdings = Holdings(self.prices.weights, room_bytes, self._end.__getitem__)
        self._latest = 0
        # Tasks whose revealers are not placed yet.
        self._unreleased = [task for task, gates in enumerate(self.prices.gates) if gates]

    # What is known of the plan so far

    @property
    def makespan_ns(self) -> int:
        """The latest end so far, counted from the earliest arrival."""
        return max(0, self._latest - min(self.prices.arrival_ns))

    def device_of(self, task: int) -> int:
        """Return the device of a committed task, or ABSENT."""
        launch = self.launch_of[task]
        return ABSENT if launch < 0 else self._device[launch]

    def span(self, task: int) -> Option:
        """Return (start_ns, end_ns) of a committed task."""
        launch = self.launch_of[task]
        return self._start[launch], self._end[launch]

    # Looking ahead

    def options(self, task: int) -> list[Option | None]:
        """Return per device when `task` would start and end; None where it cannot run.

        Nothing is committed. All inputs of `task` must have been.
        """
        return [self.option(task, device) for device in self.prices.devices]

    def option(self, task: int, device: int) -> Option | None:
        """Return when `task` would start and end on `device`; None where it cannot run."""
        if self.prices.run_ns[task][device] < 0:
            return None
        ready = self.data_ready_ns(task, device)
        if ready < 0:
            return None
        duration = self.duration_ns(task, device)
        start = max(ready, self.device_free_ns[device], self.loaded_ns(task, device))
        if not self.dispatch_is_free:
            start = self.dispatched_start_ns(task, device, start, duration)
        return start, start + duration

    @property
    def dispatch_is_free(self) -> bool:
        """Whether a launch starts as soon as its device is free and its inputs are there."""
        return self._walk.free

    def dispatched_start_ns(self, task: int, device: int, ready_ns: int, duration_ns: int) -> int:
        """Return when a launch that is otherwise ready at `ready_ns` starts, given the host."""
        h_ns = self.prices.h_ns[task][device]
        dispatched = self._walk.dispatched_ns(device, h_ns, self.release_ns[task])
        return self._walk.start_ns(device, max(ready_ns, dispatched), duration_ns)

    def duration_ns(self, task: int, device: int) -> int:
        """Return how long `task` would run on `device`: with gathering of remote inputs, first use.

        All inputs of `task` must have been committed.
        """
        run_ns = self.prices.run_ns[task][device]
        return run_ns + self._gather_ns(task, device) + self.first_use_ns(task, device)

    def first_use_ns(self, task: int, device: int) -> int:
        """Return what a launch of `task` takes longer because its cell was not used on `device`."""
        cell = self.prices.cell_of[task]
        return 0 if (cell, device) in self._used else self.prices.first_ns[cell][device]

    def load_ns(self, task: int, device: int) -> int:
        """Return how long bringing the weights of `task` to `device` takes; 0 if they are there."""
        cell = self.prices.cell_of[task]
        if self._holdings.has(cell, device):
            return 0
        size_bytes = self.prices.priced.graph.cells[cell].param_bytes
        return self.prices.transfer_ns(self.prices.link[self.prices.host][device], size_bytes)

    def loaded_ns(self, task: int, device: int, after_ns: int = 0) -> int:
        """Return when the weights of `task` could be on `device`, were its launch the next there.

        0 if they are there. `after_ns`: the device is not free earlier.
        """
        length = self.load_ns(task, device)
        if not length:
            return 0
        ready = max(after_ns, self.release_ns[task], self.device_free_ns[device])
        return self._fit_for(self.prices.link[self.prices.host][device], length, ready) + length

    def weights_bytes(self, device: int) -> int:
        """Return the bytes of weights that `device` holds; 0 where it has all, always."""
        return self._holdings.used_bytes(device)

    def _gather_ns(self, task: int, device: int) -> int:
        prices = self.prices
        if not prices.stages_in[device]:
            return 0
        remote = [s for s in prices.inputs[task] if self._device[self.launch_of[s]] != device]
        return sum(prices.copy_in_ns(device, source) for source in remote)

    def data_ready_ns(self, task: int, device: int) -> int:
        """Return when all inputs of `task` could be on `device`; ABSENT if a link is missing."""
        prices = self.prices
        ready = self.release_ns[task]
        if prices.host_bytes[task] and device != prices.host:
            link = prices.link[prices.host][device]
            if link < 0:
                return ABSENT
            ready = sum(self._fit(link, prices.host_bytes[task], ready))
        after: dict[int, int] = {}  # two new transfers on one link follow each other
        for source in prices.inputs[task]:
            there = self._there_ns(source, device, after)
            if there < 0:
                return ABSENT
            ready = max(ready, there)
        return ready

    def alone_there_ns(self, source: int, device: int) -> int:
        """Return when the output of a committed task could be on `device`; ABSENT without a link.

        As if a transfer that is not booked yet were the only new one.
        """
        return self._there_ns(source, device, {})

    def moved_ns(self, size_bytes: int, home: int, device: int, ready_ns: int) -> int:
        """Return when bytes pushed at `ready_ns` could be read elsewhere; ABSENT without a link."""
        link = self.prices.link[home][device]
        if link < 0:
            return ABSENT
        return sum(self._fit(link, size_bytes, ready_ns)) + self.prices.handoff_ns

    def _there_ns(self, source: int, device: int, after: dict[int, int]) -> int:
        launch = self.launch_of[source]
        home = self._device[launch]
        if home == device:
            return self._end[launch]
        arrival = self._arrival[source][device]
        if arrival >= 0:
            return arrival
        link = self.prices.link[home][device]
        if link < 0:
            return ABSENT
        pushed = max(self._end[launch] + self._stage_ns(source, home), after.get(link, 0))
        after[link] = sum(self._fit(link, self.prices.output_bytes[source], pushed))
        return after[link] + self.prices.handoff_ns

    def _stage_ns(self, source: int, home: int) -> int:
        """Time that staging for remote readers will add to the producer, 0 once it has."""
        if not self.prices.stages_out[home] or source in self._staged:
            return 0
        return self.prices.copy_out_ns(home, source)

    def _fit(self, link: int, size_bytes: int, ready_ns: int) -> tuple[int, int]:
        """Return (start, length) of a transfer that could be pushed at `ready_ns`."""
        length = self.prices.transfer_ns(link, size_bytes)
        return self._fit_for(link, length, ready_ns), length

    def _fit_for(self, link: int, length: int, ready_ns: int) -> int:
        """Return when `link` could be had for `length` ns from `ready_ns` on."""
        start = common_fit(self._held[link], ready_ns, length)
        for device in self.prices.blocked[link]:
            start = max(start, self._running_until(device, start))
        return start

    def _running_until(self, device: int, time_ns: int) -> int:
        """Return the end of the launch that runs on `device` at `time_ns`, else `time_ns`."""
        for launch in reversed(self._order[device]):
            if self._end[launch] <= time_ns:
                break
            if self._start[launch] < time_ns:
                return self._end[launch]
        return time_ns

    # Committing

    def commit(self, task: int, device: int) -> None:
        """Append a launch of `task` on `device`, which must be able to run it."""
        self.commit_launch((task,), device)

    def commit_launch(self, tasks: Sequence[int], device: int) -> None:
        """Append a launch of `tasks`, all of one cell, as one batch on `device`."""
        if self._unreleased:
            self._release_known()
        release = max(self.release_ns[task] for task in tasks)
        ready = max(self._bring(task, device) for task in tasks)
        duration = self._batch_ns(tasks, device)
        if self._holdings:
            ready = max(ready, self._load(tasks[0], device, release))
        span = self._admit(tasks[0], device, max(ready, release), duration)
        self._append(tasks, device, span)
        for task in tasks:
            if self.prices.returns[task] and device != self.prices.host:
                there = self._deliver(task, self.prices.host)  # which may move launches
                self._latest = max(self._latest, there)

    def replay(self, plan: Plan) -> None:
        """Append all launches of `plan`."""
        cluster = self.prices.priced.cluster
        for launch in plan.launches:
            self.commit_launch(launch.tasks, cluster.index(launch.device))
        self._release_known()

    def _release_known(self) -> None:
        """Find when the tasks whose revealers are all placed are known to the host."""
        held_back = []
        for task in self._unreleased:
            gates = self.prices.gates[task]
            if any(self.launch_of[gate] < 0 for gate in gates):
                held_back.append(task)
            else:
                known = max(self._known_ns(gate) for gate in gates)
                self.release_ns[task] = max(self.release_ns[task], known)
        self._unreleased = held_back

    def _known_ns(self, revealer: int) -> int:
        dispatch = self.prices.priced.profile.dispatch
        there = self._deliver(revealer, self.prices.host)
        return there + dispatch.sync_ns + dispatch.decision_ns

    def _batch_ns(self, tasks: Sequence[int], device: int) -> int:
        gathering_ns = sum(self._gather_ns(task, device) for task in tasks)
        run_ns = self.prices.launch_ns(tasks, device)
        return run_ns + gathering_ns + self.first_use_ns(tasks[0], device)

    def _bring(self, task: int, device: int) -> int:
        """Book the transfers that `task` needs on `device`; return when all are there."""
        prices = self.prices
        ready = self.release_ns[task]
        if prices.host_bytes[task] and device != prices.host:
            link = prices.link[prices.host][device]
            ready = self._book(link, prices.host_bytes[task], ready)
        for source in prices.inputs[task]:
            there = self._deliver(source, device)
            if there > ready:
                ready = there
        return ready

    def _load(self, task: int, device: int, release_ns: int) -> int:
        """Book the load that a launch needs, if any; return when its weights are there."""
        cell, there = self.prices.cell_of[task], 0
        if not self._holdings.has(cell, device):
            link = self.prices.link[self.prices.host][device]
            size_bytes = self.prices.priced.graph.cells[cell].param_bytes
            there = self._book(link, size_bytes, max(release_ns, self.device_free_ns[device]))
        self._holdings.take(cell, device, len(self._start))
        return there

    def _deliver(self, source: int, device: int) -> int:
        """Return when the output of `source` is on `device`, booking its transfer if needed."""
        launch = self.launch_of[source]
        home = self._device[launch]
        if home == device:
            return self._end[launch]
        if self._arrival[source][device] < 0:
            self._stage(source, launch, home)
            link = self.prices.link[home][device]
            there = self._book(link, self.prices.output_bytes[source], self._end[launch])
            self._arrival[source][device] = there + self.prices.handoff_ns
            self._walk.charge_copy(home)
        return self._arrival[source][device]

    def _stage(self, source: int, launch: int, home: int) -> None:
        longer = self._stage_ns(source, home)
        if longer:
            self._staged.add(source)
            end = self._end[launch]
            self._push_back(home, end, end + longer)
            self._end[launch] = end + longer
            self._latest = max(self._latest, end + longer)

    def _book(self, link: int, size_bytes: int, ready_ns: int) -> int:
        assert link >= 0, "a transfer was committed over an absent link"
        start, length = self._fit(link, size_bytes, ready_ns)
        for resource in self._held[link]:
            resource.take(start, start + length)
        for device in self.prices.blocked[link]:
            self._push_back(device, start, start + length)
        for device in self.prices.touched[link]:
            self.traffic[device] += 1
        return start + length

    def _push_back(self, device: int, start_ns: int, end_ns: int) -> None:
        """Occupy `device` for a while; launches from `start_ns` on move behind it."""
        order = self._order[device]
        first = len(order)
        while first and self._start[order[first - 1]] >= start_ns:
            first -= 1
        for launch in order[first:]:
            if self._start[launch] >= end_ns:
                return
            length = self._end[launch] - self._start[launch]
            self._start[launch], self._end[launch] = end_ns, end_ns + length
            end_ns += length
            self._latest = max(self._latest, end_ns)
        if start_ns <= self.device_free_ns[device]:
            self.device_free_ns[device] = max(self.device_free_ns[device], end_ns)

    def _admit(self, task: int, device: int, ready_ns: int, duration_ns: int) -> Option:
        """Dispatch a launch; return its (start, end)."""
        start = max(ready_ns, self.device_free_ns[device])
        if self._walk.free:
            return start, start + duration_ns
        h_ns = self.prices.h_ns[task][device]
        dispatched = self._walk.dispatched_ns(device, h_ns, self.release_ns[task])
        start = self._walk.start_ns(device, max(start, dispatched), duration_ns)
        span = (start, start + duration_ns)
        self._walk.take(device, dispatched, h_ns, span)
        return span

    def _append(self, tasks: Sequence[int], device: int, span: Option) -> None:
        number = len(self._start)
        for task in tasks:
            self.launch_of[task] = number
        self._start.append(span[0])
        self._end.append(span[1])
        self._device.append(device)
        self._order[device].append(number)
        self._used.add((self.prices.cell_of[tasks[0]], device))
        self.device_free_ns[device] = span[1]
        self._latest = max(self._latest, span[1])
