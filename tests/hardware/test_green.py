"""Parts of one GPU: which sizes can be, and how the driver is asked for them."""

import builtins
from math import gcd
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynpartition import parse_devices
from dynpartition.errors import DeviceError
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.hardware.devices import check_devices, device_number
from dynpartition.hardware.green import (
    GreenContexts,
    SmLimits,
    Split,
    load_driver,
    parts_of,
    plan_splits,
)

H100 = SmLimits(132)


def parts(*sizes):
    return {f"cuda:0/sm{size}.{number}": size for number, size in enumerate(sizes, 1)}


def test_parts_are_units_of_one_split():
    assert plan_splits("cuda:0", parts(16, 32, 64), H100) == [
        Split(16, (1, 2, 4)),
        Split(8, (2, 4, 8)),
    ]
    assert plan_splits("cuda:0", parts(24, 48), H100) == [Split(24, (1, 2)), Split(8, (3, 6))]
    assert plan_splits("cuda:0", parts(8, 40), H100) == [Split(8, (1, 5))]


@st.composite
def requests(draw):
    multiple = draw(st.sampled_from([1, 2, 8]))
    limits = SmLimits(draw(st.integers(1, 200)), draw(st.sampled_from([1, 2, 4, 8])), multiple)
    size = st.integers(1, 25).map(lambda n: n * draw(st.sampled_from([1, multiple])))
    return draw(st.lists(size, min_size=1, max_size=6)), limits


@given(requests())
def test_every_split_gives_the_sizes_asked_for_and_else_there_is_a_reason(request):
    sizes, limits = request
    common = gcd(*sizes)
    possible = [
        unit
        for unit in range(limits.minimum, common + 1)
        if common % unit == 0 and unit % limits.multiple == 0
    ]
    try:
        splits = plan_splits("cuda:0", parts(*sizes), limits)
    except DeviceError:
        assert sum(sizes) > limits.total or not possible
        return
    assert [split.unit for split in splits] == sorted(possible, reverse=True)
    for split in splits:
        assert [count * split.unit for count in split.counts] == sizes
    assert sum(sizes) <= limits.total


@pytest.mark.parametrize(
    ("sizes", "limits", "message"),
    [
        ([4], H100, "cuda:0/sm4.1: 4 multiprocessors are too few, a part of cuda:0 has at least 8"),
        (
            [20],
            H100,
            "multiple of 8 multiprocessors, and 20 is none; write cuda:0/sm16 or cuda:0/s",
        ),
        ([130], H100, "and 130 is none; write cuda:0/sm128$"),
        ([5], SmLimits(4, 1, 8), "and 5 is none; write cuda:0$"),
        (
            [64, 64, 8],
            H100,
            "have 136 multiprocessors together, but cuda:0 has 132; make them smal",
        ),
        ([4, 6], SmLimits(80, 4, 2), "units of at least 4 multiprocessors, but 2 is all .* of 4$"),
    ],
)
def test_sizes_that_cannot_be(sizes, limits, message):
    with pytest.raises(DeviceError, match=message):
        plan_splits("cuda:0", parts(*sizes), limits)


def test_parts_are_found_by_name():
    devices = parse_devices("cpu:0,cuda:1/sm16,cuda:0,cuda:1/sm8x0.5")
    assert parts_of(devices) == {"cuda:1": {"cuda:1/sm16": 16, "cuda:1/sm8": 8}}
    assert [device_number(device) for device in devices] == [0, 1, 0, 1]


def test_a_backend_refuses_parts_that_cannot_be(toy):
    for devices, message in [
        ("cpu:0,cuda:0/sm12", "cuda:0/sm12: parts of cuda:0 have a multiple of 8"),
        ("cpu:0,cuda:9/sm8", "cuda:9/sm8 is not there"),
    ]:
        with pytest.raises(DeviceError, match=message):
            HardwareBackend(toy, parse_devices(devices), streams=FakeStreams())


def test_devices_that_were_not_parsed_are_checked_too():
    whole, part = parse_devices("cuda:0")[0], parse_devices("cuda:0/sm8")[0]
    cpu = parse_devices("cpu:0")[0]
    with pytest.raises(DeviceError, match="cuda:0/sm8 is a part of cuda:0"):
        check_devices([cpu, whole, part], 1)
    strange = type(part)("cuda:0/half", "cuda")
    with pytest.raises(DeviceError, match="'cuda:0/half' is no part of a GPU; name it like cuda"):
        check_devices([cpu, strange], 1)


class Driver:
    """The driver's functions as cuda.bindings has them, for a GPU of `n_sms`.

    Units can be made of `gpc` SMs at a time, so large ones leave more over.
    """

    CUdevResourceType = SimpleNamespace(CU_DEV_RESOURCE_TYPE_SM="sm")
    CUgreenCtxCreate_flags = SimpleNamespace(CU_GREEN_CTX_DEFAULT_STREAM=1)
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)

    def __init__(self, n_sms=132, gpc=66, fail=""):
        self.n_sms, self.gpc, self.fail = n_sms, gpc, fail
        self.log = []
        self.alive = []

    def _ok(self, name, *values):
        self.log.append(name)
        return (Status(915 if name == self.fail else 0), *values)

    def cuDeviceGet(self, number):
        return self._ok("cuDeviceGet", f"device {number}")

    def cuDeviceGetDevResource(self, device, kind):
        assert (device, kind) == ("device 0", "sm")
        return self._ok("cuDeviceGetDevResource", resource(range(self.n_sms)))

    def cuDevSmResourceSplitByCount(self, groups, whole, flags, minimum):
        assert flags == 0
        ids, made = list(whole.ids), []
        for first in range(0, len(ids), self.gpc):
            gpc = ids[first : first + self.gpc]
            while len(gpc) >= minimum and len(made) < groups:
                made.append(resource(gpc[:minimum]))
                gpc = gpc[minimum:]
        return self._ok("cuDevSmResourceSplitByCount", made, len(made), resource([]))

    def cuDevResourceGenerateDesc(self, units, count):
        assert len(units) == count
        return self._ok("cuDevResourceGenerateDesc", [sm for unit in units for sm in unit.ids])

    def cuGreenCtxCreate(self, desc, device, flags):
        assert (device, flags) == ("device 0", 1)
        self.alive.append(tuple(desc))
        return self._ok("cuGreenCtxCreate", tuple(desc))

    def cuGreenCtxStreamCreate(self, context, flags, priority):
        assert context in self.alive
        assert (flags, priority) == (1, 0)
        self.alive.append(len(self.alive))
        return self._ok("cuGreenCtxStreamCreate", self.alive[-1])

    def cuStreamDestroy(self, stream):
        self.alive.remove(stream)
        return (Status(0),)

    def cuGreenCtxDestroy(self, context):
        assert all(isinstance(left, tuple) for left in self.alive), "streams end first"
        self.alive.remove(context)
        return (Status(0),)


class Status(int):
    name = "CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION"


def resource(ids):
    sm = SimpleNamespace(smCount=len(ids), minSmPartitionSize=8, smCoscheduledAlignment=8)
    return SimpleNamespace(sm=sm, ids=list(ids))


def test_parts_get_multiprocessors_of_their_own_and_give_them_back():
    driver = Driver()
    asked = {"cuda:0/sm16": 16, "cuda:0/sm32": 32, "cuda:0/sm16.1": 16}
    contexts = GreenContexts("cuda:0", asked, driver)
    assert [len(ids) for ids in driver.alive] == [16, 32, 16]
    assert len({sm for ids in driver.alive for sm in ids}) == 64
    assert contexts.stream("cuda:0/sm32") != contexts.stream("cuda:0/sm32")
    contexts.close()
    contexts.close()
    assert driver.alive == []


def test_smaller_units_where_the_gpu_has_too_few_large_ones():
    driver = Driver(gpc=32)
    GreenContexts("cuda:0", parts(24, 24, 24, 24, 24), driver)  # four units of 24, sixteen of 8
    assert driver.log.count("cuDevSmResourceSplitByCount") == 2
    assert [len(ids) for ids in driver.alive] == [24] * 5
    with pytest.raises(DeviceError, match="this GPU has no 128 of its 132 multiprocessors for th"):
        GreenContexts("cuda:0", parts(64, 64), Driver(gpc=12))


def test_units_that_are_larger_than_asked_for_are_not_taken():
    driver = Driver()
    split = driver.cuDevSmResourceSplitByCount
    driver.cuDevSmResourceSplitByCount = lambda n, whole, flags, unit: split(
        n, whole, flags, unit + 2
    )
    with pytest.raises(DeviceError, match="make them smaller"):
        GreenContexts("cuda:0", parts(16), driver)


@pytest.mark.parametrize("call", ["cuGreenCtxCreate", "cuDevSmResourceSplitByCount"])
def test_what_the_driver_refuses_is_one_error_and_leaves_nothing(call):
    driver = Driver(fail=call)
    with pytest.raises(DeviceError) as caught:
        GreenContexts("cuda:0", parts(16, 8), driver)
    assert str(caught.value) == (
        "cannot carve cuda:0/sm16.1, cuda:0/sm8.2: the driver says"
        " CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION; ask for other sizes, or list the whole GPU"
        " (cuda:0)"
    )


def test_a_function_that_the_driver_lacks():
    driver = Driver()

    def missing(*_):
        raise RuntimeError('Function "cuGreenCtxCreate" not found')

    driver.cuGreenCtxCreate = missing
    with pytest.raises(DeviceError, match='"cuGreenCtxCreate" not found; install a newer driver'):
        GreenContexts("cuda:0", parts(16), driver)


def test_bindings_that_do_not_tell_limits_get_the_strictest():
    driver = Driver()
    driver.cuDeviceGetDevResource = lambda *_: (
        Status(0),
        SimpleNamespace(sm=SimpleNamespace(smCount=132), ids=list(range(132))),
    )
    with pytest.raises(DeviceError, match="multiple of 8"):
        GreenContexts("cuda:0", parts(12), driver)


def fake_bindings(monkeypatch, driver):
    imported = builtins.__import__

    def fake(name, *rest):
        if name != "cuda.bindings":
            return imported(name, *rest)
        if driver is None:
            raise ImportError("No module named 'cuda'")
        return SimpleNamespace(driver=driver)

    monkeypatch.setattr(builtins, "__import__", fake)


def test_bindings_that_are_missing(monkeypatch):
    fake_bindings(monkeypatch, None)
    with pytest.raises(DeviceError, match=r"No module named 'cuda'\); pip install cuda-bindings"):
        load_driver()


def test_a_driver_that_is_too_old(monkeypatch):
    fake_bindings(monkeypatch, SimpleNamespace(cuDriverGetVersion=lambda: (Status(0), 12040)))
    with pytest.raises(DeviceError, match=r"is of CUDA 12\.4, and parts of a GPU need 12\.5; inst"):
        load_driver()
    new = SimpleNamespace(cuDriverGetVersion=lambda: (Status(0), 13000))
    fake_bindings(monkeypatch, new)
    assert load_driver() is new
