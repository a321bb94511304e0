"""What launches take by datasheets: the operator model of profiles that nobody has measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dynpartition.calibration.sheets import Cpu, Gpu


@dataclass(frozen=True, slots=True)
class Operation:
    """One operator that computes something: one kernel on a GPU."""

    flops: float
    """Floating-point operations; a multiplication with an addition counts as two."""
    moved_bytes: float
    """Bytes of all tensors that it reads or writes."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What no datasheet says. Overheads are those of the measured profile xeon-h200, rounded."""

    reached: float = 0.75
    """Share of a GPU's peak, and of any bandwidth, that programs reach."""
    cpu_reached: float = 0.15
    """Share of a core's peak: products with few rows do not reach more."""
    gpu_launch_ns: int = 8_500
    gpu_operation_ns: int = 1_600
    cpu_launch_ns: int = 20_000
    cpu_operation_ns: int = 2_500
    cpu_core_bytes_per_s: int = 10 * 10**9
    """What one core gets of the memory's bandwidth."""
    h_ns: int = 36_000
    h_copy_ns: int = 25_000
    bookkeeping_ns: int = 5_700
    sync_ns: int = 10_000
    copy_latency_ns: int = 5_000
    uncertainty: float = 0.4


def launch_ns(operations: Sequence[Operation], device: Cpu | Gpu, assumed: Assumptions) -> int:
    """Return how long a launch that does `operations` takes on `device`."""
    if isinstance(device, Gpu):
        launch, each = assumed.gpu_launch_ns, assumed.gpu_operation_ns
        peak = device.flops_per_s * assumed.reached
        bandwidth = device.memory_bytes_per_s * assumed.reached
    else:
        launch, each = assumed.cpu_launch_ns, assumed.cpu_operation_ns
        peak = device.flops_per_s * assumed.cpu_reached
        bandwidth = assumed.cpu_core_bytes_per_s
    work_s = sum(math.hypot(op.flops / peak, op.moved_bytes / bandwidth) for op in operations)
    return round(launch + each * len(operations) + 1e9 * work_s)
