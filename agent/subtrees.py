"""Compiled: which tasks of a graph form the left sub-tree of each request's root.

The same as `splits.left_of_roots`, for many inputs in flight.

N tasks, n of one request, W words of 64 bits that hold a set of them.
"""

from __future__ import annotations

import numpy as np

from dynpartition.compiled import compiled
from dynpartition.graph import TaskGraph
from dynpartition.types import BoolArray, IntArray

WORD_BITS = 63
"""Bits used per word: the sign stays free."""

ABSENT = -1


def left_of_many_roots(graph: TaskGraph) -> BoolArray:
    """Return (N,) whether each task belongs to the left sub-tree of its request's root.

    The root is the task with most ancestors, walking down while a task has a single input. The
    left sub-tree is its first input with all ancestors, and what reads tasks of it only. A request
    without a task of two inputs is its own left sub-tree. See `SplitLeftRight`.
    """
    order = np.array(graph.topological_order, dtype=np.int64)
    order = order[np.argsort(graph.request[order], kind="stable")]
    bounds = np.flatnonzero(np.diff(graph.request[order], prepend=-1, append=-1))
    largest = int(np.diff(bounds).max())
    left = np.zeros(len(graph), dtype=np.bool_)
    mark_left(
        order,
        bounds,
        graph.inputs.start,
        graph.inputs.values,
        np.full(len(graph), ABSENT),
        np.zeros((largest, -(-largest // WORD_BITS)), dtype=np.int64),
        left,
    )
    return left


@compiled
def mark_left(
    order: IntArray,
    bounds: IntArray,
    input_start: IntArray,
    inputs: IntArray,
    place: IntArray,
    above: IntArray,
    left: BoolArray,
) -> None:
    """Mark the left sub-trees; `order` (N,) is request by request, each in topological order.

    Scratch: `place` (N,) all ABSENT, `above` (n of the largest request, W).
    """
    for part in range(len(bounds) - 1):
        first, end = bounds[part], bounds[part + 1]
        root, most = ABSENT, 0
        for at in range(first, end):
            task = order[at]
            place[task] = at - first
            count = gather(at - first, task, input_start, inputs, place, above)
            if count > most or (count == most and task < root):
                root, most = task, count
        only = only_input(root, input_start, inputs)
        while only >= 0:
            root = only
            only = only_input(root, input_start, inputs)
        if input_start[root] == input_start[root + 1]:
            for at in range(first, end):
                left[order[at]] = True
                place[order[at]] = ABSENT
            continue
        top = inputs[input_start[root]]
        for at in range(first, end):
            task = order[at]
            bit = place[task]
            is_in = (
                place[top] >= 0 and (above[place[top], bit // WORD_BITS] >> (bit % WORD_BITS)) & 1
            )
            if not is_in and task != root and input_start[task] < input_start[task + 1]:
                is_in = 1
                for edge in range(input_start[task], input_start[task + 1]):
                    if not left[inputs[edge]]:
                        is_in = 0
            left[task] = is_in == 1
        for at in range(first, end):
            place[order[at]] = ABSENT


@compiled
def gather(
    row: int,
    task: int,
    input_start: IntArray,
    inputs: IntArray,
    place: IntArray,
    above: IntArray,
) -> int:
    """Write the set of a task and its ancestors into `above[row]`; return how many they are."""
    for word in range(above.shape[1]):
        above[row, word] = 0
    above[row, row // WORD_BITS] = 1 << (row % WORD_BITS)
    for edge in range(input_start[task], input_start[task + 1]):
        source = place[inputs[edge]]
        if source >= 0:
            for word in range(above.shape[1]):
                above[row, word] |= above[source, word]
    count = 0
    for word in range(above.shape[1]):
        bits = above[row, word]
        while bits:
            bits &= bits - 1
            count += 1
    return count


@compiled
def only_input(task: int, input_start: IntArray, inputs: IntArray) -> int:
    """Return the input of a task that has one only, however often; else ABSENT."""
    first, end = input_start[task], input_start[task + 1]
    if first == end:
        return ABSENT
    for edge in range(first + 1, end):
        if inputs[edge] != inputs[first]:
            return ABSENT
    only: int = inputs[first]
    return only
