"""Whether threads would do as workers: what the interpreter's lock costs the cells of a model.

Threads save the memory of a second copy of the weights and the seconds that a process takes to
start. They lose what launches wait for the interpreter's lock, which every thread needs between
two PyTorch operations. So they pay where cells are long.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from dynpartition.errors import InputError
from dynpartition.hardware.devices import available_cores
from dynpartition.hardware.settings import running_thread
from dynpartition.models import ModelInput
from dynpartition.models.interpreter import Interpreter, task_arguments
from dynpartition.models.variants import variant_of

WAKE_NS = 30_000
"""What it takes to wake a thread: 28 µs one way, 23 to 35, on a virtual machine."""
LOSS_MAX = 0.05
"""Threads are chosen where they cost a run at most this share of its time."""

_SLICE_S = 0.004
_ROUNDS = 12
_SETTLE_CALLS = 3


@dataclass(frozen=True)
class CellLock:
    """What one cell loses to the lock at most. Times in ns per call of one task."""

    cell: str
    calls: int
    """In the inputs that were measured."""
    alone_ns: float
    beside_ns: float
    """While another thread calls the same cell all the time."""

    @property
    def lock_share(self) -> float:
        """Share of the time beside another thread that goes into waiting for the lock, at most.

        What is lost to shared caches is in it too, which two processes would lose as well.
        """
        return max(0.0, 1.0 - self.alone_ns / self.beside_ns)


@dataclass(frozen=True)
class WorkerChoice:
    """Which workers suit a model on this machine, and what says so."""

    workers: Literal["processes", "threads"]
    loss: float
    """Share by which threads would lengthen runs."""
    lock_share: float
    """Of all calls."""
    cells: Sequence[CellLock]

    def __str__(self) -> str:
        """Return one sentence."""
        return (
            f"{self.workers}: beside each other, threads wait for the interpreter's lock"
            f" {self.lock_share:.0%} of the time and would lengthen runs by {self.loss:.0%}"
        )


def choose_workers(inputs: Sequence[ModelInput]) -> WorkerChoice:
    """Return which workers suit the cells that `inputs` call; takes about 0.1 s per cell.

    Processes where there is one core. Raises InputError without inputs.
    """
    if not inputs:
        raise InputError("no inputs to measure the cells on; give at least one")
    cells = measure_locks(inputs)
    calls = np.array([cell.calls for cell in cells])
    alone_ns = float(calls @ [cell.alone_ns for cell in cells])
    beside_ns = float(calls @ [cell.beside_ns for cell in cells])
    wake_ns = WAKE_NS * float(calls.sum())
    loss = (max(0.0, beside_ns - alone_ns) + wake_ns) / alone_ns
    pays = loss <= LOSS_MAX and len(available_cores()) > 1
    share = max(0.0, 1.0 - alone_ns / beside_ns)
    return WorkerChoice("threads" if pays else "processes", loss, share, cells)


def measure_locks(inputs: Sequence[ModelInput]) -> list[CellLock]:
    """Return what every cell that `inputs` call loses to the lock."""
    samples, calls = _sampled_calls(inputs)
    cores = available_cores()
    with running_thread(cores[0]):
        return [
            CellLock(name, calls[name], *_timed(cell, arguments, cores))
            for name, (cell, arguments) in samples.items()
        ]


def _sampled_calls(
    inputs: Sequence[ModelInput],
) -> tuple[dict[str, tuple[nn.Module, list[Tensor]]], Counter[str]]:
    """Return per cell one call with its arguments (1, *shape), and how often it is called."""
    samples: dict[str, tuple[nn.Module, list[Tensor]]] = {}
    calls: Counter[str] = Counter()
    for one in inputs:
        interpreter = Interpreter(one.model.cells, one.start())
        for number, task in enumerate(interpreter.tasks):  # the list grows at reveals
            arguments = task_arguments(task, interpreter.outputs)
            cell = variant_of(one.model.cells[task.cell], task.variant)
            samples.setdefault(task.cell, (cell, [part.unsqueeze(0) for part in arguments]))
            calls[task.cell] += 1
            interpreter.compute([number])
            if task.reveals:
                interpreter.expand(number)
    return samples, calls


def _timed(cell: nn.Module, arguments: list[Tensor], cores: Sequence[int]) -> tuple[float, float]:
    """Return ns per call alone and beside another thread, low percentiles of interleaved slices."""

    def call() -> None:
        cell(*arguments)

    for _ in range(_SETTLE_CALLS):
        call()
    alone, beside = [], []
    with _another(call, cores[-1]) as other:
        for _ in range(_ROUNDS):
            alone.append(_slice_ns(call))
            with other():
                beside.append(_slice_ns(call))
    return float(np.percentile(alone, 10)), float(np.percentile(beside, 10))


def _slice_ns(call: Callable[[], None]) -> float:
    """Return ns per call over a few ms."""
    count, begin_ns = 0, time.perf_counter_ns()
    while (elapsed_ns := time.perf_counter_ns() - begin_ns) < _SLICE_S * 1e9 or not count:
        call()
        count += 1
    return elapsed_ns / count


@contextmanager
def _another(call: Callable[[], None], core: int) -> Iterator[Callable[[], _Busy]]:
    """Have a thread on `core` that makes calls inside of `with other():`."""
    may_run, has_ended = threading.Event(), threading.Event()

    def work() -> None:
        with running_thread(core):
            while not has_ended.is_set():
                if may_run.wait(0.1):
                    call()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield lambda: _Busy(may_run)
    finally:
        has_ended.set()
        may_run.set()
        thread.join()
        torch.set_num_threads(1)  # the thread has set back what is the whole process's


@dataclass(frozen=True)
class _Busy:
    """Lets the other thread work inside of a block."""

    may_run: threading.Event

    def __enter__(self) -> None:
        self.may_run.set()

    def __exit__(self, *_: object) -> None:
        self.may_run.clear()
