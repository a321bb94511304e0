"""Traces: what happened, on either clock. All times are ns since the start of the run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LaunchSpan:
    """One launch, from start to end."""

    device: str
    tasks: tuple[int, ...]
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class TransferSpan:
    """One transfer. `tasks` produced what travels or, for a host input, will read it."""

    src: str
    dst: str
    tasks: tuple[int, ...]
    bytes: int
    start_ns: int
    end_ns: int
    host_input: bool = False


@dataclass(frozen=True, slots=True)
class DispatchSpan:
    """Host time spent to dispatch one launch and its transfers."""

    device: str
    tasks: tuple[int, ...]
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class LoadSpan:
    """The weights of one cell on their way from the host device to another."""

    device: str
    cell: str
    bytes: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Reveal:
    """A task whose result decided which tasks exist, and when that was known."""

    task: int
    end_ns: int
    known_ns: int


@dataclass(frozen=True, slots=True)
class MonitorSample:
    """What a GPU said of itself at one moment; None: it did not say.

    `device` is a whole GPU, `cuda:0`, also where devices are parts of it.
    """

    device: str
    at_ns: int
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_w: float | None = None
    memory_used_bytes: int | None = None
    """Of the whole GPU, by all processes."""
    temperature_c: int | None = None
    throttled: tuple[str, ...] = ()
    """Why clocks are lower than they could be; empty also where the GPU did not say."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that one run did. Launches stand in plan order."""

    makespan_ns: int
    launches: tuple[LaunchSpan, ...]
    transfers: tuple[TransferSpan, ...] = ()
    dispatches: tuple[DispatchSpan, ...] = ()
    reveals: tuple[Reveal, ...] = ()
    loads: tuple[LoadSpan, ...] = ()
    """In the order of (start, device)."""
    wasted: tuple[LaunchSpan, ...] = ()
    """Launches whose results a lost device took with it, up to the loss."""
    monitor: tuple[MonitorSample, ...] = ()
    """In order of time. The newest sample from before the start stands at 0."""

    def busy_ns(self, device: str) -> int:
        """Return how long `device` ran launches."""
        return sum(s.end_ns - s.start_ns for s in self.launches if s.device == device)
