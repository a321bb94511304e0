# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""The compiled simulator: interprets lowered programs, many worlds per call, in exact ns.

It does what `dynpartition.sim.reference` defines, to the ns; that module explains the rules. All
compiled code stands here, because numba notices edits in this file only. Most worlds of search and
training are plain: no host mode, reveals, arrivals, memory or slowdowns, and few resources. They
have a loop of their own, with bits for sets; the full kernel runs every world.

Tables lie one after the other in one int64 array `t`, state and logs in another, `s`; `Places` says
where. An entry is read as t[place + width * row + COLUMN].

Tables have named columns. Letters: L launches, C transfers, D devices, R resources (the
devices come first), K links, U buffers, G request groups, V revealers, B worlds. In the full kernel
each world has D more rows of transfers: row C + d is the load of weights under way to device d.

One instant settles in rounds, as in the reference. What ends next is found by scanning the end
times of the R resources (a transfer ends in the slot of its first resource), the D host walks and
the lock, in blocks of 64 of which the soonest time is kept. Transfers become ready in the order of
time, so queues are lists in which a newcomer passes only those of the same instant.
"""

from __future__ import annotations

from typing import NamedTuple

from dynpartition.compiled import compiled, inlined
from dynpartition.types import IntArray

NEVER = 1 << 62
NONE = -1
BLOCK_BITS = 6  # 64 slots per block

NO_HOST, SINGLE, THREADS, PROCESSES, REPLAY = range(5)  # Places.mode

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

SHOWS, SHOWS_END = range(2)  # columns of revealers (V, 2)
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

OK, OUT_OF_MEMORY, UNPRICED, STUCK, ILLEGAL = range(5)
OUTCOME, WHO, WHERE, NEEDED, FREE, LOADED = range(6)  # columns of outcomes (B, 6)
N_OUTCOMES = 6
"""OUT_OF_MEMORY: launch, device, bytes, bytes. UNPRICED: link, -, bytes of a merged
transfer. LOADED: rows of the load log."""

# Columns of the work tables `resources` (R, 5) and `nodes` (a transfer in one queue, 2).
FIRST, LAST, BUSY, RUNNING, MARKED = range(5)
NEXT, BEFORE = range(2)
# Columns of the work table `engines` (D, 4).
CURRENT, TURN, WAIT, AWAKE = range(4)
N_MARKED, N_AWAKE, LAST_NS, FAILED, N_DUE, N_LOADS, AGAIN = range(7)  # `counts`
N_COUNTS = 7
# Columns of the work table `walks` (D, 6).
WALK_LAUNCH, WALK_BUSY, WANTS_SINCE, UNFINISHED, BEGUN, REPLAY_DONE = range(6)
# Columns of the work table `stores` (D, 3).
FREE_BYTES, LOADING, USED_BY = range(3)

# The plain loop. Sets of devices and sets of resources are bits; resources are numbered anew.
BITS_MAX = 62
"""Devices, and resources that links hold, of a machine whose worlds the plain loop can run."""
HOLDS, BLOCKS = range(2)  # columns of link_bits (K, 2): resources held, devices blocked
# Columns of launches (L + 1, 4); what the last row sends are the host inputs.
RUN_NS, FOLLOWER, OUT, OUT_END = range(4)
# Columns of transfers (C, 8). WAKES: devices. SLOT: where its end stands.
HELD_BITS, MOVE_NS, ORDER, WAKES, IS_ANSWER, SEEN_BY, SEEN_BY_END, SLOT = range(8)
# The work tables stand at the beginning of `s`: (D + resources,) END and DOING, what runs there;
# (resources,) HEAD and TAIL, places of queues in `s`; (D,) NEXT_UP, the next launch.
END, DOING, HEAD, TAIL, NEXT_UP = range(0, 5 * 128, 128)
N_PLAIN_WORK = 5 * 128


N_OWN, N_SHARED = 45, 23
"""How many of the `Places` are a world's own, and how many belong to the shared state."""


class Places(NamedTuple):
    """Where things are, and facts about one world: all int64.

    Compiled code gets two arrays: `t`, the tables, and `s`, the state and the logs. Passing arrays
    one by one would cost more than the simulation.
    """

    # Facts.
    n_launches: int
    n_copies: int
    """Without the rows for loads."""
    n_devices: int
    n_resources: int
    shift: int
    """A transfer has up to 1 << shift queues."""
    host: int
    mode: int
    known_after_ns: int
    handoff_ns: int
    depth: int
    """Launches dispatched and unfinished per device, at most."""
    locks: int
    """Whether CPU launches need the lock."""
    n_links: int
    first_link: int
    """Row of the first link among those of all machines."""
    first_ns: int
    """Earliest arrival."""
    n_revealers: int
    n_groups: int
    n_arrivals: int
    n_buffers: int
    n_cells: int
    n_paces: int
    """Columns of lasts_ns and share_ns."""
    n_merged: int
    n_slots: int
    """Of end_ns: resources and, in the full kernel, host walks and the lock."""
    n_blocks: int
    # Tables, places in `t`: see the names of the columns.
    launches: int
    copies: int
    rows: int
    """Ragged rows, of which other tables hold ranges."""
    links: int
    held: int
    """The resources of each link, the devices that it blocks last."""
    launch_extras: int
    copy_extras: int
    revealers: int
    group_counts: int
    """(G,) revealers and arrivals that hold each group open."""
    arrivals: int
    device_extras: int
    buffers: int
    cells: int
    stock: int
    paces_ns: int
    """From when on each pace of a device counts."""
    lasts_ns: int
    """(L, n_paces) launch durations: as planned, then by pace."""
    share_ns: int
    """(L, n_paces) how long launches hold the lock."""
    merged: int
    """(n, 3): link, bytes, ns of merged transfers over links priced by a table."""
    # Logs, places in `s`: of this world.
    launch_log: int
    copy_log: int
    load_log: int
    reveal_log: int
    # State, places in `s`: shared by all worlds, one after the other.
    end_ns: int
    """(n_slots,) when what runs there ends, NEVER if nothing does."""
    soonest_ns: int
    """(n_blocks,) the soonest of each block."""
    resources: int
    engines: int
    nodes: int
    marked: int
    """(R,) resources whose queue may go on."""
    awake: int
    """(D,) devices that may start a launch."""
    counts: int
    follower: int
    """(L,) the next launch of the same device, or NONE."""
    launch_gates: int
    """(L,) revealers and arrivals that launches still wait for."""
    dispatched: int
    copy_gates: int
    due: int
    """(C + D,) transfers that become ready in this round; then those that start."""
    walks: int
    handed: int
    """(C, 2) (time, transfer) of hand-offs under way."""
    telling: int
    """(V, 2) (time, revealer) of values under way."""
    stores: int
    last_use: int
    """(D·Q,) end of the last use of a cell, FRESH or GONE."""
    holds: int
    """(U,) who still needs the buffer."""
    group_gates: int
    kept: int
    """(U + G,) lists of the buffers that only their open group holds: next, first."""
    fifo: int
    """Heads and tails: arrivals, handed, telling."""
    status: int
    """Row of outcomes, for a run that fails."""


class PlainPlaces(NamedTuple):
    """Facts about one world of the plain loop, and where its tables are."""

    n_launches: int
    n_copies: int
    n_devices: int
    n_bits: int
    """Resources that links hold."""
    n_queued: int
    """Entries of all queues together, at most."""
    first_ns: int
    """Earliest arrival."""
    link_bits: int
    device_bits: int
    """(D,) the resource that a device is, as a bit; 0 if no link blocks it."""
    moves: int
    """Transfers."""
    launches: int
    rows: int
    first: int
    """(D,) each device's first launch, or NONE."""
    missing: int
    """(L,) how many transfers a launch waits for."""
    queues: int
    """(resources,) where each queue begins."""
    launch_log: int
    copy_log: int
    left: int
    """(L,) how many transfers a launch still waits for; shared by all worlds, as the queues."""
    queue: int


N_PLAIN_OWN = 16


class Going(NamedTuple):
    """What changes all the time in a run of the plain loop; sets as bits."""

    busy: int
    """Resources."""
    queued: int
    """Resources whose queue is not empty."""
    touched: int
    """Resources that may start a transfer now."""
    woken: int
    """Devices that may start a launch now."""
    last_ns: int
    """When a launch or an answer ended last."""


class GraphPlaces(NamedTuple):
    """Where the tables are from which plans for one graph on one machine are lowered.

    N tasks, E edges, Q cells, D devices, K links, places in `t`. Only graphs without reveals,
    arrivals and memory.
    """

    n_tasks: int
    input_start: int
    """(N + 1,) ranges of `inputs`."""
    inputs: int
    """(E,)"""
    alone_ns: int
    """(N, D) launch duration without remote inputs and readers; -1: cannot run there."""
    gather_ns: int
    """(N, D) what an output of the task adds to a launch on another device that reads it."""
    stage_ns: int
    """(N, D) what remote readers add to the launch of the task."""
    output_ns: int
    """(N, K) transfer time of the output over each link."""
    feed_ns: int
    """(N, D) transfer time of the host input to each device; -1: none, -2: no link."""
    returns: int
    """(N,)"""
    link_of: int
    """(D, D) link index, or -1."""
    h_ns: int
    """(N, D) host time of a launch of the task."""
    kind: int
    """(N,) cell of the task, numbered among those of the graph's tasks."""
    first_ns: int
    """(N, D) what a launch of the task takes longer when its cell is used there first."""
    batch_start: int
    """(Q,) first row of each cell in `batch_ns`, which has one per task of the cell."""
    batch_ns: int
    """(N, D) what launching 1, 2, … tasks of a cell together adds to what they take alone."""
    own: int
    """(N, D) whether the task brings its own duration: then batches take the sum."""
    output_bytes: int
    """(N,)"""
    host_bytes: int
    """(N,) of the input that comes from the host."""


CHOSEN, ON, JOINS = range(3)  # columns of choices, rows of plans
LOWERED_LAUNCHES = 0
LOWERED_COPIES = 1
"""Columns of a world's own places that lowering finds out."""


class Lowering(NamedTuple):
    """Scratch of lowering, places in `s`."""

    launch_of: int
    """(N,) launch of each task, or NONE."""
    first_of: int
    """(L,) first task of each launch."""
    is_staged: int
    """(N,) whether the launch has paid for remote readers."""
    is_used: int
    """(Q, D) whether a cell has been used on a device."""
    copy_of: int
    """(N, D) the transfer that brings a task's output to a device, or NONE."""
    group_of: int
    """(L, D) the transfer of a launch to a device, or NONE."""
    awaited_by: int
    """(C,) the last launch that waits for the transfer, or NONE."""
    producer: int
    """(C,) launch, NONE for host inputs."""
    bytes: int
    """(C,) sum of what travels together."""
    n_parts: int
    """(C,) how many outputs or inputs travel together."""


ARRIVED_UP_TO, HANDED_FROM, HANDED_TO, TELLING_FROM, TELLING_TO = range(5)  # `fifo`
GONE = -2  # last_use of a cell that is not there
FRESH = -1  # last_use of a cell that nothing has used yet


# ---- One run ----


@inlined
def run_world(t: IntArray, s: IntArray, p: Places) -> None:
    """Run one program from time 0 until nothing is left to happen."""
    reset(t, s, p)
    begin(t, s, p)
    now_ns = s[p.counts + LAST_NS]  # 0; numba would compile all of it for the constant as well
    while now_ns < NEVER:
        push_due(t, s, p, now_ns)
        begin_loads(t, s, p, now_ns)
        start_transfers_in_order(t, s, p, now_ns)
        dispatch(t, s, p, now_ns)
        start_all_launches(t, s, p, now_ns)
        grant_lock(t, s, p, now_ns)
        if s[p.counts + FAILED] != 0:
            return
        if s[p.counts + AGAIN] != 0:
            s[p.counts + AGAIN] = 0  # weights were evicted: an idle device may load them again now
        else:
            now_ns = soonest(t, s, p)
        if now_ns < NEVER:
            complete(t, s, p, now_ns)


@inlined
def reset(t: IntArray, s: IntArray, p: Places) -> None:
    """Make the work tables those of a world that has not begun."""
    n_devices = p.n_devices
    n_launches = p.n_launches
    for slot in range(p.n_slots):
        s[p.end_ns + slot] = NEVER
    for block in range(p.n_blocks):
        s[p.soonest_ns + block] = NEVER
    for resource in range(p.n_resources):
        s[p.resources + 5 * resource + FIRST] = NONE
        s[p.resources + 5 * resource + LAST] = NONE
        s[p.resources + 5 * resource + BUSY] = 0
        s[p.resources + 5 * resource + MARKED] = 0
    for device in range(n_devices):
        s[p.engines + 4 * device + CURRENT] = NONE
        s[p.engines + 4 * device + TURN] = NONE
        s[p.engines + 4 * device + AWAKE] = 0
    for count in range(N_COUNTS):
        s[p.counts + count] = 0
    for launch in range(n_launches - 1, -1, -1):
        device = t[p.launches + 6 * launch + DEVICE]
        s[p.follower + launch] = s[p.engines + 4 * device + CURRENT]
        s[p.engines + 4 * device + CURRENT] = launch
    for copy in range(p.n_copies):
        s[p.copy_log + 6 * copy + STATE] = COMING
    reset_extras(t, s, p)


@inlined
def begin(t: IntArray, s: IntArray, p: Places) -> None:
    """Let every device come to its first launch, and send the host inputs that may go."""
    for device in range(p.n_devices):
        come_to(t, s, p, device, s[p.engines + 4 * device + CURRENT])
    for copy in range(p.n_copies):
        if t[p.copies + 6 * copy + IS_INPUT] == 1:
            send(t, s, p, copy)


# ---- Time ----


@inlined
def end_later(t: IntArray, s: IntArray, p: Places, slot: int, at_ns: int) -> None:
    """Note that what runs in `slot` ends at `at_ns`."""
    s[p.end_ns + slot] = at_ns
    block = slot >> BLOCK_BITS
    if at_ns < s[p.soonest_ns + block]:
        s[p.soonest_ns + block] = at_ns


@inlined
def soonest(t: IntArray, s: IntArray, p: Places) -> int:
    """Return when something happens next, or NEVER."""
    now_ns = s[p.soonest_ns + 0]
    for block in range(1, p.n_blocks):
        now_ns = min(now_ns, s[p.soonest_ns + block])
    if s[p.fifo + ARRIVED_UP_TO] < p.n_arrivals:
        now_ns = min(now_ns, t[p.arrivals + 2 * (s[p.fifo + ARRIVED_UP_TO]) + AT_NS])
    if s[p.fifo + HANDED_FROM] < s[p.fifo + HANDED_TO]:
        now_ns = min(now_ns, s[p.handed + 2 * (s[p.fifo + HANDED_FROM]) + 0])
    if s[p.fifo + TELLING_FROM] < s[p.fifo + TELLING_TO]:
        now_ns = min(now_ns, s[p.telling + 2 * (s[p.fifo + TELLING_FROM]) + 0])
    return now_ns


@inlined
def complete(t: IntArray, s: IntArray, p: Places, now_ns: int) -> None:
    """Apply everything that ends now."""
    for block in range(p.n_blocks):
        if s[p.soonest_ns + block] == now_ns:
            complete_block(t, s, p, block, now_ns)
    complete_extras(t, s, p, now_ns)


@inlined
def complete_block(
    t: IntArray,
    s: IntArray,
    p: Places,
    block: int,
    now_ns: int,
) -> None:
    """Apply what ends now in one block of slots, and find the soonest end of the others."""
    n_devices = p.n_devices
    s[p.soonest_ns + block] = NEVER  # may be lowered by what the endings begin
    rest_ns = NEVER
    start = block << BLOCK_BITS
    for slot in range(start, min(start + (1 << BLOCK_BITS), p.n_slots)):
        end_ns = s[p.end_ns + slot]
        if end_ns == now_ns:
            s[p.end_ns + slot] = NEVER
            if slot < n_devices:
                end_launch(t, s, p, slot, now_ns)
            elif slot < p.n_resources:
                copy = s[p.resources + 5 * slot + RUNNING]
                end_transfer(t, s, p, copy, now_ns)
            elif slot < p.n_resources + n_devices:
                end_host_work(t, s, p, slot - p.n_resources, now_ns)
        else:
            rest_ns = min(rest_ns, end_ns)
    s[p.soonest_ns + block] = min(s[p.soonest_ns + block], rest_ns)


# ---- Launches ----


@inlined
def wake(t: IntArray, s: IntArray, p: Places, device: int) -> None:
    """Let the launch phase look at a device."""
    if s[p.engines + 4 * device + AWAKE] == 0:
        s[p.engines + 4 * device + AWAKE] = 1
        s[p.awake + s[p.counts + N_AWAKE]] = device
        s[p.counts + N_AWAKE] += 1


@inlined
def come_to(t: IntArray, s: IntArray, p: Places, device: int, launch: int) -> None:
    """Make `launch` (or NONE) the current one of a device."""
    s[p.engines + 4 * device + CURRENT] = launch
    s[p.engines + 4 * device + TURN] = NONE
    if launch >= 0:
        s[p.engines + 4 * device + WAIT] = t[p.launches + 6 * launch + WAITS]
        run_ahead(t, s, p, device)


@inlined
def run_ahead(t: IntArray, s: IntArray, p: Places, device: int) -> None:
    """Pass the WAITs for transfers that have arrived; behind the last it is the launch's turn."""
    launch = s[p.engines + 4 * device + CURRENT]
    if launch < 0:
        return
    wait = s[p.engines + 4 * device + WAIT]
    end = t[p.launches + 6 * launch + WAITS_END]
    while wait < end and s[p.copy_log + 6 * (t[p.rows + wait]) + STATE] == ARRIVED:
        wait += 1
    s[p.engines + 4 * device + WAIT] = wait
    if wait == end:
        s[p.engines + 4 * device + TURN] = launch
        wake(t, s, p, device)


@inlined
def end_launch(
    t: IntArray,
    s: IntArray,
    p: Places,
    device: int,
    now_ns: int,
) -> None:
    """Free the device, go on to its next launch, and send the outputs."""
    launch = s[p.engines + 4 * device + CURRENT]
    s[p.launch_log + 4 * launch + ENDED] = now_ns
    s[p.counts + LAST_NS] = now_ns  # time never goes back
    s[p.resources + 5 * device + BUSY] = 0
    mark(t, s, p, device)
    release_launch_memory(t, s, p, launch, now_ns)
    come_to(t, s, p, device, s[p.follower + launch])
    for row in range(t[p.launches + 6 * launch + SENDS], t[p.launches + 6 * launch + SENDS_END]):
        send(t, s, p, t[p.rows + row])
    end_dispatched(t, s, p, launch, now_ns)
    begin = t[p.launch_extras + 11 * launch + LAUNCH_REVEALS]
    for row in range(begin, t[p.launch_extras + 11 * launch + LAUNCH_REVEALS_END]):
        revealer = t[p.rows + row]
        s[p.reveal_log + 2 * revealer + MADE_NS] = now_ns
        if device == p.host:
            tell_later(t, s, p, revealer, now_ns)


# ---- Transfers ----


@inlined
def mark(t: IntArray, s: IntArray, p: Places, resource: int) -> None:
    """Let the transfer phase look at the queue of a resource."""
    if s[p.resources + 5 * resource + MARKED] == 0 and s[p.resources + 5 * resource + FIRST] >= 0:
        s[p.resources + 5 * resource + MARKED] = 1
        s[p.marked + s[p.counts + N_MARKED]] = resource
        s[p.counts + N_MARKED] += 1


@inlined
def send(t: IntArray, s: IntArray, p: Places, copy: int) -> None:
    """Execute a COPY: the transfer is due or, if its reader is not known yet, held back."""
    if s[p.copy_gates + copy] > 0:
        s[p.copy_log + 6 * copy + STATE] = HELD_BACK
    else:
        s[p.due + s[p.counts + N_DUE]] = copy
        s[p.counts + N_DUE] += 1


@inlined
def enqueue(t: IntArray, s: IntArray, p: Places, copy: int, now_ns: int) -> None:
    """Put a transfer that is ready into the queues of its link's resources."""
    s[p.copy_log + 6 * copy + READY] = now_ns
    s[p.copy_log + 6 * copy + STATE] = QUEUED
    shift = p.shift
    link = t[p.copies + 6 * copy + LINK]
    node = copy << shift
    for row in range(t[p.links + 5 * link + HELD], t[p.links + 5 * link + HELD_END]):
        insert(t, s, p, copy, node, t[p.held + row], now_ns)
        node += 1
    mark(t, s, p, t[p.held + t[p.links + 5 * link + HELD]])


@inlined
def insert(
    t: IntArray, s: IntArray, p: Places, copy: int, node: int, resource: int, now_ns: int
) -> None:
    """Insert a transfer into one queue, before those of the same instant that rank behind it."""
    shift = p.shift
    rank = t[p.copies + 6 * copy + RANK]
    before = s[p.resources + 5 * resource + LAST]
    after = NONE
    while before >= 0:
        other = before >> shift
        if s[p.copy_log + 6 * other + READY] < now_ns or t[p.copies + 6 * other + RANK] <= rank:
            break
        after = before
        before = s[p.nodes + 2 * before + BEFORE]
    s[p.nodes + 2 * node + NEXT] = after
    s[p.nodes + 2 * node + BEFORE] = before
    if before >= 0:
        s[p.nodes + 2 * before + NEXT] = node
    else:
        s[p.resources + 5 * resource + FIRST] = node
    if after >= 0:
        s[p.nodes + 2 * after + BEFORE] = node
    else:
        s[p.resources + 5 * resource + LAST] = node


@inlined
def startable(t: IntArray, s: IntArray, p: Places, resource: int) -> int:
    """Return the first transfer of a queue if it may start now, or NONE.

    What may start shares no resource with anything else that may, so nothing depends on the order
    in which queues are looked at.
    """
    node = s[p.resources + 5 * resource + FIRST]
    if node < 0 or s[p.resources + 5 * resource + BUSY] != 0:
        return NONE
    shift = p.shift
    copy = node >> shift
    link = t[p.copies + 6 * copy + LINK]
    for row in range(t[p.links + 5 * link + HELD], t[p.links + 5 * link + HELD_END]):
        other = t[p.held + row]
        first = s[p.resources + 5 * other + FIRST]
        if s[p.resources + 5 * other + BUSY] != 0 or first < 0 or first >> shift != copy:
            return NONE
    return copy


@inlined
def start_transfer(
    t: IntArray, s: IntArray, p: Places, copy: int, now_ns: int, lasts_ns: int
) -> None:
    """Take a transfer out of its queues and occupy its resources."""
    node = copy << p.shift
    link = t[p.copies + 6 * copy + LINK]
    slot = t[p.held + t[p.links + 5 * link + HELD]]
    for row in range(t[p.links + 5 * link + HELD], t[p.links + 5 * link + HELD_END]):
        resource = t[p.held + row]
        after = s[p.nodes + 2 * node + NEXT]
        s[p.resources + 5 * resource + BUSY] = 1
        s[p.resources + 5 * resource + FIRST] = after
        if after >= 0:
            s[p.nodes + 2 * after + BEFORE] = NONE
        else:
            s[p.resources + 5 * resource + LAST] = NONE
        node += 1
    s[p.resources + 5 * slot + RUNNING] = copy
    s[p.copy_log + 6 * copy + COPY_STARTED] = now_ns
    end_later(t, s, p, slot, now_ns + lasts_ns)


@inlined
def end_transfer(
    t: IntArray,
    s: IntArray,
    p: Places,
    copy: int,
    now_ns: int,
) -> None:
    """Free the resources and hand over what the transfer carried."""
    n_devices = p.n_devices
    s[p.copy_log + 6 * copy + COPY_ENDED] = now_ns
    link = t[p.copies + 6 * copy + LINK]
    for row in range(t[p.links + 5 * link + HELD], t[p.links + 5 * link + HELD_END]):
        resource = t[p.held + row]
        s[p.resources + 5 * resource + BUSY] = 0
        mark(t, s, p, resource)
        if resource < n_devices and s[p.engines + 4 * resource + TURN] >= 0:
            wake(t, s, p, resource)
    deliver(t, s, p, copy, now_ns)


@inlined
def arrive(t: IntArray, s: IntArray, p: Places, device: int) -> None:
    """Let a device go on that may have waited for what has arrived."""
    if s[p.engines + 4 * device + TURN] < 0:
        run_ahead(t, s, p, device)


# ---- What only the full kernel does ----


@inlined
def reset_extras(t: IntArray, s: IntArray, p: Places) -> None:
    """Make the tables of the full kernel those of a world that has not begun."""
    n_launches, n_devices = p.n_launches, p.n_devices
    for end in range(5):
        s[p.fifo + end] = 0
    for launch in range(n_launches):
        s[p.launch_gates + launch] = t[p.launch_extras + 11 * launch + LAUNCH_GATES]
        s[p.dispatched + launch] = 0
        s[p.launch_log + 4 * launch + HOST_STARTED] = NONE
    for copy in range(p.n_copies):
        s[p.copy_gates + copy] = t[p.copy_extras + 8 * copy + COPY_GATES]
        s[p.copy_log + 6 * copy + COPY_STARTED] = NONE
    for revealer in range(p.n_revealers):
        s[p.reveal_log + 2 * revealer + KNOWN_NS] = NONE
    for device in range(n_devices):
        for column in range(6):
            s[p.walks + 6 * device + column] = 0
        s[p.walks + 6 * device + WANTS_SINCE] = NEVER
        s[p.walks + 6 * device + WALK_LAUNCH] = s[p.engines + 4 * device + CURRENT]
    if p.mode == SINGLE:
        s[p.walks + WALK_LAUNCH] = 0 if n_launches else NONE
    reset_memory(t, s, p)


@inlined
def push_due(t: IntArray, s: IntArray, p: Places, now_ns: int) -> None:
    """Queue what became ready; copies of one launch to one destination travel together."""
    n_due = s[p.counts + N_DUE]
    sort(t, s, p, p.due, n_due)
    s[p.counts + N_DUE] = 0
    at = 0
    while at < n_due:
        leader = s[p.due + at]
        s[p.copy_log + 6 * leader + CHAIN] = NONE
        s[p.copy_log + 6 * leader + LASTS] = t[p.copies + 6 * leader + COPY_NS]
        size_bytes = t[p.copy_extras + 8 * leader + BYTES]
        at += 1
        joined = False
        while (
            at < n_due
            and t[p.copies + 6 * (s[p.due + at]) + RANK] == t[p.copies + 6 * leader + RANK]
        ):
            copy = s[p.due + at]
            s[p.copy_log + 6 * copy + STATE] = JOINED
            s[p.copy_log + 6 * copy + CHAIN] = s[p.copy_log + 6 * leader + CHAIN]
            s[p.copy_log + 6 * leader + CHAIN] = copy
            size_bytes += t[p.copy_extras + 8 * copy + BYTES]
            joined = True
            at += 1
        if joined:
            link = t[p.copies + 6 * leader + LINK]
            s[p.copy_log + 6 * leader + LASTS] = merged_ns(t, s, p, link, size_bytes)
        enqueue(t, s, p, leader, now_ns)


@inlined
def sort(t: IntArray, s: IntArray, p: Places, copies: int, count: int) -> None:
    """Sort `count` transfers at place `copies` by (ready time, rank): Shell's, Knuth's gaps."""
    gap = 1
    while gap < count // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for index in range(gap, count):
            copy = s[copies + index]
            at = index - gap
            while at >= 0 and behind(t, s, p, s[copies + at], copy):
                s[copies + at + gap] = s[copies + at]
                at -= gap
            s[copies + at + gap] = copy
        gap //= 3


@inlined
def behind(t: IntArray, s: IntArray, p: Places, copy: int, other: int) -> bool:
    """Return whether `copy` comes after `other` in every queue; both queued, or both not yet."""
    if s[p.copy_log + 6 * copy + STATE] == COMING or s[p.copy_log + 6 * copy + STATE] == HELD_BACK:
        return t[p.copies + 6 * copy + RANK] > t[p.copies + 6 * other + RANK]
    ready_ns, other_ns = s[p.copy_log + 6 * copy + READY], s[p.copy_log + 6 * other + READY]
    if ready_ns != other_ns:
        return ready_ns > other_ns
    return t[p.copies + 6 * copy + RANK] > t[p.copies + 6 * other + RANK]


@inlined
def merged_ns(t: IntArray, s: IntArray, p: Places, link: int, size_bytes: int) -> int:
    """Return how long a merged transfer takes; stop the run if a table that Python reads knows."""
    bandwidth = t[p.links + 5 * link + BANDWIDTH]
    if bandwidth > 0:
        return affine_ns(t[p.links + 5 * link + LATENCY_NS], bandwidth, size_bytes)
    link += p.first_link
    for row in range(p.n_merged):
        if t[p.merged + 3 * row + 0] == link and t[p.merged + 3 * row + 1] == size_bytes:
            return t[p.merged + 3 * row + 2]
    if s[p.counts + FAILED] == 0:
        s[p.counts + FAILED] = 1
        s[p.status + OUTCOME] = UNPRICED
        s[p.status + WHO] = link
        s[p.status + NEEDED] = size_bytes
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
def start_transfers_in_order(t: IntArray, s: IntArray, p: Places, now_ns: int) -> None:
    """Start every transfer that may start now, in queue order: the first takes memory first."""
    count = 0
    for index in range(s[p.counts + N_MARKED]):
        resource = s[p.marked + index]
        s[p.resources + 5 * resource + MARKED] = 0
        copy = startable(t, s, p, resource)
        if copy >= 0 and s[p.copy_log + 6 * copy + STATE] == QUEUED:
            s[p.copy_log + 6 * copy + STATE] = (
                JOINED  # so that its other resources do not find it too
            )
            s[p.due + count] = copy
            count += 1
    s[p.counts + N_MARKED] = 0
    sort(t, s, p, p.due, count)
    for index in range(count):
        copy = s[p.due + index]
        reserve_for_transfer(t, s, p, copy)
        start_transfer(t, s, p, copy, now_ns, s[p.copy_log + 6 * copy + LASTS])


@inlined
def deliver(t: IntArray, s: IntArray, p: Places, copy: int, now_ns: int) -> None:
    """Hand over what the transfer carried: weights, an input, or outputs."""
    if copy >= p.n_copies:
        end_load(t, s, p, copy - p.n_copies, now_ns)
        return
    release_transfer_memory(t, s, p, copy)
    is_output = t[p.copies + 6 * copy + IS_INPUT] == 0
    if is_output and p.handoff_ns > 0:
        s[p.handed + 2 * (s[p.fifo + HANDED_TO]) + 0] = now_ns + p.handoff_ns
        s[p.handed + 2 * (s[p.fifo + HANDED_TO]) + 1] = copy
        s[p.fifo + HANDED_TO] += 1
    else:
        hand_over(t, s, p, copy)
    if is_output and t[p.copies + 6 * copy + DST] == p.host:
        while copy >= 0:
            if t[p.copies + 6 * copy + ANSWER] == 1:
                s[p.counts + LAST_NS] = now_ns
            begin = t[p.copy_extras + 8 * copy + COPY_REVEALS]
            for row in range(begin, t[p.copy_extras + 8 * copy + COPY_REVEALS_END]):
                tell_later(t, s, p, t[p.rows + row], now_ns)
            copy = s[p.copy_log + 6 * copy + CHAIN]


@inlined
def hand_over(t: IntArray, s: IntArray, p: Places, copy: int) -> None:
    """Let the readers see all that travelled together."""
    device = t[p.copies + 6 * copy + DST]
    while copy >= 0:
        s[p.copy_log + 6 * copy + STATE] = ARRIVED
        copy = s[p.copy_log + 6 * copy + CHAIN]
    arrive(t, s, p, device)


# ---- Revelation and arrival ----


@inlined
def tell_later(t: IntArray, s: IntArray, p: Places, revealer: int, now_ns: int) -> None:
    """The value is on the host: it is known after the host has read it and decided."""
    s[p.telling + 2 * (s[p.fifo + TELLING_TO]) + 0] = now_ns + p.known_after_ns
    s[p.telling + 2 * (s[p.fifo + TELLING_TO]) + 1] = revealer
    s[p.fifo + TELLING_TO] += 1


@inlined
def complete_extras(t: IntArray, s: IntArray, p: Places, now_ns: int) -> None:
    """Apply arrivals, hand-offs and values that become known now."""
    n_arrivals = p.n_arrivals
    while s[p.fifo + ARRIVED_UP_TO] < n_arrivals:
        if t[p.arrivals + 2 * (s[p.fifo + ARRIVED_UP_TO]) + AT_NS] != now_ns:
            break
        open_gate(t, s, p, t[p.arrivals + 2 * (s[p.fifo + ARRIVED_UP_TO]) + ITEM])
        s[p.fifo + ARRIVED_UP_TO] += 1
    while (
        s[p.fifo + HANDED_FROM] < s[p.fifo + HANDED_TO]
        and s[p.handed + 2 * (s[p.fifo + HANDED_FROM]) + 0] == now_ns
    ):
        hand_over(t, s, p, s[p.handed + 2 * (s[p.fifo + HANDED_FROM]) + 1])
        s[p.fifo + HANDED_FROM] += 1
    while (
        s[p.fifo + TELLING_FROM] < s[p.fifo + TELLING_TO]
        and s[p.telling + 2 * (s[p.fifo + TELLING_FROM]) + 0] == now_ns
    ):
        revealer = s[p.telling + 2 * (s[p.fifo + TELLING_FROM]) + 1]
        s[p.fifo + TELLING_FROM] += 1
        s[p.reveal_log + 2 * revealer + KNOWN_NS] = now_ns
        begin = t[p.revealers + 2 * revealer + SHOWS]
        for row in range(begin, t[p.revealers + 2 * revealer + SHOWS_END]):
            open_gate(t, s, p, t[p.rows + row])


@inlined
def open_gate(t: IntArray, s: IntArray, p: Places, item: int) -> None:
    """Take away one of the reasons why a launch, a transfer or a group of buffers waits."""
    n_launches, n_copies = p.n_launches, p.n_copies
    if item < n_launches:
        s[p.launch_gates + item] -= 1
    elif item < n_launches + n_copies:
        copy = item - n_launches
        s[p.copy_gates + copy] -= 1
        if s[p.copy_gates + copy] == 0 and s[p.copy_log + 6 * copy + STATE] == HELD_BACK:
            s[p.due + s[p.counts + N_DUE]] = copy
            s[p.counts + N_DUE] += 1
    else:
        open_group_gate(t, s, p, item - n_launches - n_copies)


# ---- Hosts ----


@inlined
def dispatch(t: IntArray, s: IntArray, p: Places, now_ns: int) -> None:
    """Begin the host work that may begin now."""
    mode = p.mode
    if mode == REPLAY:
        for device in range(p.n_devices):
            launch = s[p.engines + 4 * device + CURRENT]
            if (
                launch >= 0
                and s[p.walks + 6 * device + BEGUN] == 0
                and s[p.launch_gates + launch] == 0
            ):
                s[p.walks + 6 * device + BEGUN] = 1
                if t[p.device_extras + 6 * device + IS_CPU] == 1:
                    s[p.walks + 6 * device + REPLAY_DONE] = 1
                else:
                    work_ns = t[p.launch_extras + 11 * launch + DISPATCH_NS]
                    begin_host_work(t, s, p, device, launch, work_ns, now_ns)
    elif mode == SINGLE:
        take_next(t, s, p, 0, now_ns)
    elif mode != NO_HOST:
        for walk in range(p.n_devices):
            take_next(t, s, p, walk, now_ns)


@inlined
def take_next(t: IntArray, s: IntArray, p: Places, walk: int, now_ns: int) -> None:
    """Let an idle walk go on to its next launch, if that is released and its queue has room."""
    launch = s[p.walks + 6 * walk + WALK_LAUNCH]
    if launch < 0 or s[p.walks + 6 * walk + WALK_BUSY] != 0:
        return
    device = t[p.launches + 6 * launch + DEVICE]
    full = s[p.walks + 6 * device + UNFINISHED] >= p.depth
    if full or s[p.launch_gates + launch] > 0:
        return
    s[p.walks + 6 * device + UNFINISHED] += 1
    if t[p.device_extras + 6 * device + IS_CPU] == 1:
        s[p.walks + 6 * walk + WALK_BUSY] = 2
        s[p.dispatched + launch] = 1
    else:
        do_host_work(t, s, p, walk, now_ns)


@inlined
def host_work_ns(t: IntArray, s: IntArray, p: Places, launch: int) -> int:
    """Return the host time before a CUDA launch, or after a CPU launch."""
    if t[p.device_extras + 6 * (t[p.launches + 6 * launch + DEVICE]) + IS_CPU] == 1:
        return t[p.launch_extras + 11 * launch + PUSH_NS]
    return (
        t[p.launch_extras + 11 * launch + DISPATCH_NS] + t[p.launch_extras + 11 * launch + PUSH_NS]
    )


@inlined
def do_host_work(t: IntArray, s: IntArray, p: Places, walk: int, now_ns: int) -> None:
    """Begin the host work of a walk's launch, or queue it for the lock."""
    launch = s[p.walks + 6 * walk + WALK_LAUNCH]
    s[p.walks + 6 * walk + WALK_BUSY] = 1
    if p.mode == THREADS:
        s[p.walks + 6 * walk + WANTS_SINCE] = now_ns
    else:
        work_ns = host_work_ns(t, s, p, launch)
        begin_host_work(t, s, p, walk, launch, work_ns, now_ns)


@inlined
def begin_host_work(
    t: IntArray, s: IntArray, p: Places, walk: int, launch: int, work_ns: int, now_ns: int
) -> None:
    """Occupy a walk for `work_ns`."""
    if work_ns > 0:
        s[p.launch_log + 4 * launch + HOST_STARTED] = now_ns
        s[p.launch_log + 4 * launch + HOST_ENDED] = now_ns + work_ns
    end_later(t, s, p, p.n_resources + walk, now_ns + work_ns)


@inlined
def end_host_work(t: IntArray, s: IntArray, p: Places, walk: int, now_ns: int) -> None:
    """Let the launch go that was dispatched, and the walk go on."""
    if p.mode == REPLAY:
        s[p.walks + 6 * walk + REPLAY_DONE] = 1
        return
    s[p.dispatched + s[p.walks + 6 * walk + WALK_LAUNCH]] = 1
    go_on(t, s, p, walk)


@inlined
def go_on(t: IntArray, s: IntArray, p: Places, walk: int) -> None:
    """Turn a walk to its next launch."""
    launch = s[p.walks + 6 * walk + WALK_LAUNCH]
    after = s[p.follower + launch]
    if p.mode == SINGLE:
        after = launch + 1 if launch + 1 < p.n_launches else NONE
    s[p.walks + 6 * walk + WALK_LAUNCH] = after
    s[p.walks + 6 * walk + WALK_BUSY] = 0


@inlined
def end_dispatched(t: IntArray, s: IntArray, p: Places, launch: int, now_ns: int) -> None:
    """Free the queue slot of a launch; on a CPU its walk pays for the transfers and goes on."""
    mode = p.mode
    if mode in (NO_HOST, REPLAY):
        return
    device = t[p.launches + 6 * launch + DEVICE]
    s[p.walks + 6 * device + UNFINISHED] -= 1
    if t[p.device_extras + 6 * device + IS_CPU] == 1:
        walk = 0 if mode == SINGLE else device
        if t[p.launch_extras + 11 * launch + PUSH_NS] > 0:
            do_host_work(t, s, p, walk, now_ns)
        else:
            go_on(t, s, p, walk)


@inlined
def start_all_launches(t: IntArray, s: IntArray, p: Places, now_ns: int) -> None:
    """Start every launch that may start now, by device; CPU launches may need the lock first."""
    if only_inputs_count(p):
        start_awake(t, s, p, now_ns)
        return
    s[p.counts + N_AWAKE] = 0
    for device in range(p.n_devices):
        s[p.engines + 4 * device + AWAKE] = 0
        launch = s[p.engines + 4 * device + TURN]
        ready = launch >= 0 and s[p.resources + 5 * device + BUSY] == 0
        ready = ready and may_start(t, s, p, launch, device)
        if needs_lock(t, s, p, device):
            if not ready:
                s[p.walks + 6 * device + WANTS_SINCE] = NEVER  # it will queue anew
            elif s[p.walks + 6 * device + WANTS_SINCE] == NEVER:
                s[p.walks + 6 * device + WANTS_SINCE] = now_ns
        elif ready:
            start_launch(t, s, p, launch, now_ns)


@inlined
def only_inputs_count(p: Places) -> bool:
    """Return whether a launch on an idle device waits for nothing but its transfers."""
    return p.mode == NO_HOST and p.n_arrivals == 0 and p.n_revealers == 0 and p.n_cells == 0


@inlined
def start_awake(t: IntArray, s: IntArray, p: Places, now_ns: int) -> None:
    """Start the launch of every woken device that is free: there may be many devices."""
    for index in range(s[p.counts + N_AWAKE]):
        device = s[p.awake + index]
        s[p.engines + 4 * device + AWAKE] = 0
        launch = s[p.engines + 4 * device + TURN]
        if launch >= 0 and s[p.resources + 5 * device + BUSY] == 0:
            start_launch(t, s, p, launch, now_ns)
    s[p.counts + N_AWAKE] = 0


@inlined
def may_start(t: IntArray, s: IntArray, p: Places, launch: int, device: int) -> bool:
    """Return whether the weights are there and the host has done its part."""
    if not has_weights(t, s, p, launch, device):
        return False
    mode = p.mode
    if mode == NO_HOST:
        return s[p.launch_gates + launch] == 0
    if mode == REPLAY:
        return s[p.walks + 6 * device + REPLAY_DONE] == 1 and s[p.launch_gates + launch] == 0
    return s[p.dispatched + launch] == 1


@inlined
def needs_lock(t: IntArray, s: IntArray, p: Places, device: int) -> bool:
    """Return whether the next launch of a device must have the lock to start."""
    return (
        p.mode == THREADS
        and p.locks == 1
        and t[p.device_extras + 6 * device + IS_CPU] == 1
        and s[p.walks + 6 * device + WALK_BUSY] != 1
    )


@inlined
def grant_lock(t: IntArray, s: IntArray, p: Places, now_ns: int) -> None:
    """Give an idle lock to the first in (ready time, plan position): host work or a launch."""
    lock = p.n_slots - 1
    if p.mode != THREADS or s[p.end_ns + lock] != NEVER:
        return
    first, first_ns, first_launch = NONE, NEVER, NEVER
    for walk in range(p.n_devices):
        since_ns, launch = s[p.walks + 6 * walk + WANTS_SINCE], s[p.walks + 6 * walk + WALK_LAUNCH]
        if since_ns < first_ns or (since_ns == first_ns < NEVER and launch < first_launch):
            first, first_ns, first_launch = walk, since_ns, launch
    if first < 0:
        return
    s[p.walks + 6 * first + WANTS_SINCE] = NEVER
    if s[p.walks + 6 * first + WALK_BUSY] == 1:
        work_ns = host_work_ns(t, s, p, first_launch)
        end_later(t, s, p, lock, now_ns + work_ns)
        begin_host_work(t, s, p, first, first_launch, work_ns, now_ns)
    else:
        pace = pace_at(t, s, p, first, now_ns)
        end_later(t, s, p, lock, now_ns + t[p.share_ns + p.n_paces * first_launch + pace])
        start_launch(t, s, p, first_launch, now_ns)


@inlined
def pace_at(t: IntArray, s: IntArray, p: Places, device: int, now_ns: int) -> int:
    """Return how many slowdowns of a device have begun."""
    begin = t[p.device_extras + 6 * device + PACES]
    pace = 0
    for row in range(begin, t[p.device_extras + 6 * device + PACES_END]):
        if t[p.paces_ns + row] <= now_ns:
            pace = row - begin + 1
    return pace


@inlined
def start_launch(t: IntArray, s: IntArray, p: Places, launch: int, now_ns: int) -> None:
    """Reserve memory for the outputs and occupy the device."""
    device = t[p.launches + 6 * launch + DEVICE]
    s[p.resources + 5 * device + BUSY] = 1
    s[p.launch_log + 4 * launch + STARTED] = now_ns
    s[p.stores + 3 * device + USED_BY] = t[p.launch_extras + 11 * launch + CELL]
    reserve(t, s, p, device, t[p.launch_extras + 11 * launch + MAKES_BYTES], launch)
    lasts_ns = t[p.lasts_ns + p.n_paces * launch + pace_at(t, s, p, device, now_ns)]
    end_later(t, s, p, device, now_ns + lasts_ns)


# ---- Weights and memory ----


@inlined
def reset_memory(t: IntArray, s: IntArray, p: Places) -> None:
    """Put the weights where they are at time 0."""
    n_cells, n_buffers, n_groups = p.n_cells, p.n_buffers, p.n_groups
    for device in range(p.n_devices):
        free_bytes = t[p.device_extras + 6 * device + CAPACITY]
        for cell in range(n_cells):
            at = device * n_cells + cell
            s[p.last_use + at] = FRESH if t[p.stock + 2 * at + RESIDENT] == 1 else GONE
            if t[p.stock + 2 * at + RESIDENT] == 1:
                free_bytes -= t[p.cells + 2 * cell + CELL_BYTES]
        s[p.stores + 3 * device + FREE_BYTES] = free_bytes
        s[p.stores + 3 * device + LOADING] = NONE
        s[p.stores + 3 * device + USED_BY] = NONE
    for buffer in range(n_buffers):
        s[p.holds + buffer] = t[p.buffers + 4 * buffer + READERS] + 1  # and who makes it
    for group in range(n_groups):
        s[p.group_gates + group] = t[p.group_counts + group]
        s[p.kept + n_buffers + group] = NONE


@inlined
def has_weights(t: IntArray, s: IntArray, p: Places, launch: int, device: int) -> bool:
    """Return whether the weights of a launch are on its device."""
    if t[p.device_extras + 6 * device + HOLDS_WEIGHTS] == 0:
        return True
    return s[p.last_use + device * p.n_cells + t[p.launch_extras + 11 * launch + CELL]] != GONE


@inlined
def begin_loads(t: IntArray, s: IntArray, p: Places, now_ns: int) -> None:
    """Make room for, and queue, the weights that idle devices need next."""
    if p.n_cells == 0:
        return
    for device in range(p.n_devices):
        launch = s[p.engines + 4 * device + CURRENT]
        if t[p.device_extras + 6 * device + HOLDS_WEIGHTS] == 1 and launch >= 0:
            idle = (
                s[p.resources + 5 * device + BUSY] == 0 and s[p.stores + 3 * device + LOADING] < 0
            )
            released = s[p.launch_gates + launch] == 0
            if idle and released and not has_weights(t, s, p, launch, device):
                begin_load(t, s, p, launch, now_ns)


@inlined
def begin_load(t: IntArray, s: IntArray, p: Places, launch: int, now_ns: int) -> None:
    """Reserve memory for the weights of `launch` and queue them on the link from the host."""
    device, cell = t[p.launches + 6 * launch + DEVICE], t[p.launch_extras + 11 * launch + CELL]
    s[p.stores + 3 * device + LOADING] = cell
    reserve(t, s, p, device, t[p.cells + 2 * cell + CELL_BYTES], launch)
    load = p.n_copies + device
    t[p.copies + 6 * load + RANK] = 3 * (launch * p.n_devices + device) + 2
    s[p.copy_log + 6 * load + CHAIN] = NONE
    s[p.copy_log + 6 * load + LASTS] = t[p.stock + 2 * (device * p.n_cells + cell) + LOAD_NS]
    enqueue(t, s, p, load, now_ns)


@inlined
def end_load(t: IntArray, s: IntArray, p: Places, device: int, now_ns: int) -> None:
    """The weights are there, and count as used."""
    cell = s[p.stores + 3 * device + LOADING]
    s[p.stores + 3 * device + LOADING] = NONE
    s[p.last_use + device * p.n_cells + cell] = now_ns
    row = s[p.counts + N_LOADS]
    s[p.load_log + 4 * row + LOAD_DEVICE] = device
    s[p.load_log + 4 * row + LOAD_CELL] = cell
    s[p.load_log + 4 * row + LOAD_STARTED] = s[
        p.copy_log + 6 * (p.n_copies + device) + COPY_STARTED
    ]
    s[p.load_log + 4 * row + LOAD_ENDED] = now_ns
    s[p.counts + N_LOADS] += 1


@inlined
def reserve_for_transfer(t: IntArray, s: IntArray, p: Places, copy: int) -> None:
    """Reserve what a transfer brings; loads did so before."""
    if copy >= p.n_copies:
        return
    launch = t[p.copies + 6 * copy + RANK] // 3 // p.n_devices
    device = t[p.copies + 6 * copy + DST]
    needed = 0
    while copy >= 0:
        needed += t[p.copy_extras + 8 * copy + BYTES]
        copy = s[p.copy_log + 6 * copy + CHAIN]
    reserve(t, s, p, device, needed, launch)


@inlined
def reserve(
    t: IntArray,
    s: IntArray,
    p: Places,
    device: int,
    needed: int,
    launch: int,
) -> None:
    """Take bytes of a device, evicting idle weights if needed; or end the run."""
    n_cells = p.n_cells
    while s[p.stores + 3 * device + FREE_BYTES] < needed and s[p.counts + FAILED] == 0:
        cell = victim(t, s, p, device)
        if cell < 0:
            s[p.counts + FAILED] = 1
            s[p.status + OUTCOME] = OUT_OF_MEMORY
            s[p.status + WHO] = launch
            s[p.status + WHERE] = device
            s[p.status + NEEDED] = needed
            s[p.status + FREE] = s[p.stores + 3 * device + FREE_BYTES]
        else:
            s[p.last_use + device * n_cells + cell] = GONE
            s[p.counts + AGAIN] = 1
            s[p.stores + 3 * device + FREE_BYTES] += t[p.cells + 2 * cell + CELL_BYTES]
    s[p.stores + 3 * device + FREE_BYTES] -= needed


@inlined
def victim(t: IntArray, s: IntArray, p: Places, device: int) -> int:
    """Return the idle cell used least recently, ties by name, or NONE."""
    if t[p.device_extras + 6 * device + LOAD_LINK] < 0:
        return NONE
    n_cells = p.n_cells
    found = NONE
    for cell in range(n_cells):
        used_ns = s[p.last_use + device * n_cells + cell]
        if used_ns == GONE or cell == s[p.stores + 3 * device + USED_BY]:
            continue
        if t[p.cells + 2 * cell + CELL_BYTES] == 0:
            continue
        best_ns = NEVER if found < 0 else s[p.last_use + device * n_cells + found]
        by_name = (
            found >= 0 and t[p.cells + 2 * cell + NAME_RANK] < t[p.cells + 2 * found + NAME_RANK]
        )
        if used_ns < best_ns or (used_ns == best_ns and by_name):
            found = cell
    return found


@inlined
def let_go(t: IntArray, s: IntArray, p: Places, buffer: int) -> None:
    """Free a buffer if nobody needs it any more; if only its open group does, remember that."""
    s[p.holds + buffer] -= 1
    if s[p.holds + buffer] == 0:
        group = t[p.buffers + 4 * buffer + BUFFER_GROUP]
        if group >= 0 and s[p.group_gates + group] > 0:
            s[p.kept + buffer] = s[p.kept + p.n_buffers + group]
            s[p.kept + p.n_buffers + group] = buffer
        else:
            free(t, s, p, buffer)


@inlined
def free(t: IntArray, s: IntArray, p: Places, buffer: int) -> None:
    """Give the bytes of a buffer back."""
    device = t[p.buffers + 4 * buffer + BUFFER_DEVICE]
    s[p.stores + 3 * device + FREE_BYTES] += t[p.buffers + 4 * buffer + BUFFER_BYTES]


@inlined
def open_group_gate(t: IntArray, s: IntArray, p: Places, group: int) -> None:
    """Free what a group keeps, once nothing hidden or late can read it any more."""
    s[p.group_gates + group] -= 1
    if s[p.group_gates + group] == 0:
        buffer = s[p.kept + p.n_buffers + group]
        while buffer >= 0:
            free(t, s, p, buffer)
            buffer = s[p.kept + buffer]


@inlined
def release_launch_memory(t: IntArray, s: IntArray, p: Places, launch: int, now_ns: int) -> None:
    """Note the use of the weights, and free what the launch was the last to read."""
    device, cell = t[p.launches + 6 * launch + DEVICE], t[p.launch_extras + 11 * launch + CELL]
    s[p.stores + 3 * device + USED_BY] = NONE
    if t[p.device_extras + 6 * device + HOLDS_WEIGHTS] == 1:
        s[p.last_use + device * p.n_cells + cell] = now_ns
    for row in range(
        t[p.launch_extras + 11 * launch + MAKES], t[p.launch_extras + 11 * launch + MAKES_END]
    ):
        let_go(t, s, p, t[p.rows + row])
    for row in range(
        t[p.launch_extras + 11 * launch + READS], t[p.launch_extras + 11 * launch + READS_END]
    ):
        let_go(t, s, p, t[p.rows + row])


@inlined
def release_transfer_memory(t: IntArray, s: IntArray, p: Places, copy: int) -> None:
    """Free what a transfer was the last to read."""
    while copy >= 0:
        for row in range(
            t[p.copy_extras + 8 * copy + COPY_MAKES], t[p.copy_extras + 8 * copy + COPY_MAKES_END]
        ):
            let_go(t, s, p, t[p.rows + row])
        for row in range(
            t[p.copy_extras + 8 * copy + COPY_READS], t[p.copy_extras + 8 * copy + COPY_READS_END]
        ):
            let_go(t, s, p, t[p.rows + row])
        copy = s[p.copy_log + 6 * copy + CHAIN]


# ---- One run of a plain world ----


@inlined
def run_plain_world(t: IntArray, s: IntArray, p: PlainPlaces) -> int:
    """Run one program from time 0; return the last end of a launch or an answer."""
    reset_plain(t, s, p)
    now_ns = s[END] - NEVER  # 0, but no constant: see `run_world`
    queued = send_out(t, s, p, p.n_launches, now_ns)
    g = Going(0, queued, queued, (1 << p.n_devices) - 1, 0)
    while now_ns < NEVER:
        g = start_moves(t, s, p, g, now_ns)
        g = start_woken(t, s, p, g, now_ns)
        now_ns = NEVER
        for slot in range(p.n_devices + p.n_bits):
            now_ns = min(now_ns, s[END + slot])
        if now_ns < NEVER:
            g = end_launches(t, s, p, g, now_ns)
            g = end_moves(t, s, p, g, now_ns)
    return g.last_ns


@inlined
def reset_plain(t: IntArray, s: IntArray, p: PlainPlaces) -> None:
    """Make the work tables those of a world that has not begun."""
    for slot in range(p.n_devices + p.n_bits):
        s[END + slot] = NEVER
    for resource in range(p.n_bits):
        begin = p.queue + t[p.queues + resource]
        s[HEAD + resource] = begin
        s[TAIL + resource] = begin
    for device in range(p.n_devices):
        s[NEXT_UP + device] = t[p.first + device]
    for launch in range(p.n_launches):
        s[p.left + launch] = t[p.missing + launch]


@inlined
def lowest(bits: int) -> int:
    """Return the number of the lowest bit in a set that is not empty."""
    number = 0
    while bits & 255 == 0:
        bits >>= 8
        number += 8
    while bits & 1 == 0:
        bits >>= 1
        number += 1
    return number


@inlined
def send_out(t: IntArray, s: IntArray, p: PlainPlaces, launch: int, now_ns: int) -> int:
    """Queue all transfers that a launch sends; return the resources that they need."""
    touched = 0
    row = p.launches + 4 * launch
    for entry in range(t[row + OUT], t[row + OUT_END]):
        copy = t[p.rows + entry]
        s[p.copy_log + 3 * copy + READY] = now_ns
        held = t[p.moves + 8 * copy + HELD_BITS]
        resource = lowest(held)
        bits = held >> resource
        while bits != 0:
            if bits & 1 == 1:
                queue_up(t, s, p, copy, resource, now_ns)
            bits >>= 1
            resource += 1
        touched |= held
    return touched


@inlined
def queue_up(
    t: IntArray, s: IntArray, p: PlainPlaces, copy: int, resource: int, now_ns: int
) -> None:
    """Put a transfer into one queue, before those of the same instant that rank behind it."""
    order = t[p.moves + 8 * copy + ORDER]
    at = s[TAIL + resource]
    s[TAIL + resource] = at + 1
    head = s[HEAD + resource]
    while at > head:
        other = s[at - 1]
        if s[p.copy_log + 3 * other + READY] < now_ns:
            break
        if t[p.moves + 8 * other + ORDER] < order:
            break
        s[at] = other
        at -= 1
    s[at] = copy


@inlined
def start_moves(t: IntArray, s: IntArray, p: PlainPlaces, g: Going, now_ns: int) -> Going:
    """Start every transfer that is first in all its queues and whose resources are idle.

    What may start shares no resource with anything else that may, so the order does not matter.
    """
    busy, queued = g.busy, g.queued
    bits = g.touched & queued & ~busy
    while bits != 0:
        resource = lowest(bits)
        copy = s[s[HEAD + resource]]
        row = p.moves + 8 * copy
        held = t[row + HELD_BITS]
        bits &= ~(1 << resource)
        if held & busy == 0 and is_first(s, held & ~(1 << resource), copy):
            busy |= held
            bits &= ~held
            queued = leave_queues(s, queued, held)
            slot, end_ns = t[row + SLOT], now_ns + t[row + MOVE_NS]
            s[p.copy_log + 3 * copy + COPY_STARTED] = now_ns
            s[p.copy_log + 3 * copy + COPY_ENDED] = end_ns
            s[END + slot] = end_ns
            s[DOING + slot] = copy
    return Going(busy, queued, 0, g.woken, g.last_ns)


@inlined
def is_first(s: IntArray, bits: int, copy: int) -> bool:
    """Return whether a transfer is first in all these queues; none of them is empty."""
    while bits != 0:
        resource = lowest(bits)
        if s[s[HEAD + resource]] != copy:
            return False
        bits &= ~(1 << resource)
    return True


@inlined
def leave_queues(s: IntArray, queued: int, held: int) -> int:
    """Take the first transfer out of all these queues; return those that are not empty then."""
    resource = lowest(held)
    bits = held >> resource
    while bits != 0:
        if bits & 1 == 1:
            head = s[HEAD + resource] + 1
            s[HEAD + resource] = head
            if head == s[TAIL + resource]:
                queued &= ~(1 << resource)
        bits >>= 1
        resource += 1
    return queued


@inlined
def start_woken(t: IntArray, s: IntArray, p: PlainPlaces, g: Going, now_ns: int) -> Going:
    """Start the next launch of every woken device that is free, if its inputs are there."""
    busy, bits = g.busy, g.woken
    while bits != 0:
        device = lowest(bits)
        bits &= ~(1 << device)
        launch = s[NEXT_UP + device]
        own = t[p.device_bits + device]
        if launch >= 0 and s[p.left + launch] == 0 and own & busy == 0:
            busy |= own
            end_ns = now_ns + t[p.launches + 4 * launch + RUN_NS]
            s[p.launch_log + 2 * launch + STARTED] = now_ns
            s[p.launch_log + 2 * launch + ENDED] = end_ns
            s[NEXT_UP + device] = NONE
            s[END + device] = end_ns
            s[DOING + device] = launch
    return Going(busy, g.queued, g.touched, 0, g.last_ns)


@inlined
def end_launches(t: IntArray, s: IntArray, p: PlainPlaces, g: Going, now_ns: int) -> Going:
    """Free the devices whose launches end now, and send the outputs."""
    busy, queued, touched, woken, last_ns = g
    for device in range(p.n_devices):
        if s[END + device] == now_ns:
            launch = s[DOING + device]
            own = t[p.device_bits + device]
            s[END + device] = NEVER
            s[NEXT_UP + device] = t[p.launches + 4 * launch + FOLLOWER]
            sent = send_out(t, s, p, launch, now_ns)
            busy &= ~own
            queued |= sent
            touched |= sent | own
            woken |= 1 << device
            last_ns = now_ns  # time never goes back
    return Going(busy, queued, touched, woken, last_ns)


@inlined
def end_moves(t: IntArray, s: IntArray, p: PlainPlaces, g: Going, now_ns: int) -> Going:
    """Free the resources of the transfers that end now, and hand over what they carried."""
    busy, queued, touched, woken, last_ns = g
    for slot in range(p.n_devices, p.n_devices + p.n_bits):
        if s[END + slot] == now_ns:
            row = p.moves + 8 * s[DOING + slot]
            held = t[row + HELD_BITS]
            s[END + slot] = NEVER
            busy &= ~held
            touched |= held
            woken |= t[row + WAKES]
            for entry in range(t[row + SEEN_BY], t[row + SEEN_BY_END]):
                s[p.left + t[p.rows + entry]] -= 1
            if t[row + IS_ANSWER] == 1:
                last_ns = now_ns
    return Going(busy, queued, touched, woken, last_ns)


@compiled
def run_plain_worlds(
    t: IntArray,
    s: IntArray,
    worlds: IntArray,
    shared: IntArray,
    makespan_ns: IntArray,
    outcomes: IntArray,
) -> None:
    """Run all worlds. `worlds` (B, n): rows of PlainPlaces, of which `shared` is the end.

    Writes `makespan_ns` (B,) and `outcomes` (B, 6).
    """
    for world in range(len(worlds)):
        p = plain_places_of(worlds[world], shared)
        makespan_ns[world] = run_plain_world(t, s, p) - p.first_ns
        outcomes[world, OUTCOME] = OK
        for device in range(p.n_devices):
            if s[NEXT_UP + device] >= 0:
                outcomes[world, OUTCOME] = STUCK


@inlined
def plain_places_of(world: IntArray, shared: IntArray) -> PlainPlaces:
    """Return the places of one world: its own, then the shared ones."""
    return PlainPlaces(
        world[0],
        world[1],
        world[2],
        world[3],
        world[4],
        world[5],
        world[6],
        world[7],
        world[8],
        world[9],
        world[10],
        world[11],
        world[12],
        world[13],
        world[14],
        world[15],
        shared[0],
        shared[1],
    )


# ---- The tables of the plain loop ----


@compiled
def condense_worlds(t: IntArray, worlds: IntArray, plain: IntArray) -> None:
    """Write the tables of the plain loop for all worlds, given those of the full kernel, in `t`.

    `worlds` (B, n): rows of Places; `plain` (B, n): rows of PlainPlaces.
    """
    for world in range(len(worlds)):
        condense(
            t, places_of(worlds[world], worlds[world]), plain_places_of(plain[world], plain[world])
        )


@inlined
def condense(t: IntArray, p: Places, q: PlainPlaces) -> None:
    """Write the tables of the plain loop for one world, given those of the full kernel."""
    condense_launches(t, p, q)
    n_rows = condense_sends(t, p, q)
    condense_copies(t, p, q)
    list_readers(t, p, q, n_rows)
    place_queues(t, q)


@inlined
def condense_launches(t: IntArray, p: Places, q: PlainPlaces) -> None:
    """Write durations and what follows what on each device."""
    for device in range(q.n_devices):
        t[q.first + device] = NONE
    for launch in range(q.n_launches - 1, -1, -1):
        row, own = p.launches + 6 * launch, q.launches + 4 * launch
        device = t[row + DEVICE]
        t[own + RUN_NS] = t[row + LAUNCH_NS]
        t[own + FOLLOWER] = t[q.first + device]
        t[q.first + device] = launch
        t[q.missing + launch] = t[row + WAITS_END] - t[row + WAITS]


@inlined
def condense_sends(t: IntArray, p: Places, q: PlainPlaces) -> int:
    """List the transfers that each launch sends, then the host inputs; return the end of rows."""
    n_rows = 0
    for launch in range(q.n_launches):
        row, own = p.launches + 6 * launch, q.launches + 4 * launch
        t[own + OUT] = n_rows
        for entry in range(t[row + SENDS], t[row + SENDS_END]):
            t[q.rows + n_rows] = t[p.rows + entry]
            n_rows += 1
        t[own + OUT_END] = n_rows
    t[q.launches + 4 * q.n_launches + OUT] = n_rows
    for copy in range(q.n_copies):
        if t[p.copies + 6 * copy + IS_INPUT] == 1:
            t[q.rows + n_rows] = copy
            n_rows += 1
    t[q.launches + 4 * q.n_launches + OUT_END] = n_rows
    return n_rows


@inlined
def condense_copies(t: IntArray, p: Places, q: PlainPlaces) -> None:
    """Write what transfers hold, how long, and whom their end may wake."""
    for copy in range(q.n_copies):
        row, own = p.copies + 6 * copy, q.moves + 8 * copy
        link = q.link_bits + 2 * t[row + LINK]
        t[own + HELD_BITS] = t[link + HOLDS]
        t[own + MOVE_NS] = t[row + COPY_NS]
        t[own + ORDER] = t[row + RANK]
        t[own + WAKES] = t[link + BLOCKS] | 1 << t[row + DST]
        t[own + IS_ANSWER] = t[row + ANSWER]
        t[own + SEEN_BY_END] = 0
        t[own + SLOT] = q.n_devices + lowest(t[link + HOLDS])


@inlined
def list_readers(t: IntArray, p: Places, q: PlainPlaces, n_rows: int) -> None:
    """List the launches that wait for each transfer: count, sum up, fill in."""
    for launch in range(q.n_launches):
        row = p.launches + 6 * launch
        for entry in range(t[row + WAITS], t[row + WAITS_END]):
            t[q.moves + 8 * t[p.rows + entry] + SEEN_BY_END] += 1
    for copy in range(q.n_copies):
        own = q.moves + 8 * copy
        t[own + SEEN_BY] = n_rows
        n_rows += t[own + SEEN_BY_END]
        t[own + SEEN_BY_END] = t[own + SEEN_BY]
    for launch in range(q.n_launches):
        row = p.launches + 6 * launch
        for entry in range(t[row + WAITS], t[row + WAITS_END]):
            own = q.moves + 8 * t[p.rows + entry]
            t[q.rows + t[own + SEEN_BY_END]] = launch
            t[own + SEEN_BY_END] += 1


@inlined
def place_queues(t: IntArray, q: PlainPlaces) -> None:
    """Give each queue room for all transfers that ever enter it."""
    for resource in range(q.n_bits):
        t[q.queues + resource] = 0
    for copy in range(q.n_copies):
        bits = t[q.moves + 8 * copy + HELD_BITS]
        while bits != 0:
            t[q.queues + lowest(bits)] += 1
            bits &= bits - 1
    begin = 0
    for resource in range(q.n_bits):
        count = t[q.queues + resource]
        t[q.queues + resource] = begin
        begin += count


# ---- Many runs ----


@compiled
def run_worlds(
    t: IntArray,
    s: IntArray,
    worlds: IntArray,
    shared: IntArray,
    chosen: IntArray,
    makespan_ns: IntArray,
    outcomes: IntArray,
) -> None:
    """Run the `chosen` worlds.

    `worlds` (B, n): facts, places of tables and logs; `shared`: places of the state, of which the
    `status` row is the world's own. Writes `makespan_ns` (B,) and `outcomes` (B, 6).
    """
    for world in chosen:
        p = places_of(worlds[world], shared)
        run_world(t, s, p)
        note_outcome(s, p, world, makespan_ns, outcomes)


@inlined
def note_outcome(
    s: IntArray, p: Places, world: int, makespan_ns: IntArray, outcomes: IntArray
) -> None:
    """Write down how a run ended."""
    for column in range(N_OUTCOMES):
        outcomes[world, column] = s[p.status + column]
    outcomes[world, LOADED] = s[p.counts + N_LOADS]
    if s[p.counts + FAILED] == 0:
        makespan_ns[world] = s[p.counts + LAST_NS] - p.first_ns
        outcomes[world, OUTCOME] = OK
        for device in range(p.n_devices):
            if s[p.engines + 4 * device + CURRENT] >= 0:
                outcomes[world, OUTCOME] = STUCK


@inlined
def places_of(world: IntArray, shared: IntArray) -> Places:
    """Return the places of one world: its own, then the shared ones."""
    return Places(
        world[0],
        world[1],
        world[2],
        world[3],
        world[4],
        world[5],
        world[6],
        world[7],
        world[8],
        world[9],
        world[10],
        world[11],
        world[12],
        world[13],
        world[14],
        world[15],
        world[16],
        world[17],
        world[18],
        world[19],
        world[20],
        world[21],
        world[22],
        world[23],
        world[24],
        world[25],
        world[26],
        world[27],
        world[28],
        world[29],
        world[30],
        world[31],
        world[32],
        world[33],
        world[34],
        world[35],
        world[36],
        world[37],
        world[38],
        world[39],
        world[40],
        world[41],
        world[42],
        world[43],
        world[44],
        shared[0],
        shared[1],
        shared[2],
        shared[3],
        shared[4],
        shared[5],
        shared[6],
        shared[7],
        shared[8],
        shared[9],
        shared[10],
        shared[11],
        shared[12],
        shared[13],
        shared[14],
        shared[15],
        shared[16],
        shared[17],
        shared[18],
        shared[19],
        shared[20],
        shared[21],
        shared[22],
    )


# ---- Plans straight from arrays ----


@compiled
def lower_plans(
    t: IntArray,
    s: IntArray,
    graphs: IntArray,
    graph_of: IntArray,
    worlds: IntArray,
    scratch: IntArray,
    host_costs: IntArray,
    plan_start: IntArray,
    choices: IntArray,
    merged: IntArray,
    wanted: IntArray,
    outcomes: IntArray,
) -> int:
    """Lower B plans, for the graphs in `t`, to worlds whose tables stand in `s`.

    `graphs` (G, n): GraphPlaces. Plan b is for graph `graph_of[b]`; from `plan_start[b]` on,
    `choices` has its rows: task, device, and whether the task joins the launch of the task before
    it. `worlds` (B, n): Places of the tables; how many launches and transfers there are is noted
    there. `host_costs`: h_copy in ns, parts per million of CPU launches that hold the lock; empty
    for plain worlds.

    `merged` (n, 3): link, bytes, ns of merged transfers over links that have a table, ascending.
    Those that are missing are written to `wanted` (n, 2), as far as there is room, and their plans
    are UNPRICED. Returns how many were written.
    """
    at = Lowering(
        scratch[0],
        scratch[1],
        scratch[2],
        scratch[3],
        scratch[4],
        scratch[5],
        scratch[6],
        scratch[7],
        scratch[8],
        scratch[9],
    )
    n_wanted = 0
    for plan in range(len(graph_of)):
        g = graph_places_of(graphs[graph_of[plan]])
        p = places_of(worlds[plan], worlds[plan])
        begin, end = plan_start[plan], plan_start[plan + 1]
        n_launches, n_copies = lower_plan(t, s, g, p, at, choices[begin:end])
        if n_launches < 0:
            outcomes[plan] = ILLEGAL
            continue
        is_priced, n_wanted = price_merged(s, p, at, n_copies, merged, wanted, n_wanted)
        outcomes[plan] = OK if is_priced else UNPRICED
        worlds[plan, LOWERED_LAUNCHES] = n_launches
        worlds[plan, LOWERED_COPIES] = n_copies
        if len(host_costs) > 0:
            add_host_costs(t, s, g, p, at, host_costs, n_launches)
    return n_wanted


@inlined
def graph_places_of(row: IntArray) -> GraphPlaces:
    """Return the places of one graph."""
    return GraphPlaces(
        row[0],
        row[1],
        row[2],
        row[3],
        row[4],
        row[5],
        row[6],
        row[7],
        row[8],
        row[9],
        row[10],
        row[11],
        row[12],
        row[13],
        row[14],
        row[15],
        row[16],
        row[17],
    )


@inlined
def add_host_costs(
    t: IntArray,
    s: IntArray,
    g: GraphPlaces,
    p: Places,
    at: Lowering,
    host_costs: IntArray,
    n_launches: int,
) -> None:
    """Write what the full kernel reads besides: durations, host work and shares of the lock."""
    h_copy_ns, parts = host_costs[0], host_costs[1]
    for launch in range(n_launches):
        row, extras = p.launches + 6 * launch, p.launch_extras + 11 * launch
        lasts_ns, last = s[row + LAUNCH_NS], s[row + WAITS_END] - 1
        n_moves = s[row + SENDS_END] - s[row + SENDS]
        if last >= s[row + WAITS]:
            n_moves += s[p.copies + 6 * s[p.rows + last] + IS_INPUT]
        task = s[at.first_of + launch]
        s[extras + DISPATCH_NS] = t[g.h_ns + task * p.n_devices + s[row + DEVICE]]
        s[extras + PUSH_NS] = h_copy_ns * n_moves
        s[p.lasts_ns + launch] = lasts_ns
        # Rounded up; in two parts, because the product may pass 64 bits.
        whole, rest = lasts_ns // 1_000_000, lasts_ns % 1_000_000
        s[p.share_ns + launch] = whole * parts + (rest * parts + 999_999) // 1_000_000


@inlined
def lower_plan(
    t: IntArray,
    s: IntArray,
    g: GraphPlaces,
    p: Places,
    at: Lowering,
    choices: IntArray,
) -> tuple[int, int]:
    """Write the launches, transfers and rows of one plan; return how many launches and transfers.

    NONE if the plan is not legal: the lowering in Python says why. Merged transfers have no price
    yet.
    """
    n_tasks = g.n_tasks
    if len(choices) != n_tasks:
        return NONE, NONE
    for task in range(n_tasks):
        s[at.launch_of + task] = NONE
        s[at.is_staged + task] = 0
    for entry in range(n_tasks * p.n_devices):
        s[at.copy_of + entry] = NONE
        s[at.group_of + entry] = NONE
        s[at.is_used + entry] = 0
    n_copies = 0
    n_rows = 0
    n_launches = 0
    first = 0
    while first < n_tasks:
        end = first + 1
        while end < n_tasks and choices[end, JOINS] != 0:
            end += 1
        own = choices[first, ON]
        lasts_ns = place_launch(t, s, g, p, at, choices[first:end], n_launches)
        if lasts_ns < 0:
            return NONE, NONE
        row = p.launches + 6 * n_launches
        s[row + DEVICE] = own
        s[row + WAITS] = n_rows
        for entry in range(first, end):
            task = choices[entry, CHOSEN]
            for edge in range(t[g.input_start + task], t[g.input_start + task + 1]):
                source = t[g.inputs + edge]
                made_by = s[at.launch_of + source]
                if made_by < 0 or made_by == n_launches:
                    return NONE, NONE
                made_on = s[p.launches + 6 * made_by + DEVICE]
                if made_on == own:
                    continue
                lasts_ns += t[g.gather_ns + source * p.n_devices + own]
                if s[at.is_staged + source] == 0:
                    s[at.is_staged + source] = 1
                    staged_ns = t[g.stage_ns + source * p.n_devices + made_on]
                    s[p.launches + 6 * made_by + LAUNCH_NS] += staged_ns
                copy = add_output(t, s, g, p, at, source, own, n_copies)
                if copy < 0:
                    return NONE, NONE
                n_copies = max(n_copies, copy + 1)
                if s[at.awaited_by + copy] != n_launches:
                    s[at.awaited_by + copy] = n_launches
                    s[p.rows + n_rows] = copy
                    n_rows += 1
        if own != p.host:
            fed = add_inputs(t, s, g, p, at, choices[first:end], n_launches, n_copies)
            if fed < 0:
                return NONE, NONE
            if fed > n_copies:
                s[p.rows + n_rows] = n_copies
                n_rows += 1
                n_copies = fed
        s[row + WAITS_END] = n_rows
        s[row + LAUNCH_NS] = lasts_ns
        s[row + SENDS] = 0
        s[row + SENDS_END] = 0
        if own != p.host:
            for entry in range(first, end):
                task = choices[entry, CHOSEN]
                if t[g.returns + task] == 1:
                    copy = add_output(t, s, g, p, at, task, p.host, n_copies)
                    if copy < 0:
                        return NONE, NONE
                    s[p.copies + 6 * copy + ANSWER] = 1
                    n_copies = max(n_copies, copy + 1)
        n_launches += 1
        first = end
    list_sends(s, p, at, n_launches, n_copies, n_rows)
    return n_launches, n_copies


@inlined
def place_launch(
    t: IntArray,
    s: IntArray,
    g: GraphPlaces,
    p: Places,
    at: Lowering,
    choices: IntArray,
    launch: int,
) -> int:
    """Note the tasks of a launch; return what it takes without remote inputs and readers.

    NONE if they cannot be one launch, or not on this device.
    """
    first, own = choices[0, CHOSEN], choices[0, ON]
    if first < 0 or first >= g.n_tasks:
        return NONE
    kind = t[g.kind + first]
    if own < 0 or own >= p.n_devices:
        return NONE
    s[at.first_of + launch] = first
    lasts_ns = 0
    brings_own = False
    for choice in choices:
        task = choice[CHOSEN]
        if task < 0 or task >= g.n_tasks or s[at.launch_of + task] >= 0:
            return NONE
        alone_ns = t[g.alone_ns + task * p.n_devices + own]
        if choice[ON] != own or t[g.kind + task] != kind or alone_ns < 0:
            return NONE
        s[at.launch_of + task] = launch
        lasts_ns += alone_ns
        brings_own = brings_own or t[g.own + task * p.n_devices + own] == 1
    if len(choices) > 1 and not brings_own:
        row = t[g.batch_start + kind] + len(choices) - 1
        lasts_ns += t[g.batch_ns + row * p.n_devices + own]
    use = at.is_used + kind * p.n_devices + own
    if s[use] == 0:
        s[use] = 1
        lasts_ns += t[g.first_ns + first * p.n_devices + own]
    return lasts_ns


@inlined
def add_output(
    t: IntArray,
    s: IntArray,
    g: GraphPlaces,
    p: Places,
    at: Lowering,
    task: int,
    dst: int,
    n_copies: int,
) -> int:
    """Return the transfer that brings a task's output to `dst`, a new one or that of its launch.

    NONE if there is no link.
    """
    known = s[at.copy_of + task * p.n_devices + dst]
    if known >= 0:
        return known
    launch = s[at.launch_of + task]
    size_bytes = t[g.output_bytes + task]
    copy = s[at.group_of + launch * p.n_devices + dst]
    if copy < 0:
        copy = n_copies
        src = s[p.launches + 6 * launch + DEVICE]
        link = t[g.link_of + src * p.n_devices + dst]
        if link < 0:
            return NONE
        lasts_ns = t[g.output_ns + task * p.n_links + link]
        add_copy(s, p, at, copy, link, dst, lasts_ns, 3 * (launch * p.n_devices + dst))
        s[at.producer + copy] = launch
        s[at.group_of + launch * p.n_devices + dst] = copy
    s[at.copy_of + task * p.n_devices + dst] = copy
    s[at.bytes + copy] += size_bytes
    s[at.n_parts + copy] += 1
    return copy


@inlined
def add_inputs(
    t: IntArray,
    s: IntArray,
    g: GraphPlaces,
    p: Places,
    at: Lowering,
    choices: IntArray,
    launch: int,
    n_copies: int,
) -> int:
    """Add the transfer of a launch's host inputs, if it has any; return how many there are then.

    NONE if there is no link.
    """
    copy = n_copies
    own = s[p.launches + 6 * launch + DEVICE]
    for choice in choices:
        task = choice[CHOSEN]
        feed_ns = t[g.feed_ns + task * p.n_devices + own]
        if feed_ns == GONE:
            return NONE
        if feed_ns < 0:
            continue
        if copy == n_copies:
            copy += 1
            link = t[g.link_of + p.host * p.n_devices + own]
            rank = 3 * (launch * p.n_devices + own) + 1
            add_copy(s, p, at, n_copies, link, own, feed_ns, rank)
            s[p.copies + 6 * n_copies + IS_INPUT] = 1
        s[at.bytes + n_copies] += t[g.host_bytes + task]
        s[at.n_parts + n_copies] += 1
    return copy


@inlined
def add_copy(
    s: IntArray, p: Places, at: Lowering, copy: int, link: int, dst: int, lasts_ns: int, rank: int
) -> None:
    """Write the row of a transfer that nothing travels with yet."""
    row = p.copies + 6 * copy
    s[row + LINK] = link
    s[row + DST] = dst
    s[row + COPY_NS] = lasts_ns
    s[row + RANK] = rank
    s[row + ANSWER] = 0
    s[row + IS_INPUT] = 0
    s[at.producer + copy] = NONE
    s[at.awaited_by + copy] = NONE
    s[at.bytes + copy] = 0
    s[at.n_parts + copy] = 0


@inlined
def price_merged(
    s: IntArray,
    p: Places,
    at: Lowering,
    n_copies: int,
    merged: IntArray,
    wanted: IntArray,
    n_wanted: int,
) -> tuple[bool, int]:
    """Write how long transfers take that carry more than one thing.

    Returns whether all prices are known, and how many are wanted now.
    """
    is_priced = True
    for copy in range(n_copies):
        if s[at.n_parts + copy] == 1:
            continue
        row = p.copies + 6 * copy
        link, size_bytes = s[row + LINK], s[at.bytes + copy]
        bandwidth = s[p.links + 5 * link + BANDWIDTH]
        if bandwidth > 0:
            s[row + COPY_NS] = affine_ns(s[p.links + 5 * link + LATENCY_NS], bandwidth, size_bytes)
            continue
        low, high = 0, len(merged)
        while low < high:
            middle = (low + high) // 2
            if merged[middle, 0] < link or (
                merged[middle, 0] == link and merged[middle, 1] < size_bytes
            ):
                low = middle + 1
            else:
                high = middle
        if low < len(merged) and merged[low, 0] == link and merged[low, 1] == size_bytes:
            s[row + COPY_NS] = merged[low, 2]
            continue
        is_priced = False
        if n_wanted < len(wanted):
            wanted[n_wanted, 0] = link
            wanted[n_wanted, 1] = size_bytes
            n_wanted += 1
    return is_priced, n_wanted


@inlined
def list_sends(
    s: IntArray, p: Places, at: Lowering, n_launches: int, n_copies: int, n_rows: int
) -> None:
    """Add per launch the row of transfers that it sends: count, sum up, fill in."""
    for copy in range(n_copies):
        launch = s[at.producer + copy]
        if launch >= 0:
            s[p.launches + 6 * launch + SENDS_END] += 1
    for launch in range(n_launches):
        row = p.launches + 6 * launch
        s[row + SENDS] = n_rows
        n_rows += s[row + SENDS_END]
        s[row + SENDS_END] = s[row + SENDS]
    for copy in range(n_copies):
        launch = s[at.producer + copy]
        if launch >= 0:
            end = p.launches + 6 * launch + SENDS_END
            s[p.rows + s[end]] = copy
            s[end] += 1
