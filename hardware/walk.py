"""The caller's walk: one thread drives its own CPU device and all CUDA devices."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from dynpartition.hardware.cuda_lane import CudaGroup, CudaLane
from dynpartition.hardware.lane import CpuLane, Lane, Site
from dynpartition.hardware.links import GpuLinks
from dynpartition.hardware.losses import GpusLost, is_out_of_memory, no_memory
from dynpartition.hardware.messages import Report, Segment
from dynpartition.program import WAIT

_now_ns = time.perf_counter_ns


class Walk:
    """Lanes walked in plan order; a launch that waits for a worker lets later ones go ahead."""

    def __init__(self, host: Site, cuda: Sequence[Site], epoch: int, group: CudaGroup) -> None:
        self.host = CpuLane(host, epoch)
        self.group = group
        self._cuda = [CudaLane(site, epoch, group) for site in cuda]
        self._lanes: list[Lane] = [self.host, *self._cuda]

    def extend(self, segments: Sequence[Segment]) -> None:
        """Append the segments of the devices that this walk drives."""
        for lane in self._lanes:
            with _cuda_errors(lane):
                lane.extend(segments[lane.site.index])

    def step(self) -> bool:
        """Do one instruction and what belongs to it; False when everything has to wait or is done.

        What belongs to it: a launch's end and the copies of its outputs.
        """
        if not self._cuda:
            return self.host.step()
        try:
            return self._step_any()
        except RuntimeError as error:
            raise GpusLost(error) from error

    def start_clock(self) -> None:
        """Tie the clocks of CUDA devices to the host's."""
        if self._cuda:
            with _cuda_errors():
                self.group.api.start_clock()

    def settle(self) -> None:
        """Wait until all CUDA devices are idle, and announce what has left them."""
        if self._cuda:
            with _cuda_errors():
                self.group.api.synchronize()
                self.group.settle()  # relays to other hosts have sent nothing of it yet

    def part_from(self, links: GpuLinks) -> None:
        """Cut the connections whose other end is gone, and forget what has not come over them."""
        with _cuda_errors():
            links.cut_broken(self.group.direct.forget)

    def drop_gpus(self) -> None:
        """Forget the CUDA devices: nothing can be asked of them any more."""
        self._cuda.clear()
        self._lanes = [self.host]
        self.group.drop()

    def _step_any(self) -> bool:
        before_ns, pushed_ns = _now_ns(), self.group.pushed_ns
        self.group.pump()
        for lane in sorted(self._lanes, key=_next_launch):
            if self._do(lane):
                while lane.must_go_on:
                    lane.step()
                if isinstance(lane, CudaLane):
                    lane.spend(_now_ns() - before_ns - (self.group.pushed_ns - pushed_ns))
                return True
            if lane is self.host and self._host_must_wait():
                return False
        return False

    def _do(self, lane: Lane) -> bool:
        try:
            return lane.step()
        except torch.OutOfMemoryError as error:  # weights that found no room
            raise no_memory(lane.site.name, error) from error

    def _host_must_wait(self) -> bool:
        """Return whether the caller's launch waits for a copy under way from a CUDA device.

        Host mode `single`: a CPU launch then holds up the walk, as in the simulator.
        """
        if self.host.is_done:
            return False
        opcode, operand, _ = self.host.code[self.host.position]
        return opcode == WAIT and operand in self.group.leaving

    @property
    def must_go_on(self) -> bool:
        """Whether a lane is at the end of a launch or has outputs to push, before all else."""
        return any(lane.must_go_on for lane in self._lanes)

    @property
    def is_done(self) -> bool:
        """Whether everything so far has been begun, and announced to the workers that read it."""
        return all(lane.is_done for lane in self._lanes) and self.group.has_left

    def reports(self) -> list[Report]:
        """Return what was done; only when all devices are idle."""
        with _cuda_errors():
            reports = [lane.report() for lane in self._lanes]
            reports[0].copies += self.group.stamps()
            return reports


def _next_launch(lane: Lane) -> int:
    return lane.next_launch


@contextmanager
def _cuda_errors(lane: Lane | None = None) -> Iterator[None]:
    """Turn what PyTorch raises for failed CUDA work, often much later, into the loss of GPUs.

    Where the work of one lane has only found no memory, that device alone cannot go on.
    """
    try:
        yield
    except RuntimeError as error:
        if lane is not None and is_out_of_memory(error):
            raise no_memory(lane.site.name, error) from error
        raise GpusLost(error) from error
