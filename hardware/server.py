"""What runs in a worker: interprets the segments that the caller sends, and reports when asked."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Protocol

import torch

from dynpartition.errors import DeviceLost
from dynpartition.hardware.lane import CpuLane, Site
from dynpartition.hardware.losses import Loss
from dynpartition.hardware.messages import Channel, Failure, Finish, Inbox, Report, Segment
from dynpartition.hardware.patience import Patience


class Run(Protocol):
    """One session on one device, as `Lane` defines it."""

    epoch: int

    def extend(self, segment: Segment) -> None:
        """Append a segment."""

    def step(self) -> bool:
        """Do the next instruction; False when it has to wait or there is none."""

    @property
    def is_done(self) -> bool:
        """Whether all so far has been done."""

    @property
    def must_go_on(self) -> bool:
        """Whether a launch ends, or outputs leave, before all else."""

    @property
    def next_launch(self) -> int:
        """Plan position of the launch that is next."""

    def report(self) -> Report:
        """Return what has been done."""


OpenRun = Callable[[int, bool], Run]
"""Epoch, and whether its session goes on after a loss → the run. What it takes to prepare the
device is done here: the clock starts later."""


class Server:
    """Serves one caller until the caller goes.

    Between two instructions it looks at its mail and at whether it has been dismissed.
    """

    def __init__(
        self,
        number: int,
        channel: Channel,
        site: Site,
        patience: Patience,
        open_run: OpenRun | None = None,
    ) -> None:
        """`number`: of the worker, among all of the backend. `open_run`: default, on this core."""
        self.worker = number
        self.inbox = Inbox(channel)
        self.control = site.control
        self.site = site
        self.patience = patience
        self.is_dismissed = False
        """Whether to end at the next opportunity; for callers in the same process."""
        self._open_run = open_run or self._on_this_core
        self._lane: Run | None = None
        self._kept: dict[int, Segment] = {}
        self._finishing = False

    def serve(self) -> None:
        """Interpret what comes until the caller closes the socket (EOFError).

        A launch that fails is reported before DeviceLost is raised.
        """
        try:
            with torch.inference_mode():
                self._serve()
        except DeviceLost as error:
            self.inbox.channel.send(failure_of(error))
            self.control.set_failed(self.worker)
            raise

    def _serve(self) -> None:
        while not self.is_dismissed:
            if self._has_mail():
                self._receive()
            elif self._progress():
                self.patience.reset()
            else:
                self._wait()

    def _has_mail(self) -> bool:
        """Return whether to read a message now; what has run is stamped and pushed before."""
        if self._lane is not None and self._lane.must_go_on:
            return False
        return self.control.rings(self.worker) > self.inbox.count

    def _progress(self) -> bool:
        lane = self._lane
        if lane is None or not self.control.has_gone(lane.epoch):
            return False
        if self._finishing and lane.is_done:
            self._report(lane)
            return True
        self._publish(lane)
        return lane.step()

    def _publish(self, lane: Run) -> None:
        self.control.set_launch(self.worker, lane.next_launch)

    def _wait(self) -> None:
        # One that is to report waits for its session to begin, or for what a GPU has begun, which
        # no message tells.
        idle = self._lane is None or (self._lane.is_done and not self._finishing)
        if idle and self.patience.is_asleep:
            self._receive()
        else:
            self.control.beat(self.worker)
            self.patience.pause()

    def _receive(self) -> None:
        message = self.inbox.receive()
        self.patience.reset()
        if isinstance(message, Segment):
            self._extend(message)
        else:
            self._finish(message)

    def _extend(self, segment: Segment) -> None:
        if self._lane is None:
            self._lane = self._open_run(segment.epoch, segment.goes_on)
            self._finishing = False
        if segment.is_kept:
            segment = self._kept[segment.number]
        elif segment.number:
            self._kept[segment.number] = segment
        self._lane.extend(segment)
        self._publish(self._lane)
        self.control.set_ready(self.worker, self._lane.epoch)

    def _on_this_core(self, epoch: int, goes_on: bool) -> Run:
        if self.site.shelf is not None and not goes_on:
            self.site.shelf.reset()
        return CpuLane(self.site, epoch)

    def _finish(self, message: Finish) -> None:
        if self._lane is None:
            return  # it has reported by itself, before it was told that others are lost
        if message.drain:
            self._finishing = True
        else:
            self._report(self._lane)

    def _report(self, lane: Run) -> None:
        self.inbox.channel.send(lane.report())
        self.control.bell.ring()
        self._lane = None


def failure_of(error: DeviceLost) -> Failure:
    """Return what the caller is told of a launch that has failed."""
    return Failure(str(error), traceback.format_exc(), isinstance(error, Loss))
