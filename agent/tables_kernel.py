# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: from the arrays of a graph to the slots in which its plans grow.

What `agent.tables` does in Python for environments, but for what only observations read.
Letters as in `estimate_kernel`; E edges.
"""

from __future__ import annotations

from typing import NamedTuple

from dynpartition.agent.estimate_kernel import (
    ABSENT,
    BEST_NS,
    CELL,
    CHECKED,
    COPY_IN_NS,
    COPY_OUT_NS,
    GATES,
    GATES_END,
    H_NS,
    HAS_HOST_INPUT,
    HOME,
    HOST_COPY_NS,
    INPUTS,
    INPUTS_END,
    LEGAL,
    MISSING,
    N_CELLS,
    N_DEVICE_COLUMNS,
    N_FIRST,
    N_GATED,
    N_PAIR_ROWS,
    N_REFUGES,
    N_SUMS,
    N_TASK_COLUMNS,
    N_TASKS,
    NEVER,
    READERS,
    READERS_END,
    READY_NS,
    RELEASE_NS,
    RETURNS,
    RUN_NS,
    SEEN,
    STAGES_IN,
    STAGES_OUT,
    THERE_NS,
    WORK_LEFT_NS,
    Places,
    link_between,
    of_machine,
    of_pair,
    of_task,
)
from dynpartition.compiled import compiled, inlined
from dynpartition.types import IntArray

LONGEST_NS = float(1 << 61)
"""Sums of durations up to which int64 is surely enough."""
SIZES_KEPT = 8
"""Sizes of outputs whose costs are copied and not computed again."""
DONE, OVERFLOW, UNPRICED = range(3)
"""What became of it. UNPRICED: a task runs nowhere."""


class Costs(NamedTuple):
    """What a machine's links and staging cost, and the cells of a graph on it."""

    head: IntArray
    """What every slot of the machine begins with."""
    links: IntArray
    """(L, 2) latency and bandwidth; bandwidth 0: times come from outside."""
    staging: IntArray
    """(2, D, 2) latency and bandwidth of gathering and of staging."""
    run_ns: IntArray
    """(K, D) duration of one task, bookkeeping included; ABSENT where it cannot run."""
    h_ns: IntArray
    """(K, D)"""
    first_ns: IntArray
    """(K, D) what the first launch takes longer."""
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


@inlined
def formula_ns(latency_ns: int, bandwidth: int, size_bytes: int) -> int:
    """Return latency + (bytes·10⁹ + bandwidth − 1) // bandwidth; see `costs.transfer_ns`."""
    return latency_ns + (size_bytes * 1_000_000_000 + bandwidth - 1) // bandwidth


@compiled
def fill(
    s: IntArray, other: IntArray, p: Places, c: Costs, g: Given, order: IntArray,
    given_order: IntArray, scratch: IntArray,
) -> int:  # fmt: skip
    """Begin with a graph of which nothing is placed, in two slots.

    `order`: (N,) gets the tasks, inputs first, the smallest number first among equals; it is
    `given_order` where that is not empty. `scratch`: (max(N, SIZES_KEPT),). Returns DONE,
    UNPRICED, or OVERFLOW: times may pass what int64 holds.
    """
    n, n_devices, n_links = len(g.cell_of), p.n_devices, p.n_links
    for at in range(len(c.head)):
        s[at] = c.head[at]
    in_order = list_edges(s, p, g)
    n_rows = list_gates(s, p, g)
    bound, work_ns, n_kept = 0.0, 0, 0
    for t in range(n):
        row, least, longest, able = p.tasks + N_TASK_COLUMNS * t, NEVER, 0, False
        known = ABSENT
        for at in range(min(n_kept, SIZES_KEPT)):
            if g.output_bytes[scratch[at]] == g.output_bytes[t]:
                known = scratch[at]
        pair = of_pair(p.pairs, n_devices, t, 0, 0)
        if known >= 0:
            same = of_pair(p.pairs, n_devices, known, 0, 0)
            for at in range(n_devices * COPY_IN_NS, n_devices * HOST_COPY_NS):
                s[pair + at] = s[same + at]
            for link in range(n_links):
                s[p.moves + n_links * t + link] = s[p.moves + n_links * known + link]
        else:
            price_output(s, p, c, g, t)
            scratch[n_kept % SIZES_KEPT] = t
            n_kept += 1
        for device in range(n_devices):
            run_ns = c.run_ns[g.cell_of[t], device]
            if len(g.own_ns) > 0 and g.own_ns[t, device] >= 0:
                run_ns = g.own_ns[t, device]
            if run_ns >= 0:
                least, able = min(least, run_ns), True
            h_ns = c.h_ns[g.cell_of[t], device]
            feed_ns = 0
            if g.host_bytes[t] > 0:
                link = link_between(s, p, p.host, device)
                if link >= 0:
                    feed_ns = (
                        g.fed[t, link]
                        if len(g.fed) > 0
                        else formula_ns(c.links[link, 0], c.links[link, 1], g.host_bytes[t])
                    )
            at = pair + device
            s[at + n_devices * RUN_NS], s[at + n_devices * H_NS] = run_ns, h_ns
            s[at + n_devices * THERE_NS] = s[at + n_devices * READY_NS] = ABSENT
            s[at + n_devices * LEGAL] = 0
            s[at + n_devices * HOST_COPY_NS] = feed_ns
            longest = max(longest, run_ns + h_ns + c.first_ns[g.cell_of[t], device], feed_ns)
            bound += float(s[at + n_devices * COPY_IN_NS] + s[at + n_devices * COPY_OUT_NS])
        if not able:
            return UNPRICED
        bound += float(longest) + float(g.arrival_ns[t])
        for link in range(n_links):
            bound += float(s[p.moves + n_links * t + link] + p.handoff_ns + p.h_copy_ns)
        s[row + CELL] = g.cell_of[t]
        s[row + HAS_HOST_INPUT], s[row + RETURNS] = g.host_bytes[t] > 0, g.returns[t]
        s[row + BEST_NS], s[row + RELEASE_NS] = least, g.arrival_ns[t]
        s[row + HOME] = s[row + SEEN] = s[row + CHECKED] = ABSENT
        work_ns += least
    begin_sums(s, p, c, g, work_ns)
    if len(given_order) > 0 or in_order:
        for t in range(n):
            order[t] = given_order[t] if len(given_order) > 0 else t
    else:
        sort_tasks(s, p, n, order, scratch)
    copy_tables(s, other, p, c, n, n_rows)
    return OVERFLOW if bound >= LONGEST_NS else DONE


@inlined
def list_edges(s: IntArray, p: Places, g: Given) -> bool:
    """Write inputs without repeats, and readers; return whether all inputs have smaller numbers."""
    n, n_rows, in_order = len(g.cell_of), 0, True
    for t in range(n):
        row = p.tasks + N_TASK_COLUMNS * t
        for column in range(N_TASK_COLUMNS):
            s[row + column] = 0
    for t in range(n):
        row = p.tasks + N_TASK_COLUMNS * t
        first = n_rows
        for at in range(g.input_start[t], g.input_start[t + 1]):
            source, known = g.inputs[at], False
            for before in range(first, n_rows):
                known = known or s[p.rows + before] == source
            if not known:
                s[p.rows + n_rows] = source
                n_rows += 1
                s[of_task(p.tasks, source, READERS_END)] += 1
                in_order = in_order and source < t
        s[row + INPUTS], s[row + INPUTS_END] = first, n_rows
        s[row + MISSING] = n_rows - first
    for t in range(n):  # READERS_END grows to the end as readers are written
        row = p.tasks + N_TASK_COLUMNS * t
        count = s[row + READERS_END]
        s[row + READERS] = s[row + READERS_END] = n_rows
        n_rows += count
    for t in range(n):
        row = p.tasks + N_TASK_COLUMNS * t
        for at in range(s[row + INPUTS], s[row + INPUTS_END]):
            end = of_task(p.tasks, s[p.rows + at], READERS_END)
            s[p.rows + s[end]] = t
            s[end] += 1
    return in_order


@inlined
def list_gates(s: IntArray, p: Places, g: Given) -> int:
    """Write the revealers of tasks; return where the rows end."""
    n = len(g.cell_of)
    n_rows = 2 * s[of_task(p.tasks, n - 1, INPUTS_END)]  # inputs, and as many readers
    if len(g.gate_start) > 0:
        for t in range(n):
            s[of_task(p.tasks, t, GATES)] = n_rows
            for at in range(g.gate_start[t], g.gate_start[t + 1]):
                s[p.rows + n_rows] = g.gates[at]
                n_rows += 1
            s[of_task(p.tasks, t, GATES_END)] = n_rows
    return n_rows


@inlined
def price_output(s: IntArray, p: Places, c: Costs, g: Given, t: int) -> None:
    """Write what moving, gathering and staging the output of a task takes."""
    n_devices, size_bytes = p.n_devices, g.output_bytes[t]
    pair = of_pair(p.pairs, n_devices, t, 0, 0)
    for device in range(n_devices):
        for way in range(2):
            row = COPY_IN_NS if way == 0 else COPY_OUT_NS
            column = STAGES_IN if way == 0 else STAGES_OUT
            ns = 0
            if s[of_machine(p.machine, device, column)] != 0:
                ns = formula_ns(c.staging[way, device, 0], c.staging[way, device, 1], size_bytes)
            s[pair + n_devices * row + device] = ns
    for link in range(p.n_links):
        s[p.moves + p.n_links * t + link] = (
            g.priced[t, link]
            if len(g.priced) > 0
            else formula_ns(c.links[link, 0], c.links[link, 1], size_bytes)
        )


@inlined
def begin_sums(s: IntArray, p: Places, c: Costs, g: Given, work_ns: int) -> None:
    """Write what counts for the whole graph: cells, refuges, sums, empty devices and resources."""
    n, n_devices = len(g.cell_of), p.n_devices
    for at in range(N_SUMS):
        s[p.sums + at] = 0
    for cell in range(len(c.first_ns)):
        for device in range(n_devices):
            first_ns = c.first_ns[cell, device]
            s[p.first_ns + n_devices * cell + device] = first_ns
            s[p.sums + N_FIRST] += first_ns > 0
    for refuge in range(len(c.refuges)):
        for device in range(n_devices):
            s[p.refuges + n_devices * refuge + device] = c.refuges[refuge, device]
    s[p.sums + N_TASKS], s[p.sums + WORK_LEFT_NS] = n, work_ns
    s[p.sums + N_CELLS], s[p.sums + N_REFUGES] = len(c.first_ns), len(c.refuges)
    if len(g.gate_start) > 0:
        for t in range(n):
            s[p.sums + N_GATED] += g.gate_start[t + 1] > g.gate_start[t]
    for at in range(N_DEVICE_COLUMNS * n_devices):
        s[p.devices + at] = 0
    for resource in range(p.busy - p.n_busy):
        s[p.n_busy + resource] = 0


@inlined
def sort_tasks(s: IntArray, p: Places, n: int, order: IntArray, heap: IntArray) -> None:
    """Write the tasks, inputs first, the smallest number first among equals."""
    size = n_ordered = 0
    for t in range(n):  # ascending numbers are a heap
        if s[of_task(p.tasks, t, MISSING)] == 0:
            heap[size] = t
            size += 1
    while size > 0:
        task, size = heap[0], size - 1
        last, at = heap[size], 0
        while 2 * at + 1 < size:
            child = 2 * at + 1
            if child + 1 < size and heap[child + 1] < heap[child]:
                child += 1
            if last <= heap[child]:
                break
            heap[at] = heap[child]
            at = child
        heap[at] = last
        order[n_ordered] = task
        n_ordered += 1
        for place in range(
            s[of_task(p.tasks, task, READERS)], s[of_task(p.tasks, task, READERS_END)]
        ):
            reader = s[p.rows + place]
            s[of_task(p.tasks, reader, MISSING)] -= 1
            if s[of_task(p.tasks, reader, MISSING)] == 0:
                at = size
                size += 1
                while at > 0 and reader < heap[(at - 1) // 2]:
                    heap[at] = heap[(at - 1) // 2]
                    at = (at - 1) // 2
                heap[at] = reader
    for t in range(n):
        row = p.tasks + N_TASK_COLUMNS * t
        s[row + MISSING] = s[row + INPUTS_END] - s[row + INPUTS]


@inlined
def copy_tables(s: IntArray, other: IntArray, p: Places, c: Costs, n: int, n_rows: int) -> None:
    """Write into another slot what no plan changes."""
    for at in range(len(c.head)):
        other[at] = s[at]
    for at in range(p.tasks, p.tasks + N_TASK_COLUMNS * n):
        other[at] = s[at]
    for at in range(p.pairs, p.pairs + N_PAIR_ROWS * p.n_devices * n):
        other[at] = s[at]
    for at in range(p.moves, p.moves + p.n_links * n):
        other[at] = s[at]
    for at in range(p.rows, p.rows + n_rows):
        other[at] = s[at]
    for at in range(p.refuges, p.refuges + p.n_devices * len(c.refuges)):
        other[at] = s[at]
    for at in range(p.first_ns, p.first_ns + p.n_devices * len(c.first_ns)):
        other[at] = s[at]
