"""What machine numbers belong to: devices by name and kind, and a hash over a profile's content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from dynpartition.cluster import Device
from dynpartition.device_spec import gpu_of, host_of
from dynpartition.errors import CalibrationError
from dynpartition.formats import profile_bytes
from dynpartition.hardware.devices import available_cores, core_of, cpu_name
from dynpartition.profile import Profile

HASH = "content_sha256"
"""Where the hash stands in the provenance."""


def identities(devices: Sequence[Device]) -> dict[str, dict[str, object]]:
    """Return what is known of each device: enough to tell it from another machine's."""
    cores, name = available_cores(), cpu_name()
    found: dict[str, dict[str, object]] = {}
    for device in devices:
        if host_of(device.name):
            found[device.name] = {"kind": device.kind, "host": host_of(device.name)}
        elif device.kind == "cuda":
            found[device.name] = _gpu(int(gpu_of(device.name).partition(":")[2]))
        else:
            core = core_of(device, cores)
            pinned = core is not None and hasattr(os, "sched_setaffinity")
            memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            found[device.name] = {
                "kind": "cpu",
                "name": name,
                "core": core,
                "pinned": pinned,
                "memory_bytes": memory_bytes,
            }
        if device.speed < 1:
            found[device.name]["emulated_speed"] = device.speed
        if device.link is not None:
            found[device.name]["emulated_link"] = asdict(device.link)
    return found


def _gpu(index: int) -> dict[str, object]:
    """Return what PyTorch and, where it is there, NVML know of a GPU."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    found: dict[str, object] = {
        "kind": "cuda",
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "sms": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
    }
    return found | _nvml(str(properties.uuid))


def _nvml(uuid: str) -> dict[str, object]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - NVML is a help, not a need; its errors have many classes
        return {}
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        sm, memory = pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM
        return {
            "uuid": uuid,
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "sm_clock_max_mhz": int(pynvml.nvmlDeviceGetMaxClockInfo(handle, sm)),
            "memory_clock_max_mhz": int(pynvml.nvmlDeviceGetMaxClockInfo(handle, memory)),
        }
    except pynvml.NVMLError:
        return {}
    finally:
        pynvml.nvmlShutdown()


def sealed(profile: Profile) -> Profile:
    """Return `profile` with the hash of its content in its provenance."""
    return replace(profile, provenance={**profile.provenance, HASH: content_hash(profile)})


def content_hash(profile: Profile) -> str:
    """Return the sha256 of the profile's file without this very hash."""
    story = {key: value for key, value in profile.provenance.items() if key != HASH}
    return hashlib.sha256(profile_bytes(replace(profile, provenance=story))).hexdigest()


def is_as_measured(profile: Profile) -> bool:
    """Return whether nothing in the profile was changed by hand; False without a hash."""
    return profile.provenance.get(HASH) == content_hash(profile)


def check_same_machine(
    profile: Profile, devices: Mapping[str, Any], versions: Mapping[str, Any], source: str
) -> None:
    """Raise CalibrationError unless what is in `source` was measured on the profile's machine.

    `devices` as from `identities`; `versions`: of the libraries. The version of PyTorch, and that
    of this package, have to be the same: both change what cells and the executor cost.
    """
    own = profile.provenance.get("devices")
    if not isinstance(own, dict):
        raise CalibrationError(
            "the profile does not say which machine it is of; give one that `calibrate` wrote"
        )
    for name in profile.cluster.names:
        if devices.get(name) != own.get(name):
            raise CalibrationError(
                f"{source} is of another machine: {name} is {_words(devices.get(name))} there and"
                f" {_words(own.get(name))} in the profile; calibrate on that machine"
            )
    mine = profile.provenance.get("versions")
    for library in ("dynpartition", "torch"):
        before = mine.get(library) if isinstance(mine, dict) else None
        if versions.get(library) != before:
            raise CalibrationError(
                f"{source} was recorded with {library} {versions.get(library)}, the profile with"
                f" {before}; calibrate again"
            )


def _words(identity: object) -> str:
    if not isinstance(identity, dict):
        return "not there"
    return ", ".join(f"{key} {value}" for key, value in identity.items() if key != "kind")
