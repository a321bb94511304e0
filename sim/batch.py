"""Many worlds run by the compiled simulator in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dynpartition.errors import OutOfDeviceMemory
from dynpartition.profile import Profile
from dynpartition.residency import find_stores, out_of_memory
from dynpartition.sim import kernel
from dynpartition.sim.kernel_pack import (
    ExtraTables,
    MachineTables,
    PlainTables,
    ProgramWorld,
    extra_tables,
    is_plain,
    machine_tables,
    plain_tables,
)
from dynpartition.sim.kernel_trace import Log, make_trace
from dynpartition.trace import Trace
from dynpartition.types import IntArray

LAST_POSSIBLE_NS = kernel.NEVER // 2
"""No world may take longer: times must stay below NEVER."""


@dataclass(slots=True)
class Batch:
    """B worlds as the tables of the compiled simulator; made by `pack`."""

    worlds: list[ProgramWorld]
    tables: kernel.Tables
    extras: kernel.Extras | None
    """None: the plain kernel can run them all."""
    refused: dict[int, OutOfDeviceMemory]
    """World → why it cannot even begin."""

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
        )


def pack(worlds: Sequence[ProgramWorld], *, plain: bool | None = None) -> Batch:
    """Return worlds as one batch.

    `plain` False gives the full kernel also to worlds that do not need it; the result is the same.
    Raises PlanError for weights that cannot travel, and OverflowError for times beyond 64 bits.
    """
    if plain is None:
        plain = all(map(is_plain, worlds))
    for world in worlds:
        _check_range(world)
    machines: dict[int, tuple[int, Profile, MachineTables]] = {}
    for priced, _, _ in worlds:
        own = priced.profile
        if id(own) not in machines:
            machines[id(own)] = (len(machines), own, machine_tables(own))
    packer = _Packer([machines[id(world.priced.profile)][0] for world in worlds])
    for index, world in enumerate(worlds):
        packer.add(index, world, plain)
    tables = packer.tables([tables for _, _, tables in machines.values()])
    extras = None if plain else packer.all_extras()
    return Batch(list(worlds), tables, extras, packer.refused)


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
    raise NotImplementedError


def _check_range(world: ProgramWorld) -> None:
    raise NotImplementedError


class _Packer:
    """Collects the tables of worlds, one after the other."""
