"""Where in which arena every output, received copy and host input of a session lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dynpartition.cluster import Cluster
from dynpartition.errors import OutOfDeviceMemory
from dynpartition.hardware.memory import ALIGN_BYTES, dtype_name, size_bytes
from dynpartition.hardware.messages import Slot
from dynpartition.models import NewTask

Place = tuple[int, int]
"""(device, task)."""


@dataclass(frozen=True)
class Layout:
    """Slots given out so far. Memory of a session is never reused within it."""

    cluster: Cluster
    capacity_bytes: Sequence[int]
    """Per device."""
    used_bytes: list[int]
    outputs: dict[Place, Slot] = field(default_factory=dict)
    inputs: dict[Place, Slot] = field(default_factory=dict)

    @staticmethod
    def empty(cluster: Cluster, capacity_bytes: Sequence[int]) -> Layout:
        """Return the layout of a session that has no tasks yet."""
        return Layout(cluster, capacity_bytes, [0] * len(capacity_bytes))

    def copy(self) -> Layout:
        """Return an independent copy, to be kept once everything has fitted."""
        return Layout(
            self.cluster,
            self.capacity_bytes,
            list(self.used_bytes),
            dict(self.outputs),
            dict(self.inputs),
        )

    def place_outputs(self, device: int, tasks: Sequence[int], slots: list[Slot], who: str) -> None:
        """Give the outputs of `tasks` places on `device`, one behind the other where alike."""
        places = self._allocate(device, slots, who)
        self.outputs.update({(device, t): slot for t, slot in zip(tasks, places, strict=True)})

    def place_inputs(self, device: int, tasks: Sequence[int], slots: list[Slot], who: str) -> None:
        """Give the host inputs of `tasks` places on `device`, likewise."""
        places = self._allocate(device, slots, who)
        self.inputs.update({(device, t): slot for t, slot in zip(tasks, places, strict=True)})

    def _allocate(self, device: int, slots: list[Slot], who: str) -> list[Slot]:
        begin = end = self.used_bytes[device]
        placed: list[Slot] = []
        for slot in slots:
            if not placed or (slot.shape, slot.dtype) != (placed[-1].shape, placed[-1].dtype):
                end = -(-end // ALIGN_BYTES) * ALIGN_BYTES
            placed.append(Slot(end, slot.shape, slot.dtype))
            end += size_bytes(slot.shape, slot.dtype)
        if end > self.capacity_bytes[device]:
            raise OutOfDeviceMemory(self._message(device, who, end - begin))
        self.used_bytes[device] = end
        return placed

    def _message(self, device: int, who: str, needed_bytes: int) -> str:
        name = self.cluster.names[device]
        capacity = self.capacity_bytes[device]
        left = capacity - self.used_bytes[device]
        return (
            f"{who} needs {needed_bytes:,} bytes on {name}, which has {left:,} of {capacity:,}"
            f" left; raise its cap (--devices {name}@SIZE, or arena_bytes) or place less on it"
        )


def output_slot(task: NewTask) -> Slot:
    """Return the kind of slot that the output of `task` needs; its place is still open."""
    return Slot(0, tuple(task.output_shape))


def input_slot(task: NewTask) -> Slot:
    """Return the kind of slot that the host input of `task` needs; its place is still open."""
    assert task.host_input is not None
    return Slot(0, tuple(task.host_input.shape), dtype_name(task.host_input.dtype))
