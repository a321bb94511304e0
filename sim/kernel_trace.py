"""Traces from what the compiled simulator has logged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dynpartition.sim import kernel
from dynpartition.sim.kernel_pack import FIELDS, PLAIN_FIELDS, ProgramWorld
from dynpartition.trace import DispatchSpan, LaunchSpan, LoadSpan, Reveal, Trace, TransferSpan
from dynpartition.types import IntArray


class Log(NamedTuple):
    """What the kernel writes; see the names of its columns."""

    launches: IntArray
    copies: IntArray
    loads: IntArray
    reveals: IntArray


def find_log(state: IntArray, places: IntArray, n_loads: int) -> Log:
    """Return the log of one world that the full kernel has run, given its own places."""
    found = dict(zip(FIELDS, places.tolist(), strict=True))
    return Log(
        _table(state, found["launch_log"], found["n_launches"], 4),
        _table(state, found["copy_log"], found["n_copies"], 6),
        _table(state, found["load_log"], n_loads, 4),
        _table(state, found["reveal_log"], found["n_revealers"], 2),
    )


def _table(state: IntArray, begin: int, count: int, width: int) -> IntArray:
    return state[begin : begin + count * width].reshape(count, width)


def make_plain_trace(
    world: ProgramWorld, state: IntArray, places: IntArray, makespan_ns: int
) -> Trace:
    """Return the trace of one run of the plain loop, given its own places."""
    found = dict(zip(PLAIN_FIELDS, places.tolist(), strict=True))
    launches = _table(state, found["launch_log"], found["n_launches"], 2)
    copies = _table(state, found["copy_log"], found["n_copies"], 3)
    nothing = np.zeros((0, 4), dtype=np.int64)
    log = Log(launches, copies, nothing, nothing)
    return Trace(makespan_ns, _launches(world, log), _transfers(world, log, is_full=False))


def make_trace(world: ProgramWorld, log: Log, makespan_ns: int) -> Trace:
    """Return the trace of one run of the full kernel."""
    return Trace(
        makespan_ns=makespan_ns,
        launches=_launches(world, log),
        transfers=_transfers(world, log, is_full=True),
        dispatches=_dispatches(world, log),
        reveals=_reveals(world, log),
        loads=_loads(world, log),
    )


def _launches(world: ProgramWorld, log: Log) -> tuple[LaunchSpan, ...]:
    names, program = world.priced.cluster.names, world.program
    devices, rows = program.launch_device.tolist(), program.launch_tasks.rows
    times = log.launches[:, : kernel.ENDED + 1].tolist()
    return tuple(
        LaunchSpan(names[device], tasks, start_ns, end_ns)
        for device, tasks, (start_ns, end_ns) in zip(devices, rows, times, strict=True)
    )


def _transfers(world: ProgramWorld, log: Log, *, is_full: bool) -> tuple[TransferSpan, ...]:
    program = world.program
    n_devices = len(world.priced.cluster.devices)
    times = log.copies.tolist()
    place = (program.copy_launch * n_devices + program.copy_dst) * 2 + program.copy_is_input
    found = []
    for copy, rank in enumerate(place.tolist()):
        ready_ns, start_ns, end_ns = times[copy][: kernel.COPY_ENDED + 1]
        chain = list(_chain(times, copy)) if is_full else [copy]
        if start_ns >= 0 and (not is_full or times[copy][kernel.STATE] == kernel.ARRIVED):
            found.append(((ready_ns, rank, start_ns, copy), chain, start_ns, end_ns))
    found.sort()
    return tuple(_transfer(world, chain, start, end) for _, chain, start, end in found)


def _chain(times: list[list[int]], copy: int) -> Iterator[int]:
    while copy >= 0:
        yield copy
        copy = times[copy][kernel.CHAIN]


def _transfer(world: ProgramWorld, chain: list[int], start_ns: int, end_ns: int) -> TransferSpan:
    program = world.program
    link = world.priced.cluster.links[int(program.copy_link[chain[0]])]
    rows = program.copy_tasks.rows
    return TransferSpan(
        link.src,
        link.dst,
        tuple(sorted(task for copy in chain for task in rows[copy])),
        int(program.copy_bytes[chain].sum()),
        start_ns,
        end_ns,
        bool(program.copy_is_input[chain[0]]),
    )


def _dispatches(world: ProgramWorld, log: Log) -> tuple[DispatchSpan, ...]:
    names, program = world.priced.cluster.names, world.program
    worked = np.flatnonzero(log.launches[:, kernel.HOST_STARTED] >= 0)
    by_start = worked[np.argsort(log.launches[worked, kernel.HOST_STARTED], kind="stable")]
    return tuple(
        DispatchSpan(
            names[int(program.launch_device[launch])],
            program.launch_tasks.rows[launch],
            *log.launches[launch, kernel.HOST_STARTED :].tolist(),
        )
        for launch in by_start.tolist()
    )


def _reveals(world: ProgramWorld, log: Log) -> tuple[Reveal, ...]:
    rows = zip(world.priced.graph.revealers, log.reveals.tolist(), strict=True)
    known = [Reveal(task, end_ns, known_ns) for task, (end_ns, known_ns) in rows if known_ns >= 0]
    return tuple(sorted(known, key=lambda reveal: (reveal.known_ns, reveal.task)))


def _loads(world: ProgramWorld, log: Log) -> tuple[LoadSpan, ...]:
    names, cells = world.priced.cluster.names, world.priced.graph.cells
    spans = []
    for device, cell, start_ns, end_ns in sorted(
        log.loads.tolist(), key=lambda row: (row[kernel.LOAD_STARTED], row[kernel.LOAD_DEVICE])
    ):
        size = cells[cell].param_bytes
        spans.append(LoadSpan(names[device], cells[cell].name, size, start_ns, end_ns))
    return tuple(spans)
