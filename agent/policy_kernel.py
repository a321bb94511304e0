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
    BEST_NS,
    CELL,
    DURATION_NS,
    END,
    FREE_NS,
    HAS_HOST_INPUT,
    HOME,
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
    START,
    THERE_NS,
    USED,
    WALK_NS,
    Places,
    commit,
    end_of,
    find_options,
    first_use_ns,
    link_between,
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
)
from dynpartition.agent.network_kernel import (
    N_OPTION_UNITS,
    N_READY_UNITS,
    N_WINDOW,
    Net,
    embed,
    score_options,
    score_ready,
)
from dynpartition.compiled import compiled, inlined
from dynpartition.sim.kernel import lowest
from dynpartition.types import FloatArray, IntArray

ABOUT_PER_UNIT, ABOUT_WORK_NS, ABOUT_LONGEST, ABOUT_DEVICES = range(4)
MAX_DEVICES = 64
WORD = 60  # ready tasks per word of bits


@inlined
def study(
    s: IntArray, p: Places, order: IntArray, z: npt.NDArray[np.float64], facts: FloatArray,
    near: IntArray, about: npt.NDArray[np.float64],
) -> None:  # fmt: skip
    """Write the features of all tasks (N, N_STATIC) and what steps need of graph and machine.

    `order`: tasks, inputs first. `z`: (N, 8) scratch. `near`: (N,) each task's reader of highest
    rank, itself where it has none. `about`: see the ABOUT columns.
    """
    n, n_devices = s[p.sums + N_TASKS], p.n_devices
    total_mean = total_min = total_move = 0.0
    n_edges = 0
    for device in range(n_devices):
        about[ABOUT_DEVICES + device] = 0.0
        about[ABOUT_DEVICES + MAX_DEVICES + device] = 0.0
    for at in range(n):
        t = order[at]
        pair = of_pair(p.pairs, n_devices, t, 0, RUN_NS)
        total, count, least = 0.0, 0, 1e300
        for device in range(n_devices):
            ns = s[pair + device]
            if ns >= 0:
                total += ns
                count += 1
                least = min(least, float(ns))
        for device in range(n_devices):
            ns = s[pair + device]
            if ns >= 0:
                about[ABOUT_DEVICES + device] += ns
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


MAX_DEVICES = 64


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
    window: IntArray, same: IntArray, units: FloatArray, scores: npt.NDArray[np.float64],
    style: int, seed: int, bound_ns: int, chosen: IntArray, records: int, rec: IntArray,
    rec_ready: FloatArray, rec_option: FloatArray, view_ready: FloatArray, view_option: FloatArray,
) -> int:  # fmt: skip
    """Place all tasks that slot `s0` has not placed; return the estimated end, or ABSENT.

    NEVER where the end would not be before `bound_ns`. `style` −1, −2, …: everything goes to one
    device, the one that runs it all fastest, the next one, …. `seed` < 0: greedy. `left_of`: (K,)
    scratch. `chosen`: (N, 2) tasks and devices in order of choice. With `records` what was seen and
    done at each step is written to `rec` (N, 4 + N_WINDOW), `rec_ready` (N, N_WINDOW, …),
    `rec_option` (N, D, …): number of ready tasks, choice among them, device, legal devices as bits;
    then the tasks.
    """
    n, n_devices, only = s0[p.sums + N_TASKS], p.n_devices, ABSENT
    if style < 0:
        style, only = 0, alone(about, n_devices, -1 - style)
        if only < 0:
            return ABSENT
        if s0[p.sums + LATEST_NS] == 0 and total_alone(about, only) >= bound_ns:
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
        left_of[cell] = 0
    for at in range(n):
        place_of[by_priority[at]] = at
        for device in range(n_devices + 1):
            related[at, device] = 0
    for t in range(n):
        if s[of_task(p.tasks, t, HOME)] >= 0:
            relate(near, related, t, s[of_task(p.tasks, t, HOME)])
            continue
        n_left += 1
        work_left += about_least(s, p, t)
        left_of[s[of_task(p.tasks, t, CELL)]] += 1
        for device in range(n_devices):
            left[device] += max(s[of_pair(p.pairs, n_devices, t, device, RUN_NS)], 0)
        if s[of_task(p.tasks, t, MISSING)] == 0:
            words[place_of[t] // WORD] |= 1 << (place_of[t] % WORD)
            note_ready(s, p, t, ABSENT, fresh)
    for cell in range(s[p.sums + N_CELLS]):
        if s[p.sums + N_FIRST] > 0 and left_of[cell] > 0:
            for device in range(n_devices):
                left[device] += s[p.first_ns + n_devices * cell + device]
    for device in range(n_devices):
        rates += about[ABOUT_DEVICES + MAX_DEVICES + device]
    first_word, last_task = 0, ABSENT
    ready_bias = net.ready_bias + style * N_READY_UNITS
    option_bias = net.option_bias + style * N_OPTION_UNITS
    for step in range(n_left):
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
            share = work_left / max(about[ABOUT_WORK_NS], 1.0)
            for at in range(n_ready):
                see_ready(
                    s, p, window[at], near, related, fresh, seen[at], per_unit, least_free, step,
                    at, share,
                )  # fmt: skip
            score_ready(
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
        # Where it runs.
        device, legal = only, 0
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
            for d in range(n_devices):
                same[d] = t
            score_options(
                view, n_devices, to_option, same, w, net.option, option_bias, net.option_score,
                units, scores,
            )  # fmt: skip
            for d in range(n_devices):
                if legal & (1 << d) == 0:
                    scores[d] = FORBIDDEN
            device = choice(scores, n_devices, seed, 2 * step + 1)
        if records != 0:
            rec[step, 2], rec[step, 3] = device, legal
        # Place it.
        chosen[step, 0], chosen[step, 1] = t, device
        window[0] = t
        left[device] -= first_use_ns(s, p, t, device)
        commit(s, p, window, 0, 1, device, s[of_pair(p.pairs, n_devices, t, device, RUN_NS)])
        end_ns = s[of_device(p.devices, device, FREE_NS)] + s[of_task(p.tasks, t, REST_NS)]
        if max(end_ns, s[p.sums + LATEST_NS]) >= bound_ns:
            return NEVER
        last_task = t
        work_left -= about_least(s, p, t)
        for d in range(n_devices):
            left[d] -= max(s[of_pair(p.pairs, n_devices, t, d, RUN_NS)], 0)
        cell = s[of_task(p.tasks, t, CELL)]
        left_of[cell] -= 1
        if s[p.sums + N_FIRST] > 0 and left_of[cell] == 0:
            for d in range(n_devices):
                left[d] -= s[p.first_ns + n_devices * cell + d]
        relate(near, related, t, device)
        words[place_of[t] // WORD] &= ~(1 << (place_of[t] % WORD))
        for at in range(s[of_task(p.tasks, t, READERS)], s[of_task(p.tasks, t, READERS_END)]):
            reader = s[p.rows + at]
            s[of_task(p.tasks, reader, MISSING)] -= 1
            if s[of_task(p.tasks, reader, MISSING)] == 0:
                note_ready(s, p, reader, step, fresh)
                where = place_of[reader]
                words[where // WORD] |= 1 << (where % WORD)
                first_word = min(first_word, where // WORD)
    return s[p.sums + LATEST_NS]


@compiled
def roll_many(
    s: IntArray, s0: IntArray, layout: IntArray, order: IntArray, w: FloatArray, net: Net,
    about: npt.NDArray[np.float64], near: IntArray, z: npt.NDArray[np.float64], facts: FloatArray,
    coded: FloatArray, mixed: FloatArray, sums: FloatArray, priority: FloatArray,
    to_ready: FloatArray, to_option: FloatArray, by_priority: IntArray, place_of: IntArray,
    words: IntArray, fresh: IntArray, related: IntArray, left: npt.NDArray[np.float64],
    left_of: IntArray, window: IntArray, same: IntArray, units: FloatArray,
    scores: npt.NDArray[np.float64], styles: IntArray, seeds: IntArray, chosen: IntArray,
    ends_ns: IntArray, thinks: int, prunes: int, records: int, rec: IntArray,
    rec_ready: FloatArray, rec_option: FloatArray, view_ready: FloatArray, view_option: FloatArray,
) -> None:  # fmt: skip
    """Play a plan for each style and seed; see `roll`. `ends_ns`: the estimated ends.

    With `thinks` the graph is studied and the graph network run on it before. With `prunes` a plan
    is given up as soon as an earlier one is as good.
    """
    p, bound_ns = unpack(layout), NEVER
    if thinks != 0:
        study(s0, p, order, z, facts, near, about)
        embed(s0, p, w, net, facts, coded, mixed, sums, priority, to_ready, to_option)
    for r in range(len(styles)):
        if prunes != 0 and r > 0 and ends_ns[r - 1] >= 0:
            bound_ns = min(bound_ns, ends_ns[r - 1])
        at = r if records != 0 else 0
        ends_ns[r] = roll(
            s, s0, p, w, net, about, near, priority, to_ready, to_option, by_priority, place_of,
            words, fresh, related, left, left_of, window, same, units, scores, styles[r],
            seeds[r], bound_ns, chosen[r], records, rec[at], rec_ready[at], rec_option[at],
            view_ready, view_option,
        )  # fmt: skip


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
def about_least(s: IntArray, p: Places, task: int) -> float:
    """Return the shortest duration of a task."""
    return float(s[of_task(p.tasks, task, BEST_NS)])


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
