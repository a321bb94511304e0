# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: the gradient of policies from what their rollouts saw and did.

Records are what `policy_kernel.roll` wrote. Letters as in `estimate_kernel`; R rollouts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dynpartition.agent.estimate_kernel import (
    HOME,
    INPUTS,
    N_TASKS,
    READERS,
    Places,
    of_task,
    unpack,
)
from dynpartition.agent.network_kernel import (
    N_EMBEDDED,
    N_OPTION_FEATURES,
    N_OPTION_UNITS,
    N_READY_FEATURES,
    N_READY_UNITS,
    N_STATIC,
    Net,
    add_option,
    add_ready,
    mean_of,
    score_units,
)
from dynpartition.compiled import compiled, inlined
from dynpartition.types import FloatArray, IntArray


@compiled
def learn(
    s: IntArray, layout: IntArray, w: FloatArray, net: Net, g: FloatArray, facts: FloatArray,
    coded: FloatArray, mixed: FloatArray, to_ready: FloatArray, to_option: FloatArray,
    priority: FloatArray, d_priority: FloatArray, d_ready: FloatArray, d_option: FloatArray,
    d_coded: FloatArray, n_options: int, style: IntArray, weight: npt.NDArray[np.float64],
    entropy: float, rec: IntArray, rec_ready: FloatArray, rec_option: FloatArray,
    units: FloatArray, scores: npt.NDArray[np.float64], sums: FloatArray,
    totals: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    """Add the gradient of Σ weight · log probability + entropy bonus over rollouts to `g`.

    Records are (R, N, …), up to a step without ready tasks. `n_options`: options per step. `d_…`:
    scratch like what they are the gradients of. `totals`: entropies of choices of tasks and of
    options, and their numbers, are added to it.
    """
    p = unpack(layout)
    n = s[p.sums + N_TASKS]
    for t in range(n):
        for j in range(net.n_styles):
            d_priority[t, j] = 0
        for j in range(N_READY_UNITS):
            d_ready[t, j] = 0
        for j in range(N_OPTION_UNITS):
            d_option[t, j] = 0
    for r in range(len(style)):
        k = style[r]
        for step in range(rec.shape[1]):
            n_ready = rec[r, step, 0]
            if n_ready == 0:
                break
            if n_ready > 1:
                for at in range(n_ready):
                    t = rec[r, step, 4 + at]
                    u = units[at]
                    for j in range(N_READY_UNITS):
                        u[j] = to_ready[t, j] + w[net.ready_bias + k * N_READY_UNITS + j]
                    add_ready(rec_ready[r, step, at], w, net.ready, u)
                    scores[at] = priority[t, k] + score_units(u, N_READY_UNITS, w, net.ready_score)
                totals[0] += to_gradients(scores, n_ready, rec[r, step, 1], weight[r], entropy)
                totals[1] += 1
                for at in range(n_ready):
                    t, slope = rec[r, step, 4 + at], np.float32(scores[at])
                    d_priority[t, k] += slope
                    add_head(
                        w, g, units[at], rec_ready[r, step, at], N_READY_FEATURES, N_READY_UNITS,
                        net.ready, net.ready_bias + k * N_READY_UNITS, net.ready_score, slope,
                        d_ready[t],
                    )  # fmt: skip
            t, legal, pick, n_legal = (
                rec[r, step, 4 + rec[r, step, 1]], rec[r, step, 3], 0, 0,
            )  # fmt: skip
            for d in range(n_options):
                if legal & (1 << d) != 0:
                    u = units[n_legal]
                    for j in range(N_OPTION_UNITS):
                        u[j] = to_option[t, j] + w[net.option_bias + k * N_OPTION_UNITS + j]
                    add_option(rec_option[r, step, d], w, net.option, u)
                    scores[n_legal] = score_units(u, N_OPTION_UNITS, w, net.option_score)
                    if d == rec[r, step, 2]:
                        pick = n_legal
                    n_legal += 1
            if n_legal > 1:
                totals[2] += to_gradients(scores, n_legal, pick, weight[r], entropy)
                totals[3] += 1
                n_legal = 0
                for d in range(n_options):
                    if legal & (1 << d) != 0:
                        add_head(
                            w, g, units[n_legal], rec_option[r, step, d], N_OPTION_FEATURES,
                            N_OPTION_UNITS, net.option, net.option_bias + k * N_OPTION_UNITS,
                            net.option_score, np.float32(scores[n_legal]), d_option[t],
                        )  # fmt: skip
                        n_legal += 1
    back_through_graph(
        s, p, w, net, g, facts, coded, mixed, d_priority, d_ready, d_option, d_coded, sums
    )


@inlined
def to_gradients(
    scores: npt.NDArray[np.float64], n: int, pick: int, weight: float, entropy: float
) -> float:
    """Replace scores by the slopes of weight · log softmax[pick] + entropy · H; return H."""
    top = scores[0]
    for i in range(1, n):
        top = max(top, scores[i])
    total = 0.0
    for i in range(n):
        total += np.exp(scores[i] - top)
    log_total = np.log(total) + top
    h = 0.0
    for i in range(n):
        scores[i] -= log_total
        h -= np.exp(scores[i]) * scores[i]
    for i in range(n):
        share = np.exp(scores[i])
        slope = -weight * share - entropy * share * (scores[i] + h)
        scores[i] = slope + weight if i == pick else slope
    return h


@inlined
def add_head(
    w: FloatArray, g: FloatArray, u: FloatArray, x: FloatArray, n_in: int, n_units: int,
    matrix: int, bias: int, score: int, slope: np.float32, d_static: FloatArray,
) -> None:  # fmt: skip
    """Go back through one hidden layer; `u`: its units before the relu, which are overwritten."""
    for j in range(n_units):
        if u[j] > np.float32(0):
            g[score + j] += slope * u[j]
            u[j] = slope * w[score + j]
        else:
            u[j] = 0
        g[bias + j] += u[j]
        d_static[j] += u[j]
    for i in range(n_in):
        xi = x[i]
        if xi != np.float32(0):
            row = matrix + i * n_units
            for j in range(n_units):
                g[row + j] += xi * u[j]


@inlined
def add_back(
    w: FloatArray, g: FloatArray, at: int, x: FloatArray, d_y: FloatArray, n_in: int, n_out: int,
    d_x: FloatArray,
) -> None:  # fmt: skip
    """Go back through y = x W: add to the gradients of W and of x."""
    for i in range(n_in):
        row, total, xi = at + i * n_out, np.float32(0), x[i]
        for j in range(n_out):
            total += w[row + j] * d_y[j]
            g[row + j] += xi * d_y[j]
        d_x[i] += total


@inlined
def back_through_graph(
    s: IntArray, p: Places, w: FloatArray, net: Net, g: FloatArray, facts: FloatArray,
    coded: FloatArray, mixed: FloatArray, d_priority: FloatArray, d_ready: FloatArray,
    d_option: FloatArray, d_coded: FloatArray, sums: FloatArray,
) -> None:  # fmt: skip
    """Go back from what the heads were told of each task to the weights of the graph network.

    `sums`: (6, N_EMBEDDED) scratch.
    """
    n_tasks, n = s[p.sums + N_TASKS], 0
    d_mixed, mean, d_mean, d_shared, context, d_context = (
        sums[0], sums[1], sums[2], sums[3], sums[4], sums[5],
    )  # fmt: skip
    for j in range(N_EMBEDDED):
        d_shared[j] = context[j] = d_context[j] = 0
    for t in range(n_tasks):
        n += s[of_task(p.tasks, t, HOME)] < 0
    for t in range(n_tasks):
        if s[of_task(p.tasks, t, HOME)] >= 0:
            continue
        for j in range(N_EMBEDDED):
            d_coded[t, j] = 0
            context[j] += coded[t, j] / np.float32(n)
    for t in range(n_tasks):
        if s[of_task(p.tasks, t, HOME)] >= 0:
            continue
        for j in range(N_EMBEDDED):
            d_mixed[j] = 0
        m = mixed[t]
        add_back(w, g, net.priority, m, d_priority[t], N_EMBEDDED, net.n_styles, d_mixed)
        add_back(w, g, net.to_ready, m, d_ready[t], N_EMBEDDED, N_READY_UNITS, d_mixed)
        add_back(w, g, net.to_option, m, d_option[t], N_EMBEDDED, N_OPTION_UNITS, d_mixed)
        for j in range(N_EMBEDDED):
            if m[j] <= np.float32(0):
                d_mixed[j] = 0
            d_shared[j] += d_mixed[j]
        add_back(w, g, net.own, coded[t], d_mixed, N_EMBEDDED, N_EMBEDDED, d_coded[t])
        for side in range(2):
            column = INPUTS if side == 0 else READERS
            matrix = net.inputs if side == 0 else net.readers
            count = mean_of(s, p, t, column, coded, mean)
            if count > 0:
                for j in range(N_EMBEDDED):
                    d_mean[j] = 0
                add_back(w, g, matrix, mean, d_mixed, N_EMBEDDED, N_EMBEDDED, d_mean)
                share = np.float32(1) / np.float32(count)
                first, last = s[of_task(p.tasks, t, column)], s[of_task(p.tasks, t, column + 1)]
                for at in range(first, last):
                    other = s[p.rows + at]
                    if s[of_task(p.tasks, other, HOME)] >= 0:
                        continue
                    c = d_coded[other]
                    for j in range(N_EMBEDDED):
                        c[j] += share * d_mean[j]
    for j in range(N_EMBEDDED):
        g[net.mix_bias + j] += d_shared[j]
    add_back(w, g, net.context, context, d_shared, N_EMBEDDED, N_EMBEDDED, d_context)
    for t in range(n_tasks):
        if s[of_task(p.tasks, t, HOME)] >= 0:
            continue
        c = d_coded[t]
        for j in range(N_EMBEDDED):
            c[j] += d_context[j] / np.float32(n)
            if coded[t, j] <= np.float32(0):
                c[j] = 0
            g[net.embed_bias + j] += c[j]
        f = facts[t]
        for i in range(N_STATIC):
            row = net.embed + i * N_EMBEDDED
            for j in range(N_EMBEDDED):
                g[row + j] += f[i] * c[j]
