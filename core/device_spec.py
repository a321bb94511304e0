"""Device lists as users write them: `cpu:0,cpu:1x0.5,cuda:0@4GB`."""

from __future__ import annotations

import re

from dynpartition.cluster import Device, DeviceKind
from dynpartition.errors import DeviceError
from dynpartition.graph import VALUE_MAX

_ITEM = re.compile(
    r"(?P<kind>cpu|cuda):(?P<number>\d{1,4})"
    r"(?:x(?P<speed>\d+(?:\.\d+)?|\.\d+))?"
    r"(?:@(?P<size>\d{1,15}(?:\.\d+)?)(?P<unit>[KMGT]?i?B))?",
    re.ASCII,
)
_UNIT = {
    f"{prefix}{binary}B": (1024 if binary else 1000) ** power
    for power, prefix in enumerate(("", "K", "M", "G", "T"))
    for binary in (("", "i") if prefix else ("",))
}


def parse_devices(text: str) -> tuple[Device, ...]:
    """Return the devices of a comma-separated list.

    `x0.5` slows a device to half speed (0.01 ≤ speed ≤ 1); `@4GB` caps its memory.
    Raises DeviceError naming the item that is wrong.
    """
    devices = tuple(parse_device(item.strip()) for item in text.split(","))
    names = [device.name for device in devices]
    for name in names:
        if names.count(name) > 1:
            raise DeviceError(f"--devices {text}: {name} is listed twice; list each device once")
    return devices


def parse_device(item: str) -> Device:
    """Return the device that one item of a list stands for."""
    match = _ITEM.fullmatch(item)
    if match is None:
        raise DeviceError(
            f"device {item!r} is not understood; write cpu:0, cuda:1, cpu:1x0.5 (slowed to half"
            " speed) or cuda:0@4GB (memory cap)"
        )
    kind: DeviceKind = "cpu" if match["kind"] == "cpu" else "cuda"
    speed = float(match["speed"] or 1)
    if not 0.01 <= speed <= 1:
        raise DeviceError(
            f"device {item!r}: speed {speed:g} is not between 0.01 and 1; x0.5 is half"
        )
    memory_bytes = int(float(match["size"]) * _UNIT[match["unit"]]) if match["size"] else None
    if memory_bytes == 0:
        raise DeviceError(f"device {item!r}: a memory cap of 0 bytes holds nothing; raise it")
    if memory_bytes is not None and memory_bytes > VALUE_MAX:
        raise DeviceError(f"device {item!r}: no device has so much memory; lower the cap")
    return Device(f"{kind}:{int(match['number'])}", kind, memory_bytes, speed)
