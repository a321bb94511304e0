"""Clocks, power and memory of GPUs, asked of NVML by a thread of its own while runs go on."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from dynpartition.cluster import Device
from dynpartition.device_spec import gpu_of
from dynpartition.errors import DeviceError
from dynpartition.hardware.devices import gpus_here
from dynpartition.trace import MonitorSample

PERIOD_S = 0.1
"""A power query takes some 4 ms: no rate for a schedule, and none for the walk's thread."""

_SAMPLES_MAX = 10_000
"""Kept at most, a quarter of an hour of one GPU at the default period; older ones are dropped."""

_REASONS = {
    0x002: "clock-setting",
    0x004: "power-cap",
    0x008: "hardware-slowdown",
    0x010: "sync-boost",
    0x020: "thermal",
    0x040: "hardware-thermal",
    0x080: "power-brake",
    0x100: "display-clock",
}
"""Bits of nvmlClocksEventReasons; 1, an idle GPU, slows nothing down."""


class GpuMonitor:
    """Samples GPUs every `period_s` seconds inside its `with` block, in the background.

    `api` is the module `pynvml`, or None; `uuids`: GPU (`cuda:0`) → what NVML calls it. A GPU that
    NVML does not know is not sampled; without NVML none is, and that is no error. Enter it outside
    of runs: the first sample is taken then, by the caller. Raises DeviceError for a period that is
    none.
    """

    def __init__(
        self, api: Any | None, uuids: Mapping[str, str], period_s: float = PERIOD_S
    ) -> None:
        if not (period_s > 0 and math.isfinite(period_s)):
            raise DeviceError(
                f"monitor period {period_s:g} s is no time between samples; {PERIOD_S:g} takes"
                f" {1 / PERIOD_S:g} a second"
            )
        self._api = api
        self._uuids = uuids
        self._period_s = period_s
        self._handles: dict[str, Any] = {}
        self._samples: deque[MonitorSample] = deque(maxlen=_SAMPLES_MAX)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> GpuMonitor:
        if self._api is not None and self._uuids and self._has_started():
            self._handles = dict(self._found())
            self._sample()
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="gpu-monitor", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._ask("nvmlShutdown")

    def between(self, start_ns: int, end_ns: int) -> tuple[MonitorSample, ...]:
        """Return the samples of a run from `start_ns` to `end_ns` of `time.perf_counter_ns`.

        Their times are counted from its start, as in traces.
        For each GPU, the newest sample from before the start stands at 0: short runs end before
        another one is taken.
        """
        taken = list(self._samples)  # at once: the thread appends meanwhile
        before = {s.device: s for s in taken if s.at_ns <= start_ns}
        during = [s for s in taken if start_ns < s.at_ns <= end_ns]
        shown = (*before.values(), *during)
        return tuple(replace(s, at_ns=max(0, s.at_ns - start_ns)) for s in shown)

    def _has_started(self) -> bool:
        assert self._api is not None
        try:
            self._api.nvmlInit()
        except self._api.NVMLError:  # no driver, or no GPU
            return False
        return True

    def _found(self) -> Iterator[tuple[str, Any]]:
        for name, uuid in self._uuids.items():
            handle = self._ask("nvmlDeviceGetHandleByUUID", uuid)
            if handle is not None:
                yield name, handle

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._sample()

    def _sample(self) -> None:
        for name, handle in self._handles.items():
            self._samples.append(self._read(name, handle))

    def _read(self, name: str, handle: Any) -> MonitorSample:
        api, at_ns = self._api, time.perf_counter_ns()
        assert api is not None
        power_mw = self._ask("nvmlDeviceGetPowerUsage", handle)
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        return MonitorSample(
            device=name,
            at_ns=at_ns,
            sm_clock_mhz=self._ask("nvmlDeviceGetClockInfo", handle, api.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask("nvmlDeviceGetClockInfo", handle, api.NVML_CLOCK_MEM),
            power_w=None if power_mw is None else power_mw / 1000,
            memory_used_bytes=None if memory is None else int(memory.used),
            temperature_c=self._ask("nvmlDeviceGetTemperature", handle, api.NVML_TEMPERATURE_GPU),
            throttled=self._throttled(handle),
        )

    def _throttled(self, handle: Any) -> tuple[str, ...]:
        bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle) or 0
        return tuple(name for bit, name in _REASONS.items() if bits & bit)

    def _ask(self, name: str, *arguments: Any) -> Any:
        """Return what NVML answers; None where it does not know."""
        assert self._api is not None
        function: Callable[..., Any] = getattr(self._api, name)
        try:
            return function(*arguments)
        except self._api.NVMLError:
            return None


def monitor_of(devices: Sequence[Device], period_s: float = PERIOD_S) -> GpuMonitor:
    """Return a monitor of the GPUs of this host that `devices` are on; else it does nothing."""
    gpus = {gpu_of(devices[index].name) for index in gpus_here(devices)}
    if not gpus:
        return GpuMonitor(None, {}, period_s)
    import pynvml

    return GpuMonitor(pynvml, _uuids(sorted(gpus)), period_s)


def _uuids(gpus: Sequence[str]) -> dict[str, str]:
    """Return GPU → UUID: NVML numbers GPUs otherwise than CUDA, which may not even see them all."""
    import torch

    if not torch.cuda.is_available():  # devices on a stand-in
        return {}
    cuda: Any = torch.cuda
    found = {gpu: str(cuda.get_device_properties(gpu).uuid) for gpu in gpus}
    return {gpu: f"GPU-{uuid.removeprefix('GPU-')}" for gpu, uuid in found.items()}
