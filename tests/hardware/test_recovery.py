"""A worker that is lost is replaced by the others, and the answer stays the same."""

import math
import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch

from dynpartition import Cell, Launch, Task, TaskGraph, drive, parse_devices
from dynpartition.errors import DeviceError, PlanError
from dynpartition.hardware import FakeStreams, HardwareBackend
from dynpartition.hardware.recovery import carry
from dynpartition.models import ModelInput, run_eagerly
from tests.hardware.test_faults import is_alive, workers

CROWDED = "ignore:.*cores are available:RuntimeWarning"
pytestmark = pytest.mark.filterwarnings(CROWDED)


def stop(process):
    """Stop a process, and return once it stands still."""
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


def toy_input(toy, *tasks):
    """Return an input of tasks (ms, inputs…), each of which counts 1."""
    return ModelInput(toy, [((1, ms), inputs) for ms, *inputs in tasks])


@pytest.fixture(scope="module")
def devices(toy):
    with HardwareBackend(toy, parse_devices("cpu:0,cpu:1,cpu:2"), stall_timeout_s=0.5) as backend:
        yield backend


@pytest.fixture
def three(devices):
    """A backend for many tests: what one has lost is there again for the next."""
    devices._machine.pool.revive()
    return devices


def test_a_killed_worker_is_noticed_soon_and_others_go_on(toy, three):
    """1 is on cpu:1 for ever; 0 on cpu:2 has ended, and 2 reads both."""
    killed_ns = []
    process = workers(three)[0]

    def kill():
        killed_ns.append(time.monotonic_ns())
        process.kill()

    workload = toy_input(toy, (0,), (120_000,), (0, 0, 1))
    with three.open(workload) as session:
        assert session.profile_now is None
        timer = threading.Timer(0.3, kill)
        timer.start()
        more = session.advance(
            [Launch("cpu:2", (0,)), Launch("cpu:1", (1,)), Launch("cpu:2", (2,))]
        )
        noticed_ns = time.monotonic_ns()
        timer.join()
        assert more
        assert noticed_ns - killed_ns[0] < 30e9  # not after the launch
        assert list(session.lost) == ["cpu:1"]
        assert "SIGKILL" in session.lost["cpu:1"]
        cluster = session.profile_now.cluster
        assert not any("cpu:1" in (link.src, link.dst) for link in cluster.links)
        # As in the simulator: a task that need not run again stands where its output is.
        assert session.plan.launches == (Launch("cpu:0", (0,)),)
        assert session.graph.cell_name(0) == "(carried)"
        assert session.graph.input_lists == ((), (), (0, 1))
        with pytest.raises(PlanError, match=r"launch 1 on cpu:1: this device was lost.*SIGKILL"):
            session.advance([Launch("cpu:1", (1,)), Launch("cpu:0", (2,))])
    assert process.poll() == -signal.SIGKILL


def test_a_loss_is_noticed_between_the_callers_own_launches(toy, three):
    """The caller has 40 launches of 25 ms, and nothing to wait for."""
    process, killed_ns = workers(three)[1], []

    def kill():
        killed_ns.append(time.monotonic_ns())
        process.kill()

    workload = toy_input(toy, *[(25,)] * 40)
    with three.open(workload) as session:
        timer = threading.Timer(0.2, kill)
        timer.start()
        assert session.advance([Launch("cpu:0", (task,)) for task in range(40)])
        assert time.monotonic_ns() - killed_ns[0] < 30e9
        timer.join()
        done = session.plan.placement()
        assert set(done.values()) == {"cpu:0"}
        assert 0 < len(done) < 40
        rest = [Launch("cpu:1", (task,)) for task in range(40) if task not in done]
        assert not session.advance(rest)
        assert torch.equal(session.answer(), toy.eager(workload.sample))
        trace = session.trace
    assert sorted(task for span in trace.launches for task in span.tasks) == list(range(40))
    assert not trace.wasted


@pytest.mark.hardware
def test_a_death_is_noticed_within_200_ms(toy, three):
    """While the caller waits, and between launches of its own."""
    for own in (False, True):
        process, killed_ns = workers(three)[0], []

        def kill(process=process, killed_ns=killed_ns):
            killed_ns.append(time.monotonic_ns())
            process.kill()

        tasks = [(25,)] * 40 if own else [(120_000,)]
        with three.open(toy_input(toy, *tasks)) as session:
            timer = threading.Timer(0.2, kill)
            timer.start()
            device = "cpu:0" if own else "cpu:1"
            assert session.advance([Launch(device, (task,)) for task in range(len(tasks))])
            assert time.monotonic_ns() - killed_ns[0] < 200_000_000
            timer.join()
        three._machine.pool.revive()


def test_a_stopped_worker_is_given_up(toy, three):
    process = workers(three)[0]
    workload = toy_input(toy, (0,), (0,), (0, 0, 1))
    stop(process)
    begin_s = time.monotonic()
    with three.open(workload) as session:
        launches = [Launch("cpu:1", (0,)), Launch("cpu:2", (1,)), Launch("cpu:1", (2,))]
        assert session.advance(launches)
        assert 0.4 < time.monotonic() - begin_s < 60
        assert "no progress for 0.5 s" in session.lost["cpu:1"]
        assert process.poll() == -signal.SIGKILL
        todo = [task for task in range(3) if task not in session.plan.placement()]
        assert not session.advance([Launch("cpu:2", (task,)) for task in todo])
        assert torch.equal(session.answer(), toy.eager(workload.sample))


def test_a_worker_that_waits_for_others_is_not_given_up(toy, three):
    """1.2 s, with a timeout of 0.5 s and launches of 0.2 s."""
    workload = toy_input(toy, *[(200,)] * 6, (0, *range(6)))
    with three.open(workload) as session:
        assert not session.advance([*_on("cpu:2", range(6)), *_on("cpu:1", [6])])
        assert torch.equal(session.answer(), toy.eager(workload.sample))


def test_a_stopped_worker_blocks_no_message_of_any_size(three):
    """More orders than a socket holds."""
    import toy_models

    model = toy_models.FanToy(toy_models.ModelConfig())
    devices = parse_devices("cpu:0,cpu:1")
    with (
        HardwareBackend(model, devices, stall_timeout_s=0.3) as backend,
        backend.open(ModelInput(model, 3_000)) as session,
    ):
        assert session.advance([Launch(f"cpu:{task // 2}", (task,)) for task in range(3)])
        stop(workers(backend)[0])
        more = [Launch("cpu:1", (3 + n,)) for n in range(3_000)]
        assert session.advance(more)
        assert session.plan.placement() == {0: "cpu:0"}
        assert not session.advance(_on("cpu:0", range(1, 3_003)))
        assert session.answer().tolist() == [2.0, 0.0]


def _on(device, tasks):
    return [Launch(device, (task,)) for task in tasks]


def test_a_worker_without_memory_counts_as_lost(toy, three):
    workload = toy_input(toy, (0,), (-2, 0), (0, 1))
    with three.open(workload) as session:
        assert session.advance(_on("cpu:1", range(3)))
        assert "MemoryError: the toy cell was asked" in session.lost["cpu:1"]
        todo = sorted(set(range(3)) - session.plan.placement().keys())
        assert session.advance(_on("cpu:2", todo))
        assert list(session.lost) == ["cpu:1", "cpu:2"]
        # Only the host is left, which no link reaches.
        assert session.profile_now.cluster.links == ()
        todo = sorted(set(range(3)) - session.plan.placement().keys())
        assert not session.advance(_on("cpu:0", todo))
        assert torch.equal(session.answer(), toy.eager(workload.sample))


def test_what_survives_is_not_computed_again(toy, three):
    """0 was copied to cpu:2 before cpu:1 was lost; 1 and 2 lie on cpu:2 only."""
    process = workers(three)[0]
    workload = toy_input(toy, (0,), (0, 0), (0, 1), (120_000, 0), (0, 2, 3))
    with three.open(workload) as session:
        timer = threading.Timer(0.3, process.kill)
        timer.start()
        assert session.advance(
            [
                *(Launch("cpu:1", (0,)), Launch("cpu:2", (1,)), Launch("cpu:2", (2,))),
                *(Launch("cpu:1", (3,)), Launch("cpu:2", (4,))),
            ]
        )
        timer.join()
        assert sorted(session.plan.placement()) == [0, 1, 2]
        assert session.graph.returns.tolist() == [0, 0, 0, 1, 1]


def test_the_trace_holds_what_was_measured(toy, three):
    """cpu:1 takes along when 0 ran, though its output has reached cpu:2."""
    process = workers(three)[0]
    workload = toy_input(toy, (1,), (1, 0), (300,))
    with three.open(workload) as session:
        timer = threading.Timer(0.15, process.kill)
        timer.start()
        first = [Launch("cpu:1", (0,)), Launch("cpu:2", (1,)), Launch("cpu:1", (2,))]
        assert session.advance(first)
        timer.join()
        assert not session.advance([Launch("cpu:2", (2,))])
        assert torch.equal(session.answer(), toy.eager(workload.sample))
        assert session.plan.launches == (*first[:2], Launch("cpu:2", (2,)))
        trace = session.trace
    assert [(span.device, span.tasks) for span in trace.launches] == [
        ("cpu:2", (1,)),
        ("cpu:2", (2,)),
    ]
    assert trace.launches[0].end_ns <= trace.launches[1].start_ns
    assert trace.makespan_ns >= max(span.end_ns for span in trace.launches)
    assert len(session.repeats) == len(trace.launches)


def test_no_task_is_revealed_twice(toy):
    """0 has revealed 4 when cpu:1 is lost with the value of 0."""
    import toy_models

    expanded = []

    class Run(toy_models.RevealingRun):
        def expand(self, task, output):
            expanded.append(task)
            return super().expand(task, output)

    model = toy_models.RevealingToy(toy_models.ModelConfig())
    workload = ModelInput(model, 5)
    plain = model.start
    model.start = lambda sample: Run(plain(sample)._tasks, plain(sample)._answer)
    devices = parse_devices("cpu:0,cpu:1")
    with HardwareBackend(model, devices) as backend, backend.open(workload) as session:
        assert session.advance(_on("cpu:1", range(4)))
        assert len(session.graph) == 5
        workers(backend)[0].kill()
        assert session.advance(_on("cpu:1", [4]))
        assert len(session.graph) == 5
        assert (session.graph.revealed_by == -1).all()
        todo = sorted(set(range(5)) - session.plan.placement().keys())
        assert not session.advance(_on("cpu:0", todo))
        assert session.answer().tolist() == model.eager(5).tolist()
        assert [reveal.task for reveal in session.trace.reveals] == [0]
        assert session.graph.revealed_by.tolist() == [-1, -1, -1, -1, 0]
    assert expanded == [0]


def test_later_sessions_have_all_devices_again(toy, three):
    old = workers(three)
    old[0].kill()
    old[0].wait()
    workload = toy_input(toy, (0,), (0, 0))
    with three.open(workload) as session:
        assert not session.lost
        assert session.profile_now is None
        assert not session.advance([Launch("cpu:1", (0,)), Launch("cpu:2", (1,))])
        assert torch.equal(session.answer(), toy.eager(workload.sample))
    new = workers(three)
    assert new[0].pid != old[0].pid
    assert new[1].pid == old[1].pid


def test_sessions_do_without_a_worker_that_does_not_start_again(toy, monkeypatch):
    workload = toy_input(toy, (0,), (0, 0))
    backend = HardwareBackend(toy, parse_devices("cpu:0,cpu:1,cpu:2"))
    workers(backend)[1].kill()
    workers(backend)[1].wait()
    monkeypatch.setattr(type(toy), "__module__", "no_such_module")
    for _ in range(2):
        with backend.open(workload) as session:
            assert list(session.lost) == ["cpu:2"]
            assert all("cpu:2" not in (a.src, a.dst) for a in session.profile_now.cluster.links)
            with pytest.raises(PlanError, match=r"cpu:2: this device was lost.*did not start"):
                session.advance([Launch("cpu:1", (0,)), Launch("cpu:2", (1,))])
            assert not session.advance([Launch("cpu:1", (0,)), Launch("cpu:0", (1,))])
            assert torch.equal(session.answer(), toy.eager(workload.sample))
            assert len(session.trace.launches) == 2
            assert session.graph.input_lists == ((), (0,))
    backend.close()


def test_closing_a_session_leaves_the_backend_usable(toy, three, monkeypatch):
    monkeypatch.setattr("dynpartition.hardware.execution.ABORT_TIMEOUT_S", 0.2)
    process = workers(three)[0]
    workload = toy_input(toy, (0,))
    session = three.open(workload)
    session._execution.append(session._blueprint.extend(_on("cpu:1", [0])))
    stop(process)
    session.close()
    assert process.poll() == -signal.SIGKILL
    with three.open(workload) as again:
        assert not again.advance(_on("cpu:1", [0]))


def test_a_backend_closes_around_a_stopped_worker(toy):
    backend = HardwareBackend(toy, parse_devices("cpu:0,cpu:1"), stall_timeout_s=math.inf)
    (process,) = workers(backend)
    stop(process)
    begin_s = time.monotonic()
    backend.close()
    assert time.monotonic() - begin_s < 30
    assert process.poll() == -signal.SIGKILL


def test_gpus_go_on_when_a_worker_is_lost(models, inputs, random_scheduler):
    devices = parse_devices("cuda:0,cpu:0,cpu:1,cuda:1")
    streams = FakeStreams(seed=3)
    with HardwareBackend(models["treelstm"], devices, streams=streams) as backend:
        for seed in range(3):
            workload = inputs["treelstm"][seed]
            with backend.open(workload) as session:
                timer = threading.Timer(0.002 * seed, workers(backend)[0].kill)
                timer.start()
                drive(session, random_scheduler(seed), backend.profile)
                timer.join()
                assert torch.allclose(session.answer(), run_eagerly(workload), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_a_timeout_is_above_zero(toy, timeout):
    with pytest.raises(DeviceError, match="stall_timeout_s is"):
        HardwareBackend(toy, parse_devices("cpu:0"), stall_timeout_s=timeout)


@pytest.mark.parametrize(
    ("held", "seen", "places"),
    [
        # Nothing has survived.
        ([[0, 0, 0, 0], [0, 0, 0, 0]], [1], [-1, -1, -1, -1]),
        # The answer is there: nobody needs the rest.
        ([[0, 0, 0, 1], [0, 0, 0, 0]], [1], [0, 0, 0, 0]),
        # 2 is wanted and gone; 0 is not needed, because 1 survives.
        ([[0, 1, 0, 0], [0, 0, 0, 0]], [1], [0, 0, -1, -1]),
        # 2 survives on device 1; 1 has to run again, with 0.
        ([[0, 0, 0, 0], [0, 0, 1, 0]], [1], [-1, -1, 1, -1]),
        # 1 will reveal tasks that may read anything.
        ([[0, 1, 1, 1], [0, 0, 0, 0]], [], [-1, 0, 0, 0]),
        # The host comes first.
        ([[1, 0, 1, 1], [1, 1, 1, 0]], [1], [0, 1, 0, 0]),
    ],
)
def test_what_is_gone_and_wanted_runs_again(held, seen, places):
    """0 → 1 → 3 and 2 → 3, which returns; 1 reveals tasks."""
    tasks = [Task(id=0, cell="c"), Task(id=1, cell="c", inputs=(0,)), Task(id=2, cell="c")]
    tasks.append(Task(id=3, cell="c", inputs=(1, 2), returns=True))
    graph = TaskGraph.from_tasks("world", [Cell("c")], tasks)
    rows = np.where(np.array(held) == 1, 7, -1)
    carried = carry(graph, rows, 0, np.array([1]), seen)
    assert carried.place.tolist() == places


class Faults:
    """Kills, stops and starves the workers of a backend at random times."""

    def __init__(self, backend, seed):
        self.random = random.Random(seed)
        self.processes = workers(backend)
        self.timers = [
            threading.Timer(self.random.uniform(0, 0.02), self._strike, [process])
            for process in self.processes
        ]

    def _strike(self, process):
        number = self.random.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
        process.send_signal(number)

    def __enter__(self):
        for timer in self.timers:
            timer.start()

    def __exit__(self, *_):
        for timer in self.timers:
            timer.join()
        for process in self.processes:  # one that has been stopped after the run
            process.kill()


def random_toy(toy, seed):
    """Return an input of 20 tasks of up to 3 ms; the workers have no memory for some."""
    dice = random.Random(seed)
    tasks = []
    for number in range(20):
        ms = -2 if dice.random() < 0.02 else dice.randint(0, 3)
        tasks.append((ms, *dice.sample(range(number), min(number, dice.randint(0, 2)))))
    return toy_input(toy, *tasks)


@pytest.mark.parametrize("name", ["toy", "treelstm", "moe"])
def test_random_faults_change_no_answer(toy, models, inputs, random_scheduler, name):
    """10 runs with a fault in each of two workers: 60 faults in all."""
    model = toy if name == "toy" else models[name]
    seen = []
    with HardwareBackend(model, parse_devices("cpu:0,cpu:1,cpu:2"), stall_timeout_s=0.2) as backend:
        for seed in range(10):
            workload = random_toy(toy, seed) if name == "toy" else inputs[name][seed % 6]
            with backend.open(workload) as session, Faults(backend, seed):
                seen += workers(backend)
                outcome = drive(session, random_scheduler(seed), backend.profile)
                answer = session.answer()
            eager = toy.eager(workload.sample) if name == "toy" else run_eagerly(workload)
            assert torch.allclose(answer, eager, rtol=1e-4, atol=1e-5)
            assert not outcome.plan.placement().keys() ^ set(range(len(outcome.graph)))
    assert not any(is_alive(process.pid) for process in seen)
