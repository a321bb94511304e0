"""Turns the new part of a program into orders: what every RUN, COPY and LOAD touches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from dynpartition.hardware.layout import Layout, Placement
from dynpartition.hardware.ledger import Ledger
from dynpartition.hardware.memory import dtype_name
from dynpartition.hardware.messages import (
    LOAD,
    Argument,
    Call,
    CopyOrder,
    LoadOrder,
    RunOrder,
    Segment,
)
from dynpartition.hardware.tasks import KnownTasks
from dynpartition.models import TaskKind
from dynpartition.program import COPY, RUN, WAIT, Program
from dynpartition.types import IntArray


def segments(
    tasks: KnownTasks,
    program: Program,
    layout: Layout,
    ledger: Ledger,
    launches_before: int,
    copies_before: int,
) -> list[Segment]:
    """Return per device what a shorter plan's program did not have (epoch still 0).

    Raises OutOfDeviceMemory; layout and ledger are as before then.
    """
    placement = layout.place(tasks, program, launches_before, copies_before)
    stocking = ledger.plan(tasks, program, placement, launches_before)
    layout.settle(placement)
    ledger.settle(stocking)
    runs = _run_orders(tasks, program, placement)
    copies = _copy_orders(program, placement, copies_before)
    device_of = program.launch_device.tolist()
    return [
        Segment(
            epoch=0,
            code=with_loads(owned(code, program.copy_launch), loads).tobytes(),
            runs=[run for run in runs if device_of[run.launch] == device],
            copies=[copy for copy in copies if device in (copy.src, copy.dst)],
            loads=loads,
        )
        for device, code in enumerate(program.segment(launches_before, copies_before))
        for loads in [stocking.orders.get(device, [])]
    ]


def owned(code: IntArray, copy_launch: IntArray) -> IntArray:
    """Return (n, 3): each instruction with the launch it belongs to; WAITs precede their RUN."""
    opcode, operand = code[:, 0], code[:, 1]
    launch = operand.copy()
    copies, waits = opcode == COPY, np.flatnonzero(opcode == WAIT)
    launch[copies] = copy_launch[operand[copies]]
    runs = np.flatnonzero(opcode == RUN)
    launch[waits] = operand[runs[np.searchsorted(runs, waits)]]
    return np.stack([opcode, operand, launch], axis=1)


def with_loads(code: IntArray, loads: Sequence[LoadOrder]) -> IntArray:
    """Return the code with a LOAD before the WAITs of each launch that needs one."""
    if not loads:
        return code
    launches = [order.launch for order in loads]
    # All other rows of a new launch come behind its WAITs and its RUN.
    first = [int(np.argmax(code[:, 2] == launch)) for launch in launches]
    rows = [[LOAD, launch, launch] for launch in launches]
    more: IntArray = np.insert(code, first, rows, axis=0)
    return more


def _run_orders(tasks: KnownTasks, program: Program, placement: Placement) -> list[RunOrder]:
    """Return the orders of the new launches."""
    orders: list[RunOrder] = []
    listed = placement.rows.tobytes()
    places = placement.arguments.tolist()
    n_inputs = np.diff(tasks.inputs.start)
    for launch, size, row, task, at in placement.calls.tolist():
        kind = tasks.kind(task)
        first = int(tasks.inputs.start[task])
        sources = tasks.inputs.values[first : first + int(n_inputs[task])].tolist()
        formats = [_output_format(tasks.kind(source)) for source in sources]
        if kind.host_shape is not None:
            formats.append((kind.host_shape, dtype_name(kind.host_dtype)))
        arguments = [
            Argument(shape, dtype, begin, b"" if adjacent else listed[8 * k : 8 * (k + size)])
            for (shape, dtype), (begin, adjacent, k) in zip(formats, places[at:], strict=False)
        ]
        if not orders or orders[-1].launch != launch:
            orders.append(RunOrder(launch, kind.cell, []))
        orders[-1].calls.append(Call(arguments, *_output_format(kind), row, size, kind.variant))
    return orders


def _output_format(kind: TaskKind) -> tuple[tuple[int, ...], str]:
    """Return shape and type of the outputs of a kind of tasks."""
    return kind.output_shape, dtype_name(kind.output_dtype)


def _copy_orders(program: Program, placement: Placement, first: int) -> list[CopyOrder]:
    """Return the orders of the new transfers."""
    spans: Sequence[tuple[int, int, int]] = [(a, b, n) for a, b, n in placement.spans.tolist()]
    bounds = placement.span_start[first:].tolist()
    ends = zip(program.copy_src[first:].tolist(), program.copy_dst[first:].tolist(), strict=True)
    return [
        CopyOrder(number, src, dst, list(spans[a:b]))
        for number, ((src, dst), (a, b)) in enumerate(
            zip(ends, pairwise(bounds), strict=True), first
        )
    ]
