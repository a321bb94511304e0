# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: list schedulers, from the arrays of a graph to the choices of whole plans.

`dynpartition.agent.listing` defines what each of them chooses, on the readable estimate of
`dynpartition.agent.estimate`; here are the same choices, to the task, and the same times, to the
ns. The kernel of the environment keeps an estimate too, but in slots that observations are read
from; this one is made for one plan after the other over one graph. All compiled code stands here,
because numba notices edits in this file only.

Letters: N tasks, E edges, D devices, L links, Q resources, K cells. Times are ns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dynpartition.compiled import compiled, inlined
from dynpartition.types import IntArray

Numbers = npt.NDArray[np.float64]

ABSENT = -1
NEVER = 1 << 62
LONGEST_NS = float(1 << 61)
"""Sums of durations up to which int64 is surely enough."""
SHOWN_MAX = 32
"""`listing.WINDOW`."""

# Places in Machine.facts. DEPTH and LOCK may be ABSENT.
(
    HOST, HANDOFF_NS, KNOWN_AFTER_NS, DISPATCHES, REPLAYS, DEPTH, LOCK, LOCK_PPM, H_COPY_NS,
    ALL_LINKED, HAS_BLOCKS,
) = range(11)  # fmt: skip
N_FACTS = 11
STAGES_IN, STAGES_OUT, WALK, IS_CPU = range(4)  # columns of Machine.devices (D, 4)
LATENCY_NS, BANDWIDTH = range(2)  # of links and staging; bandwidth 0: no formula

# Columns of Work.tasks (N, 10). SEEN: Work.sums[CHANGES] when the options were looked up.
HOME, SPAN, STAGED, MISSING, RELEASE_NS, FED, RETURNS, GATED, SEEN, CRITICAL = range(10)
N_TASK_COLUMNS = 10
# Tables of Work.pairs (8, N, D). READY_NS: when a ready task's inputs could be there, ABSENT where
# it may not go; LASTS_NS: how long it would run there.
RUN_NS, THERE_NS, GATHER_NS, STAGE_NS, FEED_NS, H_NS, READY_NS, LASTS_NS = range(8)
N_PAIR_TABLES = 8
UP, DOWN, COST, MOVE, KEY = range(5)  # rows of Work.ranks (5, N)
# Columns of Work.devices (D, 6). N_SPANS: launches so far. AFTER_NS: end of the last new transfer
# from there that the option at hand needs.
FREE_NS, N_SPANS, CLOCK_NS, BEGUN, USED, AFTER_NS = range(6)
N_DEVICE_COLUMNS = 6
START, END = range(2)  # columns of spans (D, N, 2) and busy (Q, n, 2)
# Places in Work.sums. CHANGES grows whenever options may have changed.
LATEST_NS, N_GATED, N_READY, N_SHOWN, N_CHOSEN, NEXT_GIVEN, CHANGES = range(7)
N_SUMS = 7
OUT_START, IN_START = range(2)  # rows of Work.starts (2, N + 1): ranges of readers and inputs

# What choosing goes by.
HEFT, PEFT, CPOP, MIN_MIN, LOOKAHEAD, GIVEN, FORCED = range(7)
# What became of it. UNPRICED: a task runs nowhere; UNORDERED: an input comes later.
DONE, STUCK, OVERFLOW, UNPRICED, UNORDERED = range(5)


class Machine(NamedTuple):
    """A profile's machine."""

    facts: IntArray
    devices: IntArray
    link_of: IntArray
    """(D, D) link from row to column, or ABSENT."""
    held: IntArray
    """(L, n) resources of each link, ABSENT where there are fewer."""
    blocked: IntArray
    """(L, 2) devices that a transfer occupies, or ABSENT."""
    cost: IntArray
    """(L, 2) latency and bandwidth; bandwidth 0: times come from outside."""
    staging: IntArray
    """(2, D, 2) latency and bandwidth of gathering and of staging."""


class Cells(NamedTuple):
    """What the cells of a graph cost on a machine."""

    run_ns: IntArray
    """(K, D) duration of one task, bookkeeping included; ABSENT where it cannot run."""
    h_ns: IntArray
    """(K, D)"""
    refuges: IntArray
    """(n, D) see `agent.legality`."""


class Given(NamedTuple):
    """A graph as it comes, and what only Python can price."""

    cell_of: IntArray
    input_start: IntArray
    inputs: IntArray
    output_bytes: IntArray
    host_bytes: IntArray
    returns: IntArray
    arrival_ns: IntArray
    own_ns: IntArray
    """(N, D) or (0, D): durations of tasks' own, ABSENT where the cell's hold."""
    priced: IntArray
    """(N, L) or (0, L): transfer times where a link has no formula or bytes are too many."""
    fed: IntArray
    """(N, L) or (0, L): the same of host inputs."""
    gate_start: IntArray
    """(N + 1,) or (0,) ranges of `gates`."""
    gates: IntArray


class Work(NamedTuple):
    """Tables of one graph, and the plan in the making."""

    tasks: IntArray
    pairs: IntArray
    moves: IntArray
    """(N, L) how long each task's output occupies each link."""
    starts: IntArray
    inputs: IntArray
    """(E,) without repeats."""
    readers: IntArray
    """(E,)"""
    order: IntArray
    """(N,) topological."""
    ranks: Numbers
    after: Numbers
    """(N, D) PEFT's optimistic costs."""
    devices: IntArray
    spans: IntArray
    finished: IntArray
    """(D, N) when each launch was to end when it was dispatched."""
    n_busy: IntArray
    """(Q,) intervals of each resource."""
    busy: IntArray
    """(Q, n, 2) sorted, with a gap between any two."""
    heap: IntArray
    """(N,) ready tasks, the best first."""
    shown: IntArray
    """(SHOWN_MAX,) the ready tasks that min-min looks at, highest rank first."""
    sums: IntArray
    chosen: IntArray
    """(N, 2) task and device of each choice."""


class Before(NamedTuple):
    """The launches that are planned already."""

    tasks: IntArray
    start: IntArray
    """(n + 1,) ranges of `tasks`."""
    devices: IntArray
    run_ns: IntArray
    """(n,) how long each runs without gathering."""


# Tables of a graph


@inlined
def formula_ns(latency_ns: int, bandwidth: int, size_bytes: int) -> int:
    """Return latency + (bytes·10⁹ + bandwidth − 1) // bandwidth; see `costs.transfer_ns`."""
    return latency_ns + (size_bytes * 1_000_000_000 + bandwidth - 1) // bandwidth


@inlined
def copy_edges(g: Given, w: Work) -> bool:
    """List inputs without repeats, and readers; return whether all inputs come earlier."""
    n_tasks, n_edges, in_order = len(g.cell_of), 0, True
    for task in range(n_tasks + 1):
        w.starts[OUT_START, task] = 0
    for task in range(n_tasks):
        w.starts[IN_START, task] = n_edges
        for at in range(g.input_start[task], g.input_start[task + 1]):
            source, seen = g.inputs[at], False
            for other in range(w.starts[IN_START, task], n_edges):
                seen = seen or w.inputs[other] == source
            if not seen:
                w.inputs[n_edges] = source
                w.starts[OUT_START, source + 1] += 1
                n_edges += 1
                in_order = in_order and source < task
    w.starts[IN_START, n_tasks] = n_edges
    for task in range(n_tasks):
        w.starts[OUT_START, task + 1] += w.starts[OUT_START, task]
    for task in range(n_tasks):  # ascending, because tasks are
        for at in range(w.starts[IN_START, task], w.starts[IN_START, task + 1]):
            source = w.inputs[at]
            w.readers[w.starts[OUT_START, source]] = task
            w.starts[OUT_START, source] += 1
    for task in range(n_tasks, 0, -1):
        w.starts[OUT_START, task] = w.starts[OUT_START, task - 1]
    w.starts[OUT_START, 0] = 0
    return in_order


@inlined
def price_task(m: Machine, c: Cells, g: Given, w: Work, task: int) -> float:
    """Write what a task costs everywhere; return a bound for what it adds to a plan."""
    size_bytes, cell, longest = g.output_bytes[task], g.cell_of[task], 0
    for device in range(len(m.devices)):
        run_ns = c.run_ns[cell, device]
        if len(g.own_ns) > 0 and g.own_ns[task, device] >= 0:
            run_ns = g.own_ns[task, device]
        w.pairs[RUN_NS, task, device] = run_ns
        w.pairs[H_NS, task, device] = c.h_ns[cell, device]
        longest = max(longest, run_ns + c.h_ns[cell, device])
        for table, column in ((GATHER_NS, STAGES_IN), (STAGE_NS, STAGES_OUT)):
            w.pairs[table, task, device] = 0
            if m.devices[device, column] != 0:
                cost = m.staging[table - GATHER_NS, device]
                w.pairs[table, task, device] = formula_ns(cost[0], cost[1], size_bytes)
                longest += w.pairs[table, task, device]
        link = m.link_of[m.facts[HOST], device]
        w.pairs[FEED_NS, task, device] = 0
        if g.host_bytes[task] > 0 and link >= 0:
            w.pairs[FEED_NS, task, device] = (
                g.fed[task, link]
                if len(g.fed) > 0
                else formula_ns(m.cost[link, 0], m.cost[link, 1], g.host_bytes[task])
            )
            longest = max(longest, w.pairs[FEED_NS, task, device])
    total = float(longest)
    for link in range(len(m.cost)):
        w.moves[task, link] = (
            g.priced[task, link]
            if len(g.priced) > 0
            else formula_ns(m.cost[link, 0], m.cost[link, 1], size_bytes)
        )
        total += float(w.moves[task, link] + m.facts[HANDOFF_NS] + m.facts[H_COPY_NS])
    return total


@inlined
def mean_times(m: Machine, w: Work, task: int) -> None:
    """Write the mean duration of a task, and of moving its output; see `agent.ranks`."""
    total_ns = count = moved_ns = 0
    for device in range(len(m.devices)):
        if w.pairs[RUN_NS, task, device] >= 0:
            total_ns += w.pairs[RUN_NS, task, device]
            count += 1
    w.ranks[COST, task] = total_ns / max(count, 1)
    for link in range(len(m.cost)):
        moved_ns += w.moves[task, link]
    w.ranks[MOVE, task] = 0.0
    if len(m.cost) > 0:
        w.ranks[MOVE, task] = moved_ns / len(m.cost) + m.facts[HANDOFF_NS]


@compiled
def prepare(m: Machine, c: Cells, g: Given, w: Work, order: IntArray) -> int:
    """Write the tables of a graph. `order`: topological, where inputs may come later; else empty.

    Return DONE, UNPRICED, UNORDERED where `order` is missing, or OVERFLOW.
    """
    n_tasks, bound = len(g.cell_of), 0.0
    in_order = copy_edges(g, w)
    if not in_order and len(order) == 0:
        return UNORDERED
    for task in range(n_tasks):
        w.order[task] = order[task] if len(order) > 0 else task
        bound += price_task(m, c, g, w, task) + float(g.arrival_ns[task])
        mean_times(m, w, task)
        able = False
        for device in range(len(m.devices)):
            able = able or w.pairs[RUN_NS, task, device] >= 0
        if not able:
            return UNPRICED
    return OVERFLOW if bound >= LONGEST_NS else DONE


# Ranks


@compiled
def rank_tasks(m: Machine, w: Work) -> None:
    """Write upward ranks, downward ranks and PEFT's optimistic costs; see `agent.ranks`."""
    n_tasks, n_devices = len(w.order), len(m.devices)
    for at in range(n_tasks - 1, -1, -1):
        task = w.order[at]
        below = 0.0
        for device in range(n_devices):
            w.after[task, device] = 0.0
        move = w.ranks[MOVE, task]
        for place in range(w.starts[OUT_START, task], w.starts[OUT_START, task + 1]):
            reader = w.readers[place]
            below = max(below, move + w.ranks[UP, reader])
            note_after(w, task, reader, n_devices)
        w.ranks[UP, task] = w.ranks[COST, task] + below
    for at in range(n_tasks):
        task = w.order[at]
        above = 0.0
        for place in range(w.starts[IN_START, task], w.starts[IN_START, task + 1]):
            source = w.inputs[place]
            through = w.ranks[DOWN, source] + w.ranks[COST, source] + w.ranks[MOVE, source]
            above = max(above, through)
        w.ranks[DOWN, task] = above


@inlined
def note_after(w: Work, task: int, reader: int, n_devices: int) -> None:
    """Let the optimistic costs of `task` be no less than what `reader` needs after it."""
    for device in range(n_devices):
        least = np.inf
        for other in range(n_devices):
            run_ns = w.pairs[RUN_NS, reader, other]
            if run_ns >= 0:
                move = 0.0 if other == device else w.ranks[MOVE, task]
                least = min(least, w.after[reader, other] + run_ns + move)
        w.after[task, device] = max(w.after[task, device], least)


@compiled
def sum_below(w: Work, least_ns: IntArray, below_ns: IntArray) -> None:
    """Write the longest path behind each task, if tasks last `least_ns` and nothing is moved."""
    for at in range(len(w.order) - 1, -1, -1):
        task = w.order[at]
        below_ns[task] = 0
        for place in range(w.starts[OUT_START, task], w.starts[OUT_START, task + 1]):
            reader = w.readers[place]
            below_ns[task] = max(below_ns[task], least_ns[reader] + below_ns[reader])


# The heap of ready tasks: highest key first, the smallest number among equals


@inlined
def goes_before(w: Work, task: int, other: int) -> bool:
    """Return whether a ready task comes before another one."""
    key, value = w.ranks[KEY, task], w.ranks[KEY, other]
    return key > value or (key == value and task < other)


@inlined
def push(w: Work, task: int) -> None:
    """Add a task to the heap."""
    at = w.sums[N_READY]
    w.sums[N_READY] = at + 1
    while at > 0 and goes_before(w, task, w.heap[(at - 1) // 2]):
        w.heap[at] = w.heap[(at - 1) // 2]
        at = (at - 1) // 2
    w.heap[at] = task


@inlined
def pop(w: Work) -> int:
    """Take the first task off the heap."""
    first, count = w.heap[0], w.sums[N_READY] - 1
    w.sums[N_READY] = count
    last, at = w.heap[count], 0
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and goes_before(w, w.heap[child + 1], w.heap[child]):
            child += 1
        if not goes_before(w, w.heap[child], last):
            break
        w.heap[at] = w.heap[child]
        at = child
    w.heap[at] = last
    return first


# Transfers: when they fit, and booking them; see `agent.occupancy`


@inlined
def behind(w: Work, resource: int, ready_ns: int) -> int:
    """Return the first interval of a resource that ends after `ready_ns`."""
    high = w.n_busy[resource]
    step = 1
    low = high
    while low > 0 and w.busy[resource, low - 1, END] > ready_ns:  # the last are asked for most
        high = low - 1
        low = max(0, low - step)
        step *= 2
    while low < high:
        middle = (low + high) // 2
        if w.busy[resource, middle, END] > ready_ns:
            high = middle
        else:
            low = middle + 1
    return low


@inlined
def first_fit(w: Work, resource: int, ready_ns: int, length_ns: int) -> int:
    """Return the first time from `ready_ns` on at which a resource is free for long enough."""
    count = w.n_busy[resource]
    at = behind(w, resource, ready_ns)
    while at < count and w.busy[resource, at, START] < ready_ns + length_ns:
        ready_ns = max(ready_ns, w.busy[resource, at, END])
        at += 1
    return ready_ns


@inlined
def take(w: Work, resource: int, start_ns: int, end_ns: int) -> None:
    """Mark an interval busy that `first_fit` found; intervals that touch become one."""
    if start_ns == end_ns:  # see `agent.occupancy`
        return
    count = w.n_busy[resource]
    at = count
    while at > 0 and w.busy[resource, at - 1, START] > start_ns:
        at -= 1
    joins_before = at > 0 and w.busy[resource, at - 1, END] == start_ns
    joins_behind = at < count and w.busy[resource, at, START] == end_ns
    if joins_before and joins_behind:
        w.busy[resource, at - 1, END] = w.busy[resource, at, END]
        for place in range(at, count - 1):
            w.busy[resource, place, START] = w.busy[resource, place + 1, START]
            w.busy[resource, place, END] = w.busy[resource, place + 1, END]
        w.n_busy[resource] = count - 1
    elif joins_before:
        w.busy[resource, at - 1, END] = end_ns
    elif joins_behind:
        w.busy[resource, at, START] = start_ns
    else:
        for place in range(count, at, -1):
            w.busy[resource, place, START] = w.busy[resource, place - 1, START]
            w.busy[resource, place, END] = w.busy[resource, place - 1, END]
        w.busy[resource, at, START] = start_ns
        w.busy[resource, at, END] = end_ns
        w.n_busy[resource] = count + 1


@inlined
def running_until(w: Work, device: int, time_ns: int) -> int:
    """Return the end of the launch that runs on `device` at `time_ns`, else `time_ns`."""
    for at in range(w.devices[device, N_SPANS] - 1, -1, -1):
        if w.spans[device, at, END] <= time_ns:
            break
        if w.spans[device, at, START] < time_ns:
            return w.spans[device, at, END]
    return time_ns


@inlined
def fit(m: Machine, w: Work, link: int, length_ns: int, ready_ns: int) -> int:
    """Return when a transfer that could be pushed at `ready_ns` starts."""
    before = ABSENT
    while before != ready_ns:  # until all resources agree
        before = ready_ns
        for at in range(m.held.shape[1]):
            if m.held[link, at] >= 0:
                ready_ns = first_fit(w, m.held[link, at], ready_ns, length_ns)
    if m.facts[HAS_BLOCKS] != 0:
        for at in range(2):
            if m.blocked[link, at] >= 0:
                ready_ns = running_until(w, m.blocked[link, at], ready_ns)
    return ready_ns


@inlined
def push_back(w: Work, device: int, start_ns: int, end_ns: int) -> None:
    """Occupy `device` for a while; launches from `start_ns` on move behind it."""
    count = w.devices[device, N_SPANS]
    at = count
    while at > 0 and w.spans[device, at - 1, START] >= start_ns:
        at -= 1
    while at < count and w.spans[device, at, START] < end_ns:
        length_ns = w.spans[device, at, END] - w.spans[device, at, START]
        w.spans[device, at, START] = end_ns
        end_ns += length_ns
        w.spans[device, at, END] = end_ns
        w.sums[LATEST_NS] = max(w.sums[LATEST_NS], end_ns)
        at += 1
    if at == count and start_ns <= w.devices[device, FREE_NS]:
        w.devices[device, FREE_NS] = max(w.devices[device, FREE_NS], end_ns)
    w.sums[CHANGES] += 1


@inlined
def book(m: Machine, w: Work, link: int, length_ns: int, ready_ns: int) -> int:
    """Book a transfer; return its end."""
    assert link >= 0, "a transfer was committed over an absent link"
    start_ns = fit(m, w, link, length_ns, ready_ns)
    for at in range(m.held.shape[1]):
        if m.held[link, at] >= 0:
            take(w, m.held[link, at], start_ns, start_ns + length_ns)
    if m.facts[HAS_BLOCKS] != 0:
        for at in range(2):
            if m.blocked[link, at] >= 0:
                push_back(w, m.blocked[link, at], start_ns, start_ns + length_ns)
    w.sums[CHANGES] += 1
    return start_ns + length_ns


@inlined
def end_of(w: Work, task: int) -> int:
    """Return when a placed task ends."""
    return w.spans[w.tasks[task, HOME], w.tasks[task, SPAN], END]


@inlined
def staging_ns(w: Work, task: int) -> int:
    """Return what staging for remote readers will add to a placed task, 0 once it has."""
    return 0 if w.tasks[task, STAGED] != 0 else w.pairs[STAGE_NS, task, w.tasks[task, HOME]]


@inlined
def stage(w: Work, task: int) -> None:
    """Make a placed task longer by its staging, once."""
    longer_ns = staging_ns(w, task)
    if longer_ns > 0:
        home, end_ns = w.tasks[task, HOME], end_of(w, task)
        w.tasks[task, STAGED] = 1
        push_back(w, home, end_ns, end_ns + longer_ns)
        w.spans[home, w.tasks[task, SPAN], END] = end_ns + longer_ns
        w.sums[LATEST_NS] = max(w.sums[LATEST_NS], end_ns + longer_ns)


@inlined
def deliver(m: Machine, w: Work, task: int, device: int) -> int:
    """Return when the output of a placed task is on `device`, booking its transfer if needed."""
    home = w.tasks[task, HOME]
    if home == device:
        return end_of(w, task)
    if w.pairs[THERE_NS, task, device] < 0:
        stage(w, task)
        link = m.link_of[home, device]
        there_ns = book(m, w, link, w.moves[task, link], end_of(w, task))
        w.pairs[THERE_NS, task, device] = there_ns + m.facts[HANDOFF_NS]
        w.devices[m.devices[home, WALK], CLOCK_NS] += m.facts[H_COPY_NS]
    return w.pairs[THERE_NS, task, device]


# The host; see `agent.host_walk`


@inlined
def lock_share_ns(m: Machine, duration_ns: int) -> int:
    """Return how much of a CPU launch holds the lock; see `costs.share_ns`."""
    whole, rest = duration_ns // 1_000_000, duration_ns % 1_000_000
    ppm = m.facts[LOCK_PPM]
    return whole * ppm - (-rest * ppm // 1_000_000)


@inlined
def dispatched_ns(m: Machine, w: Work, task: int, device: int) -> int:
    """Return when a launch that begins with `task` can have been dispatched on `device`."""
    begin_ns = max(w.devices[m.devices[device, WALK], CLOCK_NS], w.tasks[task, RELEASE_NS])
    under_way, depth = w.devices[device, N_SPANS], m.facts[DEPTH]
    if depth >= 0 and under_way >= depth:
        begin_ns = max(begin_ns, w.finished[device, under_way - depth])
    if m.facts[REPLAYS] != 0 and w.devices[device, BEGUN] != 0:
        return begin_ns
    h_ns = w.pairs[H_NS, task, device]
    if m.facts[LOCK] >= 0 and m.devices[device, IS_CPU] == 0:
        begin_ns = first_fit(w, m.facts[LOCK], begin_ns, h_ns)
    return begin_ns + h_ns


@inlined
def locked_start_ns(m: Machine, w: Work, device: int, ready_ns: int, lasts_ns: int) -> int:
    """Return when a launch that is otherwise ready starts, given the interpreter lock."""
    if m.facts[LOCK] >= 0 and m.devices[device, IS_CPU] != 0:
        ready_ns = first_fit(w, m.facts[LOCK], ready_ns, lock_share_ns(m, lasts_ns))
    return ready_ns


@inlined
def take_host(
    m: Machine, w: Work, task: int, device: int, dispatched: int, start_ns: int, end_ns: int
) -> None:
    """Record a launch that was dispatched and runs from `start_ns` to `end_ns`."""
    on_cpu, lock = m.devices[device, IS_CPU] != 0, m.facts[LOCK]
    if m.facts[REPLAYS] == 0:
        w.devices[m.devices[device, WALK], CLOCK_NS] = end_ns if on_cpu else dispatched
    w.devices[device, BEGUN] = 1
    w.finished[device, w.devices[device, N_SPANS]] = end_ns
    if lock >= 0 and on_cpu:
        take(w, lock, start_ns, start_ns + lock_share_ns(m, end_ns - start_ns))
    elif lock >= 0:
        take(w, lock, dispatched - w.pairs[H_NS, task, device], dispatched)


# Launches


@inlined
def gather_ns(m: Machine, w: Work, task: int, device: int) -> int:
    """Return what gathering the remote inputs of `task` adds to it on `device`."""
    total_ns = 0
    if m.devices[device, STAGES_IN] != 0:
        for at in range(w.starts[IN_START, task], w.starts[IN_START, task + 1]):
            source = w.inputs[at]
            if w.tasks[source, HOME] >= 0 and w.tasks[source, HOME] != device:
                total_ns += w.pairs[GATHER_NS, source, device]
    return total_ns


@inlined
def release_known(m: Machine, g: Given, w: Work) -> None:
    """Find when the tasks whose revealers are all placed are known to the host."""
    for task in range(len(w.order)):
        if w.tasks[task, GATED] == 0:
            continue
        known_ns = 0
        for at in range(g.gate_start[task], g.gate_start[task + 1]):
            if w.tasks[g.gates[at], HOME] < 0:
                known_ns = ABSENT
        if known_ns == 0:
            for at in range(g.gate_start[task], g.gate_start[task + 1]):
                known_ns = max(known_ns, deliver(m, w, g.gates[at], m.facts[HOST]))
            known_ns += m.facts[KNOWN_AFTER_NS]
            w.tasks[task, RELEASE_NS] = max(w.tasks[task, RELEASE_NS], known_ns)
            w.tasks[task, GATED] = 0
            w.sums[N_GATED] -= 1
            w.sums[CHANGES] += 1


@inlined
def bring(m: Machine, w: Work, task: int, device: int) -> int:
    """Book the transfers that `task` needs on `device`; return when all are there."""
    ready_ns = w.tasks[task, RELEASE_NS]
    if w.tasks[task, FED] != 0 and device != m.facts[HOST]:
        link = m.link_of[m.facts[HOST], device]
        ready_ns = book(m, w, link, w.pairs[FEED_NS, task, device], ready_ns)
    for at in range(w.starts[IN_START, task], w.starts[IN_START, task + 1]):
        ready_ns = max(ready_ns, deliver(m, w, w.inputs[at], device))
    return ready_ns


@inlined
def place(
    m: Machine, w: Work, tasks: IntArray, first: int, last: int, device: int, run_ns: int
) -> None:
    """Append a launch of tasks[first:last] that runs `run_ns` without gathering."""
    ready_ns = 0
    for at in range(first, last):
        ready_ns = max(ready_ns, bring(m, w, tasks[at], device))
        run_ns += gather_ns(m, w, tasks[at], device)
    start_ns = max(ready_ns, w.devices[device, FREE_NS])
    if m.facts[DISPATCHES] != 0:
        dispatched = dispatched_ns(m, w, tasks[first], device)
        start_ns = locked_start_ns(m, w, device, max(start_ns, dispatched), run_ns)
        take_host(m, w, tasks[first], device, dispatched, start_ns, start_ns + run_ns)
    count = w.devices[device, N_SPANS]
    w.spans[device, count, START] = start_ns
    w.spans[device, count, END] = start_ns + run_ns
    w.devices[device, N_SPANS] = count + 1
    w.devices[device, FREE_NS] = start_ns + run_ns
    w.devices[device, USED] = 1
    w.sums[LATEST_NS] = max(w.sums[LATEST_NS], start_ns + run_ns)
    w.sums[CHANGES] += m.facts[HAS_BLOCKS]
    for at in range(first, last):
        w.tasks[tasks[at], HOME] = device
        w.tasks[tasks[at], SPAN] = count
    for at in range(first, last):
        if w.tasks[tasks[at], RETURNS] != 0 and device != m.facts[HOST]:
            come_ns = deliver(m, w, tasks[at], m.facts[HOST])
            w.sums[LATEST_NS] = max(w.sums[LATEST_NS], come_ns)


# Options of a ready task


@inlined
def there_ns(m: Machine, w: Work, source: int, device: int, after_ns: int) -> int:
    """Return when the output of a placed task could be on `device`; ABSENT without a link.

    `after_ns`: a transfer that is not booked yet starts no earlier.
    """
    home = w.tasks[source, HOME]
    if home == device:
        return end_of(w, source)
    if w.pairs[THERE_NS, source, device] >= 0:
        return w.pairs[THERE_NS, source, device]
    link = m.link_of[home, device]
    if link < 0:
        return ABSENT
    pushed_ns = max(end_of(w, source) + staging_ns(w, source), after_ns)
    length_ns = w.moves[source, link]
    return fit(m, w, link, length_ns, pushed_ns) + length_ns + m.facts[HANDOFF_NS]


@inlined
def data_ready_ns(m: Machine, w: Work, task: int, device: int) -> int:
    """Return when all inputs of `task` could be on `device`; ABSENT if a link is missing."""
    ready_ns = w.tasks[task, RELEASE_NS]
    if w.tasks[task, FED] != 0 and device != m.facts[HOST]:
        link = m.link_of[m.facts[HOST], device]
        if link < 0:
            return ABSENT
        length_ns = w.pairs[FEED_NS, task, device]
        ready_ns = fit(m, w, link, length_ns, ready_ns) + length_ns
    first, last = w.starts[IN_START, task], w.starts[IN_START, task + 1]
    for source_device in range(len(m.devices)):  # new transfers on one link follow each other
        w.devices[source_device, AFTER_NS] = 0
    for at in range(first, last):
        source = w.inputs[at]
        home = w.tasks[source, HOME]
        here_ns = there_ns(m, w, source, device, w.devices[home, AFTER_NS])
        if here_ns < 0:
            return ABSENT
        if home != device and w.pairs[THERE_NS, source, device] < 0:
            w.devices[home, AFTER_NS] = here_ns - m.facts[HANDOFF_NS]
        ready_ns = max(ready_ns, here_ns)
    return ready_ns


@inlined
def keeps_refuge(m: Machine, c: Cells, w: Work, device: int) -> bool:
    """Return whether the used devices and `device` all reach one and the same refuge."""
    n_devices = len(m.devices)
    for refuge in range(len(c.refuges)):
        n_lost = 0
        for used in range(n_devices):
            if used == device or w.devices[used, USED] != 0:
                for other in range(n_devices):
                    apart = used != other and m.link_of[used, other] < 0
                    n_lost += c.refuges[refuge, other] != 0 and apart
        if n_lost == 0:
            return True
    return False


@inlined
def forbid(m: Machine, c: Cells, w: Work, task: int) -> None:
    """Forbid where an answer could not leave, and what loses the last refuge; see `legality`."""
    n_devices, n_safe, host = len(m.devices), 0, m.facts[HOST]
    for device in range(n_devices):
        answers = w.tasks[task, RETURNS] == 0 or device == host or m.link_of[device, host] >= 0
        if not answers:
            w.pairs[READY_NS, task, device] = ABSENT
        elif w.pairs[READY_NS, task, device] >= 0:
            n_safe += keeps_refuge(m, c, w, device)
    for device in range(n_devices):
        is_open = w.pairs[READY_NS, task, device] >= 0
        if n_safe > 0 and is_open and not keeps_refuge(m, c, w, device):
            w.pairs[READY_NS, task, device] = ABSENT


@inlined
def look_up(m: Machine, c: Cells, w: Work, task: int) -> None:
    """Write READY_NS and LASTS_NS of a ready task on each device, unless nothing has changed."""
    if w.tasks[task, SEEN] == w.sums[CHANGES] and m.facts[ALL_LINKED] != 0:
        return
    w.tasks[task, SEEN] = w.sums[CHANGES]
    for device in range(len(m.devices)):
        w.pairs[READY_NS, task, device] = ABSENT
        run_ns = w.pairs[RUN_NS, task, device]
        if run_ns >= 0:
            w.pairs[READY_NS, task, device] = data_ready_ns(m, w, task, device)
            w.pairs[LASTS_NS, task, device] = run_ns + gather_ns(m, w, task, device)
    if m.facts[ALL_LINKED] == 0:
        forbid(m, c, w, task)


@inlined
def option_end_ns(m: Machine, w: Work, task: int, device: int) -> int:
    """Return when a ready task would end on a device that it may go to."""
    start_ns = max(w.pairs[READY_NS, task, device], w.devices[device, FREE_NS])
    lasts_ns = w.pairs[LASTS_NS, task, device]
    if m.facts[DISPATCHES] != 0:
        start_ns = max(start_ns, dispatched_ns(m, w, task, device))
        start_ns = locked_start_ns(m, w, device, start_ns, lasts_ns)
    return start_ns + lasts_ns


# Choosing


@inlined
def far_sighted_ns(m: Machine, w: Work, task: int, device: int, end_ns: int) -> int:
    """Return when the last of the readers of `task` could end if it ended so (look-ahead)."""
    latest_ns = end_ns
    for at in range(w.starts[OUT_START, task], w.starts[OUT_START, task + 1]):
        reader = w.readers[at]
        latest_ns = max(latest_ns, reader_end_ns(m, w, reader, task, device, end_ns))
    return latest_ns


@inlined
def reader_end_ns(m: Machine, w: Work, reader: int, task: int, home: int, end_ns: int) -> int:
    """Return when a reader of `task` could end at best, if `task` ended at `end_ns` on `home`.

    As far as its placed inputs tell; each of their transfers as if it were the only new one.
    ABSENT if it can go nowhere.
    """
    best_ns = NEVER
    for device in range(len(m.devices)):
        lasts_ns = w.pairs[RUN_NS, reader, device]
        if lasts_ns < 0 or (device != home and m.link_of[home, device] < 0):
            continue
        ready_ns = max(w.tasks[reader, RELEASE_NS], w.devices[device, FREE_NS])
        if device == home:
            ready_ns = max(ready_ns, end_ns)
        else:
            link = m.link_of[home, device]
            pushed_ns, length_ns = end_ns + w.pairs[STAGE_NS, task, home], w.moves[task, link]
            lasts_ns += w.pairs[GATHER_NS, task, device]
            come_ns = fit(m, w, link, length_ns, pushed_ns) + length_ns + m.facts[HANDOFF_NS]
            ready_ns = max(ready_ns, come_ns)
        reachable = True
        for at in range(w.starts[IN_START, reader], w.starts[IN_START, reader + 1]):
            source = w.inputs[at]
            if w.tasks[source, HOME] >= 0:
                come_ns = there_ns(m, w, source, device, 0)
                reachable = reachable and come_ns >= 0
                ready_ns = max(ready_ns, come_ns)
        if reachable:
            best_ns = min(best_ns, ready_ns + lasts_ns + gather_ns(m, w, reader, device))
    return ABSENT if best_ns == NEVER else best_ns


@inlined
def best_shown(
    m: Machine, c: Cells, w: Work, method: int, wanted: IntArray, device: int
) -> tuple[int, int]:
    """Return which of the shown tasks goes next, by its place, and where; ABSENT if nowhere.

    `wanted`: of GIVEN; `device`: of CPOP's critical path. Each goes where it may.
    """
    best, best_device, best_ns, best_tie_ns, least = 0, ABSENT, NEVER, NEVER, np.inf
    for at in range(w.sums[N_SHOWN]):
        task = w.shown[at]
        preferred = ABSENT
        if method == GIVEN:
            preferred = wanted[task]
        elif method == CPOP and w.tasks[task, CRITICAL] != 0:
            preferred = device
        look_up(m, c, w, task)
        for other in range(len(m.devices)):
            if w.pairs[READY_NS, task, other] < 0:
                continue
            end_ns = option_end_ns(m, w, task, other)
            value, value_ns, tie_ns = 0.0, end_ns, end_ns
            if method == LOOKAHEAD:
                value_ns = far_sighted_ns(m, w, task, other, end_ns)
            elif method == PEFT:
                value, value_ns, tie_ns = end_ns + w.after[task, other], 0, 0
            elif other == preferred:
                value_ns = ABSENT
            is_less = value < least
            if value == least:
                is_less = value_ns < best_ns
                if value_ns == best_ns:
                    is_less = tie_ns < best_tie_ns
                    if tie_ns == best_tie_ns:
                        is_less = task < w.shown[best]
            if is_less:
                best, best_device = at, other
                least, best_ns, best_tie_ns = value, value_ns, tie_ns
    return best, best_device


# One plan


@inlined
def reset(m: Machine, g: Given, w: Work) -> None:
    """Begin with nothing placed."""
    for place in range(N_SUMS):
        w.sums[place] = 0
    for task in range(len(w.order)):
        w.tasks[task, HOME] = ABSENT
        w.tasks[task, STAGED] = 0
        w.tasks[task, SEEN] = ABSENT
        w.tasks[task, CRITICAL] = 0
        w.tasks[task, RELEASE_NS] = g.arrival_ns[task]
        w.tasks[task, FED] = g.host_bytes[task] > 0
        w.tasks[task, RETURNS] = g.returns[task]
        w.tasks[task, GATED] = 0
        if len(g.gate_start) > 0 and g.gate_start[task] < g.gate_start[task + 1]:
            w.tasks[task, GATED] = 1
            w.sums[N_GATED] += 1
        for device in range(len(m.devices)):
            w.pairs[THERE_NS, task, device] = ABSENT
    for device in range(len(m.devices)):
        for column in range(N_DEVICE_COLUMNS):
            w.devices[device, column] = 0
    for resource in range(len(w.n_busy)):
        w.n_busy[resource] = 0


@inlined
def set_keys(m: Machine, w: Work, method: int) -> int:
    """Write what ready tasks are ordered by; return the device of CPOP's critical path."""
    for task in range(len(w.order)):
        w.ranks[KEY, task] = w.ranks[UP, task]
        if method == CPOP:
            w.ranks[KEY, task] = w.ranks[UP, task] + w.ranks[DOWN, task]
        elif method == PEFT:
            total, count = 0.0, 0
            for device in range(len(m.devices)):
                if w.pairs[RUN_NS, task, device] >= 0:
                    total += w.after[task, device]
                    count += 1
            w.ranks[KEY, task] = total / count
    return mark_critical(m, w) if method == CPOP else ABSENT


@inlined
def mark_critical(m: Machine, w: Work) -> int:
    """Mark one path along the highest keys; return the device that runs it fastest, or ABSENT."""
    task = ABSENT
    for other in range(len(w.order)):
        is_entry = w.starts[IN_START, other] == w.starts[IN_START, other + 1]
        if is_entry and (task < 0 or goes_before(w, other, task)):
            task = other
    while task >= 0:
        w.tasks[task, CRITICAL] = 1
        following = ABSENT
        for at in range(w.starts[OUT_START, task], w.starts[OUT_START, task + 1]):
            if following < 0 or goes_before(w, w.readers[at], following):
                following = w.readers[at]
        task = following
    best, best_ns = ABSENT, NEVER
    for device in range(len(m.devices)):
        total_ns = 0
        for other in range(len(w.order)):
            if w.tasks[other, CRITICAL] != 0:
                run_ns = w.pairs[RUN_NS, other, device]
                total_ns = NEVER if run_ns < 0 or total_ns == NEVER else total_ns + run_ns
        if total_ns < best_ns:
            best, best_ns = device, total_ns
    return best


@inlined
def find_ready(w: Work) -> None:
    """Put all tasks on the heap that are not placed and whose inputs are."""
    for task in range(len(w.order)):
        missing = 0
        for at in range(w.starts[IN_START, task], w.starts[IN_START, task + 1]):
            missing += w.tasks[w.inputs[at], HOME] < 0
        w.tasks[task, MISSING] = missing
        if missing == 0 and w.tasks[task, HOME] < 0:
            push(w, task)


@inlined
def free_readers(w: Work, task: int) -> None:
    """Put the readers of a placed task on the heap that have become ready."""
    for at in range(w.starts[OUT_START, task], w.starts[OUT_START, task + 1]):
        reader = w.readers[at]
        w.tasks[reader, MISSING] -= 1
        if w.tasks[reader, MISSING] == 0 and w.tasks[reader, HOME] < 0:
            push(w, reader)


@inlined
def show(w: Work, count_max: int) -> None:
    """Show the ready tasks of highest key; the others stay on the heap."""
    while w.sums[N_READY] > 0:
        count = w.sums[N_SHOWN]
        if count == count_max and not goes_before(w, w.heap[0], w.shown[count - 1]):
            break
        task = pop(w)
        if count == count_max:  # the last that was shown waits again
            count -= 1
            push(w, w.shown[count])
        w.sums[N_SHOWN] = count + 1
        while count > 0 and goes_before(w, task, w.shown[count - 1]):
            w.shown[count] = w.shown[count - 1]
            count -= 1
        w.shown[count] = task


@inlined
def hide(w: Work, place: int) -> None:
    """Take a task off the shown ones."""
    w.sums[N_SHOWN] -= 1
    for at in range(place, w.sums[N_SHOWN]):
        w.shown[at] = w.shown[at + 1]


@inlined
def show_next_given(w: Work) -> None:
    """Show the next task in topological order that is not placed."""
    while w.sums[NEXT_GIVEN] < len(w.order) and w.sums[N_SHOWN] == 0:
        task = w.order[w.sums[NEXT_GIVEN]]
        w.sums[NEXT_GIVEN] += 1
        if w.tasks[task, HOME] < 0:
            w.shown[0] = task
            w.sums[N_SHOWN] = 1


@compiled
def make_plan(
    m: Machine,
    c: Cells,
    g: Given,
    w: Work,
    before: Before,
    method: int,
    wanted: IntArray,
) -> int:
    """Plan what `before` has not planned; return DONE, or STUCK for a task that can go nowhere.

    Writes Work.chosen; Work.sums tells how many choices there are, and LATEST_NS when all ends.
    `wanted`: where GIVEN and FORCED put each task, in topological order; FORCED without asking.
    """
    reset(m, g, w)
    in_order = method in (GIVEN, FORCED)
    critical_device = ABSENT if in_order else set_keys(m, w, method)
    count_max = SHOWN_MAX if method == MIN_MIN else 1
    n_before, launch, is_done = len(before.devices), 0, False
    if n_before == 0:
        find_ready(w)
        launch = 1
    # What is planned, a look at what that reveals, then the choices. Everything below is called
    # from one place only, which keeps the compiled code small.
    while True:
        tasks, first, last, device, run_ns, at = before.tasks, 0, 0, ABSENT, 0, 0
        if launch < n_before:
            first, last = before.start[launch], before.start[launch + 1]
            device, run_ns = before.devices[launch], before.run_ns[launch]
        elif launch > n_before:
            if in_order:
                show_next_given(w)
            else:
                show(w, count_max)
            if w.sums[N_SHOWN] == 0:
                is_done = True
            elif method == FORCED:
                device = wanted[w.shown[0]]
            else:
                at, device = best_shown(m, c, w, method, wanted, critical_device)
            if not is_done:
                if device < 0:
                    return STUCK
                task, count = w.shown[at], w.sums[N_CHOSEN]
                hide(w, at)
                w.chosen[count, 0], w.chosen[count, 1] = task, device
                w.sums[N_CHOSEN] = count + 1
                tasks, first, last = w.chosen[count], 0, 1
                run_ns = w.pairs[RUN_NS, task, device]
        if w.sums[N_GATED] > 0:
            release_known(m, g, w)
        if is_done:
            return DONE
        if last > first:
            place(m, w, tasks, first, last, device, run_ns)
        if launch > n_before:
            free_readers(w, w.chosen[w.sums[N_CHOSEN] - 1, 0])
        else:
            if launch == n_before:
                find_ready(w)
            launch += 1
