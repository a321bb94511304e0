"""The validator's replay of what devices hold: weights that come and go, outputs that live.

A trace does not tell what was evicted when, nor in which order things of one instant came. So each
device is replayed through every order that the rounds of an instant allow (semantics, §4); a trace
is wrong where none of them fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple, TypeVar

from dynpartition.cluster import Device
from dynpartition.trace import LaunchSpan, LoadSpan
from dynpartition.validator_buffers import Account, Item
from dynpartition.validator_case import Case, label
from dynpartition.validator_loads import holds_all_weights

T = TypeVar("T")
UNLIMITED_BYTES = 1 << 62
NEVER_NS = -1
CHOICES_MAX = 8
"""Starts of one device in one instant; with more of them the rest of the device is not checked."""
NODES_MAX = 5000


class Weights(NamedTuple):
    """The cells on a device, as (end of the last use, name), and the one on its way there."""

    last_use: frozenset[tuple[int, str]]
    loading: str | None = None

    @property
    def cells(self) -> set[str]:
        """Names of the cells that are there."""
        return {cell for _, cell in self.last_use}

    def used(self, cell: str, now_ns: int) -> Weights:
        """Return the weights after a use of `cell`, or its load, that ends now."""
        others = {(at_ns, other) for at_ns, other in self.last_use if other != cell}
        loading = None if self.loading == cell else self.loading
        return Weights(frozenset({*others, (now_ns, cell)}), loading)


class Node(NamedTuple):
    """One moment of an instant: what has begun, ended and become known in it so far."""

    weights: Weights
    begun: frozenset[int]
    ended: frozenset[int]
    known: frozenset[int]

    @property
    def progress(self) -> int:
        """How much of the instant is behind."""
        return len(self.begun) + len(self.ended) + len(self.known)


class _Misfit(Exception):
    """Raised with what does not fit, when no order does."""


class _TooMany(Exception):
    """Raised when there are too many orders to try."""


def check_memory(case: Case) -> Iterator[str]:
    """Yield the first misfit of every device; the trace obeys all other rules."""
    if case.trace.wasted or case.conditions.losses:
        return
    for device in case.cluster.devices:
        if device.tracks_memory:
            try:
                _Replay(case, device).run()
            except _Misfit as misfit:
                yield str(misfit)
            except _TooMany:
                continue


class _Replay:
    """One device, from instant to instant."""

    def __init__(self, case: Case, device: Device) -> None:
        self.case = case
        self.device = device
        self.account = Account(case, device.name)
        self.size = {cell.name: cell.param_bytes for cell in case.graph.cells}
        limit = device.memory_bytes
        self.capacity_bytes = UNLIMITED_BYTES if limit is None else limit
        self.tracks_weights = not holds_all_weights(case, device)
        ends = case.cluster.host_index, case.cluster.index(device.name)
        self.evicts = self.tracks_weights and case.cluster.link_index(*ends) >= 0
        self.launches = [item.number for item in self.account.items if item.number >= 0]
        self.n_ended = 0
        self.under_way: list[Item] = []
        """What began before this instant and has not ended before it."""
        self.known: set[int] = set()
        self.known_at = _by_time(case)

    def run(self) -> None:
        """Go through all instants; raises _Misfit."""
        states = {self._at_first()}
        at = self._items_by_time()
        for now_ns in sorted({*at, *self._other_times()}):
            instant = _Instant(self, now_ns, at.get(now_ns, []))
            states = instant.outcomes(states)
            instant.settle()

    def _items_by_time(self) -> dict[int, list[Item]]:
        at: dict[int, list[Item]] = {}
        for item in self.account.items:
            for time_ns in {item.span.start_ns, item.span.end_ns}:
                at.setdefault(time_ns, []).append(item)
        return at

    def _other_times(self) -> Iterator[int]:
        """Yield when loads may begin or outputs be freed though nothing starts or ends here."""
        yield 0
        yield from self.case.known_ns.values()
        yield from self.case.graph.available_ns

    def _at_first(self) -> Weights:
        listed, left = self.device.resident, self.capacity_bytes
        there: list[str] = []
        for cell, size in self.size.items() if self.tracks_weights else ():
            if (cell in listed) if listed is not None else size <= left:
                there.append(cell)
                left -= size
        if left < 0:
            raise _Misfit(f"{self.device.name} does not hold the cells in its list `resident`")
        return Weights(frozenset((NEVER_NS, cell) for cell in there))

    def cell(self, span: LaunchSpan) -> str:
        """Return the cell of a launch."""
        return self.case.graph.cell_name(span.tasks[0])


class _Instant:
    """All orders of what one device does at one time."""

    def __init__(self, replay: _Replay, now_ns: int, items: list[Item]) -> None:
        self.replay = replay
        self.case = replay.case
        self.account = replay.account
        self.now_ns = now_ns
        self.items = items
        here = range(len(items))
        self.starts = frozenset(i for i in here if items[i].span.start_ns == now_ns)
        self.ends = frozenset(i for i in here if items[i].span.end_ns == now_ns)
        known_now = replay.known_at.get(now_ns, frozenset())
        self.late = frozenset(r for r in known_now if self._is_late(r))
        self.prompt = known_now - self.late
        self._closing: dict[frozenset[int], list[int]] = {}
        self.misfit = (-1, f"nothing that {replay.device.name} does at {now_ns} ns fits")

    def _is_late(self, revealer: int) -> bool:
        """Return whether the value reached the host in this instant too, so in an earlier round."""
        bounds = [self.case.span_of[self.case.launch_of[revealer]].end_ns]
        brought = self.case.deliveries.get((revealer, self.case.host), [])
        return max([*bounds, *(span.end_ns for span in brought)]) >= self.now_ns

    def settle(self) -> None:
        """Take note that the instant is over."""
        replay, items = self.replay, self.items
        known = self.prompt | self.late
        begun, ended = [items[i] for i in self.starts], [items[i] for i in self.ends]
        self.account.settle(begun, ended, self.closing(known))
        if known:
            self.account.became_known(known)
        replay.known |= known
        replay.n_ended += sum(isinstance(item.span, LaunchSpan) for item in ended)
        gone = {id(item) for item in ended}
        replay.under_way = [i for i in (*replay.under_way, *begun) if id(i) not in gone]

    def closing(self, known: frozenset[int]) -> list[int]:
        """Return the requests that nothing can join any more once `known` is."""
        if known not in self._closing:
            self._closing[known] = self.account.closing(self.now_ns, known)
        return self._closing[known]

    def outcomes(self, states: Iterable[Weights]) -> set[Weights]:
        """Return what the device may hold afterwards; raises _Misfit when nothing fits."""
        over = (self.starts, self.ends, self.prompt | self.late)
        todo = [self._first_round(weights) for weights in states]
        seen: set[Node] = set()
        found: set[Weights] = set()
        while todo:
            for node in self._tried(self._with_load, todo.pop()):
                if node in seen:
                    continue
                if len(seen) == NODES_MAX:
                    raise _TooMany
                seen.add(node)
                if node[1:] == over:
                    found.add(node.weights)
                todo += self._next_rounds(node)
        if not found:
            raise _Misfit(self.misfit[1])
        return found

    def _tried(self, step: Callable[[Node], Node], node: Node) -> list[Node]:
        """Return the node after a step, if it fits; remember why not for the one that came far."""
        try:
            return [step(node)]
        except _Misfit as misfit:
            reason = (node.progress, str(misfit))
            self.misfit = max(self.misfit, reason, key=lambda pair: pair[0])
            return []

    # The phases of a round

    def _first_round(self, weights: Weights) -> Node:
        nothing: frozenset[int] = frozenset()
        return self._completed(Node(weights, nothing, nothing, nothing), self.prompt)

    def _next_rounds(self, node: Node) -> Iterator[Node]:
        """Yield how the next round may begin, whatever starts in this one."""
        choices = [*_subsets(self.late - node.known)]
        for later in self._with_starts(node):
            yield from (self._completed(later, known) for known in choices)

    def _completed(self, node: Node, known: frozenset[int]) -> Node:
        """Let all end that can end: what began before this round."""
        weights, replay = node.weights, self.replay
        over = (self.ends - self.starts) | (self.ends & node.begun)
        for i in over - node.ended:
            span = self.items[i].span
            if isinstance(span, LoadSpan) and span.device == replay.device.name:
                weights = weights.used(span.cell, self.now_ns)
            elif isinstance(span, LaunchSpan) and replay.tracks_weights:
                weights = weights.used(replay.cell(span), self.now_ns)
        return Node(weights, node.begun, node.ended | over, node.known | known)

    def _with_load(self, node: Node) -> Node:
        """Reserve the weights that the next launch lacks; _Misfit when they do not fit."""
        number = self._next(node)
        busy = node.weights.loading is not None or self._occupied(node)
        if number is None or busy or not self.replay.tracks_weights:
            return node
        cell = self.case.graph.cell_name(self.case.plan.launches[number].tasks[0])
        if cell in node.weights.cells or not self._released(number, node):
            return node
        what = f"load of {cell} for {self.case.label(number)}"
        weights = self._reserved(node, self.replay.size[cell], what, pinned=None)
        return node._replace(weights=weights._replace(loading=cell))

    def _with_starts(self, node: Node) -> Iterator[Node]:
        """Yield what a round may come to: any transfers begin, and then perhaps a launch."""
        left = self.starts - node.begun
        launches = {i for i in left if isinstance(self.items[i].span, LaunchSpan)}
        for chosen in _subsets(left - launches):
            for later in self._tried(partial(self._with_all, sorted(chosen)), node):
                yield later
                for i in launches:
                    if self.items[i].number == self._next(later):
                        yield from self._tried(partial(self._with_all, [i]), later)

    def _with_all(self, chosen: Sequence[int], node: Node) -> Node:
        for i in chosen:
            node = self._begin(node, i)
        return node

    # What may happen

    def _begin(self, node: Node, i: int) -> Node:
        """Return the node after the start of an item; _Misfit when that cannot be."""
        item, span = self.items[i], self.items[i].span
        what = label(self.case, span) if item.number < 0 else self.case.label(item.number)
        problem = self._problem(node, item)
        if problem:
            raise _Misfit(f"{what} starts at {self.now_ns} ns {problem}")
        pinned = self.replay.cell(span) if isinstance(span, LaunchSpan) else self._running(node)
        weights = self._reserved(node, self.account.made_bytes(item), what, pinned)
        return node._replace(weights=weights, begun=node.begun | {i})

    def _problem(self, node: Node, item: Item) -> str:
        """Return why an item cannot start, be there room or not; empty: it can."""
        span, weights = item.span, node.weights
        if isinstance(span, LaunchSpan) and self.replay.tracks_weights:
            if self.replay.cell(span) not in weights.cells:
                return f"without the weights of {self.replay.cell(span)}"
        elif isinstance(span, LoadSpan) and span.device == self.replay.device.name:
            if span.cell in weights.cells:
                return "though its weights are there"
            if weights.loading != span.cell:
                return "before a launch asks for it"
        if item.occupies and self._occupied(node):
            return f"while {self.replay.device.name} is taken"
        return ""

    def _reserved(self, node: Node, size_bytes: int, what: str, pinned: str | None) -> Weights:
        """Evict, the least recently used first, until `size_bytes` are free."""
        weights, free_bytes, replay = node.weights, self._free_bytes(node), self.replay
        while free_bytes < size_bytes:
            idle = [use for use in weights.last_use if use[1] != pinned and replay.size[use[1]]]
            if not idle or not replay.evicts:
                raise _Misfit(
                    f"{what} needs {size_bytes} bytes on {replay.device.name} at {self.now_ns} ns,"
                    f" where {free_bytes} of {replay.capacity_bytes} are free and no idle weights"
                    " are left"
                )
            weights = weights._replace(last_use=weights.last_use - {min(idle)})
            free_bytes += replay.size[min(idle)[1]]
        return weights

    def _free_bytes(self, node: Node) -> int:
        begun = [self.items[i] for i in node.begun]
        ended = [self.items[i] for i in node.ended]
        weights = [cell for cell in (*node.weights.cells, node.weights.loading) if cell is not None]
        live_bytes = self.account.bytes_after(begun, ended, self.closing(node.known))
        return self.replay.capacity_bytes - live_bytes - sum(self.replay.size[w] for w in weights)

    def _next(self, node: Node) -> int | None:
        """Return the planned number of the first launch that has not ended."""
        over = [i for i in node.ended if isinstance(self.items[i].span, LaunchSpan)]
        turn, launches = self.replay.n_ended + len(over), self.replay.launches
        return launches[turn] if turn < len(launches) else None

    def _released(self, number: int, node: Node) -> bool:
        known = self.replay.known | node.known
        return self.case.arrived_ns[number] <= self.now_ns and self.case.gates[number] <= known

    def _active(self, node: Node) -> Iterator[Item]:
        ended = {id(self.items[i]) for i in node.ended}
        items = (*self.replay.under_way, *(self.items[i] for i in node.begun))
        return (item for item in items if id(item) not in ended)

    def _occupied(self, node: Node) -> bool:
        return any(item.occupies for item in self._active(node))

    def _running(self, node: Node) -> str | None:
        launches = (i.span for i in self._active(node) if isinstance(i.span, LaunchSpan))
        return next((self.replay.cell(span) for span in launches), None)


def _by_time(case: Case) -> dict[int, frozenset[int]]:
    """Return time → revealers that became known then."""
    at: dict[int, set[int]] = {}
    for revealer, known_ns in case.known_ns.items():
        at.setdefault(known_ns, set()).add(revealer)
    return {time_ns: frozenset(revealers) for time_ns, revealers in at.items()}


def _subsets(choices: frozenset[T]) -> Iterator[frozenset[T]]:
    if len(choices) > CHOICES_MAX:
        raise _TooMany
    for n in range(len(choices) + 1):
        yield from (frozenset(chosen) for chosen in combinations(choices, n))
