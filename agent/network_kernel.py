# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: the policy's network, see `dynpartition.agent.network` for a readable one.

What it knows of each task does not change while a plan grows and is computed once; then it is asked
step by step: which of the ready tasks comes next, and on which device. Letters as in
`estimate_kernel`; S styles, U units of a hidden layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dynpartition.agent.estimate_kernel import HOME, INPUTS, N_TASKS, READERS, Places, of_task
from dynpartition.compiled import inlined, part
from dynpartition.types import FloatArray, IntArray

N_WINDOW = 8
"""Ready tasks that are considered at a step, best priority first."""
N_STATIC, N_EMBEDDED = 27, 16  # features of a task, and units that describe it to the heads
N_READY_FEATURES, N_READY_UNITS = 14, 8  # of a ready task, and the hidden layer of its head
N_OPTION_FEATURES, N_OPTION_UNITS = 36, 16  # the same of an option for a chosen task
N_STATIC_PLAIN, N_READY_PLAIN, N_OPTION_PLAIN = 25, 10, 26
"""The first features; the others are 0, and are not even multiplied, unless a graph is wide: there
batches pay, or weights do not fit."""


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


def product(n_in: int, n_out: int) -> Callable[[FloatArray, FloatArray, int, FloatArray], None]:
    """Return the compiled y += x W for x (n_in,), W = w[at:] as (n_in, n_out), y (n_out,).

    What the compiler knows and what not makes it several times faster: it writes out the loop over
    x, whose length is known, and then takes several y at a time, of which it does not know how many
    there are; else it would write them out as well.
    """
    n_pairs = n_in // 2

    def add_product(x: FloatArray, w: FloatArray, at: int, y: FloatArray) -> None:
        m, y = w[at : at + n_in * n_out], y[:n_out]
        for j in range(len(y)):
            even, odd = y[j], np.float32(0)
            for pair in range(n_pairs):
                even += x[2 * pair] * m[2 * pair * n_out + j]
                odd += x[2 * pair + 1] * m[(2 * pair + 1) * n_out + j]
            if n_in % 2 == 1:
                even += x[n_in - 1] * m[(n_in - 1) * n_out + j]
            y[j] = even + odd

    return part(add_product)


def head(n_in: int, n_units: int) -> Callable[..., None]:
    """Return the compiled scores of candidates by a hidden layer of relus: see below.

    All candidates of a step in one call: a call each would take longer than its work. The loops are
    as in `product`.
    """
    n_pairs = n_in // 2
    assert n_in % 2 == n_units % 4 == 0, "loops take two inputs and four units at a time"

    def score(
        seen: FloatArray, n: int, base: FloatArray, row_of: IntArray, w: FloatArray, at: int,
        bias: int, last: int, units: FloatArray, scores: npt.NDArray[np.float64],
    ) -> None:  # fmt: skip
        """Write relu(seen W + base + b) · v of the first n candidates.

        `seen` (n, n_in); `base`: rows `row_of` (n,); W = w[at:], b = w[bias:], v = w[last:].
        """
        m, b, v = w[at : at + n_in * n_units], w[bias:], w[last : last + n_units]
        zero = np.float32(0)
        for r in range(n):
            x, first = seen[r], base[row_of[r]]
            for j in range(len(v)):
                even, odd = first[j] + b[j], zero
                for pair in range(n_pairs):
                    even += x[2 * pair] * m[2 * pair * n_units + j]
                    odd += x[2 * pair + 1] * m[(2 * pair + 1) * n_units + j]
                units[j] = max(even + odd, zero) * v[j]
            one = two = three = four = zero
            for j in range(0, n_units, 4):
                one += units[j]
                two += units[j + 1]
                three += units[j + 2]
                four += units[j + 3]
            scores[r] = float((one + two) + (three + four))

    return part(score)


add_static = product(N_STATIC, N_EMBEDDED)
add_static_plain = product(N_STATIC_PLAIN, N_EMBEDDED)
add_embedded = product(N_EMBEDDED, N_EMBEDDED)
add_to_ready = product(N_EMBEDDED, N_READY_UNITS)
add_to_option = product(N_EMBEDDED, N_OPTION_UNITS)
add_ready = product(N_READY_FEATURES, N_READY_UNITS)
add_option = product(N_OPTION_FEATURES, N_OPTION_UNITS)
score_ready = head(N_READY_FEATURES, N_READY_UNITS)
score_ready_plain = head(N_READY_PLAIN, N_READY_UNITS)
score_options = head(N_OPTION_FEATURES, N_OPTION_UNITS)
score_options_plain = head(N_OPTION_PLAIN, N_OPTION_UNITS)


@inlined
def embed(
    s: IntArray, p: Places, w: FloatArray, net: Net, facts: FloatArray, coded: FloatArray,
    mixed: FloatArray, sums: FloatArray, priority: FloatArray, to_ready: FloatArray,
    to_option: FloatArray, wide: int,
) -> None:  # fmt: skip
    """Run the graph network: what the heads know of each task that is not placed.

    `coded`, `mixed`: (N, N_EMBEDDED), `sums`: (3, N_EMBEDDED), `priority`: (N, S). `wide`: whether
    features beyond the plain ones are given.
    """
    n_tasks, n = s[p.sums + N_TASKS], 0
    for j in range(N_EMBEDDED):
        sums[2, j] = 0
    for t in range(n_tasks):
        if s[of_task(p.tasks, t, HOME)] >= 0:
            continue
        n += 1
        c = coded[t]
        for j in range(N_EMBEDDED):
            c[j] = w[net.embed_bias + j]
        if wide != 0:
            add_static(facts[t], w, net.embed, c)
        else:
            add_static_plain(facts[t], w, net.embed, c)
        for j in range(N_EMBEDDED):
            c[j] = max(c[j], np.float32(0))
            sums[2, j] += c[j]
    for j in range(N_EMBEDDED):
        sums[1, j] = sums[2, j] / np.float32(max(n, 1))
        sums[0, j] = w[net.mix_bias + j]
    add_embedded(sums[1], w, net.context, sums[0])
    for t in range(n_tasks):
        if s[of_task(p.tasks, t, HOME)] >= 0:
            for k in range(net.n_styles):
                priority[t, k] = 0
            continue
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
) -> int:
    """Write the mean code of a task's inputs or readers (by their column) that are not placed.

    Returns how many these are.
    """
    count = 0
    for j in range(N_EMBEDDED):
        mean[j] = 0
    for at in range(s[of_task(p.tasks, task, column)], s[of_task(p.tasks, task, column + 1)]):
        other = s[p.rows + at]
        if s[of_task(p.tasks, other, HOME)] >= 0:
            continue
        count += 1
        c = coded[other]
        for j in range(N_EMBEDDED):
            mean[j] += c[j]
    if count > 1:
        share = np.float32(1) / np.float32(count)
        for j in range(N_EMBEDDED):
            mean[j] *= share
    return count


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
