"""What lies where in a slot, in which the plan of one graph grows: see `estimate_kernel`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from dynpartition.agent import env_kernel, join_kernel
from dynpartition.agent import estimate_kernel as kernel
from dynpartition.agent.tables import MachineTables
from dynpartition.types import IntArray

NUMBERS = ("scales", "known")
"""What lies in the second array of a slot, of float32; everything else is int64."""


class Room(NamedTuple):
    """How large a graph that fits into a slot may be."""

    tasks: int
    rows: int
    """Inputs, readers, followers and revealers of all tasks together."""
    refuges: int
    cells: int

    def including(self, other: Room) -> Room:
        """Return room for both, with some to spare where the other needs more."""
        return Room(*(a if a >= b else b + b // 4 for a, b in zip(self, other, strict=True)))


class Layout(NamedTuple):
    """The layout of slots on one machine."""

    places: kernel.Places
    array: IntArray
    """The same, for compiled code."""
    joins: IntArray
    """Where what joins need lies, see `join_kernel.Joins`; empty without them."""
    shapes: dict[str, tuple[int, ...]]
    at: dict[str, int]
    """Where each table lies."""
    n_ints: int
    n_numbers: int


def lay_out(machine: MachineTables, room: Room, n_shown: int, *, batching: bool = False) -> Layout:
    """Return where everything lies, the tables of the machine first.

    `batching`: with what tasks need that join launches, which comes last.
    """
    shapes = _shapes(machine, room, n_shown)
    joins = _join_shapes(machine, room) if batching else {}
    at, n_ints, n_numbers = {}, 0, 0
    for name, shape in (shapes | joins).items():
        size = math.prod(shape)
        if name in NUMBERS:
            at[name], n_numbers = n_numbers, n_numbers + size
        else:
            at[name], n_ints = n_ints, n_ints + size
    facts = machine.facts | {"n_tasks": room.tasks, "n_shown": n_shown}
    own = {name: at[name] for name in shapes}
    places = kernel.Places(**facts, n_intervals=shapes["busy"][1], **own)
    return Layout(
        places,
        np.array(places, dtype=np.int64),
        np.array([at[name] for name in joins], dtype=np.int64),
        shapes | joins,
        at,
        n_ints,
        n_numbers,
    )


def _join_shapes(machine: MachineTables, room: Room) -> dict[str, tuple[int, ...]]:
    """Return what lies in a slot besides, in the order of `join_kernel.Joins`."""
    n_devices = machine.facts["n_devices"]
    return {
        "open": (join_kernel.N_OPEN_COLUMNS,),
        "together": (room.tasks,),
        "joined": (room.tasks,),
        "waiting": (room.cells,),
        "batch_first": (room.cells,),
        "batch_ns": (room.tasks, n_devices),
        "apart": (room.tasks, n_devices),
    }


def _shapes(machine: MachineTables, room: Room, n_shown: int) -> dict[str, tuple[int, ...]]:
    """Return what lies in a slot, in the order of `kernel.Places`."""
    n_tasks, n_devices = room.tasks, machine.facts["n_devices"]
    # At most every output over each link of a resource, and every input from the host; and at most
    # a transfer per edge, and an answer, a host input and a revealing value per task; and a load.
    n_intervals = min(n_tasks * (machine.n_uses + n_devices), room.rows // 2 + 3 * n_tasks) + 1
    tracks = machine.facts["tracks"]
    n_intervals += tracks * n_tasks
    machine_shapes: dict[str, tuple[int, ...]] = {
        name: table.shape for name, table in machine.tables.items()
    }
    return machine_shapes | {
        "tasks": (n_tasks, kernel.N_TASK_COLUMNS),
        "pairs": (n_tasks, kernel.N_PAIR_ROWS, n_devices),
        "above": (n_tasks, n_devices),
        "moves": (n_tasks, machine.facts["n_links"]),
        "rows": (room.rows,),
        "refuges": (room.refuges, n_devices),
        "first_ns": (room.cells, n_devices),
        "weights": (tracks * room.cells, kernel.N_WEIGHT_ROWS, n_devices),
        "sizes": (tracks * room.cells, 2),
        "memory": (tracks * n_devices, kernel.N_MEMORY_COLUMNS),
        "sums": (kernel.N_SUMS,),
        "devices": (n_devices, kernel.N_DEVICE_COLUMNS),
        "spans": (n_devices, n_tasks, 2),
        "finished": (n_devices, n_tasks),
        "n_busy": (machine.n_resources,),
        "busy": (machine.n_resources, n_intervals, 2),
        "ready": (n_tasks,),
        "chosen": (n_tasks, 2),
        "shown": (n_shown,),
        "candidates": (n_shown, n_devices + 1, 2),
        "scales": (2,),
        "known": (n_tasks, n_devices, env_kernel.N_KNOWN),
    }
