"""Plans of several episodes in the making, stepped and observed by one compiled call."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dynpartition.agent import kernel
from dynpartition.agent.facts import Facts
from dynpartition.agent.tables import Tables, machine_tables
from dynpartition.plan import Launch, Plan, single_task_launches
from dynpartition.profile import Profile
from dynpartition.types import FloatArray, IntArray

NOTHING = Plan()


class _Room(NamedTuple):
    """How large the largest graph of a batch may be."""

    tasks: int
    rows: int
    refuges: int

    def including(self, tables: Tables) -> _Room:
        """Return room for `tables` as well, with some to spare where it is more."""
        needed = (len(tables.tasks), len(tables.rows), len(tables.refuges))
        return _Room(*(a if a >= b else b + b // 4 for a, b in zip(self, needed, strict=True)))


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
        self._room = _Room(1, 1, 1)
        self._lay_out()

    def begin(self, slot: int, facts: Facts, planned: Plan = NOTHING) -> None:
        """Start over with a graph of which `planned` is placed. Observe the slot before acting."""
        tables = facts.tables
        self._make_room(self._room.including(tables))
        self._put(slot, tables)
        if planned:
            self._replay(slot, facts, planned)

    @property
    def ints(self) -> IntArray:
        """Int64 (B, n): the slots. Another array once more room was made."""
        ints: IntArray = self._arrays[0]
        return ints

    @property
    def places(self) -> kernel.Places:
        """What lies where in `ints`."""
        return self._places

    def views(self) -> list[dict[str, Any]]:
        """Return what each slot holds, by the names of `kernel.Places`."""
        return [
            {name: view[slot] for name, view in self._views.items()} for slot in range(self.n_slots)
        ]

    def make_room(self, n_tasks: int, n_rows: int) -> None:
        """Make room for a graph, where all devices are linked."""
        room = self._room
        if n_tasks > room.tasks or n_rows > room.rows:
            tasks, rows = max(n_tasks, room.tasks), max(n_rows, room.rows)
            self._make_room(_Room(tasks, rows, room.refuges))

    def observe(self, slots: IntArray) -> IntArray:
        """Observe slots; return int64 (n,): `kernel.PLACED`, ALL_PLACED or STUCK."""
        return self.act(slots, np.full(len(slots), kernel.ABSENT))

    def act(self, slots: IntArray, actions: IntArray) -> IntArray:
        """Place a candidate of each of the slots and observe; return int64 (n,): what became of it.

        `kernel.ILLEGAL` (nothing has changed), PLACED, ALL_PLACED, or STUCK: tasks are left and
        none may go anywhere.
        """
        outcomes = np.empty(len(slots), dtype=np.int64)
        kernel.act(*self._arrays, self._places, slots, actions, outcomes)
        return outcomes

    def chosen(self, slot: int) -> IntArray:
        """Return int64 (n, 2): (task, device) of the choices since `begin`, in order."""
        count = self._views["sums"][slot, kernel.N_CHOSEN]
        chosen: IntArray = self._views["chosen"][slot, :count].copy()
        return chosen

    def launches(self, slot: int) -> list[Launch]:
        """Return the choices since `begin` as launches."""
        return single_task_launches(self.chosen(slot), self._names)

    def shown(self, slot: int) -> list[int]:
        """Return the tasks of the last observation: candidate r·D + d is (task r, device d)."""
        count = self._views["sums"][slot, kernel.N_LISTED] // self.n_devices
        tasks: list[int] = self._views["shown"][slot, :count].tolist()
        return tasks

    def n_ready(self, slot: int) -> int:
        """Return how many revealed tasks are ready and not placed."""
        return int(self._views["sums"][slot, kernel.N_READY])

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
        kernel.replay(self._arrays[0][slot], self._places, *arrays)

    def _put(self, slot: int, tables: Tables) -> None:
        """Begin with a graph of which nothing is placed."""
        views = self._views
        n_listed = views["sums"][slot, kernel.N_LISTED]  # still in the buffers
        for name in tables.__slots__:
            table = getattr(tables, name)
            views[name][slot, : len(table)] = table
        views["sums"][slot, kernel.N_LISTED] = n_listed
        views["devices"][slot] = 0
        views["n_busy"][slot] = 0

    def _make_room(self, room: _Room) -> None:
        if room == self._room:
            return
        before, self._room = self._views, room
        self._lay_out()
        for name, new in self._views.items():
            old = before[name]
            new[tuple(map(slice, old.shape))] = old

    def _lay_out(self) -> None:
        """Allocate zeros; pages that are never touched cost no memory."""
        shapes = self._shapes()
        places, sizes = {}, {"ints": 0, "numbers": 0}
        for name, shape in shapes.items():
            kind = "numbers" if name in ("scales", "known") else "ints"
            places[name] = sizes[kind]
            sizes[kind] += math.prod(shape)
        ints = np.zeros((self.n_slots, sizes["ints"]), dtype=np.int64)
        numbers = np.zeros((self.n_slots, sizes["numbers"]), dtype=np.float32)
        self._views = {
            name: _view(numbers if name in ("scales", "known") else ints, places[name], shape)
            for name, shape in shapes.items()
        }
        for name, table in self._machine.tables.items():
            self._views[name][:] = table
        facts = self._machine.facts | {"n_tasks": self._room.tasks, "n_shown": self.max_ready}
        self._places = kernel.Places(**facts, n_intervals=shapes["busy"][1], **places)
        flat = self.features.reshape(self.n_slots, -1)
        self._arrays = (ints, numbers, flat, self.mask)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Return what lies in each slot, in the order of `kernel.Places`."""
        n_tasks, n_devices, machine = self._room.tasks, self.n_devices, self._machine
        shapes: dict[str, tuple[int, ...]] = {
            name: table.shape for name, table in machine.tables.items()
        }
        return shapes | {
            "tasks": (n_tasks, kernel.N_TASK_COLUMNS),
            "pairs": (n_tasks, kernel.N_PAIR_ROWS, n_devices),
            "above": (n_tasks, n_devices),
            "moves": (n_tasks, machine.facts["n_links"]),
            "rows": (self._room.rows,),
            "refuges": (self._room.refuges, n_devices),
            "sums": (kernel.N_SUMS,),
            "devices": (n_devices, kernel.N_DEVICE_COLUMNS),
            "spans": (n_devices, n_tasks, 2),
            "finished": (n_devices, n_tasks),
            "n_busy": (machine.n_resources,),
            # At most every output over each link of a resource, and every input from the host.
            "busy": (machine.n_resources, n_tasks * (machine.n_uses + n_devices), 2),
            "ready": (n_tasks,),
            "chosen": (n_tasks, 2),
            "shown": (self.max_ready,),
            "candidates": (self.max_ready, n_devices + 1, 2),
            "after_ns": (machine.facts["n_links"],),
            "scales": (2,),
            "known": (n_tasks, n_devices, kernel.N_KNOWN),
        }


def _view(flat: Any, place: int, shape: tuple[int, ...]) -> Any:
    """Return part of every row, int64 or float32 (B, n), as an array (B, *shape)."""
    return flat[:, place : place + math.prod(shape)].reshape(len(flat), *shape)
