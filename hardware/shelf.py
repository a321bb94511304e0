"""The weights that one device with a memory cap holds: they come and go as its orders say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from dynpartition.hardware.memory import private_memory
from dynpartition.hardware.messages import Stock
from dynpartition.hardware.shared import SharedBlock
from dynpartition.hardware.streams import StreamApi
from dynpartition.hardware.weights import Cells, Master, Slots


class Shelf(ABC):
    """The cells of one device, and the memory of those whose weights are there.

    Empty at first; `reset` brings what a session begins with.
    """

    def __init__(self, cells: Cells, master: Master, stock: Stock) -> None:
        self.stock = stock
        self.held: dict[str, Tensor] = {}
        """Resident cell → its memory, uint8."""
        self._master = master
        self._slots = {name: Slots(cell, master.plans[name]) for name, cell in cells.items()}
        self._size = {name: plan.param_bytes for name, plan in master.plans.items()}
        self.clear()

    @property
    def held_bytes(self) -> int:
        """The size of the weights that are there."""
        return sum(self._size[cell] for cell in self.held)

    @property
    def holds_all_at_first(self) -> bool:
        """Whether a session begins with the weights of all cells."""
        return set(self.stock.resident) == set(self._size)

    def reset(self) -> bool:
        """Bring back what a session begins with; return whether anything moved."""
        wanted = set(self.stock.resident)
        strange = [cell for cell in self.held if cell not in wanted]
        missing = [cell for cell in self.stock.resident if cell not in self.held]
        for cell in strange:
            self.evict(cell)
        for cell in missing:
            self.load(cell)
        self.check(0)
        return bool(strange or missing)

    def size_bytes(self, cell: str) -> int:
        """Return the size of a cell's weights, as graphs count it."""
        return self._size[cell]

    def evict(self, cell: str) -> None:
        """Free the memory of a cell's weights."""
        self._let_go(self._slots[cell], self.held.pop(cell))

    def load(self, cell: str) -> None:
        """Copy a cell's weights from the host."""
        assert cell not in self.held, f"{cell} is there already"
        self.held[cell] = self._bring(self._slots[cell], self._master.memory(cell))

    def clear(self) -> None:
        """Free all memory; the device runs nothing any more."""
        for slots in self._slots.values():
            slots.hollow()
        self.held.clear()

    def check(self, arena_bytes: int) -> None:
        """Assert that weights and `arena_bytes` beside them stay within the cap."""
        there, capacity = self.held_bytes + arena_bytes, self.stock.capacity_bytes
        assert there <= capacity, f"{there} bytes of {capacity}: {sorted(self.held)}"

    @abstractmethod
    def _bring(self, slots: Slots, host: Tensor) -> Tensor:
        """Return a copy of `host` on the device, with the cell pointing to it."""

    @abstractmethod
    def _let_go(self, slots: Slots, memory: Tensor) -> None:
        """Take the cell's memory away from it."""


class CpuShelf(Shelf):
    """Weights in private memory of a worker; each load is a copy of the shared master."""

    def __init__(
        self,
        cells: Cells,
        master: Master,
        stock: Stock,
        arena: SharedBlock,
    ) -> None:
        """`arena`: the device's; its pages are given back between sessions."""
        super().__init__(cells, master, stock)
        self._arena = arena
        self._spare: Tensor | None = None
        """What has just been evicted: pages that need not be asked for again."""

    def reset(self) -> bool:
        """Bring back what a session begins with, and free what the last one left in the arena."""
        if self._arena.used_bytes + sum(self._size.values()) > self.stock.capacity_bytes:
            self._arena.discard()
        return super().reset()

    def check(self, arena_bytes: int) -> None:
        """Assert that all stays within the cap, and keep nothing else."""
        self._spare = None
        super().check(arena_bytes)

    @torch.inference_mode()  # in which launches run, and which made the memory
    def _bring(self, slots: Slots, host: Tensor) -> Tensor:
        fits = self._spare is not None and len(self._spare) == len(host)
        memory, self._spare = self._spare if fits else None, None
        if memory is None:
            memory = private_memory(len(host))
        memory.copy_(host)
        slots.fill(memory)
        return memory

    def _let_go(self, slots: Slots, memory: Tensor) -> None:
        slots.hollow()
        self._spare = memory


class CudaShelf(Shelf):
    """Weights on a GPU, copied from page-locked memory on the stream for incoming copies.

    Whoever evicts lets that stream wait for the last use before: the memory goes to later loads.
    """

    def __init__(
        self,
        cells: Cells,
        master: Master,
        stock: Stock,
        api: StreamApi[Any, Any],
        streams: tuple[Any, Any],
    ) -> None:
        """`streams`: for incoming copies, and for launches."""
        super().__init__(cells, master, stock)
        self._api = api
        self._incoming, self._compute = streams

    def reset(self) -> bool:
        """Bring back what a session begins with, and wait for it; the device is idle."""
        try:
            moved = super().reset()
            if moved:
                self._api.synchronize()
        finally:
            self._api.restore()
        return moved

    def _bring(self, slots: Slots, host: Tensor) -> Tensor:
        memory = self._api.load(self._incoming, host)
        # Kernels that have been enqueued keep the addresses that they were enqueued with.
        self._api.enqueue(self._compute, lambda: slots.fill(memory))
        return memory

    def _let_go(self, slots: Slots, memory: Tensor) -> None:
        self._api.enqueue(self._compute, slots.hollow)
        self._api.unload(self._incoming, memory)
