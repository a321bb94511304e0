"""Host dispatch: what must happen on the host before a device may run a launch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dynpartition.costs import share_ns
from dynpartition.pricing import ProgramPrices
from dynpartition.profile import PricedGraph
from dynpartition.program import Program
from dynpartition.sim.clock import Completion, Effect, InstantClock
from dynpartition.trace import DispatchSpan

Released = Callable[[int], bool]
"""Whether a launch has arrived and everything that hides it is known."""


@dataclass(frozen=True, slots=True)
class HostWorld:
    """What every host mode reads."""

    priced: PricedGraph
    program: Program
    prices: ProgramPrices
    clock: InstantClock
    released: Released
    start: Callable[[int], None]
    """Starts a launch whose turn for the lock has come."""

    def is_cpu(self, launch: int) -> bool:
        """Return whether the launch is on a CPU device."""
        return self.priced.cluster.devices[self.device(launch)].kind == "cpu"

    def device(self, launch: int) -> int:
        """Return the device index of a launch."""
        return self.program.lists.launch_device[launch]

    def span(self, launch: int, duration_ns: int) -> DispatchSpan:
        """Return the record of host work on `launch` that begins now."""
        device = self.priced.cluster.names[self.device(launch)]
        now_ns = self.clock.now_ns
        tasks = self.program.launch_tasks.rows[launch]
        return DispatchSpan(device, tasks, now_ns, now_ns + duration_ns)


class Host(ABC):
    """One host mode. `dispatch` and `grant_lock` are phases of an instant."""

    def __init__(self, world: HostWorld) -> None:
        self.world = world
        self.spans: list[tuple[int, DispatchSpan]] = []
        """(launch, span) in order of their start."""

    @abstractmethod
    def dispatched(self, launch: int) -> bool:
        """Return whether the host has done its part for `launch`."""

    def dispatch(self) -> None:
        """Begin the host work that may begin now."""
        return

    def may_start(self, launch: int) -> bool:
        """Return whether a launch that is ready may start at once, without waiting for a lock."""
        return True

    def grant_lock(self) -> None:
        """Give an idle lock to whoever is first in its queue."""
        return

    def launch_ended(self, launch: int) -> None:
        """Take note that a launch has ended."""
        return


class ReplayHost(Host):
    """One piece of host work starts a CUDA device's whole program."""

    def __init__(self, world: HostWorld) -> None:
        super().__init__(world)
        self._begun: set[int] = set()
        self._done: set[int] = set()
        self._first: dict[int, int] = {}
        for launch, device in enumerate(world.program.launch_device.tolist()):
            if launch not in world.prices.carried:
                self._first.setdefault(device, launch)

    def dispatched(self, launch: int) -> bool:
        """Return whether the device's program has been started and the launch is known."""
        return self.world.device(launch) in self._done and self.world.released(launch)

    def dispatch(self) -> None:
        """Start the program of every device whose first launch is released."""
        for device, launch in self._first.items():
            if device not in self._begun and self.world.released(launch):
                self._begun.add(device)
                self._begin(device, launch)

    def _begin(self, device: int, launch: int) -> None:
        if self.world.is_cpu(launch):
            self._done.add(device)
            return
        duration_ns = self.world.prices.dispatch_ns[launch]
        if duration_ns:
            self.spans.append((launch, self.world.span(launch, duration_ns)))
        self.world.clock.after(duration_ns, self._begin_ended, device)

    def _begin_ended(self, completion: Completion) -> None:
        self._done.add(completion.value)


@dataclass(slots=True)
class _Walk:
    """A thread that takes its launches in order."""

    launches: Sequence[int]
    next: int = 0
    busy: bool = False


@dataclass(slots=True)
class _Lock:
    """One lock, given in the order (ready_ns, plan position)."""

    held: bool = False
    host_work: list[tuple[int, int, Effect]] = field(default_factory=list)
    """(ready_ns, launch, begin) of host work that waits."""
    ready_since: dict[int, int] = field(default_factory=dict)
    """CPU launch → since when it could start."""
    asked: set[int] = field(default_factory=set)
    """CPU launches that could start in this round."""


class WalkingHost(Host):
    """Threads or processes that walk launches in plan order (`single`, `threads`, `processes`).

    A CUDA launch occupies its walk for its dispatch; a CPU launch makes the walk wait for the
    inputs and occupies it to its end. Transfers are charged to the walk of their producer.
    """

    def __init__(self, world: HostWorld, walks: Sequence[Sequence[int]], lock: bool) -> None:
        super().__init__(world)
        self._walks = [_Walk(launches) for launches in walks]
        self._walk_of = {launch: walk for walk in self._walks for launch in walk.launches}
        self._dispatched: set[int] = set()
        self._unfinished = [0] * len(world.priced.cluster.devices)
        for launch in world.prices.carried:
            self._unfinished[world.device(launch)] += 1
        self._lock = _Lock() if lock else None
        self._lock_share = world.priced.profile.dispatch.lock

    def dispatched(self, launch: int) -> bool:
        """Return whether the walk has dispatched the launch or, on a CPU, waits for it."""
        return launch in self._dispatched

    def dispatch(self) -> None:
        """Let every idle walk go on."""
        for walk in self._walks:
            if not walk.busy and walk.next < len(walk.launches):
                self._take(walk, walk.launches[walk.next])

    def _take(self, walk: _Walk, launch: int) -> None:
        device = self.world.device(launch)
        depth = self.world.priced.profile.dispatch.queue_depth
        full = depth is not None and self._unfinished[device] >= depth
        if full or not self.world.released(launch):
            return
        walk.busy = True
        self._unfinished[device] += 1
        if self.world.is_cpu(launch):
            self._dispatched.add(launch)
            return
        prices = self.world.prices
        work_ns = prices.dispatch_ns[launch] + prices.push_ns[launch]
        self._work(launch, work_ns, self._dispatch_ended)

    def _dispatch_ended(self, completion: Completion) -> None:
        self._dispatched.add(completion.value)
        self._go_on(completion.value)

    def _push_ended(self, completion: Completion) -> None:
        self._go_on(completion.value)

    def _go_on(self, launch: int) -> None:
        walk = self._walk_of[launch]
        walk.busy = False
        walk.next += 1

    def launch_ended(self, launch: int) -> None:
        """Free the queue slot; on a CPU the walk goes on after paying for the transfers."""
        self._unfinished[self.world.device(launch)] -= 1
        if not self.world.is_cpu(launch) or launch in self.world.prices.carried:
            return
        push_ns = self.world.prices.push_ns[launch]
        if push_ns:
            self._work(launch, push_ns, self._push_ended)
        else:
            self._go_on(launch)

    def _work(self, launch: int, duration_ns: int, ended: Callable[[Completion], None]) -> None:
        def begin() -> None:
            if duration_ns:
                self.spans.append((launch, self.world.span(launch, duration_ns)))
            self._hold_lock(duration_ns)
            self.world.clock.after(duration_ns, ended, launch)

        if self._lock is None:
            begin()
        else:
            self._lock.host_work.append((self.world.clock.now_ns, launch, begin))

    def _hold_lock(self, duration_ns: int) -> None:
        if self._lock is not None:
            self._lock.held = True
            self.world.clock.after(duration_ns, self._release_lock)

    def _release_lock(self, _: Completion) -> None:
        assert self._lock is not None and self._lock.held
        self._lock.held = False

    def may_start(self, launch: int) -> bool:
        """Return False, and queue for the lock, when the launch needs it."""
        if self._lock is None or not self.world.is_cpu(launch) or not self._lock_share:
            return True
        self._lock.asked.add(launch)
        self._lock.ready_since.setdefault(launch, self.world.clock.now_ns)
        return False

    def grant_lock(self) -> None:
        """Let the first in the lock's queue go: host work, or a CPU launch that can start."""
        if self._lock is None:
            return
        lock = self._lock
        lock.ready_since = {c: since for c, since in lock.ready_since.items() if c in lock.asked}
        lock.asked.clear()
        if lock.held:
            return
        launches = [(since, launch) for launch, since in lock.ready_since.items()]
        first = min(
            [*((ready, launch) for ready, launch, _ in lock.host_work), *launches], default=None
        )
        if first is None:
            return
        if first in launches:
            self._start_with_lock(lock, first[1])
        else:
            work = min(lock.host_work, key=lambda item: item[:2])
            lock.host_work.remove(work)
            work[2]()

    def _start_with_lock(self, lock: _Lock, launch: int) -> None:
        del lock.ready_since[launch]
        device, now_ns = self.world.device(launch), self.world.clock.now_ns
        lasts_ns = self.world.prices.lasts_ns(launch, device, now_ns)
        self._hold_lock(share_ns(lasts_ns, self._lock_share))
        self.world.start(launch)


def make_host(world: HostWorld) -> Host | None:
    """Return the host mode that the profile asks for; None: dispatch costs nothing."""
    mode = world.priced.profile.dispatch.host_mode
    if mode == "none":
        return None
    if mode == "replay":
        return ReplayHost(world)
    everything = [c for c in range(world.program.n_launches) if c not in world.prices.carried]
    devices = range(len(world.priced.cluster.devices))
    per_device = [[c for c in everything if world.device(c) == device] for device in devices]
    walks = [everything] if mode == "single" else per_device
    return WalkingHost(world, walks, lock=mode == "threads")
