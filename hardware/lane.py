"""Lanes: the interpreters of one device's program."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from dynpartition.costs import transfer_ns
from dynpartition.hardware.compute import LaunchCall, Repeater, launch_on_host
from dynpartition.hardware.control import NO_LAUNCH, Arrivals, Control
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import (
    LOAD,
    CopyOrder,
    CopyStamp,
    LaunchStamp,
    LoadOrder,
    LoadStamp,
    Report,
    RunOrder,
    Segment,
)
from dynpartition.hardware.pacing import Paces, wait_until
from dynpartition.hardware.shelf import Shelf
from dynpartition.hardware.virtual import VirtualClock
from dynpartition.program import COPY, RECORD, RUN, WAIT


@dataclass(frozen=True)
class Site:
    """A device and all that its lanes use, session after session."""

    name: str
    index: int
    cells: Mapping[str, nn.Module]
    arenas: Sequence[Arena | None]
    """Per device; None where this process cannot write."""
    control: Control
    repeater: Repeater
    delay: RunDelay | None = None
    shelf: Shelf | None = None
    """Where weights come and go; None: they are all there."""
    virtual: bool = False
    """Whether stamps are in virtual time."""
    queue: RunDelay | None = None
    """Read twice per session; None in virtual time, and where the platform does not count."""
    beyond: frozenset[int] = frozenset()
    """Devices on other hosts: what goes there is only announced."""
    kept: dict[int, Prepared] = field(default_factory=dict)
    """Segments that come again, by their number."""
    paces: Paces = field(default_factory=dict)
    """Devices to which transfers are slowed; also the host's, for loads."""
    host: int = 0
    paced: bool = False
    """Whether any transfers of the machine are slowed."""

    @property
    def waits_for_times(self) -> bool:
        """Whether transfers arrive at times of the wall clock yet to come."""
        return self.paced and not self.virtual


@dataclass(frozen=True, eq=False)
class Prepared:
    """A segment that is ready to run; calls are the same session after session."""

    segment: Segment
    version: int
    code: list[list[int]]
    launches: Mapping[int, LaunchCall]


class RunDelay:
    """Reads how long this thread has waited for a core, in ns (Linux)."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def read_ns(self) -> int:
        """Return the sum since the thread began."""
        return int(os.pread(self._fd, 64, 0).split()[1])

    def __del__(self) -> None:
        os.close(self._fd)


def run_delay(wanted: bool) -> RunDelay | None:
    """Return a reader for the calling thread, if wanted and the platform counts."""
    return RunDelay() if wanted and os.path.exists("/proc/thread-self/schedstat") else None


class Lane(ABC):
    """One device's program in one session; `step` never waits."""

    def __init__(self, site: Site, epoch: int) -> None:
        self.site = site
        self.epoch = epoch
        self.code: list[list[int]] = []
        """Instructions: opcode, operand, the launch they belong to."""
        self.position = 0
        self.unrecorded: set[int] = set()
        """Launches that have been planned and are not complete."""
        self._launches: dict[int, LaunchCall] = {}
        self._copies: dict[int, CopyOrder] = {}
        self._loads: dict[int, LoadOrder] = {}

    def extend(self, segment: Segment) -> None:
        """Append a segment; its leading COPYs go before the next RUN, or after their producer.

        Not between a launch and its end (`must_go_on`), which would seem to come later.
        """
        prepared = self._prepared_or_kept(segment)
        self._launches.update(prepared.launches)
        self._copies.update((order.copy, order) for order in segment.copies)
        self._loads.update((order.launch, order) for order in segment.loads)
        code = prepared.code
        n_leading = _count_leading(code)
        self._insert(code[:n_leading])
        self.code += code[n_leading:]
        self.unrecorded.update(order.launch for order in segment.runs)

    def _prepared_or_kept(self, segment: Segment) -> Prepared:
        """Return a segment with its calls; of one that is kept, as it was prepared before."""
        kept = self.site.kept.get(segment.number)
        if kept is not None and kept.segment is segment and kept.version == self._version:
            return kept
        code, launches = segment.instructions(), self._prepared(segment.runs)
        prepared = Prepared(segment, self._version, code, launches)
        if segment.number:
            self.site.kept[segment.number] = prepared
        return prepared

    @property
    def _version(self) -> int:
        """Changes when calls would be prepared in another way."""
        return 0

    @abstractmethod
    def _prepared(self, runs: Sequence[RunOrder]) -> dict[int, LaunchCall]:
        """Return launch → its calls, ready to be made."""

    def _insert(self, copies: Sequence[list[int]]) -> None:
        """Put COPYs behind the end of their launch, or next where that has come already."""
        for row in reversed([row for row in copies if row[2] in self.unrecorded]):
            end = [RECORD, row[2], row[2]]
            self.code.insert(self.code.index(end, self.position) + 1, row)
        due = [row for row in copies if row[2] not in self.unrecorded]
        self.code[self.position : self.position] = due

    def step(self) -> bool:
        """Do the next instruction; False when it has to wait or there is none."""
        if self.position == len(self.code):
            return False
        opcode, operand, launch = self.code[self.position]
        if opcode == WAIT:
            if not self._has_arrived(operand):
                return False
        elif opcode == RUN:
            self._run(operand, self._launches.pop(operand))
        elif opcode == RECORD:
            self._record(operand)
            self.unrecorded.discard(operand)
        elif opcode == LOAD:
            self._load(self._loads.pop(operand))
        else:
            self._copy(self._copies.pop(operand), launch)
        self.position += 1
        return True

    @property
    def is_done(self) -> bool:
        """Whether the program so far has been interpreted."""
        return self.position == len(self.code)

    @property
    def must_go_on(self) -> bool:
        """Whether a RECORD or COPY is next: a launch ends, and outputs leave, before all else."""
        return not self.is_done and self.code[self.position][0] in (RECORD, COPY)

    @property
    def next_launch(self) -> int:
        """Plan position of the launch that is next; -1: the lane must go on; NO_LAUNCH: none."""
        if self.is_done:
            return NO_LAUNCH
        return -1 if self.must_go_on else self.code[self.position][2]

    @abstractmethod
    def _has_arrived(self, copy: int) -> bool:
        """Return whether the launch that waits for `copy` may go on."""

    @abstractmethod
    def _run(self, launch: int, call: LaunchCall) -> None:
        """Run a launch, or see to it that it runs after all that was begun before."""

    @abstractmethod
    def _record(self, launch: int) -> None:
        """Note that the launch is complete, or will be."""

    @abstractmethod
    def _copy(self, order: CopyOrder, launch: int) -> None:
        """Push the outputs of `launch`."""

    @abstractmethod
    def _load(self, order: LoadOrder) -> None:
        """Evict and load weights for the launch that is next."""

    @abstractmethod
    def report(self) -> Report:
        """Return what has been done; only when all of it has ended."""


def _count_leading(code: Sequence[list[int]]) -> int:
    """Return how many COPYs `code` begins with."""
    return next((n for n, row in enumerate(code) if row[0] != COPY), len(code))


class CpuLane(Lane):
    """A program on the core that interprets it."""

    def __init__(self, site: Site, epoch: int) -> None:
        super().__init__(site, epoch)
        self._arrivals = Arrivals(site.control, epoch, paced=site.waits_for_times)
        self._link_free_ns: dict[int, int] = {}  # of slowed links, by destination
        self._views = [None if a is None else a.octets for a in site.arenas]
        self._launch_stamps: list[LaunchStamp] = []
        self._copy_stamps: list[CopyStamp] = []
        self._load_stamps: list[LoadStamp] = []
        self._running = (0, 0, 0)  # start, repeats, run-queue delay at the start
        self._delayed_ns = 0 if site.queue is None else site.queue.read_ns()
        self._virtual = VirtualClock() if site.virtual else None
        self._now_ns = time.perf_counter_ns if self._virtual is None else self._virtual.now_ns
        self._known_ns: dict[tuple[int, int], int] = {}  # opcode, operand → not before, virtual

    def extend(self, segment: Segment) -> None:
        """Append a segment; in virtual time, preparing it delays it and not what went before."""
        if self._virtual is None:
            super().extend(segment)
            return
        self._virtual.stop()
        begun_ns = time.thread_time_ns()
        super().extend(segment)
        if segment.known_ns:
            known_ns = segment.known_ns + time.thread_time_ns() - begun_ns
            own = {run.launch for run in segment.runs}
            rows = [row for row in segment.instructions() if row[0] in (RUN, COPY, LOAD)]
            late = [row for row in rows if row[0] != COPY or row[2] not in own]
            self._known_ns.update(((row[0], row[1]), known_ns) for row in late)

    def _prepared(self, runs: Sequence[RunOrder]) -> dict[int, LaunchCall]:
        site, arena = self.site, self.site.arenas[self.site.index]
        assert arena is not None
        return {run.launch: launch_on_host(run, site.cells, arena, site.name) for run in runs}

    def _has_arrived(self, copy: int) -> bool:
        if self._virtual is None:
            return self._arrivals.has(copy)
        self._virtual.stop()
        if not self._arrivals.has(copy):
            return False
        self._virtual.go(self._arrivals.time_ns(copy))
        return True

    def _begin(self, opcode: int, operand: int) -> None:
        """Let virtual time go on with an instruction."""
        if self._virtual is not None:
            self._virtual.go(self._known_ns.pop((opcode, operand), 0))

    def _end(self) -> None:
        """Let virtual time stand when there is nothing more to do."""
        if self._virtual is not None and self.position + 1 == len(self.code):
            self._virtual.stop()

    def stand_still(self) -> None:
        """Stop virtual time: the thread does something that is not the device's work."""
        if self._virtual is not None:
            self._virtual.stop()

    def ended_ns(self, launch: int) -> int:
        """Return when a launch of this lane ended."""
        return next(s.end_ns for s in reversed(self._launch_stamps) if s.launch == launch)

    def _run(self, launch: int, call: LaunchCall) -> None:
        site = self.site
        self._begin(RUN, launch)
        assert site.shelf is None or call.cell in site.shelf.held, f"{call.cell} is not there"
        repeats = site.repeater.next()
        delay_ns = 0 if site.delay is None else site.delay.read_ns()
        self._running = (self._now_ns(), repeats, delay_ns)
        call.run(repeats)

    def _record(self, launch: int) -> None:
        end_ns = self._now_ns()
        start_ns, repeats, before_ns = self._running
        delay = self.site.delay
        delay_ns = 0 if delay is None else delay.read_ns() - before_ns
        self._launch_stamps.append(LaunchStamp(launch, start_ns, end_ns, repeats, delay_ns))
        self._end()

    def _copy(self, order: CopyOrder, launch: int) -> None:
        target = self._views[order.dst]
        if target is None:
            # A CUDA device, or one on another host: its driver, or a relay, takes the bytes from
            # here when it sees the flag.
            if order.dst in self.site.beyond:
                now_ns = self._now_ns()
                self._copy_stamps.append(CopyStamp(order.copy, now_ns, now_ns))
            self._arrivals.set(order.copy)
            return
        self._begin(COPY, order.copy)
        start_ns = self._now_ns()
        source = self._views[self.site.index]
        assert source is not None
        for src, dst, size in order.spans:
            target[dst : dst + size] = source[src : src + size]
        end_ns = self._now_ns()  # before the flag: the reader may start at once, and stamps too
        pace = self.site.paces.get(order.dst)
        if pace is not None:
            size_bytes = sum(size for _, _, size in order.spans)
            start_ns = max(start_ns, self._link_free_ns.get(order.dst, 0))
            end_ns = max(end_ns, start_ns + transfer_ns(pace, size_bytes))
            self._link_free_ns[order.dst] = end_ns
        if self._virtual is None and not self.site.paced:
            self._arrivals.set(order.copy)
        else:
            self._arrivals.set_at(order.copy, end_ns)
        self._copy_stamps.append(CopyStamp(order.copy, start_ns, end_ns))
        self._end()

    def _load(self, order: LoadOrder) -> None:
        shelf = self.site.shelf
        assert shelf is not None
        self._begin(LOAD, order.launch)
        for cell in order.evict:
            shelf.evict(cell)
        if order.cell:
            start_ns = self._now_ns()
            shelf.load(order.cell)
            pace = self.site.paces.get(self.site.host)
            if pace is not None:
                self._wait_until(start_ns + transfer_ns(pace, shelf.size_bytes(order.cell)))
            end_ns = self._now_ns()
            self._load_stamps.append(LoadStamp(self.site.index, order.cell, start_ns, end_ns))
        shelf.check(order.arena_bytes)

    def _wait_until(self, time_ns: int) -> None:
        """Do nothing until then; in virtual time that takes none."""
        if self._virtual is None:
            wait_until(time_ns)
        else:
            self._virtual.go(time_ns)

    def report(self) -> Report:
        """Return the stamps."""
        shelf = self.site.shelf
        held = [] if shelf is None else list(shelf.held)
        queue = self.site.queue
        delay_ns = 0 if queue is None else queue.read_ns() - self._delayed_ns
        stamps = self._launch_stamps, self._copy_stamps, self._load_stamps
        return Report(self.epoch, *stamps, held, delay_ns)
