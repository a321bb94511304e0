"""The backend that really runs plans."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

from dynpartition.cluster import Device
from dynpartition.contract import Backend, Workload
from dynpartition.device_spec import host_of
from dynpartition.errors import DeviceError, InputError, did_you_mean
from dynpartition.hardware.blueprint import Blueprint
from dynpartition.hardware.devices import (
    check_devices,
    check_profile,
    elsewhere,
    uncalibrated_profile,
)
from dynpartition.hardware.execution import Machine
from dynpartition.hardware.hosts import ANSWER_TIMEOUT_S
from dynpartition.hardware.kept import PLANS_MAX, KeptPlans
from dynpartition.hardware.ledger import find_stocks
from dynpartition.hardware.links import connectable
from dynpartition.hardware.machine import MachineOptions, build_machine
from dynpartition.hardware.monitor import PERIOD_S, GpuMonitor, monitor_of
from dynpartition.hardware.pool import STALL_TIMEOUT_S
from dynpartition.hardware.session import HardwareSession
from dynpartition.hardware.streams import StreamApi
from dynpartition.hardware.virtual import ClockKind
from dynpartition.models import DynamicModel, MergedInput, ModelInput
from dynpartition.profile import Profile

ARENA_BYTES = 256 << 20
"""Default arena of a device without a memory cap; on CPUs only what is used costs memory."""

Workers = Literal["auto", "processes", "threads"]
GpuLinkKind = Literal["auto", "host", "nccl"]


class HardwareBackend(Backend):
    """Runs inputs of one model on `devices`, in parallel.

    The first CPU device is the calling thread; every other one is a worker, and so are all devices
    of other hosts; CUDA devices of this host are driven by the calling thread. Weights are copied
    when the backend is made, except to devices with a memory cap, where they come and go
    (docs/hardware.md, "Memory"), and to threads. One session at a time. Raises DeviceError for
    devices that are not there or do not start.

    `arena_bytes` caps the outputs and inputs of one session per device that names no cap of its
    own. `streams` replaces CUDA, for tests; it ends with the backend. `clock`: what stamps are read
    from; "virtual": the processor time of each CPU device (docs/calibration.md). `sample_run_delay`
    reads how long threads waited for a core in each launch (Linux; costs about 10 µs per launch).
    `plans_kept`: plans of how many shapes of inputs are kept, to be run again at no cost. A worker
    that makes no progress in one launch for `stall_timeout_s` seconds counts as lost; `math.inf`:
    never. What happens then: docs/hardware.md, "Failures". `workers`: whether CPU devices but the
    first are processes, or threads, which pay where cells are long (docs/hardware.md, "Processes or
    threads"); `auto`: what the profile was measured with, else processes. `answer_timeout_s`: how
    long the rank of another host may take to answer. `gpu_links`: whether GPUs of rank 0 and of
    other ranks exchange by way of host memory, or are connected by NCCL; `auto`: as the profile was
    measured, else the former (docs/scale-out.md).
    """

    def __init__(
        self,
        model: DynamicModel[Any],
        devices: Sequence[Device],
        *,
        profile: Profile | None = None,
        arena_bytes: int = ARENA_BYTES,
        sample_run_delay: bool = False,
        clock: ClockKind = "wall",
        plans_kept: int = PLANS_MAX,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        workers: Workers = "auto",
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        gpu_links: GpuLinkKind = "auto",
        streams: StreamApi[Any, Any] | None = None,
    ) -> None:
        self.model = model
        self.devices = tuple(devices)
        api = default_streams() if streams is None else streams
        check_devices(self.devices, api.n_devices)
        if profile is not None:
            check_profile(profile, self.devices)
        self._profile = profile or uncalibrated_profile(self.devices)
        self._capacity_bytes = [device.memory_bytes or arena_bytes for device in self.devices]
        self._stocks = find_stocks(self._profile.cluster, model.graph_cells)
        options = MachineOptions(
            self._capacity_bytes,
            sample_run_delay,
            self._stocks,
            _checked_timeout("stall_timeout_s", stall_timeout_s),
            threads=_are_threads(workers, self._profile, self.devices),
            virtual=_is_virtual(clock, self.devices),
            answer_timeout_s=_checked_timeout("answer_timeout_s", answer_timeout_s),
            connected=_connected(gpu_links, self._profile, self.devices),
        )
        try:
            api.prepare(self.devices)
            self._machine = build_machine(model, self.devices, api, options)
        except BaseException:
            api.close()
            raise
        self._finalizer = weakref.finalize(self, _close, self._machine, api)
        self._plans = KeptPlans(plans_kept)
        self._monitor: GpuMonitor | None = None
        self._session: HardwareSession | None = None

    @property
    def profile(self) -> Profile:
        """The given profile, or one without costs of cells and with placeholders for links."""
        return self._profile

    def open(self, workload: Workload) -> HardwareSession:
        """Start a run of `workload`, an input of this backend's model.

        Never looks at `workload.graph`: what the model hides is hidden here too. Workers that were
        lost are started again, which takes seconds; the session does without those that do not
        start. Raises OutOfDeviceMemory when the host device cannot hold the inputs.
        """
        if not isinstance(workload, ModelInput | MergedInput) or workload.model is not self.model:
            raise InputError(
                f"this backend runs inputs of its own model {self.model.name!r} only; make them"
                " with ModelInput(model, sample)"
            )
        self._check_free()
        self._machine.refresh(self._session is not None and self._session.has_finished)
        profile, stocks = self._profile, self._stocks
        cells, capacity_bytes = self.model.graph_cells, self._capacity_bytes
        blueprint = Blueprint(
            *(profile.cluster, cells, capacity_bytes, workload.name, stocks), self._plans
        )
        self._session = HardwareSession(
            *(self._machine, blueprint, workload.start(), profile),
            stocks=stocks,
            monitor=self._monitor,
        )
        return self._session

    @contextmanager
    def monitored(self, period_s: float = PERIOD_S) -> Iterator[GpuMonitor]:
        """Sample clocks, power and memory of the GPUs every `period_s` seconds inside a block.

        Traces of sessions that are opened meanwhile hold the samples. Without GPUs or NVML there
        are none. Raises DeviceError for a period that is not above 0.
        """
        with monitor_of(self.devices, period_s) as monitor:
            self._monitor = monitor
            try:
                yield monitor
            finally:
                self._monitor = None

    @property
    def is_closed(self) -> bool:
        """Whether it runs nothing more: closed, or ended by what a cell has raised."""
        return self._machine.pool.is_closed

    def _check_free(self) -> None:
        if self.is_closed:
            raise DeviceError("this backend is closed; make a new one")
        if self._session is not None and not self._session.is_over:
            raise DeviceError("another session is open on this backend; close it first")

    def close(self) -> None:
        """Stop workers and free devices. Closing twice does nothing."""
        self._finalizer()


def _close(machine: Machine, api: StreamApi[Any, Any]) -> None:
    try:
        machine.close()
    finally:
        api.close()


def _checked_timeout(name: str, seconds: float) -> float:
    if not seconds > 0:  # NaN too
        raise DeviceError(f"{name} is {seconds}; give seconds above 0, or math.inf")
    return seconds


def _are_threads(workers: str, profile: Profile, devices: Sequence[Device]) -> bool:
    if workers not in get_args(Workers):
        remedy = did_you_mean(workers, get_args(Workers))
        raise DeviceError(f"workers is {workers!r}; {remedy}")
    said = profile.provenance.get("workers"), profile.dispatch.host_mode
    is_of_threads = "threads" in said
    if elsewhere(devices):
        if workers == "threads":
            raise DeviceError("workers are threads, but other hosts need processes; use these")
        return False
    return workers == "threads" or (workers == "auto" and is_of_threads)


def _connected(kind: str, profile: Profile, devices: Sequence[Device]) -> list[int]:
    """Return the GPUs here that are to be connected with those of other hosts."""
    if kind not in get_args(GpuLinkKind):
        raise DeviceError(f"gpu_links is {kind!r}; {did_you_mean(kind, get_args(GpuLinkKind))}")
    able = connectable(devices)
    if kind == "nccl" and not able:
        names = ", ".join(device.name for device in devices)
        raise DeviceError(
            f"gpu_links is 'nccl', but among {names} no whole GPU of this host has a GPU of another"
            " one to be connected with; leave it out"
        )
    is_wanted = kind == "nccl" or (kind == "auto" and profile.provenance.get("gpu_links") == "nccl")
    return able if is_wanted else []


def _is_virtual(clock: ClockKind, devices: Sequence[Device]) -> bool:
    if clock not in get_args(ClockKind):
        raise DeviceError(f"clock is {clock!r}; give 'wall' or 'virtual'")
    driven = [each.name for each in devices if each.kind != "cpu" or host_of(each.name)]
    if clock == "virtual" and driven:
        raise DeviceError(f"{driven[0]} has no virtual time; use CPU devices or the wall clock")
    return clock == "virtual"


def default_streams() -> StreamApi[Any, Any]:
    """Return the CUDA devices that PyTorch sees."""
    from dynpartition.hardware.cuda import CudaStreams

    return CudaStreams()
