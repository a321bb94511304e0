"""The estimate's model of the host: when a launch can have been dispatched."""

from __future__ import annotations

from collections import deque

from dynpartition.agent.occupancy import Occupancy
from dynpartition.agent.prices import Prices
from dynpartition.costs import share_ns
from dynpartition.profile import Profile


class HostWalk:
    """One walk over the plan (`single`) or one per device; a walk's clock is when it is free.

    In mode `replay` a device's program is dispatched once, before its first launch.
    """

    def __init__(self, prices: Prices) -> None:
        dispatch = prices.priced.profile.dispatch
        cluster = prices.priced.cluster
        self.mode = dispatch.host_mode
        self.h_copy = dispatch.h_copy
        self.lock_share = dispatch.lock if self.mode == "threads" else 0.0
        self.is_cpu = [device.kind == "cpu" for device in cluster.devices]
        self._walk_of = [0 if self.mode == "single" else d for d in prices.devices]
        self._clock = [0] * prices.n_devices
        self._started = [False] * prices.n_devices
        self._lock = Occupancy()
        # End of the launch that must finish before the next one may be dispatched.
        self._unfinished: list[deque[int]] = [
            deque(maxlen=dispatch.queue_depth) for _ in prices.devices
        ]
        self._depth = dispatch.queue_depth
        self.free = dispatch_is_free(prices.priced.profile)
        """Whether dispatch never delays a launch beyond its device and inputs."""

    def dispatched_ns(self, device: int, h_ns: int, release_ns: int) -> int:
        """Return when a launch with host time `h_ns` can have been dispatched on `device`."""
        begin = max(self._clock[self._walk_of[device]], release_ns)
        window = self._unfinished[device]
        if self._depth is not None and len(window) == self._depth:
            begin = max(begin, window[0])
        if self.mode == "replay" and self._started[device]:
            return begin
        if self.lock_share and not self.is_cpu[device]:
            begin = self._lock.first_fit(begin, h_ns)
        return begin + h_ns

    def start_ns(self, device: int, ready_ns: int, duration_ns: int) -> int:
        """Return when a launch that is otherwise ready starts, given the interpreter lock."""
        if self.lock_share and self.is_cpu[device]:
            return self._lock.first_fit(ready_ns, share_ns(duration_ns, self.lock_share))
        return ready_ns

    def take(self, device: int, dispatched_ns: int, h_ns: int, span: tuple[int, int]) -> None:
        """Record a launch that was dispatched and runs during `span` (start, end)."""
        start_ns, end_ns = span
        on_cpu = self.is_cpu[device]
        if self.mode != "replay":
            self._clock[self._walk_of[device]] = end_ns if on_cpu else dispatched_ns
        self._started[device] = True
        if self._depth is not None:
            self._unfinished[device].append(end_ns)
        if self.lock_share and on_cpu:
            self._lock.take(start_ns, start_ns + share_ns(end_ns - start_ns, self.lock_share))
        elif self.lock_share:
            self._lock.take(dispatched_ns - h_ns, dispatched_ns)

    def charge_copy(self, device: int) -> None:
        """Charge the walk of a transfer's producer."""
        self._clock[self._walk_of[device]] += self.h_copy


def dispatch_is_free(profile: Profile) -> bool:
    """Return whether a launch always starts when its device is free and its inputs are there.

    So it is without a host, and where all devices are CPUs with a walk each, which is free exactly
    when its device is.
    """
    dispatch = profile.dispatch
    own_walks = dispatch.host_mode == "processes"
    own_walks |= dispatch.host_mode == "threads" and not dispatch.lock
    on_cpus = all(device.kind == "cpu" for device in profile.cluster.devices)
    return dispatch.host_mode == "none" or (own_walks and on_cpus and not dispatch.h_copy)
