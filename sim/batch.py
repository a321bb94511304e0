"""Many worlds run by the compiled simulator in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dynpartition.errors import OutOfDeviceMemory
from dynpartition.profile import PricedGraph
from dynpartition.residency import find_stores, out_of_memory
from dynpartition.sim import kernel
from dynpartition.sim.kernel_pack import (
    ExtraTables,
    MachineTables,
    PlainTables,
    ProgramWorld,
    check_range,
    extra_tables,
    is_plain,
    machine_tables,
    plain_tables,
)
from dynpartition.sim.kernel_trace import Log, make_trace
from dynpartition.trace import Trace
from dynpartition.types import IntArray

@dataclass(slots=True)
class Batch:
    """B worlds as the tables of the compiled simulator; made by `pack`."""

    worlds: list[ProgramWorld]
    tables: kernel.Tables
    extras: kernel.Extras | None
    """None: the plain kernel can run them all."""
    refused: dict[int, OutOfDeviceMemory]
    """World → why it cannot even begin."""
    priced_of: list[PricedGraph]
    """A graph on each machine."""

    def __len__(self) -> int:
        return len(self.worlds)


@dataclass(slots=True)
class BatchResult:
    """What B runs did."""

    batch: Batch
    makespan_ns: IntArray
    """(B,); -1 where the run ended without an end."""
    outcomes: IntArray
    """(B, 6) rows of the kernel's outcomes."""
    log: Log | None
    """None: only makespans were wanted."""

    def ok(self, world: int) -> bool:
        """Return whether the run of a world came to its end."""
        return world not in self.batch.refused and self.outcomes[world, kernel.OUTCOME] == kernel.OK

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
        assert self.log is not None, "run the batch with recording=True to get traces"
        row = self.batch.tables.worlds[world]
        return make_trace(
            self.batch.worlds[world],
            self.log.of_world(row, int(self.outcomes[world, kernel.LOADED])),
            int(self.makespan_ns[world]),
            is_full=self.batch.extras is not None,
        )


def pack(worlds: Sequence[ProgramWorld], *, plain: bool | None = None) -> Batch:
    """Return worlds as one batch.

    `plain` False gives the full kernel also to worlds that do not need it; the result is the same.
    Raises PlanError for weights that cannot travel, and OverflowError for times beyond 64 bits.
    """
    assert worlds, "a batch needs at least one world"
    if plain is None:
        plain = all(map(is_plain, worlds))
    for world in worlds:
        check_range(world)
    return _Packer(worlds, plain).batch()


def run_batch(batch: Batch, *, recording: bool = True) -> BatchResult:
    """Run every world of a batch; without `recording` there are makespans but no traces."""
    count = len(batch)
    sizes = _Sizes(batch)
    log = sizes.log(recording)
    makespan_ns = np.full(count, -1, dtype=np.int64)
    outcomes = np.zeros((count, 6), dtype=np.int64)
    chosen = np.array([w for w in range(count) if w not in batch.refused], dtype=np.int64)
    work = sizes.work(log)
    extras = batch.extras
    while len(chosen):
        more = None if extras is None else sizes.extra_work(log)
        kernel.run_batch(
            *(batch.tables, work, extras, more, chosen, int(recording), makespan_ns, outcomes)
        )
        chosen = np.flatnonzero(outcomes[:, kernel.OUTCOME] == kernel.UNPRICED)
        if extras is not None:
            extras = extras._replace(merged=_priced_merges(batch, extras, outcomes[chosen]))
    assert not (outcomes[:, kernel.OUTCOME] == kernel.STUCK).any(), "a legal plan deadlocked"
    return BatchResult(batch, makespan_ns, outcomes, log if recording else None)


def _priced_merges(batch: Batch, extras: kernel.Extras, outcomes: IntArray) -> IntArray:
    """Return the table of merged transfers with those that the runs of `outcomes` stopped for.

    Only Python's logarithms price a link that has a table, so these runs begin again.
    """
    rows = extras.merged.tolist()
    machines, links = batch.tables.machines, batch.tables.machines[:, kernel.LINKS]
    for link, size_bytes in {(int(row[kernel.WHO]), int(row[kernel.NEEDED])) for row in outcomes}:
        machine = int(np.searchsorted(links, link, side="right")) - 1
        assert 0 <= machine < len(machines)
        priced = batch.priced_of[machine]
        own_link = link - int(links[machine])
        rows.append([link, size_bytes, priced.transfer_ns(own_link, size_bytes)])
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


class _Packer:
    """Collects the tables of worlds, one after the other."""

    def __init__(self, worlds: Sequence[ProgramWorld], plain: bool) -> None:
        self.plain: list[PlainTables] = []
        self.extra: list[ExtraTables] = []
        self.refused: dict[int, OutOfDeviceMemory] = {}
        self._machines: dict[int, tuple[int, PricedGraph, MachineTables]] = {}
        self._worlds = worlds
        for index, world in enumerate(worlds):
            self._add(index, world, plain)

    def _add(self, index: int, world: ProgramWorld, plain: bool) -> None:
        profile = world.priced.profile
        if id(profile) not in self._machines:
            number = len(self._machines)
            self._machines[id(profile)] = (number, world.priced, machine_tables(profile))
        tables = plain_tables(world, with_loads=not plain)
        if not plain:
            try:
                self.extra.append(extra_tables(world, tables))
            except OutOfDeviceMemory as error:
                self.refused[index] = error
                self.extra.append(ExtraTables.of_refused(tables))
        self.plain.append(tables)

    def batch(self) -> Batch:
        """Return all worlds as one batch."""
        machines = list(self._machines.values())
        tables = kernel.Tables(
            worlds=self._world_rows(),
            machines=_machine_rows([machine for _, _, machine in machines]),
            launches=np.concatenate([world.launches for world in self.plain]),
            copies=np.concatenate([world.copies for world in self.plain]),
            rows=_joined(row for world in self.plain for row in world.rows),
            links=np.concatenate([machine.links for _, _, machine in machines]),
            held=_joined(machine.held for _, _, machine in machines),
        )
        extras = self._extras() if self.extra else None
        priced = [priced for _, priced, _ in machines]
        return Batch(list(self._worlds), tables, extras, self.refused, priced)

    def _world_rows(self) -> IntArray:
        rows = np.zeros((len(self.plain), 23), dtype=np.int64)
        own = [self._machines[id(world.priced.profile)][0] for world in self._worlds]
        rows[:, kernel.MACHINE] = own
        rows[:, kernel.FIRST_NS] = [world.first_ns for world in self.plain]
        _put_ranges(rows, kernel.LAUNCHES, [len(world.launches) for world in self.plain])
        _put_ranges(rows, kernel.COPIES, [len(world.copies) for world in self.plain])
        _put_ranges(rows, kernel.ROWS, [world.n_rows for world in self.plain])
        for column, name in (
            (kernel.REVEALERS, "revealers"),
            (kernel.GROUPS, "group_gates"),
            (kernel.ARRIVALS, "arrivals"),
            (kernel.BUFFERS, "buffers"),
            (kernel.CELLS, "cells"),
            (kernel.OWN_PACES, "paces_ns"),
        ):
            _put_ranges(rows, column, [len(getattr(extra, name)) for extra in self.extra])
        _put_starts(rows, kernel.STOCK, [len(extra.stock) for extra in self.extra])
        _put_starts(rows, kernel.OWN_DEVICES, [len(extra.devices) for extra in self.extra])
        _put_starts(rows, kernel.LOADS, [_most_loads(extra) for extra in self.extra])
        return rows

    def _extras(self) -> kernel.Extras:
        return kernel.Extras(
            launches=np.concatenate([extra.launches for extra in self.extra]),
            copies=np.concatenate([extra.copies for extra in self.extra]),
            revealers=np.concatenate([extra.revealers for extra in self.extra]),
            group_gates=np.concatenate([extra.group_gates for extra in self.extra]),
            arrivals=np.concatenate([extra.arrivals for extra in self.extra]),
            devices=np.concatenate([extra.devices for extra in self.extra]),
            buffers=np.concatenate([extra.buffers for extra in self.extra]),
            cells=np.concatenate([extra.cells for extra in self.extra]),
            stock=np.concatenate([extra.stock for extra in self.extra]),
            paces_ns=_joined(np.array(extra.paces_ns, dtype=np.int64) for extra in self.extra),
            lasts_ns=_padded([extra.lasts_ns for extra in self.extra]),
            share_ns=_padded([extra.share_ns for extra in self.extra]),
            merged=np.zeros((0, 3), dtype=np.int64),
        )


def _most_loads(extra: ExtraTables) -> int:
    """Return a bound: each load but the first of a launch follows an eviction by a transfer."""
    return len(extra.launches) + len(extra.copies) if len(extra.cells) else 0


def _put_ranges(rows: IntArray, column: int, sizes: list[int]) -> None:
    if sizes:
        ends = np.cumsum(sizes)
        rows[:, column] = ends - sizes
        rows[:, column + 1] = ends


def _put_starts(rows: IntArray, column: int, sizes: list[int]) -> None:
    if sizes:
        rows[:, column] = np.cumsum(sizes) - sizes


def _machine_rows(machines: list[MachineTables]) -> IntArray:
    rows = np.zeros((len(machines), 13), dtype=np.int64)
    rows[:, : kernel.LINKS] = [machine.row for machine in machines]
    _put_ranges(rows, kernel.LINKS, [len(machine.links) for machine in machines])
    _put_ranges(rows, kernel.OWN_HELD, [len(machine.held) for machine in machines])
    return rows


def _joined(rows: Iterable[IntArray]) -> IntArray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *rows])


def _padded(tables: list[IntArray]) -> IntArray:
    """Stack (L, P) tables of different P; a world never reads beyond its own paces."""
    width = max(table.shape[1] for table in tables)
    wide = [np.pad(table, ((0, 0), (0, width - table.shape[1]))) for table in tables]
    return np.concatenate(wide)


class _Sizes:
    """How large the work tables must be for every world of a batch."""

    def __init__(self, batch: Batch) -> None:
        tables, extras = batch.tables, batch.extras
        self.tables = tables
        self.launches = _largest(tables.worlds, kernel.LAUNCHES)
        self.copies = _largest(tables.worlds, kernel.COPIES)
        self.devices = int(tables.machines[:, kernel.DEVICES].max())
        self.resources = int(tables.machines[:, kernel.RESOURCES].max())
        self.nodes = self.copies << int(tables.machines[:, kernel.SHIFT].max())
        self.revealers = _largest(tables.worlds, kernel.REVEALERS)
        self.groups = _largest(tables.worlds, kernel.GROUPS)
        self.buffers = _largest(tables.worlds, kernel.BUFFERS)
        self.cells = _largest(tables.worlds, kernel.CELLS)
        self.extras = extras

    def log(self, recording: bool) -> Log:
        """Return logs for all worlds, or for the largest if nothing is recorded."""
        tables, is_full = self.tables, self.extras is not None
        some = self.launches, self.copies, self.revealers
        n_revealers = len(self.extras.revealers) if self.extras is not None else 0
        every = len(tables.launches), len(tables.copies), n_revealers
        n_launches, n_copies, n_revealers = every if recording else some
        n_loads = n_launches + n_copies if is_full and self.cells else 0
        return Log(
            launches=_table(n_launches, 4),
            copies=_table(n_copies, 6),
            loads=_table(n_loads, 4),
            reveals=_table(n_revealers, 2),
        )

    def work(self, log: Log) -> kernel.Work:
        """Return the work tables of both kernels."""
        slots = self.resources + self.devices + 1
        return kernel.Work(
            end_ns=_table(slots),
            soonest_ns=_table((slots >> kernel.BLOCK_BITS) + 1),
            resources=_table(self.resources, 5),
            engines=_table(self.devices, 4),
            nodes=_table(self.nodes, 2),
            marked=_table(self.resources),
            awake=_table(self.devices),
            counts=_table(7),
            follower=_table(self.launches),
            launch_log=log.launches,
            copy_log=log.copies,
        )

    def extra_work(self, log: Log) -> kernel.ExtraWork:
        """Return the work tables of the full kernel."""
        return kernel.ExtraWork(
            launch_gates=_table(self.launches),
            dispatched=_table(self.launches),
            copy_gates=_table(self.copies),
            due=_table(self.copies),
            walks=_table(self.devices, 6),
            handed=_table(self.copies, 2),
            telling=_table(self.revealers, 2),
            stores=_table(self.devices, 3),
            last_use=_table(self.devices * self.cells),
            holds=_table(self.buffers),
            group_gates=_table(self.groups),
            kept=_table(self.buffers + self.groups),
            fifo=_table(5),
            load_log=log.loads,
            reveal_log=log.reveals,
            status=_table(6),
        )


def _largest(worlds: IntArray, column: int) -> int:
    return int((worlds[:, column + 1] - worlds[:, column]).max())


def _table(*shape: int) -> IntArray:
    return np.empty(shape, dtype=np.int64)
