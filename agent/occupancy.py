"""Busy times of shared things: bus resources and the interpreter lock."""

from __future__ import annotations


class Occupancy:
    """Sorted busy intervals of one resource, with a gap between any two."""

    __slots__ = ("ends", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def first_fit(self, ready_ns: int, length_ns: int) -> int:
        """Return the first time from `ready_ns` on at which `length_ns` are free in one piece."""
        starts, ends = self.starts, self.ends
        position = len(ends)
        if not position or ends[-1] <= ready_ns:
            return ready_ns
        while position and ends[position - 1] > ready_ns:
            position -= 1
        while position < len(starts) and starts[position] < ready_ns + length_ns:
            ready_ns = max(ready_ns, ends[position])
            position += 1
        return ready_ns

    def take(self, start_ns: int, end_ns: int) -> None:
        """Mark an interval busy that `first_fit` found; intervals that touch become one.

        What takes no time occupies nothing: an empty interval would hide the one that it touches.
        """
        if start_ns == end_ns:
            return
        starts, ends = self.starts, self.ends
        position = len(starts)
        while position and starts[position - 1] > start_ns:
            position -= 1
        if position < len(starts) and starts[position] == end_ns:  # it goes on behind
            end_ns = ends[position]
            del starts[position], ends[position]
        if position and ends[position - 1] == start_ns:
            ends[position - 1] = end_ns
        else:
            starts.insert(position, start_ns)
            ends.insert(position, end_ns)


def common_fit(resources: list[Occupancy], ready_ns: int, length_ns: int) -> int:
    """Return the first time from `ready_ns` on at which all `resources` are free together."""
    if len(resources) == 1:
        return resources[0].first_fit(ready_ns, length_ns)
    while True:
        before = ready_ns
        for resource in resources:
            ready_ns = resource.first_fit(ready_ns, length_ns)
        if ready_ns == before:
            return ready_ns
