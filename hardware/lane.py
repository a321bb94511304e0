"""Lanes: the interpreters of one device's program."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from dynpartition.hardware.compute import LaunchCall, Repeater, launch_on_host
from dynpartition.hardware.control import Arrivals, Control
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import (
    CopyOrder,
    CopyStamp,
    LaunchStamp,
    Report,
    RunOrder,
    Segment,
)
from dynpartition.program import COPY, RECORD, RUN, WAIT

_now_ns = time.perf_counter_ns


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

    def extend(self, segment: Segment) -> None:
        """Append a segment; its leading COPYs go before the next RUN, or after their producer.

        Not between a launch and its end (`must_go_on`), which would seem to come later.
        """
        self._launches.update(self._prepared(segment.runs))
        self._copies.update((order.copy, order) for order in segment.copies)
        code = segment.instructions()
        n_leading = _count_leading(code)
        self._insert(code[:n_leading])
        self.code += code[n_leading:]
        self.unrecorded.update(order.launch for order in segment.runs)

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
        """Plan position of the launch that is next; -1 where the lane must go on."""
        if self.is_done:
            return 1 << 62
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
    def report(self) -> Report:
        """Return what has been done; only when all of it has ended."""


def _count_leading(code: Sequence[list[int]]) -> int:
    """Return how many COPYs `code` begins with."""
    return next((n for n, row in enumerate(code) if row[0] != COPY), len(code))


class CpuLane(Lane):
    """A program on the core that interprets it."""

    def __init__(self, site: Site, epoch: int) -> None:
        super().__init__(site, epoch)
        self._arrivals = Arrivals(site.control, epoch)
        self._views = [None if a is None else a.octets for a in site.arenas]
        self._launch_stamps: list[LaunchStamp] = []
        self._copy_stamps: list[CopyStamp] = []
        self._running = (0, 0, 0)  # start, repeats, run-queue delay at the start

    def _prepared(self, runs: Sequence[RunOrder]) -> dict[int, LaunchCall]:
        site, arena = self.site, self.site.arenas[self.site.index]
        assert arena is not None
        return {run.launch: launch_on_host(run, site.cells, arena, site.name) for run in runs}

    def _has_arrived(self, copy: int) -> bool:
        return self._arrivals.has(copy)

    def _run(self, launch: int, call: LaunchCall) -> None:
        site = self.site
        repeats = site.repeater.next()
        delay_ns = 0 if site.delay is None else site.delay.read_ns()
        self._running = (_now_ns(), repeats, delay_ns)
        call.run(repeats)

    def _record(self, launch: int) -> None:
        end_ns = _now_ns()
        start_ns, repeats, before_ns = self._running
        delay = self.site.delay
        delay_ns = 0 if delay is None else delay.read_ns() - before_ns
        self._launch_stamps.append(LaunchStamp(launch, start_ns, end_ns, repeats, delay_ns))

    def _copy(self, order: CopyOrder, launch: int) -> None:
        target = self._views[order.dst]
        if target is None:
            # A CUDA device: its driver takes the bytes from here when it sees the flag.
            self._arrivals.set(order.copy)
            return
        start_ns = _now_ns()
        source = self._views[self.site.index]
        assert source is not None
        for src, dst, size in order.spans:
            target[dst : dst + size] = source[src : src + size]
        self._arrivals.set(order.copy)
        self._copy_stamps.append(CopyStamp(order.copy, start_ns, _now_ns()))

    def report(self) -> Report:
        """Return the stamps."""
        return Report(self.epoch, self._launch_stamps, self._copy_stamps)
