"""Plans of several episodes in the making, stepped and observed by one compiled call."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from dynpartition.agent import env_kernel as kernel
from dynpartition.agent import estimate_kernel as estimated
from dynpartition.agent.facts import Facts
from dynpartition.agent.slots import NUMBERS, Room, lay_out
from dynpartition.agent.tables import Tables, machine_tables
from dynpartition.plan import Launch, Plan, single_task_launches
from dynpartition.profile import Profile
from dynpartition.types import FloatArray, IntArray

NOTHING = Plan()


class Batch:
    """B slots with a growing plan each, all on the machine of one profile."""

    def __init__(self, profile: Profile, n_slots: int, max_ready: int) -> None:
        self.n_slots, self.max_ready = n_slots, max_ready
        self.n_devices = len(profile.cluster.devices)
        self.n_candidates = max_ready * self.n_devices
        self._names = profile.cluster.names
        self._machine = machine_tables(profile)
        shape = (n_slots, self.n_candidates, kernel.N_FEATURES)
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
        self._put(slot, tables)
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
        kernel.act(*self._arrays, self._layout, slots, actions, outcomes)
        return outcomes

    def chosen(self, slot: int) -> IntArray:
        """Return int64 (n, 2): (task, device) of the choices since `begin`, in order."""
        count = self._views["sums"][slot, estimated.N_CHOSEN]
        chosen: IntArray = self._views["chosen"][slot, :count].copy()
        return chosen

    def launches(self, slot: int) -> list[Launch]:
        """Return the choices since `begin` as launches."""
        return single_task_launches(self.chosen(slot), self._names)

    def shown(self, slot: int) -> list[int]:
        """Return the tasks of the last observation: candidate r·D + d is (task r, device d)."""
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
        arrays = (np.array(row, dtype=np.int64) for row in (tasks, start, devices, run_ns))
        kernel.replay(self._arrays[0][slot], self._layout, *arrays)

    def _put(self, slot: int, tables: Tables) -> None:
        """Begin with a graph of which nothing is placed."""
        views = self._views
        n_listed = views["sums"][slot, estimated.N_LISTED]  # still in the buffers
        for name in tables.__slots__:
            table = getattr(tables, name)
            views[name][slot, : len(table)] = table
        views["sums"][slot, estimated.N_LISTED] = n_listed
        views["devices"][slot] = 0
        views["n_busy"][slot] = 0

    def _make_room(self, room: Room) -> None:
        if room == self._room:
            return
        before, self._room = self._views, room
        self._lay_out()
        for name, new in self._views.items():
            old = before[name]
            new[tuple(map(slice, old.shape))] = old

    def _lay_out(self) -> None:
        """Allocate zeros; pages that are never touched cost no memory."""
        layout = lay_out(self._machine, self._room, self.max_ready)
        ints = np.zeros((self.n_slots, layout.n_ints), dtype=np.int64)
        numbers = np.zeros((self.n_slots, layout.n_numbers), dtype=np.float32)
        self._views = {
            name: _view(numbers if name in NUMBERS else ints, layout.at[name], shape)
            for name, shape in layout.shapes.items()
        }
        for name, table in self._machine.tables.items():
            self._views[name][:] = table
        self._layout = layout.array
        flat = self.features.reshape(self.n_slots, -1)
        self._arrays = (ints, numbers, flat, self.mask)


def _view(flat: Any, place: int, shape: tuple[int, ...]) -> Any:
    """Return part of every row, int64 or float32 (B, n), as an array (B, *shape)."""
    return flat[:, place : place + math.prod(shape)].reshape(len(flat), *shape)
