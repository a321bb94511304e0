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

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dynpartition.compiled import compiled, inlined, part
from dynpartition.types import FloatArray, IntArray

Bytes = npt.NDArray[np.int8]

ABSENT = -1
FOUR = np.float32(4)
NEVER = 1 << 62

# Columns of tasks (N, 25). Ranges lie in `rows`; FOLLOWS: where `above` counts the task. CHECKED:
# N_CHANGES when SEEN, the traffic of the inputs' devices, was last compared. REST_NS, for policies:
# no plan ends sooner than so long after the task.
(
    INPUTS, INPUTS_END, READERS, READERS_END, FOLLOWS, FOLLOWS_END, GATES, GATES_END, PRIORITY,
    NEAR, FAR, NEAR_SIZE, RANK_NS, BELOW_NS, HAS_HOST_INPUT, RETURNS, BEST_NS, RELEASE_NS, MISSING,
    HOME, SPAN, STAGED, SEEN, CHECKED, REST_NS,
) = range(25)  # fmt: skip
N_TASK_COLUMNS = 25

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
def commit(
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
    for at in range(first, last):
        if s[of_task(p.tasks, tasks[at], RETURNS)] != 0 and device != p.host:
            there = deliver(s, p, tasks[at], p.host)
            s[p.sums + LATEST_NS] = max(s[p.sums + LATEST_NS], there)


@inlined
def place(
    s: IntArray, p: Places, tasks: IntArray, first: int, last: int, device: int, run_ns: int
) -> None:
    """Append a launch and count its tasks as placed."""
    commit(s, p, tasks, first, last, device, run_ns)
    for at in range(first, last):
        settle(s, p, tasks[at], device)


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


# The policy. What it knows of each task does not change while a plan grows and is computed once;
# then it is asked step by step: which of the ready tasks comes next, and on which device.

N_WINDOW = 8
"""Ready tasks that are considered at a step, best priority first."""
N_STATIC, N_EMBEDDED = 25, 16  # features of a task, and units that describe it to the heads
N_READY_FEATURES, N_READY_UNITS = 10, 8  # of a ready task, and the hidden layer of its head
N_OPTION_FEATURES, N_OPTION_UNITS = 26, 16  # the same of a device for a chosen task
WORD = 60  # ready tasks per word of bits


class Net(NamedTuple):
    """Where weights lie in one array; matrices are (inputs, outputs). S styles."""

    n_styles: int
    embed: int
    embed_bias: int
    own: int
    inputs: int
    readers: int
    context: int
    mix_bias: int
    priority: int
    """(N_EMBEDDED, S)"""
    to_ready: int
    ready: int
    ready_bias: int
    """(S, N_READY_UNITS)"""
    ready_score: int
    to_option: int
    option: int
    option_bias: int
    """(S, N_OPTION_UNITS)"""
    option_score: int
    size: int


@inlined
def study(
    s: IntArray, p: Places, order: IntArray, z: npt.NDArray[np.float64], facts: FloatArray,
    near: IntArray, about: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    """Write the features of all tasks (N, N_STATIC) and what steps need of graph and machine.

    `order`: tasks, inputs first. `z`: (N, 8) scratch. `near`: (N,) each task's reader of highest
    rank, itself where it has none. `about`: see the ABOUT columns.
    """
    n, n_devices = s[p.sums + N_TASKS], p.n_devices
    total_mean = total_min = total_move = 0.0
    n_edges = 0
    for device in range(n_devices):
        about[ABOUT_DEVICES + device] = 0.0
        about[ABOUT_DEVICES + MAX_DEVICES + device] = 0.0
    for at in range(n):
        t = order[at]
        pair = of_pair(p.pairs, n_devices, t, 0, RUN_NS)
        total, count, least = 0.0, 0, 1e300
        for device in range(n_devices):
            ns = s[pair + device]
            if ns >= 0:
                total += ns
                count += 1
                least = min(least, float(ns))
        for device in range(n_devices):
            ns = s[pair + device]
            if ns >= 0:
                about[ABOUT_DEVICES + device] += ns
                about[ABOUT_DEVICES + MAX_DEVICES + device] += least
        mean = total / max(count, 1)
        move = 0.0
        for link in range(p.n_links):
            move += s[p.moves + p.n_links * t + link]
        move = move / max(p.n_links, 1) + (p.handoff_ns if p.n_links > 0 else 0)
        z[t, 0], z[t, 1], z[t, 2] = mean, least, move
        total_mean += mean
        total_min += least
        down, work = 0.0, least
        first, last = s[of_task(p.tasks, t, INPUTS)], s[of_task(p.tasks, t, INPUTS_END)]
        for place in range(first, last):
            source = s[p.rows + place]
            down = max(down, z[source, 3] + z[source, 0] + z[source, 2])
            n_readers = (
                s[of_task(p.tasks, source, READERS_END)] - s[of_task(p.tasks, source, READERS)]
            )
            work += z[source, 4] / max(n_readers, 1)
            total_move += z[source, 2]
        n_edges += last - first
        z[t, 3], z[t, 4] = down, work
    longest = longest_min = 1.0
    for at in range(n - 1, -1, -1):
        t = order[at]
        up, up_min, work = 0.0, 0.0, z[t, 1]
        near[t] = t
        best = -1.0
        for place in range(s[of_task(p.tasks, t, READERS)], s[of_task(p.tasks, t, READERS_END)]):
            reader = s[p.rows + place]
            up = max(up, z[t, 2] + z[reader, 5])
            up_min = max(up_min, z[reader, 6])
            n_inputs = s[of_task(p.tasks, reader, INPUTS_END)] - s[of_task(p.tasks, reader, INPUTS)]
            work += z[reader, 7] / max(n_inputs, 1)
            if z[reader, 5] > best:
                best = z[reader, 5]
                near[t] = reader
        z[t, 5], z[t, 6], z[t, 7] = up + z[t, 0], up_min + z[t, 1], work
        s[of_task(p.tasks, t, BELOW_NS)] = int(up)
        s[of_task(p.tasks, t, REST_NS)] = int(up_min)
        longest = max(longest, z[t, 5] + z[t, 3])
        longest_min = max(longest_min, z[t, 6])
    unit = max(1.0, total_mean / max(n, 1))
    fluid_rate, best_single = 0.0, 1e300
    for device in range(n_devices):
        ns, least = about[ABOUT_DEVICES + device], about[ABOUT_DEVICES + MAX_DEVICES + device]
        rate = least / max(ns, 1.0)
        about[ABOUT_DEVICES + MAX_DEVICES + device] = rate
        about[ABOUT_DEVICES + 2 * MAX_DEVICES + device] = -np.log(max(rate, 1e-3))
        fluid_rate += rate * least / max(total_min, 1.0)
        about[ABOUT_DEVICES + 3 * MAX_DEVICES + device] = 1e300
        if least >= total_min:
            best_single = min(best_single, ns)
            about[ABOUT_DEVICES + 3 * MAX_DEVICES + device] = ns
    fluid = total_min / max(fluid_rate, 1e-9)
    best_single = min(best_single, 100.0 * fluid)
    about[ABOUT_PER_UNIT], about[ABOUT_WORK_NS] = 1.0 / unit, total_min
    about[ABOUT_LONGEST] = longest
    shared = 0.0
    for link in range(p.n_links):
        for other in range(p.n_links):
            if s[p.held + p.n_held * link] == s[p.held + p.n_held * other]:
                shared += 1.0
    shared = shared / max(p.n_links, 1) / max(p.n_links, 1)
    balance = 2.0 * (total_move - total_mean) / max(total_move + total_mean, 1.0)
    gain = 2.0 * (best_single - fluid) / max(best_single + fluid, 1.0)
    width = total_min / longest_min
    for t in range(n):
        mean, least, move, down, above, up = z[t, 0], z[t, 1], z[t, 2], z[t, 3], z[t, 4], z[t, 5]
        n_inputs = s[of_task(p.tasks, t, INPUTS_END)] - s[of_task(p.tasks, t, INPUTS)]
        n_readers = s[of_task(p.tasks, t, READERS_END)] - s[of_task(p.tasks, t, READERS)]
        f = facts[t]
        f[0], f[1], f[2] = up / longest, down / longest, (up + down) / longest
        f[3] = z[t, 6] / longest_min
        f[4] = 4.0 * mean / (4.0 * unit + mean)
        f[5] = least / max(mean, 1.0)
        f[6] = 4.0 * move / (4.0 * unit + move)
        f[7] = move / max(move + mean, 1.0)
        f[8], f[9] = 4.0 * n_inputs / (4.0 + n_inputs), 4.0 * n_readers / (4.0 + n_readers)
        f[10], f[11] = above / (above + unit), z[t, 7] / (z[t, 7] + unit)
        f[12], f[13] = (
            min(1.0, above / max(total_min, 1.0)),
            min(1.0, z[t, 7] / max(total_min, 1.0)),
        )
        f[14] = 1.0 if n_readers == 0 else 0.0
        f[15] = 1.0 if s[of_task(p.tasks, t, HAS_HOST_INPUT)] != 0 else 0.0
        f[16] = balance
        f[17] = 4.0 * width / (4.0 + width)
        f[18] = n / (n + 64.0)
        f[19] = n_devices / 8.0
        f[20] = gain
        f[21] = shared
        far = near[near[t]]
        f[22] = min(1.0, z[far, 4] / max(total_min, 1.0))
        far = near[near[far]]
        f[23] = min(1.0, z[far, 4] / max(total_min, 1.0))
        far = near[near[far]]
        f[24] = min(1.0, z[far, 4] / max(total_min, 1.0))


ABOUT_PER_UNIT, ABOUT_WORK_NS, ABOUT_LONGEST, ABOUT_DEVICES = range(4)
MAX_DEVICES = 64


def product(n_in: int, n_out: int) -> Callable[[FloatArray, FloatArray, int, FloatArray], None]:
    """Return the compiled y += x W for x (n_in,), W = w[at:] as (n_in, n_out), y (n_out,).

    Sizes that are known when it is compiled make it several times faster, and so do eight rows of W
    at a time: y, which the next rows wait for, is written less often.
    """
    n_eights = n_in // 8

    def add_product(x: FloatArray, w: FloatArray, at: int, y: FloatArray) -> None:
        m = w[at : at + n_in * n_out]
        for eight in range(n_eights):
            i = 8 * eight
            x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
            x4, x5, x6, x7 = x[i + 4], x[i + 5], x[i + 6], x[i + 7]
            row = i * n_out
            for j in range(n_out):
                k = row + j
                first = (x0 * m[k] + x1 * m[k + n_out]) + (
                    x2 * m[k + 2 * n_out] + x3 * m[k + 3 * n_out]
                )
                second = (x4 * m[k + 4 * n_out] + x5 * m[k + 5 * n_out]) + (
                    x6 * m[k + 6 * n_out] + x7 * m[k + 7 * n_out]
                )
                y[j] += first + second
        for i in range(8 * n_eights, n_in):
            xi, row = x[i], i * n_out
            for j in range(n_out):
                y[j] += xi * m[row + j]

    return part(add_product)


add_static = product(N_STATIC, N_EMBEDDED)
add_embedded = product(N_EMBEDDED, N_EMBEDDED)
add_to_ready = product(N_EMBEDDED, N_READY_UNITS)
add_to_option = product(N_EMBEDDED, N_OPTION_UNITS)
add_ready = product(N_READY_FEATURES, N_READY_UNITS)
add_option = product(N_OPTION_FEATURES, N_OPTION_UNITS)


@inlined
def embed(
    s: IntArray, p: Places, w: FloatArray, net: Net, facts: FloatArray, coded: FloatArray,
    mixed: FloatArray, sums: FloatArray, priority: FloatArray, to_ready: FloatArray,
    to_option: FloatArray,
) -> None:  # fmt: skip
    """Run the graph network: what the heads know of each task.

    `coded`, `mixed`: (N, N_EMBEDDED), `sums`: (3, N_EMBEDDED), `priority`: (N, S).
    """
    n = s[p.sums + N_TASKS]
    for j in range(N_EMBEDDED):
        sums[2, j] = 0
    for t in range(n):
        c = coded[t]
        for j in range(N_EMBEDDED):
            c[j] = w[net.embed_bias + j]
        add_static(facts[t], w, net.embed, c)
        for j in range(N_EMBEDDED):
            c[j] = max(c[j], np.float32(0))
            sums[2, j] += c[j]
    for j in range(N_EMBEDDED):
        sums[1, j] = sums[2, j] / np.float32(n)
        sums[0, j] = w[net.mix_bias + j]
    add_embedded(sums[1], w, net.context, sums[0])
    for t in range(n):
        m = mixed[t]
        for j in range(N_EMBEDDED):
            m[j] = sums[0, j]
        add_embedded(coded[t], w, net.own, m)
        mean_of(s, p, t, INPUTS, coded, sums[1])
        add_embedded(sums[1], w, net.inputs, m)
        mean_of(s, p, t, READERS, coded, sums[1])
        add_embedded(sums[1], w, net.readers, m)
        for j in range(N_EMBEDDED):
            m[j] = max(m[j], np.float32(0))
        for k in range(net.n_styles):
            score = np.float32(0)
            for j in range(N_EMBEDDED):
                score += m[j] * w[net.priority + j * net.n_styles + k]
            priority[t, k] = score
        for k in range(N_READY_UNITS):
            to_ready[t, k] = 0
        for k in range(N_OPTION_UNITS):
            to_option[t, k] = 0
        add_to_ready(m, w, net.to_ready, to_ready[t])
        add_to_option(m, w, net.to_option, to_option[t])


@inlined
def mean_of(
    s: IntArray, p: Places, task: int, column: int, coded: FloatArray, mean: FloatArray
) -> None:
    """Write the mean code of a task's inputs or readers (by their column)."""
    first, last = s[of_task(p.tasks, task, column)], s[of_task(p.tasks, task, column + 1)]
    for j in range(N_EMBEDDED):
        mean[j] = 0
    for at in range(first, last):
        c = coded[s[p.rows + at]]
        for j in range(N_EMBEDDED):
            mean[j] += c[j]
    if last > first + 1:
        share = np.float32(1) / np.float32(last - first)
        for j in range(N_EMBEDDED):
            mean[j] *= share


@inlined
def sort_by_priority(
    priority: FloatArray, style: int, n: int, order: IntArray, spare: IntArray
) -> None:
    """Write tasks by descending priority, ties by number: merge sort from below."""
    for t in range(n):
        order[t] = t
    width = 1
    while width < n:
        low = 0
        while low < n:
            middle, high = min(low + width, n), min(low + 2 * width, n)
            i, j = low, middle
            for at in range(low, high):
                if i < middle and (
                    j >= high or priority[order[i], style] >= priority[order[j], style]
                ):
                    spare[at] = order[i]
                    i += 1
                else:
                    spare[at] = order[j]
                    j += 1
            low += 2 * width
        for at in range(n):
            order[at] = spare[at]
        width *= 2


@inlined
def random_bits(state: int) -> int:
    """Return 52 random bits of a counter (splitmix64)."""
    v = np.uint64(state) * np.uint64(0x9E3779B97F4A7C15)
    v = (v ^ (v >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    v = (v ^ (v >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    v = v ^ (v >> np.uint64(31))
    return int(v >> np.uint64(12))


@inlined
def gumbel(state: int) -> float:
    """Return a draw of which the argmax with scores is a softmax draw."""
    u = (random_bits(state) + 0.5) * (1.0 / 4503599627370496.0)
    return -np.log(-np.log(u))


@inlined
def squash(value: float) -> float:
    """Return about log(1 + x), within ±4."""
    return 4.0 * value / (4.0 + abs(value))


@inlined
def score_units(units: FloatArray, n: int, w: FloatArray, at: int) -> float:
    """Return relu(units) · w[at:], four sums side by side."""
    zero = np.float32(0)
    one = two = three = four = zero
    for j in range(0, n, 4):
        one += max(units[j], zero) * w[at + j]
        two += max(units[j + 1], zero) * w[at + j + 1]
        three += max(units[j + 2], zero) * w[at + j + 2]
        four += max(units[j + 3], zero) * w[at + j + 3]
    return float((one + two) + (three + four))


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
    for at in range(p.sums, p.sums + N_SUMS):
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


@compiled
def understand(
    s: IntArray, p: Places, order: IntArray, w: FloatArray, net: Net,
    z: npt.NDArray[np.float64], about: npt.NDArray[np.float64], near: IntArray, facts: FloatArray,
    coded: FloatArray, mixed: FloatArray, sums: FloatArray, priority: FloatArray,
    to_ready: FloatArray, to_option: FloatArray,
) -> None:  # fmt: skip
    """Study a graph and run the graph network on it."""
    study(s, p, order, z, facts, near, about)
    embed(s, p, w, net, facts, coded, mixed, sums, priority, to_ready, to_option)


@inlined
def roll(
    s: IntArray, s0: IntArray, p: Places, w: FloatArray, net: Net,
    about: npt.NDArray[np.float64], near: IntArray, priority: FloatArray, to_ready: FloatArray,
    to_option: FloatArray, by_priority: IntArray, place_of: IntArray, words: IntArray,
    fresh: IntArray, related: IntArray, left: npt.NDArray[np.float64], window: IntArray,
    units: FloatArray, style: int, seed: int, bound_ns: int, chosen: IntArray,
    records: int, rec: IntArray, rec_ready: FloatArray, rec_option: FloatArray,
    view_ready: FloatArray, view_option: FloatArray,
) -> int:  # fmt: skip
    """Place all tasks that slot `s0` has not placed; return the estimated end, or ABSENT.

    NEVER where the end would not be before `bound_ns`. `style` ABSENT: everything goes to the one
    device that can run it all soonest. `seed` < 0: greedy. `chosen`: (N, 2) tasks and devices in
    order of choice. With `records` what was seen and done at each step is written to `rec`
    (N, 4 + N_WINDOW), `rec_ready` (N, N_WINDOW, …), `rec_option` (N, D, …): number of ready tasks,
    choice among them, device, legal devices as bits; then the tasks.
    """
    n, n_devices = s0[p.sums + N_TASKS], p.n_devices
    reset_slot(s, s0, p)
    per_unit = about[ABOUT_PER_UNIT]
    only = ABSENT
    if style < 0:
        style, only = 0, best_alone(about, n_devices)
        if only < 0:
            return ABSENT
    sort_by_priority(priority, style, n, by_priority, place_of)
    n_words = n // WORD + 1
    for word in range(n_words):
        words[word] = 0
    for device in range(n_devices):
        left[device] = 0.0
    n_left, work_left, rates = 0, 0.0, 0.0
    for at in range(n):
        place_of[by_priority[at]] = at
        for device in range(n_devices + 1):
            related[at, device] = 0
    for t in range(n):
        if s[of_task(p.tasks, t, HOME)] >= 0:
            relate(near, related, t, s[of_task(p.tasks, t, HOME)])
            continue
        n_left += 1
        work_left += about_least(s, p, t)
        for device in range(n_devices):
            left[device] += max(s[of_pair(p.pairs, n_devices, t, device, RUN_NS)], 0)
        if s[of_task(p.tasks, t, MISSING)] == 0:
            words[place_of[t] // WORD] |= 1 << (place_of[t] % WORD)
            note_ready(s, p, t, ABSENT, fresh)
    for device in range(n_devices):
        rates += about[ABOUT_DEVICES + MAX_DEVICES + device]
    first_word, last_task = 0, ABSENT
    draw = seed * 1_000_003
    ready_bias = net.ready_bias + style * N_READY_UNITS
    option_bias = net.option_bias + style * N_OPTION_UNITS
    for step in range(n_left):
        # Which ready task comes next.
        n_ready = 0
        while words[first_word] == 0:
            first_word += 1
            if first_word >= n_words:
                return ABSENT
        word = first_word
        while word < n_words and n_ready < N_WINDOW:
            bits = words[word]
            while bits != 0 and n_ready < N_WINDOW:
                window[n_ready] = by_priority[word * WORD + lowest_bit(bits)]
                n_ready += 1
                bits &= bits - 1
            word += 1
        if s[p.sums + N_GATED] > 0:
            release_known(s, p)
        least_free = s[of_device(p.devices, 0, FREE_NS)]
        mean_free, fluid = 0.0, work_left
        for device in range(n_devices):
            free = s[of_device(p.devices, device, FREE_NS)]
            least_free = min(least_free, free)
            mean_free += free
            fluid += free * about[ABOUT_DEVICES + MAX_DEVICES + device]
        mean_free /= n_devices
        fluid /= max(rates, 1e-9)
        pick = 0
        if p.all_linked == 0:
            n_ready = keep_legal(s, p, window, n_ready)
            if n_ready == 0:
                return ABSENT
        if n_ready > 1 and only < 0:
            best = -1e300
            share = work_left / max(about[ABOUT_WORK_NS], 1.0)
            for at in range(n_ready):
                t = window[at]
                seen = rec_ready[step, at] if records != 0 else view_ready[0]
                see_ready(
                    s, p, t, near, related, fresh, seen, per_unit, least_free, step, at, share
                )
                for j in range(N_READY_UNITS):
                    units[j] = to_ready[t, j] + w[ready_bias + j]
                add_ready(seen, w, net.ready, units)
                score = priority[t, style] + score_units(units, N_READY_UNITS, w, net.ready_score)
                if seed >= 0:
                    draw += 1
                    score += gumbel(draw)
                if score > best:
                    best, pick = score, at
        t = window[pick]
        if records != 0:
            rec[step, 0], rec[step, 1] = n_ready, pick
            for at in range(n_ready):
                rec[step, 4 + at] = window[at]
        # Where it runs.
        legal, device = find_options(s, p, t), max(only, 0)
        if only >= 0:
            legal &= 1 << only
        if legal == 0:
            return ABSENT
        seen = rec_option[step] if records != 0 else view_option
        if only < 0:
            see_options(
                s, p, t, legal, near, related, left, seen, about, mean_free, fluid, step,
                last_task,
            )  # fmt: skip
        best = -1e300
        for d in range(n_devices):
            if only < 0 and legal & (1 << d) != 0:
                for j in range(N_OPTION_UNITS):
                    units[j] = to_option[t, j] + w[option_bias + j]
                add_option(seen[d], w, net.option, units)
                score = np.float64(score_units(units, N_OPTION_UNITS, w, net.option_score))
                if seed >= 0:
                    draw += 1
                    score += gumbel(draw)
                if score > best:
                    best, device = score, d
        if records != 0:
            rec[step, 2], rec[step, 3] = device, legal
        # Place it.
        chosen[step, 0], chosen[step, 1] = t, device
        window[0] = t
        commit(s, p, window, 0, 1, device, s[of_pair(p.pairs, n_devices, t, device, RUN_NS)])
        end_ns = s[of_device(p.devices, device, FREE_NS)] + s[of_task(p.tasks, t, REST_NS)]
        if max(end_ns, s[p.sums + LATEST_NS]) >= bound_ns:
            return NEVER
        last_task = t
        work_left -= about_least(s, p, t)
        for d in range(n_devices):
            left[d] -= max(s[of_pair(p.pairs, n_devices, t, d, RUN_NS)], 0)
        relate(near, related, t, device)
        words[place_of[t] // WORD] &= ~(1 << (place_of[t] % WORD))
        for at in range(s[of_task(p.tasks, t, READERS)], s[of_task(p.tasks, t, READERS_END)]):
            reader = s[p.rows + at]
            s[of_task(p.tasks, reader, MISSING)] -= 1
            if s[of_task(p.tasks, reader, MISSING)] == 0:
                note_ready(s, p, reader, step, fresh)
                where = place_of[reader]
                words[where // WORD] |= 1 << (where % WORD)
                first_word = min(first_word, where // WORD)
    return s[p.sums + LATEST_NS]


@compiled
def roll_many(
    s: IntArray, s0: IntArray, p: Places, w: FloatArray, net: Net,
    about: npt.NDArray[np.float64], near: IntArray, priority: FloatArray, to_ready: FloatArray,
    to_option: FloatArray, by_priority: IntArray, place_of: IntArray, words: IntArray,
    fresh: IntArray, related: IntArray, left: npt.NDArray[np.float64], window: IntArray,
    units: FloatArray, styles: IntArray, seeds: IntArray, chosen: IntArray, ends_ns: IntArray,
    prunes: int, records: int, rec: IntArray, rec_ready: FloatArray, rec_option: FloatArray,
    view_ready: FloatArray, view_option: FloatArray,
) -> None:  # fmt: skip
    """Play a plan for each style and seed; see `roll`. `ends_ns`: the estimated ends.

    With `prunes` a plan is given up as soon as an earlier one is as good.
    """
    bound_ns = NEVER
    for r in range(len(styles)):
        if prunes != 0 and r > 0 and ends_ns[r - 1] >= 0:
            bound_ns = min(bound_ns, ends_ns[r - 1])
        at = r if records != 0 else 0
        ends_ns[r] = roll(
            s, s0, p, w, net, about, near, priority, to_ready, to_option, by_priority, place_of,
            words, fresh, related, left, window, units, styles[r], seeds[r], bound_ns, chosen[r],
            records, rec[at], rec_ready[at], rec_option[at], view_ready, view_option,
        )  # fmt: skip


@inlined
def best_alone(about: npt.NDArray[np.float64], n_devices: int) -> int:
    """Return the device that can run everything and needs least time for it, or ABSENT."""
    best, best_ns = ABSENT, 1e300
    for device in range(n_devices):
        total_ns = about[ABOUT_DEVICES + 3 * MAX_DEVICES + device]
        if total_ns < best_ns:
            best, best_ns = device, total_ns
    return best


@inlined
def lowest_bit(bits: int) -> int:
    """Return the place of the lowest bit that is set."""
    place = 0
    if bits & 0xFFFFFFFF == 0:
        bits >>= 32
        place += 32
    if bits & 0xFFFF == 0:
        bits >>= 16
        place += 16
    if bits & 0xFF == 0:
        bits >>= 8
        place += 8
    if bits & 0xF == 0:
        bits >>= 4
        place += 4
    if bits & 0x3 == 0:
        bits >>= 2
        place += 2
    if bits & 0x1 == 0:
        place += 1
    return place


@inlined
def about_least(s: IntArray, p: Places, task: int) -> float:
    """Return the shortest duration of a task."""
    return float(s[of_task(p.tasks, task, BEST_NS)])


@inlined
def relate(near: IntArray, related: IntArray, task: int, device: int) -> None:
    """Count a placed task at the readers of highest rank along six steps; the last column sums."""
    at, total = task, related.shape[1] - 1
    for _ in range(6):
        if near[at] == at:
            break
        at = near[at]
        related[at, device] += 1
        related[at, total] += 1


BORN, FRESH_NS, FRESH_HOME, IS_ALIKE = range(4)  # columns of what is noted of ready tasks


@inlined
def note_ready(s: IntArray, p: Places, task: int, step: int, fresh: IntArray) -> None:
    """Note of a task that has become ready at `step` where its inputs end, and which ends last."""
    ready_ns, home, alike = s[of_task(p.tasks, task, RELEASE_NS)], ABSENT, 1
    for at in range(s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]):
        source = s[p.rows + at]
        end_ns, device = end_of(s, p, source), s[of_task(p.tasks, source, HOME)]
        if home >= 0 and device != home:
            alike = 0
        if end_ns >= ready_ns or home < 0:
            ready_ns, home = max(ready_ns, end_ns), device
    fresh[task, BORN], fresh[task, FRESH_NS] = step, ready_ns
    fresh[task, FRESH_HOME], fresh[task, IS_ALIKE] = home, alike


@inlined
def keep_legal(s: IntArray, p: Places, window: IntArray, n_ready: int) -> int:
    """Keep the ready tasks that may go somewhere, where links are missing; return how many."""
    kept = 0
    for at in range(n_ready):
        task = window[at]
        if find_options(s, p, task) != 0:
            window[kept] = task
            kept += 1
    return kept


@inlined
def find_options(s: IntArray, p: Places, task: int) -> int:
    """Note when inputs could be where and how long the task lasts; return legal devices as bits."""
    legal = 0
    for device in range(p.n_devices):
        run_ns, ready_ns = s[of_pair(p.pairs, p.n_devices, task, device, RUN_NS)], ABSENT
        if run_ns >= 0:
            ready_ns = data_ready_ns(s, p, task, device)
            s[of_pair(p.pairs, p.n_devices, task, device, DURATION_NS)] = run_ns + gather_ns(
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


@inlined
def see_ready(
    s: IntArray, p: Places, task: int, near: IntArray, related: IntArray, fresh: IntArray,
    seen: FloatArray, per_unit: float, least_free: int, step: int, place: int, work_left: float,
) -> None:  # fmt: skip
    """Write the features of a ready task."""
    home, age, total = fresh[task, FRESH_HOME], step - 1 - fresh[task, BORN], p.n_devices
    at = near[task]
    n_inputs = s[of_task(p.tasks, at, INPUTS_END)] - s[of_task(p.tasks, at, INPUTS)]
    seen[0] = squash((fresh[task, FRESH_NS] - least_free) * per_unit)
    seen[1] = 1.0 if age == 0 else 0.0
    seen[2] = squash(0.25 * age)
    seen[3] = place * 0.0625
    seen[4] = fresh[task, IS_ALIKE] if home >= 0 else 0.5
    seen[5] = (n_inputs - s[of_task(p.tasks, at, MISSING)]) / max(n_inputs, 1)
    seen[6] = (
        squash((s[of_device(p.devices, home, FREE_NS)] - least_free) * per_unit)
        if home >= 0
        else 0.0
    )
    seen[7] = work_left
    seen[8] = squash(0.5 * related[at, total])
    seen[9] = squash(0.25 * related[near[near[at]], total])


@inlined
def see_options(
    s: IntArray, p: Places, task: int, legal: int, near: IntArray, related: IntArray,
    left: npt.NDArray[np.float64], seen: FloatArray, about: npt.NDArray[np.float64],
    mean_free: float, fluid: float, n_chosen: int, last_task: int,
) -> None:  # fmt: skip
    """Write the features of a task on every legal device."""
    n_devices, per_unit = p.n_devices, about[ABOUT_PER_UNIT]
    pair = of_pair(p.pairs, n_devices, task, 0, 0)
    candidates = of_candidate(p.candidates, n_devices, 0, 0, 0)
    first_start = first_end = first_ready = shortest = NEVER
    first_alone = 1e300
    far = near[near[near[task]]]
    farther = near[near[near[far]]]
    n_near, n_far = related[near[task], n_devices], related[far, n_devices]
    n_farther = related[farther, n_devices]
    for d in range(n_devices):
        first_alone = min(first_alone, s[of_device(p.devices, d, FREE_NS)] + left[d])
        if legal & (1 << d) != 0:
            if p.dispatches != 0:
                s[of_device(p.devices, d, WALK_NS)] = walk_ns(s, p, d)
            start = option_start_ns(s, p, task, d)
            lasts = s[pair + n_devices * DURATION_NS + d]
            s[candidates + 2 * d + START], s[candidates + 2 * d + END] = start, start + lasts
            first_start, first_end = min(first_start, start), min(first_end, start + lasts)
            first_ready = min(first_ready, s[pair + n_devices * READY_NS + d])
            shortest = min(shortest, lasts)
    first, last = s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]
    fed = s[of_task(p.tasks, task, HAS_HOST_INPUT)] != 0
    last_home = s[of_task(p.tasks, last_task, HOME)] if last_task >= 0 else ABSENT
    latest = s[p.sums + LATEST_NS]
    below = s[of_task(p.tasks, task, BELOW_NS)]
    for d in range(n_devices):
        if legal & (1 << d) == 0:
            continue
        f = seen[d]
        start, end = s[candidates + 2 * d + START], s[candidates + 2 * d + END]
        free = s[of_device(p.devices, d, FREE_NS)]
        lasts = end - start
        n_local, moved = (1 if fed and d == p.host else 0), 0
        for at in range(first, last):
            source = s[p.rows + at]
            home = s[of_task(p.tasks, source, HOME)]
            if home == d:
                n_local += 1
            elif s[of_pair(p.pairs, n_devices, source, d, THERE_NS)] < 0:
                moved += s[p.moves + p.n_links * source + link_between(s, p, home, d)]
        out, busy, n_out = 0, 0, 0
        for other in range(n_devices):
            link = link_between(s, p, d, other) if other != d else ABSENT
            if link >= 0:
                n_out += 1
                out += s[p.moves + p.n_links * task + link]
                resource = s[p.held + p.n_held * link]
                count = s[p.n_busy + resource]
                if count > 0:
                    busy += max(
                        s[of_busy(p.busy, p.n_intervals, resource, count - 1, END)] - end, 0
                    )
        alone = free + left[d]
        n_inputs = last - first + (1 if fed else 0)
        f[0] = squash((start - first_start) * per_unit)
        f[1] = squash((end - first_end) * per_unit)
        f[2] = 1.0 if end == first_end else 0.0
        f[3] = squash((start - free) * per_unit)
        f[4] = squash((s[pair + n_devices * READY_NS + d] - first_ready) * per_unit)
        f[5] = squash(lasts * per_unit)
        f[6] = 2.0 * (lasts - shortest) / max(lasts + shortest, 1)
        f[7] = n_local / n_inputs if n_inputs > 0 else 0.5
        f[8] = squash(max(end - latest, 0) * per_unit)
        f[9] = squash((free - mean_free) * per_unit)
        f[10] = related[near[task], d] / max(n_near, 1)
        f[11] = related[far, d] / max(n_far, 1)
        f[12] = 1.0 if d == last_home else 0.0
        f[13] = about[ABOUT_DEVICES + 2 * MAX_DEVICES + d]
        f[14] = squash((end - fluid) * per_unit)
        f[15] = max(-2.0, min(2.0, (end + below - fluid) / max(fluid, 1.0)))
        f[16] = 2.0 * (alone - first_alone) / max(alone + first_alone, 1.0)
        f[17] = 2.0 * (first_alone - fluid) / max(first_alone + fluid, 1.0)
        f[18] = squash(out / max(n_out, 1) * per_unit)
        f[19] = squash(busy / max(n_out, 1) * per_unit)
        f[20] = 1.0 if s[of_device(p.devices, d, USED)] != 0 else 0.0
        f[21] = s[of_device(p.devices, d, N_SPANS)] / max(n_chosen, 1)
        f[22] = squash(moved * per_unit)
        f[23] = squash(0.5 * n_near)
        f[24] = related[farther, d] / max(n_farther, 1)
        f[25] = squash(0.25 * n_far)


@compiled
def learn(
    s: IntArray, p: Places, w: FloatArray, net: Net, g: FloatArray, facts: FloatArray,
    coded: FloatArray, mixed: FloatArray, to_ready: FloatArray, to_option: FloatArray,
    priority: FloatArray, d_priority: FloatArray, d_ready: FloatArray, d_option: FloatArray,
    d_coded: FloatArray, n_steps: int, style: IntArray, weight: npt.NDArray[np.float64],
    entropy: float, rec: IntArray, rec_ready: FloatArray, rec_option: FloatArray,
    units: FloatArray, scores: npt.NDArray[np.float64], sums: FloatArray,
    totals: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    """Add the gradient of Σ weight · log probability + entropy bonus over rollouts to `g`.

    Records are (R, N, …). `d_…`: scratch like what they are the gradients of. `totals`: entropies
    of choices of tasks and of devices, and their numbers, are added to it.
    """
    n, n_devices = s[p.sums + N_TASKS], p.n_devices
    for t in range(n):
        for j in range(net.n_styles):
            d_priority[t, j] = 0
        for j in range(N_READY_UNITS):
            d_ready[t, j] = 0
        for j in range(N_OPTION_UNITS):
            d_option[t, j] = 0
    for r in range(len(style)):
        k = style[r]
        for step in range(n_steps):
            n_ready = rec[r, step, 0]
            if n_ready > 1:
                for at in range(n_ready):
                    t = rec[r, step, 4 + at]
                    u = units[at]
                    for j in range(N_READY_UNITS):
                        u[j] = to_ready[t, j] + w[net.ready_bias + k * N_READY_UNITS + j]
                    add_ready(rec_ready[r, step, at], w, net.ready, u)
                    scores[at] = priority[t, k] + score_units(u, N_READY_UNITS, w, net.ready_score)
                totals[0] += to_gradients(scores, n_ready, rec[r, step, 1], weight[r], entropy)
                totals[1] += 1
                for at in range(n_ready):
                    t, slope = rec[r, step, 4 + at], np.float32(scores[at])
                    d_priority[t, k] += slope
                    add_head(
                        w, g, units[at], rec_ready[r, step, at], N_READY_FEATURES, N_READY_UNITS,
                        net.ready, net.ready_bias + k * N_READY_UNITS, net.ready_score, slope,
                        d_ready[t],
                    )  # fmt: skip
            t, legal, pick, n_legal = (
                rec[r, step, 4 + rec[r, step, 1]], rec[r, step, 3], 0, 0,
            )  # fmt: skip
            for d in range(n_devices):
                if legal & (1 << d) != 0:
                    u = units[n_legal]
                    for j in range(N_OPTION_UNITS):
                        u[j] = to_option[t, j] + w[net.option_bias + k * N_OPTION_UNITS + j]
                    add_option(rec_option[r, step, d], w, net.option, u)
                    scores[n_legal] = score_units(u, N_OPTION_UNITS, w, net.option_score)
                    if d == rec[r, step, 2]:
                        pick = n_legal
                    n_legal += 1
            if n_legal > 1:
                totals[2] += to_gradients(scores, n_legal, pick, weight[r], entropy)
                totals[3] += 1
                n_legal = 0
                for d in range(n_devices):
                    if legal & (1 << d) != 0:
                        add_head(
                            w, g, units[n_legal], rec_option[r, step, d], N_OPTION_FEATURES,
                            N_OPTION_UNITS, net.option, net.option_bias + k * N_OPTION_UNITS,
                            net.option_score, np.float32(scores[n_legal]), d_option[t],
                        )  # fmt: skip
                        n_legal += 1
    back_through_graph(
        s, p, w, net, g, facts, coded, mixed, d_priority, d_ready, d_option, d_coded, sums
    )


@inlined
def to_gradients(
    scores: npt.NDArray[np.float64], n: int, pick: int, weight: float, entropy: float
) -> float:
    """Replace scores by the slopes of weight · log softmax[pick] + entropy · H; return H."""
    top = scores[0]
    for i in range(1, n):
        top = max(top, scores[i])
    total = 0.0
    for i in range(n):
        total += np.exp(scores[i] - top)
    log_total = np.log(total) + top
    h = 0.0
    for i in range(n):
        scores[i] -= log_total
        h -= np.exp(scores[i]) * scores[i]
    for i in range(n):
        share = np.exp(scores[i])
        slope = -weight * share - entropy * share * (scores[i] + h)
        scores[i] = slope + weight if i == pick else slope
    return h


@inlined
def add_head(
    w: FloatArray, g: FloatArray, u: FloatArray, x: FloatArray, n_in: int, n_units: int,
    matrix: int, bias: int, score: int, slope: np.float32, d_static: FloatArray,
) -> None:  # fmt: skip
    """Go back through one hidden layer; `u`: its units before the relu, which are overwritten."""
    for j in range(n_units):
        if u[j] > np.float32(0):
            g[score + j] += slope * u[j]
            u[j] = slope * w[score + j]
        else:
            u[j] = 0
        g[bias + j] += u[j]
        d_static[j] += u[j]
    for i in range(n_in):
        xi = x[i]
        if xi != np.float32(0):
            row = matrix + i * n_units
            for j in range(n_units):
                g[row + j] += xi * u[j]


@inlined
def add_back(
    w: FloatArray, g: FloatArray, at: int, x: FloatArray, d_y: FloatArray, n_in: int, n_out: int,
    d_x: FloatArray,
) -> None:  # fmt: skip
    """Go back through y = x W: add to the gradients of W and of x."""
    for i in range(n_in):
        row, total, xi = at + i * n_out, np.float32(0), x[i]
        for j in range(n_out):
            total += w[row + j] * d_y[j]
            g[row + j] += xi * d_y[j]
        d_x[i] += total


@inlined
def back_through_graph(
    s: IntArray, p: Places, w: FloatArray, net: Net, g: FloatArray, facts: FloatArray,
    coded: FloatArray, mixed: FloatArray, d_priority: FloatArray, d_ready: FloatArray,
    d_option: FloatArray, d_coded: FloatArray, sums: FloatArray,
) -> None:  # fmt: skip
    """Go back from what the heads were told of each task to the weights of the graph network.

    `sums`: (6, N_EMBEDDED) scratch.
    """
    n = s[p.sums + N_TASKS]
    d_mixed, mean, d_mean, d_shared, context, d_context = (
        sums[0], sums[1], sums[2], sums[3], sums[4], sums[5],
    )  # fmt: skip
    for j in range(N_EMBEDDED):
        d_shared[j] = context[j] = d_context[j] = 0
    for t in range(n):
        for j in range(N_EMBEDDED):
            d_coded[t, j] = 0
            context[j] += coded[t, j] / np.float32(n)
    for t in range(n):
        for j in range(N_EMBEDDED):
            d_mixed[j] = 0
        m = mixed[t]
        add_back(w, g, net.priority, m, d_priority[t], N_EMBEDDED, net.n_styles, d_mixed)
        add_back(w, g, net.to_ready, m, d_ready[t], N_EMBEDDED, N_READY_UNITS, d_mixed)
        add_back(w, g, net.to_option, m, d_option[t], N_EMBEDDED, N_OPTION_UNITS, d_mixed)
        for j in range(N_EMBEDDED):
            if m[j] <= np.float32(0):
                d_mixed[j] = 0
            d_shared[j] += d_mixed[j]
        add_back(w, g, net.own, coded[t], d_mixed, N_EMBEDDED, N_EMBEDDED, d_coded[t])
        for side in range(2):
            column = INPUTS if side == 0 else READERS
            matrix = net.inputs if side == 0 else net.readers
            first, last = s[of_task(p.tasks, t, column)], s[of_task(p.tasks, t, column + 1)]
            if last > first:
                mean_of(s, p, t, column, coded, mean)
                for j in range(N_EMBEDDED):
                    d_mean[j] = 0
                add_back(w, g, matrix, mean, d_mixed, N_EMBEDDED, N_EMBEDDED, d_mean)
                share = np.float32(1) / np.float32(last - first)
                for at in range(first, last):
                    c = d_coded[s[p.rows + at]]
                    for j in range(N_EMBEDDED):
                        c[j] += share * d_mean[j]
    for j in range(N_EMBEDDED):
        g[net.mix_bias + j] += d_shared[j]
    add_back(w, g, net.context, context, d_shared, N_EMBEDDED, N_EMBEDDED, d_context)
    for t in range(n):
        c = d_coded[t]
        for j in range(N_EMBEDDED):
            c[j] += d_context[j] / np.float32(n)
            if coded[t, j] <= np.float32(0):
                c[j] = 0
            g[net.embed_bias + j] += c[j]
        f = facts[t]
        for i in range(N_STATIC):
            row = net.embed + i * N_EMBEDDED
            for j in range(N_EMBEDDED):
                g[row + j] += f[i] * c[j]


@compiled
def fill(
    both: IntArray, p: Places, in_start: IntArray, in_values: IntArray, task_ns: IntArray,
    cell_of: IntArray, h_ns: IntArray, extra_ns: IntArray, sizes: IntArray, size_ns: IntArray,
    output_bytes: IntArray, host_bytes: IntArray, returns: IntArray, arrival_ns: IntArray,
    gate_start: IntArray, gates: IntArray, order: IntArray,
) -> None:  # fmt: skip
    """Begin with a graph of which nothing is placed, in both slots; all devices are linked.

    What `tables.graph_tables` gives, but for what only observations read. `task_ns`: (N, D),
    `h_ns`: (K, D) by cell, `extra_ns`: (D,) added to every task. `sizes`: (n,) ascending, with
    `size_ns` (n, L + 2 D): how long each occupies every link, is gathered and is staged on every
    device. `order`: gets the tasks, inputs first.
    """
    s, n, n_devices, n_links = both[0], len(cell_of), p.n_devices, p.n_links
    n_rows = 0
    for t in range(n):
        row = p.tasks + N_TASK_COLUMNS * t
        for column in range(N_TASK_COLUMNS):
            s[row + column] = 0
        s[row + INPUTS] = n_rows
        for at in range(in_start[t], in_start[t + 1]):
            source, known = in_values[at], False
            for before in range(s[row + INPUTS], n_rows):
                known = known or s[p.rows + before] == source
            if not known:
                s[p.rows + n_rows] = source
                n_rows += 1
        s[row + INPUTS_END] = n_rows
        s[row + MISSING] = n_rows - s[row + INPUTS]
    for t in range(n):  # READERS_END counts, then grows to the end as readers are written
        for at in range(s[of_task(p.tasks, t, INPUTS)], s[of_task(p.tasks, t, INPUTS_END)]):
            s[of_task(p.tasks, s[p.rows + at], READERS_END)] += 1
    for t in range(n):
        count = s[of_task(p.tasks, t, READERS_END)]
        s[of_task(p.tasks, t, READERS)] = s[of_task(p.tasks, t, READERS_END)] = n_rows
        n_rows += count
    for t in range(n):
        for at in range(s[of_task(p.tasks, t, INPUTS)], s[of_task(p.tasks, t, INPUTS_END)]):
            end = of_task(p.tasks, s[p.rows + at], READERS_END)
            s[p.rows + s[end]] = t
            s[end] += 1
    n_gated = 0
    for t in range(n):
        s[of_task(p.tasks, t, GATES)] = n_rows
        for at in range(gate_start[t], gate_start[t + 1]):
            s[p.rows + n_rows] = gates[at]
            n_rows += 1
        s[of_task(p.tasks, t, GATES_END)] = n_rows
        n_gated += gate_start[t + 1] > gate_start[t]
    work_ns, n_ready, n_ordered = 0, 0, 0
    for t in range(n):
        row = p.tasks + N_TASK_COLUMNS * t
        output, input_size = place_in(sizes, output_bytes[t]), ABSENT
        if host_bytes[t] > 0:
            input_size = place_in(sizes, host_bytes[t])
        least = NEVER
        for device in range(n_devices):
            pair = of_pair(p.pairs, n_devices, t, device, 0)
            run_ns = task_ns[t, device]
            if run_ns >= 0:
                run_ns += extra_ns[device]
                least = min(least, run_ns)
            s[pair + n_devices * RUN_NS] = run_ns
            s[pair + n_devices * THERE_NS] = s[pair + n_devices * READY_NS] = ABSENT
            s[pair + n_devices * LEGAL] = 0
            s[pair + n_devices * H_NS] = h_ns[cell_of[t], device]
            s[pair + n_devices * COPY_IN_NS] = size_ns[output, n_links + device]
            s[pair + n_devices * COPY_OUT_NS] = size_ns[output, n_links + n_devices + device]
            link = link_between(s, p, p.host, device)
            s[pair + n_devices * HOST_COPY_NS] = (
                size_ns[input_size, link] if input_size >= 0 and link >= 0 else 0
            )
        for link in range(n_links):
            s[p.moves + n_links * t + link] = size_ns[output, link]
        s[row + HAS_HOST_INPUT], s[row + RETURNS] = host_bytes[t] > 0, returns[t]
        s[row + BEST_NS], s[row + RELEASE_NS] = least, arrival_ns[t]
        s[row + HOME] = s[row + SEEN] = s[row + CHECKED] = ABSENT
        work_ns += least
        if s[row + MISSING] == 0:
            s[p.ready + n_ready] = order[n_ready] = t
            n_ready += 1
        for device in range(n_devices):
            s[p.above + n_devices * t + device] = 0
    for at in range(N_SUMS):
        s[p.sums + at] = 0
    s[p.sums + N_TASKS], s[p.sums + N_READY], s[p.sums + N_GATED] = n, n_ready, n_gated
    s[p.sums + WORK_LEFT_NS] = work_ns
    for at in range(N_DEVICE_COLUMNS * n_devices):
        s[p.devices + at] = 0
    for resource in range(p.busy - p.n_busy):
        s[p.n_busy + resource] = 0
    n_ordered = n_ready
    at = 0
    while at < n_ordered:  # MISSING counts down, and is put right again below
        t = order[at]
        for place in range(s[of_task(p.tasks, t, READERS)], s[of_task(p.tasks, t, READERS_END)]):
            reader = s[p.rows + place]
            s[of_task(p.tasks, reader, MISSING)] -= 1
            if s[of_task(p.tasks, reader, MISSING)] == 0:
                order[n_ordered] = reader
                n_ordered += 1
        at += 1
    for t in range(n):
        row = p.tasks + N_TASK_COLUMNS * t
        s[row + MISSING] = s[row + INPUTS_END] - s[row + INPUTS]
    other = both[1]
    for at in range(N_TASK_COLUMNS * n):
        other[p.tasks + at] = s[p.tasks + at]
    for at in range(N_PAIR_ROWS * n_devices * n):
        other[p.pairs + at] = s[p.pairs + at]
    for at in range(n_links * n):
        other[p.moves + at] = s[p.moves + at]
    for at in range(n_rows):
        other[p.rows + at] = s[p.rows + at]


@inlined
def place_in(sizes: IntArray, size: int) -> int:
    """Return where an ascending array holds `size`, which it does."""
    low, high = 0, len(sizes) - 1
    while low < high:
        middle = (low + high) // 2
        if sizes[middle] < size:
            low = middle + 1
        else:
            high = middle
    return low
