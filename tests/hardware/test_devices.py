"""Devices that are not there, profiles that do not fit, and small parts by themselves."""

import pytest
import torch

from dynpartition import Cluster, Device, Profile, parse_devices
from dynpartition.errors import DeviceError, ProfileError
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.hardware import control as control_module
from dynpartition.hardware.control import CONTROL_BYTES, Arrivals, Control
from dynpartition.hardware.devices import available_cores, uncalibrated_profile
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.patience import Spinner
from dynpartition.hardware.shared import SharedBlock


def test_a_cpu_device_is_needed(toy):
    with pytest.raises(DeviceError, match="add cpu:0"):
        HardwareBackend(toy, parse_devices("cuda:0"), streams=FakeStreams())


def test_cuda_devices_that_are_not_there(toy):
    with pytest.raises(DeviceError, match="cuda:3 is not there: PyTorch sees cuda:0 to cuda:1"):
        HardwareBackend(toy, parse_devices("cpu:0,cuda:3"), streams=FakeStreams(2))
    with pytest.raises(DeviceError, match="sees no CUDA device; use CPU devices"):
        HardwareBackend(toy, parse_devices("cpu:0,cuda:0"), streams=FakeStreams(0))


def test_more_cpu_devices_than_cores_warn_and_work(toy):
    from dynpartition import Launch
    from dynpartition.models import ModelInput

    beyond = f"cpu:{len(available_cores())}"
    with pytest.warns(RuntimeWarning, match=f"{beyond}: only"):
        backend = HardwareBackend(toy, parse_devices(f"cpu:0,{beyond}"))
    with backend, backend.open(ModelInput(toy, [((1, 0), ()), ((2, 0), (0,))])) as session:
        session.advance([Launch(beyond, (0,)), Launch("cpu:0", (1,))])
        assert session.answer().tolist() == [[1, 0], [3, 0]]


def test_the_default_profile_links_everything_and_the_producer_copies():
    cluster = uncalibrated_profile(parse_devices("cuda:0,cpu:0,cpu:1")).cluster
    assert cluster.host == "cpu:0"
    blocks = {(link.src, link.dst): link.blocks for link in cluster.links}
    assert len(blocks) == 6
    assert blocks["cpu:0", "cpu:1"] == "src"
    assert blocks["cpu:0", "cuda:0"] is None


def test_a_profile_of_other_devices_is_refused(toy):
    other = Profile(Cluster((Device("cpu:0", "cpu"), Device("cpu:2", "cpu"))), {})
    with pytest.raises(ProfileError, match="did you mean"):
        HardwareBackend(toy, parse_devices("cpu:0,cpu:1"), profile=other)
    swapped = Profile(Cluster(parse_devices("cpu:0,cpu:1"), host="cpu:1"), {})
    with pytest.raises(ProfileError, match="host is cpu:1, but this process is cpu:0"):
        HardwareBackend(toy, parse_devices("cpu:0,cpu:1"), profile=swapped)


@pytest.mark.parametrize("fence", [control_module._no_fence, control_module._fence_by_lock])
def test_flags_are_of_one_epoch(monkeypatch, fence):
    monkeypatch.setattr(control_module, "fence", fence)
    control = Control(SharedBlock.create(CONTROL_BYTES))
    Arrivals(control, 1).set(5)
    assert Arrivals(control, 1).has(5)
    assert not Arrivals(control, 2).has(5)
    assert not Arrivals(control, 1).has(4)


def test_words_of_workers_do_not_overlap():
    control = Control(SharedBlock.create(CONTROL_BYTES))
    control.go(9)
    for worker in range(100):
        control.ring(worker)
        control.set_ready(worker, 9)
        control.set_launch(worker, worker)
    control.set_failed(50)
    assert [control.rings(worker) for worker in range(100)] == [1] * 100
    assert [control.launch_of(worker) for worker in range(100)] == list(range(100))
    assert [worker for worker in range(100) if control.has_failed(worker)] == [50]
    assert all(control.is_ready(worker, 9) for worker in range(100))
    assert control.has_gone(9)


def test_memory_outlives_its_block_while_a_tensor_is_on_it():
    block = SharedBlock.create(4096)
    tensor = Arena.on(block).rows((2, 3))[1:3]
    block.close()
    block.close()
    with torch.inference_mode():
        tensor.fill_(3)
    assert tensor.shape == (2, 2, 3)
    assert tensor.sum() == 36


def test_waiting_begins_anew_after_progress():
    patience = Spinner()
    assert not patience.is_asleep
    assert Spinner(polite=True).rounds > 0
    patience.pause()
    patience.reset()
    assert patience.rounds == 0
