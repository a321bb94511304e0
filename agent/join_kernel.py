# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: the steps of episodes in which a task may join the launch of the task placed before it.

Slots, letters and times as in `env_kernel`. The launch placed last is *open*: a ready task of its
cell that depends on none of its tasks may join it, and the next launch closes it. So the order of
choices stays the plan order, and every legal plan can be chosen.

A launch that grows is taken back and committed anew. Each slot `s` has a second one, `h`, in which
the plan so far stands without the open launch, but with the transfers booked that its tasks need:
there a task is looked at that may join, and from there `s` goes on when it does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dynpartition.agent.env_kernel import (
    ALL_PLACED,
    DURATION,
    FINISH_LAG,
    FINISHES_FIRST,
    ILLEGAL,
    MOVE_IN,
    N_CHANGING,
    N_FEATURES,
    PATH,
    PLACED,
    RISE,
    SLOWER,
    START_LAG,
    STUCK,
    WAIT,
    Bytes,
    clear,
    compared,
    describe,
    look,
    settle,
    squashed,
)
from dynpartition.agent.estimate_kernel import (
    ABSENT,
    BELOW_NS,
    CELL,
    CHECKED,
    DURATION_NS,
    END,
    FREE_NS,
    GATES,
    GATES_END,
    HOME,
    INPUTS,
    INPUTS_END,
    LATEST_NS,
    LEGAL,
    N_CHOSEN,
    N_GATED,
    N_LISTED,
    N_READY,
    NEVER,
    PER_UNIT,
    READY_NS,
    RELEASE_NS,
    RUN_NS,
    SEEN,
    SPAN,
    STAGED,
    THERE_NS,
    WORK_LEFT_NS,
    Places,
    bring,
    data_ready_ns,
    dispatched_ns,
    end_of,
    first_use_ns,
    gather_ns,
    loaded_ns,
    locked_start_ns,
    may_lack,
    of_candidate,
    of_device,
    of_pair,
    of_task,
    release_known,
    reset_machine,
    run_launch,
    unpack,
    walk_ns,
)
from dynpartition.compiled import compiled, inlined, part
from dynpartition.types import FloatArray, IntArray

# Columns of `open`. BROUGHT_NS: when all inputs are there. ALONE_NS: what its tasks last one by
# one. N_APART: how many of them no batch curve holds for. GATHERS_NS: gathering all remote inputs.
# KNOWN_NS: when the last of its tasks is known and has arrived.
N_TOGETHER, DEVICE, BROUGHT_NS, ALONE_NS, N_APART, GATHERS_NS, KNOWN_NS = range(7)
N_OPEN_COLUMNS = 7

# Features, in the order of `observe.BATCH_FEATURES`.
JOINS, TOGETHER, DELAY, SAVED, MATES, NEXT = range(N_FEATURES, N_FEATURES + 6)
N_ALL_FEATURES = N_FEATURES + 6


ONE = np.float32(1)


class Joins(NamedTuple):
    """Where things about launches of several tasks lie in `s`."""

    open: int
    """(7,) the open launch."""
    together: int
    """(N,) its tasks, in order of choice."""
    joined: int
    """(N,) 1 where a choice joined the launch before it."""
    waiting: int
    """(K,) how many tasks of each cell were ready at the last observation."""
    batch_first: int
    """(K,) the row of `batch_ns` for launches of one task of the cell."""
    batch_ns: int
    """(N, D) durations of launches of 1, 2, … tasks, for as many as each cell has."""
    apart: int
    """(N, D) 1 where a launch with the task lasts as long as its tasks one by one."""


@inlined
def unpack_joins(a: IntArray) -> Joins:
    """Return what an array of as many integers says."""
    return Joins(a[0], a[1], a[2], a[3], a[4], a[5], a[6])


@inlined
def launch_ns(
    s: IntArray, p: Places, j: Joins, cell: int, device: int, count: int, alone_ns: int,
    n_apart: int,
) -> int:  # fmt: skip
    """Return how long a launch of `count` tasks runs, without gathering and first use."""
    if n_apart > 0:
        return alone_ns
    return s[j.batch_ns + p.n_devices * (s[j.batch_first + cell] + count - 1) + device]


# Placing


@part
def run_open(to: IntArray, s: IntArray, layout: IntArray, places: IntArray) -> None:
    """Append the open launch of slot `s` to the plan in `to`, where its inputs are booked."""
    p, j = unpack(layout), unpack_joins(places)
    count, device = s[j.open + N_TOGETHER], s[j.open + DEVICE]
    cell = s[of_task(p.tasks, s[j.together], CELL)]
    alone_ns, n_apart = s[j.open + ALONE_NS], s[j.open + N_APART]
    run_ns = launch_ns(s, p, j, cell, device, count, alone_ns, n_apart)
    ready_ns = s[j.open + BROUGHT_NS]
    run_launch(to, p, s, j.together, j.together + count, device, run_ns, ready_ns)


@part
def book_inputs(to: IntArray, layout: IntArray, task: int, device: int) -> int:
    """Book the transfers that a task needs in the plan in `to`; return when all are there."""
    p = unpack(layout)
    if to[p.sums + N_GATED] > 0:
        release_known(to, p)
    return bring(to, p, task, device)


@inlined
def take_in(s: IntArray, h: IntArray, p: Places, j: Joins, task: int, come_ns: int) -> None:
    """Count a task to the open launch; its inputs are there at `come_ns`."""
    device = s[j.open + DEVICE]
    s[j.together + s[j.open + N_TOGETHER]] = task
    s[j.open + N_TOGETHER] += 1
    s[j.open + ALONE_NS] += s[of_pair(p.pairs, p.n_devices, task, device, RUN_NS)]
    s[j.open + N_APART] += s[j.apart + p.n_devices * task + device]
    s[j.open + GATHERS_NS] += gather_ns(h, p, task, device)
    s[j.open + BROUGHT_NS] = max(s[j.open + BROUGHT_NS], come_ns)
    known_ns = h[of_task(p.tasks, task, RELEASE_NS)]
    s[j.open + KNOWN_NS] = max(s[j.open + KNOWN_NS], known_ns)


@inlined
def choose(
    s: IntArray, h: IntArray, layout: IntArray, places: IntArray, task: int, device: int, joins: int
) -> None:
    """Place a task in a launch of its own, which is open now, or where `joins` in the open one."""
    p, j = unpack(layout), unpack_joins(places)
    n_chosen = s[p.sums + N_CHOSEN]
    s[p.chosen + 2 * n_chosen], s[p.chosen + 2 * n_chosen + 1] = task, device
    s[j.joined + n_chosen] = joins
    s[p.sums + N_CHOSEN] += 1
    if joins == 0:
        if s[j.open + N_TOGETHER] > 0:
            run_open(h, s, layout, places)
        for column in range(N_OPEN_COLUMNS):
            s[j.open + column] = 0
        s[j.open + DEVICE] = device
    take_in(s, h, p, j, task, book_inputs(h, layout, task, device))
    if joins == 0:
        book_inputs(s, layout, task, device)
    else:
        go_back(s, h, p, j, task)
    run_open(s, s, layout, places)
    settle(s, p, task, device)


@inlined
def go_back(s: IntArray, h: IntArray, p: Places, j: Joins, task: int) -> None:
    """Go on from the plan in `h`, where the inputs of all tasks of the open launch are booked.

    `task` has joined it. What is known of other tasks than those of the launch and the inputs of
    `task` is the same in both; what is kept about ready ones is looked up again.
    """
    n_ready, work_left_ns = s[p.sums + N_READY], s[p.sums + WORK_LEFT_NS]
    n_listed, n_chosen = s[p.sums + N_LISTED], s[p.sums + N_CHOSEN]
    reset_machine(s, h, p)
    s[p.sums + N_READY], s[p.sums + WORK_LEFT_NS] = n_ready, work_left_ns
    s[p.sums + N_LISTED], s[p.sums + N_CHOSEN] = n_listed, n_chosen
    for at in range(j.together, j.together + s[j.open + N_TOGETHER]):
        copy_task(s, h, p, s[at])
    for at in range(s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]):
        copy_task(s, h, p, s[p.rows + at])
    for at in range(p.ready, p.ready + s[p.sums + N_READY]):
        s[of_task(p.tasks, s[at], SEEN)] = s[of_task(p.tasks, s[at], CHECKED)] = ABSENT


@inlined
def copy_task(s: IntArray, h: IntArray, p: Places, task: int) -> None:
    """Take over where the plan in `h` has a task, and where its output is."""
    for column in (HOME, SPAN, STAGED):
        s[of_task(p.tasks, task, column)] = h[of_task(p.tasks, task, column)]
    there = of_pair(p.pairs, p.n_devices, task, 0, THERE_NS)
    for device in range(p.n_devices):
        s[there + device] = h[there + device]


# Observing


@inlined
def count_waiting(s: IntArray, p: Places, j: Joins) -> None:
    """Count the ready tasks of the cells of ready tasks."""
    for at in range(p.ready, p.ready + s[p.sums + N_READY]):
        s[j.waiting + s[of_task(p.tasks, s[at], CELL)]] = 0
    for at in range(p.ready, p.ready + s[p.sums + N_READY]):
        s[j.waiting + s[of_task(p.tasks, s[at], CELL)]] += 1


@inlined
def may_join(s: IntArray, h: IntArray, p: Places, j: Joins, task: int) -> bool:
    """Return whether a shown task may join the open launch: no input or revealer is in it."""
    if s[j.open + N_TOGETHER] == 0:
        return False
    is_alike = s[of_task(p.tasks, task, CELL)] == s[of_task(p.tasks, s[j.together], CELL)]
    device = s[j.open + DEVICE]
    if not is_alike or s[of_pair(p.pairs, p.n_devices, task, device, LEGAL)] == 0:
        return False
    for at in range(h[of_task(p.tasks, task, INPUTS)], h[of_task(p.tasks, task, INPUTS_END)]):
        if h[of_task(p.tasks, h[p.rows + at], HOME)] < 0:
            return False
    for at in range(h[of_task(p.tasks, task, GATES)], h[of_task(p.tasks, task, GATES_END)]):
        if h[of_task(p.tasks, h[p.rows + at], HOME)] < 0:
            return False
    return True


@inlined
def more_saves(
    s: IntArray, p: Places, j: Joins, task: int, device: int, count: int, n_apart: int
) -> float:
    """Return about the log of what one more task adds to a launch over what it takes alone.

    The launch has `count` tasks, `task` among them. 0 where no other of the cell is ready.
    """
    cell = s[of_task(p.tasks, task, CELL)]
    if s[j.waiting + cell] < 2 or n_apart > 0:
        return 0.0
    alone_ns = launch_ns(s, p, j, cell, device, 1, 0, 0)
    now_ns = launch_ns(s, p, j, cell, device, count, 0, 0)
    more_ns = launch_ns(s, p, j, cell, device, count + 1, 0, 0) - now_ns
    return compared(max(more_ns, 0), alone_ns)


@inlined
def observe(
    s: IntArray, h: IntArray, x: FloatArray, seen: FloatArray, mask: Bytes, p: Places, j: Joins
) -> int:
    """Write the observation of a slot; return how many candidates are legal, but for joins."""
    n_shown, n_legal, first_start_ns, longest_ns, mean_free_ns = look(s, x, p)
    count_waiting(s, p, j)
    for row in range(n_shown):
        describe(s, x, seen, mask, p, row, first_start_ns, longest_ns, mean_free_ns, N_ALL_FEATURES)
        describe_alone(s, seen, mask, p, j, row)
    for k in range(n_shown * p.n_devices, s[p.sums + N_LISTED]):
        clear(seen, mask, k, N_ALL_FEATURES)
    s[p.sums + N_LISTED] = n_shown * p.n_devices
    for row in range(p.n_shown):
        k = p.n_shown * p.n_devices + row
        if row < n_shown and may_join(s, h, p, j, s[p.shown + row]):
            describe_join(s, h, x, seen, mask, p, j, row, first_start_ns, longest_ns)
        elif mask[k] != 0:
            clear(seen, mask, k, N_ALL_FEATURES)
    return n_legal


@inlined
def describe_alone(
    s: IntArray, seen: FloatArray, mask: Bytes, p: Places, j: Joins, row: int
) -> None:
    """Write what others could add to a launch of one shown task, on every device."""
    task = s[p.shown + row]
    mates = squashed(s[j.waiting + s[of_task(p.tasks, task, CELL)]] - 1, ONE)
    for device in range(p.n_devices):
        k = row * p.n_devices + device
        if mask[k] != 0:
            to, n_apart = N_ALL_FEATURES * k, s[j.apart + p.n_devices * task + device]
            seen[to + JOINS] = seen[to + TOGETHER] = 0.0
            seen[to + DELAY] = seen[to + SAVED] = 0.0
            seen[to + MATES] = mates
            seen[to + NEXT] = more_saves(s, p, j, task, device, 1, n_apart)


@inlined
def describe_join(
    s: IntArray, h: IntArray, x: FloatArray, seen: FloatArray, mask: Bytes, p: Places, j: Joins,
    row: int, first_start_ns: int, longest_ns: int,
) -> None:  # fmt: skip
    """Write the features of a shown task in the open launch.

    They are those of a launch of its own on that device, but for what differs.
    """
    task, first, n_devices = s[p.shown + row], s[j.together], p.n_devices
    device, count = s[j.open + DEVICE], s[j.open + N_TOGETHER]
    cell, per_unit = s[of_task(p.tasks, task, CELL)], x[p.scales + PER_UNIT]
    own = of_pair(p.pairs, n_devices, task, 0, 0)

    # The launch as it is and as it would be; `h` knows nothing of it but its transfers.
    alone_ns, n_apart = s[j.open + ALONE_NS], s[j.open + N_APART]
    now_ns = launch_ns(s, p, j, cell, device, count, alone_ns, n_apart)
    alone_ns += s[own + n_devices * RUN_NS + device]
    n_apart += s[j.apart + n_devices * task + device]
    run_ns = launch_ns(s, p, j, cell, device, count + 1, alone_ns, n_apart)
    gathers_ns = gather_ns(h, p, task, device)
    longer_ns = max(run_ns - now_ns + gathers_ns, 0)
    come_ns = data_ready_ns(h, p, task, device)
    lasts_ns = run_ns + s[j.open + GATHERS_NS] + gathers_ns + first_use_ns(h, p, first, device)
    free_ns = h[of_device(p.devices, device, FREE_NS)]
    start_ns = max(free_ns, s[j.open + BROUGHT_NS], come_ns)
    if may_lack(h, p, device):
        start_ns = max(start_ns, loaded_ns(h, p, task, device, s[j.open + KNOWN_NS]))
    if p.dispatches != 0:
        walk = walk_ns(h, p, device)
        start_ns = max(start_ns, dispatched_ns(h, p, first, device, walk))
        start_ns = locked_start_ns(h, p, device, start_ns, lasts_ns)
    end_ns = start_ns + lasts_ns

    # What its own launches would be, on this device and on the best.
    own_ns = s[own + n_devices * DURATION_NS + device]
    soonest_ns = fastest_ns = NEVER
    for other in range(n_devices):
        if s[own + n_devices * LEGAL + other] != 0:
            soonest_ns = min(soonest_ns, s[own + n_devices * READY_NS + other])
            fastest_ns = min(fastest_ns, s[own + n_devices * DURATION_NS + other])
    first_end_ns = s[of_candidate(p.candidates, n_devices, row, n_devices, END)]

    k = p.n_shown * n_devices + row
    to, like = N_ALL_FEATURES * k, N_ALL_FEATURES * (n_devices * row + device)
    mask[k] = 1
    for feature in range(N_ALL_FEATURES):
        seen[to + feature] = seen[like + feature]
    seen[to + WAIT] = squashed(start_ns - free_ns, per_unit)
    seen[to + START_LAG] = squashed(start_ns - first_start_ns, per_unit)
    seen[to + FINISH_LAG] = squashed(end_ns - first_end_ns, per_unit)
    seen[to + FINISHES_FIRST] = 1.0 if end_ns <= first_end_ns else 0.0
    seen[to + RISE] = squashed(max(end_ns - s[p.sums + LATEST_NS], 0), per_unit)
    seen[to + PATH] = compared(s[of_task(p.tasks, task, BELOW_NS)] + end_ns, longest_ns)
    seen[to + N_CHANGING + DURATION] = squashed(longer_ns, per_unit)
    seen[to + N_CHANGING + SLOWER] = compared(longer_ns, fastest_ns)
    seen[to + N_CHANGING + MOVE_IN] = squashed(come_ns - soonest_ns, per_unit)
    seen[to + JOINS] = 1.0
    seen[to + TOGETHER] = squashed(count, ONE)
    seen[to + DELAY] = squashed(end_ns - end_of(s, p, first), per_unit)
    seen[to + SAVED] = compared(longer_ns, own_ns)
    seen[to + NEXT] = more_saves(s, p, j, task, device, count + 1, n_apart)


# What Python calls


@compiled
def act(
    ints: IntArray,
    held: IntArray,
    numbers: FloatArray,
    features: FloatArray,
    masks: Bytes,
    layout: IntArray,
    places: IntArray,
    slots: IntArray,
    actions: IntArray,
    outcomes: IntArray,
) -> None:
    """Place candidate `actions[i]` of slot `slots[i]`, or nothing if it is ABSENT; observe it.

    As `env_kernel.act`; candidates from R·D on join. `held`: the slots `h`. `places`: see `Joins`.
    """
    p, j = unpack(layout), unpack_joins(places)
    n_alone = p.n_shown * p.n_devices
    for at in range(len(slots)):
        b, action = slots[at], actions[at]
        s, h = ints[b], held[b]
        if action >= 0 and masks[b, action] == 0:
            outcomes[at] = ILLEGAL
            continue
        if action >= 0:
            joins = action >= n_alone
            row, device = action // p.n_devices, action % p.n_devices
            if joins:
                row, device = action - n_alone, s[j.open + DEVICE]
            choose(s, h, layout, places, s[p.shown + row], device, int(joins))
        n_legal = observe(s, h, numbers[b], features[b], masks[b], p, j)
        outcomes[at] = PLACED
        if n_legal == 0:
            outcomes[at] = ALL_PLACED if s[p.sums + N_READY] == 0 else STUCK
