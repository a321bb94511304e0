"""Parts of one GPU: green contexts, each with streaming multiprocessors (SMs) of its own.

    cuda:0, 132 SMs ──one split──► 16 16 16 16 16 16 16 (units) + a rest that stays unused
                                   └┬┘ └─┬─┘ └────┬────┘
                             /sm16 ─┘  /sm32    /sm64

All parts come of one split: the driver splits no remainder again, and parts of two splits would
overlap (which is why PyTorch's own `torch.cuda.green_contexts` does not serve). A split makes equal
units, so each part gets as many of them as its size asks for. Memory, copy engines and caches are
shared by all parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

from dynpartition.cluster import Device
from dynpartition.device_spec import gpu_of, sm_count
from dynpartition.errors import DeviceError

DRIVER_VERSION_MIN = 12_050
"""CUDA version of the first drivers that make streams of green contexts: 1000·major + 10·minor."""

_STRICTEST_SMS = 8
"""Minimum and multiple of a part's SMs where bindings do not tell: what Hopper asks for."""

_INSTEAD = "or list the whole GPU (cuda:0)"


@dataclass(frozen=True, slots=True)
class SmLimits:
    """What a GPU has and asks of its parts, in SMs."""

    total: int
    minimum: int = _STRICTEST_SMS
    """Fewest in a part."""
    multiple: int = _STRICTEST_SMS
    """Parts have a multiple of this."""


@dataclass(frozen=True, slots=True)
class Split:
    """How to cut a GPU: into units of `unit` SMs, of which each part gets some."""

    unit: int
    counts: tuple[int, ...]
    """Units of each part."""


def parts_of(devices: Sequence[Device]) -> dict[str, dict[str, int]]:
    """Return GPU → part → SMs, of those devices that are parts of a GPU, in their order."""
    found: dict[str, dict[str, int]] = {}
    for device in devices:
        sms = sm_count(device.name)
        if sms is not None:
            found.setdefault(gpu_of(device.name), {})[device.name] = sms
    return found


def plan_splits(gpu: str, parts: Mapping[str, int], limits: SmLimits) -> list[Split]:
    """Return the ways to cut `parts` (name → SMs) out of a GPU, those of the largest units first.

    Larger units keep SMs together that are near each other, but a GPU may hold fewer of them than
    its SMs would suggest; only the driver knows. Raises DeviceError for parts that cannot be.
    """
    for name, sms in parts.items():
        _check_size(gpu, name, sms, limits)
    wanted = sum(parts.values())
    if wanted > limits.total:
        raise DeviceError(
            f"{', '.join(parts)} have {wanted} multiprocessors together, but {gpu} has"
            f" {limits.total}; make them smaller"
        )
    common = gcd(*parts.values())
    units = [unit for unit in range(common, 0, -1) if common % unit == 0 and _is_unit(unit, limits)]
    if not units:
        step = -(-limits.minimum // limits.multiple) * limits.multiple
        raise DeviceError(
            f"{', '.join(parts)} are made of equal units of at least {limits.minimum}"
            f" multiprocessors, but {common} is all they have in common; use multiples of {step}"
        )
    return [Split(unit, tuple(sms // unit for sms in parts.values())) for unit in units]


def _check_size(gpu: str, name: str, sms: int, limits: SmLimits) -> None:
    if sms < limits.minimum:
        raise DeviceError(
            f"{name}: {sms} multiprocessors are too few, a part of {gpu} has at least"
            f" {limits.minimum}; write {gpu}/sm{limits.minimum}"
        )
    below = sms // limits.multiple * limits.multiple
    if below != sms:
        near = [n for n in (below, below + limits.multiple) if limits.minimum <= n <= limits.total]
        remedy = " or ".join(f"{gpu}/sm{n}" for n in near) or gpu
        raise DeviceError(
            f"{name}: parts of {gpu} have a multiple of {limits.multiple} multiprocessors, and"
            f" {sms} is none; write {remedy}"
        )


def _is_unit(unit: int, limits: SmLimits) -> bool:
    return unit >= limits.minimum and unit % limits.multiple == 0


def load_driver() -> Any:
    """Return `cuda.bindings.driver`; DeviceError where it is missing or the driver is too old."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise DeviceError(
            f"parts of a GPU need the package cuda-bindings, which does not import ({error});"
            f" pip install cuda-bindings, {_INSTEAD}"
        ) from error
    version: int = _call("ask for the driver's version", driver.cuDriverGetVersion)
    if version < DRIVER_VERSION_MIN:
        raise DeviceError(
            f"the NVIDIA driver is of CUDA {_dotted(version)}, and parts of a GPU need"
            f" {_dotted(DRIVER_VERSION_MIN)}; install a newer driver, {_INSTEAD}"
        )
    return driver


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


class GreenContexts:
    """The parts of one GPU, by device name, until `close`. Raises DeviceError.

    The GPU's primary context must exist already, and nothing may run in a part on `close`. CUDA
    graphs that were captured on a part's streams must be gone by then, too.
    """

    def __init__(self, gpu: str, parts: Mapping[str, int], driver: Any = None) -> None:
        self._driver = load_driver() if driver is None else driver
        self._contexts: dict[str, Any] = {}
        self._streams: list[Any] = []
        try:
            self._carve(gpu, parts)
        except BaseException:
            self.close()
            raise

    def _carve(self, gpu: str, parts: Mapping[str, int]) -> None:
        driver, doing = self._driver, f"carve {', '.join(parts)}"
        device = _call(doing, driver.cuDeviceGet, int(gpu.partition(":")[2]))
        kind = driver.CUdevResourceType.CU_DEV_RESOURCE_TYPE_SM
        whole = _call(doing, driver.cuDeviceGetDevResource, device, kind)
        split, units = self._split(doing, whole, plan_splits(gpu, parts, _limits(whole.sm)))
        own = _shares(units, split.counts)
        flags = driver.CUgreenCtxCreate_flags.CU_GREEN_CTX_DEFAULT_STREAM
        for name, share in zip(parts, own, strict=True):
            desc = _call(doing, driver.cuDevResourceGenerateDesc, share, len(share))
            self._contexts[name] = _call(doing, driver.cuGreenCtxCreate, desc, device, flags)

    def _split(self, doing: str, whole: Any, splits: Sequence[Split]) -> tuple[Split, list[Any]]:
        """Return the first split that the GPU can do, with its units."""
        for split in splits:
            wanted = sum(split.counts)
            made = self._driver.cuDevSmResourceSplitByCount
            groups, count, _ = _call(doing, made, wanted, whole, 0, split.unit)
            units = list(groups)[:count]
            # The driver may make fewer groups than asked for, and larger ones.
            if len(units) == wanted and all(unit.sm.smCount == split.unit for unit in units):
                return split, units
        sms = splits[0].unit * sum(splits[0].counts)
        raise DeviceError(
            f"cannot {doing}: with its clusters kept whole this GPU has no {sms} of its"
            f" {whole.sm.smCount} multiprocessors for them; make them smaller"
        )

    def stream(self, name: str) -> int:
        """Return the handle of a new stream of the part called `name`; ends with `close`."""
        driver = self._driver
        flags = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        create, context = driver.cuGreenCtxStreamCreate, self._contexts[name]
        stream = _call(f"make a stream of {name}", create, context, flags, 0)
        self._streams.append(stream)
        return int(stream)

    def close(self) -> None:
        """Give the GPU back whole. Closing twice does nothing."""
        # What fails here does so because the GPU is lost, and all of it with it. Streams first:
        # without their context nothing can be done with them any more.
        while self._streams:
            self._driver.cuStreamDestroy(self._streams.pop())
        while self._contexts:
            self._driver.cuGreenCtxDestroy(self._contexts.popitem()[1])


def _limits(sm: Any) -> SmLimits:
    """Return the limits in an SM resource; bindings before 13 tell the total alone."""
    return SmLimits(
        int(sm.smCount),
        int(getattr(sm, "minSmPartitionSize", 0)) or _STRICTEST_SMS,
        int(getattr(sm, "smCoscheduledAlignment", 0)) or _STRICTEST_SMS,
    )


def _shares(units: Sequence[Any], counts: Sequence[int]) -> Iterator[list[Any]]:
    rest = iter(units)
    for count in counts:
        yield [next(rest) for _ in range(count)]


def _call(doing: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a driver function returns besides its status; DeviceError when it fails."""
    try:
        status, *values = function(*arguments)
    except RuntimeError as error:  # a function that this driver does not have
        raise DeviceError(f"cannot {doing}: {error}; install a newer driver, {_INSTEAD}") from error
    if int(status) != 0:
        name = getattr(status, "name", status)
        raise DeviceError(
            f"cannot {doing}: the driver says {name}; ask for other sizes, {_INSTEAD}"
        )
    return values[0] if len(values) == 1 else values
