"""Samples of GPUs, asked of a stand-in for NVML."""

import time
from types import SimpleNamespace

import pytest

from dynpartition import MonitorSample, parse_devices
from dynpartition.errors import DeviceError
from dynpartition.hardware import monitor as monitor_module
from dynpartition.hardware.monitor import GpuMonitor, monitor_of

UUIDS = {"cuda:0": "GPU-a", "cuda:1": "GPU-b"}


class Nvml:
    """Two GPUs, of which the second one knows little of itself."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, *, driver=True):
        self.driver = driver
        self.open = 0

    def nvmlInit(self):
        if not self.driver:
            raise self.NVMLError
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in UUIDS.values():
            raise self.NVMLError
        return uuid

    def nvmlDeviceGetClockInfo(self, handle, clock):
        assert self.open
        return {1: 1980, 2: 2619}[clock]

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._known(handle, 97_500)

    def nvmlDeviceGetMemoryInfo(self, handle):
        return self._known(handle, SimpleNamespace(used=10**9))

    def nvmlDeviceGetTemperature(self, handle, sensor):
        assert sensor == 0
        return self._known(handle, 41)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self._known(handle, 0x1 | 0x4 | 0x40)

    def _known(self, handle, value):
        if handle == "GPU-b":
            raise self.NVMLError
        return value


def test_samples_are_taken_until_the_block_ends():
    nvml, begun_ns = Nvml(), time.perf_counter_ns()
    with GpuMonitor(nvml, UUIDS, 0.001) as monitor:
        deadline = time.monotonic() + 20
        while len(monitor.between(begun_ns, time.perf_counter_ns())) < 8:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    assert nvml.open == 0
    samples = monitor.between(begun_ns, time.perf_counter_ns())
    time.sleep(0.01)
    assert monitor.between(begun_ns, time.perf_counter_ns()) == samples
    times = [sample.at_ns for sample in samples]
    assert times == sorted(times)
    assert [sample.device for sample in samples[:4]] == ["cuda:0", "cuda:1"] * 2
    assert samples[0] == MonitorSample(
        *("cuda:0", times[0], 1980, 2619, 97.5, 10**9, 41, ("power-cap", "hardware-thermal"))
    )
    assert samples[1] == MonitorSample("cuda:1", times[1], 1980, 2619)


def test_a_run_shows_the_newest_sample_from_before_and_its_own():
    with GpuMonitor(Nvml(), UUIDS, 1000) as monitor:
        pass
    monitor._samples.clear()
    for at_ns in (10, 20, 30, 40, 50):
        monitor._samples += [MonitorSample(gpu, at_ns, at_ns) for gpu in UUIDS]
    shown = [(s.device, s.at_ns, s.sm_clock_mhz) for s in monitor.between(25, 40)]
    assert shown == [
        *[("cuda:0", 0, 20), ("cuda:1", 0, 20)],
        *[("cuda:0", 5, 30), ("cuda:1", 5, 30)],
        *[("cuda:0", 15, 40), ("cuda:1", 15, 40)],
    ]
    assert [s.at_ns for s in monitor.between(50, 60)] == [0, 0]
    assert monitor.between(0, 5) == ()


@pytest.mark.parametrize(
    ("api", "uuids"),
    [(None, UUIDS), (Nvml(), {}), (Nvml(driver=False), UUIDS), (Nvml(), {"cuda:0": "GPU-c"})],
)
def test_where_nothing_is_known_nothing_is_sampled_and_nothing_fails(api, uuids):
    with GpuMonitor(api, uuids, 0.001) as monitor:
        time.sleep(0.005)
    assert monitor.between(0, time.perf_counter_ns()) == ()


def test_a_monitor_can_be_entered_again():
    nvml = Nvml()
    monitor = GpuMonitor(nvml, {"cuda:0": "GPU-a"}, 1000)
    for count in (1, 2):
        with monitor:
            assert nvml.open == 1
        assert len(monitor._samples) == count
    assert nvml.open == 0


@pytest.mark.parametrize("period_s", [0, -1, float("nan"), float("inf")])
def test_a_period_is_needed(period_s):
    with pytest.raises(DeviceError, match=r"is no time between samples; 0\.1 takes 10 a second"):
        GpuMonitor(None, {}, period_s)


def test_devices_share_the_samples_of_their_gpu(monkeypatch):
    devices = parse_devices("cpu:0,cuda:1/sm8,cuda:1/sm16,cuda:0")
    assert monitor_of(devices[:1])._uuids == {}
    monkeypatch.setattr(monitor_module, "_uuids", lambda gpus: dict.fromkeys(gpus, "GPU-a"))
    assert list(monitor_of(devices)._uuids) == ["cuda:0", "cuda:1"]


def test_without_a_gpu_a_backend_is_monitored_all_the_same(toy_backend):
    with toy_backend.monitored(0.5) as monitor:
        assert toy_backend._monitor is monitor
    assert toy_backend._monitor is None


@pytest.mark.cuda
def test_a_gpu_tells_its_clock_and_memory():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    begun_ns = time.perf_counter_ns()
    with monitor_of(parse_devices("cuda:0/sm8"), 0.05) as monitor:
        time.sleep(0.2)
    samples = monitor.between(begun_ns, time.perf_counter_ns())
    assert len(samples) >= 3
    assert {sample.device for sample in samples} == {"cuda:0"}
    assert all(sample.sm_clock_mhz > 0 < sample.memory_used_bytes for sample in samples)
    assert all(sample.power_w > 0 for sample in samples)
