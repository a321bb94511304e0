"""The memory that a backend and its workers share."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from torch import nn

from dynpartition.cluster import Device
from dynpartition.device_spec import host_of
from dynpartition.hardware.control import CONTROL_BYTES, Control
from dynpartition.hardware.devices import elsewhere, gpus_here
from dynpartition.hardware.doorbell import Doorbell
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.shared import SharedBlock
from dynpartition.hardware.weights import Master, master_bytes


class SharedMemory:
    """The control block, the arenas of all CPU devices, and the weights that they share."""

    def __init__(
        self,
        devices: Sequence[Device],
        arena_bytes: Sequence[int],
        cells: Mapping[str, nn.Module],
        *,
        weights: bool,
        connected: Sequence[int] = (),
    ) -> None:
        """`arena_bytes`: per device; those on other hosts have theirs there.

        `weights`: whether devices read weights from here. `connected`: GPUs here that are to be
        connected with those of other hosts.
        """
        self.control_block = SharedBlock.create(CONTROL_BYTES)
        self.control = Control(self.control_block)
        self.blocks = [
            SharedBlock.create(size) if device.kind == "cpu" and not host_of(device.name) else None
            for device, size in zip(devices, arena_bytes, strict=True)
        ]
        self.arenas = [None if block is None else Arena.on(block) for block in self.blocks]
        self.mirrors = {
            index: SharedBlock.create(arena_bytes[index])
            for index in (gpus_here(devices) if elsewhere(devices) else ())
        }
        """GPU → where what it exchanges with other hosts lies as in its own memory."""
        self.name = uuid.uuid4().hex
        """Tells other hosts which devices share memory."""
        self.master_block = SharedBlock.create(master_bytes(cells))
        self.master = Master.on(self.master_block, cells)
        self.bells = {n: Doorbell.create() for n in elsewhere(devices)}
        """By device of another host: what wakes who passes on for it."""
        for bell in self.bells.values():
            self.control.bell.add(bell)
        self.connected = list(connected)
        self.meetings: dict[int, str] = {}
        """Worker of a GPU of another host → where `connected` meet it."""
        self.unconnected: set[int] = set()
        """Such workers that could not be connected."""
        self.has_weights = weights
        if weights:
            self.master.write(cells)

    @property
    def fds(self) -> list[int]:
        """The files that workers map, and the bells that they ring."""
        bells = [end for bell in self.bells.values() for end in bell.ends]
        return [*(block.fd for block in self._all()), *bells]

    def _all(self) -> list[SharedBlock]:
        blocks = (self.control_block, self.master_block, *self.blocks, *self.mirrors.values())
        return [block for block in blocks if block is not None]

    def close(self) -> None:
        """Close the files; the memory goes with the last tensor on it."""
        self.arenas.clear()
        for block in self._all():
            block.close()
        for bell in self.bells.values():
            self.control.bell.dismiss(bell)
            bell.close()
        self.bells.clear()
