# mypy: disable-error-code="no-any-return"
# (elements of int64 arrays are Any to mypy)
"""Compiled: what policies see of a graph, and of a plan as it grows.

Slots, letters and times as in `estimate_kernel`. `dynpartition.agent.network.FEATURES` names what
is written here, in this order.
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
    INPUTS,
    INPUTS_END,
    LATEST_NS,
    MISSING,
    N_CELLS,
    N_FIRST,
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
    WALK_NS,
    Places,
    end_of,
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
    walk_ns,
    weights_bytes,
    weights_limit_bytes,
)
from dynpartition.agent.network_kernel import (
    N_OPTION_FEATURES,
)
from dynpartition.compiled import inlined
from dynpartition.types import FloatArray, IntArray

ABOUT_PER_UNIT, ABOUT_WORK_NS, ABOUT_LONGEST, ABOUT_DEVICES = range(4)
MAX_DEVICES = 64
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

    The graph is what is left of it: tasks that are placed already count as if they did not exist,
    so requests that are under way or answered do not change what is seen of the next one.

    `order`: tasks, inputs first. `z`: (N, 8) scratch, of which LEAST_NS is kept. `near`: (N,) each
    task's reader of highest rank, itself where it has none. `about`: see the ABOUT columns.
    `batch_ns`: (K, D, B) durations of launches of b tasks, where batches pay. `share`: (K, D) gets
    what a task in a batch of likely size takes, divided by what it takes alone. `left_of`: (K,)
    scratch.
    """
    n_tasks, n_devices, n = s[p.sums + N_TASKS], p.n_devices, 0
    if wide != 0:
        expect_batches(s, p, order, z, batch_ns, share, left_of)
    total_mean = total_min = total_move = 0.0
    for device in range(n_devices):
        about[ABOUT_DEVICES + device] = 0.0
        about[ABOUT_DEVICES + MAX_DEVICES + device] = 0.0
    for at in range(n_tasks):
        t = order[at]
        if is_placed(s, p, t):
            continue
        n += 1
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
            if is_placed(s, p, source):
                continue
            down = max(down, z[source, 3] + z[source, 0] + z[source, 2])
            n_readers = (
                s[of_task(p.tasks, source, READERS_END)] - s[of_task(p.tasks, source, READERS)]
            )
            work += z[source, 4] / max(n_readers, 1)
            total_move += z[source, 2]
        z[t, 3], z[t, 4] = down, work
    if s[p.sums + N_FIRST] > 0:
        for cell in range(s[p.sums + N_CELLS]):
            for device in range(n_devices):
                about[ABOUT_DEVICES + device] += s[p.first_ns + n_devices * cell + device]
    longest = longest_min = 1.0
    for at in range(n_tasks - 1, -1, -1):
        t = order[at]
        if is_placed(s, p, t):
            near[t] = first_reader(s, p, t, z)
            continue
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
    for t in range(n_tasks):
        if is_placed(s, p, t):
            continue
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
def is_placed(s: IntArray, p: Places, task: int) -> bool:
    """Return whether a task has a device already."""
    return s[of_task(p.tasks, task, HOME)] >= 0


@inlined
def first_reader(s: IntArray, p: Places, task: int, z: npt.NDArray[np.float64]) -> int:
    """Return the reader of highest rank of a placed task among those that are not; else itself."""
    found, best = task, -1.0
    for place in range(s[of_task(p.tasks, task, READERS)], s[of_task(p.tasks, task, READERS_END)]):
        reader = s[p.rows + place]
        if not is_placed(s, p, reader) and z[reader, 5] > best:
            found, best = reader, z[reader, 5]
    return found


@inlined
def expect_batches(
    s: IntArray, p: Places, order: IntArray, z: npt.NDArray[np.float64], batch_ns: IntArray,
    share: npt.NDArray[np.float64], count_of: IntArray,
) -> None:  # fmt: skip
    """Write `share`, see `study`: batches are likely as large as the cell's part of the width.

    The width is the work of all tasks that are left divided by that of the longest path.
    """
    n, n_devices, total, longest = 0, p.n_devices, 0.0, 1.0
    for cell in range(len(share)):
        count_of[cell] = 0
    for at in range(s[p.sums + N_TASKS]):
        t = order[at]
        if is_placed(s, p, t):
            continue
        n += 1
        least = 1e300
        for device in range(n_devices):
            ns = s[of_pair(p.pairs, n_devices, t, device, RUN_NS)]
            if ns >= 0:
                least = min(least, float(ns))
        up = 0.0
        for place in range(s[of_task(p.tasks, t, INPUTS)], s[of_task(p.tasks, t, INPUTS_END)]):
            source = s[p.rows + place]
            if not is_placed(s, p, source):
                up = max(up, z[source, 0])
        z[t, 0] = up + least
        total += least
        longest = max(longest, z[t, 0])
        count_of[s[of_task(p.tasks, t, CELL)]] += 1
    for cell in range(len(share)):
        expected = int(total / longest * count_of[cell] / max(n, 1) + 0.5)
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
def free_from_ns(s: IntArray, p: Places, device: int, begin_ns: int) -> int:
    """Return when a device is free, not before `begin_ns`."""
    return max(s[of_device(p.devices, device, FREE_NS)], begin_ns)


@inlined
def squash(value: float) -> float:
    """Return about log(1 + x), within ±4."""
    return 4.0 * value / (4.0 + abs(value))


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
def see_ready(
    s: IntArray, p: Places, task: int, near: IntArray, related: IntArray, fresh: IntArray,
    seen: FloatArray, per_unit: float, begin_ns: int, least_free: int, step: int, place: int,
    work_left: float,
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
        squash((free_from_ns(s, p, home, begin_ns) - least_free) * per_unit) if home >= 0 else 0.0
    )
    seen[7] = work_left
    seen[8] = squash(0.5 * related[at, total])
    seen[9] = squash(0.25 * related[near[near[at]], total])


@inlined
def see_options(
    s: IntArray, s0: IntArray, p: Places, task: int, legal: int, near: IntArray, related: IntArray,
    left: npt.NDArray[np.float64], seen: FloatArray, about: npt.NDArray[np.float64],
    begin_ns: int, mean_free: float, fluid: float, n_chosen: int, last_task: int,
) -> None:  # fmt: skip
    """Write the features of a task on every legal device; `begin_ns`, `fluid`: see `roll`."""
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
        first_alone = min(first_alone, free_from_ns(s, p, d, begin_ns) - begin_ns + left[d])
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
    latest = max(s[p.sums + LATEST_NS], begin_ns)
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
        free = free_from_ns(s, p, d, begin_ns)
        n_spans = s[of_device(p.devices, d, N_SPANS)] - s0[of_device(p.devices, d, N_SPANS)]
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
        alone = free - begin_ns + left[d]
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
        f[14] = squash((end - begin_ns - fluid) * per_unit)
        f[15] = max(-2.0, min(2.0, (end - begin_ns + below - fluid) * per_fluid))
        f[16] = 2.0 * (alone - first_alone) / max(alone + first_alone, 1.0)
        f[17] = gain
        f[18] = squash(out * each)
        f[19] = squash(busy * each)
        f[20] = 1.0 if n_spans > 0 else 0.0
        f[21] = n_spans * per_chosen
        f[22] = squash(moved * per_unit)
        f[23] = near_placed
        f[24] = related[farther, d] * per_farther
        f[25] = far_placed


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
    s: IntArray, p: Places, task: int, legal: int, seen: FloatArray, per_unit: float,
    begin_ns: int, fluid: float, batch_ns: IntArray, mates: IntArray, n_mates: int, fresh: IntArray,
    tally: IntArray, n_left: int,
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
    latest, below = max(s[p.sums + LATEST_NS], begin_ns), s[of_task(p.tasks, task, BELOW_NS)]
    per_fluid, found = 1.0 / max(fluid, 1.0), 0
    for d in range(n_devices):
        if legal & (1 << d) == 0 or batch_ns[cell, d, 2] < 0:
            continue
        alone_ns, free = batch_ns[cell, d, 1], free_from_ns(s, p, d, begin_ns)
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
            f[14] = squash((end - begin_ns - fluid) * per_unit)
            f[15] = max(-2.0, min(2.0, (end - begin_ns + below - fluid) * per_fluid))
            f[26] = squash(0.5 * (k - 1))
            f[27] = squash((k * alone_ns - batch_ns[cell, d, k]) * per_unit)
            f[28] = (n_here + n_homeless) / max(n_mates, 1)
            f[29] = squash(max(ready_ns - start_alone, 0) * per_unit)
            f[30] = k / max(n_left, 1)
            found |= 1 << (kind * n_devices + d)
    return found
