"""The plain semantics in C, compiled to a temporary folder and called through ctypes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from engines.plain_worlds import Tables, Times

SOURCE = Path(__file__).with_name("c_loop.c")
FIELDS = (
    *("worlds", "first", "device", "follower", "missing", "duration_ns", "sends_start", "sends"),
    *("held", "copy_dst", "copy_ns", "is_input", "is_answer", "readers_start", "readers"),
    *("queue_start", "launch_start", "launch_end", "copy_start", "copy_end", "makespan_ns"),
    *("left", "queue", "ready_ns"),
)
"""Of the struct `Batch`, in order."""
WIDE = ("duration_ns", "copy_ns")
FLAGS = ("is_input", "is_answer")


class _Batch(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in FIELDS)


def compiler() -> str | None:
    """Return the C compiler of this machine, if there is one."""
    return shutil.which("cc") or shutil.which("gcc")


def build() -> ctypes.CDLL:
    """Compile the C code and load it."""
    with tempfile.TemporaryDirectory() as folder:
        library = str(Path(folder) / "c_loop.so")
        options = ["-O3", "-march=native", "-shared", "-fPIC", "-std=gnu11"]
        subprocess.run([compiler() or "cc", *options, "-o", library, str(SOURCE)], check=True)
        return ctypes.CDLL(library)


class CBatch:
    """Many worlds as the tables of the C code."""

    def __init__(self, library: ctypes.CDLL, worlds: list[Tables]) -> None:
        self._run = library.run_batch
        self._run.restype = None
        lists: dict[str, list[int]] = {name: [] for name in FIELDS}
        self.rows: list[tuple[int, int]] = []
        """Where the launches and the transfers of each world begin."""
        lists["sends_start"], lists["readers_start"] = [0], [0]
        queued = 0
        for tables in worlds:
            queued = _append(lists, tables, self.rows, queued)
        n_launches, n_copies = len(lists["device"]), len(lists["copy_ns"])
        arrays = {name: np.array(values, dtype=np.int32) for name, values in lists.items()}
        arrays |= {name: np.array(lists[name], dtype=np.int64) for name in WIDE}
        arrays |= {
            name: np.array(lists[name], dtype=np.uint8) for name in ("is_input", "is_answer")
        }
        arrays["held"] = np.array(lists["held"], dtype=np.uint64)
        sizes = {"launch": n_launches, "copy": n_copies}
        for name in ("launch_start", "launch_end", "copy_start", "copy_end"):
            arrays[name] = np.zeros(sizes[name.split("_")[0]], dtype=np.int64)
        arrays["makespan_ns"] = np.zeros(len(worlds), dtype=np.int64)
        arrays["left"] = np.zeros(n_launches, dtype=np.int32)
        arrays["queue"] = np.zeros(queued + 1, dtype=np.int32)
        arrays["ready_ns"] = np.zeros(n_copies, dtype=np.int64)
        self.arrays = arrays  # keeps them alive
        self._batch = _Batch(*(arrays[name].ctypes.data for name in FIELDS))
        self._count = ctypes.c_int(len(worlds))

    def run(self) -> np.ndarray:
        """Run all worlds; return their makespans."""
        self._run(ctypes.byref(self._batch), self._count)
        return self.arrays["makespan_ns"]

    def times(self, world: int) -> Times:
        """Return the times of one world, after `run`."""
        (a, b), (c, d) = self.rows[world], self.rows[world + 1]
        cut = [self.arrays[name][a:c].tolist() for name in ("launch_start", "launch_end")]
        cut += [self.arrays[name][b:d].tolist() for name in ("copy_start", "copy_end")]
        return Times(*cut)


def _append(
    lists: dict[str, list[int]], tables: Tables, rows: list[tuple[int, int]], queued: int
) -> int:
    launch, copy = len(lists["device"]), len(lists["copy_ns"])
    ends = (launch + len(tables.device), copy + len(tables.copy_ns))
    rows[-1:] = [(launch, copy), ends]
    place = [len(lists["queue_start"]), len(lists["first"])]
    lists["worlds"] += [
        tables.n_devices,
        tables.n_resources,
        launch,
        ends[0],
        copy,
        ends[1],
        *place,
    ]
    lists["first"] += [_shift(number, launch) for number in tables.first]
    lists["device"] += tables.device
    lists["follower"] += [_shift(number, launch) for number in tables.follower]
    lists["missing"] += [len(row) for row in tables.waits]
    lists["duration_ns"] += tables.duration_ns
    for row in tables.sends:
        lists["sends"] += [copy + number for number in row]
        lists["sends_start"].append(len(lists["sends"]))
    for row in tables.readers:
        lists["readers"] += [launch + number for number in row]
        lists["readers_start"].append(len(lists["readers"]))
    lists["held"] += [sum(1 << number for number in row) for row in tables.copy_resources]
    lists["copy_dst"] += tables.copy_dst
    lists["copy_ns"] += tables.copy_ns
    lists["is_input"] += [int(number in tables.inputs) for number in range(len(tables.copy_ns))]
    lists["is_answer"] += [int(number in tables.answers) for number in range(len(tables.copy_ns))]
    for resource in range(tables.n_resources):
        lists["queue_start"].append(queued)
        queued += sum(resource in row for row in tables.copy_resources)
    return queued


def _shift(number: int, by: int) -> int:
    return number + by if number >= 0 else -1
