# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: the schedulers' estimate of plans as they grow.

`dynpartition.agent.estimate` explains the estimate; this one gives the same times, to the ns. It is
the only compiled one: list schedulers, policies and environments all place tasks by it. Un-jitted
(NUMBA_DISABLE_JIT=1) the same source gives the same numbers.

A slot holds the plan of one graph. Its integers lie in one array `s`; arrays passed one by one, or
in a tuple, would cost more than the work itself. `Places` says what lies where. Tables have named
columns. Letters: N tasks that fit into a slot, D devices, L links, Q resources, K cells, R ready
tasks shown, F features. Times are ns.
"""

from __future__ import annotations

from typing import NamedTuple

from dynpartition.compiled import compiled, inlined
from dynpartition.types import IntArray

ABSENT = -1
NEVER = 1 << 62

# Columns of tasks (N, 26). Ranges lie in `rows`; FOLLOWS: where `above` counts the task. CHECKED:
# N_CHANGES when SEEN, the traffic of the inputs' devices, was last compared. REST_NS, for policies:
# no plan ends sooner than so long after the task.
(
    INPUTS, INPUTS_END, READERS, READERS_END, FOLLOWS, FOLLOWS_END, GATES, GATES_END, PRIORITY,
    NEAR, FAR, NEAR_SIZE, RANK_NS, BELOW_NS, HAS_HOST_INPUT, RETURNS, BEST_NS, RELEASE_NS, MISSING,
    HOME, SPAN, STAGED, SEEN, CHECKED, REST_NS, CELL,
) = range(26)  # fmt: skip
N_TASK_COLUMNS = 26

# Rows of pairs (N, 9, D): a task on each device. THERE_NS: when the task's output is there. What
# every observation reads comes first: it fills few lines of the cache.
(
    READY_NS, DURATION_NS, LEGAL, RUN_NS, H_NS, THERE_NS, COPY_IN_NS, COPY_OUT_NS, HOST_COPY_NS,
) = range(9)  # fmt: skip
N_PAIR_ROWS = 9

START, END = range(2)  # columns of spans (D, N, 2), busy (Q, n, 2) and candidates (R, D + 1, 2)

# Columns of devices (D, 9). ASKED_NS: no transfer was asked whether it fits later than this.
# WALK_NS: `walk_ns` at the last `note_walks`. AFTER_NS: end of the last new transfer from there
# that the option at hand needs.
FREE_NS, TRAFFIC, N_SPANS, CLOCK_NS, BEGUN, USED, ASKED_NS, WALK_NS, AFTER_NS = range(9)
N_DEVICE_COLUMNS = 9

# Rows of weights (K, 2, D): a cell on each device. LAST_USE: ABSENT where its weights are not,
# 0 where they have not been used, else one more than the position of the last launch that did.
LAST_USE, LOAD_NS = range(2)
N_WEIGHT_ROWS = 2
SIZE_BYTES, NAME_RANK = range(2)  # columns of sizes (K, 2)
# Columns of memory (D, 3). LOADS: 1 where weights may have to be loaded. Bytes are of weights.
LOADS, USED_BYTES, LIMIT_BYTES = range(3)
N_MEMORY_COLUMNS = 3

# Places in sums. N_GATED: tasks whose revealers are not all placed. N_CHOSEN: choices. N_CHANGES:
# grows whenever anything grows in TRAFFIC. N_CELLS: rows of `first_ns`. N_FIRST: entries there that
# are not 0. N_LOADING: devices that LOADS marks.
(
    N_TASKS, N_READY, N_GATED, LATEST_NS, WORK_LEFT_NS, N_LISTED, N_CHOSEN, N_REFUGES, N_CHANGES,
    N_CELLS, N_FIRST, N_LOADING,
) = range(12)  # fmt: skip
N_SUMS = 12

PER_UNIT, PER_WORK = range(2)  # places in scales
STAGES_IN, STAGES_OUT, WALK, IS_CPU = range(4)  # columns of machine (D, 4)
N_MACHINE_COLUMNS = 4


class Places(NamedTuple):
    """Facts about the machine, sizes, and where things lie in `s`, the last two in `x`."""

    host: int
    handoff_ns: int
    known_after_ns: int
    dispatches: int
    replays: int
    depth: int
    lock: int
    """The resource that is the interpreter lock, or ABSENT."""
    lock_share_ppm: int
    h_copy_ns: int
    all_linked: int
    tracks: int
    """1 where devices may not hold all weights; else `weights`, `sizes` and `memory` are empty."""
    n_devices: int
    n_links: int
    n_held: int
    """Resources per link, at most."""
    n_tasks: int
    n_intervals: int
    """Intervals per resource, at most."""
    n_shown: int
    machine: int
    """The devices."""
    links: int
    """(D, D) link from one device to another."""
    held: int
    """(L, n_held) resources of each link, ABSENT where there are fewer."""
    blocked: int
    """(L, 2) devices that a transfer occupies, or ABSENT."""
    slowed: int
    """(L, D) 1 where a transfer over the link may delay transfers from the device."""
    disturbs: int
    """(D, D) [d, e] is 1 where launches on d may delay transfers from e."""
    tasks: int
    pairs: int
    above: int
    """(N, D) where a task is NEAR or FAR of others: how many of its ancestors are on each device,
    itself included."""
    moves: int
    """(N, L) how long each task's output occupies each link."""
    rows: int
    """Inputs, readers, followers and revealers of tasks, one range after the other."""
    refuges: int
    """(n, D) sets of devices where everything can end up, where links are missing."""
    first_ns: int
    """(K, D) what the first launch of a cell on a device takes longer, 0 once there was one."""
    weights: int
    """(K, 2, D) whether cells are on devices, and what loading them takes; see LAST_USE."""
    sizes: int
    """(K, 2) bytes of weights; the place of each cell's name in their order."""
    memory: int
    """(D, 3) what weights have room; see LOADS."""
    sums: int
    devices: int
    spans: int
    """(D, N, 2) launches of each device in plan order."""
    finished: int
    """(D, N) when each launch was to end when it was dispatched."""
    n_busy: int
    """(Q,) intervals of each resource."""
    busy: int
    """(Q, n_intervals, 2) sorted, with a gap between any two."""
    ready: int
    """(N,) ready tasks, highest rank first."""
    chosen: int
    """(N, 2) choices so far: task, device."""
    shown: int
    """(R,) the tasks of the last observation."""
    candidates: int
    """(R, D + 1, 2) start and end of each candidate; then the first end of each row."""
    scales: int
    known: int
    """(N, D, 8)"""


@inlined
def unpack(a: IntArray) -> Places:
    """Return what an array of as many integers says: a tuple would take µs to pass."""
    return Places(
        a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9],
        a[10], a[11], a[12], a[13], a[14], a[15], a[16], a[17], a[18], a[19],
        a[20], a[21], a[22], a[23], a[24], a[25], a[26], a[27], a[28], a[29],
        a[30], a[31], a[32], a[33], a[34], a[35], a[36], a[37], a[38], a[39],
        a[40], a[41], a[42], a[43], a[44],
    )  # fmt: skip


@inlined
def of_task(tasks: int, task: int, column: int) -> int:
    """Return where a column of `tasks` lies."""
    return tasks + N_TASK_COLUMNS * task + column


@inlined
def of_pair(pairs: int, n_devices: int, task: int, device: int, row: int) -> int:
    """Return where an entry of `pairs` lies."""
    return pairs + n_devices * (N_PAIR_ROWS * task + row) + device


@inlined
def of_device(devices: int, device: int, column: int) -> int:
    """Return where a column of `devices` lies."""
    return devices + N_DEVICE_COLUMNS * device + column


@inlined
def of_span(spans: int, n_tasks: int, device: int, position: int, column: int) -> int:
    """Return where a column of `spans` lies."""
    return spans + 2 * (n_tasks * device + position) + column


@inlined
def of_busy(busy: int, n_intervals: int, resource: int, position: int, column: int) -> int:
    """Return where a column of `busy` lies."""
    return busy + 2 * (n_intervals * resource + position) + column


@inlined
def of_candidate(candidates: int, n_devices: int, row: int, device: int, column: int) -> int:
    """Return where a column of `candidates` lies."""
    return candidates + 2 * ((n_devices + 1) * row + device) + column


@inlined
def of_machine(machine: int, device: int, column: int) -> int:
    """Return where a column of `machine` lies."""
    return machine + N_MACHINE_COLUMNS * device + column


@inlined
def of_weights(p: Places, cell: int, row: int) -> int:
    """Return where a row of `weights` lies."""
    return p.weights + p.n_devices * (N_WEIGHT_ROWS * cell + row)


@inlined
def of_memory(p: Places, device: int, column: int) -> int:
    """Return where a column of `memory` lies."""
    return p.memory + N_MEMORY_COLUMNS * device + column


@inlined
def link_between(s: IntArray, p: Places, source: int, device: int) -> int:
    """Return the link from one device to another, or ABSENT."""
    return s[p.links + p.n_devices * source + device]


@inlined
def clock_of(s: IntArray, p: Places, device: int) -> int:
    """Return where the clock of the walk that dispatches for `device` lies."""
    return of_device(p.devices, s[of_machine(p.machine, device, WALK)], CLOCK_NS)


# Transfers: when they fit, and booking them


@inlined
def behind(s: IntArray, p: Places, resource: int, ready_ns: int) -> int:
    """Return the first interval of a resource that ends after `ready_ns`, by its place in `s`."""
    first = of_busy(p.busy, p.n_intervals, resource, 0, START)  # two entries per interval
    high = s[p.n_busy + resource]
    step, low = 1, high
    while low > 0 and s[first + 2 * (low - 1) + END] > ready_ns:  # the last are asked for most
        high = low - 1
        low = max(0, low - step)
        step *= 2
    while low < high:
        middle = (low + high) // 2
        if s[first + 2 * middle + END] > ready_ns:
            high = middle
        else:
            low = middle + 1
    return first + 2 * low


@inlined
def first_fit(s: IntArray, p: Places, resource: int, ready_ns: int, length_ns: int) -> int:
    """Return the first time from `ready_ns` on at which `resource` is free for long enough."""
    stop = of_busy(p.busy, p.n_intervals, resource, s[p.n_busy + resource], START)
    at = behind(s, p, resource, ready_ns)
    while at < stop and s[at + START] < ready_ns + length_ns:
        ready_ns = max(ready_ns, s[at + END])
        at += 2
    return ready_ns


@inlined
def take(s: IntArray, p: Places, resource: int, start_ns: int, end_ns: int) -> None:
    """Mark an interval busy that `first_fit` found; intervals that touch become one."""
    if start_ns == end_ns:  # see `agent.occupancy`
        return
    first = of_busy(p.busy, p.n_intervals, resource, 0, START)  # two entries per interval
    stop = first + 2 * s[p.n_busy + resource]
    at = stop
    while at > first and s[at - 2 + START] > start_ns:
        at -= 2
    joins_before = at > first and s[at - 2 + END] == start_ns
    joins_behind = at < stop and s[at + START] == end_ns
    if joins_before and joins_behind:
        s[at - 2 + END] = s[at + END]
        for place in range(at, stop - 2):
            s[place] = s[place + 2]
        s[p.n_busy + resource] -= 1
    elif joins_before:
        s[at - 2 + END] = end_ns
    elif joins_behind:
        s[at + START] = start_ns
    else:
        for place in range(stop - 1, at - 1, -1):
            s[place + 2] = s[place]
        s[at + START], s[at + END] = start_ns, end_ns
        s[p.n_busy + resource] += 1


@inlined
def running_until(s: IntArray, p: Places, device: int, time_ns: int) -> int:
    """Return the end of the launch that runs on `device` at `time_ns`, else `time_ns`."""
    s[of_device(p.devices, device, ASKED_NS)] = max(
        s[of_device(p.devices, device, ASKED_NS)], time_ns
    )
    for position in range(s[of_device(p.devices, device, N_SPANS)] - 1, -1, -1):
        if s[of_span(p.spans, p.n_tasks, device, position, END)] <= time_ns:
            break
        if s[of_span(p.spans, p.n_tasks, device, position, START)] < time_ns:
            return s[of_span(p.spans, p.n_tasks, device, position, END)]
    return time_ns


@inlined
def fit(s: IntArray, p: Places, link: int, length_ns: int, ready_ns: int) -> int:
    """Return when a transfer that could be pushed at `ready_ns` starts."""
    before = ABSENT
    while before != ready_ns:  # until all resources agree
        before = ready_ns
        for at in range(p.held + p.n_held * link, p.held + p.n_held * (link + 1)):
            if s[at] >= 0:
                ready_ns = first_fit(s, p, s[at], ready_ns, length_ns)
    for at in range(p.blocked + 2 * link, p.blocked + 2 * link + 2):
        if s[at] >= 0:
            ready_ns = running_until(s, p, s[at], ready_ns)
    return ready_ns


@inlined
def disturb(s: IntArray, p: Places, device: int) -> None:
    """Note that launches on `device` may have changed when outputs could be elsewhere."""
    s[p.sums + N_CHANGES] += 1
    for source in range(p.n_devices):
        s[of_device(p.devices, source, TRAFFIC)] += s[p.disturbs + p.n_devices * device + source]


@inlined
def push_back(s: IntArray, p: Places, device: int, start_ns: int, end_ns: int) -> None:
    """Occupy `device` for a while; launches from `start_ns` on move behind it."""
    count = s[of_device(p.devices, device, N_SPANS)]
    position = count
    while position > 0 and s[of_span(p.spans, p.n_tasks, device, position - 1, START)] >= start_ns:
        position -= 1
    while position < count and s[of_span(p.spans, p.n_tasks, device, position, START)] < end_ns:
        length = (
            s[of_span(p.spans, p.n_tasks, device, position, END)]
            - s[of_span(p.spans, p.n_tasks, device, position, START)]
        )
        s[of_span(p.spans, p.n_tasks, device, position, START)] = end_ns
        end_ns += length
        s[of_span(p.spans, p.n_tasks, device, position, END)] = end_ns
        s[p.sums + LATEST_NS] = max(s[p.sums + LATEST_NS], end_ns)
        position += 1
    if position == count and start_ns <= s[of_device(p.devices, device, FREE_NS)]:
        s[of_device(p.devices, device, FREE_NS)] = max(
            s[of_device(p.devices, device, FREE_NS)], end_ns
        )
    disturb(s, p, device)


@inlined
def book(s: IntArray, p: Places, link: int, length_ns: int, ready_ns: int) -> int:
    """Book a transfer; return its end."""
    assert link >= 0, "a transfer was committed over an absent link"
    start_ns = fit(s, p, link, length_ns, ready_ns)
    for at in range(p.held + p.n_held * link, p.held + p.n_held * (link + 1)):
        if s[at] >= 0:
            take(s, p, s[at], start_ns, start_ns + length_ns)
    for at in range(p.blocked + 2 * link, p.blocked + 2 * link + 2):
        if s[at] >= 0:
            push_back(s, p, s[at], start_ns, start_ns + length_ns)
    s[p.sums + N_CHANGES] += 1
    for source in range(p.n_devices):
        s[of_device(p.devices, source, TRAFFIC)] += s[p.slowed + p.n_devices * link + source]
    return start_ns + length_ns


@inlined
def end_of(s: IntArray, p: Places, task: int) -> int:
    """Return when a placed task ends."""
    return s[
        of_span(
            p.spans,
            p.n_tasks,
            s[of_task(p.tasks, task, HOME)],
            s[of_task(p.tasks, task, SPAN)],
            END,
        )
    ]


@inlined
def staging_ns(s: IntArray, p: Places, task: int) -> int:
    """Return what staging for remote readers will add to a placed task, 0 once it has."""
    home = s[of_task(p.tasks, task, HOME)]
    if s[of_machine(p.machine, home, STAGES_OUT)] == 0 or s[of_task(p.tasks, task, STAGED)] != 0:
        return 0
    return s[of_pair(p.pairs, p.n_devices, task, home, COPY_OUT_NS)]


@inlined
def stage(s: IntArray, p: Places, task: int) -> None:
    """Make a placed task longer by its staging, once."""
    longer = staging_ns(s, p, task)
    if longer > 0:
        home, end_ns = s[of_task(p.tasks, task, HOME)], end_of(s, p, task)
        s[of_task(p.tasks, task, STAGED)] = 1
        push_back(s, p, home, end_ns, end_ns + longer)
        s[of_span(p.spans, p.n_tasks, home, s[of_task(p.tasks, task, SPAN)], END)] = end_ns + longer
        s[p.sums + LATEST_NS] = max(s[p.sums + LATEST_NS], end_ns + longer)


@inlined
def deliver(s: IntArray, p: Places, task: int, device: int) -> int:
    """Return when the output of a placed task is on `device`, booking its transfer if needed."""
    home = s[of_task(p.tasks, task, HOME)]
    if home == device:
        return end_of(s, p, task)
    if s[of_pair(p.pairs, p.n_devices, task, device, THERE_NS)] < 0:
        stage(s, p, task)
        link = link_between(s, p, home, device)
        there = book(s, p, link, s[p.moves + p.n_links * task + link], end_of(s, p, task))
        s[of_pair(p.pairs, p.n_devices, task, device, THERE_NS)] = there + p.handoff_ns
        s[clock_of(s, p, home)] += p.h_copy_ns
    return s[of_pair(p.pairs, p.n_devices, task, device, THERE_NS)]


# The host


@inlined
def lock_share_ns(p: Places, duration_ns: int) -> int:
    """Return how much of a CPU launch holds the lock; see `costs.share_ns`."""
    whole, rest = duration_ns // 1_000_000, duration_ns % 1_000_000
    ppm = p.lock_share_ppm
    return whole * ppm - (-rest * ppm // 1_000_000)


@inlined
def walk_ns(s: IntArray, p: Places, device: int) -> int:
    """Return when the host can turn to the next launch of `device`, whatever it is."""
    begin = s[clock_of(s, p, device)]
    under_way, depth = s[of_device(p.devices, device, N_SPANS)], p.depth
    if depth >= 0 and under_way >= depth:
        begin = max(begin, s[p.finished + p.n_tasks * device + under_way - depth])
    return begin


@inlined
def dispatched_ns(s: IntArray, p: Places, task: int, device: int, walk: int) -> int:
    """Return when a launch that begins with `task` can have been dispatched on `device`.

    `walk`: `walk_ns` of the device.
    """
    begin = max(walk, s[of_task(p.tasks, task, RELEASE_NS)])
    if p.replays != 0 and s[of_device(p.devices, device, BEGUN)] != 0:
        return begin
    h_ns = s[of_pair(p.pairs, p.n_devices, task, device, H_NS)]
    if p.lock >= 0 and s[of_machine(p.machine, device, IS_CPU)] == 0:
        begin = first_fit(s, p, p.lock, begin, h_ns)
    return begin + h_ns


@inlined
def locked_start_ns(s: IntArray, p: Places, device: int, at_ns: int, lasts_ns: int) -> int:
    """Return when a launch that is otherwise ready starts, given the interpreter lock."""
    if p.lock >= 0 and s[of_machine(p.machine, device, IS_CPU)] != 0:
        return first_fit(s, p, p.lock, at_ns, lock_share_ns(p, lasts_ns))
    return at_ns


@inlined
def take_host(
    s: IntArray, p: Places, task: int, device: int, dispatched: int, start: int, end: int
) -> None:
    """Record a launch that was dispatched and runs from `start` to `end`."""
    on_cpu, locks = s[of_machine(p.machine, device, IS_CPU)] != 0, p.lock >= 0
    if p.replays == 0:
        s[clock_of(s, p, device)] = end if on_cpu else dispatched
    s[of_device(p.devices, device, BEGUN)] = 1
    s[p.finished + p.n_tasks * device + s[of_device(p.devices, device, N_SPANS)]] = end
    if locks and on_cpu:
        take(s, p, p.lock, start, start + lock_share_ns(p, end - start))
    elif locks:
        take(
            s,
            p,
            p.lock,
            dispatched - s[of_pair(p.pairs, p.n_devices, task, device, H_NS)],
            dispatched,
        )


# Weights: what devices hold, and bringing it; see `agent.holdings`


@inlined
def may_lack(s: IntArray, p: Places, device: int) -> bool:
    """Return whether weights may have to be loaded on a device."""
    return s[p.sums + N_LOADING] != 0 and s[of_memory(p, device, LOADS)] != 0


@inlined
def is_resident(s: IntArray, p: Places, cell: int, device: int) -> bool:
    """Return whether the weights of a cell are on a device."""
    return not may_lack(s, p, device) or s[of_weights(p, cell, LAST_USE) + device] >= 0


@inlined
def load_ns(s: IntArray, p: Places, task: int, device: int) -> int:
    """Return how long bringing the weights of `task` to `device` takes; 0 if they are there."""
    cell = s[of_task(p.tasks, task, CELL)]
    if is_resident(s, p, cell, device):
        return 0
    return max(s[of_weights(p, cell, LOAD_NS) + device], 0)


@inlined
def weights_bytes(s: IntArray, p: Places, device: int) -> int:
    """Return the bytes of weights that a device holds; 0 where it has all, always."""
    return s[of_memory(p, device, USED_BYTES)] if may_lack(s, p, device) else 0


@inlined
def weights_limit_bytes(s: IntArray, p: Places, device: int) -> int:
    """Return how many bytes of weights fit on a device; NEVER where it has all, always."""
    return s[of_memory(p, device, LIMIT_BYTES)] if may_lack(s, p, device) else NEVER


@inlined
def loaded_ns(s: IntArray, p: Places, task: int, device: int, after_ns: int) -> int:
    """Return when the weights of `task` could be on `device`, were its launch the next there.

    0 if they are there. `after_ns`: the device is not free earlier.
    """
    length_ns = load_ns(s, p, task, device)
    if length_ns == 0:
        return 0
    ready_ns = max(after_ns, s[of_device(p.devices, device, FREE_NS)])
    ready_ns = max(ready_ns, s[of_task(p.tasks, task, RELEASE_NS)])
    return fit(s, p, link_between(s, p, p.host, device), length_ns, ready_ns) + length_ns


@inlined
def load(s: IntArray, p: Places, cell: int, device: int, release_ns: int) -> int:
    """Book the load that the next launch on a device needs, if any, and let it use the weights.

    Return when they are there. `release_ns`: when the launch is known and has arrived.
    """
    there_ns, last_use = 0, of_weights(p, cell, LAST_USE) + device
    length_ns = s[of_weights(p, cell, LOAD_NS) + device]
    if s[last_use] < 0:
        if length_ns >= 0:
            ready_ns = max(release_ns, s[of_device(p.devices, device, FREE_NS)])
            there_ns = book(s, p, link_between(s, p, p.host, device), length_ns, ready_ns)
        s[of_memory(p, device, USED_BYTES)] += s[p.sizes + 2 * cell + SIZE_BYTES]
    s[last_use] = s[of_device(p.devices, device, N_SPANS)] + 1
    while s[of_memory(p, device, USED_BYTES)] > s[of_memory(p, device, LIMIT_BYTES)]:
        victim = least_used(s, p, device, cell)
        if victim < 0 or length_ns < 0:
            break  # the cell alone is too much: a run may say so
        s[of_weights(p, victim, LAST_USE) + device] = ABSENT
        s[of_memory(p, device, USED_BYTES)] -= s[p.sizes + 2 * victim + SIZE_BYTES]
    return there_ns


@inlined
def least_used(s: IntArray, p: Places, device: int, kept: int) -> int:
    """Return the cell on a device that was used least recently, ties by name, but not `kept`."""
    victim, victim_ns = ABSENT, NEVER
    for cell in range(s[p.sums + N_CELLS]):
        use = s[of_weights(p, cell, LAST_USE) + device]
        if use < 0 or cell == kept or s[p.sizes + 2 * cell + SIZE_BYTES] == 0:
            continue
        use_ns = ABSENT
        if use > 0:
            use_ns = s[of_span(p.spans, p.n_tasks, device, use - 1, END)]
        is_less = use_ns < victim_ns
        if use_ns == victim_ns and victim >= 0:
            is_less = s[p.sizes + 2 * cell + NAME_RANK] < s[p.sizes + 2 * victim + NAME_RANK]
        if is_less:
            victim, victim_ns = cell, use_ns
    return victim


# Committing launches


@inlined
def release_known(s: IntArray, p: Places) -> None:
    """Find when the tasks whose revealers are all placed are known to the host."""
    for task in range(s[p.sums + N_TASKS]):
        first, last = s[of_task(p.tasks, task, GATES)], s[of_task(p.tasks, task, GATES_END)]
        if first == last:
            continue
        known_ns = 0
        for at in range(first, last):
            if s[of_task(p.tasks, s[p.rows + at], HOME)] < 0:
                known_ns = ABSENT
        if known_ns == 0:
            for at in range(first, last):
                known_ns = max(known_ns, deliver(s, p, s[p.rows + at], p.host))
            known_ns += p.known_after_ns
            s[of_task(p.tasks, task, RELEASE_NS)] = max(
                s[of_task(p.tasks, task, RELEASE_NS)], known_ns
            )
            s[of_task(p.tasks, task, GATES)] = last
            s[of_task(p.tasks, task, SEEN)] = s[of_task(p.tasks, task, CHECKED)] = ABSENT
            s[p.sums + N_GATED] -= 1


@inlined
def bring(s: IntArray, p: Places, task: int, device: int) -> int:
    """Book the transfers that `task` needs on `device`; return when all are there."""
    ready_ns = s[of_task(p.tasks, task, RELEASE_NS)]
    if s[of_task(p.tasks, task, HAS_HOST_INPUT)] != 0 and device != p.host:
        length_ns = s[of_pair(p.pairs, p.n_devices, task, device, HOST_COPY_NS)]
        ready_ns = book(s, p, link_between(s, p, p.host, device), length_ns, ready_ns)
    for at in range(s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]):
        ready_ns = max(ready_ns, deliver(s, p, s[p.rows + at], device))
    return ready_ns


@inlined
def gather_ns(s: IntArray, p: Places, task: int, device: int) -> int:
    """Return what gathering the remote inputs of `task`, those placed, adds to it on `device`."""
    total_ns = 0
    if s[of_machine(p.machine, device, STAGES_IN)] != 0:
        for at in range(s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]):
            source = s[p.rows + at]
            home = s[of_task(p.tasks, source, HOME)]
            if home >= 0 and home != device:
                total_ns += s[of_pair(p.pairs, p.n_devices, source, device, COPY_IN_NS)]
    return total_ns


@inlined
def first_use_ns(s: IntArray, p: Places, task: int, device: int) -> int:
    """Return what a launch of `task` takes longer because its cell was not used on `device`."""
    if s[p.sums + N_FIRST] == 0:
        return 0
    return s[p.first_ns + p.n_devices * s[of_task(p.tasks, task, CELL)] + device]


@inlined
def take_first_use(s: IntArray, p: Places, task: int, device: int) -> int:
    """Return `first_use_ns`, and let it be 0 from now on."""
    longer_ns = first_use_ns(s, p, task, device)
    if longer_ns > 0:
        cell = s[of_task(p.tasks, task, CELL)]
        s[p.first_ns + p.n_devices * cell + device] = 0
        s[p.sums + N_FIRST] -= 1
        s[p.sums + N_CHANGES] += 1
        for at in range(s[p.sums + N_READY]):  # what is kept about the others of the cell is old
            other = s[p.ready + at]
            if s[of_task(p.tasks, other, CELL)] == cell:
                s[of_task(p.tasks, other, SEEN)] = s[of_task(p.tasks, other, CHECKED)] = ABSENT
    return longer_ns


@inlined
def lasts_ns(s: IntArray, p: Places, task: int, device: int) -> int:
    """Return how long `task` would run on a device that can run it."""
    run_ns = s[of_pair(p.pairs, p.n_devices, task, device, RUN_NS)]
    return run_ns + gather_ns(s, p, task, device) + first_use_ns(s, p, task, device)


@inlined
def append(s: IntArray, p: Places, task: int, device: int, ready_ns: int, duration_ns: int) -> None:
    """Append a launch that begins with `task` to what `device` runs."""
    start_ns = max(ready_ns, s[of_device(p.devices, device, FREE_NS)])
    if p.dispatches != 0:
        dispatched = dispatched_ns(s, p, task, device, walk_ns(s, p, device))
        start_ns = locked_start_ns(s, p, device, max(start_ns, dispatched), duration_ns)
        take_host(s, p, task, device, dispatched, start_ns, start_ns + duration_ns)
    position = s[of_device(p.devices, device, N_SPANS)]
    s[of_span(p.spans, p.n_tasks, device, position, START)] = start_ns
    s[of_span(p.spans, p.n_tasks, device, position, END)] = start_ns + duration_ns
    s[of_device(p.devices, device, N_SPANS)] += 1
    s[of_device(p.devices, device, FREE_NS)] = start_ns + duration_ns
    s[p.sums + LATEST_NS] = max(s[p.sums + LATEST_NS], start_ns + duration_ns)
    if start_ns < s[of_device(p.devices, device, ASKED_NS)]:
        disturb(s, p, device)


@inlined
def run_launch(
    s: IntArray, p: Places, tasks: IntArray, first: int, last: int, device: int, run_ns: int,
    ready_ns: int,
) -> None:  # fmt: skip
    """Append a launch as `commit` does, whose inputs are booked and there at `ready_ns`."""
    for at in range(first, last):
        run_ns += gather_ns(s, p, tasks[at], device)
    run_ns += take_first_use(s, p, tasks[first], device)
    if may_lack(s, p, device):
        release_ns = 0
        for at in range(first, last):
            release_ns = max(release_ns, s[of_task(p.tasks, tasks[at], RELEASE_NS)])
        cell = s[of_task(p.tasks, tasks[first], CELL)]
        ready_ns = max(ready_ns, load(s, p, cell, device, release_ns))
    append(s, p, tasks[first], device, ready_ns, run_ns)
    s[of_device(p.devices, device, USED)] = 1
    for at in range(first, last):
        s[of_task(p.tasks, tasks[at], HOME)] = device
        s[of_task(p.tasks, tasks[at], SPAN)] = s[of_device(p.devices, device, N_SPANS)] - 1
    for at in range(first, last):
        if s[of_task(p.tasks, tasks[at], RETURNS)] != 0 and device != p.host:
            there = deliver(s, p, tasks[at], p.host)
            s[p.sums + LATEST_NS] = max(s[p.sums + LATEST_NS], there)


@inlined
def commit(
    s: IntArray, p: Places, tasks: IntArray, first: int, last: int, device: int, run_ns: int
) -> None:
    """Append a launch of tasks[first:last], `run_ns` long without gathering and first use."""
    if s[p.sums + N_GATED] > 0:
        release_known(s, p)
    ready_ns = s[of_task(p.tasks, tasks[first], RELEASE_NS)]
    for at in range(first, last):
        ready_ns = max(ready_ns, bring(s, p, tasks[at], device))
    run_launch(s, p, tasks, first, last, device, run_ns, ready_ns)


@inlined
def free_readers(s: IntArray, p: Places, task: int) -> None:
    """Count `task` as placed at its readers."""
    for at in range(s[of_task(p.tasks, task, READERS)], s[of_task(p.tasks, task, READERS_END)]):
        s[of_task(p.tasks, s[p.rows + at], MISSING)] -= 1


@compiled
def replay(
    s: IntArray, layout: IntArray, tasks: IntArray, start: IntArray, devices: IntArray,
    run_ns: IntArray,
) -> None:  # fmt: skip
    """Append launches: tasks[start[l]:start[l + 1]] on devices[l] for run_ns[l] alone."""
    p = unpack(layout)
    for launch in range(len(devices)):
        first, last = start[launch], start[launch + 1]
        commit(s, p, tasks, first, last, devices[launch], run_ns[launch])
        for at in range(first, last):
            free_readers(s, p, tasks[at])
    if s[p.sums + N_GATED] > 0:
        release_known(s, p)


# What a ready task needs on each device


@inlined
def data_ready_ns(s: IntArray, p: Places, task: int, device: int) -> int:
    """Return when all inputs of `task` could be on `device`; ABSENT if a link is missing."""
    ready_ns = s[of_task(p.tasks, task, RELEASE_NS)]
    if s[of_task(p.tasks, task, HAS_HOST_INPUT)] != 0 and device != p.host:
        link = link_between(s, p, p.host, device)
        if link < 0:
            return ABSENT
        length_ns = s[of_pair(p.pairs, p.n_devices, task, device, HOST_COPY_NS)]
        ready_ns = fit(s, p, link, length_ns, ready_ns) + length_ns
    first, last = s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]
    for at in range(first, last):  # two new transfers on one link follow each other
        home = s[of_task(p.tasks, s[p.rows + at], HOME)]
        s[of_device(p.devices, home, AFTER_NS)] = 0
    for at in range(first, last):
        source = s[p.rows + at]
        after = of_device(p.devices, s[of_task(p.tasks, source, HOME)], AFTER_NS)
        come_ns = there_ns(s, p, source, device, s[after])
        if come_ns < 0:
            return ABSENT
        if s[of_pair(p.pairs, p.n_devices, source, device, THERE_NS)] < 0:
            s[after] = come_ns - p.handoff_ns
        ready_ns = max(ready_ns, come_ns)
    return ready_ns


@inlined
def there_ns(s: IntArray, p: Places, source: int, device: int, after_ns: int) -> int:
    """Return when the output of a placed task could be on `device`; ABSENT without a link.

    `after_ns`: a transfer that is not booked yet starts no earlier.
    """
    home = s[of_task(p.tasks, source, HOME)]
    if home == device:
        return end_of(s, p, source)
    if s[of_pair(p.pairs, p.n_devices, source, device, THERE_NS)] >= 0:
        return s[of_pair(p.pairs, p.n_devices, source, device, THERE_NS)]
    link = link_between(s, p, home, device)
    if link < 0:
        return ABSENT
    pushed_ns = max(end_of(s, p, source) + staging_ns(s, p, source), after_ns)
    length_ns = s[p.moves + p.n_links * source + link]
    return fit(s, p, link, length_ns, pushed_ns) + length_ns + p.handoff_ns


@inlined
def judge(s: IntArray, p: Places, task: int) -> None:
    """Find where a ready task may go, where links are missing; see `agent.legality`."""
    n_safe = 0
    for device in range(p.n_devices):
        s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] = 0
        if s[of_pair(p.pairs, p.n_devices, task, device, READY_NS)] >= 0 and can_answer(
            s, p, task, device
        ):
            is_safe = keeps_refuge(s, p, device)
            s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] = 2 if is_safe else 1
            n_safe += is_safe
    for device in range(p.n_devices):
        if n_safe > 0 and s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] == 1:
            s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] = 0


@inlined
def can_answer(s: IntArray, p: Places, task: int, device: int) -> bool:
    """Return whether an answer of `task` could travel from `device` to the host."""
    if s[of_task(p.tasks, task, RETURNS)] == 0 or device == p.host:
        return True
    return link_between(s, p, device, p.host) >= 0


@inlined
def keeps_refuge(s: IntArray, p: Places, device: int) -> bool:
    """Return whether the used devices and `device` all reach one and the same refuge."""
    for refuge in range(s[p.sums + N_REFUGES]):
        n_lost = 0
        for used in range(p.n_devices):
            if used == device or s[of_device(p.devices, used, USED)] != 0:
                for other in range(p.n_devices):
                    is_apart = used != other and link_between(s, p, used, other) < 0
                    n_lost += s[p.refuges + p.n_devices * refuge + other] != 0 and is_apart
        if n_lost == 0:
            return True
    return False


@inlined
def note_walks(s: IntArray, p: Places) -> None:
    """Note when the host can turn to the next launch of each device."""
    if p.dispatches != 0:
        for device in range(p.n_devices):
            s[of_device(p.devices, device, WALK_NS)] = walk_ns(s, p, device)


@inlined
def option_start_ns(s: IntArray, p: Places, task: int, device: int) -> int:
    """Return when a ready task would start on a legal device; `note_walks` comes before."""
    at_ns = max(
        s[of_pair(p.pairs, p.n_devices, task, device, READY_NS)],
        s[of_device(p.devices, device, FREE_NS)],
    )
    if may_lack(s, p, device):
        at_ns = max(at_ns, loaded_ns(s, p, task, device, 0))
    if p.dispatches != 0:
        walk = s[of_device(p.devices, device, WALK_NS)]
        at_ns = max(at_ns, dispatched_ns(s, p, task, device, walk))
        duration_ns = s[of_pair(p.pairs, p.n_devices, task, device, DURATION_NS)]
        at_ns = locked_start_ns(s, p, device, at_ns, duration_ns)
    return at_ns


@inlined
def reset_slot(s: IntArray, s0: IntArray, p: Places) -> None:
    """Begin anew from the state of slot `s0`."""
    n = s0[p.sums + N_TASKS]
    for at in range(p.tasks, p.tasks + N_TASK_COLUMNS * n):
        s[at] = s0[at]
    for t in range(n):
        at = of_pair(p.pairs, p.n_devices, t, 0, THERE_NS)
        for device in range(p.n_devices):
            s[at + device] = s0[at + device]
    reset_machine(s, s0, p)


@inlined
def reset_machine(s: IntArray, s0: IntArray, p: Places) -> None:
    """Take over all of slot `s0` but what is known of single tasks."""
    for at in range(p.sums, p.sums + N_SUMS):
        s[at] = s0[at]
    if s0[p.sums + N_FIRST] > 0:
        for at in range(p.first_ns, p.first_ns + p.n_devices * s0[p.sums + N_CELLS]):
            s[at] = s0[at]
    if s0[p.sums + N_LOADING] > 0:
        for at in range(p.weights, of_weights(p, s0[p.sums + N_CELLS], 0)):
            s[at] = s0[at]
        for at in range(p.memory, of_memory(p, p.n_devices, 0)):
            s[at] = s0[at]
    for at in range(p.devices, p.devices + N_DEVICE_COLUMNS * p.n_devices):
        s[at] = s0[at]
    for device in range(p.n_devices):
        for position in range(s0[of_device(p.devices, device, N_SPANS)]):
            at = of_span(p.spans, p.n_tasks, device, position, START)
            s[at], s[at + 1] = s0[at], s0[at + 1]
            s[p.finished + p.n_tasks * device + position] = s0[
                p.finished + p.n_tasks * device + position
            ]
    for resource in range(p.busy - p.n_busy):
        count = s0[p.n_busy + resource]
        s[p.n_busy + resource] = count
        at = of_busy(p.busy, p.n_intervals, resource, 0, START)
        for place in range(at, at + 2 * count):
            s[place] = s0[place]


@inlined
def find_options(s: IntArray, p: Places, task: int) -> int:
    """Note when inputs could be where and how long the task lasts; return legal devices as bits."""
    legal = 0
    for device in range(p.n_devices):
        run_ns, ready_ns = s[of_pair(p.pairs, p.n_devices, task, device, RUN_NS)], ABSENT
        if run_ns >= 0:
            ready_ns = data_ready_ns(s, p, task, device)
            s[of_pair(p.pairs, p.n_devices, task, device, DURATION_NS)] = lasts_ns(
                s, p, task, device
            )
        s[of_pair(p.pairs, p.n_devices, task, device, READY_NS)] = ready_ns
        s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] = ready_ns >= 0
    if p.all_linked == 0:
        judge(s, p, task)
    for device in range(p.n_devices):
        if s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] != 0:
            legal |= 1 << device
    return legal
