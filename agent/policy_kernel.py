# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: what policies see of a plan as it grows, and whole plans as they make them.

Slots, letters and times as in `estimate_kernel`; R plans. The network is in `network_kernel`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dynpartition.agent.estimate_kernel import (
    ABSENT,
    BELOW_NS,
    CELL,
    DURATION_NS,
    END,
    FREE_NS,
    HAS_HOST_INPUT,
    HOME,
    HOST_COPY_NS,
    INPUTS,
    INPUTS_END,
    LATEST_NS,
    MISSING,
    N_CELLS,
    N_FIRST,
    N_GATED,
    N_SPANS,
    N_TASKS,
    NEVER,
    READERS,
    READERS_END,
    READY_NS,
    RELEASE_NS,
    REST_NS,
    RUN_NS,
    SIZE_BYTES,
    START,
    THERE_NS,
    USED,
    WALK_NS,
    Places,
    book,
    commit,
    end_of,
    find_options,
    first_use_ns,
    is_resident,
    least_used,
    link_between,
    load_ns,
    may_lack,
    of_busy,
    of_candidate,
    of_device,
    of_pair,
    of_task,
    option_start_ns,
    release_known,
    reset_slot,
    unpack,
    walk_ns,
    weights_bytes,
    weights_limit_bytes,
)
from dynpartition.agent.network_kernel import (
    N_OPTION_FEATURES,
    N_OPTION_UNITS,
    N_READY_UNITS,
    N_WINDOW,
    Net,
    embed,
    score_options,
    score_options_plain,
    score_ready,
    score_ready_plain,
)
from dynpartition.compiled import compiled, inlined
from dynpartition.sim.kernel import lowest
from dynpartition.types import FloatArray, IntArray

ABOUT_PER_UNIT, ABOUT_WORK_NS, ABOUT_LONGEST, ABOUT_DEVICES = range(4)
MAX_DEVICES = 64
WORD = 60  # ready tasks per word of bits
ALONE, ALL, HALF, LOCAL = range(4)
"""Which other ready tasks of its cell a task is launched with: none, all, the first half of them by
priority, those whose last inputs come from the same device. Option = kind · D + device."""
N_KINDS = 4
LEAST_NS = 1  # column of `z`: the shortest duration of a task


@inlined
def study(
    s: IntArray, p: Places, order: IntArray, z: npt.NDArray[np.float64], facts: FloatArray,
    near: IntArray, about: npt.NDArray[np.float64], batch_ns: IntArray,
    share: npt.NDArray[np.float64], left_of: IntArray, wide: int,
) -> None:  # fmt: skip
    """Write the features of all tasks (N, N_STATIC) and what steps need of graph and machine.

    `order`: tasks, inputs first. `z`: (N, 8) scratch, of which LEAST_NS is kept. `near`: (N,) each
    task's reader of highest rank, itself where it has none. `about`: see the ABOUT columns.
    `batch_ns`: (K, D, B) durations of launches of b tasks, where batches pay. `share`: (K, D) gets
    what a task in a batch of likely size takes, divided by what it takes alone. `left_of`: (K,)
    scratch.
    """
    n, n_devices = s[p.sums + N_TASKS], p.n_devices
    if wide != 0:
        expect_batches(s, p, order, z, batch_ns, share, left_of)
    total_mean = total_min = total_move = 0.0
    n_edges = 0
    for device in range(n_devices):
        about[ABOUT_DEVICES + device] = 0.0
        about[ABOUT_DEVICES + MAX_DEVICES + device] = 0.0
    for at in range(n):
        t = order[at]
        pair = of_pair(p.pairs, n_devices, t, 0, RUN_NS)
        total, count, least = 0.0, 0, 1e300
        cell = s[of_task(p.tasks, t, CELL)]
        for device in range(n_devices):
            if s[pair + device] >= 0:
                ns = s[pair + device] * share[cell, device]
                total += ns
                count += 1
                least = min(least, ns)
        for device in range(n_devices):
            if s[pair + device] >= 0:
                about[ABOUT_DEVICES + device] += s[pair + device] * share[cell, device]
                about[ABOUT_DEVICES + MAX_DEVICES + device] += least
        mean = total / max(count, 1)
        move = 0.0
        for link in range(p.n_links):
            move += s[p.moves + p.n_links * t + link]
        move = move / max(p.n_links, 1) + (p.handoff_ns if p.n_links > 0 else 0)
        z[t, 0], z[t, 1], z[t, 2] = mean, least, move
        total_mean += mean
        total_min += least
        down, work = 0.0, least
        first, last = s[of_task(p.tasks, t, INPUTS)], s[of_task(p.tasks, t, INPUTS_END)]
        for place in range(first, last):
            source = s[p.rows + place]
            down = max(down, z[source, 3] + z[source, 0] + z[source, 2])
            n_readers = (
                s[of_task(p.tasks, source, READERS_END)] - s[of_task(p.tasks, source, READERS)]
            )
            work += z[source, 4] / max(n_readers, 1)
            total_move += z[source, 2]
        n_edges += last - first
        z[t, 3], z[t, 4] = down, work
    if s[p.sums + N_FIRST] > 0:
        for cell in range(s[p.sums + N_CELLS]):
            for device in range(n_devices):
                about[ABOUT_DEVICES + device] += s[p.first_ns + n_devices * cell + device]
    longest = longest_min = 1.0
    for at in range(n - 1, -1, -1):
        t = order[at]
        up, up_min, work = 0.0, 0.0, z[t, 1]
        near[t] = t
        best = -1.0
        for place in range(s[of_task(p.tasks, t, READERS)], s[of_task(p.tasks, t, READERS_END)]):
            reader = s[p.rows + place]
            up = max(up, z[t, 2] + z[reader, 5])
            up_min = max(up_min, z[reader, 6])
            n_inputs = s[of_task(p.tasks, reader, INPUTS_END)] - s[of_task(p.tasks, reader, INPUTS)]
            work += z[reader, 7] / max(n_inputs, 1)
            if z[reader, 5] > best:
                best = z[reader, 5]
                near[t] = reader
        z[t, 5], z[t, 6], z[t, 7] = up + z[t, 0], up_min + z[t, 1], work
        s[of_task(p.tasks, t, BELOW_NS)] = int(up)
        s[of_task(p.tasks, t, REST_NS)] = int(up_min)
        longest = max(longest, z[t, 5] + z[t, 3])
        longest_min = max(longest_min, z[t, 6])
    unit = max(1.0, total_mean / max(n, 1))
    fluid_rate, best_single = 0.0, 1e300
    for device in range(n_devices):
        ns, least = about[ABOUT_DEVICES + device], about[ABOUT_DEVICES + MAX_DEVICES + device]
        rate = least / max(ns, 1.0)  # first uses count as work
        about[ABOUT_DEVICES + MAX_DEVICES + device] = rate
        about[ABOUT_DEVICES + 2 * MAX_DEVICES + device] = -np.log(max(rate, 1e-3))
        fluid_rate += rate * least / max(total_min, 1.0)
        about[ABOUT_DEVICES + 3 * MAX_DEVICES + device] = 1e300
        if least >= total_min:
            best_single = min(best_single, ns)
            about[ABOUT_DEVICES + 3 * MAX_DEVICES + device] = ns
    fluid = total_min / max(fluid_rate, 1e-9)
    best_single = min(best_single, 100.0 * fluid)
    about[ABOUT_PER_UNIT], about[ABOUT_WORK_NS] = 1.0 / unit, total_min
    about[ABOUT_LONGEST] = longest
    shared = 0.0
    for link in range(p.n_links):
        for other in range(p.n_links):
            if s[p.held + p.n_held * link] == s[p.held + p.n_held * other]:
                shared += 1.0
    shared = shared / max(p.n_links, 1) / max(p.n_links, 1)
    balance = 2.0 * (total_move - total_mean) / max(total_move + total_mean, 1.0)
    gain = 2.0 * (best_single - fluid) / max(best_single + fluid, 1.0)
    width = total_min / longest_min
    for t in range(n):
        mean, least, move, down, above, up = z[t, 0], z[t, 1], z[t, 2], z[t, 3], z[t, 4], z[t, 5]
        n_inputs = s[of_task(p.tasks, t, INPUTS_END)] - s[of_task(p.tasks, t, INPUTS)]
        n_readers = s[of_task(p.tasks, t, READERS_END)] - s[of_task(p.tasks, t, READERS)]
        f = facts[t]
        f[0], f[1], f[2] = up / longest, down / longest, (up + down) / longest
        f[3] = z[t, 6] / longest_min
        f[4] = 4.0 * mean / (4.0 * unit + mean)
        f[5] = least / max(mean, 1.0)
        f[6] = 4.0 * move / (4.0 * unit + move)
        f[7] = move / max(move + mean, 1.0)
        f[8], f[9] = 4.0 * n_inputs / (4.0 + n_inputs), 4.0 * n_readers / (4.0 + n_readers)
        f[10], f[11] = above / (above + unit), z[t, 7] / (z[t, 7] + unit)
        f[12], f[13] = (
            min(1.0, above / max(total_min, 1.0)),
            min(1.0, z[t, 7] / max(total_min, 1.0)),
        )
        f[14] = 1.0 if n_readers == 0 else 0.0
        f[15] = 1.0 if s[of_task(p.tasks, t, HAS_HOST_INPUT)] != 0 else 0.0
        f[16] = balance
        f[17] = 4.0 * width / (4.0 + width)
        f[18] = n / (n + 64.0)
        f[19] = n_devices / 8.0
        f[20] = gain
        f[21] = shared
        far = near[near[t]]
        f[22] = min(1.0, z[far, 4] / max(total_min, 1.0))
        far = near[near[far]]
        f[23] = min(1.0, z[far, 4] / max(total_min, 1.0))
        far = near[near[far]]
        f[24] = min(1.0, z[far, 4] / max(total_min, 1.0))
        if wide != 0:
            f[25], f[26] = 0.0, 0.0
            cell = s[of_task(p.tasks, t, CELL)]
            for device in range(n_devices):
                f[25] = max(f[25], most_saved(batch_ns, cell, device))
                f[26] = max(f[26], squash(load_ns(s, p, t, device) / unit))


@inlined
def expect_batches(
    s: IntArray, p: Places, order: IntArray, z: npt.NDArray[np.float64], batch_ns: IntArray,
    share: npt.NDArray[np.float64], count_of: IntArray,
) -> None:  # fmt: skip
    """Write `share`, see `study`: batches are likely as large as the cell's part of the width.

    The width is the work of all tasks divided by that of the longest path.
    """
    n, n_devices, total, longest = s[p.sums + N_TASKS], p.n_devices, 0.0, 1.0
    for cell in range(len(share)):
        count_of[cell] = 0
    for at in range(n):
        t = order[at]
        least = 1e300
        for device in range(n_devices):
            ns = s[of_pair(p.pairs, n_devices, t, device, RUN_NS)]
            if ns >= 0:
                least = min(least, float(ns))
        up = 0.0
        for place in range(s[of_task(p.tasks, t, INPUTS)], s[of_task(p.tasks, t, INPUTS_END)]):
            up = max(up, z[s[p.rows + place], 0])
        z[t, 0] = up + least
        total += least
        longest = max(longest, z[t, 0])
        count_of[s[of_task(p.tasks, t, CELL)]] += 1
    for cell in range(len(share)):
        expected = int(total / longest * count_of[cell] / n + 0.5)
        for device in range(n_devices):
            share[cell, device] = 1.0
            if batch_ns.shape[2] > 2 and batch_ns[cell, device, 2] >= 0:
                k = max(1, min(expected, batch_ns.shape[2] - 1))
                alone_ns = k * batch_ns[cell, device, 1]
                share[cell, device] = batch_ns[cell, device, k] / max(alone_ns, 1)


@inlined
def most_saved(batch_ns: IntArray, cell: int, device: int) -> float:
    """Return which share of their time tasks of a cell could save in large batches."""
    largest = min(16, batch_ns.shape[2] - 1)
    if largest < 2 or batch_ns[cell, device, 2] < 0:
        return 0.0
    alone_ns = largest * batch_ns[cell, device, 1]
    return 1.0 - batch_ns[cell, device, largest] / max(alone_ns, 1)


@inlined
def sort_by_priority(
    priority: FloatArray, style: int, n: int, order: IntArray, spare: IntArray
) -> None:
    """Write tasks by descending priority, ties by number: merge sort from below."""
    for t in range(n):
        order[t] = t
    width = 1
    while width < n:
        low = 0
        while low < n:
            middle, high = min(low + width, n), min(low + 2 * width, n)
            i, j = low, middle
            for at in range(low, high):
                if i < middle and (
                    j >= high or priority[order[i], style] >= priority[order[j], style]
                ):
                    spare[at] = order[i]
                    i += 1
                else:
                    spare[at] = order[j]
                    j += 1
            low += 2 * width
        for at in range(n):
            order[at] = spare[at]
        width *= 2


@inlined
def random_bits(state: int) -> int:
    """Return 52 random bits of a counter (splitmix64)."""
    v = np.uint64(state) * np.uint64(0x9E3779B97F4A7C15)
    v = (v ^ (v >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    v = (v ^ (v >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    v = v ^ (v >> np.uint64(31))
    return int(v >> np.uint64(12))


FORBIDDEN = -1e300
"""The score of what may not be chosen."""


@inlined
def choice(scores: npt.NDArray[np.float64], n: int, seed: int, number: int) -> int:
    """Return the best of n scores; with a seed ≥ 0 a softmax draw, which overwrites them.

    `number`: of the draw.
    """
    best = 0
    for at in range(1, n):
        if scores[at] > scores[best]:
            best = at
    if seed < 0:
        return best
    top, total = scores[best], 0.0
    for at in range(n):
        share = np.exp(scores[at] - top) if scores[at] > FORBIDDEN else 0.0
        scores[at] = share
        total += share
    left = (random_bits(seed * 1_000_003 + number) + 0.5) * (1.0 / 4503599627370496.0) * total
    for at in range(n):
        left -= scores[at]
        if left < 0:
            return at
    return best


@inlined
def squash(value: float) -> float:
    """Return about log(1 + x), within ±4."""
    return 4.0 * value / (4.0 + abs(value))


@inlined
def roll(
    s: IntArray, s0: IntArray, p: Places, w: FloatArray, net: Net,
    about: npt.NDArray[np.float64], near: IntArray, priority: FloatArray, to_ready: FloatArray,
    to_option: FloatArray, by_priority: IntArray, place_of: IntArray, words: IntArray,
    fresh: IntArray, related: IntArray, left: npt.NDArray[np.float64], left_of: IntArray,
    ready_of: IntArray, window: IntArray, same: IntArray, units: FloatArray,
    scores: npt.NDArray[np.float64], z: npt.NDArray[np.float64], batch_ns: IntArray,
    share: npt.NDArray[np.float64], mates: IntArray, tally: IntArray, wide: int, n_kinds: int,
    style: int, seed: int, bound_ns: int, chosen: IntArray, records: int, rec: IntArray,
    rec_ready: FloatArray, rec_option: FloatArray, view_ready: FloatArray, view_option: FloatArray,
) -> int:  # fmt: skip
    """Place all tasks that slot `s0` has not placed; return the estimated end, or ABSENT.

    NEVER where the end would not be before `bound_ns`. `style` −1, −2, …: everything goes to one
    device, the one that runs it all fastest, the next one, …, in the largest batches. `seed` < 0:
    greedy. `left_of`, `ready_of`: (K,) scratch, `mates` (B,), `tally` (2, MAX_DEVICES). `chosen`:
    (N, 3) tasks, devices, and whether they join the launch before, in order of choice. With
    `records` what was seen and done at each step is written to `rec` (N, 4 + N_WINDOW), `rec_ready`
    (N, N_WINDOW, …), `rec_option` (N, n_kinds · D, …): number of ready tasks, choice among them,
    option, legal options as bits; then the tasks. A step of 0 ready tasks ends them.
    """
    n, n_devices, only = s0[p.sums + N_TASKS], p.n_devices, ABSENT
    if style < 0:
        style, only = 0, alone(about, n_devices, -1 - style)
        if only < 0:
            return ABSENT
        is_known = n_kinds == 1 and s0[p.sums + LATEST_NS] == 0
        if is_known and total_alone(about, only) >= bound_ns:
            return NEVER  # nothing is planned, and it surely ends later
    reset_slot(s, s0, p)
    per_unit = about[ABOUT_PER_UNIT]
    sort_by_priority(priority, style, n, by_priority, place_of)
    n_words = n // WORD + 1
    for word in range(n_words):
        words[word] = 0
    for device in range(n_devices):
        left[device] = 0.0
    n_left, work_left, rates = 0, 0.0, 0.0
    for cell in range(s[p.sums + N_CELLS]):
        left_of[cell] = ready_of[cell] = 0
    for at in range(n):
        place_of[by_priority[at]] = at
        for device in range(n_devices + 1):
            related[at, device] = 0
    for t in range(n):
        if s[of_task(p.tasks, t, HOME)] >= 0:
            relate(near, related, t, s[of_task(p.tasks, t, HOME)])
            continue
        n_left += 1
        work_left += z[t, LEAST_NS]
        cell = s[of_task(p.tasks, t, CELL)]
        left_of[cell] += 1
        for device in range(n_devices):
            run_ns = max(s[of_pair(p.pairs, n_devices, t, device, RUN_NS)], 0)
            left[device] += run_ns * share[cell, device]
        if s[of_task(p.tasks, t, MISSING)] == 0:
            words[place_of[t] // WORD] |= 1 << (place_of[t] % WORD)
            ready_of[cell] += 1
            note_ready(s, p, t, ABSENT, fresh)
    for cell in range(s[p.sums + N_CELLS]):
        if s[p.sums + N_FIRST] > 0 and left_of[cell] > 0:
            for device in range(n_devices):
                left[device] += s[p.first_ns + n_devices * cell + device]
    for device in range(n_devices):
        rates += about[ABOUT_DEVICES + MAX_DEVICES + device]
    first_word, last_task, n_chosen, n_options = 0, ABSENT, 0, n_kinds * n_devices
    ready_bias = net.ready_bias + style * N_READY_UNITS
    option_bias = net.option_bias + style * N_OPTION_UNITS
    for step in range(n_left):
        if n_chosen == n_left:
            break
        # Which ready task comes next.
        n_ready = 0
        while words[first_word] == 0:
            first_word += 1
            if first_word >= n_words:
                return ABSENT
        word = first_word
        while word < n_words and n_ready < N_WINDOW:
            bits = words[word]
            while bits != 0 and n_ready < N_WINDOW:
                window[n_ready] = by_priority[word * WORD + lowest(bits)]
                n_ready += 1
                bits &= bits - 1
            word += 1
        if s[p.sums + N_GATED] > 0:
            release_known(s, p)
        least_free = s[of_device(p.devices, 0, FREE_NS)]
        mean_free, fluid = 0.0, work_left
        for device in range(n_devices):
            free = s[of_device(p.devices, device, FREE_NS)]
            least_free = min(least_free, free)
            mean_free += free
            fluid += free * about[ABOUT_DEVICES + MAX_DEVICES + device]
        mean_free /= n_devices
        fluid /= max(rates, 1e-9)
        pick = 0
        if p.all_linked == 0:
            n_ready = keep_legal(s, p, window, n_ready)
            if n_ready == 0:
                return ABSENT
        seen = rec_ready[step] if records != 0 else view_ready
        if n_ready > 1 and only < 0:
            to_do = work_left / max(about[ABOUT_WORK_NS], 1.0)
            for at in range(n_ready):
                see_ready(
                    s, p, window[at], near, related, fresh, seen[at], per_unit, least_free, step,
                    at, to_do,
                )  # fmt: skip
            if wide != 0:
                for at in range(n_ready):
                    cell = s[of_task(p.tasks, window[at], CELL)]
                    seen[at, 10] = squash(0.25 * (ready_of[cell] - 1))
                    seen[at, 11] = ready_of[cell] / max(left_of[cell], 1)
                    seen[at, 12] = 0.0
                    if last_task >= 0 and cell == s[of_task(p.tasks, last_task, CELL)]:
                        seen[at, 12] = 1.0
                    seen[at, 13] = resident_share(s, p, cell)
                score_ready(
                    seen, n_ready, to_ready, window, w, net.ready, ready_bias, net.ready_score,
                    units, scores,
                )  # fmt: skip
            else:
                score_ready_plain(
                    seen, n_ready, to_ready, window, w, net.ready, ready_bias, net.ready_score,
                    units, scores,
                )  # fmt: skip
            for at in range(n_ready):
                scores[at] += priority[window[at], style]
            pick = choice(scores, n_ready, seed, 2 * step)
        t = window[pick]
        if records != 0:
            rec[step, 0], rec[step, 1] = n_ready, pick
            for at in range(n_ready):
                rec[step, 4 + at] = window[at]
        # Where it runs, and with which others.
        cell, n_mates = s[of_task(p.tasks, t, CELL)], 0
        if n_kinds > 1 and ready_of[cell] > 1 and pays_in_batches(batch_ns, cell, n_devices):
            n_mates = find_mates(
                s, p, t, by_priority, words, first_word, n_words, batch_ns.shape[2] - 2, mates,
            )  # fmt: skip
        option, legal = only, 0
        if only < 0:
            legal = find_options(s, p, t)
        elif p.all_linked != 0 or find_options(s, p, t) & (1 << only) != 0:
            legal = 1 << only  # which runs everything
        if legal == 0:
            return ABSENT
        if only < 0:
            view = rec_option[step] if records != 0 else view_option
            see_options(
                s, p, t, legal, near, related, left, view, about, mean_free, fluid, step,
                last_task,
            )  # fmt: skip
            n_scored = n_devices
            if wide != 0:
                see_weights(s, p, t, legal, view, per_unit, left_of)
                see_alone(s, p, t, legal, view, per_unit, batch_ns, n_mates, left_of[cell])
                if n_mates > 0:
                    legal |= see_batches(
                        s, p, t, legal, view, per_unit, fluid, batch_ns, mates, n_mates, fresh,
                        tally, left_of[cell],
                    )  # fmt: skip
                    n_scored = n_options
            for d in range(n_scored):
                same[d] = t
            if wide != 0:
                score_options(
                    view, n_scored, to_option, same, w, net.option, option_bias, net.option_score,
                    units, scores,
                )  # fmt: skip
            else:
                score_options_plain(
                    view, n_scored, to_option, same, w, net.option, option_bias, net.option_score,
                    units, scores,
                )  # fmt: skip
            for d in range(n_scored):
                if legal & (1 << d) == 0:
                    scores[d] = FORBIDDEN
            option = choice(scores, n_scored, seed, 2 * step + 1)
        elif n_mates > 0 and batch_ns[cell, only, 2] >= 0:
            option = ALL * n_devices + only
        if records != 0:
            rec[step, 2], rec[step, 3] = option, legal
        # Place it.
        device = option % n_devices
        n_together = gather_mates(option // n_devices, device, mates, n_mates, fresh)
        mates[0] = t
        left[device] -= first_use_ns(s, p, t, device)
        run_ns = s[of_pair(p.pairs, n_devices, t, device, RUN_NS)]
        if n_together > 1:
            run_ns = batch_ns[cell, device, n_together]
        commit(s, p, mates, 0, n_together, device, run_ns)
        end_ns = s[of_device(p.devices, device, FREE_NS)] + s[of_task(p.tasks, t, REST_NS)]
        if max(end_ns, s[p.sums + LATEST_NS]) >= bound_ns:
            return NEVER
        last_task = t
        left_of[cell] -= n_together
        ready_of[cell] -= n_together
        if s[p.sums + N_FIRST] > 0 and left_of[cell] == 0:
            for d in range(n_devices):
                left[d] -= s[p.first_ns + n_devices * cell + d]
        for which in range(n_together):
            t = mates[which]
            chosen[n_chosen, 0], chosen[n_chosen, 1] = t, device
            chosen[n_chosen, 2] = 1 if which > 0 else 0
            n_chosen += 1
            work_left -= z[t, LEAST_NS]
            for d in range(n_devices):
                alone_ns = max(s[of_pair(p.pairs, n_devices, t, d, RUN_NS)], 0)
                left[d] -= alone_ns * share[cell, d]
            relate(near, related, t, device)
            words[place_of[t] // WORD] &= ~(1 << (place_of[t] % WORD))
        for which in range(n_together):
            t = mates[which]
            for at in range(s[of_task(p.tasks, t, READERS)], s[of_task(p.tasks, t, READERS_END)]):
                reader = s[p.rows + at]
                s[of_task(p.tasks, reader, MISSING)] -= 1
                if s[of_task(p.tasks, reader, MISSING)] == 0:
                    note_ready(s, p, reader, step, fresh)
                    ready_of[s[of_task(p.tasks, reader, CELL)]] += 1
                    where = place_of[reader]
                    words[where // WORD] |= 1 << (where % WORD)
                    first_word = min(first_word, where // WORD)
        if records != 0 and step + 1 < len(rec):
            rec[step + 1, 0] = 0
    return s[p.sums + LATEST_NS]


@compiled
def roll_many(
    s: IntArray, s0: IntArray, layout: IntArray, order: IntArray, w: FloatArray, net: Net,
    about: npt.NDArray[np.float64], near: IntArray, z: npt.NDArray[np.float64], facts: FloatArray,
    coded: FloatArray, mixed: FloatArray, sums: FloatArray, priority: FloatArray,
    to_ready: FloatArray, to_option: FloatArray, by_priority: IntArray, place_of: IntArray,
    words: IntArray, fresh: IntArray, related: IntArray, left: npt.NDArray[np.float64],
    left_of: IntArray, ready_of: IntArray, window: IntArray, same: IntArray, units: FloatArray,
    scores: npt.NDArray[np.float64], batch_ns: IntArray, share: npt.NDArray[np.float64],
    mates: IntArray, tally: IntArray, wide: int, n_kinds: int, styles: IntArray, seeds: IntArray,
    chosen: IntArray, ends_ns: IntArray, thinks: int, prunes: int, records: int, rec: IntArray,
    rec_ready: FloatArray, rec_option: FloatArray, view_ready: FloatArray, view_option: FloatArray,
) -> None:  # fmt: skip
    """Play a plan for each style and seed; see `roll`. `ends_ns`: the estimated ends.

    `wide`: whether batches pay or weights do not fit; `n_kinds`: N_KINDS where batches are choices,
    else 1.

    With `thinks` the graph is studied and the graph network run on it before. With `prunes` a plan
    is given up as soon as an earlier one is as good.
    """
    p, bound_ns = unpack(layout), NEVER
    if thinks != 0:
        study(s0, p, order, z, facts, near, about, batch_ns, share, left_of, wide)
        embed(s0, p, w, net, facts, coded, mixed, sums, priority, to_ready, to_option, wide)
    for r in range(len(styles)):
        if prunes != 0 and r > 0 and ends_ns[r - 1] >= 0:
            bound_ns = min(bound_ns, ends_ns[r - 1])
        at = r if records != 0 else 0
        ends_ns[r] = roll(
            s, s0, p, w, net, about, near, priority, to_ready, to_option, by_priority, place_of,
            words, fresh, related, left, left_of, ready_of, window, same, units, scores, z,
            batch_ns, share, mates, tally, wide, n_kinds, styles[r], seeds[r], bound_ns, chosen[r],
            records, rec[at], rec_ready[at], rec_option[at], view_ready, view_option,
        )  # fmt: skip


@compiled
def fed_first_ns(
    s: IntArray, s0: IntArray, layout: IntArray, chosen: IntArray, batch_ns: IntArray,
    together: IntArray,
) -> int:  # fmt: skip
    """Return when a plan ends if what its tasks read from the host travels before anything else.

    So it does in a run: it can be sent at once, in plan order. While a plan grows nobody knows what
    will be read where. `chosen`: see `roll`; `together`: (B,) scratch.
    """
    p, n = unpack(layout), len(chosen)
    reset_slot(s, s0, p)
    if s[p.sums + N_GATED] > 0:
        release_known(s, p)
    for at in range(n):
        t, device = chosen[at, 0], chosen[at, 1]
        if s[of_task(p.tasks, t, HAS_HOST_INPUT)] != 0 and device != p.host:
            length_ns = s[of_pair(p.pairs, p.n_devices, t, device, HOST_COPY_NS)]
            release = of_task(p.tasks, t, RELEASE_NS)
            s[release] = book(s, p, link_between(s, p, p.host, device), length_ns, s[release])
            s[of_task(p.tasks, t, HAS_HOST_INPUT)] = 0
    first = 0
    while first < n:
        last, device = first + 1, chosen[first, 1]
        while last < n and chosen[last, 2] != 0:
            last += 1
        for at in range(first, last):
            together[at - first] = chosen[at, 0]
        t = chosen[first, 0]
        run_ns = s[of_pair(p.pairs, p.n_devices, t, device, RUN_NS)]
        if last - first > 1:
            run_ns = batch_ns[s[of_task(p.tasks, t, CELL)], device, last - first]
        commit(s, p, together, 0, last - first, device, run_ns)
        first = last
    return s[p.sums + LATEST_NS]


@inlined
def total_alone(about: npt.NDArray[np.float64], device: int) -> float:
    """Return how long a device needs for all tasks, 1e300 if it cannot run them all."""
    return about[ABOUT_DEVICES + 3 * MAX_DEVICES + device]


@inlined
def alone(about: npt.NDArray[np.float64], n_devices: int, place: int) -> int:
    """Return the device at a place among those that can run everything, the fastest first."""
    for device in range(n_devices):
        total_ns, before = total_alone(about, device), 0
        for other in range(n_devices):
            ns = total_alone(about, other)
            before += ns < total_ns or (ns == total_ns and other < device)
        if before == place and total_ns < 1e300:
            return device
    return ABSENT


@inlined
def relate(near: IntArray, related: IntArray, task: int, device: int) -> None:
    """Count a placed task at the readers of highest rank along six steps; the last column sums."""
    at, total = task, related.shape[1] - 1
    for _ in range(6):
        if near[at] == at:
            break
        at = near[at]
        related[at, device] += 1
        related[at, total] += 1


BORN, FRESH_NS, FRESH_HOME, IS_ALIKE = range(4)  # columns of what is noted of ready tasks


@inlined
def note_ready(s: IntArray, p: Places, task: int, step: int, fresh: IntArray) -> None:
    """Note of a task that has become ready at `step` where its inputs end, and which ends last."""
    ready_ns, home, alike = s[of_task(p.tasks, task, RELEASE_NS)], ABSENT, 1
    for at in range(s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]):
        source = s[p.rows + at]
        end_ns, device = end_of(s, p, source), s[of_task(p.tasks, source, HOME)]
        if home >= 0 and device != home:
            alike = 0
        if end_ns >= ready_ns or home < 0:
            ready_ns, home = max(ready_ns, end_ns), device
    fresh[task, BORN], fresh[task, FRESH_NS] = step, ready_ns
    fresh[task, FRESH_HOME], fresh[task, IS_ALIKE] = home, alike


@inlined
def keep_legal(s: IntArray, p: Places, window: IntArray, n_ready: int) -> int:
    """Keep the ready tasks that may go somewhere, where links are missing; return how many."""
    kept = 0
    for at in range(n_ready):
        task = window[at]
        if find_options(s, p, task) != 0:
            window[kept] = task
            kept += 1
    return kept


@inlined
def see_ready(
    s: IntArray, p: Places, task: int, near: IntArray, related: IntArray, fresh: IntArray,
    seen: FloatArray, per_unit: float, least_free: int, step: int, place: int, work_left: float,
) -> None:  # fmt: skip
    """Write the features of a ready task."""
    home, age, total = fresh[task, FRESH_HOME], step - 1 - fresh[task, BORN], p.n_devices
    at = near[task]
    n_inputs = s[of_task(p.tasks, at, INPUTS_END)] - s[of_task(p.tasks, at, INPUTS)]
    seen[0] = squash((fresh[task, FRESH_NS] - least_free) * per_unit)
    seen[1] = 1.0 if age == 0 else 0.0
    seen[2] = squash(0.25 * age)
    seen[3] = place * 0.0625
    seen[4] = fresh[task, IS_ALIKE] if home >= 0 else 0.5
    seen[5] = (n_inputs - s[of_task(p.tasks, at, MISSING)]) / max(n_inputs, 1)
    seen[6] = (
        squash((s[of_device(p.devices, home, FREE_NS)] - least_free) * per_unit)
        if home >= 0
        else 0.0
    )
    seen[7] = work_left
    seen[8] = squash(0.5 * related[at, total])
    seen[9] = squash(0.25 * related[near[near[at]], total])


@inlined
def see_options(
    s: IntArray, p: Places, task: int, legal: int, near: IntArray, related: IntArray,
    left: npt.NDArray[np.float64], seen: FloatArray, about: npt.NDArray[np.float64],
    mean_free: float, fluid: float, n_chosen: int, last_task: int,
) -> None:  # fmt: skip
    """Write the features of a task on every legal device."""
    n_devices, per_unit = p.n_devices, about[ABOUT_PER_UNIT]
    pair = of_pair(p.pairs, n_devices, task, 0, 0)
    candidates = of_candidate(p.candidates, n_devices, 0, 0, 0)
    first_start = first_end = first_ready = shortest = NEVER
    first_alone = 1e300
    far = near[near[near[task]]]
    farther = near[near[near[far]]]
    n_near, n_far = related[near[task], n_devices], related[far, n_devices]
    n_farther = related[farther, n_devices]
    for d in range(n_devices):
        first_alone = min(first_alone, s[of_device(p.devices, d, FREE_NS)] + left[d])
        if legal & (1 << d) != 0:
            if p.dispatches != 0:
                s[of_device(p.devices, d, WALK_NS)] = walk_ns(s, p, d)
            start = option_start_ns(s, p, task, d)
            lasts = s[pair + n_devices * DURATION_NS + d]
            s[candidates + 2 * d + START], s[candidates + 2 * d + END] = start, start + lasts
            first_start, first_end = min(first_start, start), min(first_end, start + lasts)
            first_ready = min(first_ready, s[pair + n_devices * READY_NS + d])
            shortest = min(shortest, lasts)
    first, last = s[of_task(p.tasks, task, INPUTS)], s[of_task(p.tasks, task, INPUTS_END)]
    fed = s[of_task(p.tasks, task, HAS_HOST_INPUT)] != 0
    last_home = s[of_task(p.tasks, last_task, HOME)] if last_task >= 0 else ABSENT
    latest = s[p.sums + LATEST_NS]
    below = s[of_task(p.tasks, task, BELOW_NS)]
    n_inputs = last - first + (1 if fed else 0)
    # Divisions take longest; these are alike for all devices.
    per_input, per_fluid = 1.0 / max(n_inputs, 1), 1.0 / max(fluid, 1.0)
    per_near, per_far, per_farther = (
        1.0 / max(n_near, 1), 1.0 / max(n_far, 1), 1.0 / max(n_farther, 1),
    )  # fmt: skip
    per_chosen, per_out = 1.0 / max(n_chosen, 1), per_unit / max(n_devices - 1, 1)
    gain = 2.0 * (first_alone - fluid) / max(first_alone + fluid, 1.0)
    near_placed, far_placed = squash(0.5 * n_near), squash(0.25 * n_far)
    for d in range(n_devices):
        if legal & (1 << d) == 0:
            continue
        f = seen[d]
        start, end = s[candidates + 2 * d + START], s[candidates + 2 * d + END]
        free = s[of_device(p.devices, d, FREE_NS)]
        lasts = end - start
        n_local, moved = (1 if fed and d == p.host else 0), 0
        for at in range(first, last):
            source = s[p.rows + at]
            home = s[of_task(p.tasks, source, HOME)]
            if home == d:
                n_local += 1
            elif s[of_pair(p.pairs, n_devices, source, d, THERE_NS)] < 0:
                moved += s[p.moves + p.n_links * source + link_between(s, p, home, d)]
        out, busy, n_out = 0, 0, 0
        for other in range(n_devices):
            link = link_between(s, p, d, other) if other != d else ABSENT
            if link >= 0:
                n_out += 1
                out += s[p.moves + p.n_links * task + link]
                resource = s[p.held + p.n_held * link]
                count = s[p.n_busy + resource]
                if count > 0:
                    busy += max(
                        s[of_busy(p.busy, p.n_intervals, resource, count - 1, END)] - end, 0
                    )
        alone = free + left[d]
        each = per_out if n_out == n_devices - 1 else per_unit / max(n_out, 1)
        f[0] = squash((start - first_start) * per_unit)
        f[1] = squash((end - first_end) * per_unit)
        f[2] = 1.0 if end == first_end else 0.0
        f[3] = squash((start - free) * per_unit)
        f[4] = squash((s[pair + n_devices * READY_NS + d] - first_ready) * per_unit)
        f[5] = squash(lasts * per_unit)
        f[6] = 2.0 * (lasts - shortest) / max(lasts + shortest, 1)
        f[7] = n_local * per_input if n_inputs > 0 else 0.5
        f[8] = squash(max(end - latest, 0) * per_unit)
        f[9] = squash((free - mean_free) * per_unit)
        f[10] = related[near[task], d] * per_near
        f[11] = related[far, d] * per_far
        f[12] = 1.0 if d == last_home else 0.0
        f[13] = about[ABOUT_DEVICES + 2 * MAX_DEVICES + d]
        f[14] = squash((end - fluid) * per_unit)
        f[15] = max(-2.0, min(2.0, (end + below - fluid) * per_fluid))
        f[16] = 2.0 * (alone - first_alone) / max(alone + first_alone, 1.0)
        f[17] = gain
        f[18] = squash(out * each)
        f[19] = squash(busy * each)
        f[20] = 1.0 if s[of_device(p.devices, d, USED)] != 0 else 0.0
        f[21] = s[of_device(p.devices, d, N_SPANS)] * per_chosen
        f[22] = squash(moved * per_unit)
        f[23] = near_placed
        f[24] = related[farther, d] * per_farther
        f[25] = far_placed


@inlined
def pays_in_batches(batch_ns: IntArray, cell: int, n_devices: int) -> bool:
    """Return whether some device gains by batches of a cell."""
    n_paying = 0
    for device in range(n_devices):
        n_paying += batch_ns[cell, device, 2] >= 0
    return n_paying > 0


@inlined
def find_mates(
    s: IntArray, p: Places, task: int, by_priority: IntArray, words: IntArray, first_word: int,
    n_words: int, most: int, mates: IntArray,
) -> int:  # fmt: skip
    """Write other ready tasks of the task's cell, best priority first, from mates[1] on.

    Return how many. Only the first SCAN_MAX ready tasks are looked at.
    """
    cell, found, scanned = s[of_task(p.tasks, task, CELL)], 0, 0
    word = first_word
    while word < n_words and found < most and scanned < SCAN_MAX:
        bits = words[word]
        while bits != 0 and found < most:
            other = by_priority[word * WORD + lowest(bits)]
            if other != task and s[of_task(p.tasks, other, CELL)] == cell:
                found += 1
                mates[found] = other
            scanned += 1
            bits &= bits - 1
        word += 1
    return found


SCAN_MAX = 512


@inlined
def gather_mates(kind: int, device: int, mates: IntArray, n_mates: int, fresh: IntArray) -> int:
    """Keep the mates of a kind of option, from mates[1] on; return how many tasks it launches."""
    if kind == ALONE:
        return 1
    if kind == HALF:
        return 1 + n_mates // 2
    if kind == ALL:
        return 1 + n_mates
    kept = 1
    for at in range(1, n_mates + 1):
        if fresh[mates[at], FRESH_HOME] == device:
            mates[kept] = mates[at]
            kept += 1
    return kept


@inlined
def resident_share(s: IntArray, p: Places, cell: int) -> float:
    """Return on which share of the devices the weights of a cell are."""
    count = 0
    for device in range(p.n_devices):
        count += is_resident(s, p, cell, device)
    return count / p.n_devices


@inlined
def see_weights(
    s: IntArray, p: Places, task: int, legal: int, seen: FloatArray, per_unit: float,
    left_of: IntArray,
) -> None:  # fmt: skip
    """Write the features of moving weights for every legal device."""
    cell = s[of_task(p.tasks, task, CELL)]
    of_cell = squash(0.25 * left_of[cell])
    for d in range(p.n_devices):
        if legal & (1 << d) != 0:
            f = seen[d]
            f[32] = squash(load_ns(s, p, task, d) * per_unit)
            f[33] = of_cell
            f[34] = f[35] = 0.0
            if may_lack(s, p, d):
                limit_bytes = weights_limit_bytes(s, p, d)
                needed_bytes = held_bytes = weights_bytes(s, p, d)
                if not is_resident(s, p, cell, d):
                    needed_bytes += s[p.sizes + 2 * cell + SIZE_BYTES]
                f[34] = min(2.0, held_bytes / max(limit_bytes, 1))
                if needed_bytes > limit_bytes:
                    victim = least_used(s, p, d, cell)
                    f[35] = 1.0
                    if victim >= 0:  # which may be needed again
                        f[35] += squash(0.25 * left_of[victim])


@inlined
def see_alone(
    s: IntArray, p: Places, task: int, legal: int, seen: FloatArray, per_unit: float,
    batch_ns: IntArray, n_mates: int, n_left: int,
) -> None:  # fmt: skip
    """Write what batches would be, of a task alone on every legal device."""
    cell = s[of_task(p.tasks, task, CELL)]
    for d in range(p.n_devices):
        if legal & (1 << d) != 0:
            f, saved_ns = seen[d], 0.0
            if n_mates > 0 and batch_ns[cell, d, 2] >= 0:
                together_ns = batch_ns[cell, d, n_mates + 1]
                saved_ns = batch_ns[cell, d, 1] - together_ns / (n_mates + 1.0)
            f[26], f[27], f[28], f[29] = 0.0, 0.0, 1.0, 0.0
            f[30] = 1.0 / max(n_left, 1)
            f[31] = squash(saved_ns * per_unit)


@inlined
def see_batches(
    s: IntArray, p: Places, task: int, legal: int, seen: FloatArray, per_unit: float, fluid: float,
    batch_ns: IntArray, mates: IntArray, n_mates: int, fresh: IntArray, tally: IntArray,
    n_left: int,
) -> int:  # fmt: skip
    """Write the features of the task in batches, from those of it alone; return options as bits."""
    n_devices, cell = p.n_devices, s[of_task(p.tasks, task, CELL)]
    candidates = of_candidate(p.candidates, n_devices, 0, 0, 0)
    first_start = first_end = shortest = NEVER
    for d in range(n_devices):
        tally[0, d], tally[1, d] = 0, 0
        if legal & (1 << d) != 0:
            start, end = s[candidates + 2 * d + START], s[candidates + 2 * d + END]
            first_start, first_end = min(first_start, start), min(first_end, end)
            shortest = min(shortest, end - start)
    n_half, half_ns, all_ns, n_homeless = n_mates // 2, 0, 0, 0
    for at in range(1, n_mates + 1):
        ready_ns, home = fresh[mates[at], FRESH_NS], fresh[mates[at], FRESH_HOME]
        all_ns = max(all_ns, ready_ns)
        if at <= n_half:
            half_ns = max(half_ns, ready_ns)
        if home >= 0:
            tally[0, home] += 1
            tally[1, home] = max(tally[1, home], ready_ns)
        else:
            n_homeless += 1
    latest, below = s[p.sums + LATEST_NS], s[of_task(p.tasks, task, BELOW_NS)]
    per_fluid, found = 1.0 / max(fluid, 1.0), 0
    for d in range(n_devices):
        if legal & (1 << d) == 0 or batch_ns[cell, d, 2] < 0:
            continue
        alone_ns, free = batch_ns[cell, d, 1], s[of_device(p.devices, d, FREE_NS)]
        start_alone, end_alone = s[candidates + 2 * d + START], s[candidates + 2 * d + END]
        for kind in range(1, N_KINDS):
            k, ready_ns = n_mates + 1, all_ns
            if kind == HALF:
                k, ready_ns = n_half + 1, half_ns
                if n_half < 2:
                    continue
            elif kind == LOCAL:
                k, ready_ns = tally[0, d] + 1, tally[1, d]
                if k == 1 or k == n_mates + 1:
                    continue
            start = max(start_alone, ready_ns)
            end = start + end_alone - start_alone + batch_ns[cell, d, k] - alone_ns
            lasts = (end - start) / k
            f, base = seen[kind * n_devices + d], seen[d]
            for at in range(N_OPTION_FEATURES):
                f[at] = base[at]
            n_here = tally[0, d] if kind != HALF else n_half * tally[0, d] / n_mates
            f[0] = squash((start - first_start) * per_unit)
            f[1] = squash((end - first_end) * per_unit)
            f[2] = 1.0 if end == first_end else 0.0
            f[3] = squash((start - free) * per_unit)
            f[5] = squash(lasts * per_unit)
            f[6] = 2.0 * (lasts - shortest) / max(lasts + shortest, 1.0)
            f[8] = squash(max(end - latest, 0) * per_unit)
            f[14] = squash((end - fluid) * per_unit)
            f[15] = max(-2.0, min(2.0, (end + below - fluid) * per_fluid))
            f[26] = squash(0.5 * (k - 1))
            f[27] = squash((k * alone_ns - batch_ns[cell, d, k]) * per_unit)
            f[28] = (n_here + n_homeless) / max(n_mates, 1)
            f[29] = squash(max(ready_ns - start_alone, 0) * per_unit)
            f[30] = k / max(n_left, 1)
            found |= 1 << (kind * n_devices + d)
    return found
