"""Connections of GPUs here with GPUs of other hosts: rank 0's ends, and a worker's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from dynpartition.cluster import Device
from dynpartition.device_spec import gpu_of
from dynpartition.errors import DeviceError, DeviceLost
from dynpartition.hardware.devices import elsewhere, gpus_here
from dynpartition.hardware.direct import GpuLink, Pair
from dynpartition.hardware.hosts import meeting
from dynpartition.hardware.messages import Setup, wait_on
from dynpartition.hardware.peer import Cutting, cut_all
from dynpartition.hardware.pool import Pool
from dynpartition.hardware.streams import StreamApi


def _nothing(pair: Pair) -> None:
    """Do nothing."""


def connectable(devices: Sequence[Device]) -> list[int]:
    """Return the GPUs here that can be connected with GPUs of other hosts; none without those.

    Not parts of GPUs: what NCCL does takes place on the whole one.
    """
    if not any(devices[index].kind == "cuda" for index in elsewhere(devices)):
        return []
    return [i for i in gpus_here(devices) if gpu_of(devices[i].name) == devices[i].name]


class GpuLinks:
    """Rank 0's ends: one for each GPU here and each worker of a GPU elsewhere, while it lives."""

    def __init__(self, api: StreamApi[Any, Any], pool: Pool) -> None:
        self.of: dict[Pair, GpuLink] = {}
        self._api, self._pool = api, pool
        self._met: dict[int, str] = {}
        """Worker → where it was met."""
        self._streams: dict[Pair, Any] = {}

    def connect(self) -> None:
        """Connect with all workers that are new; DeviceError where one cannot be."""
        for number in self._strangers():
            self._join(number)

    def reconnect(self) -> None:
        """Connect with all workers that are new.

        Those that cannot be are lost, and are started without connections the next time.
        """
        self.cut_broken()
        for number in self._strangers():
            try:
                self._join(number)
            except DeviceError as error:
                self._give_up(number, str(error))

    def _strangers(self) -> list[int]:
        where = self._pool.memory.meetings
        return [n for n in self._pool.alive if n in where and not self._is_known(n)]

    def _is_known(self, number: int) -> bool:
        """Return whether a worker is still the process that was met."""
        return self._met.get(number) == self._pool.memory.meetings.get(number)

    def _join(self, number: int) -> None:
        """Connect all GPUs here with a worker, or none."""
        pool, there = self._pool, self._pool.device_of[number]
        place, links = pool.memory.meetings[number], dict[Pair, GpuLink]()
        try:
            for here in pool.memory.connected:
                device, pair = pool.devices[here], (here, there)
                limits = pool.options.answer_timeout_s, lambda: pool.look_at(number)
                with _told(device.name, pool.devices[there].name):
                    peer = self._api.join(device, meeting(place, here), 0, *limits)
                if pair not in self._streams:
                    self._streams[pair] = self._api.stream(device)
                links[pair] = GpuLink(peer, self._streams[pair], number)
        except BaseException as error:
            with suppress(RuntimeError):
                cut_all(link.peer for link in links.values())
            if not isinstance(error, DeviceError):  # which callers handle; Ctrl-C, for instance
                self._give_up(number, "it was not connected to the end")
            raise
        self.of.update(links)
        self._met[number] = place

    def _give_up(self, number: int, why: str) -> None:
        self._pool.memory.unconnected.add(number)
        self._pool.discard(number, why)

    def cut_broken(self, forget: Callable[[Pair], None] = _nothing) -> None:
        """Cut connections whose other end is gone; RuntimeError where a GPU does not come free.

        What has been enqueued over them goes on, with nothing received. `forget` is told before.
        More may break meanwhile: a GPU comes free when all that hold it have been cut.
        """
        cutting, is_over = Cutting(), False
        while not is_over:
            for pair in [pair for pair, link in self.of.items() if self._is_broken(link)]:
                forget(pair)
                cutting.add(self.of.pop(pair).peer)
            is_over = cutting.is_over()

    def _is_broken(self, link: GpuLink) -> bool:
        pool, number = self._pool, link.worker
        is_there = number in pool.alive and not pool.workers[number].has_ended
        return not (is_there and self._is_known(number))

    def close(self) -> None:
        """Cut all connections, as far as that can be done."""
        peers = [link.peer for link in self.of.values()]
        self.of.clear()
        with suppress(RuntimeError):
            cut_all(peers)

    def lose(self, why: str) -> None:
        """Do without, from now on: the GPUs here are lost, and with them the workers connected.

        These wait for what will not come. They are started again without connections.
        """
        pool = self._pool
        self.close()
        pool.memory.connected.clear()
        for number in set(pool.memory.meetings).intersection(pool.alive):
            pool.discard(number, f"{pool.workers[number].name} was connected: {why}")
        pool.memory.meetings.clear()


def join_rank_0(setup: Setup, api: StreamApi[Any, Any], own: Device) -> dict[Pair, GpuLink]:
    """Return the ends of a GPU that is a worker; DeviceError where one cannot be connected.

    Waits as long as it takes rank 0, which may have many to connect before, and gives up first.
    """
    links, mine = dict[Pair, GpuLink](), setup.device
    for there in setup.connected:
        with _told(setup.names[there], setup.names[mine]):
            peer = api.join(own, meeting(setup.meeting, there), 1, math.inf, wait_on)
        links[mine, there] = GpuLink(peer, api.stream(own), setup.worker)
    return links


@contextmanager
def _told(here: str, there: str) -> Iterator[None]:
    """Say which GPUs could not be connected, whoever raises that they could not."""
    try:
        yield
    except DeviceLost as loss:  # in the other end's own words
        raise DeviceError(str(loss)) from loss
    except (DeviceError, RuntimeError) as error:  # the latter of the store where they meet
        what = str(error).strip().partition("\n")[0]
        raise DeviceError(
            f"{here} and {there} are not connected: {what}; gpu_links='host' does without"
        ) from error
