"""What the oracle's devices hold: weights (§7 of the semantics) and live outputs (§8).

Nothing is kept up to date: what is on a device is worked out anew from all launches and copies
whenever something is reserved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynpartition.errors import OutOfDeviceMemory, PlanError

if TYPE_CHECKING:
    from tests.sim.oracle import Copy, Oracle

NEVER = -1


class Memory:
    """The memory of all devices of one run."""

    def __init__(self, oracle: Oracle) -> None:
        self.run = oracle
        self.devices = oracle.cluster.devices
        self.size = {cell.name: cell.param_bytes for cell in oracle.graph.cells}
        self.resident = [self.at_first(device) for device in range(len(self.devices))]
        self.loading: list[set[str]] = [set() for _ in self.devices]
        self.last_use: list[dict[str, int]] = [{} for _ in self.devices]
        self.loads: list[str] = []
        self.evicted_ns: dict[tuple[int, str], int] = {}
        self.requests = self.request_groups()

    def at_first(self, device: int) -> set[str]:
        """Return the cells whose weights are on `device` at time 0."""
        limit, listed = self.devices[device].memory_bytes, self.devices[device].resident
        if device == self.run.host or (limit is None and listed is None):
            return set(self.size)
        if listed is not None:
            return set(listed) & set(self.size)
        there: set[str] = set()
        assert limit is not None
        for cell, size in self.size.items():
            if sum(self.size[other] for other in there) + size <= limit:
                there.add(cell)
        return there

    def request_groups(self) -> list[list[int]]:
        """Return, per task, the tasks of its request; all tasks when two requests are joined."""
        graph = self.run.graph
        request = [int(number) for number in graph.request]
        tasks = range(len(request))
        joined = any(
            request[source] != request[task]
            for task in tasks
            for source in [*graph.input_lists[task], int(graph.revealed_by[task])]
            if source >= 0
        )
        self.run.seen["joined requests"] += joined
        return [[t for t in tasks if joined or request[t] == request[own]] for own in tasks]

    # Before the run

    def check(self) -> None:
        """Raise an error for what can never be loaded or never fit."""
        for device, there in enumerate(self.resident):
            weights = 0 if device == self.run.host else sum(self.size[cell] for cell in there)
            self.check_fit(device, weights, "list of resident cells")
        for p, device in enumerate(self.run.device):
            self.check_fit(device, self.least(p), self.name(p))
            if self.must_load(p) and not self.can_load(device):
                self.run.seen["load without a link"] += 1
                raise PlanError(f"{self.name(p)} needs a load, but there is no link")

    def check_fit(self, device: int, size: int, what: str) -> None:
        limit = self.devices[device].memory_bytes
        if limit is not None and size > limit:
            self.run.seen["out of memory before the run"] += 1
            raise OutOfDeviceMemory(f"{what} needs {size} bytes at once, of {limit}")

    def name(self, p: int) -> str:
        return f"launch {p} on {self.run.plan.launches[p].device}"

    def least(self, p: int) -> int:
        """Return the bytes that launch `p` needs at once."""
        run, tasks = self.run, self.run.tasks[p]
        inputs = {source for task in tasks for source in run.graph.input_lists[task]}
        total = sum(run.size[task] for task in inputs) + sum(run.size[task] for task in tasks)
        if run.device[p] != run.host:
            total += self.size[self.cell(p)] + sum(int(run.graph.host_bytes[t]) for t in tasks)
        return total

    # Weights

    def cell(self, p: int) -> str:
        return self.run.graph.cell_name(self.run.tasks[p][0])

    def has_weights(self, p: int) -> bool:
        return self.cell(p) in self.resident[self.run.device[p]]

    def must_load(self, p: int) -> bool:
        return not self.has_weights(p) and self.cell(p) not in self.loading[self.run.device[p]]

    def can_load(self, device: int) -> bool:
        return self.run.cluster.link_index(self.run.host, device) >= 0

    def begin_load(self, device: int, cell: str) -> None:
        name = f"{cell} on {self.devices[device].name}"
        self.run.seen["load"] += 1
        self.run.seen["second load of a cell"] += name in self.loads
        again = self.evicted_ns.get((device, cell)) == self.run.now
        self.run.seen["load at the instant of its eviction"] += again
        self.loads.append(name)
        self.loading[device].add(cell)

    def loaded(self, device: int, cell: str) -> None:
        self.loading[device].remove(cell)
        self.resident[device].add(cell)
        self.use(device, cell)

    def use(self, device: int, cell: str) -> None:
        self.last_use[device][cell] = self.run.now

    def reserve(self, device: int, size: int, p: int, what: str) -> None:
        """Make room on `device` for what launch `p`, its load or its transfer needs there."""
        limit = self.devices[device].memory_bytes
        while limit is not None and self.used(device) + size > limit:
            idle = self.evictable(device, p if what == "launch" else -1)
            if not idle:
                self.run.seen["out of memory"] += 1
                there = self.devices[device].name
                raise OutOfDeviceMemory(f"{self.name(p)} needs {size} bytes on {there}: {what}")
            self.evict(device, idle, what)

    def evictable(self, device: int, starting: int) -> list[str]:
        """Return the cells that may go, first to go first."""
        run = self.run
        if device == run.host or not self.can_load(device):
            return []
        running = [p for p in run.start if p not in run.finished and run.device[p] == device]
        pinned = {self.cell(p) for p in [*running, *([starting] if starting >= 0 else [])]}
        idle = [cell for cell in self.resident[device] - pinned if self.size[cell] > 0]
        return sorted(idle, key=lambda cell: (self.used_ns(device, cell), cell))

    def used_ns(self, device: int, cell: str) -> int:
        return self.last_use[device].get(cell, NEVER)

    def evict(self, device: int, idle: list[str], what: str) -> None:
        self.note_eviction(device, idle, what)
        self.resident[device].remove(idle[0])
        self.evicted_ns[device, idle[0]] = self.run.now

    def note_eviction(self, device: int, idle: list[str], what: str) -> None:
        seen, run = self.run.seen, self.run
        times = [self.used_ns(device, cell) for cell in idle]
        seen[f"eviction for a {what}"] += 1
        seen["eviction by name"] += times.count(times[0]) > 1
        seen["eviction by last use"] += idle[0] != min(idle)
        upcoming = [p for p in range(run.count) if run.device[p] == device and run.is_next(p)]
        seen["eviction of what comes next"] += any(self.cell(p) == idle[0] for p in upcoming)

    # Outputs

    def used(self, device: int) -> int:
        """Return the bytes taken on `device` now."""
        run = self.run
        weights = (
            0
            if device == run.host
            else sum(self.size[cell] for cell in self.resident[device] | self.loading[device])
        )
        outputs = sum(run.size[t] for t in run.position if self.holds(device, t))
        inputs = sum(
            copy.push.bytes
            for copy in run.copies
            if copy.push in run.inputs
            and copy.push.dst == device
            and copy.start_ns >= 0
            and copy.push.position not in run.finished
        )
        return weights + outputs + inputs

    def holds(self, device: int, task: int) -> bool:
        """Return whether the output of `task` takes memory on `device`."""
        run, p = self.run, self.run.position[task]
        sent = self.sent(task)
        if device == run.device[p]:
            begun, complete = p in run.start, p in run.finished
            due = {push.dst for push in run.pushes[p] if task in push.tasks}
            sending = any(dst not in sent or not sent[dst].done for dst in due)
        else:
            begun = device in sent and sent[device].start_ns >= 0
            complete, sending = begun and sent[device].done, False
        if not begun or not complete:
            return begun
        read = any(reader not in run.finished for reader in run.readers_at(task, device))
        if read or sending:
            return True
        run.seen["output stays for hidden readers"] += self.may_be_read(task)
        return self.may_be_read(task)

    def sent(self, task: int) -> dict[int, Copy]:
        """Return the transfers of the output of `task`, by destination."""
        outputs = [c for c in self.run.copies if c.push.position == self.run.position[task]]
        return {c.push.dst: c for c in outputs if c.push.kind == 0 and task in c.push.tasks}

    def may_be_read(self, task: int) -> bool:
        """Return whether tasks that nobody knows yet may read the output of `task`."""
        run, request = self.run, self.requests[task]
        revealers = frozenset(request) & frozenset(run.graph.revealers)
        return not run.all_known(revealers) or any(run.arrives(t) > run.now for t in request)
