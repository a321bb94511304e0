"""Device lists as users write: `cpu:0,cpu:1x0.5~500MBps,cuda:0@4GB,cuda:1/sm32,host1/cpu:0`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dynpartition.cluster import AffineCost, Device, DeviceKind
from dynpartition.errors import DeviceError
from dynpartition.graph import VALUE_MAX

_ITEM = re.compile(
    r"(?:host(?P<host>[1-9]\d{0,3})/)?"
    r"(?P<kind>cpu|cuda):(?P<number>\d{1,4})"
    r"(?:/sm(?P<sms>\d{1,4})(?:\.(?P<copy>[1-9]\d?))?)?"
    r"(?:x(?P<speed>\d+(?:\.\d+)?|\.\d+))?"
    r"(?:@(?P<size>\d{1,15}(?:\.\d+)?)(?P<unit>[KMGT]?i?B))?"
    r"(?:~(?P<rate>\d{1,15}(?:\.\d+)?)(?P<rate_unit>[KMGT]?i?B)ps"
    r"(?:\+(?P<latency>\d{1,9}(?:\.\d+)?)(?P<latency_unit>ns|us|ms))?)?",
    re.ASCII,
)
_UNIT = {
    f"{prefix}{binary}B": (1024 if binary else 1000) ** power
    for power, prefix in enumerate(("", "K", "M", "G", "T"))
    for binary in (("", "i") if prefix else ("",))
}

_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000}
_LATENCY_NS_MAX = 10_000_000_000


def parse_devices(text: str) -> tuple[Device, ...]:
    """Return the devices of a comma-separated list.

    `x0.5` slows a device to half speed (0.01 ≤ speed ≤ 1); `@4GB` caps its memory; `~500MBps+20us`
    slows the links of a CPU device to 500 MB/s and 20 µs; `cuda:0/sm32` is a part of a GPU with 32
    multiprocessors, and `cuda:0/sm32.1` another one of that size; `host1/cpu:0` and
    `host1/cuda:0` are devices of rank 1 of torchrun.
    Raises DeviceError naming the item that is wrong.
    """
    devices = tuple(parse_device(item.strip()) for item in text.split(","))
    names = [device.name for device in devices]
    for name in names:
        if names.count(name) > 1:
            raise DeviceError(f"--devices {text}: {name} is listed twice; {_instead(name)}")
    check_parts(names)
    slowed = [device.name for device in devices if device.link is not None]
    far = [name for name in names if host_of(name)]
    if slowed and far:
        raise DeviceError(
            f"--devices {text}: links are slowed on one host only; leave out ~ at {slowed[0]}, or"
            f" {far[0]}"
        )
    return devices


def check_parts(names: Sequence[str]) -> None:
    """Raise DeviceError where a whole GPU stands beside parts of it, which it would overlap."""
    for name in names:
        gpu = gpu_of(name)
        if gpu != name and gpu in names:
            raise DeviceError(
                f"--devices {','.join(names)}: {name} is a part of {gpu}; list either the whole GPU"
                " or parts of it"
            )


def gpu_of(name: str) -> str:
    """Return the GPU that a device is, or is a part of: `cuda:0` for `cuda:0/sm32`."""
    return name if host_of(name) else name.partition("/")[0]


def sm_count(name: str) -> int | None:
    """Return the multiprocessors of a part of a GPU: 32 for `cuda:0/sm32`; else None."""
    match = _ITEM.fullmatch(name)
    return int(match["sms"]) if match and match["sms"] else None


def host_of(name: str) -> int:
    """Return the host that a device belongs to: 1 for `host1/cpu:0`, 0 for this one's."""
    match = _ITEM.fullmatch(name)
    return int(match["host"] or 0) if match else 0


def is_gpu(name: str) -> bool:
    """Return whether a device is a GPU, of any host, or a part of one."""
    match = _ITEM.fullmatch(name)
    return match is not None and match["kind"] == "cuda"


def _instead(name: str) -> str:
    if sm_count(name) is None:
        return "list each device once"
    return f"call the second part of that size {name.partition('.')[0]}.1, the third .2"


def parse_device(item: str) -> Device:
    """Return the device that one item of a list stands for."""
    match = _ITEM.fullmatch(item)
    if match is None:
        raise DeviceError(
            f"device {item!r} is not understood; write cpu:0, cuda:1, cpu:1x0.5 (slowed to half"
            " speed), cuda:0@4GB (memory cap), cpu:1~500MBps (slowed links), cuda:0/sm32 (32"
            " multiprocessors of it), host1/cpu:0 or host1/cuda:0 (of torchrun's rank 1)"
        )
    if match["sms"] and match["kind"] == "cpu":
        raise DeviceError(f"device {item!r}: only GPUs have parts; write cpu:{match['number']}")
    if match["host"] and match["sms"]:
        raise DeviceError(
            f"device {item!r}: GPUs of other hosts have no parts; write"
            f" host{match['host']}/cuda:{match['number']}"
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
    if match["rate"] and kind != "cpu":
        raise DeviceError(f"device {item!r}: only links of CPU devices can be slowed; leave out ~")
    return Device(_name(match), kind, memory_bytes, speed, link=_link(item, match))


def _link(item: str, match: re.Match[str]) -> AffineCost | None:
    if not match["rate"]:
        return None
    bytes_per_s = int(float(match["rate"]) * _UNIT[match["rate_unit"]])
    if not 1 <= bytes_per_s <= VALUE_MAX:
        raise DeviceError(f"device {item!r}: {bytes_per_s} bytes per second are no bandwidth")
    latency_ns = int(float(match["latency"] or 0) * _NS[match["latency_unit"] or "ns"])
    if latency_ns > _LATENCY_NS_MAX:
        raise DeviceError(f"device {item!r}: a latency of more than 10 s is no link's; lower it")
    return AffineCost(latency_ns, bytes_per_s)


def _name(match: re.Match[str]) -> str:
    part = f"/sm{int(match['sms'])}" if match["sms"] else ""
    copy = f".{match['copy']}" if match["copy"] else ""
    host = f"host{match['host']}/" if match["host"] else ""
    return f"{host}{match['kind']}:{int(match['number'])}{part}{copy}"
