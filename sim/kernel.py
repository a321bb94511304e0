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

# Columns of worlds (B, 23): where the rows of each world lie, and facts about it.
(
    MACHINE, LAUNCHES, LAUNCHES_END, COPIES, COPIES_END, FIRST_NS, REVEALERS, REVEALERS_END,
    GROUPS, GROUPS_END, ARRIVALS, ARRIVALS_END, BUFFERS, BUFFERS_END, CELLS, CELLS_END, STOCK,
    LOADS, OWN_DEVICES, ROWS, ROWS_END, OWN_PACES, OWN_PACES_END,
) = range(23)  # fmt: skip

# Columns of machines (M, 13).
(
    DEVICES, RESOURCES, SHIFT, HOST, MODE, KNOWN_AFTER_NS, HANDOFF_NS, DEPTH, LOCKS, LINKS,
    LINKS_END, OWN_HELD, OWN_HELD_END,
) = range(13)  # fmt: skip

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
OUTCOME, WHO, WHERE, NEEDED, FREE, LOADED = range(6)  # columns of outcomes (B, 6)
"""OUT_OF_MEMORY: launch, device, bytes, bytes. UNPRICED: link, -, bytes of a merged
transfer. LOADED: rows of the load log."""

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
    n_devices = machine[DEVICES]
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
    for device in range(machine[DEVICES]):
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
    n_devices = machine[DEVICES]
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
    n_devices = program.machine[DEVICES]
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


# ---- What only the full kernel does ----


@inlined
def reset_extras(program: Program, work: Work, extras: Extras, more: ExtraWork) -> None:
    """Make the tables of the full kernel those of a world that has not begun."""
    machine = program.machine
    n_launches, n_devices = len(program.launches), len(extras.devices)
    more.fifo[:] = 0
    for launch in range(n_launches):
        more.launch_gates[launch] = extras.launches[launch, LAUNCH_GATES]
        more.dispatched[launch] = 0
        work.launch_log[launch, HOST_STARTED] = NONE
    for copy in range(len(extras.copies)):
        more.copy_gates[copy] = extras.copies[copy, COPY_GATES]
        work.copy_log[copy, COPY_STARTED] = NONE
    for revealer in range(len(extras.revealers)):
        more.reveal_log[revealer, KNOWN_NS] = NONE
    for device in range(n_devices):
        more.walks[device, :] = 0
        more.walks[device, WANTS_SINCE] = NEVER
        more.walks[device, WALK_LAUNCH] = work.engines[device, CURRENT]
    if machine[MODE] == SINGLE:
        more.walks[0, WALK_LAUNCH] = 0 if n_launches else NONE
    reset_memory(extras, more)


@inlined
def push_due(
    program: Program, work: Work, extras: Extras, more: ExtraWork, now_ns: int
) -> None:
    """Queue what became ready; copies of one launch to one destination travel together."""
    n_due = work.counts[N_DUE]
    sort(program, work, more.due, n_due)
    work.counts[N_DUE] = 0
    at = 0
    while at < n_due:
        leader = more.due[at]
        work.copy_log[leader, CHAIN] = NONE
        work.copy_log[leader, LASTS] = program.copies[leader, COPY_NS]
        size_bytes = extras.copies[leader, BYTES]
        at += 1
        joined = False
        while at < n_due and program.copies[more.due[at], RANK] == program.copies[leader, RANK]:
            copy = more.due[at]
            work.copy_log[copy, STATE] = JOINED
            work.copy_log[copy, CHAIN] = work.copy_log[leader, CHAIN]
            work.copy_log[leader, CHAIN] = copy
            size_bytes += extras.copies[copy, BYTES]
            joined = True
            at += 1
        if joined:
            link = program.copies[leader, LINK]
            work.copy_log[leader, LASTS] = merged_ns(program, work, extras, more, link, size_bytes)
        enqueue(program, work, leader, now_ns)


@inlined
def sort(program: Program, work: Work, copies: IntArray, count: int) -> None:
    """Sort transfers by (ready time, rank) in place: Shell's sort with Knuth's gaps."""
    gap = 1
    while gap < count // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for index in range(gap, count):
            copy = copies[index]
            at = index - gap
            while at >= 0 and behind(program, work, copies[at], copy):
                copies[at + gap] = copies[at]
                at -= gap
            copies[at + gap] = copy
        gap //= 3


@inlined
def behind(program: Program, work: Work, copy: int, other: int) -> bool:
    """Return whether `copy` comes after `other` in every queue; both queued, or both not yet."""
    if work.copy_log[copy, STATE] == COMING or work.copy_log[copy, STATE] == HELD_BACK:
        return program.copies[copy, RANK] > program.copies[other, RANK]
    ready_ns, other_ns = work.copy_log[copy, READY], work.copy_log[other, READY]
    if ready_ns != other_ns:
        return ready_ns > other_ns
    return program.copies[copy, RANK] > program.copies[other, RANK]


@inlined
def merged_ns(
    program: Program, work: Work, extras: Extras, more: ExtraWork, link: int, size_bytes: int
) -> int:
    """Return how long a merged transfer takes; stop the run if a table that Python reads knows."""
    bandwidth = program.links[link, BANDWIDTH]
    if bandwidth > 0:
        return affine_ns(program.links[link, LATENCY_NS], bandwidth, size_bytes)
    link += program.machine[LINKS]
    for row in range(len(extras.merged)):
        if extras.merged[row, 0] == link and extras.merged[row, 1] == size_bytes:
            return extras.merged[row, 2]
    if work.counts[FAILED] == 0:
        work.counts[FAILED] = 1
        more.status[OUTCOME] = UNPRICED
        more.status[WHO] = link
        more.status[NEEDED] = size_bytes
    return 0


@inlined
def affine_ns(latency_ns: int, bandwidth: int, size_bytes: int) -> int:
    """Return latency + ⌈bytes·10⁹ / bandwidth⌉, by long division: the product may pass 64 bits."""
    whole = size_bytes // bandwidth
    rest = size_bytes - whole * bandwidth
    for _ in range(9):
        rest *= 10
        digit = rest // bandwidth
        rest -= digit * bandwidth
        whole = 10 * whole + digit
    return latency_ns + whole + (1 if rest > 0 else 0)


@inlined
def start_transfers_in_order(
    program: Program, work: Work, extras: Extras, more: ExtraWork, now_ns: int
) -> None:
    """Start every transfer that may start now, in queue order: the first takes memory first."""
    count = 0
    for index in range(work.counts[N_MARKED]):
        resource = work.marked[index]
        work.resources[resource, MARKED] = 0
        copy = startable(program, work, resource)
        if copy >= 0 and work.copy_log[copy, STATE] == QUEUED:
            work.copy_log[copy, STATE] = JOINED  # so that its other resources do not find it too
            more.due[count] = copy
            count += 1
    work.counts[N_MARKED] = 0
    sort(program, work, more.due, count)
    for index in range(count):
        copy = more.due[index]
        reserve_for_transfer(program, work, extras, more, copy)
        start_transfer(program, work, copy, now_ns, work.copy_log[copy, LASTS])


@inlined
def end_full_transfer(
    program: Program, work: Work, extras: Extras, more: ExtraWork, copy: int, now_ns: int
) -> None:
    """Hand over what the transfer carried: weights, an input, or outputs."""
    if copy >= len(extras.copies):
        end_load(program, work, extras, more, copy - len(extras.copies), now_ns)
        return
    release_transfer_memory(program, work, extras, more, copy)
    machine, is_output = program.machine, program.copies[copy, IS_INPUT] == 0
    if is_output and machine[HANDOFF_NS] > 0:
        more.handed[more.fifo[HANDED_TO], 0] = now_ns + machine[HANDOFF_NS]
        more.handed[more.fifo[HANDED_TO], 1] = copy
        more.fifo[HANDED_TO] += 1
    else:
        hand_over(program, work, copy)
    if is_output and program.copies[copy, DST] == machine[HOST]:
        while copy >= 0:
            if program.copies[copy, ANSWER] == 1:
                work.counts[LAST_NS] = now_ns
            begin = extras.copies[copy, COPY_REVEALS]
            for row in range(begin, extras.copies[copy, COPY_REVEALS_END]):
                tell_later(program, more, program.rows[row], now_ns)
            copy = work.copy_log[copy, CHAIN]


@inlined
def hand_over(program: Program, work: Work, copy: int) -> None:
    """Let the readers see all that travelled together."""
    device = program.copies[copy, DST]
    while copy >= 0:
        work.copy_log[copy, STATE] = ARRIVED
        copy = work.copy_log[copy, CHAIN]
    arrive(program, work, device)


# ---- Revelation and arrival ----


@inlined
def tell_later(program: Program, more: ExtraWork, revealer: int, now_ns: int) -> None:
    """The value is on the host: it is known after the host has read it and decided."""
    more.telling[more.fifo[TELLING_TO], 0] = now_ns + program.machine[KNOWN_AFTER_NS]
    more.telling[more.fifo[TELLING_TO], 1] = revealer
    more.fifo[TELLING_TO] += 1


@inlined
def complete_extras(
    program: Program, work: Work, extras: Extras, more: ExtraWork, now_ns: int
) -> None:
    """Apply arrivals, hand-offs and values that become known now."""
    fifo = more.fifo
    n_arrivals = len(extras.arrivals)
    while fifo[ARRIVED_UP_TO] < n_arrivals:
        if extras.arrivals[fifo[ARRIVED_UP_TO], AT_NS] != now_ns:
            break
        open_gate(program, work, extras, more, extras.arrivals[fifo[ARRIVED_UP_TO], ITEM])
        fifo[ARRIVED_UP_TO] += 1
    while fifo[HANDED_FROM] < fifo[HANDED_TO] and more.handed[fifo[HANDED_FROM], 0] == now_ns:
        hand_over(program, work, more.handed[fifo[HANDED_FROM], 1])
        fifo[HANDED_FROM] += 1
    while fifo[TELLING_FROM] < fifo[TELLING_TO] and more.telling[fifo[TELLING_FROM], 0] == now_ns:
        revealer = more.telling[fifo[TELLING_FROM], 1]
        fifo[TELLING_FROM] += 1
        more.reveal_log[revealer, KNOWN_NS] = now_ns
        begin = extras.revealers[revealer, SHOWS]
        for row in range(begin, extras.revealers[revealer, SHOWS_END]):
            open_gate(program, work, extras, more, program.rows[row])


@inlined
def open_gate(program: Program, work: Work, extras: Extras, more: ExtraWork, item: int) -> None:
    """Take away one of the reasons why a launch, a transfer or a group of buffers waits."""
    n_launches, n_copies = len(program.launches), len(extras.copies)
    if item < n_launches:
        more.launch_gates[item] -= 1
    elif item < n_launches + n_copies:
        copy = item - n_launches
        more.copy_gates[copy] -= 1
        if more.copy_gates[copy] == 0 and work.copy_log[copy, STATE] == HELD_BACK:
            more.due[work.counts[N_DUE]] = copy
            work.counts[N_DUE] += 1
    else:
        open_group_gate(extras, more, item - n_launches - n_copies)


# ---- Hosts ----


@inlined
def dispatch(program: Program, work: Work, extras: Extras, more: ExtraWork, now_ns: int) -> None:
    """Begin the host work that may begin now."""
    mode = program.machine[MODE]
    if mode == REPLAY:
        for device in range(len(extras.devices)):
            launch = work.engines[device, CURRENT]
            if launch >= 0 and more.walks[device, BEGUN] == 0 and more.launch_gates[launch] == 0:
                more.walks[device, BEGUN] = 1
                if extras.devices[device, IS_CPU] == 1:
                    more.walks[device, REPLAY_DONE] = 1
                else:
                    work_ns = extras.launches[launch, DISPATCH_NS]
                    begin_host_work(program, work, device, launch, work_ns, now_ns)
    elif mode == SINGLE:
        take_next(program, work, extras, more, 0, now_ns)
    elif mode != NO_HOST:
        for walk in range(len(extras.devices)):
            take_next(program, work, extras, more, walk, now_ns)


@inlined
def take_next(
    program: Program, work: Work, extras: Extras, more: ExtraWork, walk: int, now_ns: int
) -> None:
    """Let an idle walk go on to its next launch, if that is released and its queue has room."""
    launch = more.walks[walk, WALK_LAUNCH]
    if launch < 0 or more.walks[walk, WALK_BUSY] != 0:
        return
    device = program.launches[launch, DEVICE]
    full = more.walks[device, UNFINISHED] >= program.machine[DEPTH]
    if full or more.launch_gates[launch] > 0:
        return
    more.walks[device, UNFINISHED] += 1
    if extras.devices[device, IS_CPU] == 1:
        more.walks[walk, WALK_BUSY] = 2
        more.dispatched[launch] = 1
    else:
        do_host_work(program, work, extras, more, walk, now_ns)


@inlined
def host_work_ns(program: Program, extras: Extras, launch: int) -> int:
    """Return the host time before a CUDA launch, or after a CPU launch."""
    if extras.devices[program.launches[launch, DEVICE], IS_CPU] == 1:
        return extras.launches[launch, PUSH_NS]
    return extras.launches[launch, DISPATCH_NS] + extras.launches[launch, PUSH_NS]


@inlined
def do_host_work(
    program: Program, work: Work, extras: Extras, more: ExtraWork, walk: int, now_ns: int
) -> None:
    """Begin the host work of a walk's launch, or queue it for the lock."""
    launch = more.walks[walk, WALK_LAUNCH]
    more.walks[walk, WALK_BUSY] = 1
    if program.machine[MODE] == THREADS:
        more.walks[walk, WANTS_SINCE] = now_ns
    else:
        work_ns = host_work_ns(program, extras, launch)
        begin_host_work(program, work, walk, launch, work_ns, now_ns)


@inlined
def begin_host_work(
    program: Program, work: Work, walk: int, launch: int, work_ns: int, now_ns: int
) -> None:
    """Occupy a walk for `work_ns`."""
    if work_ns > 0:
        work.launch_log[launch, HOST_STARTED] = now_ns
        work.launch_log[launch, HOST_ENDED] = now_ns + work_ns
    end_later(work, program.machine[RESOURCES] + walk, now_ns + work_ns)


@inlined
def end_host_work(
    program: Program, work: Work, extras: Extras, more: ExtraWork, walk: int, now_ns: int
) -> None:
    """Let the launch go that was dispatched, and the walk go on."""
    if program.machine[MODE] == REPLAY:
        more.walks[walk, REPLAY_DONE] = 1
        return
    more.dispatched[more.walks[walk, WALK_LAUNCH]] = 1
    go_on(program, work, more, walk)


@inlined
def go_on(program: Program, work: Work, more: ExtraWork, walk: int) -> None:
    """Turn a walk to its next launch."""
    launch = more.walks[walk, WALK_LAUNCH]
    after = work.follower[launch]
    if program.machine[MODE] == SINGLE:
        after = launch + 1 if launch + 1 < len(program.launches) else NONE
    more.walks[walk, WALK_LAUNCH] = after
    more.walks[walk, WALK_BUSY] = 0


@inlined
def end_dispatched(
    program: Program, work: Work, extras: Extras, more: ExtraWork, launch: int, now_ns: int
) -> None:
    """Free the queue slot of a launch; on a CPU its walk pays for the transfers and goes on."""
    mode = program.machine[MODE]
    if mode == NO_HOST or mode == REPLAY:
        return
    device = program.launches[launch, DEVICE]
    more.walks[device, UNFINISHED] -= 1
    if extras.devices[device, IS_CPU] == 1:
        walk = 0 if mode == SINGLE else device
        if extras.launches[launch, PUSH_NS] > 0:
            do_host_work(program, work, extras, more, walk, now_ns)
        else:
            go_on(program, work, more, walk)


@inlined
def start_all_launches(
    program: Program, work: Work, extras: Extras, more: ExtraWork, now_ns: int
) -> None:
    """Start every launch that may start now, by device; CPU launches may need the lock first."""
    work.counts[N_AWAKE] = 0
    for device in range(len(extras.devices)):
        work.engines[device, AWAKE] = 0
        launch = work.engines[device, TURN]
        ready = launch >= 0 and work.resources[device, BUSY] == 0
        ready = ready and may_start(program, extras, more, launch, device)
        if needs_lock(program, extras, more, device):
            if not ready:
                more.walks[device, WANTS_SINCE] = NEVER  # it will queue anew
            elif more.walks[device, WANTS_SINCE] == NEVER:
                more.walks[device, WANTS_SINCE] = now_ns
        elif ready:
            start_launch(program, work, extras, more, launch, now_ns)


@inlined
def may_start(
    program: Program, extras: Extras, more: ExtraWork, launch: int, device: int
) -> bool:
    """Return whether the weights are there and the host has done its part."""
    if not has_weights(extras, more, launch, device):
        return False
    mode = program.machine[MODE]
    if mode == NO_HOST:
        return more.launch_gates[launch] == 0
    if mode == REPLAY:
        return more.walks[device, REPLAY_DONE] == 1 and more.launch_gates[launch] == 0
    return more.dispatched[launch] == 1


@inlined
def needs_lock(program: Program, extras: Extras, more: ExtraWork, device: int) -> bool:
    """Return whether the next launch of a device must have the lock to start."""
    return (
        program.machine[MODE] == THREADS
        and program.machine[LOCKS] == 1
        and extras.devices[device, IS_CPU] == 1
        and more.walks[device, WALK_BUSY] != 1
    )


@inlined
def grant_lock(
    program: Program, work: Work, extras: Extras, more: ExtraWork, now_ns: int
) -> None:
    """Give an idle lock to the first in (ready time, plan position): host work or a launch."""
    lock = len(work.end_ns) - 1
    if program.machine[MODE] != THREADS or work.end_ns[lock] != NEVER:
        return
    first, first_ns, first_launch = NONE, NEVER, NEVER
    for walk in range(len(extras.devices)):
        since_ns, launch = more.walks[walk, WANTS_SINCE], more.walks[walk, WALK_LAUNCH]
        if since_ns < first_ns or (since_ns == first_ns < NEVER and launch < first_launch):
            first, first_ns, first_launch = walk, since_ns, launch
    if first < 0:
        return
    more.walks[first, WANTS_SINCE] = NEVER
    if more.walks[first, WALK_BUSY] == 1:
        work_ns = host_work_ns(program, extras, first_launch)
        end_later(work, lock, now_ns + work_ns)
        begin_host_work(program, work, first, first_launch, work_ns, now_ns)
    else:
        pace = pace_at(extras, first, now_ns)
        end_later(work, lock, now_ns + extras.share_ns[first_launch, pace])
        start_launch(program, work, extras, more, first_launch, now_ns)


@inlined
def pace_at(extras: Extras, device: int, now_ns: int) -> int:
    """Return how many slowdowns of a device have begun."""
    begin = extras.devices[device, PACES]
    pace = 0
    for row in range(begin, extras.devices[device, PACES_END]):
        if extras.paces_ns[row] <= now_ns:
            pace = row - begin + 1
    return pace


@inlined
def start_launch(
    program: Program, work: Work, extras: Extras, more: ExtraWork, launch: int, now_ns: int
) -> None:
    """Reserve memory for the outputs and occupy the device."""
    device = program.launches[launch, DEVICE]
    work.resources[device, BUSY] = 1
    work.launch_log[launch, STARTED] = now_ns
    more.stores[device, USED_BY] = extras.launches[launch, CELL]
    reserve(program, work, extras, more, device, extras.launches[launch, MAKES_BYTES], launch)
    lasts_ns = extras.lasts_ns[launch, pace_at(extras, device, now_ns)]
    end_later(work, device, now_ns + lasts_ns)


# ---- Weights and memory ----


@inlined
def reset_memory(extras: Extras, more: ExtraWork) -> None:
    """Put the weights where they are at time 0."""
    n_cells, n_buffers, n_groups = len(extras.cells), len(extras.buffers), len(extras.group_gates)
    for device in range(len(extras.devices)):
        free_bytes = extras.devices[device, CAPACITY]
        for cell in range(n_cells):
            at = device * n_cells + cell
            more.last_use[at] = FRESH if extras.stock[at, RESIDENT] == 1 else GONE
            if extras.stock[at, RESIDENT] == 1:
                free_bytes -= extras.cells[cell, CELL_BYTES]
        more.stores[device, FREE_BYTES] = free_bytes
        more.stores[device, LOADING] = NONE
        more.stores[device, USED_BY] = NONE
    for buffer in range(n_buffers):
        more.holds[buffer] = extras.buffers[buffer, READERS] + 1  # and who makes it
    for group in range(n_groups):
        more.group_gates[group] = extras.group_gates[group]
        more.kept[n_buffers + group] = NONE


@inlined
def has_weights(extras: Extras, more: ExtraWork, launch: int, device: int) -> bool:
    """Return whether the weights of a launch are on its device."""
    if extras.devices[device, HOLDS_WEIGHTS] == 0:
        return True
    return more.last_use[device * len(extras.cells) + extras.launches[launch, CELL]] != GONE


@inlined
def begin_loads(
    program: Program, work: Work, extras: Extras, more: ExtraWork, now_ns: int
) -> None:
    """Make room for, and queue, the weights that idle devices need next."""
    for device in range(len(extras.devices)):
        launch = work.engines[device, CURRENT]
        if extras.devices[device, HOLDS_WEIGHTS] == 1 and launch >= 0:
            idle = work.resources[device, BUSY] == 0 and more.stores[device, LOADING] < 0
            released = more.launch_gates[launch] == 0
            if idle and released and not has_weights(extras, more, launch, device):
                begin_load(program, work, extras, more, launch, now_ns)


@inlined
def begin_load(
    program: Program, work: Work, extras: Extras, more: ExtraWork, launch: int, now_ns: int
) -> None:
    """Reserve memory for the weights of `launch` and queue them on the link from the host."""
    device, cell = program.launches[launch, DEVICE], extras.launches[launch, CELL]
    more.stores[device, LOADING] = cell
    reserve(program, work, extras, more, device, extras.cells[cell, CELL_BYTES], launch)
    load = len(extras.copies) + device
    program.copies[load, RANK] = 3 * (launch * len(extras.devices) + device) + 2
    work.copy_log[load, CHAIN] = NONE
    work.copy_log[load, LASTS] = extras.stock[device * len(extras.cells) + cell, LOAD_NS]
    enqueue(program, work, load, now_ns)


@inlined
def end_load(
    program: Program, work: Work, extras: Extras, more: ExtraWork, device: int, now_ns: int
) -> None:
    """The weights are there, and count as used."""
    cell = more.stores[device, LOADING]
    more.stores[device, LOADING] = NONE
    more.last_use[device * len(extras.cells) + cell] = now_ns
    row = work.counts[N_LOADS]
    more.load_log[row, LOAD_DEVICE] = device
    more.load_log[row, LOAD_CELL] = cell
    more.load_log[row, LOAD_STARTED] = work.copy_log[len(extras.copies) + device, COPY_STARTED]
    more.load_log[row, LOAD_ENDED] = now_ns
    work.counts[N_LOADS] += 1


@inlined
def reserve_for_transfer(
    program: Program, work: Work, extras: Extras, more: ExtraWork, copy: int
) -> None:
    """Reserve what a transfer brings; loads did so before."""
    if copy >= len(extras.copies):
        return
    launch = program.copies[copy, RANK] // 3 // len(extras.devices)
    device = program.copies[copy, DST]
    needed = 0
    while copy >= 0:
        needed += extras.copies[copy, BYTES]
        copy = work.copy_log[copy, CHAIN]
    reserve(program, work, extras, more, device, needed, launch)


@inlined
def reserve(
    program: Program,
    work: Work,
    extras: Extras,
    more: ExtraWork,
    device: int,
    needed: int,
    launch: int,
) -> None:
    """Take bytes of a device, evicting idle weights if needed; or end the run."""
    n_cells = len(extras.cells)
    while more.stores[device, FREE_BYTES] < needed and work.counts[FAILED] == 0:
        cell = victim(extras, more, device)
        if cell < 0:
            work.counts[FAILED] = 1
            more.status[OUTCOME] = OUT_OF_MEMORY
            more.status[WHO] = launch
            more.status[WHERE] = device
            more.status[NEEDED] = needed
            more.status[FREE] = more.stores[device, FREE_BYTES]
        else:
            more.last_use[device * n_cells + cell] = GONE
            more.stores[device, FREE_BYTES] += extras.cells[cell, CELL_BYTES]
    more.stores[device, FREE_BYTES] -= needed


@inlined
def victim(extras: Extras, more: ExtraWork, device: int) -> int:
    """Return the idle cell used least recently, ties by name, or NONE."""
    if extras.devices[device, LOAD_LINK] < 0:
        return NONE
    n_cells = len(extras.cells)
    found = NONE
    for cell in range(n_cells):
        used_ns = more.last_use[device * n_cells + cell]
        if used_ns == GONE or cell == more.stores[device, USED_BY]:
            continue
        if extras.cells[cell, CELL_BYTES] == 0:
            continue
        best_ns = NEVER if found < 0 else more.last_use[device * n_cells + found]
        by_name = found >= 0 and extras.cells[cell, NAME_RANK] < extras.cells[found, NAME_RANK]
        if used_ns < best_ns or (used_ns == best_ns and by_name):
            found = cell
    return found


@inlined
def let_go(extras: Extras, more: ExtraWork, buffer: int) -> None:
    """Free a buffer if nobody needs it any more; if only its open group does, remember that."""
    more.holds[buffer] -= 1
    if more.holds[buffer] == 0:
        group = extras.buffers[buffer, BUFFER_GROUP]
        if group >= 0 and more.group_gates[group] > 0:
            more.kept[buffer] = more.kept[len(extras.buffers) + group]
            more.kept[len(extras.buffers) + group] = buffer
        else:
            free(extras, more, buffer)


@inlined
def free(extras: Extras, more: ExtraWork, buffer: int) -> None:
    """Give the bytes of a buffer back."""
    device = extras.buffers[buffer, BUFFER_DEVICE]
    more.stores[device, FREE_BYTES] += extras.buffers[buffer, BUFFER_BYTES]


@inlined
def open_group_gate(extras: Extras, more: ExtraWork, group: int) -> None:
    """Free what a group keeps, once nothing hidden or late can read it any more."""
    more.group_gates[group] -= 1
    if more.group_gates[group] == 0:
        buffer = more.kept[len(extras.buffers) + group]
        while buffer >= 0:
            free(extras, more, buffer)
            buffer = more.kept[buffer]


@inlined
def release_launch_memory(
    program: Program, work: Work, extras: Extras, more: ExtraWork, launch: int, now_ns: int
) -> None:
    """Note the use of the weights, and free what the launch was the last to read."""
    device, cell = program.launches[launch, DEVICE], extras.launches[launch, CELL]
    more.stores[device, USED_BY] = NONE
    if extras.devices[device, HOLDS_WEIGHTS] == 1:
        more.last_use[device * len(extras.cells) + cell] = now_ns
    for row in range(extras.launches[launch, MAKES], extras.launches[launch, MAKES_END]):
        let_go(extras, more, program.rows[row])
    for row in range(extras.launches[launch, READS], extras.launches[launch, READS_END]):
        let_go(extras, more, program.rows[row])


@inlined
def release_transfer_memory(
    program: Program, work: Work, extras: Extras, more: ExtraWork, copy: int
) -> None:
    """Free what a transfer was the last to read."""
    while copy >= 0:
        for row in range(extras.copies[copy, COPY_MAKES], extras.copies[copy, COPY_MAKES_END]):
            let_go(extras, more, program.rows[row])
        for row in range(extras.copies[copy, COPY_READS], extras.copies[copy, COPY_READS_END]):
            let_go(extras, more, program.rows[row])
        copy = work.copy_log[copy, CHAIN]


# ---- Many runs ----


class Tables(NamedTuple):
    """Programs and machines of B worlds, one after the other; see the column names."""

    worlds: IntArray
    machines: IntArray
    launches: IntArray
    copies: IntArray
    rows: IntArray
    links: IntArray
    held: IntArray


@compiled
def run_batch(
    tables: Tables,
    work: Work,
    extras: Extras | None,
    more: ExtraWork | None,
    chosen: IntArray,
    recording: int,
    makespan_ns: IntArray,
    outcomes: IntArray,
) -> None:
    """Run the `chosen` worlds; the logs of `work` and `more` are those of all B if `recording`.

    Without recording all worlds write to the same place in the logs.
    """
    for world in chosen:
        row = tables.worlds[world]
        program = program_of(tables, row)
        machine = program.machine
        n_devices = machine[DEVICES]
        slots = machine[RESOURCES]
        if extras is not None:
            slots += n_devices + 1
        own_work = work_of(work, row, slots, recording)
        if extras is not None:
            own = extras_of(extras, row, machine)
            own_more = extra_work_of(more, row, recording, outcomes[world])
            run_world(program, own_work, own, own_more)
        else:
            run_world(program, own_work, None, None)
        if own_work.counts[FAILED] == 0:
            makespan_ns[world] = own_work.counts[LAST_NS] - row[FIRST_NS]
            outcomes[world, OUTCOME] = OK
            if extras is not None:
                outcomes[world, LOADED] = own_work.counts[N_LOADS]
            for device in range(n_devices):
                if own_work.engines[device, CURRENT] >= 0:
                    outcomes[world, OUTCOME] = STUCK


@inlined
def program_of(tables: Tables, row: IntArray) -> Program:
    """Return the views of one world."""
    machine = tables.machines[row[MACHINE]]
    return Program(
        machine,
        tables.launches[row[LAUNCHES] : row[LAUNCHES_END]],
        tables.copies[row[COPIES] : row[COPIES_END]],
        tables.rows[row[ROWS] : row[ROWS_END]],
        tables.links[machine[LINKS] : machine[LINKS_END]],
        tables.held[machine[OWN_HELD] : machine[OWN_HELD_END]],
    )


@inlined
def work_of(work: Work, row: IntArray, slots: int, recording: int) -> Work:
    """Return the work tables with the logs of one world."""
    launches = row[LAUNCHES] * recording
    copies = row[COPIES] * recording
    blocks = ((slots - 1) >> BLOCK_BITS) + 1
    return Work(
        work.end_ns[:slots],
        work.soonest_ns[:blocks],
        work.resources,
        work.engines,
        work.nodes,
        work.marked,
        work.awake,
        work.counts,
        work.follower,
        work.launch_log[launches : launches + row[LAUNCHES_END] - row[LAUNCHES]],
        work.copy_log[copies : copies + row[COPIES_END] - row[COPIES]],
    )


@inlined
def extras_of(extras: Extras, row: IntArray, machine: IntArray) -> Extras:
    """Return the views of one world."""
    n_devices = machine[DEVICES]
    n_cells = row[CELLS_END] - row[CELLS]
    return Extras(
        extras.launches[row[LAUNCHES] : row[LAUNCHES_END]],
        extras.copies[row[COPIES] : row[COPIES_END] - n_devices],  # not those of the loads
        extras.revealers[row[REVEALERS] : row[REVEALERS_END]],
        extras.group_gates[row[GROUPS] : row[GROUPS_END]],
        extras.arrivals[row[ARRIVALS] : row[ARRIVALS_END]],
        extras.devices[row[OWN_DEVICES] : row[OWN_DEVICES] + n_devices],
        extras.buffers[row[BUFFERS] : row[BUFFERS_END]],
        extras.cells[row[CELLS] : row[CELLS_END]],
        extras.stock[row[STOCK] : row[STOCK] + n_devices * n_cells],
        extras.paces_ns[row[OWN_PACES] : row[OWN_PACES_END]],
        extras.lasts_ns[row[LAUNCHES] : row[LAUNCHES_END]],
        extras.share_ns[row[LAUNCHES] : row[LAUNCHES_END]],
        extras.merged,
    )


@inlined
def extra_work_of(more: ExtraWork, row: IntArray, recording: int, status: IntArray) -> ExtraWork:
    """Return the work tables of the full kernel with the logs of one world."""
    return ExtraWork(
        more.launch_gates,
        more.dispatched,
        more.copy_gates,
        more.due,
        more.walks,
        more.handed,
        more.telling,
        more.stores,
        more.last_use,
        more.holds,
        more.group_gates,
        more.kept,
        more.fifo,
        more.load_log[row[LOADS] * recording :],
        more.reveal_log[row[REVEALERS] * recording :],
        status,
    )
