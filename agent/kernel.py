# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: plans of many episodes as they grow, their estimate, and what policies see of them.

`dynpartition.agent.estimate` explains the estimate; this one gives the same times, to the ns. All
compiled code stands here, because numba notices edits in this file only. Un-jitted
(NUMBA_DISABLE_JIT=1) the same source gives the same numbers.

A slot holds the plan of one episode. Its integers lie in one array `s`, its numbers in `x`; arrays
passed one by one, or in a tuple, would cost more than the work itself. `Places` says what lies
where. Tables have named columns. Letters: N tasks that fit into a slot, D devices, L links, Q
resources, R ready tasks shown, K = R·D candidates, F features. Times are ns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dynpartition.compiled import compiled, inlined
from dynpartition.types import FloatArray, IntArray

Bytes = npt.NDArray[np.int8]

ABSENT = -1
FOUR = np.float32(4)
NEVER = 1 << 62

# Columns of tasks (N, 24). Ranges lie in `rows`; FOLLOWS: where `above` counts the task. CHECKED:
# N_CHANGES when SEEN, the traffic of the inputs' devices, was last compared.
(
    INPUTS, INPUTS_END, READERS, READERS_END, FOLLOWS, FOLLOWS_END, GATES, GATES_END, PRIORITY,
    NEAR, FAR, NEAR_SIZE, RANK_NS, BELOW_NS, HAS_HOST_INPUT, RETURNS, BEST_NS, RELEASE_NS, MISSING,
    HOME, SPAN, STAGED, SEEN, CHECKED,
) = range(24)  # fmt: skip
N_TASK_COLUMNS = 24

# Rows of pairs (N, 9, D): a task on each device. THERE_NS: when the task's output is there. What
# every observation reads comes first: it fills few lines of the cache.
(
    READY_NS, DURATION_NS, LEGAL, RUN_NS, H_NS, THERE_NS, COPY_IN_NS, COPY_OUT_NS, HOST_COPY_NS,
) = range(9)  # fmt: skip
N_PAIR_ROWS = 9

START, END = range(2)  # columns of spans (D, N, 2), busy (Q, n, 2) and candidates (R, D + 1, 2)

# Columns of devices (D, 8). ASKED_NS: no transfer was asked whether it fits later than this.
# WALK_NS: `walk_ns` at the time of observing.
FREE_NS, TRAFFIC, N_SPANS, CLOCK_NS, BEGUN, USED, ASKED_NS, WALK_NS = range(8)
N_DEVICE_COLUMNS = 8

# Places in sums. N_GATED: tasks whose revealers are not all placed. N_CHOSEN: choices. N_CHANGES:
# grows whenever anything grows in TRAFFIC.
(
    N_TASKS, N_READY, N_GATED, LATEST_NS, WORK_LEFT_NS, N_LISTED, N_CHOSEN, N_REFUGES, N_CHANGES,
) = range(9)  # fmt: skip
N_SUMS = 9

PER_UNIT, PER_WORK = range(2)  # places in scales
STAGES_IN, STAGES_OUT, WALK, IS_CPU = range(4)  # columns of machine (D, 4)
N_MACHINE_COLUMNS = 4

# What became of a choice.
PLACED, ILLEGAL, ALL_PLACED, STUCK = range(4)

# Features, in the order of `observe.FEATURES`: those that every choice may change, then those
# that only the task's own inputs do.
(
    WAIT, START_LAG, FINISH_LAG, FINISHES_FIRST, RISE, RANK_LEAD, PATH, LOAD, WORK_LEFT, NEAR_HERE,
    FAR_HERE, NEAR_PLACED,
) = range(12)  # fmt: skip
N_CHANGING = 12
N_FEATURES = 20
N_KNOWN = N_FEATURES - N_CHANGING

# Columns of known (N, D, 8): the features from N_CHANGING on.
DURATION, SLOWER, RANK_SHARE, MOVE_IN, LOCAL_INPUTS, MOVE_OUT, N_READERS, SLOWNESS = range(8)


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
    after_ns: int
    """(L,) end of the last of the transfers on each link that one option needs."""
    scales: int
    known: int
    """(N, D, 8)"""


@inlined
def of_task(tasks: int, task: int, column: int) -> int:
    """Return where a column of `tasks` lies."""
    return tasks + N_TASK_COLUMNS * task + column


@inlined
def of_pair(pairs: int, n_devices: int, task: int, device: int, row: int) -> int:
    """Return where an entry of `pairs` lies."""
    return pairs + n_devices * (N_PAIR_ROWS * task + row) + device


@inlined
def of_known(known: int, n_devices: int, task: int, device: int) -> int:
    """Return where a row of `known` lies."""
    return known + N_KNOWN * (n_devices * task + device)


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
def link_between(s: IntArray, p: Places, source: int, device: int) -> int:
    """Return the link from one device to another, or ABSENT."""
    return s[p.links + p.n_devices * source + device]


@inlined
def clock_of(s: IntArray, p: Places, device: int) -> int:
    """Return where the clock of the walk that dispatches for `device` lies."""
    return of_device(p.devices, s[of_machine(p.machine, device, WALK)], CLOCK_NS)


# Transfers: when they fit, and booking them


@inlined
def first_fit(s: IntArray, p: Places, resource: int, ready_ns: int, length_ns: int) -> int:
    """Return the first time from `ready_ns` on at which `resource` is free for long enough."""
    first = of_busy(p.busy, p.n_intervals, resource, 0, START)  # two entries per interval
    stop = first + 2 * s[p.n_busy + resource]
    at = stop
    while at > first and s[at - 2 + END] > ready_ns:
        at -= 2
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
    """Return what gathering the remote inputs of `task` adds to it on `device`."""
    total_ns = 0
    if s[of_machine(p.machine, device, STAGES_IN)] != 0:
        for at in range(s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]):
            source = s[p.rows + at]
            if s[of_task(p.tasks, source, HOME)] != device:
                total_ns += s[of_pair(p.pairs, p.n_devices, source, device, COPY_IN_NS)]
    return total_ns


@inlined
def append(s: IntArray, p: Places, task: int, device: int, ready_ns: int, lasts_ns: int) -> None:
    """Append a launch that begins with `task` to what `device` runs."""
    start_ns = max(ready_ns, s[of_device(p.devices, device, FREE_NS)])
    if p.dispatches != 0:
        dispatched = dispatched_ns(s, p, task, device, walk_ns(s, p, device))
        start_ns = locked_start_ns(s, p, device, max(start_ns, dispatched), lasts_ns)
        take_host(s, p, task, device, dispatched, start_ns, start_ns + lasts_ns)
    position = s[of_device(p.devices, device, N_SPANS)]
    s[of_span(p.spans, p.n_tasks, device, position, START)] = start_ns
    s[of_span(p.spans, p.n_tasks, device, position, END)] = start_ns + lasts_ns
    s[of_device(p.devices, device, N_SPANS)] += 1
    s[of_device(p.devices, device, FREE_NS)] = start_ns + lasts_ns
    s[p.sums + LATEST_NS] = max(s[p.sums + LATEST_NS], start_ns + lasts_ns)
    if start_ns < s[of_device(p.devices, device, ASKED_NS)]:
        disturb(s, p, device)


@inlined
def settle(s: IntArray, p: Places, task: int, device: int) -> None:
    """Count `task` as placed; show what has become ready."""
    s[p.sums + WORK_LEFT_NS] -= s[of_task(p.tasks, task, BEST_NS)]
    for at in range(s[of_task(p.tasks, task, FOLLOWS)], s[of_task(p.tasks, task, FOLLOWS_END)]):
        s[p.above + p.n_devices * s[p.rows + at] + device] += 1
    position = 0
    while s[p.ready + position] != task:
        position += 1
        assert position < s[p.sums + N_READY], "a task was placed before its inputs"
    s[p.sums + N_READY] -= 1
    for at in range(position, s[p.sums + N_READY]):
        s[p.ready + at] = s[p.ready + at + 1]
    for at in range(s[of_task(p.tasks, task, READERS)], s[of_task(p.tasks, task, READERS_END)]):
        reader = s[p.rows + at]
        s[of_task(p.tasks, reader, MISSING)] -= 1
        if s[of_task(p.tasks, reader, MISSING)] == 0:
            insert_ready(s, p, reader)


@inlined
def insert_ready(s: IntArray, p: Places, task: int) -> None:
    """Put a task among the ready ones, highest rank first."""
    position = s[p.sums + N_READY]
    while (
        position > 0
        and s[of_task(p.tasks, s[p.ready + position - 1], PRIORITY)]
        > s[of_task(p.tasks, task, PRIORITY)]
    ):
        s[p.ready + position] = s[p.ready + position - 1]
        position -= 1
    s[p.ready + position] = task
    s[p.sums + N_READY] += 1


@inlined
def place(
    s: IntArray, p: Places, tasks: IntArray, first: int, last: int, device: int, run_ns: int
) -> None:
    """Append a launch of tasks[first:last] that runs `run_ns` without gathering."""
    if s[p.sums + N_GATED] > 0:
        release_known(s, p)
    ready_ns = s[of_task(p.tasks, tasks[first], RELEASE_NS)]
    for at in range(first, last):
        ready_ns = max(ready_ns, bring(s, p, tasks[at], device))
    for at in range(first, last):
        run_ns += gather_ns(s, p, tasks[at], device)
    append(s, p, tasks[first], device, ready_ns, run_ns)
    s[of_device(p.devices, device, USED)] = 1
    for at in range(first, last):
        s[of_task(p.tasks, tasks[at], HOME)] = device
        s[of_task(p.tasks, tasks[at], SPAN)] = s[of_device(p.devices, device, N_SPANS)] - 1
        settle(s, p, tasks[at], device)
    for at in range(first, last):
        if s[of_task(p.tasks, tasks[at], RETURNS)] != 0 and device != p.host:
            there = deliver(s, p, tasks[at], p.host)
            s[p.sums + LATEST_NS] = max(s[p.sums + LATEST_NS], there)


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
        link = link_between(s, p, home, device)
        if link >= 0:
            s[p.after_ns + link] = 0
    for at in range(first, last):
        there_ns = input_there_ns(s, p, s[p.rows + at], device)
        if there_ns < 0:
            return ABSENT
        ready_ns = max(ready_ns, there_ns)
    return ready_ns


@inlined
def input_there_ns(s: IntArray, p: Places, source: int, device: int) -> int:
    """Return when the output of `source` could be on `device`."""
    home = s[of_task(p.tasks, source, HOME)]
    if home == device:
        return end_of(s, p, source)
    if s[of_pair(p.pairs, p.n_devices, source, device, THERE_NS)] >= 0:
        return s[of_pair(p.pairs, p.n_devices, source, device, THERE_NS)]
    link = link_between(s, p, home, device)
    if link < 0:
        return ABSENT
    pushed_ns = max(end_of(s, p, source) + staging_ns(s, p, source), s[p.after_ns + link])
    length_ns = s[p.moves + p.n_links * source + link]
    s[p.after_ns + link] = fit(s, p, link, length_ns, pushed_ns) + length_ns
    return s[p.after_ns + link] + p.handoff_ns


@inlined
def traffic(s: IntArray, p: Places, task: int) -> int:
    """Return what grows when an input of `task` may have been delayed."""
    total = 0
    for at in range(s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]):
        total += s[of_device(p.devices, s[of_task(p.tasks, s[p.rows + at], HOME)], TRAFFIC)]
    if s[of_task(p.tasks, task, HAS_HOST_INPUT)] != 0:
        total += s[of_device(p.devices, p.host, TRAFFIC)]
    return total


@inlined
def refresh(s: IntArray, x: FloatArray, p: Places, task: int) -> None:
    """Bring up to date what is kept about a ready task on each device."""
    changes = s[p.sums + N_CHANGES]
    if s[of_task(p.tasks, task, CHECKED)] != changes:
        s[of_task(p.tasks, task, CHECKED)] = changes
        seen = traffic(s, p, task)
        if s[of_task(p.tasks, task, SEEN)] != seen:
            for device in range(p.n_devices):
                if s[of_pair(p.pairs, p.n_devices, task, device, RUN_NS)] >= 0:
                    ready_ns = data_ready_ns(s, p, task, device)
                    s[of_pair(p.pairs, p.n_devices, task, device, READY_NS)] = ready_ns
                    s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] = ready_ns >= 0
            if s[of_task(p.tasks, task, SEEN)] < 0:
                note_inputs(s, x, p, task)
                compare_durations(s, x, p, task)
            s[of_task(p.tasks, task, SEEN)] = seen
            compare_arrivals(s, x, p, task)
    if p.all_linked == 0:
        judge(s, p, task)
        compare_durations(s, x, p, task)
        compare_arrivals(s, x, p, task)


@inlined
def note_inputs(s: IntArray, x: FloatArray, p: Places, task: int) -> None:
    """Note what no later choice changes: durations, and where the inputs are."""
    first, last = s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]
    n_inputs = last - first + (s[of_task(p.tasks, task, HAS_HOST_INPUT)] != 0)
    for device in range(p.n_devices):
        duration_ns = s[of_pair(p.pairs, p.n_devices, task, device, RUN_NS)]
        if duration_ns >= 0:
            duration_ns += gather_ns(s, p, task, device)
        n_local = int(s[of_task(p.tasks, task, HAS_HOST_INPUT)] != 0 and device == p.host)
        for at in range(first, last):
            n_local += s[of_task(p.tasks, s[p.rows + at], HOME)] == device
        s[of_pair(p.pairs, p.n_devices, task, device, DURATION_NS)] = duration_ns
        known = of_known(p.known, p.n_devices, task, device)
        x[known + DURATION] = squashed(duration_ns, x[p.scales + PER_UNIT])
        x[known + LOCAL_INPUTS] = n_local / n_inputs if n_inputs > 0 else 1.0


@inlined
def compare_arrivals(s: IntArray, x: FloatArray, p: Places, task: int) -> None:
    """Note how much later the inputs could be on each legal device than on the first of them."""
    soonest_ns = NEVER
    for device in range(p.n_devices):
        if s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] != 0:
            ready_ns = s[of_pair(p.pairs, p.n_devices, task, device, READY_NS)]
            soonest_ns = min(soonest_ns, ready_ns)
    for device in range(p.n_devices):
        if s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] != 0:
            later_ns = s[of_pair(p.pairs, p.n_devices, task, device, READY_NS)] - soonest_ns
            known = of_known(p.known, p.n_devices, task, device)
            x[known + MOVE_IN] = squashed(later_ns, x[p.scales + PER_UNIT])


@inlined
def compare_durations(s: IntArray, x: FloatArray, p: Places, task: int) -> None:
    """Note how the duration on each legal device compares with the shortest of them."""
    fastest_ns = NEVER
    for device in range(p.n_devices):
        if s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] != 0:
            duration_ns = s[of_pair(p.pairs, p.n_devices, task, device, DURATION_NS)]
            fastest_ns = min(fastest_ns, duration_ns)
    for device in range(p.n_devices):
        if s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] != 0:
            duration_ns = s[of_pair(p.pairs, p.n_devices, task, device, DURATION_NS)]
            known = of_known(p.known, p.n_devices, task, device)
            x[known + SLOWER] = compared(duration_ns, fastest_ns)


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


# Observing


@inlined
def squashed(value_ns: float, per_unit: np.float32) -> np.float32:
    """Return about log(1 + x) of a time in units, cheaper and bounded by ±4: 4x / (4 + |x|)."""
    value = np.float32(value_ns) * per_unit
    return FOUR * value / (FOUR + abs(value))


@inlined
def compared(value: float, base: float) -> float:
    """Return about log(value / base) of two numbers ≥ 0, within ±2: 2 (v − b) / (v + b)."""
    return 2.0 * (value - base) / max(value + base, 1.0)


@inlined
def option_start_ns(s: IntArray, p: Places, task: int, device: int) -> int:
    """Return when a ready task would start on a legal device."""
    at_ns = max(
        s[of_pair(p.pairs, p.n_devices, task, device, READY_NS)],
        s[of_device(p.devices, device, FREE_NS)],
    )
    if p.dispatches != 0:
        walk = s[of_device(p.devices, device, WALK_NS)]
        at_ns = max(at_ns, dispatched_ns(s, p, task, device, walk))
        lasts_ns = s[of_pair(p.pairs, p.n_devices, task, device, DURATION_NS)]
        at_ns = locked_start_ns(s, p, device, at_ns, lasts_ns)
    return at_ns


@inlined
def time_row(s: IntArray, p: Places, row: int) -> tuple[int, int, int]:
    """Note when a shown task would start and end on each legal device.

    Return its first start, its first end, NEVER where it may go nowhere, and how many may it go.
    """
    task = s[p.shown + row]
    first_start_ns = first_end_ns = NEVER
    n_legal = 0
    for device in range(p.n_devices):
        if s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] != 0:
            start_ns = option_start_ns(s, p, task, device)
            end_ns = start_ns + s[of_pair(p.pairs, p.n_devices, task, device, DURATION_NS)]
            s[of_candidate(p.candidates, p.n_devices, row, device, START)] = start_ns
            s[of_candidate(p.candidates, p.n_devices, row, device, END)] = end_ns
            first_start_ns = min(first_start_ns, start_ns)
            first_end_ns = min(first_end_ns, end_ns)
            n_legal += 1
    s[of_candidate(p.candidates, p.n_devices, row, p.n_devices, END)] = first_end_ns
    return first_start_ns, first_end_ns, n_legal


@inlined
def observe(s: IntArray, x: FloatArray, seen: FloatArray, mask: Bytes, p: Places) -> int:
    """Write the observation of a slot; return how many candidates are legal."""
    n_shown = min(s[p.sums + N_READY], p.n_shown)
    if p.dispatches != 0:
        for device in range(p.n_devices):
            s[of_device(p.devices, device, WALK_NS)] = walk_ns(s, p, device)
    first_start_ns, longest_ns, n_legal = NEVER, 1, 0
    for row in range(n_shown):
        task = s[p.ready + row]
        s[p.shown + row] = task
        refresh(s, x, p, task)
        start_ns, end_ns, n_here = time_row(s, p, row)
        if n_here > 0:
            first_start_ns = min(first_start_ns, start_ns)
            longest_ns = max(longest_ns, s[of_task(p.tasks, task, BELOW_NS)] + end_ns)
            n_legal += n_here
    free_ns = 0
    for device in range(p.n_devices):
        free_ns += s[of_device(p.devices, device, FREE_NS)]
    for row in range(n_shown):
        describe(s, x, seen, mask, p, row, first_start_ns, longest_ns, free_ns / p.n_devices)
    for k in range(n_shown * p.n_devices, s[p.sums + N_LISTED]):
        clear(seen, mask, k)
    s[p.sums + N_LISTED] = n_shown * p.n_devices
    return n_legal


@inlined
def clear(seen: FloatArray, mask: Bytes, k: int) -> None:
    """Write what is seen where no candidate is."""
    mask[k] = 0
    for feature in range(N_FEATURES):
        seen[N_FEATURES * k + feature] = 0


@inlined
def describe(
    s: IntArray,
    x: FloatArray,
    seen: FloatArray,
    mask: Bytes,
    p: Places,
    row: int,
    first_start_ns: int,
    longest_ns: int,
    mean_free_ns: float,
) -> None:
    """Write the features of one shown task on every device.

    Everything is read before anything is written: the compiler must take it that the arrays overlap
    and would read again.
    """
    task, n_devices = s[p.shown + row], p.n_devices
    legal = of_pair(p.pairs, n_devices, task, 0, LEGAL)
    near = p.above + n_devices * s[of_task(p.tasks, task, NEAR)]
    far = p.above + n_devices * s[of_task(p.tasks, task, FAR)]
    candidate = of_candidate(p.candidates, n_devices, row, 0, 0)
    fixed = of_known(p.known, n_devices, task, 0)
    n_near = n_far = 0
    for device in range(n_devices):
        n_near += s[near + device]
        n_far += s[far + device]
    per_near, per_far, per_unit = 1.0 / max(n_near, 1), 1.0 / max(n_far, 1), x[p.scales + PER_UNIT]
    rank_lead = s[of_task(p.tasks, task, RANK_NS)] / max(
        s[of_task(p.tasks, s[p.shown], RANK_NS)], 1
    )
    work_left = s[p.sums + WORK_LEFT_NS] * x[p.scales + PER_WORK]
    near_placed = n_near / s[of_task(p.tasks, task, NEAR_SIZE)]
    below_ns, latest_ns = s[of_task(p.tasks, task, BELOW_NS)], s[p.sums + LATEST_NS]
    first_end_ns = s[candidate + 2 * n_devices + END]
    for device in range(n_devices):
        k = row * n_devices + device
        if s[legal + device] == 0:
            clear(seen, mask, k)
            continue
        start_ns = s[candidate + 2 * device + START]
        end_ns = s[candidate + 2 * device + END]
        free_ns = s[of_device(p.devices, device, FREE_NS)]
        near_here = s[near + device] * per_near
        far_here = s[far + device] * per_far
        to = N_FEATURES * k
        mask[k] = 1
        seen[to + WAIT] = squashed(start_ns - free_ns, per_unit)
        seen[to + START_LAG] = squashed(start_ns - first_start_ns, per_unit)
        seen[to + FINISH_LAG] = squashed(end_ns - first_end_ns, per_unit)
        seen[to + FINISHES_FIRST] = 1.0 if end_ns == first_end_ns else 0.0
        seen[to + RISE] = squashed(max(end_ns - latest_ns, 0), per_unit)
        seen[to + RANK_LEAD] = rank_lead
        seen[to + PATH] = compared(end_ns + below_ns, longest_ns)
        seen[to + LOAD] = squashed(free_ns - mean_free_ns, per_unit)
        seen[to + WORK_LEFT] = work_left
        seen[to + NEAR_HERE] = near_here
        seen[to + FAR_HERE] = far_here
        seen[to + NEAR_PLACED] = near_placed
        for feature in range(N_KNOWN):
            seen[to + N_CHANGING + feature] = x[fixed + N_KNOWN * device + feature]


# What Python calls


@compiled
def replay(
    s: IntArray, p: Places, tasks: IntArray, start: IntArray, devices: IntArray, run_ns: IntArray
) -> None:
    """Append launches: tasks[start[l]:start[l + 1]] on devices[l] for run_ns[l] alone."""
    for launch in range(len(devices)):
        first, last = start[launch], start[launch + 1]
        place(s, p, tasks, first, last, devices[launch], run_ns[launch])
    if s[p.sums + N_GATED] > 0:
        release_known(s, p)


@compiled
def act(
    ints: IntArray,
    numbers: FloatArray,
    features: FloatArray,
    masks: Bytes,
    p: Places,
    slots: IntArray,
    actions: IntArray,
    outcomes: IntArray,
) -> None:
    """Place candidate `actions[i]` of slot `slots[i]`, or nothing if it is ABSENT; observe it.

    The arrays are (B, n). `outcomes`: what became of each. An illegal choice changes nothing.
    """
    for at in range(len(slots)):
        b, action = slots[at], actions[at]
        s = ints[b]
        if action >= 0 and masks[b, action] == 0:
            outcomes[at] = ILLEGAL
            continue
        if action >= 0:
            task, device = s[p.shown + action // p.n_devices], action % p.n_devices
            chosen = p.chosen + 2 * s[p.sums + N_CHOSEN]
            s[chosen], s[chosen + 1] = task, device
            s[p.sums + N_CHOSEN] += 1
            run_ns = s[of_pair(p.pairs, p.n_devices, task, device, RUN_NS)]
            place(s, p, s, chosen, chosen + 1, device, run_ns)
        n_legal = observe(s, numbers[b], features[b], masks[b], p)
        outcomes[at] = PLACED
        if n_legal == 0:
            outcomes[at] = ALL_PLACED if s[p.sums + N_READY] == 0 else STUCK
