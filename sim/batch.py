"""Many worlds run by the compiled simulator in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition.errors import OutOfDeviceMemory
from dynpartition.residency import find_stores, out_of_memory
from dynpartition.sim import kernel
from dynpartition.sim.kernel_pack import (
    FIELDS,
    PLAIN_FIELDS,
    MachineTables,
    ProgramWorld,
    WorldTables,
    add_extras,
    check_range,
    is_plain,
    machine_tables,
    slot_facts,
)
from dynpartition.sim.kernel_trace import find_log, make_plain_trace, make_trace
from dynpartition.trace import Trace
from dynpartition.types import IntArray


@dataclass(slots=True)
class Batch:
    """B worlds as the arrays of the compiled simulator; made by `pack`."""

    worlds: list[ProgramWorld]
    tables: IntArray
    """All tables, one after the other."""
    places: IntArray
    """(B, n) rows of `PlainPlaces` or `Places`: what is a world's own, without logs."""
    is_plain: bool
    """Whether the plain loop runs them all."""
    refused: dict[int, OutOfDeviceMemory]
    """World → why it cannot even begin."""

    def __len__(self) -> int:
        return len(self.worlds)


@dataclass(slots=True)
class BatchResult:
    """What B runs did."""

    batch: Batch
    makespan_ns: IntArray
    """(B,); -1 where memory ran out."""
    outcomes: IntArray
    """(B, 6) rows of the kernel's outcomes."""
    places: IntArray
    """The batch's, with logs."""
    state: IntArray | None
    """Holds the logs; None: only makespans were wanted."""

    def error(self, world: int) -> OutOfDeviceMemory | None:
        """Return why a run ended early, or None."""
        if world in self.batch.refused:
            return self.batch.refused[world]
        outcome, launch, device, needed, free = self.outcomes[world, :5].tolist()
        if outcome == kernel.OK:
            return None
        assert outcome == kernel.OUT_OF_MEMORY
        priced, program, _ = self.batch.worlds[world]
        return out_of_memory(program, find_stores(priced), launch, device, (needed, free))

    def trace(self, world: int) -> Trace:
        """Return everything that one run did; raises OutOfDeviceMemory where it ended early."""
        error = self.error(world)
        if error is not None:
            raise error
        assert self.state is not None, "run the batch with recording=True to get traces"
        own, places = self.batch.worlds[world], self.places[world]
        makespan_ns = int(self.makespan_ns[world])
        if self.batch.is_plain:
            return make_plain_trace(own, self.state, places, makespan_ns)
        log = find_log(self.state, places, int(self.outcomes[world, kernel.LOADED]))
        return make_trace(own, log, makespan_ns)


def pack(worlds: Sequence[ProgramWorld], *, plain: bool = True) -> Batch:
    """Return worlds as one batch.

    `plain` False gives the full kernel also to worlds that do not need it; the result is the same.
    Raises PlanError for weights that cannot travel, and OverflowError for times beyond 62 bits.
    """
    assert worlds, "a batch needs at least one world"
    profiles = {id(world.priced.profile): world.priced.profile for world in worlds}
    machines = {key: machine_tables(profile) for key, profile in profiles.items()}
    plain = plain and all(machine.is_small for machine in machines.values())
    plain = plain and all(map(is_plain, worlds))
    arena = _Arena()
    facts = {key: arena.add_machine(machine) for key, machine in machines.items()}
    places = np.zeros((len(worlds), kernel.N_OWN), dtype=np.int64)
    refused: dict[int, OutOfDeviceMemory] = {}
    known = []
    for number, world in enumerate(worlds):
        check_range(world)
        own = WorldTables(world, with_loads=not plain)
        if not plain:
            try:
                add_extras(own, world)
            except OutOfDeviceMemory as error:
                refused[number] = error
        known.append(facts[id(world.priced.profile)] | own.facts | {"n_rows": own.n_rows})
        arena.add_world(places[number], known[-1], own, plain)
    if plain:
        return Batch(list(worlds), *_condensed(arena, places, known), True, {})
    return Batch(list(worlds), arena.joined(), places, False, refused)


class _Arena:
    """All tables one after the other, and where they begin."""

    def __init__(self) -> None:
        self._parts: list[IntArray] = []
        self._end = 0
        self._n_links = 0

    def add(self, table: IntArray) -> int:
        """Append a table and return its place."""
        place = self._end
        self._parts.append(table.reshape(-1))
        self._end += table.size
        return place

    def add_machine(self, machine: MachineTables) -> dict[str, int]:
        """Append the tables of a machine and return its facts and places."""
        first_link = self._n_links
        self._n_links += len(machine.links)
        tables = {name: self.add(table) for name, table in machine.tables().items()}
        return machine.facts | tables | {"first_link": first_link}

    def add_world(
        self, row: IntArray, facts: dict[str, int], own: WorldTables, plain: bool
    ) -> None:
        """Append the tables of a world and note all its facts and places in `row`."""
        found = facts | {name: self.add(table) for name, table in own.all_tables().items()}
        found |= slot_facts(found, is_plain=plain)
        for name, value in found.items():
            if name in FIELDS:
                row[FIELDS[name]] = value

    def joined(self) -> IntArray:
        """Return everything as one array."""
        return np.concatenate([*self._parts, np.zeros(1, dtype=np.int64)])


def _condensed(
    arena: _Arena, places: IntArray, known: Sequence[dict[str, int]]
) -> tuple[IntArray, IntArray]:
    """Return the tables and the own places of the plain loop; `known`: the facts of each world."""
    plain = np.zeros((len(places), kernel.N_PLAIN_OWN), dtype=np.int64)
    for row, facts in zip(plain, known, strict=True):
        found = facts | {"n_queued": facts["n_copies"] << facts["shift"]}
        for name, size in plain_sizes(found).items():
            found[name] = arena.add(np.zeros(size, dtype=np.int64))
        row[:] = [found.get(name, 0) for name in PLAIN_FIELDS]
    tables = arena.joined()
    kernel.condense_worlds(tables, places, plain)
    return tables, plain


def plain_sizes(facts: dict[str, int]) -> dict[str, int]:
    """Return the sizes of the tables that only the plain loop has."""
    launches, copies = facts["n_launches"], facts["n_copies"]
    return {
        "moves": 8 * copies,
        "launches": 4 * (launches + 1),
        "rows": facts["n_rows"] + copies,  # they also list the host inputs
        "first": facts["n_devices"],
        "missing": launches,
        "queues": facts["n_bits"],
    }


def run_batch(batch: Batch, *, recording: bool = True) -> BatchResult:
    """Run every world of a batch; without `recording` there are makespans but no traces."""
    count = len(batch)
    places = batch.places.copy()
    state, shared = make_state(places, is_plain=batch.is_plain, recording=recording)
    makespan_ns = np.full(count, -1, dtype=np.int64)
    outcomes = np.zeros((count, kernel.N_OUTCOMES), dtype=np.int64)
    if batch.is_plain:
        kernel.run_plain_worlds(batch.tables, state, places, shared, makespan_ns, outcomes)
    else:
        _run_full(batch, (state, places, shared), makespan_ns, outcomes)
    assert not (outcomes[:, kernel.OUTCOME] == kernel.STUCK).any(), "a legal plan deadlocked"
    return BatchResult(batch, makespan_ns, outcomes, places, state if recording else None)


def _run_full(
    batch: Batch,
    work: tuple[IntArray, IntArray, IntArray],
    makespan_ns: IntArray,
    outcomes: IntArray,
) -> None:
    """Run every world in the full kernel, again where a merged transfer had no price yet."""
    state, places, shared = work
    chosen = np.array([w for w in range(len(batch)) if w not in batch.refused], dtype=np.int64)
    tables, merged = batch.tables, np.zeros((0, 3), dtype=np.int64)
    while len(chosen):
        kernel.run_worlds(tables, state, places, shared, chosen, makespan_ns, outcomes)
        chosen = np.flatnonzero(outcomes[:, kernel.OUTCOME] == kernel.UNPRICED)
        if len(chosen):
            merged = np.concatenate([merged, _priced_merges(batch, chosen, outcomes)])
            tables = np.concatenate([batch.tables, merged.reshape(-1)])
            places[:, FIELDS["n_merged"]] = len(merged)
            places[:, FIELDS["merged"]] = len(batch.tables)


def _priced_merges(batch: Batch, worlds: IntArray, outcomes: IntArray) -> IntArray:
    """Return rows for the table of merged transfers: those that the runs of `worlds` stopped for.

    Only Python's logarithms price a link that has a table, so these runs begin again.
    """
    rows = set()
    for world in worlds.tolist():
        link, size_bytes = outcomes[world, [kernel.WHO, kernel.NEEDED]].tolist()
        own_link = link - int(batch.places[world, FIELDS["first_link"]])
        priced = batch.worlds[world].priced
        rows.add((link, size_bytes, priced.transfer_ns(own_link, size_bytes)))
    return np.array(sorted(rows), dtype=np.int64)


def make_state(places: IntArray, *, is_plain: bool, recording: bool) -> tuple[IntArray, IntArray]:
    """Return the kernel's state and the places of its shared part; set those of logs in `places`.

    The state is large enough for the largest of the worlds. Without `recording` all of them log
    to one place.
    """
    fields = PLAIN_FIELDS if is_plain else FIELDS
    most = dict(zip(fields, places.max(axis=0).tolist(), strict=True))
    sizes = plain_state_sizes(most) if is_plain else state_sizes(most)
    first = kernel.N_PLAIN_WORK if is_plain else 0
    starts = np.cumsum([first, *sizes.values()])
    shared = starts[:-1].astype(np.int64)
    end = int(starts[-1])
    for name, size in (_plain_log_sizes if is_plain else _log_sizes)(places).items():
        places[:, fields[name]] = end + (np.cumsum(size) - size if recording else 0)
        end += int(size.sum() if recording else size.max())
    return np.empty(end, dtype=np.int64), shared


def plain_state_sizes(most: dict[str, int]) -> dict[str, int]:
    """Return the size of each part of the plain loop's shared state, in the order of its places."""
    sizes = {"left": most["n_launches"], "queue": most["n_queued"]}
    assert tuple(sizes) == kernel.PlainPlaces._fields[kernel.N_PLAIN_OWN :]
    return sizes


def state_sizes(most: dict[str, int]) -> dict[str, int]:
    """Return the size of each part of the full kernel's shared state, in the order of `Places`."""
    launches, devices, resources = most["n_launches"], most["n_devices"], most["n_resources"]
    copies = most["n_copies"] + devices
    sizes = {
        "end_ns": most["n_slots"],
        "soonest_ns": most["n_blocks"],
        "resources": 5 * resources,
        "engines": 4 * devices,
        "nodes": 2 * (copies << most["shift"]),
        "marked": resources,
        "awake": devices,
        "counts": kernel.N_COUNTS,
        "follower": launches,
        "launch_gates": launches,
        "dispatched": launches,
        "copy_gates": copies,
        "due": copies,
        "walks": 6 * devices,
        "handed": 2 * copies,
        "telling": 2 * most["n_revealers"],
        "stores": 3 * devices,
        "last_use": devices * most["n_cells"],
        "holds": most["n_buffers"],
        "group_gates": most["n_groups"],
        "kept": most["n_buffers"] + most["n_groups"],
        "fifo": 5,
        "status": kernel.N_OUTCOMES,
    }
    assert tuple(sizes) == kernel.Places._fields[kernel.N_OWN :]
    return sizes


def _log_sizes(places: IntArray) -> dict[str, IntArray]:
    """Return the (B,) sizes of each log."""
    launches = places[:, FIELDS["n_launches"]]
    copies = places[:, FIELDS["n_copies"]]
    has_loads = places[:, FIELDS["n_cells"]] > 0
    return {
        "launch_log": 4 * launches,
        "copy_log": 6 * (copies + places[:, FIELDS["n_devices"]]),
        # Each load but the first of a launch follows an eviction by a transfer.
        "load_log": 4 * (launches + copies) * has_loads,
        "reveal_log": 2 * places[:, FIELDS["n_revealers"]],
    }


def _plain_log_sizes(places: IntArray) -> dict[str, IntArray]:
    return {
        "launch_log": 2 * places[:, PLAIN_FIELDS["n_launches"]],
        "copy_log": 3 * places[:, PLAIN_FIELDS["n_copies"]],
    }
