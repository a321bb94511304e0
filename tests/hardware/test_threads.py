"""Workers that are threads of the calling process."""

import dataclasses
import os
import threading
import time

import pytest
import torch

from dynpartition import Device, Launch, drive, parse_devices
from dynpartition.errors import DeviceError, DeviceLost
from dynpartition.hardware import HardwareBackend
from dynpartition.hardware.devices import uncalibrated_profile
from dynpartition.hardware.patience import Bell
from dynpartition.hardware.thread import WorkerThread
from dynpartition.models import ModelInput, build_model, generate_inputs, run_eagerly
from dynpartition.profile import Dispatch
from dynpartition.validator import check_trace

pytestmark = pytest.mark.filterwarnings("ignore:.* cores are available")


def open_backend(model, devices="cpu:0,cpu:1", **options):
    return HardwareBackend(model, parse_devices(devices), workers="threads", **options)


def toy_input(toy, *tasks):
    return ModelInput(toy, [((1, ms), inputs) for ms, *inputs in tasks])


def worker_threads():
    return [t for t in threading.enumerate() if t.name.startswith("dynpartition cpu")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not worker_threads()


@pytest.mark.parametrize("name", ["treelstm", "mathfunc", "moe"])
def test_any_plan_gives_the_eager_answer(models, inputs, random_scheduler, name):
    with open_backend(models[name], "cpu:0,cpu:1x0.5,cpu:2") as backend:
        for seed in range(12):
            workload = inputs[name][seed % 6]
            with backend.open(workload) as session:
                outcome = drive(session, random_scheduler(seed), backend.profile)
            answer = session.answer()
            assert torch.allclose(answer, run_eagerly(workload), rtol=1e-4, atol=1e-5)
            check_trace(outcome.graph, backend.profile, outcome.plan, outcome.trace)


def test_threads_compute_at_the_same_time_with_the_callers_weights(toy):
    with open_backend(toy, "cpu:0,cpu:1,cpu:2") as backend:
        (started,) = {type(worker) for worker in backend._machine.pool.workers}
        with backend.open(toy_input(toy, (150,), (150,), (150,))) as session:
            session.advance([Launch(f"cpu:{n}", (n,)) for n in range(3)])
    assert started is WorkerThread
    starts = [span.start_ns for span in session.trace.launches]
    assert max(starts) < min(span.end_ns for span in session.trace.launches)


def test_weights_come_and_go_in_threads_too(models, inputs, random_scheduler):
    model = models["moe"]
    cap = max(cell.param_bytes for cell in model.graph_cells) + 150_000
    devices = [*parse_devices("cpu:0"), Device("cpu:1", "cpu", memory_bytes=cap)]
    before = {key: value.clone() for key, value in model.cells["head"].state_dict().items()}
    with HardwareBackend(model, devices, workers="threads") as backend:
        for seed in range(3):
            with backend.open(inputs["moe"][seed]) as session:
                drive(session, random_scheduler(seed), backend.profile)
            answer = run_eagerly(inputs["moe"][seed])
            assert torch.allclose(session.answer(), answer, rtol=1e-4, atol=1e-5)
            loaded = {load.cell for load in session.trace.loads}
    assert loaded
    after = model.cells["head"].state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_raising_cell_is_reported_with_its_words(toy):
    backend = open_backend(toy)
    session = backend.open(toy_input(toy, (0,), (-1, 0)))
    with pytest.raises(DeviceLost, match=r"cpu:1 .*step: ValueError: the toy cell was"):
        session.advance([Launch("cpu:0", (0,)), Launch("cpu:1", (1,))])


def test_a_thread_without_memory_is_replaced(toy):
    with open_backend(toy, "cpu:0,cpu:1,cpu:2") as backend:
        workload = toy_input(toy, (0,), (-2, 0), (0, 1))
        with backend.open(workload) as session:
            plan = [Launch("cpu:1", (0,)), Launch("cpu:1", (1,)), Launch("cpu:2", (2,))]
            assert session.advance(plan)
            assert list(session.lost) == ["cpu:1"]
            left = sorted(set(range(3)) - set(session.plan.placement()))
            session.advance([Launch("cpu:0", (task,)) for task in left])
            torch.testing.assert_close(session.answer(), toy.eager(workload.sample))
        with backend.open(toy_input(toy, (0,))) as session:
            assert not session.lost
            session.advance([Launch("cpu:1", (0,))])


def test_a_backend_does_without_a_thread_that_does_not_return(toy, monkeypatch):
    monkeypatch.setattr("dynpartition.hardware.thread._GRACE_S", 0.1)
    with open_backend(toy, stall_timeout_s=0.2) as backend:
        workload = toy_input(toy, (0,), (1500, 0))
        with backend.open(workload) as session:
            assert session.advance([Launch("cpu:1", (0,)), Launch("cpu:1", (1,))])
            assert "no progress for 0.2 s" in session.lost["cpu:1"]
            left = sorted(set(range(2)) - set(session.plan.placement()))
            session.advance([Launch("cpu:0", (task,)) for task in left])
            torch.testing.assert_close(session.answer(), toy.eager(workload.sample))
        with backend.open(toy_input(toy, (0,))) as session:
            assert list(session.lost) == ["cpu:1"]  # still in its cell
            session.advance([Launch("cpu:0", (0,))])
    for thread in worker_threads():
        thread.join(5)  # it leaves as soon as the cell does


def test_an_unfinished_session_and_a_forgotten_backend_leave_no_thread(toy):
    backend = open_backend(toy)
    backend.open(toy_input(toy, (0,)))
    backend.close()
    assert not worker_threads()
    backend = open_backend(toy)
    assert worker_threads()
    del backend


def test_a_dismissed_thread_drops_the_rest_of_its_program(toy):
    with open_backend(toy) as backend:
        (worker,) = backend._machine.pool.workers
        timer = threading.Timer(0.05, worker.hang_up)
        timer.start()
        with backend.open(toy_input(toy, *[(200,)] * 40)) as session:
            assert session.advance([Launch("cpu:1", (n,)) for n in range(40)])
            assert list(session.lost) == ["cpu:1"]
            assert len(session.plan) < 5
        timer.join()


def test_the_model_may_be_of_the_running_script(toy, monkeypatch):
    monkeypatch.setattr(type(toy), "__module__", "__main__")
    with open_backend(toy) as backend, backend.open(toy_input(toy, (0,))) as session:
        session.advance([Launch("cpu:1", (0,))])


def test_the_callers_thread_keeps_its_settings(toy, two_threads):
    settings = (torch.get_num_threads(), os.sched_getaffinity(0))
    with open_backend(toy) as backend:
        assert (torch.get_num_threads(), os.sched_getaffinity(0)) == settings
        with backend.open(toy_input(toy, (0,))) as session:
            session.advance([Launch("cpu:1", (0,))])
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == settings


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"dispatch": Dispatch(host_mode="threads")}, "thread"),
        ({"dispatch": Dispatch(host_mode="processes")}, "process"),
        ({"provenance": {"workers": "threads"}}, "thread"),
    ],
)
def test_a_profile_decides_what_workers_are(toy, said, kind):
    devices = parse_devices("cpu:0,cpu:1")
    profile = dataclasses.replace(uncalibrated_profile(devices), **said)
    with HardwareBackend(toy, devices, profile=profile) as backend:
        (worker,) = backend._machine.pool.workers
    assert kind in type(worker).__name__.lower()


def test_other_kinds_of_workers_are_refused(toy):
    with pytest.raises(DeviceError, match=r"workers is 'fibres'; .*processes"):
        HardwareBackend(toy, parse_devices("cpu:0,cpu:1"), workers="fibres")


def test_a_bell_wakes_those_that_listen():
    bell = Bell()
    listener, other = bell.listener(), bell.listener()
    for _ in range(3):
        bell.ring()
    began = time.monotonic()
    for one in (listener, other):
        one.pause()  # returns at once
    assert listener._strokes.empty()
    bell.dismiss(other)
    bell.ring()
    assert other._strokes.empty()
    assert not listener._strokes.empty()
    assert time.monotonic() - began < 60


def test_models_of_64_bits_run_in_threads():
    model = build_model("treelstm", {"input_dim": 8, "hidden_dim": 4, "float_bits": 64}, seed=3)
    (workload,) = generate_inputs(model, 1, seed=4)
    with open_backend(model) as backend, backend.open(workload) as session:
        session.advance([Launch("cpu:1", (task,)) for task in range(len(session.graph))])
        answer = session.answer()
    assert answer.dtype == torch.float64
    torch.testing.assert_close(answer, run_eagerly(workload), rtol=1e-12, atol=1e-12)
