# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: list schedulers, which place one task after the other by the estimate.

`dynpartition.agent.listing` defines what each of them chooses, on the readable estimate of
`dynpartition.agent.estimate`; here are the same choices, to the task. Slots and letters as in
`estimate_kernel`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dynpartition.agent.estimate_kernel import (
    ABSENT,
    BEST_NS,
    CELL,
    CHECKED,
    COPY_IN_NS,
    COPY_OUT_NS,
    DURATION_NS,
    FREE_NS,
    HOME,
    INPUTS,
    INPUTS_END,
    LEGAL,
    MISSING,
    N_CHANGES,
    N_CHOSEN,
    N_GATED,
    N_TASKS,
    NEVER,
    READERS,
    READERS_END,
    RELEASE_NS,
    RUN_NS,
    STAGES_IN,
    STAGES_OUT,
    Places,
    commit,
    find_options,
    first_use_ns,
    fit,
    free_readers,
    gather_ns,
    link_between,
    loaded_ns,
    note_walks,
    of_device,
    of_machine,
    of_pair,
    of_task,
    option_start_ns,
    release_known,
    reset_slot,
    there_ns,
    unpack,
)
from dynpartition.compiled import compiled, inlined
from dynpartition.types import IntArray

Numbers = npt.NDArray[np.float64]

SHOWN_MAX = 32
"""`listing.WINDOW`."""
UP, DOWN, COST, MOVE, KEY = range(5)  # rows of Work.ranks (5, N)
ON_HEAP, N_SHOWN, NEXT_GIVEN = range(3)  # places in Work.sums
N_WORK_SUMS = 3

# What choosing goes by.
HEFT, PEFT, CPOP, MIN_MIN, LOOKAHEAD, GIVEN, FORCED = range(7)


class Work(NamedTuple):
    """What list schedulers need besides a slot."""

    order: IntArray
    """(N,) topological."""
    ranks: Numbers
    after: Numbers
    """(N, D) PEFT's optimistic costs."""
    heap: IntArray
    """(N,) ready tasks, the best first."""
    critical: IntArray
    """(N,) 1 for tasks of CPOP's critical path."""
    shown: IntArray
    """(SHOWN_MAX,) the ready tasks that min-min looks at, highest rank first."""
    sums: IntArray


# Ranks


@inlined
def mean_times(s: IntArray, p: Places, w: Work, task: int) -> None:
    """Write the mean duration of a task, and of moving its output; see `agent.ranks`."""
    total_ns = count = moved_ns = 0
    for device in range(p.n_devices):
        run_ns = s[of_pair(p.pairs, p.n_devices, task, device, RUN_NS)]
        if run_ns >= 0:
            total_ns += run_ns
            count += 1
    w.ranks[COST, task] = total_ns / max(count, 1)
    for link in range(p.n_links):
        moved_ns += s[p.moves + p.n_links * task + link]
    w.ranks[MOVE, task] = 0.0
    if p.n_links > 0:
        w.ranks[MOVE, task] = moved_ns / p.n_links + p.handoff_ns


@inlined
def rank_tasks(s: IntArray, p: Places, w: Work) -> None:
    """Write upward ranks, downward ranks and PEFT's optimistic costs; see `agent.ranks`."""
    n_tasks, n_devices = s[p.sums + N_TASKS], p.n_devices
    for task in range(n_tasks):
        mean_times(s, p, w, task)
    for at in range(n_tasks - 1, -1, -1):
        task = w.order[at]
        below = 0.0
        for device in range(n_devices):
            w.after[task, device] = 0.0
        move = w.ranks[MOVE, task]
        for place in range(
            s[of_task(p.tasks, task, READERS)], s[of_task(p.tasks, task, READERS_END)]
        ):
            reader = s[p.rows + place]
            below = max(below, move + w.ranks[UP, reader])
            note_after(s, p, w, task, reader)
        w.ranks[UP, task] = w.ranks[COST, task] + below
    for at in range(n_tasks):
        task = w.order[at]
        above = 0.0
        for place in range(
            s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]
        ):
            source = s[p.rows + place]
            through = w.ranks[DOWN, source] + w.ranks[COST, source] + w.ranks[MOVE, source]
            above = max(above, through)
        w.ranks[DOWN, task] = above


@inlined
def note_after(s: IntArray, p: Places, w: Work, task: int, reader: int) -> None:
    """Let the optimistic costs of `task` be no less than what `reader` needs after it."""
    for device in range(p.n_devices):
        least = np.inf
        for other in range(p.n_devices):
            run_ns = s[of_pair(p.pairs, p.n_devices, reader, other, RUN_NS)]
            if run_ns >= 0:
                move = 0.0 if other == device else w.ranks[MOVE, task]
                least = min(least, w.after[reader, other] + run_ns + move)
        w.after[task, device] = max(w.after[task, device], least)


@compiled
def sum_paths(
    s: IntArray, layout: IntArray, order: IntArray, together_ns: IntArray, above_ns: IntArray,
    below_ns: IntArray,
) -> None:  # fmt: skip
    """Write the longest paths before and behind each task, if all take their least, moves nothing.

    `together_ns`: (K,) or (0,) no task of a cell lasts longer at best.
    """
    p = unpack(layout)
    n_tasks = len(order)
    for task in range(n_tasks):
        above_ns[task] = below_ns[task] = 0
    for at in range(n_tasks):
        task = order[at]
        path_ns = above_ns[task] + least_of(s, p, together_ns, task)
        for place in range(
            s[of_task(p.tasks, task, READERS)], s[of_task(p.tasks, task, READERS_END)]
        ):
            reader = s[p.rows + place]
            above_ns[reader] = max(above_ns[reader], path_ns)
    for at in range(n_tasks - 1, -1, -1):
        task = order[at]
        path_ns = below_ns[task] + least_of(s, p, together_ns, task)
        for place in range(
            s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]
        ):
            source = s[p.rows + place]
            below_ns[source] = max(below_ns[source], path_ns)


@inlined
def least_of(s: IntArray, p: Places, together_ns: IntArray, task: int) -> int:
    """Return what a task takes at least."""
    least_ns = s[of_task(p.tasks, task, BEST_NS)]
    if len(together_ns) > 0:
        least_ns = min(least_ns, together_ns[s[of_task(p.tasks, task, CELL)]])
    return least_ns


# The heap of ready tasks: highest key first, the smallest number among equals


@inlined
def goes_before(w: Work, task: int, other: int) -> bool:
    """Return whether a ready task comes before another one."""
    key, value = w.ranks[KEY, task], w.ranks[KEY, other]
    return key > value or (key == value and task < other)


@inlined
def push(w: Work, task: int) -> None:
    """Add a task to the heap."""
    at = w.sums[ON_HEAP]
    w.sums[ON_HEAP] = at + 1
    while at > 0 and goes_before(w, task, w.heap[(at - 1) // 2]):
        w.heap[at] = w.heap[(at - 1) // 2]
        at = (at - 1) // 2
    w.heap[at] = task


@inlined
def pop(w: Work) -> int:
    """Take the first task off the heap."""
    first, count = w.heap[0], w.sums[ON_HEAP] - 1
    w.sums[ON_HEAP] = count
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


# Choosing


@inlined
def look_up(s: IntArray, p: Places, task: int) -> None:
    """Find the options of a ready task, unless nothing has changed since that was done."""
    checked = of_task(p.tasks, task, CHECKED)
    if s[checked] != s[p.sums + N_CHANGES] or p.all_linked == 0:
        s[checked] = s[p.sums + N_CHANGES]
        find_options(s, p, task)


@inlined
def far_sighted_ns(s: IntArray, p: Places, task: int, device: int, end_ns: int) -> int:
    """Return when the last of the readers of `task` could end if it ended so (look-ahead)."""
    latest_ns = end_ns
    for at in range(s[of_task(p.tasks, task, READERS)], s[of_task(p.tasks, task, READERS_END)]):
        reader = s[p.rows + at]
        latest_ns = max(latest_ns, reader_end_ns(s, p, reader, task, device, end_ns))
    return latest_ns


@inlined
def reader_end_ns(s: IntArray, p: Places, reader: int, task: int, home: int, end_ns: int) -> int:
    """Return when a reader of `task` could end at best, if `task` ended at `end_ns` on `home`.

    As far as its placed inputs tell; each of their transfers as if it were the only new one.
    ABSENT if it can go nowhere.
    """
    best_ns, n_devices = NEVER, p.n_devices
    alike = s[of_task(p.tasks, reader, CELL)] == s[of_task(p.tasks, task, CELL)]
    first, last = s[of_task(p.tasks, reader, INPUTS)], s[of_task(p.tasks, reader, INPUTS_END)]
    for device in range(n_devices):
        lasts = s[of_pair(p.pairs, n_devices, reader, device, RUN_NS)]
        link = link_between(s, p, home, device)
        if lasts < 0 or (device != home and link < 0):
            continue
        ready_ns = max(
            s[of_task(p.tasks, reader, RELEASE_NS)], s[of_device(p.devices, device, FREE_NS)]
        )
        if device == home:
            ready_ns = max(ready_ns, end_ns)
        else:
            pushed_ns = end_ns
            if s[of_machine(p.machine, home, STAGES_OUT)] != 0:
                pushed_ns += s[of_pair(p.pairs, n_devices, task, home, COPY_OUT_NS)]
            if s[of_machine(p.machine, device, STAGES_IN)] != 0:
                lasts += s[of_pair(p.pairs, n_devices, task, device, COPY_IN_NS)]
            length_ns = s[p.moves + p.n_links * task + link]
            come_ns = fit(s, p, link, length_ns, pushed_ns) + length_ns + p.handoff_ns
            ready_ns = max(ready_ns, come_ns)
        if device != home or not alike:
            lasts += first_use_ns(s, p, reader, device)
            after_ns = end_ns if device == home else 0
            ready_ns = max(ready_ns, loaded_ns(s, p, reader, device, after_ns))
        reachable = True
        for at in range(first, last):
            source = s[p.rows + at]
            if s[of_task(p.tasks, source, HOME)] >= 0:
                come_ns = there_ns(s, p, source, device, 0)
                reachable = reachable and come_ns >= 0
                ready_ns = max(ready_ns, come_ns)
        if reachable:
            best_ns = min(best_ns, ready_ns + lasts + gather_ns(s, p, reader, device))
    return ABSENT if best_ns == NEVER else best_ns


@inlined
def best_shown(
    s: IntArray, p: Places, w: Work, method: int, wanted: IntArray, device: int
) -> tuple[int, int]:
    """Return which of the shown tasks goes next, by its place, and where; ABSENT if nowhere.

    `wanted`: of GIVEN; `device`: of CPOP's critical path. Each goes where it may.
    """
    best, best_device, best_ns, best_tie_ns, least = 0, ABSENT, NEVER, NEVER, np.inf
    note_walks(s, p)
    for at in range(w.sums[N_SHOWN]):
        task = w.shown[at]
        preferred = ABSENT
        if method == GIVEN:
            preferred = wanted[task]
        elif method == CPOP and w.critical[task] != 0:
            preferred = device
        look_up(s, p, task)
        for other in range(p.n_devices):
            pair = of_pair(p.pairs, p.n_devices, task, other, 0)
            if s[pair + p.n_devices * LEGAL] == 0:
                continue
            end_ns = option_start_ns(s, p, task, other) + s[pair + p.n_devices * DURATION_NS]
            value, value_ns, tie_ns = 0.0, end_ns, end_ns
            if method == LOOKAHEAD:
                value_ns = far_sighted_ns(s, p, task, other, end_ns)
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
def set_keys(s: IntArray, p: Places, w: Work, method: int) -> int:
    """Write what ready tasks are ordered by; return the device of CPOP's critical path."""
    for task in range(s[p.sums + N_TASKS]):
        w.ranks[KEY, task] = w.ranks[UP, task]
        if method == CPOP:
            w.ranks[KEY, task] = w.ranks[UP, task] + w.ranks[DOWN, task]
        elif method == PEFT:
            total, count = 0.0, 0
            for device in range(p.n_devices):
                if s[of_pair(p.pairs, p.n_devices, task, device, RUN_NS)] >= 0:
                    total += w.after[task, device]
                    count += 1
            w.ranks[KEY, task] = total / count
    return mark_critical(s, p, w) if method == CPOP else ABSENT


@inlined
def mark_critical(s: IntArray, p: Places, w: Work) -> int:
    """Mark one path along the highest keys; return the device that runs it fastest, or ABSENT."""
    n_tasks, task = s[p.sums + N_TASKS], ABSENT
    for other in range(n_tasks):
        w.critical[other] = 0
        is_entry = s[of_task(p.tasks, other, INPUTS)] == s[of_task(p.tasks, other, INPUTS_END)]
        if is_entry and (task < 0 or goes_before(w, other, task)):
            task = other
    while task >= 0:
        w.critical[task] = 1
        following = ABSENT
        for at in range(s[of_task(p.tasks, task, READERS)], s[of_task(p.tasks, task, READERS_END)]):
            reader = s[p.rows + at]
            if following < 0 or goes_before(w, reader, following):
                following = reader
        task = following
    best, best_ns = ABSENT, NEVER
    for device in range(p.n_devices):
        total_ns = 0
        for other in range(n_tasks):
            if w.critical[other] != 0:
                run_ns = s[of_pair(p.pairs, p.n_devices, other, device, RUN_NS)]
                total_ns = NEVER if run_ns < 0 or total_ns == NEVER else total_ns + run_ns
        if total_ns < best_ns:
            best, best_ns = device, total_ns
    return best


@inlined
def push_readers(s: IntArray, p: Places, w: Work, task: int) -> None:
    """Put the readers of a placed task on the heap that have become ready."""
    free_readers(s, p, task)
    for at in range(s[of_task(p.tasks, task, READERS)], s[of_task(p.tasks, task, READERS_END)]):
        reader = s[p.rows + at]
        is_new = s[of_task(p.tasks, reader, HOME)] < 0
        if s[of_task(p.tasks, reader, MISSING)] == 0 and is_new:
            push(w, reader)


@inlined
def show(w: Work, count_max: int) -> None:
    """Show the ready tasks of highest key; the others stay on the heap."""
    while w.sums[ON_HEAP] > 0:
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
def show_next_given(s: IntArray, p: Places, w: Work) -> None:
    """Show the next task in topological order that is not placed."""
    while w.sums[NEXT_GIVEN] < s[p.sums + N_TASKS] and w.sums[N_SHOWN] == 0:
        task = w.order[w.sums[NEXT_GIVEN]]
        w.sums[NEXT_GIVEN] += 1
        if s[of_task(p.tasks, task, HOME)] < 0:
            w.shown[0] = task
            w.sums[N_SHOWN] = 1


@compiled
def make_plan(
    s: IntArray, s0: IntArray, layout: IntArray, order: IntArray, ranks: Numbers, after: Numbers,
    heap: IntArray, critical: IntArray, shown: IntArray, sums: IntArray, method: int,
    wanted: IntArray, ranks_tasks: bool,
) -> bool:  # fmt: skip
    """Plan in slot `s` what is not planned in slot `s0`; return False if a task can go nowhere.

    The choices stand in the slot. `order` to `sums`: see `Work`; `ranks_tasks`: write the ranks
    before. `wanted`: where GIVEN and FORCED put each task, in topological order; FORCED without
    asking.
    """
    p, w = unpack(layout), Work(order, ranks, after, heap, critical, shown, sums)
    if ranks_tasks:
        rank_tasks(s0, p, w)
    reset_slot(s, s0, p)
    for place in range(N_WORK_SUMS):
        w.sums[place] = 0
    in_order = method in (GIVEN, FORCED)
    critical_device = ABSENT if in_order else set_keys(s, p, w, method)
    count_max = SHOWN_MAX if method == MIN_MIN else 1
    if not in_order:
        for task in range(s[p.sums + N_TASKS]):
            is_new = s[of_task(p.tasks, task, HOME)] < 0
            if s[of_task(p.tasks, task, MISSING)] == 0 and is_new:
                push(w, task)
    while True:
        if in_order:
            show_next_given(s, p, w)
        else:
            show(w, count_max)
        if w.sums[N_SHOWN] == 0:
            if s[p.sums + N_GATED] > 0:
                release_known(s, p)
            return True
        at, device = 0, ABSENT
        if method == FORCED:
            device = wanted[w.shown[0]]
        else:
            at, device = best_shown(s, p, w, method, wanted, critical_device)
        if device < 0:
            return False
        task, chosen = w.shown[at], p.chosen + 2 * s[p.sums + N_CHOSEN]
        hide(w, at)
        s[chosen], s[chosen + 1] = task, device
        s[p.sums + N_CHOSEN] += 1
        run_ns = s[of_pair(p.pairs, p.n_devices, task, device, RUN_NS)]
        commit(s, p, s, chosen, chosen + 1, device, run_ns)
        push_readers(s, p, w, task)
