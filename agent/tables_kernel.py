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
    LAST_USE,
    LEGAL,
    LIMIT_BYTES,
    LOAD_NS,
    LOADS,
    MISSING,
    N_CELLS,
    N_DEVICE_COLUMNS,
    N_FIRST,
    N_GATED,
    N_LOADING,
    N_MEMORY_COLUMNS,
    N_PAIR_ROWS,
    N_REFUGES,
    N_SUMS,
    N_TASK_COLUMNS,
    N_TASKS,
    N_WEIGHT_ROWS,
    NEVER,
    READERS,
    READERS_END,
    READY_NS,
    RELEASE_NS,
    RETURNS,
    RUN_NS,
    SEEN,
    SIZE_BYTES,
    SPAN,
    STAGES_IN,
    STAGES_OUT,
    THERE_NS,
    WORK_LEFT_NS,
    Places,
    link_between,
    of_machine,
    of_memory,
    of_pair,
    of_task,
    of_weights,
    unpack,
)
from dynpartition.compiled import compiled, inlined
from dynpartition.types import IntArray

LONGEST_NS = float(1 << 61)
"""Sums of durations up to which int64 is surely enough."""
SIZES_KEPT = 8
"""Sizes of outputs whose costs are copied and not computed again."""
BYTES_MAX = (1 << 62) // 10**9
"""So many bytes and more are priced by Python."""
BARRED = -2
DONE, OVERFLOW, UNPRICED, HIDES, LARGE = range(5)
"""What became of it. UNPRICED: a task runs nowhere."""


class Costs(NamedTuple):
    """Where costs lie in one array, which begins with what every slot of the machine begins with.

    L links, D devices, K cells.
    """

    links: int
    """(L, 2) latency and bandwidth; bandwidth 0: times come from outside."""
    staging: int
    """(2, D, 2) latency and bandwidth of gathering and of staging."""
    run_ns: int
    """(K, D) duration of one task, bookkeeping included; ABSENT where it cannot run."""
    h_ns: int
    """(K, D)"""
    first_ns: int
    """(K, D) what the first launch takes longer."""
    weights: int
    """(K, 2, D), then (K, 2) and (D, 3), as `estimate_kernel.Places` has them; where devices track
    weights."""
    n_cells: int


class Given(NamedTuple):
    """A graph as it comes, and what only Python can price."""

    cell_of: IntArray
    input_start: IntArray
    inputs: IntArray
    output_bytes: IntArray
    host_bytes: IntArray
    returns: IntArray
    arrival_ns: IntArray
    revealed_by: IntArray
    own_ns: IntArray
    """(N, D) or (0, D): durations of tasks' own, ABSENT where the cell's hold, BARRED where a task
    cannot run whatever they are."""
    priced: IntArray
    """(N, L + 2 D) or (0, 0): times of transfers, gathering and staging where a link has no formula
    or bytes are too many."""
    fed: IntArray
    """The same of host inputs."""
    gate_start: IntArray
    """(N + 1,) or (0,) ranges of `gates`."""
    gates: IntArray


@inlined
def formula_ns(costs: IntArray, at: int, size_bytes: int) -> int:
    """Return latency + (bytes·10⁹ + bandwidth − 1) // bandwidth; see `costs.transfer_ns`."""
    latency_ns, bandwidth = costs[at], costs[at + 1]
    return latency_ns + (size_bytes * 1_000_000_000 + bandwidth - 1) // bandwidth


@inlined
def costs_of(costs: IntArray, layout: IntArray) -> Costs:
    """Return where costs lie in an array."""
    p = unpack(layout)
    links = p.tasks
    staging = links + 2 * p.n_links
    run_ns = staging + 4 * p.n_devices
    n_fixed, n_per_cell = 0, 3 * p.n_devices
    if p.tracks != 0:
        n_fixed, n_per_cell = N_MEMORY_COLUMNS * p.n_devices, (3 + N_WEIGHT_ROWS) * p.n_devices + 2
    n_cells = (len(costs) - run_ns - n_fixed) // n_per_cell
    size = n_cells * p.n_devices
    return Costs(
        links, staging, run_ns, run_ns + size, run_ns + 2 * size, run_ns + 3 * size, n_cells
    )


@compiled
def fill(
    s: IntArray, other: IntArray, layout: IntArray, costs: IntArray, refuges: IntArray,
    cell_of: IntArray, input_start: IntArray, inputs: IntArray, output_bytes: IntArray,
    host_bytes: IntArray, returns: IntArray, arrival_ns: IntArray, revealed_by: IntArray,
    own_ns: IntArray, priced: IntArray, fed: IntArray, gate_start: IntArray, gates: IntArray,
    order: IntArray, given_order: IntArray, scratch: IntArray,
) -> int:  # fmt: skip
    """Begin with a graph of which nothing is placed, in two slots.

    `costs`: see `Costs`; `cell_of` to `gates`: see `Given`. `refuges`: (n, D), see
    `agent.legality`. `order`: (N,) gets the tasks, inputs first, the smallest number first among
    equals; it is `given_order` where that is not empty. `scratch`: (max(N, SIZES_KEPT),).

    Returns DONE, or what is missing: UNPRICED, HIDES: there are revealers, but neither gates nor an
    order, LARGE: there are sizes that only Python can price, OVERFLOW: times may pass what int64
    holds.
    """
    p, c = unpack(layout), costs_of(costs, layout)
    g = Given(
        cell_of, input_start, inputs, output_bytes, host_bytes, returns, arrival_ns, revealed_by,
        own_ns, priced, fed, gate_start, gates,
    )  # fmt: skip
    if len(gate_start) == 0:
        for t in range(len(cell_of)):
            if revealed_by[t] >= 0:
                return HIDES
    if len(priced) == 0:
        for t in range(len(cell_of)):
            if output_bytes[t] >= BYTES_MAX or host_bytes[t] >= BYTES_MAX:
                return LARGE
    n, n_devices, n_links = len(g.cell_of), p.n_devices, p.n_links
    for at in range(p.tasks):
        s[at] = costs[at]
    in_order = list_edges(s, p, g)
    n_rows = list_gates(s, p, g)
    bound, work_ns, n_kept = 0.0, 0, 0
    for t in range(n):
        row, least, longest, able = p.tasks + N_TASK_COLUMNS * t, NEVER, 0, False
        loading = 0
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
            most = s[of_task(p.tasks, known, SPAN)]
        else:
            most = price_output(s, p, costs, c, g, t)
            s[row + SPAN] = most  # until the task is placed
            scratch[n_kept % SIZES_KEPT] = t
            n_kept += 1
        row_of_cell = n_devices * g.cell_of[t]
        for device in range(n_devices):
            run_ns = costs[c.run_ns + row_of_cell + device]
            if len(g.own_ns) > 0 and g.own_ns[t, device] != ABSENT:
                run_ns = max(g.own_ns[t, device], ABSENT)
            if run_ns >= 0:
                least, able = min(least, run_ns), True
            h_ns = costs[c.h_ns + row_of_cell + device]
            feed_ns = 0
            if g.host_bytes[t] > 0:
                link = link_between(s, p, p.host, device)
                if link >= 0:
                    feed_ns = (
                        g.fed[t, link]
                        if len(g.fed) > 0
                        else formula_ns(costs, c.links + 2 * link, g.host_bytes[t])
                    )
            at = pair + device
            s[at + n_devices * RUN_NS], s[at + n_devices * H_NS] = run_ns, h_ns
            s[at + n_devices * THERE_NS] = s[at + n_devices * READY_NS] = ABSENT
            s[at + n_devices * LEGAL] = 0
            s[at + n_devices * HOST_COPY_NS] = feed_ns
            first_ns = costs[c.first_ns + row_of_cell + device]
            longest = max(longest, run_ns + h_ns + first_ns, feed_ns)
            if p.tracks != 0:  # (K, 2, D)
                at = c.weights + N_WEIGHT_ROWS * row_of_cell + n_devices * LOAD_NS + device
                loading = max(loading, costs[at])
        if not able:
            return UNPRICED
        bound += float(longest) + float(loading) + float(g.arrival_ns[t])
        bound += (n_links + 2 * n_devices) * float(most + p.handoff_ns + p.h_copy_ns)
        s[row + CELL] = g.cell_of[t]
        s[row + HAS_HOST_INPUT], s[row + RETURNS] = g.host_bytes[t] > 0, g.returns[t]
        s[row + BEST_NS], s[row + RELEASE_NS] = least, g.arrival_ns[t]
        s[row + HOME] = s[row + SEEN] = s[row + CHECKED] = ABSENT
        work_ns += least
    begin_sums(s, p, costs, c, refuges, g, work_ns)
    if p.tracks != 0:
        begin_weights(s, p, costs, c, g)
    if len(given_order) > 0 or in_order:
        for t in range(n):
            order[t] = given_order[t] if len(given_order) > 0 else t
    else:
        sort_tasks(s, p, n, order, scratch)
    copy_tables(s, other, p, n, n_rows)
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
def price_output(s: IntArray, p: Places, costs: IntArray, c: Costs, g: Given, t: int) -> int:
    """Write what moving, gathering and staging a task's output takes; return the longest of it."""
    n_devices, size_bytes = p.n_devices, g.output_bytes[t]
    most = 0
    pair = of_pair(p.pairs, n_devices, t, 0, 0)
    for device in range(n_devices):
        for way in range(2):
            row = COPY_IN_NS if way == 0 else COPY_OUT_NS
            column = STAGES_IN if way == 0 else STAGES_OUT
            ns = 0
            if len(g.priced) > 0:
                ns = g.priced[t, p.n_links + n_devices * way + device]
            elif s[of_machine(p.machine, device, column)] != 0:
                ns = formula_ns(costs, c.staging + 2 * (n_devices * way + device), size_bytes)
            s[pair + n_devices * row + device] = ns
            most = max(most, ns)
    for link in range(p.n_links):
        ns = (
            g.priced[t, link]
            if len(g.priced) > 0
            else formula_ns(costs, c.links + 2 * link, size_bytes)
        )
        s[p.moves + p.n_links * t + link] = ns
        most = max(most, ns)
    return most


@inlined
def begin_sums(
    s: IntArray, p: Places, costs: IntArray, c: Costs, refuges: IntArray, g: Given, work_ns: int
) -> None:
    """Write what counts for the whole graph: cells, refuges, sums, empty devices and resources."""
    n, n_devices = len(g.cell_of), p.n_devices
    for at in range(N_SUMS):
        s[p.sums + at] = 0
    for at in range(n_devices * c.n_cells):
        s[p.first_ns + at] = costs[c.first_ns + at]
        s[p.sums + N_FIRST] += costs[c.first_ns + at] > 0
    for refuge in range(len(refuges)):
        for device in range(n_devices):
            s[p.refuges + n_devices * refuge + device] = refuges[refuge, device]
    s[p.sums + N_TASKS], s[p.sums + WORK_LEFT_NS] = n, work_ns
    s[p.sums + N_CELLS], s[p.sums + N_REFUGES] = c.n_cells, len(refuges)
    if len(g.gate_start) > 0:
        for t in range(n):
            s[p.sums + N_GATED] += g.gate_start[t + 1] > g.gate_start[t]
    for at in range(N_DEVICE_COLUMNS * n_devices):
        s[p.devices + at] = 0
    for resource in range(p.busy - p.n_busy):
        s[p.n_busy + resource] = 0


@inlined
def begin_weights(s: IntArray, p: Places, costs: IntArray, c: Costs, g: Given) -> None:
    """Write what devices hold at first, and which of them may have to load; after `begin_sums`."""
    n_devices, place = p.n_devices, c.weights
    for at in range(p.weights, of_weights(p, c.n_cells, 0)):
        s[at] = costs[place]
        place += 1
    for at in range(p.sizes, p.sizes + 2 * c.n_cells):
        s[at] = costs[place]
        place += 1
    for at in range(p.memory, of_memory(p, n_devices, 0)):
        s[at] = costs[place]
        place += 1
    room_bytes, total_bytes = launch_bytes(s, p, g), 0
    for cell in range(c.n_cells):
        total_bytes += s[p.sizes + 2 * cell + SIZE_BYTES]
    for device in range(n_devices):
        s[of_memory(p, device, LIMIT_BYTES)] -= room_bytes
        fits = total_bytes <= s[of_memory(p, device, LIMIT_BYTES)]
        for cell in range(c.n_cells):
            fits = fits and s[of_weights(p, cell, LAST_USE) + device] >= 0
        if fits:
            s[of_memory(p, device, LOADS)] = 0
        s[p.sums + N_LOADING] += s[of_memory(p, device, LOADS)]


@inlined
def launch_bytes(s: IntArray, p: Places, g: Given) -> int:
    """Return the most bytes that one task needs at once; see `agent.holdings`."""
    most = 0
    for t in range(len(g.cell_of)):
        needed = g.output_bytes[t] + g.host_bytes[t]
        for at in range(s[of_task(p.tasks, t, INPUTS)], s[of_task(p.tasks, t, INPUTS_END)]):
            needed += g.output_bytes[s[p.rows + at]]
        most = max(most, needed)
    return most


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
def copy_tables(s: IntArray, other: IntArray, p: Places, n: int, n_rows: int) -> None:
    """Write into another slot what no plan changes; `reset_slot` writes the rest."""
    for at in range(p.tasks):
        other[at] = s[at]
    for at in range(p.pairs, p.pairs + N_PAIR_ROWS * p.n_devices * n):
        other[at] = s[at]
    for at in range(p.moves, p.moves + p.n_links * n):
        other[at] = s[at]
    for at in range(p.rows, p.rows + n_rows):
        other[at] = s[at]
    for at in range(p.refuges, p.refuges + p.n_devices * s[p.sums + N_REFUGES]):
        other[at] = s[at]
    for at in range(p.first_ns, p.first_ns + p.n_devices * s[p.sums + N_CELLS]):
        other[at] = s[at]
    if s[p.sums + N_LOADING] > 0:
        for at in range(p.sizes, p.sizes + 2 * s[p.sums + N_CELLS]):
            other[at] = s[at]
