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
from collections.abc import Callable
from operator import attrgetter
from typing import NoReturn

import torch

from dynpartition.errors import DeviceError, DynPartitionError
from dynpartition.hardware.compute import Repeater
from dynpartition.hardware.control import CONTROL_BYTES, Control
from dynpartition.hardware.doorbell import Doorbell
from dynpartition.hardware.lane import Site, run_delay
from dynpartition.hardware.memory import Arena, trim_heap
from dynpartition.hardware.messages import Channel, Ready, Setup
from dynpartition.hardware.patience import Spinner
from dynpartition.hardware.server import Server
from dynpartition.hardware.settings import stay_on
from dynpartition.hardware.shared import SharedBlock
from dynpartition.hardware.shelf import CpuShelf, Shelf
from dynpartition.hardware.weights import Master, compute_from, layout_of
from dynpartition.models import DynamicModel, ModelEntry
from dynpartition.models.user_file import load_model

_WATCH_S = 0.5
_PR_SET_PDEATHSIG = 1


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


def _attach(setup: Setup) -> Site:
    control = Control(SharedBlock(setup.control_fd, CONTROL_BYTES))
    for ends in setup.bells:
        control.bell.add(Doorbell(ends))
    arenas = [None if a is None else Arena.on(SharedBlock(*a)) for a in setup.arenas]
    model = rebuilt_model(setup)
    delay = run_delay(setup.sample_run_delay)
    name, index = setup.names[setup.device], setup.device
    repeater = Repeater(setup.speed)
    shelf = _shelf(setup, model)
    return Site(
        *(name, index, model.cells, arenas, control, repeater, delay, shelf),
        virtual=setup.virtual,
        queue=run_delay(not setup.virtual),
        beyond=frozenset(setup.beyond),
        paces=setup.paces,
        host=setup.host,
        paced=setup.paced,
    )


def _shelf(setup: Setup, model: DynamicModel[object]) -> Shelf | None:
    """Let the model compute with the shared weights, or return what brings them when needed."""
    master = Master.on(SharedBlock(*setup.master), model.cells)
    if setup.stock is None:
        compute_from(model.cells, master)
        trim_heap()  # of the weights that the model was built with
        return None
    arena = setup.arenas[setup.device]
    assert arena is not None
    shelf = CpuShelf(model.cells, master, setup.stock, SharedBlock(*arena))
    trim_heap()
    shelf.reset()
    return shelf


def rebuilt_model(setup: Setup) -> DynamicModel[object]:
    """Return the caller's model; DeviceError where its weights are not of the same shapes."""
    sys.path += [entry for entry in setup.import_path if entry not in sys.path]
    model = _built_model(setup)
    if layout_of(model.cells) != setup.layout:
        name = setup.source or ".".join(setup.model)
        raise DeviceError(
            f"{name}({setup.config}) has other weights in a worker than here; let its shapes depend"
            " on its configuration alone"
        )
    return model


def _built_model(setup: Setup) -> DynamicModel[object]:
    if setup.source:
        return load_model(setup.source, setup.config)
    module, name = setup.model
    kind: type[DynamicModel[object]] = attrgetter(name)(importlib.import_module(module))
    return ModelEntry(kind).build(setup.config)


def _serve(channel: Channel, setup: Setup) -> None:
    torch.set_num_threads(1)
    stay_on(setup.core)
    site = _attach(setup)
    channel.send(Ready())
    gc.freeze()  # the model is not garbage: collections during a run are short
    Server(setup.worker, channel, site, Spinner(polite=setup.polite)).serve()


def _main(serve: Callable[[Channel, Setup], None]) -> int:
    """Serve the caller at the other end of the socket; the exit status says how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    end_with_caller(int(sys.argv[2]))
    channel = Channel(int(sys.argv[1]))
    try:
        setup = channel.receive()
        assert isinstance(setup, Setup)
        serve(channel, setup)
        return 0
    except (EOFError, OSError):
        return 0  # the caller has closed the backend
    except DynPartitionError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def run_worker(serve: Callable[[Channel, Setup], None]) -> NoReturn:
    """Be a worker until the caller goes."""
    # No interpreter shutdown: nothing here outlives the process, and threads may be in torch.
    status = _main(serve)
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    run_worker(_serve)
