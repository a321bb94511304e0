"""Connections of GPUs here with GPUs of other hosts: rank 0's ends, and a worker's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dynpartition.cluster import Device
from dynpartition.device_spec import gpu_of
from dynpartition.errors import DeviceError, DeviceLost
from dynpartition.hardware.devices import elsewhere, gpus_here
from dynpartition.hardware.direct import GpuLink, Pair
from dynpartition.hardware.hosts import meeting
from dynpartition.hardware.messages import Setup, wait_on
from dynpartition.hardware.pool import Pool
from dynpartition.hardware.streams import StreamApi


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

    def connect(self) -> None:
        """Connect with all workers that are new; DeviceError where one cannot be."""
        for number in self._strangers():
            self._join(number)

    def reconnect(self) -> None:
        """Connect with all workers that are new; those that cannot be are lost."""
        for number in self._strangers():
            try:
                self._join(number)
            except DeviceError as error:
                self._pool.discard(number, str(error))

    def _strangers(self) -> list[int]:
        met, where = self._met, self._pool.memory.meetings
        return [n for n in self._pool.alive if n in where and where[n] != met.get(n)]

    def _join(self, number: int) -> None:
        pool, there = self._pool, self._pool.device_of[number]
        for pair in [pair for pair, link in self.of.items() if link.worker == number]:
            self.cut(pair)  # with the process that it was before
        self._met[number] = place = pool.memory.meetings[number]
        for here in pool.memory.connected:
            device, far = pool.devices[here], pool.devices[there].name
            limits = pool.options.answer_timeout_s, lambda: pool.look_at(number)
            try:
                peer = self._api.join(device, meeting(place, here), 0, *limits)
            except DeviceError as error:
                raise _not_connected(device.name, far, error) from error
            except DeviceLost as loss:  # its own words
                raise DeviceError(str(loss)) from loss
            self.of[here, there] = GpuLink(peer, self._api.stream(device), number)

    def broken(self) -> list[Pair]:
        """Return the connections whose other end is gone."""
        return [pair for pair, link in self.of.items() if link.worker not in self._pool.alive]

    def cut(self, pair: Pair) -> None:
        """Cut a connection; RuntimeError where the GPU does not come free.

        What has been enqueued over it goes on, with nothing received.
        """
        self.of.pop(pair).peer.cut()

    def lose(self, why: str) -> None:
        """Do without, from now on: the GPUs here are lost, and with them the workers connected.

        These wait for what will not come. They are started again without connections.
        """
        workers = {link.worker for link in self.of.values()}
        self.close()
        self._pool.memory.connected.clear()
        self._pool.memory.meetings.clear()
        for number in workers:
            self._pool.discard(number, f"{self._pool.workers[number].name} was connected: {why}")

    def close(self) -> None:
        """Cut all connections, as far as that can be done."""
        while self.of:
            with suppress(RuntimeError):
                self.of.popitem()[1].peer.cut()


def join_rank_0(setup: Setup, api: StreamApi[Any, Any], own: Device) -> dict[Pair, GpuLink]:
    """Return the ends of a GPU that is a worker; DeviceError where one cannot be connected.

    Waits as long as it takes rank 0, which may have many to connect before, and gives up first.
    """
    links = {}
    for there in setup.connected:
        store = meeting(setup.meeting, there)
        try:
            peer = api.join(own, store, 1, math.inf, wait_on)
        except DeviceError as error:
            names = setup.names[there], setup.names[setup.device]
            raise _not_connected(*names, error) from error
        links[setup.device, there] = GpuLink(peer, api.stream(own), -1)
    return links


def _not_connected(here: str, there: str, error: DeviceError) -> DeviceError:
    return DeviceError(
        f"{here} and {there} are not connected: {error}; gpu_links='host' does without"
    )
