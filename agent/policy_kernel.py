# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: whole plans as policies make them.

Slots, letters and times as in `estimate_kernel`; R plans. The network is in `network_kernel`, what
it sees in `features_kernel`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dynpartition.agent.estimate_kernel import (
    ABSENT,
    CELL,
    FREE_NS,
    HAS_HOST_INPUT,
    HOME,
    HOST_COPY_NS,
    LATEST_NS,
    MISSING,
    N_CELLS,
    N_FIRST,
    N_GATED,
    N_TASKS,
    NEVER,
    READERS,
    READERS_END,
    RELEASE_NS,
    REST_NS,
    RUN_NS,
    Places,
    book,
    commit,
    find_options,
    first_use_ns,
    link_between,
    of_device,
    of_pair,
    of_task,
    release_known,
    reset_slot,
    unpack,
)
from dynpartition.agent.features_kernel import (
    ABOUT_DEVICES,
    ABOUT_PER_UNIT,
    ABOUT_WORK_NS,
    ALL,
    ALONE,
    FRESH_HOME,
    HALF,
    LEAST_NS,
    MAX_DEVICES,
    free_from_ns,
    note_ready,
    resident_share,
    see_alone,
    see_batches,
    see_options,
    see_ready,
    see_weights,
    squash,
    study,
)
from dynpartition.agent.network_kernel import (
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

WORD = 60  # ready tasks per word of bits


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
    greedy. Times that are seen count from `begin_ns`, when the first of the tasks may start;
    `fluid` is how long what is left would take if it could be divided at will. `left_of`,
    `ready_of`: (K,) scratch, `mates` (B,), `tally` (2, MAX_DEVICES). `chosen`: (N, 3) tasks,
    devices, and whether they join the launch before, in order of choice. With `records` what was
    seen and done at each step is written to `rec` (N, 4 + N_WINDOW), `rec_ready` (N, N_WINDOW, …),
    `rec_option` (N, n_kinds · D, …): number of ready tasks, choice among them, option, legal
    options as bits; then the tasks. A step of 0 ready tasks ends them.
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
    if s[p.sums + N_GATED] > 0:
        release_known(s, p)
    begin_ns, n_left, work_left, rates = NEVER, 0, 0.0, 0.0
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
        begin_ns = min(begin_ns, s[of_task(p.tasks, t, RELEASE_NS)])
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
        least_free = free_from_ns(s, p, 0, begin_ns)
        mean_free, fluid = 0.0, work_left
        for device in range(n_devices):
            free = free_from_ns(s, p, device, begin_ns)
            least_free = min(least_free, free)
            mean_free += free
            fluid += (free - begin_ns) * about[ABOUT_DEVICES + MAX_DEVICES + device]
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
                    s, p, window[at], near, related, fresh, seen[at], per_unit, begin_ns,
                    least_free, step, at, to_do,
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
                s, s0, p, t, legal, near, related, left, view, about, begin_ns, mean_free, fluid,
                step, last_task,
            )  # fmt: skip
            n_scored = n_devices
            if wide != 0:
                see_weights(s, p, t, legal, view, per_unit, left_of)
                see_alone(s, p, t, legal, view, per_unit, batch_ns, n_mates, left_of[cell])
                if n_mates > 0:
                    legal |= see_batches(
                        s, p, t, legal, view, per_unit, begin_ns, fluid, batch_ns, mates, n_mates,
                        fresh, tally, left_of[cell],
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
