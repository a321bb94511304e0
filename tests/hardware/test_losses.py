"""Devices that run out of memory, and GPUs that are lost: others take over."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_models
from hypothesis import given, settings
from hypothesis import strategies as st

from dynpartition import Device, Launch, drive, parse_devices
from dynpartition.errors import DeviceLost, PlanError
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.hardware.compute import CellCall, LaunchCall
from dynpartition.hardware.losses import OutOfMemoryOn
from dynpartition.hardware.memory import Arena
from dynpartition.hardware.messages import Argument, Call
from dynpartition.models import ModelInput, run_eagerly

WORKER, HOST, GPU = -2, -3, -4
"""Requests that find no memory there."""


class AtOnce(FakeStreams):
    """Does all work when it is enqueued, as errors of allocations come at once on a real GPU."""

    def enqueue(self, stream, work):
        super().enqueue(stream, lambda: None)
        self.synchronize()
        toy_models.on_gpu = True
        try:
            work()
        finally:
            toy_models.on_gpu = False

    def capture(self, stream, work):
        try:
            self.enqueue(stream, work)
        except MemoryError as error:
            raise torch.OutOfMemoryError from error
        return work


class Failing(FakeStreams):
    """Fails for good after `lives` calls."""

    def __init__(self, lives, **more):
        super().__init__(**more)
        self.lives = lives

    def live(self):
        self.lives -= 1
        if self.lives < 0:
            raise RuntimeError("CUDA error: unspecified launch failure\nmore words")

    def enqueue(self, stream, work):
        self.live()
        super().enqueue(stream, work)

    def record(self, stream):
        self.live()
        return super().record(stream)

    def has_happened(self, event):
        self.live()
        return super().has_happened(event)

    def upload(self, stream, values):
        self.live()
        return super().upload(stream, values)

    def start_clock(self):
        self.live()
        super().start_clock()

    def synchronize(self):
        self.live()
        super().synchronize()

    def host_ns(self, event):
        self.live()
        return super().host_ns(event)

    def unpin(self, host):
        self.live()


def toy_input(toy, *tasks):
    return ModelInput(toy, [((1, ms), inputs) for ms, *inputs in tasks])


def rest(session):
    """Return the tasks that have to be launched."""
    return sorted(set(range(len(session.graph))) - session.plan.placement().keys())


@given(k=st.integers(1, 40), limit=st.integers(1, 6), data=st.data())
@settings(deadline=None)
@torch.inference_mode()
def test_a_call_that_finds_no_memory_is_made_in_smaller_ones(k, limit, data):
    """Some arguments are gathered, some lie behind each other; 64 rows of 3 numbers."""
    sizes, relieved = [], []

    def cell(one, other):
        if len(one) > limit:
            raise MemoryError
        sizes.append(len(one))
        return one + 10 * other

    raw = torch.zeros(200 * 24, dtype=torch.uint8)
    arena = Arena(raw)
    rows = arena.rows((3,), "float64")
    rows[:100] = torch.arange(300.0, dtype=torch.float64).view(100, 3)
    listed = np.array(data.draw(st.lists(st.integers(0, 99), min_size=k, max_size=k)))
    first = data.draw(st.integers(0, 100 - k))
    gathered = Argument((3,), "float64", 0, listed.tobytes())
    call = Call([gathered, Argument((3,), "float64", first, b"")], (3,), "float64", 110, k)
    expected = rows[torch.from_numpy(listed)] + 10 * rows[first : first + k]
    index = [torch.from_numpy(listed), None]
    calls = [CellCall(cell, arena, call, index)]
    launch = LaunchCall("cell", calls, "x", lambda: relieved.append(1))
    launch.run()
    assert torch.equal(rows[110 : 110 + k], expected)
    assert sum(sizes) == k
    assert bool(relieved) == (k > limit)
    n_failures = len(relieved)
    launch.run(repeats=2)  # in the smaller batches at once
    assert len(relieved) == n_failures
    assert sum(sizes) == 3 * k


def test_no_memory_for_one_task_is_an_error_with_the_place():
    def cell(one):
        raise MemoryError("none")

    arena = Arena(torch.zeros(64, dtype=torch.uint8))
    call = Call([Argument((1,), "float32", 0, b"")], (1,), "float32", 4, 4)
    with pytest.raises(OutOfMemoryOn, match="here was lost in a launch of c: MemoryError: none"):
        LaunchCall("c", [CellCall(cell, arena, call, [None])], "here").run()


@pytest.mark.parametrize("device", ["cpu:0", "cpu:1", "cuda:0"])
def test_launches_shrink_on_any_device(toy, device):
    workload = toy_input(toy, *[(toy_models.CROWDED,)] * 10)
    devices = parse_devices("cpu:0,cpu:1,cuda:0")
    with HardwareBackend(toy, devices, streams=AtOnce()) as backend:
        for _ in range(2):
            with backend.open(workload) as session:
                assert not session.advance([Launch(device, tuple(range(10)))])
                assert not session.lost
            assert len(session.trace.launches) == 1
            assert torch.equal(session.answer(), torch.tensor([[1.0, 0.0]] * 10))


@pytest.mark.parametrize(
    ("full", "request_of", "other"), [("cpu:0", HOST, "cpu:1"), ("cuda:0", GPU, "cpu:0")]
)
def test_others_take_over_where_there_is_no_memory(toy, full, request_of, other):
    """0 has run there and does not run again."""
    workload = toy_input(toy, (0,), (request_of, 0), (0, 1), (0,))
    devices = parse_devices("cpu:0,cpu:1,cuda:0")
    with HardwareBackend(toy, devices, streams=AtOnce()) as backend:
        for _ in range(2):  # the next session has the device again
            with backend.open(workload) as session:
                plan = [Launch(full, (0,)), Launch(full, (1,)), Launch("cpu:1", (2,))]
                assert session.advance([*plan, Launch(full, (3,))])
                assert list(session.lost) == [full]
                assert "MemoryError" in session.lost[full]
                links = {(link.src, link.dst) for link in session.profile_now.cluster.links}
                assert (full, other) in links
                assert rest(session) == [1, 2, 3]
                with pytest.raises(PlanError, match="this device was lost"):
                    session.advance([Launch(full, (task,)) for task in rest(session)])
                assert not session.advance([Launch(other, (task,)) for task in rest(session)])
            expected = torch.tensor([[1.0, 0.0], [2, 0], [3, 0], [1, 0]])
            assert torch.equal(session.answer(), expected)
            ran = [task for span in session.trace.launches for task in span.tasks]
            assert sorted(ran) == [0, 1, 2, 3]


def test_the_last_device_without_memory_is_one_clear_error(toy):
    workload = toy_input(toy, (0,), (HOST, 0))
    backend = HardwareBackend(toy, parse_devices("cpu:0"))
    session = backend.open(workload)
    with pytest.raises(DeviceLost, match=r"^cpu:0 was lost in a launch of step: Mem.*place"):
        session.advance([Launch("cpu:0", (0,)), Launch("cpu:0", (1,))])


def test_all_devices_without_memory_is_one_clear_error(toy):
    backend = HardwareBackend(toy, parse_devices("cpu:0,cpu:1"))
    session = backend.open(toy_input(toy, (0,), (HOST, 0), (WORKER, 1)))
    assert session.advance([Launch("cpu:0", (0,)), Launch("cpu:0", (1,)), Launch("cpu:1", (2,))])
    assert list(session.lost) == ["cpu:0"]
    with pytest.raises(DeviceLost, match=r"^cpu:1 was lost.*no memory"):
        session.advance([Launch("cpu:1", (1,)), Launch("cpu:1", (2,))])


@pytest.mark.parametrize("devices", ["cpu:0,cuda:0", "cuda:0,cpu:0,cuda:1x0.5"])
@pytest.mark.parametrize("name", ["treelstm", "mathfunc", "moe"])
def test_a_run_outlives_its_gpus(models, inputs, random_scheduler, name, devices):
    """They fail at any moment, from the first call on."""
    lost = 0
    for seed in range(12):
        streams = Failing(int(1.8**seed), seed=seed)
        parsed = parse_devices(devices)
        with HardwareBackend(models[name], parsed, streams=streams, arena_bytes=1 << 20) as backend:
            for number in range(2):
                workload = inputs[name][(seed + number) % 6]
                scheduler = random_scheduler(seed)
                with backend.open(workload) as session:
                    outcome = drive(session, scheduler, backend.profile)
                    lost += bool(session.lost) and number == 0
                answer = session.answer()
                assert torch.allclose(answer, run_eagerly(workload), rtol=1e-4, atol=1e-5)
                assert len(outcome.trace.launches) <= len(outcome.plan)
    assert lost > 3


def test_a_lost_gpu_says_what_to_do(toy):
    workload = toy_input(toy, *[(0,)] * 6)
    devices = parse_devices("cpu:0,cuda:0,cuda:1")
    with HardwareBackend(toy, devices, streams=Failing(12)) as backend:
        for _ in range(2):
            with backend.open(workload) as session:
                plan = [Launch("cuda:0", (task,)) for task in range(6)]
                if not session.lost:
                    assert session.advance(plan)
                assert list(session.lost) == ["cuda:0", "cuda:1"]
                words = session.lost["cuda:0"]
                assert words.endswith("unspecified launch failure; restart the process to use them")
                assert session.profile_now.cluster.links == ()
                with pytest.raises(PlanError, match="cuda:1: this device was lost"):
                    session.advance([Launch("cuda:1", (task,)) for task in rest(session)])
                session.advance([Launch("cpu:0", (task,)) for task in rest(session)])
            assert torch.equal(session.answer(), torch.tensor([[1.0, 0.0]] * 6))


class Full(FakeStreams):
    """Has no memory for the n-th upload or load, counted from 0."""

    def __init__(self, what, number):
        super().__init__(seed=number)
        self.what, self.left = what, number

    def ask(self, what):
        self.left -= what == self.what
        if what == self.what and self.left == -1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def upload(self, stream, values):
        self.ask("upload")
        return super().upload(stream, values)

    def load(self, stream, host):
        self.ask("load")
        return super().load(stream, host)


@pytest.mark.parametrize("what", ["upload", "load"])
@pytest.mark.parametrize("number", range(4))
def test_no_memory_for_indices_or_weights_loses_one_gpu_for_one_run(
    models, inputs, random_scheduler, drive_within_memory, what, number
):
    model = models["moe"]
    cap = max(cell.param_bytes for cell in model.graph_cells) + 150_000
    devices = [
        *parse_devices("cpu:0,cuda:1"),
        Device("cuda:0", "cuda", cap if what == "load" else None),
    ]
    held = 0 if what == "upload" else len(model.cells)  # what is brought before the first run
    streams = Full(what, number + held)
    lost = []
    with HardwareBackend(model, devices, streams=streams, arena_bytes=1 << 20) as backend:
        for seed in range(3):
            workload = inputs["moe"][seed]
            with backend.open(workload) as session:
                drive_within_memory(session, random_scheduler(seed), backend.profile)
                lost += session.lost
            answer = run_eagerly(workload)
            assert torch.allclose(session.answer(), answer, rtol=1e-4, atol=1e-5)
    assert len(lost) <= 1
    assert lost or what == "load"  # how many loads there are follows from the plan


SCRIPT = """
    import sys
    sys.path.append({toys!r})
    import toy_models, torch
    from dynpartition import Launch, parse_devices
    from dynpartition.hardware import HardwareBackend
    from dynpartition.models import ModelInput

    model = toy_models.Toy(toy_models.ModelConfig())
    tasks = [((1, 0), ()), ((1, toy_models.FAULT), (0,)), ((1, 0), (1,))]
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1,cuda:0")) as backend:
        for _ in range(2):
            with backend.open(ModelInput(model, tasks)) as session:
                plan = [Launch("cpu:1", (0,)), Launch("cuda:0", (1,)), Launch("cuda:0", (2,))]
                if not session.lost:
                    assert session.advance(plan)
                assert list(session.lost) == ["cuda:0"]
                rest = set(range(3)) - session.plan.placement().keys()
                assert not session.advance([Launch("cpu:1", (task,)) for task in sorted(rest)])
                assert session.answer().tolist() == [[1, 0], [2, 0], [3, 0]], session.answer()
    print("went on")
"""


@pytest.mark.cuda
def test_a_run_outlives_a_real_gpu():
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    script = "\n".join(line[4:] for line in SCRIPT.splitlines())
    script = script.format(toys=str(Path(__file__).parent / "toys"))
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "went on" in result.stdout, result.stderr
