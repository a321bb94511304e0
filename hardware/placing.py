"""Compiled: where in the arenas outputs, received copies and arguments of new launches lie.

A tensor's place is a row: rows of r bytes divide an arena, and row i begins at byte i·r. So k
tensors of one shape are an index list, wherever they lie, and one gather fetches them.

N tasks, K kinds of tasks, L launches, C transfers, D devices, B calls of cells, A arguments.
"""

from __future__ import annotations

from dynpartition.compiled import compiled
from dynpartition.types import IntArray

FITS, LAUNCH_DOES_NOT_FIT, COPY_DOES_NOT_FIT = range(3)
"""What `place` returns."""

COUNTS = N_CALLS, N_ARGUMENTS, N_ROWS, N_SPANS = range(4)
"""Columns of what it counts."""

LAUNCH, SIZE, ROW, FIRST_TASK, FIRST_ARGUMENT = range(5)
"""Columns of the calls: launch, tasks, row of the first output, first task, first argument."""

FIRST_ROW, IS_ADJACENT, ROWS_AT = range(3)
"""Columns of the arguments: row of the first task's, whether the others follow it, list of rows."""

ABSENT = -1


@compiled
def allocate(used: IntArray, capacity: IntArray, device: int, row_bytes: int, count: int) -> int:
    """Return the first of `count` rows behind each other on `device`; ABSENT when it is full."""
    if row_bytes == 0:
        return 0
    row = (used[device] + row_bytes - 1) // row_bytes
    end = (row + count) * row_bytes
    if end > capacity[device]:
        return ABSENT
    used[device] = end
    first: int = row
    return first


@compiled
def is_alike(
    task: int,
    other: int,
    kind_of: IntArray,
    input_start: IntArray,
    inputs: IntArray,
    shape_of: IntArray,
) -> bool:
    """Whether one call of a cell can hold both tasks: equal shapes all over."""
    if kind_of[task] != kind_of[other]:
        return False
    first, second = input_start[task], input_start[other]
    count = input_start[task + 1] - first
    if input_start[other + 1] - second != count:
        return False
    for at in range(count):
        if shape_of[kind_of[inputs[first + at]]] != shape_of[kind_of[inputs[second + at]]]:
            return False
    return True


@compiled
def place(
    kind_of: IntArray,
    input_start: IntArray,
    inputs: IntArray,
    output_bytes: IntArray,
    host_bytes: IntArray,
    shape_of: IntArray,
    task_start: IntArray,
    tasks: IntArray,
    device_of: IntArray,
    first_launch: int,
    copy_src: IntArray,
    copy_dst: IntArray,
    copy_is_input: IntArray,
    travel_start: IntArray,
    travels: IntArray,
    first_copy: int,
    used: IntArray,
    capacity: IntArray,
    output_row: IntArray,
    input_row: IntArray,
    in_call: IntArray,
    count: IntArray,
    calls: IntArray,
    arguments: IntArray,
    rows: IntArray,
    span_start: IntArray,
    spans: IntArray,
    failed: IntArray,
) -> int:
    """Give places to launches and transfers that are new, and say what every call reads.

    (K,): `output_bytes`, `host_bytes` (-1: no host input), `shape_of` (a number per output shape).
    Written: `used` (D,), `output_row` and `input_row` (D, N), `in_call` (N,) scratch, `count`,
    `calls` (B, 5), `arguments` (A, 3), `rows`, `span_start` (C+1,), `spans` (S, 3): source offset,
    destination offset, bytes. Returns FITS or what does not: `failed` is (device, number, bytes).
    """
    for launch in range(first_launch, len(device_of)):
        if not place_outputs(
            launch,
            kind_of,
            input_start,
            inputs,
            output_bytes,
            shape_of,
            task_start,
            tasks,
            device_of[launch],
            used,
            capacity,
            output_row,
            in_call,
            count,
            calls,
            failed,
        ):
            return LAUNCH_DOES_NOT_FIT
    for copy in range(first_copy, len(copy_src)):
        row = input_row if copy_is_input[copy] else output_row
        size = host_bytes if copy_is_input[copy] else output_bytes
        src, dst = copy_src[copy], copy_dst[copy]
        first = travel_start[copy]
        while first < travel_start[copy + 1]:
            # Tensors of one size that travel together lie together.
            row_bytes = size[kind_of[travels[first]]]
            end = first + 1
            while end < travel_start[copy + 1] and size[kind_of[travels[end]]] == row_bytes:
                end += 1
            place_at = allocate(used, capacity, dst, row_bytes, end - first)
            if place_at < 0:
                failed[0], failed[1], failed[2] = dst, copy, row_bytes * (end - first)
                return COPY_DOES_NOT_FIT
            for at in range(first, end):
                task = travels[at]
                row[dst, task] = place_at + at - first
                source = row[src, task] * row_bytes
                target = row[dst, task] * row_bytes
                last = count[N_SPANS] - 1
                if (
                    last >= span_start[copy]
                    and spans[last, 0] + spans[last, 2] == source
                    and spans[last, 1] + spans[last, 2] == target
                ):
                    spans[last, 2] += row_bytes
                elif row_bytes > 0:
                    spans[last + 1, 0], spans[last + 1, 1] = source, target
                    spans[last + 1, 2] = row_bytes
                    count[N_SPANS] += 1
            first = end
        span_start[copy + 1] = count[N_SPANS]
    for call in range(count[N_CALLS]):
        name_arguments(
            call,
            kind_of,
            input_start,
            inputs,
            host_bytes,
            task_start,
            tasks,
            device_of,
            output_row,
            input_row,
            in_call,
            count,
            calls,
            arguments,
            rows,
        )
    return FITS


@compiled
def place_outputs(
    launch: int,
    kind_of: IntArray,
    input_start: IntArray,
    inputs: IntArray,
    output_bytes: IntArray,
    shape_of: IntArray,
    task_start: IntArray,
    tasks: IntArray,
    device: int,
    used: IntArray,
    capacity: IntArray,
    output_row: IntArray,
    in_call: IntArray,
    count: IntArray,
    calls: IntArray,
    failed: IntArray,
) -> bool:
    """Split a launch into calls of like tasks and give their outputs rows; False: no room."""
    first_call = count[N_CALLS]
    for at in range(task_start[launch], task_start[launch + 1]):
        task = tasks[at]
        call = first_call
        while call < count[N_CALLS] and not is_alike(
            task, calls[call, FIRST_TASK], kind_of, input_start, inputs, shape_of
        ):
            call += 1
        if call == count[N_CALLS]:
            count[N_CALLS] += 1
            calls[call, LAUNCH], calls[call, SIZE], calls[call, FIRST_TASK] = launch, 0, task
        in_call[task] = call
        calls[call, SIZE] += 1
    for call in range(first_call, count[N_CALLS]):
        row_bytes = output_bytes[kind_of[calls[call, FIRST_TASK]]]
        row = allocate(used, capacity, device, row_bytes, calls[call, SIZE])
        if row < 0:
            failed[0], failed[1], failed[2] = device, launch, row_bytes * calls[call, SIZE]
            return False
        calls[call, ROW] = row
        for at in range(task_start[launch], task_start[launch + 1]):
            if in_call[tasks[at]] == call:
                output_row[device, tasks[at]] = row
                row += 1
    return True


@compiled
def name_arguments(
    call: int,
    kind_of: IntArray,
    input_start: IntArray,
    inputs: IntArray,
    host_bytes: IntArray,
    task_start: IntArray,
    tasks: IntArray,
    device_of: IntArray,
    output_row: IntArray,
    input_row: IntArray,
    in_call: IntArray,
    count: IntArray,
    calls: IntArray,
    arguments: IntArray,
    rows: IntArray,
) -> None:
    """List the rows that each argument of a call reads."""
    launch, first_task = calls[call, LAUNCH], calls[call, FIRST_TASK]
    device = device_of[launch]
    n_inputs = input_start[first_task + 1] - input_start[first_task]
    host = host_bytes[kind_of[first_task]]
    calls[call, FIRST_ARGUMENT] = count[N_ARGUMENTS]
    for position in range(n_inputs + (1 if host >= 0 else 0)):
        begin = count[N_ROWS]
        adjacent = 1
        for at in range(task_start[launch], task_start[launch + 1]):
            task = tasks[at]
            if in_call[task] != call:
                continue
            if position < n_inputs:
                row = output_row[device, inputs[input_start[task] + position]]
            elif host == 0:
                row = 0  # nothing to fetch, so it never travels
            else:
                row = input_row[device, task]
            rows[count[N_ROWS]] = row
            if row != rows[begin] + count[N_ROWS] - begin:
                adjacent = 0
            count[N_ROWS] += 1
        argument = count[N_ARGUMENTS]
        count[N_ARGUMENTS] += 1
        arguments[argument, FIRST_ROW] = rows[begin]
        arguments[argument, IS_ADJACENT] = adjacent
        arguments[argument, ROWS_AT] = begin
