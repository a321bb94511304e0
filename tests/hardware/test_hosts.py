"""Two ranks of torchrun on this machine: one plan across both, and what goes wrong there."""

import json
import os
import subprocess
import sys
import tempfile
from itertools import permutations
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from dynpartition import parse_devices
from dynpartition.device_spec import host_of
from dynpartition.errors import DeviceError
from dynpartition.hardware import HardwareBackend
from dynpartition.hardware.blocks import SharedMemory
from dynpartition.hardware.host_server import start_process
from dynpartition.hardware.messages import CopyStamp, LaunchStamp, Report, Setup
from dynpartition.hardware.relay import PINGS, RemoteClock, clock_name, versions
from dynpartition.hardware.tracing import copy_stamps
from dynpartition.hardware.weights import layout_of
from dynpartition.models import build_model
from tests.hardware.two_hosts import CONNECTED_DEVICES, GPU_DEVICES, MORE_DEVICES

SCRIPT = Path(__file__).parent / "two_hosts.py"
WHOLE_RUN_S = 240
pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="PyTorch has no gloo here"
)


def torchrun(*words, n_ranks=2, environment=None, timeout_s=WHOLE_RUN_S):
    """Run torchrun to its end and return what came of it; it is ended with all it has started."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    with tempfile.TemporaryDirectory() as logs:
        return subprocess.run(
            [*command, str(n_ranks), "--log-dir", logs, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            check=False,
        )


def left_behind(mark):
    """Return the processes whose environment holds a mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                environment = (folder / "environ").read_bytes()
            except OSError:
                continue
            if mark.encode() in environment:
                found.append((folder / "cmdline").read_bytes())
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What rank 0 saw of a run of two ranks, at the end of which it kills the other."""
    file = tmp_path_factory.mktemp("hosts") / "found.json"
    there = {"DYNPARTITION_TEST_MARK": str(file), "PYTHONPATH": str(SCRIPT.parent)}
    done = torchrun(SCRIPT, file, environment=there)
    assert done.returncode != 0, "torchrun reports the rank that was killed"
    assert not left_behind(f"DYNPARTITION_TEST_MARK={file}")
    assert file.exists(), done.stderr
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    ("name", "devices"), [("treelstm", MORE_DEVICES), ("moe", "cpu:0,host1/cpu:0")]
)
def test_any_plan_on_two_hosts_gives_the_eager_answer(found, name, devices):
    assert len(found[name]) >= 6
    for run in found[name]:
        assert run["equal"] and not run["lost"] and not run["wrong"], run
    names = devices.split(",")
    assert set(names) == {device for run in found[name] for device in run["devices"]}
    pairs = {pair for run in found[name] for pair in run["pairs"]}
    assert pairs == {" ".join(pair) for pair in permutations(names, 2)}
    assert sum(run["transfers"] for run in found[name]) > 50


def test_the_run_outlives_a_worker_of_another_host(found):
    killed = found["killed"]
    assert killed["equal"]
    assert list(killed["lost"]) == ["host1/cpu:0"]
    assert "SIGKILL" in killed["lost"]["host1/cpu:0"]


def test_the_run_outlives_a_gpu_of_another_host(found):
    killed = found["GPU killed"]
    assert killed["equal"]
    assert list(killed["lost"]) == ["host1/cuda:0"]
    assert "SIGKILL" in killed["lost"]["host1/cuda:0"]


@pytest.mark.parametrize("name", ["treelstm", "moe"])
def test_any_plan_on_connected_gpus_gives_the_eager_answer(found, name):
    runs = found[f"connected {name}"]
    for run in runs:
        assert run["equal"] and not run["lost"] and not run["wrong"], run
    pairs = {pair for run in runs for pair in run["pairs"]}
    assert {"cuda:0 host1/cuda:0", "host1/cuda:0 cuda:0"} <= pairs


@pytest.mark.parametrize("name", ["treelstm", "moe"])
def test_the_run_outlives_a_connected_gpu_which_is_connected_again(found, name):
    killed, *after = found[f"connected {name} killed"]
    assert killed["equal"] and list(killed["lost"]) == ["host1/cuda:0"]
    assert "SIGKILL" in killed["lost"]["host1/cuda:0"]
    for run in after:
        assert run["equal"] and not run["lost"] and not run["wrong"], run
    assert any("host1/cuda:0" in run["devices"] for run in after)


def test_the_next_session_has_the_device_again(found):
    for run in found["after"]:
        assert run["equal"] and not run["lost"] and not run["wrong"], run
    assert any("host1/cpu:0" in run["devices"] for run in found["after"])


def test_a_rank_that_does_not_answer_in_time_is_named(found):
    error, relays_left = found["late"]
    assert "host1 does not answer within 0.5 s; look at what its rank wrote" in error
    assert not relays_left


def test_two_versions_are_both_named(found):
    """The same rank works afterwards, with the same version, in all other runs."""
    error, relays_left = found["strange"]
    assert f"host1 has dynpartition 0.0.1, but rank 0 has {versions()}" in error
    assert not relays_left


def test_devices_that_are_not_there_are_named(found):
    assert "host2/cpu:0 is not there: this run has 2 ranks" in found["cpu:0,host2/cpu:0"]
    assert "add cpu:0" in found["host1/cpu:0"]
    there = "PyTorch of rank 1 sees cuda:0 to cuda:0; use host1/cuda:0"
    assert found["cpu:0,host1/cuda:7"] == f"host1/cuda:7 is not there: {there}"


def test_the_run_outlives_a_rank_for_as_long_as_torchrun_lets_it(found):
    """torchrun ends all ranks when one dies: maybe before the next run has come to its end."""
    assert found.get("alone", {"equal": True})["equal"]


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("part", "devices", "n_gpus"), [("gpu", GPU_DEVICES, 1), ("nccl", CONNECTED_DEVICES, 2)]
)
def test_any_plan_on_gpus_of_two_ranks_gives_the_eager_answer(tmp_path, part, devices, n_gpus):
    """By way of host memory both ranks see the same GPU: it works, however fast that is."""
    if torch.cuda.device_count() < n_gpus:
        pytest.skip(f"PyTorch sees {torch.cuda.device_count()} CUDA devices, {n_gpus} are needed")
    file = tmp_path / "found.json"
    done = torchrun(SCRIPT, file, part)
    assert done.returncode == 0, done.stderr
    for runs in json.loads(file.read_text()).values():
        for run in runs:
            assert run["equal"] and not run["lost"] and not run["wrong"], run
        assert set(devices.split(",")) == {name for run in runs for name in run["devices"]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_worker_of_a_gpu_says_what_there_is():
    """The real process, up to where it would need a GPU."""
    model = build_model("treelstm", {"input_dim": 4, "hidden_dim": 4})
    memory = SharedMemory(parse_devices("cpu:0"), [4096], model.cells, weights=True)
    kind = type(model)
    setup = Setup(
        *((kind.__module__, kind.__qualname__), [], dict(model.spec().config)),
        *((memory.master_block.fd, memory.master_block.size_bytes), layout_of(model.cells)),
        *(0, 1, ["cpu:0", "host1/cuda:7"], 1.0, None, True, memory.control_block.fd, [None, None]),
        sample_run_delay=False,
        arena_bytes=[4096, 4096],
    )
    try:
        with pytest.raises(DeviceError) as caught:
            start_process()(setup, memory.fds)
    finally:
        memory.close()
    told = "PyTorch of rank 1 sees no CUDA device; use host1/cpu:0"
    assert str(caught.value) == f"host1/cuda:7 is not there: {told}"


def test_commands_run_once_and_end_on_all_ranks():
    done = torchrun("-m", "dynpartition", "profiles")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("small-cpu") == 1


def test_without_torchrun_there_are_no_other_hosts():
    model = build_model("treelstm", {"input_dim": 4, "hidden_dim": 4})
    with pytest.raises(DeviceError, match="this run has 1 rank; start it by `torchrun"):
        HardwareBackend(model, parse_devices("cpu:0,host1/cpu:0"))


@pytest.mark.parametrize(
    ("text", "host"), [("cpu:0", 0), ("host1/cpu:0", 1), ("host12/cpu:3x0.5@2GB", 12)]
)
def test_hosts_of_devices(text, host):
    (device,) = parse_devices(text)
    assert host_of(device.name) == host
    assert device.kind == "cpu"


@pytest.mark.parametrize(
    "text", ["host0/cpu:0", "host/cpu:0", "host1", "host1/cuda:0/sm8", "1/cpu:0"]
)
def test_what_is_no_device_of_a_host(text):
    with pytest.raises(DeviceError, match="device"):
        parse_devices(text)


def test_clocks_of_two_hosts_are_compared_by_the_fastest_ways():
    clock = RemoteClock()
    clock.note(1_000, 5_001_500, 2_000)  # as far there as back: 5 ms ahead
    clock.note(10_000, 5_900_000, 1_000_000)  # slow: says little
    assert (clock.ahead_ns, clock.doubt_ns) == (5_000_000, 1_000)
    launches = [LaunchStamp(3, 5_000_100, 5_000_200, 1, 7, 9)]
    report = clock.local(Report(7, launches, [CopyStamp(0, 5_000_300, 5_000_400)]))
    assert report.launches == [LaunchStamp(3, 100, 200, 1, 7, 9)]
    assert report.copies == [CopyStamp(0, 300, 400)]


def test_stamps_of_both_ends_make_one():
    reports = [
        Report(1, [], [CopyStamp(1, 30, 30), CopyStamp(0, 10, 10)]),
        Report(1, [], [CopyStamp(0, 25, 25), CopyStamp(1, 29, 29)]),
    ]
    assert [(s.copy, s.start_ns, s.end_ns) for s in copy_stamps(reports)] == [
        (0, 10, 25),
        (1, 29, 30),
    ]


@given(
    ahead_ns=st.integers(-(10**15), 10**15),
    ways=st.lists(st.tuples(*[st.integers(1, 10**7)] * 2), min_size=1, max_size=100),
)
def test_clocks_are_never_farther_off_than_said(ahead_ns, ways):
    """Whatever the ways there and back take, and however unlike they are."""
    clock, now_ns = RemoteClock(), 0
    for there_ns, back_ns in ways:
        clock.note(now_ns, now_ns + there_ns + ahead_ns, now_ns + there_ns + back_ns)
        now_ns += there_ns + back_ns
    last = ways[-PINGS:]
    assert clock.doubt_ns == min(t for t, _ in last) + min(b for _, b in last)
    assert abs(clock.ahead_ns - ahead_ns) <= clock.doubt_ns / 2 + 1


def test_ranks_of_one_machine_read_one_clock():
    clock = RemoteClock(is_same=True)
    clock.note(1_000, 1_900, 2_000)
    assert (clock.ahead_ns, clock.doubt_ns) == (0, 0)
    assert clock_name() == clock_name()
