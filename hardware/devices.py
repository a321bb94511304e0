"""Which devices a backend can drive, and what is known of them without a calibration."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Sequence

from dynpartition.cluster import AffineCost, Blocks, Cluster, Device, Link
from dynpartition.device_spec import check_parts, host_of, is_gpu, sm_count
from dynpartition.errors import DeviceError, ProfileError, did_you_mean
from dynpartition.hardware.hosts import check_hosts, world
from dynpartition.hardware.pacing import are_paced, pace_between
from dynpartition.profile import Profile

_PLACEHOLDER = {
    ("cpu", "cpu"): AffineCost(5_000, 10**10),
    ("cpu", "cuda"): AffineCost(10_000, 10**10),
    ("cuda", "cpu"): AffineCost(10_000, 10**10),
    ("cuda", "cuda"): AffineCost(10_000, 5 * 10**10),
}
_BETWEEN_HOSTS = AffineCost(200_000, 10**9)


def available_cores() -> list[int]:
    """Return the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_name() -> str:
    """Return the processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            lines = [line for line in stream if line.startswith("model name")]
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines]
    return names[0] if names else platform.processor() or platform.machine()


def device_number(device: Device) -> int:
    """Return the 1 of `cpu:1` and of `cuda:1/sm32`; DeviceError for a name without a number."""
    name = device.name.rpartition("/")[2] if host_of(device.name) else device.name
    whole, slash, _ = name.partition("/")
    number = whole.partition(":")[2]
    if not number.isdecimal():
        raise DeviceError(f"device {device.name!r} has no number; name it like {device.kind}:0")
    if slash and sm_count(device.name) is None:
        raise DeviceError(f"device {device.name!r} is no part of a GPU; name it like cuda:0/sm32")
    return int(number)


def driven_by_workers(devices: Sequence[Device], host: int) -> list[int]:
    """Return the indices of the devices that are workers.

    These are all CPU devices but the caller's own, and all devices of other hosts.
    """
    own = {host, *gpus_here(devices)}
    return [i for i in range(len(devices)) if i not in own]


def gpus_here(devices: Sequence[Device]) -> list[int]:
    """Return the indices of the GPUs of this host, which the caller drives."""
    return [i for i, d in enumerate(devices) if d.kind == "cuda" and not host_of(d.name)]


def elsewhere(devices: Sequence[Device]) -> list[int]:
    """Return the indices of the devices of other hosts."""
    return [i for i, device in enumerate(devices) if host_of(device.name)]


def core_of(device: Device, cores: Sequence[int]) -> int | None:
    """Return the core that a CPU device stays on; None when there are too few."""
    number = device_number(device)
    return cores[number] if number < len(cores) else None


def spare_core(cores: Sequence[int], names: Sequence[str], number: int) -> int | None:
    """Return a core without a device; None when there are too few.

    `cores`: all of this machine, of which every rank here and every CPU device of them has one.
    `names`: of all devices. `number`: how many want one of the others before.
    """
    ranks = _ranks_here()
    devices = [Device(n, "cpu") for n in names if not is_gpu(n) and host_of(n) in ranks]
    taken = [host_of(d.name) - ranks[0] + device_number(d) for d in devices]
    first = max(len(ranks), 1 + max(taken, default=0))
    return cores[first + number] if first + number < len(cores) else None


def are_crowded(cores: Sequence[int], names: Sequence[str]) -> bool:
    """Return whether some devices of this machine have no core, if each rank needs one besides.

    The process that drives a GPU needs one, too. `names`: of all devices.
    """
    ranks = _ranks_here()
    return sum(host_of(name) in ranks for name in names) + len(ranks) > len(cores)


def _ranks_here() -> range:
    """Return the ranks of this machine."""
    there = world()
    first = there.rank - there.local_rank
    return range(first, first + there.local_size)


def check_devices(devices: Sequence[Device], n_cuda: int) -> None:
    """Raise DeviceError for devices that are not there; warn where there are too few cores."""
    check_hosts([device.name for device in devices], [host_of(d.name) for d in devices])
    cpus = [device for device in devices if device.kind == "cpu" and not host_of(device.name)]
    if not cpus:
        names = ",".join(device.name for device in devices)
        raise DeviceError(
            f"--devices {names}: inputs and answers pass through a CPU device; add cpu:0"
        )
    for device in (devices[index] for index in gpus_here(devices)):
        if device_number(device) >= n_cuda:
            raise DeviceError(f"{device.name} is not there: {_what_cuda(n_cuda)}")
    check_parts([device.name for device in devices])
    if are_paced(devices) and len(cpus) < len(devices):
        raise DeviceError(
            f"{next(d.name for d in cpus if d.link)}: links are slowed between CPU devices only;"
            " leave out ~ or the GPUs"
        )
    _warn_of_crowding(cpus)


def _what_cuda(n_cuda: int) -> str:
    if n_cuda:
        return f"PyTorch sees cuda:0 to cuda:{n_cuda - 1}; use one of these"
    return "PyTorch sees no CUDA device; use CPU devices (--devices cpu:0,cpu:1)"


def _warn_of_crowding(cpus: Sequence[Device]) -> None:
    n_cores = len(available_cores())
    crowded = [device.name for device in cpus if device_number(device) >= n_cores]
    if crowded:
        warnings.warn(
            f"{', '.join(crowded)}: only {n_cores} cores are available; CPU devices will share them"
            " and wait by sleeping, so timings mean little",
            RuntimeWarning,
            stacklevel=4,
        )


def uncalibrated_profile(devices: Sequence[Device]) -> Profile:
    """Return a profile without cells whose links carry placeholder costs."""
    links = tuple(
        _link(a, b) for a in devices for b in devices if a.name != b.name and _reach(a, b)
    )
    cluster = Cluster(tuple(devices), links)
    return Profile(
        cluster, {}, provenance={"origin": "not calibrated; link costs are placeholders"}
    )


def _reach(src: Device, dst: Device) -> bool:
    """Return whether outputs can go from one device to the other: not between two other hosts."""
    hosts = host_of(src.name), host_of(dst.name)
    return hosts[0] == hosts[1] or 0 in hosts


def _link(src: Device, dst: Device) -> Link:
    # Between CPU devices the producer's own core copies.
    if host_of(src.name) != host_of(dst.name):
        return Link(src.name, dst.name, _BETWEEN_HOSTS)
    blocks: Blocks | None = "src" if (src.kind, dst.kind) == ("cpu", "cpu") else None
    slowed = pace_between(src, dst)
    if slowed is not None:  # which keeps no core busy
        return Link(src.name, dst.name, slowed)
    return Link(src.name, dst.name, _PLACEHOLDER[src.kind, dst.kind], blocks=blocks)


def check_profile(profile: Profile, devices: Sequence[Device]) -> None:
    """Raise ProfileError unless `profile` describes `devices`, in their order, with their caps."""
    names = tuple(device.name for device in devices)
    if profile.cluster.names != names:
        strange = [name for name in names if name not in profile.cluster.names]
        remedy = (
            did_you_mean(strange[0], profile.cluster.names) if strange else "use the same order"
        )
        raise ProfileError(
            f"the profile is of {', '.join(profile.cluster.names)} and the devices are"
            f" {', '.join(names)}; {remedy}"
        )
    for device, other in zip(devices, profile.cluster.devices, strict=True):
        if device.memory_bytes != other.memory_bytes:
            raise ProfileError(
                f"the profile caps {device.name} at {_size(other)} and the device list at"
                f" {_size(device)}; use the same cap in both"
            )
    cpus = (device.name for device in devices if device.kind == "cpu")
    host = next(name for name in cpus if not host_of(name))
    if profile.cluster.host != host:
        raise ProfileError(
            f"the profile's host is {profile.cluster.host}, but this process is {host};"
            " set the profile's host to the first CPU device"
        )


def _size(device: Device) -> str:
    return "nothing" if device.memory_bytes is None else f"{device.memory_bytes:,} bytes"
