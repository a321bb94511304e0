"""The process of one CPU device: `python -m dynpartition.hardware.worker SOCKET LIFELINE`.

It interprets the segments that the caller sends and reports when it is asked to finish. It ends
with the caller, whatever the caller dies of.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import select
import signal
import sys
import threading
import traceback
from operator import attrgetter
from typing import NoReturn

import torch

from dynpartition.errors import DeviceLost, DynPartitionError
from dynpartition.hardware.compute import OutOfMemoryOn, Repeater
from dynpartition.hardware.control import CONTROL_BYTES, Control
from dynpartition.hardware.lane import CpuLane, Lane, Site, run_delay
from dynpartition.hardware.memory import Arena, trim_heap
from dynpartition.hardware.messages import (
    Channel,
    Failure,
    Finish,
    Inbox,
    Ready,
    Segment,
    Setup,
)
from dynpartition.hardware.patience import Patience
from dynpartition.hardware.settings import stay_on
from dynpartition.hardware.shared import SharedBlock
from dynpartition.hardware.shelf import CpuShelf, Shelf
from dynpartition.hardware.weights import Master
from dynpartition.models import DynamicModel, ModelEntry

_WATCH_S = 0.5
_PR_SET_PDEATHSIG = 1


class Server:
    """Serves one caller until the caller goes."""

    def __init__(self, setup: Setup, channel: Channel, control: Control, site: Site) -> None:
        self.worker = setup.worker
        self.inbox = Inbox(channel)
        self.control = control
        self.site = site
        self.patience = Patience(polite=setup.polite)
        self._lane: Lane | None = None
        self._kept: dict[int, Segment] = {}
        self._finishing = False

    def serve(self) -> NoReturn:
        """Interpret what comes until the caller closes the socket (EOFError)."""
        while True:
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
        if lane.is_done and self._finishing:
            self._report(lane)
            return True
        self._publish(lane)
        return lane.step()

    def _publish(self, lane: Lane) -> None:
        self.control.set_launch(self.worker, lane.next_launch)

    def _wait(self) -> None:
        idle = self._lane is None or self._lane.is_done
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
            if self.site.shelf is not None and not segment.goes_on:
                self.site.shelf.reset()  # before the clock starts, which waits for this worker
            self._lane = CpuLane(self.site, segment.epoch)
            self._finishing = False
        if segment.is_kept:
            segment = self._kept[segment.number]
        elif segment.number:
            self._kept[segment.number] = segment
        self._lane.extend(segment)
        self._publish(self._lane)
        self.control.set_ready(self.worker, self._lane.epoch)

    def _finish(self, message: Finish) -> None:
        if self._lane is None:
            return  # it has reported by itself, before it was told that others are lost
        if message.drain:
            self._finishing = True
        else:
            self._report(self._lane)

    def _report(self, lane: Lane) -> None:
        self.inbox.channel.send(lane.report())
        self._lane = None


def end_with_caller(lifeline_fd: int) -> None:
    """End this process when the caller ends: in a thread, as the main thread may be computing.

    The parent's number is checked too: a child that the caller forked may hold the lifeline open.
    Where there is Linux the kernel does it as well, even if this process has been stopped.
    """
    caller = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == caller and not select.select([lifeline_fd], [], [], _WATCH_S)[0]:
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _attach(setup: Setup) -> tuple[Control, Site]:
    control = Control(SharedBlock(setup.control_fd, CONTROL_BYTES))
    arenas = [None if a is None else Arena.on(SharedBlock(*a)) for a in setup.arenas]
    model = _rebuilt_model(setup)
    delay = run_delay(setup.sample_run_delay)
    name, index = setup.names[setup.device], setup.device
    repeater = Repeater(setup.speed)
    shelf = _shelf(setup, model)
    site = Site(
        *(name, index, model.cells, arenas, control, repeater, delay, shelf),
        virtual=setup.virtual,
        queue=run_delay(not setup.virtual),
    )
    return control, site


def _shelf(setup: Setup, model: DynamicModel[object]) -> Shelf | None:
    if setup.stock is None:
        return None
    arena = setup.arenas[setup.device]
    assert arena is not None
    master = Master.on(SharedBlock(*setup.master), model.cells)
    shelf = CpuShelf(model.cells, master, setup.stock, SharedBlock(*arena))
    trim_heap()  # of the weights that the model was built with
    shelf.reset()
    return shelf


def _rebuilt_model(setup: Setup) -> DynamicModel[object]:
    sys.path += [entry for entry in setup.import_path if entry not in sys.path]
    module, name = setup.model
    kind: type[DynamicModel[object]] = attrgetter(name)(importlib.import_module(module))
    model = ModelEntry(kind).build(setup.config)
    fd, size_bytes = setup.weights
    block = SharedBlock(fd, max(1, size_bytes))
    if setup.stock is None:  # else a shelf brings them
        model.load_weights(bytes(block.view[:size_bytes]))
    block.close()
    return model


def _serve(channel: Channel, setup: Setup) -> NoReturn:
    torch.set_num_threads(1)
    stay_on(setup.core)
    control, site = _attach(setup)
    channel.send(Ready())
    gc.freeze()  # the model is not garbage: collections during a run are short
    try:
        with torch.inference_mode():
            Server(setup, channel, control, site).serve()
    except DeviceLost as error:
        channel.send(failure_of(error))
        control.set_failed(setup.worker)
        raise


def failure_of(error: DeviceLost) -> Failure:
    """Return what the caller is told of a launch that has failed."""
    return Failure(str(error), traceback.format_exc(), isinstance(error, OutOfMemoryOn))


def main() -> int:
    """Serve the caller at the other end of the socket; the exit status says how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    end_with_caller(int(sys.argv[2]))
    channel = Channel(int(sys.argv[1]))
    try:
        setup = channel.receive()
        assert isinstance(setup, Setup)
        _serve(channel, setup)
    except (EOFError, OSError):
        return 0  # the caller has closed the backend
    except DynPartitionError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    # No interpreter shutdown: nothing here outlives the process, and threads may be in torch.
    status = main()
    sys.stderr.flush()
    os._exit(status)
