"""One input on its way through the devices, as schedulers and models see it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dynpartition.contract import Session
from dynpartition.errors import DeviceError, DeviceLost
from dynpartition.graph import TaskGraph
from dynpartition.hardware.blueprint import Blueprint
from dynpartition.hardware.execution import Execution, Machine
from dynpartition.hardware.history import History
from dynpartition.hardware.losses import Loss, OutOfMemoryOn
from dynpartition.hardware.memory import dtype_name
from dynpartition.hardware.messages import Report, Stock
from dynpartition.hardware.monitor import GpuMonitor
from dynpartition.hardware.outputs import CollectedOutputs, output_rows
from dynpartition.hardware.placing import ABSENT
from dynpartition.hardware.recovery import Carried, add_arrivals, carry, rows_held, withdrawn
from dynpartition.hardware.settings import running_thread
from dynpartition.hardware.tracing import Measured, measured
from dynpartition.models import ModelRun, Outputs, TaskBlock
from dynpartition.plan import Launch, Plan
from dynpartition.profile import Profile, without_costs, without_device
from dynpartition.trace import Trace


class HardwareSession(Session):
    """Runs one input. The clock starts when every device has its part of the first launches.

    `seen_ns`: revealer → ns since the start when its value was seen on the host; the trace's
    `known_ns` is when what it revealed had been planned too.
    """

    def __init__(
        self,
        machine: Machine,
        blueprint: Blueprint,
        run: ModelRun,
        profile: Profile,
        *,
        stocks: Mapping[int, Stock],
        monitor: GpuMonitor | None = None,
    ) -> None:
        """`stocks`: the weights that devices with a cap begin with, by index."""
        self._machine = machine
        self._blueprint = blueprint
        self._run = run
        self._profile = self._profile_now = profile
        self._stocks = dict(stocks)
        self._monitor = monitor
        self._execution = Execution(machine, blueprint.name_cell)
        self._veterans: set[int] = set()
        self._full: dict[int, str] = dict(machine.full)
        """Devices without memory for a launch, and what is known of it."""
        self._history: History | None = None
        self._seen: dict[int, int] = {}
        self._known: dict[int, int] = {}
        self._reports: Sequence[Report] | None = None
        self._measured: tuple[Plan, Measured] | None = None
        self._outputs: Outputs | None = None
        self._leave_out_lost()
        self._reveal(run.opening_block(), -1)

    @property
    def graph(self) -> TaskGraph:
        """The tasks revealed so far, numbered 0…n-1 in the order of their revelation.

        After a loss, tasks that need not run again cost nothing and have no inputs, until the run
        has finished.
        """
        if self._history and self._reports is not None:
            return self._blueprint.whole_graph()
        return self._blueprint.graph

    @property
    def plan(self) -> Plan:
        """The launches so far.

        After a loss: one for every task that need not run again, where its output is, and those
        that have been appended since; when the run has finished, what really ran.
        """
        if self._history and self._reports is not None:
            return self._result()[0]
        return self._blueprint.plan

    @property
    def profile_now(self) -> Profile | None:
        """The machine without the devices that have been lost; None while there are all."""
        return self._profile_now if self.lost else None

    @property
    def lost(self) -> Mapping[str, str]:
        """Devices that may not be used, and what is known of their end."""
        return self._blueprint.lost

    @property
    def trace(self) -> Trace:
        """What happened; only after `advance` has returned False."""
        return self._result()[1].trace

    @property
    def repeats(self) -> tuple[int, ...]:
        """Per launch of the trace: how often it was computed; above 1 on slowed devices."""
        return self._result()[1].repeats

    @property
    def run_delay_ns(self) -> tuple[int, ...]:
        """Per launch of the trace: how long its thread waited for a core; zeros unless sampled."""
        return self._result()[1].run_delay_ns

    @property
    def dispatch_ns(self) -> tuple[int, ...]:
        """Per launch: how long the caller's thread was busy with starting it; 0 on CPU devices."""
        return self._result()[1].dispatch_ns

    @property
    def push_ns(self) -> tuple[int, ...]:
        """Per transfer: the same; 0 between CPU devices."""
        return self._result()[1].push_ns

    @property
    def waited_ns(self) -> int:
        """How long threads waited for a core; 0 in virtual time, and where not counted."""
        return self._result()[1].waited_ns

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

    def answer(self) -> Any:
        """Return the model's answer; only after `advance` has returned False."""
        return self._run.answer(self.outputs)

    def answers(self) -> list[Any]:
        """Return the answers of all inputs, which are several where they were merged."""
        return self._run.answers(self.outputs)

    @property
    def is_over(self) -> bool:
        """Whether the devices are free for another session."""
        return self._execution.is_over

    @property
    def has_finished(self) -> bool:
        """Whether all of the plan has run, without the loss of a device."""
        return self._reports is not None and self._history is None

    def _result(self) -> tuple[Plan, Measured]:
        """Return what ran and was measured, put together when somebody asks for it."""
        if self._reports is None:
            raise _unfinished()
        if self._measured is None:
            ran = self._blueprint.ran(self._execution.origin_ns, self._known_ns())
            if self._history is not None:
                plan, result = self._history.whole(ran, self._reports)
            else:
                plan, result = ran.plan, measured(ran, self._reports)
            if self._monitor is not None:
                trace, start_ns = result.trace, self._execution.origin_ns
                samples = self._monitor.between(start_ns, start_ns + trace.makespan_ns)
                result = replace(result, trace=replace(trace, monitor=samples))
            self._measured = plan, result
        return self._measured

    def _known_ns(self) -> dict[int, int]:
        return {task: self._known[task] for task in self._seen}

    def advance(self, launches: Sequence[Launch]) -> bool:
        """Append `launches`, which must place every revealed task, and go on.

        Returns True when more tasks have been revealed or a device has been lost, False when
        everything has finished. Raises PlanError or OutOfDeviceMemory before anything is sent: the
        session can still go on with other launches. Raises DeviceLost when no device is left that
        could run the rest, and when a cell raises; the backend is closed then.
        """
        if self._execution.is_over:
            raise DeviceError("the session is over; open a new one")
        due = self._go_on(launches)
        while due is None:
            if not self._blueprint.is_planned:
                return True
            due = self._go_on(())  # nothing has to run again, but outputs may have to travel
        # Outside of inference mode: what the model and the caller get are ordinary tensors.
        return self._expand(due) if due else self._collect()

    def _go_on(self, launches: Sequence[Launch]) -> list[int] | None:
        """Run until values are there and return their tasks: none at the end; None: a loss."""
        segments = self._blueprint.extend(launches)
        with self._undisturbed():
            now_ns = self._execution.clock.planned_ns()  # before workers may act on it
            self._known |= {task: now_ns for task in self._seen if task not in self._known}
            try:
                self._execution.append(segments, now_ns)
                values = self._execution.run_until(self._blueprint.awaited(self._seen))
                due = [value.task for value in values]
                self._seen.update({v.task: self._execution.seen_ns(v) for v in values})
                if not due:
                    self._reports = self._execution.finish()
            except Loss as loss:
                self._recover(loss)
                return None
        return due

    def _recover(self, loss: Loss) -> None:
        """Give up what lost devices had and have not passed on, and keep the rest."""
        machine, blueprint, cut = self._machine, self._blueprint, self._execution
        if cut.clock.is_virtual:
            raise DeviceLost(f"{loss}; virtual time ends with a device") from loss
        if isinstance(loss, OutOfMemoryOn):
            self._full[self._profile.cluster.index(loss.place)] = str(loss)
        cut.rescue(loss)
        if len(machine.why_lost | self._full) == len(self._profile.cluster.devices):
            raise loss  # nobody is left to take over
        cut_ns = time.perf_counter_ns()
        self._take_stock()
        carried = self._carried()
        self._history = self._history or History()
        self._history.add(
            blueprint.ran(cut.origin_ns, self._known_ns()),
            cut.reports(),
            carried.again,
            cut_ns - cut.origin_ns if cut.origin_ns else 0,
        )
        self._leave_out_lost()
        blueprint.begin_again(carried, self._stocks)
        self._execution = Execution(machine, blueprint.name_cell, cut.origin_ns, self._veterans)

    def _carried(self) -> Carried:
        """Return what has survived a loss; only when nothing is under way."""
        machine, blueprint, cut = self._machine, self._blueprint, self._execution
        program, layout, host = blueprint.lowered(), blueprint.layout, machine.host.index
        ended = {stamp.launch for report in cut.reports() for stamp in report.launches}
        before = blueprint.carried.rows if blueprint.carried else layout.output_row[:, :0]
        rows = rows_held(program, layout.output_row, before, ended, len(blueprint.tasks))
        add_arrivals(rows, program, layout.output_row, cut.arrived(program))
        gone = list(machine.why_lost)
        rows[gone] = ABSENT
        revealing = blueprint.tasks.where(reveals=True)
        left = withdrawn(program, blueprint.n_carried, ended, gone)
        return carry(blueprint.whole_graph(), rows, host, revealing, self._seen, left)

    def _take_stock(self) -> None:
        """Note which weights are where on devices that do not hold all."""
        reported, device_of = self._execution.reported, self._machine.pool.device_of
        held = {device_of[worker]: report.held for worker, report in reported.items()}
        shelves = {
            site.index: site.shelf for site in self._machine.working_gpus if site.shelf is not None
        }
        held |= {index: list(shelf.held) for index, shelf in shelves.items()}
        for index, stock in self._stocks.items():
            resident = held.get(index, stock.resident)
            self._stocks[index] = Stock(stock.capacity_bytes, resident)
        self._veterans |= reported.keys()

    def _leave_out_lost(self) -> None:
        """Refuse the devices that have been lost, and say so to schedulers."""
        gone, devices = self._machine.why_lost, self._profile.cluster.devices
        lost = {devices[index].name: why for index, why in (gone | self._full).items()}
        if not lost:
            return
        resident = [
            tuple(self._stocks[index].resident) if index in self._stocks else device.resident
            for index, device in enumerate(devices)
        ]
        self._profile_now = self._profile
        for index in gone:
            self._profile_now = without_device(self._profile_now, devices[index].name, resident)
        for index in self._full:
            self._profile_now = without_costs(self._profile_now, devices[index].name)
        self._blueprint.leave_out(self._profile_now.cluster, lost)

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
                rows = output_rows(self._machine.host_arena, self._blueprint.tasks.kind(task))
                value = rows[int(self._blueprint.host_rows()[task])].clone()
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
            target = rows.narrow(0, row, len(tensors))
            if isinstance(tensors, Tensor):
                _octets(target)[:] = _octets(tensors.contiguous())
            else:
                with torch.inference_mode():
                    torch.stack(list(tensors), out=target)

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
            # A cell that raises now ends the backend: nothing more to say here.
            with suppress(DeviceLost), self._undisturbed():
                self._execution.abort()


def _octets(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor; copying them wakes no other threads as PyTorch would."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _unfinished() -> DeviceError:
    return DeviceError("the run has not finished; advance it until advance() returns False")
