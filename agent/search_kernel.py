# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: search among complete plans, each priced by what the simulator would do.

`evaluate` gives the makespans of `dynpartition.sim`, to the ns, for graphs without reveals,
arrivals and memory and hosts that delay nothing: it lowers and runs a plan in one go and stops as
soon as the plan is surely worse than a limit. `search` changes plans task by task: simulated
annealing, which at temperature 0 is local search. All compiled code stands here, because numba
notices edits in this file only.

A plan is an order of tasks, a device for each, and a mark for those that join the launch of the
task before them; a mark that does not fit (another cell or device, an input in that launch) starts
a launch of its own, so every topological order is a legal plan.

Letters: N tasks, E edges, D devices, L links, K cells. Sets of resources are bits: those that
links hold, blocked devices among them. A transfer is a number: 2·(launch·D + destination), and one
more for the host inputs of a launch, which is also the order of those that are ready together.
"""

from __future__ import annotations

from math import log
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dynpartition.compiled import compiled, inlined
from dynpartition.types import IntArray

Numbers = npt.NDArray[np.float64]

NONE = -1
NEVER = 1 << 62
ILLEGAL = NEVER + 1
TOO_LONG = NEVER + 2
"""What `evaluate` returns for a plan that is surely worse than its limit."""

# Places in Walk.sums: the state of a search. SEED_A and SEED_B: of its random numbers.
(
    CURRENT_NS, BEST_NS, SEED_A, SEED_B, N_EVALUATED, N_CRITICAL, N_MOVED, SHIFT_FROM, SHIFT_TO,
) = range(9)  # fmt: skip
N_SUMS = 9
# Rows of Walk.plan and Walk.best (3, N): tasks in plan order; of each task, its device and whether
# it joins the launch before it.
ORDER, DEVICE, JOINED = range(3)
# Rows of Walk.moved (3, N): what a move changed: task, device and mark before.
TASK, OLD_DEVICE, OLD_JOINED = range(3)
GROUP_MAX = 16
"""Tasks that move to another device together, at most."""
CRITICAL_PERCENT = 50
"""How often a move begins with a task of a critical path."""


class Problem(NamedTuple):
    """A graph on a machine; what plans are priced by."""

    input_start: IntArray
    inputs: IntArray
    """(E,) with repeats: gathering is paid per edge."""
    reader_start: IntArray
    readers: IntArray
    cell_of: IntArray
    output_bytes: IntArray
    host_bytes: IntArray
    returns: IntArray
    run_ns: IntArray
    """(N, D) duration alone; NONE where a task cannot run."""
    gather_ns: IntArray
    """(N, D) what the output of a task adds to a reader elsewhere."""
    stage_ns: IntArray
    """(N, D) what remote readers add to a task."""
    feed_ns: IntArray
    """(N, D) transfer time of its host input."""
    feed_gather_ns: IntArray
    """(N, D) what gathering its host input adds."""
    moves: IntArray
    """(N, L) transfer time of its output."""
    above_ns: IntArray
    """(N,) how long the longest path before a task takes at least."""
    below_ns: IntArray
    """(N,) how long the longest path behind a task takes at least."""
    batch_ns: IntArray
    """(K, D, B) duration of a launch of b tasks, NONE where it is not allowed."""
    first_use_ns: IntArray
    """(K, D) what the first launch of a cell on a device takes longer."""
    link_of: IntArray
    """(D, D)"""
    cost: IntArray
    """(L, 2) latency and bandwidth of links, for what launches of several tasks send."""
    holds: IntArray
    """(L,) resources that a transfer holds."""
    device_bits: IntArray
    """(D,) the resource that a device is, 0 where no link blocks it."""
    peer_start: IntArray
    """(K + 1,) ranges of `peers`."""
    peers: IntArray
    """(N,) tasks by cell."""
    host: int
    handoff_ns: int
    has_batches: int
    has_first_uses: int


class Scratch(NamedTuple):
    """Work tables of one run; L launches ≤ N, T = 2·N·D transfers."""

    launch_of: IntArray
    sent: IntArray
    """(N,) devices that get the output, as bits."""
    staged: IntArray
    launches: IntArray
    """(N, 12)"""
    transfers: IntArray
    """(T, 5)"""
    waiting: IntArray
    """(E + N, 2) lists of launches that wait for a transfer: launch, next entry."""
    engines: IntArray
    """(D, 3)"""
    pending: IntArray
    """(T,) transfers that are ready, in the order of their queues."""
    active: IntArray
    """(64, 2) transfers under way: when each ends, number."""
    handed: IntArray
    """(T, 2) hand-offs under way: time, transfer."""
    used: IntArray
    """(K, D) whether a cell has been launched on a device."""


# Columns of launches. TAIL_NS: what its device runs afterwards. SENDS: destinations, as bits.
(
    HOME, HEAD, COUNT, LASTS_NS, MISSING, FOLLOWER, PREVIOUS, TAIL_NS, STARTED, SENDS, ANSWERS,
    IS_FED,
) = range(12)  # fmt: skip
N_LAUNCH_COLUMNS = 12
# Columns of transfers. ASKED_BY: the last launch that was found to wait for it.
LINK, MOVE_NS, BYTES, WAITERS, ASKED_BY = range(5)
N_TRANSFER_COLUMNS = 5
NEXT_UP, RUNNING, END_NS = range(3)  # columns of engines
N_ENGINE_COLUMNS = 3
ACTIVE_MAX = 64


class Walk(NamedTuple):
    """The state of a search: its plan, the best one it has seen, and what it needs to go on."""

    plan: IntArray
    best: IntArray
    position: IntArray
    """(N,) where each task stands in the order."""
    critical: IntArray
    """(N,) tasks on a critical path of the plan."""
    moved: IntArray
    load_ns: IntArray
    """(D,) how long the tasks of each device take one by one; right once the plan was priced."""
    sums: IntArray


# Lowering


@inlined
def lower(q: Problem, v: Scratch, plan: IntArray) -> int:
    """Write the launches and transfers of a plan; return how many launches, NONE if illegal."""
    n_tasks, n_devices = len(q.cell_of), len(q.device_bits)
    for device in range(n_devices):
        v.engines[device, NEXT_UP] = NONE
        v.engines[device, RUNNING] = NONE
        v.engines[device, END_NS] = NEVER
    for task in range(n_tasks):
        v.launch_of[task] = NONE
    if q.has_first_uses:
        v.used[:] = 0
    n_launches = n_waiting = 0
    for at in range(n_tasks):
        task = plan[ORDER, at]
        home = plan[DEVICE, task]
        if v.launch_of[task] >= 0 or q.run_ns[task, home] < 0:
            return NONE
        launch = n_launches - 1
        if plan[JOINED, task] == 0 or not may_join(q, v, task, home, launch):
            launch = n_launches
            n_launches += 1
            begin_launch(v, launch, task, home)
            v.launches[launch, LASTS_NS] = q.run_ns[task, home]
            if q.has_first_uses and v.used[q.cell_of[task], home] == 0:
                v.used[q.cell_of[task], home] = 1
                v.launches[launch, LASTS_NS] += q.first_use_ns[q.cell_of[task], home]
        else:
            count = v.launches[launch, COUNT]
            batch_ns = q.batch_ns[q.cell_of[task], home]
            v.launches[launch, LASTS_NS] += batch_ns[count + 1] - batch_ns[count]
            v.launches[launch, COUNT] = count + 1
        v.launch_of[task] = launch
        v.sent[task] = 0
        v.staged[task] = 0
        for entry in range(q.input_start[task], q.input_start[task + 1]):
            source = q.inputs[entry]
            maker = v.launch_of[source]
            if maker < 0:
                return NONE
            made_on = v.launches[maker, HOME]
            if made_on == home:
                continue
            if q.link_of[made_on, home] < 0:
                return NONE
            v.launches[launch, LASTS_NS] += q.gather_ns[source, home]
            if v.staged[source] == 0:
                v.staged[source] = 1
                v.launches[maker, LASTS_NS] += q.stage_ns[source, made_on]
            transfer = add_output(q, v, source, made_on, home)
            if v.transfers[transfer, ASKED_BY] != launch:
                v.transfers[transfer, ASKED_BY] = launch
                wait(v, launch, transfer, n_waiting)
                n_waiting += 1
        if home != q.host:
            if q.returns[task] != 0:
                if q.link_of[home, q.host] < 0:
                    return NONE
                add_output(q, v, task, home, q.host)
                v.launches[launch, ANSWERS] = 1
            if q.host_bytes[task] > 0:
                link = q.link_of[q.host, home]
                if link < 0:
                    return NONE
                transfer = 2 * (launch * n_devices + home) + 1
                v.launches[launch, LASTS_NS] += q.feed_gather_ns[task, home]
                is_new = v.launches[launch, IS_FED] == 0
                feed_ns = q.feed_ns[task, home]
                add_bytes(q, v, transfer, is_new, link, q.host_bytes[task], feed_ns)
                if is_new:
                    v.launches[launch, IS_FED] = 1
                    wait(v, launch, transfer, n_waiting)
                    n_waiting += 1
    for launch in range(n_launches - 1, -1, -1):
        device = v.launches[launch, HOME]
        behind = v.engines[device, NEXT_UP]
        v.launches[launch, FOLLOWER] = behind
        v.launches[launch, TAIL_NS] = 0
        v.launches[launch, PREVIOUS] = NONE
        if behind >= 0:
            v.launches[behind, PREVIOUS] = launch
            tail_ns = v.launches[behind, LASTS_NS] + v.launches[behind, TAIL_NS]
            v.launches[launch, TAIL_NS] = tail_ns
        v.engines[device, NEXT_UP] = launch
    return n_launches


@inlined
def may_join(q: Problem, v: Scratch, task: int, home: int, launch: int) -> bool:
    """Return whether a task can be one of the last launch."""
    if launch < 0 or v.launches[launch, HOME] != home:
        return False
    cell, count = q.cell_of[task], v.launches[launch, COUNT]
    if q.cell_of[v.launches[launch, HEAD]] != cell or count + 1 >= q.batch_ns.shape[2]:
        return False
    if q.batch_ns[cell, home, count + 1] < 0:
        return False
    for entry in range(q.input_start[task], q.input_start[task + 1]):
        if v.launch_of[q.inputs[entry]] == launch:
            return False
    return True


@inlined
def begin_launch(v: Scratch, launch: int, task: int, home: int) -> None:
    """Begin a launch with a task. Rows of its transfers are written when there is one."""
    v.launches[launch, HOME] = home
    v.launches[launch, HEAD] = task
    v.launches[launch, COUNT] = 1
    v.launches[launch, MISSING] = 0
    v.launches[launch, STARTED] = NONE
    v.launches[launch, SENDS] = 0
    v.launches[launch, ANSWERS] = 0
    v.launches[launch, IS_FED] = 0


@inlined
def add_output(q: Problem, v: Scratch, task: int, src: int, dst: int) -> int:
    """Let a transfer carry the output of a task, once; return its number."""
    launch = v.launch_of[task]
    transfer = 2 * (launch * len(q.device_bits) + dst)
    if v.sent[task] >> dst & 1 == 0:
        v.sent[task] |= 1 << dst
        link = q.link_of[src, dst]
        is_new = v.launches[launch, SENDS] >> dst & 1 == 0
        add_bytes(q, v, transfer, is_new, link, q.output_bytes[task], q.moves[task, link])
        v.launches[launch, SENDS] |= 1 << dst
    return transfer


@inlined
def add_bytes(
    q: Problem,
    v: Scratch,
    transfer: int,
    is_new: bool,
    link: int,
    size_bytes: int,
    move_ns: int,
) -> None:
    """Let a transfer carry more; `move_ns`: how long these bytes take alone."""
    if is_new:
        v.transfers[transfer, LINK] = link
        v.transfers[transfer, MOVE_NS] = move_ns
        v.transfers[transfer, BYTES] = size_bytes
        v.transfers[transfer, WAITERS] = NONE
        v.transfers[transfer, ASKED_BY] = NONE
    else:
        size_bytes += v.transfers[transfer, BYTES]
        bandwidth = q.cost[link, 1]
        move_ns = q.cost[link, 0] + (size_bytes * 1_000_000_000 + bandwidth - 1) // bandwidth
        v.transfers[transfer, BYTES] = size_bytes
        v.transfers[transfer, MOVE_NS] = move_ns


@inlined
def wait(v: Scratch, launch: int, transfer: int, entry: int) -> None:
    """Let a launch wait for a transfer."""
    v.waiting[entry, 0] = launch
    v.waiting[entry, 1] = v.transfers[transfer, WAITERS]
    v.transfers[transfer, WAITERS] = entry
    v.launches[launch, MISSING] += 1


# Running


@inlined
def evaluate(q: Problem, v: Scratch, plan: IntArray, limit_ns: int) -> int:
    """Return the makespan of a plan; TOO_LONG if it surely passes a limit, ILLEGAL if it is that.

    As `sim.kernel.run_plain_world` does: at each instant completions, transfers, launches.
    """
    n_launches = lower(q, v, plan)
    if n_launches < 0:
        return ILLEGAL
    n_devices = len(q.device_bits)
    now_ns = last_ns = 0
    busy = n_pending = n_active = handed = hand_over = 0
    for launch in range(n_launches):  # host inputs, in the order of their numbers
        if v.launches[launch, IS_FED] != 0:
            v.pending[n_pending] = 2 * (launch * n_devices + v.launches[launch, HOME]) + 1
            n_pending += 1
    touched = True
    n_recent = n_pending  # those at the end that became ready at this instant
    while True:
        if touched and n_pending > 0:
            # A transfer starts if no earlier one needs any of its resources and all are idle.
            taken, kept, recent_from = busy, 0, n_pending - n_recent
            for at in range(n_pending):
                transfer = v.pending[at]
                held = q.holds[v.transfers[transfer, LINK]]
                if held & taken == 0:
                    busy |= held
                    v.active[n_active, 0] = now_ns + v.transfers[transfer, MOVE_NS]
                    v.active[n_active, 1] = transfer
                    n_active += 1
                    n_recent -= at >= recent_from
                else:
                    v.pending[kept] = transfer
                    kept += 1
                taken |= held
            n_pending = kept
        touched = False
        next_ns = NEVER
        for device in range(n_devices):
            launch = v.engines[device, NEXT_UP]
            if (
                launch >= 0
                and v.engines[device, RUNNING] < 0
                and v.launches[launch, MISSING] == 0
                and q.device_bits[device] & busy == 0
            ):
                end_ns = now_ns + v.launches[launch, LASTS_NS]
                below_ns = max(q.below_ns[v.launches[launch, HEAD]], v.launches[launch, TAIL_NS])
                if end_ns + below_ns > limit_ns:
                    return TOO_LONG
                busy |= q.device_bits[device]
                v.launches[launch, STARTED] = now_ns
                v.engines[device, RUNNING] = launch
                v.engines[device, END_NS] = end_ns
            next_ns = min(next_ns, v.engines[device, END_NS])
        for at in range(n_active):
            next_ns = min(next_ns, v.active[at, 0])
        if handed < hand_over:
            next_ns = min(next_ns, v.handed[handed, 0])
        if next_ns == NEVER:
            return last_ns
        if next_ns != now_ns:
            n_recent = 0
        now_ns = next_ns
        for device in range(n_devices):
            if v.engines[device, END_NS] == now_ns:
                launch = v.engines[device, RUNNING]
                v.engines[device, RUNNING] = NONE
                v.engines[device, END_NS] = NEVER
                v.engines[device, NEXT_UP] = v.launches[launch, FOLLOWER]
                busy &= ~q.device_bits[device]
                touched = True
                last_ns = now_ns
                sends, dst = v.launches[launch, SENDS], 0
                while sends != 0:
                    if sends & 1 != 0:
                        transfer = 2 * (launch * n_devices + dst)
                        at = n_pending
                        # Among those of this instant the smaller number goes first.
                        while at > n_pending - n_recent and v.pending[at - 1] > transfer:
                            v.pending[at] = v.pending[at - 1]
                            at -= 1
                        v.pending[at] = transfer
                        n_pending += 1
                        n_recent += 1
                    sends >>= 1
                    dst += 1
        at = 0
        while at < n_active:
            if v.active[at, 0] > now_ns:
                at += 1
                continue
            transfer = v.active[at, 1]
            n_active -= 1
            v.active[at, 0], v.active[at, 1] = v.active[n_active, 0], v.active[n_active, 1]
            busy &= ~q.holds[v.transfers[transfer, LINK]]
            touched = True
            launch, to_host = transfer // 2 // n_devices, transfer // 2 % n_devices == q.host
            if transfer & 1 == 0 and to_host and v.launches[launch, ANSWERS] != 0:
                last_ns = now_ns
            if transfer & 1 == 0 and q.handoff_ns > 0:
                v.handed[hand_over, 0], v.handed[hand_over, 1] = now_ns + q.handoff_ns, transfer
                hand_over += 1
            else:
                deliver(v, transfer)
        while handed < hand_over and v.handed[handed, 0] <= now_ns:
            deliver(v, v.handed[handed, 1])
            handed += 1


@inlined
def deliver(v: Scratch, transfer: int) -> None:
    """Hand over what a transfer carried to the launches that wait for it."""
    entry = v.transfers[transfer, WAITERS]
    while entry >= 0:
        v.launches[v.waiting[entry, 0], MISSING] -= 1
        entry = v.waiting[entry, 1]


@compiled
def evaluate_plans(
    q: Problem, v: Scratch, plans: IntArray, makespan_ns: IntArray, limit_ns: int, falls: bool
) -> None:
    """Write the makespan of each of `plans` (B, 3, N), ILLEGAL or TOO_LONG.

    `falls`: what was found for a plan is the limit of those after it.
    """
    for number in range(len(plans)):
        makespan_ns[number] = evaluate(q, v, plans[number], limit_ns)
        if falls:
            limit_ns = min(limit_ns, makespan_ns[number])


@compiled
def keep_marks(q: Problem, v: Scratch, plan: IntArray) -> bool:
    """Take out the marks that do not fit; return whether the plan is legal."""
    if lower(q, v, plan) < 0:
        return False
    for task in range(len(q.cell_of)):
        if v.launches[v.launch_of[task], HEAD] == task:
            plan[JOINED, task] = 0
    return True


# Random numbers: L'Ecuyer 1988, two generators of 31 bits combined; exact without overflow


@inlined
def draw(w: Walk, below: int) -> int:
    """Return 0…below-1."""
    w.sums[SEED_A] = 40014 * w.sums[SEED_A] % 2147483563
    w.sums[SEED_B] = 40692 * w.sums[SEED_B] % 2147483399
    number = (w.sums[SEED_A] - w.sums[SEED_B]) % 2147483562
    return number * below // 2147483562


# Moves


@inlined
def shift(w: Walk, start: int, stop: int) -> None:
    """Move what stands at `start` in the order to `stop`; what lies between makes room."""
    task, step = w.plan[ORDER, start], 1 if stop > start else -1
    for at in range(start, stop, step):
        other = w.plan[ORDER, at + step]
        w.plan[ORDER, at] = other
        w.position[other] = at
    w.plan[ORDER, stop] = task
    w.position[task] = stop


@inlined
def first_place(q: Problem, w: Walk, task: int) -> int:
    """Return the first place in the order where a task may stand."""
    first = 0
    for at in range(q.input_start[task], q.input_start[task + 1]):
        first = max(first, w.position[q.inputs[at]] + 1)
    return first


@inlined
def last_place(q: Problem, w: Walk, task: int) -> int:
    """Return the last place in the order where a task may stand."""
    last = len(w.position) - 1
    for at in range(q.reader_start[task], q.reader_start[task + 1]):
        last = min(last, w.position[q.readers[at]] - 1)
    return last


@inlined
def change(q: Problem, w: Walk, task: int, device: int, joined: int) -> None:
    """Change a task's device and mark, and remember what they were."""
    count = w.sums[N_MOVED]
    w.moved[TASK, count] = task
    w.moved[OLD_DEVICE, count] = w.plan[DEVICE, task]
    w.moved[OLD_JOINED, count] = w.plan[JOINED, task]
    w.sums[N_MOVED] = count + 1
    carry_over(q, w, task, device)
    w.plan[JOINED, task] = joined


@inlined
def carry_over(q: Problem, w: Walk, task: int, device: int) -> None:
    """Put a task on another device."""
    w.load_ns[w.plan[DEVICE, task]] -= q.run_ns[task, w.plan[DEVICE, task]]
    w.load_ns[device] += q.run_ns[task, device]
    w.plan[DEVICE, task] = device


@inlined
def take_back(q: Problem, w: Walk) -> None:
    """Undo the last move."""
    if w.sums[SHIFT_FROM] != w.sums[SHIFT_TO]:
        shift(w, w.sums[SHIFT_TO], w.sums[SHIFT_FROM])
    for at in range(w.sums[N_MOVED] - 1, -1, -1):
        task = w.moved[TASK, at]
        carry_over(q, w, task, w.moved[OLD_DEVICE, at])
        w.plan[JOINED, task] = w.moved[OLD_JOINED, at]


@inlined
def another_device(q: Problem, w: Walk, task: int) -> int:
    """Return another device that can run a task, or its own where the dice found none."""
    n_devices, own = len(q.device_bits), w.plan[DEVICE, task]
    if n_devices == 1:
        return own
    device = draw(w, n_devices - 1)
    device += device >= own
    return device if q.run_ns[task, device] >= 0 else own


@inlined
def propose(q: Problem, w: Walk) -> bool:
    """Change the plan by one random move; return False if it has stayed the same."""
    n_tasks = len(w.position)
    w.sums[N_MOVED] = 0
    w.sums[SHIFT_FROM] = w.sums[SHIFT_TO] = 0
    if w.sums[N_CRITICAL] > 0 and draw(w, 100) < CRITICAL_PERCENT:
        task = w.critical[draw(w, w.sums[N_CRITICAL])]
    else:
        task = draw(w, n_tasks)
    kind = draw(w, 100)
    goes_to = NONE
    if q.has_batches != 0 and kind < 25:
        goes_to = join_peer(q, w, task)
    elif kind < 55:
        device = another_device(q, w, task)
        if device != w.plan[DEVICE, task]:
            change(q, w, task, device, 0)
        if draw(w, 2) == 0:
            goes_to = random_place(q, w, task)
    elif kind < 80:
        if w.plan[JOINED, task] != 0:
            change(q, w, task, w.plan[DEVICE, task], 0)
        goes_to = earlier_on_device(q, w, task) if draw(w, 2) == 0 else random_place(q, w, task)
    elif kind < 95:
        move_group(q, w, task)
    else:
        other = draw(w, n_tasks)
        a, b = w.plan[DEVICE, task], w.plan[DEVICE, other]
        if a != b and q.run_ns[task, b] >= 0 and q.run_ns[other, a] >= 0:
            change(q, w, task, b, 0)
            change(q, w, other, a, 0)
    start = w.position[task]
    if goes_to >= 0 and goes_to != start:
        shift(w, start, goes_to)
        w.sums[SHIFT_FROM], w.sums[SHIFT_TO] = start, goes_to
    return w.sums[N_MOVED] > 0 or w.sums[SHIFT_FROM] != w.sums[SHIFT_TO]


@inlined
def random_place(q: Problem, w: Walk, task: int) -> int:
    """Return any place where a task may stand."""
    first, last = first_place(q, w, task), last_place(q, w, task)
    return first + draw(w, last - first + 1)


@inlined
def earlier_on_device(q: Problem, w: Walk, task: int) -> int:
    """Return the place of the task before it on its device, if it may stand there; else NONE."""
    home = w.plan[DEVICE, task]
    for at in range(w.position[task] - 1, first_place(q, w, task) - 1, -1):
        if w.plan[DEVICE, w.plan[ORDER, at]] == home:
            return at
    return NONE


@inlined
def join_peer(q: Problem, w: Walk, task: int) -> int:
    """Let a task join the launch of another one of its cell, or leave its own; return its place."""
    if w.plan[JOINED, task] != 0 and draw(w, 3) == 0:
        change(q, w, task, w.plan[DEVICE, task], 0)
        return NONE
    cell = q.cell_of[task]
    first = q.peer_start[cell]
    other = q.peers[first + draw(w, q.peer_start[cell + 1] - first)]
    device, start = w.plan[DEVICE, other], w.position[task]
    if other == task or q.run_ns[task, device] < 0:
        return NONE
    # Behind the other one, which moves up where the task stands before it.
    place = w.position[other] + (w.position[other] < start)
    if place < first_place(q, w, task) or place > last_place(q, w, task):
        return NONE
    change(q, w, task, device, 1)
    return place


@inlined
def move_group(q: Problem, w: Walk, task: int) -> None:
    """Move a task with some that it is connected with on its device: sub-trees and chains."""
    home, device = w.plan[DEVICE, task], another_device(q, w, task)
    if device == home:
        return
    size, ways = 2 + draw(w, GROUP_MAX - 1), draw(w, 3)
    change(q, w, task, device, 0)
    at = 0
    while at < w.sums[N_MOVED]:
        member = w.moved[TASK, at]
        if ways != 1:
            for place in range(q.input_start[member], q.input_start[member + 1]):
                add_to_group(q, w, q.inputs[place], home, device, size)
        if ways != 0:
            for place in range(q.reader_start[member], q.reader_start[member + 1]):
                add_to_group(q, w, q.readers[place], home, device, size)
        at += 1


@inlined
def add_to_group(q: Problem, w: Walk, task: int, home: int, device: int, size: int) -> None:
    """Move a task as well, if it is on the group's device and the group is not full."""
    is_there = w.plan[DEVICE, task] == home and q.run_ns[task, device] >= 0
    if is_there and w.sums[N_MOVED] < size:
        change(q, w, task, device, 0)


@compiled
def propose_one(q: Problem, w: Walk) -> bool:
    """Change the plan by one random move; return False if it has stayed the same."""
    return propose(q, w)


@compiled
def undo(q: Problem, w: Walk) -> None:
    """Undo the last move."""
    take_back(q, w)


# Searching


@inlined
def sum_loads(q: Problem, w: Walk) -> None:
    """Write how long the tasks of each device take one by one."""
    for device in range(len(w.load_ns)):
        w.load_ns[device] = 0
    for task in range(len(w.position)):
        w.load_ns[w.plan[DEVICE, task]] += q.run_ns[task, w.plan[DEVICE, task]]


@inlined
def is_hopeless(q: Problem, w: Walk, limit_ns: int) -> bool:
    """Return whether a plan surely passes a limit, by two bounds that cost next to nothing.

    No device ends before its tasks could have run one by one, and no path of tasks through one that
    was moved. Batches could make both shorter.
    """
    if q.has_batches != 0:
        return False
    for device in range(len(w.load_ns)):
        if w.load_ns[device] > limit_ns:
            return True
    for at in range(w.sums[N_MOVED]):
        task = w.moved[TASK, at]
        path_ns = q.above_ns[task] + q.run_ns[task, w.plan[DEVICE, task]] + q.below_ns[task]
        if path_ns > limit_ns:
            return True
    return False


@inlined
def note_critical(q: Problem, v: Scratch, w: Walk) -> None:
    """Write the tasks of one path that ends last, as the run of the plan has just left them."""
    n_tasks, count = len(w.position), 0
    task, latest_ns = NONE, NONE
    for other in range(n_tasks):
        launch = v.launch_of[other]
        end_ns = v.launches[launch, STARTED] + v.launches[launch, LASTS_NS]
        if end_ns > latest_ns:
            task, latest_ns = other, end_ns
    while task >= 0 and count < n_tasks:
        w.critical[count] = task
        count += 1
        launch = v.launch_of[task]
        start_ns, before = v.launches[launch, STARTED], v.launches[launch, PREVIOUS]
        task = NONE
        if before >= 0:
            end_ns = v.launches[before, STARTED] + v.launches[before, LASTS_NS]
            if end_ns == start_ns:
                task = v.launches[before, HEAD]
        if task < 0:
            latest_ns, head = NONE, v.launches[launch, HEAD]
            for at in range(q.input_start[head], q.input_start[head + 1]):
                maker = v.launch_of[q.inputs[at]]
                end_ns = v.launches[maker, STARTED] + v.launches[maker, LASTS_NS]
                if v.launches[maker, HOME] != v.launches[launch, HOME]:
                    number = maker * len(q.device_bits) + v.launches[launch, HOME]
                    end_ns += v.transfers[2 * number, MOVE_NS]
                if end_ns > latest_ns:
                    task, latest_ns = q.inputs[at], end_ns
    w.sums[N_CRITICAL] = count


@compiled
def search(
    q: Problem, v: Scratch, w: Walk, n_evaluations: int, hot_ns: float, cooling: float
) -> None:
    """Go on with a search for some evaluations.

    A new plan is taken if it is no slower than the current one by more than T·ln(1/u), u uniform:
    Metropolis et al. 1953. T begins at `hot_ns` and is multiplied with `cooling` each time; 0 is
    local search, which also walks over plans that are equally fast. A walk whose CURRENT_NS is
    NEVER begins by pricing its plan.
    """
    temperature_ns = hot_ns
    for _ in range(n_evaluations):
        is_new = w.sums[CURRENT_NS] == NEVER
        limit_ns = NEVER
        if is_new:
            sum_loads(q, w)
        else:
            if not propose(q, w):
                take_back(q, w)
                w.sums[N_EVALUATED] += 1
                continue
            limit_ns = w.sums[CURRENT_NS]
            if temperature_ns > 0:
                chance = (1 + draw(w, 1 << 30)) / (1 << 30)
                limit_ns += int(-temperature_ns * log(chance))
                temperature_ns *= cooling
        value_ns = TOO_LONG  # a plan need not be priced to be given up
        if not is_hopeless(q, w, limit_ns):
            value_ns = evaluate(q, v, w.plan, limit_ns)
        w.sums[N_EVALUATED] += 1
        if value_ns <= limit_ns:
            if value_ns != w.sums[CURRENT_NS] or draw(w, 4) == 0:
                note_critical(q, v, w)
            w.sums[CURRENT_NS] = value_ns
            if value_ns < w.sums[BEST_NS]:
                w.sums[BEST_NS] = value_ns
                for row in range(3):
                    for at in range(len(w.position)):
                        w.best[row, at] = w.plan[row, at]
        elif not is_new:
            take_back(q, w)
