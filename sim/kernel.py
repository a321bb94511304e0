"""The compiled simulator: interprets lowered programs, many worlds per call, in exact ns.

It does what `dynpartition.sim.reference` defines, to the ns; that module explains the rules. All
compiled code stands here, because numba notices edits in this file only. It is compiled twice:
plain (`extras` is None: neither host modes, reveals, arrivals, memory nor slowdowns) and full.

Tables are int64 with named columns. Letters: L launches, C transfers, D devices, R resources (the
devices come first), K links, U buffers, G request groups, V revealers, B worlds. In the full kernel
each world has D more rows of transfers: row C + d is the load of weights under way to device d.

One instant settles in rounds, as in the reference. What ends next is found by scanning the end
times of the R resources (a transfer ends in the slot of its first resource), the D host walks and
the lock, in blocks of 64 of which the soonest time is kept. Transfers become ready in the order of
time, so queues are lists in which a newcomer passes only those of the same instant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dynpartition.compiled import compiled, inlined
from dynpartition.types import IntArray

NEVER = 1 << 62
NONE = -1
BLOCK_BITS = 6  # 64 slots per block

# Columns of worlds (B, 19): where the rows of each world lie, and facts about it.
(
    MACHINE, LAUNCHES, LAUNCHES_END, COPIES, COPIES_END, FIRST_NS, REVEALERS, REVEALERS_END,
    GROUPS, GROUPS_END, ARRIVALS, ARRIVALS_END, BUFFERS, BUFFERS_END, CELLS, CELLS_END, STOCK,
    LOADS, RESERVED,
) = range(19)  # fmt: skip

# Columns of machines (M, 12).
(
    DEVICES, DEVICES_END, RESOURCES, LINKS, LINKS_END, SHIFT, HOST, MODE, KNOWN_AFTER_NS,
    HANDOFF_NS, DEPTH, LOCKS,
) = range(12)  # fmt: skip

NO_HOST, SINGLE, THREADS, PROCESSES, REPLAY = range(5)  # MODE

HELD, HELD_END, TO, LATENCY_NS, BANDWIDTH = range(5)  # columns of links (K, 5)

# Columns of launches (L, 6); WAITS and SENDS are ranges of `rows`.
DEVICE, LAUNCH_NS, WAITS, WAITS_END, SENDS, SENDS_END = range(6)

LINK, DST, COPY_NS, RANK, ANSWER, IS_INPUT = range(6)  # columns of copies (C, 6)
"""RANK orders transfers that are ready at the same time."""

# Columns of launch_extras (L, 11).
(
    DISPATCH_NS, PUSH_NS, LAUNCH_GATES, LAUNCH_REVEALS, LAUNCH_REVEALS_END, MAKES, MAKES_END,
    MAKES_BYTES, READS, READS_END, CELL,
) = range(11)  # fmt: skip

# Columns of copy_extras (C, 8).
(
    COPY_GATES, COPY_REVEALS, COPY_REVEALS_END, BYTES, COPY_MAKES, COPY_MAKES_END, COPY_READS,
    COPY_READS_END,
) = range(8)  # fmt: skip

SHOWS, SHOWS_END, REVEALS_GROUP = range(3)  # columns of revealers (V, 3)
AT_NS, ITEM = range(2)  # columns of arrivals (n, 2)
"""Items: launch l is l, transfer c is L + c, group g is L + C + g."""

IS_CPU, CAPACITY, HOLDS_WEIGHTS, LOAD_LINK, PACES, PACES_END = range(6)  # device_extras (D, 6)
BUFFER_DEVICE, BUFFER_BYTES, BUFFER_GROUP, READERS = range(4)  # columns of buffers (U, 4)
CELL_BYTES, NAME_RANK = range(2)  # columns of cells (Q, 2)
RESIDENT, LOAD_NS = range(2)  # columns of stock (D·Q, 2)

# What runs write: columns of launch_log (L, 4), copy_log (C + D, 6), load_log, reveal_log.
STARTED, ENDED, HOST_STARTED, HOST_ENDED = range(4)
READY, COPY_STARTED, COPY_ENDED, STATE, CHAIN, LASTS = range(6)
LOAD_DEVICE, LOAD_CELL, LOAD_STARTED, LOAD_ENDED = range(4)
MADE_NS, KNOWN_NS = range(2)

COMING, HELD_BACK, QUEUED, JOINED, ARRIVED = range(5)  # STATE

OK, OUT_OF_MEMORY, UNPRICED, STUCK = range(4)
OUTCOME, WHO, WHERE, NEEDED, FREE = range(5)  # columns of outcomes (B, 5)
"""OUT_OF_MEMORY: launch, device, bytes, bytes. UNPRICED: link, -, bytes of a merged transfer."""

# Columns of the work table `resources` (R, 5); nodes are (NEXT, BEFORE) of one transfer in one queue.
FIRST, LAST, BUSY, RUNNING, MARKED = range(5)
NEXT, BEFORE = range(2)
# Columns of the work table `engines` (D, 4).
CURRENT, TURN, WAIT, AWAKE = range(4)
N_MARKED, N_AWAKE, LAST_NS, FAILED, N_DUE, N_READY, N_LOADS = range(7)  # `counts`
# Columns of the work table `walks` (D, 6).
WALK_LAUNCH, WALK_BUSY, WANTS_SINCE, UNFINISHED, BEGUN, REPLAY_DONE = range(6)
# Columns of the work table `stores` (D, 3).
FREE_BYTES, LOADING, USED_BY = range(3)


class Program(NamedTuple):
    """What one world's program does, with the links of its machine."""

    machine: IntArray
    """Row of machines."""
    launches: IntArray
    copies: IntArray
    rows: IntArray
    links: IntArray
    held: IntArray
    """The resources of each link, the devices that it blocks last."""


class Work(NamedTuple):
    """Where a run keeps its state; made once for many worlds, large enough for each."""

    end_ns: IntArray
    """(S,) per slot when what runs there ends, NEVER if nothing does."""
    soonest_ns: IntArray
    """Per block of 64 slots."""
    resources: IntArray
    engines: IntArray
    nodes: IntArray
    marked: IntArray
    """(R,) resources whose queue may go on."""
    awake: IntArray
    """(D,) devices that may start a launch."""
    counts: IntArray
    follower: IntArray
    """(L,) the next launch of the same device, or NONE."""
    launch_log: IntArray
    copy_log: IntArray


class Extras(NamedTuple):
    """What only the full kernel reads; see the column names."""

    launches: IntArray
    copies: IntArray
    revealers: IntArray
    group_gates: IntArray
    """(G,) revealers and arrivals that hold the group open."""
    arrivals: IntArray
    devices: IntArray
    buffers: IntArray
    cells: IntArray
    stock: IntArray
    paces_ns: IntArray
    """From when on each pace of a device counts."""
    lasts_ns: IntArray
    """(L, P) launch durations: as planned, then by pace."""
    share_ns: IntArray
    """(L, P) how long launches hold the lock."""
    merged: IntArray
    """(n, 3): link, bytes, ns of merged transfers over links priced by a table."""


class ExtraWork(NamedTuple):
    """What only the full kernel keeps."""

    launch_gates: IntArray
    """(L,) revealers and arrivals that launches still wait for."""
    dispatched: IntArray
    copy_gates: IntArray
    due: IntArray
    """(C,) transfers that become ready in this round; also those that start."""
    walks: IntArray
    handed: IntArray
    """(C, 2) (time, transfer) of hand-offs under way."""
    telling: IntArray
    """(V, 2) (time, revealer) of values under way."""
    stores: IntArray
    last_use: IntArray
    """(D·Q,) end of the last use of a cell; -1: not used yet, -2: not resident."""
    holds: IntArray
    """(U,) who still needs the buffer."""
    group_gates: IntArray
    kept: IntArray
    """(U + G,) lists of the buffers that only their open group holds: next, first."""
    fifo: IntArray
    """Heads and tails: arrivals, handed, telling."""
    load_log: IntArray
    reveal_log: IntArray
    status: IntArray
    """(5,) row of outcomes."""


ARRIVED_UP_TO, HANDED_FROM, HANDED_TO, TELLING_FROM, TELLING_TO = range(5)  # `fifo`
GONE = -2  # last_use of a cell that is not there
FRESH = -1  # last_use of a cell that nothing has used yet


# ---- One run ----


@inlined
def run_world(program: Program, work: Work, extras: Extras | None, more: ExtraWork | None) -> None:
    """Run one program from time 0 until nothing is left to happen."""
    reset(program, work, extras, more)
    now_ns = 0
    begin(program, work, extras, more)
    while now_ns < NEVER:
        if extras is not None:
            push_due(program, work, extras, more, now_ns)
            begin_loads(program, work, extras, more, now_ns)
            start_transfers_in_order(program, work, extras, more, now_ns)
            dispatch(program, work, extras, more, now_ns)
            start_all_launches(program, work, extras, more, now_ns)
            grant_lock(program, work, extras, more, now_ns)
            if work.counts[FAILED] != 0:
                return
        else:
            start_transfers(program, work, now_ns)
            start_launches(program, work, now_ns)
        now_ns = soonest(work, extras, more)
        if now_ns < NEVER:
            complete(program, work, extras, more, now_ns)


@inlined
def reset(program: Program, work: Work, extras: Extras | None, more: ExtraWork | None) -> None:
    """Make the work tables those of a world that has not begun."""
    machine = program.machine
    n_devices = machine[DEVICES_END] - machine[DEVICES]
    n_launches = len(program.launches)
    work.end_ns[:] = NEVER
    work.soonest_ns[:] = NEVER
    for resource in range(machine[RESOURCES]):
        work.resources[resource, FIRST] = NONE
        work.resources[resource, LAST] = NONE
        work.resources[resource, BUSY] = 0
        work.resources[resource, MARKED] = 0
    for device in range(n_devices):
        work.engines[device, CURRENT] = NONE
        work.engines[device, TURN] = NONE
        work.engines[device, AWAKE] = 0
    for count in range(len(work.counts)):
        work.counts[count] = 0
    for launch in range(n_launches - 1, -1, -1):
        device = program.launches[launch, DEVICE]
        work.follower[launch] = work.engines[device, CURRENT]
        work.engines[device, CURRENT] = launch
    for copy in range(len(program.copies)):
        work.copy_log[copy, STATE] = COMING
    if extras is not None:
        reset_extras(program, work, extras, more)


@inlined
def begin(program: Program, work: Work, extras: Extras | None, more: ExtraWork | None) -> None:
    """Let every device come to its first launch, and send the host inputs that may go."""
    machine = program.machine
    for device in range(machine[DEVICES_END] - machine[DEVICES]):
        come_to(program, work, device, work.engines[device, CURRENT])
    for copy in range(len(program.copies)):
        if program.copies[copy, IS_INPUT] == 1:
            send(program, work, extras, more, copy, 0)


# ---- Time ----


@inlined
def end_later(work: Work, slot: int, at_ns: int) -> None:
    """Note that what runs in `slot` ends at `at_ns`."""
    work.end_ns[slot] = at_ns
    block = slot >> BLOCK_BITS
    if at_ns < work.soonest_ns[block]:
        work.soonest_ns[block] = at_ns


@inlined
def soonest(work: Work, extras: Extras | None, more: ExtraWork | None) -> int:
    """Return when something happens next, or NEVER."""
    now_ns = work.soonest_ns[0]
    for block in range(1, len(work.soonest_ns)):
        now_ns = min(now_ns, work.soonest_ns[block])
    if extras is not None:
        fifo = more.fifo
        if fifo[ARRIVED_UP_TO] < len(extras.arrivals):
            now_ns = min(now_ns, extras.arrivals[fifo[ARRIVED_UP_TO], AT_NS])
        if fifo[HANDED_FROM] < fifo[HANDED_TO]:
            now_ns = min(now_ns, more.handed[fifo[HANDED_FROM], 0])
        if fifo[TELLING_FROM] < fifo[TELLING_TO]:
            now_ns = min(now_ns, more.telling[fifo[TELLING_FROM], 0])
    return now_ns


@inlined
def complete(
    program: Program, work: Work, extras: Extras | None, more: ExtraWork | None, now_ns: int
) -> None:
    """Apply everything that ends now."""
    for block in range(len(work.soonest_ns)):
        if work.soonest_ns[block] == now_ns:
            complete_block(program, work, extras, more, block, now_ns)
    if extras is not None:
        complete_extras(program, work, extras, more, now_ns)


@inlined
def complete_block(
    program: Program,
    work: Work,
    extras: Extras | None,
    more: ExtraWork | None,
    block: int,
    now_ns: int,
) -> None:
    """Apply what ends now in one block of slots, and find the soonest end of the others."""
    machine = program.machine
    n_devices = machine[DEVICES_END] - machine[DEVICES]
    work.soonest_ns[block] = NEVER  # may be lowered by what the endings begin
    rest_ns = NEVER
    start = block << BLOCK_BITS
    for slot in range(start, min(start + (1 << BLOCK_BITS), len(work.end_ns))):
        end_ns = work.end_ns[slot]
        if end_ns == now_ns:
            work.end_ns[slot] = NEVER
            if slot < n_devices:
                end_launch(program, work, extras, more, slot, now_ns)
            elif extras is None or slot < machine[RESOURCES]:
                copy = work.resources[slot, RUNNING]
                end_transfer(program, work, extras, more, copy, now_ns)
            elif slot < machine[RESOURCES] + n_devices:
                end_host_work(program, work, extras, more, slot - machine[RESOURCES], now_ns)
        else:
            rest_ns = min(rest_ns, end_ns)
    work.soonest_ns[block] = min(work.soonest_ns[block], rest_ns)


# ---- Launches ----


@inlined
def wake(work: Work, device: int) -> None:
    """Let the launch phase look at a device."""
    if work.engines[device, AWAKE] == 0:
        work.engines[device, AWAKE] = 1
        work.awake[work.counts[N_AWAKE]] = device
        work.counts[N_AWAKE] += 1


@inlined
def come_to(program: Program, work: Work, device: int, launch: int) -> None:
    """Make `launch` (or NONE) the current one of a device."""
    work.engines[device, CURRENT] = launch
    work.engines[device, TURN] = NONE
    if launch >= 0:
        work.engines[device, WAIT] = program.launches[launch, WAITS]
        run_ahead(program, work, device)


@inlined
def run_ahead(program: Program, work: Work, device: int) -> None:
    """Pass the WAITs for transfers that have arrived; behind the last it is the launch's turn."""
    launch = work.engines[device, CURRENT]
    if launch < 0:
        return
    wait = work.engines[device, WAIT]
    end = program.launches[launch, WAITS_END]
    while wait < end and work.copy_log[program.rows[wait], STATE] == ARRIVED:
        wait += 1
    work.engines[device, WAIT] = wait
    if wait == end:
        work.engines[device, TURN] = launch
        wake(work, device)


@inlined
def start_launches(program: Program, work: Work, now_ns: int) -> None:
    """Start the launch of every woken device that is free (plain worlds)."""
    for index in range(work.counts[N_AWAKE]):
        device = work.awake[index]
        work.engines[device, AWAKE] = 0
        launch = work.engines[device, TURN]
        if launch >= 0 and work.resources[device, BUSY] == 0:
            work.resources[device, BUSY] = 1
            work.launch_log[launch, STARTED] = now_ns
            end_later(work, device, now_ns + program.launches[launch, LAUNCH_NS])
    work.counts[N_AWAKE] = 0


@inlined
def end_launch(
    program: Program,
    work: Work,
    extras: Extras | None,
    more: ExtraWork | None,
    device: int,
    now_ns: int,
) -> None:
    """Free the device, go on to its next launch, and send the outputs."""
    launch = work.engines[device, CURRENT]
    work.launch_log[launch, ENDED] = now_ns
    work.counts[LAST_NS] = now_ns  # time never goes back
    work.resources[device, BUSY] = 0
    mark(work, device)
    if extras is not None:
        release_launch_memory(program, work, extras, more, launch, now_ns)
    come_to(program, work, device, work.follower[launch])
    for row in range(program.launches[launch, SENDS], program.launches[launch, SENDS_END]):
        send(program, work, extras, more, program.rows[row], now_ns)
    if extras is not None:
        end_dispatched(program, work, extras, more, launch, now_ns)
        begin = extras.launches[launch, LAUNCH_REVEALS]
        for row in range(begin, extras.launches[launch, LAUNCH_REVEALS_END]):
            revealer = program.rows[row]
            more.reveal_log[revealer, MADE_NS] = now_ns
            if device == program.machine[HOST]:
                tell_later(program, more, revealer, now_ns)


# ---- Transfers ----


@inlined
def mark(work: Work, resource: int) -> None:
    """Let the transfer phase look at the queue of a resource."""
    if work.resources[resource, MARKED] == 0 and work.resources[resource, FIRST] >= 0:
        work.resources[resource, MARKED] = 1
        work.marked[work.counts[N_MARKED]] = resource
        work.counts[N_MARKED] += 1


@inlined
def send(
    program: Program,
    work: Work,
    extras: Extras | None,
    more: ExtraWork | None,
    copy: int,
    now_ns: int,
) -> None:
    """Execute a COPY: queue the transfer or, if its reader is not known yet, hold it back."""
    if extras is None:
        enqueue(program, work, copy, now_ns)
    elif more.copy_gates[copy] > 0:
        work.copy_log[copy, STATE] = HELD_BACK
    else:
        more.due[work.counts[N_DUE]] = copy
        work.counts[N_DUE] += 1


@inlined
def enqueue(program: Program, work: Work, copy: int, now_ns: int) -> None:
    """Put a transfer that is ready into the queues of its link's resources."""
    work.copy_log[copy, READY] = now_ns
    work.copy_log[copy, STATE] = QUEUED
    shift = program.machine[SHIFT]
    link = program.copies[copy, LINK]
    node = copy << shift
    for row in range(program.links[link, HELD], program.links[link, HELD_END]):
        insert(program, work, copy, node, program.held[row], now_ns)
        node += 1
    mark(work, program.held[program.links[link, HELD]])


@inlined
def insert(program: Program, work: Work, copy: int, node: int, resource: int, now_ns: int) -> None:
    """Insert a transfer into one queue, before those of the same instant that rank behind it."""
    shift = program.machine[SHIFT]
    rank = program.copies[copy, RANK]
    before = work.resources[resource, LAST]
    after = NONE
    while before >= 0:
        other = before >> shift
        if work.copy_log[other, READY] < now_ns or program.copies[other, RANK] <= rank:
            break
        after = before
        before = work.nodes[before, BEFORE]
    work.nodes[node, NEXT] = after
    work.nodes[node, BEFORE] = before
    if before >= 0:
        work.nodes[before, NEXT] = node
    else:
        work.resources[resource, FIRST] = node
    if after >= 0:
        work.nodes[after, BEFORE] = node
    else:
        work.resources[resource, LAST] = node


@inlined
def startable(program: Program, work: Work, resource: int) -> int:
    """Return the first transfer of a queue if it may start now, or NONE.

    What may start shares no resource with anything else that may, so nothing depends on the order
    in which queues are looked at.
    """
    node = work.resources[resource, FIRST]
    if node < 0 or work.resources[resource, BUSY] != 0:
        return NONE
    shift = program.machine[SHIFT]
    copy = node >> shift
    link = program.copies[copy, LINK]
    for row in range(program.links[link, HELD], program.links[link, HELD_END]):
        other = program.held[row]
        first = work.resources[other, FIRST]
        if work.resources[other, BUSY] != 0 or first < 0 or first >> shift != copy:
            return NONE
    return copy


@inlined
def start_transfers(program: Program, work: Work, now_ns: int) -> None:
    """Start every transfer that may start now (plain worlds)."""
    for index in range(work.counts[N_MARKED]):
        resource = work.marked[index]
        work.resources[resource, MARKED] = 0
        copy = startable(program, work, resource)
        if copy >= 0:
            start_transfer(program, work, copy, now_ns, program.copies[copy, COPY_NS])
    work.counts[N_MARKED] = 0


@inlined
def start_transfer(program: Program, work: Work, copy: int, now_ns: int, lasts_ns: int) -> None:
    """Take a transfer out of its queues and occupy its resources."""
    node = copy << program.machine[SHIFT]
    link = program.copies[copy, LINK]
    slot = program.held[program.links[link, HELD]]
    for row in range(program.links[link, HELD], program.links[link, HELD_END]):
        resource = program.held[row]
        after = work.nodes[node, NEXT]
        work.resources[resource, BUSY] = 1
        work.resources[resource, FIRST] = after
        if after >= 0:
            work.nodes[after, BEFORE] = NONE
        else:
            work.resources[resource, LAST] = NONE
        node += 1
    work.resources[slot, RUNNING] = copy
    work.copy_log[copy, COPY_STARTED] = now_ns
    end_later(work, slot, now_ns + lasts_ns)


@inlined
def end_transfer(
    program: Program,
    work: Work,
    extras: Extras | None,
    more: ExtraWork | None,
    copy: int,
    now_ns: int,
) -> None:
    """Free the resources and hand over what the transfer carried."""
    n_devices = program.machine[DEVICES_END] - program.machine[DEVICES]
    work.copy_log[copy, COPY_ENDED] = now_ns
    link = program.copies[copy, LINK]
    for row in range(program.links[link, HELD], program.links[link, HELD_END]):
        resource = program.held[row]
        work.resources[resource, BUSY] = 0
        mark(work, resource)
        if resource < n_devices and work.engines[resource, TURN] >= 0:
            wake(work, resource)
    if extras is not None:
        end_full_transfer(program, work, extras, more, copy, now_ns)
    else:
        if program.copies[copy, ANSWER] == 1:
            work.counts[LAST_NS] = now_ns
        work.copy_log[copy, STATE] = ARRIVED
        arrive(program, work, program.copies[copy, DST])


@inlined
def arrive(program: Program, work: Work, device: int) -> None:
    """Let a device go on that may have waited for what has arrived."""
    if work.engines[device, TURN] < 0:
        run_ahead(program, work, device)
