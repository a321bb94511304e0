"""Compiled lowering of plans whose tasks are all known from the start.

The same programs as `dynpartition.program.lower`, some fifty times faster: what runs small cells
cannot wait for Python to walk over every task. Plans with revealed or late tasks, and plans that
are illegal, go to the readable one, which says what is wrong.

N tasks, E edges, L launches, C transfers, D devices.
"""

from __future__ import annotations

from itertools import accumulate, chain, pairwise

import numpy as np

from dynpartition.cluster import Cluster
from dynpartition.compiled import compiled
from dynpartition.graph import TaskGraph
from dynpartition.plan import Plan
from dynpartition.program import COPY, RECORD, RUN, WAIT, Program, lower
from dynpartition.types import IntArray, Ragged

COUNTS = N_COPIES, N_WAITS, N_TRAVELS = range(3)
"""Columns of what `walk_plan` counts."""

LAUNCH, IS_INPUT, SRC, DST, LINK, BYTES = range(6)
"""Columns of its table of transfers."""

NONE = -1


def lower_quickly(graph: TaskGraph, cluster: Cluster, plan: Plan) -> Program:
    """Return what `lower` returns; raises what it raises."""
    if graph.revealers or graph.arrival_ns.any():
        return lower(graph, cluster, plan)
    index = {name: number for number, name in enumerate(cluster.names)}
    devices = [index.get(launch.device, NONE) for launch in plan.launches]
    counts = [len(launch.tasks) for launch in plan.launches]
    tasks = np.array(list(chain.from_iterable(one.tasks for one in plan.launches)), dtype=np.int64)
    start = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=start[1:])
    program = _walked(graph, cluster, np.array(devices, dtype=np.int64), Ragged(start, tasks))
    return lower(graph, cluster, plan) if program is None else program


def _walked(graph: TaskGraph, cluster: Cluster, device: IntArray, tasks: Ragged) -> Program | None:
    n_tasks, n_edges, n_launches = len(graph), len(graph.inputs.values), len(device)
    n_devices, host = len(cluster.devices), cluster.host_index
    n_copies_max = n_edges + 2 * n_tasks + n_launches if n_devices > 1 else 0
    count = np.zeros(len(COUNTS), dtype=np.int64)
    copies = np.empty((n_copies_max, 6), dtype=np.int64)
    travels = np.empty((n_copies_max, 2), dtype=np.int64)  # (transfer, task)
    wait_start = np.zeros(n_launches + 1, dtype=np.int64)
    waits = np.empty(n_edges + n_launches, dtype=np.int64)
    # One array for all marks: making a small one takes longer than filling it.
    sizes = (n_tasks, n_tasks, n_copies_max, n_tasks * n_devices, n_launches * n_devices)
    ends = list(accumulate(sizes))
    marks = np.full(ends[-1], NONE)
    is_legal = walk_plan(
        marks[: ends[0]],
        marks[ends[0] : ends[1]],
        marks[ends[1] : ends[2]],
        marks[ends[2] : ends[3]].reshape(n_tasks, n_devices),
        marks[ends[3] :].reshape(n_launches, n_devices),
        tasks.start,
        tasks.values,
        device,
        graph.inputs.start,
        graph.inputs.values,
        graph.cell_of,
        graph.returns,
        graph.output_bytes,
        graph.host_bytes,
        cluster.link_table,
        host,
        count,
        copies,
        travels,
        wait_start,
        waits,
    )
    if not is_legal:
        return None
    n_copies, n_waits, n_travels = count.tolist()
    copies, travels, waits = copies[:n_copies], travels[:n_travels], waits[:n_waits]
    if n_travels:
        travels = travels[np.lexsort((travels[:, 1], travels[:, 0]))]
    code = np.empty((n_waits + 2 * n_launches + n_copies, 3), dtype=np.int64)
    code_start = np.zeros(n_devices + 1, dtype=np.int64)
    outputs = np.flatnonzero(copies[:, IS_INPUT] == 0)
    pushes = outputs[np.argsort(copies[outputs, LAUNCH], kind="stable")]
    push_start = np.searchsorted(copies[pushes, LAUNCH], np.arange(n_launches + 1))
    write_code(device, copies, wait_start, waits, host, push_start, pushes, code_start, code)
    nothing = np.zeros(n_launches, dtype=np.int64)
    no_rows = Ragged(np.zeros(n_launches + 1, dtype=np.int64), nothing[:0])
    bounds = code_start.tolist()
    return Program(
        launch_device=device,
        launch_tasks=tasks,
        launch_gates=no_rows,
        launch_cell=graph.cell_of[tasks.values[tasks.start[:-1]]],
        launch_arrival_ns=nothing,
        launch_waits=Ragged(wait_start, waits),
        launch_copies=Ragged(push_start, pushes),
        copy_launch=copies[:, LAUNCH],
        copy_is_input=copies[:, IS_INPUT],
        copy_src=copies[:, SRC],
        copy_dst=copies[:, DST],
        copy_link=copies[:, LINK],
        copy_bytes=copies[:, BYTES],
        copy_tasks=Ragged(
            np.searchsorted(travels[:, 0], np.arange(n_copies + 1)), travels[:, 1].copy()
        ),
        copy_gates=Ragged(np.zeros(n_copies + 1, dtype=np.int64), nothing[:0]),
        copy_due_ns=np.zeros(n_copies, dtype=np.int64),
        code=tuple(code[a:b, :2] for a, b in pairwise(bounds)),
    )


@compiled
def walk_plan(
    launch_of: IntArray,
    read_by: IntArray,
    awaited_by: IntArray,
    copy_of: IntArray,
    group_of: IntArray,
    task_start: IntArray,
    tasks: IntArray,
    device_of: IntArray,
    input_start: IntArray,
    inputs: IntArray,
    cell_of: IntArray,
    returns: IntArray,
    output_bytes: IntArray,
    host_bytes: IntArray,
    link_table: IntArray,
    host: int,
    count: IntArray,
    copies: IntArray,
    travels: IntArray,
    wait_start: IntArray,
    waits: IntArray,
) -> bool:
    """Collect transfers and waits; return False for what `lower` has to say something about.

    All -1: `launch_of` (N,), `read_by` (N,), `awaited_by` (C max,), `copy_of` (N, D), `group_of`
    (L, D). Written: `count`, `copies` (C, 6), `travels` (sum, 2), `wait_start`, `waits`.
    """
    n_tasks, n_launches = len(launch_of), len(device_of)
    for launch in range(n_launches):
        device = device_of[launch]
        first, end = task_start[launch], task_start[launch + 1]
        if device < 0 or first == end:
            return False
        for at in range(first, end):
            task = tasks[at]
            if task < 0 or task >= n_tasks or launch_of[task] >= 0:
                return False
            if cell_of[task] != cell_of[tasks[first]]:
                return False
            launch_of[task] = launch
        for at in range(first, end):
            for edge in range(input_start[tasks[at]], input_start[tasks[at] + 1]):
                source = inputs[edge]
                if launch_of[source] < 0 or launch_of[source] == launch:
                    return False
                if read_by[source] == launch or device_of[launch_of[source]] == device:
                    continue
                read_by[source] = launch
                if not send(
                    source,
                    device,
                    launch_of,
                    device_of,
                    copy_of,
                    group_of,
                    output_bytes,
                    link_table,
                    count,
                    copies,
                    travels,
                ):
                    return False
                copy = copy_of[source, device]
                if awaited_by[copy] != launch:
                    awaited_by[copy] = launch
                    waits[count[N_WAITS]] = copy
                    count[N_WAITS] += 1
        if device != host:
            fed = NONE
            for at in range(first, end):
                if host_bytes[tasks[at]] > 0:
                    if fed < 0:
                        link = link_table[host, device]
                        if link < 0:
                            return False
                        fed = count[N_COPIES]
                        count[N_COPIES] += 1
                        copies[fed, LAUNCH], copies[fed, IS_INPUT] = launch, 1
                        copies[fed, SRC], copies[fed, DST] = host, device
                        copies[fed, LINK], copies[fed, BYTES] = link, 0
                        waits[count[N_WAITS]] = fed
                        count[N_WAITS] += 1
                    copies[fed, BYTES] += host_bytes[tasks[at]]
                    travels[count[N_TRAVELS], 0] = fed
                    travels[count[N_TRAVELS], 1] = tasks[at]
                    count[N_TRAVELS] += 1
            for at in range(first, end):
                if returns[tasks[at]] != 0 and not send(
                    tasks[at],
                    host,
                    launch_of,
                    device_of,
                    copy_of,
                    group_of,
                    output_bytes,
                    link_table,
                    count,
                    copies,
                    travels,
                ):
                    return False
        wait_start[launch + 1] = count[N_WAITS]
    return bool(task_start[n_launches] == n_tasks)


@compiled
def send(
    task: int,
    dst: int,
    launch_of: IntArray,
    device_of: IntArray,
    copy_of: IntArray,
    group_of: IntArray,
    output_bytes: IntArray,
    link_table: IntArray,
    count: IntArray,
    copies: IntArray,
    travels: IntArray,
) -> bool:
    """Let an output travel with what its launch sends to `dst`; False where no link leads there."""
    if copy_of[task, dst] >= 0:
        return True
    launch = launch_of[task]
    copy = group_of[launch, dst]
    if copy < 0:
        link = link_table[device_of[launch], dst]
        if link < 0:
            return False
        copy = count[N_COPIES]
        count[N_COPIES] += 1
        group_of[launch, dst] = copy
        copies[copy, LAUNCH], copies[copy, IS_INPUT] = launch, 0
        copies[copy, SRC], copies[copy, DST] = device_of[launch], dst
        copies[copy, LINK], copies[copy, BYTES] = link, 0
    copy_of[task, dst] = copy
    copies[copy, BYTES] += output_bytes[task]
    travels[count[N_TRAVELS], 0] = copy
    travels[count[N_TRAVELS], 1] = task
    count[N_TRAVELS] += 1
    return True


@compiled
def write_code(
    device_of: IntArray,
    copies: IntArray,
    wait_start: IntArray,
    waits: IntArray,
    host: int,
    push_start: IntArray,
    pushes: IntArray,
    code_start: IntArray,
    code: IntArray,
) -> None:
    """Write each device's rows of `code`: opcode, operand, the launch that they belong to."""
    n_launches = len(device_of)
    at = 0
    for device in range(len(code_start) - 1):
        if device == host:
            for copy in range(len(copies)):
                if copies[copy, IS_INPUT] == 1:
                    at = put(code, at, COPY, copy, copies[copy, LAUNCH])
        for launch in range(n_launches):
            if device_of[launch] != device:
                continue
            for place in range(wait_start[launch], wait_start[launch + 1]):
                at = put(code, at, WAIT, waits[place], launch)
            at = put(code, at, RUN, launch, launch)
            at = put(code, at, RECORD, launch, launch)
            last = NONE
            # By destination: there is one transfer for each.
            for _ in range(push_start[launch], push_start[launch + 1]):
                best = NONE
                for place in range(push_start[launch], push_start[launch + 1]):
                    dst = copies[pushes[place], DST]
                    is_next = dst > last and (best < 0 or dst < copies[best, DST])
                    best = pushes[place] if is_next else best
                last = copies[best, DST]
                at = put(code, at, COPY, best, launch)
        code_start[device + 1] = at


@compiled
def put(code: IntArray, at: int, opcode: int, operand: int, launch: int) -> int:
    """Write one row and return where the next one goes."""
    code[at, 0], code[at, 1], code[at, 2] = opcode, operand, launch
    return at + 1
