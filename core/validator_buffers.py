"""The validator's account of live bytes: what one device sees of a trace, and what that keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from dynpartition.graph import TaskGraph
from dynpartition.trace import LaunchSpan, LoadSpan, TransferSpan
from dynpartition.validator_case import Case, Moved

NO_LAUNCH = -1
ALWAYS = -1
"""Group of host inputs: nobody who is hidden can read them."""


@dataclass(slots=True, eq=False)
class Item:
    """A span with an end on one device, and the outputs that it keeps there."""

    number: int
    """The launch in the plan; NO_LAUNCH for what links carry."""
    span: LaunchSpan | TransferSpan | LoadSpan
    occupies: bool
    """Whether the device does nothing else meanwhile: launches, and copies that block it."""
    makes: list[int] = field(default_factory=list)
    """Buffers that begin with its start."""
    holds: list[int] = field(default_factory=list)
    """Buffers that cannot be freed before its end."""


def request_groups(graph: TaskGraph) -> list[int]:
    """Return task → number of its request; 0 for all when anything joins two requests."""
    request = [int(number) for number in graph.request]
    for task, sources in enumerate(graph.input_lists):
        revealer = int(graph.revealed_by[task])
        joined = {request[source] for source in sources} | {request[task]}
        joined |= {request[revealer]} if revealer >= 0 else set()
        if len(joined) > 1:
            return [0] * len(graph)
    return request


class Account:
    """The buffers of one device: begun, held, kept for readers who are hidden still, freed."""

    def __init__(self, case: Case, device: str) -> None:
        self.items: list[Item] = []
        self._live_bytes = 0
        self._case = case
        self._device = device
        self._size: list[int] = []
        self._group: list[int] = []
        self._group_of = request_groups(case.graph)
        self._at: dict[int, int] = {}  # task → its output here
        self._kept: dict[int, list[int]] = {}
        self._add_launches()
        self._add_moves()
        self._add_readers()
        self._holders = Counter(buffer for item in self.items for buffer in item.holds)
        self._unknown: dict[int, set[int]] = {group: set() for group in self._group_of}
        self._arrived_ns = dict.fromkeys(self._group_of, 0)
        for task, group in enumerate(self._group_of):
            available_ns = case.graph.available_ns[task]
            self._arrived_ns[group] = max(self._arrived_ns[group], available_ns)
        for task in case.graph.revealers:
            self._unknown[self._group_of[task]].add(task)

    def _buffer(self, size_bytes: int, group: int) -> int:
        self._size.append(size_bytes)
        self._group.append(group)
        return len(self._size) - 1

    def _outputs(self, tasks: Iterable[int]) -> Iterator[int]:
        for task in tasks:
            size_bytes = int(self._case.graph.output_bytes[task])
            self._at[task] = self._buffer(size_bytes, self._group_of[task])
            yield self._at[task]

    def _add_launches(self) -> None:
        for number, span in self._case.spans:
            if span.device == self._device:
                made = [*self._outputs(span.tasks)]
                self.items.append(Item(number, span, True, made, [*made]))

    def _add_moves(self) -> None:
        for span in self._case.moved:
            link = self._case.link(span)
            occupies = link is not None and self._device in link.blocked_devices
            if isinstance(span, LoadSpan):
                touches = span.device == self._device or occupies
            else:
                touches = self._device in (span.src, span.dst)
            if touches:
                made = self._made_by(span)
                self.items.append(
                    Item(NO_LAUNCH, span, occupies, made, [*made, *self._sent_by(span)])
                )

    def _made_by(self, span: Moved) -> list[int]:
        if isinstance(span, LoadSpan) or span.dst != self._device:
            return []
        if span.host_input:
            return [self._buffer(span.bytes, ALWAYS)]
        return [*self._outputs(span.tasks)]

    def _sent_by(self, span: Moved) -> list[int]:
        if isinstance(span, LoadSpan) or span.host_input or span.src != self._device:
            return []
        return [self._at[task] for task in span.tasks]

    def _add_readers(self) -> None:
        """Launches hold what they read here, and their host input."""
        fed = self._host_inputs()
        for item in self.items:
            if isinstance(item.span, LaunchSpan):
                sources = {s for t in item.span.tasks for s in self._case.graph.input_lists[t]}
                item.holds += [self._at[source] for source in sorted(sources)]
                item.holds += fed.get(item.span.tasks, [])

    def _host_inputs(self) -> dict[tuple[int, ...], list[int]]:
        fed: dict[tuple[int, ...], list[int]] = {}
        for item in self.items:
            if isinstance(item.span, TransferSpan) and item.span.host_input and item.makes:
                launch = self._case.plan.launches[self._case.launch_of[item.span.tasks[0]]]
                fed.setdefault(launch.tasks, []).extend(item.makes)
        return fed

    # What is live

    def closing(self, now_ns: int, known: Collection[int]) -> list[int]:
        """Return the open groups that have arrived and are known, with what is `known` just now."""
        return [
            group
            for group, unknown in self._unknown.items()
            if self._arrived_ns[group] <= now_ns and unknown <= {*known}
        ]

    def bytes_after(
        self, begun: Iterable[Item], ended: Iterable[Item], closing: Collection[int]
    ) -> int:
        """Return the live bytes once these have begun, ended and closed besides all before them."""
        made = sum(self.made_bytes(item) for item in begun)
        freed, _ = self._freed_and_kept(ended, closing)
        return self._live_bytes + made - sum(self._size[buffer] for buffer in freed)

    def made_bytes(self, item: Item) -> int:
        """Return the bytes that the start of an item takes."""
        return sum(self._size[buffer] for buffer in item.makes)

    def settle(
        self, begun: Iterable[Item], ended: Iterable[Item], closing: Collection[int]
    ) -> None:
        """Take note that an instant with these is over."""
        ended = [*ended]
        self._live_bytes = self.bytes_after(begun, ended, closing)
        _, kept = self._freed_and_kept(ended, closing)
        for group in closing:
            del self._unknown[group]
            self._kept.pop(group, None)
        for buffer in kept:
            self._kept.setdefault(self._group[buffer], []).append(buffer)
        self._holders.subtract(buffer for item in ended for buffer in item.holds)

    def became_known(self, revealers: Iterable[int]) -> None:
        """Take note of values that are known from now on."""
        for unknown in self._unknown.values():
            unknown.difference_update(revealers)

    def _freed_and_kept(
        self, ended: Iterable[Item], closing: Collection[int]
    ) -> tuple[list[int], list[int]]:
        """Return what nothing needs any more, and what only a hidden reader may still need."""
        gone = Counter(buffer for item in ended for buffer in item.holds)
        done = [buffer for buffer, times in gone.items() if times == self._holders[buffer]]
        is_open = [self._group[b] in self._unknown and self._group[b] not in closing for b in done]
        kept = [buffer for buffer, stays in zip(done, is_open, strict=True) if stays]
        freed = [buffer for buffer, stays in zip(done, is_open, strict=True) if not stays]
        return freed + [b for group in closing for b in self._kept.get(group, ())], kept
