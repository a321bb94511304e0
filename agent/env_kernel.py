# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: the steps of many episodes at once, and what policies see of each.

Slots, letters and times as in `estimate_kernel`. What is kept about ready tasks is looked up again
only where something has changed; numbers that are seen lie in a second array `x` per slot.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dynpartition.agent.estimate_kernel import (
    ABSENT,
    BELOW_NS,
    BEST_NS,
    CHECKED,
    DURATION_NS,
    END,
    FAR,
    FOLLOWS,
    FOLLOWS_END,
    FREE_NS,
    HAS_HOST_INPUT,
    HOME,
    INPUTS,
    INPUTS_END,
    LATEST_NS,
    LEGAL,
    MISSING,
    N_CHANGES,
    N_CHOSEN,
    N_GATED,
    N_LISTED,
    N_READY,
    NEAR,
    NEAR_SIZE,
    NEVER,
    PER_UNIT,
    PER_WORK,
    PRIORITY,
    RANK_NS,
    READERS,
    READERS_END,
    READY_NS,
    RUN_NS,
    SEEN,
    START,
    TRAFFIC,
    WORK_LEFT_NS,
    Places,
    commit,
    data_ready_ns,
    free_readers,
    judge,
    lasts_ns,
    note_walks,
    of_candidate,
    of_device,
    of_pair,
    of_task,
    option_start_ns,
    release_known,
    unpack,
)
from dynpartition.compiled import compiled, inlined
from dynpartition.types import FloatArray, IntArray

Bytes = npt.NDArray[np.int8]

FOUR = np.float32(4)

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


@inlined
def of_known(known: int, n_devices: int, task: int, device: int) -> int:
    """Return where a row of `known` lies."""
    return known + N_KNOWN * (n_devices * task + device)


# Placing


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
    free_readers(s, p, task)
    for at in range(s[of_task(p.tasks, task, READERS)], s[of_task(p.tasks, task, READERS_END)]):
        reader = s[p.rows + at]
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
    """Append a launch and count its tasks as placed."""
    commit(s, p, tasks, first, last, device, run_ns)
    for at in range(first, last):
        settle(s, p, tasks[at], device)


# What is kept about ready tasks


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
    """Note durations, which only first uses change, and where the inputs are."""
    first, last = s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]
    n_inputs = last - first + (s[of_task(p.tasks, task, HAS_HOST_INPUT)] != 0)
    for device in range(p.n_devices):
        duration_ns = ABSENT
        if s[of_pair(p.pairs, p.n_devices, task, device, RUN_NS)] >= 0:
            duration_ns = lasts_ns(s, p, task, device)
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
def look(s: IntArray, x: FloatArray, p: Places) -> tuple[int, int, int, int, float]:
    """Note when each shown task would start and end on each legal device.

    Return how many tasks are shown, how many candidates are legal, the first start among them, the
    longest path through a shown task where it ends first, and the devices' mean free time.
    """
    n_shown = min(s[p.sums + N_READY], p.n_shown)
    note_walks(s, p)
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
    return n_shown, n_legal, first_start_ns, longest_ns, free_ns / p.n_devices


@inlined
def observe(s: IntArray, x: FloatArray, seen: FloatArray, mask: Bytes, p: Places) -> int:
    """Write the observation of a slot; return how many candidates are legal."""
    n_shown, n_legal, first_start_ns, longest_ns, mean_free_ns = look(s, x, p)
    for row in range(n_shown):
        describe(s, x, seen, mask, p, row, first_start_ns, longest_ns, mean_free_ns, N_FEATURES)
    for k in range(n_shown * p.n_devices, s[p.sums + N_LISTED]):
        clear(seen, mask, k, N_FEATURES)
    s[p.sums + N_LISTED] = n_shown * p.n_devices
    return n_legal


@inlined
def clear(seen: FloatArray, mask: Bytes, k: int, n_features: int) -> None:
    """Write what is seen where no candidate is; `n_features` of each lie in `seen`."""
    mask[k] = 0
    for feature in range(n_features):
        seen[n_features * k + feature] = 0


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
    n_features: int,
) -> None:
    """Write the features of one shown task on every device; `n_features` of each lie in `seen`.

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
            clear(seen, mask, k, n_features)
            continue
        start_ns = s[candidate + 2 * device + START]
        end_ns = s[candidate + 2 * device + END]
        free_ns = s[of_device(p.devices, device, FREE_NS)]
        near_here = s[near + device] * per_near
        far_here = s[far + device] * per_far
        to = n_features * k
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
    s: IntArray, layout: IntArray, tasks: IntArray, start: IntArray, devices: IntArray,
    run_ns: IntArray,
) -> None:  # fmt: skip
    """Append launches as `estimate_kernel.replay` does, and show what has become ready."""
    p = unpack(layout)
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
    layout: IntArray,
    slots: IntArray,
    actions: IntArray,
    outcomes: IntArray,
) -> None:
    """Place candidate `actions[i]` of slot `slots[i]`, or nothing if it is ABSENT; observe it.

    The arrays are (B, n). `outcomes`: what became of each. An illegal choice changes nothing.
    """
    p = unpack(layout)
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
