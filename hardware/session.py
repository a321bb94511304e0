"""One input on its way through the devices, as schedulers and models see it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from torch import Tensor

from dynpartition.contract import Session
from dynpartition.errors import DeviceError, DeviceLost
from dynpartition.graph import TaskGraph
from dynpartition.hardware.blueprint import Blueprint
from dynpartition.hardware.execution import Execution, Machine
from dynpartition.hardware.settings import running_thread
from dynpartition.hardware.tracing import Measured, measured
from dynpartition.models import ModelRun, NewTask
from dynpartition.plan import Launch, Plan
from dynpartition.trace import Trace


class HardwareSession(Session):
    """Runs one input. The clock starts when every device has its part of the first launches.

    `seen_ns`: revealer → ns since the start when its value was seen on the host; the trace's
    `known_ns` is when what it revealed had been planned too.
    """

    def __init__(
        self, machine: Machine, execution: Execution, blueprint: Blueprint, run: ModelRun
    ) -> None:
        self._machine = machine
        self._execution = execution
        self._blueprint = blueprint
        self._run = run
        self._seen: dict[int, int] = {}
        self._known: dict[int, int] = {}
        self._measured: Measured | None = None
        self._outputs: dict[int, Tensor] = {}
        self._reveal(run.opening(), -1)

    @property
    def graph(self) -> TaskGraph:
        """The tasks revealed so far, numbered 0…n-1 in the order of their revelation."""
        return self._blueprint.graph

    @property
    def plan(self) -> Plan:
        """The launches so far."""
        return self._blueprint.plan

    @property
    def trace(self) -> Trace:
        """What happened; only after `advance` has returned False."""
        return self._result().trace

    @property
    def repeats(self) -> tuple[int, ...]:
        """Per launch, in plan order: how often it was computed; above 1 on slowed devices."""
        return self._result().repeats

    @property
    def run_delay_ns(self) -> tuple[int, ...]:
        """Per launch: how long its thread waited for a core meanwhile; zeros unless sampled."""
        return self._result().run_delay_ns

    @property
    def seen_ns(self) -> Mapping[int, int]:
        """Revealer → when its value was seen, before anything was decided."""
        return {task: at - self._execution.origin_ns for task, at in self._seen.items()}

    @property
    def outputs(self) -> Mapping[int, Tensor]:
        """Outputs of the tasks that return; only after `advance` has returned False."""
        self._result()
        return self._outputs

    def answer(self) -> Tensor:
        """Return the model's answer; only after `advance` has returned False."""
        return self._run.answer(self.outputs)

    @property
    def is_over(self) -> bool:
        """Whether the devices are free for another session."""
        return self._execution.is_over

    def _result(self) -> Measured:
        if self._measured is None:
            raise DeviceError("the run has not finished; advance it until advance() returns False")
        return self._measured

    def advance(self, launches: Sequence[Launch]) -> bool:
        """Append `launches`, which must place every revealed task, and go on.

        Returns True when more tasks have been revealed, False when everything has finished.
        Raises PlanError or OutOfDeviceMemory before anything is sent: the session can still go on
        with other launches. Raises DeviceLost when a device stops; the backend is closed then.
        """
        if self._execution.is_over:
            raise DeviceError("the session is over; open a new one")
        segments = self._blueprint.extend(launches)
        with self._undisturbed():
            now_ns = time.perf_counter_ns()  # before workers may act on it
            self._known |= {task: now_ns for task in self._seen if task not in self._known}
            self._execution.append(segments)
            awaited = self._blueprint.awaited(self._seen)
            due = [value.task for value in self._execution.run_until(awaited)]
            self._seen.update(dict.fromkeys(due, time.perf_counter_ns()))
            if not due:
                self._measure()
        # Outside of inference mode: what the model and the caller get are ordinary tensors.
        return self._expand(due) if due else self._collect()

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Run a block as the host device; what interrupts it leaves no device running."""
        try:
            with running_thread(self._machine.core):
                yield
        except BaseException:
            # Devices and sockets are in an unknown state: nothing can go on from here.
            self._execution.is_over = True
            self._machine.close()
            raise

    def _expand(self, due: Sequence[int]) -> bool:
        """Let the model say what the values that are due call for."""
        try:
            for task in due:
                value = self._machine.host_arena.read(self._blueprint.host_output(task))
                self._reveal(self._run.expand(task, value), task)
        except BaseException:
            self.close()  # without these tasks the run cannot go on
            raise
        return True

    def _reveal(self, tasks: Sequence[NewTask], revealer: int) -> None:
        """Append tasks and write their host inputs where devices fetch them."""
        first = len(self._blueprint.tasks)
        self._blueprint.reveal(tasks, revealer)
        for number, task in enumerate(tasks, first):
            if task.host_input is not None:
                self._machine.host_arena.write(self._blueprint.host_input(number), task.host_input)

    def _measure(self) -> None:
        """Collect what the devices did."""
        reports = self._execution.finish()
        known_ns = {task: self._known[task] for task in self._seen}
        self._measured = measured(self._blueprint.ran(self._execution.origin_ns, known_ns), reports)

    def _collect(self) -> bool:
        """Copy the results out of the arena."""
        tasks, arena = self._blueprint.tasks, self._machine.host_arena
        returned = [number for number, task in enumerate(tasks) if task.returns]
        self._outputs = {n: arena.read(self._blueprint.host_output(n)) for n in returned}
        return False

    def close(self) -> None:
        """Stop what is still running. Closing twice does nothing."""
        if not self._execution.is_over:
            # A device that does not stop is ended with the backend: nothing more to say here.
            with suppress(DeviceLost), self._undisturbed():
                self._execution.abort()
