"""What else may happen to a simulated run: luck, slowed devices, lost devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dynpartition.cluster import Cluster
from dynpartition.errors import InputError
from dynpartition.graph import VALUE_MAX

SPEED_MIN, SPEED_MAX = 0.000_001, 1_000_000.0
"""Speeds are exact to one part in a million."""


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Launches that start on `device` at or after `at_ns` run at `speed` times their pace."""

    device: str
    at_ns: int
    speed: float

    def __post_init__(self) -> None:
        _check_time(self.at_ns, f"slowdown of {self.device}")
        if not SPEED_MIN <= self.speed <= SPEED_MAX:  # NaN too
            raise InputError(
                f"slowdown of {self.device}: speed is {self.speed}; give 1 for full speed, 0.5 for"
                " half"
            )


@dataclass(frozen=True, slots=True)
class Loss:
    """`device` stops at `at_ns`, and what only it holds is gone."""

    device: str
    at_ns: int

    def __post_init__(self) -> None:
        _check_time(self.at_ns, f"loss of {self.device}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The circumstances of one simulated run; the default is a good day with seed 0."""

    seed: int = 0
    """Of the noise, where the profile has any."""
    luck: str | None = None
    """Key of the noise; None: the content hash of the graph."""
    slowdowns: tuple[Slowdown, ...] = ()
    losses: tuple[Loss, ...] = ()
    under_way_ns: Mapping[int, int] = field(default_factory=dict)
    """Task that a loss left under way → how long its launch still takes; set by the simulator."""
    copies: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """Task → devices that hold its output besides its own after a loss; set by the simulator."""

    def check(self, cluster: Cluster) -> None:
        """Raise an error that names a device that `cluster` does not have."""
        incidents: Iterable[Slowdown | Loss] = (*self.slowdowns, *self.losses)
        for incident in incidents:
            cluster.index(incident.device, place=type(incident).__name__.lower())


GOOD_DAY = Conditions()
"""No incidents."""


def _check_time(at_ns: int, place: str) -> None:
    if not 0 <= at_ns <= VALUE_MAX:
        raise InputError(f"{place}: at_ns is {at_ns}; it must be between 0 and 10^15")
