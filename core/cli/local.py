"""What this machine has, and whether it can take what a command asks for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dynpartition.errors import DeviceError, ProfileError

if TYPE_CHECKING:
    from dynpartition.cluster import Device
    from dynpartition.hardware import HardwareBackend
    from dynpartition.hardware.virtual import ClockKind
    from dynpartition.models import DynamicModel
    from dynpartition.profile import Profile

CPU_DEVICES_PER_CORE, CPU_DEVICES = 4, 8
"""More CPU devices than this per core, or than this in all, are a slip: each is a process."""


def local_devices(text: str) -> tuple[Device, ...]:
    """Parse `--devices`; DeviceError for what this machine cannot take."""
    from dynpartition.device_spec import parse_devices

    devices = parse_devices(text)
    _check_devices(devices)
    return devices


def default_devices() -> str:
    """Return two CPU devices, and every CUDA device that is there."""
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ",".join(["cpu:0", *gpus] if gpus else ["cpu:0", "cpu:1"])


def open_hardware(
    model: DynamicModel[Any], profile: Profile, clock: ClockKind = "wall"
) -> HardwareBackend:
    """Return the backend of the devices that a profile names.

    Raises ProfileError or DeviceError where they are not devices of this machine.
    """
    from dynpartition.hardware import HardwareBackend

    devices = profile.cluster.devices
    for device in devices:
        _check_name(device)
    _check_devices(devices)
    return HardwareBackend(model, devices, profile=profile, clock=clock)


def check_cells(model: DynamicModel[Any], profile: Profile, source: str) -> None:
    """Raise ProfileError when a profile knows none of the model's cells, or other ones."""
    if not profile.cells.keys() & model.cells.keys():
        raise ProfileError(
            f"{source} has costs of {', '.join(profile.cells) or 'no cell'}, but {model.name} is"
            f" made of {', '.join(model.cells)}; calibrate this model, or name another with --model"
        )
    story = profile.provenance.get("cells")
    for cell in model.graph_cells:
        measured = story.get(cell.name) if isinstance(story, dict) else None
        weight_bytes = measured.get("weight_bytes") if isinstance(measured, dict) else None
        if weight_bytes is not None and weight_bytes != cell.param_bytes:
            raise ProfileError(
                f"{source} is of a {cell.name} with {weight_bytes:,} bytes of weights, but that of"
                f" this model has {cell.param_bytes:,}; calibrate this model, or price it with"
                " `calibrate --modelled`"
            )


def memory_bytes() -> int:
    """Return how much memory this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _check_name(device: Device) -> None:
    """A profile may call its devices anything and slow them to any speed; hardware may not."""
    from dynpartition.device_spec import parse_device

    try:
        parse_device(f"{device.name}x{device.speed:f}")
    except DeviceError:
        raise ProfileError(
            f"the profile's device {device.name!r} (speed {device.speed:g}) is none of this"
            " machine's; give a profile that `dynpartition calibrate` wrote here"
        ) from None


def _check_devices(devices: Sequence[Device]) -> None:
    cpus = [device for device in devices if device.kind == "cpu"]
    cpus_max = max(CPU_DEVICES, CPU_DEVICES_PER_CORE * (os.cpu_count() or 1))
    if len(cpus) > cpus_max:
        raise DeviceError(
            f"{len(cpus)} CPU devices are too many for this machine's {os.cpu_count()} cores; name"
            f" at most {cpus_max}"
        )
    there_bytes = memory_bytes()
    for device in cpus:
        if (device.memory_bytes or 0) > there_bytes:
            raise DeviceError(
                f"{device.name} is capped at {device.memory_bytes:,} bytes, but this machine has"
                f" {there_bytes:,}; lower the cap or leave it out"
            )
