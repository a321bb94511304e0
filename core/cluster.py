"""Devices and the links between them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from dynpartition.errors import ProfileError, did_you_mean
from dynpartition.types import IntArray, frozen

DeviceKind = Literal["cpu", "cuda"]
Blocks = Literal["src", "dst", "both"]


@dataclass(frozen=True, slots=True)
class AffineCost:
    """A transfer takes latency + (bytes·10⁹ + bandwidth − 1) // bandwidth ns."""

    latency_ns: int
    bandwidth_bytes_per_s: int


@dataclass(frozen=True, slots=True)
class Device:
    """One place where launches run, one at a time."""

    name: str
    kind: DeviceKind
    memory_bytes: int | None = None
    """Capacity; None: unlimited."""
    speed: float = 1.0
    """Below 1 for a device that is really slowed by repeating work; reports name it emulated."""
    resident: tuple[str, ...] | None = None
    """Cells whose weights are there at time 0; None: all that fit."""
    link: AffineCost | None = None
    """What transfers and loads to and from it are slowed to on hardware; None: as fast as it goes.

    What plans cost is in the cluster's links."""

    @property
    def tracks_memory(self) -> bool:
        """Whether what the device holds can change what happens."""
        return self.memory_bytes is not None or self.resident is not None


@dataclass(frozen=True, slots=True)
class TableCost:
    """A transfer time interpolated in log-log space between measured (bytes, ns) points."""

    points: tuple[tuple[int, int], ...]


TransferCost = AffineCost | TableCost


@dataclass(frozen=True, slots=True)
class Link:
    """A directed connection; holds all its `resources` while a transfer is on it."""

    src: str
    dst: str
    cost: TransferCost
    resources: tuple[str, ...] = ()
    """Names of shared parts (buses); empty: the link owns one named `src->dst`."""
    blocks: Blocks | None = None
    """Which end computes nothing while a copy is under way."""

    @property
    def held(self) -> tuple[str, ...]:
        """The resources that a transfer occupies."""
        return self.resources or (f"{self.src}->{self.dst}",)

    @property
    def blocked_devices(self) -> tuple[str, ...]:
        """The devices that a transfer occupies like a launch."""
        sides = {None: (), "src": (self.src,), "dst": (self.dst,), "both": (self.src, self.dst)}
        return sides[self.blocks]


@dataclass(frozen=True)
class Cluster:
    """The devices of one machine or several, and their links."""

    devices: tuple[Device, ...]
    links: tuple[Link, ...] = ()
    host: str = ""
    """Device where inputs come from and answers go to; default: the first CPU, else the first."""

    def __post_init__(self) -> None:
        if not self.devices:
            raise ProfileError("a cluster needs at least one device")
        _refuse_repeats([device.name for device in self.devices], "device")
        _refuse_repeats([f"{link.src}->{link.dst}" for link in self.links], "link")
        for link in self.links:
            for end in (link.src, link.dst):
                self.index(end, place=f"link {link.src}->{link.dst}")
            if link.src == link.dst:
                raise ProfileError(f"link {link.src}->{link.dst} joins a device to itself")
        if not self.host:
            cpus = [device.name for device in self.devices if device.kind == "cpu"]
            object.__setattr__(self, "host", (cpus or [self.devices[0].name])[0])
        self.index(self.host, place="host")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Device names, in device order."""
        return tuple(device.name for device in self.devices)

    @property
    def host_index(self) -> int:
        """Index of the host device."""
        return self._index_of[self.host]

    def index(self, name: str, *, place: str = "") -> int:
        """Return the index of the device called `name`; ProfileError when there is none."""
        if name not in self._index_of:
            where = f"{place}: " if place else ""
            remedy = did_you_mean(name, self._index_of)
            raise ProfileError(f"{where}no device is named {name!r}; {remedy}")
        return self._index_of[name]

    def link_index(self, src: int, dst: int) -> int:
        """Return the index of the link from device `src` to `dst`, or -1."""
        return self._link_of.get((src, dst), -1)

    @cached_property
    def link_table(self) -> IntArray:
        """(D, D) link index from row to column; -1 where there is none."""
        table = np.full((len(self.devices), len(self.devices)), -1)
        for (src, dst), link in self._link_of.items():
            table[src, dst] = link
        return frozen(table)

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {device.name: index for index, device in enumerate(self.devices)}

    @cached_property
    def _link_of(self) -> dict[tuple[int, int], int]:
        ends = [(self._index_of[link.src], self._index_of[link.dst]) for link in self.links]
        return {pair: index for index, pair in enumerate(ends)}


def _refuse_repeats(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ProfileError(f"{what} {name!r} is listed twice; give it one entry")
        seen.add(name)
