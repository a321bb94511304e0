"""A GPU that is a worker: its process drives it, as the caller drives the GPUs of its own host."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dynpartition.hardware.control import Arrivals
from dynpartition.hardware.cuda_lane import Api, CudaGroup, CudaLane, DeviceStreams
from dynpartition.hardware.direct import FollowingTransfers, GpuLink, Pair
from dynpartition.hardware.graphs import GraphCache
from dynpartition.hardware.lane import Site
from dynpartition.hardware.losses import WorkerLost, is_out_of_memory, no_memory
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import Report, Segment

_now_ns = time.perf_counter_ns


class GpuDevice:
    """One GPU, session after session.

    Other devices reach it by its mirror. What CUDA raises ends the worker and no other: a new
    process has the GPU again, if it still works.
    """

    def __init__(
        self,
        number: int,
        site: Site,
        api: Api,
        streams: DeviceStreams,
        graphs: GraphCache,
        mirrors: Mapping[int, Arena],
    ) -> None:
        """`number`: of the worker. `mirrors`: of all GPUs of the host, by device."""
        self.links: dict[Pair, GpuLink] = {}
        """Connections with GPUs of rank 0."""
        self.number = number
        self.site = site
        self.api = api
        self.streams = streams
        self.graphs = graphs
        self.mirrors = mirrors
        self._last: GpuRun | None = None

    def open_run(self, epoch: int, goes_on: bool) -> GpuRun:
        """Return a run of its program, on a device that is idle and holds what it has to."""
        with self.errors():
            if goes_on:
                if self._last is not None:
                    self._last.catch_up()
            else:
                self._capture_wanted()
                if self.site.shelf is not None:
                    self.site.shelf.reset()
                self.api.start_clock()
        self._last = GpuRun(self, epoch)
        return self._last

    def _capture_wanted(self) -> None:
        """Capture what the last session asked for, if it has written all that it was to."""
        if self._last is not None and self._last.has_finished:
            self.graphs.capture_wanted()
        self.graphs.wanted.clear()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what PyTorch raises, often much later, into the loss of this device."""
        try:
            yield
        except RuntimeError as error:
            name = self.site.name
            if is_out_of_memory(error):
                raise no_memory(name, error) from error
            what = str(error).strip().partition("\n")[0]
            raise WorkerLost(f"{name} was lost: {what}", self.number) from error


class GpuRun:
    """One session on it."""

    def __init__(self, device: GpuDevice, epoch: int) -> None:
        self.epoch = epoch
        self.has_finished = False
        """Whether all that was planned has been done, when it was asked for its report."""
        self._device = device
        site, api = device.site, device.api
        self._group = CudaGroup(
            *(api, {site.index: device.streams}, {site.index: device.graphs}, site.arenas),
            Arrivals(site.control, epoch),
            mirrors=device.mirrors,
            direct=FollowingTransfers(*(api, device.links, site.arenas, site.control, epoch)),
        )
        self._lane = CudaLane(site, epoch, self._group)

    def extend(self, segment: Segment) -> None:
        """Append a segment."""
        with self._device.errors():
            self._lane.extend(segment)

    def step(self) -> bool:
        """Enqueue a launch with what belongs to it; False when it has to wait or there is none."""
        with self._device.errors():
            group, lane = self._group, self._lane
            before_ns, pushed_ns = _now_ns(), group.pushed_ns
            group.pump()
            if not lane.step():
                return False
            while lane.must_go_on:
                lane.step()
            lane.spend(_now_ns() - before_ns - (group.pushed_ns - pushed_ns))
            return True

    @property
    def is_done(self) -> bool:
        """Whether all so far has been computed, and what leaves has left."""
        with self._device.errors():
            return self._lane.is_done and self._group.has_left and self._lane.is_idle

    @property
    def must_go_on(self) -> bool:
        """Never between two steps: each ends the launch that it begins."""
        return self._lane.must_go_on

    @property
    def next_launch(self) -> int:
        """Plan position of the launch that is next."""
        return self._lane.next_launch

    def catch_up(self) -> None:
        """Fetch what has come since, and wait until nothing is under way."""
        self._group.fetch()
        self._device.api.synchronize()
        self._group.settle()

    def report(self) -> Report:
        """Wait for what has been begun, and return what was done.

        What others have sent by now is fetched too: whoever plans after a loss counts on it.
        """
        with self._device.errors():
            self.has_finished = self._lane.is_done
            self.catch_up()
            report, shelf = self._lane.report(), self._device.site.shelf
            report.copies += self._group.stamps()
            report.held = [] if shelf is None else list(shelf.held)
            self._device.api.restore()
            return report
