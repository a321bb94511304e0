"""One input on its way through the devices, as schedulers and models see it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor

from dynpartition.contract import Session
from dynpartition.errors import DeviceError, DeviceLost
from dynpartition.graph import TaskGraph
from dynpartition.hardware.blueprint import Blueprint
from dynpartition.hardware.execution import Execution, Machine
from dynpartition.hardware.memory import dtype_name
from dynpartition.hardware.messages import Report
from dynpartition.hardware.monitor import GpuMonitor
from dynpartition.hardware.outputs import CollectedOutputs
from dynpartition.hardware.settings import running_thread
from dynpartition.hardware.tracing import Measured, measured
from dynpartition.models import ModelRun, Outputs, TaskBlock
from dynpartition.plan import Launch, Plan
from dynpartition.trace import Trace


class HardwareSession(Session):
    """Runs one input. The clock starts when every device has its part of the first launches.

    `seen_ns`: revealer → ns since the start when its value was seen on the host; the trace's
    `known_ns` is when what it revealed had been planned too.
    """

    def __init__(
        self,
        machine: Machine,
        execution: Execution,
        blueprint: Blueprint,
        run: ModelRun,
        monitor: GpuMonitor | None = None,
    ) -> None:
        self._machine = machine
        self._execution = execution
        self._blueprint = blueprint
        self._run = run
        self._monitor = monitor
        self._seen: dict[int, int] = {}
        self._known: dict[int, int] = {}
        self._reports: Sequence[Report] | None = None
        self._measured: Measured | None = None
        self._outputs: Outputs | None = None
        self._reveal(run.opening_block(), -1)

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
        if self._outputs is None:
            raise _unfinished()
        return self._outputs

    def answer(self) -> Tensor:
        """Return the model's answer; only after `advance` has returned False."""
        return self._run.answer(self.outputs)

    def answers(self) -> list[Tensor]:
        """Return the answers of all inputs, which are several where they were merged."""
        return self._run.answers(self.outputs)

    @property
    def is_over(self) -> bool:
        """Whether the devices are free for another session."""
        return self._execution.is_over

    def _result(self) -> Measured:
        """Return what was measured, put together when somebody asks for it."""
        if self._reports is None:
            raise _unfinished()
        if self._measured is None:
            known_ns = {task: self._known[task] for task in self._seen}
            ran = self._blueprint.ran(self._execution.origin_ns, known_ns)
            self._measured = measured(ran, self._reports)
            if self._monitor is not None:
                trace, start_ns = self._measured.trace, self._execution.origin_ns
                samples = self._monitor.between(start_ns, start_ns + trace.makespan_ns)
                self._measured = replace(self._measured, trace=replace(trace, monitor=samples))
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
                self._reports = self._execution.finish()
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
        finally:
            self._machine.api.restore()

    def _expand(self, due: Sequence[int]) -> bool:
        """Let the model say what the values that are due call for."""
        try:
            for task in due:
                shape = self._blueprint.tasks.kind(task).output_shape
                row = int(self._blueprint.host_rows()[task])
                value = self._machine.host_arena.rows(shape)[row].clone()
                self._reveal(self._run.expansion_block(task, value), task)
        except BaseException:
            self.close()  # without these tasks the run cannot go on
            raise
        return True

    def _reveal(self, block: TaskBlock, revealer: int) -> None:
        """Append tasks and write their host inputs where devices fetch them."""
        arena = self._machine.host_arena
        for row, tensors in self._blueprint.reveal(block, revealer):
            first = tensors[0]
            rows = arena.rows(tuple(first.shape), dtype_name(first.dtype))
            with torch.inference_mode():
                torch.stack(list(tensors), out=rows.narrow(0, row, len(tensors)))

    def _collect(self) -> bool:
        """Copy the results out of the arena."""
        blueprint = self._blueprint
        self._outputs = CollectedOutputs(
            blueprint.tasks, self._machine.host_arena, blueprint.host_rows()
        )
        return False

    def close(self) -> None:
        """Stop what is still running. Closing twice does nothing."""
        if not self._execution.is_over:
            # A device that does not stop is ended with the backend: nothing more to say here.
            with suppress(DeviceLost), self._undisturbed():
                self._execution.abort()


def _unfinished() -> DeviceError:
    return DeviceError("the run has not finished; advance it until advance() returns False")
