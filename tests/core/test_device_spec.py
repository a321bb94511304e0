import pytest

from dynpartition import Device, parse_devices
from dynpartition.device_spec import check_parts, gpu_of, sm_count
from dynpartition.errors import DeviceError


def test_a_list_of_devices_with_speed_and_memory():
    assert parse_devices("cpu:0, cpu:1x0.5,cuda:0@4GB,cuda:1x.25@1.5GiB") == (
        Device("cpu:0", "cpu"),
        Device("cpu:1", "cpu", None, 0.5),
        Device("cuda:0", "cuda", 4 * 10**9),
        Device("cuda:1", "cuda", 3 * 2**29, 0.25),
    )


def test_parts_of_a_gpu():
    text = "cuda:0/sm16,cuda:0/sm032,cuda:0/sm32.1x0.5@4GB,cuda:1/sm32,cuda:2"
    devices = parse_devices(text)
    assert devices == (
        Device("cuda:0/sm16", "cuda"),
        Device("cuda:0/sm32", "cuda"),
        Device("cuda:0/sm32.1", "cuda", 4 * 10**9, 0.5),
        Device("cuda:1/sm32", "cuda"),
        Device("cuda:2", "cuda"),
    )
    names = [device.name for device in devices]
    assert parse_devices(",".join(names))[1] == devices[1]
    assert [sm_count(name) for name in names] == [16, 32, 32, 32, None]
    assert [gpu_of(name) for name in names] == ["cuda:0"] * 3 + ["cuda:1", "cuda:2"]
    check_parts(names)


@pytest.mark.parametrize("name", ["a box", "cuda:0/32", "cpu:0", "a/sm32"])
def test_what_a_profile_may_call_a_device_is_no_part(name):
    assert sm_count(name) is None


@pytest.mark.parametrize(
    ("unit", "size_bytes"),
    [("B", 1), ("KB", 10**3), ("MB", 10**6), ("GB", 10**9), ("TB", 10**12), ("MiB", 2**20)],
)
def test_memory_units(unit, size_bytes):
    assert parse_devices(f"cuda:0@7{unit}")[0].memory_bytes == 7 * size_bytes


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "device ''"),
        ("cpu", "write cpu:0"),
        ("gpu:0", "'gpu:0' is not understood"),
        ("cpu:0,", "device ''"),
        ("cpu:0x2", "speed 2 is not between 0.01 and 1"),
        ("cpu:0x0", "speed 0 is not"),
        ("cpu:0x-1", "is not understood"),
        ("cuda:0@4", "is not understood"),
        ("cuda:0@0GB", "holds nothing"),
        ("cuda:0@1e9B", "is not understood"),
        ("cpu:0,cpu:0x0.5", "cpu:0 is listed twice"),
        ("cpu:12345", "is not understood"),
        ("cpu:0,cpu:1~1GBps,host1/cpu:0", "links are slowed on one host only"),
        ("cpu:0,host1/cpu:0~1GBps", "leave out ~ at host1/cpu:0"),
        ("cpu:0\ncpu:1", "is not understood"),
        ("cpu:0/sm8", "only GPUs have parts; write cpu:0"),
        ("cuda:0/sm", "is not understood"),
        ("cuda:0/sm32.0", "is not understood"),
        ("cuda:0/sm32.1.1", "is not understood"),
        ("cuda:0/sm32/sm16", "is not understood"),
        ("cuda:0/sm8,cuda:0/sm8x0.5", "call the second part of that size cuda:0/sm8.1, the third"),
        ("cuda:0/sm8.1,cuda:0/sm8.1", "cuda:0/sm8.1 is listed twice; call the second part of"),
        ("cuda:0/sm8,cuda:1,cuda:0", "cuda:0/sm8 is a part of cuda:0; list either the whole GPU"),
    ],
)
def test_what_is_no_device_is_refused(text, fragment):
    with pytest.raises(DeviceError) as caught:
        parse_devices(text)
    assert fragment in str(caught.value)
