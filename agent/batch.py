"""Plans of several episodes in the making, stepped and observed by one compiled call."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dynpartition.agent import env_kernel as kernel
from dynpartition.agent import estimate_kernel as estimated
from dynpartition.agent import join_kernel
from dynpartition.agent.facts import Facts
from dynpartition.agent.joins import JoinTables
from dynpartition.agent.observe import features_of
from dynpartition.agent.slots import NUMBERS, Layout, Room, lay_out
from dynpartition.agent.tables import Tables, machine_tables
from dynpartition.plan import Launch, Plan, chosen_launches
from dynpartition.profile import Profile
from dynpartition.types import FloatArray, IntArray

NOTHING = Plan()


class Batch:
    """B slots with a growing plan each, all on the machine of one profile.

    `batching`: whether a task may also join the launch placed last; see `join_kernel`.
    """

    def __init__(
        self, profile: Profile, n_slots: int, max_ready: int, *, batching: bool = False
    ) -> None:
        self.n_slots, self.max_ready, self.batching = n_slots, max_ready, batching
        self.n_devices = len(profile.cluster.devices)
        self.n_candidates = max_ready * (self.n_devices + batching)
        self._names = profile.cluster.names
        self._machine = machine_tables(profile)
        shape = (n_slots, self.n_candidates, len(features_of(batching=batching)))
        self.features: FloatArray = np.zeros(shape, dtype=np.float32)
        """Float32 (B, K, F): the last observation of each slot. Overwritten by the next."""
        self.mask: npt.NDArray[np.int8] = np.zeros(shape[:2], dtype=np.int8)
        """Int8 (B, K): 1 where a candidate is legal."""
        self._room = Room(1, 1, 1, 1)
        self._lay_out()

    def begin(self, slot: int, facts: Facts, planned: Plan = NOTHING) -> None:
        """Start over with a graph of which `planned` is placed. Observe the slot before acting."""
        tables = facts.tables
        lengths = (len(tables.tasks), len(tables.rows), len(tables.refuges), len(tables.first_ns))
        self._make_room(self._room.including(Room(*lengths)))
        self._put(slot, facts)
        if planned:
            self._replay(slot, facts, planned)

    def observe(self, slots: IntArray) -> IntArray:
        """Observe slots; return int64 (n,): `kernel.PLACED`, ALL_PLACED or STUCK."""
        return self.act(slots, np.full(len(slots), estimated.ABSENT))

    def act(self, slots: IntArray, actions: IntArray) -> IntArray:
        """Place a candidate of each of the slots and observe; return int64 (n,): what became of it.

        `env_kernel.ILLEGAL` (nothing has changed), PLACED, ALL_PLACED, or STUCK: tasks are left and
        none may go anywhere.
        """
        outcomes = np.empty(len(slots), dtype=np.int64)
        if self.batching:
            where = (self._layout, self._joins)
            join_kernel.act(self._ints, self._held, *self._seen, *where, slots, actions, outcomes)
        else:
            kernel.act(self._ints, *self._seen, self._layout, slots, actions, outcomes)
        return outcomes

    def chosen(self, slot: int) -> IntArray:
        """Return the choices since `begin`, in order: int64 (n, 2) tasks and devices.

        Where tasks may join launches (n, 3), with whether they do; see `plan.chosen_launches`.
        """
        count = self._views["sums"][slot, estimated.N_CHOSEN]
        chosen: IntArray = self._views["chosen"][slot, :count].copy()
        if self.batching:
            chosen = np.column_stack([chosen, self._views["joined"][slot, :count]])
        return chosen

    def launches(self, slot: int) -> list[Launch]:
        """Return the choices since `begin` as launches."""
        return chosen_launches(self.chosen(slot), self._names)

    def shown(self, slot: int) -> list[int]:
        """Return the tasks of the last observation; see `agent.observe` for their candidates."""
        count = self._views["sums"][slot, estimated.N_LISTED] // self.n_devices
        tasks: list[int] = self._views["shown"][slot, :count].tolist()
        return tasks

    def n_ready(self, slot: int) -> int:
        """Return how many revealed tasks are ready and not placed."""
        return int(self._views["sums"][slot, estimated.N_READY])

    def _replay(self, slot: int, facts: Facts, planned: Plan) -> None:
        launches, index = planned.launches, facts.profile.cluster.index
        devices = [index(launch.device) for launch in launches]
        run_ns = [
            facts.prices.launch_ns(launch.tasks, device)
            for launch, device in zip(launches, devices, strict=True)
        ]
        tasks = [task for launch in launches for task in launch.tasks]
        start = np.cumsum([0] + [len(launch.tasks) for launch in launches])
        arrays = [np.array(row, dtype=np.int64) for row in (tasks, start, devices, run_ns)]
        kernel.replay(self._ints[slot], self._layout, *arrays)
        if self.batching:
            estimated.replay(self._held[slot], self._layout, *arrays)

    def _put(self, slot: int, facts: Facts) -> None:
        """Begin with a graph of which nothing is placed."""
        n_listed = self._views["sums"][slot, estimated.N_LISTED]  # still in the buffers
        for views in self._all_views:
            _fill(views, slot, facts.tables)
            views["devices"][slot] = 0
            views["n_busy"][slot] = 0
        self._views["sums"][slot, estimated.N_LISTED] = n_listed
        if self.batching:
            _fill(self._views, slot, facts.join_tables)
            self._views["open"][slot] = 0

    def _make_room(self, room: Room) -> None:
        if room == self._room:
            return
        before, self._room = self._all_views, room
        self._lay_out()
        for old, new in zip(before, self._all_views, strict=True):
            for name, table in old.items():
                new[name][tuple(map(slice, table.shape))] = table

    def _lay_out(self) -> None:
        """Allocate zeros; pages that are never touched cost no memory."""
        layout = lay_out(self._machine, self._room, self.max_ready, batching=self.batching)
        self._layout, self._joins = layout.array, layout.joins
        self._ints, self._held = (
            np.zeros((n_slots, layout.n_ints), dtype=np.int64)
            for n_slots in (self.n_slots, self.n_slots if self.batching else 0)
        )
        numbers = np.zeros((self.n_slots, layout.n_numbers), dtype=np.float32)
        self._seen = (numbers, self.features.reshape(self.n_slots, -1), self.mask)
        self._views = _views(layout, self._ints, numbers)
        self._all_views = [self._views]
        if self.batching:  # the numbers of both are the same
            self._all_views.append(_views(layout, self._held, numbers))
        for views in self._all_views:
            for name, table in self._machine.tables.items():
                views[name][:] = table


def _fill(views: dict[str, Any], slot: int, tables: Tables | JoinTables) -> None:
    for name in tables.__slots__:
        table = getattr(tables, name)
        views[name][slot, : len(table)] = table


def _views(layout: Layout, ints: IntArray, numbers: FloatArray) -> dict[str, Any]:
    return {
        name: _view(numbers if name in NUMBERS else ints, layout.at[name], shape)
        for name, shape in layout.shapes.items()
    }


def _view(flat: Any, place: int, shape: tuple[int, ...]) -> Any:
    """Return part of every row, int64 or float32 (B, n), as an array (B, *shape)."""
    return flat[:, place : place + math.prod(shape)].reshape(len(flat), *shape)
