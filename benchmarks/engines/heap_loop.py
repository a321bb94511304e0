"""A plain event loop in Python: one heap of events, one heap per shared resource.

As fast as we could make it: numbers instead of tuples in the heaps, only what changed is looked at.
"""

from __future__ import annotations

from heapq import heappop, heappush

from engines.plain_worlds import Tables, Times

BITS = 24  # of a launch or transfer in a key; the time stands above
MASK = (1 << BITS) - 1


def run_heap(tables: Tables) -> Times:
    """Return the times of one run; an instant settles in rounds like everywhere else."""
    device, duration_ns, follower = tables.device, tables.duration_ns, tables.follower
    sends, readers, resources_of = tables.sends, tables.readers, tables.copy_resources
    copy_ns, copy_dst = tables.copy_ns, tables.copy_dst
    n_launches = len(device)
    launch_start, launch_end = [0] * n_launches, [0] * n_launches
    copy_start, copy_end = [0] * len(copy_ns), [0] * len(copy_ns)
    missing = [len(row) for row in tables.waits]
    turn = tables.first[:]  # the next launch of each device, -1 while one runs
    queues: list[list[int]] = [[] for _ in range(tables.n_resources)]
    busy = [False] * tables.n_resources
    events: list[int] = []
    touched: list[int] = []  # resources with newcomers or freed
    woken = [d for d in range(tables.n_devices) if turn[d] >= 0]
    now_ns = 0
    for copy in tables.inputs:
        for resource in resources_of[copy]:
            heappush(queues[resource], copy)
            touched.append(resource)
    while True:
        for resource in touched:
            queue = queues[resource]
            if busy[resource] or not queue:
                continue
            key = queue[0]
            copy = key & MASK
            held = resources_of[copy]
            for other in held:
                if busy[other] or queues[other][0] != key:
                    break
            else:
                for other in held:
                    busy[other] = True
                    heappop(queues[other])
                copy_start[copy] = now_ns
                copy_end[copy] = end_ns = now_ns + copy_ns[copy]
                heappush(events, end_ns << BITS | (n_launches + copy))
        touched.clear()
        for place in woken:
            launch = turn[place]
            if launch >= 0 and not missing[launch]:
                turn[place] = -1
                launch_start[launch] = now_ns
                launch_end[launch] = end_ns = now_ns + duration_ns[launch]
                heappush(events, end_ns << BITS | launch)
        woken.clear()
        if not events:
            return Times(launch_start, launch_end, copy_start, copy_end)
        now_ns = events[0] >> BITS
        after = (now_ns + 1) << BITS
        while events and events[0] < after:
            item = heappop(events) & MASK
            if item < n_launches:
                place = device[item]
                turn[place] = follower[item]
                woken.append(place)
                for copy in sends[item]:
                    key = now_ns << BITS | copy
                    for resource in resources_of[copy]:
                        heappush(queues[resource], key)
                        touched.append(resource)
            else:
                copy = item - n_launches
                for resource in resources_of[copy]:
                    busy[resource] = False
                    touched.append(resource)
                for launch in readers[copy]:
                    missing[launch] -= 1
                woken.append(copy_dst[copy])
